// The integers of codecs/e8p12.wgsl, for packed dot products; without those of a residual code.
// provides: GROUPS_OF_16, integers_of    requires: codecs/e8p12.wgsl, lib/integers.wgsl, lib/ungrouped.wgsl

const GROUPS_OF_16: bool = false;

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    return Integers32(nibble_codes(words4(row, unit)), vec4(0.5, -3.75, 0.5, -3.75));
}
