// The integers of codecs/bilevel.wgsl, for packed dot products.
// provides: GROUPS_OF_16, integers_of    requires: codecs/bilevel.wgsl, lib/plane_codes.wgsl, lib/integers.wgsl,
// lib/ungrouped.wgsl

const GROUPS_OF_16: bool = true;

fn integers_of(row: u32, unit: u32, group: Group) -> Integers32 {
    let f = affine(row, 2u * unit);
    let g = affine(row, 2u * unit + 1u);
    return Integers32(plane_codes(row, unit), vec4(f.scale, -f.zero * f.scale, g.scale, -g.zero * g.scale));
}
