// x = cap·tanh(x / cap), in place (Gemma 2). x: [rows, width].
// requires: lib/tanh.wgsl

struct SoftCap {
    width: u32,
    cap: f32,
}
@group(0) @binding(3) var<uniform> P: SoftCap;
@group(0) @binding(5) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < P.width) {
        let at = id.y * P.width + id.x;
        x[at] = P.cap * bounded_tanh(x[at] / P.cap);
    }
}
