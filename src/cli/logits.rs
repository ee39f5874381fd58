//! `halfbyte logits`: what a model thinks comes next.

use super::writing::Lora;
use super::{Common, about, note, open_model, print_json, progress_bar, show};
use anyhow::{Result, bail};
use clap::Args;
use halfbyte::Model;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::reference::argmax;
use halfbyte::tokenizer::Tokenizer;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Show the logits after some tokens: what comes next
#[derive(Args)]
#[command(after_help = "\
Examples:
  halfbyte logits embedded --tokens 1,403,407
  halfbyte logits model.gguf --tokens 1,9038 --json | jq '.argmax'

`halfbyte tokenize` turns a text into token ids. With --json: {logits: all of
the last position, argmax: of every position}.")]
pub struct Logits {
    /// A Hugging Face folder, a .gguf or .safetensors file, hf:owner/repo, or `embedded`
    model: String,
    /// Token ids, with commas between them
    #[arg(long, required = true, value_delimiter = ',', value_name = "IDS")]
    tokens: Vec<u32>,
    #[command(flatten)]
    lora: Lora,
    #[command(flatten)]
    common: Common,
}

/// The JSON object.
#[derive(Serialize)]
struct Report {
    logits: Vec<f32>,
    argmax: Vec<u32>,
}

/// How many of the likeliest tokens people see.
const SHOWN: usize = 10;

impl Logits {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let checkpoint = open_model(Some(&self.model)).await?;
        let adapters = self.lora.open().await?;
        let device = self.common.device().await?;
        let bar = progress_bar("loading", self.common.json);
        let options = LoadOptions { adapters, ..self.common.load_options(CacheFormat::F32) };
        let model = Model::load(&device, &checkpoint, &options, show(&bar))
            .await
            .map_err(|e| about(&self.model, e))?;
        bar.finish_and_clear();

        let mut report = Report { logits: Vec::new(), argmax: Vec::new() };
        let each = |_, logits: &[f32]| {
            report.argmax.push(argmax(logits));
            if report.argmax.len() == self.tokens.len() {
                report.logits = logits.to_vec();
            }
            Ok(())
        };
        model.every_position(&self.tokens, each).await?;
        if let Some(at) = report.logits.iter().position(|l| !l.is_finite()) {
            bail!(
                "the logit of token {at} is {}: check the model file, the GPU with `halfbyte verify`, \
                 or take --kv-cache f32",
                report.logits[at]
            );
        }
        if self.common.json {
            print_json(&report)?;
            return Ok(ExitCode::SUCCESS);
        }
        // Only the names of tokens come from the tokenizer: without one, ids have to do.
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).await.ok().map(|(tokenizer, _)| tokenizer);
        let piece = |id: u32| tokenizer.as_ref().map_or(String::new(), |t| format!("{:?}", t.piece(id)));
        let mut out = std::io::stdout().lock();
        writeln!(out, "  token      logit  probability")?;
        for (id, logit, probability) in likeliest(&report.logits) {
            let line = format!("{id:7}  {logit:>9.4}  {:>10.2}%  {}", probability * 100.0, piece(id));
            writeln!(out, "{}", line.trim_end())?;
        }
        drop(out);
        let argmax: Vec<String> = report.argmax.iter().map(u32::to_string).collect();
        note(&format!("\nlikeliest after each position: {}", argmax.join(",")));
        Ok(ExitCode::SUCCESS)
    }
}

/// The likeliest tokens: id, logit, probability.
fn likeliest(logits: &[f32]) -> Vec<(u32, f32, f64)> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - most).exp();
    let total: f64 = logits.iter().map(|&l| weight(l)).sum();
    let mut all: Vec<(u32, f32, f64)> =
        logits.iter().enumerate().map(|(id, &l)| (id as u32, l, weight(l) / total)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(SHOWN);
    all
}
