// Two-level scales (ggml's K-quants): w = d·(s - BIAS)·(q - ZERO), d·s·q - dmin·m, or d·(s - BIAS)·level[q].
// Sections: codes (low plane); d, or d and dmin, for 256 columns; planes of scales; codes (high plane).
// provides: prepare, decode8, dot32    requires: lib/product.wgsl, lib/planes.wgsl, lib/items.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

const SYMMETRIC: u32 = 0u;
const MINIMA: u32 = 1u;
const LEVELS: u32 = 2u;

const GROUPS: u32 = 256u / GROUP; // under one d

var<workgroup> levels: array<f32, 16>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < 16u; i += lanes) {
        let four = vec4(LEVELS_0, LEVELS_4, LEVELS_8, LEVELS_12)[i / 4u];
        levels[i] = f32(bitcast<i32>(four << (24u - 8u * (i & 3u))) >> 24u);
    }
}

struct Affine {
    scale: f32,
    min: f32, // subtracted
}

// Of columns GROUP·group and up.
fn affine(row: u32, group: u32) -> Affine {
    let block = cell_index(row, group / GROUPS, (P.units + 7u) / 8u);
    var scale = item(2u, SCALE_LOW, GROUPS, block, group % GROUPS);
    if (SCALE_HIGH > 0u) {
        scale |= item(3u, SCALE_HIGH, GROUPS, block, group % GROUPS) << SCALE_LOW;
    }
    if (OFFSET == MINIMA) {
        let d = groups[section(1u) + block];
        let s = scale & ((1u << SCALE_BITS) - 1u);
        return Affine(f16_value(d) * f32(s), f16_value(d >> 16u) * f32(scale >> SCALE_BITS));
    }
    let d = number16(groups[section(1u) + block / 2u], block, 1u);
    return Affine(d * (f32(scale) - f32(BIAS)), 0.0);
}

// What the codes of a quad stand for.
fn values(quad: u32) -> vec4<f32> {
    let q = unpack4xU8(quad);
    if (OFFSET == LEVELS) {
        return vec4(levels[q.x], levels[q.y], levels[q.z], levels[q.w]);
    }
    return vec4<f32>(q) - f32(ZERO);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let f = affine(row, i / (GROUP / 8u));
    let q = codes8(row, i);
    return Weights8(values(q.x) * f.scale - f.min, values(q.y) * f.scale - f.min);
}

// values · x over two octets.
fn dot16(q0: vec2<u32>, q1: vec2<u32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> f32 {
    return sum4(values(q0.x) * a + values(q0.y) * b + values(q1.x) * c + values(q1.y) * d);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let first = dot16(codes8(row, 4u * unit), codes8(row, 4u * unit + 1u), x.a, x.b, x.c, x.d);
    let second = dot16(codes8(row, 4u * unit + 2u), codes8(row, 4u * unit + 3u), x.e, x.f, x.g, x.h);
    if (GROUP == 32u) {
        let f = affine(row, unit);
        if (OFFSET == MINIMA) {
            return (first + second) * f.scale - f.min * sum32(x);
        }
        return (first + second) * f.scale;
    }
    let f = affine(row, 2u * unit);
    let g = affine(row, 2u * unit + 1u);
    if (OFFSET == MINIMA) {
        let x0 = sum4((x.a + x.b) + (x.c + x.d));
        let x1 = sum4((x.e + x.f) + (x.g + x.h));
        return first * f.scale + second * g.scale - (f.min * x0 + g.min * x1);
    }
    return first * f.scale + second * g.scale;
}
