//! A tensor on disk, whichever container it lies in, and how rectangles of it are read.

use super::gguf::BlockType;
use super::source::Source;
use crate::error::{Error, Result};
use crate::quant::{Codec, Extent, Kind, TILE_ROWS, UNIT};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Number format of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 8 bits.
    U8,
    /// Known by name and size only.
    Other {
        /// As safetensors spells it.
        name: &'static str,
        /// Bits of an element.
        bits: u32,
    },
    /// Blocks of a GGUF type.
    Block(&'static BlockType),
}

/// Every number format of safetensors.
const DTYPES: &[(&str, Dtype)] = &[
    ("F32", Dtype::F32),
    ("F16", Dtype::F16),
    ("BF16", Dtype::Bf16),
    ("I64", Dtype::I64),
    ("I32", Dtype::I32),
    ("U8", Dtype::U8),
    ("BOOL", Dtype::Other { name: "BOOL", bits: 8 }),
    ("I8", Dtype::Other { name: "I8", bits: 8 }),
    ("I16", Dtype::Other { name: "I16", bits: 16 }),
    ("U16", Dtype::Other { name: "U16", bits: 16 }),
    ("U32", Dtype::Other { name: "U32", bits: 32 }),
    ("U64", Dtype::Other { name: "U64", bits: 64 }),
    ("F64", Dtype::Other { name: "F64", bits: 64 }),
    ("C64", Dtype::Other { name: "C64", bits: 64 }),
    ("F4", Dtype::Other { name: "F4", bits: 4 }),
    ("F6_E2M3", Dtype::Other { name: "F6_E2M3", bits: 6 }),
    ("F6_E3M2", Dtype::Other { name: "F6_E3M2", bits: 6 }),
    ("F8_E4M3", Dtype::Other { name: "F8_E4M3", bits: 8 }),
    ("F8_E5M2", Dtype::Other { name: "F8_E5M2", bits: 8 }),
    ("F8_E8M0", Dtype::Other { name: "F8_E8M0", bits: 8 }),
    ("F8_E4M3FNUZ", Dtype::Other { name: "F8_E4M3FNUZ", bits: 8 }),
    ("F8_E5M2FNUZ", Dtype::Other { name: "F8_E5M2FNUZ", bits: 8 }),
];

impl Dtype {
    /// The number format that safetensors calls `name`.
    pub fn named(name: &str) -> Option<Self> {
        DTYPES.iter().find(|(n, _)| *n == name).map(|&(_, dtype)| dtype)
    }

    /// The format as a codec's items, when it is a float that halfbyte computes with.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Dtype::F32 => Some(Kind::F32),
            Dtype::F16 => Some(Kind::F16),
            Dtype::Bf16 => Some(Kind::Bf16),
            _ => None,
        }
    }

    /// The format of 8-bit floats as a codec's items.
    pub(crate) fn float8(self) -> Option<Kind> {
        match self {
            Dtype::Other { name: "F8_E4M3", .. } => Some(Kind::E4m3),
            Dtype::Other { name: "F8_E5M2", .. } => Some(Kind::E5m2),
            Dtype::Other { name: "F8_E8M0", .. } => Some(Kind::E8m0),
            _ => None,
        }
    }

    /// Bits of an integer of up to 32 bits.
    pub(crate) fn integer_bits(self) -> Option<usize> {
        match self {
            Dtype::I32 | Dtype::Other { name: "U32", .. } => Some(32),
            Dtype::Other { name: "I16" | "U16", .. } => Some(16),
            Dtype::U8 | Dtype::Other { name: "I8", .. } => Some(8),
            _ => None,
        }
    }

    /// Bytes of `elements` elements; `None` if that overflows or splits a byte or a block.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let (block, bits) = match self {
            Dtype::F32 | Dtype::I32 => (1, 32),
            Dtype::F16 | Dtype::Bf16 => (1, 16),
            Dtype::I64 => (1, 64),
            Dtype::U8 => (1, 8),
            Dtype::Other { bits, .. } => (1, u64::from(bits)),
            Dtype::Block(ty) => (ty.weights as u64, ty.bytes as u64 * 8),
        };
        if !elements.is_multiple_of(block) {
            return None;
        }
        let bits = (elements / block).checked_mul(bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::U8 => "U8",
            Dtype::Other { name, .. } => name,
            Dtype::Block(ty) => ty.name,
        })
    }
}

