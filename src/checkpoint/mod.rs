//! Readers: on-disk layout → codes, scales, transforms, side terms. Pure Rust on bytes, nothing of the GPU.
//!
//! [`Checkpoint`] is what the layers above see: a configuration, matrices by their Hugging Face module names,
//! vectors, a tokenizer. A GGUF file answers to the same names. Containers ([`safetensors`], [`gguf`], [`mlc`]) give a
//! directory of tensors; [`READERS`] are told apart by the tensors that a module has.

use crate::error::{Error, Result};
use crate::model::{ModelConfig, NormKind, TEXT_PART, architecture};
use crate::quant::activations::Activations;
use crate::quant::hadamard::Form;
use crate::quant::{Codec, Extent, Kind, Piece, Tiles};
use reader::supported;
use serde_json::Value;
use source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

mod affine;
pub mod aqlm;
pub mod autoround;
pub mod awq;
pub mod bitnet;
pub mod bitsandbytes;
pub mod compressed_tensors;
pub mod decode;
pub mod exl2;
pub mod exl3;
pub mod formats;
pub mod fp4;
pub mod fp8;
pub mod ggml;
mod ggml_iq;
mod ggml_k;
mod ggml_lookup;
pub mod gguf;
pub mod gguf_model;
pub mod gguf_split;
pub mod gptq;
pub mod hf;
pub mod hqq;
mod ints;
pub mod lora;
pub mod mlc;
pub mod plain;
pub mod qtip;
pub mod quantize;
pub mod quanto;
pub mod quip;
pub mod quip_for_all;
mod reader;
pub mod safetensors;
pub mod source;
pub mod spqr;
pub mod tensor;
pub mod torch_int;
pub mod torchao;
pub mod vptq;

pub use reader::{Module, READERS, Reader};
pub use tensor::{Dtype, RowOrder, TensorInfo, Tensors};
/// A boxed future; `Send` is not asked for, because the browser cannot give it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A weight matrix that is still on disk: how to read it and what it means. `[rows, cols] = [out, in]`.
pub struct StoredMatrix {
    /// Module name, for messages: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Output features, with those that pad a matrix for its output transform (EXL3).
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// How the weights are coded.
    pub codec: Arc<dyn Codec>,
    /// What happens to x before the product.
    pub input: InputTransform,
    /// What happens to y after it.
    pub output: OutputTransform,
    /// How the format means x to be quantized before the product; done only where it is asked for.
    pub activations: Option<Activations>,
    /// B `[r, cols]` and A `[rows, r]`: the product with x', before the output transform, gains `A·(B·x')` (QuIP#).
    pub low_rank: Option<Box<[StoredMatrix; 2]>>,
    /// The modules that the rows belong to, in row order; one, unless the checkpoint itself is fused (QuIP#, MLC).
    pub slices: Vec<Slice>,
    /// Added to y, `[width]`.
    pub bias: Option<Vec<f32>>,
    /// A sparse matrix whose product with x is added to y: outliers.
    pub sparse: Option<Sparse>,
    /// The bytes.
    pub data: Arc<dyn PieceSource>,
    /// Bytes on disk, scales, permutations and tables included.
    pub disk_bytes: u64,
    /// The format that it was read from, as `inspect` prints it: `GPTQ`, `Q4_0` …
    pub format: &'static str,
}

/// A sparse matrix in CSR, its columns in the order of x.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// Where the entries of each row begin, and where the last row's end: `[rows + 1]`.
    pub offsets: Vec<u32>,
    /// An f16 value in the upper half, a column in the lower.
    pub entries: Vec<u32>,
}

impl Sparse {
    /// Columns and values of a row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let entries = self.offsets[row] as usize..self.offsets[row + 1] as usize;
        let value = |entry: &u32| ((entry & 0xffff) as usize, Kind::F16.value(entry >> 16));
        self.entries[entries].iter().map(value)
    }

    /// Bytes in GPU memory.
    pub fn bytes(&self) -> u64 {
        (self.offsets.len() + self.entries.len()) as u64 * 4
    }
}

