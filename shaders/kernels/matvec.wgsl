// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row]: a lane owns TILES rows, 32 apart; SPLIT lanes share a row.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: codec, lib/product.wgsl, lib/product_io.wgsl

var<workgroup> partial: array<vec4<f32>, 32u * SPLIT>;
const TABLE_ROOM: u32 = 16384u - 512u * SPLIT; // bytes of workgroup memory that the codec may take

// The grid has a workgroup a token, no more.
fn token_limit() -> u32 {
    return 0xffffffffu;
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
