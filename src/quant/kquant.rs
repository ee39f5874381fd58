//! Two-level scales, ggml's "K-quants": integers in groups of 16 or 32 weights whose scales are themselves small
//! integers, times an f16 for every 256 weights (llama.cpp, `ggml-quants.c`; pull request 1684).
//!
//! `w = d · (s − b) · (q − z)`, or with minima `w = d · s · q − dmin · m`. In place of `q − z`, IQ4_XS has a table of 16
//! levels. Groups of 256 that a row does not fill are padded.

use super::planes::Planes;
use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use std::any::Any;
use std::sync::Arc;

/// The K-quants and IQ4_XS.
pub static FAMILY: Family = Family {
    name: "kquant",
    about: "integers of 2-6 bits with scales of 4-8 bits (and minima) under an f16 for every 256 weights",
    wgsl: &["codecs/kquant.wgsl", "lib/planes.wgsl", "lib/items.wgsl"],
    samples: || {
        let all = [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS];
        all.into_iter().map(|codec| Arc::new(codec) as _).collect()
    },
};

/// Weights under one `d`.
const BLOCK: usize = 256;

/// What the group scales are besides `d · s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offset {
    /// Subtracted from the scale code, and from the weight's code.
    Symmetric { scale: u32, code: u32 },
    /// A minimum a group, of as many bits as the scale: the item of a group is `scale | minimum << bits`.
    Min,
    /// Subtracted from the scale code; the weight's code picks one of [`LEVELS`].
    Levels { scale: u32 },
}

/// A member of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KQuant {
    name: &'static str,
    bits: u32,
    group: usize,
    scale_bits: u32,
    offset: Offset,
}

/// 2.625 bits a weight.
pub const Q2_K: KQuant = member("q2_k", 2, 16, 4, Offset::Min);
/// 3.4375 bits a weight.
pub const Q3_K: KQuant = member("q3_k", 3, 16, 6, Offset::Symmetric { scale: 32, code: 4 });
/// 4.5 bits a weight.
pub const Q4_K: KQuant = member("q4_k", 4, 32, 6, Offset::Min);
/// 5.5 bits a weight.
pub const Q5_K: KQuant = member("q5_k", 5, 32, 6, Offset::Min);
/// 6.5625 bits a weight.
pub const Q6_K: KQuant = member("q6_k", 6, 16, 8, Offset::Symmetric { scale: 128, code: 32 });
/// 4.25 bits a weight.
pub const IQ4_XS: KQuant = member("iq4_xs", 4, 32, 6, Offset::Levels { scale: 32 });

/// The levels of IQ4_NL and IQ4_XS (ggml-common.h, `kvalues_iq4nl`).
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

const fn member(name: &'static str, bits: u32, group: usize, scale_bits: u32, offset: Offset) -> KQuant {
    KQuant { name, bits, group, scale_bits, offset }
}

impl KQuant {
    fn has_minima(&self) -> bool {
        self.offset == Offset::Min
    }

    /// Bits of the two planes that scales (and minima) are stored in.
    fn scale_planes(&self) -> (u32, u32) {
        let bits = self.scale_bits * if self.has_minima() { 2 } else { 1 };
        let low = if bits < 8 { 4 } else { 8 };
        (low, bits - low)
    }

    /// Sections that are not planes of codes.
    fn others(&self) -> usize {
        if self.scale_planes().1 > 0 { 3 } else { 2 }
    }
}

