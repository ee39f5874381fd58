// Fast Walsh-Hadamard transform of blocks of LENGTH (a power of two up to 4096) in workgroup memory.
// out[t, b·LENGTH + i] (+)= after[i']·scale·(S·(before ⊙ x))[i'], S the Sylvester matrix.
// x, out: [tokens, strides]; one block of one token a workgroup.

struct Butterfly {
    x_stride: u32,
    y_stride: u32,
    y_offset: u32,
    scale: f32,
    width: u32, // results that are written
}
@group(0) @binding(3) var<uniform> P: Butterfly;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> before: array<f32>;
@group(0) @binding(8) var<storage, read> after: array<f32>;

var<workgroup> block: array<f32, LENGTH>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let first = group.x * LENGTH;
    for (var i = lane.x; i < LENGTH; i += LANES) {
        var v = x[group.y * P.x_stride + first + i];
        if (BEFORE) {
            v *= before[first + i];
        }
        block[i] = v;
    }
    workgroupBarrier();
    for (var half = 1u; half < LENGTH; half *= 2u) {
        for (var i = lane.x; i < LENGTH / 2u; i += LANES) {
            let low = (i / half) * 2u * half + i % half;
            let a = block[low];
            let b = block[low + half];
            block[low] = a + b;
            block[low + half] = a - b;
        }
        workgroupBarrier();
    }
    for (var i = lane.x; i < LENGTH && first + i < P.width; i += LANES) {
        var v = block[i] * P.scale;
        if (AFTER) {
            v *= after[first + i];
        }
        let at = group.y * P.y_stride + P.y_offset + first + i;
        if (ADD) {
            v += y[at];
        }
        y[at] = v;
    }
}
