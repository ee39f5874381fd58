//! GGUF's block types (ggml, `ggml-quants.c`): `M.weight [N, K]`, row-major blocks of 32 to 256 weights.
//!
//! | type | bytes of a block | weight |
//! |---|---|---|
//! | Q4_0 | d f16, 16 × 2 nibbles | (q − 8) d |
//! | Q4_1 | d f16, m f16, 16 × 2 nibbles | q d + m |
//! | Q5_0 | d f16, u32 of fifth bits, 16 × 2 nibbles | (q − 16) d |
//! | Q5_1 | d f16, m f16, u32 of fifth bits, 16 × 2 nibbles | q d + m |
//! | Q8_0 | d f16, 32 × i8 | q d |
//! | Q1_0 | d f16, 128 bits | (2q − 1) d |
//! | Q2_0 | d f16, 64 × 2 bits | (q − 1) d |
//! | TQ2_0 | 256 × 2 bits, d f16 | (q − 1) d |
//!
//! The low nibble of byte j is weight j, the high one weight j + 16; Q1_0 and Q2_0 have their weights in order, TQ2_0
//! in runs of 32 bytes. The K types are in `ggml_k.rs`, the IQ types and TQ1_0 in `ggml_iq.rs`, those with tables of 16
//! in `ggml_lookup.rs`.

use super::ggml_lookup;
use super::gguf::BlockType;
use super::tensor::{Dtype, Grid, RowOrder, TensorInfo, lcm, words16};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use super::{ggml_iq, ggml_k};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Codec, Extent, Kind, Piece};
use std::sync::Arc;

/// All types of quantized weights.
pub static READER: Reader = Reader {
    name: "GGUF",
    about: "Q1_0 to Q8_0, the K and IQ types, TQ1_0, TQ2_0, MXFP4, NVFP4 and unquantized tensors",
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

/// How the blocks of a type are read.
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) codec: fn() -> Result<Arc<dyn Codec>>,
    /// Appends what a block holds to the items of every field.
    pub(super) unpack: fn(&[u8], &mut [Vec<u32>]),
}

const LAYOUTS: &[Layout] = &[
    Layout {
        name: "Q4_0",
        codec: || int(4, 32, Offset::Symmetric(8)),
        unpack: |b, items| nibbles(b, 0, items),
    },
    Layout { name: "Q4_1", codec: || int(4, 32, Offset::Min), unpack: |b, items| nibbles(b, 0, items) },
    Layout {
        name: "Q5_0",
        codec: || int(5, 32, Offset::Symmetric(16)),
        unpack: |b, items| nibbles(b, 4, items),
    },
    Layout { name: "Q5_1", codec: || int(5, 32, Offset::Min), unpack: |b, items| nibbles(b, 4, items) },
    Layout { name: "Q8_0", codec: || int(8, 32, Offset::Symmetric(128)), unpack: eight },
    Layout { name: "Q1_0", codec: || int(1, 128, Offset::Sign), unpack: |b, items| in_order(b, 1, items) },
    Layout {
        name: "Q2_0",
        codec: || int(2, 64, Offset::Symmetric(1)),
        unpack: |b, items| in_order(b, 2, items),
    },
    Layout { name: "TQ2_0", codec: || int(2, 256, Offset::Symmetric(1)), unpack: ternary },
];

fn int(bits: u32, group: usize, offset: Offset) -> Result<Arc<dyn Codec>> {
    Ok(Int::new(bits, group, Kind::F16, offset)?)
}

fn layouts() -> impl Iterator<Item = &'static Layout> {
    LAYOUTS.iter().chain(ggml_lookup::LAYOUTS).chain(ggml_k::LAYOUTS).chain(ggml_iq::LAYOUTS)
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["weight", "bias"])?;
    let weight = module.require("weight")?;
    weight.expect_shape(&[module.rows, module.cols])?;
    let layout = layouts().find(|layout| layout.name == weight.dtype.to_string());
    let (Dtype::Block(ty), Some(layout)) = (weight.dtype, layout) else {
        let names: Vec<&str> = layouts().map(|l| l.name).collect();
        return Err(Error::unsupported(format!("ggml type {} of {}", weight.dtype, weight.name))
            .file(weight.source.name())
            .expected(format!("F32, F16, BF16, {}", names.join(", ")))
            .remedy("quantize the model to one of these"));
    };
    let codec = (layout.codec)()?;
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

