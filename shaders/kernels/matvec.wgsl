// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] on a CPU: a lane does TILES whole rows.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: codec, x source, lib/product.wgsl, lib/product_io.wgsl, lib/product_out.wgsl, lib/rows_plain.wgsl or
// lib/rows_gated.wgsl, lib/split.wgsl

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.y;
    token_end = token + 1u; // the grid has a workgroup a token, no more
    prepare(lane, 32u);
    workgroupBarrier();
    let rank = x_rank();
    let row = group.x * GROUP_ROWS + first_row(lane);
    // Lanes beyond the rows work on the last one and store nothing.
    let rows = min(lane_rows(row), vec4(P.padded_rows - 1u));
    var sums = vec4(0.0);
    for (var unit = 0u; unit < P.units; unit++) {
        let x = x32(token, unit, rank);
        sums.x += dot32(rows.x, unit, x);
        if (TILES > 1u) {
            sums.y += dot32(rows.y, unit, x);
        }
        if (TILES > 2u) {
            sums.z += dot32(rows.z, unit, x);
            sums.w += dot32(rows.w, unit, x);
        }
    }
    finish(token, row, sums);
}
