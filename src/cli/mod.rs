//! Subcommands, one a file, and what they share: devices, models, output.

mod adapters;
mod bench;
mod chat;
mod heap;
mod inspect;
mod interrupt;
mod logits;
mod perplexity;
mod run;
mod tokenize;
mod verify;
mod writing;

use anyhow::{Context as _, Result, bail};
use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use halfbyte::checkpoint::Checkpoint;
use halfbyte::checkpoint::quantize::Quantization;
use halfbyte::gpu::{AdapterChoice, LimitSet, Options, Rounding};
use halfbyte::hub::{Hub, Source, cache_home};
use halfbyte::model::{ActivationMode, CacheFormat, LoadOptions, Progress, Stage};
use halfbyte::{Device, Error, embedded};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs quantized language models on any GPU that speaks WebGPU.
#[derive(Parser)]
#[command(
    name = "halfbyte",
    version,
    about,
    max_term_width = 100,
    subcommand_required = true,
    after_help = "\
Without a command: `run`. Without a model: the embedded storyteller.
Exit status: 0; 1 what was asked failed; 2 usage.

Examples:
  halfbyte
  halfbyte run ./model.gguf \"The moon\" --temperature 0 --max-tokens 40
  halfbyte chat ./Qwen3-0.6B --adapter nvidia"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Chat(chat::Chat),
    Logits(logits::Logits),
    Perplexity(perplexity::Perplexity),
    Tokenize(tokenize::Tokenize),
    Verify(verify::Verify),
    Adapters(adapters::Adapters),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
}

impl Command {
    async fn run(self) -> Result<ExitCode> {
        match self {
            Self::Run(command) => command.run().await,
            Self::Chat(command) => command.run().await,
            Self::Logits(command) => command.run().await,
            Self::Perplexity(command) => command.run().await,
            Self::Tokenize(command) => command.run().await,
            Self::Verify(command) => command.run().await,
            Self::Adapters(command) => command.run().await,
            Self::Inspect(command) => command.run().await,
            Self::Bench(command) => command.run().await,
        }
    }
}

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of every command")]
pub struct Common {
    /// One JSON object on stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Adapter: an index or a part of its name (see `halfbyte adapters`), or `cpu`
    #[arg(long, env = "HALFBYTE_ADAPTER", value_name = "NAME", hide_env_values = true)]
    pub adapter: Option<String>,
    /// Storage of the KV cache: auto, f32, f16, int8, int4 (Hadamard-transformed) [default: auto, which is f16; f32 for
    /// logits, perplexity]
    #[arg(long, alias = "precision", value_name = "C", value_parser = str::parse::<CacheFormat>)]
    pub kv_cache: Option<CacheFormat>,
    /// What products multiply weights with: f32, activations as they are; f16, prompts rounded where the adapter has
    /// matrix units (faster, errors of 2.5e-4); int8, rounded where a GPU has packed dot products and weights are
    /// integers, experts apart (errors of 0.8 %); native, quantized to 8 bits where the checkpoint was made for that (W8A8,
    /// FP8, BitNet) [default: f32]
    #[arg(
        long,
        value_enum,
        value_name = "A",
        hide_possible_values = true,
        hide_default_value = true,
        default_value = "f32"
    )]
    pub activations: ActivationsArg,
    /// Quantize an unquantized model as it is loaded: nf4 (4.5 bits a weight), int8 (8), int4 (4.6); embedding and head
    /// stay as they are
    #[arg(long, value_name = "Q", value_parser = str::parse::<Quantization>)]
    pub quantize: Option<Quantization>,
    /// Tokens that the KV cache holds [default: the model's, at most 2048]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub context: Option<usize>,
    /// Keep nothing and use nothing kept: compile all kernels, take those that suit adapters of its class
    #[arg(long, env = "HALFBYTE_NO_CACHE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub no_cache: bool,
    /// Capabilities to leave unused: f16, subgroups, dot4, matrix; software: take a software adapter for a GPU
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide_possible_values = true,
        value_parser = Options::WITHOUT)]
    pub without: Vec<String>,
    /// Limits to keep to: adapter, all it has; floor, what WebGPU guarantees; iphone, 1 GiB buffers, 1.5 GB in all
    #[arg(long, value_enum, value_name = "L", hide_possible_values = true, default_value = "adapter")]
    pub limits: LimitsArg,
}

