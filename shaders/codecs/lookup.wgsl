// 4-bit codes into a table of 16 values, scaled by block: w = table[q]·scale, blocks of 16 columns or of whole units.
// Scales are numbers, perhaps with a factor a slice of rows; or (SCALE_FORMAT 5) double quantization:
// scale = map[code]·factor + offset, one nesting a slice.
// tables: 16 values; 256 map values if nested; 4 words a slice, see src/quant/lookup.rs; factors.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;

var<workgroup> levels: array<f32, 16>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < 16u; i += lanes) {
        levels[i] = bitcast<f32>(tables[i]);
    }
}

// The slice that a row belongs to; a part of a split matrix starts at first_row.
fn slice_of(whole_row: u32) -> u32 {
    var slice = FIRST_SLICE;
    for (var i = 1u; i < SLICES; i++) {
        if (whole_row >= tables[FIRST_SLICE + 4u * i]) {
            slice = FIRST_SLICE + 4u * i;
        }
    }
    return slice;
}

// The scales of the two halves of a unit.
fn scales(row: u32, unit: u32) -> vec2<f32> {
    let blocks = (P.units + GROUP_UNITS - 1u) / GROUP_UNITS;
    let block = unit / GROUP_UNITS;
    let index = cell_index(row, block, blocks);
    if (SCALE_FORMAT == 0u) {
        return vec2(bitcast<f32>(groups[index]));
    }
    if (SCALE_FORMAT < 3u) {
        return vec2(number16(groups[index / 2u], index, SCALE_FORMAT));
    }
    let whole_row = P.first_row + row;
    if (SCALE_FORMAT < 5u) {
        var pair: vec2<f32>;
        if (SCALES_A_UNIT == 2u) {
            let bits = groups[index / 2u] >> (16u * (index & 1u));
            pair = vec2(number8(bits & 0xffu, SCALE_FORMAT), number8((bits >> 8u) & 0xffu, SCALE_FORMAT));
        } else {
            pair = vec2(number8((groups[index / 4u] >> (8u * (index & 3u))) & 0xffu, SCALE_FORMAT));
        }
        if (SLICES > 0u) {
            pair *= bitcast<f32>(tables[slice_of(whole_row) + 2u]);
        }
        return pair;
    }
    let code = (groups[index / 4u] >> (8u * (index & 3u))) & 0xffu;
    let slice = slice_of(whole_row);
    let flat = ((whole_row - tables[slice]) * blocks + block) >> tables[slice + 1u];
    let factor = bitcast<f32>(tables[tables[slice + 3u] + flat]);
    return vec2(bitcast<f32>(tables[16u + code]) * factor + bitcast<f32>(tables[slice + 2u]));
}

// The levels of a quad of codes in the low or high nibbles of a word.
fn levels4(word: u32) -> vec4<f32> {
    let q = unpack4xU8(word & 0x0f0f0f0fu);
    return vec4(levels[q.x], levels[q.y], levels[q.z], levels[q.w]);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let word = codes[cell_index(row, i / 4u, P.units)][i & 3u];
    let pair = scales(row, i / 4u);
    let scale = select(pair.x, pair.y, (i & 2u) != 0u);
    return Weights8(levels4(word) * scale, levels4(word >> 4u) * scale);
}

// 32 codes times their scales · x.
fn dot_scaled(w: vec4<u32>, scale: vec2<f32>, x: X32) -> f32 {
    let low = levels4(w.x) * x.a + levels4(w.x >> 4u) * x.b + levels4(w.y) * x.c + levels4(w.y >> 4u) * x.d;
    let high = levels4(w.z) * x.e + levels4(w.z >> 4u) * x.f + levels4(w.w) * x.g + levels4(w.w >> 4u) * x.h;
    if (SCALES_A_UNIT == 2u) {
        return sum4(low) * scale.x + sum4(high) * scale.y;
    }
    return sum4(low + high) * scale.x;
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    return dot_scaled(codes[cell_index(row, unit, P.units)], scales(row, unit), x);
}
