// Division that is the same on every device.
// provides: quotient

// a / b of numbers that are not negative, correctly rounded by long division: WGSL's own may be off by 2.5 ULP.
fn quotient(a: f32, b: f32) -> f32 {
    let x = bitcast<u32>(a);
    let y = bitcast<u32>(b);
    if (x < 0x00800000u || y < 0x00800000u) {
        return 0.0;
    }
    let divisor = (y & 0x007fffffu) | 0x00800000u;
    var rest = (x & 0x007fffffu) | 0x00800000u;
    var exponent = i32(x >> 23u) - i32(y >> 23u) + 127;
    if (rest < divisor) {
        rest <<= 1u;
        exponent -= 1;
    }
    var digits = 0u;
    for (var i = 0u; i < 24u; i++) {
        digits <<= 1u;
        if (rest >= divisor) {
            rest -= divisor;
            digits |= 1u;
        }
        rest <<= 1u;
    }
    if (rest > divisor || (rest == divisor && (digits & 1u) == 1u)) {
        digits += 1u;
    }
    if (exponent < 1) {
        return 0.0;
    }
    return bitcast<f32>((u32(exponent) << 23u) + (digits - 0x00800000u)); // a carry goes to the exponent
}
