// out[t, i] (+)= Σ_s weights[t, s]·x[t·per_token + s, i]: the outputs of a token's experts become one.
// x: [tokens · per_token, stride], out: [tokens, width].

struct Combine {
    width: u32,
    stride: u32,
    per_token: u32,
}
@group(0) @binding(3) var<uniform> P: Combine;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> weights: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= P.width) {
        return;
    }
    var sum = 0.0;
    for (var slot = 0u; slot < P.per_token; slot++) {
        let row = id.y * P.per_token + slot;
        sum += weights[row] * x[row * P.stride + id.x];
    }
    let at = id.y * P.width + id.x;
    if (ADD) {
        sum += y[at];
    }
    y[at] = sum;
}