/// Rows of blocks.
struct Blocks {
    tensor: TensorInfo,
    ty: &'static BlockType,
    layout: &'static Layout,
    codec: Arc<dyn Codec>,
    rows: usize,
    cols: usize,
    order: RowOrder,
}

impl PieceSource for Blocks {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &*self.codec);
        let col_step = lcm(grid.col_step, self.ty.weights);
        Grid { row_step: self.order.step(), col_step, cost: 2, ..grid }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let bytes_of = |weights: usize| weights / self.ty.weights * self.ty.bytes;
            let part = bytes_of(extent.cols.start)..bytes_of(extent.cols.end);
            let stride = bytes_of(self.cols);
            let bytes = self.order.read(&self.tensor, stride, extent.rows.clone(), part).await?;
            let weights = extent.rows.len() * extent.cols.len();
            let fields = self.codec.fields();
            let mut items: Vec<Vec<u32>> =
                fields.iter().map(|field| Vec::with_capacity(weights / field.run)).collect();
            for block in bytes.chunks_exact(self.ty.bytes) {
                (self.layout.unpack)(block, &mut items);
            }
            for (field, items) in fields.iter().zip(&items) {
                if let Some(&item) = items.iter().find(|&&item| !field.kind.finite(item)) {
                    return Err(Error::corrupt(format!("non-finite block scale in {}", self.tensor.name))
                        .file(self.tensor.source.name())
                        .found(field.kind.value(item))
                        .remedy("the file is damaged: fetch it again"));
                }
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}

/// Codes of `bits` bits: of every `run` bytes the lowest ones first, then the next.
pub(super) fn codes(bytes: &[u8], run: usize, bits: u32) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks(run).flat_map(move |run| {
        let shifts = (0..8).step_by(bits as usize);
        shifts.flat_map(move |shift| run.iter().map(move |&b| u32::from(b) >> shift & ((1 << bits) - 1)))
    })
}

/// [`codes`] in two planes, the second `shift` bits higher.
pub(super) fn planes<'a>(
    low: impl Iterator<Item = u32> + 'a,
    high: impl Iterator<Item = u32> + 'a,
    shift: u32,
) -> impl Iterator<Item = u32> + 'a {
    low.zip(high).map(move |(low, high)| low | high << shift)
}

/// One f16 for every field but the codes, then `fifth` bytes of fifth bits, then nibbles.
fn nibbles(block: &[u8], fifth: usize, items: &mut [Vec<u32>]) {
    let (floats, rest) = block.split_at(2 * (items.len() - 1));
    let (fifth, nibbles) = rest.split_at(fifth);
    match fifth {
        [] => items[0].extend(codes(nibbles, 16, 4)),
        _ => items[0].extend(planes(codes(nibbles, 16, 4), codes(fifth, 1, 1), 4)),
    }
    items[1..].iter_mut().zip(words16(floats)).for_each(|(items, float)| items.push(float));
}

fn eight(block: &[u8], items: &mut [Vec<u32>]) {
    let (d, bytes) = block.split_at(2);
    items[0].extend(bytes.iter().map(|&b| u32::from(b ^ 0x80))); // i8 + 128
    items[1].extend(words16(d));
}

fn in_order(block: &[u8], bits: u32, items: &mut [Vec<u32>]) {
    let (d, bytes) = block.split_at(2);
    items[0].extend(codes(bytes, 1, bits));
    items[1].extend(words16(d));
}

fn ternary(block: &[u8], items: &mut [Vec<u32>]) {
    let (bytes, d) = block.split_at(64);
    items[0].extend(codes(bytes, 32, 2));
    items[1].extend(words16(d));
}
