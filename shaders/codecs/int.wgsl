// Integers of LOW_BITS + HIGH_BITS in groups: w = (q - z)·s or q·s + m.
// Codes come in quads: four neighbouring codes in the four bytes of a word.
// Sections: codes (low plane), scales, zeros or minima, high plane.
// provides: prepare, decode8, dot32, codes32, row_scale    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

struct Affine {
    scale: f32,
    zero: f32, // subtracted from the code
    min: f32,  // added to the weight
}

fn prepare(lane: u32, lanes: u32) {}

fn affine(row: u32, unit: u32) -> Affine {
    let index = cell_index(row, unit / GROUP_UNITS, (P.units + GROUP_UNITS - 1u) / GROUP_UNITS);
    var scale: f32;
    if (SCALE_FORMAT == 0u) {
        scale = bitcast<f32>(groups[P.sections.y + index]);
    } else {
        scale = number16(groups[P.sections.y + index / 2u], index, SCALE_FORMAT);
    }
    if (OFFSET == 1u) {
        let bit = index * ZERO_BITS;
        let zero = (groups[P.sections.z + bit / 32u] >> (bit & 31u)) & ((1u << ZERO_BITS) - 1u);
        return Affine(scale, f32(zero), 0.0);
    }
    if (OFFSET == 2u) {
        if (SCALE_FORMAT == 0u) {
            return Affine(scale, 0.0, bitcast<f32>(groups[P.sections.z + index]));
        }
        return Affine(scale, 0.0, number16(groups[P.sections.z + index / 2u], index, SCALE_FORMAT));
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
    } else {
        let word = codes[cell_index(row, i / 8u, (P.cols + 63u) / 64u)][(i >> 1u) & 3u] >> (4u * (i & 1u));
        q = vec2(word, word >> 2u) & vec2(0x03030303u);
    }
    if (HIGH_BITS > 0u) {
        q |= high8(row, i);
    }
    return q;
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let f = affine(row, i / 4u);
    let q = codes8(row, i);
    return Weights8((vec4<f32>(unpack4xU8(q.x)) - f.zero) * f.scale + f.min,
                    (vec4<f32>(unpack4xU8(q.y)) - f.zero) * f.scale + f.min);
}

// Eight quads of q - z as signed bytes, and the scale of a whole row: for products in integers.
fn codes32(row: u32, unit: u32) -> array<u32, 8> {
    var all: array<u32, 8>;
    for (var i = 0u; i < 4u; i++) {
        var q = codes8(row, 4u * unit + i);
        if (LOW_BITS < 8u) {
            // No byte borrows from the next: its high bit is set before, and turned after.
            q = (q | vec2(0x80808080u)) - vec2(ZERO * 0x01010101u);
        }
        q ^= vec2(0x80808080u);
        all[2u * i] = q.x;
        all[2u * i + 1u] = q.y;
    }
    return all;
}

fn row_scale(row: u32) -> f32 {
    return affine(row, 0u).scale;
}

// (q - z)·x over one quad.
fn quad(q: u32, zero: f32, x: vec4<f32>) -> vec4<f32> {
    return (vec4<f32>(unpack4xU8(q)) - zero) * x;
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let f = affine(row, unit);
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
        let q0 = codes8(row, 4u * unit);
        let q1 = codes8(row, 4u * unit + 1u);
        let q2 = codes8(row, 4u * unit + 2u);
        let q3 = codes8(row, 4u * unit + 3u);
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
