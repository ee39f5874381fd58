// What matvec, matmul and gather share with every codec.
// provides: P, Weights8, X32, cell_index, line_index, bytes4, whole, widened, number16, number8, f16_value, f16_values, sum4,
// sum32

struct Product {
    rows: u32,          // rows of this part of the matrix
    padded_rows: u32,   // rows as stored
    cols: u32,
    units: u32,         // runs of 32 columns
    x_stride: u32,      // in vec4s
    y_stride: u32,
    y_offset: u32,
    first_row: u32,     // of this part, for gathers
    sections: vec4<u32>, // first word of every section in its binding
    more_sections: vec4<u32>, // of sections 4 to 7
    eps: f32,           // of the norm before the product
    gate: u32,          // first row of gate and of up, where the product is gated
    up: u32,
    limit: f32,         // of the activation
}
@group(0) @binding(3) var<uniform> P: Product;

// Eight neighbouring weights of a row.
struct Weights8 {
    a: vec4<f32>,
    b: vec4<f32>,
}

// 32 neighbouring activations.
struct X32 {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

// Place of a row's cell in [tile][cell][row of the tile]; `cells` is how many a row has.
fn cell_index(row: u32, cell: u32, cells: u32) -> u32 {
    return line_index(row, 1u, cell, cells);
}

// The same in [tile][cell][line of the tile], where `rows` rows (a power of two) share a line of cells.
fn line_index(row: u32, rows: u32, cell: u32, cells: u32) -> u32 {
    let first = row & ~31u;
    let lines = (min(32u, P.padded_rows - first) + rows - 1u) / rows;
    return first / rows * cells + cell * lines + (row & 31u) / rows;
}

// First word of a section in its binding.
fn section(i: u32) -> u32 {
    if (i < 4u) {
        return P.sections[i];
    }
    return P.more_sections[i & 3u];
}

// The four bytes of a word less an integer. GPUs convert integers at a fraction of the rate of all else, so a byte goes to
// the end of the mantissa of 2²³, where it counts as what it is. Compilers may reorder sums: all are exact only because
// the number is whole.
fn bytes4(word: u32, less: f32) -> vec4<f32> {
    let bytes = (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
    return bitcast<vec4<f32>>(bytes | vec4(0x4b000000u)) - (8388608.0 + less);
}

// An integer below 2²³, the same way.
fn whole(n: u32) -> f32 {
    return bitcast<f32>(n | 0x4b000000u) - 8388608.0;
}

// Exponents and fractions of small floats in their places in an f32 whose own exponent begins at 128, as numbers that are
// 2^(bias + 1) too large: subnormals are what a number of twice the step is more than the first such number.
fn widened(places: vec4<u32>) -> vec4<f32> {
    let normal = bitcast<vec4<f32>>(places | vec4(0x40000000u));
    return min(normal, 2.0 * normal - 4.0);
}

// The values of f16, subnormals included (unpack2x16float may flush them); what is above 16 bits does not count.
fn f16_values(bits: vec4<u32>) -> vec4<f32> {
    let v = widened((bits & vec4(0x7fffu)) << vec4(13u)) * 1.52587890625e-5;
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) | ((bits & vec4(0x8000u)) << vec4(16u)));
}

fn f16_value(bits: u32) -> f32 {
    return f16_values(vec4(bits)).x;
}

// Item `index` of a section of 16-bit numbers: f16 (format 1) or bf16 (format 2).
fn number16(word: u32, index: u32, format: u32) -> f32 {
    let bits = (word >> (16u * (index & 1u))) & 0xffffu;
    if (format == 2u) {
        return bitcast<f32>(bits << 16u);
    }
    return f16_value(bits);
}

// A power of two: 2^(byte - 127).
fn e8m0_value(bits: u32) -> f32 {
    return bitcast<f32>(select(bits << 23u, 0x00400000u, bits == 0u));
}

// The value of an E4M3 byte, subnormals included.
fn e4m3_value(bits: u32) -> f32 {
    let v = widened(vec4((bits & 0x7fu) << 20u)).x * 0.00390625;
    return bitcast<f32>(bitcast<u32>(v) | ((bits & 0x80u) << 24u));
}

// A scale of 8 bits: E8M0 (format 3) or E4M3 (format 4).
fn number8(bits: u32, format: u32) -> f32 {
    if (format == 3u) {
        return e8m0_value(bits);
    }
    return e4m3_value(bits);
}

fn sum4(v: vec4<f32>) -> f32 {
    return v.x + v.y + v.z + v.w;
}

// Σx over 32 columns.
fn sum32(x: X32) -> f32 {
    return sum4((x.a + x.b) + (x.c + x.d) + ((x.e + x.f) + (x.g + x.h)));
}
