// The sizes and constants that all kernels of attention share.
// provides: P    requires: HEAD_DIM

struct Heads {
    heads: u32,
    kv_heads: u32,
    stride: u32,
    q_offset: u32,
    k_offset: u32,
    v_offset: u32,
    context: u32,
    eps: f32,
    planes: u32,
    interleaved: u32,
    window: u32, // positions a query sees, its own included
    scale: f32,
    softcap: f32, // 0: none
    sinks: u32,   // 1: there are some
}
@group(0) @binding(3) var<uniform> P: Heads;

const D4: u32 = HEAD_DIM / 4u;
