//! What an adapter can do at most, by measurement: bandwidth of a copy, multiply-adds a second.
//!
//! Driver queries do not say this and data sheets are about other clocks, so kernels are set against what the same
//! adapter does in the same minute.

use super::context::{Capabilities, Context};
use super::kernels::{Grid, Lowered};
use super::link::Module;
use super::recorder::GpuRecording;
use crate::error::Result;
use crate::ops::{Step, Tokens};
use serde::{Deserialize, Serialize};
use web_time::Instant;

/// Largest buffer that is copied to measure bandwidth.
const COPY_BYTES: u64 = 256 << 20;
/// Rounds, of which the best counts.
const ROUNDS: usize = 6;
/// A dispatch of multiply-adds takes at least this many seconds, so that the submit does not count, and at most about
/// twice as many, so that nothing else on the adapter has to wait.
const ENOUGH: f64 = 0.02;
/// Workgroups, each of 256 lanes.
const GROUPS: u32 = 2048;
/// Multiply-adds of a lane's step.
const CHAINS: u32 = 16;

/// The most that an adapter was seen to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Bytes a second, read and written ones together, of copies between two large buffers: by the driver or by a shader,
    /// whichever is faster.
    pub copy_bytes_per_s: Option<f64>,
    /// f32 operations a second (a multiply-add is two).
    pub f32_flop_per_s: Option<f64>,
    /// The same in f16, where shaders have it.
    pub f16_flop_per_s: Option<f64>,
    /// The same of int8 in packed dot products.
    pub int8_op_per_s: Option<f64>,
}

impl Probe {
    /// Measures the adapter.
    pub async fn of(context: &Context) -> Result<Self> {
        let Capabilities { f16, dot4, .. } = *context.capabilities();
        Ok(Self {
            copy_bytes_per_s: Some(copies(context).await?),
            f32_flop_per_s: Some(rate(context, "f32", 2).await?),
            f16_flop_per_s: if f16 { Some(rate(context, "f16", 4).await?) } else { None },
            int8_op_per_s: if dot4 { Some(rate(context, "int8", 8).await?) } else { None },
        })
    }
}

async fn copies(context: &Context) -> Result<f64> {
    let capabilities = context.capabilities();
    let budget = capabilities.memory_budget.map_or(u64::MAX, |b| b.saturating_sub(context.allocated()) / 2);
    let size = COPY_BYTES.min(capabilities.max_buffer).min(capabilities.max_binding).min(budget) / 16 * 16;
    let count = if capabilities.software { 2 } else { 32 };
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let [a, b] = ["copy source", "copy target"].map(|label| context.raw_buffer(label, size, usage));
    context.check()?;
    let mut best = 0f64;
    for _ in 0..ROUNDS {
        let commands = context.call(|device, _| {
            let mut encoder = device.create_command_encoder(&Default::default());
            for i in 0..count {
                let (from, to) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
                encoder.copy_buffer_to_buffer(from, 0, to, 0, size);
            }
            encoder.finish()
        });
        context.wait().await?;
        let start = Instant::now();
        context.call(|_, queue| queue.submit([commands]));
        context.wait().await?;
        best = best.max((2 * size * count) as f64 / start.elapsed().as_secs_f64());
    }
    let dispatch = |i: u64| Lowered {
        module: copy_module(),
        buffers: if i.is_multiple_of(2) { vec![(4, &a), (5, &b)] } else { vec![(4, &b), (5, &a)] },
        params: vec![(size / 16) as u32, GROUPS * 256],
        grid: Grid::fixed(GROUPS as usize, 1),
    };
    let recording = GpuRecording::of(context, (0..count).map(dispatch).collect()).await?;
    for _ in 0..ROUNDS {
        context.wait().await?;
        let start = Instant::now();
        recording.run(context, &NOTHING, None)?;
        context.wait().await?;
        best = best.max((2 * size * count) as f64 / start.elapsed().as_secs_f64());
    }
    a.destroy();
    b.destroy();
    Ok(best)
}

/// The step of a dispatch that knows no tokens.
const NOTHING: Step = Step { position: 0, tokens: Tokens::Given(Vec::new()), head_first: 0, head_rows: 1 };

/// The shader that copies.
fn copy_module() -> Module {
    Module { name: "copy".into(), parts: vec!["probes/copy.wgsl"], ..Module::default() }
}

/// The shader that multiplies and adds in a number format.
fn module(format: &str) -> Module {
    let (enable, part) = match format {
        "f16" => (vec!["f16"], "probes/f16.wgsl"),
        "int8" => (vec![], "probes/int8.wgsl"),
        _ => (vec![], "probes/f32.wgsl"),
    };
    Module {
        name: format!("rate of {format}"),
        enable,
        parts: vec!["probes/rate.wgsl", part],
        ..Module::default()
    }
}

/// All shaders of this file, for the tests that compile them.
pub(crate) fn modules() -> [Module; 4] {
    [copy_module(), module("f32"), module("f16"), module("int8")]
}

/// Operations a second, where a multiply-add is `operations`.
async fn rate(context: &Context, format: &str, operations: u64) -> Result<f64> {
    let out = context.buffer("probe", 1024)?;
    let (mut steps, mut rounds, mut best) = (4u32, 0, 0f64);
    while rounds < ROUNDS {
        let grid = Grid::fixed(GROUPS as usize, 1);
        let dispatch =
            Lowered { module: module(format), buffers: vec![(5, &out)], params: vec![steps], grid };
        let recording = GpuRecording::of(context, vec![dispatch]).await?;
        context.wait().await?;
        let start = Instant::now();
        recording.run(context, &NOTHING, None)?;
        context.wait().await?;
        let seconds = start.elapsed().as_secs_f64();
        if seconds < ENOUGH && rounds == 0 && steps < 1 << 24 {
            steps *= 2;
            continue;
        }
        rounds += 1;
        let done = u64::from(steps) * u64::from(GROUPS * 256 * CHAINS) * operations;
        best = best.max(done as f64 / seconds);
    }
    context.release(out.size());
    out.destroy();
    Ok(best)
}
