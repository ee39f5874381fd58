// Writing the results of a product. y: [tokens, rows of the whole layer].
// provides: token_end, biased, store    requires: lib/product.wgsl, ADD, BIASED

@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

// End of the tokens that the dispatch works on; a kernel sets it first.
var<private> token_end: u32;

fn biased(row: u32, sum: f32) -> f32 {
    if (BIASED) {
        return sum + bias[P.first_row + row];
    }
    return sum;
}

// y_offset holds the first row of this part already, the bias is that of the whole layer.
fn store(token: u32, row: u32, sum: f32) {
    if (row >= P.rows || token >= token_end) {
        return;
    }
    let at = token * P.y_stride + P.y_offset + row;
    var value = biased(row, sum);
    if (ADD) {
        value += y[at];
    }
    y[at] = value;
}
