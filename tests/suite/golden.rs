//! Whole models against logits, greedy texts and perplexities of an independent float64 implementation.

use crate::adapters::contexts;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::checkpoint::lora::Adapter;
use halfbyte::gpu::Options;
use halfbyte::model::{LoadOptions, Precision};
use halfbyte::ops::Tokens;
use halfbyte::reference::argmax;
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Steps whose two best logits are closer than this may go either way.
const NEAR_TIE: f64 = 1e-3;

pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("HALFBYTE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if path.join("fixtures").is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no test data at {}; set HALFBYTE_SHARED to run this test", path.display());
    None
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().map(|a| a.iter().filter_map(|v| Some(v.as_u64()? as u32)).collect()).unwrap_or_default()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().map(|a| a.iter().filter_map(|v| Some(v.as_f64()? as f32)).collect()).unwrap_or_default()
}

/// One prompt with what must come out.
struct Prompt {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    argmax: Vec<u32>,
    greedy: Vec<u32>,
    logits_after: Vec<f32>, // that chose the last greedy token
}

struct Golden {
    prompts: Vec<Prompt>,
    perplexity: Option<f64>,
}

fn golden(folder: &Path) -> Golden {
    let text = std::fs::read_to_string(folder.join("golden.json")).expect("golden.json");
    let json: Value = serde_json::from_str(&text).expect("golden.json is JSON");
    let mut entries: Vec<&Value> = json["prompts"].as_array().into_iter().flatten().collect();
    if json.get("prompt_token_ids").is_some() {
        entries.push(&json);
    }
    entries.extend(json["more_prompts"].as_array().into_iter().flatten());
    let prompt = |v: &Value| Prompt {
        tokens: ids(if v.get("prompt_token_ids").is_some() { &v["prompt_token_ids"] } else { &v["ids"] }),
        logits: floats(&v["logits_last"]),
        argmax: ids(&v["argmax_per_position"]),
        greedy: ["greedy_next_32", "greedy_next", "greedy"]
            .iter()
            .map(|k| ids(&v[k]))
            .max_by_key(Vec::len)
            .unwrap_or_default(),
        logits_after: floats(&v["logits_greedy_last"]),
    };
    let prompts: Vec<Prompt> = entries.into_iter().map(prompt).collect();
    assert!(!prompts.is_empty(), "{} has no prompts", folder.display());
    Golden { prompts, perplexity: json["ppl"]["ppl"].as_f64() }
}

/// The file or folder to open below a fixture folder.
fn model_path(folder: &Path) -> PathBuf {
    let gguf = std::fs::read_dir(folder).expect("a fixture folder").flatten().map(|e| e.path());
    gguf.into_iter().find(|p| p.extension().is_some_and(|e| e == "gguf")).unwrap_or(folder.to_path_buf())
}

fn gap(logits: &[f32]) -> f64 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    (sorted[0] - sorted[1]) as f64
}

async fn load(device: &Device, path: &Path, adapters: Vec<Adapter>, precision: Precision) -> Model {
    let named = |e: halfbyte::Error| panic!("{}: {e}", path.display());
    let checkpoint = Checkpoint::open(model_path(path)).await.unwrap_or_else(named);
    let options = LoadOptions { precision, context: Some(512), adapters };
    let named = |e: halfbyte::Error| panic!("{}: {e}", path.display());
    Model::load(device, &checkpoint, &options, |_| {}).await.unwrap_or_else(named)
}

async fn check_prompt(model: &Model, prompt: &Prompt, tolerance: f64, name: &str) {
    let mut argmaxes = Vec::new();
    let mut last = Vec::new();
    model
        .every_position(&prompt.tokens, |_, logits| {
            argmaxes.push(argmax(logits));
            last = logits.to_vec();
            Ok(())
        })
        .await
        .expect("every position");
    if !prompt.logits.is_empty() {
        let error = relative_error(&last, &prompt.logits);
        eprintln!("{name}: {error:.1e}");
        assert!(error <= tolerance, "{name}: logits of every position off by {error:e}");
    }
    if !prompt.argmax.is_empty() {
        assert_eq!(argmaxes, prompt.argmax, "{name}: argmax of each position");
    }
    let mut next = model.prefill(0, &prompt.tokens, |_| {}).await.expect("prefill");
    let mut logits = model.logits().await.expect("logits");
    if !prompt.logits.is_empty() {
        let error = relative_error(&logits, &prompt.logits);
        assert!(error <= tolerance, "{name}: prefill logits off by {error:e}");
    }
    for (i, &wanted) in prompt.greedy.iter().enumerate() {
        if gap(&logits) < NEAR_TIE {
            return;
        }
        assert_eq!(next, wanted, "{name}: greedy token {i}");
        if i + 1 < prompt.greedy.len() {
            next = model.decode(prompt.tokens.len() + i, Tokens::Chosen).await.expect("decode");
            logits = model.logits().await.expect("logits");
        }
    }
    if !prompt.logits_after.is_empty() {
        let error = relative_error(&logits, &prompt.logits_after);
        assert!(error <= tolerance, "{name}: logits after decoding off by {error:e}");
    }
}