/// Where a tensor lies and what it is.
#[derive(Clone)]
pub struct TensorInfo {
    /// Its name in Hugging Face spelling.
    pub name: String,
    /// Number format.
    pub dtype: Dtype,
    /// Slowest dimension first: `[out, in]`.
    pub shape: Vec<usize>,
    /// The file.
    pub source: Arc<dyn Source>,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

impl fmt::Debug for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.dtype, dims(&self.shape))
    }
}

/// `[2,3]`, as error messages print shapes.
pub(crate) fn dims(shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(","))
}

/// A copy of the `N` bytes at `at`; zeros past the end, which lengths checked beforehand rule out.
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// Little-endian 16-bit words.
pub(crate) fn words16(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes(word(b, 0))))
}

/// Little-endian 32-bit words.
pub(crate) fn words32(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(word(b, 0)))
}

/// Little-endian 64-bit words.
pub(crate) fn words64(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(word(b, 0)))
}

/// The first `count` codes of a stream of 32-bit words.
pub(crate) fn unpack(mut words: impl Iterator<Item = u32>, bits: usize, count: usize, codes: &mut Vec<u32>) {
    let mask = u32::MAX >> (32 - bits);
    let (mut window, mut filled) = (0u64, 0);
    for _ in 0..count {
        if filled < bits {
            window |= u64::from(words.next().unwrap_or(0)) << filled;
            filled += 32;
        }
        codes.push(window as u32 & mask);
        window >>= bits;
        filled -= bits;
    }
}

impl TensorInfo {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Names the tensor and its file in `error`.
    pub(crate) fn blame(&self, error: Error) -> Error {
        error.tensor(&self.name).file(self.source.name())
    }

    /// An error unless the shape is `expected`.
    pub(crate) fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::corrupt(format!("shape mismatch for {}", self.name))
            .file(self.source.name())
            .expected(dims(expected))
            .found(dims(&self.shape)))
    }

    /// The float format of the tensor, or an error that names the dtype.
    pub(crate) fn expect_float(&self) -> Result<Kind> {
        self.dtype.kind().ok_or_else(|| {
            Error::unsupported(format!("unexpected dtype {} for {}", self.dtype, self.name))
                .file(self.source.name())
                .expected("F32, F16 or BF16")
        })
    }

    /// Bytes `range` of the tensor.
    pub(crate) async fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        if range.start > range.end || range.end > self.bytes() {
            return Err(self.blame(Error::corrupt("read past the end of the tensor")));
        }
        self.source.read(self.range.start + range.start..self.range.start + range.end).await
    }

    /// All bytes, for tensors that are small beside the weights.
    pub(crate) async fn read_all(&self) -> Result<Cow<'_, [u8]>> {
        self.source.read(self.range.clone()).await
    }

    /// The bytes `part` of each of `rows`, rows being `stride` bytes apart.
    pub(crate) async fn read_rows(
        &self,
        stride: usize,
        rows: Range<usize>,
        part: Range<usize>,
    ) -> Result<Cow<'_, [u8]>> {
        let at = |row: usize, byte: usize| row as u64 * stride as u64 + byte as u64;
        if part == (0..stride) {
            return self.read(at(rows.start, 0)..at(rows.end, 0)).await;
        }
        let mut bytes = Vec::with_capacity(rows.len() * part.len());
        for row in rows {
            bytes.extend_from_slice(&self.read(at(row, part.start)..at(row, part.end)).await?);
        }
        Ok(Cow::Owned(bytes))
    }

    /// Float items of `bytes` of this tensor; `what` must be finite.
    pub(crate) fn float_items(&self, bytes: &[u8], what: &str) -> Result<Vec<u32>> {
        self.items(self.expect_float()?, bytes, what)
    }

    /// Items of format `kind` of `bytes` of this tensor; `what` must be finite.
    pub(crate) fn items(&self, kind: Kind, bytes: &[u8], what: &str) -> Result<Vec<u32>> {
        let items: Vec<u32> = match kind.bits() {
            32 => words32(bytes).collect(),
            16 => words16(bytes).collect(),
            _ => bytes.iter().map(|&b| u32::from(b)).collect(),
        };
        match items.iter().find(|&&item| !kind.finite(item)) {
            None => Ok(items),
            Some(&item) => {
                let error = Error::corrupt(format!("non-finite {what} in {}", self.name));
                Err(error.file(self.source.name()).expected("finite numbers").found(kind.value(item)))
            }
        }
    }

    /// A small float tensor of `len` elements as f32; `what` must be finite.
    pub(crate) async fn floats(&self, len: usize, what: &str) -> Result<Vec<f32>> {
        if self.shape.iter().product::<usize>() != len {
            return self.expect_shape(&[len]).map(|()| Vec::new());
        }
        let kind = self.expect_float()?;
        let items = self.float_items(&self.read_all().await?, what)?;
        Ok(items.into_iter().map(|item| kind.value(item) as f32).collect())
    }
}