impl StoredMatrix {
    /// Output features without padding: what the slices have.
    pub fn width(&self) -> usize {
        self.slices.last().map_or(self.rows, |slice| slice.rows.end)
    }
}

/// Named rows of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Last part of the module name: `q_proj`, `up_proj`.
    pub name: String,
    /// Its rows.
    pub rows: Range<usize>,
}

/// What happens to the activations before the product.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum InputTransform {
    /// Nothing.
    #[default]
    None,
    /// `x'[k] = x[perm[k]]` (GPTQ act-order).
    Permute(Vec<u32>),
    /// `x'[k] = scales[k] · x[k]` (AWQ's scaled activations, SmoothQuant).
    Scale(Vec<f32>),
    /// `x' = Hᵀ (signs ⊙ x)`, H an orthonormal matrix of order `cols` (QuIP#'s SU, EXL3's suh).
    Hadamard {
        /// `[cols]`; not only ±1 after fine-tuning.
        signs: Vec<f32>,
        /// Which H.
        form: Form,
    },
}

/// What happens to the product afterwards.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum OutputTransform {
    /// Nothing.
    #[default]
    None,
    /// `y = signs ⊙ (H y')`, H an orthonormal matrix of order `rows` (QuIP#'s SV, its scales folded in; EXL3's svh).
    Hadamard {
        /// `[rows]`
        signs: Vec<f32>,
        /// Which H.
        form: Form,
    },
}

/// Reads rectangles of one matrix as items of its codec's fields.
pub trait PieceSource: Send + Sync {
    /// Rectangles that cover the matrix, cut along what is contiguous on disk, each of at most about `budget`
    /// bytes on disk and `budget` items. All obey the rules of [`Extent`].
    fn extents(&self, budget: usize) -> Vec<Extent>;

    /// Reads one of them, or any other that obeys the rules. Items are checked: codes in range, scales finite.
    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>>;

    /// The few tiles that all rows are made of, where that is so: they are packed once, not row by row.
    fn tiles(&self) -> Option<&Tiles> {
        None
    }
}

/// What a model is loaded from: a [`Checkpoint`], or [random weights](crate::bench::random).
pub trait Weights {
    /// The file or folder.
    fn name(&self) -> &str;

    /// The hyper-parameters.
    fn config(&self) -> &ModelConfig;

    /// The format of the layers: `GGUF`, `GPTQ` …
    fn format_name(&self) -> &str;

    /// Bytes of all tensors.
    fn disk_bytes(&self) -> u64;

    /// Checks that all modules and norms are there, without reading any.
    fn check(&self) -> Result<()>;

    /// Modules `names` of `parent`, one matrix each or fused; see [`Checkpoint::matrices`].
    fn matrices(&self, parent: &str, names: &[&str]) -> impl Future<Output = Result<Vec<StoredMatrix>>>;

    /// `model.embed_tokens` or `lm_head`; none if the head is the embedding.
    fn matrix(&self, name: &str) -> impl Future<Output = Result<Option<StoredMatrix>>>;

    /// The vector `name` of `len` numbers, if there is one.
    fn vector(&self, name: &str, len: usize) -> impl Future<Output = Result<Option<Vec<f32>>>>;
}

impl Weights for Checkpoint {
    fn name(&self) -> &str {
        self.name()
    }

    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn format_name(&self) -> &str {
        self.format_name()
    }

    fn disk_bytes(&self) -> u64 {
        self.disk_bytes()
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    async fn matrices(&self, parent: &str, names: &[&str]) -> Result<Vec<StoredMatrix>> {
        self.matrices(parent, names).await
    }

    async fn matrix(&self, name: &str) -> Result<Option<StoredMatrix>> {
        self.matrix(name).await
    }

    async fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.vector(name, len).await
    }
}

/// The files of a folder by name.
pub type Files = BTreeMap<String, Arc<dyn Source>>;

/// Modules that some checkpoints store as one, rows in this order: QuIP#'s and MLC's.
const FUSED: &[(&str, &[&str])] = &[
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("c_attn", &["q_proj", "k_proj", "v_proj"]),
    ("upgate_proj", &["up_proj", "gate_proj"]),
    ("gate_up_proj", &["gate_proj", "up_proj"]),
];

