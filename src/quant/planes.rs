//! Codes of 1–8 bits as planes of a power of two of bits: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2. See `lib/planes.wgsl`.

use super::{Section, UNIT};

/// The planes of codes of one width, which are field 0 of their codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planes {
    /// Bits of the first plane.
    low: u32,
    /// Bits of the second; 0 for none.
    high: u32,
}

impl Planes {
    pub(super) fn new(bits: u32) -> Self {
        let low = match bits {
            8 => 8,
            4..8 => 4,
            2..4 => 2,
            _ => 1,
        };
        Self { low, high: bits - low }
    }

    /// `others` between the two planes.
    pub(super) fn sections(self, others: Vec<Section>) -> Vec<Section> {
        let low = Section { binding: 0, field: 0, shift: 0, bits: self.low, cell: 128 / self.low as usize };
        let high = Section { binding: 1, field: 0, shift: self.low, bits: self.high, cell: UNIT };
        let high = (self.high > 0).then_some(high);
        [low].into_iter().chain(others).chain(high).collect()
    }

    /// What the shader has to know; `others` sections lie between the planes.
    pub(super) fn constants(self, others: usize) -> [(&'static str, u32); 3] {
        [("LOW_BITS", self.low), ("HIGH_BITS", self.high), ("HIGH_SECTION", others as u32 + 1)]
    }
}
