//! FP8: `M.weight` F8_E4M3 or F8_E5M2 `[N, K]`, row-major, `w = value(code) · scale`.
//!
//! | written by | scales |
//! |---|---|
//! | DeepSeek-V3, transformers `fp8` | `M.weight_scale_inv` f32 `[⌈N/128⌉, ⌈K/128⌉]`: multiplied, whatever the name says |
//! | FBGEMM, compressed-tensors per channel | `M.weight_scale` `[N, 1]` |
//! | compressed-tensors per tensor, TensorRT, AutoFP8 | `M.weight_scale` `[1]` or a scalar |
//!
//! Scales are f32, f16, bf16, or E8M0 (DeepSeek-V3.1). Sides of the blocks: `weight_block_size` of the configuration,
//! or `block_structure` of compressed-tensors. Scales of the activations are not needed for the weights.

use super::compressed_tensors::{self, Scales, Scheme, input_scale, scheme_if_any};
use super::tensor::{Grid, TensorInfo, dims};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::activations::{ActivationScale, Activations};
use crate::quant::fp8::Fp8;
use crate::quant::{Extent, Kind, Piece, WHOLE_ROW};
use serde_json::Value;
use std::sync::Arc;

/// FP8 E4M3 and E5M2.
pub static READER: Reader = Reader {
    name: "FP8",
    about: "E4M3 and E5M2 weights with a scale a tensor, row or block",
    signature: ".weight (F8) .weight_scale or .weight_scale_inv",
    source: "DeepSeek-V3, FBGEMM, llm-compressor, transformers",
    methods: &["fp8", "fbgemm_fp8"],
    claims: |module| kind(module).is_some(),
    format: |module| if kind(module) == Some(Kind::E5m2) { "FP8 E5M2" } else { "FP8 E4M3" },
    read: |module| Box::pin(read(module)),
};

/// The format of the weights.
fn kind(module: &Module<'_>) -> Option<Kind> {
    module.tensor("weight")?.dtype.float8().filter(|&kind| kind != Kind::E8m0)
}

/// What may stand beside weight and scale: the scales of activations and of an FP8 cache.
const ACTIVATIONS: [&str; 5] = ["input_scale", "activation_scale", "input_scale_ub", "k_scale", "v_scale"];
const SCALES: [&str; 2] = ["weight_scale", "weight_scale_inv"];

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&[&["weight", "bias"], &SCALES[..], &ACTIVATIONS].concat())?;
    let scales = match SCALES.map(|name| module.tensor(name)) {
        [Some(one), None] | [None, Some(one)] => one,
        [None, None] => return Err(Error::missing(format!("missing tensor {}.weight_scale", module.name))),
        [Some(_), Some(other)] => return Err(other.blame(Error::corrupt("a second scale of the weights"))),
    };
    let mut matrix = scaled(module, &READER, module.require("weight")?, scales, block(module)?).await?;
    let wide = if scales.shape.len() == 2 && scales.shape[1] > 1 { block(module)?.1 } else { WHOLE_ROW };
    matrix.activations = activations(module, wide).await?;
    Ok(matrix)
}

/// The matrix of FP8 weights with a scale for all, for every row, or for every block of `(rows, columns)`.
pub(super) async fn scaled(
    module: &Module<'_>,
    reader: &Reader,
    weight: &TensorInfo,
    scales: &TensorInfo,
    block: (usize, usize),
) -> Result<StoredMatrix> {
    let (rows, cols) = (module.rows, module.cols);
    weight.expect_shape(&[rows, cols])?;
    let (high, wide) = match block {
        _ if scales.shape.iter().product::<usize>() == 1 => (rows, WHOLE_ROW),
        _ if scales.shape == [rows, 1] || scales.shape == [rows] => (1, WHOLE_ROW),
        (high, wide) if scales.shape == [rows.div_ceil(high), cols.div_ceil(wide)] => (high, wide),
        (high, wide) => {
            let shapes =
                [vec![], vec![rows, 1], vec![rows.div_ceil(high), cols.div_ceil(wide)]].map(|s| dims(&s));
            return Err(Error::corrupt(format!("shape mismatch for {}", scales.name))
                .file(scales.source.name())
                .expected(shapes.join(" or "))
                .found(dims(&scales.shape)));
        }
    };
    let scale = match scales.dtype.float8() {
        Some(Kind::E8m0) => Kind::E8m0,
        _ => scales.expect_float()?,
    };
    let codes = weight.dtype.float8().unwrap_or(Kind::E4m3);
    let codec = Fp8::new(codes, wide, scale).map_err(|e| scales.blame(e))?;
    let items = scales.items(scale, &scales.read_all().await?, "scale")?;
    let data = Rows { weight: weight.clone(), codec: codec.clone(), rows, cols, scales: items, high, wide };
    module.matrix(reader, codec, Arc::new(data)).await
}

/// How activations are meant to be quantized: E4M3, by a stored scale, else found as the product runs: one for every
/// block of columns if the weights have blocks, for every token if not.
async fn activations(module: &Module<'_>, wide: usize) -> Result<Option<Activations>> {
    if scheme_if_any(module)?.is_some() {
        return compressed_tensors::activations(module).await;
    }
    if let Some(scale) = module.tensor("input_scale").or(module.tensor("activation_scale")) {
        let scale = ActivationScale::Static(input_scale(scale).await?);
        return Ok(Some(Activations { scale, ..Activations::e4m3(WHOLE_ROW) }));
    }
    let dynamic = matches!(module.method(), Some("fp8" | "fbgemm_fp8"));
    Ok(dynamic.then(|| Activations::e4m3(wide)))
}

/// Rows and columns of a block; 128 × 128 unless the configuration says otherwise.
fn block(module: &Module<'_>) -> Result<(usize, usize)> {
    if let Some(Scheme { scales: Scales::Block(high, wide), .. }) = scheme_if_any(module)? {
        return Ok((high, wide));
    }
    let sides = module.quantization.get("weight_block_size").filter(|sides| !sides.is_null());
    let Some(sides) = sides else { return Ok((128, 128)) };
    let side = |i: usize| sides.get(i).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match (side(0), side(1)) {
        (Some(high), Some(wide)) if high > 0 && wide > 0 => Ok((high, wide)),
        _ => Err(Error::invalid(format!("invalid weight_block_size {sides}"))
            .file("config.json")
            .expected("[rows, columns]")),
    }
}

/// Rows of codes; the scales are in memory, one for `high` rows and `wide` columns.
struct Rows {
    weight: TensorInfo,
    codec: Arc<Fp8>,
    rows: usize,
    cols: usize,
    scales: Vec<u32>,
    high: usize,
    wide: usize,
}

impl PieceSource for Rows {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (rows, cols) = (extent.rows.clone(), extent.cols.clone());
            let bytes = self.weight.read_rows(self.cols, rows.clone(), cols.clone()).await?;
            let kind = self.weight.dtype.float8().unwrap_or(Kind::E4m3);
            let codes = self.weight.items(kind, &bytes, "weight")?;
            let blocks = self.cols.div_ceil(self.wide);
            let part = cols.start / self.wide..cols.end.div_ceil(self.wide);
            let scales = rows.flat_map(|row| &self.scales[row / self.high * blocks..][part.clone()]);
            Ok(Piece { extent: extent.clone(), items: vec![codes, scales.copied().collect()] })
        })
    }
}
