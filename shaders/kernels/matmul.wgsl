// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens: 64 rows × 4·HIGH tokens a workgroup, every weight
// decoded once into workgroup memory, 16 columns at a time; each of 8 × HIGH lanes (HIGH is 8 or 16) sums 8 rows × 4
// tokens. While it multiplies, the next columns are on their way.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// requires: codec, lib/product.wgsl, lib/product_io.wgsl, lib/step.wgsl

const STRIDE: u32 = 5u; // vec4s between rows of the tile: 4 and one to spread the banks
var<workgroup> w_tile: array<vec4<f32>, 64u * STRIDE>;
var<workgroup> x_tile: array<vec4<f32>, 16u * HIGH>; // of every column, four tokens a vec4
const TABLE_ROOM: u32 = 16384u - 16u * (64u * STRIDE + 16u * HIGH); // bytes of workgroup memory that the codec may take

// Four columns of four tokens.
struct Block {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
}

fn x_rows(token: u32, j: u32) -> Block {
    return Block(x4(token, j), x4(token + 1u, j), x4(token + 2u, j), x4(token + 3u, j));
}

// Adds four columns of a row times those of four tokens.
fn add_products(sum: vec4<f32>, row: u32, k: u32, x: Block) -> vec4<f32> {
    let w = w_tile[row * STRIDE + k];
    return fma(vec4(w.w), x.d, fma(vec4(w.z), x.c, fma(vec4(w.y), x.b, fma(vec4(w.x), x.a, sum))));
}

fn store4(token: u32, row: u32, sums: vec4<f32>) {
    store(token, row, sums.x);
    store(token + 1u, row, sums.y);
    store(token + 2u, row, sums.z);
    store(token + 3u, row, sums.w);
}

@compute @workgroup_size(8, HIGH)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(index, 8u * HIGH);
    workgroupBarrier();
    let first_row = group.x * 64u;
    let first_token = group.y * 4u * HIGH;
    // Sums of rows lane.x + 8i (i: which variable) and tokens 4·lane.y + j (j: which component).
    var sum_0 = vec4(0.0);
    var sum_1 = vec4(0.0);
    var sum_2 = vec4(0.0);
    var sum_3 = vec4(0.0);
    var sum_4 = vec4(0.0);
    var sum_5 = vec4(0.0);
    var sum_6 = vec4(0.0);
    var sum_7 = vec4(0.0);
    // This lane's share of filling the tiles: 8 columns of a row (of two rows where HIGH is 8); and the first half of
    // the lanes, 4 columns of 4 tokens.
    let half = index & 1u;
    let w_row = min(first_row + index / 2u, P.padded_rows - 1u);
    let w_row_below = min(first_row + index / 2u + 32u, P.padded_rows - 1u);
    let w_at = index / 2u * STRIDE + 2u * half;
    let fills_x = index < 4u * HIGH;
    let x_tokens = first_token + index / 4u * 4u;
    let x_column = index & 3u;
    let x_at = 4u * x_column * HIGH + index / 4u;
    let steps = 2u * P.units;
    var w = decode8(w_row, half);
    var w_below = w;
    if (HIGH == 8u) {
        w_below = decode8(w_row_below, half);
    }
    var x_next: Block;
    if (fills_x) {
        x_next = x_rows(x_tokens, x_column);
    }
    for (var i = 1u; i <= steps; i++) {
        w_tile[w_at] = w.a;
        w_tile[w_at + 1u] = w.b;
        if (HIGH == 8u) {
            w_tile[w_at + 32u * STRIDE] = w_below.a;
            w_tile[w_at + 32u * STRIDE + 1u] = w_below.b;
        }
        if (fills_x) {
            x_tile[x_at] = vec4(x_next.a.x, x_next.b.x, x_next.c.x, x_next.d.x);
            x_tile[x_at + HIGH] = vec4(x_next.a.y, x_next.b.y, x_next.c.y, x_next.d.y);
            x_tile[x_at + 2u * HIGH] = vec4(x_next.a.z, x_next.b.z, x_next.c.z, x_next.d.z);
            x_tile[x_at + 3u * HIGH] = vec4(x_next.a.w, x_next.b.w, x_next.c.w, x_next.d.w);
        }
        workgroupBarrier();
        if (i < steps) {
            w = decode8(w_row, 2u * i + half);
            if (HIGH == 8u) {
                w_below = decode8(w_row_below, 2u * i + half);
            }
            if (fills_x) {
                x_next = x_rows(x_tokens, 4u * i + x_column);
            }
        }
        for (var k = 0u; k < 4u; k++) {
            let at = 4u * k * HIGH + lane.y;
            let x = Block(x_tile[at], x_tile[at + HIGH], x_tile[at + 2u * HIGH], x_tile[at + 3u * HIGH]);
            sum_0 = add_products(sum_0, lane.x, k, x);
            sum_1 = add_products(sum_1, lane.x + 8u, k, x);
            sum_2 = add_products(sum_2, lane.x + 16u, k, x);
            sum_3 = add_products(sum_3, lane.x + 24u, k, x);
            sum_4 = add_products(sum_4, lane.x + 32u, k, x);
            sum_5 = add_products(sum_5, lane.x + 40u, k, x);
            sum_6 = add_products(sum_6, lane.x + 48u, k, x);
            sum_7 = add_products(sum_7, lane.x + 56u, k, x);
        }
        workgroupBarrier();
    }
    let token = first_token + 4u * lane.y;
    let row = first_row + lane.x;
    store4(token, row, sum_0);
    store4(token, row + 8u, sum_1);
    store4(token, row + 16u, sum_2);
    store4(token, row + 24u, sum_3);
    store4(token, row + 32u, sum_4);
    store4(token, row + 40u, sum_5);
    store4(token, row + 48u, sum_6);
    store4(token, row + 56u, sum_7);
}
