//! Four-bit codes into a table of 16 values, with a scale a block: NF4, FP4, E2M1, IQ4_NL.
//!
//! `w = table[code] · scale`. A scale is a number of 8 to 32 bits (MXFP4, IQ4_NL), perhaps with a factor for all of a
//! matrix (NVFP4), or is itself a code: with double quantization `scale = map[code₈] · nested + offset` (QLoRA §3).

use super::{Codec, Family, Field, Kind, Packed, Section, UNIT};
use crate::error::{Error, Result};
use std::any::Any;
use std::sync::Arc;

/// NF4, FP4, E2M1, IQ4_NL.
pub static FAMILY: Family = Family {
    name: "lookup",
    about: "4-bit codes into a table of 16 values (NF4, FP4, E2M1, IQ4_NL) with block scales of one or two levels",
    wgsl: &["codecs/lookup.wgsl"],
    samples,
};

/// The scales of one block-quantized matrix, themselves quantized in blocks of `block` scales over the
/// flattened (row-major) matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Nested {
    /// 256 values that an 8-bit scale code means.
    pub map: Vec<f32>,
    /// One factor for every `block` scales of the flattened matrix.
    pub absmax: Vec<f32>,
    /// Added to every scale.
    pub offset: f32,
    /// Scales that share a factor.
    pub block: usize,
}

/// A factor of all scales, kept as the ratio that a format defines: `times / over`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor {
    /// Multiplies; 1 if the format divides.
    pub times: f32,
    /// Divides; 1 if the format multiplies.
    pub over: f32,
}

/// How a block's scale is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// As a number.
    Float(Kind),
    /// As a number, with a factor for each slice of the rows (row count, factor).
    Factored(Kind, Vec<(usize, Factor)>),
    /// As a byte, for each slice of the rows (row count, its nesting).
    Nested(Vec<(usize, Nested)>),
}

/// Table look-ups with block scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    name: &'static str,
    table: [f32; 16],
    block: usize,
    scales: Scales,
}

/// Columns of the narrowest block: half a [`UNIT`].
const HALF: usize = UNIT / 2;

/// The 16 levels of NF4 (QLoRA, appendix E).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The 16 numbers of E2M1 (OCP MX): sign, two bits of exponent, one of fraction.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The 16 levels of IQ4_NL (ggml, `kvalues_iq4nl`).
pub const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

fn samples() -> Vec<Arc<dyn Codec>> {
    let mut all: Vec<Arc<dyn Codec>> = Vec::new();
    let mut add = |name, table, block, scales| {
        if let Ok(codec) = Lookup::new(name, table, block, scales) {
            all.push(codec);
        }
    };
    add("nf4", NF4, 64, Scales::Float(Kind::F32));
    add("iq4_nl", IQ4_NL, 32, Scales::Float(Kind::F16));
    add("nf4", NF4, 128, Scales::Float(Kind::Bf16));
    add("e2m1", E2M1, 32, Scales::Float(Kind::E8m0));
    add("e2m1", E2M1, 16, Scales::Float(Kind::E4m3));
    let factors = [(32, Factor { times: 0.012, over: 1.0 }), (1 << 20, Factor { times: 0.01, over: 0.75 })];
    add("e2m1", E2M1, 16, Scales::Factored(Kind::E4m3, factors[..1].to_vec()));
    add("e2m1", E2M1, 16, Scales::Factored(Kind::E4m3, factors.to_vec()));
    // Two slices with different nestings, as a fused q/k/v has them.
    let nested = |rows: usize, offset: f32| {
        let map = (0..256).map(|i| (i as f32 - 127.0) / 128.0).collect();
        let absmax = (0..64).map(|i| 0.5 + i as f32 / 64.0).collect();
        (rows, Nested { map, absmax, offset, block: 256 })
    };
    for slices in [vec![nested(1 << 20, 0.75)], vec![nested(32, 0.75), nested(1 << 20, 0.5)]] {
        add("nf4", NF4, 64, Scales::Nested(slices));
    }
    all
}

impl Lookup {
    /// `block` columns a scale. `name` is what `inspect` prints: `nf4`, `fp4`, `e2m1`.
    pub fn new(name: &'static str, table: [f32; 16], block: usize, scales: Scales) -> Result<Arc<Self>> {
        if block == 0 || block != HALF && !block.is_multiple_of(UNIT) {
            return Err(Error::unsupported("block size")
                .expected(format!("{HALF}, or a multiple of {UNIT}"))
                .found(block));
        }
        if let Scales::Nested(slices) = &scales {
            for (_, nested) in slices {
                if nested.map.len() != 256 || nested.absmax.is_empty() || !nested.block.is_power_of_two() {
                    return Err(Error::unsupported("double quantization")
                        .expected("a map of 256 values and blocks of a power of two")
                        .found(format!("{} values, blocks of {}", nested.map.len(), nested.block)));
                }
            }
        }
        Ok(Arc::new(Self { name, table, block, scales }))
    }