/// `[out, in]` of a module of the model; `None` if it has no module of that name.
pub fn module_shape(config: &ModelConfig, name: &str) -> Option<(usize, usize)> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let experts = config.experts.as_ref();
    let ffn = experts.filter(|_| name.contains("experts.")).map_or(config.ffn, |experts| experts.ffn);
    Some(match last {
        "q_proj" => (config.q_rows(), config.hidden),
        "k_proj" | "v_proj" => (config.kv_rows(), config.hidden),
        "o_proj" => (config.hidden, config.q_rows()),
        "gate_proj" | "up_proj" => (ffn, config.hidden),
        "down_proj" => (config.hidden, ffn),
        "gate" => (experts?.count, config.hidden),
        "embed_positions" => (config.context + architecture(config)?.learned_positions?, config.hidden),
        "embed_tokens" | "lm_head" => (config.vocab, config.hidden),
        _ => return None,
    })
}

/// What names of tensors begin with in the part that writes of a model that sees as well.
const WRITING: &[&str] = &["model.layers.", "model.embed_tokens.", "model.norm.", "lm_head."];
/// A `tokenizer.json` of a vocabulary of 256 thousand tokens has some 30 MB.
const MAX_TOKENIZER: u64 = 256 << 20;
const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// What a tokenizer is made from.
#[derive(Debug, Clone)]
pub enum TokenizerFiles {
    /// The files of a Hugging Face folder.
    Hf {
        /// `tokenizer.json`, unparsed.
        tokenizer_json: Vec<u8>,
        /// `tokenizer_config.json`.
        tokenizer_config: Option<Value>,
        /// `special_tokens_map.json`.
        special_tokens_map: Option<Value>,
        /// `chat_template.jinja`.
        chat_template: Option<String>,
    },
    /// The keys `tokenizer.…` of a GGUF file.
    Gguf(Arc<gguf::Metadata>),
    /// There is none.
    None,
}

/// One line of `inspect`: a module, or a tensor that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Hugging Face name.
    pub name: String,
    /// `GPTQ`, `Q4_0`, `F32` …
    pub format: String,
    /// `[out, in]` of a module, the shape of a tensor.
    pub shape: Vec<usize>,
    /// Bytes on disk.
    pub bytes: u64,
}

/// An opened model: its configuration, and a directory of its tensors.
pub struct Checkpoint {
    name: String,
    config: ModelConfig,
    tensors: Tensors,
    quantization: Value,
    metadata: Option<Arc<gguf::Metadata>>,
    files: Files,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {:?}", self.name, self.format_name(), self.config)
    }
}

