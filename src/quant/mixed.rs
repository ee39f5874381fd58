//! Integers whose rate changes along a row, with scales of four bits (EXL2): `w = (q − 2^(b−1)) · (n + 1)² · max / 256`.
//!
//! A row is cut in segments of one rate b and one group size; n is a group's scale code in this row, max a number that
//! the group has for all rows. 32 columns are b words, whatever b is: a plane of 4 bits for rates from 4 on, one of 4,
//! 2 or 1 for the rest, so that every plane is laid out in quads like any other code.

use super::packed::place;
use super::{Codec, Family, Field, Kind, Packed, Section, UNIT, interchangeable};
use crate::error::{Error, Result};
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// Integers of 2 to 8 bits in one row.
pub static FAMILY: Family = Family {
    name: "mixed",
    about: "integers of 2-8 bits, the rate changing along a row, with 4-bit scales (EXL2)",
    wgsl: &["codecs/mixed.wgsl"],
    samples,
};

/// Consecutive groups of one rate and one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// Columns of all groups together, in [`UNIT`]s; the last group of a row goes on to its end.
    pub units: usize,
    /// Columns of a group, in [`UNIT`]s.
    pub group: usize,
}

/// The codec of one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    segments: Vec<Segment>,
    places: Vec<Place>, // of the segments' units
    max: Vec<f32>,
}

/// Where a unit lies in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its rate.
    pub bits: u32,
    /// Its first word.
    pub word: usize,
    /// Its group.
    pub group: usize,
}

fn samples() -> Vec<Arc<dyn Codec>> {
    let segment = |bits, units, group| Segment { bits, units, group };
    let sample = |segments: [Segment; 3]| Mixed::new(&segments, vec![0.5, 0.75, 1.25, 0.3, 2.0]);
    let all = [
        [segment(5, 1, 1), segment(3, 4, 2), segment(2, 4, 4)],
        [segment(8, 2, 1), segment(6, 1, 1), segment(4, 2, 2)],
    ];
    all.into_iter().filter_map(|segments| sample(segments).ok()).map(|codec| codec as _).collect()
}

impl Mixed {
    /// `max[g]` belongs to group g of every row.
    pub fn new(segments: &[Segment], max: Vec<f32>) -> Result<Arc<Self>> {
        if let Some(segment) = segments.iter().find(|s| !matches!(s.bits, 2..=6 | 8)) {
            let error = Error::unsupported(format!("unsupported bit rate {}", segment.bits));
            return Err(error.expected("2, 3, 4, 5, 6 or 8"));
        }
        let fits = |s: &Segment| s.group > 0 && s.units > 0 && s.units.is_multiple_of(s.group);
        if segments.is_empty() || max.is_empty() || !segments.iter().all(fits) {
            return Err(Error::invalid("segments of whole groups"));
        }
        let mut places = Vec::new();
        let mut next = Place { bits: 0, word: 0, group: 0 };
        for &Segment { bits, units, group } in segments {
            for unit in 1..=units {
                places.push(Place { bits, ..next });
                next.word += bits as usize;
                next.group += usize::from(unit.is_multiple_of(group));
            }
        }
        Ok(Arc::new(Self { segments: segments.to_vec(), places, max }))
    }

    /// Where unit `unit` of a row lies; past the end of a row its last group goes on.
    pub fn place(&self, unit: usize) -> Place {
        let known = unit.min(self.places.len() - 1);
        let at = self.places[known];
        Place { word: at.word + (unit - known) * at.bits as usize, ..at }
    }

    /// What the scales of a group are multiples of.
    fn max(&self, group: usize) -> f32 {
        self.max[group.min(self.max.len() - 1)]
    }
}

/// The planes of a code of `bits`: width and first bit of each.
fn planes(bits: u32) -> impl Iterator<Item = (u32, u32)> {
    let rest = match bits {
        8 => 4,
        4.. => bits - 4,
        _ => bits,
    };
    let low = if bits >= 4 { 4 } else { 0 };
    let widths = [low, rest & 4, rest & 2, rest & 1];
    widths.into_iter().filter(|&width| width > 0).scan(0, |next, width| {
        let shift = *next;
        *next += width;
        Some((width, shift))
    })
}

/// The words of a unit of 32 codes.
pub fn pack_unit(bits: u32, codes: &[u32], words: &mut Vec<u32>) {
    for (width, shift) in planes(bits) {
        let first = words.len();
        words.resize(first + width as usize, 0);
        for (i, code) in codes.iter().enumerate() {
            let bit = place(width, UNIT, i);
            words[first + bit / 32] |= (code >> shift & ((1 << width) - 1)) << (bit % 32);
        }
    }
}

