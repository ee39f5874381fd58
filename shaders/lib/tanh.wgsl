// tanh by exp: WGSL's own is a quotient that overflows to NaN from 44 on, and promises few digits.
// provides: bounded_tanh

fn bounded_tanh(v: f32) -> f32 {
    let s = v * v;
    if (s < 0.04) {
        return v * (1.0 + s * (-0.33333334 + s * (0.13333334 - s * 0.053968254)));
    }
    let c = clamp(v, -15.0, 15.0);
    return 1.0 - 2.0 / (exp(2.0 * c) + 1.0);
}
