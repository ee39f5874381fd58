// out[t, i] (+)= x[t, i] / sqrt(mean(x[t]²) + eps) · weight[i] (Zhang & Sennrich 2019); a workgroup a row.
// x: [tokens, width], out: [rows, width], width a multiple of four; the head takes rows HEAD_FIRST … of x.
// requires: lib/step.wgsl, reduce

struct Norm {
    width: u32,
    eps: f32,
}
@group(0) @binding(3) var<uniform> P: Norm;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> weight: array<vec4<f32>>;

// Four a lane at once, so that the memory has more to do.
fn x_at(row: u32, i: u32) -> vec4<f32> {
    let vecs = P.width / 4u;
    return select(vec4(0.0), x[row * vecs + min(i, vecs - 1u)], i < vecs);
}

fn write(row: u32, i: u32, normed: vec4<f32>) {
    let vecs = P.width / 4u;
    if (i < vecs) {
        let at = row * vecs + i;
        var value = normed * weight[i];
        if (ADD) {
            value += y[at];
        }
        y[at] = value;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    var source = group.x;
    if (HEAD) {
        source += step[HEAD_FIRST];
    }
    var squares = vec4(0.0);
    for (var i = lane.x; i < P.width / 4u; i += 4u * LANES) {
        let a = x_at(source, i);
        let b = x_at(source, i + LANES);
        let c = x_at(source, i + 2u * LANES);
        let d = x_at(source, i + 3u * LANES);
        squares += (a * a + b * b) + (c * c + d * d);
    }
    let sum = (squares.x + squares.y) + (squares.z + squares.w);
    let scale = inverseSqrt(reduce_add(sum, lane.x) / f32(P.width) + P.eps);
    for (var i = lane.x; i < P.width / 4u; i += 4u * LANES) {
        let a = x_at(source, i);
        let b = x_at(source, i + LANES);
        let c = x_at(source, i + 2u * LANES);
        let d = x_at(source, i + 3u * LANES);
        write(group.x, i, a * scale);
        write(group.x, i + LANES, b * scale);
        write(group.x, i + 2u * LANES, c * scale);
        write(group.x, i + 3u * LANES, d * scale);
    }
}
