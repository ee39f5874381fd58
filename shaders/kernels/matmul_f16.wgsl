// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens by matrix units in single f16: 128 rows × 128 tokens a
// workgroup, every weight decoded once into workgroup memory, two units of 32 columns at a time; each of eight subgroups of
// 32 lanes sums 32 × 64 in eight matrices of f32. While it multiplies, the next units are on their way. What
// kernels/matmul_matrix.wgsl does without EXACT, whose memory the second unit takes; for an even number of units.
// x_halves: as kernels/halves.wgsl leaves them; y: [tokens, rows of the whole layer].
// requires: codec, halves8 (lib/halves_decoded.wgsl or a codec's own), lib/matrix.wgsl, lib/product.wgsl,
// lib/product_out.wgsl, lib/step.wgsl; wgpu's cooperative matrices (not in browsers)

const PITCH: u32 = 18u; // vec4s between rows of a tile: 16 and two to spread the banks
const TABLE_ROOM: u32 = 4096u; // bytes of workgroup memory that the codec may take
var<workgroup> w_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> x_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> results: array<f32, 2048>; // 16 × 16 of every subgroup

// A matrix of every subgroup from `results` to y, all lanes together.
fn write_results(row: u32, token: u32, own: u32, lane: u32) {
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {
        let at = 32u * i + lane;
        let t = token + at / 16u;
        if (t < token_end) {
            store(t, row + at % 16u, results[own + at] * factor(t));
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
    // This lane's share of filling the tiles: a unit of a row, and two vec4s of four tokens, 32 apart.
    let w_row = min(first_row + index % 128u, P.padded_rows - 1u);
    let share = index / 128u;
    let w_at = index % 128u * PITCH + 8u * share;
    let stride = 16u * P.units + 2u;
    let column = index % 8u * 2u;
    let x_at = index / 8u * PITCH + column;
    let t_0 = min(first_token + index / 8u, token_end - 1u) * stride + column;
    let t_1 = min(first_token + index / 8u + 32u, token_end - 1u) * stride + column;
    let t_2 = min(first_token + index / 8u + 64u, token_end - 1u) * stride + column;
    let t_3 = min(first_token + index / 8u + 96u, token_end - 1u) * stride + column;
    let unit = min(share, P.units - 1u);
    var w_0 = halves8(w_row, 4u * unit);
    var w_1 = halves8(w_row, 4u * unit + 1u);
    var w_2 = halves8(w_row, 4u * unit + 2u);
    var w_3 = halves8(w_row, 4u * unit + 3u);
    var x_0a = x_halves[t_0];
    var x_0b = x_halves[t_0 + 1u];
    var x_1a = x_halves[t_1];
    var x_1b = x_halves[t_1 + 1u];
    var x_2a = x_halves[t_2];
    var x_2b = x_halves[t_2 + 1u];
    var x_3a = x_halves[t_3];
    var x_3b = x_halves[t_3 + 1u];
    let steps = (P.units + 1u) / 2u;
    for (var i = 1u; i <= steps; i++) {
        w_high[w_at] = w_0.high_a;
        w_high[w_at + 1u] = w_0.high_b;
        w_high[w_at + 2u] = w_1.high_a;
        w_high[w_at + 3u] = w_1.high_b;
        w_high[w_at + 4u] = w_2.high_a;
        w_high[w_at + 5u] = w_2.high_b;
        w_high[w_at + 6u] = w_3.high_a;
        w_high[w_at + 7u] = w_3.high_b;
        x_high[x_at] = x_0a;
        x_high[x_at + 1u] = x_0b;
        x_high[x_at + 32u * PITCH] = x_1a;
        x_high[x_at + 32u * PITCH + 1u] = x_1b;
        x_high[x_at + 64u * PITCH] = x_2a;
        x_high[x_at + 64u * PITCH + 1u] = x_2b;
        x_high[x_at + 96u * PITCH] = x_3a;
        x_high[x_at + 96u * PITCH + 1u] = x_3b;
        workgroupBarrier();
        let next = min(i, steps - 1u);
        let next_unit = min(2u * next + share, P.units - 1u);
        w_0 = halves8(w_row, 4u * next_unit);
        w_1 = halves8(w_row, 4u * next_unit + 1u);
        w_2 = halves8(w_row, 4u * next_unit + 2u);
        w_3 = halves8(w_row, 4u * next_unit + 3u);
        x_0a = x_halves[t_0 + 16u * next];
        x_0b = x_halves[t_0 + 16u * next + 1u];
        x_1a = x_halves[t_1 + 16u * next];
        x_1b = x_halves[t_1 + 16u * next + 1u];
        x_2a = x_halves[t_2 + 16u * next];
        x_2b = x_halves[t_2 + 16u * next + 1u];
        x_3a = x_halves[t_3 + 16u * next];
        x_3b = x_halves[t_3 + 16u * next + 1u];
        for (var k = 0u; k < 16u; k += 4u) {
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
        }
        workgroupBarrier();
    }
    let own = subgroup * 256u;
    let lane = index & 31u;
    coopStore(c_00, &results[own], 16u);
    write_results(first_row + tile_row + 0u, first_token + tile_token + 0u, own, lane);
    coopStore(c_01, &results[own], 16u);
    write_results(first_row + tile_row + 0u, first_token + tile_token + 16u, own, lane);
    coopStore(c_02, &results[own], 16u);
    write_results(first_row + tile_row + 0u, first_token + tile_token + 32u, own, lane);
    coopStore(c_03, &results[own], 16u);
    write_results(first_row + tile_row + 0u, first_token + tile_token + 48u, own, lane);
    coopStore(c_10, &results[own], 16u);
    write_results(first_row + tile_row + 16u, first_token + tile_token + 0u, own, lane);
    coopStore(c_11, &results[own], 16u);
    write_results(first_row + tile_row + 16u, first_token + tile_token + 16u, own, lane);
    coopStore(c_12, &results[own], 16u);
    write_results(first_row + tile_row + 16u, first_token + tile_token + 32u, own, lane);
    coopStore(c_13, &results[own], 16u);
    write_results(first_row + tile_row + 16u, first_token + tile_token + 48u, own, lane);
}