    /// The scale of block `block` of `row`: what multiplies, and what divides.
    fn scale(&self, packed: &Packed, row: usize, block: usize) -> (f64, f64) {
        let item = packed.item(1, row, block);
        let whole_row = packed.first_row + row;
        match &self.scales {
            Scales::Float(kind) => (kind.value(item), 1.0),
            Scales::Factored(kind, slices) => {
                let (_, factor) = slice(slices, whole_row);
                (kind.value(item) * factor.times as f64, factor.over as f64)
            }
            Scales::Nested(slices) => {
                let (first, nested) = slice(slices, whole_row);
                let blocks = packed.shape.cols.div_ceil(self.block);
                let flat = ((whole_row - first) * blocks + block) / nested.block;
                let factor = nested.absmax[flat.min(nested.absmax.len() - 1)] as f64;
                (nested.map[item as usize] as f64 * factor + nested.offset as f64, 1.0)
            }
        }
    }
}

/// The slice that a row belongs to, and its first row; rows past the end belong to the last.
fn slice<T>(slices: &[(usize, T)], row: usize) -> (usize, &T) {
    let (mut first, mut at) = (0, 0);
    while at + 1 < slices.len() && row >= first + slices[at].0 {
        first += slices[at].0;
        at += 1;
    }
    (first, &slices[at].1)
}

