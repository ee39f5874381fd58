//! `inspect`: hashes of decoded matrices against other tools' goldens, sizes, fit.

use crate::fixtures::READ;
use crate::shared::{fixtures, shared};
use halfbyte::Device;
use halfbyte::checkpoint::formats::FORMATS;
use halfbyte::checkpoint::{Checkpoint, InputTransform, READERS, decode};
use halfbyte::gpu::{Context, LimitSet, Options as GpuOptions};
use halfbyte::inspect::{Options, Report, formats, inspect};
use halfbyte::model::CacheFormat;
use halfbyte::quant::Shape;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn open(path: &Path) -> Checkpoint {
    let gguf = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let path = gguf.into_iter().find(|p| p.extension().is_some_and(|e| e == "gguf")).unwrap_or(path.into());
    pollster::block_on(Checkpoint::open(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn report(path: &Path, device: &Device, options: Options) -> Report {
    pollster::block_on(inspect(&open(path), device, options, |_, _| {})).expect("a report")
}

/// Hashes by module name, fused modules by their parts.
fn hashes(report: &Report) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for tensor in &report.tensors {
        all.extend(tensor.sha256.clone().map(|hash| (tensor.name.clone(), hash)));
        let slices = tensor.slices.iter().filter_map(|s| Some((s.name.clone(), s.sha256.clone()?)));
        all.extend(slices);
    }
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn fixture(name: &str) -> PathBuf {
    fixtures().join("models").join(name)
}

const HASHED: Options = Options { sha256: true, context: None, cache: CacheFormat::F16 };

/// The bytes of an f32 tensor of a safetensors file, hashed as they are.
#[test]
fn plain_matrices_hash_as_their_bytes() {
    let bytes = std::fs::read(fixture("llama/model.safetensors")).expect("a fixture");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).expect("a header");
    let hashes = hashes(&report(&fixture("llama"), &Device::Cpu, HASHED));
    assert!(hashes.len() >= 15, "{hashes:?}");
    for (name, hash) in &hashes {
        let tensor = &header[format!("{name}.weight")];
        assert_eq!(tensor["dtype"], "F32");
        let at = |i: usize| 8 + len + tensor["data_offsets"][i].as_u64().expect("an offset") as usize;
        assert_eq!(*hash, hex(&Sha256::digest(&bytes[at(0)..at(1)])), "{name}");
    }
    // The same model in a GGUF file, whose q and k rows lie in another order.
    let gguf = report(&fixture("llama-gguf"), &Device::Cpu, HASHED);
    assert_eq!(gguf.format, "GGUF");
    assert_eq!(gguf.tensors.iter().filter(|t| t.sha256.is_some()).count(), hashes.len());
}

/// A fixture of each format, its name and its golden.json.
fn goldens() -> Vec<(PathBuf, &'static str, Value)> {
    let Some(shared) = shared("golden hashes") else { return Vec::new() };
    let formats: BTreeMap<&str, &str> = READ.iter().map(|&(folder, format)| (format, folder)).collect();
    let golden = |(format, folder)| {
        let path = shared.join("fixtures").join(folder);
        let text = std::fs::read_to_string(path.join("golden.json")).expect("golden.json");
        (path, format, serde_json::from_str(&text).expect("golden.json is JSON"))
    };
    formats.into_iter().map(golden).collect()
}

#[test]
fn decoded_matrices_are_bit_identical_to_the_goldens() {
    let mut checked = 0;
    for (path, _, golden) in goldens() {
        let found = hashes(&report(&path, &Device::Cpu, HASHED));
        let exact = golden["dequant_bit_exact"] == true;
        for (name, wanted) in golden["dequantized"].as_object().into_iter().flatten() {
            let module = name.trim_end_matches(".weight");
            let tied = || found.get("model.embed_tokens").filter(|_| module == "lm_head");
            let hash = found.get(module).or_else(tied);
            let hash = hash.unwrap_or_else(|| panic!("{}: no {module}", path.display()));
            if exact {
                assert_eq!(wanted["sha256_f32"], **hash, "{}: {name}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked == 0 || checked >= 20 * 14, "{checked}");
}

/// Where the golden is not bit-exact, values are close.
#[test]
fn hadamard_transforms_are_undone() {
    for (path, _, golden) in goldens().into_iter().filter(|(_, format, _)| format.starts_with("QuIP#")) {
        let checkpoint = open(&path);
        let mut checked = 0;
        for layer in 0..checkpoint.config().layers {
            for (parent, name) in [
                ("self_attn", "qkv_proj"),
                ("self_attn", "o_proj"),
                ("mlp", "upgate_proj"),
                ("mlp", "down_proj"),
            ] {
                let parent = format!("model.layers.{layer}.{parent}");
                let stored =
                    pollster::block_on(checkpoint.read(&format!("{parent}.{name}"))).expect("a matrix");
                let mut weights = vec![Vec::new(); stored.slices.len()];
                pollster::block_on(decode::rows(&stored, |row, values| {
                    let slice = stored.slices.iter().position(|s| s.rows.contains(&row)).expect("a slice");
                    weights[slice].extend_from_slice(values);
                    Ok(())
                }))
                .expect("rows");
                for (slice, weights) in stored.slices.iter().zip(&weights) {
                    let wanted = &golden["dequantized"][format!("{parent}.{}.weight", slice.name)];
                    for (i, value) in wanted["first8"].as_array().expect("values").iter().enumerate() {
                        let value = value.as_f64().expect("a number");
                        assert!((weights[i] as f64 - value).abs() < 1e-5, "{parent}.{} {i}", slice.name);
                    }
                    let mean = weights.iter().map(|&w| w as f64).sum::<f64>() / weights.len() as f64;
                    assert!((mean - wanted["mean"].as_f64().expect("a mean")).abs() < 1e-6);
                    checked += 1;
                }
            }
        }
        assert_eq!(checked, 14);
    }
}

#[test]
fn reports_count_bytes_and_bits() {
    let report = report(&fixture("llama-f16"), &Device::Cpu, Options::default());
    assert_eq!(report.architecture, "llama");
    assert!(report.fits.fits, "{:?}", report.fits);
    let module =
        report.tensors.iter().find(|t| t.name.ends_with("layers.0.mlp.down_proj")).expect("a module");
    assert_eq!((module.format.as_str(), module.codec.as_deref()), ("f16", Some("f16")));
    assert_eq!((module.bits_per_weight, module.bits_per_weight_disk), (16.0, 16.0));
    assert_eq!(report.totals.bytes, report.tensors.iter().map(|t| t.bytes).sum::<u64>());
    let config = &report.config;
    assert_eq!(report.fits.kv_bytes, (2 * 2 * config.layers * config.kv_rows() * report.fits.context) as u64);
    let json = serde_json::to_value(&report).expect("JSON");
    assert!(json["config"]["hidden"].is_u64() && json["tensors"][0].get("sha256").is_none());
}

#[test]
fn what_does_not_fit_is_named() {
    let options = GpuOptions { limits: LimitSet::Floor, max_binding: Some(1 << 16), ..GpuOptions::default() };
    let context =
        pollster::block_on(Context::open(&options)).expect("a GPU adapter: install mesa-vulkan-drivers");
    let options = Options { context: Some(1 << 14), ..Options::default() };
    let report = report(&fixture("llama"), &Device::Gpu(context), options);
    assert!(
        !report.fits.fits && report.fits.reasons.iter().any(|r| r.contains("--context")),
        "{:?}",
        report.fits
    );
    let split = report.tensors.iter().any(|t| t.parts > 1);
    assert!(split || report.fits.largest_matrix_bytes <= 1 << 16, "{:?}", report.fits);
}

#[test]
fn formats_walk_the_registries() {
    let formats = formats();
    assert_eq!(formats.readers.len(), READERS.len());
    assert!(formats.codecs.iter().all(|c| !c.samples.is_empty()));
}

/// Every fixture is what a line of the table says that such files are, and every line tells whose files were read.
#[test]
fn the_table_of_formats_is_true() {
    let Some(shared) = shared("the table of formats") else { return };
    let numbers = |text: &str| -> Vec<f64> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|n| n.parse().ok()).collect()
    };
    let mut seen = vec![false; FORMATS.len()];
    for (folder, _) in READ {
        let path = shared.join("fixtures").join(folder);
        let text = std::fs::read_to_string(path.join("golden.json")).expect("golden.json");
        let golden: Value = serde_json::from_str(&text).expect("golden.json is JSON");
        let tool = golden["tool"].as_str().expect("a tool").to_lowercase();
        let checkpoint = open(&path);
        let stored = pollster::block_on(checkpoint.matrices("model.layers.0.mlp", &["down_proj"]));
        let stored = stored.expect("a matrix").remove(0);
        let shape = Shape { rows: stored.rows, cols: stored.cols };
        let bits = shape.packed_bytes(&*stored.codec) as f64 * 8.0 / (stored.rows * stored.cols) as f64;
        let transform = match &stored.input {
            InputTransform::None => "",
            InputTransform::Permute(_) => "permutation",
            InputTransform::Scale(_) => "scale",
            InputTransform::Hadamard { .. } => "Hadamard",
        };
        let mut found = false;
        for (format, seen) in FORMATS.iter().zip(&mut seen) {
            let whose = format.tested.split([';', ' ']).next().unwrap_or_default().to_lowercase();
            // "layout" for files that are packed by what a tool's source says.
            let whose = tool.contains(&whose) || format.tested.contains("layout") && tool.contains("layout");
            let range = numbers(format.bits);
            let [least, most] =
                [f64::min, f64::max].map(|pick| range.iter().copied().reduce(pick).unwrap_or(0.0));
            let most = if format.bits.contains("codebooks") { f64::INFINITY } else { most };
            let fits = format.codecs.iter().any(|family| family.name == stored.codec.family().name)
                && format.transform.starts_with(transform)
                && format.side_term.contains("sparse") == stored.sparse.is_some()
                && (least - 0.05..=1.05 * most + 0.1).contains(&bits);
            found |= whose && fits;
            *seen |= whose && fits;
        }
        assert!(found, "{folder}: {tool}, {}, {transform}, {bits} bits", stored.codec.name());
    }
    for (format, _) in FORMATS.iter().zip(seen).filter(|(_, seen)| !seen) {
        assert_eq!(format.tested, "layout", "{}: no such file was read", format.what);
    }
}

#[cfg(feature = "cli")]
mod command_line {
    use super::fixture;
    use serde_json::Value;
    use std::process::{Command, Output};

    fn halfbyte(args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_halfbyte")).args(args).output().expect("the program runs")
    }

    fn json(args: &[&str]) -> Value {
        let output = halfbyte(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    #[test]
    fn inspect() {
        let model = fixture("llama-gguf").join("model.gguf");
        let model = model.to_string_lossy();
        let report = json(&["inspect", &model, "--sha256", "--json", "--adapter", "cpu"]);
        assert!(report["tensors"].as_array().is_some_and(|t| t.iter().any(|t| t["sha256"].is_string())));
        let output = halfbyte(&["inspect", &model, "--adapter", "cpu"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("self_attn.q_proj") && text.contains("fits on CPU"), "{text}");
        assert!(json(&["inspect", "--formats", "--json"])["readers"].is_array());
        let output = halfbyte(&["inspect", "--formats"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("GPTQ") && text.contains("SmolLM3ForCausalLM"), "{text}");
        let output = halfbyte(&["inspect", "nowhere"]);
        assert_eq!(output.status.code(), Some(1));
    }

    #[test]
    fn bench() {
        let model = fixture("llama");
        let model = model.to_string_lossy();
        for adapter in [&["--adapter", "cpu"][..], &["--all-adapters"]] {
            let args = ["bench", &model, "--json", "--runs", "1", "--prompt", "8", "--generate", "4"];
            let report = json(&[&args[..], &["--depth", "0,16"], adapter].concat());
            assert_eq!(report["schema_version"], 2);
            let adapters = report["adapters"].as_array().expect("adapters");
            assert!(!adapters.is_empty());
            for result in adapters {
                let model = &result["models"][0];
                let positive = |v: &Value| v.as_f64().is_some_and(|v| v > 0.0);
                for point in [&model["prefill"][0], &model["decode"][0], &model["decode"][1]] {
                    assert!(positive(&point["tokens_per_s"]["median"]), "{model}");
                    assert!(positive(&point["flop_per_s"]), "{model}");
                }
                assert!(positive(&model["decode"][0]["bytes_per_token"]), "{model}");
                let gpu = result["adapter"]["backend"] != "cpu";
                for rate in ["copy_bytes_per_s", "f32_flop_per_s", "int8_op_per_s"] {
                    assert_eq!(positive(&result["probe"][rate]), gpu, "{}", result["probe"]);
                }
                assert_eq!(model["agreement"]["same_argmax"] == 1.0, gpu, "{}", model["agreement"]);
            }
        }
    }
}