impl Checkpoint {
    /// Opens a folder, a `.gguf` file, or a `.safetensors` file with its `config.json` beside it.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut checkpoint = if path.is_dir() {
            Self::from_files(folder(path)?).await?
        } else {
            let file: Arc<dyn Source> = source::MappedFile::open(path)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            let parent = parent.unwrap_or(std::path::Path::new("."));
            if is_gguf(&file).await? {
                let split = gguf_split::parts(&name).len() > 1;
                let files = if split { folder(parent)? } else { [(name.clone(), file)].into() };
                Self::from_ggufs(&gguf_split::sources(&files, &name)?).await?
            } else {
                safetensors::tensors(&file).await?; // complains about this file before it misses others
                let mut files = folder(parent)?;
                files.insert(name.clone(), file);
                Self::from_folder(files, Some(&name)).await?
            }
        };
        checkpoint.name = name;
        Ok(checkpoint)
    }

    /// Opens a GGUF file.
    pub async fn from_gguf(source: Arc<dyn Source>) -> Result<Self> {
        Self::from_ggufs(&[source]).await
    }

    /// Opens a GGUF model in as many files as it is split in.
    async fn from_ggufs(sources: &[Arc<dyn Source>]) -> Result<Self> {
        let (metadata, all) = gguf_split::open(sources).await?;
        let mut tensors = Tensors::default();
        for tensor in all.into_iter().flat_map(gguf_model::experts) {
            tensors.add(tensor)?;
        }
        metadata.architecture()?;
        let mut factors = [None, None, None];
        for (found, name) in factors.iter_mut().zip(gguf_model::ROPE_FACTORS) {
            let Some(tensor) = tensors.take(name) else { continue };
            let [len] = tensor.shape[..] else {
                return Err(tensor.blame(Error::corrupt("must be a vector")));
            };
            *found = Some(tensor.floats(len, "factor").await?);
        }
        let vocab = tensors.get("model.embed_tokens.weight").and_then(|t| t.shape.first().copied());
        let config = gguf_model::config(&metadata, tensors.get("lm_head.weight").is_some(), vocab, factors)?;
        Ok(Self {
            name: metadata.file.clone(),
            config,
            tensors,
            quantization: Value::Null,
            metadata: Some(Arc::new(metadata)),
            files: Files::new(),
        })
    }

    /// Opens a model from its files: a Hugging Face folder, or one GGUF model, perhaps in several files.
    pub async fn from_files(files: Files) -> Result<Self> {
        if let (Some((name, file)), 1) = (files.first_key_value(), files.len()) {
            if is_gguf(file).await? {
                return Self::from_gguf(file.clone()).await; // whatever its name
            }
            if !name.ends_with(".json") {
                safetensors::tensors(file).await?; // complains about this file before it misses others
            }
        }
        if files.contains_key(mlc::CONFIG) && !files.keys().any(|name| name.ends_with(".safetensors")) {
            return Self::from_mlc(files).await;
        }
        let ggufs: Vec<&String> = files.keys().filter(|name| name.ends_with(".gguf")).collect();
        match ggufs.first() {
            Some(first) if !files.contains_key("config.json") => {
                let parts = gguf_split::parts(first);
                if ggufs.iter().any(|name| !parts.contains(name)) {
                    return Err(
                        Error::invalid("the folder holds several GGUF models").remedy("name one of them")
                    );
                }
                Self::from_ggufs(&gguf_split::sources(&files, first)?).await
            }
            _ => Self::from_folder(files, None).await,
        }
    }

    /// Opens a Hugging Face folder; `only` names its one weight file.
    async fn from_folder(files: Files, only: Option<&str>) -> Result<Self> {
        let Some(json) = hf::json(&files, "config.json").await? else { return Err(no_config(&files)) };
        let gptq = hf::json(&files, "quantize_config.json").await?;
        let awq = hf::json(&files, "quant_config.json").await?;
        let quantization = quantization(&json, gptq, awq);
        check_method(&quantization)?;
        let generation = hf::json(&files, "generation_config.json").await?;
        let mut config = hf::model_config(&json, generation.as_ref(), "config.json")?;
        let own_names = architecture(&config).map_or(&[][..], |a| a.renamed);
        let mut tensors = hf::tensors(&files, only).await?.renamed(TEXT_PART)?.renamed(own_names)?;
        if ["text_config", "vision_config"].iter().any(|key| json.get(key).is_some()) {
            tensors.retain(|name| WRITING.iter().any(|part| name.starts_with(part)));
        }
        // A quantized head beside an embedding is a matrix of its own, whatever the configuration says of ties.
        let own_head = tensors.under(HEAD).any(|t| t.name != "lm_head.weight");
        config.tied &= !(own_head && tensors.under(EMBEDDING).next().is_some());
        let name = only.unwrap_or("model").to_string();
        Ok(Self { name, config, tensors, quantization, metadata: None, files })
    }

    /// Opens a folder of MLC-LLM.
    async fn from_mlc(files: Files) -> Result<Self> {
        let chat = hf::json(&files, mlc::CONFIG).await?.unwrap_or_default();
        let (json, quantization) = mlc::config(&chat)?;
        let generation = hf::json(&files, "generation_config.json").await?;
        let config = hf::model_config(&json, generation.as_ref(), mlc::CONFIG)?;
        let tensors = mlc::tensors(&files).await?;
        Ok(Self { name: "model".into(), config, tensors, quantization, metadata: None, files })
    }

    /// The file or folder that it was opened from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The key/value pairs of a GGUF file.
    pub fn metadata(&self) -> Option<&Arc<gguf::Metadata>> {
        self.metadata.as_ref()
    }

    /// The directory of its tensors.
    pub fn raw_tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Bytes of all tensors.
    pub fn disk_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::bytes).sum()
    }

    /// `GGUF`, `GPTQ`, `bitsandbytes NF4`, `bf16` …: the format of the layers.
    pub fn format_name(&self) -> &'static str {
        if self.metadata.is_some() {
            return "GGUF";
        }
        let modules = self.module_names();
        let format = |name: &String| {
            let module = self.module(name)?;
            Some((module.reader().ok()?.format)(&module))
        };
        let layers = modules.iter().filter(|name| name.starts_with("model.layers."));
        layers.chain(&modules).find_map(format).unwrap_or("unknown")
    }

    /// Names of all modules that have tensors, fused ones included.
    fn module_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for tensor in self.tensors.iter() {
            let mut at = 0;
            for part in tensor.name.split('.') {
                at += part.len();
                let fused = FUSED.iter().any(|(name, _)| *name == part);
                if fused || module_shape(&self.config, part).is_some() {
                    names.insert(tensor.name[..at].to_string());
                    break;
                }
                at += 1;
            }
        }
        names
    }

    /// Every module and every other tensor, by name.
    pub fn tensors(&self) -> Vec<Summary> {
        let mut all = Vec::new();
        let mut in_modules = BTreeSet::new();
        for name in self.module_names() {
            let Some(module) = self.module(&name) else { continue };
            let Ok(reader) = module.reader() else { continue };
            in_modules.extend(self.tensors.under(&name).map(|t| t.name.as_str()));
            all.push(Summary {
                format: (reader.format)(&module).to_string(),
                shape: vec![module.rows, module.cols],
                bytes: self.tensors.under(&name).map(TensorInfo::bytes).sum(),
                name,
            });
        }
        for tensor in self.tensors.iter().filter(|t| !in_modules.contains(t.name.as_str())) {
            let (format, shape) = (tensor.dtype.to_string(), tensor.shape.clone());
            all.push(Summary { name: tensor.name.clone(), format, shape, bytes: tensor.bytes() });
        }
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The module called `name`, with the shape that the configuration gives it.
    fn module<'a>(&'a self, name: &'a str) -> Option<Module<'a>> {
        let (parent, last) = name.rsplit_once('.').unwrap_or(("", name));
        let fused = FUSED.iter().find(|(fused, _)| *fused == last);
        let parts = fused.map_or(vec![last], |(_, parts)| parts.to_vec());
        let (mut rows, mut cols, mut slices) = (0, 0, Vec::new());
        for part in parts {
            let (high, wide) = module_shape(&self.config, &format!("{parent}.{part}"))?;
            slices.push(Slice { name: part.to_string(), rows: rows..rows + high });
            rows += high;
            cols = wide;
        }
        let interleaved = self.metadata.is_some()
            && architecture(&self.config).is_some_and(|a| a.gguf_interleaves)
            && matches!(last, "q_proj" | "k_proj")
            && !parent.is_empty();
        let order = match interleaved {
            true => RowOrder::Interleaved { head_dim: self.config.head_dim },
            false => RowOrder::Stored,
        };
        let (tensors, quantization) = (&self.tensors, &self.quantization);
        Some(Module { name, rows, cols, slices, tensors, quantization, order })
    }

    /// Whether `name` is a module (a matrix, perhaps of several tensors), not a tensor by itself.
    pub fn is_module(&self, name: &str) -> bool {
        self.module(name).is_some()
    }

    /// The module `name`, by the name that it is stored under: fused ones in one.
    pub async fn read(&self, name: &str) -> Result<StoredMatrix> {
        let unknown = || Error::invalid(format!("the model has no module {name}"));
        let module = self.module(name).ok_or_else(unknown)?;
        let reader = module.reader().map_err(|e| e.file(&self.name))?;
        (reader.read)(&module).await.map_err(|e| e.file(&self.name))
    }

    /// Modules `names` of `parent` (`model.layers.0.self_attn`: `q_proj`, `k_proj`, `v_proj`), one matrix each; where the
    /// checkpoint itself has fused them, that one, with all its slices.
    pub async fn matrices(&self, parent: &str, names: &[&str]) -> Result<Vec<StoredMatrix>> {
        let mut matrices: Vec<StoredMatrix> = Vec::new();
        for name in names {
            let name = self.stored_name(parent, name);
            if matrices.iter().all(|m| m.name != name) {
                matrices.push(self.read(&name).await?);
            }
        }
        Ok(matrices)
    }

    /// The module that holds the weights of `parent.name`: itself, or the fused one.
    fn stored_name(&self, parent: &str, name: &str) -> String {
        let own = format!("{parent}.{name}");
        let fused = FUSED.iter().filter(|(_, parts)| parts.contains(&name));
        let has = |module: &String| self.tensors.under(module).next().is_some();
        let mut fused = fused.map(|(fused, _)| format!("{parent}.{fused}")).filter(has);
        if has(&own) { own } else { fused.next().unwrap_or(own) }
    }

    /// `model.embed_tokens` or `lm_head`; none if the head is the embedding. Whichever of the two a checkpoint with
    /// tied embeddings has stored is the embedding.
    pub async fn matrix(&self, name: &str) -> Result<Option<StoredMatrix>> {
        if name == HEAD && self.config.tied {
            return Ok(None);
        }
        let stored = if name == EMBEDDING { self.embedding() } else { name };
        let mut matrix = self.read(stored).await?;
        matrix.name = name.to_string();
        Ok(Some(matrix))
    }

    /// The module that holds the embedding.
    fn embedding(&self) -> &'static str {
        let has = |module: &str| self.tensors.under(module).next().is_some();
        if self.config.tied && !has(EMBEDDING) && has(HEAD) { HEAD } else { EMBEDDING }
    }

    /// The vector `name` (`model.norm.weight`) of `len` numbers, if there is one; norms as they multiply.
    pub async fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let mut values = tensor.floats(len, "weight").await?;
        let less_one = architecture(&self.config).is_some_and(|a| a.norm == NormKind::RmsPlusOne);
        if less_one && self.metadata.is_none() && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        Ok(Some(values))
    }

    /// Checks that all modules and norms are there, without reading any.
    pub fn check(&self) -> Result<()> {
        let missing = |name: &str| self.tensors.require(name).map(|_| ()).map_err(|e| e.file(&self.name));
        self.check_module(self.embedding())?;
        let unknown = || Error::unsupported(format!("architecture {}", self.config.architecture));
        let arch = architecture(&self.config).ok_or_else(unknown)?;
        if let Some(needs) = arch.missing {
            return Err(Error::unsupported(format!("{} without {needs}", arch.class)).file(&self.name));
        }
        let ffn: &[&str] =
            if arch.gated { &["gate_proj", "up_proj", "down_proj"] } else { &["up_proj", "down_proj"] };
        for layer in 0..self.config.layers {
            let layer = format!("model.layers.{layer}");
            for name in arch.norms {
                missing(&format!("{layer}.{name}.weight"))?;
            }
            for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                self.check_module(&self.stored_name(&format!("{layer}.self_attn"), name))?;
            }
            let mlp = format!("{layer}.mlp");
            for name in ffn {
                match &self.config.experts {
                    None => self.check_module(&self.stored_name(&mlp, name))?,
                    Some(experts) => {
                        for expert in 0..experts.count {
                            self.check_module(&format!("{mlp}.experts.{expert}.{name}"))?;
                        }
                    }
                }
            }
            self.check_module(&format!("{mlp}.gate"))?;
        }
        missing("model.norm.weight")?;
        if self.config.tied { Ok(()) } else { self.check_module(HEAD) }
    }

    fn check_module(&self, name: &str) -> Result<()> {
        let Some(module) = self.module(name) else { return Ok(()) };
        module.reader().map(|_| ()).map_err(|e| e.file(&self.name))
    }

    /// What the tokenizer is made from. Nothing of it is checked here but that JSON is JSON.
    pub async fn tokenizer_files(&self) -> Result<TokenizerFiles> {
        if let Some(metadata) = &self.metadata {
            return Ok(TokenizerFiles::Gguf(metadata.clone()));
        }
        let Some(source) = self.files.get("tokenizer.json") else { return Ok(TokenizerFiles::None) };
        if source.len() > MAX_TOKENIZER {
            let error = Error::corrupt("file too long").file(source.name()).found(source.len());
            return Err(error.expected(format!("at most {MAX_TOKENIZER} bytes")));
        }
        let template = match self.files.get("chat_template.jinja") {
            Some(source) => {
                let bytes = source.read(0..source.len()).await?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            None => None,
        };
        Ok(TokenizerFiles::Hf {
            tokenizer_json: source.read(0..source.len()).await?.into_owned(),
            tokenizer_config: hf::json(&self.files, "tokenizer_config.json").await?,
            special_tokens_map: hf::json(&self.files, "special_tokens_map.json").await?,
            chat_template: template,
        })
    }
}

