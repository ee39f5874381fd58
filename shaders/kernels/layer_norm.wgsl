// out[t, i] = (x[t, i] − mean) / sqrt(variance + eps)·weight[i] + bias[i] (Ba et al. 2016) over each run of `width`
// columns from `offset` on: a row, the heads of q or k, or all of q or k; a workgroup a run. In place where IN_PLACE;
// RMSNorm, whose mean is 0, where not CENTERED.
// x: [tokens, stride], out: as x; the head takes rows HEAD_FIRST … of x.
// requires: lib/step.wgsl, reduce

struct Norm {
    width: u32,
    stride: u32,
    offset: u32,
    eps: f32,
}
@group(0) @binding(3) var<uniform> P: Norm;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> weight: array<f32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

fn value(at: u32) -> f32 {
    if (IN_PLACE) {
        return y[at];
    }
    return x[at];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let first = P.offset + group.x * P.width;
    var source = group.y;
    if (HEAD) {
        source += step[HEAD_FIRST];
    }
    let from_row = source * P.stride + first;
    var mean = 0.0;
    if (CENTERED) {
        var sum = 0.0;
        for (var i = lane.x; i < P.width; i += LANES) {
            sum += value(from_row + i);
        }
        mean = reduce_add(sum, lane.x) / f32(P.width);
    }
    var squares = 0.0;
    for (var i = lane.x; i < P.width; i += LANES) {
        let d = value(from_row + i) - mean;
        squares += d * d;
    }
    let scale = inverseSqrt(reduce_add(squares, lane.x) / f32(P.width) + P.eps);
    for (var i = lane.x; i < P.width; i += LANES) {
        let column = group.x * P.width + i;
        var normed = (value(from_row + i) - mean) * scale * weight[column];
        if (BIASED) {
            normed += bias[column];
        }
        y[group.y * P.stride + first + i] = normed;
    }
}
