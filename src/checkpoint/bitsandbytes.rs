//! bitsandbytes: NF4 and FP4 (QLoRA, Dettmers et al. 2023), with and without double quantization; LLM.int8 (2022).
//!
//! NF4 and FP4, for a layer of shape `[N, K]` and blocks of B (64):
//!
//! * `M.weight`: N·K/2 bytes, two codes each, the *high* nibble first; row-major. `bnb_4bit_quant_storage` may have
//!   the file call them bf16 or f32.
//! * `M.weight.absmax`: f32 `[N·K/B]`, or u8 with double quantization.
//! * `M.weight.quant_map`: f32 `[16]`
//! * `M.weight.quant_state.bitsandbytes__nf4` or `…__fp4`: JSON text in a u8 tensor:
//!   `{quant_type, blocksize, shape, dtype, nested_blocksize, nested_offset, nested_dtype}`
//! * double quantization: `M.weight.nested_absmax` f32 `[N·K/B/256]`, `M.weight.nested_quant_map` f32 `[256]`
//!
//! `w = quant_map[code] · absmax`, `absmax = nested_quant_map[byte] · nested_absmax + nested_offset`.
//!
//! LLM.int8: `M.weight` i8 `[N, K]`, `M.SCB` f32 `[N]`, the largest magnitude of each row; `M.weight_format` u8, 0: rows
//! are whole. `w = weight · SCB / 127`. Activations are integers too where
//! that is asked for, but for columns with outliers: elements of at least `llm_int8_threshold` (6).

use super::affine::{Affine, Floats, Layout, Zeros};
use super::hf::Keys;
use super::ints::Ints;
use super::tensor::{Dtype, Grid, TensorInfo, dims};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::activations::Activations;
use crate::quant::lookup::{Lookup, Nested, Scales};
use crate::quant::{Extent, Piece, UNIT};
use serde_json::Value;
use std::sync::Arc;

/// NF4 and FP4.
pub static READER: Reader = Reader {
    name: "bitsandbytes",
    about: "NF4 and FP4 (QLoRA), also doubly quantized; LLM.int8",
    signature: ".weight .weight.absmax .weight.quant_map .weight.quant_state.bitsandbytes__nf4; .weight .SCB",
    source: "bitsandbytes",
    methods: &["bitsandbytes"],
    claims: |module| state(module).is_some() || module.tensor("SCB").is_some(),
    format: |module| match state(module) {
        Some((_, "fp4")) => "bitsandbytes FP4",
        Some(_) => "bitsandbytes NF4",
        None => "bitsandbytes LLM.int8",
    },
    read: |module| Box::pin(read(module)),
};

/// The tensor with the quantization state, and the data type that its name tells.
fn state<'a>(module: &Module<'a>) -> Option<(&'a TensorInfo, &'static str)> {
    ["nf4", "fp4"].into_iter().find_map(|name| {
        module.tensor(&format!("weight.quant_state.bitsandbytes__{name}")).map(|tensor| (tensor, name))
    })
}

/// `llm_int8_threshold` unless a configuration says otherwise.
pub(super) const OUTLIERS: f32 = 6.0;
/// The quantization state is a few hundred bytes.
const MAX_STATE: u64 = 1 << 16;

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let (rows, cols) = (module.rows, module.cols);
    let Some((tensor, name)) = state(module) else {
        return int8(module).await;
    };
    if tensor.bytes() > MAX_STATE {
        let error = Error::corrupt("quantization state too long").found(tensor.bytes());
        return Err(tensor.blame(error.expected(format!("at most {MAX_STATE} bytes"))));
    }
    module.only(&["weight", "bias"])?;
    let json: Value = serde_json::from_slice(&tensor.read_all().await?)
        .map_err(|e| tensor.blame(Error::corrupt(format!("quantization state is not valid JSON: {e}"))))?;
    let keys = Keys::new(&json, tensor.source.name());
    let blame = |e: Error| tensor.blame(e);
    let block = keys.size("blocksize").map_err(blame)?.unwrap_or(64);
    if let Some(shape) = keys.get("shape").and_then(Value::as_array) {
        let shape: Vec<usize> = shape.iter().map(|d| d.as_u64().map_or(0, |d| d as usize)).collect();
        if shape != [rows, cols] {
            return Err(Error::corrupt(format!("shape mismatch for {}.weight", module.name))
                .file(tensor.source.name())
                .expected(dims(&[rows, cols]))
                .found(dims(&shape)));
        }
    }
    if block == 0 || !cols.is_multiple_of(block) || !block.is_multiple_of(UNIT) {
        let what = format!("blocks of {block} in rows of {cols}");
        let error = Error::unsupported(what).expected(format!("a multiple of {UNIT} that divides the row"));
        return Err(blame(error.remedy("blocks that straddle rows are not read")));
    }
    let weight = module.require("weight")?;
    let bytes = rows as u64 * cols as u64 / 2;
    if weight.bytes() != bytes {
        let error = Error::corrupt("weight length mismatch").expected(format!("{bytes} bytes"));
        return Err(weight.blame(error.found(weight.bytes())));
    }
    let blocks = rows * (cols / block);
    let absmax = sized(module, "weight.absmax", blocks)?;
    let quant_map = sized(module, "weight.quant_map", 16)?.floats(16, "quant_map value").await?;
    let mut table = [0.0; 16];
    table.copy_from_slice(&quant_map);
    let scale = match absmax.dtype {
        Dtype::U8 => Scales::Nested(vec![(rows, nested(module, &keys, blocks).await?)]),
        _ => Scales::Float(absmax.expect_float()?),
    };
    let codec = Lookup::new(name, table, block, scale)?;
    let data =
        Blocks { weight: weight.clone(), absmax: absmax.clone(), codec: codec.clone(), rows, cols, block };
    module.matrix(&READER, codec, Arc::new(data)).await
}

