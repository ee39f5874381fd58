// f16 in pairs: four operations a multiply-add.

fn value(seed: u32) -> vec2<f16> {
    return vec2<f16>(f16(seed % 7u) * 0.125h + 0.0625h, f16(seed % 5u) * 0.125h + 0.0625h);
}

fn multiply_add(c: vec2<f16>, a: vec2<f16>, b: vec2<f16>) -> vec2<f16> {
    return c * a + b;
}

fn bits(c: vec2<f16>) -> u32 {
    return pack2x16float(vec2<f32>(c));
}
