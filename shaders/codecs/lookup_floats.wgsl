// Products of staged floats with codecs/lookup.wgsl, whose scales units share.
// provides: Group, group_of, SHARED_UNITS, dot_staged    requires: codecs/lookup.wgsl, lib/floats.wgsl

alias Group = vec2<f32>;

const SHARED_UNITS: u32 = GROUP_UNITS;

fn group_of(row: u32, unit: u32) -> Group {
    return scales(row, unit);
}

fn dot_staged(row: u32, unit: u32, scale: Group, x: Staged) -> f32 {
    return dot_scaled(codes[cell_index(row, unit, P.units)], scale, x);
}
