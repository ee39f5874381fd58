// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] on a GPU: CHUNK units of x at a time come to workgroup memory, as floats
// or as integers for packed dot products. A lane owns TILES rows; SPLIT lanes share a row.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: lib/floats.wgsl or lib/fixed.wgsl; group_of and dot_staged for its codec; lib/product.wgsl, lib/product_io.wgsl
// or lib/product_io_normed.wgsl, lib/product_out.wgsl, lib/rows_plain.wgsl or lib/rows_gated.wgsl, lib/split.wgsl

// Units in a row that a lane takes, 4 or 2: every lane has some of a chunk.
const RUN: u32 = min(4u, CHUNK / SPLIT);

// Of four in a row, how many surely share a group.
const SHARING: u32 = select(select(1u, 2u, SHARED_UNITS % 2u == 0u), 4u, SHARED_UNITS % 4u == 0u);

// Scales of the rows of a lane.
struct Groups {
    a: Group, b: Group, c: Group, d: Group,
}

fn groups_of(rows: vec4<u32>, unit: u32) -> Groups {
    let at = min(unit, P.units - 1u);
    var groups: Groups;
    groups.a = group_of(rows.x, at);
    if (TILES > 1u) {
        groups.b = group_of(rows.y, at);
    }
    if (TILES > 2u) {
        groups.c = group_of(rows.z, at);
        groups.d = group_of(rows.w, at);
    }
    return groups;
}

// Adds unit first + i; beyond the last one x is 0.
fn add_unit(sums: vec4<f32>, rows: vec4<u32>, first: u32, i: u32, groups: Groups) -> vec4<f32> {
    let unit = min(first + i, P.units - 1u);
    let x = staged_unit(i);
    var all = sums;
    all.x += dot_staged(rows.x, unit, groups.a, x);
    if (TILES > 1u) {
        all.y += dot_staged(rows.y, unit, groups.b, x);
    }
    if (TILES > 2u) {
        all.z += dot_staged(rows.z, unit, groups.c, x);
        all.w += dot_staged(rows.w, unit, groups.d, x);
    }
    return all;
}

@compute @workgroup_size(32, SPLIT / ABREAST)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let index = lane.y * 32u + lane.x;
    let token = group.y;
    token_end = token + 1u; // the grid has a workgroup a token, no more
    prepare(index, LANES);
    let row = group.x * GROUP_ROWS + first_row(lane.x);
    let share = share_of(lane.xy);
    // Lanes beyond the rows work on the last one and store nothing.
    let rows = min(lane_rows(row), vec4(P.padded_rows - 1u));
    var sums = vec4(0.0);
    for (var first = 0u; first < P.units; first += CHUNK) {
        workgroupBarrier();
        stage_units(token, first, index);
        workgroupBarrier();
        for (var i = RUN * share; i < min(CHUNK, P.units - first); i += RUN * SPLIT) {
            var groups = groups_of(rows, first + i);
            sums = add_unit(sums, rows, first, i, groups);
            if (SHARING < 2u) {
                groups = groups_of(rows, first + i + 1u);
            }
            sums = add_unit(sums, rows, first, i + 1u, groups);
            if (RUN > 2u) {
                if (SHARING < 4u) {
                    groups = groups_of(rows, first + i + 2u);
                }
                sums = add_unit(sums, rows, first, i + 2u, groups);
                if (SHARING < 2u) {
                    groups = groups_of(rows, first + i + 3u);
                }
                sums = add_unit(sums, rows, first, i + 3u, groups);
            }
        }
    }
    let factor = norm_factor(index);
    sums = together(sums, lane.xy);
    if (share == 0u) {
        finish(token, row, sums * factor);
    }
}
