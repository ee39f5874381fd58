// Vector codes: a block of OUT × IN weights is the sum of an entry of each codebook, times a scale:
// w[o, i] = scale·Σ_c codebooks[c][code_c][o][i]; see src/quant/codebook.rs.
// Sections: codes, scales. tables: f16 [CODEBOOKS][ENTRIES][OUT][IN], IN of 4, 8, 16 or 32.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl, TABLE_ROOM

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<vec4<u32>>;

// Codebooks are kept in workgroup memory where there is room.
const TABLE_VECS: u32 = CODEBOOKS * ENTRIES * OUT * IN / 8u;
const SHARED: bool = 16u * TABLE_VECS <= TABLE_ROOM;
var<workgroup> near: array<vec4<u32>, u32(SHARED) * (TABLE_VECS - 1u) + 1u>;

const CELL_WORDS: u32 = CODEBOOKS * CODE_BITS / IN; // a cell has the codes of 32 columns

fn prepare(lane: u32, lanes: u32) {
    if (SHARED) {
        for (var i = lane; i < TABLE_VECS; i += lanes) {
            near[i] = tables[i];
        }
    }
}

fn table(i: u32) -> vec4<u32> {
    if (SHARED) {
        return near[i];
    }
    return tables[i];
}

fn halves4(v: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(v.x), unpack2x16float(v.y));
}

// Which row of the table holds code c of block `block` of the cell that begins at word `at`.
fn entry(row: u32, at: u32, block: u32, c: u32) -> u32 {
    let bit = (block * CODEBOOKS + c) * CODE_BITS;
    let code = (codes[at + bit / 32u] >> (bit & 31u)) & (ENTRIES - 1u);
    return (c * ENTRIES + code) * OUT + row % OUT;
}

// Columns 8i .. 8i + 7 without their scale.
fn sum8(row: u32, i: u32) -> Weights8 {
    let at = line_index(row, OUT, i / 4u, P.units) * CELL_WORDS;
    var sum = Weights8(vec4(0.0), vec4(0.0));
    for (var c = 0u; c < CODEBOOKS; c++) {
        if (IN == 4u) {
            let low = entry(row, at, 2u * (i & 3u), c);
            let high = entry(row, at, 2u * (i & 3u) + 1u, c);
            let a = table(low / 2u);
            let b = table(high / 2u);
            sum.a += halves4(select(a.xy, a.zw, (low & 1u) == 1u));
            sum.b += halves4(select(b.xy, b.zw, (high & 1u) == 1u));
        } else {
            let parts = max(IN / 8u, 1u);
            let v = table(entry(row, at, (i & 3u) / parts, c) * parts + i % parts);
            sum.a += halves4(v.xy);
            sum.b += halves4(v.zw);
        }
    }
    return sum;
}

fn scale(row: u32) -> f32 {
    let line = row / OUT;
    return number16(scales[line / 2u], line, 1u);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let sum = sum8(row, i);
    let s = scale(row);
    return Weights8(sum.a * s, sum.b * s);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let w0 = sum8(row, 4u * unit);
    let w1 = sum8(row, 4u * unit + 1u);
    let w2 = sum8(row, 4u * unit + 2u);
    let w3 = sum8(row, 4u * unit + 3u);
    return scale(row) * sum4(w0.a * x.a + w0.b * x.b + w1.a * x.c + w1.b * x.d
                           + w2.a * x.e + w2.b * x.f + w3.a * x.g + w3.b * x.h);
}
