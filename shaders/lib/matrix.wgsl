// What products by matrix units share.
// x_halves: as kernels/halves.wgsl leaves them.
// provides: x_halves, Halves8, UP, factor    requires: lib/product.wgsl

@group(0) @binding(4) var<storage, read> x_halves: array<vec4<f16>>;

const UP: f32 = 256.0; // of weights, so that their low halves are normal numbers

// Eight neighbouring weights, times UP: high + low.
struct Halves8 {
    high_a: vec4<f16>, high_b: vec4<f16>,
    low_a: vec4<f16>, low_b: vec4<f16>,
}

// What a token's sums are to be multiplied by.
fn factor(token: u32) -> f32 {
    let shift = i32(x_halves[(token + 1u) * (16u * P.units + 2u) - 2u].x);
    return bitcast<f32>(select(u32(shift + 127) << 23u, 0x7fc00000u, shift == 1000)) / UP;
}