/// `--activations`
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationsArg {
    /// As they are
    #[default]
    F32,
    /// The same, but prompts in f16 where there are matrix units
    F16,
    /// In 8 bits, 32 of them a scale, where there are packed dot products
    Int8,
    /// Quantized as the checkpoint says
    Native,
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
            Some("noop") => AdapterChoice::Noop,
            Some(text) => {
                text.parse().map_or_else(|_| AdapterChoice::Name(text.into()), AdapterChoice::Index)
            }
        };
        let limits = match self.limits {
            LimitsArg::Floor => LimitSet::Floor,
            LimitsArg::Iphone => LimitSet::Iphone,
            LimitsArg::Adapter => LimitSet::Adapter,
        };
        let pipeline_cache = self.cache_folder();
        let rounding = self.rounding();
        let without = self.without.clone();
        Options { adapter, limits, without, rounding, pipeline_cache, ..Options::default() }
    }

    fn rounding(&self) -> Rounding {
        match self.activations {
            ActivationsArg::F16 => Rounding::Halves,
            ActivationsArg::Int8 => Rounding::Bytes,
            ActivationsArg::F32 | ActivationsArg::Native => Rounding::None,
        }
    }

    /// Where compiled kernels and measurements of adapters are kept.
    fn cache_folder(&self) -> Option<PathBuf> {
        cache_home().filter(|_| !self.no_cache).map(|cache| cache.join("halfbyte"))
    }

    /// Whether the CPU twin was asked for.
    pub fn is_cpu(&self) -> bool {
        self.adapter.as_ref().is_some_and(|name| name.eq_ignore_ascii_case("cpu"))
    }

    /// Opens the adapter; where there is none at all and none was named, the CPU twin, with a line that says so.
    pub async fn device(&self) -> Result<Device> {
        if self.is_cpu() {
            if self.rounding() != Rounding::None {
                note(UNROUNDED);
            }
            return Ok(Device::Cpu);
        }
        match Device::gpu(&self.options()).await {
            Err(Error::AdapterMissing(_)) if self.adapter.as_deref().unwrap_or_default().is_empty() => {
                note(&format!("halfbyte: no GPU adapter found, running on the CPU; {DRIVER_HINT}"));
                Ok(Device::Cpu)
            }
            Ok(Device::Gpu(context)) if !context.is_noop() => {
                if !context.capabilities().rounds() {
                    note(UNROUNDED);
                }
                let Some(folder) = self.cache_folder() else { return Ok(Device::Gpu(context)) };
                let starting = || note("halfbyte: measuring once which kernels this adapter runs fastest …");
                Ok(Device::Gpu(context.tune(&folder, starting).await?))
            }
            other => Ok(other?),
        }
    }

    /// Load options of the flags; `default` is the command's own cache.
    pub fn load_options(&self, default: CacheFormat) -> LoadOptions {
        let activations = match self.activations {
            ActivationsArg::F32 | ActivationsArg::F16 | ActivationsArg::Int8 => ActivationMode::F32,
            ActivationsArg::Native => ActivationMode::Native,
        };
        LoadOptions {
            precision: self.kv_cache.unwrap_or(default),
            context: self.context,
            activations,
            quantize: self.quantize,
            ..LoadOptions::default()
        }
    }
}

/// Where an adapter has nothing that rounding would make faster.
const UNROUNDED: &str = "halfbyte: this adapter has no use for such --activations: they stay f32";

/// What to do where there is no adapter.
pub const DRIVER_HINT: &str = "to use a GPU, install its Vulkan driver (Debian, Ubuntu: mesa-vulkan-drivers)";

