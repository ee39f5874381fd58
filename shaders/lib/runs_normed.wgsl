// What a Hadamard transform reads where an RMSNorm (Zhang & Sennrich 2019) stands before it: weighted, and squared on the
// way for what all sums are divided by in the end. Each value is asked for once.
// provides: weighted, norm_factor    requires: reduce, ORDER, LENGTH, P.eps

@group(0) @binding(9) var<storage, read> norm: array<vec4<f32>>;

var<private> squares: vec4<f32>;

fn weighted(v: vec4<f32>, quad: u32) -> vec4<f32> {
    squares += v * v;
    return v * norm[quad];
}

fn norm_factor(lane: u32) -> f32 {
    let sum = squares.x + squares.y + squares.z + squares.w;
    return inverseSqrt(reduce_add(sum, lane) / f32(ORDER * LENGTH) + P.eps);
}
