// Points of a grid for 4 or 8 columns (ggml's IQ1, IQ2, IQ3): w = d·(2s + 1)/2^EXPONENT·(±v + delta); the table of
// src/quant/grid.rs says where each type keeps index, signs, delta and scale.
// Sections: points (low plane); d for 256 columns; scales, or words of 32 columns; signs; points (high plane).
// provides: prepare, decode8, dot32    requires: lib/product.wgsl, lib/items.wgsl

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;
@group(0) @binding(2) var<storage, read> codebook: array<u32>;

const SIGNS_BYTE: u32 = 0u;
const SIGNS_ITEM: u32 = 1u;
const SIGNS_WORD: u32 = 2u;
const DELTA_ITEM: u32 = 3u;
const DELTA_WORD: u32 = 4u;

// Two points a word: a coordinate has 4 bits or 2, four neighbouring ones the four bytes.
var<workgroup> points: array<u32, GRID_WORDS>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < GRID_WORDS; i += lanes) {
        points[i] = codebook[i];
    }
}

// A point's coordinates in the last bits of bytes; those of the second four columns, if there are any, two bits above.
fn point(index: u32) -> u32 {
    let i = index & (2u * GRID_WORDS - 1u);
    return points[i / 2u] >> (4u * (i & 1u));
}

// The word that the 32 columns of a cell share, where there is one.
fn shared_word(cell: u32) -> u32 {
    if (WORD_BITS == 0u) {
        return 0u;
    }
    return item(2u, max(WORD_BITS, 1u), 1u, cell, 0u);
}

// Eight signs of which an even number is set, from seven.
fn even(seven: u32) -> u32 {
    return seven | ((countOneBits(seven) & 1u) << 7u);
}

// What four coordinates stand for, in bytes.
fn levels_of(point: u32) -> u32 {
    let c = point & select(0x03030303u, 0x0f0f0f0fu, POINT == 4u);
    var top = 0u;
    if (TOP == 2u) {
        top = (c >> 1u) & 0x01010101u;
    } else {
        top = c & (c >> 1u) & (c >> 2u) & 0x01010101u;
    }
    return c * STEP + FIRST * 0x01010101u + top * BUMP;
}

// Signed bytes: those of which a bit of `signs` is set are negative.
fn signed4(bytes: u32, signs: u32) -> u32 {
    let ones = ((signs & 15u) * 0x00204081u) & 0x01010101u;
    return (bytes ^ (ones * 255u)) + ones; // none is 0
}

// Columns 8i .. 8i + 7 before scaling: bytes, with signs; or without, and what is subtracted from them.
struct Octet {
    bytes: vec2<u32>,
    zero: f32,
}

const HAS_SIGNS: bool = SIGNS <= SIGNS_WORD;

fn octet(row: u32, i: u32) -> Octet {
    let cell = cell_index(row, i / 4u, P.units);
    let o = i & 3u;
    var low: u32;
    if (OCTET_LOW == 8u) {
        low = (codes[cell] >> (8u * o)) & 0xffu;
    } else {
        low = (codes[2u * cell + o / 2u] >> (16u * (o & 1u))) & 0xffffu;
    }
    var high = 0u;
    if (OCTET_HIGH > 0u) {
        high = item(HIGH_SECTION, max(OCTET_HIGH, 1u), 4u, cell, o);
    }
    let word = shared_word(cell);
    var signs = 0u;
    var zero = 0.0;
    if (SIGNS == SIGNS_BYTE) {
        signs = item(SIGN_SECTION, 8u, 4u, cell, o);
    } else if (SIGNS == SIGNS_ITEM) {
        signs = even(low >> 9u);
    } else if (SIGNS == SIGNS_WORD) {
        signs = even((word >> (7u * o)) & 127u);
    } else if (SIGNS == DELTA_ITEM) {
        zero = select(0.875, 1.125, (high & 8u) != 0u);
    } else {
        zero = select(0.875, 1.125, (word & 0x8000u) != 0u);
        high = (word >> (3u * o)) & 7u;
    }
    var points: vec2<u32>;
    if (POINT == 4u) {
        points = vec2(point((low & 0xffu) | ((high & 1u) << 8u)), point((low >> 8u) | ((high >> 1u) << 8u)));
    } else {
        let p = point(low | (high << 8u));
        points = vec2(p, p >> 2u);
    }
    let bytes = vec2(levels_of(points.x), levels_of(points.y));
    if (HAS_SIGNS) {
        return Octet(vec2(signed4(bytes.x, signs), signed4(bytes.y, signs >> 4u)), zero);
    }
    return Octet(bytes, zero);
}

fn floats(octet: Octet) -> Weights8 {
    if (HAS_SIGNS) {
        let bytes = octet.bytes ^ vec2(0x80808080u);
        return Weights8(bytes4(bytes.x, 128.0), bytes4(bytes.y, 128.0));
    }
    return Weights8(bytes4(octet.bytes.x, 0.0) - octet.zero, bytes4(octet.bytes.y, 0.0) - octet.zero);
}

// The factor of columns GROUP·group and up.
fn scale(row: u32, group: u32) -> f32 {
    const GROUPS: u32 = 256u / GROUP;
    let block = cell_index(row, group / GROUPS, (P.units + 7u) / 8u);
    var s: u32;
    if (WORD_BITS > 0u) {
        let word = shared_word(cell_index(row, group, P.units));
        s = (word >> SCALE_SHIFT) & ((1u << SCALE_BITS) - 1u);
    } else if (SCALE_BITS == 3u) {
        s = item(2u, 2u, GROUPS, block, group % GROUPS) | (item(3u, 1u, GROUPS, block, group % GROUPS) << 2u);
    } else {
        s = item(2u, SCALE_BITS, GROUPS, block, group % GROUPS);
    }
    let d = number16(groups[section(1u) + block / 2u], block, 1u);
    return d * (f32(2u * s + 1u) / f32(1u << EXPONENT));
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let w = floats(octet(row, i));
    let f = scale(row, i / (GROUP / 8u));
    return Weights8(w.a * f, w.b * f);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let w0 = floats(octet(row, 4u * unit));
    let w1 = floats(octet(row, 4u * unit + 1u));
    let w2 = floats(octet(row, 4u * unit + 2u));
    let w3 = floats(octet(row, 4u * unit + 3u));
    let first = sum4(w0.a * x.a + w0.b * x.b + w1.a * x.c + w1.b * x.d);
    let second = sum4(w2.a * x.e + w2.b * x.f + w3.a * x.g + w3.b * x.h);
    if (GROUP == 32u) {
        return (first + second) * scale(row, unit);
    }
    return first * scale(row, 2u * unit) + second * scale(row, 2u * unit + 1u);
}
