//! MLC-LLM: a container of its own, and group quantization (`q4f16_1` and its relatives), as `convert_weight` writes it.
//!
//! * `mlc-chat-config.json`: `model_type`, `model_config`, `quantization`.
//! * `tensor-cache.json`, or `ndarray-cache.json` in older folders: `records` of shards `{dataPath, nbytes}`, each with
//!   `records` of tensors `{name, shape, dtype, format, byteOffset, nbytes}`. Format `f32-to-bf16` keeps bf16 of a
//!   tensor that is called f32.
//! * `params_shard_0.bin` …: the bytes.
//!
//! A quantized module `[N, K]` with codes of b bits in groups of g inputs, p = ⌊32/b⌋ codes a word:
//!
//! * `M.q_weight` u32 `[N, ⌈K/g⌉ · g/p]`: the first code in the lowest bits; 3 bits leave two of 32 unused.
//! * `M.q_scale` f16, bf16 or f32 `[N, ⌈K/g⌉]`
//!
//! `w = (q − (2^(b−1) − 1)) · s`. Modules are fused: `qkv_proj` (`c_attn` in Qwen2) and `gate_up_proj`.

use super::hf::{self, Keys};
use super::source::Source;
use super::tensor::{Dtype, Grid, TensorInfo, Tensors, lcm, words32};
use super::{BoxFuture, Files, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Kind, Piece};
use serde_json::{Value, json};
use std::sync::Arc;

/// What tells a folder of MLC.
pub(crate) const CONFIG: &str = "mlc-chat-config.json";
/// The directory of tensors, the newer name first.
pub(crate) const DIRECTORIES: [&str; 2] = ["tensor-cache.json", "ndarray-cache.json"];
/// How the names of weight files begin.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) const SHARD: &str = "params_shard_";

