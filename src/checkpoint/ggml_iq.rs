//! ggml's IQ types below 4 bits, and TQ1_0: blocks of 256 weights; what the numbers mean is in `quant/grid.rs`.
//!
//! | type | bytes of a block |
//! |---|---|
//! | IQ2_XXS | d f16, 8 × (4 indices, u32 of signs and scale) |
//! | IQ2_XS | d f16, 32 × u16 of index and signs, 8 of 16 scales |
//! | IQ2_S | d f16, 32 of indices, 32 of signs, 8 of their upper bits, 8 of 16 scales |
//! | IQ3_XXS | d f16, 64 of indices, 8 × u32 of signs and scale |
//! | IQ3_S | d f16, 64 of indices, 8 of their upper bits, 32 of signs, 4 of 8 scales |
//! | IQ1_S | d f16, 32 of indices, 8 × u16 of their upper bits, scale and δ |
//! | IQ1_M | 32 of indices, 16 of their upper bits and δ, 4 × u16 of 4 scales and a quarter of d |
//! | TQ1_0 | 32, 16 and 4 bytes of digits, d f16 |

use super::ggml::{Layout, codes, planes};
use super::tensor::{words16, words32};
use crate::quant::grid::{IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::quant::ternary::Ternary;
use std::sync::Arc;

pub(super) const LAYOUTS: &[Layout] = &[
    Layout { name: "IQ3_S", codec: || Ok(Arc::new(IQ3_S)), unpack: iq3_s },
    Layout { name: "IQ3_XXS", codec: || Ok(Arc::new(IQ3_XXS)), unpack: iq3_xxs },
    Layout { name: "IQ2_S", codec: || Ok(Arc::new(IQ2_S)), unpack: iq2_s },
    Layout { name: "IQ2_XS", codec: || Ok(Arc::new(IQ2_XS)), unpack: iq2_xs },
    Layout { name: "IQ2_XXS", codec: || Ok(Arc::new(IQ2_XXS)), unpack: iq2_xxs },
    Layout { name: "IQ1_S", codec: || Ok(Arc::new(IQ1_S)), unpack: iq1_s },
    Layout { name: "IQ1_M", codec: || Ok(Arc::new(IQ1_M)), unpack: iq1_m },
    Layout { name: "TQ1_0", codec: || Ok(Ternary::new()), unpack: tq1_0 },
];

fn iq2_xxs(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    items[1].extend(words16(d));
    for unit in rest.chunks_exact(8) {
        items[0].extend(codes(&unit[..4], 1, 8));
        items[2].extend(words32(&unit[4..]));
    }
}

fn iq2_xs(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    let (points, scales) = rest.split_at(64);
    items[0].extend(words16(points));
    items[1].extend(words16(d));
    items[2].extend(codes(scales, 1, 4));
}

fn iq2_s(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    let (low, rest) = rest.split_at(32);
    let (signs, rest) = rest.split_at(32);
    let (high, scales) = rest.split_at(8);
    items[0].extend(planes(codes(low, 1, 8), codes(high, 1, 2), 8));
    items[1].extend(words16(d));
    items[2].extend(codes(scales, 1, 4));
    items[3].extend(codes(signs, 1, 8));
}

fn iq3_xxs(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    let (points, words) = rest.split_at(64);
    items[0].extend(codes(points, 1, 8));
    items[1].extend(words16(d));
    items[2].extend(words32(words));
}

fn iq3_s(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    let (low, rest) = rest.split_at(64);
    let (high, rest) = rest.split_at(8);
    let (signs, scales) = rest.split_at(32);
    items[0].extend(planes(codes(low, 1, 8), codes(high, 1, 1), 8));
    items[1].extend(words16(d));
    items[2].extend(codes(scales, 1, 4));
    items[3].extend(codes(signs, 1, 8));
}

fn iq1_s(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    let (points, words) = rest.split_at(32);
    items[0].extend(codes(points, 1, 8));
    items[1].extend(words16(d));
    items[2].extend(words16(words));
}

fn iq1_m(block: &[u8], items: &mut [Vec<u32>]) {
    let (low, rest) = block.split_at(32);
    let (high, words) = rest.split_at(16);
    items[0].extend(planes(codes(low, 1, 8), codes(high, 1, 4), 8));
    // Each word: four scales of three bits, and above them four bits of d, the lowest first.
    items[1].push(words16(words).enumerate().fold(0, |d, (i, word)| d | word >> 12 << (4 * i)));
    items[2].extend(words16(words).flat_map(|word| [0, 3, 6, 9].map(|shift| word >> shift & 7)));
}

fn tq1_0(block: &[u8], items: &mut [Vec<u32>]) {
    let (first, rest) = block.split_at(32);
    let (middle, rest) = rest.split_at(16);
    let (last, d) = rest.split_at(4);
    for (items, bytes) in items.iter_mut().zip([first, middle, last]) {
        items.extend(codes(bytes, 1, 8));
    }
    items[3].extend(words16(d));
}
