// KV cache entries of four f32.
// provides: Cached, ENTRIES, FOURS, SCALED, from_cache, scale_from_cache, prepare_entries, to_cache
// requires: lib/hadamard.wgsl

alias Cached = vec4<f32>;

const ENTRIES: u32 = D4;     // of a head
const FOURS: u32 = 1u;       // of numbers in an entry
const SCALED: bool = false;  // the last entry of a head is a scale

// Four number `i` of a head, of its entry i / FOURS.
fn from_cache(v: Cached, i: u32) -> vec4<f32> {
    return v;
}

fn scale_from_cache(v: Cached) -> f32 {
    return 1.0;
}

// All lanes together, before `to_cache`.
fn prepare_entries(h: u32, lane: u32) {}

// Entry `i` of head `h` of those in `head`.
fn to_cache(h: u32, i: u32) -> Cached {
    return head4(h * D4 + i);
}
