//! `halfbyte bench`: tokens a second, and how close they come to the adapter's memory bandwidth.

use super::{Common, bar_style, device_name, open_model, print_json, progress_bar, show};
use anyhow::Result;
use clap::Args;
use halfbyte::bench::random::{RandomModel, SCHEMES, codec_names};
use halfbyte::bench::shapes::{SHAPES, ShapeSpec};
use halfbyte::bench::{Measured, Options, Spread, bench, copy_bandwidth, weight_bytes_per_token};
use halfbyte::checkpoint::Weights;
use halfbyte::gpu::context::adapters;
use halfbyte::model::{LoadOptions, Precision};
use halfbyte::{Device, Model};
use serde::Serialize;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// Raised when a field of the JSON changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// Measure prefill and decode speed, against the copy bandwidth of the same adapter
#[derive(Args)]
#[command(after_help = "\
Examples:
  halfbyte bench model.gguf --runs 10 --json
  halfbyte bench --shape llama-3.2-1b --codec q4_0,nf4,e8p12")]
pub struct Bench {
    /// Models, as for `run` [default: the embedded storyteller]
    models: Vec<String>,
    /// Random weights of these models' sizes, without a download; `list` lists them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    shape: Vec<String>,
    /// Codecs of the random weights; `list` lists them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "q4_0", requires = "shape")]
    codec: Vec<String>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = Options::default().prompt)]
    prompt: usize,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = Options::default().generate)]
    generate: usize,
    /// Runs that count, after one to warm up
    #[arg(long, value_name = "N", default_value_t = Options::default().runs)]
    runs: usize,
    /// Measure every adapter, one after the other
    #[arg(long, conflicts_with = "adapter")]
    all_adapters: bool,
    #[command(flatten)]
    common: Common,
}

/// One model on one adapter.
#[derive(Serialize)]
struct ModelResult {
    model: String,
    architecture: String,
    format: String,
    load_ms: f64,
    #[serde(flatten)]
    measured: Measured,
}

/// All models on one adapter.
#[derive(Serialize)]
struct AdapterResult {
    adapter: Value,
    /// Read and written bytes together.
    copy_bytes_per_s: Option<f64>,
    models: Vec<ModelResult>,
}

impl Bench {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        if self.shape.iter().chain(&self.codec).any(|name| name == "list") {
            return list();
        }
        for (shape, codec) in self.random() {
            RandomModel::new(ShapeSpec::named(shape)?, codec)?; // before anything is measured
        }
        let mut results = Vec::new();
        if self.all_adapters {
            for report in adapters(&self.common.options()).await {
                let common = Common { adapter: Some(report.index.to_string()), ..self.common.clone() };
                results.push(self.adapter(&common.device().await?).await?);
            }
        } else {
            results.push(self.adapter(&self.common.device().await?).await?);
        }
        if self.common.json {
            let version = env!("CARGO_PKG_VERSION");
            print_json(
                &json!({ "schema_version": SCHEMA_VERSION, "halfbyte": version, "adapters": results }),
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn adapter(&self, device: &Device) -> Result<AdapterResult> {
        let copy = copy_bandwidth(device).await?;
        let adapter = match device {
            Device::Gpu(context) => serde_json::to_value(context.report())?,
            Device::Cpu => json!({ "name": "CPU", "backend": "cpu", "kind": "twin" }),
        };
        if !self.common.json {
            let copy = copy.map(|c| format!(", copies {:.1} GB/s", c / 1e9)).unwrap_or_default();
            println!("{}{copy}", device_name(device));
            println!(
                "{:<28} {:>30} {:>30} {:>9} {:>8}",
                "model", "prefill tokens/s", "decode tokens/s", "GB/s", "of copy"
            );
        }
        let mut models = Vec::new();
        let names = self.models.iter().map(|m| Some(m.as_str()));
        let alone = self.models.is_empty() && self.shape.is_empty();
        for name in names.chain(alone.then_some(None)) {
            let start = Instant::now();
            let checkpoint = open_model(name).await?;
            let name = name.unwrap_or(Weights::name(&checkpoint)).to_string();
            models.push(self.model(device, name, &checkpoint, start, copy).await?);
        }
        for (shape, codec) in self.random() {
            let start = Instant::now();
            let weights = RandomModel::new(ShapeSpec::named(shape)?, codec)?;
            let name = format!("{} {codec}", weights.name());
            models.push(self.model(device, name, &weights, start, copy).await?);
        }
        Ok(AdapterResult { adapter, copy_bytes_per_s: copy, models })
    }

    /// Every shape with every codec.
    fn random(&self) -> impl Iterator<Item = (&String, &String)> {
        self.shape.iter().flat_map(|shape| self.codec.iter().map(move |codec| (shape, codec)))
    }

    async fn model(
        &self,
        device: &Device,
        name: String,
        checkpoint: &impl Weights,
        start: Instant,
        copy: Option<f64>,
    ) -> Result<ModelResult> {
        let context = self.common.context.unwrap_or(self.prompt + self.generate);
        let options = LoadOptions { context: Some(context), ..self.common.load_options(Precision::Auto) };
        let bar = progress_bar("loading", self.common.json);
        let model = Model::load(device, checkpoint, &options, show(&bar)).await?;
        bar.finish_and_clear();
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let weights = weight_bytes_per_token(checkpoint, &model).await?;
        let options = Options { prompt: self.prompt, generate: self.generate, runs: self.runs };
        let bar = progress_bar("measuring", self.common.json).with_style(bar_style("{pos}/{len} tokens"));
        let measured = bench(&model, weights, copy, options, |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        let measured = measured.await?;
        bar.finish_and_clear();
        let (architecture, format) =
            (checkpoint.config().architecture.clone(), checkpoint.format_name().into());
        let result = ModelResult { model: name, architecture, format, load_ms, measured };
        if !self.common.json {
            print(&result);
        }
        Ok(result)
    }
}

/// What `--shape` and `--codec` may name.
fn list() -> Result<ExitCode> {
    println!("shapes: {}\n\ncodecs:", SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", "));
    for scheme in SCHEMES {
        println!("  {:<12} {}", scheme.name, scheme.about);
    }
    let more = codec_names().into_iter().filter(|name| SCHEMES.iter().all(|s| s.name != *name));
    println!("\nand, with embedding and head in f16: {}", more.collect::<Vec<_>>().join(", "));
    Ok(ExitCode::SUCCESS)
}

/// `123.4 (120.0-125.1)`
fn spread(spread: &Spread) -> String {
    format!("{:.1} ({:.1}-{:.1})", spread.median, spread.min, spread.max)
}

fn print(result: &ModelResult) {
    let m = &result.measured;
    println!(
        "{:<28} {:>30} {:>30} {:>9.2} {:>8}",
        result.model.rsplit('/').next().unwrap_or(&result.model),
        spread(&m.prefill_tokens_per_s),
        spread(&m.decode_tokens_per_s),
        m.weight_bytes_per_s / 1e9,
        m.of_copy_bandwidth.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share)),
    );
}
