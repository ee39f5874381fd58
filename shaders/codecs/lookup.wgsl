// 4-bit codes into a table of 16 values, scaled by block: w = table[q]·absmax.
// Double quantization (SCALE_FORMAT 3): absmax = map[code]·factor + offset, one nesting a slice of rows.
// tables: 16 values; then 256 map values; (first row, log2 block, offset, first factor) a slice; factors.
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

fn absmax(row: u32, unit: u32) -> f32 {
    let blocks = (P.units + GROUP_UNITS - 1u) / GROUP_UNITS;
    let block = unit / GROUP_UNITS;
    let index = cell_index(row, block, blocks);
    if (SCALE_FORMAT == 0u) {
        return bitcast<f32>(groups[index]);
    }
    if (SCALE_FORMAT < 3u) {
        return number16(groups[index / 2u], index, SCALE_FORMAT);
    }
    let code = (groups[index / 4u] >> (8u * (index & 3u))) & 0xffu;
    // The slice that the row belongs to; a part of a split matrix starts at first_row.
    let whole_row = P.first_row + row;
    var slice = 272u;
    for (var i = 1u; i < SLICES; i++) {
        if (whole_row >= tables[272u + 4u * i]) {
            slice = 272u + 4u * i;
        }
    }
    let flat = ((whole_row - tables[slice]) * blocks + block) >> tables[slice + 1u];
    let factor = bitcast<f32>(tables[tables[slice + 3u] + flat]);
    return bitcast<f32>(tables[16u + code]) * factor + bitcast<f32>(tables[slice + 2u]);
}

// The levels of a quad of codes in the low or high nibbles of a word.
fn levels4(word: u32) -> vec4<f32> {
    let q = unpack4xU8(word & 0x0f0f0f0fu);
    return vec4(levels[q.x], levels[q.y], levels[q.z], levels[q.w]);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let word = codes[cell_index(row, i / 4u, P.units)][i & 3u];
    let scale = absmax(row, i / 4u);
    return Weights8(levels4(word) * scale, levels4(word >> 4u) * scale);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let w = codes[cell_index(row, unit, P.units)];
    let sum = levels4(w.x) * x.a + levels4(w.x >> 4u) * x.b + levels4(w.y) * x.c + levels4(w.y >> 4u) * x.d
            + levels4(w.z) * x.e + levels4(w.z >> 4u) * x.f + levels4(w.w) * x.g + levels4(w.w >> 4u) * x.h;
    return sum4(sum) * absmax(row, unit);
}
