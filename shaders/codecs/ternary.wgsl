// Ternary weights in base 3, five to a byte (ggml's TQ1_0): w = (digit - 1)·d; see src/quant/ternary.rs.
// Four neighbouring columns are one digit of the four bytes of a word.
// Sections: 32 bytes, 16 bytes, 4 bytes and a d for 256 columns.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;

fn prepare(lane: u32, lanes: u32) {}

// Columns 4q .. 4q + 3 of a block, before scaling.
fn quad(block: u32, q: u32) -> vec4<f32> {
    var word: u32;
    var digit: u32;
    if (q < 40u) {
        word = codes[8u * block + (q & 7u)];
        digit = q / 8u;
    } else if (q < 60u) {
        word = groups[section(1u) + 4u * block + (q & 3u)];
        digit = (q - 40u) / 4u;
    } else {
        word = groups[section(2u) + block];
        digit = q - 60u;
    }
    let power = select(vec4(1u, 3u, 9u, 27u)[digit & 3u], 81u, digit == 4u);
    let fraction = (unpack4xU8(word) * power) & vec4(0xffu);
    return vec4<f32>((fraction * 3u) >> vec4(8u)) - 1.0;
}

fn block_of(row: u32, unit: u32) -> u32 {
    return cell_index(row, unit / 8u, (P.units + 7u) / 8u);
}

fn scale(block: u32) -> f32 {
    return number16(groups[section(3u) + block / 2u], block, 1u);
}

fn decode8(row: u32, i: u32) -> Weights8 {
    let block = block_of(row, i / 4u);
    let q = 2u * (i & 31u);
    let d = scale(block);
    return Weights8(quad(block, q) * d, quad(block, q + 1u) * d);
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let block = block_of(row, unit);
    let q = 8u * (unit & 7u);
    let sum = quad(block, q) * x.a + quad(block, q + 1u) * x.b + quad(block, q + 2u) * x.c
            + quad(block, q + 3u) * x.d + quad(block, q + 4u) * x.e + quad(block, q + 5u) * x.f
            + quad(block, q + 6u) * x.g + quad(block, q + 7u) * x.h;
    return sum4(sum) * scale(block);
}
