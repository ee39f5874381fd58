// out[t, i] = a(gate[t, i])·up[t, i] (Shazeer 2020), a: SiLU, or the square of a ReLU (SQUARED_RELU). gate and up are columns of one activation.
// x: [tokens, stride], out: [tokens, width].

struct Glu {
    width: u32,
    stride: u32,
    gate_offset: u32,
    up_offset: u32,
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
    let up = x[row + P.up_offset + i];
    var activated = gate / (1.0 + exp(-clamp(gate, -80.0, 80.0)));
    if (SQUARED_RELU) {
        activated = max(gate, 0.0) * max(gate, 0.0);
    }
    y[id.y * P.width + i] = activated * up;
}
