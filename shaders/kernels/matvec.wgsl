// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row]: a lane owns TILES rows, 32 apart; SPLIT lanes share a row.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: codec, x source, lib/product.wgsl, lib/product_io.wgsl

var<workgroup> partial: array<vec4<f32>, 32u * SPLIT>;
const TABLE_ROOM: u32 = 16384u - 512u * SPLIT; // bytes of workgroup memory that the codec may take

@compute @workgroup_size(32, SPLIT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    prepare(lane.y * 32u + lane.x, 32u * SPLIT);
    workgroupBarrier();
    let rank = x_rank();
    let token = group.y;
    token_end = token + 1u; // the grid has a workgroup a token, no more
    let row = group.x * 32u * TILES + lane.x;
    let last = P.padded_rows - 1u; // lanes beyond the rows work on the last one and store nothing
    var sum = vec4(0.0);
    for (var unit = first_unit(lane.y); unit < P.units; unit += SPLIT) {
        let x = x32(token, unit, rank);
        sum.x += dot32(min(row, last), unit, x);
        if (TILES > 1u) {
            sum.y += dot32(min(row + 32u, last), unit, x);
        }
        if (TILES > 2u) {
            sum.z += dot32(min(row + 64u, last), unit, x);
            sum.w += dot32(min(row + 96u, last), unit, x);
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
