//! Vector codes into stored codebooks: `w = s · Σ_c codebook_c[code_c]`, one code of each codebook for a block of
//! `output × input` weights (AQLM: Egiazarian et al. 2024, additive quantization).
//!
//! Codebooks are tables of f16, as on disk: 1 MiB for 65536 entries of 8 weights, which a GPU keeps in its caches;
//! two of 256 entries, 8 KiB, go to workgroup memory. Every matrix has its own, so matrices are not fused.

use super::{Codec, Family, Field, Kind, Packed, Section, TILE_ROWS, UNIT, WHOLE_ROW, interchangeable};
use crate::error::{Error, Result};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Additive codebooks.
pub static FAMILY: Family = Family {
    name: "codebook",
    about: "codes of up to 16 bits into learned codebooks, summed, with a scale a row (AQLM)",
    wgsl: &["codecs/codebook.wgsl"],
    samples,
};

/// Sizes of a codebook matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Codes of a block.
    pub codebooks: usize,
    /// Bits of a code.
    pub bits: u32,
    /// Rows of a block.
    pub output: usize,
    /// Columns of a block.
    pub input: usize,
}

impl Sizes {
    /// Numbers in all codebooks.
    pub fn values(&self) -> usize {
        (self.codebooks * self.output * self.input) << self.bits
    }

    /// Bits of a code in memory and on disk.
    pub fn code_bits(&self) -> u32 {
        if self.bits <= 8 { 8 } else { 16 }
    }
}

/// Codes into codebooks, with a scale a row of blocks.
#[derive(Clone, PartialEq, Eq)]
pub struct Codebook {
    sizes: Sizes,
    /// f16 `[codebooks][2^bits][output][input]`, two a word.
    tables: Arc<[u32]>,
}

impl fmt::Debug for Codebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codebook({:?})", self.sizes)
    }
}

fn samples() -> Vec<Arc<dyn Codec>> {
    let all = [(1, 16, 1, 8), (2, 8, 1, 8), (3, 5, 2, 4), (8, 6, 1, 32)];
    let sample = |(codebooks, bits, output, input)| {
        let sizes = Sizes { codebooks, bits, output, input };
        // Any values will do that differ from their neighbours': multiples of 1/64 between -1 and 1.
        let value = |i: usize| half::f16::from_f32((i * 37 % 129) as f32 / 64.0 - 1.0).to_bits();
        Codebook::new(sizes, &(0..sizes.values()).map(value).collect::<Vec<u16>>()).ok()
    };
    all.into_iter().filter_map(sample).map(|codec| codec as _).collect()
}

impl Codebook {
    /// `values` are f16 `[codebooks][2^bits][output][input]`.
    pub fn new(sizes: Sizes, values: &[u16]) -> Result<Arc<Self>> {
        let Sizes { codebooks, bits, output, input } = sizes;
        let blocks = matches!(input, 4 | 8 | 16 | 32) && output.is_power_of_two() && output <= TILE_ROWS;
        if !blocks || !matches!(bits, 1..=16) || !matches!(codebooks, 1..=16) {
            return Err(Error::unsupported("codebooks")
                .expected("1-16 codebooks of 1-16 bits for blocks of 4, 8, 16 or 32 inputs and 2ⁿ outputs")
                .found(format!("{codebooks} of {bits} bits for {output} × {input}")));
        }
        if !(codebooks * sizes.code_bits() as usize).is_multiple_of(input) {
            return Err(Error::unsupported("codebooks")
                .expected(format!("codes of {UNIT} columns that fill 32-bit words"))
                .found(format!("{codebooks} of {} bits for {input} columns", sizes.code_bits())));
        }
        if values.len() != sizes.values() {
            return Err(Error::invalid("codebooks").expected(sizes.values()).found(values.len()));
        }
        let tables = values.chunks(2).map(|v| u32::from(v[0]) | u32::from(v[1]) << 16).collect();
        Ok(Arc::new(Self { sizes, tables }))
    }

    /// Number `i` of the codebooks.
    fn value(&self, i: usize) -> f64 {
        Kind::F16.value(self.tables[i / 2] >> (16 * (i % 2)))
    }
}

