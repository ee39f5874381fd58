// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens: 64 rows × 4·HIGH·WIDE tokens a workgroup, every weight
// decoded once into workgroup memory, 16 columns at a time; each of 8 × HIGH lanes (HIGH is 8 or 16) sums 8 rows × 4·WIDE
// tokens (WIDE is 1, or 2 where HIGH is 16). While it multiplies, the next columns are on their way.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// requires: codec, lib/product.wgsl, lib/product_io.wgsl, lib/eight_rows.wgsl, lib/step.wgsl, TABLE_ROOM

const FOURS: u32 = HIGH * WIDE; // of tokens
const TOKENS_APART: u32 = 1u; // of a lane
const STRIDE: u32 = 5u; // vec4s between rows of the tile: 4 and one to spread the banks
var<workgroup> w_tile: array<vec4<f32>, 64u * STRIDE>;
var<workgroup> x_tile: array<vec4<f32>, 16u * FOURS>; // of every column, four tokens a vec4

// Four columns of four tokens.
struct Block {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
}

fn x_rows(token: u32, j: u32) -> Block {
    return Block(x4(token, j), x4(token + 1u, j), x4(token + 2u, j), x4(token + 3u, j));
}

// Columns 4k and up of rows `row` and on.
fn w_rows(row: u32, k: u32) -> Eight {
    let at = row * STRIDE + k;
    return Eight(w_tile[at], w_tile[at + 8u * STRIDE], w_tile[at + 16u * STRIDE], w_tile[at + 24u * STRIDE],
                 w_tile[at + 32u * STRIDE], w_tile[at + 40u * STRIDE], w_tile[at + 48u * STRIDE], w_tile[at + 56u * STRIDE]);
}

// The same columns of tokens 4·four and up.
fn x_block(four: u32, k: u32) -> Block {
    let at = 4u * k * FOURS + four;
    return Block(x_tile[at], x_tile[at + FOURS], x_tile[at + 2u * FOURS], x_tile[at + 3u * FOURS]);
}

// Adds four columns of a row times those of four tokens.
fn add_products(sum: vec4<f32>, w: vec4<f32>, x: Block) -> vec4<f32> {
    return fma(vec4(w.w), x.d, fma(vec4(w.z), x.c, fma(vec4(w.y), x.b, fma(vec4(w.x), x.a, sum))));
}

fn add_rows(sums: Eight, w: Eight, x: Block) -> Eight {
    return Eight(add_products(sums.a, w.a, x), add_products(sums.b, w.b, x),
                 add_products(sums.c, w.c, x), add_products(sums.d, w.d, x),
                 add_products(sums.e, w.e, x), add_products(sums.f, w.f, x),
                 add_products(sums.g, w.g, x), add_products(sums.h, w.h, x));
}

@compute @workgroup_size(8, HIGH)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(index, 8u * HIGH);
    workgroupBarrier();
    let first_row = group.x * 64u;
    let first_token = group.y * 4u * FOURS;
    var sums: Eight; // of tokens 4·lane.y and up
    var more: Eight; // of the 4·HIGH tokens after those, if there are any
    let wide = WIDE > 1u && first_token + 4u * HIGH < token_end;
    // This lane's share of filling the tiles: 8 columns of a row (of two rows where HIGH is 8); and as many
    // lanes as there are of these, 4 columns of 4 tokens.
    let half = index & 1u;
    let w_row = min(first_row + index / 2u, P.padded_rows - 1u);
    let w_row_below = min(first_row + index / 2u + 32u, P.padded_rows - 1u);
    let w_at = index / 2u * STRIDE + 2u * half;
    let fills_x = index < 4u * FOURS;
    let x_tokens = first_token + index / 4u * 4u;
    let x_column = index & 3u;
    let x_at = 4u * x_column * FOURS + index / 4u;
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
            x_tile[x_at + FOURS] = vec4(x_next.a.y, x_next.b.y, x_next.c.y, x_next.d.y);
            x_tile[x_at + 2u * FOURS] = vec4(x_next.a.z, x_next.b.z, x_next.c.z, x_next.d.z);
            x_tile[x_at + 3u * FOURS] = vec4(x_next.a.w, x_next.b.w, x_next.c.w, x_next.d.w);
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
        // No loop: GPUs do best with all of it. CPUs take 8 lanes, and so do prompts of 32 tokens or fewer.
        if (HIGH == 8u) {
            for (var k = 0u; k < 4u; k++) {
                sums = add_rows(sums, w_rows(lane.x, k), x_block(lane.y, k));
            }
        } else {
            let w_0 = w_rows(lane.x, 0u);
            sums = add_rows(sums, w_0, x_block(lane.y, 0u));
            if (wide) {
                more = add_rows(more, w_0, x_block(lane.y + HIGH, 0u));
            }
            let w_1 = w_rows(lane.x, 1u);
            sums = add_rows(sums, w_1, x_block(lane.y, 1u));
            if (wide) {
                more = add_rows(more, w_1, x_block(lane.y + HIGH, 1u));
            }
            let w_2 = w_rows(lane.x, 2u);
            sums = add_rows(sums, w_2, x_block(lane.y, 2u));
            if (wide) {
                more = add_rows(more, w_2, x_block(lane.y + HIGH, 2u));
            }
            let w_3 = w_rows(lane.x, 3u);
            sums = add_rows(sums, w_3, x_block(lane.y, 3u));
            if (wide) {
                more = add_rows(more, w_3, x_block(lane.y + HIGH, 3u));
            }
        }
        workgroupBarrier();
    }
    store_rows(first_token + 4u * lane.y, first_row + lane.x, sums);
    if (wide) {
        store_rows(first_token + 4u * (lane.y + HIGH), first_row + lane.x, more);
    }
}
