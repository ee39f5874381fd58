// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens by matrix units: 128 rows × 128 tokens a workgroup, every
// weight decoded once into workgroup memory, UNITS units of 32 columns at a time; each of eight subgroups of 32 lanes sums
// 32 × 64 in eight matrices of f32. EXACT: weights and activations are two f16 each, high + low, and three products as
// good as f32; else the high ones alone. While it multiplies, the next units are on their way.
// x_halves: as kernels/halves.wgsl leaves them; y: [tokens, rows of the whole layer].
// provides: Halves8, UP    requires: codec, halves8 (lib/halves_decoded.wgsl or a codec's own), lib/product.wgsl,
// lib/product_out.wgsl, lib/step.wgsl; wgpu's cooperative matrices (not in browsers)

@group(0) @binding(4) var<storage, read> x_halves: array<vec4<f16>>;

const UNITS: u32 = select(2u, 1u, EXACT); // what there is room for
const PITCH: u32 = 8u * UNITS + 2u; // vec4s between rows of a tile: two to spread the banks
const LOW_VECS: u32 = select(1u, 128u * PITCH, EXACT);
const UP: f32 = 256.0; // of weights, so that their low halves are normal numbers
const TABLE_ROOM: u32 = 4096u; // bytes of workgroup memory that the codec may take
var<workgroup> w_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> w_low: array<vec4<f16>, LOW_VECS>;
var<workgroup> x_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> x_low: array<vec4<f16>, LOW_VECS>;
var<workgroup> results: array<f32, 1024>; // 16 × 16 of four subgroups

// Eight neighbouring weights, times UP: high + low.
struct Halves8 {
    high_a: vec4<f16>, high_b: vec4<f16>,
    low_a: vec4<f16>, low_b: vec4<f16>,
}

fn place_weights(at: u32, w: Halves8) {
    w_high[at] = w.high_a;
    w_high[at + 1u] = w.high_b;
    if (EXACT) {
        w_low[at] = w.low_a;
        w_low[at + 1u] = w.low_b;
    }
}

// vec4s of a token's high halves, or of its low ones: whole steps.
fn half_vecs() -> u32 {
    return (P.units + 1u) / 2u * 16u;
}

// What a token's sums are to be multiplied by.
fn factor(token: u32) -> f32 {
    let shift = i32(x_halves[token * (2u * half_vecs() + 2u) + 2u * half_vecs()].x);
    return bitcast<f32>(select(u32(shift + 127) << 23u, 0x7fc00000u, shift == 1000)) / UP;
}

// Two neighbouring vec4s.
struct Pair {
    a: vec4<f16>, b: vec4<f16>,
}

fn x_pair(at: u32) -> Pair {
    return Pair(x_halves[at], x_halves[at + 1u]);
}

fn place_high(at: u32, x: Pair) {
    x_high[at] = x.a;
    x_high[at + 1u] = x.b;
}

fn place_low(at: u32, x: Pair) {
    x_low[at] = x.a;
    x_low[at + 1u] = x.b;
}

// This lane's octets of weights: half a unit where EXACT, else a unit of its own.
struct Octets {
    a: Halves8, b: Halves8, c: Halves8, d: Halves8,
}

fn octets(row: u32, first_unit: u32, share: u32) -> Octets {
    var w: Octets;
    if (EXACT) {
        let octet = 4u * first_unit + 2u * share;
        w.a = halves8(row, octet);
        w.b = halves8(row, octet + 1u);
    } else {
        // Beyond the last unit activations are zero.
        let octet = 4u * min(first_unit + share, P.units - 1u);
        w.a = halves8(row, octet);
        w.b = halves8(row, octet + 1u);
        w.c = halves8(row, octet + 2u);
        w.d = halves8(row, octet + 3u);
    }
    return w;
}

