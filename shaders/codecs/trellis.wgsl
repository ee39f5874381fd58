// Trellis codes of BITS bits in tiles of 16 × 16 weights (EXL3, QTIP's 1MAD and 3INST): the state of a weight is the 16 bits
// of the tile's circular stream that end with its own, and a few instructions make a number of it; see src/quant/trellis.rs.
// Tiles keep their 8·BITS words. Not ROW_MAJOR, a word serves rows n and n + 8, which read it at the same time.
// provides: prepare, states4, values    requires: lib/trellis.wgsl

fn prepare(lane: u32, lanes: u32) {}

// Rounds to the 11 significant bits of an f16, ties to even; no value here is small enough to be subnormal.
fn round_to_half(v: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(v);
    return bitcast<vec4<f32>>((bits + vec4(0xfffu) + ((bits >> vec4(13u)) & vec4(1u))) & vec4(0xffffe000u));
}

// The sums of four bytes, as places in the last bits of a mantissa: less BYTES_ZERO they are numbers.
fn sums_of_bytes(u: vec4<u32>) -> vec4<f32> {
    let pairs = (u & vec4(0x00ff00ffu)) + ((u >> vec4(8u)) & vec4(0x00ff00ffu));
    return bitcast<vec4<f32>>(((pairs * 0x00010001u) >> vec4(16u)) | vec4(0x4b000000u));
}

const BYTES_ZERO: f32 = 8388608.0;

// The sum of the two f16 of a word; they are normal numbers.
fn sum_of_halves(word: u32) -> f32 {
    let v = unpack2x16float(word);
    return v.x + v.y;
}

// What four states mean.
fn values(states: vec4<u32>) -> vec4<f32> {
    if (CODEBOOK == 3u) { // 1mad: the sum of four bytes
        return (sums_of_bytes(states * 34038481u + vec4(76625530u)) - (BYTES_ZERO + 510.0)) * (1.0 / 147.800537109375);
    }
    if (CODEBOOK == 2u) { // mul1: the sum of four bytes, as an affine function of an f16
        let sums = sums_of_bytes(states * 0x83dcd12du) - (BYTES_ZERO - 1024.0);
        return round_to_half(sums * 0.00676727294921875 - 10.3828125);
    }
    var u: vec4<u32>;
    if (CODEBOOK == 1u) { // mcg
        u = states * 0xcbac1fedu;
    } else { // 3inst
        u = states * 89226354u + vec4(64248484u);
    }
    let pairs = (u & vec4(0x8fff8fffu)) ^ vec4(0x3b603b60u);
    return round_to_half(vec4(sum_of_halves(pairs.x), sum_of_halves(pairs.y), sum_of_halves(pairs.z), sum_of_halves(pairs.w)));
}

// States of columns 2l, 2l + 1, 2l + 8, 2l + 9 of a row in a tile.
fn states4(tile: u32, row: u32, l: u32) -> vec4<u32> {
    if (ROW_MAJOR == 1u) { // two and two neighbours in the stream
        let first = window(tile, ((row & 15u) * 16u + 2u * l + 2u) * BITS);
        let last = window(tile, ((row & 15u) * 16u + 2u * l + 10u) * BITS);
        return (vec4(first, first, last, last) >> vec4(BITS, 0u, BITS, 0u)) & vec4(0xffffu);
    }
    // Four neighbours.
    let end = (32u * (row & 7u) + 8u * l + ((row >> 1u) & 4u) + 4u) * BITS;
    let last = window(tile, end);
    if (BITS <= 5u) {
        return (vec4(last) >> vec4(3u * BITS, 2u * BITS, BITS, 0u)) & vec4(0xffffu);
    }
    let first = window(tile, end - 2u * BITS);
    return (vec4(first, first, last, last) >> vec4(BITS, 0u, BITS, 0u)) & vec4(0xffffu);
}
