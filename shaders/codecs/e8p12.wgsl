// E8P12 (QuIP#): 16 bits for 8 weights, a row of 256 absolute values and a byte of signs; see src/quant/e8p.rs.
// A residual code of RESIDUAL_BITS (0, 8: a point of E8, 16: E8P12 again) adds its point times RESIDUAL_FACTOR.
// Sections: codes, residual codes. tables: 256 rows; 256 points of E8.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> tables: array<u32>;

// Nibble i of a row = 2·|v_i| + 8; dimension 7 carries the sign that makes the row's sum even.
var<workgroup> e8p_rows: array<u32, TABLE_ROWS>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < TABLE_ROWS; i += lanes) {
        e8p_rows[i] = tables[i];
    }
}

// Bit i of `bits` (0..15) to byte i.
fn e8p_spread(bits: u32) -> u32 {
    return (bits * 0x00204081u) & 0x01010101u;
}

// Half of each byte (of at most 127) less a multiple of a quarter: in the last bits of the mantissa of 2²¹ are quarters.
fn halves4(bytes: u32, shift: f32) -> vec4<f32> {
    let quarters = (vec4(bytes << 1u) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
    return bitcast<vec4<f32>>(quarters | vec4(0x4a000000u)) - (2097152.0 + shift);
}

// The nibbles of a code with their signs, in bytes, even dimensions and odd ones; and whether the number of signs is odd.
// Negating a nibble 2v + 8 gives 8 - 2v = 16 - nibble = (nibble ^ 15) + 1, for four at a time.
fn e8p_bytes(code: u32) -> vec3<u32> {
    let signs = code & 0xffu;
    let odd = countOneBits(signs) & 1u;
    let even_signs = e8p_spread((signs ^ odd) & 15u);
    let odd_signs = e8p_spread(signs >> 4u);
    let row = e8p_rows[code >> 8u];
    let even_dims = ((row & 0x0f0f0f0fu) ^ (even_signs * 15u)) + even_signs;
    let odd_dims = (((row >> 4u) & 0x0f0f0f0fu) ^ (odd_signs * 15u)) + odd_signs;
    return vec3(even_dims, odd_dims, odd);
}

// The 8 weights of a code, even dimensions in a, odd ones in b.
fn e8p_point(code: u32) -> Weights8 {
    let point = e8p_bytes(code);
    let shift = 3.75 + 0.5 * f32(point.z);
    return Weights8(halves4(point.x, shift), halves4(point.y, shift));
}

// The point of an 8-bit code, in the same order.
fn e8_point(code: u32) -> Weights8 {
    let row = e8p_rows[(TABLE_ROWS - 256u) + code];
    return Weights8(
        halves4(row & 0x0f0f0f0fu, 4.0),
        halves4((row >> 4u) & 0x0f0f0f0fu, 4.0),
    );
}

fn e8p_decode(code: u32, residual: u32) -> Weights8 {
    var w = e8p_point(code);
    if (RESIDUAL_BITS > 0u) {
        var r: Weights8;
        if (RESIDUAL_BITS == 8u) {
            r = e8_point(residual);
        } else {
            r = e8p_point(residual);
        }
        let factor = bitcast<f32>(RESIDUAL_FACTOR);
        w = Weights8(w.a + r.a * factor, w.b + r.b * factor);
    }
    return w;
}

// The four 16-bit codes of a cell.
fn split4(cell: vec2<u32>) -> vec4<u32> {
    return vec4(cell.x & 0xffffu, cell.x >> 16u, cell.y & 0xffffu, cell.y >> 16u);
}

fn codes4(row: u32, unit: u32) -> vec4<u32> {
    return split4(codes[cell_index(row, unit, P.units)]);
}

fn residuals4(row: u32, unit: u32) -> vec4<u32> {
    let index = cell_index(row, unit, P.units);
    if (RESIDUAL_BITS == 16u) {
        return split4(codes[P.sections.y / 2u + index]);
    }
    if (RESIDUAL_BITS == 8u) {
        let word = P.sections.y + index;
        return unpack4xU8(codes[word / 2u][word & 1u]);
    }
    return vec4(0u);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let w = e8p_decode(codes4(row, i / 4u)[i & 3u], residuals4(row, i / 4u)[i & 3u]);
    return Weights8(vec4<f32>(w.a.x, w.b.x, w.a.y, w.b.y), vec4<f32>(w.a.z, w.b.z, w.a.w, w.b.w));
}

// Weights of one code times eight activations.
fn e8p_dot8(code: u32, residual: u32, low: vec4<f32>, high: vec4<f32>) -> f32 {
    let w = e8p_decode(code, residual);
    return dot(w.a, vec4<f32>(low.xz, high.xz)) + dot(w.b, vec4<f32>(low.yw, high.yw));
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let c = codes4(row, unit);
    let r = residuals4(row, unit);
    return (e8p_dot8(c.x, r.x, x.a, x.b) + e8p_dot8(c.y, r.y, x.c, x.d))
        + (e8p_dot8(c.z, r.z, x.e, x.f) + e8p_dot8(c.w, r.w, x.g, x.h));
}