// A matrix of four subgroups from `results` to y, all lanes together: lanes of an eighth write half of one.
fn write_results(row: u32, token: u32, index: u32) {
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) {
        let at = 128u * (index / 32u & 1u) + 32u * i + (index & 31u);
        let t = token + at / 16u;
        if (t < token_end) {
            store(t, row + at % 16u, results[index / 64u * 256u + at] * factor(t));
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32,
        @builtin(subgroup_id) subgroup: u32) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(index, 256u);
    workgroupBarrier();
    let first_row = group.x * 128u;
    let first_token = group.y * 128u;
    let tile_row = subgroup / 2u * 32u;
    let tile_token = subgroup % 2u * 64u;
    var c_00 = coop_mat16x16<f32, C>();
    var c_01 = coop_mat16x16<f32, C>();
    var c_02 = coop_mat16x16<f32, C>();
    var c_03 = coop_mat16x16<f32, C>();
    var c_10 = coop_mat16x16<f32, C>();
    var c_11 = coop_mat16x16<f32, C>();
    var c_12 = coop_mat16x16<f32, C>();
    var c_13 = coop_mat16x16<f32, C>();
    // This lane's share of filling the tiles: 16·UNITS columns of a row; and two vec4s of tokens `apart`.
    let w_row = min(first_row + index % 128u, P.padded_rows - 1u);
    let share = index / 128u;
    let w_at = index % 128u * PITCH + share * (4u * UNITS);
    let low = half_vecs();
    let column = index % (4u * UNITS) * 2u;
    let x_token = index / (4u * UNITS);
    let x_at = x_token * PITCH + column;
    let apart = 64u / UNITS;
    let tokens = min(vec4(first_token + x_token) + vec4(0u, apart, 2u * apart, 3u * apart), vec4(token_end - 1u))
        * (2u * low + 2u) + column;
    // Two passes of high and low ones, or four of high ones.
    let source = select(tokens, vec4(tokens.xy, tokens.xy + low), EXACT);
    let steps = (P.units + UNITS - 1u) / UNITS;
    var w = octets(w_row, 0u, share);
    var x_0 = x_pair(source.x);
    var x_1 = x_pair(source.y);
    var x_2 = x_pair(source.z);
    var x_3 = x_pair(source.w);
    for (var i = 1u; i <= steps; i++) {
        place_weights(w_at, w.a);
        place_weights(w_at + 2u, w.b);
        place_high(x_at, x_0);
        place_high(x_at + apart * PITCH, x_1);
        if (EXACT) {
            place_low(x_at, x_2);
            place_low(x_at + apart * PITCH, x_3);
        } else {
            place_weights(w_at + 4u, w.c);
            place_weights(w_at + 6u, w.d);
            place_high(x_at + 2u * apart * PITCH, x_2);
            place_high(x_at + 3u * apart * PITCH, x_3);
        }
        workgroupBarrier();
        let next = UNITS * min(i, steps - 1u);
        w = octets(w_row, next, share);
        x_0 = x_pair(source.x + 8u * next);
        x_1 = x_pair(source.y + 8u * next);
        x_2 = x_pair(source.z + 8u * next);
        x_3 = x_pair(source.w + 8u * next);
        for (var k = 0u; k < 8u * UNITS; k += 4u) {
            let a_0 = coopLoadT<coop_mat16x16<f16, A>>(&w_high[(tile_row + 0u) * PITCH + k], PITCH);
            let a_1 = coopLoadT<coop_mat16x16<f16, A>>(&w_high[(tile_row + 16u) * PITCH + k], PITCH);
            let b_0 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 0u) * PITCH + k], PITCH);
            let b_1 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 16u) * PITCH + k], PITCH);
            let b_2 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 32u) * PITCH + k], PITCH);
            let b_3 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 48u) * PITCH + k], PITCH);
            c_00 = coopMultiplyAdd(a_0, b_0, c_00);
            c_01 = coopMultiplyAdd(a_0, b_1, c_01);
            c_02 = coopMultiplyAdd(a_0, b_2, c_02);
            c_03 = coopMultiplyAdd(a_0, b_3, c_03);
            c_10 = coopMultiplyAdd(a_1, b_0, c_10);
            c_11 = coopMultiplyAdd(a_1, b_1, c_11);
            c_12 = coopMultiplyAdd(a_1, b_2, c_12);
            c_13 = coopMultiplyAdd(a_1, b_3, c_13);
            if (EXACT) {
                let d_0 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 0u) * PITCH + k], PITCH);
                c_00 = coopMultiplyAdd(a_0, d_0, c_00);
                c_10 = coopMultiplyAdd(a_1, d_0, c_10);
                let d_1 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 16u) * PITCH + k], PITCH);
                c_01 = coopMultiplyAdd(a_0, d_1, c_01);
                c_11 = coopMultiplyAdd(a_1, d_1, c_11);
                let d_2 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 32u) * PITCH + k], PITCH);
                c_02 = coopMultiplyAdd(a_0, d_2, c_02);
                c_12 = coopMultiplyAdd(a_1, d_2, c_12);
                let d_3 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 48u) * PITCH + k], PITCH);
                c_03 = coopMultiplyAdd(a_0, d_3, c_03);
                c_13 = coopMultiplyAdd(a_1, d_3, c_13);
                let e_0 = coopLoadT<coop_mat16x16<f16, A>>(&w_low[(tile_row + 0u) * PITCH + k], PITCH);
                c_00 = coopMultiplyAdd(e_0, b_0, c_00);
                c_01 = coopMultiplyAdd(e_0, b_1, c_01);
                c_02 = coopMultiplyAdd(e_0, b_2, c_02);
                c_03 = coopMultiplyAdd(e_0, b_3, c_03);
                let e_1 = coopLoadT<coop_mat16x16<f16, A>>(&w_low[(tile_row + 16u) * PITCH + k], PITCH);
                c_10 = coopMultiplyAdd(e_1, b_0, c_10);
                c_11 = coopMultiplyAdd(e_1, b_1, c_11);
                c_12 = coopMultiplyAdd(e_1, b_2, c_12);
                c_13 = coopMultiplyAdd(e_1, b_3, c_13);
            }
        }
        workgroupBarrier();
    }
    // Half of the subgroups at a time; lanes of a quarter write what a subgroup has summed.
    for (var half = 0u; half < 2u; half++) {
        let own = subgroup % 4u * 256u;
        let mine = subgroup / 4u == half;
        let row = first_row + 64u * half + index / 128u * 32u;
        let token = first_token + (index / 64u & 1u) * 64u;
        if (mine) {
            coopStore(c_00, &results[own], 16u);
        }
        write_results(row + 0u, token + 0u, index);
        if (mine) {
            coopStore(c_01, &results[own], 16u);
        }
        write_results(row + 0u, token + 16u, index);
        if (mine) {
            coopStore(c_02, &results[own], 16u);
        }
        write_results(row + 0u, token + 32u, index);
        if (mine) {
            coopStore(c_03, &results[own], 16u);
        }
        write_results(row + 0u, token + 48u, index);
        if (mine) {
            coopStore(c_10, &results[own], 16u);
        }
        write_results(row + 16u, token + 0u, index);
        if (mine) {
            coopStore(c_11, &results[own], 16u);
        }
        write_results(row + 16u, token + 16u, index);
        if (mine) {
            coopStore(c_12, &results[own], 16u);
        }
        write_results(row + 16u, token + 32u, index);
        if (mine) {
            coopStore(c_13, &results[own], 16u);
        }
        write_results(row + 16u, token + 48u, index);
    }
}
