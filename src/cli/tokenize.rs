//! `halfbyte tokenize`: text to tokens and back.

use super::{Common, about, note, open_model, print_json, text_file};
use anyhow::Result;
use clap::Args;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::tokenizer::Tokenizer;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Show the tokens of a text, or the text of tokens
#[derive(Args)]
#[command(after_help = "\
Examples:
  halfbyte tokenize embedded \"Once upon a time\"
  halfbyte tokenize ./tokenizer.json --file book.txt --json
  halfbyte tokenize model.gguf --decode 1,9038,2501

Without TEXT and --file the text comes from stdin. With --json: {token_ids,
pieces}, and with --decode {text, token_ids, pieces}.")]
pub struct Tokenize {
    /// A Hugging Face folder, a .gguf (of a vocabulary only will do), a tokenizer.json, hf:owner/repo, or `embedded`
    model: String,
    /// The text
    text: Option<String>,
    /// A file with the text; `-` is stdin
    #[arg(long, value_name = "F", conflicts_with = "text")]
    file: Option<String>,
    /// Add no BOS or EOS, and read `<s>` as three characters
    #[arg(long)]
    no_special: bool,
    /// Token ids to turn into text, with commas between them
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["text", "file", "no_special"])]
    decode: Option<Vec<u32>>,
    #[command(flatten)]
    common: Common,
}

/// The JSON object.
#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    token_ids: Vec<u32>,
    pieces: Vec<String>,
}

impl Tokenize {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let tokenizer = open(&self.model).await?;
        let (text, token_ids) = match self.decode {
            Some(ids) => {
                for &id in &ids {
                    known(&tokenizer, id)?;
                }
                (Some(tokenizer.decode(&ids)), ids)
            }
            None => {
                let text = match (self.text, self.file) {
                    (Some(text), _) => text,
                    (None, file) => text_file(file.as_deref().unwrap_or("-"))?,
                };
                (None, tokenizer.encode(&text, !self.no_special)?)
            }
        };
        let pieces: Vec<String> = token_ids.iter().map(|&id| tokenizer.piece(id)).collect();
        if self.common.json {
            print_json(&Report { text, token_ids, pieces })?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        if let Some(text) = text {
            writeln!(out, "{text}")?;
            out.flush()?;
            return Ok(ExitCode::SUCCESS);
        }
        for (id, piece) in token_ids.iter().zip(&pieces) {
            writeln!(out, "{id:7}  {piece:?}")?;
        }
        out.flush()?;
        drop(out);
        note(&format!("{} tokens", token_ids.len()));
        Ok(ExitCode::SUCCESS)
    }
}

fn known(tokenizer: &Tokenizer, id: u32) -> Result<()> {
    let size = tokenizer.vocab_size();
    anyhow::ensure!((id as usize) < size, "token {id} is outside the vocabulary: ids are below {size}");
    Ok(())
}

/// The tokenizer of MODEL as `run` would have it; where there is no model around it, the tokenizer alone.
async fn open(model: &str) -> Result<Tokenizer> {
    if !Path::new(model).exists() {
        let checkpoint = open_model(Some(model)).await?;
        return Ok(Tokenizer::from_checkpoint(&checkpoint).await?.0);
    }
    let tokenizer = match Checkpoint::open(model).await {
        Ok(checkpoint) => Tokenizer::from_checkpoint(&checkpoint).await.map(|(tokenizer, _)| tokenizer),
        Err(_) => Tokenizer::open(model).await,
    };
    tokenizer.map_err(|e| about(model, e))
}
