//! The benchmark: its schema, its refusals, its comparison, random weights. Nothing here asserts a time.

use crate::adapters::contexts;
use halfbyte::bench::random::{RandomModel, codec_names};
use halfbyte::bench::shapes::ShapeSpec;
use halfbyte::bench::{
    AdapterResult, Decode, Kernel, ModelResult, NOISE, Options, Prefill, Report, Spread, agreement, measure,
    probe,
};
use halfbyte::gpu::{AdapterChoice, Options as GpuOptions, Probe};
use halfbyte::model::{CacheFormat, LoadOptions, Memory};
use halfbyte::{Device, Model};
use serde_json::{Value, json};

/// Two layers of the embedded model's sizes.
fn small() -> ShapeSpec {
    ShapeSpec { layers: 2, ..*ShapeSpec::named("tale").expect("a shape") }
}

fn few() -> Options {
    let (prompts, depths) = (vec![3, 9, 9999], vec![0, 5]);
    Options { prompts, depths, generate: 2, runs: 1, seconds: 1e9, agreement: 3 }
}

/// A result as one might be: so many prompt and decode tokens a second.
fn crafted(name: &str, prefill: f64, decode: f64) -> Report {
    let speed = |median: f64| Spread::of(vec![median * 0.99, median, median * 1.01]);
    let model = ModelResult {
        name: name.into(),
        random: true,
        architecture: "llama".into(),
        format: "q4_0".into(),
        parameters: 1000,
        bits_per_weight: 4.5,
        cache: "f16".into(),
        chunk: 128,
        context: 2048,
        load_s: 1.5,
        first_token_s: 0.25,
        prefill: vec![Prefill {
            tokens: 128,
            tokens_per_s: speed(prefill),
            first_token_s: 128.0 / prefill,
            flop_per_s: 2e9,
            of_f32_rate: Some(0.25),
        }],
        decode: vec![Decode {
            depth: 0,
            tokens: 32,
            tokens_per_s: speed(decode),
            bytes_per_token: 600,
            bytes_per_s: 5e9,
            of_copy_bandwidth: Some(0.5),
            flop_per_s: 1e8,
        }],
        skipped: vec!["decode at 1024: about 99 s, more than 30".into()],
        decode_kernels: Some(vec![Kernel { kernel: "matvec".into(), calls: 7, ms: 0.5, share: 1.0 }]),
        prefill_kernels: None,
        dispatches: 7,
        memory: Memory { weights_bytes_disk: 1, weights_bytes_gpu: 2, kv_bytes: 3 },
        device_bytes: 4,
        agreement: None,
    };
    let probe = Probe {
        copy_bytes_per_s: Some(1e10),
        f32_flop_per_s: Some(8e9),
        f16_flop_per_s: None,
        int8_op_per_s: Some(9e9),
    };
    let adapter = json!({ "name": "Some <GPU>", "backend": "vulkan" });
    let result =
        AdapterResult { adapter, limits: "adapter".into(), without: vec![], probe, models: vec![model] };
    Report::new(Some("Firefox 140".into()), vec![result])
}

#[test]
fn a_report_survives_json() {
    let report = crafted("a", 100.0, 10.0);
    let text = serde_json::to_string(&report).expect("JSON");
    assert_eq!(Report::parse(&text, "a.json").expect("it parses"), report);
    let older = text.replace("\"schema_version\":2", "\"schema_version\":1");
    let error = Report::parse(&older, "old.json").expect_err("another schema").to_string();
    assert!(error.contains("old.json") && error.contains("measure again"), "{error}");
    let error =
        Report::parse("{\"schema_version\":2}", "x.json").expect_err("fields are missing").to_string();
    assert!(error.contains("x.json"), "{error}");
    assert!(Report::parse("nonsense", "y.json").is_err());
}

/// Every field that a report has is described, and no other.
#[test]
fn the_schema_is_documented() {
    let text = include_str!("../../benchmarks/README.md");
    let documented: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut report = json!(crafted("a", 100.0, 10.0));
    report["adapters"][0]["models"][0]["agreement"] = json!({
        "tokens": 8, "layers": 2, "of_layers": 2, "max_relative_error": 1e-5, "same_argmax": 1.0,
    });
    fn walk(value: &Value, path: &str, all: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                all.push(path.clone());
                // What an adapter is, `halfbyte adapters --json` says.
                if key != "adapter" {
                    walk(value, &path, all);
                }
            }),
            Value::Array(values) => values.iter().take(1).for_each(|value| walk(value, path, all)),
            _ => {}
        }
    }
    let mut fields = Vec::new();
    walk(&report, "", &mut fields);
    // Prefill and decode share the description of a spread, both tables of kernels theirs.
    for field in &mut fields {
        *field = field.replace("adapters.models.", "model.").replace("adapters.", "adapter.");
        for point in ["prefill.tokens_per_s.", "decode.tokens_per_s."] {
            *field = field.replace(&format!("model.{point}"), "spread.");
        }
        *field = field.replace("model.decode_kernels.", "kernel.");
    }
    fields.sort();
    fields.dedup();
    let missing: Vec<_> = fields.iter().filter(|f| !documented.contains(&f.as_str())).collect();
    assert!(missing.is_empty(), "not in benchmarks/README.md: {missing:?}");
    let gone: Vec<_> = documented.iter().filter(|d| !fields.contains(&d.to_string())).collect();
    assert!(gone.is_empty(), "only in benchmarks/README.md: {gone:?}");
}

