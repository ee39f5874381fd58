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

// Value i of a block; loads of several are on their way together.
fn load(token: u32, first: u32, i: u32) -> f32 {
    if (i >= LENGTH) {
        return 0.0;
    }
    var v = x[token * P.x_stride + first + i];
    if (BEFORE) {
        v *= before[first + i];
    }
    return v;
}

fn keep(i: u32, v: f32) {
    if (i < LENGTH) {
        block[i] = v;
    }
}

fn result_at(token: u32, i: u32) -> u32 {
    return token * P.y_stride + P.y_offset + i;
}

// Result i, if it is written at all.
fn result(token: u32, first: u32, i: u32) -> f32 {
    if (i >= LENGTH || first + i >= P.width) {
        return 0.0;
    }
    var v = block[i] * P.scale;
    if (AFTER) {
        v *= after[first + i];
    }
    if (ADD) {
        v += y[result_at(token, first + i)];
    }
    return v;
}

fn write(token: u32, first: u32, i: u32, v: f32) {
    if (i < LENGTH && first + i < P.width) {
        y[result_at(token, first + i)] = v;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let first = group.x * LENGTH;
    let token = group.y;
    for (var i = lane.x; i < LENGTH; i += 4u * LANES) {
        let a = load(token, first, i);
        let b = load(token, first, i + LANES);
        let c = load(token, first, i + 2u * LANES);
        let d = load(token, first, i + 3u * LANES);
        keep(i, a);
        keep(i + LANES, b);
        keep(i + 2u * LANES, c);
        keep(i + 3u * LANES, d);
    }
    workgroupBarrier();
    // Two stages at a time, and what is left over.
    var apart = 1u;
    for (; 4u * apart <= LENGTH; apart *= 4u) {
        for (var i = lane.x; i < LENGTH / 4u; i += LANES) {
            let at = ((i & ~(apart - 1u)) << 2u) | (i & (apart - 1u));
            let a = block[at];
            let b = block[at + apart];
            let c = block[at + 2u * apart];
            let d = block[at + 3u * apart];
            let ab = a + b;
            let cd = c + d;
            block[at] = ab + cd;
            block[at + 2u * apart] = ab - cd;
            let a_b = a - b;
            let c_d = c - d;
            block[at + apart] = a_b + c_d;
            block[at + 3u * apart] = a_b - c_d;
        }
        workgroupBarrier();
    }
    if (apart < LENGTH) {
        for (var i = lane.x; i < LENGTH / 2u; i += LANES) {
            let a = block[i];
            let b = block[i + LENGTH / 2u];
            block[i] = a + b;
            block[i + LENGTH / 2u] = a - b;
        }
        workgroupBarrier();
    }
    for (var i = lane.x; i < LENGTH; i += 4u * LANES) {
        let a = result(token, first, i);
        let b = result(token, first, i + LANES);
        let c = result(token, first, i + 2u * LANES);
        let d = result(token, first, i + 3u * LANES);
        write(token, first, i, a);
        write(token, first, i + LANES, b);
        write(token, first, i + 2u * LANES, c);
        write(token, first, i + 3u * LANES, d);
    }
}
