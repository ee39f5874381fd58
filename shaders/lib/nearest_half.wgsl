// provides: nearest_half

// To the nearest of 11 bits, which a conversion to f16 then leaves as it is; compilers may drop a conversion there and back.
fn nearest_half(v: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>((bitcast<vec4<u32>>(v) + vec4(0x1000u)) & vec4(0xffffe000u));
}
