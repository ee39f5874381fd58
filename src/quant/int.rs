//! Integers of 1–8 bits in groups: `w = (q - z) · s`, or `w = q · s + m`; or signs: `w = (2q - 1) · s`.
//!
//! The packed-integer systems (GPTQ, AWQ, GGUF's Q types …) differ in how they store codes on disk; here they
//! are one codec. Odd widths are kept as two planes.

use super::planes::Planes;
use super::{Codec, Family, Field, Kind, Packed, Section, UNIT, WHOLE_ROW, interchangeable};
use crate::error::{Error, Result};
use std::any::Any;
use std::sync::Arc;

/// Integers of 1, 2, 3, 4, 5, 6 and 8 bits.
pub static FAMILY: Family = Family {
    name: "int",
    about: "integers of 1-8 bits in groups, symmetric, with zero points or minima",
    wgsl: &["codecs/int.wgsl", "lib/planes.wgsl"],
    samples,
};

/// What is subtracted or added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    /// A constant zero point: `(q - z) · s`.
    Symmetric(u32),
    /// A stored integer zero point a group, of at most 8 bits: `(q - z) · s`.
    Zero,
    /// A stored minimum a group, in the scales' number format: `q · s + m`.
    Min,
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
}

fn samples() -> Vec<Arc<dyn Codec>> {
    let mut all: Vec<Arc<dyn Codec>> = Vec::new();
    let mut add = |bits, group, scale, offset| {
        if let Ok(codec) = Int::new(bits, group, scale, offset) {
            all.push(codec);
        }
    };
    for bits in [2, 3, 4, 5, 6, 8] {
        add(bits, 32, Kind::F16, Offset::Symmetric(1 << (bits - 1)));
        add(bits, 64, Kind::F16, Offset::Zero);
    }
    add(4, 128, Kind::F16, Offset::Zero);
    add(4, 32, Kind::F16, Offset::Min);
    add(5, 32, Kind::F16, Offset::Min);
    add(3, 128, Kind::Bf16, Offset::Zero);
    add(8, WHOLE_ROW, Kind::F32, Offset::Symmetric(128));
    add(4, WHOLE_ROW, Kind::F16, Offset::Zero);
    add(1, 128, Kind::F16, Offset::Sign);
    all
}

impl Int {
    /// `bits` a code, `group` columns a scale ([`WHOLE_ROW`] for one scale a row).
    pub fn new(bits: u32, group: usize, scale: Kind, offset: Offset) -> Result<Arc<Self>> {
        if !matches!(bits, 1..=6 | 8) {
            return Err(Error::unsupported("bits a weight").expected("1, 2, 3, 4, 5, 6 or 8").found(bits));
        }
        if group == 0 || (group != WHOLE_ROW && !group.is_multiple_of(UNIT)) {
            return Err(Error::unsupported("group size")
                .expected(format!("a multiple of {UNIT}, or one group a row"))
                .found(group));
        }
        if matches!(scale, Kind::Code(_)) {
            return Err(Error::unsupported("scale format").expected("f16, bf16 or f32"));
        }
        Ok(Arc::new(Self { bits, group, scale, offset }))
    }

    /// Sections that are not planes of codes: scales, and zeros or minima.
    fn others(&self) -> usize {
        1 + usize::from(matches!(self.offset, Offset::Zero | Offset::Min))
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
            Offset::Min => " min".into(),
            Offset::Sign => " sign".into(),
        };
        format!("int{} {group}{scale}{offset}", self.bits)
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields = vec![
            Field { name: "codes", kind: Kind::Code(self.bits), run: 1 },
            Field { name: "scales", kind: self.scale, run: self.group },
        ];
        match self.offset {
            Offset::Symmetric(_) | Offset::Sign => {}
            Offset::Zero => {
                fields.push(Field { name: "zeros", kind: Kind::Code(self.bits), run: self.group })
            }
            Offset::Min => fields.push(Field { name: "minima", kind: self.scale, run: self.group }),
        }
        fields
    }

    /// Low plane; scales; zeros or minima; high plane.
    fn sections(&self) -> Vec<Section> {
        let scale_bits = self.scale.bits();
        let mut others = vec![Section { binding: 1, field: 1, shift: 0, bits: scale_bits, cell: 1 }];
        match self.offset {
            Offset::Symmetric(_) | Offset::Sign => {}
            Offset::Zero => {
                let bits = self.bits.next_power_of_two().max(4);
                others.push(Section { binding: 1, field: 2, shift: 0, bits, cell: 1 });
            }
            Offset::Min => others.push(Section { binding: 1, field: 2, shift: 0, bits: scale_bits, cell: 1 }),
        }
        Planes::new(self.bits).sections(others)
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let (offset, zero) = match self.offset {
            Offset::Symmetric(z) => (0, z),
            Offset::Zero => (1, 0),
            Offset::Min => (2, 0),
            Offset::Sign => (3, 0),
        };
        let scale = match self.scale {
            Kind::F32 => 0,
            Kind::F16 => 1,
            _ => 2,
        };
        let mut constants = Planes::new(self.bits).constants(self.others()).to_vec();
        constants.extend([
            ("GROUP_UNITS", if self.group == WHOLE_ROW { 1 << 26 } else { (self.group / UNIT) as u32 }),
            ("SCALE_FORMAT", scale),
            ("OFFSET", offset),
            ("ZERO", zero),
            ("ZERO_BITS", self.bits.next_power_of_two().max(4)),
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
                Offset::Min => (scale, 0.0, self.scale.value(packed.item(2, row, g))),
                Offset::Sign => (2.0 * scale, 0.5, -0.0),
            };
            for (w, &code) in out.iter_mut().zip(codes) {
                *w = ((code as f64 - zero) * scale + min) as f32;
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
