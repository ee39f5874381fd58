// Reading the activations of a product that an RMSNorm (Zhang & Sennrich 2019) stands before: they wait in workgroup
// memory, weighted and permuted; what they are divided by comes out beside it, for the sums. x: [tokens, cols].
// provides: x4, stage    requires: lib/product.wgsl, lib/reduce_workgroup.wgsl, PERMUTED, X_VECS, LANES

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> permutation: array<u32>;
@group(0) @binding(9) var<storage, read> norm: array<vec4<f32>>;

var<workgroup> staged: array<vec4<f32>, X_VECS>; // whole units: zero beyond the columns

fn weighted(token: u32, k: u32) -> f32 {
    return x[token * P.x_stride + k / 4u][k & 3u] * norm[k / 4u][k & 3u];
}

// Norms a token's activations, all lanes together; returns what the sums are to be multiplied by.
fn stage(token: u32, lane: u32) -> f32 {
    var squares = vec4(0.0);
    for (var j = lane; j < X_VECS; j += LANES) {
        var v = vec4(0.0);
        if (4u * j < P.cols) {
            let own = x[token * P.x_stride + j];
            squares += own * own;
            if (PERMUTED) {
                v = vec4(weighted(token, permutation[4u * j]), weighted(token, permutation[4u * j + 1u]),
                         weighted(token, permutation[4u * j + 2u]), weighted(token, permutation[4u * j + 3u]));
            } else {
                v = own * norm[j];
            }
        }
        staged[j] = v;
    }
    return inverseSqrt(reduce_add(sum4(squares), lane) / f32(P.cols) + P.eps); // its barriers publish `staged`
}

fn x4(token: u32, j: u32) -> vec4<f32> {
    return staged[j];
}
