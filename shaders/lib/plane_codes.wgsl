// The codes of a unit for packed dot products.
// provides: plane_codes    requires: codes8 (lib/planes.wgsl or the codec's), lib/integers.wgsl

fn plane_codes(row: u32, unit: u32) -> Codes32 {
    return Codes32(vec4(codes8(row, 4u * unit), codes8(row, 4u * unit + 1u)),
                   vec4(codes8(row, 4u * unit + 2u), codes8(row, 4u * unit + 3u)));
}
