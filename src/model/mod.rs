//! Models: a checkpoint's weights on a device, with the recordings that run them.

mod ahead;
pub mod architecture;
mod block;
mod cohere;
pub mod config;
mod gemma;
mod llama;
mod network;
mod olmo;
pub mod rope;

pub use crate::quant::cache::CacheFormat;
pub use ahead::Ahead;
pub(crate) use architecture::TEXT_PART;
pub use architecture::{ARCHITECTURES, Architecture, NormKind, QkNorms, Unrotated, Windows, architecture};
pub use config::{Alternating, Constants, Experts, ModelConfig, Rope, RopeScaling};

use crate::checkpoint::lora::Adapter;
use crate::checkpoint::quantize::Quantization;
use crate::checkpoint::{StoredMatrix, Weights};
use crate::device::{Device, Pending, Recording, Tensor};
use crate::error::{Error, Result};
use crate::gpu::Capabilities;
use crate::linear::{Linear, ScratchSize, Strength};
use crate::ops::{Cache, Op, STEP_HEADER, Step, Tokens};
use crate::reference::NO_TOKEN;
use block::{Activations, FeedForward, Layer, Norm, Rotations};
use network::{Network, Recordings};
use rand::{Rng, SeedableRng};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use web_time::Instant;

/// Tokens of one prefill step; GPUs take more where the activations are small enough, see `prefill_chunk`.
pub const PREFILL_CHUNK: usize = 128;
/// The most that they take.
const LARGEST_CHUNK: usize = 512;
/// Seconds that a step may take on a GPU: no frame waits longer, and no watchdog bites.
const LONGEST_STEP: f64 = 0.2;
/// Fewer tokens a step are not worth while.
const SMALLEST_CHUNK: usize = 32;
/// Bytes of activations that a prefill step may take for more than [`PREFILL_CHUNK`] tokens.
const ACTIVATION_BYTES: usize = 64 << 20;
/// Tokens that matrix units take at once.
const MATRIX_CHUNK: usize = 128;
/// The same as [`ACTIVATION_BYTES`] where there are matrix units, which fewer tokens than [`LARGEST_CHUNK`] leave idle.
const MATRIX_ACTIVATION_BYTES: usize = 256 << 20;
/// Rows that the head works on at once when every position's logits are wanted.
const HEAD_BLOCK: usize = 32;
/// Logits that a step brings back for sampling: enough for a top-k of 40 with a penalty on 64 recent tokens.
pub const LARGEST: usize = 128;
/// Positions whose rotations are computed at once.
const ROTATION_BLOCK: usize = 4096;
/// Words of a cache that are filled at once.
const CACHE_BLOCK: usize = 1 << 20;
/// Positions of the cache unless the caller says otherwise.
pub const DEFAULT_CONTEXT: usize = 2048;

/// How to load.
#[derive(Default)]
pub struct LoadOptions {
    /// Storage of the cache.
    pub precision: CacheFormat,
    /// Positions of the cache; `None` takes the model's own, at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// LoRA adapters, added with their weights.
    pub adapters: Vec<Adapter>,
    /// Whether activations are quantized where the format means them to be.
    pub activations: ActivationMode,
    /// What the linear layers of an unquantized model become; embedding, head and router stay as they are.
    pub quantize: Option<Quantization>,
}

/// What products take as their x.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ActivationMode {
    /// Activations as they are, f32: the most exact.
    #[default]
    F32,
    /// Quantized as the checkpoint was made to run (W8A8, FP8, BitNet); f32 where it says nothing.
    Native,
}

/// What loading is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes of the checkpoint that are on the device.
    Weights,
    /// Compute pipelines that are compiled.
    Kernels,
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is counted.
    pub stage: Stage,
    /// So many are done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.stage {
            Stage::Weights => "bytes",
            Stage::Kernels => "kernels",
        };
        write!(f, "{} of {} {what}", self.done, self.total)
    }
}

