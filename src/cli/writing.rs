//! How `run` and `chat` write: the flags of sampling, and the loop that streams a text.

use super::{Common, about, fraction, interrupt, open_model, progress_bar, show};
use anyhow::Result;
use clap::Args;
use halfbyte::checkpoint::lora::Adapter;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::sampler::{Sampler, SamplerOptions};
use halfbyte::session::{GenerateOptions, Generation, Session, Summary};
use halfbyte::{Device, Error};
use std::io::Write;
use std::path::Path;

/// Flags of sampling.
#[derive(Args, Clone, Debug)]
pub struct Writing {
    /// Most tokens to write
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// 0: always the likeliest token; 1: as the model says; more: more daring
    #[arg(long, value_name = "T", default_value_t = SamplerOptions::default().temperature)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = SamplerOptions::default().top_k)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together reach P; 1: all
    #[arg(long, value_name = "P", value_parser = fraction, default_value_t = SamplerOptions::default().top_p)]
    pub top_p: f32,
    /// Leave out tokens less likely than P times the likeliest; 0: none
    #[arg(long, value_name = "P", value_parser = fraction, default_value_t = SamplerOptions::default().min_p)]
    pub min_p: f32,
    /// Make tokens of the last 64 less likely; 1: do not
    #[arg(long, value_name = "R", default_value_t = SamplerOptions::default().repeat_penalty)]
    pub repeat_penalty: f32,
    /// The same seed writes the same text [default: another one every time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// What a chat model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub lora: Lora,
}

/// `--lora`, on every command that runs a model.
#[derive(Args, Clone, Debug, Default)]
pub struct Lora {
    /// A LoRA adapter's folder (PEFT), and how much of it is added, 1 if that is not said; may be given several times
    #[arg(long, value_name = "DIR[=WEIGHT]")]
    pub lora: Vec<String>,
}

impl Lora {
    /// Opens the adapters.
    pub async fn open(&self) -> Result<Vec<Adapter>> {
        let mut all: Vec<Adapter> = Vec::new();
        for argument in &self.lora {
            let (folder, weight) = match named_weight(argument) {
                Some(parts) if !Path::new(argument).exists() => parts,
                _ => (argument.as_str(), 1.0),
            };
            let mut adapter =
                Adapter { weight, ..Adapter::open(folder).await.map_err(|e| about(folder, e))? };
            if all.iter().any(|other| other.name == adapter.name) {
                adapter.name = folder.into(); // checkpoints of several runs have the same names
            }
            all.push(adapter);
        }
        Ok(all)
    }
}

/// `NAME=WEIGHT`.
pub fn named_weight(text: &str) -> Option<(&str, f32)> {
    let (name, weight) = text.rsplit_once('=')?;
    Some((name, weight.trim().parse().ok().filter(|weight: &f32| weight.is_finite())?))
}

impl Writing {
    /// Options of the flags; nonsense is a usage error, told before anything is loaded.
    pub fn options(&self) -> Result<GenerateOptions> {
        let sampling = SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed,
            ..SamplerOptions::default()
        };
        if let Err(error) = Sampler::new(sampling.clone()) {
            super::usage(&error);
        }
        Ok(GenerateOptions { max_tokens: self.max_tokens, sampling, stop: self.stop.clone() })
    }
}

/// Opens device, model and LoRA, with a progress bar.
pub async fn load(
    model: Option<&str>,
    common: &Common,
    lora: &Lora,
    precision: CacheFormat,
) -> Result<(Device, Session)> {
    let checkpoint = open_model(model).await?;
    let adapters = lora.open().await?;
    let device = common.device().await?;
    let bar = progress_bar("loading", common.json);
    let options = LoadOptions { adapters, ..common.load_options(precision) };
    let session = Session::load(&device, &checkpoint, &options, show(&bar)).await;
    let session = session.map_err(|e| about(model.unwrap_or("the embedded model"), e))?;
    bar.finish_and_clear();
    Ok((device, session))
}

/// What was written.
pub struct Written {
    /// The text.
    pub text: String,
    /// Tokens and times.
    pub summary: Summary,
    /// The seed, where chance had a part.
    pub seed: Option<u64>,
}

/// Streams a generation to `out`, until its end or Ctrl-C. With `apart` it stands for itself on the screen, so the
/// space before its first word is not shown.
pub async fn write(mut generation: Generation<'_>, apart: bool, out: &mut dyn Write) -> Result<Written> {
    let writing = interrupt::Writing::new();
    let mut text = String::new();
    while !writing.cancelled()
        && let Some(piece) = generation.next().await
    {
        let piece = piece?;
        let begins = apart && text.trim_start().is_empty();
        out.write_all(if begins { piece.trim_start() } else { &piece }.as_bytes())?;
        out.flush()?;
        text.push_str(&piece);
    }
    let (summary, seed) = (generation.summary(), generation.seed());
    Ok(Written { text, summary, seed })
}

/// `--context` is what helps where the context is full.
pub fn is_context_full(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::ContextFull { .. }))
}
