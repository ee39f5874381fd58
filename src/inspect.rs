//! What a checkpoint holds, in numbers, and whether an adapter can run it.

use crate::checkpoint::formats::FORMATS;
use crate::checkpoint::{Checkpoint, READERS, TokenizerFiles, decode, gguf};
use crate::device::{Device, split};
use crate::error::Result;
use crate::model::{ARCHITECTURES, Architecture, CacheFormat, DEFAULT_CONTEXT, ModelConfig, prefill_chunk};
use crate::quant::{CODECS, Shape};
use serde::Serialize;
use serde_json::Value;

/// What is known of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// File or folder.
    pub name: String,
    /// `GGUF`, `GPTQ` …
    pub format: String,
    /// `llama`, `qwen2` …
    pub architecture: String,
    /// The hyper-parameters.
    pub config: ModelConfig,
    /// Its tokenizer.
    pub tokenizer: TokenizerReport,
    /// Matrices, by module, and vectors.
    pub tensors: Vec<TensorReport>,
    /// Sums over them.
    pub totals: Totals,
    /// Whether it runs where it was asked for.
    pub fits: Fit,
}

/// What kind of tokenizer a checkpoint has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenizerReport {
    /// `BPE`, `Unigram`, `SPM` …; `none`.
    pub kind: String,
    /// Where it was found: `tokenizer.json`, `GGUF`.
    pub source: Option<String>,
    /// What `tokenizer.ggml.pre` of a GGUF file names.
    pub pre: Option<String>,
    /// Entries of the vocabulary.
    pub tokens: Option<usize>,
    /// Whether conversations have a template.
    pub chat_template: bool,
}

/// A module, or a tensor that belongs to none.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// In Hugging Face spelling.
    pub name: String,
    /// The format on disk: `GPTQ`, `Q4_0`, `F32` …
    pub format: String,
    /// The codec that it has on the GPU; none for vectors.
    pub codec: Option<String>,
    /// `[out, in]`
    pub shape: Vec<usize>,
    /// Bits of a weight on the GPU, scales included.
    pub bits_per_weight: f64,
    /// The same on disk.
    pub bits_per_weight_disk: f64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes on the GPU.
    pub bytes_gpu: u64,
    /// `none`, `permuted` or `hadamard`: what happens to the activations.
    pub transform: &'static str,
    /// Buffers that the matrix is cut into, by rows, to keep to the adapter's limits.
    pub parts: usize,
    /// Of the decoded matrix, row-major little-endian f32, transforms undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Modules that are fused in it, with the hash of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<SliceReport>,
    /// Why it cannot be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A module inside a fused one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SliceReport {
    /// The name that it would have by itself.
    pub name: String,
    /// `[out, in]`
    pub shape: [usize; 2],
    /// As in [`TensorReport::sha256`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Sums over all tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Totals {
    /// Weights.
    pub parameters: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes on the GPU.
    pub bytes_gpu: u64,
    /// Mean bits of a matrix weight on the GPU.
    pub bits_per_weight: f64,
}

/// Whether a model fits an adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// It does, as far as can be told: most drivers do not say how much memory is free.
    pub fits: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What is worth knowing all the same.
    pub notes: Vec<String>,
    /// Which adapter; none for the CPU.
    pub adapter: Option<String>,
    /// Positions of the KV cache.
    pub context: usize,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
    /// Bytes of activations, about.
    pub activation_bytes: u64,
    /// Weights, cache and activations.
    pub total_bytes: u64,
    /// Bytes of the largest packed matrix.
    pub largest_matrix_bytes: u64,
    /// Most bytes of a binding there.
    pub max_binding: Option<u64>,
    /// Most bytes of a buffer there.
    pub max_buffer: Option<u64>,
    /// Most bytes in all, where that is known.
    pub memory_budget: Option<u64>,
}

/// What to look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Hash the decoded matrices: reads all of the checkpoint.
    pub sha256: bool,
    /// Positions of the KV cache; `None` as when loading.
    pub context: Option<usize>,
    /// Numbers of the KV cache.
    pub cache: CacheFormat,
}

