//! Every kernel × codec against its CPU twin on one adapter, over random inputs and random odd shapes.

use crate::device::{Device, Matrix, Tensor};
use crate::error::{Error, Result};
use crate::gpu::kernels::{EXPERT_ROWS, EXPERT_SHARES, has_wide_rows, head_dims, multiplies_bytes};
use crate::gpu::{Capabilities, Context, Rounding};
use crate::ops::{
    Activation, Cache, Heads, Index, Op, Routes, Rows, STEP_HEADER, Step, Tokens, Transform, int8_words,
};
use crate::quant::activations::{ActivationScale, Activations, bytes};
use crate::quant::cache::CacheFormat;
use crate::quant::hadamard::{Form, sizes};
use crate::quant::{CODECS, Codec, Family, Field, Kind, Shape, UNIT, WHOLE_ROW};
use crate::reference::NO_TOKEN;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Largest error, relative to the norm of the twin's result, that passes with f32 storage.
pub const TOLERANCE_F32: f64 = 1e-5;
/// The same where the KV cache is f16.
pub const TOLERANCE_F16: f64 = 2e-3;
/// What may be lost where activations have 8 bits that the twin does not know.
pub const TOLERANCE_BYTES: f64 = 4e-2;

/// How one kernel did.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `matvec`, `attention` …
    pub name: String,
    /// The codec, or what else varies.
    pub codec: String,
    /// ‖gpu − cpu‖ / ‖cpu‖, the worst of the shapes tried.
    pub max_error: f64,
    /// What passes.
    pub tolerance: f64,
    /// Whether it did.
    pub pass: bool,
    /// What went wrong, if the kernel did not run at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A tensor on both devices.
struct Twin {
    gpu: Tensor,
    cpu: Tensor,
}

/// Both devices and a source of random numbers.
struct Bench {
    gpu: Device,
    cpu: Device,
    rng: StdRng,
    step: Twin,
}

/// An op built for one device: takes the device's half of every twin.
type Build<'a> = dyn Fn(&dyn Fn(&Twin) -> Tensor, Side) -> Op + 'a;
/// The same for ops that a GPU may do together.
type BuildAll<'a> = dyn Fn(&dyn Fn(&Twin) -> Tensor, Side) -> Vec<Op> + 'a;

/// Which half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Gpu,
    Cpu,
}

impl Bench {
    fn new(context: &Context, seed: u64) -> Result<Self> {
        let (gpu, cpu) = (Device::Gpu(context.clone()), Device::Cpu);
        let step = |device: &Device| device.zeros("step", 1, STEP_HEADER + 512);
        let step = Twin { gpu: step(&gpu)?, cpu: step(&cpu)? };
        Ok(Self { gpu, cpu, rng: StdRng::seed_from_u64(seed), step })
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.rng.random_range(-1.0..1.0f32)).collect()
    }

    /// A twin tensor of random values.
    fn random(&mut self, rows: usize, cols: usize) -> Result<Twin> {
        let values = self.values(rows * cols);
        self.twin(rows, cols, bytemuck::cast_slice(&values))
    }

    fn twin(&self, rows: usize, cols: usize, words: &[u32]) -> Result<Twin> {
        let half = |device: &Device| -> Result<Tensor> {
            let tensor = device.zeros("verify", rows, cols)?;
            device.write(&tensor, 0, words);
            Ok(tensor)
        };
        Ok(Twin { gpu: half(&self.gpu)?, cpu: half(&self.cpu)? })
    }

    /// The numbers of `tokens` rows that a GPU makes of x before it multiplies them, taken in this order, for the twin too.
    async fn round(&self, x: &Twin, order: Option<&[u32]>, matrix: &Matrix, tokens: usize) -> Result<()> {
        let Device::Gpu(context) = &self.gpu else { return Ok(()) };
        if !multiplies_bytes(context.capabilities(), matrix, tokens) {
            return Ok(());
        }
        let values = self.cpu.read(&x.cpu, tokens).await?;
        let mut rounded = values.clone();
        for (row, rounded) in values.chunks_exact(x.cpu.cols).zip(rounded.chunks_exact_mut(x.cpu.cols)) {
            let place = |k: usize| order.map_or(k, |order| order[k] as usize);
            let ordered: Vec<f32> = (0..row.len()).map(|k| row[place(k)]).collect();
            bytes(&ordered).enumerate().for_each(|(k, value)| rounded[place(k)] = value);
        }
        self.cpu.write(&x.cpu, 0, bytemuck::cast_slice(&rounded));
        Ok(())
    }

    /// A twin matrix of random items.
    fn matrix(&mut self, codec: &Arc<dyn Codec>, shape: Shape) -> Result<[Arc<Matrix>; 2]> {
        let items = random_items(&mut self.rng, &**codec, shape);
        let make =
            |device: &Device| device.dense("verify", codec.clone(), shape, items.clone()).map(Arc::new);
        Ok([make(&self.gpu)?, make(&self.cpu)?])
    }

    /// Runs ops on both sides.
    async fn run_all(&self, step: &Step, build: &BuildAll<'_>) -> Result<()> {
        let ops = build(&|twin: &Twin| twin.gpu.clone(), Side::Gpu);
        let recording = self.gpu.record(&self.step.gpu, ops).await?;
        self.gpu.run(&recording, &self.step.gpu, step)?;
        let ops = build(&|twin: &Twin| twin.cpu.clone(), Side::Cpu);
        let recording = self.cpu.record(&self.step.cpu, ops).await?;
        self.cpu.run(&recording, &self.step.cpu, step)
    }

    /// Runs an op on both sides.
    async fn run(&self, step: &Step, build: &Build<'_>) -> Result<()> {
        self.run_all(step, &|half, side| vec![build(half, side)]).await
    }

    /// Runs an op on both sides; the relative error of `out`'s first `rows` rows.
    async fn compare(&self, step: &Step, rows: usize, out: &Twin, build: &Build<'_>) -> Result<f64> {
        self.compare_all(step, rows, out, &|half, side| vec![build(half, side)]).await
    }

    /// The same of several ops, of which the last writes `out`.
    async fn compare_all(&self, step: &Step, rows: usize, out: &Twin, build: &BuildAll<'_>) -> Result<f64> {
        self.run_all(step, build).await?;
        let found = self.gpu.read(&out.gpu, rows).await?;
        let wanted = self.cpu.read(&out.cpu, rows).await?;
        Ok(relative_error(&found, &wanted))
    }
}

/// ‖found − wanted‖ / ‖wanted‖; infinite when something is not a number.
pub fn relative_error(found: &[f32], wanted: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&f, &w) in found.iter().zip(wanted) {
        difference += (f as f64 - w as f64).powi(2);
        norm += (w as f64).powi(2);
    }
    let error = (difference / norm.max(1e-30)).sqrt();
    if error.is_finite() && found.len() == wanted.len() { error } else { f64::INFINITY }
}

/// Items of every field of a matrix.
pub(crate) fn random_items(rng: &mut StdRng, codec: &dyn Codec, shape: Shape) -> Vec<Vec<u32>> {
    let mut draw = |(i, field): (usize, &Field)| {
        let count = field.lines(shape.rows) * codec.items(i, 0..shape.cols).len();
        (0..count).map(|_| random_item(rng, field.kind)).collect()
    };
    codec.fields().iter().enumerate().map(&mut draw).collect()
}

