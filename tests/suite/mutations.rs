//! Whether `verify` would notice: every shader part is broken in one place, and `verify` must see it.

use halfbyte::gpu::link::{PARTS, part};
use halfbyte::gpu::{Context, Options, Rounding};
use halfbyte::verify::{Outcome, verify_only};
use std::collections::{BTreeMap, HashSet};

/// One change to one part, with the kernel and codec that must fail.
struct Mutation {
    file: &'static str,
    from: &'static str,
    to: &'static str,
    kernel: &'static str,
    codec: &'static str,
}

const fn mutation(
    file: &'static str,
    from: &'static str,
    to: &'static str,
    kernel: &'static str,
    codec: &'static str,
) -> Mutation {
    Mutation { file, from, to, kernel, codec }
}

const MUTATIONS: &[Mutation] = &[
    mutation("codecs/plain.wgsl", "min(2u * i + 1u, last)", "min(2u * i, last)", "matvec", "f32"),
    mutation("codecs/plain.wgsl", "unpack2x16float(v.w))", "unpack2x16float(v.z))", "gather", "f16"),
    mutation("codecs/plain.wgsl", "v << vec4(16u)", "v << vec4(17u)", "matmul", "bf16"),
    mutation("lib/nibbles.wgsl", "w >> vec4(20u)", "w >> vec4(19u)", "matvec", "int4 g64 zeros"),
    mutation(
        "lib/planes.wgsl",
        "vec2(word, word >> 4u)",
        "vec2(word, word >> 5u)",
        "matmul",
        "int4 g64 zeros",
    ),
    mutation("codecs/int.wgsl", "whole(zero), 0.0", "whole(zero + 1u), 0.0", "matvec", "int4 g64 zeros"),
    mutation("codecs/int.wgsl", "f32(ZERO), 0.0", "f32(ZERO - 1u), 0.0", "matvec", "int2 g32 z2"),
    mutation(
        "codecs/int.wgsl",
        "i / 4u / max(GROUP_RUNS / 4u",
        "i / 4u / max(GROUP_RUNS / 2u",
        "matvec",
        "int8 g64 zeros",
    ),
    mutation("codecs/int.wgsl", "f32(ZERO), group", "0.0, group", "matvec", "int4 g64 bf16 z8 min"),
    mutation("codecs/int.wgsl", "f.min * sum32(x)", "f.min", "matvec", "int5 g32 min"),
    mutation(
        "lib/planes.wgsl",
        "return vec2(word, word >> 1u)",
        "return vec2(word, word >> 2u)",
        "gather",
        "int3 g64 zeros",
    ),
    mutation(
        "lib/planes.wgsl",
        "word >> 2u) & vec2(0x03030303u)) <<",
        "word >> 2u) & vec2(0x03030301u)) <<",
        "gather",
        "int6 g64 zeros",
    ),
    mutation("lib/planes.wgsl", "2u * P.padded_rows", "P.padded_rows", "gather", "int7 g64 zeros"),
    mutation("codecs/int.wgsl", "4u * unit + 3u, x.g", "4u * unit + 2u, x.g", "matvec", "int4 g16 zeros"),
    mutation("codecs/int.wgsl", "f.min * sum4(a + b)", "f.min * sum4(a)", "matvec", "int2 g8 min"),
    mutation(
        "codecs/int.wgsl",
        "scale /= f32(DIVISOR)",
        "scale *= f32(DIVISOR)",
        "matvec",
        "int8 row f32 z128 /127",
    ),
    mutation(
        "codecs/int.wgsl",
        "group_number(P.sections.z, index), 0.0",
        "floor(group_number(P.sections.z, index)), 0.0",
        "matvec",
        "int4 g64 bf16 real zeros",
    ),
    mutation("codecs/int.wgsl", "4u * unit + 2u, x.e", "4u * unit + 1u, x.e", "matvec", "int3 g40 z3"),
    mutation("lib/planes.wgsl", "(i >> 1u) & 3u", "(i >> 1u) & 1u", "matvec", "int2 g64 zeros"),
    mutation("lib/planes.wgsl", "(i >> 2u) & 3u", "(i >> 2u) & 1u", "matvec", "int1 g128 sign"),
    mutation("codecs/int.wgsl", "scale, 0.5, 0.0", "scale, 0.0, 0.0", "gather", "int1 g128 sign"),
    mutation("codecs/kquant.wgsl", "f32(scale >> SCALE_BITS)", "f32(scale)", "matvec", "q2_k"),
    mutation("codecs/kquant.wgsl", "affine(row, 2u * unit + 1u)", "affine(row, 2u * unit)", "matvec", "q2_k"),
    mutation("codecs/kquant.wgsl", "item(3u, SCALE_HIGH", "item(2u, SCALE_HIGH", "gather", "q3_k"),
    mutation("codecs/kquant.wgsl", "f32(BIAS)", "f32(BIAS + 1u)", "matmul", "q6_k"),
    mutation("codecs/kquant.wgsl", "LEVELS_8, LEVELS_12)", "LEVELS_12, LEVELS_8)", "matvec", "iq4_xs"),
    mutation("codecs/grid.wgsl", "7u * o", "6u * o", "matvec", "iq2_xxs"),
    mutation("codecs/grid.wgsl", "low >> 9u", "low >> 8u", "matmul", "iq2_xs"),
    mutation("codecs/grid.wgsl", "signs >> 4u)), zero)", "signs)), zero)", "gather", "iq3_s"),
    mutation("codecs/grid.wgsl", "(c >> 2u)", "(c >> 1u)", "matvec", "iq3_xxs"),
    mutation("codecs/grid.wgsl", "item(3u, 1u, GROUPS", "item(2u, 1u, GROUPS", "matvec", "iq1_m"),
    mutation("codecs/grid.wgsl", "1.125, (word", "1.0, (word", "matvec", "iq1_s"),
    mutation("codecs/ternary.wgsl", "81u, unit == 4u", "1u, unit == 4u", "matvec", "tq1_0"),
    mutation("codecs/ternary.wgsl", "vec2(9u, 27u)", "vec2(9u, 9u)", "gather", "tq1_0"),
    mutation("lib/items.wgsl", "index % cells * size", "index % cells * bits", "matvec", "iq4_xs"),
    mutation("lib/items.wgsl", "j / 4u * bits", "j / 4u", "matvec", "q3_k"),
    mutation("lib/product.wgsl", "P.more_sections[i & 3u]", "P.sections[i & 3u]", "matvec", "q5_k"),
    mutation("codecs/lookup.wgsl", "word & 0x0f0f0f0fu", "word & 0x0f0f0f07u", "matvec", "nf4 b64"),
    mutation("codecs/lookup.wgsl", "8u * (index & 3u)", "8u * (index & 1u)", "matvec", "nf4 b64 double"),
    mutation("codecs/lookup.wgsl", "tables[16u + code]", "tables[17u + code]", "matvec", "nf4 b64 double"),
    mutation("codecs/lookup.wgsl", "(i & 2u) != 0u", "(i & 1u) != 0u", "gather", "e2m1 b16 e4m3"),
    mutation("codecs/lookup.wgsl", "sum4(high) * scale.y", "sum4(high) * scale.x", "matvec", "e2m1 b16 e4m3"),
    mutation("codecs/lookup.wgsl", "(whole_row) + 2u]", "(whole_row)]", "matmul", "e2m1 b16 e4m3 factor"),
    mutation(
        "codecs/lookup.wgsl",
        "var i = 1u; i < SLICES",
        "var i = 2u; i < SLICES",
        "matmul",
        "nf4 b64 double×2",
    ),
    mutation("codecs/fp8.wgsl", "0x7fu << SHIFT", "0x3fu << SHIFT", "matvec", "e4m3 row bf16"),
    mutation("codecs/fp8.wgsl", "6u - FRACTION_BITS", "5u - FRACTION_BITS", "gather", "e5m2 row f32"),
    mutation("codecs/fp8.wgsl", "word << 24u", "word << 23u", "matmul", "e4m3 g128 f32"),
    mutation("lib/product.wgsl", "bits << 23u", "bits << 22u", "gather", "e4m3 g128 e8m0"),
    mutation("codecs/bilevel.wgsl", "group & 3u", "group & 1u", "matvec", "bilevel3"),
    mutation("codecs/bilevel.wgsl", "(order >> 3u) & 7u", "(order >> 3u) & 3u", "gather", "bilevel3"),
    mutation("codecs/bilevel.wgsl", "i + 2u, f1.zero", "i + 2u, f0.zero", "matvec", "bilevel3"),
    mutation("codecs/mixed.wgsl", "tables[2u + 3u * known]", "tables[2u]", "matvec", "mixed 5/3/2"),
    mutation(
        "codecs/mixed.wgsl",
        "vec2(word << 4u, word)",
        "vec2(word << 4u, word << 4u)",
        "gather",
        "mixed 8/6/4",
    ),
    mutation("codecs/mixed.wgsl", ">> (2u * i)", ">> i", "matmul", "mixed 5/3/2"),
    mutation(
        "codecs/codebook.wgsl",
        "near[i] = tables[i]",
        "near[i] = tables[0]",
        "matvec",
        "codebook 2×8 g8",
    ),
    mutation(
        "codecs/codebook.wgsl",
        "sum.b += halves4(v.zw)",
        "sum.b += halves4(v.xy)",
        "matmul",
        "codebook 1×16 g8",
    ),
    mutation("codecs/codebook.wgsl", "(high & 1u) == 1u", "(high & 1u) == 0u", "gather", "codebook 3×5 g2×4"),
    mutation("codecs/codebook.wgsl", "i % parts", "0u", "matvec", "codebook 8×6 g32"),
    mutation("lib/product.wgsl", "first / rows * cells", "first * cells", "matvec", "codebook 3×5 g2×4"),
    mutation("codecs/vectors.wgsl", "ALL_BITS & 28u", "ALL_BITS & 24u", "matvec", "vectors 12+11 v16 bf16"),
    mutation(
        "codecs/vectors.wgsl",
        "code >> vec4(CODE_BITS)",
        "code >> vec4(15u)",
        "gather",
        "vectors 16+16 v2",
    ),
    mutation(
        "codecs/vectors.wgsl",
        "columns >> vec4(16u)",
        "columns & vec4(0xffffu)",
        "matmul",
        "vectors 8 v8",
    ),
    mutation("codecs/e8p12.wgsl", "+ 0.25 * sum", "", "matvec", "e8p12"),
    mutation("codecs/e8p12.wgsl", "code & 0xffu", "code & 0xfeu", "gather", "e8p12"),
    mutation("codecs/e8p12.wgsl", "[i & 3u]), 3.75)", "[i & 3u]), 4.0)", "matmul", "e8p12"),
    mutation("codecs/e8p12.wgsl", "P.sections.y / 2u + index", "index", "matvec", "e8p12 + e8p12/3.45"),
    mutation("codecs/e8p12.wgsl", "512u + code", "code", "gather", "e8p12 + e8/2.04"),
    mutation("codecs/e8p12.wgsl", "word & 1u", "0u", "matmul", "e8p12 + e8/2.04"),
    mutation("lib/trellis.wgsl", "+ 8u * BITS - 1u", "+ 8u * BITS - 2u", "matvec", "trellis4 mul1"),
    mutation("lib/trellis.wgsl", "(31u - shift)", "(30u - shift)", "gather", "trellis3 3inst"),
    mutation("codecs/trellis.wgsl", "bits >> vec4(13u)", "bits >> vec4(14u)", "matmul", "trellis2 mcg"),
    mutation("codecs/trellis.wgsl", "end - 2u * BITS", "end - BITS", "matvec", "trellis6 mcg"),
    mutation("lib/trellis.wgsl", "vec4(b.zw, d.zw)", "vec4(b.zw, d.xy)", "matvec", "trellis1 mul1"),
    mutation("codecs/trellis.wgsl", "2u * l + 10u", "2u * l + 8u", "gather", "trellis8 3inst rows"),
    mutation("codecs/trellis.wgsl", "vec4(76625530u)", "vec4(76625531u)", "matmul", "trellis3 1mad rows"),
    mutation("codecs/hyb.wgsl", "(hash & 0x8000u)", "(hash & 0x4000u)", "matvec", "hyb2"),
    mutation(
        "codecs/hyb.wgsl",
        "vec4(4u * BITS, 4u * BITS, 0u, 0u)",
        "vec4(3u * BITS, 3u * BITS, 0u, 0u)",
        "matmul",
        "hyb3",
    ),
    mutation("kernels/top_k.wgsl", "if (key(i) > border)", "if (key(i) >= border)", "top_k", ""),
    mutation("kernels/argmax.wgsl", "other_at < best_at[lane.x]", "other_at > best_at[lane.x]", "argmax", ""),
    mutation("kernels/attention.wgsl", "<= vec4(P.window)", "< vec4(P.window)", "attention", "int4 cache"),
    mutation("kernels/attention_rows.wgsl", "sum[i] * shrink", "sum[i]", "attention", "f32 cache"),
    mutation(
        "kernels/attention_rows.wgsl",
        "score *= scale_from",
        "score = scale_from",
        "attention",
        "int8 cache",
    ),
    mutation(
        "kernels/attention_rows.wgsl",
        "start = end - P.window",
        "start = end - P.window + 1u",
        "attention",
        "f16 cache",
    ),
    mutation("kernels/gather.wgsl", "8u * i + 4u < P.cols", "8u * i + 8u < P.cols", "gather", "f32"),
    mutation("lib/walsh.wgsl", "a_b = a - b", "a_b = b - a", "hadamard", "128"),
    mutation("lib/walsh.wgsl", "c_d = c - d", "c_d = d - c", "hadamard", "128"),
    mutation("kernels/hadamard.wgsl", "P.y_offset + first + i] = v", "first + i] = v", "hadamard", "128"),
    mutation("lib/walsh.wgsl", "i < count / 2u", "i < count / 4u", "hadamard", "128"),
    mutation("lib/walsh.wgsl", "pairs.xy - pairs.zw", "pairs.zw - pairs.xy", "hadamard", "128"),
    mutation("kernels/hadamard.wgsl", "first + quad / QUADS", "first", "hadamard", "2432 in blocks of 128"),
    mutation("kernels/hadamard.wgsl", "&& first + i < P.width", "&& first + i <= P.width", "hadamard", "128"),
    mutation("kernels/hadamard.wgsl", "signs << (31u", "signs << (30u", "hadamard", "8192"),
    mutation("kernels/hadamard.wgsl", "k + 6u, signs", "k + 5u, signs", "hadamard", "8192"),
    mutation("kernels/hadamard.wgsl", "k & 31u", "k & 15u", "hadamard", "11008"),
    mutation("kernels/hadamard.wgsl", "first + own, RUNS", "first, RUNS", "hadamard", "11008"),
    mutation("kernels/hadamard.wgsl", "share * QUADS + lane", "lane", "normed hadamard", "11008"),
    mutation("kernels/hadamard.wgsl", "select(8u * own, 0u", "select(8u, 0u", "normed hadamard", "11008"),
    mutation("lib/runs_normed.wgsl", "squares += v * v", "squares = v * v", "normed hadamard", "8192"),
    mutation("lib/runs_normed.wgsl", "+ P.eps", "- P.eps", "normed hadamard", "128"),
    mutation("lib/runs_plain.wgsl", "return v;", "return -v;", "hadamard", "128"),
    mutation("kernels/matmul.wgsl", "at + 24u * STRIDE", "at + 23u * STRIDE", "matmul", "f32"),
    mutation(
        "lib/eight_rows.wgsl",
        "token + 2u * TOKENS_APART, row",
        "token + TOKENS_APART, row",
        "matmul",
        "f32",
    ),
    mutation("kernels/matmul.wgsl", "2u * i + half", "2u * i", "matmul", "f32"),
    mutation("lib/product_out.wgsl", "P.first_row + row", "P.first_row + row + 1u", "matmul", "f32"),
    mutation("codecs/int_fixed.wgsl", "zero -= 128.0", "zero -= 127.0", "matvec", "int8 g64 zeros"),
    mutation("codecs/bilevel_fixed.wgsl", "-g.zero * g.scale", "-f.zero * g.scale", "matvec", "bilevel3"),
    mutation("codecs/grid_fixed.wgsl", "row, 2u * unit + 1u)", "row, 2u * unit)", "matvec", "iq2_xs"),
    mutation("codecs/mixed_fixed.wgsl", "0.0, eight)", "128.0, eight)", "matvec", "mixed 8/6/4"),
    mutation("codecs/ternary_fixed.wgsl", "d, -d, d, -d", "d, 0.0, d, 0.0", "matvec", "tq1_0"),
    mutation("codecs/kquant_fixed.wgsl", "row, 2u * unit + 1u)", "row, 2u * unit)", "matvec", "q2_k"),
    mutation("codecs/e8p12_fixed.wgsl", "vec4(0.5, -3.75,", "vec4(0.5, -3.5,", "matvec", "e8p12"),
    mutation("codecs/e8p12_fixed_dot.wgsl", "+ w.factors.y * sum", "", "matvec", "e8p12 + e8/2.04"),
    mutation("lib/fixed.wgsl", "256 * middle", "128 * middle", "matvec", "int4 g64 zeros"),
    mutation(
        "lib/fixed.wgsl",
        "planes[at + 1u], planes[at + 3u]",
        "planes[at], planes[at + 3u]",
        "matvec",
        "q2_k",
    ),
    mutation("lib/fixed_dot.wgsl", "w.factors.w * x.b.sum", "w.factors.w * x.a.sum", "matvec", "q2_k"),
    mutation("lib/integers.wgsl", "low.y, high.y)", "low.y, low.y)", "matvec", "e8p12"),
    mutation("lib/x_integers.wgsl", "select(0x10000u, 0u, PLANES == 3u)", "0u", "matmul", "int2 g32 z2"),
    mutation("lib/x_integers.wgsl", "16u * CARRY", "15u * CARRY", "matvec", "int4 g64 zeros"),
    mutation("kernels/bytes.wgsl", "sum, other", "other, sum", "matmul", "q2_k"),
    mutation("kernels/bytes.wgsl", "/ 2u) * 3u", "/ 2u) * 2u", "matmul", "int2 g32 z2"),
    mutation(
        "kernels/matmul_bytes.wgsl",
        "x.c.factors.x, x.d",
        "x.d.factors.x, x.d",
        "matmul",
        "int2 g32 z2",
    ),
    mutation("kernels/matmul_bytes.wgsl", "f.w * sums_b", "f.w * sums_a", "matmul", "q2_k"),
    mutation("kernels/matmul_bytes.wgsl", "f.y * (sums_a + sums_b)", "f.y * sums_a", "matmul", "e8p12"),
    mutation("lib/eight_rows.wgsl", "row + 56u, sums.h", "row + 48u, sums.h", "matmul", "int2 g32 z2"),
    mutation(
        "kernels/matmul_bytes.wgsl",
        "unit + 2u + own_unit);\n        x_next",
        "unit + own_unit);\n        x_next",
        "matmul",
        "int2 g32 z2",
    ),
    mutation("lib/plane_codes.wgsl", "4u * unit + 3u", "4u * unit + 2u", "matvec", "int5 g32 min"),
    mutation(
        "kernels/matvec_staged.wgsl",
        "rows.y, unit, groups.b",
        "rows.y, unit, groups.a",
        "gated matvec",
        "int2 g32 z2",
    ),
    mutation("lib/product_io_normed.wgsl", "+ P.eps", "- P.eps", "normed matvec", "int2 g32 z2"),
    mutation("lib/split.wgsl", "sum_of(1u, lane.x)", "sum_of(0u, lane.x)", "normed gated matvec", "f32"),
    mutation("lib/split.wgsl", "* ABREAST + lane.x / ACROSS", "* ABREAST", "long matvec", "f32"),
    mutation("lib/split.wgsl", "let i = lane % ACROSS", "let i = lane", "long matvec", "f32"),
    mutation("kernels/matvec.wgsl", "first_row(lane)", "lane", "matvec", "f32"),
    mutation("kernels/matvec.wgsl", "sums.z += dot32(rows.z", "sums.z += dot32(rows.w", "matvec", "f32"),
    mutation("lib/rows_plain.wgsl", "row + 3u * APART, sums.w", "row + 2u * APART, sums.w", "matvec", "f32"),
    mutation("lib/rows_gated.wgsl", "P.up + row + APART", "P.gate + row + APART", "gated matvec", "f32"),
    mutation("lib/rows_gated.wgsl", "P.up + row, up)", "P.gate + row, up)", "gated matvec", "f32"),
    mutation("lib/product_io_normed.wgsl", "return v * norm[j]", "return v", "normed gated matvec", "f32"),
    mutation("lib/columns.wgsl", "columns[k + 3u]", "columns[k]", "normed matvec", "f32"),
    mutation(
        "kernels/matvec_staged.wgsl",
        "stage_units(token, first",
        "stage_units(token, 0u",
        "long matvec",
        "f32",
    ),
    mutation("lib/product_io.wgsl", "+ j] * scales", "+ j]", "scaled matvec", "f32"),
    mutation(
        "lib/product_io_normed.wgsl",
        "bitcast<vec4<f32>>(columns4(4u * j))",
        "1.0",
        "normed rotated matvec",
        "f32",
    ),
    mutation("lib/floats.wgsl", "v * bitcast<f32>(SCALE)", "v", "rotated matvec", "f32"),
    mutation("lib/floats.wgsl", "walsh(ROOM", "walsh(8u", "normed rotated matvec", "f32"),
    mutation("lib/floats.wgsl", "j < 8u * P.units", "j < 7u * P.units", "matvec", "f32"),
    mutation("lib/floats.wgsl", "block[j + 7u]", "block[j + 6u]", "matvec", "f32"),
    mutation("lib/floats_dot.wgsl", "dot32(row, unit, x)", "dot32(row, unit + 1u, x)", "matvec", "f32"),
    mutation("codecs/lookup_floats.wgsl", "scales(row, unit)", "scales(row, 0u)", "matvec", "nf4 b64"),
    mutation("lib/columns.wgsl", "columns[k + 3u]", "columns[k + 2u]", "matvec", "f32"),
    mutation(
        "kernels/product_int8.wgsl",
        "min(8u, words",
        "min(7u, words",
        "matvec in integers",
        "int8 row f32 z128",
    ),
    mutation(
        "kernels/product_int8.wgsl",
        "(first + t) * P.x_stride + 8u",
        "first * P.x_stride + 8u",
        "matmul in integers",
        "int2 row f32 z1",
    ),
    mutation("kernels/outliers.wgsl", "most >= P.threshold", "most < P.threshold", "outliers", ""),
    mutation(
        "kernels/quantize.wgsl",
        "P.outliers_stride + k] != 0.0",
        "P.outliers_stride + k] == 0.0",
        "quantize",
        "int8 without outliers",
    ),
    mutation("lib/quotient.wgsl", "rest > divisor ||", "rest < divisor ||", "quantize", "int8"),
    mutation("kernels/quantize.wgsl", "(bits >> 20u) & 1u", "(bits >> 20u) & 0u", "quantize", "e4m3 static"),
    mutation("kernels/quantize.wgsl", "group.x * P.run", "0u * P.run", "quantize", "e4m3 g128"),
    mutation(
        "codecs/int.wgsl",
        "ZERO * 0x01010101u",
        "ZERO * 0x01010100u",
        "matvec in integers",
        "int2 row f32 z1",
    ),
    mutation("kernels/rms_norm.wgsl", "+ P.eps", "- P.eps", "rms_norm", ""),
    mutation(
        "kernels/rope.wgsl",
        "values[(kv_head * P.context + position)",
        "values[(kv_head * P.context)",
        "rope",
        "f32 cache",
    ),
    mutation("lib/head.wgsl", "b * r.x + a * r.y", "b * r.x - a * r.y", "rope", "f32 cache"),
    mutation("lib/hadamard.wgsl", "head[4u * i + 3u])", "head[4u * i])", "decode attention", "f32 cache"),
    mutation("lib/hadamard.wgsl", "3u] = v.w", "3u] = v.z", "attention", "int4 cache"),
    mutation("lib/hadamard.wgsl", "(a - b)", "(b - a)", "rope", "int4 cache"),
    mutation("lib/cache_int.wgsl", "i % FOURS", "0u", "attention", "int4 cache"),
    mutation("lib/cache_int.wgsl", "LARGEST + 0.5", "LARGEST", "rope", "int8 cache"),
    mutation(
        "lib/cache_int.wgsl",
        "select(code, -code",
        "select(code, code",
        "decode attention",
        "int4 cache",
    ),
    mutation("lib/attend.wgsl", "scales.x = scale_from", "scales.y = scale_from", "attention", "int4 cache"),
    mutation("lib/attend.wgsl", "weight * scales.y", "weight", "decode attention", "int8 cache"),
    mutation(
        "kernels/decode_attention.wgsl",
        "hadamard(QUERIES, lane",
        "hadamard(1u, lane",
        "decode attention",
        "int4 cache",
    ),
    mutation("kernels/attention_shares.wgsl", "hadamard(1u", "hadamard(0u", "decode attention", "int4 cache"),
    mutation("lib/head_plain.wgsl", "return sinks[index]", "return sinks[0]", "attention", "f32 cache"),
    mutation(
        "lib/heads.wgsl",
        "scale: f32,\n    softcap: f32,",
        "softcap: f32,\n    scale: f32,",
        "attention",
        "f32 cache",
    ),
    mutation("lib/shares.wgsl", "end - P.window", "end - P.window + 1u", "decode attention", "f32 cache"),
    mutation(
        "kernels/decode_attention.wgsl",
        "min(first + all.share, all.end)",
        "min(first + all.share, all.end - 1u)",
        "decode attention",
        "f32 cache",
    ),
    mutation("kernels/decode_attention.wgsl", "P.v_offset", "P.k_offset", "decode attention", "f32 cache"),
    mutation("lib/attend.wgsl", "part_sum.a * shrink.x", "part_sum.a", "decode attention", "f32 cache"),
    mutation(
        "kernels/attention_shares.wgsl",
        "shrink + dot(scales, ",
        "shrink + dot(vec4(1.0), ",
        "decode attention",
        "f32 cache",
    ),
    mutation(
        "lib/head_normed.wgsl",
        "select(k_norm[i], q_norm[i]",
        "select(q_norm[i], k_norm[i]",
        "rope with norms",
        "f32 cache",
    ),
    mutation("kernels/scale.wgsl", "P.x_stride + id.x", "P.y_stride + id.x", "scale", ""),
    mutation("kernels/sparse.wgsl", "entries[i] & 0xffffu", "entries[i] & 0x7fu", "sparse", ""),
    mutation("kernels/sparse.wgsl", "P.y_offset + row] += sum", "P.y_offset + row] = sum", "sparse", ""),
    mutation(
        "kernels/attention.wgsl",
        "sink(head_index)), 1.0",
        "sink(head_index)), 0.0",
        "attention",
        "int4 cache",
    ),
    mutation("kernels/attention.wgsl", "first_token + 1u", "first_token + 2u", "attention", "f32 cache"),
    mutation("kernels/combine.wgsl", "weights[row]", "weights[id.y]", "combine", ""),
    mutation(
        "kernels/hadamard.wgsl",
        "mix_words[i * ORDER + run]",
        "mix_words[run * ORDER + i]",
        "hadamard",
        "448 with a core of 7",
    ),
    mutation("kernels/quantize.wgsl", ", P.given)", ", 0.0)", "quantize", "int8 with a floor"),
    mutation("kernels/expert_product.wgsl", "group.y / SHARERS", "group.y", "expert_product", "f32"),
    mutation("kernels/expert_product.wgsl", "sum += y[at]", "sum -= y[at]", "expert_product", "f32"),
    mutation("kernels/expert_product.wgsl", "- FIRST_EXPERT)", ")", "expert_product", "f32"),
    mutation("kernels/glu.wgsl", "P.up_offset + i", "P.gate_offset + i", "glu", "silu"),
    mutation("lib/activation.wgsl", "-80.0, 80.0", "-0.5, 80.0", "glu", "silu"),
    mutation("lib/activation.wgsl", "limit) + 1.0", "limit)", "glu", "clamped"),
    mutation("lib/activation.wgsl", "max(v, 0.0) * max(v, 0.0)", "v * v", "glu", "relu2"),
    mutation("kernels/layer_norm.wgsl", "- mean) * scale", ") * scale", "layer_norm", ""),
    mutation("kernels/layer_norm.wgsl", "if (CENTERED)", "if (true)", "layer_norm", ""),
    mutation("kernels/route.wgsl", "-f32(best_at)", "f32(best_at)", "route", ""),
    mutation("kernels/route.wgsl", "P.normalized == 0u", "P.normalized == 1u", "route", ""),
    mutation("kernels/softcap.wgsl", "x[at] / P.cap", "x[at]", "softcap", ""),
    mutation("lib/tanh.wgsl", "-15.0, 15.0", "-1.0, 15.0", "glu", "gelu"),
    mutation("lib/cache_f16.wgsl", "pack2x16float(c.zw)", "pack2x16float(c.wz)", "rope", "f16 cache"),
    mutation(
        "lib/cache_f32.wgsl",
        "(v: Cached, i: u32) -> vec4<f32> {\n    return v",
        "(v: Cached, i: u32) -> vec4<f32> {\n    return v.yxzw",
        "attention",
        "f32 cache",
    ),
    mutation(
        "lib/product.wgsl",
        "0x8000u)) << vec4(16u)",
        "0x8000u)) << vec4(15u)",
        "matvec",
        "int4 g64 zeros",
    ),
    // Subnormal f16 scales as if they were normal.
    mutation("lib/product.wgsl", "min(normal, 2.0 * normal - 4.0)", "normal", "matvec", "int4 g64 zeros"),
    mutation("lib/product.wgsl", "(x.e + x.f)", "(x.e - x.f)", "matvec", "int4 g32 min"),
    mutation("lib/reduce_subgroup.wgsl", "var i = 0u; i < count", "var i = 1u; i < count", "rms_norm", ""),
    mutation(
        "lib/reduce_workgroup.wgsl",
        "+= reduction[lane + width]",
        "-= reduction[lane + width]",
        "rms_norm",
        "",
    ),
    mutation("kernels/matmul_rows.wgsl", "dot(w.d.a, x.g)", "dot(w.d.a, x.h)", "matmul", "int4 g64 zeros"),
    mutation("kernels/matmul_rows.wgsl", "row + 8u * r, sums[", "row + 4u * r, sums[", "matmul", "f32"),
    mutation("kernels/matmul_rows.wgsl", "(w, xs_c[t])", "(w, xs_b[t])", "wide matmul", "f32"),
    mutation("kernels/matmul_rows.wgsl", "16u + t, row", "17u + t, row", "wide matmul", "f32"),
    mutation("lib/x_subgroup.wgsl", "Broadcast(v, 3u)", "Broadcast(v, 2u)", "matvec", "int4 g64 zeros"),
    mutation("lib/x_subgroup.wgsl", "8u * unit", "7u * unit", "matmul", "f32"),
    mutation("lib/x_lane.wgsl", "x4(token, j + 5u)", "x4(token, j + 4u)", "matvec", "int4 g64 zeros"),
    mutation("lib/reduce_alone.wgsl", "subgroupMax(value)", "value", "decode attention", "f32 cache"),
    mutation("lib/step.wgsl", "POSITION: u32 = 0u", "POSITION: u32 = 1u", "attention", "f32 cache"),
];