/// The name of the embedded model, where there is no such file.
const EMBEDDED: &str = "embedded";

/// What MODEL may be.
const MODELS: &str = "a Hugging Face folder, a .gguf or .safetensors file, hf:owner/repo, or `embedded`";

/// An error that says which of the user's files it is about, where files are what it is about.
pub fn about(path: &str, error: Error) -> anyhow::Error {
    let of_files =
        matches!(error, Error::Corrupt(_) | Error::Unsupported(_) | Error::Missing(_) | Error::Io { .. });
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path);
    if !of_files || error.to_string().contains(name) {
        error.into()
    } else {
        anyhow::Error::from(error).context(path.to_owned())
    }
}

/// Opens MODEL: nothing or `embedded` for the embedded one, a folder, a file, a repository of the hub.
pub async fn open_model(model: Option<&str>) -> Result<Checkpoint> {
    match model {
        None => Ok(embedded::open().await?),
        Some(EMBEDDED) if !Path::new(EMBEDDED).exists() => Ok(embedded::open().await?),
        Some(name) if name.starts_with("hf:") => {
            let path = fetch(name)?;
            Checkpoint::open(path).await.map_err(|e| about(name, e))
        }
        Some(path) if !Path::new(path).exists() => {
            bail!("{path}: no such file or folder; MODEL is {MODELS}")
        }
        Some(path) => Checkpoint::open(path).await.map_err(|e| about(path, e)),
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

/// Whether the only argument of `run` is a prompt: it has spaces in it, and no file has such a name.
pub fn looks_like_prompt(model: &str) -> bool {
    model.contains(char::is_whitespace) && !model.starts_with("hf:") && !Path::new(model).exists()
}

/// The text of a file, or of stdin for `-`.
pub fn text_file(path: &str) -> Result<String> {
    let text = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    text.with_context(|| format!("cannot read {}", if path == "-" { "stdin" } else { path }))
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

/// A progress bar of bytes on stderr, shown only to people.
pub fn progress_bar(what: &'static str, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(0).with_style(bar_style("{bytes}/{total_bytes} {eta}")).with_message(what)
}

fn bar_style(count: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {count}"));
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Feeds a bar from load progress.
pub fn show(bar: &ProgressBar) -> impl FnMut(Progress) + '_ {
    |progress| {
        if progress.stage == Stage::Kernels && progress.done == 0 {
            bar.set_style(bar_style("{pos}/{len} kernels"));
            bar.set_message("compiling");
        }
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    }
}

/// Prints one JSON object.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A line on stderr; if nobody reads that, nothing is lost.
pub fn note(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// `4.1 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value.fract() == 0.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Parses a number that 0 makes no sense for.
fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a whole number from 1 upwards is needed".into())
}

/// Parses a number from 0 to 1.
fn fraction(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|n| (0.0..=1.0).contains(n));
    number.ok_or_else(|| "a number from 0 to 1 is needed".into())
}

/// Ends the program as a wrong argument does.
fn usage(error: &Error) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, error).exit()
}

/// An error with its causes, each said once.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The arguments; where they name no command but options, a prompt or a file, `run` is put before them.
fn arguments() -> Vec<OsString> {
    let mut all: Vec<OsString> = std::env::args_os().collect();
    let implied = match all.get(1).map(|first| first.to_string_lossy()) {
        None => true,
        Some(first) if first.starts_with('-') => !["-h", "--help", "-V", "--version"].contains(&&*first),
        Some(first) => {
            let known = first == "help" || Cli::command().find_subcommand(&*first).is_some();
            !known && (looks_like_prompt(&first) || Path::new(&*first).exists())
        }
    };
    if implied {
        all.insert(1.min(all.len()), "run".into());
    }
    all
}

/// Parses the arguments, runs the command, turns errors into exit status 1.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(arguments());
    match pollster::block_on(cli.command.run()) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("halfbyte: {}", message(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output has gone (`halfbyte … | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