/// Bytes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// Weights in the checkpoint.
    pub weights_bytes_disk: u64,
    /// The same weights on the device.
    pub weights_bytes_gpu: u64,
    /// Keys and values.
    pub kv_bytes: u64,
}

/// A model on a device, ready to run.
pub struct Model {
    /// Its hyper-parameters.
    pub config: ModelConfig,
    /// Positions that the cache holds.
    pub context: usize,
    /// Tokens of one prefill step at most.
    pub chunk: usize,
    /// Bytes in use.
    pub memory: Memory,
    device: Device,
    /// Steps so far: whoever remembers what the cache holds can tell whether somebody else has used it since.
    runs: AtomicU64,
    /// Tokens of the next prefill step: at most `chunk`, and what [`LONGEST_STEP`] has room for.
    chunk_now: AtomicUsize,
    /// Dynamic RoPE has overwritten rotations of the original length.
    turned: AtomicBool,
    network: Network,
    recordings: Recordings, // prefill and body of up to `chunk` tokens, head of up to HEAD_BLOCK rows
    adapters: Vec<Arc<Strength>>,
}

/// Loads one stored thing after the other and counts bytes.
struct Loader<'a, W> {
    device: &'a Device,
    checkpoint: &'a W,
    adapters: Vec<(&'a Adapter, Arc<Strength>)>,
    activations: ActivationMode,
    quantize: Option<Quantization>,
    staged: usize,
    disk: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl<W: Weights> Loader<'_, W> {
    fn count(&mut self, bytes: u64) {
        self.disk += bytes;
        let (done, total) = (self.disk.min(self.total), self.total);
        (self.progress)(Progress { stage: Stage::Weights, done, total });
    }

    async fn stored(&mut self, mut stored: Vec<StoredMatrix>, parent: &str) -> Result<Linear> {
        if self.activations == ActivationMode::F32 {
            stored.iter_mut().for_each(|matrix| matrix.activations = None);
        }
        let bytes = stored.iter().map(|m| m.disk_bytes).sum();
        let linear = Linear::load(self.device, stored, parent, &self.adapters, &mut self.staged).await?;
        self.count(bytes);
        Ok(linear)
    }

    /// Modules that stay as they are stored.
    async fn modules(&mut self, parent: &str, names: &[&str]) -> Result<Linear> {
        let stored = self.checkpoint.matrices(parent, names).await?;
        self.stored(stored, parent).await
    }

    /// Modules that are quantized if that is asked for.
    async fn linear(&mut self, parent: &str, names: &[&str]) -> Result<Linear> {
        let Some(to) = self.quantize else { return self.modules(parent, names).await };
        let stored = self.checkpoint.matrices(parent, names).await?.into_iter();
        let stored = stored.map(|matrix| to.of(matrix)).collect::<Result<_>>();
        self.stored(stored.map_err(|e| e.file(self.checkpoint.name()))?, parent).await
    }

    async fn optional_vector(&mut self, name: &str, len: usize, gain: f32) -> Result<Option<Tensor>> {
        let Some(mut values) = self.checkpoint.vector(name, len).await? else { return Ok(None) };
        values.iter_mut().for_each(|value| *value *= gain);
        self.device.vector(name, &values).map(Some)
    }

    /// The norm `name` over `len` columns, its output multiplied by `gain`.
    async fn norm(&mut self, name: &str, kind: NormKind, len: usize, gain: f32) -> Result<Option<Norm>> {
        // The residual stream is kept divided by what multiplies the sums that make it: a norm tells no scale but its ε.
        let ModelConfig { norm_eps, constants, .. } = self.checkpoint.config();
        let eps = norm_eps / constants.residual_scale.powi(2);
        let weight = self.optional_vector(&format!("{name}.weight"), len, gain).await?;
        let Some(weight) = weight else { return Ok(None) };
        let bias = match kind {
            NormKind::Layer => self.optional_vector(&format!("{name}.bias"), len, gain).await?,
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Some(Norm { kind, weight, bias, eps }))
    }

    async fn required_norm(&mut self, name: &str, arch: &Architecture, len: usize) -> Result<Norm> {
        let norm = self.norm(name, arch.norm, len, 1.0).await?;
        norm.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        Error::missing(format!("missing tensor {name}.weight")).file(self.checkpoint.name())
    }

    async fn layer(&mut self, index: usize, arch: &Architecture, config: &ModelConfig) -> Result<Layer> {
        let layer = format!("model.layers.{index}");
        let (attention, mlp) = (format!("{layer}.self_attn"), format!("{layer}.mlp"));
        let mut norms = Vec::new();
        for name in arch.norms {
            norms.push(self.required_norm(&format!("{layer}.{name}"), arch, config.hidden).await?);
        }
        // LayerNorms of heads have weights for every head.
        let [q_width, k_width] = match arch.norm == NormKind::Layer || arch.qk_norms == QkNorms::Whole {
            true => [config.q_rows(), config.kv_rows()],
            false => [config.head_dim; 2],
        };
        let names = [format!("{attention}.q_norm"), format!("{attention}.k_norm")];
        let q_norm = self.norm(&names[0], arch.norm, q_width, 1.0).await?;
        let k_norm = self.norm(&names[1], arch.norm, k_width, 1.0).await?;
        let sub_norms = match arch.sub_norms {
            true => Some([
                self.required_norm(&format!("{attention}.attn_sub_norm"), arch, config.q_rows()).await?,
                self.required_norm(&format!("{mlp}.ffn_sub_norm"), arch, config.ffn).await?,
            ]),
            false => None,
        };
        Ok(Layer {
            norms,
            wqkv: self.linear(&attention, &["q_proj", "k_proj", "v_proj"]).await?,
            qk_norms: match (q_norm, k_norm) {
                (Some(q), Some(k)) => Some([q, k]),
                (None, None) if arch.qk_norms == QkNorms::Optional => None,
                (q, _) => return Err(self.missing(&names[usize::from(q.is_some())])),
            },
            sub_norms,
            sinks: self.optional_vector(&format!("{attention}.sinks"), config.heads, 1.0).await?,
            wo: self.linear(&attention, &["o_proj"]).await?,
            ffn: match &config.experts {
                None => {
                    let names: &[&str] = if arch.gated { &["gate_proj", "up_proj"] } else { &["up_proj"] };
                    FeedForward::Dense {
                        gate_up: self.linear(&mlp, names).await?,
                        down: self.linear(&mlp, &["down_proj"]).await?,
                    }
                }
                Some(experts) => FeedForward::Experts {
                    router: self.modules(&mlp, &["gate"]).await?,
                    gate: self.experts(&mlp, experts.count, "gate_proj").await?,
                    up: self.experts(&mlp, experts.count, "up_proj").await?,
                    down: self.experts(&mlp, experts.count, "down_proj").await?,
                },
            },
        })
    }

    /// The matrices of all experts, one below the other.
    async fn experts(&mut self, mlp: &str, count: usize, part: &str) -> Result<Linear> {
        let names: Vec<String> = (0..count).map(|expert| format!("experts.{expert}.{part}")).collect();
        self.linear(mlp, &names.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
}

fn caches(device: &Device, config: &ModelConfig, context: usize, format: CacheFormat) -> Result<Vec<Cache>> {
    let words = match device {
        Device::Gpu(_) => config.kv_heads * format.words(config.head_dim) * context,
        Device::Cpu => config.kv_rows() * context, // the twin keeps one rounded value a word
    };
    let tensor = || {
        device.zeros("KV cache", 1, words).map_err(|e| match e {
            Error::OutOfMemory(what) => Error::OutOfMemory(format!("{what}; take a smaller --context")),
            other => other,
        })
    };
    (0..config.layers).map(|_| Ok(Cache { keys: tensor()?, values: tensor()?, context, format })).collect()
}

/// Tokens of one prefill step on a device with these capabilities (none: the CPU), where a token's activations have
/// `width` numbers in all: with more tokens a weight is decoded for more of them at once.
pub(crate) fn prefill_chunk(capabilities: Option<&Capabilities>, width: usize) -> usize {
    let bytes =
        if capabilities.is_some_and(|c| c.matrix) { MATRIX_ACTIVATION_BYTES } else { ACTIVATION_BYTES };
    let fits = bytes / (4 * width.max(1)) / 64 * 64;
    if capabilities.is_some_and(|c| !c.software) {
        fits.clamp(PREFILL_CHUNK, LARGEST_CHUNK)
    } else {
        PREFILL_CHUNK
    }
}

/// The token that an argmax has left.
fn token(words: Vec<u32>) -> Result<u32> {
    match words.first() {
        Some(&NO_TOKEN) => Err(Error::corrupt("a logit is not a number")
            .remedy("the weights are damaged, or a kernel is wrong on this adapter: try `halfbyte verify`")),
        Some(&token) => Ok(token),
        None => Err(Error::Gpu("nothing was read back".into())),
    }
}

impl Model {
    /// Streams the weights of `checkpoint` to `device` and prepares the recordings.
    pub async fn load(
        device: &Device,
        checkpoint: &impl Weights,
        options: &LoadOptions,
        mut progress: impl FnMut(Progress),
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        config.check(checkpoint.name())?;
        let arch = architecture(&config)
            .ok_or_else(|| Error::unsupported(format!("architecture {}", config.architecture)))?;
        if let Some(missing) = arch.missing {
            return Err(Error::unsupported(format!("architecture {}", arch.class))
                .file(checkpoint.name())
                .remedy(format!("it needs {missing}, which halfbyte does not run; `inspect` works")));
        }
        checkpoint.check()?;
        let mut strengths: Vec<Arc<Strength>> = Vec::new();
        let adapters: Vec<_> = options.adapters.iter().map(|a| a.fit(&config)).collect::<Result<_>>()?;
        for adapter in &adapters {
            if strengths.iter().any(|other| other.name == adapter.name) {
                return Err(Error::invalid(format!("two adapters are called {}", adapter.name)));
            }
            strengths.push(Arc::new(Strength::new(device, adapter)?));
        }
        let context = options.context.unwrap_or(config.context.min(DEFAULT_CONTEXT));
        if context == 0 || context > 1 << 24 {
            return Err(Error::invalid("context").expected("1 to 16777216 tokens").found(context));
        }
        if let Some(longest) = config.longest.filter(|&longest| context > longest) {
            return Err(Error::unsupported(format!("a context of {context} tokens"))
                .file(checkpoint.name())
                .expected(format!("at most {longest}"))
                .remedy(format!("beyond, {} scales its scores; take a smaller --context", arch.name)));
        }

        let mut loader = Loader {
            device,
            checkpoint,
            adapters: adapters.iter().map(|a| &**a).zip(strengths.iter().cloned()).collect(),
            activations: options.activations,
            quantize: options.quantize,
            staged: 0,
            disk: 0,
            total: checkpoint.disk_bytes(),
            progress: &mut progress,
        };
        let embedding = checkpoint.matrix("model.embed_tokens").await?;
        let embedding =
            embedding.ok_or_else(|| Error::missing("missing tensor model.embed_tokens.weight"))?;
        let embedding = loader.stored(vec![embedding], "model").await?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(loader.layer(index, arch, &config).await?);
        }
        let gain = config.constants.logit_scale; // the head is linear
        let norm = loader.norm("model.norm", arch.norm, config.hidden, gain).await?;
        let norm = norm.ok_or_else(|| loader.missing("model.norm"))?;
        let positions = match arch.learned_positions {
            Some(_) => Some(loader.modules("model", &["embed_positions"]).await?),
            None => None,
        };
        let own_head = match checkpoint.matrix("lm_head").await? {
            Some(stored) => Some(loader.stored(vec![stored], "").await?),
            None => None,
        };
        let (disk, total) = (loader.disk, loader.total);
        progress(Progress { stage: Stage::Weights, done: total, total }); // norms are not counted one by one
        let mut modules: Vec<String> = embedding.modules("model").collect();
        modules.extend(own_head.iter().flat_map(|head| head.modules("")));
        for (i, l) in layers.iter().enumerate() {
            for (part, linear) in l.linears() {
                modules.extend(linear.modules(&format!("model.layers.{i}.{part}")));
            }
        }
        for adapter in &adapters {
            if let Some(unknown) = adapter.modules.keys().find(|name| !modules.contains(name)) {
                return Err(Error::invalid(format!(
                    "the adapter changes {unknown}, which the model does not have"
                ))
                .file("adapter_model.safetensors")
                .remedy("use the adapter with the base model that it was trained on"));
            }
        }
        let head = own_head.as_ref().unwrap_or(&embedding);

        let sizes = |linear: &Linear| (linear.scratch(), linear.bytes());
        let linears = layers.iter().flat_map(Layer::linears).map(|(_, linear)| linear);
        let all: Vec<_> = linears.chain(&positions).map(sizes).collect();
        let scratch = all.iter().map(|(s, _)| *s).fold(ScratchSize::default(), ScratchSize::or);
        let weights = all.iter().map(|(_, bytes)| bytes).sum::<u64>()
            + embedding.bytes()
            + own_head.as_ref().map_or(0, Linear::bytes)
            + device.codebook_bytes();

        let capabilities =
            if let Device::Gpu(context) = device { Some(context.capabilities()) } else { None };
        let chunk = prefill_chunk(capabilities, Activations::width(&config, scratch));
        let caches = caches(device, &config, context, options.precision)?;
        let kv_bytes = caches.iter().map(|c| c.keys.bytes() + c.values.bytes()).sum();
        // Of its own: few rows, but a transform of the logits is as wide as the vocabulary.
        let head_scratch = head.scratch().allocate(device, HEAD_BLOCK)?;

        let scale = config.constants.embedding_scale / config.constants.residual_scale;
        let scale = Some(scale).filter(|&by| by != 1.0);
        let embedding_scale =
            scale.map(|by| device.vector("embedding scale", &vec![by; config.hidden])).transpose()?;
        let network = Network {
            rotations: Rotations::new(device, &config, context)?,
            many: Activations::new(device, &config, scratch, chunk)?,
            one: Activations::new(device, &config, scratch, 1)?,
            step: device.zeros("step", 1, STEP_HEADER + chunk)?,
            logits: device.zeros("logits", 1, config.vocab)?,
            largest: device.zeros("largest logits", 1, 1 + 2 * LARGEST.min(config.vocab))?,
            block_logits: device.zeros("logits", HEAD_BLOCK, config.vocab)?,
            block_normed: device.zeros("activations", HEAD_BLOCK, config.hidden)?,
            head_scratch,
            embedding,
            embedding_scale,
            positions,
            layers,
            norm,
            own_head,
            caches,
        };
        let compiled = |done, total| progress(Progress { stage: Stage::Kernels, done, total });
        let model = Self {
            recordings: network.record(device, &config, compiled).await?,
            memory: Memory { weights_bytes_disk: disk, weights_bytes_gpu: weights, kv_bytes },
            device: device.clone(),
            runs: AtomicU64::new(0),
            chunk_now: AtomicUsize::new(chunk.min(PREFILL_CHUNK)),
            turned: AtomicBool::new(false),
            config,
            context,
            chunk,
            network,
            adapters: strengths,
        };
        model.rotate(0, context, 0);
        if let Device::Gpu(context) = device {
            context.wait().await?;
        }
        Ok(model)
    }

    /// Its LoRA adapters: their names, and how much each counts.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, f32)> {
        self.adapters.iter().map(|strength| (strength.name.as_str(), strength.weight()))
    }

    /// Sets how much adapters count: 1 as they were trained, 0 not at all, and then a step does without them. Those that
    /// are not named stay as they are. Nothing is loaded; what the cache holds was computed with the old weights.
    pub async fn set_adapter_weights(&mut self, weights: &[(&str, f32)]) -> Result<()> {
        let mut found = Vec::new();
        for &(name, weight) in weights {
            let strength = self.adapters.iter().find(|strength| strength.name == name).ok_or_else(|| {
                let names: Vec<&str> = self.adapters().map(|(name, _)| name).collect();
                let names = if names.is_empty() { "none is loaded".into() } else { names.join(", ") };
                Error::invalid("adapter").expected(names).found(name)
            })?;
            if !weight.is_finite() {
                return Err(Error::invalid(format!("weight of adapter {name}")).found(weight));
            }
            found.push((strength, weight));
        }
        found.into_iter().for_each(|(strength, weight)| strength.set(&self.device, weight));
        self.recordings = self.network.record(&self.device, &self.config, |_, _| {}).await?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Prefills, decode steps and whole texts run so far.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Dispatches of one decode step, and of one prefill step.
    pub fn dispatches(&self) -> (usize, usize) {
        (self.recordings.decode.dispatches(), self.recordings.prefill.dispatches())
    }

    /// Writes random keys and values to the whole cache, for timing a step at any position without reading a text.
    pub async fn fill_cache(&self) -> Result<()> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let mut rng = rand::rngs::StdRng::seed_from_u64(0);
        // Two halves of size ⅛ to 1 a word: numbers whether they are read as f16, as f32 or as small integers and a scale.
        let mut half = || {
            u32::from(half::f16::from_f32(rng.random_range(0.125..1.0f32)).to_bits())
                | rng.random::<u32>() & 0x8000
        };
        let words: Vec<u32> = (0..CACHE_BLOCK).map(|_| half() | half() << 16).collect();
        for tensor in self.network.caches.iter().flat_map(|c| [&c.keys, &c.values]) {
            let len = tensor.rows * tensor.cols;
            for at in (0..len).step_by(CACHE_BLOCK) {
                self.device.write(tensor, at, &words[..CACHE_BLOCK.min(len - at)]);
            }
            if let Device::Gpu(context) = &self.device {
                context.wait().await?;
            }
        }
        Ok(())
    }

    /// The kernel and the seconds of every dispatch of a step at `position`: a decode step for one token, else a prefill
    /// of at most [`Model::chunk`] tokens. None without a GPU's clock.
    pub async fn profile(&self, position: usize, tokens: &[u32]) -> Result<Option<Vec<(String, f64)>>> {
        if tokens.len() > self.chunk {
            return Err(
                Error::invalid("a step to profile").expected(format!("at most {} tokens", self.chunk))
            );
        }
        self.prepare(position, tokens, position + tokens.len())?;
        let (head_first, given) = (tokens.len() - 1, Tokens::Given(tokens.to_vec()));
        let step = Step { position, tokens: given, head_first, head_rows: 1 };
        let recording = if tokens.len() == 1 { &self.recordings.decode } else { &self.recordings.prefill };
        self.device.profile(recording, &self.network.step, &step).await
    }

    /// Numbers of the KV cache.
    pub fn cache_format(&self) -> CacheFormat {
        self.network.caches.first().map(|cache| cache.format).unwrap_or_default()
    }

    /// The ops of a decode step.
    pub fn decode_ops(&self) -> &[Op] {
        self.recordings.decode.ops()
    }

    /// Writes rotations of positions `first..first + count` for a text of `length` positions.
    fn rotate(&self, first: usize, count: usize, length: usize) {
        for (rope, table) in
            [&self.network.rotations.global, &self.network.rotations.local].into_iter().flatten()
        {
            let (frequencies, amplitude) = (rope::frequencies(rope, length), rope::amplitude(rope));
            for start in (first..first + count).step_by(ROTATION_BLOCK) {
                let count = ROTATION_BLOCK.min(first + count - start);
                let rows = rope::rotations(&frequencies, amplitude, start, count);
                self.device.write(table, start * rope.dims, bytemuck::cast_slice(&rows));
            }
        }
    }

    /// Checks tokens and makes room for them in a text of `length` positions, with whose length dynamic RoPE turns.
    fn prepare(&self, position: usize, tokens: &[u32], length: usize) -> Result<()> {
        if length > self.context {
            return Err(Error::ContextFull { prompt: length, context: self.context });
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.config.vocab) {
            return Err(Error::invalid("token outside the vocabulary")
                .expected(format!("ids below {}", self.config.vocab))
                .found(id));
        }
        if tokens.is_empty() {
            return Err(Error::invalid("no tokens").remedy("give at least one token"));
        }
        if self.config.turns_with_length(length) || self.turned() {
            self.turned.store(true, Ordering::Relaxed);
            self.rotate(position, tokens.len(), length);
        }
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Dynamic RoPE has turned keys for the length of some text.
    pub fn turned(&self) -> bool {
        self.turned.load(Ordering::Relaxed)
    }

    /// Runs a prompt that starts at `position`, in chunks; the logits of its last token stay on the device, with
    /// their argmax as the next token.
    pub async fn prefill(&self, position: usize, tokens: &[u32]) -> Result<u32> {
        let length = position + tokens.len();
        let mut at = position;
        let mut chosen = None;
        while at < length {
            let end = length.min(at + self.next_chunk());
            chosen = self.prefill_chunk(at, &tokens[at - position..end - position], length).await?;
            at = end;
        }
        chosen.ok_or_else(|| Error::invalid("no tokens").remedy("give at least one token"))
    }

    /// Tokens that a prefill step should take now.
    pub fn next_chunk(&self) -> usize {
        self.chunk_now.load(Ordering::Relaxed)
    }

    /// Learns from a prefill step how many tokens the next should take on a GPU.
    fn learn_chunk(&self, tokens: usize, seconds: f64) {
        let (software, matrix) = match &self.device {
            Device::Gpu(context) => (context.capabilities().software, context.capabilities().matrix),
            Device::Cpu => (true, false),
        };
        // Fewer tokens than matrix units take at once do not make a step shorter.
        let smallest = if matrix { self.chunk.min(MATRIX_CHUNK) } else { SMALLEST_CHUNK };
        if !software && tokens >= smallest {
            let room = (LONGEST_STEP / seconds * tokens as f64) as usize / smallest * smallest;
            self.chunk_now.store(room.clamp(smallest, self.chunk), Ordering::Relaxed);
        }
    }

    /// Runs at most [`Model::chunk`] tokens at `position` of a text of `length` tokens in all; after the last of them,
    /// the next token.
    pub async fn prefill_chunk(&self, position: usize, chunk: &[u32], length: usize) -> Result<Option<u32>> {
        if chunk.len() > self.chunk || position + chunk.len() > length {
            return Err(Error::invalid("chunk of a prompt")
                .expected(format!("at most {} tokens, inside the text", self.chunk))
                .found(format!("{} at {position} of {length}", chunk.len())));
        }
        self.prepare(position, chunk, length)?;
        let start = Instant::now();
        let last = position + chunk.len() == length;
        let head_first = if last { chunk.len() - 1 } else { 0 };
        let step = Step { position, tokens: Tokens::Given(chunk.to_vec()), head_first, head_rows: 1 };
        if !last {
            // Reading anything back waits for the chunk, so that no submission grows too long.
            let nothing = (&self.network.step, 0, 1);
            self.device.run_and_read(&self.recordings.body, &self.network.step, &step, nothing).await?;
            self.learn_chunk(chunk.len(), start.elapsed().as_secs_f64());
            return Ok(None);
        }
        let recording = if chunk.len() == 1 { &self.recordings.decode } else { &self.recordings.prefill };
        let chosen = self.run_for_token(recording, &step).await?;
        self.learn_chunk(chunk.len(), start.elapsed().as_secs_f64());
        Ok(Some(chosen))
    }

    async fn run_for_token(&self, recording: &Recording, step: &Step) -> Result<u32> {
        let chosen = (&self.network.step, STEP_HEADER, 1);
        token(self.device.run_and_read(recording, &self.network.step, step, chosen).await?)
    }

    /// One decode step at `position`; returns the token of the largest logit.
    pub async fn decode(&self, position: usize, tokens: Tokens) -> Result<u32> {
        let pending = self.start_decode(position, tokens)?;
        self.finish_decode(pending).await
    }

    /// Submits a decode step. The next one may be submitted, with [`Tokens::Chosen`], before this one is finished.
    pub fn start_decode(&self, position: usize, tokens: Tokens) -> Result<Pending> {
        let step = self.decode_step(position, tokens)?;
        self.device.start(
            &self.recordings.decode,
            &self.network.step,
            &step,
            (&self.network.step, STEP_HEADER, 1),
        )
    }

    /// The token that a decode step has chosen.
    pub async fn finish_decode(&self, pending: Pending) -> Result<u32> {
        token(self.device.finish(&self.recordings.decode, pending).await?)
    }

    /// One decode step at `position`; returns the logits.
    pub async fn decode_logits(&self, position: usize, token: u32) -> Result<Vec<f32>> {
        let step = self.decode_step(position, Tokens::Given(vec![token]))?;
        let all = (&self.network.logits, 0, self.config.vocab);
        let words = self.device.run_and_read(&self.recordings.decode, &self.network.step, &step, all).await?;
        Ok(bytemuck::cast_vec(words))
    }

    /// One decode step at `position`; returns the [`LARGEST`] largest logits with their tokens, in no order. None if a logit
    /// is not a number: [`Model::logits`] has all of them.
    pub async fn decode_largest(&self, position: usize, token: u32) -> Result<Option<Vec<(u32, f32)>>> {
        let step = self.decode_step(position, Tokens::Given(vec![token]))?;
        self.device.run(&self.recordings.decode, &self.network.step, &step)?;
        let all = (&self.network.largest, 0, self.network.largest.cols);
        let words =
            self.device.run_and_read(&self.recordings.largest, &self.network.step, &step, all).await?;
        let Some((count, pairs)) = words.split_first().filter(|(count, _)| **count != NO_TOKEN) else {
            return Ok(None);
        };
        let pairs = pairs.chunks_exact(2).take(*count as usize);
        Ok(Some(pairs.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect()))
    }

    fn decode_step(&self, position: usize, tokens: Tokens) -> Result<Step> {
        match &tokens {
            Tokens::Given(ids) => self.prepare(position, ids, position + ids.len())?,
            Tokens::Chosen => self.prepare(position, &[0], position + 1)?,
        }
        Ok(Step { position, tokens, head_first: 0, head_rows: 1 })
    }

    /// The logits of the last prefill or decode.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        self.device.read(&self.network.logits, 1).await
    }

    /// Runs a text from position 0 and hands the logits of every position to `each`, in order.
    pub async fn every_position(
        &self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.prepare(0, tokens, tokens.len())?;
        for (i, chunk) in tokens.chunks(self.chunk).enumerate() {
            let position = i * self.chunk;
            let mut step =
                Step { position, tokens: Tokens::Given(chunk.to_vec()), head_first: 0, head_rows: 1 };
            self.device.run(&self.recordings.body, &self.network.step, &step)?;
            for first in (0..chunk.len()).step_by(HEAD_BLOCK) {
                step.head_first = first;
                step.head_rows = HEAD_BLOCK.min(chunk.len() - first);
                let all = (&self.network.block_logits, 0, step.head_rows * self.config.vocab);
                let words =
                    self.device.run_and_read(&self.recordings.head, &self.network.step, &step, all).await?;
                let logits: Vec<f32> = bytemuck::cast_vec(words);
                for (row, logits) in logits.chunks_exact(self.config.vocab).enumerate() {
                    each(position + first + row, logits)?;
                }
            }
        }
        Ok(())
    }
}
