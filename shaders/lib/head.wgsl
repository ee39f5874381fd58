// Heads of q, k or v made ready: loaded, normed (lib/head_plain.wgsl or lib/head_normed.wgsl), then the rotary embedding of
// q and k (Su et al. 2021), of halves or of neighbouring channels.
// qkv: [tokens, stride]; rotations: [positions, 2 · planes] as (cos, sin) pairs; the first 2 · planes channels turn.
// provides: load_heads, rotate_heads    requires: qkv, lib/heads.wgsl, lib/hadamard.wgsl

@group(0) @binding(0) var<storage, read> rotations: array<vec2<f32>>;

// Brings `count` neighbouring heads of the activations to `head`, from its head `first` on; all lanes together.
fn load_heads(first: u32, count: u32, source: u32, lane: u32) {
    for (var i = lane; i < count * HEAD_DIM; i += LANES) {
        head[first * HEAD_DIM + i] = qkv[source + i];
    }
}

// Rotates the first `count` heads; all lanes together, after a barrier.
fn rotate_heads(count: u32, position: u32, lane: u32) {
    for (var plane = lane; plane < P.planes; plane += LANES) {
        let r = rotations[position * P.planes + plane];
        for (var h = 0u; h < count; h++) {
            let first = h * HEAD_DIM + select(plane, 2u * plane, P.interleaved == 1u);
            let second = h * HEAD_DIM + select(plane + P.planes, 2u * plane + 1u, P.interleaved == 1u);
            let a = head[first];
            let b = head[second];
            head[first] = a * r.x - b * r.y;
            head[second] = b * r.x + a * r.y;
        }
    }
    workgroupBarrier();
}
