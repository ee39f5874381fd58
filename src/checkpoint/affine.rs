//! What packed-integer formats have in common: `w = (q − z) · s` or `q · s + m`, codes, scales and zero points each in
//! a tensor of its own. A reader says how each of them lies; this reads any rectangle.

use super::tensor::{Dtype, Grid, Major, TensorInfo, words16, words32};
use super::{BoxFuture, InputTransform, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Kind, Piece, TILE_ROWS, WHOLE_ROW};
use std::ops::Range;
use std::sync::Arc;

/// Some bits of an item: `(words[word] >> shift & mask) << up`.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    word: usize,
    shift: usize,
    mask: u32,
    up: usize,
}

/// How a tile of small integers, `[high, wide]`, lies in its words; all tiles of a tensor alike.
#[derive(Debug, Clone)]
pub(crate) struct Tiling {
    high: usize,
    wide: usize,
    /// Words of a tile; they follow each other along its longer side.
    words: usize,
    /// Bits of a word: 8, 16 or 32.
    word_bits: usize,
    /// Bits of an item.
    bits: usize,
    /// Parts of an item.
    count: usize,
    /// Row-major, `count` an item.
    parts: Vec<Part>,
}

impl Tiling {
    /// Tiles of one row; `place(i, bit)` is the bit of the tile that bit `bit` of item `i` is.
    pub(crate) fn new(
        bits: usize,
        wide: usize,
        word_bits: usize,
        place: impl Fn(usize, usize) -> usize,
    ) -> Self {
        let mut items: Vec<Vec<Part>> = Vec::with_capacity(wide);
        for i in 0..wide {
            let mut parts: Vec<Part> = Vec::new();
            for bit in 0..bits {
                let (word, shift) = (place(i, bit) / word_bits, place(i, bit) % word_bits);
                match parts.last_mut() {
                    Some(last) if last.word == word && last.shift + bit - last.up == shift => {
                        last.mask = last.mask << 1 | 1;
                    }
                    _ => parts.push(Part { word, shift, mask: 1, up: bit }),
                }
            }
            items.push(parts);
        }
        let count = items.iter().map(Vec::len).max().unwrap_or(1);
        items.iter_mut().for_each(|parts| parts.resize(count, Part::default()));
        let parts = items.concat();
        let words = 1 + parts.iter().map(|part| part.word).max().unwrap_or(0);
        Self { high: 1, wide, words, word_bits, bits, count, parts }
    }

    /// Whether `count` items fill whole words.
    pub(crate) fn divides(&self, count: usize) -> bool {
        count.is_multiple_of(self.high.max(self.wide))
    }

    /// A little-endian bit stream.
    pub(crate) fn stream(bits: usize, word_bits: usize) -> Self {
        let wide = if word_bits.is_multiple_of(bits) { word_bits / bits } else { word_bits };
        Self::new(bits, wide, word_bits, |i, bit| i * bits + bit)
    }

    /// As many whole items in a 32-bit word as fit, low bits first.
    pub(crate) fn whole(bits: usize) -> Self {
        Self::new(bits, 32 / bits, 32, |i, bit| i * bits + bit)
    }

    /// 32 items in planes of 4, 2 or 1 bits, the plane of the low bits first; two bits where three are asked for.
    pub(crate) fn planes(bits: usize) -> Self {
        let widths: &[usize] = match bits {
            3 => &[2, 1],
            5 => &[4, 1],
            6 => &[4, 2],
            7 => &[4, 2, 1],
            _ => return Self::whole(bits),
        };
        Self::new(bits, 32, 32, |i, bit| {
            let (mut first, mut width) = (0, widths[0]);
            for &next in &widths[1..] {
                if bit >= first + width {
                    (first, width) = (first + width, next);
                }
            }
            32 * first + i * width + bit - first
        })
    }

    /// Eight 4-bit items a word, item j in nibble `order[j]`.
    pub(crate) fn nibbles(order: [usize; 8]) -> Self {
        Self::new(4, 8, 32, |i, bit| 4 * order[i] + bit)
    }

    /// An item a byte.
    pub(crate) fn bytes() -> Self {
        Self::stream(8, 8)
    }

    /// `high` rows of `wide` columns, which were listed one row after the other.
    pub(crate) fn rows(self, high: usize) -> Self {
        Self { high, wide: self.wide / high, ..self }
    }

    /// Items below each other where they were beside each other.
    pub(crate) fn upright(self) -> Self {
        Self { high: self.wide, wide: self.high, ..self }
    }

    /// Words that a tile takes in rows and in columns.
    fn extent(&self) -> (usize, usize) {
        if self.wide >= self.high { (1, self.words) } else { (self.words, 1) }
    }
}

/// Small integers, `[rows, cols]` of them.
#[derive(Debug, Clone)]
pub(crate) struct Ints {
    tensor: TensorInfo,
    tiling: Tiling,
    /// The tensor is `[cols, rows]`.
    transposed: bool,
    /// Added to what is stored, modulo 2^bits.
    plus: u32,
    /// The largest that there may be.
    most: u32,
}

