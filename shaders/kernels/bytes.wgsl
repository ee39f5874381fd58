// Activations for packed dot products, a byte each; 32 share a scale. Two lanes a unit.
// x: [tokens, cols]; bytes: [tokens, 3·units] of four words: the bytes, four a word, then the scale and both halves' sums of
// what the bytes stand for.
// requires: lib/product.wgsl, lib/product_io.wgsl, lib/product_out.wgsl, lib/x_integers.wgsl

@group(0) @binding(9) var<storage, read_write> bytes: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.y;
    token_end = token + 1u; // the grid has a row a token
    let n = integers16(token, 4u * id.x, id.x < 2u * P.units);
    let sum = sum_of_integers(n) * n.scale;
    let other = subgroupShuffleXor(sum, 1u);
    if (id.x < 2u * P.units) {
        let at = (token * P.units + id.x / 2u) * 3u;
        bytes[at + (id.x & 1u)] = bytes_of(n, 0u);
        if ((id.x & 1u) == 0u) {
            bytes[at + 2u] = bitcast<vec4<u32>>(vec4(n.scale, sum, other, 0.0));
        }
    }
}
