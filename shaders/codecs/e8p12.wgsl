// E8P12 (QuIP#): 16 bits for 8 weights, a row of 256 absolute values and a byte of signs; see src/quant/e8p.rs.
// A residual code of RESIDUAL_BITS (0, 8: a point of E8, 16: E8P12 again) adds its point times RESIDUAL_FACTOR.
// Weights are odd quarters from -3¾ to 3¾, so a word of nibbles q holds eight of them, q/2 - 3¾; points of E8 are q/2 - 4.
// Sections: codes, residual codes. tables: words of 256 rows, of 256 signs, of 256 points of E8.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl, lib/nibbles.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> tables: array<u32>;

var<workgroup> e8p_words: array<u32, TABLE_WORDS>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < TABLE_WORDS; i += lanes) {
        e8p_words[i] = tables[i];
    }
}

// The nibbles of a code: those of a row are even, signs turn three bits of them and set the fourth.
fn e8p_word(code: u32) -> u32 {
    return e8p_words[code >> 8u] ^ e8p_words[256u + (code & 0xffu)];
}

// Of the residual code.
fn rest_word(code: u32) -> u32 {
    if (RESIDUAL_BITS == 8u) {
        return e8p_words[512u + code];
    }
    return e8p_word(code);
}

// What its nibbles q are, q/2 - REST_LESS.
const REST_LESS: f32 = select(3.75, 4.0, RESIDUAL_BITS == 8u);

// The four 16-bit codes of a cell.
fn split4(cell: vec2<u32>) -> vec4<u32> {
    return vec4(cell.x & 0xffffu, cell.x >> 16u, cell.y & 0xffffu, cell.y >> 16u);
}

fn codes4(row: u32, unit: u32) -> vec4<u32> {
    return split4(codes[cell_index(row, unit, P.units)]);
}

fn residuals4(row: u32, unit: u32) -> vec4<u32> {
    let index = cell_index(row, unit, P.units);
    if (RESIDUAL_BITS == 16u) {
        return split4(codes[P.sections.y / 2u + index]);
    }
    if (RESIDUAL_BITS == 8u) {
        let word = P.sections.y + index;
        return unpack4xU8(codes[word / 2u][word & 1u]);
    }
    return vec4(0u);
}

fn words4(row: u32, unit: u32) -> vec4<u32> {
    let c = codes4(row, unit);
    return vec4(e8p_word(c.x), e8p_word(c.y), e8p_word(c.z), e8p_word(c.w));
}

fn rest4(row: u32, unit: u32) -> vec4<u32> {
    let r = residuals4(row, unit);
    return vec4(rest_word(r.x), rest_word(r.y), rest_word(r.z), rest_word(r.w));
}

// Half of each byte less a multiple of a quarter: in the last bits of the mantissa of 2²¹ are quarters, and a compiler may
// reorder sums.
fn halved4(bytes: u32, less: f32) -> vec4<f32> {
    let quarters = (vec4(bytes << 1u) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
    return bitcast<vec4<f32>>(quarters | vec4(0x4a000000u)) - (2097152.0 + less);
}

// Eight weights of a word.
fn halved(word: u32, less: f32) -> Weights8 {
    return Weights8(halved4(word & 0x0f0f0f0fu, less), halved4((word >> 4u) & 0x0f0f0f0fu, less));
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let w = halved(e8p_word(codes4(row, i / 4u)[i & 3u]), 3.75);
    if (RESIDUAL_BITS == 0u) {
        return w;
    }
    let r = halved(rest_word(residuals4(row, i / 4u)[i & 3u]), REST_LESS);
    let factor = bitcast<f32>(RESIDUAL_FACTOR);
    return Weights8(w.a + r.a * factor, w.b + r.b * factor);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let sum = sum32(x);
    let main = 0.5 * nibbles(words4(row, unit), 8.0, x) + 0.25 * sum;
    if (RESIDUAL_BITS == 0u) {
        return main;
    }
    let rest = 0.5 * nibbles(rest4(row, unit), 8.0, x) + (4.0 - REST_LESS) * sum;
    return main + bitcast<f32>(RESIDUAL_FACTOR) * rest;
}
