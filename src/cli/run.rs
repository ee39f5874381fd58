//! `halfbyte run`: continues a prompt, or answers it.

use super::writing::{Writing, load, write};
use super::{Common, bytes, device_name, heap, interrupt, looks_like_prompt, note, print_json};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use halfbyte::chat::Message;
use halfbyte::embedded;
use halfbyte::model::{CacheFormat, Memory};
use halfbyte::session::{FinishReason, Summary};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Write a text: stream it, then say how fast that was
#[derive(Args)]
#[command(after_help = "\
A model with a chat template answers PROMPT, any other one continues it.

Examples:
  halfbyte run
  halfbyte run \"The old lighthouse keeper\"
  halfbyte run ./TinyLlama-1.1B-Chat-GPTQ \"Why is the sky blue?\" --temperature 0
  git diff | halfbyte run model.gguf - --system \"Write a commit message.\"

With --json: {text, prompt_token_ids, token_ids, finish_reason, timings, memory,
adapter}. text is what was written, without the prompt; finish_reason is stop,
length, or null after Ctrl-C.")]
pub struct Run {
    /// A Hugging Face folder, a .gguf or .safetensors file, hf:owner/repo [default: the embedded storyteller]
    model: Option<String>,
    /// How the text begins, or what to answer; `-` reads it from stdin [default: "Once upon a time"]
    prompt: Option<String>,
    /// Continue PROMPT as it stands, even if the model has a chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// The JSON object.
#[derive(Serialize)]
struct Report<'a> {
    text: &'a str,
    prompt_token_ids: &'a [u32],
    token_ids: &'a [u32],
    finish_reason: Option<FinishReason>,
    timings: Timings,
    memory: Bytes,
    adapter: String,
}

#[derive(Serialize)]
struct Timings {
    load_ms: f64,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
}

#[derive(Serialize)]
struct Bytes {
    #[serde(flatten)]
    model: Memory,
    host_peak_bytes: usize,
}

impl Run {
    /// Runs it.
    pub async fn run(mut self) -> Result<ExitCode> {
        let options = self.writing.options()?;
        if self.prompt.is_none() && self.model.as_deref().is_some_and(looks_like_prompt) {
            self.prompt = self.model.take();
        }
        let prompt = match self.prompt.as_deref() {
            None => embedded::PROMPT.to_owned(),
            Some("-") => {
                std::io::read_to_string(std::io::stdin()).context("cannot read the prompt from stdin")?
            }
            Some(prompt) => prompt.to_owned(),
        };
        interrupt::install()?;
        let start = Instant::now();
        let (device, mut session) =
            load(self.model.as_deref(), &self.common, &self.writing.lora, CacheFormat::default()).await?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let memory = session.model.memory;

        let answers = session.template.is_some() && !self.raw;
        let generation = if answers {
            let system = self.writing.system.iter().map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.chain([Message::new("user", prompt.as_str())]).collect();
            session.chat(&messages, &options)?
        } else if self.writing.system.is_some() {
            bail!("the model has no chat template, so --system has no place; put its text into PROMPT");
        } else {
            session.generate(&prompt, &options)?
        };
        if self.common.json {
            let written = write(generation, false, &mut std::io::sink()).await?;
            let Summary { prompt_token_ids, token_ids, finish_reason, .. } = &written.summary;
            print_json(&Report {
                text: &written.text,
                prompt_token_ids,
                token_ids,
                finish_reason: *finish_reason,
                timings: Timings {
                    load_ms,
                    prefill_tokens_per_s: written.summary.prefill_tokens_per_s,
                    decode_tokens_per_s: written.summary.decode_tokens_per_s,
                },
                memory: Bytes { model: memory, host_peak_bytes: heap::peak() },
                adapter: device_name(&device),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = std::io::stdout().lock();
        if !answers {
            write!(out, "{prompt}")?;
            out.flush()?;
        }
        let written = write(generation, answers, &mut out).await?;
        writeln!(out)?;
        drop(out);
        statistics(&written.summary, written.seed, load_ms, &memory, &device_name(&device));
        Ok(ExitCode::SUCCESS)
    }
}

/// Speed, memory and adapter, to people.
fn statistics(summary: &Summary, seed: Option<u64>, load_ms: f64, memory: &Memory, adapter: &str) {
    let end = match summary.finish_reason {
        Some(FinishReason::Stop) => "the end",
        Some(FinishReason::Length) => "full length",
        None => "interrupted",
    };
    let seed = seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    let (prompt, written) = (summary.prompt_token_ids.len(), summary.token_ids.len());
    note("");
    note(&format!("prompt   {prompt} tokens, {:.1} tokens/s", summary.prefill_tokens_per_s));
    note(&format!("text     {written} tokens, {:.1} tokens/s; {end}{seed}", summary.decode_tokens_per_s));
    note(&format!(
        "memory   weights {} ({} on disk), KV cache {}, host heap {}",
        bytes(memory.weights_bytes_gpu),
        bytes(memory.weights_bytes_disk),
        bytes(memory.kv_bytes),
        bytes(heap::peak() as u64)
    ));
    note(&format!("adapter  {adapter}, loaded in {load_ms:.0} ms"));
}
