// KV cache entries of integers of BITS bits, 8 or 4, in a word, and after a head's own one of their scale, f32; rounded as
// src/quant/cache.rs says. The rest as in lib/cache_f32.wgsl.
// provides: Cached, ENTRIES, FOURS, SCALED, from_cache, scale_from_cache, prepare_entries, to_cache
// requires: lib/hadamard.wgsl, lib/quotient.wgsl, BITS

alias Cached = u32;

const FOURS: u32 = 8u / BITS;
const CODES: u32 = (D4 + FOURS - 1u) / FOURS; // entries of codes
const ENTRIES: u32 = CODES + 1u;
const SCALED: bool = true;
const LARGEST: f32 = f32((1u << (BITS - 1u)) - 1u); // code

var<workgroup> largest: atomic<u32>;

fn from_cache(v: Cached, i: u32) -> vec4<f32> {
    let codes = vec4(v >> (16u * (i % FOURS))) << vec4(32u - BITS, 32u - 2u * BITS, 32u - 3u * BITS, 32u - 4u * BITS);
    return vec4<f32>(bitcast<vec4<i32>>(codes) >> vec4(32u - BITS));
}

fn scale_from_cache(v: Cached) -> f32 {
    return bitcast<f32>(v);
}

fn prepare_entries(h: u32, lane: u32) {
    if (lane == 0u) {
        atomicStore(&largest, 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        atomicMax(&largest, bitcast<u32>(head[h * HEAD_DIM + i]) & 0x7fffffffu);
    }
    workgroupBarrier();
}

fn to_cache(h: u32, i: u32) -> Cached {
    let most = atomicLoad(&largest);
    let scale = quotient(bitcast<f32>(min(most, 0x7f7fffffu)), LARGEST + 0.5);
    if (i == CODES) {
        // What is not finite must not vanish in a code: the scale becomes NaN, which the argmax notices.
        return select(bitcast<u32>(scale), 0x7fc00000u, most >= 0x7f800000u);
    }
    let inverse = quotient(1.0, scale);
    var word = 0u;
    for (var k = 0u; k < 32u / BITS; k++) {
        let at = 32u / BITS * i + k;
        if (at < HEAD_DIM) {
            let value = head[h * HEAD_DIM + at];
            let code = i32(min(round(abs(value) * inverse), LARGEST));
            word |= (u32(select(code, -code, value < 0.0)) & ((1u << BITS) - 1u)) << (k * BITS);
        }
    }
    return word;
}