impl Codec for Codebook {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let Sizes { codebooks, bits, output, input } = self.sizes;
        let output = if output == 1 { String::new() } else { format!("{output}×") };
        format!("codebook {codebooks}×{bits} g{output}{input}")
    }

    fn fields(&self) -> Vec<Field> {
        let Sizes { codebooks, bits, output, input } = self.sizes;
        vec![
            Field::new("codes", Kind::Code(bits), input).blocks(output, codebooks),
            Field::new("scales", Kind::F16, WHOLE_ROW).blocks(output, 1),
        ]
    }

    fn sections(&self) -> Vec<Section> {
        let cell = UNIT / self.sizes.input * self.sizes.codebooks;
        vec![
            Section { binding: 0, field: 0, shift: 0, bits: self.sizes.code_bits(), cell },
            Section { binding: 1, field: 1, shift: 0, bits: 16, cell: 1 },
        ]
    }

    fn tables(&self) -> Vec<u32> {
        self.tables.to_vec()
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let Sizes { codebooks, bits, output, input } = self.sizes;
        vec![
            ("CODEBOOKS", codebooks as u32),
            ("ENTRIES", 1 << bits),
            ("CODE_BITS", self.sizes.code_bits()),
            ("OUT", output as u32),
            ("IN", input as u32),
        ]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let Sizes { codebooks, bits, output, input } = self.sizes;
        let scale = Kind::F16.value(packed.item(1, row, 0));
        let mut codes = vec![0; out.len().div_ceil(input) * codebooks];
        packed.items(0, row, &mut codes);
        for (out, codes) in out.chunks_mut(input).zip(codes.chunks(codebooks)) {
            for (i, w) in out.iter_mut().enumerate() {
                let value = |(c, &code): (usize, &u32)| {
                    let entry = (c << bits) + code as usize;
                    self.value((entry * output + row % output) * input + i)
                };
                *w = (codes.iter().enumerate().map(value).sum::<f64>() * scale) as f32;
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

    /// Two codebooks of four entries for blocks of 2 × 4 weights: every weight by hand.
    #[test]
    fn blocks_decode() {
        let sizes = Sizes { codebooks: 2, bits: 2, output: 2, input: 4 };
        let values: Vec<u16> = (0..sizes.values()).map(|i| half::f16::from_f32(i as f32).to_bits()).collect();
        let codec = Codebook::new(sizes, &values).unwrap();
        let shape = Shape { rows: 4, cols: 8 };
        let codes = vec![3, 0, 1, 2, 0, 0, 2, 3]; // [row of blocks][block][codebook]
        let scales = [0.5f32, -2.0].map(|s| u32::from(half::f16::from_f32(s).to_bits())).to_vec();
        let mut packed = Packed::new(codec, shape);
        packed.write_piece(&Piece { extent: Extent { rows: 0..4, cols: 0..8 }, items: vec![codes, scales] });
        let mut row = vec![0.0; 8];
        // Entry e of codebook c begins at 8 · (4c + e), its second row four further on.
        packed.decode_row(0, &mut row);
        assert_eq!(row, [28.0, 29.0, 30.0, 31.0, 28.0, 29.0, 30.0, 31.0]);
        packed.decode_row(3, &mut row);
        assert_eq!(row, [-80.0, -84.0, -88.0, -92.0, -160.0, -164.0, -168.0, -172.0]);
    }

    #[test]
    fn odd_sizes_are_refused() {
        let new = |codebooks, bits, output, input| {
            let sizes = Sizes { codebooks, bits, output, input };
            Codebook::new(sizes, &vec![0; sizes.values()])
        };
        assert!(new(1, 8, 1, 8).is_ok());
        for (codebooks, bits, output, input) in
            [(1, 8, 1, 16), (0, 8, 1, 8), (1, 17, 1, 8), (1, 8, 3, 8), (1, 8, 64, 8), (1, 8, 1, 6)]
        {
            assert!(new(codebooks, bits, output, input).is_err(), "{codebooks} {bits} {output} {input}");
        }
        assert!(Codebook::new(Sizes { codebooks: 1, bits: 8, output: 1, input: 8 }, &[0; 8]).is_err());
    }
}
