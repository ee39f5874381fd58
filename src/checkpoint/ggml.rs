//! GGUF's block types (ggml, `ggml-quants.c`): `M.weight [N, K]`, row-major blocks of 32 weights.
//!
//! | type | bytes of a block | weight |
//! |---|---|---|
//! | Q4_0 | d f16, 16 × 2 nibbles | (q − 8) d |
//! | Q4_1 | d f16, m f16, 16 × 2 nibbles | q d + m |
//! | Q5_0 | d f16, u32 of fifth bits, 16 × 2 nibbles | (q − 16) d |
//! | Q5_1 | d f16, m f16, u32 of fifth bits, 16 × 2 nibbles | q d + m |
//! | Q8_0 | d f16, 32 × i8 | q d |
//!
//! The low nibble of byte j is weight j, the high one weight j + 16.

use super::gguf::BlockType;
use super::tensor::{Dtype, Grid, RowOrder, TensorInfo, words16};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Kind, Piece};
use std::sync::Arc;

/// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
pub static READER: Reader = Reader {
    name: "GGUF",
    about: "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and unquantized tensors",
    signature: "a ggml type per tensor",
    source: "llama.cpp",
    methods: &[],
    claims: |module| module.tensor("weight").is_some_and(|w| matches!(w.dtype, Dtype::Block(_))),
    format: |module| match module.tensor("weight").map(|w| w.dtype) {
        Some(Dtype::Block(ty)) => ty.name,
        _ => "unknown",
    },
    read: |module| Box::pin(read(module)),
};

/// Weights of a block of the types read here.
const BLOCK: usize = 32;

/// What tells the types apart.
struct Layout {
    name: &'static str,
    bits: u32,
    offset: Offset,
}

const LAYOUTS: &[Layout] = &[
    Layout { name: "Q4_0", bits: 4, offset: Offset::Symmetric(8) },
    Layout { name: "Q4_1", bits: 4, offset: Offset::Min },
    Layout { name: "Q5_0", bits: 5, offset: Offset::Symmetric(16) },
    Layout { name: "Q5_1", bits: 5, offset: Offset::Min },
    Layout { name: "Q8_0", bits: 8, offset: Offset::Symmetric(128) },
];

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["weight", "bias"])?;
    let weight = module.require("weight")?;
    weight.expect_shape(&[module.rows, module.cols])?;
    let (Dtype::Block(ty), Some(layout)) = (weight.dtype, layout(weight.dtype)) else {
        let names: Vec<&str> = LAYOUTS.iter().map(|l| l.name).collect();
        return Err(Error::unsupported(format!("ggml type {} of {}", weight.dtype, weight.name))
            .file(weight.source.name())
            .expected(format!("F32, F16, BF16, {}", names.join(", ")))
            .remedy("quantize the model to one of these"));
    };
    let codec = Int::new(layout.bits, BLOCK, Kind::F16, layout.offset)?;
    let data = Blocks {
        tensor: weight.clone(),
        ty,
        layout,
        codec: codec.clone(),
        rows: module.rows,
        cols: module.cols,
        order: module.order,
    };
    module.matrix(&READER, codec, Arc::new(data)).await
}

fn layout(dtype: Dtype) -> Option<&'static Layout> {
    let Dtype::Block(ty) = dtype else { return None };
    LAYOUTS.iter().find(|l| l.name == ty.name)
}

/// Rows of blocks.
struct Blocks {
    tensor: TensorInfo,
    ty: &'static BlockType,
    layout: &'static Layout,
    codec: Arc<Int>,
    rows: usize,
    cols: usize,
    order: RowOrder,
}

impl PieceSource for Blocks {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid { row_step: self.order.step(), cost: 2, ..Grid::new(self.rows, self.cols, &*self.codec) }
            .cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let bytes_of = |weights: usize| weights / BLOCK * self.ty.bytes;
            let part = bytes_of(extent.cols.start)..bytes_of(extent.cols.end);
            let stride = bytes_of(self.cols);
            let bytes = self.order.read(&self.tensor, stride, extent.rows.clone(), part).await?;
            let blocks = bytes.len() / self.ty.bytes;
            let mut codes = Vec::with_capacity(blocks * BLOCK);
            let (mut scales, mut minima) = (Vec::with_capacity(blocks), Vec::new());
            for block in bytes.chunks_exact(self.ty.bytes) {
                let floats = if self.layout.offset == Offset::Min { 4 } else { 2 };
                let (head, codes_of) = block.split_at(floats);
                let mut head = words16(head).filter(|&item| Kind::F16.finite(item));
                scales.extend(head.next());
                minima.extend(head.next());
                unpack(self.layout.bits, codes_of, &mut codes);
            }
            if scales.len() != blocks || self.layout.offset == Offset::Min && minima.len() != blocks {
                return Err(Error::corrupt(format!("non-finite block scale in {}", self.tensor.name))
                    .file(self.tensor.source.name())
                    .remedy("the file is damaged: fetch it again"));
            }
            let mut items = vec![codes, scales];
            if self.layout.offset == Offset::Min {
                items.push(minima);
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}

/// The 32 codes of a block.
fn unpack(bits: u32, bytes: &[u8], codes: &mut Vec<u32>) {
    match bits {
        8 => codes.extend(bytes.iter().map(|&b| u32::from(b ^ 0x80))), // i8 + 128
        4 => {
            codes.extend(bytes.iter().map(|&b| u32::from(b & 15)));
            codes.extend(bytes.iter().map(|&b| u32::from(b >> 4)));
        }
        _ => {
            let (fifth, nibbles) = bytes.split_at(4);
            let fifth = fifth.iter().rev().fold(0u32, |all, &b| all << 8 | u32::from(b));
            let first = codes.len();
            unpack(4, nibbles, codes);
            for (i, code) in codes[first..].iter_mut().enumerate() {
                *code |= (fifth >> i & 1) << 4;
            }
        }
    }
}
