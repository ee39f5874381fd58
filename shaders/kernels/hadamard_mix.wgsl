// The part of a Hadamard transform that is no power of two: ORDER rows of LENGTH are added with signs, or with weights.
// out[t, i·LENGTH + j] (+)= after[…]·scale·Σ_k m[i, k]·x[t, k·LENGTH + j]; bit k of row i of `mix_words` says minus; DENSE: numbers.

struct Mix {
    x_stride: u32,
    y_stride: u32,
    y_offset: u32,
    scale: f32,
    width: u32, // results that are written
}
@group(0) @binding(3) var<uniform> P: Mix;
@group(0) @binding(0) var<storage, read> mix_words: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read> after: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x / LENGTH;
    let j = id.x % LENGTH;
    if (i >= ORDER || id.x >= P.width) {
        return;
    }
    let words = (ORDER + 31u) / 32u;
    var sum = 0.0;
    for (var k = 0u; k < ORDER; k++) {
        let v = x[id.y * P.x_stride + k * LENGTH + j];
        if (DENSE) {
            sum += bitcast<f32>(mix_words[i * ORDER + k]) * v;
        } else {
            let minus = (mix_words[i * words + k / 32u] >> (k & 31u)) & 1u;
            sum += select(v, -v, minus == 1u);
        }
    }
    var value = sum * P.scale;
    if (AFTER) {
        value *= after[id.x];
    }
    let at = id.y * P.y_stride + P.y_offset + id.x;
    if (ADD) {
        value += y[at];
    }
    y[at] = value;
}
