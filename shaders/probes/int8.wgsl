// Packed dot products of four int8 with 32-bit sums: eight operations a multiply-add.

fn value(seed: u32) -> u32 {
    return seed * 0x9e3779b9u;
}

fn multiply_add(c: u32, a: u32, b: u32) -> u32 {
    return u32(dot4I8Packed(c, a)) + b;
}

fn bits(c: u32) -> u32 {
    return c;
}
