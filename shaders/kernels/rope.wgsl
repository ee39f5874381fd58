// One head of q, k or v a workgroup: optional RMSNorm of the head (Qwen3), rotary embedding of q and k
// (Su et al. 2021), of halves or of neighbouring channels, then k and v into the cache and q back in place.
// qkv: [tokens, stride]; rotations: [positions, 2 · planes] as (cos, sin) pairs; the first 2 · planes channels turn.
// keys: [kv_head][head_dim / 4][context], values: [kv_head][context][head_dim / 4], entries of four.
// requires: lib/step.wgsl, reduce, cache

struct Rope {
    heads: u32,
    kv_heads: u32,
    stride: u32,
    q_offset: u32,
    k_offset: u32,
    v_offset: u32,
    context: u32,
    eps: f32,
    planes: u32,
    interleaved: u32,
}
@group(0) @binding(3) var<uniform> P: Rope;
@group(0) @binding(0) var<storage, read> rotations: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> q_norm: array<f32>;
@group(0) @binding(2) var<storage, read> k_norm: array<f32>;
@group(0) @binding(5) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(7) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(8) var<storage, read_write> values: array<Cached>;

var<workgroup> head: array<f32, HEAD_DIM>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let token = group.y;
    let position = step[POSITION] + token;
    let is_q = group.x < P.heads;
    let is_v = group.x >= P.heads + P.kv_heads;
    let kv_head = (group.x - P.heads) % P.kv_heads;
    let q_at = P.q_offset + group.x * HEAD_DIM;
    let kv_at = select(P.k_offset, P.v_offset, is_v) + kv_head * HEAD_DIM;
    let source = token * P.stride + select(kv_at, q_at, is_q);

    var squares = 0.0;
    for (var i = lane.x; i < HEAD_DIM; i += LANES) {
        let v = qkv[source + i];
        head[i] = v;
        squares += v * v;
    }
    workgroupBarrier();
    if (NORMED) {
        let scale = inverseSqrt(reduce_add(squares, lane.x) / f32(HEAD_DIM) + P.eps);
        if (!is_v) {
            for (var i = lane.x; i < HEAD_DIM; i += LANES) {
                head[i] *= scale * select(k_norm[i], q_norm[i], is_q);
            }
        }
        workgroupBarrier();
    }
    if (!is_v) {
        for (var i = lane.x; i < P.planes; i += LANES) {
            let r = rotations[position * P.planes + i];
            let first = select(i, 2u * i, P.interleaved == 1u);
            let second = select(i + P.planes, 2u * i + 1u, P.interleaved == 1u);
            let a = head[first];
            let b = head[second];
            head[first] = a * r.x - b * r.y;
            head[second] = b * r.x + a * r.y;
        }
    }
    workgroupBarrier();
    if (is_q) {
        for (var i = lane.x; i < HEAD_DIM; i += LANES) {
            qkv[source + i] = head[i];
        }
        return;
    }
    for (var i = lane.x; i < HEAD_DIM / 4u; i += LANES) {
        let entry = to_cache(vec4(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]));
        if (is_v) {
            values[(kv_head * P.context + position) * (HEAD_DIM / 4u) + i] = entry;
        } else {
            keys[(kv_head * (HEAD_DIM / 4u) + i) * P.context + position] = entry;
        }
    }
}
