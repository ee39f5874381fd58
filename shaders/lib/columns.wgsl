// The activations of a product, and what it knows of each of their columns. x: [tokens, cols].
// provides: x, columns4, x_of    requires: lib/product.wgsl

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> columns: array<u32>; // PERMUTED: where they are; SCALED: what they are multiplied by

fn columns4(k: u32) -> vec4<u32> {
    return vec4(columns[k], columns[k + 1u], columns[k + 2u], columns[k + 3u]);
}

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

// Four of a token, from anywhere.
fn x_of(token: u32, k: vec4<u32>) -> vec4<f32> {
    return vec4(x_at(token, k.x), x_at(token, k.y), x_at(token, k.z), x_at(token, k.w));
}
