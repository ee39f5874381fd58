//! The core as JavaScript sees it: what `web/src/worker.js` calls. Options go in and reports come out as JSON.
//!
//! Errors are thrown as `Error` objects with a `kind`. A callback that returns `false`, or a promise of it, stops
//! what is running; that throws an error of the kind `Aborted`, but for a generation, which ends with what it has.

mod source;

use crate::checkpoint::lora::Adapter;
use crate::checkpoint::source::Source;
use crate::checkpoint::{Checkpoint, Files};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Browser, LimitSet, Options, Rounding};
use crate::hub;
use crate::inspect::{self, inspect};
use crate::model::{ActivationMode, LoadOptions, Model as CoreModel, Progress, Stage};
use crate::perplexity::{documents, perplexity};
use crate::sampler::SamplerOptions;
use crate::session::{Event, FinishReason, GenerateOptions, Session};
use crate::verify::{Outcome, one_of_each_family, verify, verify_only};
use crate::{bench, chat};
use js_sys::{Function, Promise};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Digest;
use source::{CoreFile, PageFile};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_time::Instant;

type Thrown<T> = std::result::Result<T, JsValue>;

/// Panics, which would be bugs, say on the console what they are.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// The version of the crate.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

fn thrown(kind: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    let _ = js_sys::Reflect::set(&error, &"kind".into(), &kind.into());
    error.into()
}

fn throw(error: Error) -> JsValue {
    thrown(error.kind(), &error.to_string())
}

fn options<T: for<'a> Deserialize<'a>>(text: &str) -> Thrown<T> {
    serde_json::from_str(text).map_err(|e| thrown("Invalid", &format!("options: {e}")))
}

/// Runs `work` until it ends, or until `stop` is set between two of its steps.
async fn until<T>(stop: &Cell<bool>, work: impl Future<Output = Result<T>>) -> Thrown<T> {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(done.map_err(throw)),
        Poll::Pending if stop.get() => Poll::Ready(Err(thrown("Aborted", "stopped"))),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Whether a callback's answer asks to stop: `false`, or a promise of it.
async fn stops(answer: Thrown<JsValue>) -> Thrown<bool> {
    let answer = match answer?.dyn_into::<Promise>() {
        Ok(promise) => JsFuture::from(promise).await?,
        Err(value) => value,
    };
    Ok(answer == JsValue::FALSE)
}

#[derive(Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeviceOptions {
    adapter: String,
    limits: String,
    without: Vec<String>,
    activations: String,
    info: Option<AdapterInfo>,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        let [adapter, limits, activations] = ["gpu", "adapter", "f32"].map(String::from);
        Self { adapter, limits, without: Vec::new(), activations, info: None }
    }
}

/// `GPUAdapter.info`, as the worker has read it.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct AdapterInfo {
    vendor: String,
    architecture: String,
    device: String,
    description: String,
    fallback: bool,
    subgroups: Option<(u32, u32)>,
    dot4: bool,
}

/// Adapters that compute on the CPU, by what browsers call them.
const SOFTWARE: &[&str] = &["swiftshader", "llvmpipe", "lavapipe", "softpipe", "warp", "basic render"];

impl AdapterInfo {
    fn browser(&self) -> Browser {
        let short = format!("{} {} {}", self.vendor, self.architecture, self.device);
        let name = if self.description.is_empty() { short.trim() } else { self.description.as_str() };
        let all = format!("{short} {}", self.description).to_lowercase();
        Browser {
            name: if name.is_empty() { "WebGPU adapter".into() } else { name.to_owned() },
            software: self.fallback || SOFTWARE.iter().any(|word| all.contains(word)),
            subgroups: self.subgroups,
            dot4: self.dot4,
        }
    }
}

