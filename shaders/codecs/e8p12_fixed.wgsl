// Products of codecs/e8p12.wgsl by packed dot products.
// provides: Group, group_of, SHARED_UNITS, dot_staged    requires: codecs/e8p12.wgsl, lib/fixed.wgsl

alias Group = u32; // there are no scales

const SHARED_UNITS: u32 = 4u;

fn group_of(row: u32, unit: u32) -> Group {
    return 0u;
}

fn dot_staged(row: u32, unit: u32, group: Group, x: Staged) -> f32 {
    let sum = x.a.sum + x.b.sum;
    let main = 0.5 * fixed_dot(nibble_codes(words4(row, unit)), x) - 3.75 * sum;
    if (RESIDUAL_BITS == 0u) {
        return main;
    }
    let rest = 0.5 * fixed_dot(nibble_codes(rest4(row, unit)), x) - REST_LESS * sum;
    return main + bitcast<f32>(RESIDUAL_FACTOR) * rest;
}
