// Quantizes activations as src/quant/activations.rs says: a workgroup a run of columns of a token.
// x: [tokens, x_stride] f32. INT8: y has, of each token, four codes a word and after them the scale; otherwise
// E4M3 multiples of the scale, f32. OUTLIERS: what is not 0 there counts as 0 here.
// requires: lib/quotient.wgsl

struct Quantize {
    cols: u32,
    run: u32,
    x_stride: u32,
    y_stride: u32,
    top: f32,   // dynamic scales: what the largest element becomes
    given: f32, // and counts as at least; the scale otherwise
    outliers_stride: u32,
}
@group(0) @binding(3) var<uniform> P: Quantize;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

@group(0) @binding(7) var<storage, read> outliers: array<f32>;

var<workgroup> largest: atomic<u32>;

// The nearest E4M3 number to one that is not negative.
fn nearest_e4m3(value: f32) -> f32 {
    let v = min(value, 448.0);
    if (v < 0.015625) {
        return round(v * 512.0) * 0.001953125;
    }
    let bits = bitcast<u32>(v);
    return bitcast<f32>((bits + 0x7ffffu + ((bits >> 20u) & 1u)) & 0xfff00000u);
}

// x[k] of a token, unless the column's outliers are multiplied as they are.
fn inlier(token: u32, k: u32) -> f32 {
    let value = x[token * P.x_stride + k];
    if (OUTLIERS) {
        return select(value, 0.0, outliers[token * P.outliers_stride + k] != 0.0);
    }
    return value;
}

fn int8_code(value: f32, scale: f32) -> u32 {
    let magnitude = i32(round(min(quotient(abs(value), scale), 128.0)));
    return u32(select(min(magnitude, 127), -magnitude, value < 0.0)) & 0xffu;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    if (lane.x == 0u) {
        atomicStore(&largest, 0u);
    }
    workgroupBarrier();
    let first = group.x * P.run;
    let end = min(first + min(P.run, P.cols), P.cols);
    for (var k = first + lane.x; k < end; k += 64u) {
        atomicMax(&largest, bitcast<u32>(inlier(group.y, k)) & 0x7fffffffu);
    }
    workgroupBarrier();
    let most = atomicLoad(&largest);
    var scale = P.given;
    if (DYNAMIC) {
        scale = quotient(max(bitcast<f32>(min(most, 0x7f7fffffu)), P.given), P.top);
    }
    // What is not finite must not vanish in a code: the scale becomes NaN, which the argmax notices.
    let broken = most >= 0x7f800000u;
    let out = group.y * P.y_stride;
    if (INT8) {
        for (var word = lane.x; 4u * word < P.cols; word += 64u) {
            let k = 4u * word;
            y[out + word] = int8_code(inlier(group.y, k), scale)
                | (int8_code(inlier(group.y, k + 1u), scale) << 8u)
                | (int8_code(inlier(group.y, k + 2u), scale) << 16u)
                | (int8_code(inlier(group.y, k + 3u), scale) << 24u);
        }
        if (lane.x == 0u) {
            y[out + P.cols / 4u] = select(bitcast<u32>(scale), 0x7fc00000u, broken);
        }
        return;
    }
    for (var k = first + lane.x; k < end; k += 64u) {
        let given = inlier(group.y, k);
        let magnitude = nearest_e4m3(quotient(abs(given), scale));
        let value = select(magnitude, -magnitude, given < 0.0) * scale;
        y[out + k] = select(bitcast<u32>(value), 0x7fc00000u, broken);
    }
}
