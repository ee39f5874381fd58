//! How fast models run on an adapter, and how close that is to what the adapter can do.
//!
//! [`measure()`] runs one model, [`Report`] is what `halfbyte bench --json` prints and what the page's benchmark gives:
//! one schema, version [`SCHEMA_VERSION`], described field by field in `benchmarks/README.md`. `compare` sets reports
//! side by side.
//!
//! A speed is the median of five runs, or as many as were asked for, after one to warm up. Where the middle half of the
//! runs differs by more than [`NOISE`] of the median, the machine was busy with other things: the point is measured
//! again, twice at most, and if it is no quieter then, [`ModelResult::check`] refuses it.
//! Decoding reads every weight once a token, so it is set against the bandwidth of a copy; reading a prompt is
//! arithmetic, so it is set against multiply-adds in registers. Both are measured on the same adapter in the same run.
//! A GPU that is fast and wrong is seen by [`agreement()`]: the same tokens through the CPU twin.

pub mod agreement;
#[cfg(feature = "cli")]
pub mod compare;
pub mod measure;
#[cfg(feature = "cli")]
mod plot;
pub mod random;
pub mod shapes;

pub use agreement::{Agreement, agreement};
pub use measure::measure;

use crate::checkpoint::Weights;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu::{LimitSet, Probe};
use crate::model::{Memory, Model};
use crate::quant::Shape;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use web_time::{SystemTime, UNIX_EPOCH};

/// Raised when a field of the JSON changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 2;
/// Largest distance of the quartiles of a point's runs, as a share of their median, that is reported.
pub const NOISE: f64 = 0.1;

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Lengths of prompts, in tokens.
    pub prompts: Vec<usize>,
    /// Positions of the context at which tokens are generated.
    pub depths: Vec<usize>,
    /// Tokens to generate in a run.
    pub generate: usize,
    /// Runs that count, after one to warm up.
    pub runs: usize,
    /// Points that would take longer than this many seconds are left out, but for the first of each kind.
    pub seconds: f64,
    /// Tokens that are compared with the CPU twin; 0 leaves it out.
    pub agreement: usize,
}

impl Default for Options {
    fn default() -> Self {
        let (prompts, depths) = (vec![32, 128, 512], vec![0, 1024]);
        Self { prompts, depths, generate: 32, runs: 5, seconds: 30.0, agreement: 8 }
    }
}

impl Options {
    /// Checks that there is something to measure.
    pub fn check(&self) -> Result<()> {
        if self.prompts.is_empty()
            || self.depths.is_empty()
            || self.prompts.contains(&0)
            || self.generate == 0
        {
            return Err(Error::invalid("nothing to measure").expected("at least one token and one run"));
        }
        if self.runs == 0 {
            return Err(Error::invalid("no runs").expected("at least one"));
        }
        Ok(())
    }

    /// Positions of the cache that all points fit in.
    pub fn context(&self) -> usize {
        let prompt = self.prompts.iter().max().copied().unwrap_or(1);
        prompt.max(self.depths.iter().max().map_or(1, |depth| depth + self.generate))
    }
}

/// What `halfbyte bench --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of halfbyte.
    pub halfbyte: String,
    /// Commit that it was built from, where the build was told (`HALFBYTE_COMMIT`).
    pub commit: Option<String>,
    /// When, in seconds since 1970.
    pub time: u64,
    /// `linux x86_64`.
    pub system: String,
    /// Name and version of the browser; none natively.
    pub browser: Option<String>,
    /// Results, an adapter each.
    pub adapters: Vec<AdapterResult>,
}

/// All models on one adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterResult {
    /// What `halfbyte adapters --json` says of it: name, backend, driver, capabilities with their limits.
    pub adapter: Value,
    /// The limits that were kept to: `adapter`, `floor`, `iphone`.
    pub limits: String,
    /// Capabilities that were left unused.
    pub without: Vec<String>,
    /// The most that it was seen to do; all null on the CPU.
    pub probe: Probe,
    /// Results, a model each.
    pub models: Vec<ModelResult>,
}

