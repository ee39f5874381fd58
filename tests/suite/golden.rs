//! Whole models against logits, greedy texts and perplexities of an independent float64 implementation.

use crate::adapters::contexts;
use crate::fixtures::READ;
use crate::memory::plain;
use crate::readers::crafted::{Container, random};
use crate::shared::shared;
use halfbyte::checkpoint::lora::Adapter;
use halfbyte::checkpoint::quantize::Quantization;
use halfbyte::checkpoint::source::{Bytes, Source};
use halfbyte::checkpoint::{Checkpoint, Files, StoredMatrix, Weights};
use halfbyte::gpu::Options;
use halfbyte::linear::Linear;
use halfbyte::model::{ActivationMode, CacheFormat, LoadOptions, ModelConfig};
use halfbyte::ops::{Rows, STEP_HEADER, Step, Tokens};
use halfbyte::perplexity::{documents, perplexity};
use halfbyte::quant::Kind;
use halfbyte::reference::argmax;
use halfbyte::tokenizer::Tokenizer;
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Steps whose two best logits are closer than this may go either way.
const NEAR_TIE: f64 = 1e-3;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().map(|a| a.iter().filter_map(|v| Some(v.as_u64()? as u32)).collect()).unwrap_or_default()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().map(|a| a.iter().filter_map(|v| Some(v.as_f64()? as f32)).collect()).unwrap_or_default()
}

fn pairs(value: &Value) -> Vec<(usize, f64)> {
    let pair = |v: &Value| Some((v[0].as_u64()? as usize, v[1].as_f64()?));
    value.as_array().map(|a| a.iter().filter_map(pair).collect()).unwrap_or_default()
}

/// One prompt with what must come out.
struct Prompt {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    argmax: Vec<u32>,
    greedy: Vec<u32>,
    top: Vec<(usize, f64)>, // the best logits of the last position
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
        top: ["last_logits_top8", "top_logits_last"].iter().flat_map(|k| pairs(&v[k])).collect(),
        logits_after: floats(&v["logits_greedy_last"]),
    };
    let prompts: Vec<Prompt> = entries.into_iter().map(prompt).collect();
    assert!(!prompts.is_empty(), "{} has no prompts", folder.display());
    let places = [&json["ppl"]["ppl"], &json["sample_ppl"]["ppl"], &json["sample"]["perplexity"]];
    let perplexity = places.into_iter().find_map(Value::as_f64);
    Golden { prompts, perplexity }
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

async fn load(device: &Device, path: &Path, adapters: Vec<Adapter>, precision: CacheFormat) -> Model {
    let named = |e: halfbyte::Error| panic!("{}: {e}", path.display());
    let checkpoint = Checkpoint::open(model_path(path)).await.unwrap_or_else(named);
    let options = LoadOptions { precision, context: Some(512), adapters, ..LoadOptions::default() };
    let named = |e: halfbyte::Error| panic!("{}: {e}", path.display());
    Model::load(device, &checkpoint, &options, |_| {}).await.unwrap_or_else(named)
}

