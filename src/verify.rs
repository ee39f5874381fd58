//! Every kernel × codec against its CPU twin on one adapter, over random inputs and odd shapes.

use crate::device::{Device, Matrix, Tensor};
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::ops::{Cache, Heads, Op, Rows, STEP_HEADER, Step, Tokens, Transform};
use crate::quant::hadamard::Plan;
use crate::quant::{CODECS, Codec, Kind, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::sync::Arc;

/// Largest error, relative to the norm of the twin's result, that passes with f32 storage.
pub const TOLERANCE_F32: f64 = 1e-5;
/// The same where the KV cache is f16.
pub const TOLERANCE_F16: f64 = 2e-3;

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

    /// A twin matrix of random items.
    fn matrix(&mut self, codec: &Arc<dyn Codec>, shape: Shape) -> Result<[Arc<Matrix>; 2]> {
        let mut items = Vec::new();
        for field in codec.fields() {
            let count = shape.rows * field.items(shape.cols);
            items.push((0..count).map(|_| random_item(&mut self.rng, field.kind)).collect::<Vec<u32>>());
        }
        let make =
            |device: &Device| device.dense("verify", codec.clone(), shape, items.clone()).map(Arc::new);
        Ok([make(&self.gpu)?, make(&self.cpu)?])
    }

    /// Runs an op on both sides; the relative error of `out`'s first `rows` rows.
    async fn compare(&self, step: &Step, rows: usize, out: &Twin, build: &Build<'_>) -> Result<f64> {
        let op = build(&|twin: &Twin| twin.gpu.clone(), Side::Gpu);
        let recording = self.gpu.record(&self.step.gpu, vec![op]).await?;
        self.gpu.run(&recording, &self.step.gpu, step)?;
        let op = build(&|twin: &Twin| twin.cpu.clone(), Side::Cpu);
        let recording = self.cpu.record(&self.step.cpu, vec![op]).await?;
        self.cpu.run(&recording, &self.step.cpu, step)?;
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

fn random_item(rng: &mut StdRng, kind: Kind) -> u32 {
    match kind {
        Kind::Code(bits) => rng.random_range(0..=u32::MAX >> (32 - bits)),
        Kind::F32 => rng.random_range(-1.0..1.0f32).to_bits(),
        Kind::F16 => {
            // One in eight is a subnormal, which a careless kernel flushes to zero.
            let subnormal = rng.random_range(0..8) == 0;
            let bits = half::f16::from_f32(rng.random_range(-1.0..1.0f32)).to_bits();
            (if subnormal { rng.random_range(1..0x400u16) } else { bits }) as u32
        }
        Kind::Bf16 => half::bf16::from_f32(rng.random_range(-1.0..1.0f32)).to_bits() as u32,
    }
}

fn step(position: usize, tokens: usize, ids: impl Fn(usize) -> u32) -> Step {
    let tokens = Tokens::Given((0..tokens).map(ids).collect::<Vec<_>>());
    Step { position, head_first: 0, head_rows: 1, tokens }
}

/// Shapes that end inside a tile, a unit and a word.
const SHAPES: [(usize, usize); 4] = [(1, 32), (37, 96), (100, 160), (200, 520)];

async fn gather(bench: &mut Bench, codec: &Arc<dyn Codec>) -> Result<f64> {
    let mut worst = 0f64;
    for (rows, cols) in SHAPES {
        let matrix = bench.matrix(codec, Shape { rows, cols })?;
        let tokens = 5;
        let out = bench.twin(tokens, cols, &[])?;
        let step = step(0, tokens, |t| (t * 31 % rows) as u32);
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Gather {
            table: matrix[side as usize].clone(),
            out: half(&out),
        };
        worst = worst.max(bench.compare(&step, tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn product(bench: &mut Bench, codec: &Arc<dyn Codec>, tokens: usize) -> Result<f64> {
    let mut worst = 0f64;
    for (i, (rows, cols)) in SHAPES.into_iter().enumerate() {
        let matrix = bench.matrix(codec, Shape { rows, cols })?;
        let x = bench.random(tokens, cols)?;
        let offset = 3 * i;
        let out = bench.random(tokens, rows + offset + 1)?;
        let bias = bench.random(1, rows)?;
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.reverse();
        order.swap(0, cols / 2);
        let permutation = bench.twin(1, cols, &order)?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Product {
            rows: Rows::Tokens,
            matrix: matrix[side as usize].clone(),
            x: half(&x),
            permutation: (i % 2 == 1).then(|| half(&permutation)),
            bias: (i >= 2).then(|| half(&bias)),
            out: half(&out),
            offset,
            add: i != 2,
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn rms_norm(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    for (tokens, cols, head_first) in [(1, 4, 0), (3, 100, 0), (5, 1024, 2)] {
        let (x, weight) = (bench.random(tokens + head_first, cols)?, bench.random(1, cols)?);
        let out = bench.twin(tokens, cols, &[])?;
        let rows = if head_first > 0 { Rows::Head } else { Rows::Tokens };
        let step = Step { head_first, head_rows: tokens, ..step(0, tokens, |_| 0) };
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::RmsNorm {
            rows,
            x: half(&x),
            weight: half(&weight),
            eps: 1e-3,
            out: half(&out),
        };
        worst = worst.max(bench.compare(&step, tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn hadamard(bench: &mut Bench, n: usize, block: Option<usize>) -> Result<f64> {
    let mut worst = 0f64;
    for transposed in [false, true] {
        let plan = match block {
            Some(block) => Plan::blocks(n, block)?,
            None => Plan::new(n, transposed)?,
        };
        let transform = |device: &Device| -> Result<Arc<Transform>> {
            let signs = (!plan.signs.is_empty()).then(|| device.words("signs", &plan.signs)).transpose()?;
            Ok(Arc::new(Transform { plan: plan.clone(), signs }))
        };
        let transforms = [transform(&bench.gpu)?, transform(&bench.cpu)?];
        let (x, before, after) = (bench.random(2, n + 3)?, bench.random(1, n)?, bench.random(1, n)?);
        let (scratch, out) = (bench.twin(2, n + 1, &[])?, bench.random(2, n + 5)?);
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Hadamard {
            rows: Rows::Tokens,
            plan: transforms[side as usize].clone(),
            x: half(&x),
            before: (!transposed).then(|| half(&before)),
            after: transposed.then(|| half(&after)),
            scratch: half(&scratch),
            out: half(&out),
            offset: 5,
            add: transposed,
        };
        worst = worst.max(bench.compare(&step(0, 2, |_| 0), 2, &out, &build).await?);
    }
    Ok(worst)
}

/// A cache that holds `position` random positions, and qkv rows for the next ones.
struct AttentionBench {
    heads: Heads,
    cache: [Cache; 2],
    qkv: Twin,
    step: Step,
}

async fn attention_bench(
    bench: &mut Bench,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    position: usize,
    tokens: usize,
    f16: bool,
) -> Result<AttentionBench> {
    let context = position + tokens + 3;
    let kv = kv_heads * head_dim;
    let offsets = [2, 2 + heads * head_dim, 2 + heads * head_dim + kv];
    let heads = Heads { heads, kv_heads, head_dim, offsets };
    let qkv = bench.random(tokens, offsets[2] + kv + 1)?;
    let cache = |device: &Device, side: Side| -> Result<Cache> {
        // The GPU packs two f16 a word; the twin keeps one rounded value a word.
        let words = if f16 && side == Side::Gpu { kv * context / 2 } else { kv * context };
        let make = |label| device.zeros(label, 1, words);
        Ok(Cache { keys: make("keys")?, values: make("values")?, context, f16 })
    };
    let cache = [cache(&bench.gpu, Side::Gpu)?, cache(&bench.cpu, Side::Cpu)?];
    for side in [Side::Gpu, Side::Cpu] {
        let mut rng = StdRng::seed_from_u64(11);
        let device = if side == Side::Gpu { &bench.gpu } else { &bench.cpu };
        for tensor in [&cache[side as usize].keys, &cache[side as usize].values] {
            let halves: Vec<half::f16> =
                (0..kv * context).map(|_| half::f16::from_f32(rng.random_range(-1.0..1.0f32))).collect();
            let words: Vec<u32> = if f16 && side == Side::Gpu {
                halves.chunks(2).map(|p| p[0].to_bits() as u32 | (p[1].to_bits() as u32) << 16).collect()
            } else {
                halves.iter().map(|h| h.to_f32().to_bits()).collect()
            };
            device.write(tensor, 0, &words);
        }
    }
    let ids = step(position, tokens, |_| 0);
    Ok(AttentionBench { heads, cache, qkv, step: ids })
}

const HEADS: [(usize, usize, usize); 4] = [(1, 1, 4), (6, 2, 24), (4, 4, 64), (3, 1, 256)];

async fn attention(bench: &mut Bench, f16: bool) -> Result<f64> {
    let mut worst = 0f64;
    for (i, shape) in HEADS.into_iter().enumerate() {
        for (position, tokens, window) in [(0, 1, None), (3, 5, Some(4)), (150, 2, None), (150, 2, Some(70))]
        {
            let AttentionBench { heads, cache, qkv, step } =
                attention_bench(bench, shape, position + i, tokens, f16).await?;
            let out = bench.twin(tokens, heads.heads * heads.head_dim, &[])?;
            let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Attention {
                heads,
                qkv: half(&qkv),
                cache: cache[side as usize].clone(),
                window,
                out: half(&out),
            };
            worst = worst.max(bench.compare(&step, tokens, &out, &build).await?);
        }
    }
    Ok(worst)
}

/// RoPE's output is q in place and the cache; the cache is checked through an attention over it.
async fn rope(bench: &mut Bench, f16: bool, normed: bool) -> Result<f64> {
    let mut worst = 0f64;
    for shape in HEADS {
        let AttentionBench { heads, cache, qkv, step } = attention_bench(bench, shape, 7, 3, f16).await?;
        let rotations = bench.random(10, heads.head_dim)?;
        let norms = [bench.random(1, heads.head_dim)?, bench.random(1, heads.head_dim)?];
        let build = |half: &dyn Fn(&Twin) -> Tensor, side: Side| Op::Rope {
            heads,
            qkv: half(&qkv),
            rotations: half(&rotations),
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
            out: half(&out),
        };
        worst = worst.max(bench.compare(&step, 3, &out, &build).await?);
    }
    Ok(worst)
}

async fn swiglu(bench: &mut Bench) -> Result<f64> {
    let mut worst = 0f64;
    for (tokens, width) in [(1, 4), (3, 172)] {
        let mut values = bench.values(tokens * 2 * width);
        values[0] = -1000.0; // exp overflows
        values[width] = 1000.0;
        let x = bench.twin(tokens, 2 * width, bytemuck::cast_slice(&values))?;
        let out = bench.twin(tokens, width, &[])?;
        let build = |half: &dyn Fn(&Twin) -> Tensor, _: Side| Op::SwiGlu {
            x: half(&x),
            gate: width,
            up: 0,
            out: half(&out),
        };
        worst = worst.max(bench.compare(&step(0, tokens, |_| 0), tokens, &out, &build).await?);
    }
    Ok(worst)
}

async fn argmax(bench: &mut Bench) -> Result<f64> {
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

/// Orders of the Hadamard transform that `verify` runs: one of each construction, both sides of 4096.
const ORDERS: [usize; 8] = [4, 128, 384, 768, 5120, 8192, 11008, 14336];

/// Runs everything, telling `progress` after each kernel. A kernel that does not even compile is a failed
/// outcome; only a lost device ends the run.
pub async fn verify(
    context: &Context,
    seed: u64,
    mut progress: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let mut bench = Bench::new(context, seed)?;
    let mut outcomes = Vec::new();
    let mut note = |name: &str, codec: &str, tolerance: f64, result: Result<f64>| -> Result<()> {
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
        progress(&outcome);
        outcomes.push(outcome);
        Ok(())
    };
    for codec in CODECS.iter().flat_map(|family| (family.samples)()) {
        let name = codec.name();
        note("gather", &name, TOLERANCE_F32, gather(&mut bench, &codec).await)?;
        note("matvec", &name, TOLERANCE_F32, product(&mut bench, &codec, 1).await)?;
        note("matmul", &name, TOLERANCE_F32, product(&mut bench, &codec, 35).await)?;
    }
    for n in ORDERS {
        note("hadamard", &n.to_string(), TOLERANCE_F32, hadamard(&mut bench, n, None).await)?;
    }
    note("hadamard", "768 in blocks of 128", TOLERANCE_F32, hadamard(&mut bench, 768, Some(128)).await)?;
    for (f16, name, tolerance) in [(false, "f32 cache", TOLERANCE_F32), (true, "f16 cache", TOLERANCE_F16)] {
        note("rope", name, tolerance, rope(&mut bench, f16, false).await)?;
        note("rope with norms", name, tolerance, rope(&mut bench, f16, true).await)?;
        note("attention", name, tolerance, attention(&mut bench, f16).await)?;
    }
    note("rms_norm", "", TOLERANCE_F32, rms_norm(&mut bench).await)?;
    note("swiglu", "", TOLERANCE_F32, swiglu(&mut bench).await)?;
    note("argmax", "", 0.0, argmax(&mut bench).await)?;
    Ok(outcomes)
}
