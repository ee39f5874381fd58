// y[r, row] (+)= Σ_k W[e·EXPERT_ROWS + row, k]·x[r / SHARERS, k] + bias[e·EXPERT_ROWS + row], e = ids[r] − FIRST_EXPERT: the
// matrices of experts lie one below the other, and every row of y has an expert of its own. A lane owns a row of the
// matrix, SPLIT lanes share one; one row of y an id.y of the grid. Rows whose expert is not in this part are left alone.
// x: [rows / SHARERS, cols], y: [rows, stride].
// requires: codec, lib/product.wgsl, lib/product_io.wgsl, lib/x_lane.wgsl

@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read> ids: array<u32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<f32, 32u * SPLIT>;
const token_end: u32 = 0xffffffffu; // all rows are there
const TABLE_ROOM: u32 = 16384u - 128u * SPLIT; // bytes of workgroup memory that the codec may take

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
        sum += dot32(row, unit, x32(source, unit, x_rank()));
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
    let at = group.y * P.y_stride + P.y_offset + group.x * 32u + lane.x;
    if (ADD) {
        sum += y[at];
    }
    y[at] = sum;
}
