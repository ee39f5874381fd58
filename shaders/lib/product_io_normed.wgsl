// Reading the activations of a product that an RMSNorm (Zhang & Sennrich 2019) stands before: weighted, and squared on the
// way for what all sums are divided by in the end. x: [tokens, cols].
// provides: x4, norm_factor    requires: lib/product.wgsl, lib/columns.wgsl, reduce, PERMUTED, SCALED, RAGGED

@group(0) @binding(9) var<storage, read> norm: array<vec4<f32>>;

var<private> squares: vec4<f32>;

// x[4j .. 4j + 3], weighted; zero beyond the columns. Each is asked for once.
fn x4(token: u32, j: u32) -> vec4<f32> {
    if (RAGGED && 4u * j >= P.cols) {
        return vec4(0.0);
    }
    if (PERMUTED) {
        let k = columns4(4u * j);
        let v = x_of(token, k);
        squares += v * v;
        return v * vec4(norm[k.x / 4u][k.x & 3u], norm[k.y / 4u][k.y & 3u],
                        norm[k.z / 4u][k.z & 3u], norm[k.w / 4u][k.w & 3u]);
    }
    let v = x[token * P.x_stride + j];
    squares += v * v;
    if (SCALED) {
        return v * norm[j] * bitcast<vec4<f32>>(columns4(4u * j));
    }
    return v * norm[j];
}

// What the sums are to be multiplied by.
fn norm_factor(lane: u32) -> f32 {
    return inverseSqrt(reduce_add(sum4(squares), lane) / f32(P.cols) + P.eps);
}