/// Scales are smaller, so that weights are about as large as those of models.
const SCALE: f32 = 1.0 / 32.0;

fn random_item(rng: &mut StdRng, kind: Kind) -> u32 {
    match kind {
        Kind::Code(bits) => rng.random_range(0..=u32::MAX >> (32 - bits)),
        Kind::F32 => rng.random_range(-SCALE..SCALE).to_bits(),
        Kind::F16 => {
            // One in eight is a subnormal, which a careless kernel flushes to zero.
            let subnormal = rng.random_range(0..8) == 0;
            let bits = half::f16::from_f32(rng.random_range(-SCALE..SCALE)).to_bits();
            (if subnormal { rng.random_range(1..0x400u16) } else { bits }) as u32
        }
        Kind::Bf16 => half::bf16::from_f32(rng.random_range(-SCALE..SCALE)).to_bits() as u32,
        // Every number, the subnormal ones too.
        Kind::E4m3 => rng.random_range(0..127) | rng.random_range(0..2) << 7,
        Kind::E5m2 => rng.random_range(0..124) | rng.random_range(0..2) << 7,
        Kind::E8m0 => rng.random_range(117..130),
    }
}

fn step(position: usize, tokens: usize, ids: impl Fn(usize) -> u32) -> Step {
    let tokens = Tokens::Given((0..tokens).map(ids).collect::<Vec<_>>());
    Step { position, head_first: 0, head_rows: 1, tokens }
}

/// Shapes that end inside a tile, a unit and a word. The least has five rows: a single output that happens to be
/// near zero would make its relative error large. Either the small ones or the large one have whole units only; the small
/// ones have as many columns, so that both take the same pipelines, whose compilation takes most of the time.
fn shapes(rng: &mut StdRng) -> [(usize, usize); 3] {
    let missing = 4 * rng.random_range(1..UNIT / 4);
    let [of_small, of_large] = if rng.random() { [missing, 0] } else { [0, missing] };
    let cols = UNIT * rng.random_range(1..=9) - of_small;
    let small = (rng.random_range(6..128), cols);
    // From 128 rows on a software adapter's matvec takes four tiles a workgroup; 260 columns are three groups of 128.
    let large = (rng.random_range(128..300), UNIT * rng.random_range(9..=19) - of_large);
    [(5, cols), small, large]
}

async fn gather(bench: &mut Bench, codec: &Arc<dyn Codec>) -> Result<f64> {
    let mut worst = 0f64;
    for (rows, cols) in shapes(&mut bench.rng) {
        let matrix = bench.matrix(codec, Shape { rows, cols })?;
        let tokens = 7;
        let out = bench.random(tokens, cols)?;
        let step = step(1, tokens, |t| (t * 31 % rows) as u32);
        for index in [Index::Token, Index::Position(2)] {
            let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Gather {
                table: matrix[side as usize].clone(),
                index,
                out: half(&out),
            };
            worst = worst.max(bench.compare(&step, tokens, &out, &build).await?);
        }
    }
    Ok(worst)
}

/// `slots` says which of add, bias and permutation the small shapes use; the large one uses the others. Each codec
/// gets its own, so that all are seen with few pipelines, whose compilation takes most of the time: so, too, the small
/// shapes or the large one are enough for a codec that is not its family's `first`.
async fn product(
    bench: &mut Bench,
    codec: &Arc<dyn Codec>,
    tokens: usize,
    slots: usize,
    first: bool,
) -> Result<f64> {
    let shapes = shapes(&mut bench.rng);
    let few = if bench.rng.random() { &shapes[..2] } else { &shapes[2..] };
    products(bench, codec, if first { &shapes } else { few }, tokens, slots).await
}

/// A prompt's product of so many rows that they go by large blocks.
async fn wide_product(bench: &mut Bench, codec: &Arc<dyn Codec>, slots: usize) -> Result<f64> {
    let shape = (bench.rng.random_range(769..800), 4 * bench.rng.random_range(9..=40));
    let tokens = bench.rng.random_range(25..48);
    products(bench, codec, &[shape], tokens, !slots).await
}

/// A decode step's product of more columns than a GPU has in workgroup memory at a time.
async fn long_product(bench: &mut Bench, codec: &Arc<dyn Codec>, slots: usize) -> Result<f64> {
    let shape = (bench.rng.random_range(6..40), 4 * bench.rng.random_range(1030..1100));
    products(bench, codec, &[shape], 1, slots).await
}

