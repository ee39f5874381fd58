//! 8-bit floats with a scale a row or a run of columns: `w = value(code) · s`. E4M3 and E5M2 of OCP's FP8
//! (Micikevicius et al. 2022), never FNUZ.

use super::{Codec, Family, Field, Kind, Packed, Section, UNIT, WHOLE_ROW, interchangeable};
use crate::error::{Error, Result};
use std::any::Any;
use std::sync::Arc;

/// E4M3 and E5M2.
pub static FAMILY: Family = Family {
    name: "fp8",
    about: "8-bit floats (E4M3, E5M2) with a scale a row or a run of columns",
    wgsl: &["codecs/fp8.wgsl"],
    samples,
};

/// 8-bit floats with scales.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fp8 {
    kind: Kind,
    group: usize,
    scale: Kind,
}

fn samples() -> Vec<Arc<dyn Codec>> {
    let all = [
        Fp8::new(Kind::E4m3, 128, Kind::F32),
        Fp8::new(Kind::E4m3, WHOLE_ROW, Kind::Bf16),
        Fp8::new(Kind::E5m2, WHOLE_ROW, Kind::F32),
        Fp8::new(Kind::E4m3, 128, Kind::E8m0),
    ];
    all.into_iter().flatten().map(|codec| codec as _).collect()
}

impl Fp8 {
    /// Codes of `kind` (E4M3 or E5M2), `group` columns a scale ([`WHOLE_ROW`] for one scale a row).
    pub fn new(kind: Kind, group: usize, scale: Kind) -> Result<Arc<Self>> {
        if !matches!(kind, Kind::E4m3 | Kind::E5m2) {
            return Err(Error::unsupported("8-bit float").expected("E4M3 or E5M2"));
        }
        if group == 0 || (group != WHOLE_ROW && !group.is_multiple_of(UNIT)) {
            return Err(Error::unsupported("block size")
                .expected(format!("a multiple of {UNIT} columns, or whole rows"))
                .found(group));
        }
        if !matches!(scale, Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::E8m0) {
            return Err(Error::unsupported("scale format").expected("F32, F16, BF16 or E8M0"));
        }
        Ok(Arc::new(Self { kind, group, scale }))
    }
}

impl Codec for Fp8 {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let kind = if self.kind == Kind::E4m3 { "e4m3" } else { "e5m2" };
        let group = if self.group == WHOLE_ROW { "row".into() } else { format!("g{}", self.group) };
        format!("{kind} {group}{}", self.scale.suffix())
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::new("codes", self.kind, 1), Field::new("scales", self.scale, self.group)]
    }

    fn sections(&self) -> Vec<Section> {
        vec![
            Section { binding: 0, field: 0, shift: 0, bits: 8, cell: 16 },
            Section { binding: 1, field: 1, shift: 0, bits: self.scale.bits(), cell: 1 },
        ]
    }

    fn is_light(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let fraction_bits = if self.kind == Kind::E4m3 { 3 } else { 2 };
        vec![
            ("FRACTION_BITS", fraction_bits),
            ("GROUP_UNITS", if self.group == WHOLE_ROW { 1 << 26 } else { (self.group / UNIT) as u32 }),
            ("SCALE_FORMAT", self.scale.scale_format()),
        ]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut codes = vec![0; out.len()];
        packed.items(0, row, &mut codes);
        let group = self.group.min(packed.shape.cols);
        for (g, (out, codes)) in out.chunks_mut(group).zip(codes.chunks(group)).enumerate() {
            let scale = self.scale.value(packed.item(1, row, g));
            out.iter_mut().zip(codes).for_each(|(w, &code)| *w = (self.kind.value(code) * scale) as f32);
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn halves(&self) -> Option<&'static str> {
        None
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

    /// Every code of both formats against the definition, from the bits up; and NaN codes told from numbers.
    #[test]
    fn every_code_has_its_value() {
        for (kind, fraction_bits, bias) in [(Kind::E4m3, 3, 7), (Kind::E5m2, 2, 15)] {
            let mut numbers = Vec::new();
            for code in 0..256u32 {
                let (exponent, fraction) = ((code & 127) >> fraction_bits, code & ((1 << fraction_bits) - 1));
                let part = fraction as f64 / (1 << fraction_bits) as f64;
                let magnitude = match exponent {
                    0 => part * 2f64.powi(1 - bias),
                    _ => (1.0 + part) * 2f64.powi(exponent as i32 - bias),
                };
                let special = if kind == Kind::E4m3 { code & 127 == 127 } else { exponent == 31 };
                assert_eq!(kind.finite(code), !special, "{kind:?} {code:#x}");
                if !special {
                    let wanted = if code < 128 { magnitude } else { -magnitude };
                    assert_eq!(kind.value(code), wanted, "{kind:?} {code:#x}");
                    numbers.push(wanted);
                }
            }
            let largest = numbers.iter().copied().fold(0.0, f64::max);
            assert_eq!(largest, if kind == Kind::E4m3 { 448.0 } else { 57344.0 });
        }
        assert_eq!((Kind::E8m0.value(0), Kind::E8m0.value(127)), (2f64.powi(-127), 1.0));
        assert!(Kind::E8m0.finite(254) && !Kind::E8m0.finite(255));
    }

    #[test]
    fn rows_have_their_scales() {
        let codec = Fp8::new(Kind::E4m3, 32, Kind::E8m0).unwrap();
        let mut packed = Packed::new(codec, Shape { rows: 2, cols: 40 });
        let codes: Vec<u32> = (0..80).map(|i| i % 120).collect();
        let items = vec![codes.clone(), vec![127, 128, 126, 130]];
        packed.write_piece(&Piece { extent: Extent { rows: 0..2, cols: 0..40 }, items });
        for (row, scales) in [(0, [1.0, 2.0]), (1, [0.5, 8.0])] {
            let mut out = [0.0; 40];
            packed.decode_row(row, &mut out);
            for (k, w) in out.into_iter().enumerate() {
                assert_eq!(w as f64, Kind::E4m3.value(codes[row * 40 + k]) * scales[k / 32]);
            }
        }
    }
}
