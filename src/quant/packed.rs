//! Items → packed words, for every codec alike; and back, for CPU decodes.

use super::{Codec, Piece, Section, Shape, TILE_ROWS};
use std::sync::Arc;

/// Words to write at an offset of a binding.
#[derive(Debug)]
pub struct Run {
    /// Which binding.
    pub binding: usize,
    /// First word.
    pub offset: usize,
    /// What to write.
    pub words: Vec<u32>,
}

/// A matrix in packed form in host memory.
#[derive(Debug)]
pub struct Packed {
    /// How to read it.
    pub codec: Arc<dyn Codec>,
    /// Rows and columns.
    pub shape: Shape,
    /// Which row of the matrix its row 0 is: other than 0 where it holds a band of rows only.
    pub first_row: usize,
    bindings: Vec<Vec<u32>>,
    sections: Vec<(Section, usize, usize)>, // section, word offset, cells a row
}

/// First bit of item `i` of a cell of `bits`-wide items.
///
/// Narrow codes are laid out in quads: four neighbouring codes sit in the four bytes of a word, so that one
/// mask and shift gives four bytes ready for `unpack4xU8` or a packed dot product.
fn place(bits: u32, i: usize) -> usize {
    let bits = bits as usize;
    if bits >= 16 {
        return i * bits;
    }
    let per_word = 32 / bits;
    let (word, i) = (i / per_word, i % per_word);
    word * 32 + (i % 4) * 8 + (i / 4) * bits
}

/// Rows that tile `tile` stores.
fn tile_rows(shape: Shape, tile: usize) -> usize {
    (shape.padded_rows() - tile * TILE_ROWS).min(TILE_ROWS)
}

/// First bit of item `i` of `row` in a section with `cells` cells a row.
fn bit_address(shape: Shape, section: &Section, cells: usize, row: usize, i: usize) -> usize {
    let (tile, cell) = (row / TILE_ROWS, i / section.cell);
    let index = tile * TILE_ROWS * cells + cell * tile_rows(shape, tile) + row % TILE_ROWS;
    let inside = if section.cell == 1 { 0 } else { place(section.bits, i % section.cell) };
    index * section.cell * section.bits as usize + inside
}

/// Packs `piece` of a matrix of `shape`; a part of a split matrix starts at row `first_row` of the piece's rows.
///
/// The piece covers whole tiles (or ends with the matrix), see [`super::Extent`].
pub fn pack(codec: &dyn Codec, shape: Shape, piece: &Piece, first_row: usize) -> Vec<Run> {
    let fields = codec.fields();
    let offsets = shape.section_offsets(codec);
    let rows = piece.extent.rows.start - first_row..piece.extent.rows.end - first_row;
    let whole_rows = piece.extent.cols == (0..shape.cols);
    let mut runs: Vec<Run> = Vec::new();
    for (section, offset) in codec.sections().iter().zip(offsets) {
        let field = &fields[section.field];
        let cells = shape.cells(codec, section);
        let cell_bits = section.cell * section.bits as usize;
        let first_item = if whole_rows { 0 } else { piece.extent.cols.start / field.run };
        let items = &piece.items[section.field];
        let items_a_row = field.items(piece.extent.cols.len());
        let (first_cell, end_cell) =
            (first_item / section.cell, (first_item + items_a_row).div_ceil(section.cell));
        let mask = if section.bits == 32 { u32::MAX } else { (1 << section.bits) - 1 };
        for tile in rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS) {
            let tile_rows = tile_rows(shape, tile);
            let base = (tile * TILE_ROWS * cells + first_cell * tile_rows) * cell_bits;
            let bits = (end_cell - first_cell) * tile_rows * cell_bits;
            let mut words = vec![0u32; bits.div_ceil(32)];
            let (from, to) = (tile * TILE_ROWS, rows.end.min((tile + 1) * TILE_ROWS));
            for row in from.max(rows.start)..to {
                let source = &items[(row - rows.start) * items_a_row..][..items_a_row];
                for (i, &item) in source.iter().enumerate() {
                    let bit = bit_address(shape, section, cells, row, first_item + i) - base;
                    words[bit / 32] |= ((item >> section.shift) & mask) << (bit % 32);
                }
            }
            let start = offset + base / 32;
            match runs.last_mut() {
                Some(run) if run.binding == section.binding && run.offset + run.words.len() == start => {
                    run.words.append(&mut words);
                }
                _ => runs.push(Run { binding: section.binding, offset: start, words }),
            }
        }
    }
    runs
}

