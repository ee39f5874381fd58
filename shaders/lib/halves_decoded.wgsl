// Weights as two f16 each, high + low, of what a codec decodes.
// provides: halves8    requires: codec, lib/nearest_half.wgsl, kernels/matmul_matrix.wgsl

fn halves8(row: u32, i: u32) -> Halves8 {
    let w = decode8(row, i);
    let a = w.a * UP;
    let b = w.b * UP;
    if (!EXACT) {
        return Halves8(vec4<f16>(a), vec4<f16>(b), vec4(0.0h), vec4(0.0h));
    }
    let high_a = nearest_half(a);
    let high_b = nearest_half(b);
    return Halves8(vec4<f16>(high_a), vec4<f16>(high_b), vec4<f16>(a - high_a), vec4<f16>(b - high_b));
}
