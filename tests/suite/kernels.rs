//! Every kernel against its CPU twin, on every adapter and with every capability switched off in turn.

use crate::adapters::contexts;
use halfbyte::gpu::kernels::all_modules;
use halfbyte::gpu::link::{Dialect, link};
use halfbyte::gpu::{Context, LimitSet, Options, Rounding};
use halfbyte::quant::CODECS;
use halfbyte::verify::{Outcome, one_of_each_family, verify_only};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::time::Instant;

/// Shapes are drawn from it: the same unless `HALFBYTE_SEED` asks for others.
fn seed() -> u64 {
    std::env::var("HALFBYTE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// `wanted`: as for `verify_only`, for each context.
fn assert_all_pass<W: Fn(&str, &str) -> bool>(
    contexts: impl IntoIterator<Item = Context>,
    wanted: impl Fn() -> W,
) {
    let seed = seed();
    for context in contexts {
        let start = Instant::now();
        let outcomes =
            pollster::block_on(verify_only(&context, seed, wanted(), |_| {})).expect("the device stays");
        let report = context.report();
        let adapter = format!("{} ({}, seed {seed})", report.name, report.backend);
        // Past the test harness: what was run on is worth a line even when all is well.
        let _ =
            writeln!(std::io::stderr(), "{adapter}: {} kernels in {:.1?}", outcomes.len(), start.elapsed());
        let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.pass).collect();
        assert!(failed.is_empty(), "{adapter}: {failed:#?}");
        assert!(outcomes.len() > 60, "only {} kernels were run", outcomes.len());
        assert_listed(&context);
    }
}

/// Constants of which the list has not every value, and not with every other: sizes, and slots that are filled or not.
const FREE: [&str; 20] = [
    "ABREAST",
    "ACTIVATION",
    "ADD",
    "BIASED",
    "GROUP",
    "HELD",
    "LANES",
    "PERMUTED",
    "PLANES",
    "QUERIES",
    "RAGGED",
    "ROOM",
    "RUNS",
    "SCALED",
    "SHARES",
    "SPLIT",
    "TABLE_ROOM",
    "TILE",
    "TILES",
    "X_VECS",
];

/// A linked text without those.
fn bound(text: &str) -> String {
    let free = |line: &str| {
        let name = line.strip_prefix("const ").and_then(|rest| rest.split_once(':'));
        name.is_some_and(|(name, _)| FREE.contains(&name))
    };
    text.lines().filter(|line| !free(line)).collect::<Vec<_>>().join("\n")
}

/// The list that is checked without a GPU has everything that runs on one.
fn assert_listed(context: &Context) {
    let listed: HashSet<String> =
        all_modules().iter().map(|m| bound(&link(m, Dialect::Native, &BTreeMap::new()).text)).collect();
    let missing: Vec<String> =
        context.shaders().into_iter().filter(|text| !listed.contains(&bound(text))).collect();
    assert!(missing.is_empty(), "{} are not in all_modules, such as:\n{}", missing.len(), missing[0]);
}

/// Everything on the first adapter. On the others matmul, which takes a compiler longest, with one codec of a family: all
/// that it calls of a codec is `decode8`, which gather has with every codec everywhere, as matvec has `dot32`.
#[test]
fn kernels_equal_their_twins() {
    let mut all = contexts(&Options::default());
    let others = all.split_off(1);
    assert_all_pass(all, || |_: &str, _: &str| true);
    assert_all_pass(others, || {
        let each_family = one_of_each_family();
        move |kernel: &str, codec: &str| kernel != "matmul" || each_family(kernel, codec)
    });
}

#[test]
fn kernels_equal_their_twins_on_the_floor() {
    let without = ["f16", "subgroups", "dot4", "software"].map(String::from).to_vec();
    // With a real GPU's variants of the products, which a software adapter would not choose; on one adapter, with one
    // codec of a family, for time.
    let options = Options { limits: LimitSet::Floor, without, ..Options::default() };
    assert_all_pass(contexts(&options).into_iter().take(1), one_of_each_family);
}

/// With what may be fused on the first adapter; the others (GL's has no subgroups) take the products alone.
#[test]
fn products_by_packed_dot_products_equal_their_twins() {
    let fixed: Vec<String> =
        CODECS.iter().flat_map(|f| (f.samples)()).filter(|c| c.fixed().is_some()).map(|c| c.name()).collect();
    let options = Options { without: vec!["software".into()], ..Options::default() };
    let all = contexts(&options).into_iter().filter(|context| context.capabilities().subgroups.is_some());
    for (i, context) in all.enumerate() {
        let products = |name: &str, codec: &str| {
            let alone = name == "matvec" || name.starts_with("long");
            (alone || i == 0 && name.ends_with("matvec")) && fixed.iter().any(|name| name == codec)
        };
        let outcomes =
            pollster::block_on(verify_only(&context, seed(), products, |_| {})).expect("the device stays");
        let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.pass).collect();
        assert!(failed.is_empty(), "{}: {failed:#?}", context.report().name);
        assert!(outcomes.len() > fixed.len());
        let used = context.shaders().iter().any(|text| text.contains("fn integer_dot("));
        assert!(used, "{}: they took another way", context.report().name);
        assert_listed(&context);
    }
}

/// The twin multiplies what it rounded itself; where a norm or a transform comes first it does not round.
#[test]
fn products_with_activations_in_bytes_equal_their_twins() {
    let codecs = [
        "int4 g64 zeros",
        "int8 g64 zeros",
        "int5 g32 min",
        "q2_k",
        "q4_k",
        "e8p12",
        "e8p12 + e8/2.04",
        "iq2_xs",
        "iq3_xxs",
        "tq1_0",
        "bilevel3",
        "mixed 8/6/4",
    ];
    let products = |name: &str, codec: &str| {
        codecs.contains(&codec) && (name == "matvec" || name == "matmul")
            || name.contains("matvec") && codec == "int2 g32 z2"
    };
    let without = vec!["software".into()];
    let context = contexts(&Options { without, rounding: Rounding::Bytes, ..Options::default() }).remove(0);
    let outcomes =
        pollster::block_on(verify_only(&context, seed(), products, |_| {})).expect("the device stays");
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.pass).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(outcomes.len() > 2 * codecs.len());
    for text in ["const PLANES: u32 = 1u", "fn add_unit(sum: vec4<f32>, row: u32, unit: u32, x: Four)"] {
        assert!(
            context.shaders().iter().any(|shader| shader.contains(text)),
            "they took another way: {text}"
        );
    }
    assert_listed(&context);
}

#[test]
fn attention_in_single_subgroups_equals_its_twin() {
    let context = contexts(&Options { without: vec!["software".into()], ..Options::default() }).remove(0);
    let attention = |name: &str, cache: &str| name.ends_with("attention") && cache != "f32 cache";
    let outcomes =
        pollster::block_on(verify_only(&context, seed(), attention, |_| {})).expect("the device stays");
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.pass).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(
        context.shaders().iter().any(|text| text.contains("return subgroupMax")),
        "they took another way"
    );
    assert_listed(&context);
}

#[test]
fn products_with_a_matrix_in_parts_equal_their_twins() {
    let context = contexts(&Options { max_binding: Some(1 << 17), ..Options::default() }).remove(0);
    let codecs = ["f32", "f16", "int8 g64 zeros"];
    let products =
        |name: &str, codec: &str| matches!(name, "gather" | "matvec" | "matmul") && codecs.contains(&codec);
    let outcomes =
        pollster::block_on(verify_only(&context, seed(), products, |_| {})).expect("the device stays");
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.pass).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(outcomes.len(), 3 * codecs.len());
}