async fn check_prompt(
    model: &Model,
    prompt: &Prompt,
    Tolerance(precision, tolerance): Tolerance,
    name: &str,
    writes: bool,
) {
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
        assert!(error <= tolerance, "{name}: logits of every position off by {error:e}");
    }
    if precision == CacheFormat::F16 {
        return; // the exact texts are promised for f32 storage
    }
    if !prompt.argmax.is_empty() {
        assert_eq!(argmaxes, prompt.argmax, "{name}: argmax of each position");
    }
    let mut next = model.prefill(0, &prompt.tokens).await.expect("prefill");
    let mut logits = model.logits().await.expect("logits");
    if !prompt.logits.is_empty() {
        let error = relative_error(&logits, &prompt.logits);
        assert!(error <= tolerance, "{name}: prefill logits off by {error:e}");
    }
    for &(id, wanted) in &prompt.top {
        let error = (logits[id] as f64 / wanted - 1.0).abs();
        assert!(error <= tolerance, "{name}: logit of token {id} is {}, golden {wanted}", logits[id]);
    }
    if !writes {
        return;
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

/// How close logits must be: ‖Δ‖ / ‖golden‖ with f32 and with f16 storage.
#[derive(Clone, Copy)]
struct Tolerance(CacheFormat, f64);
const TWIN: Tolerance = Tolerance(CacheFormat::F32, 1e-5);
const GPU: Tolerance = Tolerance(CacheFormat::F32, 1e-4);
const GPU_F16: Tolerance = Tolerance(CacheFormat::F16, 5e-3);

fn check(device: &Device, device_name: &str, case: &Case, within: Tolerance) {
    check_texts(device, device_name, case, within, Texts::All);
}

/// Which prompts are written on. All are read.
#[derive(Clone, Copy, PartialEq)]
enum Texts {
    /// None: decoding has shaders of its own, whose compilation takes most of the time.
    Prompts,
    First,
    /// All of them, and the perplexity of the sample is computed.
    All,
}

fn check_texts(device: &Device, device_name: &str, case: &Case, within: Tolerance, texts: Texts) {
    let golden = golden(&case.golden);
    let Tolerance(precision, _) = within;
    pollster::block_on(async {
        let adapters = match &case.adapter {
            Some(path) => vec![Adapter::open(path).await.expect("an adapter")],
            None => Vec::new(),
        };
        let model = load(device, &case.model, adapters, precision).await;
        let name = format!("{} on {device_name}", case.adapter.as_ref().unwrap_or(&case.model).display());
        let memory = model.memory;
        assert!(
            memory.weights_bytes_gpu as f64 <= 1.05 * memory.weights_bytes_disk as f64
                || case.adapter.is_some(),
            "{name}: {memory:?}"
        );
        for (i, prompt) in golden.prompts.iter().enumerate() {
            let writes = texts == Texts::All || texts == Texts::First && i == 0;
            check_prompt(&model, prompt, within, &name, writes).await;
        }
        let wanted = golden.perplexity.filter(|_| texts == Texts::All && precision == CacheFormat::F32);
        if let Some(wanted) = wanted
            && let Some(documents) = sample_documents(&model)
        {
            let found = perplexity(&model, &documents, |_| {}).await.expect("the documents run").perplexity;
            assert!((found / wanted - 1.0).abs() < 5e-5, "{name}: perplexity {found}, golden {wanted}");
        }
    });
}

/// The golden perplexity text of a model, told by its vocabulary, in its own tokens.
fn sample_documents(model: &Model) -> Option<Vec<Vec<u32>>> {
    let (tokenizer, text) = match model.config.vocab {
        4096 => (models().join("tale.gguf"), models().join("sample.txt")),
        vocab => {
            let shared = shared("golden perplexities")?;
            let name = if vocab == 2048 { "tinystories-656k" } else { "stories260K-hf" };
            (shared.join("models").join(name), shared.join("text/tinystories_sample.txt"))
        }
    };
    let tokenizer = pollster::block_on(Tokenizer::open(tokenizer)).expect("a tokenizer");
    let text = std::fs::read_to_string(text).expect("the sample text");
    Some(documents(&tokenizer, &text, 512).expect("the sample is tokenized"))
}

/// The folder of the embedded model, with golden numbers of its own.
fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// A model, perhaps with an adapter, and what it must give.
struct Case {
    model: PathBuf,
    adapter: Option<PathBuf>,
    golden: PathBuf,
    /// Whether it is the first of its format, of which the others differ in their codec or its parameters only.
    first: bool,
}

impl Case {
    fn new(folder: PathBuf) -> Self {
        Self { golden: folder.clone(), model: folder, adapter: None, first: true }
    }
}

/// Fixtures whose formats are read today.
fn fixtures(shared: &Path) -> Vec<Case> {
    let tiny = shared.join("fixtures/tinystories-656k");
    let mut seen = HashSet::new();
    let case = |&(folder, format): &(&'static str, &'static str)| Case {
        first: seen.insert(format),
        ..Case::new(shared.join("fixtures").join(folder))
    };
    let mut all: Vec<Case> = READ.iter().map(case).collect();
    all.push(Case::new(shared.join("models/tinystories-656k")));
    all.push(Case::new(shared.join("models/stories260K")));
    let golden = shared.join("models/stories260K");
    all.push(Case { golden, ..Case::new(shared.join("models/stories260K-hf")) });
    for name in ["lora-on-bnb-nf4-dq", "lora-rslora-qv-on-bnb-nf4-dq"] {
        let adapter = tiny.join(name);
        let golden = adapter.clone();
        all.push(Case { golden, adapter: Some(adapter), ..Case::new(tiny.join("bnb-nf4-dq")) });
    }
    all
}

fn variants() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let entries = std::fs::read_dir(folder).expect("tests/fixtures/models").flatten().map(|e| e.path());
    let mut all: Vec<Case> = entries.filter(|p| p.join("golden.json").is_file()).map(Case::new).collect();
    assert!(all.len() >= 16, "only {} variants", all.len());
    all.push(Case::new(models()));
    all
}

