// Products of codecs/kquant.wgsl by packed dot products, where codes count as they are.
// provides: Group, group_of, GROUP_UNITS, EVEN_ODD, dot32_fixed    requires: codecs/kquant.wgsl, lib/fixed.wgsl

alias Group = u32; // scales change within a unit

const GROUP_UNITS: u32 = 4u;
const EVEN_ODD: bool = false;

fn group_of(row: u32, unit: u32) -> Group {
    return 0u;
}

fn dot32_fixed(row: u32, unit: u32, group: Group, x: Fixed32) -> f32 {
    let q = Codes32(vec4(codes8(row, 4u * unit), codes8(row, 4u * unit + 1u)),
                    vec4(codes8(row, 4u * unit + 2u), codes8(row, 4u * unit + 3u)));
    let zero = f32(ZERO);
    if (GROUP == 32u) {
        let f = affine(row, unit);
        let sum = x.a.sum + x.b.sum;
        return (fixed_dot(q, x) - zero * sum) * f.scale - f.min * sum;
    }
    let f = affine(row, 2u * unit);
    let g = affine(row, 2u * unit + 1u);
    return (fixed_dot16(q.a, x.a) * x.scale - zero * x.a.sum) * f.scale - f.min * x.a.sum
        + (fixed_dot16(q.b, x.b) * x.scale - zero * x.b.sum) * g.scale - g.min * x.b.sum;
}
