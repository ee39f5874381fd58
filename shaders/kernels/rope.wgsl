// One head of q, k or v a workgroup, made ready (lib/head.wgsl) and transformed as the cache asks for, then k and v into the
// cache and q back in place.
// keys: [kv_head][ENTRIES][context], values: [kv_head][context][ENTRIES].
// requires: lib/heads.wgsl, lib/head.wgsl, lib/hadamard.wgsl, lib/step.wgsl, reduce, cache

@group(0) @binding(5) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(7) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(8) var<storage, read_write> values: array<Cached>;

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
    load_heads(0u, 1u, source, lane.x);
    workgroupBarrier();
    if (!is_v) {
        norm_head(0u, is_q, lane.x);
        rotate_heads(1u, position, lane.x);
    }
    hadamard(1u, lane.x);
    if (is_q) {
        for (var i = lane.x; i < HEAD_DIM; i += LANES) {
            qkv[source + i] = head[i];
        }
        return;
    }
    prepare_entries(0u, lane.x);
    for (var i = lane.x; i < ENTRIES; i += LANES) {
        let entry = to_cache(0u, i);
        if (is_v) {
            values[(kv_head * P.context + position) * ENTRIES + i] = entry;
        } else {
            keys[(kv_head * ENTRIES + i) * P.context + position] = entry;
        }
    }
}
