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

// Two points a word.
var<workgroup> points: array<u32, GRID_WORDS>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < GRID_WORDS; i += lanes) {
        points[i] = codebook[i];
    }
}

fn point(index: u32) -> u32 {
    let i = index & (2u * GRID_WORDS - 1u);
    return (points[i / 2u] >> (16u * (i & 1u))) & 0xffffu;
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

// Four coordinates, the first in the lowest bits.
fn levels4(numbers: u32, first: f32) -> vec4<f32> {
    const WIDTH: u32 = 16u / POINT;
    let c = (vec4(numbers) >> (vec4(0u, 1u, 2u, 3u) * WIDTH)) & vec4((1u << WIDTH) - 1u);
    return vec4<f32>(c) * f32(STEP) + first + select(vec4(0.0), vec4(f32(BUMP)), c == vec4(TOP));
}

fn signs4(signs: u32) -> vec4<f32> {
    return 1.0 - 2.0 * vec4<f32>((vec4(signs) >> vec4(0u, 1u, 2u, 3u)) & vec4(1u));
}

// Columns 8i .. 8i + 7 before scaling.
fn octet(row: u32, i: u32) -> Weights8 {
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
    var first = f32(FIRST);
    if (SIGNS == SIGNS_BYTE) {
        signs = item(SIGN_SECTION, 8u, 4u, cell, o);
    } else if (SIGNS == SIGNS_ITEM) {
        signs = even(low >> 9u);
    } else if (SIGNS == SIGNS_WORD) {
        signs = even((word >> (7u * o)) & 127u);
    } else if (SIGNS == DELTA_ITEM) {
        first = select(-0.875, -1.125, (high & 8u) != 0u);
    } else {
        first = select(-0.875, -1.125, (word & 0x8000u) != 0u);
        high = (word >> (3u * o)) & 7u;
    }
    if (POINT == 4u) {
        let a = point((low & 0xffu) | ((high & 1u) << 8u));
        let b = point((low >> 8u) | ((high >> 1u) << 8u));
        return Weights8(levels4(a, first) * signs4(signs), levels4(b, first) * signs4(signs >> 4u));
    }
    let p = point(low | (high << 8u));
    return Weights8(levels4(p, first) * signs4(signs), levels4(p >> 8u, first) * signs4(signs >> 4u));
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
    let w = octet(row, i);
    let f = scale(row, i / (GROUP / 8u));
    return Weights8(w.a * f, w.b * f);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let w0 = octet(row, 4u * unit);
    let w1 = octet(row, 4u * unit + 1u);
    let w2 = octet(row, 4u * unit + 2u);
    let w3 = octet(row, 4u * unit + 3u);
    let first = sum4(w0.a * x.a + w0.b * x.b + w1.a * x.c + w1.b * x.d);
    let second = sum4(w2.a * x.e + w2.b * x.f + w3.a * x.g + w3.b * x.h);
    if (GROUP == 32u) {
        return (first + second) * scale(row, unit);
    }
    return first * scale(row, 2u * unit) + second * scale(row, 2u * unit + 1u);
}
