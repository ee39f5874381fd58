// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens by matrix units: 128 rows × 128 tokens a workgroup, every
// weight decoded once into workgroup memory, 16 columns at a time; each of four subgroups of 32 lanes sums 64 × 64 in
// 16 matrices of f32. EXACT: weights and activations are two f16 each, high + low, and three products as good as f32;
// else the high ones alone. While it multiplies, the next columns are on their way.
// x_halves: as kernels/halves.wgsl leaves them; y: [tokens, rows of the whole layer].
// requires: codec, lib/product.wgsl, lib/product_out.wgsl, lib/step.wgsl, lib/nearest_half.wgsl; wgpu's cooperative matrices (not in browsers)

@group(0) @binding(4) var<storage, read> x_halves: array<vec4<f16>>;

const PITCH: u32 = 6u; // vec4s between rows of a tile: 4 and two to spread the banks
const TABLE_ROOM: u32 = 4096u; // bytes of workgroup memory that the codec may take
const UP: f32 = 256.0; // of weights, so that their low halves are normal numbers
var<workgroup> w_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> w_low: array<vec4<f16>, 128u * PITCH>;
var<workgroup> x_high: array<vec4<f16>, 128u * PITCH>;
var<workgroup> x_low: array<vec4<f16>, 128u * PITCH>;
var<workgroup> results: array<f32, 1024>; // 16 × 16 of each subgroup

// Eight weights of this lane's row.
fn place_weights(at: u32, w: Weights8) {
    let a = w.a * UP;
    let b = w.b * UP;
    let high_a = nearest_half(a);
    let high_b = nearest_half(b);
    w_high[at] = vec4<f16>(high_a);
    w_high[at + 1u] = vec4<f16>(high_b);
    if (EXACT) {
        w_low[at] = vec4<f16>(a - high_a);
        w_low[at + 1u] = vec4<f16>(b - high_b);
    }
}

// What a token's sums are to be multiplied by.
fn factor(token: u32) -> f32 {
    let shift = i32(x_halves[(token + 1u) * (16u * P.units + 1u) - 1u].x);
    return bitcast<f32>(select(u32(shift + 127) << 23u, 0x7fc00000u, shift == 1000)) / UP;
}

