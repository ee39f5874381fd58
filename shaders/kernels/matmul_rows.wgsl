// y[t, row] (+)= Σ_k W[row, k]·x[t, k] + bias[row] for many tokens, without workgroup memory: a lane owns
// BLOCK_ROWS rows, 32 apart, and BLOCK_TOKENS tokens: a weight is decoded once for all of these tokens, an activation
// loaded once for all of these rows. The loops over both are short and constant: compilers unroll them and keep the sums in registers.
// x: [tokens, cols], y: [tokens, rows of the whole layer].
// requires: codec, x source, lib/product.wgsl, lib/product_io.wgsl, lib/step.wgsl

const TABLE_ROOM: u32 = 16384u; // bytes of workgroup memory that the codec may take

fn products8(w: Weights8, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return dot(w.a, a) + dot(w.b, b);
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(lane.x, 32u);
    workgroupBarrier();
    let rank = x_rank();
    let token = group.y * BLOCK_TOKENS;
    let row = group.x * 32u * BLOCK_ROWS + lane.x;
    let last = P.padded_rows - 1u; // lanes beyond the rows work on the last one and store nothing
    var sums: array<array<f32, BLOCK_TOKENS>, BLOCK_ROWS>;
    for (var unit = 0u; unit < P.units; unit++) {
        var xs: array<X32, BLOCK_TOKENS>;
        for (var t = 0u; t < BLOCK_TOKENS; t++) {
            xs[t] = x32(token + t, unit, rank);
        }
        for (var r = 0u; r < BLOCK_ROWS; r++) {
            let at = min(row + 32u * r, last);
            let w0 = decode8(at, 4u * unit);
            let w1 = decode8(at, 4u * unit + 1u);
            let w2 = decode8(at, 4u * unit + 2u);
            let w3 = decode8(at, 4u * unit + 3u);
            for (var t = 0u; t < BLOCK_TOKENS; t++) {
                let x = xs[t];
                sums[r][t] += products8(w0, x.a, x.b) + products8(w1, x.c, x.d)
                    + products8(w2, x.e, x.f) + products8(w3, x.g, x.h);
            }
        }
    }
    for (var r = 0u; r < BLOCK_ROWS; r++) {
        for (var t = 0u; t < BLOCK_TOKENS; t++) {
            store(token + t, row + 32u * r, sums[r][t]);
        }
    }
}
