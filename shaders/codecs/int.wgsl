// Integers of LOW_BITS + HIGH_BITS + TOP_BITS in groups of GROUP_RUNS runs of 8 columns: w = (q - z)·s, (q - z)·s + m, or
// (2q - 1)·s. Sections: codes (low plane), scales, zeros or minima, high plane, top plane.
// provides: prepare, decode8, dot32, codes32, row_scale    requires: lib/product.wgsl, lib/planes.wgsl,
// lib/nibbles.wgsl

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

// Of the group that columns 8i .. 8i + 7 belong to; past the last column of the last group.
fn affine(row: u32, i: u32) -> Affine {
    let runs = (P.cols + 7u) / 8u;
    var group = min(i, runs - 1u) / GROUP_RUNS;
    if (GROUP_RUNS % 4u == 0u) {
        group = i / 4u / max(GROUP_RUNS / 4u, 1u); // of a unit, so that compilers see what its octets share
    }
    let index = cell_index(row, group, (runs + GROUP_RUNS - 1u) / GROUP_RUNS);
    var scale = group_number(P.sections.y, index);
    if (DIVISOR > 1u) {
        scale /= f32(DIVISOR);
    }
    if (OFFSET == 1u) {
        let bit = index * ZERO_BITS;
        let zero = (groups[P.sections.z + bit / 32u] >> (bit & 31u)) & ((1u << ZERO_BITS) - 1u);
        return Affine(scale, whole(zero), 0.0);
    }
    if (OFFSET == 2u) {
        return Affine(scale, f32(ZERO), group_number(P.sections.z, index));
    }
    if (OFFSET == 3u) {
        return Affine(scale, group_number(P.sections.z, index), 0.0);
    }
    if (OFFSET == 4u) {
        return Affine(2.0 * scale, 0.5, 0.0);
    }
    return Affine(scale, f32(ZERO), 0.0);
}

// Codes less their zero point, which may be real.
fn less_zero(q: u32, zero: f32) -> vec4<f32> {
    if (OFFSET < 3u) {
        return bytes4(q, zero);
    }
    return vec4<f32>(unpack4xU8(q)) - zero;
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let f = affine(row, i);
    let q = codes8(row, i);
    return Weights8(less_zero(q.x, f.zero) * f.scale + f.min, less_zero(q.y, f.zero) * f.scale + f.min);
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
    return less_zero(q, zero) * x;
}

// 8 weights · x, for groups that are no multiple of 32 columns.
fn dot8(row: u32, i: u32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    let f = affine(row, i);
    let q = codes8(row, i);
    let sum = sum4(quad(q.x, f.zero, a) + quad(q.y, f.zero, b)) * f.scale;
    if (OFFSET == 2u) {
        return sum + f.min * sum4(a + b);
    }
    return sum;
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    if (GROUP_RUNS % 4u != 0u) {
        return dot8(row, 4u * unit, x.a, x.b) + dot8(row, 4u * unit + 1u, x.c, x.d)
             + dot8(row, 4u * unit + 2u, x.e, x.f) + dot8(row, 4u * unit + 3u, x.g, x.h);
    }
    let f = affine(row, 4u * unit);
    var sum: f32;
    if (LOW_BITS == 4u && HIGH_BITS == 0u && OFFSET < 3u) {
        sum = nibbles(codes[cell_index(row, unit, P.units)], f.zero, x);
    } else {
        let q0 = codes8(row, 4u * unit);
        let q1 = codes8(row, 4u * unit + 1u);
        let q2 = codes8(row, 4u * unit + 2u);
        let q3 = codes8(row, 4u * unit + 3u);
        sum = sum4(quad(q0.x, f.zero, x.a) + quad(q0.y, f.zero, x.b)
            + quad(q1.x, f.zero, x.c) + quad(q1.y, f.zero, x.d)
            + quad(q2.x, f.zero, x.e) + quad(q2.y, f.zero, x.f)
            + quad(q3.x, f.zero, x.g) + quad(q3.y, f.zero, x.h));
    }
    if (OFFSET == 2u) {
        return sum * f.scale + f.min * sum32(x);
    }
    return sum * f.scale;
}
