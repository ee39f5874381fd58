//! Grids, ggml's "IQ" types below 4 bits: 4 or 8 weights at a time are a point of a table, with signs, a small scale a
//! group of 16 or 32, and an f16 for every 256 weights (llama.cpp, `ggml-quants.c`; the idea is QuIP#'s E8 lattice).
//!
//! `w = d · (2s + 1) · 2⁻ᵉ · (± v + δ)`, v a coordinate of the point. The IQ1 types have points of −1, 0 and 1 and, in
//! place of signs, δ = ±⅛ for a point or four.
//!
//! | | weights a point | points | bits of a point's item | signs | scales |
//! |---|---|---|---|---|---|
//! | IQ2_XXS | 8 | 256 | 8 | shared word: 4 × 7 bits | shared word: bits 28–31 |
//! | IQ2_XS | 8 | 512 | 16 = 9 + 7 of signs | in the item | 4 bits for 16 weights |
//! | IQ2_S | 8 | 1024 | 10 | 8 bits for 8 weights | 4 bits for 16 weights |
//! | IQ3_XXS | 4 | 256 | 8 | shared word: 4 × 7 bits | shared word: bits 28–31 |
//! | IQ3_S | 4 | 512 | 9 | 8 bits for 8 weights | 4 bits for 32 weights |
//! | IQ1_S | 8 | 2048 | 8, 3 more in the shared word | shared word: bit 15 for δ | shared word: bits 12–14 |
//! | IQ1_M | 8 | 2048 | 12 = 11 + 1 for δ | in the item | 3 bits for 16 weights |
//!
//! Seven bits of signs are eight of which an even number is set. A "shared word" belongs to 32 weights.

use super::{Codec, Family, Field, Kind, Packed, Section, UNIT, interchangeable};
use std::any::Any;
use std::sync::{Arc, LazyLock};

/// IQ1, IQ2 and IQ3.
pub static FAMILY: Family = Family {
    name: "grid",
    about: "points of a table for 4 or 8 weights, with signs and scales of 3-4 bits (IQ1, IQ2, IQ3)",
    wgsl: &["codecs/grid.wgsl", "lib/items.wgsl"],
    samples: || {
        let all = [IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S, IQ1_M];
        all.into_iter().map(|codec| Arc::new(codec) as _).collect()
    },
};

/// Weights under one `d`.
const BLOCK: usize = 256;

/// The tables, one after the other: a point is 16 bits, little-endian, the lowest bits its first coordinate; 2 bits a
/// coordinate of 8, 4 bits a coordinate of 4, which count [`Levels`]. From ggml (`ggml-common.h`: iq2xxs_grid,
/// iq2xs_grid, iq2s_grid, iq3xxs_grid, iq3s_grid, iq1s_grid), Copyright (c) 2023-2026 The ggml authors, MIT license.
static TABLES: LazyLock<Vec<u32>> = LazyLock::new(|| {
    include_bytes!("grids.bin").as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
});

/// [`TABLES`] as shaders read them: four neighbouring coordinates are in the four bytes of a word. The first point of a
/// word has the lowest bits of each, the second those from bit 4 on; the last four coordinates of eight, 2 bits above.
static QUADS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let words_of_four = IQ3_XXS.table.0..IQ3_S.table.0 + IQ3_S.table.1;
    let quads = |(at, &word): (usize, &u32)| {
        let width = if words_of_four.contains(&at) { 4 } else { 2 };
        let bit = |i: u32| 8 * (i % 4) + 2 * (i / 4); // of coordinate i
        let point = |point: u32| {
            let coordinate = |i| (point >> (width * i) & ((1 << width) - 1)) << bit(i);
            (0..16 / width).map(coordinate).sum::<u32>()
        };
        point(word & 0xffff) | point(word >> 16) << 4
    };
    TABLES.iter().enumerate().map(quads).collect()
});

/// What the numbers of a table stand for: `first + step · c`, the `top` one of them `bump` more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Levels {
    first: i32,
    step: i32,
    top: u32,
    bump: i32,
}

