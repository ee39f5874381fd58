// f32: two operations a multiply-add.

fn value(seed: u32) -> f32 {
    return f32(seed % 7u) * 0.125 + 0.0625;
}

fn multiply_add(c: f32, a: f32, b: f32) -> f32 {
    return c * a + b;
}

fn bits(c: f32) -> u32 {
    return bitcast<u32>(c);
}
