// KV cache entries of four f16 in two words; needs no f16 in the shader.
// provides: Cached, from_cache, to_cache

alias Cached = vec2<u32>;

fn from_cache(v: Cached) -> vec4<f32> {
    return vec4(unpack2x16float(v.x), unpack2x16float(v.y));
}

// Clamped to the largest f16: an infinity would poison every later softmax.
fn to_cache(v: vec4<f32>) -> Cached {
    let c = clamp(v, vec4(-65504.0), vec4(65504.0));
    return vec2(pack2x16float(c.xy), pack2x16float(c.zw));
}
