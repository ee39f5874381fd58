// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row]: a lane owns TILES rows; SPLIT lanes share a row.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: codec, x source, lib/product.wgsl, lib/product_io.wgsl or lib/product_io_normed.wgsl, lib/product_out.wgsl,
// lib/rows_plain.wgsl or lib/rows_gated.wgsl, lib/split.wgsl

@compute @workgroup_size(32, SPLIT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let index = lane.y * 32u + lane.x;
    let token = group.y;
    token_end = token + 1u; // the grid has a workgroup a token, no more
    prepare(index, 32u * SPLIT);
    let factor = stage(token, index);
    workgroupBarrier();
    let rank = x_rank();
    let row = group.x * GROUP_ROWS + first_row(lane.x);
    // Lanes beyond the rows work on the last one and store nothing.
    let rows = min(lane_rows(row), vec4(P.padded_rows - 1u));
    var sums = vec4(0.0);
    var unit = first_unit(lane.y);
    if (SPLIT > 1u) {
        // Two at a time, so that the memory has more to do at once.
        for (; unit + SPLIT < P.units; unit += 2u * SPLIT) {
            let x = x32(token, unit, rank);
            let next = x32(token, unit + SPLIT, rank);
            sums.x += dot32(rows.x, unit, x);
            sums.x += dot32(rows.x, unit + SPLIT, next);
            if (TILES > 1u) {
                sums.y += dot32(rows.y, unit, x);
                sums.y += dot32(rows.y, unit + SPLIT, next);
            }
        }
    }
    for (; unit < P.units; unit += SPLIT) {
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
    sums = together(sums, lane.xy);
    if (lane.y == 0u) {
        finish(token, row, sums * factor);
    }
}
