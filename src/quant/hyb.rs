//! QTIP's hybrid trellis code of 2–4 bits (Tseng et al. 2024: HYB), hashed into a small table that a layer has of its own.
//!
//! Tiles are circular streams of bits as in [`trellis`](super::trellis), but a state of 16 bits means two weights, at columns
//! 2j and 2j + 1: the state s of pair p ends with bit `2b·(p + 1)` of the stream. With the hash `u = s² + s` the pair is
//! entry `u / 64 % 512` of the table, its first number negated where bit 15 of u is set. Pairs are in the order in which the
//! lanes of a tensor core hold an operand A, which the maker's kernels feed: for row n and columns k, k + 1
//!
//! `p = 16·(n % 8) + 4·(k % 8 / 2) + 2·(k / 8) + n / 8`
//!
//! Scales belong to the layer's transforms; there is none in here.

use super::trellis::{TILE, state};
use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use crate::error::{Error, Result};
use half::f16;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Trellis codes into a table.
pub static FAMILY: Family = Family {
    name: "hyb",
    about: "trellis codes of 2-4 bits, two weights a state, hashed into a learned table (QTIP)",
    wgsl: &["codecs/hyb.wgsl", "lib/trellis.wgsl"],
    samples: || {
        // Any values will do that differ from their neighbours': multiples of 1/32 between -2 and 2.
        let value = |i: usize| f16::from_f32((i * 37 % 129) as f32 / 32.0 - 2.0).to_bits();
        let table: Vec<u16> = (0..2 * ENTRIES).map(value).collect();
        [2, 3].into_iter().filter_map(|bits| Hyb::new(bits, &table).ok()).map(|c| c as _).collect()
    },
};

/// Pairs of the table.
pub const ENTRIES: usize = 512;

/// A trellis code into a table.
#[derive(Clone, PartialEq, Eq)]
pub struct Hyb {
    bits: usize,
    /// The pairs, two f16 a word, the first in the lower half.
    table: Arc<[u32]>,
}

impl fmt::Debug for Hyb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hyb({})", self.bits)
    }
}

impl Hyb {
    /// `bits` bits a weight; `table` is f16 `[512][2]`.
    pub fn new(bits: usize, table: &[u16]) -> Result<Arc<Self>> {
        if !(2..=4).contains(&bits) {
            return Err(Error::unsupported("bits of QTIP's hybrid code").expected("2 to 4").found(bits));
        }
        if table.len() != 2 * ENTRIES {
            return Err(Error::invalid("table of QTIP's code").expected(2 * ENTRIES).found(table.len()));
        }
        let table = table.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect();
        Ok(Arc::new(Self { bits, table }))
    }

    /// Words of a tile.
    pub fn tile_words(&self) -> usize {
        8 * self.bits
    }

    /// Number `i` of the pair of a state.
    fn value(&self, state: u16, i: usize) -> f32 {
        let s = u32::from(state);
        let hash = s.wrapping_mul(s).wrapping_add(s);
        let pair = self.table[(hash >> 6) as usize % ENTRIES] ^ hash & 0x8000;
        Kind::F16.value(pair >> (16 * i)) as f32
    }
}

impl Codec for Hyb {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        format!("hyb{}", self.bits)
    }

    /// The words of a tile.
    fn fields(&self) -> Vec<Field> {
        vec![Field::new("words", Kind::Code(32), TILE).blocks(TILE, self.tile_words())]
    }

    fn sections(&self) -> Vec<Section> {
        vec![Section { binding: 0, field: 0, shift: 0, bits: 32, cell: self.tile_words() }]
    }

    fn tables(&self) -> Vec<u32> {
        self.table.to_vec()
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        vec![("BITS", self.bits as u32)]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut words = vec![0; out.len().div_ceil(TILE) * self.tile_words()];
        packed.items(0, row, &mut words);
        let n = row % TILE;
        for (out, words) in out.chunks_mut(TILE).zip(words.chunks(self.tile_words())) {
            for (k, w) in out.iter_mut().enumerate() {
                let pair = 16 * (n % 8) + 4 * (k % 8 / 2) + 2 * (k / 8) + n / 8;
                *w = self.value(state(words, 2 * self.bits * (pair + 1)), k % 2);
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Arc::new(self.clone()) as _)
    }

    fn workgroup_bytes(&self) -> u32 {
        4 * ENTRIES as u32
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Extent, Piece, Shape};
    use super::*;

    /// A stream of zeros but for a state of 0x1234 at the pair of row 9, columns 10 and 11: all by hand.
    #[test]
    fn rows_decode() {
        let table: Vec<u16> = (0..1024).map(|i| f16::from_f32(i as f32).to_bits()).collect();
        let codec = Hyb::new(2, &table).unwrap();
        // Pair 16·1 + 4·1 + 2·1 + 1 = 23 ends with bit 96: the lower half of word 2.
        let mut words = vec![0; 16];
        words[2] = 0x1234;
        let mut packed = Packed::new(codec, Shape { rows: 16, cols: 16 });
        packed.write_piece(&Piece { extent: Extent { rows: 0..16, cols: 0..16 }, items: vec![words] });
        let mut row = [0.0; 16];
        packed.decode_row(9, &mut row);
        // 0x1234² + 0x1234 = 0x14b6cc4: bit 15 clear, 0x6cc4 / 64 = 435. Pair 21 of the row ends 8 bits before: 0x0012,
        // 0x12² + 0x12 = 0x156, entry 5, at columns 2 and 3. Pair 25 ends 8 bits later: 0x3400, entry 208, columns 4
        // and 5. Entry 0 is (0, 1).
        let mut wanted: [f32; 16] = std::array::from_fn(|k| (k % 2) as f32);
        (wanted[10], wanted[11]) = (870.0, 871.0);
        (wanted[2], wanted[3]) = (10.0, 11.0);
        (wanted[4], wanted[5]) = (416.0, 417.0);
        assert_eq!(row, wanted);
        // Row 1 has pairs 20 and 22; the latter ends 4 bits before 23: 0x0123² + 0x0123 = 0x14bec, entry 303, no sign.
        packed.decode_row(1, &mut row);
        assert_eq!(row[10..12], [606.0, 607.0]);
    }

    #[test]
    fn the_first_number_has_a_sign() {
        let codec = Hyb::new(3, &[f16::ONE.to_bits(); 1024]).unwrap();
        for s in 0..=u16::MAX {
            let negative = (u32::from(s) * (u32::from(s) + 1)) >> 15 & 1 == 1;
            assert_eq!([codec.value(s, 0), codec.value(s, 1)], [if negative { -1.0 } else { 1.0 }, 1.0]);
        }
    }
}