impl DeviceOptions {
    async fn open(&self) -> Result<Device> {
        let adapter = match self.adapter.as_str() {
            "cpu" => return Ok(Device::Cpu),
            "gpu" => AdapterChoice::Best,
            "low-power" => AdapterChoice::LowPower,
            other => {
                return Err(Error::invalid("adapter").expected("gpu, low-power or cpu").found(other));
            }
        };
        let limits = match self.limits.as_str() {
            "adapter" => LimitSet::Adapter,
            "floor" => LimitSet::Floor,
            "iphone" => LimitSet::Iphone,
            other => return Err(Error::invalid("limits").expected("adapter, floor or iphone").found(other)),
        };
        let browser = self.info.as_ref().map(AdapterInfo::browser);
        let (bytes, without) = (self.activations == "int8", self.without.clone());
        let rounding = if bytes { Rounding::Bytes } else { Rounding::None };
        let options = Options { adapter, limits, without, rounding, browser, ..Options::default() };
        Device::gpu(&options).await
    }
}

async fn verify_device(device: &Device, on_outcome: &Function, quick: bool) -> Thrown<String> {
    let Device::Gpu(context) = device else {
        let what = "there is no GPU to verify: the CPU twin is what kernels are compared with";
        return Err(thrown("AdapterMissing", what));
    };
    let stop = Cell::new(false);
    let tell = |outcome: &Outcome| {
        let answer = on_outcome.call1(&JsValue::NULL, &json!(outcome).to_string().into());
        stop.set(stop.get() || answer.is_ok_and(|a| a == JsValue::FALSE));
    };
    let outcomes = match quick {
        true => until(&stop, verify_only(context, 0, one_of_each_family(), tell)).await?,
        false => until(&stop, verify(context, 0, tell)).await?,
    };
    Ok(json!(outcomes).to_string())
}

/// A GPU, or the CPU.
#[wasm_bindgen(js_name = Device)]
pub struct PageDevice {
    device: Device,
}

#[wasm_bindgen(js_class = Device)]
impl PageDevice {
    /// Opens one; see `DeviceOptions` for the JSON.
    pub async fn open(options_json: String) -> Thrown<PageDevice> {
        let device = options::<DeviceOptions>(&options_json)?.open().await.map_err(throw)?;
        Ok(Self { device })
    }

    /// What it is.
    pub fn report(&self) -> String {
        bench::adapter(&self.device).to_string()
    }

