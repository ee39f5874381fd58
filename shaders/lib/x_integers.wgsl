// Activations as integers: 32 neighbours share a power of two and have PLANES signed bytes each: three, high·2¹⁶ + middle·2⁸ +
// low, of 23 bits at most, which is as fine as f32's own; or one, which loses up to 1/128 of the largest of them.
// provides: Integers16, integers16, bytes_of, sum_of_integers    requires: x4, PLANES; subgroups

// Integers have at most so many bits, and a sign.
const BITS: u32 = select(7u, 22u, PLANES == 3u);
// What is added to them so that the bytes below carry what they need to be signed.
const CARRY: u32 = select(0u, 0x8080u, PLANES == 3u);

// Of 16 activations, plus CARRY.
struct Integers16 {
    a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>,
    scale: f32, // what they are multiplied by
}

// One byte of four integers.
fn byte_of(n: vec4<u32>, shift: u32) -> u32 {
    let bytes = ((n >> vec4(shift)) & vec4(255u)) << vec4(0u, 8u, 16u, 24u);
    return bytes.x | bytes.y | bytes.z | bytes.w;
}

fn bytes_of(n: Integers16, shift: u32) -> vec4<u32> {
    return vec4(byte_of(n.a, shift), byte_of(n.b, shift), byte_of(n.c, shift), byte_of(n.d, shift));
}

fn sum_of_integers(n: Integers16) -> f32 {
    let sums = n.a + n.b + n.c + n.d;
    return f32(i32(sums.x + sums.y + sums.z + sums.w - 16u * CARRY));
}

// Adding 1.5·2²³ rounds to the integer that the mantissa then ends with.
fn integers(v: vec4<f32>, up: f32) -> vec4<u32> {
    return bitcast<vec4<u32>>(v * up + 12582912.0) - vec4(0x4b400000u - CARRY);
}

// Of activations, magnitudes to be compared: what is not finite is more than all else.
fn magnitudes(v: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(v) & vec4(0x7fffffffu);
}

// Half a unit from x[4j] on, or zeros; two lanes that are neighbours in their subgroup have a unit.
fn integers16(token: u32, j: u32, there: bool) -> Integers16 {
    var a = vec4(0.0);
    var b = a;
    var c = a;
    var d = a;
    if (there) {
        a = x4(token, j);
        b = x4(token, j + 1u);
        c = x4(token, j + 2u);
        d = x4(token, j + 3u);
    }
    let most = max(max(magnitudes(a), magnitudes(b)), max(magnitudes(c), magnitudes(d)));
    let own = max(max(most.x, most.y), max(most.z, most.w));
    let largest = max(own, subgroupShuffleXor(own, 1u));
    // From 127½ on a byte has no room for what it would be rounded to.
    let exponent = clamp((largest + select(0x10000u, 0u, PLANES == 3u)) >> 23u, BITS + 1u, 255u);
    let up = bitcast<f32>((253u + BITS - exponent) << 23u);
    // What is not finite must not vanish in an integer.
    let down = bitcast<f32>(select((exponent + 1u - BITS) << 23u, 0x7fc00000u, largest >= 0x7f800000u));
    return Integers16(integers(a, up), integers(b, up), integers(c, up), integers(d, up), down);
}
