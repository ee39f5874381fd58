// Reading the activations of a product, as they are or scaled. x: [tokens, cols].
// provides: x4, norm_factor    requires: lib/product.wgsl, lib/columns.wgsl, lib/product_out.wgsl, PERMUTED, SCALED, RAGGED

fn bounded(v: vec4<f32>, j: u32) -> vec4<f32> {
    if (RAGGED) {
        return select(v, vec4(0.0), 4u * j >= P.cols);
    }
    return v;
}

// x[4j .. 4j + 3], zero beyond the columns (where the last unit is RAGGED). Tokens beyond the end repeat the last one;
// nothing is stored for them.
fn x4(token: u32, j: u32) -> vec4<f32> {
    let at = min(token, token_end - 1u);
    if (PERMUTED) {
        return bounded(x_of(at, columns4(min(4u * j, P.cols - 4u))), j);
    }
    if (SCALED) {
        let scales = bitcast<vec4<f32>>(columns4(min(4u * j, P.cols - 4u)));
        return bounded(x[at * P.x_stride + j] * scales, j);
    }
    return bounded(x[at * P.x_stride + j], j);
}

// What the sums are to be multiplied by.
fn norm_factor(lane: u32) -> f32 {
    return 1.0;
}