    /// Every kernel against its CPU twin; `quick`: on one codec of each family.
    pub async fn verify(&self, on_outcome: Function, quick: bool) -> Thrown<String> {
        verify_device(&self.device, &on_outcome, quick).await
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ModelOptions {
    context: Option<usize>,
    precision: String,
    quantize: Option<String>,
    activations: String,
    adapters: Vec<AdapterFiles>,
    device: DeviceOptions,
}

/// A LoRA adapter whose files, so many, come after those of the model and of the adapters before it.
#[derive(Deserialize)]
struct AdapterFiles {
    name: String,
    weight: f32,
    files: usize,
}

impl Default for ModelOptions {
    fn default() -> Self {
        let (precision, activations) = ("auto".into(), "f32".into());
        let (context, quantize, adapters) = (None, None, Vec::new());
        Self { context, precision, quantize, activations, adapters, device: DeviceOptions::default() }
    }
}

impl ModelOptions {
    fn load(&self, adapters: Vec<Adapter>) -> Result<LoadOptions> {
        let precision = self.precision.parse()?;
        let quantize = self.quantize.as_deref().map(str::parse).transpose()?;
        let activations = match self.activations.as_str() {
            "f32" | "int8" => ActivationMode::F32, // the device rounds them
            "native" => ActivationMode::Native,
            other => return Err(Error::invalid("activations").expected("f32, int8 or native").found(other)),
        };
        let context = self.context;
        Ok(LoadOptions { precision, context, quantize, activations, adapters, ..LoadOptions::default() })
    }

    /// The adapters, whose files it takes from the end of `files`.
    async fn adapters(&self, files: &mut Vec<CoreFile>) -> Result<Vec<Adapter>> {
        let count = self.adapters.iter().map(|adapter| adapter.files).sum::<usize>().min(files.len());
        let mut rest = files.split_off(files.len() - count).into_iter();
        let mut all = Vec::new();
        for AdapterFiles { name, weight, files } in &self.adapters {
            let own = Files::from_iter(rest.by_ref().take(*files).map(named));
            all.push(Adapter { name: name.clone(), weight: *weight, ..Adapter::from_files(&own).await? });
        }
        Ok(all)
    }
}

fn named(file: CoreFile) -> (String, Arc<dyn Source>) {
    let file = PageFile::new(file);
    (file.name().to_string(), file)
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Weights => "weights",
        Stage::Kernels => "kernels",
    }
}

/// Hands load progress to JavaScript, and its wish to stop back.
fn loading<'a>(on_progress: &'a Function, stop: &'a Cell<bool>) -> impl FnMut(Progress) + 'a {
    move |Progress { stage, done, total }| {
        let (done, total) = ((done as f64).into(), (total as f64).into());
        let answer = on_progress.call3(&JsValue::NULL, &stage_name(stage).into(), &done, &total);
        stop.set(stop.get() || answer.is_ok_and(|a| a == JsValue::FALSE));
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Request {
    text: Option<String>,
    messages: Option<Vec<chat::Message>>,
    tokens: Option<Vec<u32>>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last: Option<usize>,
    seed: Option<u64>,
    stop: Vec<String>,
}

impl Request {
    fn options(&mut self) -> GenerateOptions {
        let usual = SamplerOptions::default();
        let sampling = SamplerOptions {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(usual.repeat_penalty),
            repeat_last: self.repeat_last.unwrap_or(usual.repeat_last),
            seed: self.seed,
        };
        GenerateOptions { max_tokens: self.max_tokens, sampling, stop: std::mem::take(&mut self.stop) }
    }
}

/// One number or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Several {
    One(usize),
    Many(Vec<usize>),
}

impl Several {
    fn all(&self) -> Vec<usize> {
        match self {
            Several::One(one) => vec![*one],
            Several::Many(many) => many.clone(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BenchOptions {
    prompt: Option<Several>,
    depth: Option<Several>,
    generate: Option<usize>,
    runs: Option<usize>,
    seconds: Option<f64>,
    agreement: Option<usize>,
    allow_noise: bool,
    browser: Option<String>,
}

impl BenchOptions {
    /// A page has less patience than a terminal.
    fn options(&self) -> bench::Options {
        let usual = bench::Options::default();
        bench::Options {
            prompts: self.prompt.as_ref().map_or(vec![32, 128], Several::all),
            depths: self.depth.as_ref().map_or(vec![0], Several::all),
            generate: self.generate.unwrap_or(usual.generate),
            runs: self.runs.unwrap_or(usual.runs),
            seconds: self.seconds.unwrap_or(usual.seconds),
            agreement: self.agreement.unwrap_or(usual.agreement),
        }
    }
}

/// How often in a row a lost GPU is set up again before that counts as an error.
const RECOVERIES: u32 = 2;

/// A model with its tokenizer, ready to run. One call at a time: the worker sees to that.
#[wasm_bindgen(js_name = Model)]
pub struct PageModel {
    checkpoint: Checkpoint,
    options: ModelOptions,
    /// With the weights that they have now.
    adapters: RefCell<Vec<Adapter>>,
    inspected: inspect::Report,
    load_s: f64,
    session: RefCell<Session>,
}

#[wasm_bindgen(js_class = Model)]
#[allow(clippy::await_holding_refcell_ref)] // a second call at the same time gets `Invalid`, not a panic
impl PageModel {
    /// Streams the weights of `files` to `device`.
    pub async fn load(
        device: &PageDevice,
        mut files: Vec<CoreFile>,
        options_json: String,
        on_progress: Function,
    ) -> Thrown<PageModel> {
        let options: ModelOptions = options(&options_json)?;
        let device = &device.device;
        let (stop, start) = (Cell::new(false), Instant::now());
        let work = async {
            let adapters = options.adapters(&mut files).await?;
            let load = options.load(adapters.clone())?;
            let checkpoint = Checkpoint::from_files(files.into_iter().map(named).collect()).await?;
            let look = inspect::Options { sha256: false, context: options.context, cache: load.precision };
            let inspected = inspect(&checkpoint, device, look, |_, _| {}).await?;
            let session = Session::load(device, &checkpoint, &load, loading(&on_progress, &stop)).await?;
            Ok((checkpoint, adapters, inspected, session))
        };
        let (checkpoint, adapters, inspected, session) = until(&stop, work).await?;
        let load_s = start.elapsed().as_secs_f64();
        let (adapters, session) = (RefCell::new(adapters), RefCell::new(session));
        Ok(Self { checkpoint, options, adapters, inspected, load_s, session })
    }

    /// What it is.
    pub fn info(&self) -> Thrown<String> {
        let session = self.session()?;
        let config = self.checkpoint.config();
        let inspected = &self.inspected;
        Ok(json!({
            "name": inspected.name,
            "format": inspected.format,
            "architecture": inspected.architecture,
            "layers": config.layers,
            "hidden": config.hidden,
            "heads": config.heads,
            "kvHeads": config.kv_heads,
            "vocabulary": config.vocab,
            "context": session.model.context,
            "parameters": inspected.totals.parameters,
            "bitsPerWeight": inspected.totals.bits_per_weight,
            "chat": session.template.is_some(),
            "tensors": inspected.tensors,
            "adapters": adapters(&session),
            "memory": memory(&session),
        })
        .to_string())
    }

    /// Where it runs.
    pub fn adapter(&self) -> Thrown<String> {
        Ok(bench::adapter(self.session()?.model.device()).to_string())
    }

    /// Writes; see `Request` for the JSON. `on_event` is given `'piece'` with text, `'progress'` with a stage and
    /// how much of how much is done, and `'tick'` for a token that completes no text.
    pub async fn generate(&self, request_json: String, on_event: Function) -> Thrown<String> {
        let mut request: Request = options(&request_json)?;
        let session = &mut *self.session()?;
        let tell = |kind: &str, text: &str, done: usize, total: usize| {
            let arguments = js_sys::Array::of4(&kind.into(), &text.into(), &done.into(), &total.into());
            stops(on_event.apply(&JsValue::NULL, &arguments))
        };
        let stop = Cell::new(false);
        let reloading = |Progress { stage, done, total }| {
            let (done, total) = ((done as f64).into(), (total as f64).into());
            let arguments = js_sys::Array::of4(&"progress".into(), &stage_name(stage).into(), &done, &total);
            let answer = on_event.apply(&JsValue::NULL, &arguments);
            stop.set(stop.get() || answer.is_ok_and(|a| a == JsValue::FALSE));
        };
        let mut recoveries = u32::from(self.recover(session, &stop, reloading).await?);
        let options = request.options();
        let generation = match request {
            Request { tokens: Some(tokens), .. } => session.generate_from(tokens, &options),
            Request { messages: Some(messages), .. } => session.chat(&messages, &options),
            Request { text, .. } => session.generate(&text.unwrap_or_default(), &options),
        };
        let mut generation = generation.map_err(throw)?;
        let (mut in_a_row, mut cancelled) = (0, false);
        while let Some(event) = generation.next_event().await {
            let asked = match explained(generation.model().device(), event).await {
                Ok(Event::Prompt { done, total }) => tell("progress", "prompt", done, total).await?,
                Ok(Event::Text(text)) => {
                    in_a_row = 0;
                    tell(if text.is_empty() { "tick" } else { "piece" }, &text, 0, 0).await?
                }
                Err(Error::DeviceLost(_)) if in_a_row < RECOVERIES => {
                    (recoveries, in_a_row) = (recoveries + 1, in_a_row + 1);
                    generation.replace_model(self.reload(&stop, reloading).await?);
                    false
                }
                Err(error) => return Err(throw(error)),
            };
            if asked {
                cancelled = true;
                break;
            }
        }
        let summary = generation.summary();
        let reason = match summary.finish_reason {
            Some(FinishReason::Stop) => "stop",
            Some(FinishReason::Length) => "length",
            None => "cancelled",
        };
        debug_assert!(cancelled || summary.finish_reason.is_some());
        Ok(json!({
            "promptTokens": summary.prompt_token_ids,
            "tokens": summary.token_ids,
            "finishReason": reason,
            "prefillTokensPerSecond": summary.prefill_tokens_per_s,
            "decodeTokensPerSecond": summary.decode_tokens_per_s,
            "seed": generation.seed(),
            "recoveries": recoveries,
        })
        .to_string())
    }

    /// Sets how much adapters count: JSON of name and weight; those it does not name keep theirs. Returns all of them.
    #[wasm_bindgen(js_name = setAdapterWeights)]
    pub async fn set_adapter_weights(&self, weights_json: String) -> Thrown<String> {
        let wanted: BTreeMap<String, f32> = options(&weights_json)?;
        let session = &mut *self.session()?;
        let weights: Vec<(&str, f32)> =
            wanted.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        let set = session.set_adapter_weights(&weights).await;
        match explained(session.model.device(), set).await {
            // Whatever runs next sets the GPU up again, with these.
            Ok(()) | Err(Error::DeviceLost(_)) => {}
            Err(error) => return Err(throw(error)),
        }
        for adapter in self.adapters.borrow_mut().iter_mut() {
            adapter.weight = wanted.get(&adapter.name).copied().unwrap_or(adapter.weight);
        }
        Ok(adapters(session).to_string())
    }

    /// The ids of a text.
    pub fn tokenize(&self, text: &str, special: bool) -> Thrown<Vec<u32>> {
        self.session()?.tokenizer.encode(text, special).map_err(throw)
    }

    /// The text of some ids.
    pub fn detokenize(&self, tokens: &[u32]) -> Thrown<String> {
        Ok(self.session()?.tokenizer.decode(tokens))
    }

    /// How surprised it is by a text. `on_progress` is told how many of how many tokens are predicted.
    pub async fn perplexity(&self, text: String, on_progress: Function) -> Thrown<String> {
        let session = &mut *self.session()?;
        self.recover(session, &Cell::new(false), |_| {}).await?;
        let documents = documents(&session.tokenizer, &text, session.model.context).map_err(throw)?;
        let total = documents.iter().map(|d| d.len() - 1).sum();
        let stop = Cell::new(false);
        let tell = |standing: &crate::perplexity::Perplexity| {
            told(&on_progress, &stop, standing.tokens, total);
        };
        let found = until(&stop, perplexity(&session.model, &documents, tell)).await?;
        Ok(json!(found).to_string())
    }

    /// How fast it is; see `BenchOptions` and [`bench::Report`] for the JSON.
    pub async fn bench(&self, options_json: String, on_progress: Function) -> Thrown<String> {
        let wanted: BenchOptions = options(&options_json)?;
        let session = &mut *self.session()?;
        self.recover(session, &Cell::new(false), |_| {}).await?;
        let (model, own) = (&session.model, &self.options.device);
        let stop = Cell::new(false);
        let tell = |done, total| told(&on_progress, &stop, done, total);
        let work = async {
            let (device, options) = (model.device(), wanted.options());
            let probe = bench::probe(device).await?;
            let result = bench::measure(model, &self.checkpoint, probe, &options, tell).await?;
            // It has loaded with them before.
            let load = || self.options.load(self.adapters.borrow().clone()).unwrap_or_default();
            let agreement = bench::agreement(device, &self.checkpoint, load, options.agreement).await?;
            let name = self.inspected.name.clone();
            let result = bench::ModelResult { name, load_s: self.load_s, agreement, ..result };
            let adapter = bench::AdapterResult {
                adapter: bench::adapter(device),
                limits: own.limits.clone(),
                without: own.without.clone(),
                probe,
                models: vec![result],
            };
            let report = bench::Report::new(wanted.browser, vec![adapter]);
            if !wanted.allow_noise {
                report.check()?;
            }
            Ok(report)
        };
        let report = until(&stop, work).await?;
        Ok(json!(report).to_string())
    }

    /// Every kernel against its CPU twin, on the model's GPU; `quick`: on one codec of each family.
    pub async fn verify(&self, on_outcome: Function, quick: bool) -> Thrown<String> {
        let session = &mut *self.session()?;
        self.recover(session, &Cell::new(false), |_| {}).await?;
        verify_device(session.model.device(), &on_outcome, quick).await
    }

    /// Bytes in use.
    pub fn memory(&self) -> Thrown<String> {
        Ok(memory(&*self.session()?).to_string())
    }

    /// Forgets the conversation.
    pub fn reset(&self) -> Thrown<()> {
        self.session()?.reset();
        Ok(())
    }
}

impl PageModel {
    fn session(&self) -> Thrown<std::cell::RefMut<'_, Session>> {
        self.session.try_borrow_mut().map_err(|_| thrown("Invalid", "the model is busy: one call at a time"))
    }

    /// The same weights on a new device.
    async fn reload(&self, stop: &Cell<bool>, progress: impl FnMut(Progress)) -> Thrown<CoreModel> {
        let work = async {
            let device = self.options.device.open().await?;
            let load = self.options.load(self.adapters.borrow().clone())?;
            CoreModel::load(&device, &self.checkpoint, &load, progress).await
        };
        until(stop, work).await
    }

    /// Sets the GPU up again if it was lost while nothing ran; whether it was.
    async fn recover(
        &self,
        session: &mut Session,
        stop: &Cell<bool>,
        progress: impl FnMut(Progress),
    ) -> Thrown<bool> {
        let Device::Gpu(context) = session.model.device() else { return Ok(false) };
        match explained(session.model.device(), context.check_late().await).await {
            Ok(()) => Ok(false),
            Err(Error::DeviceLost(_)) => {
                session.replace_model(self.reload(stop, progress).await?);
                Ok(true)
            }
            Err(error) => Err(throw(error)),
        }
    }
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(then: &Function, ms: i32);
}

/// How often, and how many ms apart, a GPU error is asked whether the device is gone.
const LATE: (usize, i32) = (60, 50);

/// A GPU error that comes of a lost device as what it is: Firefox reports the loss after what follows from it.
async fn explained<T>(device: &Device, result: Result<T>) -> Result<T> {
    let (Err(Error::Gpu(_)), Device::Gpu(context)) = (&result, device) else { return result };
    for _ in 0..LATE.0 {
        let pause = Promise::new(&mut |resolve, _| set_timeout(&resolve, LATE.1));
        let _ = JsFuture::from(pause).await;
        if let Err(lost @ Error::DeviceLost(_)) = context.check() {
            return Err(lost);
        }
    }
    result
}

/// Calls back with a count.
fn told(on_progress: &Function, stop: &Cell<bool>, done: usize, total: usize) {
    let answer = on_progress.call2(&JsValue::NULL, &done.into(), &total.into());
    stop.set(stop.get() || answer.is_ok_and(|a| a == JsValue::FALSE));
}

fn adapters(session: &Session) -> Value {
    session.model.adapters().map(|(name, weight)| json!({ "name": name, "weight": weight })).collect()
}

fn memory(session: &Session) -> Value {
    let memory = &session.model.memory;
    json!({
        "weights": memory.weights_bytes_gpu,
        "kv": memory.kv_bytes,
        "gpu": session.model.device().allocated(),
    })
}

/// SHA-256 of bytes that come in pieces: `crypto.subtle` wants them all at once.
#[wasm_bindgen]
#[derive(Default)]
pub struct Sha256 {
    state: sha2::Sha256,
}

#[wasm_bindgen]
impl Sha256 {
    /// Of nothing yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    /// The hash of all pieces so far.
    pub fn hex(&self) -> String {
        self.state.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn hub_source_of(text: &str) -> Thrown<hub::Source> {
    text.parse().map_err(throw)
}

/// What `hf:owner/repo[/file][@revision]` names.
#[wasm_bindgen(js_name = hubSource)]
pub fn hub_source(text: &str) -> Thrown<String> {
    let hub::Source { repo, revision, file } = hub_source_of(text)?;
    Ok(json!({ "repo": repo, "revision": revision, "file": file }).to_string())
}

/// The index file that [`hub_files`] wants to see.
#[wasm_bindgen(js_name = hubIndex)]
pub fn hub_index(source: &str, names: &str) -> Thrown<Option<String>> {
    let names: Vec<String> = options(names)?;
    Ok(hub::index_file(&hub_source_of(source)?, &names).map(str::to_owned))
}

/// The files of a repository that make the model.
#[wasm_bindgen(js_name = hubFiles)]
pub fn hub_files(source: &str, names: &str, index: Option<String>) -> Thrown<String> {
    let names: Vec<String> = options(names)?;
    let index = index.as_deref().map(str::as_bytes);
    let choice = hub::choose(&hub_source_of(source)?, &names, index).map_err(throw)?;
    Ok(json!(choice).to_string())
}
