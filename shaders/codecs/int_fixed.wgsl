// The integers of codecs/int.wgsl, for packed dot products.
// provides: Group, group_of, SHARED_UNITS, GROUPS_OF_16, integers_of    requires: codecs/int.wgsl, lib/plane_codes.wgsl,
// lib/integers.wgsl

alias Group = Affine;

const SHARED_UNITS: u32 = GROUP_RUNS / 4u;
const GROUPS_OF_16: bool = false;

fn group_of(row: u32, unit: u32) -> Group {
    return affine(row, 4u * unit);
}

fn integers_of(row: u32, unit: u32, f: Group) -> Integers32 {
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
    let offset = f.min - zero * f.scale;
    return Integers32(q, vec4(f.scale, offset, f.scale, offset));
}