/// Mean perplexity of the documents of `text`, BOS first.
async fn perplexity(model: &Model, documents: &[Vec<u32>]) -> f64 {
    let (mut nll, mut count) = (0.0, 0usize);
    for document in documents {
        model
            .every_position(document, |position, logits| {
                if let Some(&next) = document.get(position + 1) {
                    let most = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
                    let total: f64 = logits.iter().map(|&l| (l as f64 - most).exp()).sum();
                    nll -= logits[next as usize] as f64 - most - total.ln();
                    count += 1;
                }
                Ok(())
            })
            .await
            .expect("a document runs");
    }
    (nll / count as f64).exp()
}

fn check(device: &Device, device_name: &str, folder: &Path, adapter: Option<&Path>, tolerance: f64) {
    let golden = golden(adapter.unwrap_or(folder));
    pollster::block_on(async {
        let adapters = match adapter {
            Some(path) => vec![Adapter::open(path).await.expect("an adapter")],
            None => Vec::new(),
        };
        let model = load(device, folder, adapters, Precision::F32).await;
        let name = format!("{} on {device_name}", adapter.unwrap_or(folder).display());
        let memory = model.memory;
        assert!(
            memory.weights_bytes_gpu as f64 <= 1.05 * memory.weights_bytes_disk as f64 || adapter.is_some(),
            "{name}: {memory:?}"
        );
        for prompt in &golden.prompts {
            check_prompt(&model, prompt, tolerance, &name).await;
        }
        if let (Some(wanted), Some(documents)) = (golden.perplexity, sample_documents(&model)) {
            let found = perplexity(&model, &documents).await;
            assert!((found / wanted - 1.0).abs() < 5e-5, "{name}: perplexity {found}, golden {wanted}");
        }
    });
}

/// The golden perplexity text in this vocabulary; tokenized once by the fixture's own tokenizer.
fn sample_documents(model: &Model) -> Option<Vec<Vec<u32>>> {
    let shared = shared()?;
    let folder = match model.config.vocab {
        2048 => shared.join("models/tinystories-656k"),
        512 => shared.join("models/stories260K-hf"),
        _ => return None,
    };
    let json = std::fs::read(folder.join("tokenizer.json")).ok()?;
    let tokenizer = halfbyte::tokenizer::Tokenizer::from_json(&json, None).ok()?;
    let text = std::fs::read_to_string(shared.join("text/tinystories_sample.txt")).ok()?;
    let document = |text: &str| {
        let mut ids = tokenizer.encode(text.trim(), true).expect("the sample is tokenized");
        ids.truncate(512);
        ids
    };
    Some(text.split("<|endoftext|>").filter(|t| !t.trim().is_empty()).map(document).collect())
}

/// Folders whose formats are read today.
fn fixtures(shared: &Path) -> Vec<(PathBuf, Option<PathBuf>)> {
    let tiny = shared.join("fixtures/tinystories-656k");
    let readable = |name: &str| {
        matches!(name, "f32" | "f16" | "bf16" | "bnb-nf4" | "bnb-nf4-dq" | "bnb-fp4" | "quip-e8p12")
            || name.starts_with("gptq")
            || matches!(
                name,
                "gguf-f16"
                    | "gguf-bf16"
                    | "gguf-q4_0"
                    | "gguf-q4_1"
                    | "gguf-q5_0"
                    | "gguf-q5_1"
                    | "gguf-q8_0"
            )
    };
    let mut all: Vec<(PathBuf, Option<PathBuf>)> = std::fs::read_dir(&tiny)
        .expect("fixtures")
        .flatten()
        .filter(|e| readable(&e.file_name().to_string_lossy()))
        .map(|e| (e.path(), None))
        .collect();
    assert_eq!(all.len(), 20, "{all:?}");
    all.push((shared.join("fixtures/stories260K-w256/f16"), None));
    all.push((shared.join("models/tale-start"), None));
    for name in ["lora-on-bnb-nf4-dq", "lora-rslora-qv-on-bnb-nf4-dq"] {
        all.push((tiny.join("bnb-nf4-dq"), Some(tiny.join(name))));
    }
    all
}

fn variants() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let entries = std::fs::read_dir(folder).expect("tests/fixtures/models").flatten().map(|e| e.path());
    let all: Vec<PathBuf> = entries.filter(|p| p.join("golden.json").is_file()).collect();
    assert!(all.len() >= 16, "{all:?}");
    all
}

#[test]
fn model_variants_on_the_cpu_twin() {
    for folder in variants() {
        check(&Device::Cpu, "the CPU twin", &folder, None, 1e-5);
    }
}

#[test]
fn model_variants_on_every_adapter() {
    for context in contexts(&Options::default()) {
        let name = context.report().name.clone();
        for folder in variants() {
            check(&Device::Gpu(context.clone()), &name, &folder, None, 1e-4);
        }
    }
}

#[test]
fn fixtures_on_the_cpu_twin() {
    let Some(shared) = shared() else { return };
    for (folder, adapter) in fixtures(&shared) {
        check(&Device::Cpu, "the CPU twin", &folder, adapter.as_deref(), 1e-5);
    }
}

#[test]
fn fixtures_on_every_adapter() {
    let Some(shared) = shared() else { return };
    for context in contexts(&Options::default()) {
        let name = context.report().name.clone();
        for (folder, adapter) in fixtures(&shared) {
            check(&Device::Gpu(context.clone()), &name, &folder, adapter.as_deref(), 1e-4);
        }
    }
}
