// Products of codecs/kquant.wgsl by packed dot products, where codes count as they are.
// provides: Group, group_of, SHARED_UNITS, dot_staged    requires: codecs/kquant.wgsl, lib/fixed.wgsl

alias Group = u32; // scales change within a unit

const SHARED_UNITS: u32 = 4u;

fn group_of(row: u32, unit: u32) -> Group {
    return 0u;
}

fn dot_staged(row: u32, unit: u32, group: Group, x: Staged) -> f32 {
    let q = plane_codes(row, unit);
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
