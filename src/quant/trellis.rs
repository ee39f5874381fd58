//! Trellis codes of 1–8 bits with computed codebooks (EXL3; QTIP: Tseng et al. 2024).
//!
//! A tile of 16 × 16 weights is a circular stream of 256·b bits, in 8·b words of 32, the highest bit first. The state of
//! weight t is the 16 bits that end with bit (t + 1)·b: every weight adds b new bits to the state of the one before it.
//! An [`Order`] says which weight that is. A state means a number, about normally distributed.
//!
//! Scales belong to the layer's transforms; there is none in here.

use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use crate::error::{Error, Result};
use half::f16;
use std::any::Any;
use std::sync::Arc;

/// Trellis codes.
pub static FAMILY: Family = Family {
    name: "trellis",
    about: "trellis codes of 1-8 bits, 16 × 16 weights a tile, codebooks computed (EXL3, QTIP)",
    wgsl: &["codecs/trellis.wgsl", "lib/trellis.wgsl"],
    samples: || {
        use Codebook::{Mcg, Mul1, OneMad, ThreeInst};
        let lanes = [(1, Mul1), (2, Mcg), (3, ThreeInst), (4, Mul1), (5, Mul1), (6, Mcg)];
        let rows = [(3, OneMad), (8, ThreeInst)];
        let lanes = lanes.into_iter().map(|(bits, book)| Trellis::new(bits, book, Order::Lanes));
        let rows = rows.into_iter().map(|(bits, book)| Trellis::new(bits, book, Order::Rows));
        lanes.chain(rows).filter_map(Result::ok).map(|c| c as _).collect()
    },
};

/// Rows and columns of a tile.
pub const TILE: usize = 16;

/// Which weight of a tile is the t-th of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `t = 16·n + k` for row n and column k (QTIP without its kernels).
    Rows,
    /// `t = 32·(n % 8) + 8·(k % 8 / 2) + 4·(n / 8) + 2·(k / 8) + k % 2`: as the lanes of a tensor core hold an operand B,
    /// which EXL3's kernels feed. Rows n and n + 8 share b words and the 16 bits before them.
    Lanes,
}

impl Order {
    /// The place in the stream of row `n` and column `k` of a tile.
    fn place(self, n: usize, k: usize) -> usize {
        match self {
            Order::Rows => TILE * n + k,
            Order::Lanes => 32 * (n % 8) + 8 * (k % 8 / 2) + 4 * (n / 8) + 2 * (k / 8) + k % 2,
        }
    }
}

/// What a state means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codebook {
    /// `u = 89226354·s + 64248484`; two halves of u, masked, are added as f16 (QTIP's 3INST).
    ThreeInst,
    /// The same with `u = 0xcbac1fed·s`.
    Mcg,
    /// `u = 0x83dcd12d·s`; the sum of its four bytes, scaled.
    Mul1,
    /// `u = 34038481·s + 76625530`; the sum of its four bytes less 510, by 147.8, in f32 (QTIP's 1MAD).
    OneMad,
}

impl Codebook {
    /// The number of a state.
    pub fn value(self, state: u16) -> f32 {
        let s = u32::from(state);
        if self == Codebook::OneMad {
            let bytes = s.wrapping_mul(34_038_481).wrapping_add(76_625_530).to_le_bytes();
            return (bytes.into_iter().map(f32::from).sum::<f32>() - 510.0) / 147.800_54;
        }
        self.half(s).to_f32()
    }

    /// The same of the codebooks that compute in f16, with a rounding after each step.
    fn half(self, s: u32) -> f16 {
        let u = match self {
            Codebook::ThreeInst | Codebook::OneMad => s.wrapping_mul(89_226_354).wrapping_add(64_248_484),
            Codebook::Mcg => s.wrapping_mul(0xcbac_1fed),
            Codebook::Mul1 => {
                let bytes = s.wrapping_mul(0x83dc_d12d).to_le_bytes();
                let sum = 1024.0 + bytes.into_iter().map(f64::from).sum::<f64>();
                // One rounding: a fused multiply-add of f16.
                return f16::from_f64(
                    sum * f16::from_bits(0x1eee).to_f64() + f16::from_bits(0xc931).to_f64(),
                );
            }
        };
        let pair = (u & 0x8fff_8fff) ^ 0x3b60_3b60;
        let [low, high] = [pair, pair >> 16].map(|half| f16::from_bits(half as u16).to_f32());
        f16::from_f32(low + high)
    }
}

/// A trellis code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trellis {
    bits: usize,
    codebook: Codebook,
    order: Order,
}

/// The 16 bits of a tile's stream that end before bit `end`.
pub(super) fn state(words: &[u32], end: usize) -> u16 {
    let i = (end - 1) / 32;
    let before = words[(i + words.len() - 1) % words.len()];
    let window = u64::from(before) << 32 | u64::from(words[i]);
    (window >> (32 * (i + 1) - end)) as u16
}

impl Trellis {
    /// `bits` bits a weight.
    pub fn new(bits: usize, codebook: Codebook, order: Order) -> Result<Arc<Self>> {
        if !(1..=8).contains(&bits) {
            return Err(Error::unsupported("bits of a trellis code").expected("1 to 8").found(bits));
        }
        Ok(Arc::new(Self { bits, codebook, order }))
    }

    /// Words of a tile.
    pub fn tile_words(&self) -> usize {
        8 * self.bits
    }
}

