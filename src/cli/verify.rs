//! `halfbyte verify`: every kernel against its CPU twin on this adapter.

use super::{Common, device_name, note, print_json};
use anyhow::{Result, bail};
use clap::Args;
use halfbyte::verify::Outcome;
use halfbyte::{Device, verify};
use indicatif::ProgressBar;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Check every kernel against its CPU twin on this adapter
#[derive(Args)]
#[command(after_help = "\
Shapes and values are random, odd sizes included. The exit status is 1 if a
kernel fails. Every format of the KV cache is checked, whatever --kv-cache says.

Examples:
  halfbyte verify
  halfbyte verify matvec int4
  halfbyte verify --adapter llvmpipe --without f16,subgroups --limits floor

With --json: {kernels: [{name, codec, max_error, tolerance, pass}], adapter,
seed}. max_error is relative to the norm of the twin's result; null is no finite
number.")]
pub struct Verify {
    /// Only kernels and codecs in whose names all of these words are [default: all]
    words: Vec<String>,
    /// The same seed draws the same shapes and values [default: another one every time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Each kernel on one codec of each family only
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    common: Common,
}

impl Verify {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let device = match self.common.is_cpu() {
            true => Device::Cpu,
            false => Device::gpu(&self.common.options()).await?,
        };
        let Device::Gpu(context) = &device else {
            bail!("the CPU twin is what GPU kernels are compared with; name a GPU (see `halfbyte adapters`)");
        };
        let seed = self.seed.unwrap_or_else(seed);
        let start = Instant::now();
        let mut out = std::io::stdout().lock();
        let mut written = Ok(());
        let watched = std::io::stderr().is_terminal() && !self.common.json;
        let spinner = if watched { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        spinner.set_message("compiling shaders");
        spinner.enable_steady_tick(Duration::from_millis(120));
        if !self.common.json {
            writeln!(out, "{:<26} {:<28} {:>9} {:>9}", "kernel", "codec", "error", "allowed")?;
        }
        let each_family = verify::one_of_each_family();
        let wanted = |kernel: &str, codec: &str| {
            let name = format!("{kernel} {codec}").to_lowercase();
            let named = self.words.iter().all(|word| name.contains(&word.to_lowercase()));
            named && (!self.quick || each_family(kernel, codec))
        };
        let outcomes = verify::verify_only(context, seed, wanted, |outcome| {
            if !self.common.json && written.is_ok() {
                written = spinner.suspend(|| row(&mut out, outcome));
            }
        })
        .await?;
        spinner.finish_and_clear();
        written?;
        if outcomes.is_empty() {
            bail!("no kernel or codec is called {}; see `halfbyte verify`", self.words.join(" "));
        }
        let failed = outcomes.iter().filter(|o| !o.pass).count();
        if self.common.json {
            drop(out);
            print_json(&json!({ "kernels": outcomes, "adapter": device_name(&device), "seed": seed }))?;
        } else {
            let (all, seconds) = (outcomes.len(), start.elapsed().as_secs_f64());
            let verdict = match failed {
                0 => format!("all {all} kernels pass"),
                _ => format!("{failed} of {all} kernels FAIL"),
            };
            note(&format!("\n{verdict} on {}, in {seconds:.1} s; seed {seed}", device_name(&device)));
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// One line of the table.
fn row(out: &mut impl Write, outcome: &Outcome) -> std::io::Result<()> {
    let Outcome { name, codec, max_error, tolerance, pass, problem } = outcome;
    let verdict = if *pass { "ok" } else { "FAIL" };
    writeln!(out, "{name:<26} {codec:<28} {max_error:>9.1e} {tolerance:>9.0e}  {verdict}")?;
    match problem {
        Some(problem) => writeln!(out, "    {problem}"),
        None => Ok(()),
    }
}

/// A seed that is easy to type again.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) % 1_000_000
}
