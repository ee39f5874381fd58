//! QuIP-for-all: QuIP# (Tseng et al. 2024) for other models, by chu-tianxiang; codes in rows, every module for itself.
//!
//! For a layer of K inputs and N outputs, K a multiple of 32; little-endian:
//!
//! * `M.Qidxs`: a code for every 8 weights of a row; `codebook` E8P12: i16 `[N, K/8]`; E8P12RVQ4B: i32 `[N, K/8]`, the residual
//!   code in the lower half; E8P12RVQ3B: i32 `[N, 3·K/32]`, three bytes a code, the residual's the first.
//! * `M.SU` `[K]`, `M.SV` `[N]`: signs times scales, `M.Wscale` scalar, `M.bias` `[N]`, optional.
//! * `M.had_left` `[k, k]`, `M.had_right` `[n, n]`: orthogonal matrices in place of the part of H that is no power of two
//!   (`use_rand`); k and n are the odd factors of K and N.
//! * `M.weight` scalar, `M.codebook.…`: of no use.
//!
//! A code is QuIP#'s but for the order of its sign bits: bit `7 − p` belongs to dimension `[0, 2, 1, 3, 4, 6, 5, 7][p]`.
//!
//! `x' = Hᵀ (SU ⊙ x);  y = SV · Wscale ⊙ H (Ŵ x') + bias`

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, words16, words32};
use super::{BoxFuture, InputTransform, Module, OutputTransform, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::e8p::{E8p12, Plane, Residual};
use crate::quant::hadamard::Form;
use crate::quant::{Extent, Piece};
use std::sync::Arc;

/// QuIP-for-all.
pub static READER: Reader = Reader {
    name: "QuIP-for-all",
    about: "E8P12, E8P12RVQ3B, E8P12RVQ4B with stored orthogonal matrices (use_rand)",
    signature: ".Qidxs .SU .SV .Wscale [.had_left] [.had_right]",
    source: "QuIP-for-all",
    methods: &["QUiP"],
    claims: |module| module.tensor("Qidxs").is_some() && module.method() == Some("QUiP"),
    format: |_| READER.name,
    read: |module| Box::pin(read(module)),
};

fn unsupported(what: String, expected: &str) -> Error {
    Error::unsupported(format!("{what} of QuIP-for-all")).file("config.json").expected(expected)
}

/// The codec, with everything checked that the configuration says.
fn codec(module: &Module<'_>) -> Result<Arc<E8p12>> {
    let keys = Keys::new(module.quantization, "config.json");
    for flag in ["per_channel", "merge_suv"] {
        if keys.flag(flag)? {
            return Err(unsupported(format!("{flag} true"), "false"));
        }
    }
    if let Some(old) = module.tensor("codebook.grid_abs") {
        return Err(old.blame(Error::unsupported("the first E8P12 of QuIP-for-all")));
    }
    let residual = match keys.text("codebook")?.unwrap_or("missing") {
        "E8P12" => return Ok(E8p12::new(None)),
        "E8P12RVQ3B" => Residual::RVQ3B,
        "E8P12RVQ4B" => Residual::RVQ4B,
        name => return Err(unsupported(format!("codebook {name}"), "E8P12, E8P12RVQ3B, E8P12RVQ4B")),
    };
    let divisor = keys.number("opt_resid_scale")?.map_or(residual.divisor, |scale| 1.0 / scale);
    if !divisor.is_finite() {
        return Err(unsupported("opt_resid_scale 0".into(), "another number"));
    }
    Ok(E8p12::new(Some(Residual { divisor, ..residual })))
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let codec = codec(module)?;
    module.only(&["Qidxs", "SU", "SV", "Wscale", "had_left", "had_right", "bias", "weight", "codebook"])?;
    let (rows, cols) = (module.rows, module.cols);
    if !cols.is_multiple_of(32) {
        let what = format!("a QuIP-for-all layer of {cols} inputs");
        return Err(Error::unsupported(what).tensor(module.name).expected("a multiple of 32"));
    }
    let codes = module.require("Qidxs")?;
    let (dtype, word, width) = match codec.residual().map(|residual| residual.plane) {
        None => ("I16", 2, cols / 8),
        Some(Plane::E8) => ("I32", 4, cols / 32 * 3),
        Some(Plane::E8p12) => ("I32", 4, cols / 8),
    };
    if Some(codes.dtype) != Dtype::named(dtype) {
        return Err(codes.blame(Error::corrupt(format!("Qidxs must be {dtype}")).found(codes.dtype)));
    }
    codes.expect_shape(&[rows, width])?;
    let bytes = width * word / (cols / 8); // of a code
    let data = Codes { codes: codes.clone(), codec: codec.clone(), rows, cols, bytes };
    let mut matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    let scale = module.vector("Wscale", 1).await?[0];
    let mut sv = module.vector("SV", rows).await?;
    sv.iter_mut().for_each(|sv| *sv = (f64::from(*sv) * f64::from(scale)) as f32);
    let su = module.vector("SU", cols).await?;
    matrix.input = InputTransform::Hadamard { signs: su, form: form(module, "had_left", cols).await? };
    matrix.output = OutputTransform::Hadamard { signs: sv, form: form(module, "had_right", rows).await? };
    Ok(matrix)
}

/// The transform of `size` values.
async fn form(module: &Module<'_>, name: &str, size: usize) -> Result<Form> {
    let Some(core) = module.tensor(name) else {
        if size.is_power_of_two() {
            return Ok(Form::Whole);
        }
        let what = format!("a QuIP-for-all layer of {size} values without {name}");
        let remedy = "quantize with use_rand, which stores the matrices";
        return Err(Error::unsupported(what).tensor(module.name).remedy(remedy));
    };
    let order = size >> size.trailing_zeros();
    core.expect_shape(&[order, order])?;
    let form = Form::Core(core.floats(order * order, name).await?.into());
    form.plan(size, false).map_err(|e| core.blame(e))?;
    Ok(form)
}

/// The codes of a layer on disk.
struct Codes {
    codes: TensorInfo,
    codec: Arc<E8p12>,
    rows: usize,
    cols: usize,
    bytes: usize,
}

impl PieceSource for Codes {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let at = |col: usize| col / 8 * self.bytes;
            let part = at(extent.cols.start)..at(extent.cols.end);
            let bytes = self.codes.read_rows(at(self.cols), extent.rows.clone(), part).await?;
            let items = match self.bytes {
                2 => words16(&bytes).map(resigned).collect(),
                3 => bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&[e8, low, high]| {
                        resigned(u32::from(high) << 8 | u32::from(low)) | u32::from(e8) << 16
                    })
                    .collect(),
                _ => {
                    words32(&bytes).map(|code| resigned(code >> 16) | resigned(code & 0xffff) << 16).collect()
                }
            };
            Ok(Piece { extent: extent.clone(), items: vec![items] })
        })
    }
}

/// A code with its sign bits as QuIP# has them: bit `[0, 4, 1, 5, 2, 6, 3, 7][d]` for dimension d. An odd number of bits
/// flips bit 0, here dimension 7, there dimension 0: signs are compared as they are after that.
fn resigned(code: u32) -> u32 {
    let odd = (code & 0xff).count_ones() & 1;
    let signs = code ^ odd;
    let bit = |d: usize| (signs >> (7 - [0, 2, 1, 3, 4, 6, 5, 7][d]) & 1) << (d / 2 + d % 2 * 4);
    code & 0xff00 | (0..8).fold(0, |low, d| low | bit(d)) ^ odd
}
