// The RMSNorm of each head of q and k (Qwen3); no model has sinks as well.
// provides: norm_head, sink    requires: lib/heads.wgsl, lib/head.wgsl, reduce

@group(0) @binding(1) var<storage, read> q_norm: array<f32>;
@group(0) @binding(2) var<storage, read> k_norm: array<f32>;

// Head `h` of those in `head`; all lanes together, after a barrier.
fn norm_head(h: u32, is_q: bool, lane: u32) {
    let first = h * HEAD_DIM;
    var squares = 0.0;
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        squares += head[first + i] * head[first + i];
    }
    let scale = inverseSqrt(reduce_add(squares, lane) / f32(HEAD_DIM) + P.eps);
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        head[first + i] *= scale * select(k_norm[i], q_norm[i], is_q);
    }
    workgroupBarrier();
}

fn sink(index: u32) -> f32 {
    return -3.4e38;
}
