// The integers of codecs/kquant.wgsl, for packed dot products, where codes count as they are.
// provides: GROUPS_OF_16, integers_of    requires: codecs/kquant.wgsl, lib/plane_codes.wgsl, lib/integers.wgsl,
// lib/ungrouped.wgsl

const GROUPS_OF_16: bool = GROUP == 16u;

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    let q = plane_codes(row, unit);
    let zero = f32(ZERO);
    if (GROUP == 32u) {
        let f = affine(row, unit);
        let offset = -f.min - zero * f.scale;
        return Integers32(q, vec4(f.scale, offset, f.scale, offset));
    }
    let f = affine(row, 2u * unit);
    let g = affine(row, 2u * unit + 1u);
    return Integers32(q, vec4(f.scale, -f.min - zero * f.scale, g.scale, -g.min - zero * g.scale));
}
