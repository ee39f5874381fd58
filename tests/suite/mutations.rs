//! Whether `verify` would notice: every shader part is broken in one place, and `verify` must see it.

use halfbyte::gpu::link::{PARTS, part};
use halfbyte::gpu::{Context, Options};
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
    mutation("codecs/int.wgsl", "(w >> vec4(4u))", "(w >> vec4(3u))", "matvec", "int4 g64 zeros"),
    mutation(
        "codecs/int.wgsl",
        "vec2(word, word >> 4u)",
        "vec2(word, word >> 5u)",
        "matmul",
        "int4 g64 zeros",
    ),
    mutation("codecs/int.wgsl", "f32(zero), 0.0", "f32(zero + 1u), 0.0", "matvec", "int4 g64 zeros"),
    mutation("codecs/int.wgsl", "f32(ZERO), 0.0", "f32(ZERO - 1u), 0.0", "matvec", "int2 g32 z2"),
    mutation(
        "codecs/int.wgsl",
        "min(i / GROUP_STEPS,",
        "min(i / (GROUP_STEPS + 1u),",
        "matvec",
        "int8 g64 zeros",
    ),
    mutation("codecs/int.wgsl", "f.min * sum32(x)", "f.min", "matvec", "int5 g32 min"),
    mutation(
        "codecs/int.wgsl",
        "word >> 1u) & vec2(0x01010101u)",
        "word) & vec2(0x01010101u)",
        "gather",
        "int3 g64 zeros",
    ),
    mutation(
        "codecs/int.wgsl",
        "word >> 2u) & vec2(0x03030303u)) <<",
        "word >> 2u) & vec2(0x03030301u)) <<",
        "gather",
        "int6 g64 zeros",
    ),
    mutation("codecs/int.wgsl", "(i >> 1u) & 3u", "(i >> 1u) & 1u", "matvec", "int2 g64 zeros"),
    mutation("codecs/int.wgsl", "(i >> 2u) & 3u", "(i >> 2u) & 1u", "matmul", "int1 g64 real zeros"),
    mutation(
        "codecs/int.wgsl",
        "group_number(P.sections.z, index), 0.0",
        "floor(group_number(P.sections.z, index)), 0.0",
        "matvec",
        "int4 g64 bf16 real zeros",
    ),
    mutation("codecs/int.wgsl", "i + 2u, x.e, x.f)", "i + 1u, x.e, x.f)", "matvec", "int3 g40 z3"),
    mutation("codecs/int.wgsl", "f.min * sum4(a + b)", "f.min * sum4(a - b)", "matvec", "int4 g16 min"),
    mutation("codecs/lookup.wgsl", "word & 0x0f0f0f0fu", "word & 0x0f0f0f07u", "matvec", "nf4 b64"),
    mutation("codecs/lookup.wgsl", "8u * (index & 3u)", "8u * (index & 1u)", "matvec", "nf4 b64 double"),
    mutation("codecs/lookup.wgsl", "tables[16u + code]", "tables[17u + code]", "matvec", "nf4 b64 double"),
    mutation(
        "codecs/lookup.wgsl",
        "var i = 1u; i < SLICES",
        "var i = 2u; i < SLICES",
        "matmul",
        "nf4 b64 double×2",
    ),
    mutation("codecs/e8p12.wgsl", "0.5 * f32(odd)", "0.25 * f32(odd)", "matvec", "e8p12"),
    mutation("codecs/e8p12.wgsl", "e8p_spread(signs >> 4u)", "e8p_spread(signs >> 3u)", "gather", "e8p12"),
    mutation("codecs/e8p12.wgsl", "0x00204081u", "0x00204080u", "matmul", "e8p12"),
    mutation("kernels/argmax.wgsl", "other_at < best_at[lane.x]", "other_at > best_at[lane.x]", "argmax", ""),
    mutation(
        "kernels/attention.wgsl",
        "start = end - P.window",
        "start = end - P.window + 1u",
        "attention",
        "f32 cache",
    ),
    mutation("kernels/attention.wgsl", "sum *= shrink", "sum *= 1.0", "attention", "f32 cache"),
    mutation("kernels/gather.wgsl", "8u * i + 4u < P.cols", "8u * i + 8u < P.cols", "gather", "f32"),
    mutation("kernels/hadamard_butterfly.wgsl", "= a - b", "= b - a", "hadamard", "128"),
    mutation("kernels/hadamard_butterfly.wgsl", "P.y_offset + first", "first", "hadamard", "128"),
    mutation("kernels/hadamard_mix.wgsl", "minus == 1u", "minus == 0u", "hadamard", "8192"),
    mutation("kernels/hadamard_mix.wgsl", "k & 31u", "k & 15u", "hadamard", "11008"),
    mutation("kernels/matmul.wgsl", "w_tile[(lane.x + 24u)", "w_tile[(lane.x + 23u)", "matmul", "f32"),
    mutation("kernels/matmul.wgsl", "token + 8u", "token + 9u", "matmul", "f32"),
    mutation("lib/product_io.wgsl", "P.first_row + row", "P.first_row + row + 1u", "matmul", "f32"),
    mutation("kernels/matvec.wgsl", "let j = 8u * unit", "let j = 8u * unit + 1u", "matvec", "f32"),
    mutation("lib/product_io.wgsl", "permutation[4u * j + 3u]", "permutation[4u * j + 2u]", "matvec", "f32"),
    mutation("kernels/rms_norm.wgsl", "+ P.eps", "- P.eps", "rms_norm", ""),
    mutation("kernels/rope.wgsl", "b * r.x + a * r.y", "b * r.x - a * r.y", "rope", "f32 cache"),
    mutation(
        "kernels/rope.wgsl",
        "select(k_norm[i], q_norm[i]",
        "select(q_norm[i], k_norm[i]",
        "rope with norms",
        "f32 cache",
    ),
    mutation("kernels/scale.wgsl", "P.x_stride + id.x", "P.y_stride + id.x", "scale", ""),
    mutation("kernels/attention.wgsl", "total = 1.0", "total = 0.0", "attention", "f32 cache"),
    mutation("kernels/combine.wgsl", "weights[row]", "weights[id.y]", "combine", ""),
    mutation("kernels/expert_product.wgsl", "group.y / SHARED", "group.y", "expert_product", "f32"),
    mutation("kernels/expert_product.wgsl", "- FIRST_EXPERT)", ")", "expert_product", "f32"),
    mutation("kernels/glu.wgsl", "-80.0, 80.0", "-0.5, 80.0", "glu", "silu"),
    mutation("kernels/glu.wgsl", "P.limit) + 1.0", "P.limit)", "glu", "clamped"),
    mutation("kernels/layer_norm.wgsl", "- mean) * scale", ") * scale", "layer_norm", ""),
    mutation("kernels/route.wgsl", "-f32(best_at)", "f32(best_at)", "route", ""),
    mutation("kernels/route.wgsl", "P.normalized == 0u", "P.normalized == 1u", "route", ""),
    mutation("kernels/softcap.wgsl", "x[at] / P.cap", "x[at]", "softcap", ""),
    mutation("lib/tanh.wgsl", "-15.0, 15.0", "-1.0, 15.0", "glu", "gelu"),
    mutation("lib/cache_f16.wgsl", "pack2x16float(c.zw)", "pack2x16float(c.wz)", "rope", "f16 cache"),
    mutation(
        "lib/cache_f32.wgsl",
        "(v: Cached) -> vec4<f32> {\n    return v",
        "(v: Cached) -> vec4<f32> {\n    return v.yxzw",
        "attention",
        "f32 cache",
    ),
    mutation("lib/product.wgsl", "0x38000000u", "0x38800000u", "matvec", "int4 g64 zeros"),
    // Subnormal f16 scales flushed to zero: an error that is barely above the tolerance.
    mutation("lib/product.wgsl", "5.9604645e-8", "0.0", "matvec", "int4 g64 zeros"),
    mutation("lib/product.wgsl", "(x.e + x.f)", "(x.e - x.f)", "matvec", "int4 g32 min"),
    mutation("lib/reduce_subgroup.wgsl", "var i = 0u; i < count", "var i = 1u; i < count", "rms_norm", ""),
    mutation(
        "lib/reduce_workgroup.wgsl",
        "+= reduction[lane + width]",
        "-= reduction[lane + width]",
        "rms_norm",
        "",
    ),
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
        let without = if file.contains("reduce_workgroup") { vec!["subgroups".into()] } else { Vec::new() };
        let options = Options { shader_overrides, without, ..Options::default() };
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
    let missing: Vec<&str> = PARTS.iter().map(|p| p.file).filter(|f| !mutated.contains(f)).collect();
    assert!(missing.is_empty(), "add a line to MUTATIONS for {missing:?}");
}
