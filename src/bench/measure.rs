//! The runs themselves.

use super::{Decode, Kernel, ModelResult, NOISE, Options, Prefill, Spread, weight_bytes_per_token};
use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::gpu::Probe;
use crate::model::{Ahead, Model, ModelConfig};
use std::collections::BTreeMap;
use web_time::Instant;

/// How often a point is measured while its runs differ too much.
const ATTEMPTS: usize = 3;

/// What is measured.
struct Run<'a, P> {
    model: &'a Model,
    probe: Probe,
    options: &'a Options,
    weight_bytes: u64,
    skipped: Vec<String>,
    progress: P,
    done: usize,
    total: usize,
}

/// Tokens of a prompt: any will do, but not all the same.
pub(super) fn prompt(config: &ModelConfig, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((i * 7919 + 13) % config.vocab) as u32).collect()
}

/// Measures `model`, which was loaded from `weights`; `progress` is told how many of how many runs are done. Name,
/// `load_s` and agreement are left for the caller to fill in.
pub async fn measure(
    model: &Model,
    weights: &impl Weights,
    probe: Probe,
    options: &Options,
    progress: impl FnMut(usize, usize),
) -> Result<ModelResult> {
    options.check()?;
    let weight_bytes = weight_bytes_per_token(weights, model).await?;
    let total = (options.prompts.len() + options.depths.len()) * (options.runs + 1);
    let mut run = Run { model, probe, options, weight_bytes, skipped: Vec::new(), progress, done: 0, total };
    (run.progress)(0, total);
    let config = &model.config;
    let shortest = options.prompts.iter().copied().min().unwrap_or(1);
    if shortest > model.context {
        return Err(Error::ContextFull { prompt: shortest, context: model.context });
    }
    let start = Instant::now();
    model.prefill(0, &prompt(config, shortest)).await?;
    let first_token_s = start.elapsed().as_secs_f64();
    let prefill = run.prefills().await?;
    let decode = run.decodes().await?;
    let chunk = prefill.iter().map(|p| p.tokens).max().unwrap_or(1).min(model.chunk);
    Ok(ModelResult {
        name: weights.name().to_string(),
        random: false,
        architecture: config.architecture.clone(),
        format: weights.format_name().to_string(),
        parameters: config.parameters(),
        bits_per_weight: model.memory.weights_bytes_gpu as f64 * 8.0 / config.parameters() as f64,
        cache: model.cache_format().name().into(),
        context: model.context,
        chunk: model.chunk,
        load_s: 0.0,
        first_token_s,
        prefill,
        decode,
        skipped: run.skipped,
        decode_kernels: kernels(model, options.depths[0], 1).await?,
        prefill_kernels: kernels(model, 0, chunk).await?,
        dispatches: model.dispatches().0,
        memory: model.memory,
        device_bytes: model.device().allocated(),
        agreement: None,
    })
}

