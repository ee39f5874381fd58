// out[t, :] = row token_ids[t] of the matrix: the embedding; with POSITIONS the row of the token's position is added,
// FIRST_POSITION being that of position 0. out: [tokens, cols].
// requires: codec, lib/product.wgsl, lib/step.wgsl

@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
const TABLE_ROOM: u32 = 0u; // a row needs less of a table than filling workgroup memory with it would read

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    prepare(lane.x, 64u);
    workgroupBarrier();
    let token = group.y;
    var id = step[TOKEN_IDS + token];
    if (POSITIONS) {
        id = FIRST_POSITION + step[POSITION] + token;
    }
    let i = group.x * 64u + lane.x;
    if (id < P.first_row || id - P.first_row >= P.rows || 8u * i >= P.cols) {
        return;
    }
    var w = decode8(id - P.first_row, i);
    let at = token * P.y_stride + 2u * i;
    if (POSITIONS) {
        w.a += y[at];
    }
    y[at] = w.a;
    if (8u * i + 4u < P.cols) {
        if (POSITIONS) {
            w.b += y[at + 1u];
        }
        y[at + 1u] = w.b;
    }
}
