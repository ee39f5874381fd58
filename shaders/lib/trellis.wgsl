// What codecs of 16 × 16 tiles share that are circular streams of BITS bits a weight (EXL3, QTIP): where a tile lies, 32 bits
// of its stream, products. A codec's `states4` gives the states of columns 2l, 2l + 1, 2l + 8, 2l + 9 of a row, its
// `values` what they mean; see src/quant/trellis.rs.
// provides: words, window, decode8, dot32    requires: lib/product.wgsl, states4, values

@group(0) @binding(0) var<storage, read> words: array<u32>;

// First word of the tile that holds columns 16·i .. 16·i + 15 of a row; the last tile again beyond the end.
fn tile_words(row: u32, i: u32) -> u32 {
    let tiles = (P.cols + 15u) / 16u;
    return line_index(row, 16u, min(i, tiles - 1u), tiles) * 8u * BITS;
}

// The 32 bits that end before bit `end` of a tile's stream, in which the first word follows the last.
fn window(tile: u32, end: u32) -> u32 {
    let i = (end - 1u) / 32u;
    let low = words[tile + i];
    let high = words[tile + (i + 8u * BITS - 1u) % (8u * BITS)];
    let shift = 32u * (i + 1u) - end;
    return (low >> shift) | ((high << 1u) << (31u - shift));
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
