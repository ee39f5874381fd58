// Weights of codecs/int.wgsl as two f16 each, high + low, by arithmetic of f16: exact, where scales are f16 and zero points
// integers. Bytes count in the mantissa of 1024, as they do in that of 2²³ for lib/product.wgsl's bytes4; naga has no bitcast
// to f16, and compilers see that to f32 and back is none.
// provides: halves8    requires: codecs/int.wgsl, kernels/matmul_matrix.wgsl

// A quad less its zero point.
fn half_quad(q: u32, zero: f32) -> vec4<f16> {
    let even = vec2<f16>(unpack2x16float((q & 0x00ff00ffu) | 0x64006400u));
    let odd = vec2<f16>(unpack2x16float(((q >> 8u) & 0x00ff00ffu) | 0x64006400u));
    return vec4(even.x, odd.x, even.y, odd.y) - f16(1024.0 + zero);
}

fn halves8(row: u32, i: u32) -> Halves8 {
    let f = affine(row, i);
    let q = codes8(row, i);
    let a = half_quad(q.x, f.zero);
    let b = half_quad(q.y, f.zero);
    let scale = vec4(f16(f.scale * UP));
    let high_a = a * scale;
    let high_b = b * scale;
    return Halves8(high_a, high_b, fma(a, scale, -high_a), fma(b, scale, -high_b));
}
