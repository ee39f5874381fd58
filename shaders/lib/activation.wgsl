// What stands between the two products of a feed-forward layer: GLU variants (Shazeer 2020).
// provides: activate, gated    requires: lib/tanh.wgsl, ACTIVATION

const SILU: u32 = 0u;
const GELU_TANH: u32 = 1u;
const RELU: u32 = 2u;
const SQUARED_RELU: u32 = 3u;
const CLAMPED: u32 = 4u;

fn swish(v: f32, beta: f32) -> f32 {
    return v / (1.0 + exp(-clamp(beta * v, -80.0, 80.0)));
}

fn activate(v: f32, limit: f32) -> f32 {
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
            return swish(min(v, limit), 1.702);
        }
        default: {
            return max(v, 0.0);
        }
    }
}

// activation(gate)·up.
fn gated(gate: f32, up: f32, limit: f32) -> f32 {
    if (ACTIVATION == CLAMPED) {
        return activate(gate, limit) * (clamp(up, -limit, limit) + 1.0);
    }
    return activate(gate, limit) * up;
}