impl Codec for Trellis {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        let codebook = match self.codebook {
            Codebook::ThreeInst => "3inst",
            Codebook::Mcg => "mcg",
            Codebook::Mul1 => "mul1",
            Codebook::OneMad => "1mad",
        };
        let order = if self.order == Order::Rows { " rows" } else { "" };
        format!("trellis{} {codebook}{order}", self.bits)
    }

    /// The words of a tile.
    fn fields(&self) -> Vec<Field> {
        vec![Field::new("words", Kind::Code(32), TILE).blocks(TILE, self.tile_words())]
    }

    fn sections(&self) -> Vec<Section> {
        vec![Section { binding: 0, field: 0, shift: 0, bits: 32, cell: self.tile_words() }]
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let codebook = match self.codebook {
            Codebook::ThreeInst => 0,
            Codebook::Mcg => 1,
            Codebook::Mul1 => 2,
            Codebook::OneMad => 3,
        };
        let row_major = u32::from(self.order == Order::Rows);
        vec![("BITS", self.bits as u32), ("CODEBOOK", codebook), ("ROW_MAJOR", row_major)]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut words = vec![0; out.len().div_ceil(TILE) * self.tile_words()];
        packed.items(0, row, &mut words);
        for (out, words) in out.chunks_mut(TILE).zip(words.chunks(self.tile_words())) {
            for (k, w) in out.iter_mut().enumerate() {
                let end = (self.order.place(row % TILE, k) + 1) * self.bits;
                *w = self.codebook.value(state(words, end));
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
    use std::collections::HashSet;

    /// Every bit of a tile's stream is new in exactly one weight, and every weight has a place.
    #[test]
    fn a_weight_adds_its_bits() {
        for bits in 1..=8 {
            for bit in 0..256 * bits {
                let mut words = vec![0; 8 * bits];
                words[bit / 32] = 1 << (31 - bit % 32);
                for t in 0..256 {
                    let state = state(&words, (t + 1) * bits);
                    let new = state != 0 && u32::from(state) < 1 << bits;
                    assert!(state.count_ones() <= 1 && new == (t == bit / bits));
                }
            }
        }
        for order in [Order::Rows, Order::Lanes] {
            let places: HashSet<usize> = (0..256).map(|i| order.place(i / 16, i % 16)).collect();
            assert!(places.len() == 256 && places.iter().all(|&t| t < 256), "{order:?}");
        }
    }

    /// Numbers that exllamav3's arithmetic gives, worked out by hand for the state 0 and checked for all by moments.
    #[test]
    fn codebooks_are_about_normal() {
        // 0x3b603b60: 0.922 twice. A zero product: (1024 · 0.006767 − 10.3828) in f16.
        assert_eq!(Codebook::Mcg.value(0), 1.84375);
        assert_eq!(Codebook::Mul1.value(0), -3.453125);
        // 76625530 = 0x0491367a: 122 + 54 + 145 + 4 = 325.
        assert_eq!(Codebook::OneMad.value(0), -185.0 / 147.800_54);
        for codebook in [Codebook::ThreeInst, Codebook::Mcg, Codebook::Mul1, Codebook::OneMad] {
            let values: Vec<f64> = (0..=u16::MAX).map(|s| f64::from(codebook.value(s))).collect();
            let mean = values.iter().sum::<f64>() / 65536.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 65536.0;
            assert!(
                mean.abs() < 0.02 && (0.99..1.56).contains(&variance),
                "{codebook:?}: {mean}, {variance}"
            );
        }
    }

    /// What the shader does in f32 with integer rounding is exact, for every state.
    #[test]
    fn the_shaders_arithmetic_is_exact() {
        let round = |v: f32| {
            let bits = v.to_bits();
            f32::from_bits(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & 0xffff_e000)
        };
        let half =
            |bits: u32| f32::from_bits((bits & 0x8000) << 16 | (((bits & 0x7fff) << 13) + 0x3800_0000));
        for s in 0..=u16::MAX {
            let u = u32::from(s).wrapping_mul(0x83dc_d12d);
            let pairs = (u & 0x00ff_00ff) + (u >> 8 & 0x00ff_00ff);
            let sum = ((pairs & 0xffff) + (pairs >> 16) + 1024) as f32;
            let found = round(sum * 0.006_767_273 - 10.382_812_5);
            assert_eq!(found, Codebook::Mul1.value(s), "{s:#06x}");
            let u = u32::from(s).wrapping_mul(0xcbac_1fed);
            let pair = (u & 0x8fff_8fff) ^ 0x3b60_3b60;
            assert_eq!(round(half(pair & 0xffff) + half(pair >> 16)), Codebook::Mcg.value(s));
        }
    }

    /// Row 17 is row 1 of the second line of tiles.
    #[test]
    fn rows_decode() {
        let codec = Trellis::new(2, Codebook::Mcg, Order::Lanes).unwrap();
        let items: Vec<u32> = (0..4 * 16).map(|i| 0x9e37_79b9u32.wrapping_mul(i + 1)).collect();
        let mut packed = Packed::new(codec, Shape { rows: 32, cols: 32 });
        packed
            .write_piece(&Piece { extent: Extent { rows: 0..32, cols: 0..32 }, items: vec![items.clone()] });
        let mut row = [0.0; 32];
        packed.decode_row(17, &mut row);
        for (k, &w) in row.iter().enumerate() {
            let tile = &items[(2 + k / 16) * 16..][..16];
            let t = Order::Lanes.place(1, k % 16);
            assert_eq!(w, Codebook::Mcg.value(state(tile, 2 * (t + 1))));
        }
    }
}
