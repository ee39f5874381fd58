// y[t, row] += Σ value·x[t, column] over the entries of a row (CSR): an f16 value and a u16 column a word.
// x: [tokens, cols], y: [tokens, rows of the whole layer]; one token an id.y of the grid.
// requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> offsets: array<u32>;
@group(0) @binding(1) var<storage, read> entries: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if (row >= P.rows) {
        return;
    }
    var sum = 0.0;
    for (var i = offsets[row]; i < offsets[row + 1u]; i++) {
        let column = entries[i] & 0xffffu;
        sum += f16_value(entries[i] >> 16u) * x[id.y * P.x_stride + column / 4u][column & 3u];
    }
    y[id.y * P.y_stride + P.y_offset + row] += sum;
}
