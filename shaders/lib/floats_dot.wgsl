// Products of staged floats with what any codec decodes.
// provides: dot_staged    requires: codec, lib/floats.wgsl, lib/ungrouped.wgsl

fn dot_staged(row: u32, unit: u32, group: Group, x: Staged) -> f32 {
    return dot32(row, unit, x);
}
