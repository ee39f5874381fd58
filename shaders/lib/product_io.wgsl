// Reading activations and writing results of a product; matvec and matmul alike.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// provides: token_end, x4, store    requires: lib/product.wgsl, ADD, BIASED, PERMUTED

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

// End of the tokens that the dispatch works on; a kernel sets it first.
var<private> token_end: u32;

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

// y_offset holds the first row of this part already, the bias is that of the whole layer.
fn store(token: u32, row: u32, sum: f32) {
    if (row >= P.rows || token >= token_end) {
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
