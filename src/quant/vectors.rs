//! Vector codes along the outputs into two learned codebooks: `w = s_k · (main[i] + residual[j]) + m_k` (VPTQ: Liu et al.
//! 2024), a pair of codes i, j for the weights of `length` outputs at one input k.
//!
//! Both codes of a vector are one number, i in its low bits. It may have any width: it is stored in planes of a power of two
//! of bits, the widest first. Codebooks are tables of 16-bit floats, as on disk, after the scale and the offset of every input.

use super::{Codec, Family, Field, Kind, Packed, Section, TILE_ROWS, UNIT, interchangeable};
use crate::error::{Error, Result};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Vectors along the outputs.
pub static FAMILY: Family = Family {
    name: "vectors",
    about: "codes of up to 16 + 16 bits into learned codebooks of vectors along the outputs, a scale and an offset an input (VPTQ)",
    wgsl: &["codecs/vectors.wgsl"],
    samples,
};

/// Sizes of the codebooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bits of a code.
    pub bits: u32,
    /// Bits of a residual code; 0 without such a codebook.
    pub residual_bits: u32,
    /// Outputs of a vector.
    pub length: usize,
}

impl Sizes {
    /// Bits of both codes of a vector.
    pub fn all_bits(&self) -> u32 {
        self.bits + self.residual_bits
    }

    /// Vectors in both codebooks.
    pub fn vectors(&self) -> usize {
        (1 << self.bits) + if self.residual_bits > 0 { 1 << self.residual_bits } else { 0 }
    }
}

/// The codec of one matrix.
#[derive(Clone, PartialEq, Eq)]
pub struct Vectors {
    sizes: Sizes,
    /// Of scales, offsets and codebooks: f16 or bf16.
    kind: Kind,
    /// How many inputs there are; for each a scale, and above it an offset; codebooks `[2^bits + 2^residual][length]`, two
    /// numbers a word.
    tables: Arc<[u32]>,
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vectors({:?} {:?})", self.sizes, self.kind)
    }
}

fn samples() -> Vec<Arc<dyn Codec>> {
    let all = [(8, 0, 8, Kind::F16), (12, 11, 16, Kind::Bf16), (16, 16, 2, Kind::F16)];
    let sample = |(bits, residual_bits, length, kind)| {
        let sizes = Sizes { bits, residual_bits, length };
        // Any values will do that differ from their neighbours': multiples of 1/64 between -1 and 1 are exact in both.
        let value = |i: usize| {
            let value = (i * 37 % 129) as f32 / 64.0 - 1.0;
            if kind == Kind::F16 {
                half::f16::from_f32(value).to_bits()
            } else {
                (value.to_bits() >> 16) as u16
            }
        };
        let columns: Vec<[u16; 2]> = (0..150).map(|k| [value(7 * k + 1), value(11 * k + 5)]).collect();
        let values: Vec<u16> = (0..sizes.vectors() * length).map(value).collect();
        Vectors::new(sizes, kind, &columns, &values).ok()
    };
    all.into_iter().filter_map(sample).map(|codec| codec as _).collect()
}

/// The widths of the planes of codes, and the first bit of each.
fn planes(bits: u32) -> impl Iterator<Item = (u32, u32)> {
    let widths = [32, 16, 8, 4, 2, 1].into_iter().filter(move |width| bits & width > 0);
    widths.map(move |width| (width, bits & !(2 * width - 1)))
}

impl Vectors {
    /// `columns` are scale and offset of every input; `values` are `[2^bits + 2^residual_bits][length]`; all are of `kind`.
    pub fn new(sizes: Sizes, kind: Kind, columns: &[[u16; 2]], values: &[u16]) -> Result<Arc<Self>> {
        let Sizes { bits, residual_bits, length } = sizes;
        let fits = length.is_power_of_two() && (2..=TILE_ROWS).contains(&length);
        if !fits || !matches!(bits, 1..=16) || residual_bits > 16 || !matches!(kind, Kind::F16 | Kind::Bf16) {
            return Err(Error::unsupported("codebooks")
                .expected(
                    "up to 2^16 f16 or bf16 vectors of 2, 4, 8, 16 or 32 outputs, and as many residuals",
                )
                .found(format!("2^{bits} and 2^{residual_bits} {kind:?} vectors of {length}")));
        }
        if values.len() != sizes.vectors() * length {
            let error = Error::invalid("codebooks").expected(sizes.vectors() * length);
            return Err(error.found(values.len()));
        }
        if columns.is_empty() {
            return Err(Error::invalid("scales of inputs").expected("one at least").found(0));
        }
        let word = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let mut tables = vec![columns.len() as u32];
        tables.extend(columns.iter().map(|&[scale, offset]| word(scale, offset)));
        tables.extend(values.chunks_exact(2).map(|v| word(v[0], v[1])));
        Ok(Arc::new(Self { sizes, kind, tables: tables.into() }))
    }

