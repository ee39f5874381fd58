// y[t, k] = x[t, k] in columns where any token of the step has |x| ≥ threshold, else 0 (LLM.int8): a lane a column.
// x: [tokens, x_stride], y: [tokens, y_stride].
// requires: lib/step.wgsl, HEAD

struct Outliers {
    cols: u32,
    x_stride: u32,
    y_stride: u32,
    threshold: f32,
}
@group(0) @binding(3) var<uniform> P: Outliers;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let k = id.x;
    if (k >= P.cols) {
        return;
    }
    let tokens = step[select(TOKENS, HEAD_ROWS, HEAD)];
    var most = 0.0;
    for (var t = 0u; t < tokens; t++) {
        most = max(most, abs(x[t * P.x_stride + k]));
    }
    for (var t = 0u; t < tokens; t++) {
        y[t * P.y_stride + k] = select(0.0, x[t * P.x_stride + k], most >= P.threshold);
    }
}
