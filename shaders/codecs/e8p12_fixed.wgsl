// The integers of codecs/e8p12.wgsl, for packed dot products; without those of a residual code.
// provides: Group, group_of, SHARED_UNITS, GROUPS_OF_16, integers_of    requires: codecs/e8p12.wgsl, lib/integers.wgsl

alias Group = u32; // there are no scales

const SHARED_UNITS: u32 = 4u;
const GROUPS_OF_16: bool = false;

fn group_of(row: u32, unit: u32) -> Group {
    return 0u;
}

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    return Integers32(nibble_codes(words4(row, unit)), vec4(0.5, -3.75, 0.5, -3.75));
}
