//! Codecs: how the weights of a matrix are coded, with their scales; CPU decode and WGSL side by side.
//!
//! A reader hands over *items* (codes, scales, zero points) of a rectangle of a matrix, row by row; a codec
//! says which items it wants ([`Field`]) and how they lie in GPU memory ([`Section`]). Everything else here —
//! packing, splitting, addressing — is the same for all codecs.
//!
//! # The packed form
//!
//! Rows are cut in tiles of [`TILE_ROWS`]. Inside a tile the *cells* of neighbouring rows lie side by side:
//! `[tile][cell][row of the tile]`. A cell is what one row owns in a run of consecutive columns, 16 bytes for
//! most codes. A GPU lane that works on a row therefore reads next to its neighbours' reads, whatever the codec.
//! Where several rows share a code (a trellis' 16 × 16 blocks), lines of so many rows take the place of rows.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

pub mod activations;
pub mod bilevel;
pub mod cache;
pub mod codebook;
pub mod e8p;
pub mod fp8;
pub mod grid;
pub mod hadamard;
pub mod hyb;
pub mod int;
pub mod kquant;
pub mod lookup;
pub mod mixed;
mod packed;
pub mod plain;
mod planes;
pub mod ternary;
#[cfg(test)]
mod testing;
pub mod trellis;
pub mod vectors;
pub use packed::{Packed, Run, Tiles, pack};

/// Rows that lie side by side in the packed form.
pub const TILE_ROWS: usize = 32;
/// Columns that one step of a product works on.
pub const UNIT: usize = 32;

/// A family of codecs: one Rust file, one WGSL file.
pub struct Family {
    /// Short name: `int`, `kquant`, `lookup`, `plain` …
    pub name: &'static str,
    /// One line for tables and help texts.
    pub about: &'static str,
    /// Its WGSL parts: paths below `shaders/`, its own first.
    pub wgsl: &'static [&'static str],
    /// Members that tests and `verify` run.
    pub samples: fn() -> Vec<Arc<dyn Codec>>,
}

/// All codecs. Help texts, shader validation, `verify` and tests walk this table.
pub static CODECS: &[&Family] = &[
    &plain::FAMILY,
    &int::FAMILY,
    &mixed::FAMILY,
    &kquant::FAMILY,
    &bilevel::FAMILY,
    &lookup::FAMILY,
    &fp8::FAMILY,
    &ternary::FAMILY,
    &grid::FAMILY,
    &codebook::FAMILY,
    &vectors::FAMILY,
    &e8p::FAMILY,
    &trellis::FAMILY,
    &hyb::FAMILY,
];

/// How an item is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An unsigned integer of this many bits.
    Code(u32),
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// IEEE single.
    F32,
    /// Eight bits, 4 of them exponent and 3 fraction, no infinities; 0x7f and 0xff are no numbers (OCP FP8).
    E4m3,
    /// The upper half of an IEEE half.
    E5m2,
    /// A power of two, `2^(byte − 127)`; 255 is no number (OCP MX).
    E8m0,
}

impl Kind {
    /// Bits of an item.
    pub fn bits(self) -> u32 {
        match self {
            Kind::Code(bits) => bits,
            Kind::E4m3 | Kind::E5m2 | Kind::E8m0 => 8,
            Kind::F16 | Kind::Bf16 => 16,
            Kind::F32 => 32,
        }
    }

    /// Whether an item is a number: neither infinite nor NaN.
    pub fn finite(self, item: u32) -> bool {
        let exponent = match self {
            Kind::Code(_) => return true,
            Kind::E4m3 => 0x7f, // only all ones
            Kind::E5m2 => 0x7c,
            Kind::E8m0 => 0xff,
            Kind::F32 => 0x7f80_0000,
            Kind::Bf16 => 0x7f80,
            Kind::F16 => 0x7c00,
        };
        item & exponent != exponent
    }

    /// As codecs name the format of their scales, f16 being the usual one.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Kind::F16 => "",
            Kind::Bf16 => " bf16",
            Kind::F32 => " f32",
            Kind::E4m3 => " e4m3",
            Kind::E5m2 => " e5m2",
            Kind::E8m0 => " e8m0",
            Kind::Code(_) => " codes",
        }
    }

    /// What shaders call the format of a scale: `SCALE_FORMAT`.
    pub(crate) fn scale_format(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Bf16 => 2,
            Kind::E8m0 => 3,
            Kind::E4m3 => 4,
            Kind::Code(_) | Kind::E5m2 => 5, // codes have a table; nobody has E5M2
        }
    }

    /// The value of an item: codes as integers.
    pub fn value(self, item: u32) -> f64 {
        match self {
            Kind::Code(_) => item as f64,
            Kind::F16 => half::f16::from_bits(item as u16).to_f64(),
            Kind::Bf16 => half::bf16::from_bits(item as u16).to_f64(),
            Kind::F32 => f32::from_bits(item) as f64,
            Kind::E4m3 => {
                let (sign, exponent, fraction) = (item >> 7 & 1, item >> 3 & 15, item & 7);
                // Subnormals have the exponent of the smallest normal number, and no leading one.
                let significand = if exponent == 0 { fraction } else { 8 + fraction };
                let magnitude = significand as f64 * 2f64.powi(exponent.max(1) as i32 - 10);
                if sign == 1 { -magnitude } else { magnitude }
            }
            Kind::E5m2 => half::f16::from_bits((item as u16) << 8).to_f64(),
            Kind::E8m0 => 2f64.powi(item as i32 - 127),
        }
    }
}

