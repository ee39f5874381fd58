// KV cache entries of four f16 in two words; needs no f16 in the shader. As lib/cache_f32.wgsl says.
// provides: Cached, ENTRIES, FOURS, SCALED, from_cache, scale_from_cache, prepare_entries, to_cache
// requires: lib/hadamard.wgsl

alias Cached = vec2<u32>;

const ENTRIES: u32 = D4;
const FOURS: u32 = 1u;
const SCALED: bool = false;

fn from_cache(v: Cached, i: u32) -> vec4<f32> {
    return vec4(unpack2x16float(v.x), unpack2x16float(v.y));
}

fn scale_from_cache(v: Cached) -> f32 {
    return 1.0;
}

fn prepare_entries(h: u32, lane: u32) {}

// Clamped to the largest f16: an infinity would poison every later softmax.
fn to_cache(h: u32, i: u32) -> Cached {
    let c = clamp(head4(h * D4 + i), vec4(-65504.0), vec4(65504.0));
    return vec2(pack2x16float(c.xy), pack2x16float(c.zw));
}
