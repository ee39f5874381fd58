// Integers of LOW_BITS + HIGH_BITS in groups: w = (q - z)·s, q·s + m, or (2q - 1)·s.
// Sections: codes (low plane), scales, zeros or minima, high plane.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl, lib/planes.wgsl

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
    if (OFFSET == 3u) {
        return Affine(2.0 * scale, 0.5, 0.0);
    }
    return Affine(scale, f32(ZERO), 0.0);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let f = affine(row, i / 4u);
    let q = codes8(row, i);
    return Weights8((vec4<f32>(unpack4xU8(q.x)) - f.zero) * f.scale + f.min,
                    (vec4<f32>(unpack4xU8(q.y)) - f.zero) * f.scale + f.min);
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
