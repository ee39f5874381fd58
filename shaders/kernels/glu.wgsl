// out[t, i] = activation(gate[t, i])·up[t, i], or without up: GLU variants (Shazeer 2020). gate and up are columns of
// one activation. x: [rows, stride], out: [rows, width].
// requires: lib/activation.wgsl, lib/tanh.wgsl

struct Glu {
    width: u32,
    stride: u32,
    gate_offset: u32,
    up_offset: u32,
    limit: f32,
}
@group(0) @binding(3) var<uniform> P: Glu;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if (i >= P.width) {
        return;
    }
    let row = id.y * P.stride;
    let gate = x[row + P.gate_offset + i];
    if (GATED) {
        y[id.y * P.width + i] = gated(gate, x[row + P.up_offset + i], P.limit);
    } else {
        y[id.y * P.width + i] = activate(gate, P.limit);
    }
}
