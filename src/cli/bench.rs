//! `halfbyte bench`: tokens a second, and how close they come to what the adapter can do.

use super::{Common, bar_style, bytes, device_name, note, open_model, print_json, progress_bar, show};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use halfbyte::bench::compare::{html, json, markdown, rows, table};
use halfbyte::bench::random::{RandomModel, SCHEMES, codec_names};
use halfbyte::bench::shapes::{SHAPES, ShapeSpec};
use halfbyte::bench::{AdapterResult, Kernel, ModelResult, Options, Report, Spread};
use halfbyte::bench::{adapter, agreement, limits_name, measure, probe};
use halfbyte::checkpoint::Weights;
use halfbyte::gpu::Probe;
use halfbyte::gpu::context::adapters;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::{Device, Model};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure speed, against the bandwidth and arithmetic of the same adapter
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  halfbyte bench model.gguf --runs 10 --json
  halfbyte bench --shape llama-3.2-1b --codec q4_0,nf4,e8p12 --profile
  halfbyte bench --all-adapters --out results.json
  halfbyte bench compare before.json after.json --html report.html

The JSON is described in benchmarks/README.md. Points whose runs differ too much
are an error, as other work on the machine was measured too."
)]
pub struct Bench {
    #[command(subcommand)]
    command: Option<Command>,
    /// Models, as for `run` [default: the embedded storyteller]
    models: Vec<String>,
    /// Random weights of these models' sizes, without a download; `list` lists them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    shape: Vec<String>,
    /// Codecs of the random weights; `list` lists them [default: q4_0]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    codec: Vec<String>,
    /// Lengths of prompts, in tokens
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = Options::default().prompts)]
    prompt: Vec<usize>,
    /// Tokens in the context before the first that is generated
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = Options::default().depths)]
    depth: Vec<usize>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = Options::default().generate)]
    generate: usize,
    /// Runs that count, after one to warm up
    #[arg(long, value_name = "N", default_value_t = Options::default().runs)]
    runs: usize,
    /// Leave out points that would take longer, but for the first of each kind
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().seconds)]
    seconds: f64,
    /// Tokens to compare with the CPU twin; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = Options::default().agreement)]
    agreement: usize,
    /// Report although the runs differ too much
    #[arg(long)]
    allow_noise: bool,
    /// Show GPU time by kernel
    #[arg(long)]
    profile: bool,
    /// Measure every adapter, one after the other
    #[arg(long, conflicts_with = "adapter")]
    all_adapters: bool,
    /// Write the JSON to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    Compare(Compare),
}

/// Set results side by side: a table, a page with pictures
#[derive(Args)]
#[command(after_help = "\
Example: halfbyte bench compare before.json after.json --html report.html