/// The first of a format on every adapter, with all texts on one of them: they take the same kernels, some thousand steps
/// more. Its others differ in their codec, whose kernels `verify` runs everywhere: they take the adapters in turn.
fn check_fixtures(cases: &[Case]) {
    let all = contexts(&Options::default());
    let count = all.len();
    for (i, context) in all.into_iter().enumerate() {
        let name = context.report().name.clone();
        let device = Device::Gpu(context);
        for (j, case) in cases.iter().enumerate() {
            let texts = match case.first {
                true if i == 0 => Texts::All,
                true => Texts::Prompts,
                false if j % count == i => Texts::First,
                false => continue,
            };
            check_texts(&device, &name, case, GPU, texts);
        }
    }
}

#[test]
fn model_variants_on_the_cpu_twin() {
    variants().iter().for_each(|case| check(&Device::Cpu, "the CPU twin", case, TWIN));
}

#[test]
fn model_variants_on_every_adapter() {
    for (i, context) in contexts(&Options::default()).into_iter().enumerate() {
        let name = context.report().name.clone();
        let device = Device::Gpu(context);
        for case in variants() {
            check_texts(&device, &name, &case, GPU, if i == 0 { Texts::All } else { Texts::First });
            if i == 0 {
                check_texts(&device, &name, &case, GPU_F16, Texts::All);
            }
        }
    }
}

#[test]
fn fixtures_on_the_cpu_twin() {
    let Some(shared) = shared("golden fixtures") else { return };
    // Without whole texts: once a row is decoded (`readers` hashes them all) the twin computes as for any other format.
    let check = |case: &Case| check_texts(&Device::Cpu, "the CPU twin", case, TWIN, Texts::First);
    fixtures(&shared).iter().for_each(check);
}

#[test]
fn fixtures_on_every_adapter() {
    let Some(shared) = shared("golden fixtures") else { return };
    check_fixtures(&fixtures(&shared)); // how the cache is stored is no matter of a codec
}

/// Fixtures whose format quantizes activations too.
const NATIVE: [&str; 7] = [
    "bitnet-autobitlinear",
    "bitnet-bitlinear",
    "bnb-int8",
    "ct-fp8-dynamic",
    "ct-fp8-static",
    "ct-w8a8-int8-smoothquant",
    "fp8-deepseek-128x128",
];

async fn load_native(device: &Device, path: &Path) -> Model {
    let checkpoint = Checkpoint::open(path).await.expect("a checkpoint");
    let activations = ActivationMode::Native;
    let options = LoadOptions {
        precision: CacheFormat::F32,
        context: Some(512),
        activations,
        ..LoadOptions::default()
    };
    Model::load(device, &checkpoint, &options, |_| {}).await.expect("a model")
}

/// The forward pass with quantized activations that a fixture has numbers of.
fn native_golden(folder: &Path) -> (Value, Value) {
    let text = std::fs::read_to_string(folder.join("golden.json")).expect("golden.json");
    let json: Value = serde_json::from_str(&text).expect("golden.json is JSON");
    let forward = ["activation_quantized_forward", "llm_int8_forward"].map(|key| json[key].clone());
    let forward = forward.into_iter().find(Value::is_object).expect("a forward pass");
    (json, forward)
}

async fn native_perplexity(model: &Model, forward: &Value) -> f64 {
    let documents = sample_documents(model).expect("the sample text");
    let found = perplexity(model, &documents, |_| {}).await.expect("the documents run").perplexity;
    (found / forward["ppl"]["ppl"].as_f64().expect("a perplexity") - 1.0).abs()
}