/// A few packed tiles of [`TILE_ROWS`] rows that a matrix consists of, one after the other and again from the first.
#[derive(Debug, Clone)]
pub struct Tiles {
    /// At least one, of one codec and of equal shape.
    pub tiles: Arc<Vec<Packed>>,
    /// Which of them the matrix begins with.
    pub first: usize,
}

impl Tiles {
    /// How the tiles are packed.
    pub fn codec(&self) -> &dyn Codec {
        &*self.tiles[0].codec
    }

    /// The words of `section` for tiles `first..first + count` of the matrix.
    pub fn words(&self, section: usize, first: usize, count: usize) -> Vec<u32> {
        let tiles = (first..first + count).map(|i| &self.tiles[(self.first + i) % self.tiles.len()]);
        tiles.flat_map(|tile| tile.section_words(section).iter().copied()).collect()
    }
}

impl Packed {
    /// All zeros, tables filled in.
    pub fn new(codec: Arc<dyn Codec>, shape: Shape) -> Self {
        let mut bindings: Vec<Vec<u32>> =
            shape.binding_words(&*codec).into_iter().map(|words| vec![0; words]).collect();
        let tables = codec.tables();
        if let (false, Some(last)) = (tables.is_empty(), bindings.last_mut()) {
            last[..tables.len()].copy_from_slice(&tables);
        }
        let offsets = shape.section_offsets(&*codec);
        let place = |(s, offset): (Section, usize)| {
            let cells = shape.cells(&*codec, &s);
            (s, offset, cells)
        };
        let sections = codec.sections().into_iter().zip(offsets).map(place).collect();
        Self { codec, shape, first_row: 0, bindings, sections }
    }

    /// Copies packed words in.
    pub fn write(&mut self, run: &Run) {
        self.bindings[run.binding][run.offset..run.offset + run.words.len()].copy_from_slice(&run.words);
    }

    /// All zeros, for `shape.rows` rows of a larger matrix, from `first_row` on (a multiple of [`TILE_ROWS`]).
    pub fn band(codec: Arc<dyn Codec>, shape: Shape, first_row: usize) -> Self {
        Self { first_row, ..Self::new(codec, shape) }
    }

    /// Packs a piece in.
    pub fn write_piece(&mut self, piece: &Piece) {
        for run in pack(&*self.codec, self.shape, piece, self.first_row) {
            self.write(&run);
        }
    }

    /// The words of each binding, as the GPU sees them.
    pub fn bindings(&self) -> &[Vec<u32>] {
        &self.bindings
    }

    /// The words of a section of whole tiles, without padding.
    fn section_words(&self, section: usize) -> &[u32] {
        let (section, offset, cells) = &self.sections[section];
        let words = self.shape.rows * cells * section.cell * section.bits as usize / 32;
        &self.bindings[section.binding][*offset..offset + words]
    }

    /// Bits `section.shift ..` of item `i` of `row`, not shifted back.
    pub fn item(&self, section: usize, row: usize, i: usize) -> u32 {
        let (section, offset, cells) = &self.sections[section];
        let bit = bit_address(self.shape, section, *cells, row, i);
        self.bits(section, offset * 32 + bit)
    }

    /// The same for the first `out.len()` items of `row`.
    pub fn items(&self, section: usize, row: usize, out: &mut [u32]) {
        let (section, offset, cells) = &self.sections[section];
        for (cell, out) in out.chunks_mut(section.cell).enumerate() {
            let first = offset * 32 + bit_address(self.shape, section, *cells, row, cell * section.cell);
            for (i, item) in out.iter_mut().enumerate() {
                let inside = if section.cell == 1 { 0 } else { place(section.bits, i) };
                *item = self.bits(section, first + inside);
            }
        }
    }

    fn bits(&self, section: &Section, bit: usize) -> u32 {
        let word = self.bindings[section.binding][bit / 32];
        (word >> (bit % 32)) & (u32::MAX >> (32 - section.bits))
    }

    /// One decoded row; `row` counts from the first that is held.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.codec.decode_row(self, row, out);
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.bindings.iter().map(|b| b.len() as u64 * 4).sum()
    }
}
