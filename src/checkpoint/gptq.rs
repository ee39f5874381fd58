//! GPTQ (Frantar et al. 2022) as AutoGPTQ and GPTQModel write it, layouts `gptq` (v1), `gptq_v2` and `gptq_p`.
//!
//! For a layer of K inputs and N outputs, b bits and groups of g inputs, G = ⌈K / g⌉:
//!
//! * `M.qweight` i32 `[K·b/32, N]`: column n is a little-endian bit stream, code k in bits k·b … (b = 2, 3, 4, 8).
//!   `gptq_p` (b = 2 … 8): 32 codes in b words, planes of 4, 2 and 1 bits one after the other.
//! * `M.qzeros` i32 `[G, N·b/32]`: row j holds zero points likewise; v1 stores them minus one.
//! * `M.scales` f16, bf16 or f32 `[G, N]`
//! * `M.g_idx` i32 `[K]`: the group of every input; k / g where it is absent.
//!
//! `w = (q − z) · s`. With act-order (`desc_act`) `g_idx` jumps: the inputs are sorted by group, and the
//! activations permuted likewise. `dynamic` gives modules that match a regular expression settings of their own.

use super::affine::{Affine, Floats, Layout, Zeros, act_order};
use super::hf::Keys;
use super::ints::{Ints, Tiling};
use super::{Module, Reader, StoredMatrix};
use crate::error::{Error, Result};
use serde_json::Value;

/// GPTQ.
pub static READER: Reader = Reader {
    name: "GPTQ",
    about: "2 to 8 bits, v1, v2 and planar layouts, act-order, settings by module",
    signature: ".qweight .qzeros .scales [.g_idx]",
    source: "AutoGPTQ, GPTQModel",
    methods: &["gptq"],
    claims: |module| module.method() == Some("gptq") && module.tensor("qweight").is_some(),
    format: |_| "GPTQ",
    read: |module| Box::pin(read(module)),
};

/// What the quantization configuration says of a module.
pub(crate) struct Settings {
    pub(crate) bits: usize,
    /// `None`: one group a row.
    pub(crate) group: Option<usize>,
    pub(crate) layout: Packing,
    /// Bits of a word.
    pub(crate) word: usize,
}

/// How codes and zero points are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// A bit stream; stored zero points are one too small.
    V1,
    /// A bit stream.
    V2,
    /// Planes.
    Planar,
}

fn settings(module: &Module<'_>) -> Result<Settings> {
    let keys = Keys::new(module.quantization, "config.json");
    let unsupported =
        |what: String, expected: &str| Err(Error::unsupported(what).file("config.json").expected(expected));
    let own = Keys::new(dynamic(module, &keys)?, "config.json");
    let with = |key: &str| if own.get(key).is_some() { &own } else { &keys };
    let missing = || Error::missing("missing bits of quantization_config").file("config.json");
    let bits = with("bits").size("bits")?.ok_or_else(missing)?;
    let group = with("group_size").group("group_size")?;
    let name = match keys.text("checkpoint_format")? {
        Some(name) => name,
        None => keys.text("format")?.unwrap_or("gptq"),
    };
    let layout = match name {
        "gptq" if !keys.flag("is_marlin_format")? => Packing::V1,
        "gptq_v2" => Packing::V2,
        "gptq_p" => Packing::Planar,
        other => {
            let other = if other == "gptq" { "marlin" } else { other };
            return unsupported(format!("checkpoint_format {other} of GPTQ"), "gptq, gptq_v2 or gptq_p");
        }
    };
    let (known, widths) = match layout {
        Packing::Planar => (matches!(bits, 2..=8), "2 to 8"),
        _ => (matches!(bits, 2 | 3 | 4 | 8), "2, 3, 4 or 8"),
    };
    if !known {
        return unsupported(format!("unsupported bits {bits} of GPTQ"), widths);
    }
    let word = match keys.text("pack_dtype")?.unwrap_or("int32").trim_start_matches("torch.") {
        "int32" => 32,
        "int16" if 16 % bits == 0 => 16,
        "int8" if 8 % bits == 0 => 8,
        other => return unsupported(format!("pack_dtype {other} of GPTQ at {bits} bits"), "int32"),
    };
    if keys.get("rotation").is_some() {
        return unsupported("a rotation of GPTQModel".into(), "an unrotated model");
    }
    Ok(Settings { bits, group, layout, word })
}

/// The settings that a module has of its own: those of the first rule of `dynamic` whose pattern matches its name.
/// `-:` rules exempt modules; a module that is quantized all the same contradicts its own file.
fn dynamic<'a>(module: &Module<'_>, keys: &Keys<'a>) -> Result<&'a Value> {
    for (rule, own) in keys.get("dynamic").and_then(Value::as_object).into_iter().flatten() {
        let exempt = rule.strip_prefix("-:");
        if module.matches(exempt.unwrap_or(rule.strip_prefix("+:").unwrap_or(rule)))? {
            return match exempt {
                None => Ok(own),
                Some(_) => Err(Error::corrupt(format!("quantized, but rule {rule} of dynamic exempts it"))
                    .tensor(module.name)
                    .file("config.json")),
            };
        }
    }
    Ok(&Value::Null)
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    layer(module, settings(module)?, &READER).await
}

/// A layer in one of GPTQ's layouts; AutoRound writes them as well.
pub(crate) async fn layer(module: &Module<'_>, settings: Settings, reader: &Reader) -> Result<StoredMatrix> {
    let Settings { bits, group, layout, word } = settings;
    module.only(&["qweight", "qzeros", "scales", "g_idx", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    let tiling = match layout {
        Packing::Planar => Tiling::planes(bits),
        _ => Tiling::stream(bits, word),
    };
    if !tiling.divides(rows) || !tiling.divides(cols) {
        let what = format!("a GPTQ layer of {cols} inputs and {rows} outputs at {bits} bits");
        let error = Error::unsupported(what).tensor(module.name);
        return Err(error.expected(format!("codes that fill {word}-bit words")));
    }
    let group = group.map_or(cols, |group| group.min(cols));
    let groups = cols.div_ceil(group);
    let codes = Ints::new(module.require("qweight")?, (rows, cols), tiling.clone(), true, 0)?;
    let plus = u32::from(layout == Packing::V1);
    let zeros = Ints::new(module.require("qzeros")?, (rows, groups), tiling.upright(), true, plus)?;
    let scales = Floats::new(module.require("scales")?, (rows, groups), Layout::Cols)?;
    let order = match module.tensor("g_idx") {
        Some(g_idx) => act_order(g_idx, cols, group).await?,
        None => None,
    };
    Affine { codes, scales, zeros: Zeros::Each(zeros), group, divisor: 1, order }.matrix(module, reader).await
}
