// 8-bit floats of FRACTION_BITS fraction bits (3: E4M3, 2: E5M2) with a scale a group: w = value(code)·s.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

fn prepare(lane: u32, lanes: u32) {}

fn scale(row: u32, unit: u32) -> f32 {
    let index = cell_index(row, unit / GROUP_UNITS, (P.units + GROUP_UNITS - 1u) / GROUP_UNITS);
    if (SCALE_FORMAT == 0u) {
        return bitcast<f32>(groups[index]);
    }
    if (SCALE_FORMAT < 3u) {
        return number16(groups[index / 2u], index, SCALE_FORMAT);
    }
    return number8((groups[index / 4u] >> (8u * (index & 3u))) & 0xffu, SCALE_FORMAT);
}

// What numbers are times what floats4 gives: 2^-8 or 2^-16.
const FACTOR: f32 = 1.0 / f32(1u << (1u << (6u - FRACTION_BITS)));

// The numbers of a quad of codes over FACTOR.
fn floats4(word: u32) -> vec4<f32> {
    const SHIFT: u32 = 23u - FRACTION_BITS;
    let places = vec4(word << SHIFT, word << (SHIFT - 8u), word << (SHIFT - 16u), word >> (24u - SHIFT));
    let signs = vec4(word << 24u, word << 16u, word << 8u, word) & vec4(0x80000000u);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(widened(places & vec4(0x7fu << SHIFT))) | signs);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let cell = codes[cell_index(row, i / 2u, (P.cols + 15u) / 16u)];
    let words = select(cell.xy, cell.zw, (i & 1u) == 1u);
    let s = scale(row, i / 4u);
    return Weights8(floats4(words.x) * FACTOR * s, floats4(words.y) * FACTOR * s);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let cells = (P.cols + 15u) / 16u;
    let v = codes[cell_index(row, 2u * unit, cells)];
    let w = codes[cell_index(row, min(2u * unit + 1u, cells - 1u), cells)]; // x is zero past the last column
    let sum = floats4(v.x) * x.a + floats4(v.y) * x.b + floats4(v.z) * x.c + floats4(v.w) * x.d
            + floats4(w.x) * x.e + floats4(w.y) * x.f + floats4(w.z) * x.g + floats4(w.w) * x.h;
    return sum4(sum) * FACTOR * scale(row, unit);
}
