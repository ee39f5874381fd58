// The integers of codecs/ternary.wgsl, for packed dot products.
// provides: GROUPS_OF_16, integers_of    requires: codecs/ternary.wgsl, lib/integers.wgsl, lib/ungrouped.wgsl

const GROUPS_OF_16: bool = false;

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    let block = block_of(row, unit);
    let d = scale(block);
    let codes = Codes32(vec4(digits8(block, 4u * unit), digits8(block, 4u * unit + 1u)),
                        vec4(digits8(block, 4u * unit + 2u), digits8(block, 4u * unit + 3u)));
    return Integers32(codes, vec4(d, -d, d, -d));
}
