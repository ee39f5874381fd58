//! compressed-tensors, as llm-compressor writes it: one configuration for many packings of weights.
//!
//! `quantization_config.config_groups` says for groups of modules (`targets`: names, `re:` patterns, class names) how
//! their weights are quantized; `format` says how they are packed, of a group or of all; `ignore` exempts modules.

use super::hf::Keys;
use super::{Module, Reader, StoredMatrix};
use crate::error::{Error, Result};
use serde_json::Value;

/// compressed-tensors.
pub static READER: Reader = Reader {
    name: "compressed-tensors",
    about: "nothing yet",
    signature: ".weight_packed or .weight, .weight_scale",
    source: "llm-compressor, compressed-tensors",
    methods: &[METHOD],
    claims: |module| {
        let has = |suffix| module.tensor(suffix).is_some();
        module.method() == Some(METHOD) && (has("weight_packed") || has("weight_scale"))
    },
    format: |_| "compressed-tensors",
    read: |module| Box::pin(read(module)),
};

const METHOD: &str = "compressed-tensors";
const FILE: &str = "config.json";

/// What the configuration says of one module's weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scheme<'a> {
    /// The packing: `pack-quantized`, `float-quantized` …
    pub(crate) format: &'a str,
    /// Bits of a weight.
    pub(crate) bits: usize,
    /// Floating-point numbers rather than integers.
    pub(crate) float: bool,
    /// No zero points.
    pub(crate) symmetric: bool,
    /// What shares a scale.
    pub(crate) scales: Scales,
    /// Inputs are sorted by importance before they are grouped: `weight_g_idx` says which group each is in.
    pub(crate) actorder: bool,
}

/// Weights that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// All of them.
    Tensor,
    /// Those of an output.
    Channel,
    /// So many neighbours in a row.
    Group(usize),
    /// So many neighbours in a row; the scales share a scale of their own.
    TensorGroup(usize),
    /// A rectangle `[rows, columns]`.
    Block(usize, usize),
}

/// The scheme of the first group whose targets name the module: by name or pattern rather than by class.
pub(crate) fn scheme<'a>(module: &Module<'a>) -> Result<Scheme<'a>> {
    let config = Keys::new(module.quantization, FILE);
    check(&config)?;
    if named(module, config.get("ignore"), true)? {
        let error = Error::corrupt("quantized, but the configuration exempts it").tensor(module.name);
        return Err(error.file(FILE).found("its name in ignore"));
    }
    let groups = || config.get("config_groups").and_then(Value::as_object).into_iter().flatten();
    for by_class in [false, true] {
        for (_, group) in groups() {
            let group = Keys::new(group, FILE);
            let Some(weights) = group.get("weights") else { continue };
            if named(module, group.get("targets"), by_class)? {
                let format = match group.text("format")? {
                    Some(format) => format,
                    None => config.text("format")?.unwrap_or("dense"),
                };
                return of_group(&Keys::new(weights, FILE), format);
            }
        }
    }
    Err(Error::missing("quantized, but in none of config_groups").tensor(module.name).file(FILE))
}

/// Refuses what would change the weights or activations of all modules.
fn check(config: &Keys<'_>) -> Result<()> {
    let sparsity = Keys::new(config.get("sparsity_config").unwrap_or(&Value::Null), FILE);
    if let Some(format) = sparsity.text("format")?.filter(|&format| format != "dense") {
        return Err(Error::unsupported(format!("sparsity {format} of compressed-tensors")).file(FILE));
    }
    let transforms = Keys::new(config.get("transform_config").unwrap_or(&Value::Null), FILE);
    if transforms.get("config_groups").and_then(Value::as_object).is_some_and(|groups| !groups.is_empty()) {
        return Err(Error::unsupported("transform_config of compressed-tensors").file(FILE));
    }
    Ok(())
}

/// Whether one of `targets` is the module's name or class, or a pattern that matches its name.
fn named(module: &Module<'_>, targets: Option<&Value>, by_class: bool) -> Result<bool> {
    let class = if module.name.ends_with("embed_tokens") { "Embedding" } else { "Linear" };
    for target in targets.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let found = match target.strip_prefix("re:") {
            Some(pattern) => module.matches(pattern)?,
            None => target == module.name || by_class && target == class,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn of_group<'a>(weights: &Keys<'_>, format: &'a str) -> Result<Scheme<'a>> {
    let group = weights.get("group_size").and_then(Value::as_i64);
    let strategy = match (weights.text("strategy")?, group) {
        (Some(strategy), _) => strategy,
        (None, None) => "tensor",
        (None, Some(-1)) => "channel",
        (None, Some(_)) => "group",
    };
    let size = || match group {
        Some(size) if size > 0 => Ok(size as usize),
        _ => Err(weights.invalid("group_size", weights.get("group_size").unwrap_or(&Value::Null))),
    };
    let scales = match strategy {
        "tensor" => Scales::Tensor,
        "channel" => Scales::Channel,
        "group" => Scales::Group(size()?),
        "tensor_group" => Scales::TensorGroup(size()?),
        "block" => {
            let block = weights.get("block_structure").unwrap_or(&Value::Null);
            let (high, wide) = rectangle(block).ok_or_else(|| weights.invalid("block_structure", block))?;
            Scales::Block(high, wide)
        }
        other => {
            let error = Error::unsupported(format!("strategy {other} of weights")).file(FILE);
            return Err(error.expected("tensor, channel, group, tensor_group or block"));
        }
    };
    let float = match weights.text("type")?.unwrap_or("int") {
        "int" => false,
        "float" => true,
        other => {
            let error = Error::unsupported(format!("type {other} of weights")).file(FILE);
            return Err(error.expected("int or float"));
        }
    };
    Ok(Scheme {
        format,
        bits: weights.size("num_bits")?.unwrap_or(8),
        float,
        symmetric: weights.get("symmetric").is_none_or(|flag| flag == true),
        scales,
        actorder: weights
            .get("actorder")
            .is_some_and(|order| order == true || order == "group" || order == "dynamic"),
    })
}

/// `[128, 128]` or `"128x128"`.
fn rectangle(block: &Value) -> Option<(usize, usize)> {
    let (high, wide) = match block {
        Value::String(text) => {
            let (high, wide) = text.split_once('x')?;
            (high.parse().ok()?, wide.parse().ok()?)
        }
        sides => (sides.get(0)?.as_u64()? as usize, sides.get(1)?.as_u64()? as usize),
    };
    (high > 0 && wide > 0).then_some((high, wide))
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let scheme = scheme(module)?;
    Err(Error::unsupported(format!("format {} of compressed-tensors", scheme.format))
        .tensor(module.name)
        .file(FILE))
}
