//! Which kernels an adapter runs fastest, measured once and remembered in a small file.
//!
//! Adapters come in two classes whose best kernels are known, GPUs and CPUs; inside a class they differ by how many lanes
//! should share a row. A candidate replaces the class's own choice where it is faster by more than [`MARGIN`], and where
//! it computes the same: a driver may have compiled it wrongly.

use super::context::{Capabilities, Context, Rounding};
use super::disk_cache::replace;
use super::fuse::Fused;
use super::kernels::{Spare, Spread, Tuning, lower, scratch_bytes};
use super::recorder::GpuRecording;
use crate::device::{Device, GpuBuffer, Tensor};
use crate::error::Result;
use crate::ops::{Op, Rows, STEP_HEADER, Step, Tokens};
use crate::quant::int::{Int, Offset};
use crate::quant::{Kind, Shape};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Name of the file.
const FILE: &str = "tuning.json";
/// How much faster a candidate must be.
const MARGIN: f64 = 1.05;
/// Seconds that a run takes at least, so that the submit does not count.
const ENOUGH: f64 = 0.005;
/// The most dispatches of a run.
const MOST_DISPATCHES: usize = 256;
/// Runs, of which the fastest counts.
const RUNS: usize = 3;
/// How far results may differ, as ‖a − b‖ / ‖b‖; single halves differ in the order of their sums alone.
const TOLERANCE: f64 = 1e-4;
/// The same where some of them round activations to bytes: what is wrong altogether differs by 1.
const BYTES_TOLERANCE: f64 = 0.1;
/// Seconds of work before anything is measured: an idle GPU's clock takes a while to rise.
const WARM_UP: f64 = 0.2;
/// Tokens of the prompt, on a CPU and on a GPU: whole blocks of every candidate, as most of a long prompt's are.
const CPU_PROMPT: usize = 192;
const GPU_PROMPT: usize = 256;

/// A file of tunings, by what they were measured on.
type Remembered = BTreeMap<String, Tuning>;

impl Context {
    /// Takes what `folder` remembers of this adapter; else measures, which takes seconds, and writes it there. `starting` is
    /// called before that. Call it before anything else is done with the context.
    pub async fn tune(mut self, folder: &Path, starting: impl FnOnce()) -> Result<Self> {
        let (file, key) = (folder.join(FILE), self.key());
        let mut remembered: Remembered =
            fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let possible = |tuning: &Tuning| {
            let [decode, fixed, prefill] = Tuning::candidates(self.capabilities());
            let known = tuning.fixed.is_none_or(|spread| fixed.contains(&spread));
            decode.contains(&tuning.decode) && known && prefill.contains(&tuning.prefill)
        };
        let tuning = match remembered.get(&key).copied().filter(possible) {
            Some(tuning) => tuning,
            None => {
                starting();
                let tuning = measure(&self).await?;
                remembered.insert(key, tuning);
                // Without it the next start measures again, nothing else.
                let _ = serde_json::to_vec_pretty(&remembered).map(|bytes| replace(&file, &bytes));
                tuning
            }
        };
        self.set_tuning(tuning)?;
        Ok(self)
    }

