// The integers of codecs/mixed.wgsl, for packed dot products.
// provides: GROUPS_OF_16, integers_of    requires: codecs/mixed.wgsl, lib/integers.wgsl, lib/ungrouped.wgsl

const GROUPS_OF_16: bool = false;

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    let at = place(unit);
    let scale = group_scale(row, at);
    // As signed bytes those of 8 bits are 128 less, which is what they count from.
    let eight = at.bits == 8u;
    let flip = vec4(select(0u, 0x80808080u, eight));
    let offset = -scale * select(zero_of(at), 0.0, eight);
    let codes = Codes32(vec4(codes8(row, at, 0u), codes8(row, at, 1u)) ^ flip,
                        vec4(codes8(row, at, 2u), codes8(row, at, 3u)) ^ flip);
    return Integers32(codes, vec4(scale, offset, scale, offset));
}
