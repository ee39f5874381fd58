//! Small integers packed in words: how the codes and zero points of packed-integer formats lie, and rectangles of them.

use super::tensor::{Dtype, TensorInfo, words16, words32};
use crate::error::{Error, Result};
use std::ops::Range;

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

    /// Bits of an integer.
    pub(crate) fn bits(&self) -> usize {
        self.tiling.bits
    }

    /// Whether the tensor holds column after column.
    pub(crate) fn by_columns(&self) -> bool {
        self.transposed
    }

    /// Those of a rectangle, row-major.
    pub(crate) async fn read(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<u32>> {
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