/// 8, 25, 43
const IQ2: Levels = Levels { first: 8, step: 17, top: 2, bump: 1 };
/// 4, 12, 20, 28, 36, 44, 52, 62
const IQ3_EIGHTS: Levels = Levels { first: 4, step: 8, top: 7, bump: 2 };
/// 1, 3, 5, 7, 9, 11, 13, 15
const IQ3_ODD: Levels = Levels { first: 1, step: 2, top: 7, bump: 0 };
/// −1, 0, 1
const IQ1: Levels = Levels { first: -1, step: 1, top: 2, bump: 0 };

/// Where the signs of eight weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signs {
    /// In a field of their own: a byte.
    Byte,
    /// Above the index in the point's item: seven bits.
    Item,
    /// In the shared word: seven bits each.
    Word,
    /// There are none; the point's item says which δ.
    ItemDelta,
    /// There are none; bit 15 of the shared word says which δ.
    WordDelta,
}

/// A member of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    name: &'static str,
    /// First word of its table, and how many there are: two points each.
    table: (usize, usize),
    /// Weights of a point.
    point: usize,
    /// Bits of a point's item.
    item_bits: u32,
    levels: Levels,
    signs: Signs,
    /// Bits of a group's scale, and weights of a group.
    scale: (u32, usize),
    /// −log₂ of what scales are multiplied by.
    exponent: u32,
}

/// Seven bits of signs and an eighth that makes the number of set bits even.
fn even(seven: u32) -> u32 {
    seven | (seven.count_ones() & 1) << 7
}

/// 2.0625 bits a weight.
pub const IQ2_XXS: Grid = Grid {
    name: "iq2_xxs",
    table: (0, 128),
    point: 8,
    item_bits: 8,
    levels: IQ2,
    signs: Signs::Word,
    scale: (4, 32),
    exponent: 3,
};
/// 2.3125 bits a weight.
pub const IQ2_XS: Grid =
    Grid { name: "iq2_xs", table: (128, 256), item_bits: 16, signs: Signs::Item, scale: (4, 16), ..IQ2_XXS };
/// 2.5625 bits a weight.
pub const IQ2_S: Grid =
    Grid { name: "iq2_s", table: (384, 512), item_bits: 10, signs: Signs::Byte, scale: (4, 16), ..IQ2_XXS };
/// 3.0625 bits a weight.
pub const IQ3_XXS: Grid =
    Grid { name: "iq3_xxs", table: (896, 128), point: 4, levels: IQ3_EIGHTS, exponent: 2, ..IQ2_XXS };
/// 3.4375 bits a weight.
pub const IQ3_S: Grid = Grid {
    name: "iq3_s",
    table: (1024, 256),
    item_bits: 9,
    levels: IQ3_ODD,
    signs: Signs::Byte,
    exponent: 0,
    ..IQ3_XXS
};
/// 1.5625 bits a weight.
pub const IQ1_S: Grid = Grid {
    name: "iq1_s",
    table: (1280, 1024),
    levels: IQ1,
    signs: Signs::WordDelta,
    scale: (3, 32),
    exponent: 0,
    ..IQ2_XXS
};
/// 1.75 bits a weight.
pub const IQ1_M: Grid =
    Grid { name: "iq1_m", item_bits: 12, signs: Signs::ItemDelta, scale: (3, 16), ..IQ1_S };

impl Grid {
    /// Bits of the word that 32 weights share; 0 for none.
    fn word_bits(&self) -> u32 {
        match self.signs {
            Signs::Word => 32,
            Signs::WordDelta => 16,
            _ => 0,
        }
    }

    /// Bits of the first plane of a point's item; the rest is in the second.
    fn low_bits(&self) -> u32 {
        if self.item_bits == 16 { 16 } else { 8 }
    }

    /// Position of the section of field `field` that begins with bit `shift`; 0 if there is none.
    fn section(&self, field: &str, shift: u32) -> u32 {
        let fields = self.fields();
        let found = |s: &Section| fields[s.field].name == field && s.shift == shift;
        self.sections().iter().position(found).unwrap_or(0) as u32
    }

