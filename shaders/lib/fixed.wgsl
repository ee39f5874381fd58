// Activations as integers: 32 neighbours share a power of two and have three signed bytes each, high·2¹⁶ + middle·2⁸ + low,
// of 23 bits at most: as fine as f32's own. Their sums with integer weights are exact, by packed dot products.
// provides: Codes32, nibble_codes, Staged, fixed_dot, fixed_dot16, stage_units, staged_unit
// requires: lib/product.wgsl, x4, CHUNK (units at a time), LANES; subgroups

// 32 neighbouring weights, signed bytes.
struct Codes32 {
    a: vec4<u32>, b: vec4<u32>,
}

// Of four bits, in quads as in lib/nibbles.wgsl.
fn nibble_codes(w: vec4<u32>) -> Codes32 {
    let low = w & vec4(0x0f0f0f0fu);
    let high = (w >> vec4(4u)) & vec4(0x0f0f0f0fu);
    return Codes32(vec4(low.x, high.x, low.y, high.y), vec4(low.z, high.z, low.w, high.w));
}

// 16 neighbouring activations, four bytes a word.
struct Fixed16 {
    high: vec4<u32>, middle: vec4<u32>, low: vec4<u32>,
    sum: f32, // Σx
}

struct Staged {
    a: Fixed16, b: Fixed16,
    scale: f32, // what the integers are multiplied by
}

var<workgroup> planes: array<vec4<u32>, 6u * CHUNK>; // of a unit high, middle and low, two vec4s each
var<workgroup> half_sums: array<f32, 2u * CHUNK>;
var<workgroup> factors: array<f32, CHUNK>;

fn integer_dot(q: vec4<u32>, x: vec4<u32>) -> i32 {
    return dot4I8Packed(q.x, x.x) + dot4I8Packed(q.y, x.y) + dot4I8Packed(q.z, x.z) + dot4I8Packed(q.w, x.w);
}

// high·2¹⁶ + middle·2⁸ + low.
fn joined(high: i32, middle: i32, low: i32) -> f32 {
    return 65536.0 * f32(high) + f32(256 * middle + low);
}

// Σ q·x.
fn fixed_dot(q: Codes32, x: Staged) -> f32 {
    return joined(integer_dot(q.a, x.a.high) + integer_dot(q.b, x.b.high),
                  integer_dot(q.a, x.a.middle) + integer_dot(q.b, x.b.middle),
                  integer_dot(q.a, x.a.low) + integer_dot(q.b, x.b.low)) * x.scale;
}

// The same of half a unit, without its scale.
fn fixed_dot16(q: vec4<u32>, x: Fixed16) -> f32 {
    return joined(integer_dot(q, x.high), integer_dot(q, x.middle), integer_dot(q, x.low));
}

// One byte of four integers.
fn byte_of(n: vec4<u32>, shift: u32) -> u32 {
    let bytes = ((n >> vec4(shift)) & vec4(255u)) << vec4(0u, 8u, 16u, 24u);
    return bytes.x | bytes.y | bytes.z | bytes.w;
}

// Integers of 16 activations, plus 0x8080: so that the bytes below carry what they need to be signed.
struct Integers16 {
    a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>,
}

fn bytes_of(n: Integers16, shift: u32) -> vec4<u32> {
    return vec4(byte_of(n.a, shift), byte_of(n.b, shift), byte_of(n.c, shift), byte_of(n.d, shift));
}

// Adding 1.5·2²³ rounds to the integer that the mantissa then ends with.
fn integers(v: vec4<f32>, up: f32) -> vec4<u32> {
    return bitcast<vec4<u32>>(v * up + 12582912.0) - vec4(0x4b400000u - 0x8080u);
}

// Of activations, magnitudes to be compared: what is not finite is more than all else.
fn magnitudes(v: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(v) & vec4(0x7fffffffu);
}

// Units `first` and up of a token, all lanes together; neighbouring lanes must be neighbours in their subgroup.
fn stage_units(token: u32, first: u32, index: u32) {
    for (var begin = 0u; begin < 2u * CHUNK; begin += LANES) {
        let at = begin + index; // which half of a unit
        let j = 8u * first + 4u * at;
        var a = vec4(0.0);
        var b = a;
        var c = a;
        var d = a;
        if (at < 2u * CHUNK && first + at / 2u < P.units) {
            a = x4(token, j);
            b = x4(token, j + 1u);
            c = x4(token, j + 2u);
            d = x4(token, j + 3u);
        }
        let most = max(max(magnitudes(a), magnitudes(b)), max(magnitudes(c), magnitudes(d)));
        let own = max(max(most.x, most.y), max(most.z, most.w));
        let largest = max(own, subgroupShuffleXor(own, 1u));
        let exponent = clamp(largest >> 23u, 23u, 254u);
        let up = bitcast<f32>((275u - exponent) << 23u); // at most 2²²
        // What is not finite must not vanish in an integer.
        let down = bitcast<f32>(select((exponent - 21u) << 23u, 0x7fc00000u, largest >= 0x7f800000u));
        let n = Integers16(integers(a, up), integers(b, up), integers(c, up), integers(d, up));
        let sums = n.a + n.b + n.c + n.d;
        let sum = i32(sums.x + sums.y + sums.z + sums.w - 16u * 0x8080u);
        if (at < 2u * CHUNK) {
            let place = at / 2u * 6u + (at & 1u);
            planes[place] = bytes_of(n, 16u);
            planes[place + 2u] = bytes_of(n, 8u) ^ vec4(0x80808080u);
            planes[place + 4u] = bytes_of(n, 0u) ^ vec4(0x80808080u);
            half_sums[at] = f32(sum) * down;
            if ((at & 1u) == 0u) {
                factors[at / 2u] = down;
            }
        }
    }
}

// Of those that were staged.
fn staged_unit(unit: u32) -> Staged {
    let at = 6u * unit;
    return Staged(Fixed16(planes[at], planes[at + 2u], planes[at + 4u], half_sums[2u * unit]),
                  Fixed16(planes[at + 1u], planes[at + 3u], planes[at + 5u], half_sums[2u * unit + 1u]),
                  factors[unit]);
}