#[test]
fn quantized_activations_on_the_cpu_twin() {
    let Some(shared) = shared("quantized activations") else { return };
    for name in NATIVE {
        let folder = shared.join("fixtures/tinystories-656k").join(name);
        let (json, forward) = native_golden(&folder);
        let prompt = ids(&json["prompt_token_ids"]);
        pollster::block_on(async {
            let model = load_native(&Device::Cpu, &folder).await;
            model.prefill(0, &prompt).await.expect("prefill");
            let logits = model.logits().await.expect("logits");
            let error = relative_error(&logits, &floats(&forward["logits_last"]));
            println!("{name}: {error:e}");
            assert!(error <= 1e-5, "{name}: logits off by {error:e}");
            let other = relative_error(&logits, &floats(&json["logits_last"]));
            assert!(other > 1e-2, "{name}: activations are not quantized ({other:e})");
            let error = native_perplexity(&model, &forward).await;
            assert!(error < 2e-3, "{name}: perplexity off by {error:e}");
        });
    }
}

/// Rounding is discontinuous: where an f32 sum that differs in its last bit falls on the other side of a tie, all that
/// follows differs as much as from the model with whole activations. So each layer is given the same activations.
///
/// Seen with ct-fp8-dynamic on llvmpipe with subgroups, whose logits are off by 4.5e-2 (4e-7 on every other adapter, and on
/// llvmpipe without subgroups): of the normed embedding of token 80, column 83 is 84.0 times the scale, midway between the
/// E4M3 numbers 80 and 88, and there the sum of squares, added in another order, is one unit in the last place larger.
/// With that column's norm weight one such unit up the twin gives llvmpipe's logits to 1.2e-7, and llvmpipe the twin's
/// with it one down.
#[test]
fn quantized_activations_on_every_adapter() {
    let Some(shared) = shared("quantized activations") else { return };
    for (i, context) in contexts(&Options::default()).into_iter().enumerate() {
        let adapter = context.report().name.clone();
        let gpu = Device::Gpu(context);
        for name in NATIVE {
            let folder = shared.join("fixtures/tinystories-656k").join(name);
            pollster::block_on(async {
                let checkpoint = Checkpoint::open(&folder).await.expect("a checkpoint");
                for (parent, modules) in [("mlp", &["down_proj"][..]), ("self_attn", &["q_proj", "k_proj"])] {
                    let parent = format!("model.layers.1.{parent}");
                    for tokens in [1, 11] {
                        let wanted = layer(&Device::Cpu, &checkpoint, &parent, modules, tokens).await;
                        let found = layer(&gpu, &checkpoint, &parent, modules, tokens).await;
                        let error = relative_error(&found, &wanted);
                        assert!(error <= 1e-5, "{name} on {adapter}: {parent} is off by {error:e}");
                    }
                }
                if i > 0 {
                    return; // whole texts take the same kernels
                }
                let (_, forward) = native_golden(&folder);
                let error = native_perplexity(&load_native(&gpu, &folder).await, &forward).await;
                assert!(error < 3e-3, "{name} on {adapter}: perplexity off by {error:e}");
            });
        }
    }
}

/// What a layer makes of activations with a few outliers.
async fn layer(
    device: &Device,
    checkpoint: &Checkpoint,
    parent: &str,
    modules: &[&str],
    tokens: usize,
) -> Vec<f32> {
    let stored = checkpoint.matrices(parent, modules).await.expect("a layer");
    assert!(stored.iter().all(|matrix| matrix.activations.is_some()), "{parent} quantizes no activations");
    let linear = Linear::load(device, stored, parent, &[], &mut 0).await.expect("a layer");
    let value = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * if i % 97 == 5 { 8.0 } else { 1.3 };
    let values: Vec<f32> = (0..tokens * linear.cols).map(value).collect();
    let x = device.zeros("x", tokens, linear.cols).expect("room");
    device.write(&x, 0, bytemuck::cast_slice(&values));
    let out = device.zeros("out", tokens, linear.rows).expect("room");
    let scratch = linear.scratch().allocate(device, tokens).expect("room");
    let mut ops = Vec::new();
    linear.forward(&mut ops, Rows::Tokens, &scratch, &x, &out, false);
    let words = device.zeros("step", 1, STEP_HEADER + tokens).expect("room");
    let recording = device.record(&words, ops).await.expect("a recording");
    let step = Step { position: 0, tokens: Tokens::Given(vec![0; tokens]), head_first: 0, head_rows: 1 };
    device.run(&recording, &words, &step).expect("runs");
    device.read(&out, tokens).await.expect("results")
}

