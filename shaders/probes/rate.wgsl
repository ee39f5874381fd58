// Multiply-adds of values in registers, in eight independent chains: the most that a product could reach here.

struct Rate {
    steps: u32,
}
@group(0) @binding(3) var<uniform> P: Rate;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let a = value(id.x);
    let b = value(id.x + 1u);
    var c0 = value(id.x + 2u);
    var c1 = value(id.x + 3u);
    var c2 = value(id.x + 4u);
    var c3 = value(id.x + 5u);
    var c4 = value(id.x + 6u);
    var c5 = value(id.x + 7u);
    var c6 = value(id.x + 8u);
    var c7 = value(id.x + 9u);
    for (var step = 0u; step < P.steps; step++) {
        c0 = multiply_add(c0, a, b);
        c1 = multiply_add(c1, a, b);
        c2 = multiply_add(c2, a, b);
        c3 = multiply_add(c3, a, b);
        c4 = multiply_add(c4, a, b);
        c5 = multiply_add(c5, a, b);
        c6 = multiply_add(c6, a, b);
        c7 = multiply_add(c7, a, b);
        c0 = multiply_add(c0, b, a);
        c1 = multiply_add(c1, b, a);
        c2 = multiply_add(c2, b, a);
        c3 = multiply_add(c3, b, a);
        c4 = multiply_add(c4, b, a);
        c5 = multiply_add(c5, b, a);
        c6 = multiply_add(c6, b, a);
        c7 = multiply_add(c7, b, a);
    }
    // What nobody reads would not be computed.
    y[id.x % 256u] = bits(c0) ^ bits(c1) ^ bits(c2) ^ bits(c3) ^ bits(c4) ^ bits(c5) ^ bits(c6) ^ bits(c7);
}
