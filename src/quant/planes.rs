//! Codes of 1–8 bits as planes of a power of two of bits: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. See
//! `lib/planes.wgsl`.

use super::{Section, UNIT};

/// The planes of codes of one width, which are field 0 of their codec: their widths, low bits first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planes(&'static [u32]);

impl Planes {
    pub(super) fn new(bits: u32) -> Self {
        Self(match bits {
            1 => &[1],
            2 => &[2],
            3 => &[2, 1],
            4 => &[4],
            5 => &[4, 1],
            6 => &[4, 2],
            7 => &[4, 2, 1],
            _ => &[8],
        })
    }

    /// `others` after the first plane.
    pub(super) fn sections(self, others: Vec<Section>) -> Vec<Section> {
        let low = self.0[0];
        let first = Section { binding: 0, field: 0, shift: 0, bits: low, cell: 128 / low as usize };
        let mut sections: Vec<Section> = [first].into_iter().chain(others).collect();
        let mut shift = low;
        for &bits in &self.0[1..] {
            sections.push(Section { binding: 1, field: 0, shift, bits, cell: UNIT });
            shift += bits;
        }
        sections
    }

    /// What the shader has to know; `others` sections lie after the first plane.
    pub(super) fn constants(self, others: usize) -> [(&'static str, u32); 4] {
        let bits = |plane: usize| self.0.get(plane).copied().unwrap_or(0);
        [
            ("LOW_BITS", bits(0)),
            ("HIGH_BITS", bits(1)),
            ("TOP_BITS", bits(2)),
            ("HIGH_SECTION", others as u32 + 1),
        ]
    }
}
