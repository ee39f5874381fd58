// y[t, row] (+)= s[t]·S[row]·Σ_k W[row, k]·q[t, k] + bias[row], summed in integers: weights and activations are
// 8-bit integers with one scale a row and a token. A lane owns a row; SPLIT lanes share it; BATCH tokens at a time.
// x: [tokens, x_stride] words of four codes, then the scale (kernels/quantize.wgsl); y: [tokens, rows of the layer].
// requires: codec with codes32 and row_scale, lib/product.wgsl, lib/product_out.wgsl, lib/step.wgsl

@group(0) @binding(4) var<storage, read> x: array<u32>;

var<workgroup> partial: array<array<i32, BATCH>, 32u * SPLIT>;

@compute @workgroup_size(32, SPLIT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    token_end = step[select(TOKENS, HEAD_ROWS, HEAD)];
    prepare(lane.y * 32u + lane.x, 32u * SPLIT);
    workgroupBarrier();
    let row = group.x * 32u + lane.x;
    let stored_row = min(row, P.padded_rows - 1u);
    let first = group.y * BATCH;
    let count = min(BATCH, token_end - min(first, token_end));
    let words = P.cols / 4u;
    var sums: array<i32, BATCH>;
    for (var unit = lane.y; unit < P.units; unit += SPLIT) {
        let w = codes32(stored_row, unit);
        let here = min(8u, words - 8u * unit);
        for (var t = 0u; t < count; t++) {
            let at = (first + t) * P.x_stride + 8u * unit;
            for (var i = 0u; i < here; i++) {
                sums[t] += dot4I8Packed(w[i], x[at + i]);
            }
        }
    }
    partial[lane.y * 32u + lane.x] = sums;
    workgroupBarrier();
    if (lane.y > 0u) {
        return;
    }
    let scale = row_scale(stored_row);
    for (var t = 0u; t < count; t++) {
        var sum = 0;
        for (var i = 0u; i < SPLIT; i++) {
            sum += partial[i * 32u + lane.x][t];
        }
        store(first + t, row, f32(sum) * (scale * bitcast<f32>(x[(first + t) * P.x_stride + words])));
    }
}
