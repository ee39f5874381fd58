// out[t, k] = by[k]·x[t, k]: activations scaled before a product (AWQ, SmoothQuant).
// x: [tokens, x_stride], out: [tokens, y_stride].

struct Scale {
    width: u32,
    x_stride: u32,
    y_stride: u32,
}
@group(0) @binding(3) var<uniform> P: Scale;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> by: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= P.width) {
        return;
    }
    y[id.y * P.y_stride + id.x] = by[id.x] * x[id.y * P.x_stride + id.x];
}
