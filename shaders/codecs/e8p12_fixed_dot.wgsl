// Products of codecs/e8p12.wgsl with a residual code by packed dot products.
// provides: dot_staged    requires: codecs/e8p12_fixed.wgsl, lib/fixed.wgsl

fn dot_staged(row: u32, unit: u32, group: Group, x: Staged) -> f32 {
    let sum = x.a.sum + x.b.sum;
    let w = integers_of(row, unit, group);
    let main = w.factors.x * fixed_dot(w.codes, x) + w.factors.y * sum;
    let rest = 0.5 * fixed_dot(nibble_codes(rest4(row, unit)), x) - REST_LESS * sum;
    return main + bitcast<f32>(RESIDUAL_FACTOR) * rest;
}
