// Heads of q, k or v made ready: rotary embedding of q and k (Su et al. 2021), of halves or of neighbouring channels,
// after their norm; then all of them transformed as the cache asks for.
// qkv: [tokens, stride]; rotations: [positions, 2 · planes] as (cos, sin) pairs; the first 2 · planes channels turn.
// provides: prepare_heads    requires: qkv, lib/heads.wgsl, lib/hadamard.wgsl, lib/head_plain.wgsl or lib/head_normed.wgsl

@group(0) @binding(0) var<storage, read> rotations: array<vec2<f32>>;

const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;

// Brings `count` neighbouring heads of the activations to `head`, normed, rotated, transformed; all lanes together.
fn prepare_heads(count: u32, source: u32, kind: u32, position: u32, lane: u32) {
    for (var i = lane; i < count * HEAD_DIM; i += LANES) {
        head[i] = qkv[source + i];
    }
    workgroupBarrier();
    if (kind != V) {
        turn_heads(count, kind, position, lane);
    }
    hadamard(count, lane);
}

fn turn_heads(count: u32, kind: u32, position: u32, lane: u32) {
    for (var h = 0u; h < count; h++) {
        norm_head(h * HEAD_DIM, kind, lane);
    }
    for (var i = lane; i < count * P.planes; i += LANES) {
        let plane = i % P.planes;
        let r = rotations[position * P.planes + plane];
        let start = i / P.planes * HEAD_DIM;
        let first = start + select(plane, 2u * plane, P.interleaved == 1u);
        let second = start + select(plane + P.planes, 2u * plane + 1u, P.interleaved == 1u);
        let a = head[first];
        let b = head[second];
        head[first] = a * r.x - b * r.y;
        head[second] = b * r.x + a * r.y;
    }
    workgroupBarrier();
}
