//! GGUF's types with a table of 16 values, in blocks of 32 weights, NVFP4 of 64 in runs of 16.
//!
//! | type | bytes of a block | weight |
//! |---|---|---|
//! | IQ4_NL | d f16, 16 × 2 nibbles | `table[q] d` |
//! | MXFP4 | e E8M0, 16 × 2 nibbles | `e2m1[q] 2^(e − 127)` |
//! | NVFP4 | 4 × d E4M3, 4 × 8 × 2 nibbles | `e2m1[q] d` |
//!
//! Of a run of n weights byte j has weight j in the low nibble and weight j + n/2 in the high one. ggml halves the
//! scale and doubles the table of E2M1, which is the same number.

use super::ggml::{Layout, codes};
use super::tensor::words16;
use crate::error::Result;
use crate::quant::lookup::{E2M1, IQ4_NL, Lookup, Scales};
use crate::quant::{Codec, Kind};
use std::sync::Arc;

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        name: "IQ4_NL",
        codec: || lookup("iq4_nl", IQ4_NL, 32, Kind::F16),
        unpack: |block, items| {
            let (d, nibbles) = block.split_at(2);
            items[0].extend(codes(nibbles, 16, 4));
            items[1].extend(words16(d));
        },
    },
    Layout {
        name: "MXFP4",
        codec: || lookup("e2m1", E2M1, 32, Kind::E8m0),
        unpack: |block, items| bytes_first(block, 1, items),
    },
    Layout {
        name: "NVFP4",
        codec: || lookup("e2m1", E2M1, 16, Kind::E4m3),
        unpack: |block, items| bytes_first(block, 4, items),
    },
];

fn lookup(name: &'static str, table: [f32; 16], run: usize, scale: Kind) -> Result<Arc<dyn Codec>> {
    Ok(Lookup::new(name, table, run, Scales::Float(scale))?)
}

/// `scales` bytes, one for each run; then the nibbles of the runs.
fn bytes_first(block: &[u8], scales: usize, items: &mut [Vec<u32>]) {
    let (scales, nibbles) = block.split_at(scales);
    items[0].extend(codes(nibbles, nibbles.len() / scales.len(), 4));
    items[1].extend(scales.iter().map(|&byte| u32::from(byte)));
}
