// out[t, i] = activation(gate[t, i])·up[t, i], or without up: GLU variants (Shazeer 2020). gate and up are columns of
// one activation. x: [rows, stride], out: [rows, width].
// requires: lib/tanh.wgsl

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

const SILU: u32 = 0u;
const GELU_TANH: u32 = 1u;
const RELU: u32 = 2u;
const SQUARED_RELU: u32 = 3u;
const CLAMPED: u32 = 4u;

fn swish(v: f32, beta: f32) -> f32 {
    return v / (1.0 + exp(-clamp(beta * v, -80.0, 80.0)));
}

fn activate(v: f32) -> f32 {
    switch (ACTIVATION) {
        case SILU: {
            return swish(v, 1.0);
        }
        case GELU_TANH: {
            return 0.5 * v * (1.0 + bounded_tanh(0.7978845608 * (v + 0.044715 * v * v * v)));
        }
        case SQUARED_RELU: {
            return max(v, 0.0) * max(v, 0.0);
        }
        case CLAMPED: {
            return swish(min(v, P.limit), 1.702);
        }
        default: {
            return max(v, 0.0);
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if (i >= P.width) {
        return;
    }
    let row = id.y * P.stride;
    var value = activate(x[row + P.gate_offset + i]);
    if (GATED) {
        let up = x[row + P.up_offset + i];
        if (ACTIVATION == CLAMPED) {
            value *= clamp(up, -P.limit, P.limit) + 1.0;
        } else {
            value *= up;
        }
    }
    y[id.y * P.width + i] = value;
}
