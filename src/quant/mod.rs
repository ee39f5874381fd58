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

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

pub mod e8p;
pub mod hadamard;
pub mod int;
pub mod lookup;
mod packed;
pub mod plain;
#[cfg(test)]
mod testing;
pub use packed::{Packed, Run, Tiles, pack};

/// Rows that lie side by side in the packed form.
pub const TILE_ROWS: usize = 32;
/// Columns that one step of a product works on.
pub const UNIT: usize = 32;

/// A family of codecs: one Rust file, one WGSL file.
pub struct Family {
    /// Short name: `int`, `lookup`, `e8p12`, `plain`.
    pub name: &'static str,
    /// One line for tables and help texts.
    pub about: &'static str,
    /// Its WGSL part: a path below `shaders/`.
    pub wgsl: &'static str,
    /// Members that tests and `verify` run.
    pub samples: fn() -> Vec<Arc<dyn Codec>>,
}

/// All codecs. Help texts, shader validation, `verify` and tests walk this table.
pub static CODECS: &[&Family] = &[&plain::FAMILY, &int::FAMILY, &lookup::FAMILY, &e8p::FAMILY];

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
}

impl Kind {
    /// Bits of an item.
    pub fn bits(self) -> u32 {
        match self {
            Kind::Code(bits) => bits,
            Kind::F16 | Kind::Bf16 => 16,
            Kind::F32 => 32,
        }
    }

    /// The value of an item: codes as integers.
    pub fn value(self, item: u32) -> f64 {
        match self {
            Kind::Code(_) => item as f64,
            Kind::F16 => half::f16::from_bits(item as u16).to_f64(),
            Kind::Bf16 => half::bf16::from_bits(item as u16).to_f64(),
            Kind::F32 => f32::from_bits(item) as f64,
        }
    }
}

/// What a reader has to supply for every `run` columns of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `codes`, `scales`, `zeros` …
    pub name: &'static str,
    /// Number format of an item.
    pub kind: Kind,
    /// Columns that share an item; [`WHOLE_ROW`] for one a row.
    pub run: usize,
}

/// `run` of a [`Field`] that has one item a row.
pub const WHOLE_ROW: usize = usize::MAX;

impl Field {
    /// Items that a row of `cols` columns has.
    pub fn items(&self, cols: usize) -> usize {
        cols.div_ceil(self.run)
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
    /// Consecutive items of a row that stay together.
    pub cell: usize,
}

/// A rectangle of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Rows (output features). Starts at a multiple of [`TILE_ROWS`]; ends at one, or at the last row.
    pub rows: Range<usize>,
    /// Columns (input features). Starts at a multiple of [`UNIT`], of every field's run, and where a cell of
    /// every section begins.
    pub cols: Range<usize>,
}

/// The items of a rectangle, as a reader found them.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Where it belongs.
    pub extent: Extent,
    /// For each of [`Codec::fields`]: row-major items, `extent.cols / run` a row.
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

/// A code with its scale. Immutable and shared; a fused layer owns one for all its slices.
pub trait Codec: Debug + Send + Sync + 'static {
    /// The family it belongs to.
    fn family(&self) -> &'static Family;

    /// Family and parameters: equal names mean equal shaders and equal meaning of items (tables apart).
    fn name(&self) -> String;

    /// What a reader supplies.
    fn fields(&self) -> Vec<Field>;

    /// How it lies in memory.
    fn sections(&self) -> Vec<Section>;

    /// Words bound after the sections; empty: no such binding.
    fn tables(&self) -> Vec<u32> {
        Vec::new()
    }

    /// `const NAME: u32 = value;` lines of the shader.
    fn constants(&self) -> Vec<(&'static str, u32)>;

    /// Decodes one row: the stored formula in f64, rounded once to f32.
    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]);

    /// One codec for several matrices stacked by rows (`rows[i]` rows of `parts[i]`), if there is one.
    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>>;

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

    /// Cells that one row has in `section`.
    pub fn cells(self, codec: &dyn Codec, section: &Section) -> usize {
        codec.fields()[section.field].items(self.cols).div_ceil(section.cell)
    }

    /// 32-bit words of `section`, padded to 16 bytes.
    pub fn section_words(self, codec: &dyn Codec, section: &Section) -> usize {
        let bits = self.padded_rows() * self.cells(codec, section) * section.cell * section.bits as usize;
        (bits / 32).next_multiple_of(4)
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
