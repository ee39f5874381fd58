//! Ternary weights in base 3, five to a byte: ggml's TQ1_0 (llama.cpp, `ggml-quants.c`; pull request 8151).
//!
//! A byte b is a fraction of 256 whose digits are the weights: the first is ⌊3b / 256⌋, the next the same of 3b mod
//! 256. `w = (digit − 1) · d`, one f16 d for 256 weights: digit t of bytes 0–31 are weights 32 t … 32 t + 31, of the
//! next 16 bytes weights 160 + 16 t …, of the last 4 (four digits each) weights 240 + 4 t ….

use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use std::any::Any;
use std::sync::Arc;

/// TQ1_0.
pub static FAMILY: Family = Family {
    name: "ternary",
    about: "-1, 0 and 1 in base 3, five weights a byte, with an f16 for every 256 (TQ1_0)",
    wgsl: &["codecs/ternary.wgsl"],
    samples: || vec![Ternary::new()],
};

/// The codec; it has no parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ternary;

/// Weights under one `d`.
const BLOCK: usize = 256;
/// First weight and number of bytes of each of a block's three runs.
const FIELDS: [(usize, usize); 3] = [(0, 32), (160, 16), (240, 4)];

impl Ternary {
    /// The codec.
    pub fn new() -> Arc<Self> {
        Arc::new(Self)
    }
}

impl Codec for Ternary {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        "tq1_0".into()
    }

    /// Three runs of bytes, `d`.
    fn fields(&self) -> Vec<Field> {
        let bytes = |name, (_, bytes): (usize, usize)| Field::new(name, Kind::Code(8), BLOCK / bytes);
        vec![
            bytes("first digits", FIELDS[0]),
            bytes("middle digits", FIELDS[1]),
            bytes("last digits", FIELDS[2]),
            Field::new("scales", Kind::F16, BLOCK),
        ]
    }

    /// In the order of the fields.
    fn sections(&self) -> Vec<Section> {
        let bytes = |field: usize| {
            let (binding, (_, cell)) = (usize::from(field > 0), FIELDS[field]);
            Section { binding, field, shift: 0, bits: 8, cell }
        };
        vec![bytes(0), bytes(1), bytes(2), Section { binding: 1, field: 3, shift: 0, bits: 16, cell: 1 }]
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        Some(&["codecs/ternary_fixed.wgsl", "lib/ungrouped.wgsl"])
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let scales = packed.field(3, row);
        for (block, (out, &d)) in out.chunks_mut(BLOCK).zip(&scales).enumerate() {
            let d = Kind::F16.value(d);
            for (i, w) in out.iter_mut().enumerate() {
                let field = FIELDS.partition_point(|(first, _)| *first <= i) - 1;
                let (first, bytes) = FIELDS[field];
                let byte = packed.item(field, row, block * bytes + (i - first) % bytes);
                let fraction = (byte * 3u32.pow(((i - first) / bytes) as u32)) & 255;
                *w = (d * (f64::from((fraction * 3) >> 8) - 1.0)) as f32;
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Self::new() as _)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::decode;
    use super::*;

    /// Every weight in turn is 1, all others −1.
    #[test]
    fn every_digit_decodes() {
        for i in 0..BLOCK {
            let field = FIELDS.iter().rposition(|(first, _)| *first <= i).unwrap();
            let (first, bytes) = FIELDS[field];
            let mut items: Vec<Vec<u32>> = FIELDS.iter().map(|&(_, bytes)| vec![0; bytes]).collect();
            // ⌈256 · 2 · 3⁻ᵗ⁻¹⌉: the fraction whose digit t is 2.
            let digit = 2 * 3u32.pow(4 - ((i - first) / bytes) as u32);
            items[field][(i - first) % bytes] = (digit * 256).div_ceil(243);
            items.push(vec![0x4000]);
            let row = decode(Ternary::new(), BLOCK, items);
            assert!(
                row.iter().enumerate().all(|(j, &w)| w == if i == j { 2.0 } else { -2.0 }),
                "{i}: {row:?}"
            );
        }
    }
}
