// The rows of a lane, 32 apart, and where their sums go.
// provides: lane_rows, finish    requires: lib/product_out.wgsl, TILES

// Rows that a workgroup writes.
const GROUP_ROWS: u32 = 32u * TILES;

fn lane_rows(row: u32) -> vec4<u32> {
    return vec4(row, row + 32u, row + 64u, row + 96u);
}

fn finish(token: u32, row: u32, sums: vec4<f32>) {
    store(token, row, sums.x);
    if (TILES > 1u) {
        store(token, row + 32u, sums.y);
    }
    if (TILES > 2u) {
        store(token, row + 64u, sums.z);
        store(token, row + 96u, sums.w);
    }
}
