// Products of codecs/int.wgsl by packed dot products.
// provides: Group, group_of, GROUP_UNITS, EVEN_ODD, dot32_fixed    requires: codecs/int.wgsl, lib/fixed.wgsl

alias Group = Affine;

const GROUP_UNITS: u32 = GROUP_RUNS / 4u;
const EVEN_ODD: bool = false;

fn group_of(row: u32, unit: u32) -> Group {
    return affine(row, 4u * unit);
}

fn dot32_fixed(row: u32, unit: u32, f: Group, x: Fixed32) -> f32 {
    var q: Codes32;
    if (LOW_BITS == 4u && HIGH_BITS == 0u) {
        let w = codes[cell_index(row, unit, P.units)];
        let even = w & vec4(0x0f0f0f0fu);
        let odd = (w >> vec4(4u)) & vec4(0x0f0f0f0fu);
        q = Codes32(vec4(even.x, odd.x, even.y, odd.y), vec4(even.z, odd.z, even.w, odd.w));
    } else {
        q = Codes32(vec4(codes8(row, 4u * unit), codes8(row, 4u * unit + 1u)),
                    vec4(codes8(row, 4u * unit + 2u), codes8(row, 4u * unit + 3u)));
    }
    var zero = f.zero;
    if (LOW_BITS == 8u) {
        // As signed bytes they are 128 less.
        q = Codes32(q.a ^ vec4(0x80808080u), q.b ^ vec4(0x80808080u));
        zero -= 128.0;
    }
    let sum = x.a.sum + x.b.sum;
    return (fixed_dot(q, x) - zero * sum) * f.scale + f.min * sum;
}