#[test]
fn a_spread_is_median_range_and_quartiles() {
    let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
    let wanted = Spread { median: 3.0, min: 1.0, max: 5.0, runs: 5, noise: 2.0 / 3.0 };
    assert_eq!(spread, wanted);
    assert_eq!(Spread::of(vec![2.0, 4.0]).median, 3.0);
    assert_eq!(Spread::of(vec![7.0]), Spread { median: 7.0, min: 7.0, max: 7.0, runs: 1, noise: 0.0 });
}

#[test]
fn runs_that_differ_too_much_are_refused() {
    let mut report = crafted("llama q4_0", 100.0, 10.0);
    report.check().expect("quiet runs");
    report.adapters[0].models[0].decode[0].tokens_per_s.noise = NOISE * 2.0;
    let error = report.check().expect_err("noisy runs").to_string();
    for word in ["llama q4_0", "decode at 0 by 20 %", "--allow-noise", "--runs"] {
        assert!(error.contains(word), "{error}");
    }
}

/// The smallest shape with every codec, on the twin: it loads, its logits are numbers and differ.
#[test]
fn random_models_run_on_the_twin() {
    pollster::block_on(async {
        let shape = ShapeSpec { vocab: 96, ffn: 128, ..small() };
        for codec in codec_names() {
            let weights = RandomModel::new(&shape, &codec).expect("a codec");
            let options = LoadOptions { context: Some(8), ..LoadOptions::default() };
            let model = Model::load(&Device::Cpu, &weights, &options, |_| {}).await.expect(&codec);
            model.fill_cache().await.expect("random keys");
            let logits = model.decode_logits(5, 1).await.expect("logits");
            assert!(logits.iter().all(|l| l.is_finite()) && logits[0] != logits[1], "{codec}: {logits:?}");
        }
    });
}

fn exact() -> LoadOptions {
    LoadOptions { precision: CacheFormat::F32, ..LoadOptions::default() }
}

/// On every adapter: what is asked for is measured or left out with a reason, and the GPU agrees with the twin.
#[test]
fn adapters_are_measured_and_agree() {
    pollster::block_on(async {
        for context in contexts(&GpuOptions::default()) {
            let device = Device::Gpu(context);
            for codec in ["nf4-dq", "e8p12"] {
                let weights = RandomModel::new(&small(), codec).expect("a codec");
                let options = LoadOptions { context: Some(16), ..LoadOptions::default() };
                let model = Model::load(&device, &weights, &options, |_| {}).await.expect("it loads");
                let mut told = Vec::new();
                let tell = |done, total| told.push((done, total));
                let result =
                    measure(&model, &weights, Probe::default(), &few(), tell).await.expect("numbers");
                assert_eq!(result.prefill.iter().map(|p| p.tokens).collect::<Vec<_>>(), [3, 9]);
                assert_eq!(result.decode.iter().map(|d| d.depth).collect::<Vec<_>>(), [0, 5]);
                assert!(
                    result.skipped.len() == 1 && result.skipped[0].contains("9999"),
                    "{:?}",
                    result.skipped
                );
                assert_eq!(told.last(), Some(&(10, 10)), "{told:?}");
                for kernels in [result.decode_kernels, result.prefill_kernels].into_iter().flatten() {
                    let share: f64 = kernels.iter().map(|k| k.share).sum();
                    assert!(kernels.iter().any(|k| k.kernel.contains("argmax")), "{kernels:?}");
                    assert!((share - 1.0).abs() < 1e-9 || share == 0.0, "{kernels:?}");
                }
                let found = agreement(&device, &weights, exact, 3).await.expect("a comparison");
                let found = found.expect("a GPU");
                assert_eq!((found.tokens, found.layers, found.of_layers), (3, 2, 2));
                assert!(found.max_relative_error < 1e-4 && found.same_argmax == 1.0, "{codec}: {found:?}");
            }
        }
        let weights = RandomModel::new(&small(), "q4_0").expect("a codec");
        assert_eq!(agreement(&Device::Cpu, &weights, exact, 3).await.expect("nothing"), None);
    });
}

