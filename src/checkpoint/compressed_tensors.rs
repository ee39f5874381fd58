//! compressed-tensors, as llm-compressor writes it: one configuration for many packings of weights.
//!
//! `quantization_config.config_groups` says for groups of modules (`targets`: names, `re:` patterns, class names) how
//! their weights are quantized; `format` says how they are packed, of a group or of all; `ignore` exempts modules.

use super::affine::{Affine, Floats, Layout, Zeros, act_order};
use super::hf::Keys;
use super::ints::{Ints, Tiling};
use super::tensor::{TensorInfo, dims, words32, words64};
use super::{Dtype, Module, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::WHOLE_ROW;
use crate::quant::activations::{ActivationCode, ActivationScale, Activations};
use serde_json::Value;

/// compressed-tensors.
pub static READER: Reader = Reader {
    name: "compressed-tensors",
    about: "integers of 2 to 8 bits: pack-quantized and int-quantized",
    signature: ".weight_packed or .weight, .weight_scale",
    source: "llm-compressor, compressed-tensors",
    methods: &[METHOD],
    claims: |module| {
        let has = |suffix| module.tensor(suffix).is_some();
        module.method() == Some(METHOD) && (has("weight_packed") || has("weight_scale"))
    },
    format: |module| {
        let format = scheme(module).map_or("", |scheme| scheme.format);
        let named = FORMATS.iter().find(|(name, _)| *name == format);
        named.map_or("compressed-tensors", |(_, name)| name)
    },
    read: |module| Box::pin(read(module)),
};

/// What `inspect` calls the packings.
const FORMATS: &[(&str, &str)] = &[
    ("pack-quantized", "compressed-tensors pack-quantized"),
    ("int-quantized", "compressed-tensors int-quantized"),
    ("naive-quantized", "compressed-tensors naive-quantized"),
];

const METHOD: &str = "compressed-tensors";
const FILE: &str = "config.json";

/// What a module of integers may have. `input_…` and `output_…` quantize activations, which stay what they are.
const TENSORS: [&str; 11] = [
    "weight",
    "weight_packed",
    "weight_shape",
    "weight_scale",
    "weight_zero_point",
    "weight_g_idx",
    "bias",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
];

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

/// The scheme of the module's weights.
pub(crate) fn scheme<'a>(module: &Module<'a>) -> Result<Scheme<'a>> {
    let config = Keys::new(module.quantization, FILE);
    check(&config)?;
    let group = group_of(module, &config)?;
    let format = match group.text("format")? {
        Some(format) => format,
        None => config.text("format")?.unwrap_or("dense"),
    };
    of_group(&Keys::new(group.get("weights").unwrap_or(&Value::Null), FILE), format)
}

/// The first group whose targets name the module: by name or pattern rather than by class.
fn group_of<'a>(module: &Module<'a>, config: &Keys<'a>) -> Result<Keys<'a>> {
    if named(module, config.get("ignore"), true)? {
        let error = Error::corrupt("quantized, but the configuration exempts it").tensor(module.name);
        return Err(error.file(FILE).found("its name in ignore"));
    }
    let groups = || config.get("config_groups").and_then(Value::as_object).into_iter().flatten();
    for by_class in [false, true] {
        for (_, group) in groups() {
            let group = Keys::new(group, FILE);
            if group.get("weights").is_some() && named(module, group.get("targets"), by_class)? {
                return Ok(group);
            }
        }
    }
    Err(Error::missing("quantized, but in none of config_groups").tensor(module.name).file(FILE))
}

/// How the configuration means the module's activations to be quantized: 8-bit integers or E4M3, a scale a token, a
/// group, or the stored `input_scale`.
pub(crate) async fn activations(module: &Module<'_>) -> Result<Option<Activations>> {
    let group = group_of(module, &Keys::new(module.quantization, FILE))?;
    let Some(inputs) = group.get("input_activations") else { return Ok(None) };
    let inputs = Keys::new(inputs, FILE);
    let symmetric = inputs.get("symmetric").is_none_or(|flag| flag == true);
    let mut scheme = match (inputs.size("num_bits")?, inputs.text("type")?.unwrap_or("int")) {
        (Some(8), "int") if symmetric => Activations::int8(127.5), // s = 2·max|x| / 255
        (Some(8), "float") => Activations::e4m3(WHOLE_ROW),
        _ => return Ok(None),
    };
    match (inputs.get("dynamic"), inputs.text("strategy")?) {
        (Some(Value::Bool(true)), Some("token")) => {}
        (Some(Value::Bool(true)), Some("group")) if scheme.code == ActivationCode::E4m3 => {
            scheme.run = inputs.size("group_size")?.filter(|&size| size > 0).unwrap_or(WHOLE_ROW);
        }
        (None | Some(Value::Bool(false)), None | Some("tensor")) => {
            scheme.scale = ActivationScale::Static(input_scale(module.require("input_scale")?).await?);
        }
        _ => return Ok(None),
    }
    Ok(Some(scheme))
}

