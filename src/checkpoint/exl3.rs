//! EXL3, as exllamav3 writes it: a trellis code (QTIP: Tseng et al. 2024) between Hadamard transforms of 128.
//!
//! For a layer of K inputs and N outputs at b = 1–8 bits, N made a multiple of 128 by outputs whose scale is zero:
//!
//! * `M.trellis` i16 `[K/16, N/16, 16·b]`: tiles of 16 inputs × 16 outputs; two 16-bit words, the first the lower half,
//!   make a word of the stream that [`crate::quant::trellis`] describes.
//! * `M.suh` f16 `[K]`, `M.svh` f16 `[N]`: signs times scales; in older files `M.su`, `M.sv` i16 `[K/16]`, `[N/16]`, a bit
//!   each, lowest first, set for −1.
//! * `M.mcg` or `M.mul1` i32 scalar: the multiplier of the codebook that it names; `3inst` where there is neither.
//! * `M.bias` f16 `[N]`, optional.
//!
//! `y = svh ⊙ H (Ŵ · H (suh ⊙ x)) + bias`, H the orthonormal Hadamard matrix of order 128 on every 128 values.

use super::tensor::{Dtype, Grid, Major, TensorInfo, dims, words16, words32};
use super::{BoxFuture, InputTransform, Module, OutputTransform, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::hadamard::Form;
use crate::quant::trellis::{Codebook, Order, TILE, Trellis};
use crate::quant::{Extent, Piece};
use std::sync::Arc;

/// EXL3.
pub static READER: Reader = Reader {
    name: "EXL3",
    about: "1-8 bits, codebooks 3inst, mcg and mul1, quantized heads",
    signature: ".trellis .suh .svh [.mcg] [.mul1]",
    source: "exllamav3",
    methods: &["exl3"],
    claims: |module| module.tensor("trellis").is_some() && module.method() == Some("exl3"),
    format: |_| "EXL3",
    read: |module| Box::pin(read(module)),
};

/// Order of the Hadamard transforms.
const BLOCK: usize = 128;

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["trellis", "suh", "svh", "su", "sv", "mcg", "mul1", "bias"])?;
    let (rows, cols) = (module.rows.next_multiple_of(BLOCK), module.cols);
    if !cols.is_multiple_of(BLOCK) {
        let what = format!("an EXL3 layer of {cols} inputs");
        return Err(Error::unsupported(what).tensor(module.name).expected(format!("a multiple of {BLOCK}")));
    }
    let trellis = module.require("trellis")?;
    if Some(trellis.dtype) != Dtype::named("I16") {
        return Err(trellis.blame(Error::corrupt("trellis must be I16").found(trellis.dtype)));
    }
    let words = trellis.shape.last().copied().unwrap_or(0);
    if words % 16 == 8 {
        let error = Error::unsupported("an EXL3 layer of a half-integer bit rate");
        return Err(trellis.blame(error.expected("16·b words a tile").found(words)));
    }
    trellis.expect_shape(&[cols / TILE, rows / TILE, words / 16 * 16])?;
    let codebook = codebook(module).await?;
    let codec = Trellis::new(words / 16, codebook, Order::Lanes).map_err(|e| trellis.blame(e))?;
    let data = Tiles { trellis: trellis.clone(), codec: codec.clone(), rows, cols };
    Ok(StoredMatrix {
        name: module.name.to_string(),
        rows,
        cols,
        codec,
        input: InputTransform::Hadamard {
            signs: scales(module, "su", cols).await?,
            form: Form::Blocks(BLOCK),
        },
        output: OutputTransform::Hadamard {
            signs: scales(module, "sv", rows).await?,
            form: Form::Blocks(BLOCK),
        },
        activations: None,
        sparse: None,
        low_rank: None,
        slices: module.slices.clone(),
        bias: bias(module, rows).await?,
        data: Arc::new(data),
        disk_bytes: module.tensors.under(module.name).map(TensorInfo::bytes).sum(),
        format: READER.name,
    })
}

/// The codebook that a multiplier beside the trellis names.
async fn codebook(module: &Module<'_>) -> Result<Codebook> {
    let mut found = Codebook::ThreeInst;
    for (suffix, multiplier, codebook) in
        [("mcg", 0xcbac_1fed, Codebook::Mcg), ("mul1", 0x83dc_d12d, Codebook::Mul1)]
    {
        let Some(tensor) = module.tensor(suffix) else { continue };
        if tensor.bytes() != 4 {
            return Err(tensor.blame(Error::corrupt(format!("{suffix} must be one I32")).found(tensor.dtype)));
        }
        let value = words32(&tensor.read_all().await?).next().unwrap_or(0);
        if value != multiplier || found != Codebook::ThreeInst {
            let error =
                Error::unsupported("codebook of EXL3").expected("one of the multipliers of mcg and mul1");
            return Err(tensor.blame(error.found(format!("{value:#x}"))));
        }
        found = codebook;
    }
    Ok(found)
}

/// `suh`, or the signs `su` of older files.
async fn scales(module: &Module<'_>, name: &str, len: usize) -> Result<Vec<f32>> {
    let Some(packed) = module.tensor(name) else { return module.vector(&format!("{name}h"), len).await };
    packed.expect_shape(&[len / 16])?;
    if Some(packed.dtype) != Dtype::named("I16") {
        return Err(packed.blame(Error::corrupt(format!("{name} must be I16")).found(packed.dtype)));
    }
    let sign = |bit: u32| if bit == 1 { -1.0 } else { 1.0 };
    let signs = |word: u32| (0..16).map(move |i| sign(word >> i & 1));
    Ok(words16(&packed.read_all().await?).flat_map(signs).collect())
}

/// The bias, without that of outputs which are padding.
async fn bias(module: &Module<'_>, padded: usize) -> Result<Option<Vec<f32>>> {
    let Some(bias) = module.tensor("bias") else { return Ok(None) };
    let [len] = bias.shape[..] else {
        return Err(bias.blame(Error::corrupt("must be a vector").found(dims(&bias.shape))));
    };
    if len != padded {
        bias.expect_shape(&[module.rows])?;
    }
    let mut values = bias.floats(len, "bias").await?;
    values.truncate(module.rows);
    Ok(Some(values))
}

/// A layer on disk.
struct Tiles {
    trellis: TensorInfo,
    codec: Arc<Trellis>,
    rows: usize,
    cols: usize,
}

impl PieceSource for Tiles {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid { major: Major::Cols, ..Grid::new(self.rows, self.cols, &*self.codec) }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let tile = self.codec.tile_words();
            let (high, wide) = (extent.rows.len() / TILE, extent.cols.len() / TILE);
            let part = extent.rows.start / TILE * tile * 4..extent.rows.end / TILE * tile * 4;
            let inputs = extent.cols.start / TILE..extent.cols.end / TILE;
            let bytes = self.trellis.read_rows(self.rows / TILE * tile * 4, inputs, part).await?;
            // [inputs][outputs] → [outputs][inputs], tile by tile.
            let stored: Vec<u32> = words32(&bytes).collect();
            let place = |n: usize| (0..wide).map(move |k| (k * high + n) * tile);
            let words = (0..high).flat_map(place).flat_map(|at| stored[at..at + tile].iter().copied());
            Ok(Piece { extent: extent.clone(), items: vec![words.collect()] })
        })
    }
}
