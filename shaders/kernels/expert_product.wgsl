// y[r, row] = Σ_k W[e·EXPERT_ROWS + row, k]·x[r / SHARERS, k] + bias[e·EXPERT_ROWS + row], e = ids[r] − FIRST_EXPERT: the
// matrices of experts lie one below the other, and every row of y has an expert of its own. A lane owns a row of the
// matrix, SPLIT lanes share one; one row of y an id.y of the grid. Rows whose expert is not in this part are left alone.
// x: [rows / SHARERS, cols], y: [rows, stride].
// requires: codec, lib/product.wgsl

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read> ids: array<u32>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<f32, 32u * SPLIT>;
const TABLE_ROOM: u32 = 16384u - 128u * SPLIT; // bytes of workgroup memory that the codec may take

fn x_at(source: u32, k: u32) -> f32 {
    return x[source * P.x_stride + k / 4u][k & 3u];
}

fn x4(source: u32, j: u32) -> vec4<f32> {
    if (4u * j >= P.cols) {
        return vec4(0.0);
    }
    if (PERMUTED) {
        return vec4(x_at(source, permutation[4u * j]), x_at(source, permutation[4u * j + 1u]),
                    x_at(source, permutation[4u * j + 2u]), x_at(source, permutation[4u * j + 3u]));
    }
    return x[source * P.x_stride + j];
}

@compute @workgroup_size(32, SPLIT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    prepare(lane.y * 32u + lane.x, 32u * SPLIT);
    workgroupBarrier();
    // EXPERT_ROWS is a multiple of 32, and parts are cut at tiles of 32: all rows of a tile are here, or none.
    let first = i32((ids[group.y] - FIRST_EXPERT) * EXPERT_ROWS + group.x * 32u - P.first_row);
    if (first < 0 || u32(first) >= P.rows) {
        return;
    }
    let row = u32(first) + lane.x;
    let source = group.y / SHARERS;
    var sum = 0.0;
    for (var unit = lane.y; unit < P.units; unit += SPLIT) {
        let j = 8u * unit;
        let x32 = X32(x4(source, j), x4(source, j + 1u), x4(source, j + 2u), x4(source, j + 3u),
                      x4(source, j + 4u), x4(source, j + 5u), x4(source, j + 6u), x4(source, j + 7u));
        sum += dot32(row, unit, x32);
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
    if (BIASED) {
        sum += bias[P.first_row + row];
    }
    y[group.y * P.y_stride + P.y_offset + group.x * 32u + lane.x] = sum;
}