impl Codec for KQuant {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        self.name.into()
    }

    /// Codes; scales with their minima above them; `d`, or `d` and `dmin` in turn.
    fn fields(&self) -> Vec<Field> {
        let (low, high) = self.scale_planes();
        let supers = if self.has_minima() { 2 } else { 1 };
        vec![
            Field::new("codes", Kind::Code(self.bits), 1),
            Field::new("scales", Kind::Code(low + high), self.group),
            Field::new("super-scales", Kind::F16, BLOCK).blocks(1, supers),
        ]
    }

    /// Low plane of the codes; super-scales; planes of the scales; high plane of the codes.
    fn sections(&self) -> Vec<Section> {
        let (low, high) = self.scale_planes();
        let cell = BLOCK / self.group;
        let supers = if self.has_minima() { 2 } else { 1 };
        let mut others = vec![
            Section { binding: 1, field: 2, shift: 0, bits: 16, cell: supers },
            Section { binding: 1, field: 1, shift: 0, bits: low, cell },
        ];
        if high > 0 {
            others.push(Section { binding: 1, field: 1, shift: low, bits: high, cell });
        }
        Planes::new(self.bits).sections(others)
    }

    fn is_light(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let (low, high) = self.scale_planes();
        let (offset, bias, zero) = match self.offset {
            Offset::Symmetric { scale, code } => (0, scale, code),
            Offset::Min => (1, 0, 0),
            Offset::Levels { scale } => (2, scale, 0),
        };
        let level = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| LEVELS[4 * i + j] as u8));
        let mut constants = Planes::new(self.bits).constants(self.others()).to_vec();
        constants.extend([
            ("GROUP", self.group as u32),
            ("SCALE_BITS", self.scale_bits),
            ("SCALE_LOW", low),
            ("SCALE_HIGH", high),
            ("OFFSET", offset),
            ("BIAS", bias),
            ("ZERO", zero),
            ("LEVELS_0", level(0)),
            ("LEVELS_4", level(1)),
            ("LEVELS_8", level(2)),
            ("LEVELS_12", level(3)),
        ]);
        constants
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let [codes, scales, supers] = [0, 1, 2].map(|field| packed.field(field, row));
        for (g, (out, codes)) in out.chunks_mut(self.group).zip(codes.chunks(self.group)).enumerate() {
            let block = g * self.group / BLOCK;
            let float = |i: usize| Kind::F16.value(supers[i]);
            let scale = scales[g];
            let (scale, min) = match self.offset {
                Offset::Min => {
                    let (scale, min) = (scale & ((1 << self.scale_bits) - 1), scale >> self.scale_bits);
                    (float(2 * block) * f64::from(scale), float(2 * block + 1) * f64::from(min))
                }
                Offset::Symmetric { scale: bias, .. } | Offset::Levels { scale: bias } => {
                    (float(block) * (f64::from(scale) - f64::from(bias)), 0.0)
                }
            };
            for (w, &code) in out.iter_mut().zip(codes) {
                let value = match self.offset {
                    Offset::Symmetric { code: zero, .. } => f64::from(code) - f64::from(zero),
                    Offset::Min => f64::from(code),
                    Offset::Levels { .. } => f64::from(LEVELS[code as usize & 15]),
                };
                *w = (scale * value - min) as f32;
            }
        }
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        let integers = !matches!(self.offset, Offset::Levels { .. });
        integers.then_some(&["codecs/kquant_fixed.wgsl", "lib/plane_codes.wgsl", "lib/ungrouped.wgsl"])
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

    /// A block of 256 weights whose code is the same everywhere; scales and super-scales differ in the second half.
    fn halves(codec: KQuant, code: u32, scales: [u32; 2], supers: &[f32]) -> [f32; 2] {
        let groups = BLOCK / codec.group;
        let scales = (0..groups).map(|g| scales[2 * g / groups]).collect();
        let supers = supers.iter().map(|&x| u32::from(half::f16::from_f32(x).to_bits())).collect();
        let row = decode(Arc::new(codec), BLOCK, vec![vec![code; BLOCK], scales, supers]);
        assert!(row[..128].iter().all(|&w| w == row[0]) && row[128..].iter().all(|&w| w == row[128]));
        [row[0], row[128]]
    }

    #[test]
    fn blocks_decode() {
        assert_eq!(halves(Q2_K, 3, [0x21, 0xff], &[2.0, 0.5]), [5.0, 82.5]); // 2·1·3 − ½·2, 2·15·3 − ½·15
        assert_eq!(halves(Q3_K, 0, [0, 33], &[2.0]), [256.0, -8.0]); // 2·(0 − 32)·(0 − 4)
        assert_eq!(halves(Q4_K, 15, [63, 1 | 63 << 6], &[1.0, 2.0]), [945.0, -111.0]);
        assert_eq!(halves(Q5_K, 31, [63, 1 | 63 << 6], &[1.0, 2.0]), [1953.0, -95.0]);
        assert_eq!(halves(Q6_K, 63, [0, 255], &[0.5]), [-1984.0, 1968.5]);
        assert_eq!(halves(IQ4_XS, 15, [0, 63], &[0.5]), [-1808.0, 1751.5]);
        assert_eq!(halves(IQ4_XS, 0, [33, 31], &[1.0]), [-127.0, 127.0]);
    }
}