    /// Coordinate `i` of a point; what lies above its index is ignored.
    fn level(&self, index: u32, i: usize) -> f64 {
        let (first, count) = self.table;
        let (index, width) = (index as usize % (2 * count), 16 / self.point);
        let number = TABLES[first + index / 2] >> (16 * (index % 2) + width * i) & ((1 << width) - 1);
        let Levels { first, step, top, bump } = self.levels;
        f64::from(first + step * number as i32 + if number == top { bump } else { 0 })
    }
}

impl Codec for Grid {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        self.name.into()
    }

    fn fields(&self) -> Vec<Field> {
        let (scale_bits, group) = self.scale;
        let mut fields = vec![
            Field::new("points", Kind::Code(self.item_bits), self.point),
            Field::new("super-scales", Kind::F16, BLOCK),
        ];
        match self.word_bits() {
            0 => fields.push(Field::new("scales", Kind::Code(scale_bits), group)),
            bits => fields.push(Field::new("words", Kind::Code(bits), UNIT)),
        }
        if self.signs == Signs::Byte {
            fields.push(Field::new("signs", Kind::Code(8), 8));
        }
        fields
    }

    /// Points (low plane); super-scales; scales, or shared words; signs; points (high plane).
    fn sections(&self) -> Vec<Section> {
        let (low, points) = (self.low_bits(), UNIT / self.point);
        let section = |field, shift, bits, cell| Section { binding: 1, field, shift, bits, cell };
        let mut sections =
            vec![Section { binding: 0, field: 0, shift: 0, bits: low, cell: points }, section(1, 0, 16, 1)];
        let (scale_bits, group) = self.scale;
        match (self.word_bits(), scale_bits) {
            (0, 3) => {
                sections.extend([section(2, 0, 2, BLOCK / group), section(2, 2, 1, BLOCK / group)]);
            }
            (0, bits) => sections.push(section(2, 0, bits, BLOCK / group)),
            (bits, _) => sections.push(section(2, 0, bits, 1)),
        }
        if self.signs == Signs::Byte {
            sections.push(section(3, 0, 8, UNIT / 8));
        }
        if self.item_bits > low {
            sections.push(section(0, low, self.item_bits - low, points));
        }
        sections
    }

    fn codebook(&self) -> &'static [u32] {
        let (first, count) = self.table;
        &QUADS[first..first + count]
    }

    fn workgroup_bytes(&self) -> u32 {
        4 * self.table.1 as u32
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        let integers = !matches!(self.signs, Signs::ItemDelta | Signs::WordDelta);
        integers.then_some(&["codecs/grid_fixed.wgsl", "lib/ungrouped.wgsl"])
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let low = self.low_bits();
        let per_octet = 8 / self.point as u32;
        let Levels { first, step, top, bump } = self.levels;
        let has_delta = matches!(self.signs, Signs::ItemDelta | Signs::WordDelta);
        vec![
            ("GRID_WORDS", self.table.1 as u32),
            ("POINT", self.point as u32),
            ("OCTET_LOW", low * per_octet),
            ("OCTET_HIGH", (self.item_bits - low) * per_octet),
            ("HIGH_SECTION", self.section("points", low)),
            ("SIGNS", self.signs as u32),
            ("SIGN_SECTION", self.section("signs", 0)),
            ("WORD_BITS", self.word_bits()),
            ("SCALE_BITS", self.scale.0),
            ("SCALE_SHIFT", self.word_bits().saturating_sub(4)),
            ("GROUP", self.scale.1 as u32),
            ("EXPONENT", self.exponent),
            ("FIRST", if has_delta { 0 } else { first as u32 }),
            ("STEP", step as u32),
            ("TOP", top),
            ("BUMP", bump as u32),
        ]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let [points, supers, shared] = [0, 1, 2].map(|field| packed.field(field, row));
        let bytes = if self.signs == Signs::Byte { packed.field(3, row) } else { Vec::new() };
        let points_an_octet = 8 / self.point;
        for (o, out) in out.chunks_mut(8).enumerate() {
            let items = &points[o * points_an_octet..];
            let (word, scale) = match self.word_bits() {
                0 => (0, shared[8 * o / self.scale.1]),
                bits => (shared[o / 4], shared[o / 4] >> (bits - 4) & ((1 << self.scale.0) - 1)),
            };
            let d = Kind::F16.value(supers[8 * o / BLOCK]) * f64::from(2 * scale + 1);
            let d = d / f64::from(1 << self.exponent);
            let delta = |bit: u32| if bit == 0 { 0.125 } else { -0.125 };
            let (signs, delta) = match self.signs {
                Signs::Byte => (bytes[o], 0.0),
                Signs::Item => (even(items[0] >> 9), 0.0),
                Signs::Word => (even(word >> (7 * (o % 4)) & 127), 0.0),
                Signs::ItemDelta => (0, delta(items[0] >> 11)),
                Signs::WordDelta => (0, delta(word >> 15)),
            };
            for (i, w) in out.iter_mut().enumerate() {
                let mut index = items[i / self.point];
                if self.signs == Signs::WordDelta {
                    index |= (word >> (3 * (o % 4)) & 7) << 8;
                }
                let value = self.level(index, i % self.point);
                let value = if signs >> i & 1 == 0 { value } else { -value };
                *w = (d * (value + delta)) as f32;
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Arc::new(*self) as _)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::decode;
    use super::*;

    /// Every table is sorted and has no number that is no level.
    #[test]
    fn tables_are_whole() {
        assert_eq!(TABLES.len(), 2304);
        for codec in [IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S] {
            let words = &TABLES[codec.table.0..codec.table.0 + codec.table.1];
            let points: Vec<u32> = words.iter().flat_map(|w| [w & 0xffff, w >> 16]).collect();
            assert!(points.windows(2).all(|w| w[0] < w[1]), "{}", codec.name);
            let (width, top) = (16 / codec.point, codec.levels.top);
            let numbers = |p: &u32| (0..codec.point).all(|i| (p >> (width * i) & ((1 << width) - 1)) <= top);
            assert!(points.iter().all(numbers), "{}", codec.name);
        }
    }

    /// One row of 32 weights, all points the same, `d` = 1.
    fn unit(codec: Grid, point: u32, shared: Vec<u32>, signs: u32) -> Vec<f32> {
        let mut items = vec![vec![point; UNIT / codec.point], vec![0x3c00], shared];
        if codec.signs == Signs::Byte {
            items.push(vec![signs; 4]);
        }
        decode(Arc::new(codec), UNIT, items)
    }

    /// The first point of every table has the lowest level in all coordinates but a few; signs, scales and δ.
    #[test]
    fn units_decode() {
        let row = unit(IQ2_XXS, 0, vec![3 << 28 | 1 << 7], 0);
        assert_eq!((row[0], row[8], row[15], row[16]), (7.0, -7.0, -7.0, 7.0)); // 8 · (2·3 + 1) / 8
        let row = unit(IQ2_XS, 3 << 9, vec![0, 15], 0);
        assert_eq!((row[0], row[1], row[2], row[7]), (-1.0, -1.0, 1.0, 1.0));
        assert_eq!((row[16], row[18]), (-31.0, 31.0));
        let row = unit(IQ2_S, 0, vec![0, 1], 0x80);
        assert_eq!((row[0], row[7], row[16], row[23]), (1.0, -1.0, 3.0, -3.0));
        assert_eq!(unit(IQ3_XXS, 0, vec![0], 0)[0], 1.0);
        let row = unit(IQ3_S, 0, vec![2], 0x10);
        assert_eq!((row[0], row[4]), (5.0, -5.0));
        assert_eq!(unit(IQ1_S, 0, vec![7 << 12], 0)[0], 15.0 * -0.875);
        assert_eq!(unit(IQ1_S, 0, vec![0x8000], 0)[0], -1.125);
        assert_eq!(unit(IQ1_S, 255, vec![0o7777], 0)[7], 1.125); // the last of 2048 points is 1 everywhere
        let row = unit(IQ1_M, 1 << 11, vec![0, 3], 0);
        assert_eq!((row[0], row[16]), (-1.125, -7.875));
    }
}
