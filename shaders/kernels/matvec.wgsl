// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row]: a lane owns TILES rows, 32 apart; SPLIT lanes share a row.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: codec, lib/product.wgsl

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<vec4<f32>, 32u * SPLIT>;

fn x_at(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u];
}

// x[4j .. 4j + 3], zero beyond the columns.
fn x4(token: u32, j: u32) -> vec4<f32> {
    if (4u * j >= P.cols) {
        return vec4(0.0);
    }
    if (PERMUTED) {
        return vec4(x_at(token, permutation[4u * j]), x_at(token, permutation[4u * j + 1u]),
                    x_at(token, permutation[4u * j + 2u]), x_at(token, permutation[4u * j + 3u]));
    }
    return x[token * P.x_stride + j];
}

fn store(token: u32, row: u32, sum: f32) {
    if (row >= P.rows) {
        return;
    }
    let at = token * P.y_stride + P.y_offset + row;
    var value = sum;
    if (BIASED) {
        value += bias[row];
    }
    if (ADD) {
        value += y[at];
    }
    y[at] = value;
}

@compute @workgroup_size(32, SPLIT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    prepare(lane.y * 32u + lane.x, 32u * SPLIT);
    workgroupBarrier();
    let token = group.y;
    let row = group.x * 32u * TILES + lane.x;
    let last = P.padded_rows - 1u; // lanes beyond the rows work on the last one and store nothing
    var sum = vec4(0.0);
    for (var unit = lane.y; unit < P.units; unit += SPLIT) {
        let j = 8u * unit;
        let x32 = X32(x4(token, j), x4(token, j + 1u), x4(token, j + 2u), x4(token, j + 3u),
                      x4(token, j + 4u), x4(token, j + 5u), x4(token, j + 6u), x4(token, j + 7u));
        sum.x += dot32(min(row, last), unit, x32);
        if (TILES > 1u) {
            sum.y += dot32(min(row + 32u, last), unit, x32);
        }
        if (TILES > 2u) {
            sum.z += dot32(min(row + 64u, last), unit, x32);
            sum.w += dot32(min(row + 96u, last), unit, x32);
        }
    }
    if (SPLIT > 1u) {
        partial[lane.y * 32u + lane.x] = sum;
        workgroupBarrier();
        if (lane.y > 0u) {
            return;
        }
        for (var i = 1u; i < SPLIT; i++) {
            sum += partial[i * 32u + lane.x];
        }
    }
    store(token, row, sum.x);
    if (TILES > 1u) {
        store(token, row + 32u, sum.y);
    }
    if (TILES > 2u) {
        store(token, row + 64u, sum.z);
        store(token, row + 96u, sum.w);
    }
}