/// Quantized as it is loaded, a model is what bitsandbytes has made of it; int4 has no such judge but the text.
#[test]
fn quantized_while_loading() {
    let Some(shared) = shared("quantizing while loading") else { return };
    let tiny = shared.join("fixtures/tinystories-656k");
    let load = async |device: &Device, folder: &Path, quantize, activations| {
        let checkpoint = Checkpoint::open(folder).await.expect("a checkpoint");
        let precision = CacheFormat::F32;
        let options =
            LoadOptions { precision, context: Some(512), quantize, activations, ..LoadOptions::default() };
        Model::load(device, &checkpoint, &options, |_| {}).await.expect("a model")
    };
    let logits = async |model: &Model| {
        model.prefill(0, &[1, 80, 14, 20, 28, 57]).await.expect("prefill");
        model.logits().await.expect("logits")
    };
    let first = Device::Gpu(contexts(&Options::default()).remove(0));
    let pairs = [
        (Quantization::Nf4, "bnb-nf4", ActivationMode::F32),
        (Quantization::Int8, "bnb-int8", ActivationMode::F32),
        (Quantization::Int8, "bnb-int8", ActivationMode::Native),
    ];
    pollster::block_on(async {
        for (to, name, activations) in pairs {
            for device in [&Device::Cpu, &first] {
                let ours = load(device, &tiny.join("f16"), Some(to), activations).await;
                let theirs = load(device, &tiny.join(name), None, activations).await;
                assert_eq!(ours.memory.weights_bytes_gpu, theirs.memory.weights_bytes_gpu);
                assert_eq!(logits(&ours).await, logits(&theirs).await, "{name} {activations:?}");
            }
        }
        let int4 =
            load(&Device::Cpu, &tiny.join("bf16"), Some(Quantization::Int4), ActivationMode::F32).await;
        let documents = sample_documents(&int4).expect("the sample text");
        let found = perplexity(&int4, &documents, |_| {}).await.expect("the documents run").perplexity;
        assert!((found / 20.409 - 1.0).abs() < 0.04, "int4: perplexity {found}");
        // Experts are linear layers, routers are not.
        let mixtral = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/mixtral");
        let plain = logits(&load(&first, &mixtral, None, ActivationMode::F32).await).await;
        let int8 = load(&first, &mixtral, Some(Quantization::Int8), ActivationMode::F32).await;
        let error = relative_error(&logits(&int8).await, &plain);
        assert!(1e-4 < error && error < 0.05, "experts: {error:e}");
    });
}

/// The golden adapters are for an NF4 base; on other codecs and transforms the twin is the judge.
#[test]
fn adapters_work_on_every_codec() {
    let Some(shared) = shared("LoRA on every codec") else { return };
    let tiny = shared.join("fixtures/tinystories-656k");
    let context = contexts(&Options::default()).remove(0);
    let prompt = [1u32, 80, 147, 201, 282, 57];
    let logits = |device: &Device, name: &str, adapted: bool| {
        pollster::block_on(async {
            let path = tiny.join("lora-on-bnb-nf4-dq");
            let adapters =
                if adapted { vec![Adapter::open(path).await.expect("an adapter")] } else { vec![] };
            let model = load(device, &tiny.join(name), adapters, CacheFormat::F32).await;
            model.prefill(0, &prompt[..4]).await.expect("prefill");
            model.decode(4, Tokens::Given(vec![prompt[4]])).await.expect("decode");
            model.logits().await.expect("logits")
        })
    };
    for name in [
        "f32",
        "gptq-4bit-g32-actorder",
        "gptq-3bit-g128",
        "gguf-q5_1",
        "quip-e8p12",
        "exl3-3bpw-mul1",
        "aqlm-2x8-g8",
        "bnb-fp4",
    ] {
        let twin = logits(&Device::Cpu, name, true);
        let gpu = logits(&Device::Gpu(context.clone()), name, true);
        let error = relative_error(&gpu, &twin);
        assert!(error <= 1e-5, "{name}: the GPU is off by {error:e}");
        let effect = relative_error(&twin, &logits(&Device::Cpu, name, false));
        assert!(effect > 1e-3, "{name}: the adapter changes nothing ({effect:e})");
    }
}

