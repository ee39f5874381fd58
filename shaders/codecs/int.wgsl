// Integers of LOW_BITS + HIGH_BITS in groups of GROUP_STEPS eights: w = (q - z)·s or q·s + m.
// Codes come in quads: four neighbouring codes in the four bytes of a word.
// Sections: codes (low plane), scales, zeros or minima, high plane.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

struct Affine {
    scale: f32,
    zero: f32, // subtracted from the code
    min: f32,  // added to the weight
}

fn prepare(lane: u32, lanes: u32) {}

// A number of the scales' format: item `index` of the section at word `first`.
fn group_number(first: u32, index: u32) -> f32 {
    if (SCALE_FORMAT == 0u) {
        return bitcast<f32>(groups[first + index]);
    }
    return number16(groups[first + index / 2u], index, SCALE_FORMAT);
}

// Of the group that columns 8i .. 8i + 7 are in.
fn affine(row: u32, i: u32) -> Affine {
    let count = ((P.cols + 7u) / 8u + GROUP_STEPS - 1u) / GROUP_STEPS;
    let index = cell_index(row, min(i / GROUP_STEPS, count - 1u), count);
    let scale = group_number(P.sections.y, index);
    if (OFFSET == 1u) {
        let bit = index * ZERO_BITS;
        let zero = (groups[P.sections.z + bit / 32u] >> (bit & 31u)) & ((1u << ZERO_BITS) - 1u);
        return Affine(scale, f32(zero), 0.0);
    }
    if (OFFSET == 2u) {
        return Affine(scale, 0.0, group_number(P.sections.z, index));
    }
    if (OFFSET == 3u) {
        return Affine(scale, group_number(P.sections.z, index), 0.0);
    }
    return Affine(scale, f32(ZERO), 0.0);
}

// The high bits of two quads (columns 8i .. 8i + 7), shifted into place.
fn high8(row: u32, i: u32) -> vec2<u32> {
    let at = P.sections[HIGH_SECTION] + cell_index(row, i / 4u, P.units) * HIGH_BITS;
    if (HIGH_BITS == 1u) {
        let word = groups[at] >> (2u * (i & 3u));
        return (vec2(word, word >> 1u) & vec2(0x01010101u)) << vec2(LOW_BITS);
    }
    let word = groups[at + ((i & 2u) >> 1u)] >> (4u * (i & 1u));
    return (vec2(word, word >> 2u) & vec2(0x03030303u)) << vec2(LOW_BITS);
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

fn decode8(row: u32, i: u32) -> Weights8 {
    let f = affine(row, i);
    let q = codes8(row, i);
    return Weights8((vec4<f32>(unpack4xU8(q.x)) - f.zero) * f.scale + f.min,
                    (vec4<f32>(unpack4xU8(q.y)) - f.zero) * f.scale + f.min);
}

// (q - z)·x over one quad.
fn quad(q: u32, zero: f32, x: vec4<f32>) -> vec4<f32> {
    return (vec4<f32>(unpack4xU8(q)) - zero) * x;
}

// Σ w·x over columns 8i .. 8i + 7.
fn dot8(row: u32, i: u32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    let f = affine(row, i);
    let q = codes8(row, i);
    return sum4(quad(q.x, f.zero, a) + quad(q.y, f.zero, b)) * f.scale + f.min * sum4(a + b);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let i = 4u * unit;
    if (GROUP_STEPS % 4u != 0u) {
        return dot8(row, i, x.a, x.b) + dot8(row, i + 1u, x.c, x.d)
            + dot8(row, i + 2u, x.e, x.f) + dot8(row, i + 3u, x.g, x.h);
    }
    let f = affine(row, i);
    var sum: vec4<f32>;
    if (LOW_BITS == 4u && HIGH_BITS == 0u) {
        let w = codes[cell_index(row, unit, P.units)];
        let low = w & vec4(0x0f0f0f0fu);
        let high = (w >> vec4(4u)) & vec4(0x0f0f0f0fu);
        sum = quad(low.x, f.zero, x.a) + quad(high.x, f.zero, x.b)
            + quad(low.y, f.zero, x.c) + quad(high.y, f.zero, x.d)
            + quad(low.z, f.zero, x.e) + quad(high.z, f.zero, x.f)
            + quad(low.w, f.zero, x.g) + quad(high.w, f.zero, x.h);
    } else {
        let q0 = codes8(row, i);
        let q1 = codes8(row, i + 1u);
        let q2 = codes8(row, i + 2u);
        let q3 = codes8(row, i + 3u);
        sum = quad(q0.x, f.zero, x.a) + quad(q0.y, f.zero, x.b)
            + quad(q1.x, f.zero, x.c) + quad(q1.y, f.zero, x.d)
            + quad(q2.x, f.zero, x.e) + quad(q2.y, f.zero, x.f)
            + quad(q3.x, f.zero, x.g) + quad(q3.y, f.zero, x.h);
    }
    if (OFFSET == 2u) {
        return sum4(sum) * f.scale + f.min * sum32(x);
    }
    return sum4(sum) * f.scale;
}
