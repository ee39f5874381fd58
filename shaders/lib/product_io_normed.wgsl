// Reading the activations of a product that an RMSNorm (Zhang & Sennrich 2019) stands before: weighted, and squared on the
// way for what all sums are divided by in the end. x: [tokens, cols].
// provides: x4, norm_factor    requires: lib/product.wgsl, reduce, PERMUTED, SCALED, RAGGED

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> columns: array<u32>; // PERMUTED: where they are; SCALED: what they are multiplied by
@group(0) @binding(9) var<storage, read> norm: array<vec4<f32>>;

var<private> squares: vec4<f32>;

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

fn columns4(j: u32) -> vec4<u32> {
    return vec4(columns[4u * j], columns[4u * j + 1u], columns[4u * j + 2u], columns[4u * j + 3u]);
}

// x[4j .. 4j + 3], weighted; zero beyond the columns. Each is asked for once.
fn x4(token: u32, j: u32) -> vec4<f32> {
    if (RAGGED && 4u * j >= P.cols) {
        return vec4(0.0);
    }
    if (PERMUTED) {
        let k = columns4(j);
        let v = vec4(x_at(token, k.x), x_at(token, k.y), x_at(token, k.z), x_at(token, k.w));
        squares += v * v;
        return v * vec4(norm[k.x / 4u][k.x & 3u], norm[k.y / 4u][k.y & 3u],
                        norm[k.z / 4u][k.z & 3u], norm[k.w / 4u][k.w & 3u]);
    }
    let v = x[token * P.x_stride + j];
    squares += v * v;
    if (SCALED) {
        return v * norm[j] * bitcast<vec4<f32>>(columns4(j));
    }
    return v * norm[j];
}

// What the sums are to be multiplied by.
fn norm_factor(lane: u32) -> f32 {
    return inverseSqrt(reduce_add(sum4(squares), lane) / f32(P.cols) + P.eps);
}