/// A model whose layers have the adapters in their weights.
struct Merged<'a> {
    base: &'a Checkpoint,
    adapters: &'a [Adapter],
}

impl Weights for Merged<'_> {
    fn name(&self) -> &str {
        self.base.name()
    }

    fn config(&self) -> &ModelConfig {
        self.base.config()
    }

    fn format_name(&self) -> &str {
        "f32"
    }

    fn disk_bytes(&self) -> u64 {
        self.base.disk_bytes()
    }

    fn check(&self) -> halfbyte::Result<()> {
        self.base.check()
    }

    /// `W + Σ weight · scale · B·A`, in f64, rounded once.
    async fn matrices(&self, parent: &str, names: &[&str]) -> halfbyte::Result<Vec<StoredMatrix>> {
        let mut all = Vec::new();
        for stored in self.base.matrices(parent, names).await? {
            let mut items = Vec::new();
            halfbyte::checkpoint::decode::rows(&stored, |n, row| {
                let mut row: Vec<f64> = row.iter().map(|&w| w.into()).collect();
                let terms = self.adapters.iter().filter_map(|a| Some((a, a.modules.get(&stored.name)?)));
                for (adapter, term) in terms {
                    for r in 0..term.rank {
                        let by = f64::from(adapter.weight) * f64::from(term.scale);
                        let by = by * f64::from(term.b[n * term.rank + r]);
                        let a = &term.a[r * term.cols..][..term.cols];
                        row.iter_mut().zip(a).for_each(|(w, &a)| *w += by * f64::from(a));
                    }
                }
                items.extend(row.iter().map(|&w| (w as f32).to_bits()));
                Ok(())
            })
            .await?;
            let matrix = plain(&stored.name, Kind::F32, stored.cols, items);
            all.push(StoredMatrix { slices: stored.slices, ..matrix });
        }
        Ok(all)
    }

    async fn matrix(&self, name: &str) -> halfbyte::Result<Option<StoredMatrix>> {
        self.base.matrix(name).await
    }

    async fn vector(&self, name: &str, len: usize) -> halfbyte::Result<Option<Vec<f32>>> {
        self.base.vector(name, len).await
    }
}

const ADAPTERS: [&str; 2] = ["lora-on-bnb-nf4-dq", "lora-rslora-qv-on-bnb-nf4-dq"];

async fn adapters(tiny: &Path, weights: [f32; 2]) -> Vec<Adapter> {
    let mut all = Vec::new();
    for (name, weight) in ADAPTERS.into_iter().zip(weights) {
        let adapter = Adapter::open(tiny.join(name)).await.expect("an adapter");
        assert_eq!((adapter.name.as_str(), adapter.weight), (name, 1.0));
        all.push(Adapter { weight, ..adapter });
    }
    all
}

