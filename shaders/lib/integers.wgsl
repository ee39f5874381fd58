// Integer weights for packed dot products.
// provides: Codes32, Integers32, nibble_codes, integer_dot

// 32 neighbouring weights, signed bytes.
struct Codes32 {
    a: vec4<u32>, b: vec4<u32>,
}

// Of four bits, in quads as in lib/nibbles.wgsl.
fn nibble_codes(w: vec4<u32>) -> Codes32 {
    let low = w & vec4(0x0f0f0f0fu);
    let high = (w >> vec4(4u)) & vec4(0x0f0f0f0fu);
    return Codes32(vec4(low.x, high.x, low.y, high.y), vec4(low.z, high.z, low.w, high.w));
}

// 32 neighbouring weights: code·scale + offset, (scale, offset) of the first and of the last 16.
struct Integers32 {
    codes: Codes32,
    factors: vec4<f32>,
}

fn integer_dot(q: vec4<u32>, x: vec4<u32>) -> i32 {
    return dot4I8Packed(q.x, x.x) + dot4I8Packed(q.y, x.y) + dot4I8Packed(q.z, x.z) + dot4I8Packed(q.w, x.w);
}
