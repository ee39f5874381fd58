// f32, f16, bf16 (FORMAT 0, 1, 2): cells of 16 bytes, 4 or 8 weights.
// provides: prepare, decode8, dot32    requires: lib/product.wgsl

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;

fn prepare(lane: u32, lanes: u32) {}

fn decode8(row: u32, i: u32) -> Weights8 {
    if (FORMAT == 0u) {
        let cells = (P.cols + 3u) / 4u;
        let last = cells - 1u;
        let a = bitcast<vec4<f32>>(codes[cell_index(row, min(2u * i, last), cells)]);
        let b = bitcast<vec4<f32>>(codes[cell_index(row, min(2u * i + 1u, last), cells)]);
        return Weights8(a, b);
    }
    let cells = (P.cols + 7u) / 8u;
    let v = codes[cell_index(row, min(i, cells - 1u), cells)];
    if (FORMAT == 1u) {
        return Weights8(vec4(unpack2x16float(v.x), unpack2x16float(v.y)),
                        vec4(unpack2x16float(v.z), unpack2x16float(v.w)));
    }
    let low = bitcast<vec4<f32>>(v << vec4(16u));
    let high = bitcast<vec4<f32>>(v & vec4(0xffff0000u));
    return Weights8(vec4(low.x, high.x, low.y, high.y), vec4(low.z, high.z, low.w, high.w));
}

fn dot32(row: u32, unit: u32, x: X32) -> f32 {
    let w0 = decode8(row, 4u * unit);
    let w1 = decode8(row, 4u * unit + 1u);
    let w2 = decode8(row, 4u * unit + 2u);
    let w3 = decode8(row, 4u * unit + 3u);
    return sum4(w0.a * x.a + w0.b * x.b + w1.a * x.c + w1.b * x.d
              + w2.a * x.e + w2.b * x.f + w3.a * x.g + w3.b * x.h);
}
