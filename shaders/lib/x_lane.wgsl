// 32 activations for every lane: each loads all of them.
// provides: x_rank, x32    requires: lib/product.wgsl, lib/product_io.wgsl

fn x_rank() -> u32 {
    return 0u;
}

fn x32(token: u32, unit: u32, rank: u32) -> X32 {
    let j = 8u * unit;
    return X32(x4(token, j), x4(token, j + 1u), x4(token, j + 2u), x4(token, j + 3u),
               x4(token, j + 4u), x4(token, j + 5u), x4(token, j + 6u), x4(token, j + 7u));
}
