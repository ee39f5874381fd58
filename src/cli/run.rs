//! `halfbyte run`: continues a prompt.

use super::{Common, device_name, open_model, print_json, progress_bar, show};
use anyhow::Result;
use clap::Args;
use halfbyte::embedded;
use halfbyte::model::Precision;
use halfbyte::session::{GenerateOptions, Session};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Write a text: streams it, then says how fast it was
#[derive(Args, Default)]
pub struct Run {
    /// A Hugging Face folder, a .gguf or a .safetensors file [default: the embedded storyteller]
    model: Option<String>,
    /// How the text begins
    prompt: Option<String>,
    /// Most tokens to write
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    common: Common,
}

impl Run {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let checkpoint = open_model(self.model.as_deref()).await?;
        let device = self.common.device().await?;
        let bar = progress_bar("loading", self.common.json);
        let options = self.common.load_options(Precision::Auto);
        let mut session = Session::load(&device, &checkpoint, &options, show(&bar)).await?;
        bar.finish_and_clear();
        let load_ms = start.elapsed().as_secs_f64() * 1e3;

        let prompt = self.prompt.as_deref().unwrap_or(embedded::PROMPT);
        let options = GenerateOptions { max_tokens: self.max_tokens, ..GenerateOptions::default() };
        let mut generation = session.generate(prompt, &options)?;
        let mut out = std::io::stdout().lock();
        let mut text = String::new();
        if !self.common.json {
            write!(out, "{prompt}")?;
        }
        while let Some(piece) = generation.next().await {
            let piece = piece?;
            if !self.common.json {
                write!(out, "{piece}")?;
                out.flush()?;
            }
            text.push_str(&piece);
        }
        let summary = generation.summary();
        drop(out);
        if self.common.json {
            print_json(&serde_json::json!({ "text": text, "summary": summary }))?;
        } else {
            println!();
            eprintln!(
                "\n{} tokens: prefill {:.1}, decode {:.1} tokens/s; loaded in {load_ms:.0} ms on {}",
                summary.token_ids.len(),
                summary.prefill_tokens_per_s,
                summary.decode_tokens_per_s,
                device_name(&device)
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