/// Code `i` of a unit.
fn code(bits: u32, words: &[u32], i: usize) -> u32 {
    let mut first = 0;
    planes(bits).fold(0, |code, (width, shift)| {
        let bit = place(width, UNIT, i);
        let part = words[first + bit / 32] >> (bit % 32) & ((1 << width) - 1);
        first += width as usize;
        code | part << shift
    })
}

impl Codec for Mixed {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let rates: Vec<String> = self.segments.iter().map(|s| s.bits.to_string()).collect();
        format!("mixed {}", rates.join("/"))
    }

    /// Words and scale codes; how many a row has of each, [`Codec::items`] says.
    fn fields(&self) -> Vec<Field> {
        vec![Field::new("codes", Kind::Code(32), UNIT), Field::new("scales", Kind::Code(4), UNIT)]
    }

    fn items(&self, field: usize, cols: Range<usize>) -> Range<usize> {
        let units = cols.start / UNIT..cols.end.div_ceil(UNIT);
        match field {
            0 => self.place(units.start).word..self.place(units.end).word,
            _ => self.place(units.start).group..self.place(units.end.saturating_sub(1)).group + 1,
        }
    }

    fn sections(&self) -> Vec<Section> {
        vec![
            Section { binding: 0, field: 0, shift: 0, bits: 32, cell: 1 },
            Section { binding: 1, field: 1, shift: 0, bits: 4, cell: 1 },
        ]
    }

    /// Units; of each its first word with its bits above, its group and that group's max.
    fn tables(&self) -> Vec<u32> {
        let words =
            |at: &Place| [at.word as u32 | at.bits << 28, at.group as u32, self.max(at.group).to_bits()];
        std::iter::once(self.places.len() as u32).chain(self.places.iter().flat_map(words)).collect()
    }

    fn tied_to_shape(&self) -> bool {
        true
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        Some(&["codecs/mixed_fixed.wgsl", "lib/ungrouped.wgsl"])
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut words = [0; 8];
        for (unit, out) in out.chunks_mut(UNIT).enumerate() {
            let Place { bits, word, group } = self.place(unit);
            for (i, w) in words[..bits as usize].iter_mut().enumerate() {
                *w = packed.item(0, row, word + i);
            }
            let scale =
                (packed.item(1, row, group) as f64 + 1.0).powi(2) * f64::from(self.max(group)) / 256.0;
            let zero = f64::from(1 << (bits - 1));
            for (i, w) in out.iter_mut().enumerate() {
                *w = ((f64::from(code(bits, &words, i)) - zero) * scale) as f32;
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Arc::new(self.clone()) as _)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Extent, Piece, Shape};
    use super::*;

    #[test]
    fn units_come_back() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let codes: Vec<u32> = (0..32).map(|i| (i * 37 + 5) % (1 << bits)).collect();
            let mut words = Vec::new();
            pack_unit(bits, &codes, &mut words);
            assert_eq!(words.len(), bits as usize);
            assert!((0..32).all(|i| code(bits, &words, i) == codes[i]), "{bits} bits");
        }
    }

    /// A row of 96 columns at 5 bits, then 3, by hand; written in two pieces.
    #[test]
    fn rows_decode() {
        let segments = [Segment { bits: 5, units: 1, group: 1 }, Segment { bits: 3, units: 2, group: 2 }];
        let codec = Mixed::new(&segments, vec![0.5, 4.0]).unwrap();
        assert_eq!((codec.items(0, 0..96), codec.items(1, 0..96)), (0..11, 0..2));
        assert_eq!((codec.items(0, 64..96), codec.items(1, 64..96)), (8..11, 1..2));
        let codes: Vec<u32> = (0..96).map(|k| if k < 32 { k } else { k % 8 }).collect();
        let mut packed = Packed::new(codec.clone(), Shape { rows: 1, cols: 96 });
        for cols in [0..64, 64..96] {
            let (mut words, units) = (Vec::new(), cols.start / 32..cols.end / 32);
            for unit in units {
                pack_unit(codec.place(unit).bits, &codes[32 * unit..32 * unit + 32], &mut words);
            }
            let scales = if cols.start == 0 { vec![3, 15] } else { vec![15] };
            packed.write_piece(&Piece { extent: Extent { rows: 0..1, cols }, items: vec![words, scales] });
        }
        let mut row = [0.0; 96];
        packed.decode_row(0, &mut row);
        for (k, w) in row.iter().enumerate() {
            let wanted = match k {
                0..32 => (k as f32 - 16.0) * 16.0 * 0.5 / 256.0,
                _ => ((k % 8) as f32 - 4.0) * 4.0,
            };
            assert_eq!(*w, wanted, "column {k}");
        }
    }
}
