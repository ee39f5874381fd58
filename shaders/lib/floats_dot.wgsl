// Products of staged floats with what any codec decodes.
// provides: Group, group_of, SHARED_UNITS, dot_staged    requires: codec, lib/floats.wgsl

alias Group = u32; // codecs look up their scales themselves

const SHARED_UNITS: u32 = 4u;

fn group_of(row: u32, unit: u32) -> Group {
    return 0u;
}

fn dot_staged(row: u32, unit: u32, group: Group, x: Staged) -> f32 {
    return dot32(row, unit, x);
}