#[cfg(feature = "cli")]
mod command {
    use super::*;
    use halfbyte::bench::compare::{html, json, markdown, rows, table};
    use std::process::{Command, Stdio};

    #[test]
    fn two_results_are_compared() {
        let reports = [("a.json", crafted("m q4_0", 100.0, 10.0)), ("b.json", crafted("m q4_0", 250.0, 9.0))];
        let reports = reports.map(|(file, report)| (file.to_string(), report));
        let text = table(&rows(&reports));
        for word in ["250 @128 (2.50×)", "9.0 (0.90×)", "50 %", "25 %", "Firefox 140"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains("(1.00×)"), "the first is compared with itself: {text}");
        let lines = markdown(&rows(&reports));
        assert!(lines.lines().all(|l| l.starts_with('|') && l.matches('|').count() == 10), "{lines}");
        let both = json(&rows(&reports));
        let [first, second] = [0, 1].map(|i| &both["rows"][i]);
        assert!(first["prefill_ratio"].is_null() && second["prefill_ratio"] == 2.5, "{both}");
        assert!(second["decode_ratio"] == 0.9 && second["model"]["name"] == "m q4_0", "{both}");
        let page = html(&reports).expect("a page");
        assert_eq!(page.matches("<svg").count(), 3);
        for word in ["Some &lt;GPU&gt;", "Roofline", "Decode, tokens/s", "b.json: halfbyte"] {
            assert!(page.contains(word), "{page}");
        }
        assert!(
            !page.contains("<GPU>") && !page.contains("http:") || page.contains("http://www.w3.org/2000/svg")
        );
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<link"));
        html(&[]).expect("a page of nothing");
    }

    fn fails(args: &[&str], words: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_halfbyte")).arg("bench").args(args).output();
        let output = output.expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}: {text}");
        assert!(
            words.iter().all(|word| text.contains(word)) && !text.contains("panicked"),
            "{args:?}: {text}"
        );
    }

    #[test]
    fn wrong_arguments_are_explained() {
        fails(&["--shape", "gpt-2"], &["unknown shape", "llama-3.2-1b", "smollm2-135m"]);
        fails(&["--shape", "tale", "--codec", "int1"], &["unknown codec", "nf4-dq", "int2-g32-z2"]);
        fails(&["--shape", "tale", "--generate", "0"], &["nothing to measure"]);
        fails(&["--runs", "0"], &["no runs"]);
        fails(&["compare", "nowhere.json"], &["nowhere.json"]);
        fails(
            &["compare", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
            &["Cargo.toml", "bench --out"],
        );
    }

    #[test]
    fn a_result_is_written_and_read_again() {
        let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.json");
        let file = out.to_str().expect("UTF-8");
        let program = || Command::new(env!("CARGO_BIN_EXE_halfbyte"));
        let args = ["bench", "--shape", "tale", "--adapter", "cpu", "--prompt", "2", "--depth", "0,4"];
        let more = ["--generate", "2", "--runs", "1", "--out", file];
        let output = program().args(args).args(more).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("tale q4_0"));
        // Nobody reads what it says: no panic, and the file is there all the same.
        std::fs::remove_file(&out).expect("removed");
        let child = program().args(args).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("panicked") && out.exists(), "{text}");
        let output = program().args(["bench", "compare", file]).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("tale q4_0") && text.contains("@4"), "{text}");
    }
}

/// Where nothing is computed, the host's own time is left; nothing is set against the adapter or the twin.
#[test]
fn the_host_is_measured_alone() {
    let options = GpuOptions { adapter: AdapterChoice::Noop, ..GpuOptions::default() };
    let device = pollster::block_on(Device::gpu(&options)).expect("it opens");
    let weights = RandomModel::new(&small(), "q4_0").expect("a model");
    let load = || LoadOptions { precision: CacheFormat::F32, ..LoadOptions::default() };
    pollster::block_on(async {
        let found = probe(&device).await.expect("a probe");
        assert_eq!(found, Probe::default());
        let model = Model::load(&device, &weights, &load(), |_| {}).await.expect("it loads");
        let result = measure(&model, &weights, found, &few(), |_, _| {}).await.expect("it runs");
        assert!(result.decode[0].tokens_per_s.median > 0.0 && result.decode[0].of_copy_bandwidth.is_none());
        assert!(agreement(&device, &weights, load, 3).await.expect("none").is_none());
    });
}