    /// Inputs that have a scale.
    fn columns(&self) -> usize {
        self.tables[0] as usize
    }

    /// 16 bits of the tables.
    fn value(&self, i: usize) -> f64 {
        self.kind.value(self.tables[i / 2] >> (16 * (i % 2)) & 0xffff)
    }
}

impl Codec for Vectors {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let Sizes { bits, residual_bits, length } = self.sizes;
        let residual = if residual_bits > 0 { format!("+{residual_bits}") } else { String::new() };
        format!("vectors {bits}{residual} v{length}{}", self.kind.suffix())
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::new("codes", Kind::Code(self.sizes.all_bits()), 1).blocks(self.sizes.length, 1)]
    }

    fn sections(&self) -> Vec<Section> {
        let plane = |(bits, shift)| Section { binding: 0, field: 0, shift, bits, cell: UNIT };
        planes(self.sizes.all_bits()).map(plane).collect()
    }

    fn tables(&self) -> Vec<u32> {
        self.tables.to_vec()
    }

    fn tied_to_shape(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let Sizes { bits, residual_bits, length } = self.sizes;
        vec![
            ("CODE_BITS", bits),
            ("RESIDUAL_BITS", residual_bits),
            ("OUT", length as u32),
            ("FORMAT", self.kind.scale_format()),
        ]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let Sizes { bits, residual_bits, length } = self.sizes;
        let codebooks = 2 * (1 + self.columns());
        let value = |vector: usize| self.value(codebooks + vector * length + row % length);
        for (k, (w, code)) in out.iter_mut().zip(packed.field(0, row)).enumerate() {
            let mut sum = value(code as usize & ((1 << bits) - 1));
            if residual_bits > 0 {
                sum += value((1 << bits) + (code >> bits) as usize);
            }
            let column = 2 * (1 + k.min(self.columns() - 1));
            *w = (sum * self.value(column) + self.value(column + 1)) as f32;
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

    /// Four vectors and two residuals of two outputs, every weight by hand.
    #[test]
    fn vectors_decode() {
        let half = |v: f32| half::f16::from_f32(v).to_bits();
        let sizes = Sizes { bits: 2, residual_bits: 1, length: 2 };
        let values: Vec<u16> = (0..12).map(|i| half(i as f32)).collect();
        let columns = [[half(1.0), half(0.0)], [half(2.0), half(0.5)], [half(-1.0), half(-3.0)]];
        let codec = Vectors::new(sizes, Kind::F16, &columns, &values).unwrap();
        let mut packed = Packed::new(codec, Shape { rows: 4, cols: 3 });
        let items = vec![vec![0, 3, 0b110, 1, 0b101, 2]]; // [pair of rows][column]
        packed.write_piece(&Piece { extent: Extent { rows: 0..4, cols: 0..3 }, items });
        let mut row = vec![0.0; 3];
        // Vector i begins at 2i, residual j at 8 + 2j; without a code a residual is the first.
        packed.decode_row(0, &mut row);
        assert_eq!(row, [8.0, 28.5, -17.0]); // 0 + 8; (6 + 8) · 2 + ½; -(4 + 10) - 3
        packed.decode_row(3, &mut row);
        assert_eq!(row, [12.0, 28.5, -17.0]); // 3 + 9; (3 + 11) · 2 + ½; -(5 + 9) - 3
    }

    #[test]
    fn odd_sizes_are_refused() {
        let new = |bits, residual_bits, length| {
            let sizes = Sizes { bits, residual_bits, length };
            Vectors::new(sizes, Kind::F16, &[[0; 2]], &vec![0; sizes.vectors() * length])
        };
        assert!(new(3, 2, 8).is_ok());
        for (bits, residual_bits, length) in
            [(0, 1, 8), (17, 1, 8), (8, 17, 8), (8, 1, 12), (8, 1, 64), (8, 0, 1)]
        {
            assert!(new(bits, residual_bits, length).is_err(), "{bits} {residual_bits} {length}");
        }
        let sizes = Sizes { bits: 3, residual_bits: 0, length: 8 };
        assert!(Vectors::new(sizes, Kind::F16, &[], &[0; 64]).is_err());
        assert!(Vectors::new(sizes, Kind::F16, &[[0; 2]], &[0; 63]).is_err());
    }
}
