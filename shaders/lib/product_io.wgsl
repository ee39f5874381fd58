// Reading the activations of a product, as they are or scaled. x: [tokens, cols].
// provides: x4, norm_factor    requires: lib/product.wgsl, lib/product_out.wgsl, PERMUTED, SCALED, RAGGED

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> columns: array<u32>; // PERMUTED: where they are; SCALED: what they are multiplied by

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

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
        let k = min(4u * j, P.cols - 4u);
        let v = vec4(x_at(at, columns[k]), x_at(at, columns[k + 1u]),
                     x_at(at, columns[k + 2u]), x_at(at, columns[k + 3u]));
        return bounded(v, j);
    }
    if (SCALED) {
        let k = min(4u * j, P.cols - 4u);
        let scales = bitcast<vec4<f32>>(vec4(columns[k], columns[k + 1u], columns[k + 2u], columns[k + 3u]));
        return bounded(x[at * P.x_stride + j] * scales, j);
    }
    return bounded(x[at * P.x_stride + j], j);
}

// What the sums are to be multiplied by.
fn norm_factor(lane: u32) -> f32 {
    return 1.0;
}