/// What a reader has to supply: `count` items for every block of `rows` × `run` weights, blocks of a line in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `codes`, `scales`, `zeros` …
    pub name: &'static str,
    /// Number format of an item.
    pub kind: Kind,
    /// Columns that share an item; [`WHOLE_ROW`] for one a row.
    pub run: usize,
    /// Rows that share an item, a divisor of [`TILE_ROWS`]; together they are a *line*.
    pub rows: usize,
    /// Items of a block.
    pub count: usize,
}

/// `run` of a [`Field`] that has one item a row.
pub const WHOLE_ROW: usize = usize::MAX;

impl Field {
    /// One item for `run` columns of a row.
    pub const fn new(name: &'static str, kind: Kind, run: usize) -> Self {
        Self { name, kind, run, rows: 1, count: 1 }
    }

    /// The same with `count` items for `run` columns of `rows` rows.
    pub const fn blocks(self, rows: usize, count: usize) -> Self {
        Self { rows, count, ..self }
    }

    /// Items that a line of `cols` columns has.
    pub fn items(&self, cols: usize) -> usize {
        cols.div_ceil(self.run) * self.count
    }

    /// Lines that `rows` rows are.
    pub fn lines(&self, rows: usize) -> usize {
        rows.div_ceil(self.rows)
    }
}

/// One array of the packed form: some bits of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Which storage buffer holds it (0 or 1; tables come last).
    pub binding: usize,
    /// Index into [`Codec::fields`].
    pub field: usize,
    /// First bit of the item that is stored here.
    pub shift: u32,
    /// Bits of the item that are stored here: 1, 2, 4, 8, 16 or 32.
    pub bits: u32,
    /// Consecutive items of a line that stay together: whole blocks, or a divisor of one; a power of two of bits, at
    /// least 4.
    pub cell: usize,
}

impl Section {
    /// Columns that a cell stands for, whole blocks at least; [`WHOLE_ROW`] where a block is a row.
    pub fn cell_cols(&self, field: &Field) -> usize {
        field.run.saturating_mul((self.cell / field.count).max(1))
    }
}

/// A rectangle of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Rows (output features). Starts at a multiple of [`TILE_ROWS`]; ends at one, or at the last row.
    pub rows: Range<usize>,
    /// Columns (input features). Starts at a multiple of [`UNIT`] and where a cell of every section begins.
    pub cols: Range<usize>,
}

/// The items of a rectangle, as a reader found them.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Where it belongs.
    pub extent: Extent,
    /// For each of [`Codec::fields`]: line after line, so many items a line as [`Codec::items`] has of `extent.cols`.
    pub items: Vec<Vec<u32>>,
}

/// Rows × columns of a matrix: `[out_features, in_features]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Output features (N).
    pub rows: usize,
    /// Input features (K).
    pub cols: usize,
}

/// The WGSL part that makes halves of what a codec decodes, for [`Codec::halves`].
#[cfg(not(target_arch = "wasm32"))]
const DECODED_HALVES: &str = "lib/halves_decoded.wgsl";

