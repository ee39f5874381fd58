// Reading activations and writing results of a product; matvec and matmul alike.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// provides: x4, store    requires: lib/product.wgsl, token_limit, ADD, BIASED, PERMUTED

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

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

// y_offset holds the first row of this part already, the bias is that of the whole layer.
fn store(token: u32, row: u32, sum: f32) {
    if (row >= P.rows || token >= token_limit()) {
        return;
    }
    let at = token * P.y_stride + P.y_offset + row;
    var value = sum;
    if (BIASED) {
        value += bias[P.first_row + row];
    }
    if (ADD) {
        value += y[at];
    }
    y[at] = value;
}
