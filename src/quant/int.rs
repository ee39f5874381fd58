//! Integers of 1–8 bits in groups: `w = (q - z) · s`, or `w = q · s + m`; or signs: `w = (2q - 1) · s`.
//!
//! The packed-integer systems (GPTQ, AWQ, HQQ, MLC, BitNet, GGUF's Q types …) differ in how they store codes on disk;
//! here they are one codec. Odd widths are kept in planes.

use super::planes::Planes;
use super::{Codec, Family, Field, Kind, Packed, Section, WHOLE_ROW, interchangeable};
use crate::error::{Error, Result};
use std::any::Any;
use std::sync::Arc;

/// Integers of 1–8 bits.
pub static FAMILY: Family = Family {
    name: "int",
    about: "integers of 1-8 bits in groups, symmetric, with zero points or minima",
    wgsl: &["codecs/int.wgsl", "lib/planes.wgsl", "lib/nibbles.wgsl"],
    samples,
};

/// Groups begin at multiples of so many columns: the shader decodes as many at a time.
const RUN: usize = 8;

/// What is subtracted or added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    /// A constant zero point: `(q - z) · s`.
    Symmetric(u32),
    /// A stored integer zero point a group, of at most 8 bits: `(q - z) · s`.
    Zero,
    /// A stored real zero point a group, in the scales' number format: `(q - z) · s`.
    RealZero,
    /// A stored minimum a group, in the scales' number format: `q · s + m`.
    Min,
    /// The same with a constant zero point: `(q - z) · s + m`.
    Around(u32),
    /// Codes of one bit are signs: `(2q - 1) · s`.
    Sign,
}

/// Integer codes with a scale a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Int {
    bits: u32,
    group: usize,
    scale: Kind,
    offset: Offset,
    divisor: u32,
}

fn samples() -> Vec<Arc<dyn Codec>> {
    let mut all: Vec<Arc<dyn Codec>> = Vec::new();
    let mut add = |bits, group, scale, offset| {
        if let Ok(codec) = Int::new(bits, group, scale, offset) {
            all.push(codec);
        }
    };
    for bits in 2..=8 {
        add(bits, 32, Kind::F16, Offset::Symmetric(1 << (bits - 1)));
        add(bits, 64, Kind::F16, Offset::Zero);
    }
    add(1, 64, Kind::F16, Offset::RealZero);
    add(4, 64, Kind::Bf16, Offset::RealZero);
    // Two groups within 32 columns.
    add(3, 40, Kind::F16, Offset::Symmetric(3));
    add(4, 16, Kind::F16, Offset::Min);
    add(4, 128, Kind::F16, Offset::Zero);
    add(4, 32, Kind::F16, Offset::Min);
    add(5, 32, Kind::F16, Offset::Min);
    add(3, 128, Kind::Bf16, Offset::Zero);
    add(8, WHOLE_ROW, Kind::F32, Offset::Symmetric(128));
    add(4, WHOLE_ROW, Kind::F16, Offset::Zero);
    add(2, WHOLE_ROW, Kind::F32, Offset::Symmetric(1));
    add(4, 16, Kind::F16, Offset::Zero);
    add(2, 8, Kind::F16, Offset::Min);
    add(4, 64, Kind::Bf16, Offset::Around(8));
    add(1, 128, Kind::F16, Offset::Sign);
    if let Ok(codec) = Int::divided(WHOLE_ROW, Kind::F32, 127) {
        all.push(codec);
    }
    all
}

impl Int {
    /// `bits` a code, `group` columns a scale ([`WHOLE_ROW`] for one scale a row).
    pub fn new(bits: u32, group: usize, scale: Kind, offset: Offset) -> Result<Arc<Self>> {
        if !matches!(bits, 1..=8) {
            return Err(Error::unsupported("bits a weight").expected("1 to 8").found(bits));
        }
        if group == 0 || (group != WHOLE_ROW && !group.is_multiple_of(RUN)) {
            return Err(Error::unsupported("group size")
                .expected(format!("a multiple of {RUN}, or one group a row"))
                .found(group));
        }
        if !matches!(scale, Kind::F32 | Kind::F16 | Kind::Bf16) {
            return Err(Error::unsupported("scale format").expected("f16, bf16 or f32"));
        }
        Ok(Arc::new(Self { bits, group, scale, offset, divisor: 1 }))
    }