/// A code with its scale. Immutable and shared; a fused layer owns one for all its slices.
pub trait Codec: Debug + Send + Sync + 'static {
    /// The family it belongs to.
    fn family(&self) -> &'static Family;

    /// Family and parameters: equal names mean equal shaders and equal meaning of items (tables apart).
    fn name(&self) -> String;

    /// What a reader supplies.
    fn fields(&self) -> Vec<Field>;

    /// Which items of a field's line the columns `cols` have, or share: as many a run as the field says, unless the
    /// codec's rate changes along a row.
    fn items(&self, field: usize, cols: Range<usize>) -> Range<usize> {
        let field = &self.fields()[field];
        cols.start / field.run * field.count..field.items(cols.end)
    }

    /// How it lies in memory.
    fn sections(&self) -> Vec<Section>;

    /// Words of this matrix that are bound after the sections; empty: no such binding.
    fn tables(&self) -> Vec<u32> {
        Vec::new()
    }

    /// The same for constants of the code itself: in GPU memory once for all matrices. A codec has one or the other.
    fn codebook(&self) -> &'static [u32] {
        &[]
    }

    /// Whether its tables are made for a matrix of one shape: its slices, its rates along a row.
    fn tied_to_shape(&self) -> bool {
        false
    }

    /// `const NAME: u32 = value;` lines of the shader.
    fn constants(&self) -> Vec<(&'static str, u32)>;

    /// Decodes one row: the stored formula in f64, rounded once to f32.
    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]);

    /// The same without the rounding, for codecs whose weights a sparse term is added to.
    fn exact_row(&self, packed: &Packed, row: usize, out: &mut [f64]) {
        let mut rounded = vec![0.0; out.len()];
        self.decode_row(packed, row, &mut rounded);
        out.iter_mut().zip(rounded).for_each(|(out, w)| *out = f64::from(w));
    }

    /// One codec for several matrices stacked by rows (`rows[i]` rows of `parts[i]`), if there is one.
    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>>;

    /// Bytes of workgroup memory that `prepare` fills, those apart that depend on `TABLE_ROOM`.
    fn workgroup_bytes(&self) -> u32 {
        64
    }

    /// Whether weights are integers of −128…127 with one scale a row, which products with
    /// [8-bit activations](activations::ActivationCode::Int8) need; its WGSL then has `codes32` and `row_scale`.
    fn has_integers(&self) -> bool {
        false
    }

    /// Whether decoding is so little work that a GPU, where a lane has one row, loads activations for longer.
    fn is_light(&self) -> bool {
        false
    }

    /// The WGSL parts with `group_of` and `dot_staged` for floats.
    fn floats(&self) -> &'static [&'static str] {
        &["lib/floats_dot.wgsl", "lib/ungrouped.wgsl"]
    }

    /// The WGSL parts with `group_of` and `integers_of`, where weights are integers of 8 bits times a scale: for products
    /// with integers by packed dot products.
    fn fixed(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// The WGSL part with `dot_staged` for them, if a weight is the sum of several integers.
    fn fixed_dot(&self) -> Option<&'static str> {
        None
    }

    /// The WGSL part with `halves8`: weights as two f16 each, for matrix units. None where weights may be beyond 255, which
    /// f16 does not hold once they are made large enough for two halves.
    #[cfg(not(target_arch = "wasm32"))]
    fn halves(&self) -> Option<&'static str> {
        Some(DECODED_HALVES)
    }

    /// Whether the scale of a row is a quotient, which WGSL may round otherwise.
    fn divides(&self) -> bool {
        false
    }

    /// The integers of a row and their scale, if it [has](Codec::has_integers) such.
    fn integers(&self, _packed: &Packed, _row: usize, _out: &mut [i32]) -> Option<f32> {
        None
    }

    /// For downcasts in [`Codec::fuse`].
    fn as_any(&self) -> &dyn Any;
}

/// Whether stacked matrices need no new codec: same name, same tables.
pub fn interchangeable(parts: &[(&dyn Codec, usize)]) -> bool {
    parts.windows(2).all(|w| w[0].0.name() == w[1].0.name() && w[0].0.tables() == w[1].0.tables())
}

impl Shape {
    /// Rows as stored: padded so that sub-word items of a tile fill whole words.
    pub fn padded_rows(self) -> usize {
        self.rows.next_multiple_of(8)
    }

    /// Cells that one line has in `section`.
    pub fn cells(self, codec: &dyn Codec, section: &Section) -> usize {
        codec.items(section.field, 0..self.cols).end.div_ceil(section.cell)
    }

    /// 32-bit words of `section`, padded to 16 bytes.
    pub fn section_words(self, codec: &dyn Codec, section: &Section) -> usize {
        let lines = codec.fields()[section.field].lines(self.padded_rows());
        let bits = lines * self.cells(codec, section) * section.cell * section.bits as usize;
        bits.div_ceil(32).next_multiple_of(4)
    }

    /// Word offset of every section inside its binding.
    pub fn section_offsets(self, codec: &dyn Codec) -> Vec<usize> {
        let mut next = [0usize; 2];
        let place = |section: &Section| {
            let offset = next[section.binding];
            next[section.binding] += self.section_words(codec, section);
            offset
        };
        codec.sections().iter().map(place).collect()
    }

    /// Words of every binding, tables included.
    pub fn binding_words(self, codec: &dyn Codec) -> Vec<usize> {
        let sections = codec.sections();
        let bindings = sections.iter().map(|s| s.binding + 1).max().unwrap_or(0);
        let mut words = vec![0; bindings];
        for section in &sections {
            words[section.binding] += self.section_words(codec, section);
        }
        let tables = codec.tables().len();
        if tables > 0 {
            words.push(tables.next_multiple_of(4));
        }
        words
    }

    /// Bytes in GPU memory.
    pub fn packed_bytes(self, codec: &dyn Codec) -> u64 {
        self.binding_words(codec).iter().map(|&w| w as u64 * 4).sum()
    }
}