/// All tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub struct Tensors(BTreeMap<String, TensorInfo>);

impl Tensors {
    /// Adds a tensor; two of one name are an error.
    pub(crate) fn add(&mut self, tensor: TensorInfo) -> Result<()> {
        if self.0.contains_key(&tensor.name) {
            let error = Error::corrupt(format!("duplicate tensor {}", tensor.name));
            return Err(error.file(tensor.source.name()));
        }
        self.0.insert(tensor.name.clone(), tensor);
        Ok(())
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name)
    }

    /// The tensor called `name`, or an error that names it.
    pub fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.get(name).ok_or_else(|| Error::missing(format!("missing tensor {name}")))
    }

    /// The tensors called `module.…`.
    pub fn under<'a>(&'a self, module: &str) -> impl Iterator<Item = &'a TensorInfo> + use<'a> {
        let prefix = format!("{module}.");
        let from = self.0.range(prefix.clone()..);
        from.take_while(move |(name, _)| name.starts_with(&prefix)).map(|(_, tensor)| tensor)
    }

    /// All of them, parts of their names replaced in this order.
    pub(crate) fn renamed(self, names: &[(&str, &str)]) -> Result<Self> {
        if names.is_empty() {
            return Ok(self);
        }
        let mut all = Self::default();
        for mut tensor in self.0.into_values() {
            tensor.name = names.iter().fold(tensor.name, |name, (from, to)| name.replace(from, to));
            all.add(tensor)?;
        }
        Ok(all)
    }

    /// Forgets those whose name does not pass.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    /// Takes a tensor out.
    pub(crate) fn take(&mut self, name: &str) -> Option<TensorInfo> {
        self.0.remove(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.values()
    }
}

/// Which row on disk a row of the matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// The same.
    Stored,
    /// llama.cpp keeps q and k with the two halves of every head interleaved: row `2j + p` of a head is what
    /// Hugging Face has in row `p · head_dim / 2 + j`.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The row on disk that holds row `row`.
    pub(crate) fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::Stored => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, row) = (row / head_dim, row % head_dim);
                head * head_dim + 2 * (row % (head_dim / 2)) + row / (head_dim / 2)
            }
        }
    }

    /// Rows that should be read together.
    pub(crate) fn step(self) -> usize {
        match self {
            RowOrder::Stored => TILE_ROWS,
            RowOrder::Interleaved { head_dim } => lcm(TILE_ROWS, head_dim),
        }
    }

    /// [`TensorInfo::read_rows`] in the order of the matrix.
    pub(crate) async fn read(
        self,
        tensor: &TensorInfo,
        stride: usize,
        rows: Range<usize>,
        part: Range<usize>,
    ) -> Result<Cow<'_, [u8]>> {
        let RowOrder::Interleaved { head_dim } = self else {
            return tensor.read_rows(stride, rows, part).await;
        };
        let heads = rows.start / head_dim * head_dim..rows.end.next_multiple_of(head_dim);
        let stored = tensor.read_rows(stride, heads.clone(), part.clone()).await?;
        let mut bytes = Vec::with_capacity(rows.len() * part.len());
        for row in rows {
            let at = (self.stored(row) - heads.start) * part.len();
            bytes.extend_from_slice(&stored[at..at + part.len()]);
        }
        Ok(Cow::Owned(bytes))
    }
}

/// Least common multiple.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}