/// Weights of adapters are changed on a loaded model: the golden logits of each adapter and of the base alone, in any
/// order, and what dense weights give where both count.
#[test]
fn adapters_are_switched_and_added() {
    let Some(shared) = shared("several adapters") else { return };
    let tiny = shared.join("fixtures/tinystories-656k");
    let first = Device::Gpu(contexts(&Options::default()).remove(0));
    let base = tiny.join("bnb-nf4-dq");
    pollster::block_on(async {
        let checkpoint = Checkpoint::open(&base).await.expect("the base");
        for (device, within) in [(&Device::Cpu, 1e-5), (&first, 1e-4)] {
            let alone = load(device, &base, Vec::new(), CacheFormat::F32).await.dispatches();
            let mut model = load(device, &base, adapters(&tiny, [0.0, 1.0]).await, CacheFormat::F32).await;
            let switches = [None, Some([1.0, 0.0]), Some([0.0, 0.0]), Some([0.0, 1.0]), Some([1.0, 0.0])];
            for weights in switches {
                if let Some([a, b]) = weights {
                    let weights = [(ADAPTERS[0], a), (ADAPTERS[1], b)];
                    model.set_adapter_weights(&weights).await.expect("weights");
                }
                let (folder, dispatches) = match weights {
                    None | Some([0.0, 1.0]) => (tiny.join(ADAPTERS[1]), None),
                    Some([0.0, 0.0]) => (base.clone(), Some(alone)),
                    _ => (tiny.join(ADAPTERS[0]), None),
                };
                assert!(dispatches.is_none_or(|wanted| model.dispatches() == wanted), "{weights:?}");
                let prompt = &golden(&folder).prompts[0];
                model.prefill(0, &prompt.tokens).await.expect("prefill");
                let error = relative_error(&model.logits().await.expect("logits"), &prompt.logits);
                assert!(error <= within, "{weights:?}: off by {error:e}");
            }
            let both = adapters(&tiny, [0.5, -1.5]).await;
            let options =
                LoadOptions { precision: CacheFormat::F32, context: Some(16), ..LoadOptions::default() };
            let merged = Merged { base: &checkpoint, adapters: &both };
            let dense = Model::load(device, &merged, &options, |_| {}).await.expect("a model");
            let mut loaded = load(device, &base, both.clone(), CacheFormat::F32).await;
            model.set_adapter_weights(&[(ADAPTERS[0], 0.5), (ADAPTERS[1], -1.5)]).await.expect("weights");
            loaded.set_adapter_weights(&[(ADAPTERS[1], -1.5)]).await.expect("weights");
            let prompt = [1u32, 80, 147, 201, 282, 57];
            let mut all = Vec::new();
            for model in [&dense, &model, &loaded] {
                model.prefill(0, &prompt[..5]).await.expect("prefill");
                all.push(model.decode_logits(5, prompt[5]).await.expect("logits"));
            }
            let error = relative_error(&all[1], &all[0]);
            assert!(error <= 1e-5, "the sum is off by {error:e}");
            assert_eq!(all[1], all[2], "loaded with weights or given them later");
            assert!(relative_error(&all[0], &golden(&base).prompts[0].logits) > 1e-2);
            for (name, weight, word) in [("nobody", 1.0, ADAPTERS[0]), (ADAPTERS[0], f32::NAN, "NaN")] {
                let error = model.set_adapter_weights(&[(name, weight)]).await.expect_err("an error");
                assert!(error.to_string().contains(word), "{error}");
            }
        }
        let twice = LoadOptions {
            adapters: [adapters(&tiny, [1.0; 2]).await, adapters(&tiny, [1.0; 2]).await].concat(),
            ..LoadOptions::default()
        };
        let error = Model::load(&Device::Cpu, &checkpoint, &twice, |_| {}).await.err().expect("an error");
        assert!(error.to_string().contains("two adapters are called"), "{error}");
    });
}

