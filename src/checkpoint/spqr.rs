//! SpQR (Dettmers et al. 2023) as its inference library and transformers save it: 3 bits, tiles of 16 × 16, outliers.
//!
//! For a layer `[N, K]`, N and K multiples of 16:
//!
//! * `M.dense_weights` i64 `[N/16 · K/16 · 16]`: tile by tile, a word of 64 bits a row of a tile: q_s in bits 0–2, q_z in
//!   3–5, sixteen codes of 3 bits from 6 on, and in 54–61 a byte of the tile: rows 2i and 2i + 1 hold byte i of the f16
//!   numbers S_s, Z_s, S_z, Z_z.
//! * `M.row_offsets` i32 `[N + 1]`, `M.col_vals` i32: outliers in CSR, an f16 value above a u16 column.
//! * `M.in_perm` i32 `[K/2]`, two u16 a word: column k of the layer, and of its outliers, is input `in_perm[k]`.
//!
//! `w = s · (q − z) + outlier`, `s = S_s · (q_s − S_z)`, `z = Z_s · (q_z − Z_z)`.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, words16, words32, words64};
use super::{BoxFuture, InputTransform, Module, PieceSource, Reader, Sparse, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::bilevel::{Bilevel, TILE, TILES};
use crate::quant::{Extent, Kind, Piece};
use std::sync::Arc;

/// SpQR.
pub static READER: Reader = Reader {
    name: "SpQR",
    about: "3 bits in tiles of 16 × 16, with outliers",
    signature: ".dense_weights .row_offsets .col_vals .in_perm",
    source: "SpQR, transformers",
    methods: &["spqr"],
    claims: |module| module.tensor("dense_weights").is_some(),
    format: |_| "SpQR",
    read: |module| Box::pin(read(module)),
};

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let keys = Keys::new(module.quantization, "config.json");
    for (key, expected) in [("bits", 3), ("beta1", TILE), ("beta2", TILE)] {
        if let Some(found) = keys.size(key)?.filter(|&found| found != expected) {
            let error = Error::unsupported(format!("{key} {found} of SpQR")).file("config.json");
            return Err(error.expected(expected));
        }
    }
    module.only(&["dense_weights", "row_offsets", "col_vals", "in_perm", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    if !rows.is_multiple_of(TILE) || !cols.is_multiple_of(TILE) || cols > 1 << 16 {
        let what = format!("an SpQR layer of {cols} inputs and {rows} outputs");
        return Err(Error::unsupported(what).tensor(module.name).expected(format!("multiples of {TILE}")));
    }
    let dense = integers(module, "dense_weights", Dtype::I64)?;
    dense.expect_shape(&[rows * cols / TILE])?;
    let order = order(module, cols).await?;
    let sparse = outliers(module, rows, cols, order.as_deref()).await?;
    let data = Tiles { dense: dense.clone(), rows, cols };
    let mut matrix = module.matrix(&READER, Bilevel::new(), Arc::new(data)).await?;
    matrix.input = order.map_or(InputTransform::None, InputTransform::Permute);
    matrix.sparse = sparse;
    Ok(matrix)
}

/// The tensor `suffix`, which has to be of `dtype`.
fn integers<'a>(module: &Module<'a>, suffix: &str, dtype: Dtype) -> Result<&'a TensorInfo> {
    let tensor = module.require(suffix)?;
    if tensor.dtype == dtype {
        return Ok(tensor);
    }
    let error = Error::corrupt(format!("{suffix} must be {dtype}"));
    Err(tensor.blame(error.found(tensor.dtype)))
}

