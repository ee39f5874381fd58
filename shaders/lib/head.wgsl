// One head of q, k or v made ready: rotary embedding of q and k (Su et al. 2021), of halves or of neighbouring channels,
// after their norm.
// qkv: [tokens, stride]; rotations: [positions, 2 · planes] as (cos, sin) pairs; the first 2 · planes channels turn.
// provides: head, head4, prepare_head    requires: qkv, lib/heads.wgsl, lib/head_plain.wgsl or lib/head_normed.wgsl, LANES

@group(0) @binding(0) var<storage, read> rotations: array<vec2<f32>>;

const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;

var<workgroup> head: array<f32, HEAD_DIM>;

// Brings a head of the activations to `head`, normed and rotated; all lanes together.
fn prepare_head(source: u32, kind: u32, position: u32, lane: u32) {
    var squares = 0.0;
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        let v = qkv[source + i];
        head[i] = v;
        squares += v * v;
    }
    workgroupBarrier();
    if (kind == V) {
        return;
    }
    norm_head(squares, kind, lane);
    for (var i = lane; i < P.planes; i += LANES) {
        let r = rotations[position * P.planes + i];
        let first = select(i, 2u * i, P.interleaved == 1u);
        let second = select(i + P.planes, 2u * i + 1u, P.interleaved == 1u);
        let a = head[first];
        let b = head[second];
        head[first] = a * r.x - b * r.y;
        head[second] = b * r.x + a * r.y;
    }
    workgroupBarrier();
}

fn head4(i: u32) -> vec4<f32> {
    return vec4(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]);
}