    /// What the fastest kernels depend on.
    fn key(&self) -> String {
        let report = self.report();
        let Capabilities { invocations, subgroups, software, dot4, matrix, rounding, .. } =
            self.capabilities();
        format!(
            "{} {} {}, {invocations} lanes, subgroups {subgroups:?}, dot4 {dot4}, matrix {matrix}, {rounding:?}, \
             software {software}, halfbyte {}",
            report.name,
            report.backend,
            report.driver,
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// How far the results of candidates may differ.
fn tolerance(capabilities: &Capabilities) -> f64 {
    if capabilities.rounding == Rounding::Bytes { BYTES_TOLERANCE } else { TOLERANCE }
}

/// The fastest of all candidates, on a matrix of 4-bit codes in groups of 32.
async fn measure(context: &Context) -> Result<Tuning> {
    let (rows, cols) = if context.capabilities().software { (1536, 1024) } else { (8192, 4096) };
    let device = Device::Gpu(context.clone());
    let codec = Int::new(4, 32, Kind::F16, Offset::Symmetric(8))?;
    let matrix = Arc::new(device.matrix("tuning", codec, Shape { rows, cols })?);
    for buffer in matrix.parts().iter().flat_map(|part| part.buffers()) {
        // Halves of ⅛ to ¼ as scales, and bits of all kinds as codes.
        let word = |i: u32| i.wrapping_mul(0x9e37_79b9) & 0x03ff_03ff | 0x3000_3000;
        let words: Vec<u32> = (0..buffer.size() as u32 / 4).map(word).collect();
        context.write(buffer, 0, &words);
        context.wait().await?;
    }
    let prompt = if context.capabilities().software { CPU_PROMPT } else { GPU_PROMPT };
    let step = device.zeros("step", 1, STEP_HEADER + prompt)?;
    // Without integers at first, so that floats are what is measured.
    let mut tuning = Tuning { fixed: None, ..Tuning::of_class(context.capabilities()) };
    let [decode, fixed, prefill] = Tuning::candidates(context.capabilities());
    let mut fastest = [f64::INFINITY; 3];
    let mut warm = false;
    let tolerance = tolerance(context.capabilities());
    let mut wanted: BTreeMap<usize, Vec<f32>> = BTreeMap::new(); // what the class's own compute, by tokens
    let mut timed = Vec::new();
    for (best, (tokens, candidates)) in fastest.iter_mut().zip([(1, decode), (1, fixed), (prompt, prefill)]) {
        let x = device.zeros("x", tokens, cols)?;
        let values = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
        device.write(&x, 0, &(0..tokens * cols).map(|i| values(i).to_bits()).collect::<Vec<u32>>());
        let out = device.zeros("y", tokens, rows)?;
        let (rows, int8, permutation, bias, offset, add) = (Rows::Tokens, false, None, None, 0, false);
        let result = out.clone();
        let op = Op::Product { rows, matrix: matrix.clone(), x, int8, permutation, bias, out, offset, add };
        for spread in candidates {
            let candidate = tuning.with(spread);
            // Several may come to the same for a matrix of this shape.
            let spread =
                Spread::choose(&tuned(context, candidate), &*matrix.codec, matrix.shape, tokens, false);
            if timed.contains(&spread) {
                continue;
            }
            timed.push(spread);
            if !context.capabilities().software && !warm {
                let start = Instant::now();
                while start.elapsed().as_secs_f64() < WARM_UP {
                    seconds(context, &op, &step, tokens, candidate).await?;
                }
                warm = true;
            }
            device.write(&result, 0, &vec![f32::NAN.to_bits(); tokens * result.cols]);
            let seconds = seconds(context, &op, &step, tokens, candidate).await?;
            let found = device.read(&result, tokens).await?;
            let wanted = wanted.entry(tokens).or_insert_with(|| found.clone());
            let same = crate::verify::relative_error(&found, wanted) < tolerance;
            if same && (*best == f64::INFINITY || seconds * MARGIN < *best) {
                (*best, tuning) = (seconds, candidate);
            }
        }
    }
    let [floats, integers, _] = fastest;
    tuning.fixed = tuning.fixed.filter(|_| integers < floats);
    Ok(tuning)
}

/// What the adapter can do, with this tuning.
fn tuned(context: &Context, tuning: Tuning) -> Capabilities {
    Capabilities { tuning: Some(tuning), ..context.capabilities().clone() }
}

/// Seconds of one dispatch.
async fn seconds(context: &Context, op: &Op, step: &Tensor, tokens: usize, candidate: Tuning) -> Result<f64> {
    let capabilities = tuned(context, candidate);
    let fused = Fused::One(op);
    let scratch = GpuBuffer::new(context, "scratch", scratch_bytes(&fused, &capabilities).max(16))?;
    let spare = Spare { unused: &context.shared.unused, scratch: &scratch.buffer };
    let once = Step { position: 0, tokens: Tokens::Given(vec![0; tokens]), head_first: 0, head_rows: 1 };
    context.write(step.gpu()?, 0, &[0, tokens as u32, 0, 1]);
    let mut count = 1;
    loop {
        let mut lowered = Vec::new();
        for _ in 0..count {
            lowered.extend(lower(&fused, step, spare, &capabilities)?);
        }
        let recording = GpuRecording::of(context, lowered).await?;
        let mut best = f64::INFINITY;
        for run in 0..=RUNS {
            let start = Instant::now();
            recording.run(context, &once, None)?;
            context.wait().await?;
            if run > 0 {
                best = best.min(start.elapsed().as_secs_f64()); // the first warms up
            }
        }
        if best > ENOUGH || count >= MOST_DISPATCHES {
            return Ok(best / count as f64);
        }
        count *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Options;

    /// Whatever is chosen, the numbers are the twin's: more rows than a block, fewer than two, and a unit that is not full.
    #[test]
    fn every_candidate_agrees_with_the_twin() {
        pollster::block_on(async {
            for without in [vec![], vec!["software".into()]] {
                let context = Context::open(&Options { without, ..Options::default() }).await.expect("a GPU");
                let [decode, fixed, prefill] = Tuning::candidates(context.capabilities());
                assert!(decode.len() > 1 && prefill.len() > 1, "{decode:?} {prefill:?}");
                // A lane has more rows of its own where there are many; x comes in several times where there are many columns.
                let [usual, tall, wide] =
                    [(200, 1000), (33000, 132), (40, 9000)].map(|(rows, cols)| Shape { rows, cols });
                let own = context.capabilities();
                // Where workgroups are small, lanes side by side share four rows of a small matrix too.
                let small = Capabilities { invocations: 256, ..own.clone() };
                let cases = [
                    (1, own, decode.clone(), usual),
                    (1, own, decode.clone(), wide),
                    (1, &small, decode, wide),
                    (1, own, fixed.clone(), tall),
                    (1, own, fixed.clone(), wide),
                    (1, &small, fixed, wide),
                    (40, own, prefill.clone(), usual),
                    (100, own, prefill, usual),
                ];
                for (tokens, capabilities, candidates, shape) in cases {
                    agree(&context, capabilities, candidates, shape, tokens, 1e-5).await;
                }
            }
        });
    }

    /// Where activations are rounded candidates differ, by less than what tuning allows.
    #[test]
    fn candidates_that_round_are_not_refused() {
        pollster::block_on(async {
            let (without, rounding) = (vec!["software".into()], Rounding::Bytes);
            let options = Options { without, rounding, ..Options::default() };
            let context = Context::open(&options).await.expect("a GPU");
            let [_, fixed, prefill] = Tuning::candidates(context.capabilities());
            assert!(!fixed.is_empty() && prefill == [Spread::Bytes], "{fixed:?} {prefill:?}");
            let allowed = tolerance(context.capabilities());
            let shape = Shape { rows: 40, cols: 9000 };
            agree(&context, context.capabilities(), fixed[..1].to_vec(), shape, 1, allowed).await;
            agree(&context, context.capabilities(), prefill, shape, 100, allowed).await;
        });
    }

    async fn agree(
        context: &Context,
        capabilities: &Capabilities,
        candidates: Vec<Spread>,
        shape: Shape,
        tokens: usize,
        allowed: f64,
    ) {
        let wanted = product(&Device::Cpu, shape, tokens, None).await.expect("the twin runs");
        for spread in candidates {
            let own = Tuning { fixed: None, ..Tuning::of_class(capabilities) };
            let capabilities = Capabilities { tuning: Some(own.with(spread)), ..capabilities.clone() };
            let device = Device::Gpu(context.clone());
            let found = product(&device, shape, tokens, Some(&capabilities)).await.expect("it runs");
            let error = crate::verify::relative_error(&found, &wanted);
            assert!(error < allowed, "{spread:?}, {tokens} tokens: {error:.1e}");
        }
    }

    /// A product with a matrix of 4-bit codes.
    async fn product(
        device: &Device,
        shape: Shape,
        tokens: usize,
        capabilities: Option<&Capabilities>,
    ) -> Result<Vec<f32>> {
        let codec = Int::new(4, 32, Kind::F16, Offset::Symmetric(8))?;
        let (codes, scales) = (shape.rows * shape.cols, shape.rows * shape.cols.div_ceil(32));
        let codes = (0..codes as u32).map(|i| i.wrapping_mul(7) % 23 % 16).collect();
        let scales = (0..scales as u32).map(|i| 0x3000 + i * 13 % 0x400).collect(); // ⅛ to ¼
        let items = vec![codes, scales];
        let matrix = Arc::new(device.dense("test", codec, shape, items)?);
        let [x, out] = [shape.cols, shape.rows].map(|cols| device.zeros("test", tokens, cols));
        let (x, out) = (x?, out?);
        let values: Vec<f32> = (0..tokens * shape.cols).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        device.write(&x, 0, bytemuck::cast_slice(&values));
        let step = device.zeros("step", 1, STEP_HEADER + tokens)?;
        let once = Step { position: 0, tokens: Tokens::Given(vec![0; tokens]), head_first: 0, head_rows: 1 };
        let (rows, int8, permutation, bias, offset, add) = (Rows::Tokens, false, None, None, 0, false);
        let op = Op::Product { rows, matrix, x, int8, permutation, bias, out: out.clone(), offset, add };
        match (device, capabilities) {
            (Device::Gpu(context), Some(capabilities)) => {
                let fused = Fused::One(&op);
                let scratch =
                    GpuBuffer::new(context, "scratch", scratch_bytes(&fused, capabilities).max(16))?;
                let spare = Spare { unused: &context.shared.unused, scratch: &scratch.buffer };
                let lowered = lower(&fused, &step, spare, capabilities)?;
                context.write(step.gpu()?, 0, &[0, tokens as u32, 0, 1]);
                GpuRecording::of(context, lowered).await?.run(context, &once, None)?;
            }
            _ => device.run(&device.record(&step, vec![op]).await?, &step, &once)?,
        }
        device.read(&out, tokens).await
    }

    #[test]
    fn what_computes_nothing_is_not_the_fastest() {
        let file = "kernels/matmul.wgsl";
        let (from, idle) = ("    prepare(", "    if (P.rows > 0u) {\n        return;\n    }\n    prepare(");
        let text = crate::gpu::link::part(file).text.replacen(from, idle, 1);
        assert!(text.contains("return;"));
        let options = Options {
            shader_overrides: [(file.to_string(), text)].into_iter().collect(),
            ..Options::default()
        };
        pollster::block_on(async {
            let context = Context::open(&options).await.expect("a GPU");
            let [.., prefill] = Tuning::candidates(context.capabilities());
            assert!(prefill.iter().any(|spread| matches!(spread, Spread::Tiles { .. })), "{prefill:?}");
            let own = Tuning::of_class(context.capabilities()).prefill;
            assert!(!matches!(own, Spread::Tiles { .. }), "nothing is left to compare with: {own:?}");
            let chosen = measure(&context).await.expect("it is tuned").prefill;
            // Which of those that compute is the fastest may differ from run to run.
            assert!(!matches!(chosen, Spread::Tiles { .. }), "{chosen:?}");
        });
    }

    #[test]
    fn a_measurement_is_remembered() {
        let folder = std::env::temp_dir().join(format!("halfbyte-tuning-{}", std::process::id()));
        fs::remove_dir_all(&folder).ok(); // of an earlier process with this number
        let tune = |starting: &mut bool| {
            pollster::block_on(async {
                let context = Context::open(&Options::default()).await.expect("a GPU");
                context.tune(&folder, || *starting = true).await.expect("it is tuned")
            })
        };
        let mut measured = false;
        let first = tune(&mut measured).capabilities().tuning;
        assert!(measured && first.is_some());
        measured = false;
        assert_eq!(tune(&mut measured).capabilities().tuning, first);
        assert!(!measured);
        fs::write(folder.join(FILE), "{\"not\": \"a tuning\"").expect("written");
        tune(&mut measured);
        assert!(measured);
        assert!(serde_json::from_slice::<Remembered>(&fs::read(folder.join(FILE)).expect("a file")).is_ok());
        fs::remove_dir_all(folder).expect("removed");
    }
}