impl Ints {
    /// The integers of `tensor`, whose type and shape are checked.
    pub(crate) fn new(
        tensor: &TensorInfo,
        (rows, cols): (usize, usize),
        tiling: Tiling,
        transposed: bool,
        plus: u32,
    ) -> Result<Self> {
        let (down, across) = tiling.extent();
        let (high, wide) = (rows.div_ceil(tiling.high) * down, cols.div_ceil(tiling.wide) * across);
        if tensor.dtype.integer_bits() != Some(tiling.word_bits) {
            let last = tensor.name.rsplit('.').next().unwrap_or_default();
            let error = Error::corrupt(format!("{last} must be I{}", tiling.word_bits));
            return Err(tensor.blame(error.found(tensor.dtype)));
        }
        tensor.expect_shape(&if transposed { [wide, high] } else { [high, wide] })?;
        let most = u32::MAX >> (32 - tiling.bits);
        Ok(Self { tensor: tensor.clone(), tiling, transposed, plus, most })
    }

    /// Two's complement bytes `[rows, cols]`, shifted up by 128.
    pub(crate) fn signed(tensor: &TensorInfo, shape: (usize, usize)) -> Result<Self> {
        if !matches!(tensor.dtype, Dtype::Other { name: "I8", .. }) {
            let last = tensor.name.rsplit('.').next().unwrap_or_default();
            return Err(tensor.blame(Error::corrupt(format!("{last} must be I8")).found(tensor.dtype)));
        }
        Self::new(tensor, shape, Tiling::bytes(), false, 128)
    }

    /// The same integers, `less` smaller, of which none may have more than `bits` bits.
    pub(crate) fn narrowed(self, less: u32, bits: usize) -> Self {
        Self { plus: self.plus.wrapping_sub(less), most: u32::MAX >> (32 - bits), ..self }
    }

    /// Those of a rectangle, row-major.
    async fn read(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<u32>> {
        let Tiling { high, wide, words: _, word_bits, bits, count, parts } = &self.tiling;
        let (down, across) = self.tiling.extent();
        let r = rows.start / high * down..rows.end.div_ceil(*high) * down;
        let c = cols.start / wide * across..cols.end.div_ceil(*wide) * across;
        let (lines, part) = if self.transposed { (c, r) } else { (r, c) };
        let size = word_bits / 8;
        let stride = self.tensor.shape.last().copied().unwrap_or(0) * size;
        let bytes = self.tensor.read_rows(stride, lines, part.start * size..part.end * size).await?;
        let words: Vec<u32> = match size {
            1 => bytes.iter().map(|&byte| u32::from(byte)).collect(),
            2 => words16(&bytes).collect(),
            _ => words32(&bytes).collect(),
        };
        // How far apart words are that lie below and beside each other in the matrix.
        let (below, beside) = if self.transposed { (1, part.len()) } else { (part.len(), 1) };
        let next = if across > 1 { beside } else { below };
        let mask = u32::MAX >> (32 - bits);
        let mut items = Vec::with_capacity(rows.len() * cols.len());
        for row in rows.clone() {
            let line = (row / high - rows.start / high) * down * below;
            let mut col = cols.start;
            while col < cols.end {
                let tile = line + (col / wide - cols.start / wide) * across * beside;
                let end = cols.end.min((col / wide + 1) * wide);
                let first = row % high * wide + col % wide;
                for item in parts[first * count..][..(end - col) * count].chunks_exact(*count) {
                    let value = item.iter().fold(self.plus, |value, part| {
                        value.wrapping_add(
                            (words[tile + part.word * next] >> part.shift & part.mask) << part.up,
                        )
                    });
                    items.push(value & mask);
                }
                col = end;
            }
        }
        match items.iter().find(|&&item| item > self.most) {
            None => Ok(items),
            Some(item) => {
                let error = Error::corrupt("integer out of range").expected(format!("at most {}", self.most));
                Err(self.tensor.blame(error.found(item)))
            }
        }
    }
}

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
    /// One number for all.
    One,
}

impl Floats {
    /// The numbers of `tensor`, whose type and shape are checked.
    pub(crate) fn new(tensor: &TensorInfo, (rows, cols): (usize, usize), layout: Layout) -> Result<Self> {
        match layout {
            _ if cols == 1 && tensor.shape == [rows] => {}
            Layout::Rows => tensor.expect_shape(&[rows, cols])?,
            Layout::Cols => tensor.expect_shape(&[cols, rows])?,
            Layout::One if tensor.shape.iter().product::<usize>() == 1 => {}
            Layout::One => tensor.expect_shape(&[1])?,
        }
        let width = match layout {
            Layout::Rows => cols,
            Layout::Cols => rows,
            Layout::One => 1,
        };
        Ok(Self { tensor: tensor.clone(), kind: tensor.expect_float()?, layout, width })
    }

    /// Those of a rectangle, row-major.
    async fn read(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<u32>> {
        let (lines, part) = match self.layout {
            Layout::Rows => (rows.clone(), cols.clone()),
            Layout::Cols => (cols.clone(), rows.clone()),
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
            Layout::One => vec![items[0]; rows.len() * cols.len()],
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
        };
        let run = if groups == 1 { WHOLE_ROW } else { self.group };
        let bits = self.codes.tiling.bits as u32;
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
    order.sort_by_key(|&k| of.get(k as usize));
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
        let by_columns = self.layer.codes.transposed && self.layer.order.is_none();
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
                Zeros::Minima(minima) => items.push(minima.read(rows, groups).await?),
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}