/// The stored scale of a module's activations.
pub(crate) async fn input_scale(tensor: &TensorInfo) -> Result<f32> {
    match tensor.floats(1, "input_scale").await?.first() {
        Some(&scale) if scale > 0.0 => Ok(scale),
        found => Err(tensor
            .blame(Error::corrupt("the scale of activations must be positive").found(format!("{found:?}")))),
    }
}

/// The scheme of a module of a checkpoint of compressed-tensors; none of any other's.
pub(crate) fn scheme_if_any<'a>(module: &Module<'a>) -> Result<Option<Scheme<'a>>> {
    if module.method() == Some(METHOD) { scheme(module).map(Some) } else { Ok(None) }
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
        Some(size) if size > 0 => Ok(usize::try_from(size).unwrap_or(usize::MAX)),
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
        sides => {
            let side = |i: usize| usize::try_from(sides.get(i)?.as_u64()?).ok();
            (side(0)?, side(1)?)
        }
    };
    (high > 0 && wide > 0).then_some((high, wide))
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let scheme = scheme(module)?;
    match (scheme.format, scheme.float) {
        ("pack-quantized" | "int-quantized" | "naive-quantized", false) => {
            let mut matrix = integers(module, &scheme).await?.matrix(module, &READER).await?;
            matrix.activations = activations(module).await?;
            Ok(matrix)
        }
        (format, _) => {
            let error = Error::unsupported(format!("format {format} of compressed-tensors"));
            Err(error.tensor(module.name).file(FILE))
        }
    }
}

/// Integers of b bits, `[N, K]`, as both of their packings have them; `w = (q − z) · s`:
///
/// * `M.weight_packed` i32 `[N, ⌈K / p⌉]`, p = ⌊32 / b⌋ a word, low bits first, 2^(b−1) added; or `M.weight` i8 `[N, K]`
/// * `M.weight_scale` `[N, G]`, `[N, 1]` or a scalar
/// * `M.weight_zero_point` if asymmetric: i32 `[⌈N / p⌉, G]`, packed along N; or i8 `[N, G]`
/// * `M.weight_g_idx` i32 `[K]` with act-order; `M.weight_shape` `[2]` of the packed ones
async fn integers(module: &Module<'_>, scheme: &Scheme<'_>) -> Result<Affine> {
    let (rows, cols) = (module.rows, module.cols);
    let unsupported = |what: String| Error::unsupported(what).tensor(module.name).file(FILE);
    module.only(&TENSORS)?;
    let group = match scheme.scales {
        Scales::Tensor | Scales::Channel => cols,
        Scales::Group(size) => size.min(cols),
        other => {
            let error = unsupported(format!("{other:?} of integers"));
            return Err(error.expected("the strategy tensor, channel or group"));
        }
    };
    let groups = cols.div_ceil(group);
    let packed = scheme.format == "pack-quantized";
    let bits = if packed { scheme.bits } else { 8 };
    if !matches!(bits, 2..=8) {
        return Err(unsupported(format!("num_bits {bits}")).expected("2 to 8"));
    }
    let middle = 1 << (bits - 1);
    let codes = if packed {
        check_shape(module).await?;
        Ints::new(module.require("weight_packed")?, (rows, cols), Tiling::whole(bits), false, 0)?
    } else {
        Ints::signed(module.require("weight")?, (rows, cols))?
    };
    let layout = if scheme.scales == Scales::Tensor { Layout::One } else { Layout::Rows };
    let zeros = match module.tensor("weight_zero_point") {
        None if scheme.symmetric => Zeros::Same(middle),
        Some(zeros) if packed && zeros.dtype == Dtype::I32 => {
            Zeros::Each(Ints::new(zeros, (rows, groups), Tiling::whole(bits).upright(), false, 0)?)
        }
        _ => {
            let zeros = Ints::signed(module.require("weight_zero_point")?, (rows, groups))?;
            Zeros::Each(zeros.narrowed(128 - middle, bits))
        }
    };
    let order = match module.tensor("weight_g_idx") {
        Some(g_idx) => act_order(g_idx, cols, group).await?,
        None => None,
    };
    let scales = Floats::new(module.require("weight_scale")?, (rows, groups), layout)?;
    Ok(Affine { codes, scales, zeros, group, divisor: 1, order })
}

/// `weight_shape`, which repeats what the configuration says.
async fn check_shape(module: &Module<'_>) -> Result<()> {
    let Some(tensor) = module.tensor("weight_shape") else { return Ok(()) };
    tensor.expect_shape(&[2])?;
    let bytes = tensor.read_all().await?;
    let shape: Vec<u64> = match tensor.dtype {
        Dtype::I32 => words32(&bytes).map(u64::from).collect(),
        _ => words64(&bytes).collect(),
    };
    if shape == [module.rows as u64, module.cols as u64] {
        return Ok(());
    }
    let error = Error::corrupt("weight_shape differs from the configuration");
    Err(tensor.blame(error.expected(dims(&[module.rows, module.cols])).found(format!("{shape:?}"))))
}
