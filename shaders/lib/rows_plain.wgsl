// The rows of a lane, and where their sums go.
// provides: lane_rows, finish    requires: lib/product_out.wgsl, lib/split.wgsl, TILES

// Rows that a workgroup writes.
const GROUP_ROWS: u32 = ACROSS * TILES;

// Of these, what a lane has.
const LANE_ROWS: u32 = TILES;

fn lane_rows(row: u32) -> vec4<u32> {
    return vec4(row, row + APART, row + 2u * APART, row + 3u * APART);
}

fn finish(token: u32, row: u32, sums: vec4<f32>) {
    store(token, row, sums.x);
    if (TILES > 1u) {
        store(token, row + APART, sums.y);
    }
    if (TILES > 2u) {
        store(token, row + 2u * APART, sums.z);
        store(token, row + 3u * APART, sums.w);
    }
}