/// Codes packed by slices: the codes of a word are `step` apart in the flattened matrix. HQQ has the first slice in
/// the highest bits, BitNet in the lowest.
#[derive(Debug, Clone)]
pub(crate) struct Slices {
    /// The words.
    pub(crate) tensor: TensorInfo,
    /// Bytes of a word: 1 or 4.
    pub(crate) word: usize,
    /// Bits of a code.
    pub(crate) bits: usize,
    /// Codes of a word.
    pub(crate) count: usize,
    /// Codes of a slice: how many words there are.
    pub(crate) step: usize,
    /// Whether the first slice is in the highest bits.
    pub(crate) high_first: bool,
}

impl Slices {
    /// The codes of a rectangle of a matrix of `width` columns, row-major.
    pub(crate) async fn read(&self, width: usize, extent: &Extent) -> Result<Vec<u32>> {
        let (rows, cols) = (&extent.rows, &extent.cols);
        let mut codes = Vec::with_capacity(rows.len() * cols.len());
        if *cols == (0..width) {
            self.run(rows.start * width..rows.end * width, &mut codes).await?;
        } else {
            for row in rows.clone() {
                self.run(row * width + cols.start..row * width + cols.end, &mut codes).await?;
            }
        }
        Ok(codes)
    }

    /// Appends codes `range` of the flattened matrix.
    async fn run(&self, mut range: Range<usize>, codes: &mut Vec<u32>) -> Result<()> {
        let mask = (1 << self.bits) - 1;
        while !range.is_empty() {
            let (slice, first) = (range.start / self.step, range.start % self.step);
            let count = range.len().min(self.step - first);
            let shift = self.bits * if self.high_first { self.count - 1 - slice } else { slice };
            let at = |word: usize| word as u64 * self.word as u64;
            let bytes = self.tensor.read(at(first)..at(first + count)).await?;
            match self.word {
                1 => codes.extend(bytes.iter().map(|&b| u32::from(b) >> shift & mask)),
                _ => codes.extend(words32(&bytes).map(|word| word >> shift & mask)),
            }
            range.start += count;
        }
        Ok(())
    }
}

/// Along which axis the bytes of a matrix are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Major {
    /// Whole rows.
    Rows,
    /// Whole columns: GPTQ.
    Cols,
}

/// How a matrix may be cut in rectangles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// Output features.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) cols: usize,
    /// Rows are cut at multiples of this, itself a multiple of [`TILE_ROWS`].
    pub(crate) row_step: usize,
    /// Columns are cut at multiples of this, itself a multiple of [`UNIT`].
    pub(crate) col_step: usize,
    /// What to keep whole.
    pub(crate) major: Major,
    /// Bytes on disk of a weight, rounded up.
    pub(crate) cost: usize,
}

impl Grid {
    /// A grid of whole rows that may be cut where `codec` allows it: where cells and runs of all its fields begin.
    pub(crate) fn new(rows: usize, cols: usize, codec: &dyn Codec) -> Self {
        let fields = codec.fields();
        let steps = codec.sections().into_iter().filter_map(|section| {
            let field = &fields[section.field];
            (field.run <= cols).then(|| section.cell_cols(field))
        });
        let col_step = steps.fold(UNIT, lcm);
        Self { rows, cols, row_step: TILE_ROWS, col_step, major: Major::Rows, cost: 1 }
    }

    /// Rectangles of about `budget` bytes and items at most, or of one step each way if that is more.
    pub(crate) fn cut(&self, budget: usize) -> Vec<Extent> {
        let area = (budget / self.cost).max(1);
        let fit = |step: usize, other: usize| (area / other / step * step).max(step);
        let (high, wide) = match self.major {
            Major::Rows => {
                let high = fit(
                    if self.row_step.saturating_mul(self.cols) <= area { self.row_step } else { TILE_ROWS },
                    self.cols,
                );
                (high, if high * self.cols <= area { self.cols } else { fit(self.col_step, high) })
            }
            Major::Cols => {
                let wide = fit(self.col_step, self.rows);
                (if wide * self.rows <= area { self.rows } else { fit(TILE_ROWS, wide) }, wide)
            }
        };
        let mut extents = Vec::new();
        for row in (0..self.rows).step_by(high) {
            for col in (0..self.cols).step_by(wide) {
                extents.push(Extent {
                    rows: row..self.rows.min(row + high),
                    cols: col..self.cols.min(col + wide),
                });
            }
        }
        extents
    }
}
