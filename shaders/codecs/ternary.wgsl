// Ternary weights in base 3, five to a byte (ggml's TQ1_0): w = (digit - 1)·d; see src/quant/ternary.rs.
// Four neighbouring columns are one digit of the four bytes of a word.
// Sections: 32 bytes, 16 bytes, 4 bytes and a d for 256 columns.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

fn prepare(lane: u32, lanes: u32) {}

// The digits of four bytes each: of a fraction of 256 times a power of 3, the first one.
fn digits_of(words: vec2<u32>, powers: vec2<u32>) -> vec2<u32> {
    let even = (((words & vec2(0x00ff00ffu)) * powers) & vec2(0x00ff00ffu)) * 3u;
    let odd = ((((words >> vec2(8u)) & vec2(0x00ff00ffu)) * powers) & vec2(0x00ff00ffu)) * 3u;
    return ((even >> vec2(8u)) & vec2(0x00030003u)) | (odd & vec2(0x03000300u));
}

// Digits of columns 8i .. 8i + 7; four columns a word.
fn digits8(block: u32, i: u32) -> vec2<u32> {
    let unit = (i / 4u) & 7u;
    let o = i & 3u;
    if (unit < 5u) {
        let first = 8u * block + 2u * o;
        let power = select(vec4(1u, 3u, 9u, 27u)[unit & 3u], 81u, unit == 4u);
        return digits_of(vec2(codes[first], codes[first + 1u]), vec2(power));
    }
    if (unit == 7u && o > 1u) {
        return digits_of(vec2(groups[section(2u) + block]), select(vec2(1u, 3u), vec2(9u, 27u), o == 3u));
    }
    let first = section(1u) + 4u * block + 2u * (o & 1u);
    let power = select(select(1u, 9u, unit == 6u) * select(1u, 3u, o > 1u), 81u, unit == 7u);
    return digits_of(vec2(groups[first], groups[first + 1u]), vec2(power));
}

fn block_of(row: u32, unit: u32) -> u32 {
    return cell_index(row, unit / 8u, (P.units + 7u) / 8u);
}

fn scale(block: u32) -> f32 {
    return number16(groups[section(3u) + block / 2u], block, 1u);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let block = block_of(row, i / 4u);
    let digits = digits8(block, i);
    let d = scale(block);
    return Weights8(bytes4(digits.x, 1.0) * d, bytes4(digits.y, 1.0) * d);
}

fn dot8(block: u32, i: u32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let digits = digits8(block, i);
    return bytes4(digits.x, 1.0) * a + bytes4(digits.y, 1.0) * b;
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let block = block_of(row, unit);
    let i = 4u * unit;
    let sum = dot8(block, i, x.a, x.b) + dot8(block, i + 1u, x.c, x.d)
            + dot8(block, i + 2u, x.e, x.f) + dot8(block, i + 3u, x.g, x.h);
    return sum4(sum) * scale(block);
}