/// Looks at a checkpoint and at whether `device` can run it. `progress` is told how many of the tensors are done.
pub async fn inspect(
    checkpoint: &Checkpoint,
    device: &Device,
    options: Options,
    mut progress: impl FnMut(usize, usize),
) -> Result<Report> {
    let capabilities = match device {
        Device::Gpu(context) => Some(context.capabilities().clone()),
        Device::Cpu => None,
    };
    let max_binding = capabilities.as_ref().map_or(u64::MAX, |c| c.max_binding.min(c.max_buffer));
    let config = checkpoint.config().clone();
    let (mut tensors, mut reasons, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut largest = 0;
    let summaries = checkpoint.tensors();
    let count = summaries.len();
    for (i, summary) in summaries.into_iter().enumerate() {
        let weights = summary.shape.iter().product::<usize>().max(1) as f64;
        let mut line = TensorReport {
            codec: None,
            bits_per_weight: 32.0,
            bits_per_weight_disk: summary.bytes as f64 * 8.0 / weights,
            bytes: summary.bytes,
            bytes_gpu: weights as u64 * 4, // vectors are f32
            transform: "none",
            parts: 1,
            sha256: None,
            slices: Vec::new(),
            error: None,
            name: summary.name,
            format: summary.format,
            shape: summary.shape,
        };
        if checkpoint.is_module(&line.name) {
            match checkpoint.read(&line.name).await {
                Err(error) => {
                    reasons.push(error.to_string());
                    line.error = Some(error.to_string());
                }
                Ok(stored) => {
                    let shape = Shape { rows: stored.rows, cols: stored.cols };
                    line.codec = Some(stored.codec.name());
                    let sparse = stored.sparse.as_ref().map_or(0, |sparse| sparse.bytes());
                    line.bytes_gpu = shape.packed_bytes(&*stored.codec) + sparse;
                    for side in stored.low_rank.iter().flat_map(|terms| terms.iter()) {
                        let shape = Shape { rows: side.rows, cols: side.cols };
                        line.bytes_gpu += shape.packed_bytes(&*side.codec);
                    }
                    line.bits_per_weight = line.bytes_gpu as f64 * 8.0 / weights;
                    line.transform = transform(&stored.input);
                    let cut = split(&*stored.codec, shape, max_binding);
                    line.parts = cut.len();
                    largest = largest.max(line.bytes_gpu);
                    let binding = |shape: Shape| {
                        shape.binding_words(&*stored.codec).into_iter().max().unwrap_or(0) as u64 * 4
                    };
                    if let Some(bytes) =
                        cut.iter().map(|(_, shape)| binding(*shape)).max().filter(|&b| b > max_binding)
                    {
                        reasons.push(format!(
                            "{}: {bytes} bytes in a binding, of at most {max_binding}",
                            line.name
                        ));
                    } else if cut.len() > 1 {
                        notes.push(format!("{} is split in {} parts", line.name, cut.len()));
                    }
                    let mut hashes: Vec<Option<String>> = stored.slices.iter().map(|_| None).collect();
                    if options.sha256 {
                        let found = decode::sha256(&stored).await?;
                        hashes = found.into_iter().map(|(_, hash)| Some(hash)).collect();
                    }
                    if let [hash] = &mut hashes[..] {
                        line.sha256 = hash.take();
                    } else {
                        let parent = line.name.rsplit_once('.').map_or("", |(parent, _)| parent);
                        let slices = stored.slices.iter().zip(hashes);
                        line.slices = slices
                            .map(|(slice, sha256)| SliceReport {
                                name: format!("{parent}.{}", slice.name),
                                shape: [slice.rows.len(), stored.cols],
                                sha256,
                            })
                            .collect();
                    }
                }
            }
        }
        tensors.push(line);
        progress(i + 1, count);
    }
    if let Err(error) = checkpoint.check() {
        reasons.push(error.to_string());
    }
    let totals = totals(&tensors);
    let context = options.context.unwrap_or(config.context.min(DEFAULT_CONTEXT));
    let position = 4 * config.kv_heads as u64 * options.cache.words(config.head_dim) as u64;
    let cache = position.saturating_mul(context as u64);
    let kv_bytes = cache * 2 * config.layers as u64;
    let wide = 2 * config.hidden + 2 * config.q_rows() + 2 * config.kv_rows() + 3 * config.ffn;
    let activation_bytes =
        ((prefill_chunk(capabilities.as_ref(), wide) + 1) * wide + 33 * config.vocab) as u64 * 4;
    let total_bytes = totals.bytes_gpu + kv_bytes + activation_bytes;
    if cache > max_binding {
        let most = max_binding / position.max(1);
        reasons.push(format!(
            "the KV cache of a layer takes {cache} bytes, a buffer holds {max_binding}: --context {most} would fit"
        ));
    }
    let memory_budget = capabilities.as_ref().and_then(|c| c.memory_budget);
    if let Some(budget) = memory_budget.filter(|&budget| total_bytes > budget) {
        reasons.push(format!("{total_bytes} bytes in all, of at most {budget}"));
    }
    if context > config.context {
        notes.push(format!("the model was made for {} positions", config.context));
    }
    let fits = Fit {
        fits: reasons.is_empty(),
        reasons,
        notes,
        adapter: match device {
            Device::Gpu(context) => Some(context.report().name.clone()),
            Device::Cpu => None,
        },
        context,
        kv_bytes,
        activation_bytes,
        total_bytes,
        largest_matrix_bytes: largest,
        max_binding: capabilities.as_ref().map(|c| c.max_binding),
        max_buffer: capabilities.as_ref().map(|c| c.max_buffer),
        memory_budget,
    };
    Ok(Report {
        name: checkpoint.name().to_string(),
        format: checkpoint.format_name().to_string(),
        architecture: config.architecture.clone(),
        tokenizer: tokenizer(&checkpoint.tokenizer_files().await?),
        config,
        tensors,
        totals,
        fits,
    })
}

fn transform(input: &crate::checkpoint::InputTransform) -> &'static str {
    use crate::checkpoint::InputTransform::{Hadamard, None, Permute, Scale};
    match input {
        None => "none",
        Permute(_) => "permuted",
        Scale(_) => "scaled",
        Hadamard { .. } => "hadamard",
    }
}

