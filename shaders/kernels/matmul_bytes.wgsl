// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens, of integer weights and of activations in bytes, by packed
// dot products: 64 rows × 64 tokens a workgroup, two units of columns at a time in workgroup memory; each of 128 lanes sums
// 8 rows × 4 tokens. While it multiplies, the next units are on their way.
// x: kernels/bytes.wgsl; y: [tokens, rows of the whole layer].
// requires: codec with integers_of, lib/integers.wgsl, lib/product.wgsl, lib/product_out.wgsl, lib/eight_rows.wgsl, lib/step.wgsl

@group(0) @binding(4) var<storage, read> x: array<vec4<u32>>;

const TOKENS_APART: u32 = 16u; // of a lane

// Of two units, and of 64 rows or tokens: both halves of the bytes; (scale, offset) of both halves; scale and sums.
var<workgroup> w_bytes: array<vec4<u32>, 256>;
var<workgroup> w_factors: array<vec4<f32>, 128>;
var<workgroup> x_bytes: array<vec4<u32>, 256>;
var<workgroup> x_factors: array<vec4<f32>, 128>;

// A unit of a token.
struct Bytes32 {
    a: vec4<u32>, b: vec4<u32>,
    factors: vec4<f32>,
}

// A unit of four tokens.
struct Four {
    a: Bytes32, b: Bytes32, c: Bytes32, d: Bytes32,
}

fn load_x(token: u32, unit: u32) -> Bytes32 {
    if (unit >= P.units) {
        return Bytes32(vec4(0u), vec4(0u), vec4(0.0));
    }
    let at = (min(token, token_end - 1u) * P.units + unit) * 3u;
    return Bytes32(x[at], x[at + 1u], bitcast<vec4<f32>>(x[at + 2u]));
}

// Beyond the last unit x is 0.
fn load_w(row: u32, unit: u32) -> Integers32 {
    let at = min(unit, P.units - 1u);
    return integers_of(row, at, group_of(row, at));
}

fn staged_x(token: u32, unit: u32) -> Bytes32 {
    let at = unit * 128u + token;
    return Bytes32(x_bytes[at], x_bytes[at + 64u], x_factors[unit * 64u + token]);
}

fn dot_a(q: vec4<u32>, x: Four) -> vec4<f32> {
    return vec4(f32(integer_dot(q, x.a.a)), f32(integer_dot(q, x.b.a)),
                f32(integer_dot(q, x.c.a)), f32(integer_dot(q, x.d.a)));
}

fn dot_b(q: vec4<u32>, x: Four) -> vec4<f32> {
    return vec4(f32(integer_dot(q, x.a.b)), f32(integer_dot(q, x.b.b)),
                f32(integer_dot(q, x.c.b)), f32(integer_dot(q, x.d.b)));
}

fn dot_ab(q: vec4<u32>, r: vec4<u32>, x: Four) -> vec4<f32> {
    return vec4(f32(integer_dot(q, x.a.a) + integer_dot(r, x.a.b)), f32(integer_dot(q, x.b.a) + integer_dot(r, x.b.b)),
                f32(integer_dot(q, x.c.a) + integer_dot(r, x.c.b)), f32(integer_dot(q, x.d.a) + integer_dot(r, x.d.b)));
}

// Adds a unit of a row times that of four tokens.
fn add_unit(sum: vec4<f32>, row: u32, unit: u32, x: Four) -> vec4<f32> {
    let at = unit * 128u + row;
    let f = w_factors[unit * 64u + row];
    let scales = vec4(x.a.factors.x, x.b.factors.x, x.c.factors.x, x.d.factors.x);
    let sums_a = vec4(x.a.factors.y, x.b.factors.y, x.c.factors.y, x.d.factors.y);
    let sums_b = vec4(x.a.factors.z, x.b.factors.z, x.c.factors.z, x.d.factors.z);
    if (GROUPS_OF_16) {
        return sum + scales * (f.x * dot_a(w_bytes[at], x) + f.z * dot_b(w_bytes[at + 64u], x)) + f.y * sums_a + f.w * sums_b;
    }
    return sum + f.x * scales * dot_ab(w_bytes[at], w_bytes[at + 64u], x) + f.y * (sums_a + sums_b);
}

fn add_rows(sums: Eight, row: u32, unit: u32, x: Four) -> Eight {
    return Eight(add_unit(sums.a, row, unit, x), add_unit(sums.b, row + 8u, unit, x),
                 add_unit(sums.c, row + 16u, unit, x), add_unit(sums.d, row + 24u, unit, x),
                 add_unit(sums.e, row + 32u, unit, x), add_unit(sums.f, row + 40u, unit, x),
                 add_unit(sums.g, row + 48u, unit, x), add_unit(sums.h, row + 56u, unit, x));
}

@compute @workgroup_size(8, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(index, 128u);
    workgroupBarrier();
    // This lane's share of filling the tiles: a unit of a row and of a token.
    let own = index & 63u;
    let own_unit = index >> 6u;
    let own_row = min(group.x * 64u + own, P.padded_rows - 1u);
    let own_token = group.y * 64u + own;
    let place = own_unit * 128u + own;
    var w = load_w(own_row, own_unit);
    var x_next = load_x(own_token, own_unit);
    var sums: Eight;
    for (var unit = 0u; unit < P.units; unit += 2u) {
        w_bytes[place] = w.codes.a;
        w_bytes[place + 64u] = w.codes.b;
        w_factors[index] = w.factors;
        x_bytes[place] = x_next.a;
        x_bytes[place + 64u] = x_next.b;
        x_factors[index] = x_next.factors;
        workgroupBarrier();
        w = load_w(own_row, unit + 2u + own_unit);
        x_next = load_x(own_token, unit + 2u + own_unit);
        for (var i = 0u; i < 2u; i++) {
            let four = Four(staged_x(lane.y, i), staged_x(lane.y + 16u, i), staged_x(lane.y + 32u, i), staged_x(lane.y + 48u, i));
            sums = add_rows(sums, lane.x, i, four);
        }
        workgroupBarrier();
    }
    store_rows(group.y * 64u + lane.y, group.x * 64u + lane.x, sums);
}
