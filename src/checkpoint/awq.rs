//! AWQ (Lin et al. 2023) as AutoAWQ, GPTQModel and llm-awq write it: 4 bits, groups of g inputs, G = K / g.
//!
//! Versions `gemm` (nearly all), also of `exllama` and `ipex`:
//!
//! * `M.qweight` i32 `[K, N/8]`: output 8c + j is nibble `[0, 4, 1, 5, 2, 6, 3, 7][j]` of word c.
//! * `M.qzeros` i32 `[G, N/8]` likewise; `M.scales` f16 `[G, N]`. `w = (q − z) · s`
//!
//! `gemv`: `M.qweight` i32 `[N, K/8]`, `M.qzeros` i32 `[N, Z]`, low nibbles first; `M.scales` f16 `[N, 8 Z]`, 8 Z ≥ G.
//!
//! `gemv_fast` and `llm-awq`: `M.qweight` i16 `[N/4, K]` in tiles of 4 rows × 64 inputs, see `fast`; `M.scales` and
//! `M.qzeros` f16 `[≥ G, N]`. `w = q · s + qzeros`
//!
//! Scales that no weight could absorb stay at an activation: `….act.scales` `[K]` divides what `down_proj` is given.

use super::affine::{Affine, Floats, Layout, Zeros};
use super::hf::Keys;
use super::ints::{Ints, Tiling};
use super::{InputTransform, Module, Reader, StoredMatrix};
use crate::error::{Error, Result};

/// AWQ.
pub static READER: Reader = Reader {
    name: "AWQ",
    about: "4 bits, versions gemm, gemv, gemv_fast and llm-awq",
    signature: ".qweight .qzeros .scales",
    source: "AutoAWQ, GPTQModel, llm-awq",
    methods: &["awq"],
    claims: |module| module.method() == Some("awq") && module.tensor("qweight").is_some(),
    format: |_| "AWQ",
    read: |module| Box::pin(read(module)),
};

/// Nibble of column j of eight.
const GEMM_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let keys = Keys::new(module.quantization, "config.json");
    let first = |names: &[&'static str]| names.iter().copied().find(|name| keys.get(name).is_some());
    let bits = first(&["bits", "w_bit"]).map_or(Ok(None), |key| keys.size(key))?.unwrap_or(4);
    if bits != 4 {
        return Err(Error::unsupported(format!("unsupported bits {bits} of AWQ"))
            .file("config.json")
            .expected(4));
    }
    let group = match first(&["group_size", "q_group_size"]) {
        Some(key) => keys.group(key)?,
        None => Some(128),
    };
    // Marlin repacks for its own tensor cores; the other names are kernels for the same file.
    let key = first(&["version", "checkpoint_format", "format"]);
    let version = key.map_or(Ok(None), |key| keys.text(key))?.unwrap_or("gemm").to_ascii_lowercase();
    let version = if keys.text("backend")? == Some("llm-awq") { "llm-awq" } else { version.as_str() };
    let group = group.unwrap_or(module.cols).min(module.cols);
    let layer = match version {
        "gemm" | "exllama" | "exllamav2" | "ipex" => gemm(module, group)?,
        "gemv" => gemv(module, group)?,
        "gemv_fast" | "llm-awq" => gemv_fast(module, group)?,
        other => {
            let error = Error::unsupported(format!("version {other} of AWQ")).file("config.json");
            return Err(error.expected("gemm, gemv, gemv_fast or llm-awq"));
        }
    };
    module.only(&["qweight", "qzeros", "scales", "bias"])?;
    let mut matrix = layer.matrix(module, &READER).await?;
    if let Some(divisors) = activation_scales(module).await? {
        matrix.input = InputTransform::Scale(divisors.into_iter().map(f32::recip).collect());
    }
    Ok(matrix)
}

/// `gemm`, which AutoRound writes as well.
pub(crate) fn gemm(module: &Module<'_>, group: usize) -> Result<Affine> {
    let (rows, cols) = (module.rows, module.cols);
    let groups = cols.div_ceil(group);
    let tiling = || Tiling::nibbles(GEMM_ORDER).upright();
    Ok(Affine {
        codes: Ints::new(module.require("qweight")?, (rows, cols), tiling(), true, 0)?,
        scales: Floats::new(module.require("scales")?, (rows, groups), Layout::Cols)?,
        zeros: Zeros::Each(Ints::new(module.require("qzeros")?, (rows, groups), tiling(), true, 0)?),
        group,
        divisor: 1,
        order: None,
    })
}

fn gemv(module: &Module<'_>, group: usize) -> Result<Affine> {
    let (rows, cols) = (module.rows, module.cols);
    let scales = module.require("scales")?;
    let padded = padded(scales.shape.get(1), cols.div_ceil(group));
    Ok(Affine {
        codes: Ints::new(module.require("qweight")?, (rows, cols), Tiling::whole(4), false, 0)?,
        scales: Floats::new(scales, (rows, padded), Layout::Rows)?,
        zeros: Zeros::Each(Ints::new(module.require("qzeros")?, (rows, padded), Tiling::whole(4), false, 0)?),
        group,
        divisor: 1,
        order: None,
    })
}

fn gemv_fast(module: &Module<'_>, group: usize) -> Result<Affine> {
    let (rows, cols) = (module.rows, module.cols);
    let scales = module.require("scales")?;
    let padded = padded(scales.shape.first(), cols.div_ceil(group));
    Ok(Affine {
        codes: Ints::new(module.require("qweight")?, (rows, cols), fast(), false, 0)?,
        scales: Floats::new(scales, (rows, padded), Layout::Cols)?,
        zeros: Zeros::Minima(Floats::new(module.require("qzeros")?, (rows, padded), Layout::Cols)?),
        group,
        divisor: 1,
        order: None,
    })
}

/// Groups with those that only fill up: as many as there are in the file, at least what there must be.
fn padded(found: Option<&usize>, groups: usize) -> usize {
    found.map_or(groups, |&found| found.max(groups))
}

/// Four rows of 64 nibbles. Inside 32 inputs, input 8j + 2i + c of a row is its nibble 8i + 4c + j.
fn fast() -> Tiling {
    let nibble = |k: usize| k / 32 * 32 + k % 8 / 2 * 8 + k % 2 * 4 + k % 32 / 8;
    Tiling::new(4, 4 * 64, 16, |i, bit| i / 64 * 256 + 4 * nibble(i % 64) + bit).rows(4)
}

/// What the activation in front of the module is divided by.
async fn activation_scales(module: &Module<'_>) -> Result<Option<Vec<f32>>> {
    let Some(parent) = module.name.strip_suffix(".down_proj") else { return Ok(None) };
    let tensor = |act: &str| module.tensors.get(&format!("{parent}.{act}.scales"));
    let Some(scales) = tensor("act").or_else(|| tensor("act_fn")) else { return Ok(None) };
    let divisors = scales.floats(module.cols, "scale").await?;
    match divisors.iter().find(|s| !s.recip().is_finite()) {
        None => Ok(Some(divisors)),
        Some(bad) => Err(scales.blame(Error::corrupt("a scale that divides by zero").found(bad))),
    }
}