async fn products(
    bench: &mut Bench,
    codec: &Arc<dyn Codec>,
    shapes: &[(usize, usize)],
    tokens: usize,
    slots: usize,
) -> Result<f64> {
    let mut worst = 0f64;
    for &(rows, cols) in shapes {
        let slots = if rows < 128 { slots } else { !slots };
        let matrix = bench.matrix(codec, Shape { rows, cols })?;
        let x = bench.random(tokens, cols)?;
        let offset = bench.rng.random_range(0..8);
        let out = bench.random(tokens, rows + offset + 1)?;
        let bias = bench.random(1, rows)?;
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.shuffle(&mut bench.rng);
        let permutation = bench.twin(1, cols, &order)?;
        bench.round(&x, (slots & 4 > 0).then_some(&order), &matrix[0], tokens).await?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Product {
            rows: Rows::Tokens,
            matrix: matrix[side as usize].clone(),
            x: half(&x),
            int8: false,
            permutation: (slots & 4 > 0).then(|| half(&permutation)),
            bias: (slots & 2 > 0).then(|| half(&bias)),
            out: half(&out),
            offset,
            add: slots & 1 > 0,
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

/// What goes into a decode step's product.
#[derive(Debug, Clone, Copy, Default)]
struct FusedWith {
    /// An RMSNorm before it.
    norm: bool,
    /// A transform of its activations: columns times numbers of their own.
    scale: bool,
    /// The same, and then a Hadamard transform of every 128.
    rotation: bool,
    /// A gated activation after it.
    gate: bool,
    /// More columns than a GPU has in workgroup memory at a time.
    long: bool,
}

/// A decode step's product with what may be fused with it; `slots` as for [`product`]. Norm and gate together take all
/// shapes; the norm without a gate takes the large one, others the small ones.
async fn fused_product(
    bench: &mut Bench,
    codec: &Arc<dyn Codec>,
    FusedWith { norm: normed, scale, rotation, gate: gated, long }: FusedWith,
    slots: usize,
) -> Result<f64> {
    const BLOCK: usize = 128;
    const LONG: usize = 2048; // what a GPU has of it in workgroup memory at a time, as floats; half as much as of integers
    let mut worst = 0f64;
    let (first, count) = match (normed, gated) {
        (true, false) => (2, 1),
        (false, _) => (0, 2),
        (true, true) => (0, 3),
    };
    for (i, (width, cols)) in shapes(&mut bench.rng).into_iter().enumerate().skip(first).take(count) {
        let slots = if i == 2 { !slots } else { slots };
        let slots = if scale || rotation { slots & !4 } else { slots };
        let cols = match (rotation, normed) {
            (true, true) => (cols + LONG).next_multiple_of(BLOCK),
            (true, false) => cols.next_multiple_of(BLOCK),
            _ if long => cols + 2 * LONG,
            _ => cols,
        };
        let rows = if gated { 2 * width } else { width };
        let matrix = bench.matrix(codec, Shape { rows, cols })?;
        let [x, normed_x, weight] = [bench.random(1, cols)?, bench.random(1, cols)?, bench.random(1, cols)?];
        let [product, gates, bias] =
            [bench.random(1, rows)?, bench.random(1, width)?, bench.random(1, rows)?];
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.shuffle(&mut bench.rng);
        let permutation = bench.twin(1, cols, &order)?;
        let [by, turned] = [bench.random(1, cols)?, bench.random(1, cols)?];
        let plan = Form::Blocks(BLOCK).plan(cols.next_multiple_of(BLOCK), true)?;
        let transforms = [&bench.gpu, &bench.cpu].map(|device| Transform::new(device, plan.clone()));
        let [gpu, cpu] = transforms;
        let transforms = [Arc::new(gpu?), Arc::new(cpu?)];
        if !normed && !scale && !rotation {
            bench.round(&x, (slots & 4 > 0).then_some(&order), &matrix[0], 1).await?;
        }
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| {
            let rows = Rows::Tokens;
            let mut ops = Vec::new();
            let mut input = &x;
            if normed {
                let (x, weight, out) = (half(&x), half(&weight), half(&normed_x));
                ops.push(Op::RmsNorm { rows, x, weight, eps: 0.1, out, add: false });
                input = &normed_x;
            }
            if scale || rotation {
                let (x, by, out) = (half(input), half(&by), half(&turned));
                ops.push(match rotation {
                    true => Op::Hadamard {
                        rows,
                        plan: transforms[side as usize].clone(),
                        x,
                        before: Some(by),
                        after: None,
                        out,
                        offset: 0,
                        width: cols,
                        add: false,
                    },
                    false => Op::Scale { rows, x, by, out },
                });
                input = &turned;
            }
            ops.push(Op::Product {
                rows,
                matrix: matrix[side as usize].clone(),
                x: half(input),
                int8: false,
                permutation: (slots & 4 > 0).then(|| half(&permutation)),
                bias: (slots & 2 > 0).then(|| half(&bias)),
                out: half(&product),
                offset: 0,
                add: !gated && slots & 1 > 0,
            });
            if gated {
                let (x, out) = (half(&product), half(&gates));
                let activation = Activation::Clamped { limit: 0.5 };
                let (gate, up) = if slots & 1 > 0 { (0, width) } else { (width, 0) };
                ops.push(Op::Glu { rows, activation, x, gate, up: Some(up), out });
            }
            ops
        };
        let out = if gated { &gates } else { &product };
        worst = worst.max(bench.compare_all(&step(0, 1, |_| 0), 1, out, &build).await?);
    }
    Ok(worst)
}

/// Codes of activations, to the bit.
async fn quantize(bench: &mut Bench, scheme: Activations) -> Result<f64> {
    let cols = 4 * bench.rng.random_range(40..300);
    for (tokens, cols) in [(1, 4), (3, cols)] {
        let mut values = bench.values(tokens * (cols + 3));
        values[1] = -2.0; // the largest: on the tie 127.5
        values[2] = 19.0 / 256.0; // a tie of E4M3 where the scale is 1/256
        values[3] = 0.0;
        let taken = (0..tokens * (cols + 1)).map(|i| if i % 5 == 2 { 1f32.to_bits() } else { 0 });
        let taken = bench.twin(tokens, cols + 1, &taken.collect::<Vec<_>>())?;
        let x = bench.twin(tokens, cols + 3, bytemuck::cast_slice(&values))?;
        let out = bench.twin(tokens, cols + 2, &[])?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Quantize {
            rows: Rows::Tokens,
            x: half(&x),
            cols,
            scheme,
            outliers: scheme.outliers.map(|_| half(&taken)),
            out: half(&out),
        };
        bench.run(&step(0, tokens, |_| 0), &build).await?;
        let found = bench.gpu.read_words(&out.gpu, 0, tokens * (cols + 2)).await?;
        let wanted = bench.cpu.read_words(&out.cpu, 0, tokens * (cols + 2)).await?;
        if let Some(at) = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted) {
            let what =
                format!("word {at} of {cols} columns is {:#x}, the twin's {:#x}", found[at], wanted[at]);
            return Err(Error::Gpu(what));
        }
    }
    Ok(0.0)
}

async fn outliers(bench: &mut Bench) -> Result<f64> {
    let cols = bench.rng.random_range(65..300);
    let (x, out) = (bench.random(3, cols + 2)?, bench.twin(3, cols + 1, &[])?);
    let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Outliers {
        rows: Rows::Tokens,
        x: half(&x),
        cols,
        threshold: 0.75,
        out: half(&out),
    };
    bench.compare(&step(0, 3, |_| 0), 3, &out, &build).await
}

/// Sums of integers, to the bit: all scales are 1.
async fn product_int8(bench: &mut Bench, codec: &Arc<dyn Codec>, tokens: usize, slots: usize) -> Result<f64> {
    let mut worst = 0f64;
    for (rows, cols) in shapes(&mut bench.rng) {
        let slots = if rows < 128 { slots } else { !slots };
        let shape = Shape { rows, cols };
        let item = |rng: &mut StdRng, kind| match kind {
            Kind::Code(_) => random_item(rng, kind),
            Kind::F32 => 1f32.to_bits(),
            Kind::Bf16 => half::bf16::ONE.to_bits().into(),
            _ => half::f16::ONE.to_bits().into(),
        };
        let items: Vec<Vec<u32>> = (codec.fields().iter())
            .map(|f| (0..rows * f.items(cols)).map(|_| item(&mut bench.rng, f.kind)).collect())
            .collect();
        let matrix = [&bench.gpu, &bench.cpu].map(|d| d.dense("verify", codec.clone(), shape, items.clone()));
        let [gpu, cpu] = matrix;
        let matrix = [Arc::new(gpu?), Arc::new(cpu?)];
        let mut words: Vec<u32> = (0..tokens * int8_words(cols)).map(|_| bench.rng.random()).collect();
        words.chunks_mut(int8_words(cols)).for_each(|row| row[cols / 4] = 1f32.to_bits());
        let x = bench.twin(tokens, int8_words(cols), &words)?;
        let offset = bench.rng.random_range(0..8);
        let (out, bias) = (bench.random(tokens, rows + offset + 1)?, bench.random(1, rows)?);
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Product {
            rows: Rows::Tokens,
            matrix: matrix[side as usize].clone(),
            x: half(&x),
            int8: true,
            permutation: None,
            bias: (slots & 2 > 0).then(|| half(&bias)),
            out: half(&out),
            offset,
            add: slots & 1 > 0,
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

/// Rows with no entries, with one and with many; columns that come twice.
async fn sparse(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    for (tokens, (rows, cols)) in [1, 2, 5].into_iter().zip(shapes(&mut bench.rng)) {
        let (mut offsets, mut entries) = (vec![0], Vec::new());
        for row in 0..rows {
            for _ in 0..row % 5 {
                let value = random_item(&mut bench.rng, Kind::F16);
                entries.push(value << 16 | bench.rng.random_range(0..cols as u32));
            }
            offsets.push(entries.len() as u32);
        }
        let offset = bench.rng.random_range(0..8);
        let (x, out) = (bench.random(tokens, cols)?, bench.random(tokens, rows + offset + 1)?);
        let offsets = bench.twin(1, offsets.len(), &offsets)?;
        let entries = bench.twin(1, entries.len(), &entries)?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Sparse {
            rows: Rows::Tokens,
            offsets: half(&offsets),
            entries: half(&entries),
            x: half(&x),
            out: half(&out),
            offset,
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn rms_norm(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    let cols = 4 * bench.rng.random_range(2..1500);
    for (tokens, cols, head_first) in [(1, 4, 0), (3, cols, 0), (5, 1024, 2)] {
        let (x, weight) = (bench.random(tokens + head_first, cols)?, bench.random(1, cols)?);
        let out = bench.random(tokens, cols)?;
        let rows = if head_first > 0 { Rows::Head } else { Rows::Tokens };
        let step = Step { head_first, head_rows: tokens, ..step(0, tokens, |_| 0) };
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::RmsNorm {
            rows,
            x: half(&x),
            weight: half(&weight),
            eps: 1e-3,
            out: half(&out),
            add: tokens == 3,
        };
        worst = worst.max(bench.compare(&step, tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn hadamard(bench: &mut Bench, n: usize, form: &Form) -> Result<f64> {
    let mut worst = 0f64;
    for transposed in [false, true] {
        let plan = form.plan(n, transposed)?;
        let transform = |device: &Device| Transform::new(device, plan.clone()).map(Arc::new);
        let transforms = [transform(&bench.gpu)?, transform(&bench.cpu)?];
        let x = bench.random(2, (n + 3).next_multiple_of(4))?;
        let (before, after, out) = (bench.random(1, n)?, bench.random(1, n)?, bench.random(2, n + 5)?);
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Hadamard {
            rows: Rows::Tokens,
            plan: transforms[side as usize].clone(),
            x: half(&x),
            before: (!transposed).then(|| half(&before)),
            after: transposed.then(|| half(&after)),
            out: half(&out),
            offset: 5,
            width: if transposed { n } else { n - n / 5 },
            add: transposed,
        };
        worst = worst.max(bench.compare(&step(0, 2, |_| 0), 2, &out, &build).await?);
    }
    Ok(worst)
}

/// A decode step's transform with the norm before it.
async fn normed_hadamard(bench: &mut Bench, n: usize) -> Result<f64> {
    let plan = Form::Whole.plan(n, true)?;
    let transform = |device: &Device| Transform::new(device, plan.clone()).map(Arc::new);
    let transforms = [transform(&bench.gpu)?, transform(&bench.cpu)?];
    let [x, weight, normed, before, out] = [
        bench.random(1, n)?,
        bench.random(1, n)?,
        bench.random(1, n)?,
        bench.random(1, n)?,
        bench.random(1, n)?,
    ];
    let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| {
        let (rows, x, weight, eps, out_of_norm) = (Rows::Tokens, half(&x), half(&weight), 0.1, half(&normed));
        let norm = Op::RmsNorm { rows, x, weight, eps, out: out_of_norm, add: false };
        let (plan, x, before) = (transforms[side as usize].clone(), half(&normed), Some(half(&before)));
        let out = half(&out);
        vec![norm, Op::Hadamard { rows, plan, x, before, after: None, out, offset: 0, width: n, add: false }]
    };
    bench.compare_all(&step(0, 1, |_| 0), 1, &out, &build).await
}

/// A cache that holds random positions, and qkv rows for the next ones.
struct AttentionBench {
    heads: Heads,
    cache: [Cache; 2],
    qkv: Twin,
    step: Step,
}

async fn attention_bench(
    bench: &mut Bench,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    (position, tokens): (usize, usize),
    context: usize,
    format: CacheFormat,
) -> Result<AttentionBench> {
    let kv = kv_heads * head_dim;
    let offsets = [2, 2 + heads * head_dim, 2 + heads * head_dim + kv];
    let heads = Heads { heads, kv_heads, head_dim, offsets };
    let qkv = bench.heads(tokens, offsets[2] + kv + 1, format)?;
    let cache = |device: &Device, words: usize| -> Result<Cache> {
        let make = |label| device.zeros(label, 1, words);
        Ok(Cache { keys: make("keys")?, values: make("values")?, context, format })
    };
    let packed = kv_heads * context * format.words(head_dim);
    let cache = [cache(&bench.gpu, packed)?, cache(&bench.cpu, kv * context)?];
    for (are_keys, gpu, cpu) in
        [(true, &cache[0].keys, &cache[1].keys), (false, &cache[0].values, &cache[1].values)]
    {
        let [packed, numbers] = cached(&mut bench.rng, &heads, context, format, are_keys);
        bench.gpu.write(gpu, 0, &packed);
        bench.cpu.write(cpu, 0, &numbers);
    }
    Ok(AttentionBench { heads, cache, qkv, step: step(position, tokens, |_| 0) })
}

/// Random keys, or values, of all positions: as a GPU packs them, and the same numbers as the twin has them.
fn cached(
    rng: &mut StdRng,
    heads: &Heads,
    context: usize,
    format: CacheFormat,
    are_keys: bool,
) -> [Vec<u32>; 2] {
    let count = heads.kv_heads * heads.head_dim * context;
    let Some(bits) = format.code_bits() else {
        let numbers = (0..count).map(|_| half::f16::from_f32(rng.random_range(-1.0..1.0f32)));
        let halves: Vec<half::f16> = numbers.collect();
        let numbers: Vec<u32> = halves.iter().map(|h| h.to_f32().to_bits()).collect();
        let pair = |p: &[half::f16]| u32::from(p[0].to_bits()) | u32::from(p[1].to_bits()) << 16;
        return match format {
            CacheFormat::F32 => [numbers.clone(), numbers],
            _ => [halves.chunks(2).map(pair).collect(), numbers],
        };
    };
    let words = format.words(heads.head_dim);
    // Entry `i` of `all` of a head, in a layout that is positions × entries for values and entries × positions for keys.
    let index = |head: usize, position: usize, i: usize, all: usize| match are_keys {
        true => (head * all + i) * context + position,
        false => (head * context + position) * all + i,
    };
    let mut packed = vec![0; heads.kv_heads * context * words];
    let mut numbers = vec![0; count];
    for (head, position) in (0..heads.kv_heads).flat_map(|h| (0..context).map(move |p| (h, p))) {
        let scale = rng.random_range(0.5..1.5f32) / (1 << (bits - 1)) as f32;
        packed[index(head, position, words - 1, words)] = scale.to_bits();
        for i in 0..heads.head_dim {
            let code = rng.random_range(1 - (1 << (bits - 1))..1 << (bits - 1));
            let (word, shift) = (i * bits as usize / 32, i as u32 * bits % 32);
            packed[index(head, position, word, words)] |= (code as u32 & ((1 << bits) - 1)) << shift;
            numbers[4 * index(head, position, i / 4, heads.head_dim / 4) + i % 4] =
                (code as f32 * scale).to_bits();
        }
    }
    [packed, numbers]
}

impl Bench {
    /// Rows of heads to write to a cache. For integers of few bits, so that GPU and twin compute the same numbers to the last
    /// bit on the way there, and so find the same codes.
    fn heads(&mut self, rows: usize, cols: usize, format: CacheFormat) -> Result<Twin> {
        if format.code_bits().is_none() {
            return self.random(rows, cols);
        }
        let value = |_| self.rng.random_range(-64..=64) as f32 / 64.0;
        let values: Vec<f32> = (0..rows * cols).map(value).collect();
        self.twin(rows, cols, bytemuck::cast_slice(&values))
    }

    /// Rotations of heads for a cache; for integers by quarters of a turn.
    fn rotations(&mut self, rows: usize, dims: usize, format: CacheFormat) -> Result<Twin> {
        if format.code_bits().is_none() {
            return self.random(rows, dims);
        }
        let turn = |_| [[1.0f32, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]][self.rng.random_range(0..4)];
        let turns: Vec<[f32; 2]> = (0..rows * dims / 2).map(turn).collect();
        self.twin(rows, dims, bytemuck::cast_slice(&turns))
    }
}

/// (heads, KV heads, head size): the extremes and one at random.
fn heads(rng: &mut StdRng, format: CacheFormat) -> [(usize, usize, usize); 3] {
    let (kv_heads, group) = (rng.random_range(1..=4), rng.random_range(1..=4));
    let head_dims = head_dims(format);
    let head_dim = head_dims[rng.random_range(0..head_dims.len())];
    let smallest = if format.code_bits().is_some() { (4, 2, 20) } else { (1, 1, 4) };
    [smallest, (kv_heads * group, kv_heads, head_dim), (3, 1, 256)]
}

/// Heads of 64 channels are some that a software adapter attends to without workgroup memory.
async fn attention(bench: &mut Bench, format: CacheFormat) -> Result<f64> {
    let mut worst = 0f64;
    for shape in heads(&mut bench.rng, format).into_iter().chain([(2, 1, 64)]) {
        let position = bench.rng.random_range(129..200);
        for (position, tokens, window) in
            [(0, 1, None), (3, 5, Some(4)), (position, 2, None), (position, 2, Some(70))]
        {
            let AttentionBench { heads, cache, qkv, step } =
                attention_bench(bench, shape, (position, tokens), position + tokens + 3, format).await?;
            let out = bench.twin(tokens, heads.heads * heads.head_dim, &[])?;
            let sinks = bench.random(1, heads.heads)?;
            let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Attention {
                heads,
                qkv: half(&qkv),
                cache: cache[side as usize].clone(),
                window,
                scale: 0.3,
                softcap: window.map(|_| 0.5),
                sinks: (position % 2 == 0).then(|| half(&sinks)),
                out: half(&out),
            };
            worst = worst.max(bench.compare(&step, tokens, &out, &build).await?);
        }
    }
    Ok(worst)
}

/// Rotations and attention of one token: what decode steps do together. The cache is checked through an attention of the next
/// token over it. Five and eight queries are more than a workgroup takes. All positions are of one context, so that they
/// take the same pipelines: how many shares there are is a constant of them.
async fn decode_attention(bench: &mut Bench, format: CacheFormat, normed: bool) -> Result<f64> {
    let mut worst = 0f64;
    for shape in heads(&mut bench.rng, format).into_iter().chain([(8, 1, 256), (5, 1, head_dims(format)[1])])
    {
        let far = bench.rng.random_range(300..700);
        for (position, window) in [(0, None), (63, Some(4)), (far, None), (far, Some(70))] {
            let AttentionBench { heads, cache, qkv, step: at } =
                attention_bench(bench, shape, (position, 1), far + 4, format).await?;
            let dims = if normed { (heads.head_dim / 2).next_multiple_of(2) } else { heads.head_dim };
            let rotations = bench.rotations(position + 1, dims, format)?;
            let norms = [bench.random(1, heads.head_dim)?, bench.random(1, heads.head_dim)?];
            let sinks = bench.random(1, heads.heads)?;
            let out = bench.twin(1, heads.heads * heads.head_dim, &[])?;
            let attention =
                |half: &dyn Fn(&Twin) -> Tensor, side: Side, qkv: &Twin, out: &Twin| Op::Attention {
                    heads,
                    qkv: half(qkv),
                    cache: cache[side as usize].clone(),
                    window,
                    scale: 0.3,
                    softcap: window.map(|_| 0.5),
                    sinks: (!normed && position % 2 == 0).then(|| half(&sinks)),
                    out: half(out),
                };
            let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| {
                let rope = Op::Rope {
                    heads,
                    qkv: half(&qkv),
                    rotations: Some(half(&rotations)),
                    interleaved: normed && heads.heads != 3,
                    norms: normed.then(|| (half(&norms[0]), half(&norms[1]), 1e-3)),
                    cache: cache[side as usize].clone(),
                };
                vec![rope, attention(half, side, &qkv, &out)]
            };
            worst = worst.max(bench.compare_all(&at, 1, &out, &build).await?);
            let queries = bench.random(1, qkv.cpu.cols)?;
            let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| attention(half, side, &queries, &out);
            worst = worst.max(bench.compare(&step(position + 1, 1, |_| 0), 1, &out, &build).await?);
        }
    }
    Ok(worst)
}

/// RoPE's output is q in place and the cache; the cache is checked through an attention over it.
async fn rope(bench: &mut Bench, format: CacheFormat, normed: bool) -> Result<f64> {
    let mut worst = 0f64;
    for shape in heads(&mut bench.rng, format) {
        let AttentionBench { heads, cache, qkv, step } =
            attention_bench(bench, shape, (7, 3), 13, format).await?;
        // Of normed heads only some channels turn.
        let dims = if normed { (heads.head_dim / 2).next_multiple_of(2) } else { heads.head_dim };
        let rotations = bench.rotations(10, dims, format)?;
        let norms = [bench.random(1, heads.head_dim)?, bench.random(1, heads.head_dim)?];
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Rope {
            heads,
            qkv: half(&qkv),
            rotations: Some(half(&rotations)),
            interleaved: normed && heads.heads != 3,
            norms: normed.then(|| (half(&norms[0]), half(&norms[1]), 1e-3)),
            cache: cache[side as usize].clone(),
        };
        worst = worst.max(bench.compare(&step, 3, &qkv, &build).await?);
        let out = bench.twin(3, heads.heads * heads.head_dim, &[])?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Attention {
            heads,
            qkv: half(&qkv),
            cache: cache[side as usize].clone(),
            window: None,
            scale: 1.0,
            softcap: None,
            sinks: None,
            out: half(&out),
        };
        worst = worst.max(bench.compare(&step, 3, &out, &build).await?);
    }
    Ok(worst)
}

/// One activation, with and without a gate.
async fn glu(bench: &mut Bench, activation: Activation) -> Result<f64> {
    let mut worst = 0f64;
    let width = 4 * bench.rng.random_range(2..200);
    for (tokens, width, gated) in [(1, 4, true), (3, width, true), (2, width, false)] {
        let mut values = bench.values(tokens * 2 * width);
        values.iter_mut().for_each(|v| *v *= 4.0);
        if tokens == 1 {
            // exp and tanh overflow; not among the others, whose errors would vanish in a norm of 1000.
            values[width] = -1000.0;
            values[width + 1] = 1000.0;
        }
        let x = bench.twin(tokens, 2 * width, bytemuck::cast_slice(&values))?;
        let out = bench.twin(tokens, width, &[])?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Glu {
            rows: Rows::Tokens,
            activation,
            x: half(&x),
            gate: width,
            up: gated.then_some(0),
            out: half(&out),
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn layer_norm(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    let width = bench.rng.random_range(5..2000);
    // Rows, rows of the head; in place heads, and a part of a row.
    for (tokens, width, runs, head_first, centered) in
        [(3, width, 1, 0, true), (2, 512, 1, 2, true), (2, 24, 5, 0, true), (2, 100, 1, 0, false)]
    {
        let in_place = runs > 1 || !centered;
        let (offset, cols) = if in_place { (3, runs * width + 7) } else { (0, width) };
        let (x, out) = (bench.random(tokens + head_first, cols)?, bench.random(tokens, cols)?);
        let (weight, bias) = (bench.random(1, runs * width)?, bench.random(1, runs * width)?);
        let rows = if head_first > 0 { Rows::Head } else { Rows::Tokens };
        let step = Step { head_first, head_rows: tokens, ..step(0, tokens, |_| 0) };
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::LayerNorm {
            rows,
            x: half(&x),
            offset,
            width,
            centered,
            weight: half(&weight),
            bias: (head_first > 0).then(|| half(&bias)),
            eps: 1e-3,
            out: (!in_place).then(|| half(&out)),
        };
        let read = if in_place { &x } else { &out };
        worst = worst.max(bench.compare(&step, tokens, read, &build).await?);
    }
    Ok(worst)
}

async fn softcap(bench: &mut Bench) -> Result<f64> {
    let mut values = bench.values(2 * 300);
    values.iter_mut().for_each(|v| *v *= 20.0);
    values[0] = 2000.0; // tanh overflows
    let x = bench.twin(2, 300, bytemuck::cast_slice(&values))?;
    let step = Step { head_rows: 2, ..step(0, 1, |_| 0) };
    let build =
        |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::SoftCap { rows: Rows::Head, x: half(&x), cap: 6.0 };
    bench.compare(&step, 2, &x, &build).await
}

/// Experts of each token, told apart by random ids.
fn routes(bench: &mut Bench, tokens: usize, per_token: usize, experts: u32) -> Result<(Twin, Twin)> {
    let ids: Vec<u32> = (0..tokens * per_token).map(|_| bench.rng.random_range(0..experts)).collect();
    Ok((bench.twin(tokens, per_token, &ids)?, bench.random(tokens, per_token)?))
}

/// The choice of experts is seen through [`Op::Combine`] of rows that differ.
async fn route(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    for (tokens, experts, per_token, normalized) in [(3, 8, 2, true), (2, 300, 6, false)] {
        let mut values = bench.values(tokens * experts);
        values.iter_mut().for_each(|v| *v *= 3.0);
        (values[1], values[experts - 2]) = (3.5, 3.5); // equals: the first goes first
        let logits = bench.twin(tokens, experts, bytemuck::cast_slice(&values))?;
        let (ids, weights) = routes(bench, tokens, per_token, 1)?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Route {
            logits: half(&logits),
            normalized,
            routes: Routes { ids: half(&ids), weights: half(&weights) },
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &weights, &build).await?);
        let chosen = bench.gpu.read_words(&ids.gpu, 0, tokens * per_token).await?;
        let wanted = bench.cpu.read_words(&ids.cpu, 0, tokens * per_token).await?;
        if chosen != wanted {
            return Err(Error::Gpu(format!("chose experts {chosen:?}, the twin {wanted:?}")));
        }
    }
    Ok(worst)
}

async fn combine(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    for (tokens, per_token, add) in [(2, 3, true), (3, 2, false)] {
        let (ids, weights) = routes(bench, tokens, per_token, 1)?;
        let (x, out) = (bench.random(tokens * per_token, 100)?, bench.random(tokens, 100)?);
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Combine {
            x: half(&x),
            routes: Routes { ids: half(&ids), weights: half(&weights) },
            out: half(&out),
            add,
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

/// Two parts of a stack of four experts; rows of the third, which is in none, are left as they are.
async fn expert_product(bench: &mut Bench, codec: &Arc<dyn Codec>) -> Result<f64> {
    let mut worst = 0f64;
    let (n, tokens, per_token) = (EXPERT_ROWS, 5, 3);
    for ((shared, first), experts, cols) in [(EXPERT_SHARES[0], 2, 96), (EXPERT_SHARES[1], 1, 132)] {
        let rows = experts * n;
        let matrix = bench.matrix(codec, Shape { rows, cols })?;
        let (ids, weights) = routes(bench, tokens, per_token, 4)?;
        let x = bench.random(tokens * per_token / shared, cols)?;
        let (out, bias) = (bench.random(tokens * per_token, n + 9)?, bench.random(1, rows)?);
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.shuffle(&mut bench.rng);
        let permutation = bench.twin(1, cols, &order)?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::ExpertProduct {
            matrix: matrix[side as usize].clone(),
            first,
            n,
            x: half(&x),
            shared,
            permutation: (first > 0).then(|| half(&permutation)),
            bias: (first == 0).then(|| half(&bias)),
            routes: Routes { ids: half(&ids), weights: half(&weights) },
            out: half(&out),
            offset: 4,
            add: first > 0,
        };
        let step = step(0, tokens, |_| 0);
        worst = worst.max(bench.compare(&step, tokens * per_token, &out, &build).await?);
    }
    Ok(worst)
}

async fn scale(bench: &mut Bench) -> Result<f64> {
    let width = bench.rng.random_range(65..500);
    let (x, by, out) = (bench.random(3, width + 3)?, bench.random(1, width)?, bench.twin(3, width + 1, &[])?);
    let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::Scale {
        rows: Rows::Tokens,
        x: half(&x),
        by: half(&by),
        out: half(&out),
    };
    bench.compare(&step(0, 3, |_| 0), 3, &out, &build).await
}

async fn argmax(bench: &mut Bench) -> Result<f64> {
    let mut values = bench.values(300);
    values[299] = f32::NAN;
    let logits = bench.twin(1, 300, bytemuck::cast_slice(&values))?;
    let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Argmax {
        logits: half(&logits),
        step: if side == Side::Gpu { bench.step.gpu.clone() } else { bench.step.cpu.clone() },
    };
    bench.compare(&step(0, 1, |_| 0), 0, &logits, &build).await?;
    if bench.gpu.read_words(&bench.step.gpu, STEP_HEADER, 1).await? != [NO_TOKEN] {
        return Err(Error::Gpu("argmax did not notice a NaN".into()));
    }
    for (width, equals) in [(1, vec![0]), (1000, vec![999]), (5000, vec![4097, 300, 4999])] {
        let mut values = bench.values(width);
        equals.iter().for_each(|&i| values[i] = 2.0);
        let logits = bench.twin(1, width, bytemuck::cast_slice(&values))?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Argmax {
            logits: half(&logits),
            step: if side == Side::Gpu { bench.step.gpu.clone() } else { bench.step.cpu.clone() },
        };
        bench.compare(&step(0, 1, |_| 0), 1, &logits, &build).await?;
        let chosen = bench.gpu.read_words(&bench.step.gpu, STEP_HEADER, 1).await?;
        let wanted = bench.cpu.read_words(&bench.step.cpu, STEP_HEADER, 1).await?;
        if chosen != wanted || chosen.first().copied() != equals.iter().min().map(|&i| i as u32) {
            return Err(Error::Gpu(format!("argmax of {width} chose {chosen:?}, the twin {wanted:?}")));
        }
    }
    Ok(0.0)
}

async fn top_k(bench: &mut Bench) -> Result<f64> {
    // All of them; a border among equals; one broken.
    for (width, k, broken) in [(5, 5, false), (1000, 128, false), (5003, 40, false), (300, 7, true)] {
        let mut values: Vec<f32> =
            bench.values(width).into_iter().map(|v| (v * 64.0).round() / 8.0).collect();
        values[width / 2] = if broken { f32::NAN } else { -0.0 };
        values[width - 1] = f32::NEG_INFINITY;
        let logits = bench.twin(1, width, bytemuck::cast_slice(&values))?;
        let out = bench.twin(1, 1 + 2 * k, &[])?;
        let build =
            |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::TopK { logits: half(&logits), out: half(&out) };
        bench.run(&step(0, 1, |_| 0), &build).await?;
        let mut sorted = Vec::new();
        for (device, tensor) in [(&bench.gpu, &out.gpu), (&bench.cpu, &out.cpu)] {
            let words = device.read_words(tensor, 0, 1 + 2 * k).await?;
            let (count, pairs) = words.split_at(1);
            let mut pairs: Vec<&[u32]> = pairs.chunks(2).collect();
            pairs.sort_unstable();
            // Of a broken row only that it is matters.
            sorted.push((count[0], if broken { Vec::new() } else { pairs.concat() }));
        }
        if sorted[0] != sorted[1] || broken != (sorted[0].0 == NO_TOKEN) {
            return Err(Error::Gpu(format!("the {k} largest of {width} logits are not the twin's")));
        }
    }
    Ok(0.0)
}

/// Sizes of Hadamard transforms that always run: runs without a mix, both sides of 4096, 28 and 172.
const HADAMARDS: [usize; 4] = [4, 128, 8192, 11008];

/// Every activation, with its name.
const ACTIVATIONS: [(Activation, &str); 5] = [
    (Activation::Silu, "silu"),
    (Activation::GeluTanh, "gelu"),
    (Activation::Relu, "relu"),
    (Activation::SquaredRelu, "relu2"),
    (Activation::Clamped { limit: 3.0 }, "clamped"),
];

/// What a run of `verify` is in the middle of.
struct Run<'a> {
    bench: Bench,
    seed: u64,
    wanted: &'a dyn Fn(&str, &str) -> bool,
    progress: &'a mut dyn FnMut(&Outcome),
    outcomes: Vec<Outcome>,
}

impl Run<'_> {
    /// Runs one kernel, if it is wanted. What does not depend on the kernel's type is compiled once.
    async fn case(
        &mut self,
        name: &str,
        codec: &str,
        tolerance: f64,
        kernel: impl AsyncFnOnce(&mut Bench) -> Result<f64>,
    ) -> Result<()> {
        if !self.begins(name, codec) {
            return Ok(());
        }
        let result = kernel(&mut self.bench).await;
        self.ends(name, codec, tolerance, result)
    }

    /// Whether a kernel is wanted; its random numbers do not depend on the ones before it.
    #[inline(never)]
    fn begins(&mut self, name: &str, codec: &str) -> bool {
        let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3); // FNV-1a
        let hash = name.bytes().chain(codec.bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
        self.bench.rng = StdRng::seed_from_u64(self.seed ^ hash);
        (self.wanted)(name, codec)
    }

    #[inline(never)]
    fn ends(&mut self, name: &str, codec: &str, tolerance: f64, result: Result<f64>) -> Result<()> {
        if let Err(lost @ Error::DeviceLost(_)) = result {
            return Err(lost);
        }
        let max_error = *result.as_ref().unwrap_or(&f64::INFINITY);
        let outcome = Outcome {
            name: name.into(),
            codec: codec.into(),
            max_error,
            tolerance,
            pass: max_error <= tolerance,
            problem: result.err().map(|e| e.to_string()),
        };
        (self.progress)(&outcome);
        self.outcomes.push(outcome);
        Ok(())
    }
}

/// Runs everything, telling `progress` after each kernel. A kernel that does not even compile is a failed
/// outcome; only a lost device ends the run.
pub async fn verify(context: &Context, seed: u64, progress: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    verify_only(context, seed, |_, _| true, progress).await
}

/// Says yes, for each kernel, to one codec of each family: its members share their WGSL. For [`verify_only`].
pub fn one_of_each_family() -> impl Fn(&str, &str) -> bool {
    let samples = |family: &&'static Family| (family.samples)().into_iter().map(|codec| codec.name());
    let families: HashMap<String, &str> =
        CODECS.iter().flat_map(|family| samples(family).map(|codec| (codec, family.name))).collect();
    let seen = RefCell::new(HashSet::new());
    move |kernel, codec| match families.get(codec) {
        Some(family) => seen.borrow_mut().insert((kernel.to_owned(), *family)),
        None => true, // what has no codec
    }
}

/// As [`verify`], only of what `wanted` says yes to: it is given [`Outcome::name`] and [`Outcome::codec`].
pub async fn verify_only(
    context: &Context,
    seed: u64,
    wanted: impl Fn(&str, &str) -> bool,
    mut progress: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let bench = Bench::new(context, seed)?;
    let mut run = Run { bench, seed, wanted: &wanted, progress: &mut progress, outcomes: Vec::new() };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut family = "";
    let mut staged = [false, false];
    for (i, codec) in CODECS.iter().flat_map(|family| (family.samples)()).enumerate() {
        let name = codec.name();
        let first = std::mem::replace(&mut family, codec.family().name) != codec.family().name;
        let slots = i + seed as usize;
        // Blocks of products of bytes have 64.
        let blocks = if context.capabilities().rounding == Rounding::Bytes { 64 } else { 0 };
        let tokens = blocks + rng.random_range(2..48);
        run.case("gather", &name, TOLERANCE_F32, async |b| gather(b, &codec).await).await?;
        run.case("matvec", &name, TOLERANCE_F32, async |b| product(b, &codec, 1, slots, first).await).await?;
        let Capabilities { matrix, rounding, .. } = *context.capabilities();
        let tolerance = if matrix && rounding == Rounding::Halves { TOLERANCE_F16 } else { TOLERANCE_F32 };
        run.case("matmul", &name, tolerance, async |b| product(b, &codec, tokens, slots, first).await)
            .await?;
        if codec.has_integers() {
            // Sums are exact; of a division WGSL asks for 2.5 units in the last place only.
            let tolerance = if codec.divides() { TOLERANCE_F32 } else { 0.0 };
            let one = async |b: &mut Bench| product_int8(b, &codec, 1, slots).await;
            run.case("matvec in integers", &name, tolerance, one).await?;
            let many = async |b: &mut Bench| product_int8(b, &codec, tokens, slots).await;
            run.case("matmul in integers", &name, tolerance, many).await?;
        }
        // They call what matvec and matmul call: one member of a family tells of all.
        if first {
            if has_wide_rows(context.capabilities()) {
                let wide = async |b: &mut Bench| wide_product(b, &codec, slots).await;
                run.case("wide matmul", &name, TOLERANCE_F32, wide).await?;
            }
            let experts = async |b: &mut Bench| expert_product(b, &codec).await;
            run.case("expert_product", &name, TOLERANCE_F32, experts).await?;
            let none = FusedWith::default();
            let mut all = vec![
                ("normed matvec", FusedWith { norm: true, ..none }),
                ("gated matvec", FusedWith { gate: true, ..none }),
                ("normed gated matvec", FusedWith { norm: true, gate: true, ..none }),
            ];
            // On a CPU these stay by themselves, and x where it is. It goes as floats or as integers, whatever the codec.
            let seen = std::mem::replace(&mut staged[usize::from(codec.fixed().is_some())], true);
            if !context.capabilities().software && !seen {
                let long = async |b: &mut Bench| long_product(b, &codec, slots).await;
                run.case("long matvec", &name, TOLERANCE_F32, long).await?;
                all.extend([
                    ("long gated matvec", FusedWith { gate: true, long: true, ..none }),
                    ("scaled matvec", FusedWith { scale: true, ..none }),
                    ("rotated matvec", FusedWith { rotation: true, ..none }),
                    ("normed scaled matvec", FusedWith { norm: true, scale: true, ..none }),
                    ("normed rotated matvec", FusedWith { norm: true, rotation: true, ..none }),
                ]);
            }
            for (kernel, fused) in all {
                let case = async |b: &mut Bench| fused_product(b, &codec, fused, slots).await;
                let rounded = rounding == Rounding::Bytes && (fused.norm || fused.scale || fused.rotation);
                let tolerance = if rounded { TOLERANCE_BYTES } else { TOLERANCE_F32 };
                run.case(kernel, &name, tolerance, case).await?;
            }
        }
    }
    let given = |code, scale| Activations { scale: ActivationScale::Static(scale), ..code };
    let floor = ActivationScale::Dynamic { top: 127.0, floor: 3.0 };
    let floored = Activations { scale: floor, ..Activations::int8(127.0) };
    for (scheme, name) in [
        (Activations::int8(127.5), "int8"),
        (given(Activations::int8(127.0), 0.011), "int8 static"),
        (floored, "int8 with a floor"),
        (Activations::e4m3(128), "e4m3 g128"),
        (given(Activations::e4m3(WHOLE_ROW), 1.0 / 256.0), "e4m3 static"),
        (Activations { outliers: Some(0.75), ..Activations::int8(127.0) }, "int8 without outliers"),
    ] {
        run.case("quantize", name, 0.0, async |b| quantize(b, scheme).await).await?;
    }
    run.case("outliers", "", 0.0, async |b| outliers(b).await).await?;
    let sizes = sizes(1 << 16);
    let drawn = [(); 4].map(|()| sizes[rng.random_range(0..sizes.len())]);
    for n in HADAMARDS.into_iter().chain(drawn) {
        let name = &n.to_string();
        run.case("hadamard", name, TOLERANCE_F32, async |b| hadamard(b, n, &Form::Whole).await).await?;
        if n.is_multiple_of(4) {
            let case = async |b: &mut Bench| normed_hadamard(b, n).await;
            run.case("normed hadamard", name, TOLERANCE_F32, case).await?;
        }
    }
    let blocks = async |b: &mut Bench| hadamard(b, 2432, &Form::Blocks(128)).await;
    run.case("hadamard", "2432 in blocks of 128", TOLERANCE_F32, blocks).await?;
    let core = Form::Core((0..49).map(|i| (i * 37 % 49) as f32 / 49.0 - 0.5).collect());
    let dense = async |b: &mut Bench| hadamard(b, 448, &core).await;
    run.case("hadamard", "448 with a core of 7", TOLERANCE_F32, dense).await?;
    for format in CacheFormat::ALL {
        let name = &format!("{} cache", format.name());
        let tolerance = if format == CacheFormat::F16 { TOLERANCE_F16 } else { TOLERANCE_F32 };
        run.case("attention", name, tolerance, async |b| attention(b, format).await).await?;
        // A norm is not computed to the last bit, which decides what some codes are.
        for normed in [false, true].into_iter().filter(|normed| !normed || format.code_bits().is_none()) {
            let kernel = if normed { "rope with norms" } else { "rope" };
            run.case(kernel, name, tolerance, async |b| rope(b, format, normed).await).await?;
            let kernel = if normed { "decode attention with norms" } else { "decode attention" };
            let case = async |b: &mut Bench| decode_attention(b, format, normed).await;
            run.case(kernel, name, tolerance, case).await?;
        }
    }
    run.case("rms_norm", "", TOLERANCE_F32, async |b| rms_norm(b).await).await?;
    run.case("scale", "", TOLERANCE_F32, async |b| scale(b).await).await?;
    run.case("sparse", "", TOLERANCE_F32, async |b| sparse(b).await).await?;
    run.case("layer_norm", "", TOLERANCE_F32, async |b| layer_norm(b).await).await?;
    for (activation, name) in ACTIVATIONS {
        run.case("glu", name, TOLERANCE_F32, async |b| glu(b, activation).await).await?;
    }
    run.case("softcap", "", TOLERANCE_F32, async |b| softcap(b).await).await?;
    run.case("route", "", TOLERANCE_F32, async |b| route(b).await).await?;
    run.case("combine", "", TOLERANCE_F32, async |b| combine(b).await).await?;
    run.case("argmax", "", 0.0, async |b| argmax(b).await).await?;
    run.case("top_k", "", 0.0, async |b| top_k(b).await).await?;
    Ok(run.outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Extent, Packed, Piece};

    /// Matrix units multiply weights 256 times as large in f16.
    #[test]
    fn weights_that_are_drawn_fit_matrix_units() {
        let mut rng = StdRng::seed_from_u64(1);
        let shape = Shape { rows: 64, cols: 256 };
        for codec in
            CODECS.iter().flat_map(|family| (family.samples)()).filter(|codec| codec.halves().is_some())
        {
            let fields = codec.fields();
            let count = |i: usize| fields[i].lines(shape.rows) * codec.items(i, 0..shape.cols).len();
            let mut draw = |i: usize| (0..count(i)).map(|_| random_item(&mut rng, fields[i].kind)).collect();
            let items = (0..fields.len()).map(&mut draw).collect();
            let mut packed = Packed::new(codec.clone(), shape);
            packed.write_piece(&Piece { extent: Extent { rows: 0..64, cols: 0..256 }, items });
            let mut row = vec![0.0; shape.cols];
            for r in 0..shape.rows {
                packed.decode_row(r, &mut row);
                let largest = row.iter().fold(0f32, |most, w| most.max(w.abs()));
                assert!(largest < 255.0, "{}: {largest}", codec.name());
            }
        }
    }
}
