// QTIP's hybrid code of BITS bits: a state is a pair of weights, its hash an entry of a table of 512 pairs and a sign; see
// src/quant/hyb.rs.
// tables: f16 [512][2]
// provides: prepare, states4, values    requires: lib/trellis.wgsl

@group(0) @binding(1) var<storage, read> tables: array<u32>;

var<workgroup> pairs: array<u32, 512>;

fn prepare(lane: u32, lanes: u32) {
    for (var i = lane; i < 512u; i += lanes) {
        pairs[i] = tables[i];
    }
}

// States of columns 2l and 2l + 1, which share one, and of 2l + 8 and 2l + 9, two pairs further on in the stream.
fn states4(tile: u32, row: u32, l: u32) -> vec4<u32> {
    let last = window(tile, (32u * (row & 7u) + 8u * l + ((row >> 2u) & 2u) + 6u) * BITS);
    return (vec4(last) >> vec4(4u * BITS, 4u * BITS, 0u, 0u)) & vec4(0xffffu);
}

// The pair of a state; bit 15 of its hash is the first one's sign.
fn pair(state: u32) -> vec2<f32> {
    let hash = state * state + state;
    return unpack2x16float(pairs[(hash >> 6u) & 511u] ^ (hash & 0x8000u));
}

// What four states mean: x and y share one, z and w.
fn values(states: vec4<u32>) -> vec4<f32> {
    return vec4(pair(states.x), pair(states.z));
}