/// LLM.int8.
async fn int8(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["weight", "SCB", "weight_format", "bias"])?;
    if let Some(format) = module.tensor("weight_format")
        && let Some(tiles) = format.read_all().await?.iter().find(|&&byte| byte != 0)
    {
        let error = Error::unsupported("weight_format of LLM.int8").expected("0, whole rows").found(tiles);
        return Err(format.blame(error.remedy("save the model with a newer bitsandbytes")));
    }
    let (rows, cols) = (module.rows, module.cols);
    let layer = Affine {
        codes: Ints::signed(module.require("weight")?, (rows, cols))?,
        scales: Floats::new(module.require("SCB")?, (rows, 1), Layout::Rows)?,
        zeros: Zeros::Same(128),
        group: cols,
        divisor: 127,
        order: None,
    };
    let mut matrix = layer.matrix(module, &READER).await?;
    let threshold = Keys::new(module.quantization, "config.json").number("llm_int8_threshold")?;
    let outliers = Some(threshold.map_or(OUTLIERS, |threshold| threshold as f32)).filter(|&t| t > 0.0);
    matrix.activations = Some(Activations { outliers, ..Activations::int8(127.0) });
    Ok(matrix)
}

/// The tensor `suffix`, which has to have `len` elements.
fn sized<'a>(module: &Module<'a>, suffix: &str, len: usize) -> Result<&'a TensorInfo> {
    let tensor = module.require(suffix)?;
    let found: usize = tensor.shape.iter().product();
    if found != len {
        let what = format!("{} length mismatch", suffix.rsplit('.').next().unwrap_or(suffix));
        return Err(tensor.blame(Error::corrupt(what).expected(len).found(found)));
    }
    Ok(tensor)
}

/// The second quantization, of the scales.
async fn nested(module: &Module<'_>, keys: &Keys<'_>, blocks: usize) -> Result<Nested> {
    let block = keys.size("nested_blocksize")?.unwrap_or(256);
    let offset = keys.number("nested_offset")?.unwrap_or(0.0) as f32;
    if !block.is_power_of_two() || !offset.is_finite() {
        let error = Error::unsupported("double quantization").tensor(module.name);
        return Err(error.expected("blocks of a power of two").found(block));
    }
    let count = blocks.div_ceil(block);
    let absmax = sized(module, "weight.nested_absmax", count)?.floats(count, "nested_absmax value").await?;
    let map = sized(module, "weight.nested_quant_map", 256)?.floats(256, "nested_quant_map value").await?;
    Ok(Nested { map, absmax, offset, block })
}

/// A layer on disk.
struct Blocks {
    weight: TensorInfo,
    absmax: TensorInfo,
    codec: Arc<Lookup>,
    rows: usize,
    cols: usize,
    block: usize,
}

impl PieceSource for Blocks {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (rows, cols) = (extent.rows.clone(), extent.cols.clone());
            let part = cols.start / 2..cols.end / 2;
            let bytes = self.weight.read_rows(self.cols / 2, rows.clone(), part).await?;
            let codes = bytes.iter().flat_map(|&b| [u32::from(b >> 4), u32::from(b & 15)]).collect();
            let size = self.absmax.dtype.kind().map_or(1, |kind| kind.bits() as usize / 8);
            let part = cols.start / self.block * size..cols.end / self.block * size;
            let bytes = self.absmax.read_rows(self.cols / self.block * size, rows, part).await?;
            let absmax = match self.absmax.dtype {
                Dtype::U8 => bytes.iter().map(|&b| u32::from(b)).collect(),
                _ => self.absmax.float_items(&bytes, "absmax")?,
            };
            Ok(Piece { extent: extent.clone(), items: vec![codes, absmax] })
        })
    }
}
