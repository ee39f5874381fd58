// Trellis codes of BITS bits in tiles of 16 × 16 weights (EXL3): the state of a weight is the 16 bits of the tile's
// circular stream that end with its own, and a few instructions make a number of it; see src/quant/trellis.rs.
// Tiles keep their 8·BITS words. A word serves rows n and n + 8, which read it at the same time.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> words: array<u32>;

fn prepare(lane: u32, lanes: u32) {}

// First word of the tile that holds columns 16·i .. 16·i + 15 of a row; the last tile again beyond the end.
fn tile_words(row: u32, i: u32) -> u32 {
    let tiles = (P.cols + 15u) / 16u;
    return line_index(row, 16u, min(i, tiles - 1u), tiles) * 8u * BITS;
}

// The 32 bits that end before bit `end` of the eighth of a tile that rows n and n + 8 share; bits before the
// eighth belong to the one before it, and the first follows the last.
fn window(tile: u32, eighth: u32, end: u32) -> u32 {
    let i = (end - 1u) / 32u;
    let at = eighth * BITS + i;
    let low = words[tile + at];
    let high = words[tile + (at + 8u * BITS - 1u) % (8u * BITS)];
    let shift = 32u * (i + 1u) - end;
    return (low >> shift) | ((high << 1u) << (31u - shift));
}

// Rounds to the 11 significant bits of an f16, ties to even; no value here is small enough to be subnormal.
fn round_to_half(v: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(v);
    return bitcast<vec4<f32>>((bits + vec4(0xfffu) + ((bits >> vec4(13u)) & vec4(1u))) & vec4(0xffffe000u));
}

// f16 numbers (normal ones) as f32.
fn halves(bits: vec4<u32>) -> vec4<f32> {
    let magnitude = ((bits & vec4(0x7fffu)) << vec4(13u)) + vec4(0x38000000u);
    return bitcast<vec4<f32>>(((bits & vec4(0x8000u)) << vec4(16u)) | magnitude);
}

// What four states mean.
fn values(states: vec4<u32>) -> vec4<f32> {
    if (CODEBOOK == 2u) { // mul1: the sum of four bytes, as an affine function of an f16
        let u = states * 0x83dcd12du;
        let pairs = (u & vec4(0x00ff00ffu)) + ((u >> vec4(8u)) & vec4(0x00ff00ffu));
        let sum = (pairs & vec4(0xffffu)) + (pairs >> vec4(16u));
        return round_to_half(vec4<f32>(sum + vec4(1024u)) * 0.00676727294921875 - 10.3828125);
    }
    var u: vec4<u32>;
    if (CODEBOOK == 1u) { // mcg
        u = states * 0xcbac1fedu;
    } else { // 3inst
        u = states * 89226354u + vec4(64248484u);
    }
    let pair = (u & vec4(0x8fff8fffu)) ^ vec4(0x3b603b60u);
    return round_to_half(halves(pair & vec4(0xffffu)) + halves(pair >> vec4(16u)));
}

// States of columns 2l, 2l + 1, 2l + 8, 2l + 9 of a row in a tile: four neighbours in the stream.
fn states4(tile: u32, row: u32, l: u32) -> vec4<u32> {
    let end = (8u * l + ((row >> 1u) & 4u) + 4u) * BITS;
    let last = window(tile, row & 7u, end);
    if (BITS <= 5u) {
        return (vec4(last) >> vec4(3u * BITS, 2u * BITS, BITS, 0u)) & vec4(0xffffu);
    }
    let first = window(tile, row & 7u, end - 2u * BITS);
    return (vec4(first, first, last, last) >> vec4(BITS, 0u, BITS, 0u)) & vec4(0xffffu);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let tile = tile_words(row, i / 2u);
    let s0 = states4(tile, row, 0u);
    let s1 = states4(tile, row, 1u);
    let s2 = states4(tile, row, 2u);
    let s3 = states4(tile, row, 3u);
    if ((i & 1u) == 0u) {
        return Weights8(values(vec4(s0.xy, s1.xy)), values(vec4(s2.xy, s3.xy)));
    }
    return Weights8(values(vec4(s0.zw, s1.zw)), values(vec4(s2.zw, s3.zw)));
}

// 16 weights of a tile times their activations: a, b columns 0-7; c, d columns 8-15.
fn dot16(tile: u32, row: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> f32 {
    return sum4(values(states4(tile, row, 0u)) * vec4(a.xy, c.xy) + values(states4(tile, row, 1u)) * vec4(a.zw, c.zw)
              + values(states4(tile, row, 2u)) * vec4(b.xy, d.xy) + values(states4(tile, row, 3u)) * vec4(b.zw, d.zw));
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    return dot16(tile_words(row, 2u * unit), row, x.a, x.b, x.c, x.d)
         + dot16(tile_words(row, 2u * unit + 1u), row, x.e, x.f, x.g, x.h);
}
