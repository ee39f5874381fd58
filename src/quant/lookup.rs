//! Four-bit codes into a table of 16 values, with a scale a block: NF4, FP4, E2M1, IQ4_NL.
//! `w = table[code] · absmax`; with double quantization `absmax = map[code₈] · nested + offset` (QLoRA §3).

use super::{Codec, Family, Field, Kind, Packed, Section, UNIT};
use crate::error::{Error, Result};
use std::any::Any;
use std::sync::Arc;

/// NF4, FP4 and other tables of 16.
pub static FAMILY: Family = Family {
    name: "lookup",
    about: "4-bit codes into a table of 16 values (NF4, FP4) with block scales, also doubly quantized",
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

/// How a block's scale is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Absmax {
    /// As a number.
    Float(Kind),
    /// As a byte, for each slice of the rows (row count, its nesting).
    Nested(Vec<(usize, Nested)>),
}

/// Table look-ups with block scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    name: &'static str,
    table: [f32; 16],
    block: usize,
    absmax: Absmax,
}

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

fn samples() -> Vec<Arc<dyn Codec>> {
    let mut all: Vec<Arc<dyn Codec>> = Vec::new();
    for (block, kind) in [(64, Kind::F32), (32, Kind::F16), (128, Kind::Bf16)] {
        if let Ok(codec) = Lookup::new("nf4", NF4, block, Absmax::Float(kind)) {
            all.push(codec);
        }
    }
    // Two slices with different nestings, as a fused q/k/v has them.
    let nested = |rows: usize, offset: f32| {
        let map = (0..256).map(|i| (i as f32 - 127.0) / 128.0).collect();
        let absmax = (0..64).map(|i| 0.5 + i as f32 / 64.0).collect();
        (rows, Nested { map, absmax, offset, block: 256 })
    };
    for slices in [vec![nested(1 << 20, 0.75)], vec![nested(32, 0.75), nested(1 << 20, 0.5)]] {
        if let Ok(codec) = Lookup::new("nf4", NF4, 64, Absmax::Nested(slices)) {
            all.push(codec);
        }
    }
    all
}

impl Lookup {
    /// `block` columns a scale. `name` is what `inspect` prints: `nf4`, `fp4`.
    pub fn new(name: &'static str, table: [f32; 16], block: usize, absmax: Absmax) -> Result<Arc<Self>> {
        if block == 0 || !block.is_multiple_of(UNIT) {
            return Err(Error::unsupported("block size")
                .expected(format!("a multiple of {UNIT}"))
                .found(block));
        }
        if let Absmax::Nested(slices) = &absmax {
            for (_, nested) in slices {
                if nested.map.len() != 256 || nested.absmax.is_empty() || !nested.block.is_power_of_two() {
                    return Err(Error::unsupported("double quantization")
                        .expected("a map of 256 values and blocks of a power of two")
                        .found(format!("{} values, blocks of {}", nested.map.len(), nested.block)));
                }
            }
        }
        Ok(Arc::new(Self { name, table, block, absmax }))
    }

    /// The value of block `block` of `row`.
    fn scale(&self, packed: &Packed, row: usize, block: usize) -> f64 {
        let item = packed.item(1, row, block);
        match &self.absmax {
            Absmax::Float(kind) => kind.value(item),
            Absmax::Nested(slices) => {
                let row = packed.first_row + row;
                let mut first = 0;
                for (i, (rows, nested)) in slices.iter().enumerate() {
                    if row < first + rows || i + 1 == slices.len() {
                        let blocks = packed.shape.cols.div_ceil(self.block);
                        let flat = ((row - first) * blocks + block) / nested.block;
                        let factor = nested.absmax[flat.min(nested.absmax.len() - 1)] as f64;
                        return nested.map[item as usize] as f64 * factor + nested.offset as f64;
                    }
                    first += rows;
                }
                0.0
            }
        }
    }
}

impl Codec for Lookup {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let scale = match &self.absmax {
            Absmax::Float(Kind::F32) => String::new(),
            Absmax::Float(Kind::F16) => " f16".into(),
            Absmax::Float(_) => " bf16".into(),
            Absmax::Nested(slices) if slices.len() == 1 => " double".into(),
            Absmax::Nested(slices) => format!(" double×{}", slices.len()),
        };
        format!("{} b{}{scale}", self.name, self.block)
    }

    fn fields(&self) -> Vec<Field> {
        let scale = match self.absmax {
            Absmax::Float(kind) => kind,
            Absmax::Nested(_) => Kind::Code(8),
        };
        vec![
            Field { name: "codes", kind: Kind::Code(4), run: 1 },
            Field { name: "absmax", kind: scale, run: self.block },
        ]
    }

    fn sections(&self) -> Vec<Section> {
        let bits = self.fields()[1].kind.bits();
        vec![
            Section { binding: 0, field: 0, shift: 0, bits: 4, cell: UNIT },
            Section { binding: 1, field: 1, shift: 0, bits, cell: 1 },
        ]
    }

    /// 16 values; with double quantization 256 map values, then (first row, log2 block, offset, first factor)
    /// of every slice, then all factors.
    fn tables(&self) -> Vec<u32> {
        let mut words: Vec<u32> = self.table.iter().map(|v| v.to_bits()).collect();
        if let Absmax::Nested(slices) = &self.absmax {
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

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let (format, slices) = match &self.absmax {
            Absmax::Float(Kind::F32) => (0, 0),
            Absmax::Float(Kind::F16) => (1, 0),
            Absmax::Float(_) => (2, 0),
            Absmax::Nested(slices) => (3, slices.len() as u32),
        };
        vec![("GROUP_UNITS", (self.block / UNIT) as u32), ("SCALE_FORMAT", format), ("SLICES", slices)]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut codes = vec![0; out.len()];
        packed.items(0, row, &mut codes);
        let blocks = out.chunks_mut(self.block).zip(codes.chunks(self.block));
        for (block, (out, codes)) in blocks.enumerate() {
            let scale = self.scale(packed, row, block);
            for (w, &code) in out.iter_mut().zip(codes) {
                *w = (self.table[code as usize] as f64 * scale) as f32;
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        let mut slices = Vec::new();
        for (part, rows) in parts {
            let part = part.as_any().downcast_ref::<Lookup>()?;
            if (part.name, part.table, part.block) != (self.name, self.table, self.block) {
                return None;
            }
            match (&part.absmax, &self.absmax) {
                (Absmax::Float(a), Absmax::Float(b)) if a == b => {}
                (Absmax::Nested(more), Absmax::Nested(own))
                    if more.len() == 1 && own[0].1.map == more[0].1.map =>
                {
                    slices.push((*rows, more[0].1.clone()));
                }
                _ => return None,
            }
        }
        let absmax = if slices.is_empty() { self.absmax.clone() } else { Absmax::Nested(slices) };
        Some(Arc::new(Self { absmax, ..self.clone() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
