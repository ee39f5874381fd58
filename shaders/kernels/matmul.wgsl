// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens: 32 rows × 32 tokens a workgroup, every
// weight tile decoded once into workgroup memory; each of 8 × 8 lanes sums 4 rows × 4 tokens.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// requires: codec, lib/product.wgsl, lib/product_io.wgsl, lib/step.wgsl

const STRIDE: u32 = 9u; // vec4s between rows of a tile: 8 and one to spread the banks
var<workgroup> w_tile: array<vec4<f32>, 32u * STRIDE>;
var<workgroup> x_tile: array<vec4<f32>, 32u * STRIDE>;
const TABLE_ROOM: u32 = 16384u - 1024u * STRIDE; // bytes of workgroup memory that the codec may take

fn dot4(w: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>) -> vec4<f32> {
    return vec4(dot(w, x0), dot(w, x1), dot(w, x2), dot(w, x3));
}

fn store4(token: u32, row: u32, sums: vec4<f32>) {
    store(token, row, sums.x);
    store(token + 8u, row, sums.y);
    store(token + 16u, row, sums.z);
    store(token + 24u, row, sums.w);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(index, 64u);
    workgroupBarrier();
    let first_row = group.x * 32u;
    let first_token = group.y * 32u;
    // Sums of rows lane.x + 8i (i: which variable) and tokens lane.y + 8j (j: which component).
    var sum0 = vec4(0.0);
    var sum1 = vec4(0.0);
    var sum2 = vec4(0.0);
    var sum3 = vec4(0.0);
    // This lane's share of filling the tiles: half a row, 16 columns.
    let fill_row = index / 2u;
    let fill_half = index & 1u;
    let decode_row = min(first_row + fill_row, P.padded_rows - 1u);
    for (var unit = 0u; unit < P.units; unit++) {
        let at = fill_row * STRIDE + 4u * fill_half;
        let w0 = decode8(decode_row, 4u * unit + 2u * fill_half);
        let w1 = decode8(decode_row, 4u * unit + 2u * fill_half + 1u);
        w_tile[at] = w0.a;
        w_tile[at + 1u] = w0.b;
        w_tile[at + 2u] = w1.a;
        w_tile[at + 3u] = w1.b;
        let j = 8u * unit + 4u * fill_half;
        x_tile[at] = x4(first_token + fill_row, j);
        x_tile[at + 1u] = x4(first_token + fill_row, j + 1u);
        x_tile[at + 2u] = x4(first_token + fill_row, j + 2u);
        x_tile[at + 3u] = x4(first_token + fill_row, j + 3u);
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) {
            let x0 = x_tile[lane.y * STRIDE + k];
            let x1 = x_tile[(lane.y + 8u) * STRIDE + k];
            let x2 = x_tile[(lane.y + 16u) * STRIDE + k];
            let x3 = x_tile[(lane.y + 24u) * STRIDE + k];
            sum0 += dot4(w_tile[lane.x * STRIDE + k], x0, x1, x2, x3);
            sum1 += dot4(w_tile[(lane.x + 8u) * STRIDE + k], x0, x1, x2, x3);
            sum2 += dot4(w_tile[(lane.x + 16u) * STRIDE + k], x0, x1, x2, x3);
            sum3 += dot4(w_tile[(lane.x + 24u) * STRIDE + k], x0, x1, x2, x3);
        }
        workgroupBarrier();
    }
    let token = first_token + lane.y;
    let row = first_row + lane.x;
    store4(token, row, sum0);
    store4(token, row + 8u, sum1);
    store4(token, row + 16u, sum2);
    store4(token, row + 24u, sum3);
}
