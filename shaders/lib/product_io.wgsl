// Reading the activations of a product; matvec and matmul alike. x: [tokens, cols].
// provides: x4    requires: lib/product.wgsl, lib/product_out.wgsl, PERMUTED

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

// x[4j .. 4j + 3], zero beyond the columns. Tokens beyond the end repeat the last one; nothing is stored for them.
fn x4(token: u32, j: u32) -> vec4<f32> {
    let at = min(token, token_end - 1u);
    if (PERMUTED) {
        let k = min(4u * j, P.cols - 4u);
        let v = vec4(x_at(at, permutation[k]), x_at(at, permutation[k + 1u]),
                     x_at(at, permutation[k + 2u]), x_at(at, permutation[k + 3u]));
        return select(v, vec4(0.0), 4u * j >= P.cols);
    }
    return select(x[at * P.x_stride + j], vec4(0.0), 4u * j >= P.cols);
}