impl<P: FnMut(usize, usize)> Run<'_, P> {
    /// Whether a point is left out: it does not fit, or its runs of `tokens` would take too long at `a_token` seconds.
    fn skips(&mut self, point: &str, positions: usize, tokens: usize, a_token: Option<f64>) -> bool {
        let (context, runs, most) = (self.model.context, self.options.runs + 1, self.options.seconds);
        let seconds =
            a_token.map(|seconds| seconds * (tokens * runs) as f64).filter(|&seconds| seconds > most);
        let reason = match seconds {
            _ if positions > context => format!("{positions} positions, the context holds {context}"),
            Some(seconds) => format!("about {seconds:.0} s, more than {most:.0}"),
            None => return false,
        };
        self.skipped.push(format!("{point}: {reason}"));
        self.step(runs);
        true
    }

    fn step(&mut self, runs: usize) {
        self.done += runs;
        (self.progress)(self.done, self.total);
    }

    /// Seconds of every run of a point, after one to warm up; again where they differ too much.
    async fn seconds(&mut self, run: impl AsyncFn() -> Result<()>) -> Result<Vec<f64>> {
        run().await?;
        self.step(1);
        let mut quietest: Option<Vec<f64>> = None;
        let noise = |seconds: &Vec<f64>| Spread::of(seconds.clone()).noise;
        for _ in 0..ATTEMPTS {
            let mut seconds = Vec::with_capacity(self.options.runs);
            for _ in 0..self.options.runs {
                let start = Instant::now();
                run().await?;
                seconds.push(start.elapsed().as_secs_f64());
                (self.progress)(self.done + seconds.len(), self.total);
            }
            quietest = Some(match quietest {
                Some(before) if noise(&before) < noise(&seconds) => before,
                _ => seconds,
            });
            if quietest.as_ref().is_some_and(|seconds| noise(seconds) <= NOISE) {
                break;
            }
        }
        self.step(self.options.runs);
        Ok(quietest.unwrap_or_default())
    }

    async fn prefills(&mut self) -> Result<Vec<Prefill>> {
        let model = self.model;
        let mut prefills = Vec::new();
        let mut a_token = None; // seconds, of the point before
        for &tokens in &self.options.prompts {
            if self.skips(&format!("prefill of {tokens}"), tokens, tokens, a_token) {
                continue;
            }
            let text = prompt(&model.config, tokens);
            let seconds = self.seconds(async || model.prefill(0, &text).await.map(drop)).await?;
            let tokens_per_s = Spread::of(seconds.iter().map(|s| tokens as f64 / s).collect());
            let flop: u64 =
                (0..tokens).map(|p| flop(&model.config, p)).sum::<u64>() + head_flop(&model.config);
            let flop_per_s = flop as f64 * tokens_per_s.median / tokens as f64;
            a_token = Some(1.0 / tokens_per_s.median);
            prefills.push(Prefill {
                tokens,
                tokens_per_s,
                first_token_s: Spread::of(seconds).median,
                flop_per_s,
                of_f32_rate: self.probe.f32_flop_per_s.map(|rate| flop_per_s / rate),
            });
        }
        Ok(prefills)
    }

    async fn decodes(&mut self) -> Result<Vec<Decode>> {
        let (model, tokens) = (self.model, self.options.generate);
        if self.options.depths.iter().any(|&depth| depth > 0) {
            model.fill_cache().await?;
        }
        let mut decodes = Vec::new();
        let mut a_token = None;
        for &depth in &self.options.depths {
            if self.skips(&format!("decode at {depth}"), depth + tokens, tokens, a_token) {
                continue;
            }
            let generate = async || {
                let mut ahead = Ahead::default();
                for i in 0..tokens {
                    let given = (i == 0).then_some(1);
                    ahead.next(model, depth + i, given, tokens - i).await?;
                }
                Ok(())
            };
            let seconds = self.seconds(generate).await?;
            let tokens_per_s = Spread::of(seconds.iter().map(|s| tokens as f64 / s).collect());
            let middle = depth + tokens / 2;
            let cached = model.memory.kv_bytes / model.context as u64 * seen(&model.config, middle);
            let bytes_per_token = self.weight_bytes + cached;
            let bytes_per_s = bytes_per_token as f64 * tokens_per_s.median;
            let flop = flop(&model.config, middle) + head_flop(&model.config);
            a_token = Some(1.0 / tokens_per_s.median);
            decodes.push(Decode {
                depth,
                tokens,
                tokens_per_s,
                bytes_per_token,
                bytes_per_s,
                of_copy_bandwidth: self.probe.copy_bytes_per_s.map(|copy| bytes_per_s / copy),
                flop_per_s: flop as f64 * tokens_per_s.median,
            });
        }
        Ok(decodes)
    }
}

/// Positions that a token at `position` looks at.
fn seen(config: &ModelConfig, position: usize) -> u64 {
    config.window.map_or(position + 1, |window| window.min(position + 1)) as u64
}

/// Operations of the layers for a token at `position`: two a weight; q·k and the weighted sum of v.
fn flop(config: &ModelConfig, position: usize) -> u64 {
    let attention = 4 * config.q_rows() as u64 * seen(config, position);
    config.layers as u64 * (2 * config.layer_weights() + attention)
}

fn head_flop(config: &ModelConfig) -> u64 {
    2 * (config.vocab * config.hidden) as u64
}

/// Runs of a profiled step, of which the last counts.
const PROFILED: usize = 3;

/// GPU time by kernel of a step of `tokens` tokens at `position`, the longest first.
async fn kernels(model: &Model, position: usize, tokens: usize) -> Result<Option<Vec<Kernel>>> {
    if position + tokens > model.context {
        return Ok(None);
    }
    let text = prompt(&model.config, tokens);
    let mut dispatches = None;
    for _ in 0..PROFILED {
        dispatches = model.profile(position, &text).await?;
    }
    let Some(dispatches) = dispatches else { return Ok(None) };
    let mut by_name: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for (name, seconds) in dispatches {
        let entry = by_name.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + seconds);
    }
    let all: f64 = by_name.values().map(|(_, seconds)| seconds).sum();
    let kernel = |(kernel, (calls, seconds)): (String, (usize, f64))| {
        let share = if all > 0.0 { seconds / all } else { 0.0 };
        Kernel { kernel, calls, ms: seconds * 1e3, share }
    };
    let mut kernels: Vec<Kernel> = by_name.into_iter().map(kernel).collect();
    kernels.sort_unstable_by(|a, b| b.ms.total_cmp(&a.ms));
    Ok(Some(kernels))
}
