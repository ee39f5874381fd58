// Products of staged integers with weights that are integers too.
// provides: dot_staged    requires: codec with integers_of, lib/fixed.wgsl

fn dot_staged(row: u32, unit: u32, group: Group, x: Staged) -> f32 {
    let w = integers_of(row, unit, group);
    if (GROUPS_OF_16) {
        return (w.factors.x * fixed_dot16(w.codes.a, x.a) + w.factors.z * fixed_dot16(w.codes.b, x.b)) * x.scale
            + w.factors.y * x.a.sum + w.factors.w * x.b.sum;
    }
    return w.factors.x * fixed_dot(w.codes, x) + w.factors.y * (x.a.sum + x.b.sum);
}
