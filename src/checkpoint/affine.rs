//! What packed-integer formats have in common: `w = (q − z) · s` or `q · s + m`, codes, scales and zero points each in
//! a tensor of its own. A reader says how each of them lies; this reads any rectangle.

use super::ints::Ints;
use super::tensor::{Dtype, Grid, Major, TensorInfo, words32};
use super::{BoxFuture, InputTransform, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Kind, Piece, TILE_ROWS, WHOLE_ROW};
use std::ops::Range;
use std::sync::Arc;

/// Scales or minima, `[rows, cols]` of them.
#[derive(Debug, Clone)]
pub(crate) struct Floats {
    tensor: TensorInfo,
    kind: Kind,
    layout: Layout,
    /// Numbers in a line of the tensor.
    width: usize,
}

/// How [`Floats`] lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[rows, cols]`
    Rows,
    /// `[cols, rows]`
    Cols,
    /// One of the numbers of pairs, `[cols, rows, 2]`.
    Pairs(usize),
    /// One number for all.
    One,
}

impl Floats {
    /// The numbers of `tensor`, whose type and shape are checked.
    pub(crate) fn new(tensor: &TensorInfo, (rows, cols): (usize, usize), layout: Layout) -> Result<Self> {
        match layout {
            Layout::Rows if cols == 1 && tensor.shape == [rows] => {}
            Layout::Rows => tensor.expect_shape(&[rows, cols])?,
            Layout::Cols => tensor.expect_shape(&[cols, rows])?,
            Layout::Pairs(_) => tensor.expect_shape(&[cols, rows, 2])?,
            Layout::One if tensor.shape.iter().product::<usize>() == 1 => {}
            Layout::One => tensor.expect_shape(&[1])?,
        }
        let width = match layout {
            Layout::Rows => cols,
            Layout::Cols => rows,
            Layout::Pairs(_) => 2 * rows,
            Layout::One => 1,
        };
        Ok(Self { tensor: tensor.clone(), kind: tensor.expect_float()?, layout, width })
    }

