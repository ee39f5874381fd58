// The first half of a lane's rows are gate's, the other up's: y[t, row] = activation(gate)·up (Shazeer 2020).
// provides: lane_rows, finish    requires: lib/product_out.wgsl, lib/activation.wgsl, lib/split.wgsl, TILES

// Rows that a workgroup writes.
const GROUP_ROWS: u32 = ACROSS * LANE_ROWS;

// Of these, what a lane has.
const LANE_ROWS: u32 = TILES / 2u;

fn lane_rows(row: u32) -> vec4<u32> {
    if (TILES == 2u) {
        return vec4(P.gate + row, P.up + row, 0u, 0u);
    }
    return vec4(P.gate + row, P.gate + row + APART, P.up + row, P.up + row + APART);
}

fn finish_one(token: u32, row: u32, gate: f32, up: f32) {
    if (row < P.rows) {
        y[token * P.y_stride + row] = gated(biased(P.gate + row, gate), biased(P.up + row, up), P.limit);
    }
}

fn finish(token: u32, row: u32, sums: vec4<f32>) {
    if (TILES == 2u) {
        finish_one(token, row, sums.x, sums.y);
    } else {
        finish_one(token, row, sums.x, sums.z);
        finish_one(token, row + APART, sums.y, sums.w);
    }
}