/// Number formats, in TVM's spelling and in that of safetensors.
const DTYPES: &[(&str, &str)] = &[
    ("float32", "F32"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    ("uint32", "U32"),
    ("int32", "I32"),
    ("uint16", "U16"),
    ("int16", "I16"),
    ("uint8", "U8"),
    ("int8", "I8"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
];

/// Every tensor of a folder.
pub(crate) async fn tensors(files: &Files) -> Result<Tensors> {
    let mut found = None;
    for name in DIRECTORIES {
        found = found.or(hf::json(files, name).await?.map(|json| (name, json)));
    }
    let Some((file, directory)) = found else {
        return Err(Error::missing(format!("missing file {}", DIRECTORIES.join(" or "))));
    };
    let list = |value: &'_ Value| value.get("records").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all = Tensors::default();
    for shard in list(&directory) {
        let keys = Keys::new(&shard, file);
        let path = keys.text("dataPath")?.ok_or_else(|| Error::corrupt("missing dataPath").file(file))?;
        let missing = || Error::missing(format!("missing file {path}")).remedy(format!("{file} names it"));
        let source = files.get(path).ok_or_else(missing)?;
        for record in list(&shard) {
            all.add(tensor(&record, file, source)?)?;
        }
    }
    Ok(all)
}

/// A tensor as `file` describes it, checked against the shard that it lies in.
fn tensor(record: &Value, file: &str, source: &Arc<dyn Source>) -> Result<TensorInfo> {
    let keys = Keys::new(record, file);
    let name = keys.text("name")?.ok_or_else(|| Error::corrupt("missing name").file(file))?;
    let corrupt = |what: &str| Error::corrupt(format!("{what} of {name}")).file(file);
    let dtype = keys.text("dtype")?.ok_or_else(|| corrupt("missing dtype"))?;
    let dtype = match keys.text("format")?.unwrap_or("raw") {
        "f32-to-bf16" if dtype == "float32" => Dtype::Bf16,
        "raw" => {
            let known = DTYPES.iter().find(|(tvm, _)| *tvm == dtype).and_then(|(_, name)| Dtype::named(name));
            known
                .ok_or_else(|| Error::unsupported(format!("unknown dtype {dtype}")).file(file).tensor(name))?
        }
        format => return Err(Error::unsupported(format!("format {format}")).file(file).tensor(name)),
    };
    let dims = keys.get("shape").and_then(Value::as_array).ok_or_else(|| corrupt("missing shape"))?;
    let dim = |d: &Value| d.as_u64().and_then(|d| usize::try_from(d).ok());
    let shape: Vec<usize> =
        dims.iter().map(dim).collect::<Option<_>>().ok_or_else(|| corrupt("invalid shape"))?;
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let bytes = elements.and_then(|n| dtype.bytes(n)).ok_or_else(|| corrupt("shape overflow"))?;
    let size =
        |key: &str| keys.size(key)?.map(|n| n as u64).ok_or_else(|| corrupt(&format!("missing {key}")));
    if size("nbytes")? != bytes {
        return Err(corrupt("nbytes do not fit dtype and shape").expected(bytes).found(size("nbytes")?));
    }
    let begin = size("byteOffset")?;
    let end = begin.checked_add(bytes).filter(|&end| end <= source.len());
    let end = end.ok_or_else(|| corrupt("byteOffset past the end of the shard").found(begin))?;
    Ok(TensorInfo { name: name.to_string(), dtype, shape, source: source.clone(), range: begin..end })
}

/// The configuration in the spelling of Hugging Face, and what takes the place of `quantization_config`.
pub(crate) fn config(chat: &Value) -> Result<(Value, Value)> {
    let keys = Keys::new(chat, CONFIG);
    let missing = |key: &str| Error::missing(format!("missing {key}")).file(CONFIG);
    let quantization = keys.text("quantization")?.ok_or_else(|| missing("quantization"))?;
    if scheme(quantization).is_none() && !UNQUANTIZED.contains(&quantization) {
        let known: Vec<&str> = SCHEMES.iter().map(|s| s.name).chain(UNQUANTIZED.iter().copied()).collect();
        let error = Error::unsupported(format!("quantization {quantization} of MLC")).file(CONFIG);
        return Err(error.expected(known.join(", ")));
    }
    let mut config =
        keys.get("model_config").filter(|c| c.is_object()).cloned().ok_or_else(|| missing("model_config"))?;
    let inner = config.clone();
    let inner = Keys::new(&inner, CONFIG);
    if let Some(shards) = inner.size("tensor_parallel_shards")?.filter(|&n| n > 1) {
        return Err(Error::unsupported(format!("tensor_parallel_shards {shards}"))
            .file(CONFIG)
            .expected("1"));
    }
    for (key, ours) in
        [("position_embedding_base", "rope_theta"), ("context_window_size", "max_position_embeddings")]
    {
        if let (Some(value), true) = (inner.get(key), inner.get(ours).is_none()) {
            config[ours] = value.clone();
        }
    }
    let window = inner.get("sliding_window_size").or(keys.get("sliding_window_size")).and_then(Value::as_u64);
    config["sliding_window"] = window.map_or(Value::Null, Value::from); // −1 is none
    for key in ["model_type", "bos_token_id", "eos_token_id"] {
        if let Some(value) = keys.get(key) {
            config[key] = value.clone();
        }
    }
    Ok((config, json!({ "quant_method": "mlc", "quantization": quantization })))
}

/// Group quantization.
pub static READER: Reader = Reader {
    name: "MLC",
    about: "q4f16_1, q4f16_2, q4f32_1, q4bf16_1, q3f16_1 and the unquantized q0 kinds",
    signature: ".q_weight .q_scale",
    source: "MLC-LLM",
    methods: &["mlc"],
    claims: |module| module.method() == Some("mlc") && module.tensor("q_weight").is_some(),
    format: |module| settings(module).map_or("MLC", |scheme| scheme.label),
    read: |module| Box::pin(read(module)),
};

/// A kind of group quantization.
struct Scheme {
    name: &'static str,
    label: &'static str,
    bits: u32,
    group: usize,
    scale: Kind,
}

const fn group(name: &'static str, label: &'static str, bits: u32, group: usize, scale: Kind) -> Scheme {
    Scheme { name, label, bits, group, scale }
}

const SCHEMES: &[Scheme] = &[
    group("q4f16_1", "MLC q4f16_1", 4, 32, Kind::F16),
    group("q4f16_2", "MLC q4f16_2", 4, 32, Kind::F16), // embedding and head are f16
    group("q4f32_1", "MLC q4f32_1", 4, 32, Kind::F32),
    group("q4bf16_1", "MLC q4bf16_1", 4, 32, Kind::Bf16),
    group("q3f16_1", "MLC q3f16_1", 3, 40, Kind::F16),
];
const UNQUANTIZED: &[&str] = &["q0f16", "q0f32", "q0bf16"];

fn scheme(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}

fn settings(module: &Module<'_>) -> Option<&'static Scheme> {
    scheme(module.quantization.get("quantization")?.as_str()?)
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["q_weight", "q_scale", "bias"])?;
    let unsupported = || Error::unsupported("a q_weight in an unquantized model of MLC").tensor(module.name);
    let Scheme { bits, group, scale: kind, .. } = *settings(module).ok_or_else(unsupported)?;
    let (rows, cols) = (module.rows, module.cols);
    let a_word = 32 / bits as usize;
    let (groups, words) = (cols.div_ceil(group), group / a_word);
    let codes = module.require("q_weight")?;
    if codes.dtype != Dtype::named("U32").unwrap_or(Dtype::U8) {
        return Err(codes.blame(Error::corrupt("q_weight must be U32").found(codes.dtype)));
    }
    codes.expect_shape(&[rows, groups * words])?;
    let scale = module.require("q_scale")?;
    scale.expect_shape(&[rows, groups])?;
    if scale.expect_float()? != kind {
        return Err(
            scale.blame(Error::corrupt("q_scale of another dtype than the model's").found(scale.dtype))
        );
    }
    let codec = Int::new(bits, group, kind, Offset::Symmetric((1 << (bits - 1)) - 1))?;
    let (codes, scale) = (codes.clone(), scale.clone());
    let data = Groups { codes, scale, codec: codec.clone(), rows, cols, group, words, bits };
    module.matrix(&READER, codec, Arc::new(data)).await
}

/// A layer on disk.
struct Groups {
    codes: TensorInfo,
    scale: TensorInfo,
    codec: Arc<Int>,
    rows: usize,
    cols: usize,
    group: usize,
    words: usize, // a group
    bits: u32,
}

impl PieceSource for Groups {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &*self.codec);
        Grid { col_step: lcm(grid.col_step, self.group), ..grid }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let all = self.cols.div_ceil(self.group);
            let groups = extent.cols.start / self.group..extent.cols.end.div_ceil(self.group);
            let (rows, size) = (extent.rows.clone(), self.words * 4);
            let part = groups.start * size..groups.end * size;
            let bytes = self.codes.read_rows(all * size, rows.clone(), part).await?;
            let used = 32 / self.bits * self.bits;
            if words32(&bytes).any(|word| u64::from(word) >> used != 0) {
                let error = Error::corrupt(format!("words with more than {used} bits"));
                return Err(self.codes.blame(error.remedy("are these the weights of another quantization?")));
            }
            let mask = (1 << self.bits) - 1;
            let unpack = |word: u32| (0..32 / self.bits).map(move |i| word >> (i * self.bits) & mask);
            let mut codes = Vec::with_capacity(rows.len() * extent.cols.len());
            for row in bytes.chunks_exact((groups.len() * size).max(1)) {
                codes.extend(words32(row).flat_map(unpack).take(extent.cols.len()));
            }
            let size = self.scale.expect_float()?.bits() as usize / 8;
            let part = groups.start * size..groups.end * size;
            let bytes = self.scale.read_rows(all * size, rows, part).await?;
            let scales = self.scale.float_items(&bytes, "scale")?;
            Ok(Piece { extent: extent.clone(), items: vec![codes, scales] })
        })
    }
}