/// Adapter `which` of a model with experts, as PEFT writes it: on some of the modules of some experts, and on q_proj.
/// `parts` are what the model calls gate, up and down; of the first the rank is another.
async fn expert_adapter(config: &ModelConfig, mlp: &str, parts: [&str; 3], which: usize) -> Adapter {
    let rng = &mut StdRng::seed_from_u64(which as u64);
    let (mut file, experts) = (Container::default(), config.experts.clone().expect("experts"));
    let (hidden, ffn, rank) = (config.hidden, experts.ffn, [3, 8][which]);
    let mut add = |module: String, rows: usize, cols: usize, rank: usize| {
        let name = |matrix| format!("base_model.model.model.{module}.lora_{matrix}.weight");
        file.floats(&name('A'), &[rank, cols], &random(rng, rank * cols));
        file.floats(&name('B'), &[rows, rank], &random(rng, rows * rank));
    };
    add("layers.0.self_attn.q_proj".into(), config.q_rows(), hidden, rank);
    for (layer, expert) in (0..config.layers).flat_map(|l| (0..experts.count).map(move |e| (l, e))) {
        for (i, part) in parts.into_iter().enumerate() {
            let chosen =
                if which == 0 { (layer + expert + i).is_multiple_of(2) } else { expert != 1 || i == 2 };
            if chosen {
                let (rows, cols) = if i == 2 { (hidden, ffn) } else { (ffn, hidden) };
                let rank = if i == 0 { 5 } else { rank };
                add(format!("layers.{layer}.{mlp}.experts.{expert}.{part}"), rows, cols, rank);
            }
        }
    }
    let settings =
        format!(r#"{{"peft_type":"LORA","r":{rank},"lora_alpha":1,"rank_pattern":{{"{}":5}}}}"#, parts[0]);
    let mut files = Files::new();
    for (name, bytes) in
        [("adapter_config.json", settings.into_bytes()), ("adapter_model.safetensors", file.bytes())]
    {
        files.insert(name.into(), Bytes::new(name, bytes) as Arc<dyn Source>);
    }
    Adapter { name: format!("adapter {which}"), ..Adapter::from_files(&files).await.expect("an adapter") }
}

/// Adapters of experts with weights that change, against dense weights which have them inside.
#[test]
fn adapters_of_experts_work() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let gpus = contexts(&Options::default()).into_iter().map(|context| (Device::Gpu(context), 1e-4));
    let devices: Vec<(Device, f64)> = std::iter::once((Device::Cpu, 1e-5)).chain(gpus).collect();
    let logits = async |model: &Model| {
        let prompt: Vec<u32> = (1..20).map(|i| i * 7 % 90).collect();
        model.prefill(0, &prompt).await.expect("prefill");
        model.decode_logits(prompt.len(), 5).await.expect("logits")
    };
    for (name, mlp, parts) in [
        ("mixtral", "block_sparse_moe", ["w1", "w3", "w2"]),
        ("qwen3-moe", "mlp", ["gate_proj", "up_proj", "down_proj"]),
    ] {
        pollster::block_on(async {
            let base = folder.join(name);
            let checkpoint = Checkpoint::open(&base).await.expect("the base");
            let mut adapters = Vec::new();
            for which in 0..2 {
                adapters.push(expert_adapter(checkpoint.config(), mlp, parts, which).await);
            }
            let mut models = Vec::new();
            for (device, within) in &devices {
                models.push((load(device, &base, adapters.clone(), CacheFormat::F32).await, *within));
            }
            let mut seen: Vec<Vec<f32>> = Vec::new();
            for weights in [[1.0, 1.0], [0.5, -1.5], [0.0, 1.0], [0.0, 0.0]] {
                adapters.iter_mut().zip(weights).for_each(|(adapter, weight)| adapter.weight = weight);
                let options =
                    LoadOptions { precision: CacheFormat::F32, context: Some(32), ..LoadOptions::default() };
                let merged = Merged { base: &checkpoint, adapters: &adapters };
                let dense = Model::load(&Device::Cpu, &merged, &options, |_| {}).await.expect("a model");
                let wanted = logits(&dense).await;
                let names: Vec<(&str, f32)> = adapters.iter().map(|a| (a.name.as_str(), a.weight)).collect();
                for (model, within) in &mut models {
                    model.set_adapter_weights(&names).await.expect("weights");
                    let error = relative_error(&logits(model).await, &wanted);
                    assert!(error <= *within, "{name} {weights:?}: off by {error:e}");
                }
                assert!(seen.iter().all(|other| relative_error(other, &wanted) > 1e-2), "{name} {weights:?}");
                seen.push(wanted);
            }
        });
    }
}

#[test]
fn no_part_of_an_adapter_is_ignored() {
    use halfbyte::checkpoint::lora::LowRank;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let checkpoint = pollster::block_on(Checkpoint::open(folder)).expect("llama");
    let config = checkpoint.config().clone();
    let logits = |module: &str, rows: usize| {
        let term = LowRank {
            rows,
            cols: config.hidden,
            rank: 1,
            a: vec![0.1; config.hidden],
            b: vec![0.5; rows],
            scale: 2.0,
        };
        let (name, modules) = (module.to_owned(), [(module.to_owned(), term)].into());
        let adapters = vec![Adapter { name, weight: 1.0, modules }];
        let options =
            LoadOptions { precision: CacheFormat::F32, context: Some(8), adapters, ..LoadOptions::default() };
        pollster::block_on(async {
            let model = Model::load(&Device::Cpu, &checkpoint, &options, |_| {}).await?;
            model.prefill(0, &[1, 2]).await?;
            model.logits().await
        })
    };
    let q = logits("model.layers.0.self_attn.q_proj", config.q_rows()).expect("q_proj");
    let head = logits("lm_head", config.vocab).expect("lm_head");
    assert!(relative_error(&head, &q) > 1e-2, "the adapter of the head changes nothing");
    let error =
        logits("model.layers.99.self_attn.q_proj", config.q_rows()).expect_err("there is no such layer");
    assert!(error.to_string().contains("model.layers.99.self_attn.q_proj"), "{error}");
}
