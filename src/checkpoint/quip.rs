//! QuIP# (Tseng et al. 2024) with the E8P12 codebook, as quip-sharp's `hfize` scripts write it.
//!
//! For a layer `[N, K]`, N a multiple of 16 and K of 64:
//!
//! * `M.Qidxs` i64 `[N, K/32]`: four 16-bit codes a word, in tiles of 16 rows × 64 columns, see `untile`.
//! * `M.SU` `[K]`, `M.SV` `[N]`: signs, or reals after fine-tuning.
//! * `M.Wscale` scalar, optional; `M.fuse_scales` `[slices]` where modules are fused; `M.codebook_id` scalar.
//!
//! `y = SV · Wscale · fuse_scales ⊙ H (Ŵ · Hᵀ (SU ⊙ x))`. The modules of a layer are fused: `qkv_proj` holds the rows
//! of q, k, v; `upgate_proj` those of up, then gate.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, lcm, words64};
use super::{BoxFuture, InputTransform, Module, OutputTransform, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::e8p::E8p12;
use crate::quant::{Extent, Piece, hadamard};
use std::sync::Arc;

/// QuIP#.
pub static READER: Reader = Reader {
    name: "QuIP#",
    about: "E8P12: 2 bits, incoherence processing",
    signature: ".Qidxs .SU .SV [.Wscale] [.fuse_scales] [.codebook_id]",
    source: "quip-sharp",
    methods: &["QuIP#"],
    claims: |module| module.tensor("Qidxs").is_some(),
    format: |_| "QuIP# E8P12",
    read: |module| Box::pin(read(module)),
};

/// `codebook_id` of E8P12.
const E8P12: u64 = 7;
/// Rows and columns of a tile of `Qidxs`, and its bytes.
const TILE: (usize, usize, usize) = (16, 64, 256);

async fn check_settings(module: &Module<'_>) -> Result<()> {
    let keys = Keys::new(module.quantization, "config.json");
    let unsupported = |what: String, expected: &str| {
        Err(Error::unsupported(format!("{what} of QuIP#")).file("config.json").expected(expected))
    };
    if let Some(codebook) = keys.text("codebook")?.filter(|&name| name != "E8P12") {
        return unsupported(format!("codebook {codebook}"), "E8P12");
    }
    if let Some(version) = keys.size("codebook_version")?.filter(|&version| version != 1) {
        return unsupported(format!("codebook_version {version}"), "1");
    }
    if let Some(rank) = keys.size("lora_rank")?.filter(|&rank| rank > 0) {
        return unsupported(format!("lora_rank {rank}"), "0");
    }
    for key in ["rescale_WH", "outlier_channel_split"] {
        if keys.flag(key)? {
            return unsupported(format!("{key} true"), "false");
        }
    }
    for suffix in ["scaleWH", "A", "B"] {
        if let Some(tensor) = module.tensor(suffix) {
            return unsupported(format!("tensor {}", tensor.name), "no rescaling and no low-rank part");
        }
    }
    let Some(id) = module.tensor("codebook_id") else { return Ok(()) };
    if id.bytes() != 8 {
        return Err(id.blame(Error::corrupt("codebook_id must be one I64").found(id.dtype)));
    }
    match words64(&id.read_all().await?).next() {
        Some(E8P12) => Ok(()),
        found => unsupported(format!("codebook_id {}", found.unwrap_or(0)), "7 (E8P12)"),
    }
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    check_settings(module).await?;
    module.only(&["Qidxs", "SU", "SV", "Wscale", "fuse_scales", "codebook_id", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    if !rows.is_multiple_of(TILE.0) || !cols.is_multiple_of(TILE.1) {
        let what = format!("a QuIP# layer of {cols} inputs and {rows} outputs");
        let expected = format!("multiples of {} and {}", TILE.1, TILE.0);
        return Err(Error::unsupported(what).tensor(module.name).expected(expected));
    }
    for size in [rows, cols] {
        hadamard::factor(size).map_err(|e| e.tensor(module.name))?;
    }
    let codes = module.require("Qidxs")?;
    if codes.dtype != Dtype::I64 {
        return Err(codes.blame(Error::corrupt("Qidxs must be I64").found(codes.dtype)));
    }
    codes.expect_shape(&[rows, cols / 32])?;
    let su = vector(module, "SU", cols).await?;
    let mut sv = vector(module, "SV", rows).await?;
    let scale = match module.tensor("Wscale") {
        Some(_) => vector(module, "Wscale", 1).await?,
        None => vec![1.0],
    };
    let fused = match module.tensor("fuse_scales") {
        Some(_) => vector(module, "fuse_scales", module.slices.len()).await?,
        None => vec![1.0; module.slices.len()],
    };
    for (slice, fused) in module.slices.iter().zip(&fused) {
        for sv in &mut sv[slice.rows.clone()] {
            *sv = (f64::from(*sv) * f64::from(scale[0]) * f64::from(*fused)) as f32;
        }
    }
    let mut matrix =
        module.matrix(&READER, E8p12::new(), Arc::new(Tiles { codes: codes.clone(), rows, cols })).await?;
    matrix.input = InputTransform::Hadamard(su);
    matrix.output = OutputTransform::Hadamard(sv);
    Ok(matrix)
}

/// The float tensor `suffix`, which has to have `len` elements.
async fn vector(module: &Module<'_>, suffix: &str, len: usize) -> Result<Vec<f32>> {
    let tensor = module.require(suffix)?;
    let found: usize = tensor.shape.iter().product();
    if found != len {
        let error = Error::corrupt(format!("{suffix} length mismatch")).expected(len).found(found);
        return Err(tensor.blame(error));
    }
    tensor.floats(len, suffix).await
}

/// The codes of a layer on disk.
struct Tiles {
    codes: TensorInfo,
    rows: usize,
    cols: usize,
}

impl PieceSource for Tiles {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &E8p12);
        Grid { col_step: lcm(grid.col_step, TILE.1), ..grid }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (high, wide, size) = TILE;
            let bands = extent.rows.start / high..extent.rows.end / high;
            let part = extent.cols.start / wide * size..extent.cols.end / wide * size;
            let bytes = self.codes.read_rows(self.cols / wide * size, bands, part).await?;
            let codes = untile(&bytes, extent.rows.len(), extent.cols.len());
            Ok(Piece { extent: extent.clone(), items: vec![codes] })
        })
    }
}

/// Tiles → row-major codes, 8 columns each.
///
/// A tile of 16 × 64 weights is 32 words of 64 bits: word `r/2 · 4 + k/16` holds the codes of rows `r`, `r + 1` and
/// columns `k`, `k + 8`. Byte `B = r % 2 + 2 · (k/8 % 2)` of its lower half is the high byte of a code; bits
/// `32 + 4p + B` are bits p of the low byte.
fn untile(bytes: &[u8], rows: usize, cols: usize) -> Vec<u32> {
    let words: Vec<u64> = words64(bytes).collect();
    let mut codes = Vec::with_capacity(rows * cols / 8);
    for row in 0..rows {
        for code in 0..cols / 8 {
            let tile = row / 16 * (cols / 64) + code / 8;
            let word = words[tile * 32 + row % 16 / 2 * 4 + code / 2 % 4];
            let byte = row % 2 + 2 * (code % 2);
            let high = (word >> (8 * byte)) as u32 & 0xff;
            let low = (0..8).fold(0, |low, p| low | (word >> (32 + 4 * p + byte) & 1) << p);
            codes.push(high << 8 | low as u32);
        }
    }
    codes
}
