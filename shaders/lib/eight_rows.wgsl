// Eight rows for a lane, 8 apart, and where their sums go.
// provides: Eight, store_rows    requires: lib/product_out.wgsl, TOKENS_APART (from one token of a lane to its next)

// What a lane works on: eight rows, 8 apart: four of their columns, or sums of four tokens.
struct Eight {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

fn store4(token: u32, row: u32, sums: vec4<f32>) {
    store(token, row, sums.x);
    store(token + TOKENS_APART, row, sums.y);
    store(token + 2u * TOKENS_APART, row, sums.z);
    store(token + 3u * TOKENS_APART, row, sums.w);
}

fn store_rows(token: u32, row: u32, sums: Eight) {
    store4(token, row, sums.a);
    store4(token, row + 8u, sums.b);
    store4(token, row + 16u, sums.c);
    store4(token, row + 24u, sums.d);
    store4(token, row + 32u, sums.e);
    store4(token, row + 40u, sums.f);
    store4(token, row + 48u, sums.g);
    store4(token, row + 56u, sums.h);
}
