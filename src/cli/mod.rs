//! Subcommands, one a file, and what they share: devices, models, output.

mod bench;
mod inspect;
mod run;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use halfbyte::checkpoint::Checkpoint;
use halfbyte::gpu::{AdapterChoice, LimitSet, Options};
use halfbyte::hub::{Hub, Source};
use halfbyte::model::{LoadOptions, Precision, Progress};
use halfbyte::{Device, Error, embedded};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs quantized language models on any GPU that speaks WebGPU.
#[derive(Parser)]
#[command(name = "halfbyte", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
}

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// One JSON object on stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Adapter: an index or a part of its name (see `halfbyte adapters`), or `cpu`
    #[arg(long, env = "HALFBYTE_ADAPTER", value_name = "NAME")]
    pub adapter: Option<String>,
    /// Storage of the KV cache [default: auto; f32 for logits, perplexity and verify]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<PrecisionArg>,
    /// Tokens that the KV cache holds [default: the model's, at most 2048]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Capabilities to leave unused: f16, subgroups, dot4
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub without: Vec<String>,
    /// Limits to keep to: all of the adapter's, WebGPU's guaranteed floor, or an iPhone's
    #[arg(long, value_enum, default_value = "adapter")]
    pub limits: LimitsArg,
}

/// `--precision`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionArg {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// What runs best
    Auto,
}

/// `--limits`
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitsArg {
    /// 128 MiB bindings, 16 KiB workgroup memory, 256 invocations
    Floor,
    /// 1 GiB buffers, 1.5 GB in all
    Iphone,
    /// All that the adapter has
    #[default]
    Adapter,
}

impl Common {
    /// GPU options of the flags.
    pub fn options(&self) -> Options {
        let adapter = match self.adapter.as_deref() {
            None | Some("") => AdapterChoice::Best,
            Some(text) => {
                text.parse().map_or_else(|_| AdapterChoice::Name(text.into()), AdapterChoice::Index)
            }
        };
        let limits = match self.limits {
            LimitsArg::Floor => LimitSet::Floor,
            LimitsArg::Iphone => LimitSet::Iphone,
            LimitsArg::Adapter => LimitSet::Adapter,
        };
        Options { adapter, limits, without: self.without.clone(), ..Options::default() }
    }

    /// Opens the adapter; where there is none at all and none was named, the CPU twin, with a line that says so.
    pub async fn device(&self) -> Result<Device> {
        if self.adapter.as_deref() == Some("cpu") {
            return Ok(Device::Cpu);
        }
        match Device::gpu(&self.options()).await {
            Err(Error::AdapterMissing(_)) if self.adapter.is_none() => {
                eprintln!(
                    "halfbyte: no GPU adapter found, running on the CPU; install your GPU's Vulkan driver \
                     (Debian, Ubuntu: mesa-vulkan-drivers) to use it"
                );
                Ok(Device::Cpu)
            }
            other => Ok(other?),
        }
    }

    /// Load options of the flags; `default` is the command's own precision.
    pub fn load_options(&self, default: Precision) -> LoadOptions {
        let precision = match self.precision {
            None => default,
            Some(PrecisionArg::F32) => Precision::F32,
            Some(PrecisionArg::F16) => Precision::F16,
            Some(PrecisionArg::Auto) => Precision::Auto,
        };
        LoadOptions { precision, context: self.context, adapters: Vec::new() }
    }
}

/// Opens MODEL: nothing for the embedded one, a folder, a file, a repository of the hub.
pub async fn open_model(model: Option<&str>) -> Result<Checkpoint> {
    match model {
        None => Ok(embedded::open().await?),
        Some(name) if name.starts_with("hf:") => {
            let path = fetch(name)?;
            Checkpoint::open(path).await.with_context(|| format!("cannot open {name}"))
        }
        Some(path) => Checkpoint::open(path).await.with_context(|| format!("cannot open {path}")),
    }
}

/// Brings a model of the hub into the cache, with a bar for every file.
fn fetch(name: &str) -> Result<PathBuf> {
    let source: Source = name.parse()?;
    let bar = progress_bar("", false);
    let fetched = Hub::from_env()?.fetch(&source, &mut |progress| {
        bar.set_message(progress.file.to_string());
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    if fetched.offline {
        eprintln!("halfbyte: the hub is out of reach; taking {name} as it was downloaded earlier");
    }
    Ok(fetched.path)
}

/// `NVIDIA H200 (vulkan)`, `CPU`.
pub fn device_name(device: &Device) -> String {
    match device {
        Device::Cpu => "CPU".into(),
        Device::Gpu(context) => {
            let report = context.report();
            format!("{} ({})", report.name, report.backend)
        }
    }
}

/// A progress bar on stderr, shown only to people.
pub fn progress_bar(what: &'static str, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

/// Feeds a bar from load progress.
pub fn show(bar: &ProgressBar) -> impl FnMut(Progress) + '_ {
    |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    }
}

/// Prints one JSON object.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Parses the arguments, runs the command, turns errors into exit status 1.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or_else(|| Command::Run(run::Run::default()));
    let result = pollster::block_on(async {
        match command {
            Command::Run(command) => command.run().await,
            Command::Inspect(command) => command.run().await,
            Command::Bench(command) => command.run().await,
        }
    });
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("halfbyte: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes; those that it quotes itself are not said twice.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether the reader of our output has gone (`halfbyte … | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
