// E8P12 (QuIP#): 16 bits for 8 weights, a row of 256 absolute values and a byte of signs; see src/quant/e8p.rs.
//
// provides: prepare, decode8, dot32
// requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> tables: array<u32>;

// Nibble i of a row = 2·|v_i| + 8; dimension 7 carries the sign that makes the row's sum even.
var<workgroup> e8p_rows: array<u32, 256>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < 256u; i += lanes) {
        e8p_rows[i] = tables[i];
    }
}

// Bit i of `bits` (0..15) to byte i.
fn e8p_spread(bits: u32) -> u32 {
    return (bits * 0x00204081u) & 0x01010101u;
}

// The 8 weights of a code (the low 16 bits), even dimensions in a, odd ones in b.
// Negating a nibble 2v + 8 gives 8 - 2v = 16 - nibble = (nibble ^ 15) + 1, for four at a time.
fn e8p_decode(code: u32) -> Weights8 {
    let signs = code & 0xffu;
    let odd = countOneBits(signs) & 1u;
    let even_signs = e8p_spread((signs ^ odd) & 15u);
    let odd_signs = e8p_spread(signs >> 4u);
    let row = e8p_rows[(code >> 8u) & 0xffu];
    let even_dims = ((row & 0x0f0f0f0fu) ^ (even_signs * 15u)) + even_signs;
    let odd_dims = (((row >> 4u) & 0x0f0f0f0fu) ^ (odd_signs * 15u)) + odd_signs;
    let shift = vec4<f32>(-3.75 - 0.5 * f32(odd));
    return Weights8(
        vec4<f32>(unpack4xU8(even_dims)) * 0.5 + shift,
        vec4<f32>(unpack4xU8(odd_dims)) * 0.5 + shift,
    );
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let cell = codes[cell_index(row, i >> 2u, P.units)];
    let w = e8p_decode(select(cell.x, cell.y, (i & 2u) != 0u) >> ((i & 1u) * 16u));
    return Weights8(vec4<f32>(w.a.x, w.b.x, w.a.y, w.b.y), vec4<f32>(w.a.z, w.b.z, w.a.w, w.b.w));
}

// Weights of one code times eight activations.
fn e8p_dot8(code: u32, low: vec4<f32>, high: vec4<f32>) -> f32 {
    let w = e8p_decode(code);
    return dot(w.a, vec4<f32>(low.xz, high.xz)) + dot(w.b, vec4<f32>(low.yw, high.yw));
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let cell = codes[cell_index(row, unit, P.units)];
    return (e8p_dot8(cell.x, x.a, x.b) + e8p_dot8(cell.x >> 16u, x.c, x.d))
        + (e8p_dot8(cell.y, x.e, x.f) + e8p_dot8(cell.y >> 16u, x.g, x.h));
}
