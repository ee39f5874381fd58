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

const WORDS: u32 = (ORDER + 31u) / 32u; // of a row of signs

// Row k of column `first`, times entry (i, k); eight of them are on their way together.
fn term(first: u32, i: u32, k: u32, signs: u32) -> f32 {
    let last = min(k, ORDER - 1u);
    let v = x[first + last * LENGTH];
    if (DENSE) {
        return select(0.0, bitcast<f32>(mix_words[i * ORDER + last]) * v, k < ORDER);
    }
    let sign = (signs << (31u - (k & 31u))) & 0x80000000u;
    return select(0.0, bitcast<f32>(bitcast<u32>(v) ^ sign), k < ORDER);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x / LENGTH;
    if (i >= ORDER || id.x >= P.width) {
        return;
    }
    let first = id.y * P.x_stride + id.x % LENGTH;
    var sum = 0.0;
    for (var k = 0u; k < ORDER; k += 8u) {
        var signs = 0u;
        if (!DENSE) {
            signs = mix_words[i * WORDS + k / 32u];
        }
        sum += ((term(first, i, k, signs) + term(first, i, k + 1u, signs))
            + (term(first, i, k + 2u, signs) + term(first, i, k + 3u, signs)))
            + ((term(first, i, k + 4u, signs) + term(first, i, k + 5u, signs))
            + (term(first, i, k + 6u, signs) + term(first, i, k + 7u, signs)));
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
