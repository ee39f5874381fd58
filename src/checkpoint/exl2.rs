//! EXL2 (exllamav2): GPTQ with several bit rates in one matrix.
//!
//! For a layer of K inputs and N outputs, N padded to 32, in G groups of inputs, each of a rate b:
//!
//! * `M.q_weight` i32 `[Q, N]`: 32 inputs are b rows of words; in them every column is a little-endian bit stream.
//! * `M.q_groups` i16 `[2G]`: rate and first row of `q_weight` of every group.
//! * `M.q_scale` i32 `[G, N/8]`: a scale code n of four bits for every output, the first in the lowest bits.
//! * `M.q_scale_max` f16 `[G]`
//! * `M.q_invperm` i32 (i16 in older files) `[K]`: the row of the packed matrix that holds an input.
//!
//! `w = (q − 2^(b−1)) · (n + 1)² · max / 256`. The head of a tied model is quantized beside its embedding.

use super::tensor::{Dtype, Grid, Major, TensorInfo, unpack, words16, words32};
use super::{BoxFuture, InputTransform, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::mixed::{Mixed, Place, Segment, pack_unit};
use crate::quant::{Codec, Extent, Piece, UNIT};
use std::sync::Arc;

/// EXL2.
pub static READER: Reader = Reader {
    name: "EXL2",
    about: "2 to 8 bits, mixed within a matrix",
    signature: ".q_weight .q_groups .q_scale .q_scale_max .q_invperm",
    source: "exllamav2",
    methods: &["exl2"],
    claims: |module| module.tensor("q_groups").is_some(),
    format: |_| "EXL2",
    read: |module| Box::pin(read(module)),
};

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["q_weight", "q_groups", "q_scale", "q_scale_max", "q_invperm", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    if !cols.is_multiple_of(UNIT) {
        let error = Error::unsupported(format!("an EXL2 layer of {cols} inputs")).tensor(module.name);
        return Err(error.expected(format!("a multiple of {UNIT}")));
    }
    let weight = integers(module, "q_weight", &[Dtype::I32])?;
    let stored = match weight.shape[..] {
        [_, n] if n == rows || n == rows.next_multiple_of(32) => n,
        _ => return Err(weight.blame(Error::corrupt("q_weight of another width").expected(rows))),
    };
    let lines = weight.shape[0];
    let groups = integers(module, "q_groups", &[I16])?;
    let count = groups.shape.iter().product::<usize>() / 2;
    let pairs: Vec<u32> = words16(&groups.read_all().await?).collect();
    let segments = segments(&pairs, lines, cols).map_err(|e| groups.blame(e))?;
    let scale = integers(module, "q_scale", &[Dtype::I32])?;
    scale.expect_shape(&[count, stored.div_ceil(8)])?;
    let max = module.require("q_scale_max")?.floats(count, "scale").await?;
    let order = order(integers(module, "q_invperm", &[Dtype::I32, I16])?, cols).await?;
    let codec = Mixed::new(&segments, max).map_err(|e| groups.blame(e))?;
    let (weight, scale) = (weight.clone(), scale.clone());
    let data = Layer { weight, scale, codec: codec.clone(), rows, cols, stored };
    let mut matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    matrix.input = order.map_or(InputTransform::None, InputTransform::Permute);
    Ok(matrix)
}

const I16: Dtype = Dtype::Other { name: "I16", bits: 16 };

/// The tensor `suffix`, which has to be of one of `dtypes`.
fn integers<'a>(module: &Module<'a>, suffix: &str, dtypes: &[Dtype]) -> Result<&'a TensorInfo> {
    let tensor = module.require(suffix)?;
    if dtypes.contains(&tensor.dtype) {
        return Ok(tensor);
    }
    let error = Error::corrupt(format!("{suffix} must be {}", dtypes[0]));
    Err(tensor.blame(error.found(tensor.dtype)))
}

