//! LoRA adapters (Hu et al. 2021) as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! For a module M of shape `[N, K]`: `base_model.model.M.lora_A.weight [r, K]` and `….lora_B.weight [N, r]`, f32, f16
//! or bf16. `y += scale · B (A x)` with `scale = lora_alpha / r`, or `lora_alpha / √r` with `use_rslora`. Modules have the
//! names of the model's own class, experts' too: `….block_sparse_moe.experts.7.w1`.
//!
//! gpt-oss keeps a layer's E experts in two parameters `[E, in, out]` (`target_parameters`; PEFT's `ParamWrapper`), so
//! that each has its term in one pair: `….mlp.experts.lora_A.weight [E·r, in]`, one expert below the other, and
//! `….lora_B.weight [out, r·E]`, where column j·E + e is expert e's j-th. The pair of the parameter that was wrapped first
//! is under `….mlp.experts.base_layer`; which is whose, widths tell. Outputs of gate and up alternate.

use super::hf::{Keys, json};
use super::tensor::{TensorInfo, Tensors, dims};
use super::{Files, module_shape, safetensors};
use crate::error::{Error, Result};
use crate::model::{ARCHITECTURES, ModelConfig, TEXT_PART, architecture};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A low-rank addition to one module: `y += scale · B (A x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// Output features N.
    pub rows: usize,
    /// Input features K.
    pub cols: usize,
    /// The rank r.
    pub rank: usize,
    /// A, `[r, K]` row-major.
    pub a: Vec<f32>,
    /// B, `[N, r]` row-major, without the scale.
    pub b: Vec<f32>,
    /// What B is multiplied with.
    pub scale: f32,
}

/// An adapter: additions by module name (`model.layers.0.self_attn.q_proj`).
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// What it is called where its weight is changed: its folder, unless somebody gives it another name.
    pub name: String,
    /// How much it counts: 1 as it was trained, 0 not at all.
    pub weight: f32,
    /// The additions.
    pub modules: BTreeMap<String, LowRank>,
}

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// What `adapter_config.json` says.
struct Settings<'a> {
    rank: usize,
    alpha: f64,
    rslora: bool,
    ranks: Vec<(&'a str, f64)>,
    alphas: Vec<(&'a str, f64)>,
}

impl<'a> Settings<'a> {
    fn new(config: &'a Value) -> Result<Self> {
        let keys = Keys::new(config, CONFIG);
        let unsupported = |what: String| Err(Error::unsupported(what).file(CONFIG).expected("plain LoRA"));
        if let Some(kind) = keys.text("peft_type")?.filter(|&kind| kind != "LORA") {
            return unsupported(format!("adapter type {kind}"));
        }
        for key in ["use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out"] {
            if keys.get(key).is_some_and(|v| *v != Value::Bool(false)) {
                return unsupported(format!("{key} true"));
            }
        }
        if let Some(bias) = keys.text("bias")?.filter(|&bias| bias != "none") {
            return unsupported(format!("bias {bias}"));
        }
        for key in
            ["modules_to_save", "layer_replication", "alora_invocation_tokens", "trainable_token_indices"]
        {
            let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
            if keys.get(key).is_some_and(|v| !empty(v)) {
                return unsupported(format!("{key} of an adapter"));
            }
        }
        let missing = |key: &str| Error::missing(format!("missing {key}")).file(CONFIG);
        Ok(Self {
            rank: keys.size("r")?.ok_or_else(|| missing("r"))?,
            alpha: keys.number("lora_alpha")?.ok_or_else(|| missing("lora_alpha"))?,
            rslora: keys.flag("use_rslora")?,
            ranks: pattern(&keys, "rank_pattern")?,
            alphas: pattern(&keys, "alpha_pattern")?,
        })
    }

    /// Rank and scale of a module.
    fn of(&self, module: &str) -> (usize, f32) {
        let find = |patterns: &[(&str, f64)]| {
            let suits = |key: &str| {
                module.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            patterns.iter().find(|(key, _)| suits(key)).map(|&(_, value)| value)
        };
        let rank = find(&self.ranks).map_or(self.rank, |rank| rank as usize);
        let alpha = find(&self.alphas).unwrap_or(self.alpha);
        let divisor = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        (rank, (alpha / divisor) as f32)
    }
}

/// `{module name or its end: number}`. PEFT takes the keys for regular expressions; only names are read here.
fn pattern<'a>(keys: &Keys<'a>, key: &str) -> Result<Vec<(&'a str, f64)>> {
    let Some(map) = keys.get(key).and_then(Value::as_object) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for (name, value) in map {
        let plain = name.strip_prefix('^').unwrap_or(name);
        if !plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            return Err(Error::unsupported(format!("{key} with the regular expression {name}"))
                .file(CONFIG)
                .expected("names of modules"));
        }
        let Some(number) = value.as_f64().filter(|n| *n > 0.0 && *n < 1e6) else {
            return Err(keys.invalid(key, value));
        };
        all.push((plain, number));
    }
    Ok(all)
}

impl Adapter {
    /// Opens an adapter folder.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(folder: impl AsRef<std::path::Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, ..Self::from_files(&super::folder(folder)?).await? })
    }

    /// Reads an adapter from its files.
    pub async fn from_files(files: &Files) -> Result<Self> {
        let missing = |name: &str| Error::missing(format!("missing file {name}"));
        let config = json(files, CONFIG).await?.ok_or_else(|| missing(CONFIG))?;
        let settings = Settings::new(&config)?;
        let source = files.get(WEIGHTS).ok_or_else(|| missing(WEIGHTS))?;
        let mut tensors = Tensors::default();
        let mut names = BTreeMap::new(); // ours, and the adapter's, which its patterns are about
        for mut tensor in safetensors::tensors(source).await? {
            let (module, suffix) = split(&tensor)?;
            tensor.name = llama_name(format!("{module}.{suffix}"));
            names.insert(tensor.name.trim_end_matches(suffix).trim_end_matches('.').to_owned(), module);
            tensors.add(tensor)?;
        }
        let mut modules = BTreeMap::new();
        for (module, own) in names {
            if !settings.of(&own).1.is_finite() {
                return Err(Error::invalid("invalid lora_alpha").file(CONFIG).found(settings.alpha));
            }
            let low_rank = read(&tensors, &module, settings.of(&own)).await?;
            modules.insert(module, low_rank);
        }
        if modules.is_empty() {
            return Err(Error::corrupt("the adapter has no tensors").file(WEIGHTS));
        }
        Ok(Self { name: "adapter".into(), weight: 1.0, modules })
    }

    /// The most rank that a layer's modules have together.
    pub(crate) fn most_rank(&self) -> usize {
        let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, term) in &self.modules {
            let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
            *layers.entry(layer).or_default() += term.rank;
        }
        layers.into_values().max().unwrap_or(0)
    }

    /// The adapter as the model's modules take it: a pair that is for all experts of a layer becomes a pair for each.
    pub(crate) fn fit(&self, config: &ModelConfig) -> Result<Cow<'_, Self>> {
        let mut fitted = Cow::Borrowed(self);
        for (name, term) in self.modules.iter().filter(|(name, _)| all_experts(name).is_some()) {
            let modules = &mut fitted.to_mut().modules;
            modules.remove(name);
            modules.extend(each_expert(name, term, config).map_err(|e| e.file(WEIGHTS).tensor(name))?);
        }
        fitted.check(config)?;
        Ok(fitted)
    }

    /// Checks that every module is one of the model's and fits its shape.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        for (name, low_rank) in &self.modules {
            let Some((rows, cols)) = module_shape(config, name) else {
                return Err(Error::invalid(format!("the model has no module {name}")).file(WEIGHTS));
            };
            if (rows, cols) != (low_rank.rows, low_rank.cols) {
                return Err(Error::invalid(format!("shape mismatch for the LoRA of {name}"))
                    .file(WEIGHTS)
                    .expected(dims(&[rows, cols]))
                    .found(dims(&[low_rank.rows, low_rank.cols]))
                    .remedy("the adapter was made for another model"));
            }
        }
        Ok(())
    }
}

/// The experts that a module's name stands for, `model.layers.0.mlp.experts`, if it is all of them.
fn all_experts(module: &str) -> Option<&str> {
    let module = module.strip_suffix(".base_layer").unwrap_or(module);
    module.ends_with(".experts").then_some(module)
}

/// The terms of a layer's experts by their names, of the pair of one parameter.
fn each_expert(module: &str, all: &LowRank, config: &ModelConfig) -> Result<Vec<(String, LowRank)>> {
    let whole = architecture(config).is_some_and(|a| a.whole_experts);
    let experts = config.experts.as_ref().filter(|_| whole);
    let (Some(parent), Some(experts)) = (all_experts(module), experts) else {
        // transformers keeps those of other models the other way round, and PEFT has read them in both.
        let error = Error::unsupported("an adapter of a parameter that is all experts");
        let names: Vec<&str> = ARCHITECTURES.iter().filter(|a| a.whole_experts).map(|a| a.name).collect();
        return Err(error.expected(names.join(", ")).found(&config.architecture));
    };
    let (hidden, ffn, count) = (config.hidden, experts.ffn, experts.count);
    let names: &[&str] = match (all.rows, all.cols) {
        sizes if sizes == (2 * ffn, hidden) => &["gate_proj", "up_proj"],
        sizes if sizes == (hidden, ffn) => &["down_proj"],
        (rows, cols) => {
            return Err(Error::invalid("shape mismatch for the LoRA of experts")
                .expected(format!("{} or {}", dims(&[2 * ffn, hidden]), dims(&[hidden, ffn])))
                .found(dims(&[rows, cols]))
                .remedy("the adapter was made for another model"));
        }
    };
    if !all.rank.is_multiple_of(count) {
        return Err(Error::corrupt("LoRA rank mismatch")
            .expected(format!("a multiple of {count}"))
            .found(all.rank));
    }
    let rank = all.rank / count;
    let mut terms = Vec::new();
    for expert in 0..count {
        let a = &all.a[expert * rank * all.cols..][..rank * all.cols];
        for (first, name) in names.iter().enumerate() {
            let rows = all.b.chunks_exact(all.rank).skip(first).step_by(names.len());
            let b: Vec<f32> = rows.flat_map(|row| row[expert..].iter().step_by(count).copied()).collect();
            let rows = all.rows / names.len();
            let term = LowRank { rows, cols: all.cols, rank, a: a.to_vec(), b, scale: all.scale };
            terms.push((format!("{parent}.{expert}.{name}"), term));
        }
    }
    Ok(terms)
}

/// What the Llama family calls a tensor. An adapter does not say which architecture it is for, but the names of one mean
/// nothing else in another, taken in the order of the list.
fn llama_name(name: String) -> String {
    let names = ARCHITECTURES.iter().flat_map(|architecture| architecture.renamed);
    TEXT_PART.iter().chain(names).fold(name, |name, (from, to)| name.replace(from, to))
}

/// Module, and `lora_A` or `lora_B`, of a tensor's name.
fn split(tensor: &TensorInfo) -> Result<(String, &'static str)> {
    let name = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let name = name.strip_suffix(".default").unwrap_or(name);
    for suffix in ["lora_A", "lora_B"] {
        if let Some(module) = name.strip_suffix(suffix).and_then(|name| name.strip_suffix('.')) {
            return Ok((module.to_string(), suffix));
        }
    }
    let error = Error::unsupported("a tensor that is no lora_A or lora_B of a linear layer");
    Err(tensor.blame(error))
}

async fn read(tensors: &Tensors, module: &str, (rank, scale): (usize, f32)) -> Result<LowRank> {
    let matrix = |suffix: &str| -> Result<(&TensorInfo, usize, usize)> {
        let tensor = tensors.require(&format!("{module}.{suffix}")).map_err(|e| e.file(WEIGHTS))?;
        match tensor.shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => Ok((tensor, rows, cols)),
            _ => Err(tensor.blame(Error::corrupt("must be a matrix").found(dims(&tensor.shape)))),
        }
    };
    let (a, found, cols) = matrix("lora_A")?;
    let (b, rows, width) = matrix("lora_B")?;
    // All experts' ranks together.
    let ranks = if all_experts(module).is_some() { (found / rank.max(1)).max(1) } else { 1 };
    let rank = rank * ranks;
    for found in [found, width] {
        if found != rank {
            return Err(Error::corrupt(format!("LoRA rank mismatch: config {rank}, tensor {found}"))
                .file(WEIGHTS)
                .tensor(module));
        }
    }
    let a = a.floats(rank * cols, "weight").await?;
    let b = b.floats(rows * rank, "weight").await?;
    Ok(LowRank { rows, cols, rank, a, b, scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_architecture_are_not_taken_for_anothers() {
        for architecture in ARCHITECTURES {
            for (own, _) in architecture.renamed {
                let name = format!("model.layers.0.{}.lora_A", own.trim_matches('.'));
                let renamed =
                    architecture.renamed.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
                assert_eq!(llama_name(name), renamed, "{}", architecture.name);
            }
        }
    }
}
