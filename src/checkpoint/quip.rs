//! QuIP# (Tseng et al. 2024), as quip-sharp's `hfize` scripts write it: E8P12 in 2 bits, E8P12RVQ3B and E8P12RVQ4B with
//! a residual plane in 3 and 4.
//!
//! For a layer `[N, K]`, N a multiple of 16 and K of 64:
//!
//! * `M.Qidxs` i64 `[N, words]`: columns 0 … K/32 are a plane of E8P12 codes, four 16-bit codes a word, in tiles of 16
//!   rows × 64 columns, see `untile`; RVQ4B has a second such plane in the next K/32 columns; RVQ3B has a byte for every
//!   8 weights, in order, in the next K/64.
//! * `M.SU` `[K]`, `M.SV` `[N]`: signs, or reals after fine-tuning.
//! * `M.Wscale` scalar, optional; `M.fuse_scales` `[slices]` where modules are fused; `M.codebook_id` scalar.
//! * with `rescale_WH`: `M.scaleWH` `[K]`; with `lora_rank` r: `M.A` `[N, r]`, `M.B` `[r, K]`.
//!
//! `x' = Hᵀ (SU ⊙ x / scaleWH);  y = SV · Wscale · fuse_scales ⊙ H (Ŵ x' + A·(B·x'))`. The modules of a layer are mostly
//! fused: `qkv_proj` holds the rows of q, k, v; `upgate_proj` those of up, then gate.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, lcm, words64};
use super::{BoxFuture, InputTransform, Module, OutputTransform, PieceSource, Reader, StoredMatrix, plain};
use crate::error::{Error, Result};
use crate::quant::e8p::{E8p12, Plane, Residual};
use crate::quant::hadamard::{self, Form};
use crate::quant::{Extent, Piece};
use std::ops::Range;
use std::sync::Arc;

/// QuIP#.
pub static READER: Reader = Reader {
    name: "QuIP#",
    about: "E8P12, E8P12RVQ3B, E8P12RVQ4B: 2, 3 and 4 bits, incoherence processing",
    signature: ".Qidxs .SU .SV [.Wscale] [.fuse_scales] [.scaleWH] [.A .B] [.codebook_id]",
    source: "quip-sharp",
    methods: &["QuIP#"],
    claims: |module| module.tensor("Qidxs").is_some(),
    format: |module| codebook(module).map_or("QuIP#", |codebook| codebook.format),
    read: |module| Box::pin(read(module)),
};

/// What `quip_params.codebook` names.
struct CodebookInfo {
    name: &'static str,
    format: &'static str,
    /// `codebook_id`.
    id: u64,
    /// `codebook_version`: older ones mean other tables.
    version: usize,
    residual: Option<Residual>,
}

static CODEBOOKS: [CodebookInfo; 3] = [
    CodebookInfo { name: "E8P12", format: "QuIP# E8P12", id: 7, version: 1, residual: None },
    CodebookInfo {
        name: "E8P12RVQ3B",
        format: "QuIP# E8P12RVQ3B",
        id: 18,
        version: 0,
        residual: Some(Residual::RVQ3B),
    },
    CodebookInfo {
        name: "E8P12RVQ4B",
        format: "QuIP# E8P12RVQ4B",
        id: 17,
        version: 1,
        residual: Some(Residual::RVQ4B),
    },
];

/// Rows and columns of a tile of `Qidxs`.
const TILE: (usize, usize) = (16, 64);

fn unsupported(what: String, expected: impl Into<String>) -> Error {
    Error::unsupported(format!("{what} of QuIP#")).file("config.json").expected(expected.into())
}

