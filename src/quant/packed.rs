//! Items → packed words, for every codec alike; and back, for CPU decodes.

use super::{Codec, Piece, Section, Shape, TILE_ROWS};
use std::ops::Range;
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
    sections: Vec<Placed>,
}

/// A section with its place in a matrix.
#[derive(Debug)]
struct Placed {
    section: Section,
    /// First word in its binding.
    offset: usize,
    /// Cells a line.
    cells: usize,
    /// Rows a line.
    rows: usize,
}

impl Placed {
    /// The sections of a matrix, in order.
    fn all(codec: &dyn Codec, shape: Shape) -> Vec<Self> {
        let fields = codec.fields();
        let place = |(section, offset): (Section, usize)| {
            let cells = shape.cells(codec, &section);
            let rows = fields[section.field].rows;
            Self { section, offset, cells, rows }
        };
        codec.sections().into_iter().zip(shape.section_offsets(codec)).map(place).collect()
    }

    /// Lines that tile `tile` stores.
    fn tile_lines(&self, shape: Shape, tile: usize) -> usize {
        (shape.padded_rows() - tile * TILE_ROWS).min(TILE_ROWS).div_ceil(self.rows)
    }

    /// First bit of item `i` of line `line`, from the section's first word on.
    fn bit(&self, shape: Shape, line: usize, i: usize) -> usize {
        let (cell, bits) = (self.section.cell, self.section.bits);
        let lines = TILE_ROWS / self.rows;
        let tile = line / lines;
        let index = tile * lines * self.cells + i / cell * self.tile_lines(shape, tile) + line % lines;
        index * cell * bits as usize + place(bits, cell, i % cell)
    }
}

/// First bit of item `i` of a cell of `cell` items.
///
/// Narrow codes are laid out in quads: four neighbouring codes sit in the four bytes of a word, so that one
/// mask and shift gives four bytes ready for `unpack4xU8` or a packed dot product. A cell that is no whole word has
/// its items in order.
pub(super) fn place(bits: u32, cell: usize, i: usize) -> usize {
    let bits = bits as usize;
    if bits >= 16 || cell * bits < 32 {
        return i * bits;
    }
    let per_word = 32 / bits;
    let (word, i) = (i / per_word, i % per_word);
    word * 32 + (i % 4) * 8 + (i / 4) * bits
}

/// Packs `piece` of a matrix of `shape`; a part of a split matrix starts at row `first_row` of the piece's rows.
///
/// The piece covers whole tiles (or ends with the matrix), see [`super::Extent`].
pub fn pack(codec: &dyn Codec, shape: Shape, piece: &Piece, first_row: usize) -> Vec<Run> {
    let fields = codec.fields();
    let rows = piece.extent.rows.start - first_row..piece.extent.rows.end - first_row;
    let mut runs: Vec<Run> = Vec::new();
    for placed in Placed::all(codec, shape) {
        let section = &placed.section;
        let field = &fields[section.field];
        let cell_bits = section.cell * section.bits as usize;
        let Range { start: first_item, end: end_item } =
            codec.items(section.field, piece.extent.cols.clone());
        let items = &piece.items[section.field];
        let items_a_line = end_item - first_item;
        let (first_cell, end_cell) = (first_item / section.cell, end_item.div_ceil(section.cell));
        let mask = if section.bits == 32 { u32::MAX } else { (1 << section.bits) - 1 };
        let (first_line, end_line) = (rows.start / field.rows, field.lines(rows.end));
        for tile in rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS) {
            let (tile_lines, lines) = (placed.tile_lines(shape, tile), TILE_ROWS / field.rows);
            let base = (tile * lines * placed.cells + first_cell * tile_lines) * cell_bits;
            let bits = (end_cell - first_cell) * tile_lines * cell_bits;
            let mut words = vec![0u32; bits.div_ceil(32)];
            for line in (tile * lines).max(first_line)..end_line.min((tile + 1) * lines) {
                let source = &items[(line - first_line) * items_a_line..][..items_a_line];
                for (i, &item) in source.iter().enumerate() {
                    let bit = placed.bit(shape, line, first_item + i) - base;
                    words[bit / 32] |= ((item >> section.shift) & mask) << (bit % 32);
                }
            }
            let start = placed.offset + base / 32;
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
        let sections = Placed::all(&*codec, shape);
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
        let placed = &self.sections[section];
        let bits = placed.cells * placed.section.cell * placed.section.bits as usize;
        let words = self.shape.rows / placed.rows * bits / 32;
        &self.bindings[placed.section.binding][placed.offset..placed.offset + words]
    }

    /// Bits `section.shift ..` of item `i` of the line of `row`, not shifted back.
    pub fn item(&self, section: usize, row: usize, i: usize) -> u32 {
        let placed = &self.sections[section];
        let bit = placed.bit(self.shape, row / placed.rows, i);
        self.bits(&placed.section, placed.offset * 32 + bit)
    }

    /// The same for the first `out.len()` items of the line of `row`.
    pub fn items(&self, section: usize, row: usize, out: &mut [u32]) {
        let placed = &self.sections[section];
        let section = &placed.section;
        let places: Vec<usize> = (0..section.cell).map(|i| place(section.bits, section.cell, i)).collect();
        for (cell, out) in out.chunks_mut(section.cell).enumerate() {
            let first = placed.offset * 32 + placed.bit(self.shape, row / placed.rows, cell * section.cell);
            for (item, place) in out.iter_mut().zip(&places) {
                *item = self.bits(section, first + place);
            }
        }
    }

    /// All items of a field of `row`, whichever sections their bits are in.
    pub fn field(&self, field: usize, row: usize) -> Vec<u32> {
        let count = self.codec.fields().get(field).map_or(0, |field| field.items(self.shape.cols));
        let (mut items, mut bits) = (vec![0; count], vec![0; count]);
        for (i, placed) in self.sections.iter().enumerate().filter(|(_, p)| p.section.field == field) {
            self.items(i, row, &mut bits);
            items.iter_mut().zip(&bits).for_each(|(item, bits)| *item |= bits << placed.section.shift);
        }
        items
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
