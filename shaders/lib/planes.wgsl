// Integer codes of LOW_BITS + HIGH_BITS + TOP_BITS in planes: section 0 of `codes`, HIGH_SECTION of `groups` and what
// comes after it there.
// Codes come in quads: four neighbouring codes in the four bytes of a word.
// provides: codes8    requires: lib/product.wgsl, bindings codes (of vec4<u32>) and groups

// Two quads (columns 8i .. 8i + 7) of a plane of one bit that begins at word `first`.
fn bit8(first: u32, row: u32, i: u32) -> vec2<u32> {
    let word = groups[first + cell_index(row, i / 4u, P.units)] >> (2u * (i & 3u));
    return vec2(word, word >> 1u) & vec2(0x01010101u);
}

// The high bits of two quads, shifted into place.
fn high8(row: u32, i: u32) -> vec2<u32> {
    let first = section(HIGH_SECTION);
    if (HIGH_BITS == 1u) {
        return bit8(first, row, i) << vec2(LOW_BITS);
    }
    let at = first + 2u * cell_index(row, i / 4u, P.units);
    let word = groups[at + ((i & 2u) >> 1u)] >> (4u * (i & 1u));
    var q = (vec2(word, word >> 2u) & vec2(0x03030303u)) << vec2(LOW_BITS);
    if (TOP_BITS == 1u) {
        q |= bit8(first + 2u * P.padded_rows * P.units, row, i) << vec2(LOW_BITS + HIGH_BITS);
    }
    return q;
}

// Two quads: the codes of columns 8i .. 8i + 7.
fn codes8(row: u32, i: u32) -> vec2<u32> {
    var q: vec2<u32>;
    if (LOW_BITS == 8u) {
        let at = cell_index(row, i / 2u, (P.cols + 15u) / 16u);
        q = select(codes[at].xy, codes[at].zw, (i & 1u) == 1u);
    } else if (LOW_BITS == 4u) {
        let word = codes[cell_index(row, i / 4u, P.units)][i & 3u];
        q = vec2(word, word >> 4u) & vec2(0x0f0f0f0fu);
    } else if (LOW_BITS == 2u) {
        let word = codes[cell_index(row, i / 8u, (P.cols + 63u) / 64u)][(i >> 1u) & 3u] >> (4u * (i & 1u));
        q = vec2(word, word >> 2u) & vec2(0x03030303u);
    } else {
        let word = codes[cell_index(row, i / 16u, (P.cols + 127u) / 128u)][(i >> 2u) & 3u] >> (2u * (i & 3u));
        q = vec2(word, word >> 1u) & vec2(0x01010101u);
    }
    if (HIGH_BITS > 0u) {
        q |= high8(row, i);
    }
    return q;
}
