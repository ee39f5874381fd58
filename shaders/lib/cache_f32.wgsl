// KV cache entries of four f32.
// provides: Cached, from_cache, to_cache

alias Cached = vec4<f32>;

fn from_cache(v: Cached) -> vec4<f32> {
    return v;
}

fn to_cache(v: vec4<f32>) -> Cached {
    return v;
}