fn totals(tensors: &[TensorReport]) -> Totals {
    let weights = |t: &TensorReport| t.shape.iter().product::<usize>() as u64;
    let matrices = || tensors.iter().filter(|t| t.codec.is_some());
    let bits: u64 = matrices().map(|t| t.bytes_gpu * 8).sum();
    Totals {
        parameters: tensors.iter().map(weights).sum(),
        bytes: tensors.iter().map(|t| t.bytes).sum(),
        bytes_gpu: tensors.iter().map(|t| t.bytes_gpu).sum(),
        bits_per_weight: bits as f64 / matrices().map(weights).sum::<u64>().max(1) as f64,
    }
}

fn tokenizer(files: &TokenizerFiles) -> TokenizerReport {
    match files {
        TokenizerFiles::None => TokenizerReport { kind: "none".into(), ..TokenizerReport::default() },
        TokenizerFiles::Hf { tokenizer_json, tokenizer_config, chat_template, .. } => {
            let json: Value = serde_json::from_slice(tokenizer_json).unwrap_or_default();
            let model = &json["model"];
            let tokens = match &model["vocab"] {
                Value::Object(map) => Some(map.len()),
                Value::Array(all) => Some(all.len()),
                _ => None,
            };
            let template = tokenizer_config.as_ref().is_some_and(|c| !c["chat_template"].is_null());
            let kind = model["type"].as_str().map(str::to_string);
            TokenizerReport {
                // Older files leave the type out where it can be told by the merges.
                kind: kind.unwrap_or_else(|| {
                    if model["merges"].is_array() { "BPE".into() } else { "unknown".into() }
                }),
                source: Some("tokenizer.json".into()),
                pre: None,
                tokens,
                chat_template: template || chat_template.is_some(),
            }
        }
        TokenizerFiles::Gguf(metadata) => {
            let string = |key: &str| metadata.string(key).ok().flatten().map(str::to_string);
            let Some(model) = string("tokenizer.ggml.model") else {
                return TokenizerReport { kind: "none".into(), ..TokenizerReport::default() };
            };
            let kind = match model.as_str() {
                "llama" => "SPM",
                "gpt2" => "BPE",
                other => other,
            };
            TokenizerReport {
                kind: kind.to_string(),
                source: Some("GGUF".into()),
                pre: string("tokenizer.ggml.pre"),
                tokens: tokens(metadata),
                chat_template: metadata.get("tokenizer.chat_template").is_some(),
            }
        }
    }
}

