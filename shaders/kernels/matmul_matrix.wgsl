// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens by matrix units: 128 rows × 128 tokens a workgroup, every
// weight decoded once into workgroup memory, a unit of 32 columns at a time; each of eight subgroups of 32 lanes sums
// 32 × 64 in eight matrices of f32. EXACT: weights and activations are two f16 each, high + low, and three products as
// good as f32; else the high ones alone. While it multiplies, the next unit is on its way.
// x_halves: as kernels/halves.wgsl leaves them; y: [tokens, rows of the whole layer].
// requires: codec, halves8 (lib/halves_decoded.wgsl or a codec's own), lib/matrix.wgsl, lib/product.wgsl,
// lib/product_out.wgsl, lib/step.wgsl; wgpu's cooperative matrices (not in browsers)

const PITCH: u32 = 10u; // vec4s between rows of a tile: 8 and two to spread the banks
const TABLE_ROOM: u32 = 4096u; // bytes of workgroup memory that the codec may take
var<workgroup> w_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> w_low: array<vec4<f16>, 128u * PITCH>;
var<workgroup> x_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> x_low: array<vec4<f16>, 128u * PITCH>;
var<workgroup> results: array<f32, 1024>; // 16 × 16 of four subgroups

fn place_weights(at: u32, w: Halves8) {
    w_high[at] = w.high_a;
    w_high[at + 1u] = w.high_b;
    if (EXACT) {
        w_low[at] = w.low_a;
        w_low[at + 1u] = w.low_b;
    }
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
    // This lane's share of filling the tiles: 16 columns of a row, and four columns of four tokens, 32 apart.
    let w_row = min(first_row + index % 128u, P.padded_rows - 1u);
    let octet = index / 128u * 2u;
    let w_at = index % 128u * PITCH + 2u * octet;
    let stride = 16u * P.units + 2u;
    let low = 8u * P.units;
    let column = index & 7u;
    let x_at = index / 8u * PITCH + column;
    let tokens = min(vec4(first_token + index / 8u) + vec4(0u, 32u, 64u, 96u), vec4(token_end - 1u)) * stride + column;
    var w_0 = halves8(w_row, octet);
    var w_1 = halves8(w_row, octet + 1u);
    var high_0 = x_halves[tokens.x];
    var high_1 = x_halves[tokens.y];
    var high_2 = x_halves[tokens.z];
    var high_3 = x_halves[tokens.w];
    var low_0 = x_halves[tokens.x + low];
    var low_1 = x_halves[tokens.y + low];
    var low_2 = x_halves[tokens.z + low];
    var low_3 = x_halves[tokens.w + low];
    for (var i = 1u; i <= P.units; i++) {
        place_weights(w_at, w_0);
        place_weights(w_at + 2u, w_1);
        x_high[x_at + 0u * PITCH] = high_0;
        x_high[x_at + 32u * PITCH] = high_1;
        x_high[x_at + 64u * PITCH] = high_2;
        x_high[x_at + 96u * PITCH] = high_3;
        if (EXACT) {
            x_low[x_at + 0u * PITCH] = low_0;
            x_low[x_at + 32u * PITCH] = low_1;
            x_low[x_at + 64u * PITCH] = low_2;
            x_low[x_at + 96u * PITCH] = low_3;
        }
        workgroupBarrier();
        let next = min(i, P.units - 1u);
        w_0 = halves8(w_row, 4u * next + octet);
        w_1 = halves8(w_row, 4u * next + octet + 1u);
        high_0 = x_halves[tokens.x + 8u * next];
        high_1 = x_halves[tokens.y + 8u * next];
        high_2 = x_halves[tokens.z + 8u * next];
        high_3 = x_halves[tokens.w + 8u * next];
        if (EXACT) {
            low_0 = x_halves[tokens.x + low + 8u * next];
            low_1 = x_halves[tokens.y + low + 8u * next];
            low_2 = x_halves[tokens.z + low + 8u * next];
            low_3 = x_halves[tokens.w + low + 8u * next];
        }
        for (var k = 0u; k < 8u; k += 4u) {
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