impl Codec for Lookup {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let many = |slices: usize| if slices == 1 { String::new() } else { format!("×{slices}") };
        let scale = match &self.scales {
            Scales::Float(Kind::F32) => String::new(),
            Scales::Float(Kind::F16) => " f16".into(),
            Scales::Float(kind) => kind.suffix().into(),
            Scales::Factored(kind, slices) => format!("{} factor{}", kind.suffix(), many(slices.len())),
            Scales::Nested(slices) => format!(" double{}", many(slices.len())),
        };
        format!("{} b{}{scale}", self.name, self.block)
    }

    fn fields(&self) -> Vec<Field> {
        let scale = match self.scales {
            Scales::Float(kind) | Scales::Factored(kind, _) => kind,
            Scales::Nested(_) => Kind::Code(8),
        };
        vec![Field::new("codes", Kind::Code(4), 1), Field::new("scales", scale, self.block)]
    }

    fn sections(&self) -> Vec<Section> {
        let bits = self.fields()[1].kind.bits();
        vec![
            Section { binding: 0, field: 0, shift: 0, bits: 4, cell: UNIT },
            // The two scales of a unit, if it has two, stay together.
            Section { binding: 1, field: 1, shift: 0, bits, cell: UNIT.div_ceil(self.block) },
        ]
    }

    /// 16 values. With factors (first row, 0, factor, 0) of every slice. With double quantization 256 map values, then
    /// (first row, log2 block, offset, first factor) of every slice, then all factors.
    fn tables(&self) -> Vec<u32> {
        let mut words: Vec<u32> = self.table.iter().map(|v| v.to_bits()).collect();
        if let Scales::Factored(_, slices) = &self.scales {
            let mut row = 0;
            for (rows, factor) in slices {
                let factor = (factor.times as f64 / factor.over as f64) as f32;
                words.extend([row as u32, 0, factor.to_bits(), 0]);
                row += rows;
            }
        }
        if let Scales::Nested(slices) = &self.scales {
            words.extend(slices[0].1.map.iter().map(|v| v.to_bits()));
            let (mut row, mut factor) = (0, words.len() + 4 * slices.len());
            for (rows, nested) in slices {
                words.extend([row as u32, nested.block.ilog2(), nested.offset.to_bits(), factor as u32]);
                row += rows;
                factor += nested.absmax.len();
            }
            words.extend(slices.iter().flat_map(|(_, n)| n.absmax.iter().map(|v| v.to_bits())));
        }
        words
    }

    fn tied_to_shape(&self) -> bool {
        !matches!(self.scales, Scales::Float(_))
    }

    fn is_light(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let (format, slices, first_slice) = match &self.scales {
            Scales::Float(kind) => (kind.scale_format(), 0, 0),
            Scales::Factored(kind, slices) => (kind.scale_format(), slices.len(), 16),
            Scales::Nested(slices) => (Kind::Code(8).scale_format(), slices.len(), 16 + 256),
        };
        vec![
            ("GROUP_UNITS", (self.block / UNIT).max(1) as u32),
            ("SCALES_A_UNIT", UNIT.div_ceil(self.block) as u32),
            ("SCALE_FORMAT", format),
            ("SLICES", slices as u32),
            ("FIRST_SLICE", first_slice),
        ]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut codes = vec![0; out.len()];
        packed.items(0, row, &mut codes);
        let blocks = out.chunks_mut(self.block).zip(codes.chunks(self.block));
        for (block, (out, codes)) in blocks.enumerate() {
            let (times, over) = self.scale(packed, row, block);
            for (w, &code) in out.iter_mut().zip(codes) {
                *w = (self.table[code as usize] as f64 * times / over) as f32;
            }
        }
    }

    fn floats(&self) -> &'static [&'static str] {
        &["codecs/lookup_floats.wgsl"]
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn halves(&self) -> Option<&'static str> {
        (self.scales != Scales::Float(Kind::E4m3)).then_some(super::DECODED_HALVES)
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        let (mut nestings, mut factors) = (Vec::new(), Vec::new());
        for (part, rows) in parts {
            let part = part.as_any().downcast_ref::<Lookup>()?;
            if (part.name, part.table, part.block) != (self.name, self.table, self.block) {
                return None;
            }
            match (&part.scales, &self.scales) {
                (Scales::Float(a), Scales::Float(b)) if a == b => {}
                (Scales::Factored(a, more), Scales::Factored(b, _)) if a == b && more.len() == 1 => {
                    factors.push((*rows, more[0].1));
                }
                (Scales::Nested(more), Scales::Nested(own))
                    if more.len() == 1 && own[0].1.map == more[0].1.map =>
                {
                    nestings.push((*rows, more[0].1.clone()));
                }
                _ => return None,
            }
        }
        let scales = match &self.scales {
            Scales::Float(kind) => Scales::Float(*kind),
            // One for all, if all have the same.
            Scales::Factored(kind, _) if factors.iter().all(|(_, f)| *f == factors[0].1) => {
                Scales::Factored(*kind, vec![(factors.iter().map(|(rows, _)| rows).sum(), factors[0].1)])
            }
            Scales::Factored(kind, _) => Scales::Factored(*kind, factors),
            Scales::Nested(_) => Scales::Nested(nestings),
        };
        Some(Arc::new(Self { scales, ..self.clone() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Extent, Piece, Shape};
    use super::*;

    /// A row of a matrix of 64 columns, code `k % 16` in column k.
    fn row(codec: Arc<dyn Codec>, row: usize, scales: Vec<u32>) -> Vec<f32> {
        let mut packed = Packed::new(codec, Shape { rows: 2, cols: 64 });
        let codes = (0..128).map(|k| k % 16).collect();
        packed.write_piece(&Piece { extent: Extent { rows: 0..2, cols: 0..64 }, items: vec![codes, scales] });
        let mut out = vec![0.0; 64];
        packed.decode_row(row, &mut out);
        out
    }

    #[test]
    fn every_block_has_its_scale() {
        let mxfp4 = Lookup::new("e2m1", E2M1, 32, Scales::Float(Kind::E8m0)).unwrap();
        let weights = row(mxfp4, 1, vec![127, 127, 128, 125]);
        assert_eq!((weights[7], weights[32 + 15]), (12.0, -1.5));
        let slices = [(1, Factor { times: 2.0, over: 1.0 }), (1, Factor { times: 1.0, over: 3.0 })];
        let scales = Scales::Factored(Kind::E4m3, slices.to_vec());
        let nvfp4 = Lookup::new("e2m1", E2M1, HALF, scales).unwrap();
        let scales = [0x38, 0x40, 0x01, 0xb8, 0x48, 0x30, 0x38, 0x44]; // 1, 2, 2^-9, -1; 4, 0.5, 1, 3
        for (r, values) in [[1.0, 2.0, 1.0 / 512.0, -1.0], [4.0, 0.5, 1.0, 3.0]].into_iter().enumerate() {
            let weights = row(nvfp4.clone(), r, scales.to_vec());
            for (k, w) in weights.into_iter().enumerate() {
                let product = E2M1[k % 16] as f64 * values[k / 16];
                let wanted = if r == 0 { product * 2.0 } else { product / 3.0 };
                assert_eq!(w, wanted as f32, "row {r}, column {k}");
            }
        }
    }

    #[test]
    fn fused_rows_keep_their_factors() {
        let part = |times| {
            let scales = Scales::Factored(Kind::E4m3, vec![(32, Factor { times, over: 1.0 })]);
            Lookup::new("e2m1", E2M1, HALF, scales).unwrap()
        };
        let (a, b) = (part(2.0), part(3.0));
        let fused = a.fuse(&[(&*a, 32), (&*b, 8)]).unwrap();
        assert_eq!(fused.name(), "e2m1 b16 e4m3 factor×2");
        assert_eq!(fused.tables()[16..], [0, 0, 2f32.to_bits(), 0, 32, 0, 3f32.to_bits(), 0]);
        assert_eq!(a.fuse(&[(&*a, 32), (&*a, 8)]).unwrap().name(), a.name());
        let plain = Lookup::new("e2m1", E2M1, HALF, Scales::Float(Kind::E4m3)).unwrap();
        assert!(a.fuse(&[(&*a, 32), (&*plain, 8)]).is_none());
    }
}