fn tokens(metadata: &gguf::Metadata) -> Option<usize> {
    metadata.strings("tokenizer.ggml.tokens").ok().flatten().map(<[String]>::len)
}

/// The registries: what is read, of which pieces it consists, and what runs.
#[derive(Debug, Clone, Serialize)]
pub struct Formats {
    /// What of each format is read, line by line: README's table.
    pub table: Vec<FormatReport>,
    /// Checkpoint formats.
    pub readers: Vec<ReaderReport>,
    /// Codecs.
    pub codecs: Vec<CodecReport>,
    /// Architectures.
    pub models: Vec<ModelReport>,
}

/// An architecture; see [`crate::model::Architecture`].
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// The class that `architectures` names.
    pub class: &'static str,
    /// `model_type` in `config.json`, others that run the same after its own.
    pub model_types: Vec<&'static str>,
    /// `general.architecture` of GGUF files.
    pub gguf: &'static [&'static str],
    /// What it cannot be run without.
    pub missing: Option<&'static str>,
}

/// A line of the table of formats; see [`crate::checkpoint::formats::Format`].
#[derive(Debug, Clone, Serialize)]
pub struct FormatReport {
    /// Which files.
    pub format: &'static str,
    /// The name of their reader.
    pub reader: &'static str,
    /// Families of codecs.
    pub codec: String,
    /// What happens to activations around the product.
    pub transform: &'static str,
    /// What is added to the product.
    pub side_term: &'static str,
    /// Whose files it was tested on.
    pub tested: &'static str,
    /// The least and the most bits of a weight.
    pub bits_per_weight: &'static str,
    /// What `bench --codec` calls a member of it.
    pub bench: &'static str,
}

/// A checkpoint format.
#[derive(Debug, Clone, Serialize)]
pub struct ReaderReport {
    /// `GPTQ` …
    pub name: &'static str,
    /// What of it is read.
    pub about: &'static str,
    /// The tensors that it is told by.
    pub signature: &'static str,
    /// The tools that write it.
    pub tool: &'static str,
    /// Values of `quant_method`.
    pub methods: &'static [&'static str],
}

/// A family of codecs.
#[derive(Debug, Clone, Serialize)]
pub struct CodecReport {
    /// `int`, `lookup` …
    pub name: &'static str,
    /// What it stores.
    pub about: &'static str,
    /// Its shader part.
    pub wgsl: &'static str,
    /// Members that tests and `verify` run.
    pub samples: Vec<String>,
}

/// What [`FORMATS`], [`READERS`] and [`CODECS`] list.
pub fn formats() -> Formats {
    let format = |f: &crate::checkpoint::formats::Format| FormatReport {
        format: f.what,
        reader: f.reader.name,
        codec: f.codecs.iter().map(|codec| codec.name).collect::<Vec<_>>().join(", "),
        transform: f.transform,
        side_term: f.side_term,
        tested: f.tested,
        bits_per_weight: f.bits,
        bench: f.bench,
    };
    let reader = |r: &&crate::checkpoint::Reader| ReaderReport {
        name: r.name,
        about: r.about,
        signature: r.signature,
        tool: r.source,
        methods: r.methods,
    };
    let codec = |f: &&crate::quant::Family| CodecReport {
        name: f.name,
        about: f.about,
        wgsl: f.wgsl.first().copied().unwrap_or_default(),
        samples: (f.samples)().iter().map(|c| c.name()).collect(),
    };
    let model = |a: &Architecture| ModelReport {
        class: a.class,
        model_types: std::iter::once(a.name).chain(a.aliases.iter().map(|(name, _)| *name)).collect(),
        gguf: a.gguf,
        missing: a.missing,
    };
    Formats {
        table: FORMATS.iter().map(format).collect(),
        readers: READERS.iter().map(reader).collect(),
        codecs: CODECS.iter().map(codec).collect(),
        models: ARCHITECTURES.iter().map(model).collect(),
    }
}