/// What was measured of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    /// File, folder, or shape and codec.
    pub name: String,
    /// The weights are random ones of a model's shape.
    pub random: bool,
    /// `llama`, `qwen3` …
    pub architecture: String,
    /// `GGUF`, `GPTQ` … or, of random weights, the codec.
    pub format: String,
    /// Weights of all matrices.
    pub parameters: u64,
    /// Bits of a weight on the device, scales included.
    pub bits_per_weight: f64,
    /// Numbers of the KV cache: `f32`, `f16`, `int8`, `int4`.
    pub cache: String,
    /// Positions of the KV cache.
    pub context: usize,
    /// Tokens of a prefill step at most.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// Seconds from opening the files to a model that is ready.
    pub load_s: f64,
    /// Seconds from there to the first token after the shortest prompt: caches are cold, drivers compile.
    pub first_token_s: f64,
    /// Reading prompts.
    pub prefill: Vec<Prefill>,
    /// Generating.
    pub decode: Vec<Decode>,
    /// Points that were asked for and left out, with the reason.
    pub skipped: Vec<String>,
    /// GPU time of a decode step by kernel; null without a GPU's clock.
    pub decode_kernels: Option<Vec<Kernel>>,
    /// The same of the longest prompt step that was measured, of at most `chunk` tokens.
    pub prefill_kernels: Option<Vec<Kernel>>,
    /// Dispatches of a decode step.
    pub dispatches: usize,
    /// Bytes in use.
    pub memory: Memory,
    /// All buffers on the device while it ran.
    pub device_bytes: u64,
    /// The same tokens on the CPU twin.
    pub agreement: Option<Agreement>,
}

/// What all steps were before a report said it.
fn default_chunk() -> usize {
    crate::model::PREFILL_CHUNK
}

/// Median and range of some runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
    /// How many.
    pub runs: usize,
    /// Distance of the quartiles, as a share of the median.
    pub noise: f64,
}

impl Spread {
    /// Of at least one run.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let runs = values.len();
        // Between two values, as much of either as it is near.
        let quantile = |share: f64| {
            let at = share * runs.saturating_sub(1) as f64;
            let value = |i: usize| values.get(i).copied().unwrap_or(0.0);
            let (low, part) = (at as usize, at.fract());
            value(low) + if part > 0.0 { part * (value(low + 1) - value(low)) } else { 0.0 }
        };
        let median = quantile(0.5);
        let noise = if median > 0.0 { (quantile(0.75) - quantile(0.25)) / median } else { 0.0 };
        Self { median, min: quantile(0.0), max: quantile(1.0), runs, noise }
    }
}

/// Reading a prompt from position 0, up to its next token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prefill {
    /// Its length.
    pub tokens: usize,
    /// Prompt tokens a second.
    pub tokens_per_s: Spread,
    /// Seconds to the first token (median).
    pub first_token_s: f64,
    /// Operations a second of products and attention (median).
    pub flop_per_s: f64,
    /// The same over the adapter's f32 rate.
    pub of_f32_rate: Option<f64>,
}

/// Generating tokens, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decode {
    /// Positions that the cache held before the first of them.
    pub depth: usize,
    /// Tokens of a run.
    pub tokens: usize,
    /// Tokens a second.
    pub tokens_per_s: Spread,
    /// Weights, keys and values that a token reads, in bytes (mean).
    pub bytes_per_token: u64,
    /// The same a second (median).
    pub bytes_per_s: f64,
    /// The same over the bandwidth of a copy.
    pub of_copy_bandwidth: Option<f64>,
    /// Operations a second of products and attention (median).
    pub flop_per_s: f64,
}

/// GPU time of one kernel in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// `matvec × int4 g32 z8`
    pub kernel: String,
    /// Dispatches.
    pub calls: usize,
    /// Milliseconds of all of them.
    pub ms: f64,
    /// Share of the step's GPU time.
    pub share: f64,
}

