// Vector codes along the outputs: w[n, k] = scale_k·(main[code][n % OUT] + residual[code][n % OUT]) + offset_k; see
// src/quant/vectors.rs. Sections: planes of codes, the widest first, an item for OUT rows of a column.
// tables: number of columns; scale and offset of each, 16 bits both; main [2^CODE_BITS][OUT], residual [2^RESIDUAL_BITS][OUT].
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> tables: array<u32>;

const ALL_BITS: u32 = CODE_BITS + RESIDUAL_BITS; // widths of the planes are its binary digits
// Sections of the planes.
const PLANE_8: u32 = (ALL_BITS >> 4u) & 1u;
const PLANE_4: u32 = PLANE_8 + ((ALL_BITS >> 3u) & 1u);
const PLANE_2: u32 = PLANE_4 + ((ALL_BITS >> 2u) & 1u);
const PLANE_1: u32 = PLANE_2 + ((ALL_BITS >> 1u) & 1u);

fn prepare(lane: u32, lanes: u32) {}

// Parts of the four codes of a quad, a byte of the word for each.
fn spread(word: u32, mask: u32) -> vec4<u32> {
    return (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(mask);
}

// The codes of columns 4·quad .. 4·quad + 3 of a unit whose cells are number `line`.
fn codes4(line: u32, quad: u32) -> vec4<u32> {
    if (ALL_BITS == 32u) {
        let at = line * 32u + 4u * quad;
        return vec4(codes[at], codes[at + 1u], codes[at + 2u], codes[at + 3u]);
    }
    var q = vec4(0u);
    if ((ALL_BITS & 16u) != 0u) {
        let at = line * 16u + 2u * quad;
        q = vec4(codes[at] & 0xffffu, codes[at] >> 16u, codes[at + 1u] & 0xffffu, codes[at + 1u] >> 16u);
    }
    if ((ALL_BITS & 8u) != 0u) {
        q |= spread(codes[section(PLANE_8) + line * 8u + quad], 255u) << vec4(ALL_BITS & 16u);
    }
    if ((ALL_BITS & 4u) != 0u) {
        let word = codes[section(PLANE_4) + line * 4u + quad / 2u] >> (4u * (quad & 1u));
        q |= spread(word, 15u) << vec4(ALL_BITS & 24u);
    }
    if ((ALL_BITS & 2u) != 0u) {
        let word = codes[section(PLANE_2) + line * 2u + quad / 4u] >> (2u * (quad & 3u));
        q |= spread(word, 3u) << vec4(ALL_BITS & 28u);
    }
    if ((ALL_BITS & 1u) != 0u) {
        q |= spread(codes[section(PLANE_1) + line] >> quad, 1u) << vec4(ALL_BITS & 30u);
    }
    return q;
}

// What the last 16 bits are.
fn numbers4(bits: vec4<u32>) -> vec4<f32> {
    if (FORMAT == 2u) {
        return bitcast<vec4<f32>>(bits << vec4(16u));
    }
    return f16_values(bits);
}

// Numbers `at` of the codebooks.
fn entries4(at: vec4<u32>) -> vec4<f32> {
    let i = at / vec4(2u) + vec4(1u + tables[0]);
    let words = vec4(tables[i.x], tables[i.y], tables[i.z], tables[i.w]);
    return numbers4(words >> (vec4(16u) * (at & vec4(1u))));
}

fn weights4(row: u32, line: u32, unit: u32, quad: u32) -> vec4<f32> {
    let code = codes4(line, quad);
    var sum = entries4((code & vec4((1u << CODE_BITS) - 1u)) * vec4(OUT) + vec4(row % OUT));
    if (RESIDUAL_BITS > 0u) {
        sum += entries4(((code >> vec4(CODE_BITS)) + vec4(1u << CODE_BITS)) * vec4(OUT) + vec4(row % OUT));
    }
    let i = min(vec4(unit * 32u + 4u * quad) + vec4(0u, 1u, 2u, 3u), vec4(tables[0] - 1u)) + vec4(1u);
    let columns = vec4(tables[i.x], tables[i.y], tables[i.z], tables[i.w]);
    return sum * numbers4(columns) + numbers4(columns >> vec4(16u));
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let line = line_index(row, OUT, i / 4u, P.units);
    let quad = 2u * (i & 3u);
    return Weights8(weights4(row, line, i / 4u, quad), weights4(row, line, i / 4u, quad + 1u));
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let line = line_index(row, OUT, unit, P.units);
    return sum4(weights4(row, line, unit, 0u) * x.a + weights4(row, line, unit, 1u) * x.b
              + weights4(row, line, unit, 2u) * x.c + weights4(row, line, unit, 3u) * x.d
              + weights4(row, line, unit, 4u) * x.e + weights4(row, line, unit, 5u) * x.f
              + weights4(row, line, unit, 6u) * x.g + weights4(row, line, unit, 7u) * x.h);
}