impl Mutation {
    /// What `verify` finds: an error where it fails as it should, or why it does not.
    async fn check(&self) -> Result<f64, String> {
        let Self { file, from, to, kernel, codec } = self;
        let text = part(file).text;
        if text.matches(from).count() == 0 {
            return Err("the text is no longer in the part".into());
        }
        let shader_overrides = BTreeMap::from([(file.to_string(), text.replace(from, to))]);
        // Parts that a software adapter with subgroups does not choose.
        let alone = ["lib/reduce_workgroup.wgsl", "lib/x_lane.wgsl"].contains(file);
        let mut without = if alone { vec!["subgroups".into()] } else { Vec::new() };
        let real = [
            "matmul",
            "eight_rows",
            "product_io_normed",
            "staged",
            "shares",
            "reduce_alone",
            "fixed",
            "fixed_dot",
            "integers",
            "bytes",
            "plane_codes",
            "floats",
            "floats_dot",
            "split",
        ];
        // On a CPU these are dispatches of their own.
        let of_gpus = *kernel == "normed hadamard" || kernel.contains("scaled") || kernel.contains("rotated");
        if of_gpus || real.iter().any(|part| file.ends_with(&format!("{part}.wgsl"))) {
            without.push("software".into());
        }
        let bytes = file.ends_with("bytes.wgsl") || from.contains("PLANES");
        let rounding = if bytes { Rounding::Bytes } else { Rounding::None };
        let options = Options { shader_overrides, without, rounding, ..Options::default() };
        let context = Context::open(&options).await.map_err(|e| e.to_string())?;
        let wanted = |name: &str, found: &str| name == *kernel && found == *codec;
        let outcomes = verify_only(&context, 3, wanted, |_| {}).await.map_err(|e| e.to_string())?;
        match outcomes.iter().find(|o| !o.pass) {
            Some(Outcome { problem: Some(problem), .. }) if problem.contains("does not compile") => {
                Err(problem.clone())
            }
            Some(outcome) => Ok(outcome.max_error),
            None if outcomes.is_empty() => Err("no such kernel or codec".into()),
            None => Err(format!("verify passes: {outcomes:?}")),
        }
    }
}