    /// Those of a rectangle, row-major.
    async fn read(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<u32>> {
        let (lines, part) = match self.layout {
            Layout::Rows => (rows.clone(), cols.clone()),
            Layout::Cols => (cols.clone(), rows.clone()),
            Layout::Pairs(_) => (cols.clone(), 2 * rows.start..2 * rows.end),
            Layout::One => (0..1, 0..1),
        };
        let size = self.kind.bits() as usize / 8;
        let bytes =
            self.tensor.read_rows(self.width * size, lines, part.start * size..part.end * size).await?;
        let items = self.tensor.float_items(&bytes, "scale")?;
        Ok(match self.layout {
            Layout::Rows => items,
            Layout::Cols => {
                (0..part.len()).flat_map(|r| items.iter().skip(r).step_by(part.len())).copied().collect()
            }
            Layout::Pairs(which) => {
                let line = |r: usize| items.iter().skip(2 * r + which).step_by(part.len());
                (0..rows.len()).flat_map(line).copied().collect()
            }
            Layout::One => items.iter().cycle().take(rows.len() * cols.len()).copied().collect(),
        })
    }
}

/// What is subtracted from the codes, or added to the weights.
#[derive(Debug, Clone)]
pub(crate) enum Zeros {
    /// One zero point for all.
    Same(u32),
    /// A zero point a group; kept as one where they are all the same.
    Each(Ints),
    /// A minimum a group.
    Minima(Floats),
    /// One zero point for all, and a number a group that is added.
    Around(u32, Floats),
}

/// A layer on disk.
pub(crate) struct Affine {
    /// `[rows, cols]`
    pub(crate) codes: Ints,
    /// `[rows, groups]`
    pub(crate) scales: Floats,
    /// `[rows, groups]`
    pub(crate) zeros: Zeros,
    /// Columns of a group; those of a row where that is one group.
    pub(crate) group: usize,
    /// The scales are so many times too large.
    pub(crate) divisor: u32,
    /// The inputs sorted by group, where they are not.
    pub(crate) order: Option<Arc<[u32]>>,
}

impl Affine {
    /// The matrix of a module.
    pub(crate) async fn matrix(mut self, module: &Module<'_>, reader: &Reader) -> Result<StoredMatrix> {
        let groups = module.cols.div_ceil(self.group);
        if let Zeros::Each(zeros) = &self.zeros
            && let Some(zero) = common(zeros, module.rows, groups).await?
        {
            self.zeros = Zeros::Same(zero);
        }
        let offset = match &self.zeros {
            Zeros::Same(zero) => Offset::Symmetric(*zero),
            Zeros::Each(_) => Offset::Zero,
            Zeros::Minima(_) => Offset::Min,
            Zeros::Around(zero, _) => Offset::Around(*zero),
        };
        let run = if groups == 1 { WHOLE_ROW } else { self.group };
        let bits = self.codes.bits() as u32;
        let codec = match self.divisor {
            1 => Int::new(bits, run, self.scales.kind, offset),
            divisor => Int::divided(run, self.scales.kind, divisor),
        };
        let codec = codec.map_err(|e| e.tensor(module.name))?;
        let order = self.order.clone();
        let stored = Stored { layer: self, codec: codec.clone(), rows: module.rows, cols: module.cols };
        let mut matrix = module.matrix(reader, codec, Arc::new(stored)).await?;
        matrix.input = order.map_or(InputTransform::None, |order| InputTransform::Permute(order.to_vec()));
        Ok(matrix)
    }
}

/// Zero points that are read at once when a layer is opened.
const ZEROS_AT_ONCE: usize = 1 << 22;

/// The one zero point that a whole layer has, if it has one.
async fn common(zeros: &Ints, rows: usize, groups: usize) -> Result<Option<u32>> {
    let at_once = (ZEROS_AT_ONCE / groups).max(1).next_multiple_of(TILE_ROWS);
    let mut common = None;
    for first in (0..rows).step_by(at_once) {
        for zero in zeros.read(first..rows.min(first + at_once), 0..groups).await? {
            if *common.get_or_insert(zero) != zero {
                return Ok(None);
            }
        }
    }
    Ok(common)
}

/// The inputs sorted by the group that `g_idx`, I32 `[cols]`, gives each; nothing if they are sorted already.
pub(crate) async fn act_order(g_idx: &TensorInfo, cols: usize, group: usize) -> Result<Option<Arc<[u32]>>> {
    if g_idx.dtype != Dtype::I32 {
        return Err(g_idx.blame(Error::corrupt("g_idx must be I32").found(g_idx.dtype)));
    }
    g_idx.expect_shape(&[cols])?;
    let bytes = g_idx.read_all().await?;
    let of: Vec<i64> = words32(&bytes).map(|word| i64::from(word as i32)).collect();
    let groups = cols.div_ceil(group) as i64;
    if let Some(bad) = of.iter().find(|&&g| g < 0 || g >= groups) {
        return Err(g_idx.blame(Error::corrupt(format!("g_idx out of range ({bad} >= {groups})"))));
    }
    let in_place = |k: usize, g: i64| g == (k / group) as i64;
    if of.iter().enumerate().all(|(k, &g)| in_place(k, g)) {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..of.len() as u32).collect();
    order.sort_unstable_by_key(|&k| (of.get(k as usize), k));
    if let Some((k, _)) = order.iter().enumerate().find(|&(k, &from)| !in_place(k, of[from as usize])) {
        let found = of.iter().filter(|&&g| g == (k / group) as i64).count();
        let error = Error::corrupt(format!("g_idx gives group {} the wrong number of inputs", k / group));
        return Err(g_idx.blame(error.expected(group).found(found)));
    }
    Ok(Some(order.into()))
}

/// A layer with the codec that was chosen for it.
struct Stored {
    layer: Affine,
    codec: Arc<Int>,
    rows: usize,
    cols: usize,
}

impl PieceSource for Stored {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &*self.codec);
        // In act-order a band of rows is read over all inputs.
        let by_columns = self.layer.codes.by_columns() && self.layer.order.is_none();
        let major = if by_columns { Major::Cols } else { Major::Rows };
        Grid { major, ..grid }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let Affine { codes, scales, zeros, group, order, .. } = &self.layer;
            let (rows, cols) = (extent.rows.clone(), extent.cols.clone());
            let groups = cols.start / group..cols.end.div_ceil(*group);
            let codes = match order {
                None => codes.read(rows.clone(), cols).await?,
                Some(order) => {
                    let all = codes.read(rows.clone(), 0..self.cols).await?;
                    let sorted = |row: &[u32]| {
                        order[cols.clone()].iter().map(|&k| row[k as usize]).collect::<Vec<_>>()
                    };
                    all.chunks_exact(self.cols).flat_map(sorted).collect()
                }
            };
            let mut items = vec![codes, scales.read(rows.clone(), groups.clone()).await?];
            match zeros {
                Zeros::Same(_) => {}
                Zeros::Each(zeros) => items.push(zeros.read(rows, groups).await?),
                Zeros::Minima(added) | Zeros::Around(_, added) => items.push(added.read(rows, groups).await?),
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}