/// The input of every column, unless it is the column's own.
async fn order(module: &Module<'_>, cols: usize) -> Result<Option<Vec<u32>>> {
    let Some(tensor) = module.tensor("in_perm").filter(|tensor| tensor.bytes() > 0) else { return Ok(None) };
    integers(module, "in_perm", Dtype::I32)?.expect_shape(&[cols / 2])?;
    let order: Vec<u32> = words16(&tensor.read_all().await?).collect();
    let mut seen = vec![false; cols];
    for &input in &order {
        match seen.get_mut(input as usize) {
            Some(seen @ false) => *seen = true,
            _ => return Err(tensor.blame(Error::corrupt("in_perm is not a permutation").found(input))),
        }
    }
    Ok(order.iter().enumerate().any(|(k, &input)| k != input as usize).then_some(order))
}

/// The outliers, their columns in the order of x; none if there are none.
async fn outliers(
    module: &Module<'_>,
    rows: usize,
    cols: usize,
    order: Option<&[u32]>,
) -> Result<Option<Sparse>> {
    let tensor = integers(module, "row_offsets", Dtype::I32)?;
    tensor.expect_shape(&[rows + 1])?;
    let values = integers(module, "col_vals", Dtype::I32)?;
    let count = (values.bytes() / 4) as u32;
    let offsets: Vec<u32> = words32(&tensor.read_all().await?).collect();
    if let Some(&past) = offsets.iter().find(|&&offset| offset > count) {
        let error = Error::corrupt("row_offsets exceed col_vals").expected(format!("at most {count}"));
        return Err(tensor.blame(error.found(past)));
    }
    if !offsets.is_sorted() || offsets.first() != Some(&0) || offsets.last() != Some(&count) {
        let error = Error::corrupt("row_offsets do not count col_vals");
        return Err(tensor.blame(error.expected(format!("ascending numbers from 0 to {count}"))));
    }
    let mut entries: Vec<u32> = words32(&values.read_all().await?).collect();
    for entry in &mut entries {
        let (column, value) = ((*entry & 0xffff) as usize, *entry >> 16);
        if column >= cols || !Kind::F16.finite(value) {
            let error = Error::corrupt("an outlier that is no finite number in a column of the layer");
            return Err(values.blame(error.found(format!("{} in column {column}", Kind::F16.value(value)))));
        }
        *entry = value << 16 | order.map_or(column as u32, |order| order[column]);
    }
    Ok((count > 0).then_some(Sparse { offsets, entries }))
}

/// A layer on disk.
struct Tiles {
    dense: TensorInfo,
    rows: usize,
    cols: usize,
}

impl PieceSource for Tiles {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &Bilevel).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (rows, cols) = (extent.rows.len(), extent.cols.len());
            let bands = extent.rows.start / TILE..extent.rows.end / TILE;
            let part = extent.cols.start * 8..extent.cols.end * 8;
            let words: Vec<u64> = words64(&self.dense.read_rows(self.cols * 8, bands, part).await?).collect();
            let tiles = cols / TILE;
            let tile = |row: usize, group: usize| &words[(row / TILE * tiles + group) * TILE..][..TILE];
            let mut codes = Vec::with_capacity(rows * cols);
            let (mut first, mut second) = (Vec::with_capacity(rows * tiles), Vec::new());
            for row in 0..rows {
                for group in 0..tiles {
                    let word = tile(row, group)[row % TILE];
                    first.push(word as u32 & 63);
                    codes.extend((0..TILE).map(|i| (word >> (6 + 3 * i)) as u32 & 7));
                }
                for block in 0..tiles.div_ceil(TILES) {
                    let group = block * TILES + row % TILE / 4;
                    let byte = |i: usize| (tile(row, group)[2 * i] >> 54) as u32 & 255;
                    let half =
                        if group < tiles { byte(2 * (row % 4)) | byte(2 * (row % 4) + 1) << 8 } else { 0 };
                    if !Kind::F16.finite(half) {
                        let error = Error::corrupt(format!("non-finite scale in {}", self.dense.name));
                        return Err(error.file(self.dense.source.name()).expected("finite numbers"));
                    }
                    second.push(half);
                }
            }
            Ok(Piece { extent: extent.clone(), items: vec![codes, first, second] })
        })
    }
}
