//! How fast a model runs, and how close that is to what the adapter's memory allows.
//!
//! Decoding reads every weight once a token, so its speed limit is the memory's: weight bytes a second are set
//! against the bandwidth of a plain copy on the same adapter.

pub mod random;
pub mod shapes;

use crate::checkpoint::Weights;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::model::{Memory, Model};
use crate::ops::Tokens;
use crate::quant::Shape;
use serde::Serialize;
use web_time::Instant;

/// Largest buffer that is copied to measure bandwidth.
const COPY_BYTES: u64 = 256 << 20;
/// Rounds of copies, of which the best counts.
const COPY_ROUNDS: usize = 6;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens to generate.
    pub generate: usize,
    /// Runs that count, after one to warm up.
    pub runs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { prompt: 128, generate: 64, runs: 5 }
    }
}

/// Median and spread of some runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => 0.0,
            n if n % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        let (min, max) = (values.first().copied(), values.last().copied());
        Self { median, min: min.unwrap_or(0.0), max: max.unwrap_or(0.0) }
    }
}

/// What was measured of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated.
    pub generate: usize,
    /// Runs that count.
    pub runs: usize,
    /// Prompt tokens a second.
    pub prefill_tokens_per_s: Spread,
    /// Generated tokens a second.
    pub decode_tokens_per_s: Spread,
    /// Weight bytes that a decode step reads.
    pub weight_bytes_per_token: u64,
    /// Weight bytes a second while decoding (median).
    pub weight_bytes_per_s: f64,
    /// The same over the copy's bandwidth, where that is known.
    pub of_copy_bandwidth: Option<f64>,
    /// Dispatches of a decode step.
    pub dispatches: usize,
    /// Bytes in use.
    pub memory: Memory,
}

/// Packed weight bytes that one decode step reads: all but an embedding that is not the head as well.
pub async fn weight_bytes_per_token(checkpoint: &impl Weights, model: &Model) -> Result<u64> {
    let all = model.memory.weights_bytes_gpu;
    if checkpoint.config().tied {
        return Ok(all);
    }
    let embedding = checkpoint.matrix("model.embed_tokens").await?;
    let bytes = embedding.map_or(0, |m| Shape { rows: m.rows, cols: m.cols }.packed_bytes(&*m.codec));
    Ok(all.saturating_sub(bytes))
}

/// Runs `model`; `copy` is the adapter's [`copy_bandwidth`]. `progress` is told how many of how many tokens are done.
pub async fn bench(
    model: &Model,
    weights: u64,
    copy: Option<f64>,
    options: Options,
    mut progress: impl FnMut(usize, usize),
) -> Result<Measured> {
    let Options { prompt, generate, runs } = options;
    let needed = prompt + generate;
    if prompt == 0 || generate == 0 || runs == 0 {
        return Err(Error::invalid("nothing to measure").expected("at least one token and one run"));
    }
    if needed > model.context {
        return Err(Error::ContextFull { prompt: needed, context: model.context });
    }
    // Any tokens will do, but not all the same.
    let tokens: Vec<u32> = (0..prompt).map(|i| ((i * 7919 + 13) % model.config.vocab) as u32).collect();
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    let (mut done, total) = (0, needed * (runs + 1));
    for run in 0..=runs {
        let start = Instant::now();
        model.prefill(0, &tokens).await?;
        let prefill = start.elapsed().as_secs_f64();
        done += prompt;
        let start = Instant::now();
        for i in 0..generate {
            model.decode(prompt + i, Tokens::Chosen).await?;
            done += 1;
            progress(done, total);
        }
        let decode = start.elapsed().as_secs_f64();
        if run > 0 {
            prefills.push(prompt as f64 / prefill);
            decodes.push(generate as f64 / decode);
        }
    }
    let decode = Spread::of(decodes);
    let bytes = decode.median * weights as f64;
    Ok(Measured {
        prompt,
        generate,
        runs,
        prefill_tokens_per_s: Spread::of(prefills),
        decode_tokens_per_s: decode,
        weight_bytes_per_token: weights,
        weight_bytes_per_s: bytes,
        of_copy_bandwidth: copy.map(|copy| bytes / copy),
        dispatches: model.dispatches().0,
        memory: model.memory,
    })
}

/// Bytes a second, read and written ones together, of copies between two large buffers; none on the CPU.
pub async fn copy_bandwidth(device: &Device) -> Result<Option<f64>> {
    match device {
        Device::Cpu => Ok(None),
        Device::Gpu(context) => copies(context).await.map(Some),
    }
}

async fn copies(context: &Context) -> Result<f64> {
    let capabilities = context.capabilities();
    let budget = capabilities.memory_budget.map_or(u64::MAX, |b| b.saturating_sub(context.allocated()) / 2);
    let size = COPY_BYTES.min(capabilities.max_buffer).min(budget) / 16 * 16;
    let count = if capabilities.software { 2 } else { 32 };
    let device = &context.shared.device;
    let buffer = |label| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let (a, b) = (buffer("copy source"), buffer("copy target"));
    context.check()?;
    let mut best = 0f64;
    for _ in 0..COPY_ROUNDS {
        let mut encoder = device.create_command_encoder(&Default::default());
        for i in 0..count {
            let (from, to) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
            encoder.copy_buffer_to_buffer(from, 0, to, 0, size);
        }
        let commands = encoder.finish();
        context.wait().await?;
        let start = Instant::now();
        context.shared.queue.submit([commands]);
        context.wait().await?;
        best = best.max((2 * size * count) as f64 / start.elapsed().as_secs_f64());
    }
    a.destroy();
    b.destroy();
    Ok(best)
}