    /// Signed bytes whose scales are `divisor` times too large: `(q - 128) · s / divisor`.
    pub fn divided(group: usize, scale: Kind, divisor: u32) -> Result<Arc<Self>> {
        let codec = Self::new(8, group, scale, Offset::Symmetric(128))?;
        Ok(Arc::new(Self { divisor, ..(*codec).clone() }))
    }

    /// Sections that are not planes of codes: scales, and zeros or minima.
    fn others(&self) -> usize {
        1 + usize::from(!matches!(self.offset, Offset::Symmetric(_) | Offset::Sign))
    }
}

impl Codec for Int {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let group = if self.group == WHOLE_ROW { "row".into() } else { format!("g{}", self.group) };
        let scale = match self.scale {
            Kind::F16 => "",
            Kind::Bf16 => " bf16",
            _ => " f32",
        };
        let offset = match self.offset {
            Offset::Symmetric(z) => format!(" z{z}"),
            Offset::Zero => " zeros".into(),
            Offset::RealZero => " real zeros".into(),
            Offset::Min => " min".into(),
            Offset::Around(z) => format!(" z{z} min"),
            Offset::Sign => " sign".into(),
        };
        let divisor = if self.divisor == 1 { String::new() } else { format!(" /{}", self.divisor) };
        format!("int{} {group}{scale}{offset}{divisor}", self.bits)
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields =
            vec![Field::new("codes", Kind::Code(self.bits), 1), Field::new("scales", self.scale, self.group)];
        match self.offset {
            Offset::Symmetric(_) | Offset::Sign => {}
            Offset::Zero => fields.push(Field::new("zeros", Kind::Code(self.bits), self.group)),
            Offset::RealZero => fields.push(Field::new("zeros", self.scale, self.group)),
            Offset::Min | Offset::Around(_) => {
                fields.push(Field::new("minima", self.scale, self.group));
            }
        }
        fields
    }

    /// Low plane; scales; zeros or minima; other planes.
    fn sections(&self) -> Vec<Section> {
        let scale_bits = self.scale.bits();
        let mut others = vec![Section { binding: 1, field: 1, shift: 0, bits: scale_bits, cell: 1 }];
        match self.offset {
            Offset::Symmetric(_) | Offset::Sign => {}
            Offset::Zero => {
                let bits = self.bits.next_power_of_two().max(4);
                others.push(Section { binding: 1, field: 2, shift: 0, bits, cell: 1 });
            }
            Offset::RealZero | Offset::Min | Offset::Around(_) => {
                others.push(Section { binding: 1, field: 2, shift: 0, bits: scale_bits, cell: 1 });
            }
        }
        Planes::new(self.bits).sections(others)
    }

    fn is_light(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let (offset, zero) = match self.offset {
            Offset::Symmetric(z) => (0, z),
            Offset::Zero => (1, 0),
            Offset::Min => (2, 0),
            Offset::Around(z) => (2, z),
            Offset::RealZero => (3, 0),
            Offset::Sign => (4, 0),
        };
        let scale = match self.scale {
            Kind::F32 => 0,
            Kind::F16 => 1,
            _ => 2,
        };
        let mut constants = Planes::new(self.bits).constants(self.others()).to_vec();
        constants.extend([
            ("GROUP_RUNS", if self.group == WHOLE_ROW { 1 << 28 } else { (self.group / RUN) as u32 }),
            ("SCALE_FORMAT", scale),
            ("OFFSET", offset),
            ("ZERO", zero),
            ("ZERO_BITS", self.bits.next_power_of_two().max(4)),
            ("DIVISOR", self.divisor),
        ]);
        constants
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let codes = packed.field(0, row);
        let group = self.group.min(packed.shape.cols);
        for (g, (out, codes)) in out.chunks_mut(group).zip(codes.chunks(group)).enumerate() {
            let scale = self.scale.value(packed.item(1, row, g));
            // Adding -0.0 changes nothing, not even the sign of a zero.
            let (scale, zero, min) = match self.offset {
                Offset::Symmetric(z) => (scale, z as f64, -0.0),
                Offset::Zero => (scale, packed.item(2, row, g) as f64, -0.0),
                Offset::RealZero => (scale, self.scale.value(packed.item(2, row, g)), -0.0),
                Offset::Min => (scale, 0.0, self.scale.value(packed.item(2, row, g))),
                Offset::Around(z) => (scale, z as f64, self.scale.value(packed.item(2, row, g))),
                Offset::Sign => (2.0 * scale, 0.5, -0.0),
            };
            for (w, &code) in out.iter_mut().zip(codes) {
                *w = ((code as f64 - zero) * scale / self.divisor as f64 + min) as f32;
            }
        }
    }

    fn has_integers(&self) -> bool {
        self.group == WHOLE_ROW
            && matches!(self.offset, Offset::Symmetric(zero) if self.bits < 8 || zero == 128)
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        // A unit must have one scale.
        let suits = self.group == WHOLE_ROW || self.group.is_multiple_of(super::UNIT);
        suits.then_some(&["codecs/int_fixed.wgsl", "lib/plane_codes.wgsl"])
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn halves(&self) -> Option<&'static str> {
        let whole = matches!(self.offset, Offset::Symmetric(_) | Offset::Zero);
        match whole && self.scale == Kind::F16 && !self.divides() {
            true => Some("codecs/int_halves.wgsl"),
            false => Some(super::DECODED_HALVES),
        }
    }

    fn divides(&self) -> bool {
        self.divisor > 1
    }

    fn integers(&self, packed: &Packed, row: usize, out: &mut [i32]) -> Option<f32> {
        let Offset::Symmetric(zero) = self.offset else { return None };
        let codes = packed.field(0, row);
        out.iter_mut().zip(codes).for_each(|(w, code)| *w = code as i32 - zero as i32);
        Some((self.scale.value(packed.item(1, row, 0)) / self.divisor as f64) as f32)
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

    /// Codes of every width and groups that are no unit, back from their planes.
    #[test]
    fn every_width_decodes() {
        let shape = Shape { rows: 3, cols: 40 };
        for bits in 2..=8 {
            let codec = Int::new(bits, 8, Kind::F32, Offset::Zero).unwrap();
            let code = |i: usize| (i * 37 + 11) as u32 & ((1 << bits) - 1);
            let codes: Vec<u32> = (0..120).map(code).collect();
            let scales: Vec<u32> = (0..15).map(|g| (0.5 + g as f32).to_bits()).collect();
            let zeros: Vec<u32> = (0..15).map(|g| code(g * 5 + 3)).collect();
            let mut packed = Packed::new(codec, shape);
            let extent = Extent { rows: 0..3, cols: 0..40 };
            packed.write_piece(&Piece { extent, items: vec![codes.clone(), scales, zeros.clone()] });
            let mut row = vec![0.0; 40];
            for r in 0..3 {
                packed.decode_row(r, &mut row);
                for (k, &w) in row.iter().enumerate() {
                    let group = r * 5 + k / 8;
                    let wanted = (codes[r * 40 + k] as f32 - zeros[group] as f32) * (0.5 + group as f32);
                    assert_eq!(w, wanted, "{bits} bits, row {r}, column {k}");
                }
            }
        }
    }

    #[test]
    fn a_divisor_is_exact() {
        let codec = Int::divided(WHOLE_ROW, Kind::F32, 127).unwrap();
        let mut packed = Packed::new(codec, Shape { rows: 1, cols: 4 });
        let items = vec![vec![1, 128, 129, 255], vec![3.7f32.to_bits()]];
        packed.write_piece(&Piece { extent: Extent { rows: 0..1, cols: 0..4 }, items });
        let mut row = [0.0; 4];
        packed.decode_row(0, &mut row);
        let weight = |q: f64| (q * f64::from(3.7f32) / 127.0) as f32;
        assert_eq!(row, [-127.0, 0.0, 1.0, 127.0].map(weight));
    }
}