/// `quantization_config`, with `quant_method` in it, of whatever says how a model is quantized.
fn quantization(config: &Value, gptq: Option<Value>, awq: Option<Value>) -> Value {
    let with_method = |mut settings: Value, method: &str| {
        if let Some(map) = settings.as_object_mut() {
            map.entry("quant_method").or_insert_with(|| method.into());
        }
        settings
    };
    let key = |key: &str| config.get(key).filter(|v| v.is_object()).cloned();
    if let Some(settings) = key("quantization_config") {
        return settings;
    }
    if let Some(settings) = key("compression_config") {
        return with_method(settings, "compressed-tensors");
    }
    if let Some(settings) = key("aqlm") {
        return with_method(settings, "aqlm");
    }
    if let Some(settings) = key("quip_params") {
        let qtip = settings.get("codebook").is_some_and(|name| name == "bitshift");
        return with_method(settings, if qtip { "QTIP" } else { "QuIP#" });
    }
    match (gptq, awq) {
        (Some(settings), _) => with_method(settings, "gptq"),
        (None, Some(settings)) => with_method(settings, "awq"),
        (None, None) => Value::Null,
    }
}

/// Refuses quantization methods that no reader answers to.
fn check_method(quantization: &Value) -> Result<()> {
    let Some(method) = quantization.get("quant_method") else { return Ok(()) };
    let method = method.as_str().map_or_else(|| method.to_string(), str::to_string);
    if READERS.iter().any(|r| r.methods.contains(&method.as_str())) {
        return Ok(());
    }
    Err(Error::unsupported(format!("unsupported quantization method {method}"))
        .file("config.json")
        .remedy(supported()))
}

/// Why a folder without `config.json` is no model.
fn no_config(files: &Files) -> Error {
    if files.contains_key("adapter_config.json") {
        return Error::invalid("a LoRA adapter is no model")
            .remedy("open its base model, and the adapter with it");
    }
    if files.contains_key("mlc-chat-config.json") {
        return Error::unsupported("unsupported format MLC").remedy(supported());
    }
    Error::missing("missing file config.json")
        .remedy("a model is a Hugging Face or MLC folder, or a .gguf file")
}

/// Whether a file begins like a GGUF file.
async fn is_gguf(source: &Arc<dyn Source>) -> Result<bool> {
    Ok(source.len() >= 4 && &*source.read(0..4).await? == b"GGUF" || source.name().ends_with(".gguf"))
}

/// The files of `path` that a model can consist of.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn folder(path: &std::path::Path) -> Result<Files> {
    let io = |e| Error::io(path.display(), e);
    let mut files = Files::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = [".json", ".safetensors", ".gguf", ".jinja"].iter().any(|end| name.ends_with(end));
        if (wanted || name.starts_with(mlc::SHARD)) && entry.path().is_file() {
            files.insert(name, source::MappedFile::open(&entry.path())?);
        }
    }
    Ok(files)
}
