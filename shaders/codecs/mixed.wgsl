// Integers whose rate changes along a row, in segments of 2, 3, 4, 5, 6 or 8 bits: w = (q - 2^(b-1))·(n + 1)²·max/256.
// 32 columns are b words: planes of 4, 2 and 1 bits, the lowest bits first, each in quads as in codecs/int.wgsl.
// tables: units; of each its first word with its bits above, its group and that group's max.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;

var<private> row_words: u32;
var<private> row_groups: u32;

// Where a unit lies in its row.
struct Place {
    bits: u32,
    word: u32,
    group: u32,
    max: f32,
}

// Past the end of a row its last group goes on.
fn place(unit: u32) -> Place {
    let known = min(unit, tables[0] - 1u);
    let first = tables[1u + 3u * known];
    let bits = first >> 28u;
    let word = (first & 0x0fffffffu) + (unit - known) * bits;
    return Place(bits, word, tables[2u + 3u * known], bitcast<f32>(tables[3u + 3u * known]));
}

fn prepare(lane: u32, lanes: u32) {
    row_words = place(P.units).word;
    row_groups = place(P.units - 1u).group + 1u;
}

fn group_scale(row: u32, at: Place) -> f32 {
    let index = cell_index(row, at.group, row_groups);
    let root = f32(((scales[index / 8u] >> (4u * (index & 7u))) & 15u) + 1u);
    return root * root * at.max * 0.00390625;
}

// What codes count from.
fn zero_of(at: Place) -> f32 {
    return f32(1u << (at.bits - 1u));
}

fn word_at(row: u32, word: u32) -> u32 {
    return words[cell_index(row, word, row_words)];
}

// Two quads: codes 8i .. 8i + 7 of a unit.
fn codes8(row: u32, at: Place, i: u32) -> vec2<u32> {
    var q = vec2(0u);
    var next = at.word;
    var shift = 0u;
    if (at.bits >= 4u) {
        let word = word_at(row, next + i);
        q = vec2(word, word >> 4u) & vec2(0x0f0f0f0fu);
        next += 4u;
        shift = 4u;
    }
    if (at.bits == 8u) {
        let word = word_at(row, next + i);
        q |= vec2(word << 4u, word) & vec2(0xf0f0f0f0u);
    }
    if ((at.bits & 2u) != 0u) {
        let word = word_at(row, next + i / 2u) >> (4u * (i & 1u));
        q |= (vec2(word, word >> 2u) & vec2(0x03030303u)) << vec2(shift);
        next += 2u;
        shift += 2u;
    }
    if ((at.bits & 1u) != 0u) {
        let word = word_at(row, next) >> (2u * i);
        q |= (vec2(word, word >> 1u) & vec2(0x01010101u)) << vec2(shift);
    }
    return q;
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let at = place(i / 4u);
    let q = codes8(row, at, i & 3u);
    let zero = zero_of(at);
    let scale = group_scale(row, at);
    return Weights8(bytes4(q.x, zero) * scale, bytes4(q.y, zero) * scale);
}

// (q - z)·x over two quads.
fn dot8(q: vec2<u32>, zero: f32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return bytes4(q.x, zero) * a + bytes4(q.y, zero) * b;
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let at = place(unit);
    let zero = zero_of(at);
    let sum = dot8(codes8(row, at, 0u), zero, x.a, x.b) + dot8(codes8(row, at, 1u), zero, x.c, x.d)
        + dot8(codes8(row, at, 2u), zero, x.e, x.f) + dot8(codes8(row, at, 3u), zero, x.g, x.h);
    return sum4(sum) * group_scale(row, at);
}
