// Reading the activations of a product; matvec and matmul alike. x: [tokens, cols].
// provides: x4    requires: lib/product.wgsl, token_limit, PERMUTED

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

// x[4j .. 4j + 3], zero beyond the columns and the tokens.
fn x4(token: u32, j: u32) -> vec4<f32> {
    if (4u * j >= P.cols || token >= token_limit()) {
        return vec4(0.0);
    }
    if (PERMUTED) {
        return vec4(x_at(token, permutation[4u * j]), x_at(token, permutation[4u * j + 1u]),
                    x_at(token, permutation[4u * j + 2u]), x_at(token, permutation[4u * j + 3u]));
    }
    return x[token * P.x_stride + j];
}
