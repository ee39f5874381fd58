// The integers of codecs/grid.wgsl where there are signs, for packed dot products.
// provides: GROUPS_OF_16, integers_of    requires: codecs/grid.wgsl, lib/integers.wgsl, lib/ungrouped.wgsl

const GROUPS_OF_16: bool = GROUP == 16u;

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    let codes = Codes32(vec4(octet(row, 4u * unit).bytes, octet(row, 4u * unit + 1u).bytes),
                        vec4(octet(row, 4u * unit + 2u).bytes, octet(row, 4u * unit + 3u).bytes));
    if (GROUPS_OF_16) {
        return Integers32(codes, vec4(scale(row, 2u * unit), 0.0, scale(row, 2u * unit + 1u), 0.0));
    }
    let s = scale(row, unit);
    return Integers32(codes, vec4(s, 0.0, s, 0.0));
}
