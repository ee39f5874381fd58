// 32 codes of four bits in four words: quads, of which the low nibbles of a word are the first.
// provides: nibbles    requires: lib/product.wgsl

// (q - z)·x over the codes at one place of four words, times the place: they are read where they stand, in the mantissa
// of 2²³. There must be no bit of them above bit 22, and z must be an integer.
fn place(w: vec4<u32>, bit: u32, zero: f32, x: vec4<f32>) -> f32 {
    let codes = bitcast<vec4<f32>>((w & vec4(15u << bit)) | vec4(0x4b000000u));
    return dot(codes - (8388608.0 + zero * f32(1u << bit)), x);
}

// Σ (q - z)·x.
fn nibbles(w: vec4<u32>, zero: f32, x: X32) -> f32 {
    let top = w >> vec4(20u);
    return place(w, 0u, zero, vec4(x.a.x, x.c.x, x.e.x, x.g.x))
        + place(top, 0u, zero, vec4(x.b.z, x.d.z, x.f.z, x.h.z))
        + 0.0625 * (place(w, 4u, zero, vec4(x.b.x, x.d.x, x.f.x, x.h.x))
            + place(top, 4u, zero, vec4(x.a.w, x.c.w, x.e.w, x.g.w)))
        + 0.00390625 * (place(w, 8u, zero, vec4(x.a.y, x.c.y, x.e.y, x.g.y))
            + place(top, 8u, zero, vec4(x.b.w, x.d.w, x.f.w, x.h.w)))
        + 0.000244140625 * place(w, 12u, zero, vec4(x.b.y, x.d.y, x.f.y, x.h.y))
        + 0.0000152587890625 * place(w, 16u, zero, vec4(x.a.z, x.c.z, x.e.z, x.g.z));
}
