// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens, without workgroup memory: a lane owns
// BLOCK_ROWS rows, 8 apart as in lib/split.wgsl, and 8·EIGHTS tokens: a weight is decoded once for all of these tokens, an
// activation loaded once for all of these rows. Compilers unroll loops over eight tokens, and no longer ones, and then keep
// the sums in registers: hence the sums and activations of each eight have names of their own.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// requires: codec, x source, lib/product.wgsl, lib/product_io.wgsl, lib/step.wgsl

const TABLE_ROOM: u32 = 16384u; // bytes of workgroup memory that the codec may take

struct Weights32 {
    a: Weights8,
    b: Weights8,
    c: Weights8,
    d: Weights8,
}

fn products32(w: Weights32, x: X32) -> f32 {
    return dot(w.a.a, x.a) + dot(w.a.b, x.b) + (dot(w.b.a, x.c) + dot(w.b.b, x.d))
        + (dot(w.c.a, x.e) + dot(w.c.b, x.f)) + (dot(w.d.a, x.g) + dot(w.d.b, x.h));
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(lane.x, 32u);
    workgroupBarrier();
    let rank = x_rank();
    let token = group.y * 8u * EIGHTS;
    let row = (group.x * 32u + lane.x / 8u * 8u) * BLOCK_ROWS + lane.x % 8u;
    let last = P.padded_rows - 1u; // lanes beyond the rows work on the last one and store nothing
    var sums: array<array<f32, 8>, BLOCK_ROWS>;
    var sums_b: array<array<f32, 8>, BLOCK_ROWS>;
    var sums_c: array<array<f32, 8>, BLOCK_ROWS>;
    for (var unit = 0u; unit < P.units; unit++) {
        var xs: array<X32, 8>;
        var xs_b: array<X32, 8>;
        var xs_c: array<X32, 8>;
        for (var t = 0u; t < 8u; t++) {
            xs[t] = x32(token + t, unit, rank);
        }
        if (EIGHTS == 3u) {
            for (var t = 0u; t < 8u; t++) {
                xs_b[t] = x32(token + 8u + t, unit, rank);
            }
            for (var t = 0u; t < 8u; t++) {
                xs_c[t] = x32(token + 16u + t, unit, rank);
            }
        }
        for (var r = 0u; r < BLOCK_ROWS; r++) {
            let at = min(row + 8u * r, last);
            let w = Weights32(decode8(at, 4u * unit), decode8(at, 4u * unit + 1u),
                              decode8(at, 4u * unit + 2u), decode8(at, 4u * unit + 3u));
            for (var t = 0u; t < 8u; t++) {
                sums[r][t] += products32(w, xs[t]);
            }
            if (EIGHTS == 3u) {
                for (var t = 0u; t < 8u; t++) {
                    sums_b[r][t] += products32(w, xs_b[t]);
                }
                for (var t = 0u; t < 8u; t++) {
                    sums_c[r][t] += products32(w, xs_c[t]);
                }
            }
        }
    }
    for (var r = 0u; r < BLOCK_ROWS; r++) {
        for (var t = 0u; t < 8u; t++) {
            store(token + t, row + 8u * r, sums[r][t]);
            if (EIGHTS == 3u) {
                store(token + 8u + t, row + 8u * r, sums_b[r][t]);
                store(token + 16u + t, row + 8u * r, sums_c[r][t]);
            }
        }
    }
}