/// The segments that the groups make: (rate, first line) pairs over `lines` lines and `cols` columns.
fn segments(pairs: &[u32], lines: usize, cols: usize) -> Result<Vec<Segment>> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut units = 0;
    for (i, pair) in pairs.chunks_exact(2).enumerate() {
        let (bits, first) = (pair[0], pair[1] as usize);
        if !matches!(bits, 2..=6 | 8) {
            let error = Error::unsupported(format!("unsupported bit rate {bits}"));
            return Err(error.expected("2, 3, 4, 5, 6 or 8"));
        }
        let end = pairs.get(2 * i + 3).map_or(lines, |&next| next as usize);
        let length = end.saturating_sub(first);
        if length == 0 || !length.is_multiple_of(bits as usize) {
            let what = format!("q_groups give group {i} lines {first} to {end}");
            return Err(Error::corrupt(what).expected(format!("a multiple of {bits}")));
        }
        let group = length / bits as usize;
        units += group;
        match segments.last_mut().filter(|last| (last.bits, last.group) == (bits, group)) {
            Some(last) => last.units += group,
            None => segments.push(Segment { bits, units: group, group }),
        }
    }
    if pairs.get(1) != Some(&0) || units * UNIT != cols {
        let error = Error::corrupt("q_groups do not cover the inputs").expected(cols);
        return Err(error.found(units * UNIT));
    }
    Ok(segments)
}

/// The input of every column of the packed matrix, unless it is the column's own.
async fn order(invperm: &TensorInfo, cols: usize) -> Result<Option<Vec<u32>>> {
    invperm.expect_shape(&[cols])?;
    let bytes = invperm.read_all().await?;
    let places: Vec<u32> =
        if invperm.dtype == I16 { words16(&bytes).collect() } else { words32(&bytes).collect() };
    let mut order = vec![None; cols];
    for (input, &place) in places.iter().enumerate() {
        match order.get_mut(place as usize) {
            Some(free @ None) => *free = Some(input as u32),
            _ => return Err(invperm.blame(Error::corrupt("q_invperm is not a permutation").found(place))),
        }
    }
    let sorted = places.iter().enumerate().all(|(input, &place)| input == place as usize);
    Ok(if sorted { None } else { order.into_iter().collect() })
}

/// A layer on disk.
struct Layer {
    weight: TensorInfo,
    scale: TensorInfo,
    codec: Arc<Mixed>,
    rows: usize,
    cols: usize,
    stored: usize, // rows, padding included
}

impl PieceSource for Layer {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid { major: Major::Cols, ..Grid::new(self.rows, self.cols, &*self.codec) }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (rows, cols) = (extent.rows.clone(), extent.cols.clone());
            // A unit has as many lines on disk as it has words in memory.
            let lines = self.codec.items(0, cols.clone());
            let part = rows.start * 4..rows.end * 4;
            let bytes = self.weight.read_rows(self.stored * 4, lines.clone(), part).await?;
            let words: Vec<u32> = words32(&bytes).collect();
            let (mut packed, mut codes) = (Vec::with_capacity(words.len()), Vec::with_capacity(UNIT));
            for row in 0..rows.len() {
                for unit in cols.start / UNIT..cols.end / UNIT {
                    let Place { bits, word: line, .. } = self.codec.place(unit);
                    let stream =
                        words.iter().skip((line - lines.start) * rows.len() + row).step_by(rows.len());
                    codes.clear();
                    unpack(stream.copied(), bits as usize, UNIT, &mut codes);
                    pack_unit(bits, &codes, &mut packed);
                }
            }
            let groups = self.codec.items(1, cols);
            let part = rows.start / 8 * 4..rows.end.div_ceil(8) * 4;
            let bytes =
                self.scale.read_rows(self.stored.div_ceil(8) * 4, groups.clone(), part.clone()).await?;
            let nibble = |row: usize, group: usize| {
                let byte = bytes.get(group * part.len() + row / 2).copied().unwrap_or(0);
                u32::from(byte >> (4 * (row % 2)) & 15)
            };
            let scales = (0..rows.len()).flat_map(|row| (0..groups.len()).map(move |group| (row, group)));
            let scales = scales.map(|(row, group)| nibble(row, group)).collect();
            Ok(Piece { extent: extent.clone(), items: vec![packed, scales] })
        })
    }
}
