// The RMSNorm of each head of q and k (Qwen3); no model has sinks as well.
// provides: norm_head, sink    requires: lib/heads.wgsl, lib/head.wgsl, reduce

@group(0) @binding(1) var<storage, read> q_norm: array<f32>;
@group(0) @binding(2) var<storage, read> k_norm: array<f32>;

fn norm_head(squares: f32, kind: u32, lane: u32) {
    let scale = inverseSqrt(reduce_add(squares, lane) / f32(HEAD_DIM) + P.eps);
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        head[i] *= scale * select(k_norm[i], q_norm[i], kind == Q);
    }
    workgroupBarrier();
}

fn sink(head: u32) -> f32 {
    return -3.4e38;
}