impl Report {
    /// Results of this build, now.
    pub fn new(browser: Option<String>, adapters: Vec<AdapterResult>) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            schema_version: SCHEMA_VERSION,
            halfbyte: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("HALFBYTE_COMMIT").filter(|c| !c.is_empty()).map(str::to_string),
            time,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            browser,
            adapters,
        }
    }

    /// Reads the JSON of a report; `file` is named in errors.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| {
            Error::corrupt("no JSON").file(file).found(e).remedy("give a file of bench --out")
        })?;
        if value["schema_version"] != SCHEMA_VERSION {
            return Err(Error::unsupported("schema_version of a benchmark")
                .file(file)
                .expected(SCHEMA_VERSION)
                .found(&value["schema_version"])
                .remedy("measure again with this halfbyte"));
        }
        serde_json::from_value(value).map_err(|e| Error::corrupt("no benchmark").file(file).found(e))
    }

    /// Fails where the runs of a point differ too much.
    pub fn check(&self) -> Result<()> {
        self.adapters.iter().flat_map(|a| &a.models).try_for_each(ModelResult::check)
    }
}

impl ModelResult {
    /// Points whose runs differ too much, with by how much.
    pub fn noisy(&self) -> Vec<(String, f64)> {
        let prefill = self.prefill.iter().map(|p| (format!("prefill of {}", p.tokens), p.tokens_per_s.noise));
        let decode = self.decode.iter().map(|d| (format!("decode at {}", d.depth), d.tokens_per_s.noise));
        prefill.chain(decode).filter(|(_, noise)| *noise > NOISE).collect()
    }

    /// Fails where the runs of a point differ too much.
    pub fn check(&self) -> Result<()> {
        let noisy = self.noisy();
        if noisy.is_empty() {
            return Ok(());
        }
        let points: Vec<String> = noisy.iter().map(|(p, n)| format!("{p} by {:.0} %", 100.0 * n)).collect();
        Err(Error::invalid(format!("{}: the runs differ too much to be reported", self.name))
            .expected(format!("the middle half within {:.0} %", 100.0 * NOISE))
            .found(points.join(", "))
            .remedy("end what else uses the machine, or take more --runs or --allow-noise"))
    }
}

/// What a report says of a device.
pub fn adapter(device: &Device) -> Value {
    match device {
        Device::Gpu(context) => {
            let mut report = json!(context.report());
            report["cpu"] = false.into();
            report
        }
        Device::Cpu => json!({
            "cpu": true, "name": "CPU", "backend": "cpu", "kind": "twin", "driver": "",
            "capabilities": {
                "f16": false, "subgroups": null, "dot4": false, "software": true, "max_binding": 0,
                "max_buffer": 0, "workgroup_bytes": 0, "invocations": 1, "memory_budget": null,
            },
        }),
    }
}

/// The name that [`AdapterResult::limits`] gives them.
pub fn limits_name(limits: LimitSet) -> &'static str {
    match limits {
        LimitSet::Adapter => "adapter",
        LimitSet::Floor => "floor",
        LimitSet::Iphone => "iphone",
    }
}

/// The most that a device was seen to do; nothing on the CPU, whose twin is not made to be fast, nor where nothing is
/// computed.
pub async fn probe(device: &Device) -> Result<Probe> {
    match device {
        Device::Cpu => Ok(Probe::default()),
        Device::Gpu(context) if context.is_noop() => Ok(Probe::default()),
        Device::Gpu(context) => Probe::of(context).await,
    }
}

/// Packed weight bytes that one decode step reads: all but an embedding that is not the head as well.
async fn weight_bytes_per_token(weights: &impl Weights, model: &Model) -> Result<u64> {
    let all = model.memory.weights_bytes_gpu;
    if weights.config().tied {
        return Ok(all);
    }
    let embedding = weights.matrix("model.embed_tokens").await?;
    let bytes = embedding.map_or(0, |m| Shape { rows: m.rows, cols: m.cols }.packed_bytes(&*m.codec));
    Ok(all.saturating_sub(bytes))
}
