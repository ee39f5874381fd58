//! Integers of 3 bits in groups of 16, whose scales and zero points are integers of 3 bits themselves (SpQR §3):
//! `w = s · (q − z)`, `s = S_s · (q_s − S_z)`, `z = Z_s · (q_z − Z_z)`, the four halves shared by 16 rows × 16 columns.
//!
//! Fields belong to rows, these halves to sixteen of them: row r of a tile keeps half `r % 4` of group `r / 4` of every
//! four groups.

use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use std::any::Any;
use std::sync::Arc;

/// SpQR's dense part.
pub static FAMILY: Family = Family {
    name: "bilevel",
    about: "3-bit integers with 3-bit scales and zero points in tiles of 16 × 16 (SpQR)",
    wgsl: &["codecs/bilevel.wgsl"],
    samples: || vec![Bilevel::new()],
};

/// Rows and columns of a tile.
pub const TILE: usize = 16;
/// Tiles whose halves a row of tiles keeps together.
pub const TILES: usize = 4;

/// The codec; it has no parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bilevel;

impl Bilevel {
    /// The codec.
    pub fn new() -> Arc<Self> {
        Arc::new(Self)
    }
}

impl Codec for Bilevel {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        "bilevel3".into()
    }

    /// Codes; `q_s | q_z << 3` of a group; the halves `S_s, Z_s, S_z, Z_z` as above.
    fn fields(&self) -> Vec<Field> {
        vec![
            Field::new("codes", Kind::Code(3), 1),
            Field::new("first order", Kind::Code(6), TILE),
            Field::new("second order", Kind::F16, TILE * TILES),
        ]
    }

    /// Low plane of the codes, first order, second order, high plane.
    fn sections(&self) -> Vec<Section> {
        vec![
            Section { binding: 0, field: 0, shift: 0, bits: 2, cell: 64 },
            Section { binding: 1, field: 1, shift: 0, bits: 8, cell: 1 },
            Section { binding: 1, field: 2, shift: 0, bits: 16, cell: 1 },
            Section { binding: 1, field: 0, shift: 2, bits: 1, cell: 32 },
        ]
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        Some(&["codecs/bilevel_fixed.wgsl", "lib/plane_codes.wgsl", "lib/ungrouped.wgsl"])
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut exact = vec![0.0; out.len()];
        self.exact_row(packed, row, &mut exact);
        out.iter_mut().zip(exact).for_each(|(out, w)| *out = w as f32);
    }

    fn exact_row(&self, packed: &Packed, row: usize, out: &mut [f64]) {
        let (mut codes, mut high) = (vec![0; out.len()], vec![0; out.len()]);
        packed.items(0, row, &mut codes);
        packed.items(3, row, &mut high);
        codes.iter_mut().zip(high).for_each(|(code, high)| *code |= high << 2);
        for (group, (out, codes)) in out.chunks_mut(TILE).zip(codes.chunks(TILE)).enumerate() {
            let first = row / TILE * TILE + group % TILES * 4;
            let half = |i: usize| match first < packed.shape.padded_rows() {
                true => Kind::F16.value(packed.item(2, first + i, group / TILES)),
                false => 0.0, // the rows end inside a tile
            };
            let order = packed.item(1, row, group);
            let scale = half(0) * (f64::from(order & 7) - half(2));
            let zero = half(1) * (f64::from(order >> 3 & 7) - half(3));
            for (w, &code) in out.iter_mut().zip(codes) {
                *w = scale * (f64::from(code) - zero);
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        let whole = parts.iter().rev().skip(1).all(|(_, rows)| rows.is_multiple_of(TILE));
        (whole && interchangeable(parts)).then(|| Self::new() as _)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Extent, Piece, Shape};
    use super::*;

    /// One tile row of two tiles: the second group's halves are those of rows 4 to 7.
    #[test]
    fn halves_are_shared_by_sixteen_rows() {
        let halves = [0.5, 2.0, 1.0, 3.0, 0.25, 1.0, -1.0, 0.5];
        let item = |row: usize| if row < 8 { half::f16::from_f32(halves[row]).to_bits() as u32 } else { 0 };
        let codes: Vec<u32> = (0..16 * 32).map(|i| i % 8).collect();
        let order: Vec<u32> = (0..32).map(|i| (i % 8) | (i / 4) << 3).collect();
        let mut packed = Packed::new(Bilevel::new(), Shape { rows: 16, cols: 32 });
        let extent = Extent { rows: 0..16, cols: 0..32 };
        packed.write_piece(&Piece { extent, items: vec![codes, order, (0..16).map(item).collect()] });
        for row in 0..16 {
            let mut out = [0.0; 32];
            packed.decode_row(row, &mut out);
            for (k, w) in out.into_iter().enumerate() {
                let (index, second) = ((2 * row + k / 16) as f32, k / 16 * 4);
                let scale = halves[second] * (index % 8.0 - halves[second + 2]);
                let zero = halves[second + 1] * ((index / 4.0).floor() - halves[second + 3]);
                assert_eq!(w, scale * ((k % 8) as f32 - zero), "row {row}, column {k}");
            }
        }
    }
}
