// Products of codecs/int.wgsl by packed dot products.
// provides: Group, group_of, SHARED_UNITS, dot_staged    requires: codecs/int.wgsl, lib/fixed.wgsl

alias Group = Affine;

const SHARED_UNITS: u32 = GROUP_RUNS / 4u;

fn group_of(row: u32, unit: u32) -> Group {
    return affine(row, 4u * unit);
}

fn dot_staged(row: u32, unit: u32, f: Group, x: Staged) -> f32 {
    var q: Codes32;
    if (LOW_BITS == 4u && HIGH_BITS == 0u) {
        q = nibble_codes(codes[cell_index(row, unit, P.units)]);
    } else {
        q = plane_codes(row, unit);
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
