// out[t, i] (+)= x[t, i] / sqrt(mean(x[t]²) + eps) · weight[i] (Zhang & Sennrich 2019); a workgroup a row.
// x: [tokens, width], out: [rows, width]; the head takes rows HEAD_FIRST … of x.
// requires: lib/step.wgsl, reduce

struct Norm {
    width: u32,
    eps: f32,
}
@group(0) @binding(3) var<uniform> P: Norm;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> weight: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    var source = group.x;
    if (HEAD) {
        source += step[HEAD_FIRST];
    }
    var squares = 0.0;
    for (var i = lane.x; i < P.width; i += LANES) {
        let v = x[source * P.width + i];
        squares += v * v;
    }
    let scale = inverseSqrt(reduce_add(squares, lane.x) / f32(P.width) + P.eps);
    for (var i = lane.x; i < P.width; i += LANES) {
        let at = group.x * P.width + i;
        var value = x[source * P.width + i] * scale * weight[i];
        if (ADD) {
            value += y[at];
        }
        y[at] = value;
    }
}