#[test]
fn verify_notices_every_mutation() {
    let mut failures = Vec::new();
    for mutation in MUTATIONS {
        if let Err(why) = pollster::block_on(mutation.check()) {
            let Mutation { file, from, to, .. } = mutation;
            failures.push(format!("{file}: `{from}` → `{to}`: {why}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_part_has_a_mutation() {
    let mutated: HashSet<&str> = MUTATIONS.iter().map(|m| m.file).collect();
    // What probes compute is thrown away, only their time counts; what the other declares changes no result.
    let thrown_away = |file: &&str| file.starts_with("probes/") || *file == "lib/ungrouped.wgsl";
    // No adapter at hand has matrix units.
    let elsewhere = [
        "codecs/int_halves.wgsl",
        "kernels/halves.wgsl",
        "kernels/matmul_f16.wgsl",
        "kernels/matmul_matrix.wgsl",
        "lib/halves_decoded.wgsl",
        "lib/matrix.wgsl",
        "lib/nearest_half.wgsl",
    ];
    let computing = PARTS.iter().map(|p| p.file).filter(|f| !thrown_away(f) && !elsewhere.contains(f));
    let missing: Vec<&str> = computing.filter(|f| !mutated.contains(f)).collect();
    assert!(missing.is_empty(), "add a line to MUTATIONS for {missing:?}");
}
