//! `halfbyte perplexity`: how surprised a model is by a text.

use super::writing::{Lora, load};
use super::{Common, device_name, note, print_json, text_file};
use anyhow::Result;
use clap::Args;
use halfbyte::model::CacheFormat;
use halfbyte::perplexity::{documents, perplexity};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Measure how well a model predicts a text
#[derive(Args)]
#[command(after_help = "\
Documents in FILE stand between <|endoftext|>; each is stripped, begins with BOS
and is cut to the context. A FILE without separators is one document, cut into
windows of the context. The mean is over all predicted tokens.

Examples:
  halfbyte perplexity model.gguf wiki.test.raw --context 2048
  halfbyte perplexity embedded stories.txt --json

With --json: {perplexity, nll, tokens}; nll is the mean, in nats a token.")]
pub struct Perplexity {
    /// A Hugging Face folder, a .gguf or .safetensors file, hf:owner/repo, or `embedded`
    model: String,
    /// The text, in UTF-8; `-` is stdin
    file: String,
    #[command(flatten)]
    lora: Lora,
    #[command(flatten)]
    common: Common,
}

impl Perplexity {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let text = text_file(&self.file)?;
        let (device, session) = load(Some(&self.model), &self.common, &self.lora, CacheFormat::F32).await?;
        let documents = documents(&session.tokenizer, &text, session.model.context)?;
        let total: usize = documents.iter().map(|ids| ids.len() - 1).sum();
        let bar = bar(total, self.common.json);
        let start = Instant::now();
        let result = perplexity(&session.model, &documents, |standing| {
            bar.inc(1);
            if standing.tokens % 64 == 0 {
                bar.set_message(format!("{:.4}", standing.perplexity));
            }
        })
        .await?;
        bar.finish_and_clear();
        if self.common.json {
            print_json(&result)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "perplexity {:.4}", result.perplexity)?;
        drop(out);
        note(&format!(
            "nll {:.5} nats a token; {} tokens predicted in {} documents of at most {} tokens",
            result.nll,
            result.tokens,
            documents.len(),
            session.model.context
        ));
        note(&format!(
            "{:.1} tokens/s on {}",
            result.tokens as f64 / start.elapsed().as_secs_f64(),
            device_name(&device)
        ));
        Ok(ExitCode::SUCCESS)
    }
}

fn bar(total: usize, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("perplexity {msg} {wide_bar} {pos}/{len} tokens {eta}");
    ProgressBar::new(total as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
