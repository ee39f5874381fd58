//! AQLM (Egiazarian et al. 2024), also after PV-tuning, as its `inference_lib` and transformers read it.
//!
//! For a layer of K inputs and N outputs, C codebooks of b bits, for blocks of `og` outputs × `ig` inputs:
//!
//! * `M.codes` i8 (b ≤ 8) or i16 `[N/og, K/ig, C]`: modulo 2^b, so that the upper half is negative.
//! * `M.codebooks` f16 `[C, 2^b, og, ig]`
//! * `M.scales` f16 `[N/og, 1, 1, 1]`
//!
//! `W[block] = scale · Σ_c codebooks[c, code_c]`.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, dims, words16};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::codebook::{Codebook, Sizes};
use crate::quant::{Extent, Piece, UNIT};
use std::sync::Arc;

/// AQLM.
pub static READER: Reader = Reader {
    name: "AQLM",
    about: "1×16, 2×8 and other codebooks, groups of 4, 8, 16 or 32 inputs",
    signature: ".codes .codebooks .scales",
    source: "AQLM",
    methods: &["aqlm"],
    claims: |module| module.tensor("codes").is_some() && module.tensor("codebooks").is_some(),
    format: |_| "AQLM",
    read: |module| Box::pin(read(module)),
};

/// The sizes of a layer's codebooks, which the configuration must not contradict.
fn sizes(module: &Module<'_>, codebooks: &TensorInfo) -> Result<Sizes> {
    let shape = &codebooks.shape;
    let [count, entries, output, input] = shape[..] else {
        let error = Error::corrupt("codebooks must have four dimensions").found(dims(shape));
        return Err(codebooks.blame(error.expected("[codebooks, entries, outputs, inputs]")));
    };
    if !entries.is_power_of_two() {
        let error = Error::unsupported("entries of a codebook").expected("a power of two");
        return Err(codebooks.blame(error.found(entries)));
    }
    let sizes = Sizes { codebooks: count, bits: entries.ilog2(), output, input };
    let keys = Keys::new(module.quantization, "config.json");
    for (key, found) in [
        ("num_codebooks", count),
        ("nbits_per_codebook", sizes.bits as usize),
        ("out_group_size", output),
        ("in_group_size", input),
    ] {
        if let Some(wanted) = keys.size(key)?.filter(|&wanted| wanted != found) {
            let error = Error::corrupt(format!("{key} of config.json is not that of the codebooks"));
            return Err(codebooks.blame(error.expected(wanted).found(found)));
        }
    }
    Ok(sizes)
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["codes", "codebooks", "scales", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    let codebooks = module.require("codebooks")?;
    for tensor in [codebooks, module.require("scales")?] {
        if tensor.dtype != Dtype::F16 {
            let what = format!("unexpected dtype {} for {}", tensor.dtype, tensor.name);
            return Err(Error::unsupported(what).file(tensor.source.name()).expected("F16"));
        }
    }
    let sizes = sizes(module, codebooks)?;
    let Sizes { codebooks: count, bits, output, input } = sizes;
    if output == 0 || input == 0 || !rows.is_multiple_of(output) || !cols.is_multiple_of(UNIT.max(input)) {
        let what =
            format!("an AQLM layer of {cols} inputs and {rows} outputs in blocks of {output} × {input}");
        let expected = format!("whole blocks, and a multiple of {UNIT} inputs");
        return Err(Error::unsupported(what).tensor(module.name).expected(expected));
    }
    let codes = module.require("codes")?;
    codes.expect_shape(&[rows / output, cols / input, count])?;
    let dtype = if sizes.code_bits() == 8 { "I8" } else { "I16" };
    if Some(codes.dtype) != Dtype::named(dtype) {
        let error = Error::corrupt(format!("codes of {bits} bits must be {dtype}"));
        return Err(codes.blame(error.found(codes.dtype)));
    }
    let scales = module.require("scales")?;
    scales.expect_shape(&[rows / output, 1, 1, 1])?;
    let values = codebooks.float_items(&codebooks.read_all().await?, "codebook value")?;
    let values: Vec<u16> = values.into_iter().map(|v| v as u16).collect();
    let codec = Codebook::new(sizes, &values).map_err(|e| codebooks.blame(e))?;
    let data =
        Layer { codes: codes.clone(), scales: scales.clone(), codec: codec.clone(), sizes, rows, cols };
    module.matrix(&READER, codec, Arc::new(data)).await
}

/// A layer on disk.
struct Layer {
    codes: TensorInfo,
    scales: TensorInfo,
    codec: Arc<Codebook>,
    sizes: Sizes,
    rows: usize,
    cols: usize,
}

impl Layer {
    /// A stored code as an index: the reference takes it modulo 2^b, and what the maker's packer does not write is
    /// taken for damage.
    fn code(&self, stored: i32) -> Result<u32> {
        let entries = 1i32 << self.sizes.bits;
        if stored < -(entries / 2) || stored >= entries {
            let error = Error::corrupt(format!("code {stored} out of range"));
            return Err(self.codes.blame(error.expected(format!("codes of {} bits", self.sizes.bits))));
        }
        Ok(stored as u32 & (entries - 1) as u32)
    }
}

impl PieceSource for Layer {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let Sizes { codebooks, output, input, .. } = self.sizes;
            let lines = extent.rows.start / output..extent.rows.end / output;
            let size = self.sizes.code_bits() as usize / 8 * codebooks;
            let part = extent.cols.start / input * size..extent.cols.end / input * size;
            let bytes = self.codes.read_rows(self.cols / input * size, lines.clone(), part).await?;
            let codes: Result<Vec<u32>> = if self.sizes.code_bits() == 8 {
                bytes.iter().map(|&byte| self.code(i32::from(byte as i8))).collect()
            } else {
                words16(&bytes).map(|word| self.code(i32::from(word as i16))).collect()
            };
            let bytes = self.scales.read_rows(2, lines, 0..2).await?;
            let scales = self.scales.float_items(&bytes, "scale")?;
            Ok(Piece { extent: extent.clone(), items: vec![codes?, scales] })
        })
    }
}
