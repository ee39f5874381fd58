//! ggml's K types and IQ4_XS: blocks of 256 weights in groups of 16 or 32 with scales of their own.
//!
//! | type | bytes of a block | weight |
//! |---|---|---|
//! | Q2_K | 16 × (scale, minimum) nibbles, 64 of 2-bit codes, d f16, dmin f16 | d s q − dmin m |
//! | Q3_K | 32 of third bits, 64 of 2-bit codes, 12 of 16 scales, d f16 | d (s − 32) (q − 4) |
//! | Q4_K | d f16, dmin f16, 12 of 8 scales and minima, 128 of nibbles | d s q − dmin m |
//! | Q5_K | the same with 32 of fifth bits before the nibbles | d s q − dmin m |
//! | Q6_K | 128 of nibbles, 64 of 2-bit codes, 16 × i8 scale, d f16 | d s (q − 32) |
//! | IQ4_XS | d f16, u16 of 8 high scale bits, 4 of 8 low nibbles, 128 of nibbles | d (s − 32) level(q) |

use super::ggml::{Layout, codes, planes};
use super::tensor::words16;
use crate::quant::kquant::{IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
use std::sync::Arc;

pub(super) const LAYOUTS: &[Layout] = &[
    Layout { name: "Q2_K", codec: || Ok(Arc::new(Q2_K)), unpack: q2_k },
    Layout { name: "Q3_K", codec: || Ok(Arc::new(Q3_K)), unpack: q3_k },
    Layout { name: "Q4_K", codec: || Ok(Arc::new(Q4_K)), unpack: |block, items| q4_k(block, 0, items) },
    Layout { name: "Q5_K", codec: || Ok(Arc::new(Q5_K)), unpack: |block, items| q4_k(block, 32, items) },
    Layout { name: "Q6_K", codec: || Ok(Arc::new(Q6_K)), unpack: q6_k },
    Layout { name: "IQ4_XS", codec: || Ok(Arc::new(IQ4_XS)), unpack: iq4_xs },
];

fn q2_k(block: &[u8], items: &mut [Vec<u32>]) {
    let (scales, rest) = block.split_at(16);
    let (low, supers) = rest.split_at(64);
    items[0].extend(codes(low, 32, 2));
    items[1].extend(scales.iter().map(|&b| u32::from(b)));
    items[2].extend(words16(supers));
}

fn q3_k(block: &[u8], items: &mut [Vec<u32>]) {
    let (high, rest) = block.split_at(32);
    let (low, rest) = rest.split_at(64);
    let (low_scales, rest) = rest.split_at(8);
    let (high_scales, d) = rest.split_at(4);
    items[0].extend(planes(codes(low, 32, 2), codes(high, 32, 1), 2));
    items[1].extend(planes(codes(low_scales, 8, 4), codes(high_scales, 4, 2), 4));
    items[2].extend(words16(d));
}

/// Q4_K, or Q5_K with `fifth` bytes of fifth bits.
fn q4_k(block: &[u8], fifth: usize, items: &mut [Vec<u32>]) {
    let (supers, rest) = block.split_at(4);
    let (scales, rest) = rest.split_at(12);
    let (fifth, nibbles) = rest.split_at(fifth);
    match fifth {
        [] => items[0].extend(codes(nibbles, 32, 4)),
        _ => items[0].extend(planes(codes(nibbles, 32, 4), codes(fifth, 32, 1), 4)),
    }
    // Six bits each: four scales, four minima; of the other four the low nibbles are in the last four bytes, the
    // upper two bits above the first ones.
    let (first, low) = scales.split_at(8);
    let six = |i: usize| u32::from(first[i] & 63);
    let split = |i: usize, nibble: u8| u32::from(nibble | first[i] >> 6 << 4);
    items[1].extend((0..4).map(|i| six(i) | six(i + 4) << 6));
    items[1].extend((0..4).map(|i| split(i, low[i] & 15) | split(i + 4, low[i] >> 4) << 6));
    items[2].extend(words16(supers));
}

fn q6_k(block: &[u8], items: &mut [Vec<u32>]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    items[0].extend(planes(codes(low, 64, 4), codes(high, 32, 2), 4));
    items[1].extend(scales.iter().map(|&b| u32::from(b ^ 0x80))); // i8 + 128
    items[2].extend(words16(d));
}

fn iq4_xs(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, rest) = block.split_at(2);
    let (high_scales, rest) = rest.split_at(2);
    let (low_scales, nibbles) = rest.split_at(4);
    items[0].extend(codes(nibbles, 16, 4));
    items[1].extend(planes(codes(low_scales, 1, 4), codes(high_scales, 1, 2), 4));
    items[2].extend(words16(d));
}
