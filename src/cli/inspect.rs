//! `halfbyte inspect`: what a checkpoint holds.

use super::{Common, device_name, open_model, print_json};
use anyhow::Result;
use clap::Args;
use halfbyte::inspect::{FormatReport, Formats, Options, Report, TensorReport, formats, inspect};
use indicatif::HumanBytes;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Show what a checkpoint holds: architecture, tokenizer, tensors, and whether it fits this adapter
#[derive(Args)]
#[command(after_help = "Example: halfbyte inspect --sha256 model.gguf")]
pub struct Inspect {
    /// A Hugging Face folder, a .gguf or .safetensors file, hf:owner/repo [default: the embedded storyteller]
    model: Option<String>,
    /// Hash every decoded matrix (row-major f32, transforms undone): equal hashes mean equal weights
    #[arg(long)]
    sha256: bool,
    /// List the checkpoint formats, codecs and models that are known, and end
    #[arg(long, conflicts_with_all = ["model", "sha256"])]
    formats: bool,
    #[command(flatten)]
    common: Common,
}

impl Inspect {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        if self.formats {
            if self.common.json {
                print_json(&formats())?
            } else {
                print_formats(&formats())?
            }
            return Ok(ExitCode::SUCCESS);
        }
        let checkpoint = open_model(self.model.as_deref()).await?;
        let device = self.common.device().await?;
        let options = Options {
            sha256: self.sha256,
            context: self.common.context,
            cache: self.common.kv_cache.unwrap_or_default(),
        };
        let shown = self.sha256 && !self.common.json && std::io::stderr().is_terminal();
        let report = inspect(&checkpoint, &device, options, |done, count| {
            if shown {
                eprint!("\rhashing {done}/{count}{}", if done == count { "\r\x1b[K" } else { "" });
            }
        })
        .await?;
        if self.common.json {
            print_json(&report)?;
        } else {
            print(&report, &device_name(&device))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Columns as wide as their widest cell; the last is not padded.
fn table(out: &mut impl Write, rows: &[Vec<String>]) -> std::io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn print(report: &Report, device: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let c = &report.config;
    writeln!(out, "{}: {}, {}", report.name, report.architecture, report.format)?;
    writeln!(
        out,
        "{} layers, hidden {}, {} heads of {} ({} key/value), feed-forward {}, vocabulary {}, context {}{}{}",
        c.layers,
        c.hidden,
        c.heads,
        c.head_dim,
        c.kv_heads,
        c.ffn,
        c.vocab,
        c.context,
        c.window.map(|w| format!(", window {w}")).unwrap_or_default(),
        if c.tied { ", tied embeddings" } else { "" },
    )?;
    let t = &report.tokenizer;
    writeln!(
        out,
        "tokenizer: {}{}{}{}\n",
        t.kind,
        t.pre.as_ref().map(|p| format!(" ({p})")).unwrap_or_default(),
        t.tokens.map(|n| format!(", {n} tokens")).unwrap_or_default(),
        if t.chat_template { ", chat template" } else { "" },
    )?;
    let head =
        ["tensor", "format", "codec", "shape", "bits/weight", "on disk", "bytes on disk"].map(String::from);
    let mut rows = vec![head.to_vec()];
    for tensor in &report.tensors {
        rows.push(line(tensor));
        for slice in &tensor.slices {
            let [high, wide] = slice.shape;
            let mut row =
                vec![format!("  {}", slice.name), String::new(), String::new(), format!("{high}×{wide}")];
            row.extend(["", "", ""].map(String::from));
            row.extend(slice.sha256.clone());
            rows.push(row);
        }
    }
    table(&mut out, &rows)?;
    let totals = &report.totals;
    writeln!(
        out,
        "\n{} parameters, {} on disk, {} on the GPU, {:.3} bits per matrix weight",
        totals.parameters,
        HumanBytes(totals.bytes),
        HumanBytes(totals.bytes_gpu),
        totals.bits_per_weight,
    )?;
    let fits = &report.fits;
    writeln!(
        out,
        "{} on {device}: weights {} + KV cache of {} positions {} + activations {} = {}",
        if fits.fits { "fits" } else { "does not fit" },
        HumanBytes(totals.bytes_gpu),
        fits.context,
        HumanBytes(fits.kv_bytes),
        HumanBytes(fits.activation_bytes),
        HumanBytes(fits.total_bytes),
    )?;
    for reason in &fits.reasons {
        writeln!(out, "  because {reason}")?;
    }
    for note in &fits.notes {
        writeln!(out, "  {note}")?;
    }
    Ok(())
}

fn line(tensor: &TensorReport) -> Vec<String> {
    let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
    let mut codec = tensor.codec.clone().unwrap_or_default();
    if tensor.transform != "none" {
        codec = format!("{codec}, {}", tensor.transform);
    }
    let mut row = vec![
        tensor.name.clone(),
        tensor.format.clone(),
        codec,
        shape.join("×"),
        format!("{:.3}", tensor.bits_per_weight),
        format!("{:.3}", tensor.bits_per_weight_disk),
        tensor.bytes.to_string(),
    ];
    row.extend(tensor.sha256.clone());
    row.extend(tensor.error.clone());
    row
}

fn print_formats(formats: &Formats) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let head = ["format", "codec", "transform", "side term", "bits a weight", "tested on files of"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let line = |f: &FormatReport| {
        [f.format, &f.codec, f.transform, f.side_term, f.bits_per_weight, f.tested].map(String::from).to_vec()
    };
    rows.extend(formats.table.iter().map(line));
    table(&mut out, &rows)?;
    writeln!(out)?;
    let mut rows =
        vec![["reader", "what it reads", "written by", "tensors of a module"].map(String::from).to_vec()];
    rows.extend(
        formats.readers.iter().map(|r| [r.name, r.about, r.tool, r.signature].map(String::from).to_vec()),
    );
    table(&mut out, &rows)?;
    writeln!(out)?;
    let mut rows = vec![["codec", "what it stores"].map(String::from).to_vec()];
    rows.extend(formats.codecs.iter().map(|c| [c.name, c.about].map(String::from).to_vec()));
    table(&mut out, &rows)?;
    writeln!(out)?;
    let mut rows = vec![["model", "model_type", "in GGUF files", ""].map(String::from).to_vec()];
    rows.extend(formats.models.iter().map(|m| {
        let missing = m.missing.map(|_| "inspected, not run").unwrap_or_default();
        vec![m.class.into(), m.model_types.join(", "), m.gguf.join(", "), missing.into()]
    }));
    table(&mut out, &rows)?;
    Ok(())
}