A number in parentheses is against the first file with the same model.")]
struct Compare {
    /// Files of `bench --out`, or saved by the page
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print the table in Markdown
    #[arg(long)]
    markdown: bool,
    /// One JSON object on stdout, and nothing else there
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Write a page with tables, bars and a roofline, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Compare {
    fn run(&self) -> Result<ExitCode> {
        let mut reports = Vec::new();
        for file in &self.files {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
            reports.push((name.clone(), Report::parse(&text, &name)?));
        }
        if let Some(file) = &self.html {
            let page = html(&reports)?;
            std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let rows = rows(&reports);
        if self.json {
            print_json(&json(&rows))?;
            return Ok(ExitCode::SUCCESS);
        }
        write!(std::io::stdout(), "{}", if self.markdown { markdown(&rows) } else { table(&rows) })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Bench {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        if let Some(Command::Compare(compare)) = &self.command {
            return compare.run();
        }
        if self.shape.iter().chain(&self.codec).any(|name| name == "list") {
            return list();
        }
        if self.shape.is_empty() && !self.codec.is_empty() {
            bail!("--codec says how random weights are coded: add --shape NAME; --shape list lists names");
        }
        self.options().check()?;
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
        let report = Report::new(None, results);
        if !self.allow_noise {
            report.check()?;
        }
        if let Some(file) = &self.out {
            let text = serde_json::to_string_pretty(&report)? + "\n";
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.common.json {
            print_json(&report)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self) -> Options {
        Options {
            prompts: self.prompt.clone(),
            depths: self.depth.clone(),
            generate: self.generate,
            runs: self.runs,
            seconds: self.seconds,
            agreement: self.agreement,
        }
    }

    fn several(&self) -> bool {
        self.all_adapters || self.models.len() + self.random().count() > 1
    }

    /// Every shape with every codec.
    fn random(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.codec.iter().map(String::as_str);
        let codecs = named.chain(self.codec.is_empty().then_some("q4_0"));
        self.shape.iter().flat_map(move |shape| codecs.clone().map(move |codec| (shape.as_str(), codec)))
    }

    async fn adapter(&self, device: &Device) -> Result<AdapterResult> {
        let probe = probe(device).await?;
        if !self.common.json {
            self.written(writeln!(std::io::stdout(), "{}{}", device_name(device), most(&probe)))?;
        }
        let mut models = Vec::new();
        let names = self.models.iter().map(|m| Some(m.as_str()));
        let alone = self.models.is_empty() && self.shape.is_empty();
        for name in names.chain(alone.then_some(None)) {
            let start = Instant::now();
            let checkpoint = open_model(name).await?;
            models.push(self.model(device, &checkpoint, start, probe).await?);
        }
        for (shape, codec) in self.random() {
            let start = Instant::now();
            let weights = RandomModel::new(ShapeSpec::named(shape)?, codec)?;
            let result = self.model(device, &weights, start, probe).await?;
            models.push(ModelResult { random: true, ..result });
        }
        let options = self.common.options();
        let limits = limits_name(options.limits).into();
        Ok(AdapterResult { adapter: adapter(device), limits, without: options.without, probe, models })
    }

    async fn model(
        &self,
        device: &Device,
        weights: &impl Weights,
        start: Instant,
        probe: Probe,
    ) -> Result<ModelResult> {
        let options = self.options();
        let context = options.context().min(weights.config().context);
        let context = Some(self.common.context.unwrap_or(context));
        let load = || LoadOptions { context, ..self.common.load_options(CacheFormat::default()) };
        let bar = progress_bar("loading", self.common.json);
        let model = Model::load(device, weights, &load(), show(&bar)).await?;
        bar.finish_and_clear();
        let load_s = start.elapsed().as_secs_f64();
        let bar = progress_bar("measuring", self.common.json).with_style(bar_style("{pos}/{len} runs"));
        let result = measure(&model, weights, probe, &options, |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        let result = ModelResult { load_s, ..result.await? };
        drop(model);
        bar.set_message("comparing with the CPU twin");
        let agreement = agreement(device, weights, load, options.agreement).await?;
        bar.finish_and_clear();
        let result = ModelResult { agreement, ..result };
        match result.check() {
            // Of one model the report says it.
            Err(noisy) if !self.allow_noise && self.several() => note(&format!("halfbyte: {noisy}")),
            Err(_) if !self.allow_noise => {}
            _ if self.common.json => {}
            _ => self.written(self.print(&mut std::io::stdout().lock(), &result))?,
        }
        Ok(result)
    }

    /// A reader that has gone ends it; not where a file waits for the results.
    fn written(&self, result: std::io::Result<()>) -> std::io::Result<()> {
        if self.out.is_some() { Ok(()) } else { result }
    }

    fn print(&self, out: &mut impl Write, result: &ModelResult) -> std::io::Result<()> {
        let name = result.name.rsplit('/').next().unwrap_or(&result.name);
        writeln!(
            out,
            "\n{name}: {}, {:.2} bits a weight, {} of weights, {} in all; loaded in {:.1} s, first token {:.2} s later",
            result.format,
            result.bits_per_weight,
            bytes(result.memory.weights_bytes_gpu),
            bytes(result.device_bytes),
            result.load_s,
            result.first_token_s,
        )?;
        for p in &result.prefill {
            let of = p.of_f32_rate.map(|of| format!(", {:.1} % of f32", 100.0 * of)).unwrap_or_default();
            let speed = spread(&p.tokens_per_s);
            writeln!(
                out,
                "  prefill {:>6} {speed:>28} tokens/s {:>9.1} GFLOP/s{of}",
                p.tokens,
                p.flop_per_s / 1e9
            )?;
        }
        for d in &result.decode {
            let of =
                d.of_copy_bandwidth.map(|of| format!(", {:.1} % of a copy", 100.0 * of)).unwrap_or_default();
            let speed = spread(&d.tokens_per_s);
            writeln!(
                out,
                "  decode @{:>6} {speed:>28} tokens/s {:>9.1} GB/s{of}",
                d.depth,
                d.bytes_per_s / 1e9
            )?;
        }
        for reason in &result.skipped {
            writeln!(out, "  left out: {reason}")?;
        }
        if let Some(a) = result.agreement {
            writeln!(
                out,
                "  CPU twin: {} tokens through {} of {} layers differ by {:.1e}; {:.0} % same largest logit",
                a.tokens,
                a.layers,
                a.of_layers,
                a.max_relative_error,
                100.0 * a.same_argmax,
            )?;
        }
        if self.profile {
            kernels(out, "a decode step", result.decode_kernels.as_deref())?;
            kernels(out, "a prompt step", result.prefill_kernels.as_deref())?;
        }
        Ok(())
    }
}

/// What `--shape` and `--codec` may name.
fn list() -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let shapes: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
    writeln!(out, "shapes: {}\n\ncodecs:", shapes.join(", "))?;
    for scheme in SCHEMES {
        writeln!(out, "  {:<12} {}", scheme.name, scheme.about)?;
    }
    let more = codec_names().into_iter().filter(|name| SCHEMES.iter().all(|s| s.name != *name));
    writeln!(out, "\nand, with embedding and head in f16: {}", more.collect::<Vec<_>>().join(", "))?;
    Ok(ExitCode::SUCCESS)
}

/// `: copies 14.8 GB/s, f32 52 GFLOP/s`
fn most(probe: &Probe) -> String {
    let rates = [
        ("copies", "GB/s", probe.copy_bytes_per_s),
        ("f32", "GFLOP/s", probe.f32_flop_per_s),
        ("f16", "GFLOP/s", probe.f16_flop_per_s),
        ("int8", "GOP/s", probe.int8_op_per_s),
    ];
    let known = rates.into_iter().filter_map(|(what, unit, rate)| Some((what, unit, rate?)));
    let known: Vec<String> = known.map(|(what, unit, r)| format!("{what} {:.1} {unit}", r / 1e9)).collect();
    if known.is_empty() { String::new() } else { format!(": {}", known.join(", ")) }
}

/// `123.4 (120.0-125.1)`
fn spread(spread: &Spread) -> String {
    format!("{:.1} ({:.1}-{:.1})", spread.median, spread.min, spread.max)
}

/// GPU time by kernel.
fn kernels(out: &mut impl Write, step: &str, kernels: Option<&[Kernel]>) -> std::io::Result<()> {
    let Some(kernels) = kernels else {
        return writeln!(out, "  {step}: this adapter has no timestamps");
    };
    let all: f64 = kernels.iter().map(|k| k.ms).sum();
    writeln!(out, "  {step}: {all:.3} ms on the GPU")?;
    for Kernel { kernel, calls, ms, share } in kernels {
        writeln!(out, "    {kernel:<40} {calls:>5} x {ms:>10.3} ms {:>5.1} %", 100.0 * share)?;
    }
    Ok(())
}
