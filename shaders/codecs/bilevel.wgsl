// 3-bit integers in groups of 16 with 3-bit scales and zero points, in tiles of 16 × 16 (SpQR); see src/quant/bilevel.rs.
// w = s·(q - z), s = S_s·(q_s - S_z), z = Z_s·(q_z - Z_z).
// Sections: low plane of the codes, q_s | q_z << 3, halves, high plane.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

struct Affine {
    scale: f32,
    zero: f32, // subtracted from the code
}

fn prepare(lane: u32, lanes: u32) {}

// Of a group of 16 columns.
fn affine(row: u32, at: u32) -> Affine {
    let count = (P.cols + 15u) / 16u;
    let group = min(at, count - 1u);
    let index = cell_index(row, group, count);
    let order = groups[P.sections.y + index / 4u] >> (8u * (index & 3u));
    // Four rows of the tile keep the four halves; where the rows end inside a tile there are none.
    let first = (row & ~15u) + 4u * (group & 3u);
    if (first >= P.padded_rows) {
        return Affine(0.0, 0.0);
    }
    let halves = P.sections.z + cell_index(first, group / 4u, (P.cols + 63u) / 64u) / 2u;
    let scales = groups[halves];
    let zeros = groups[halves + 1u];
    return Affine(f16_value(scales) * (f32(order & 7u) - f16_value(zeros)),
                  f16_value(scales >> 16u) * (f32((order >> 3u) & 7u) - f16_value(zeros >> 16u)));
}

// Two quads: the codes of columns 8i .. 8i + 7.
fn codes8(row: u32, i: u32) -> vec2<u32> {
    let low = codes[cell_index(row, i / 8u, (P.cols + 63u) / 64u)][(i >> 1u) & 3u] >> (4u * (i & 1u));
    let high = groups[P.sections.w + cell_index(row, i / 4u, P.units)] >> (2u * (i & 3u));
    return (vec2(low, low >> 2u) & vec2(0x03030303u)) | ((vec2(high, high >> 1u) & vec2(0x01010101u)) << vec2(2u));
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let f = affine(row, i / 2u);
    let q = codes8(row, i);
    return Weights8((vec4<f32>(unpack4xU8(q.x)) - f.zero) * f.scale, (vec4<f32>(unpack4xU8(q.y)) - f.zero) * f.scale);
}

// Σ (q - z)·x over columns 8i .. 8i + 7.
fn dot8(row: u32, i: u32, zero: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    let q = codes8(row, i);
    return sum4((vec4<f32>(unpack4xU8(q.x)) - zero) * a + (vec4<f32>(unpack4xU8(q.y)) - zero) * b);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let i = 4u * unit;
    let f0 = affine(row, 2u * unit);
    let f1 = affine(row, 2u * unit + 1u);
    return (dot8(row, i, f0.zero, x.a, x.b) + dot8(row, i + 1u, f0.zero, x.c, x.d)) * f0.scale
        + (dot8(row, i + 2u, f1.zero, x.e, x.f) + dot8(row, i + 3u, f1.zero, x.g, x.h)) * f1.scale;
}