/// The codebook that the configuration names.
fn codebook(module: &Module<'_>) -> Result<&'static CodebookInfo> {
    let keys = Keys::new(module.quantization, "config.json");
    let name = keys.text("codebook")?.unwrap_or("E8P12");
    let names = || CODEBOOKS.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    let found = CODEBOOKS.iter().find(|c| c.name == name);
    let found = found.ok_or_else(|| unsupported(format!("codebook {name}"), names()))?;
    match keys.size("codebook_version")?.filter(|&version| version != found.version) {
        Some(version) => Err(unsupported(format!("codebook_version {version}"), found.version.to_string())),
        None => Ok(found),
    }
}

/// The codec, with everything else checked that the configuration says.
async fn codec(module: &Module<'_>) -> Result<Arc<E8p12>> {
    let keys = Keys::new(module.quantization, "config.json");
    let codebook = codebook(module)?;
    if keys.flag("outlier_channel_split")? {
        return Err(unsupported("outlier_channel_split true".into(), "false"));
    }
    if let Some(id) = module.tensor("codebook_id") {
        if id.bytes() != 8 {
            return Err(id.blame(Error::corrupt("codebook_id must be one I64").found(id.dtype)));
        }
        let found = words64(&id.read_all().await?).next().unwrap_or(0);
        if found != codebook.id {
            let expected = format!("{} ({})", codebook.id, codebook.name);
            return Err(unsupported(format!("codebook_id {found}"), expected));
        }
    }
    let divisor = keys.number("resid_scale_override")?.filter(|&divisor| divisor > 0.0);
    let residual = codebook.residual.map(|r| Residual { divisor: divisor.unwrap_or(r.divisor), ..r });
    Ok(E8p12::new(residual))
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let codec = codec(module).await?;
    let keys = Keys::new(module.quantization, "config.json");
    let rank = keys.size("lora_rank")?.unwrap_or(0);
    let mut known = vec!["Qidxs", "SU", "SV", "Wscale", "fuse_scales", "codebook_id", "bias"];
    if keys.flag("rescale_WH")? {
        known.push("scaleWH");
    }
    if rank > 0 {
        known.extend(["A", "B"]);
    }
    module.only(&known)?;
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
    let data = Planes { codes: codes.clone(), codec: codec.clone(), rows, cols };
    codes.expect_shape(&[rows, data.words()])?;
    let mut matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    matrix.input = InputTransform::Hadamard { signs: input_scales(module).await?, form: Form::Whole };
    matrix.output = OutputTransform::Hadamard { signs: output_scales(module).await?, form: Form::Whole };
    if rank > 0 {
        if module.tensor("Wscale").is_some() {
            return Err(unsupported(format!("lora_rank {rank} beside Wscale"), "Wscale folded into SV"));
        }
        let down = plain::matrix(module, "B", rank, cols)?;
        matrix.low_rank = Some(Box::new([down, plain::matrix(module, "A", rows, rank)?]));
    }
    Ok(matrix)
}

/// `SU / scaleWH`
async fn input_scales(module: &Module<'_>) -> Result<Vec<f32>> {
    let mut su = module.vector("SU", module.cols).await?;
    if Keys::new(module.quantization, "config.json").flag("rescale_WH")? {
        for (su, scale) in su.iter_mut().zip(module.vector("scaleWH", module.cols).await?) {
            *su /= scale;
            if !su.is_finite() {
                let error = Error::corrupt("scaleWH must not be zero").found(scale);
                return Err(module.require("scaleWH")?.blame(error));
            }
        }
    }
    Ok(su)
}

/// `SV · Wscale · fuse_scales`
async fn output_scales(module: &Module<'_>) -> Result<Vec<f32>> {
    let mut sv = module.vector("SV", module.rows).await?;
    let scale = match module.tensor("Wscale") {
        Some(_) => module.vector("Wscale", 1).await?,
        None => vec![1.0],
    };
    let fused = match module.tensor("fuse_scales") {
        Some(_) => module.vector("fuse_scales", module.slices.len()).await?,
        None => vec![1.0; module.slices.len()],
    };
    for (slice, fused) in module.slices.iter().zip(&fused) {
        for sv in &mut sv[slice.rows.clone()] {
            *sv = (f64::from(*sv) * f64::from(scale[0]) * f64::from(*fused)) as f32;
        }
    }
    Ok(sv)
}

/// The planes of codes of a layer on disk.
struct Planes {
    codes: TensorInfo,
    codec: Arc<E8p12>,
    rows: usize,
    cols: usize,
}

impl Planes {
    /// Words that a row of a plane of E8P12 has.
    fn plane_words(&self) -> usize {
        self.cols / 32
    }

    /// Words of a row of `Qidxs`.
    fn words(&self) -> usize {
        match self.codec.residual().map(|residual| residual.plane) {
            None => self.plane_words(),
            Some(Plane::E8) => self.plane_words() * 3 / 2,
            Some(Plane::E8p12) => self.plane_words() * 2,
        }
    }

    /// Columns `words` of `Qidxs` in `rows`.
    async fn read_words(&self, rows: Range<usize>, words: Range<usize>) -> Result<Vec<u64>> {
        let part = words.start * 8..words.end * 8;
        let bytes = self.codes.read_rows(self.words() * 8, rows, part).await?;
        Ok(words64(&bytes).collect())
    }
}

impl PieceSource for Planes {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &*self.codec);
        Grid { col_step: lcm(grid.col_step, TILE.1), ..grid }.cut(budget)
    }

    /// A band of 16 rows of tiles is contiguous in a plane, so that whole rows are read, whatever the columns.
    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (rows, plane) = (extent.rows.clone(), self.plane_words());
            let first = self.read_words(rows.clone(), 0..plane).await?;
            let mut codes = untile(&first, rows.len(), self.cols, extent.cols.clone());
            let residual = match self.codec.residual().map(|residual| residual.plane) {
                None => Vec::new(),
                Some(Plane::E8p12) => {
                    let second = self.read_words(rows.clone(), plane..2 * plane).await?;
                    untile(&second, rows.len(), self.cols, extent.cols.clone())
                }
                Some(Plane::E8) => {
                    let part = plane + extent.cols.start / 64..plane + extent.cols.end / 64;
                    let words = self.read_words(rows, part).await?;
                    words.iter().flat_map(|word| word.to_le_bytes()).map(u32::from).collect()
                }
            };
            codes.iter_mut().zip(residual).for_each(|(code, residual)| *code |= residual << 16);
            Ok(Piece { extent: extent.clone(), items: vec![codes] })
        })
    }
}

/// Tiles of `rows` rows of a plane → row-major codes of the columns `part`, 8 columns each.
///
/// A tile of 16 × 64 weights is 32 words: word `r/2 · 4 + k/16` holds the codes of rows `r`, `r + 1` and columns `k`,
/// `k + 8`. Byte `B = r % 2 + 2 · (k/8 % 2)` of its lower half is the high byte of a code; bits `32 + 4p + B` are bits p
/// of the low byte.
fn untile(words: &[u64], rows: usize, cols: usize, part: Range<usize>) -> Vec<u32> {
    let mut codes = Vec::with_capacity(rows * part.len() / 8);
    for row in 0..rows {
        for code in part.start / 8..part.end / 8 {
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
