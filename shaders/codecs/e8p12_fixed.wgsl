// Products of codecs/e8p12.wgsl by packed dot products: quarters are its integers.
// provides: Group, group_of, GROUP_UNITS, EVEN_ODD, dot32_fixed    requires: codecs/e8p12.wgsl, lib/fixed.wgsl

alias Group = u32; // there are no scales

const GROUP_UNITS: u32 = 4u;
const EVEN_ODD: bool = true;

fn group_of(row: u32, unit: u32) -> Group {
    return 0u;
}

// Twice each byte (of at most 31) less an integer, as signed bytes.
fn e8p_quarters(bytes: vec2<u32>, less: u32) -> vec2<u32> {
    return (((bytes << vec2(1u)) | vec2(0x80808080u)) - vec2(less * 0x01010101u)) ^ vec2(0x80808080u);
}

fn e8p_quarters_of_point(code: u32) -> vec2<u32> {
    let point = e8p_bytes(code);
    return e8p_quarters(point.xy, 15u + 2u * point.z);
}

fn e8_quarters_of_point(code: u32) -> vec2<u32> {
    let row = e8p_rows[(TABLE_ROWS - 256u) + code];
    return e8p_quarters(vec2(row, row >> 4u) & vec2(0x0f0f0f0fu), 16u);
}

fn e8p_quarters_of_unit(c: vec4<u32>) -> Codes32 {
    return Codes32(vec4(e8p_quarters_of_point(c.x), e8p_quarters_of_point(c.y)),
                   vec4(e8p_quarters_of_point(c.z), e8p_quarters_of_point(c.w)));
}

fn dot32_fixed(row: u32, unit: u32, group: Group, x: Fixed32) -> f32 {
    let sum = fixed_dot(e8p_quarters_of_unit(codes4(row, unit)), x);
    if (RESIDUAL_BITS == 0u) {
        return 0.25 * sum;
    }
    let r = residuals4(row, unit);
    var rest: Codes32;
    if (RESIDUAL_BITS == 8u) {
        rest = Codes32(vec4(e8_quarters_of_point(r.x), e8_quarters_of_point(r.y)),
                       vec4(e8_quarters_of_point(r.z), e8_quarters_of_point(r.w)));
    } else {
        rest = e8p_quarters_of_unit(r);
    }
    return 0.25 * (sum + bitcast<f32>(RESIDUAL_FACTOR) * fixed_dot(rest, x));
}
