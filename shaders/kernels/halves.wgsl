// Activations for matrix units, in f16: x·2^-shift = high + low, with a shift a token such that its largest number is
// below 2¹⁵; both halves together are as fine as f32. A workgroup a token.
// x: [tokens, cols]; halves: [tokens, 16·units + 2] of four: high, low, then (shift, 0, 0, 0) and nothing.
// requires: lib/product.wgsl, lib/product_io.wgsl, lib/product_out.wgsl, lib/nearest_half.wgsl

@group(0) @binding(9) var<storage, read_write> halves: array<vec4<f16>>;

var<workgroup> largest: atomic<u32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.y;
    token_end = token + 1u; // the grid has a workgroup a token
    if (lane == 0u) {
        atomicStore(&largest, 0u);
    }
    workgroupBarrier();
    let vecs = 8u * P.units;
    var most = vec4(0u);
    for (var j = lane; j < vecs; j += 128u) {
        most = max(most, bitcast<vec4<u32>>(x4(token, j)) & vec4(0x7fffffffu));
    }
    atomicMax(&largest, max(max(most.x, most.y), max(most.z, most.w)));
    workgroupBarrier();
    let found = atomicLoad(&largest);
    let exponent = clamp(found >> 23u, 15u, 254u);
    let up = bitcast<f32>((268u - exponent) << 23u);
    let first = token * (2u * vecs + 2u);
    for (var j = lane; j < vecs; j += 128u) {
        let v = x4(token, j) * up;
        let high = nearest_half(v);
        halves[first + j] = vec4<f16>(high);
        halves[first + vecs + j] = vec4<f16>(v - high);
    }
    if (lane == 0u) {
        // A shift of 1000: something was not finite.
        let shift = select(i32(exponent) - 141, 1000, found >= 0x7f800000u);
        halves[first + 2u * vecs] = vec4<f16>(f16(shift), 0.0h, 0.0h, 0.0h);
    }
}