// A matrix of every subgroup from `results` to y, all lanes together.
fn write_results(row: u32, token: u32, index: u32) {
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {
        let at = 32u * i + (index & 31u);
        let t = token + at / 16u;
        if (t < token_end) {
            store(t, row + at % 16u, results[index / 32u * 256u + at] * factor(t));
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32,
        @builtin(subgroup_id) subgroup: u32) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(index, 128u);
    workgroupBarrier();
    let first_row = group.x * 128u;
    let first_token = group.y * 128u;
    let tile_row = subgroup / 2u * 64u;
    let tile_token = subgroup % 2u * 64u;
    var c_00 = coop_mat16x16<f32, C>();
    var c_01 = coop_mat16x16<f32, C>();
    var c_02 = coop_mat16x16<f32, C>();
    var c_03 = coop_mat16x16<f32, C>();
    var c_10 = coop_mat16x16<f32, C>();
    var c_11 = coop_mat16x16<f32, C>();
    var c_12 = coop_mat16x16<f32, C>();
    var c_13 = coop_mat16x16<f32, C>();
    var c_20 = coop_mat16x16<f32, C>();
    var c_21 = coop_mat16x16<f32, C>();
    var c_22 = coop_mat16x16<f32, C>();
    var c_23 = coop_mat16x16<f32, C>();
    var c_30 = coop_mat16x16<f32, C>();
    var c_31 = coop_mat16x16<f32, C>();
    var c_32 = coop_mat16x16<f32, C>();
    var c_33 = coop_mat16x16<f32, C>();
    // This lane's share of filling the tiles: 16 columns of a row, and four columns of four tokens, 32 apart.
    let w_row = min(first_row + index, P.padded_rows - 1u);
    let w_at = index * PITCH;
    let stride = 16u * P.units + 1u;
    let low = 8u * P.units;
    let column = index & 3u;
    let x_at = index / 4u * PITCH + column;
    let tokens = min(vec4(first_token + index / 4u) + vec4(0u, 32u, 64u, 96u), vec4(token_end - 1u)) * stride + column;
    let steps = 2u * P.units;
    var w_0 = decode8(w_row, 0u);
    var w_1 = decode8(w_row, 1u);
    var high_0 = x_halves[tokens.x];
    var high_1 = x_halves[tokens.y];
    var high_2 = x_halves[tokens.z];
    var high_3 = x_halves[tokens.w];
    var low_0 = x_halves[tokens.x + low];
    var low_1 = x_halves[tokens.y + low];
    var low_2 = x_halves[tokens.z + low];
    var low_3 = x_halves[tokens.w + low];
    for (var i = 1u; i <= steps; i++) {
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
        if (i < steps) {
            w_0 = decode8(w_row, 2u * i);
            w_1 = decode8(w_row, 2u * i + 1u);
            high_0 = x_halves[tokens.x + 4u * i];
            high_1 = x_halves[tokens.y + 4u * i];
            high_2 = x_halves[tokens.z + 4u * i];
            high_3 = x_halves[tokens.w + 4u * i];
            if (EXACT) {
                low_0 = x_halves[tokens.x + low + 4u * i];
                low_1 = x_halves[tokens.y + low + 4u * i];
                low_2 = x_halves[tokens.z + low + 4u * i];
                low_3 = x_halves[tokens.w + low + 4u * i];
            }
        }
        let a_0 = coopLoadT<coop_mat16x16<f16, A>>(&w_high[(tile_row + 0u) * PITCH], PITCH);
        let a_1 = coopLoadT<coop_mat16x16<f16, A>>(&w_high[(tile_row + 16u) * PITCH], PITCH);
        let a_2 = coopLoadT<coop_mat16x16<f16, A>>(&w_high[(tile_row + 32u) * PITCH], PITCH);
        let a_3 = coopLoadT<coop_mat16x16<f16, A>>(&w_high[(tile_row + 48u) * PITCH], PITCH);
        let b_0 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 0u) * PITCH], PITCH);
        let b_1 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 16u) * PITCH], PITCH);
        let b_2 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 32u) * PITCH], PITCH);
        let b_3 = coopLoad<coop_mat16x16<f16, B>>(&x_high[(tile_token + 48u) * PITCH], PITCH);
        c_00 = coopMultiplyAdd(a_0, b_0, c_00);
        c_01 = coopMultiplyAdd(a_0, b_1, c_01);
        c_02 = coopMultiplyAdd(a_0, b_2, c_02);
        c_03 = coopMultiplyAdd(a_0, b_3, c_03);
        c_10 = coopMultiplyAdd(a_1, b_0, c_10);
        c_11 = coopMultiplyAdd(a_1, b_1, c_11);
        c_12 = coopMultiplyAdd(a_1, b_2, c_12);
        c_13 = coopMultiplyAdd(a_1, b_3, c_13);
        c_20 = coopMultiplyAdd(a_2, b_0, c_20);
        c_21 = coopMultiplyAdd(a_2, b_1, c_21);
        c_22 = coopMultiplyAdd(a_2, b_2, c_22);
        c_23 = coopMultiplyAdd(a_2, b_3, c_23);
        c_30 = coopMultiplyAdd(a_3, b_0, c_30);
        c_31 = coopMultiplyAdd(a_3, b_1, c_31);
        c_32 = coopMultiplyAdd(a_3, b_2, c_32);
        c_33 = coopMultiplyAdd(a_3, b_3, c_33);
        if (EXACT) {
            let d_0 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 0u) * PITCH], PITCH);
            c_00 = coopMultiplyAdd(a_0, d_0, c_00);
            c_10 = coopMultiplyAdd(a_1, d_0, c_10);
            c_20 = coopMultiplyAdd(a_2, d_0, c_20);
            c_30 = coopMultiplyAdd(a_3, d_0, c_30);
            let d_1 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 16u) * PITCH], PITCH);
            c_01 = coopMultiplyAdd(a_0, d_1, c_01);
            c_11 = coopMultiplyAdd(a_1, d_1, c_11);
            c_21 = coopMultiplyAdd(a_2, d_1, c_21);
            c_31 = coopMultiplyAdd(a_3, d_1, c_31);
            let d_2 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 32u) * PITCH], PITCH);
            c_02 = coopMultiplyAdd(a_0, d_2, c_02);
            c_12 = coopMultiplyAdd(a_1, d_2, c_12);
            c_22 = coopMultiplyAdd(a_2, d_2, c_22);
            c_32 = coopMultiplyAdd(a_3, d_2, c_32);
            let d_3 = coopLoad<coop_mat16x16<f16, B>>(&x_low[(tile_token + 48u) * PITCH], PITCH);
            c_03 = coopMultiplyAdd(a_0, d_3, c_03);
            c_13 = coopMultiplyAdd(a_1, d_3, c_13);
            c_23 = coopMultiplyAdd(a_2, d_3, c_23);
            c_33 = coopMultiplyAdd(a_3, d_3, c_33);
            let e_0 = coopLoadT<coop_mat16x16<f16, A>>(&w_low[(tile_row + 0u) * PITCH], PITCH);
            c_00 = coopMultiplyAdd(e_0, b_0, c_00);
            c_01 = coopMultiplyAdd(e_0, b_1, c_01);
            c_02 = coopMultiplyAdd(e_0, b_2, c_02);
            c_03 = coopMultiplyAdd(e_0, b_3, c_03);
            let e_1 = coopLoadT<coop_mat16x16<f16, A>>(&w_low[(tile_row + 16u) * PITCH], PITCH);
            c_10 = coopMultiplyAdd(e_1, b_0, c_10);
            c_11 = coopMultiplyAdd(e_1, b_1, c_11);
            c_12 = coopMultiplyAdd(e_1, b_2, c_12);
            c_13 = coopMultiplyAdd(e_1, b_3, c_13);
            let e_2 = coopLoadT<coop_mat16x16<f16, A>>(&w_low[(tile_row + 32u) * PITCH], PITCH);
            c_20 = coopMultiplyAdd(e_2, b_0, c_20);
            c_21 = coopMultiplyAdd(e_2, b_1, c_21);
            c_22 = coopMultiplyAdd(e_2, b_2, c_22);
            c_23 = coopMultiplyAdd(e_2, b_3, c_23);
            let e_3 = coopLoadT<coop_mat16x16<f16, A>>(&w_low[(tile_row + 48u) * PITCH], PITCH);
            c_30 = coopMultiplyAdd(e_3, b_0, c_30);
            c_31 = coopMultiplyAdd(e_3, b_1, c_31);
            c_32 = coopMultiplyAdd(e_3, b_2, c_32);
            c_33 = coopMultiplyAdd(e_3, b_3, c_33);
        }
        workgroupBarrier();
    }
    // Lanes of a quarter write what its subgroup has summed.
    let row = first_row + index / 64u * 64u;
    let token = first_token + (index / 32u & 1u) * 64u;
    let own = subgroup * 256u;
    coopStore(c_00, &results[own], 16u);
    write_results(row + 0u, token + 0u, index);
    coopStore(c_01, &results[own], 16u);
    write_results(row + 0u, token + 16u, index);
    coopStore(c_02, &results[own], 16u);
    write_results(row + 0u, token + 32u, index);
    coopStore(c_03, &results[own], 16u);
    write_results(row + 0u, token + 48u, index);
    coopStore(c_10, &results[own], 16u);
    write_results(row + 16u, token + 0u, index);
    coopStore(c_11, &results[own], 16u);
    write_results(row + 16u, token + 16u, index);
    coopStore(c_12, &results[own], 16u);
    write_results(row + 16u, token + 32u, index);
    coopStore(c_13, &results[own], 16u);
    write_results(row + 16u, token + 48u, index);
    coopStore(c_20, &results[own], 16u);
    write_results(row + 32u, token + 0u, index);
    coopStore(c_21, &results[own], 16u);
    write_results(row + 32u, token + 16u, index);
    coopStore(c_22, &results[own], 16u);
    write_results(row + 32u, token + 32u, index);
    coopStore(c_23, &results[own], 16u);
    write_results(row + 32u, token + 48u, index);
    coopStore(c_30, &results[own], 16u);
    write_results(row + 48u, token + 0u, index);
    coopStore(c_31, &results[own], 16u);
    write_results(row + 48u, token + 16u, index);
    coopStore(c_32, &results[own], 16u);
    write_results(row + 48u, token + 32u, index);
    coopStore(c_33, &results[own], 16u);
    write_results(row + 48u, token + 48u, index);
}
