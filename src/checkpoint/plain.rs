//! Unquantized weights, as every framework writes them: `M.weight` f32, f16 or bf16 `[N, K]`, row-major; optional
//! `M.bias [N]`. In safetensors and in GGUF.

use super::tensor::{Dtype, Grid, RowOrder, TensorInfo};
use super::{BoxFuture, InputTransform, Module, OutputTransform, PieceSource, Reader, StoredMatrix};
use crate::error::Result;
use crate::quant::plain::Plain;
use crate::quant::{Extent, Kind, Piece};
use std::sync::Arc;

/// f32, f16, bf16.
pub static READER: Reader = Reader {
    name: "unquantized",
    about: "f32, f16 and bf16 weights",
    signature: ".weight",
    source: "PyTorch, safetensors, GGUF",
    methods: &[],
    claims: |module| module.tensor("weight").is_some_and(|w| !matches!(w.dtype, Dtype::Block(_))),
    format: |module| match module.tensor("weight").and_then(|w| w.dtype.kind()) {
        Some(Kind::F32) => "f32",
        Some(Kind::F16) => "f16",
        Some(Kind::Bf16) => "bf16",
        _ => "unknown",
    },
    read: |module| Box::pin(read(module)),
};

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&["weight", "bias"])?;
    let (codec, rows) = rows(module.require("weight")?, module.rows, module.cols, module.order)?;
    module.matrix(&READER, codec, Arc::new(rows)).await
}

/// The tensor `suffix` of a module as a matrix by itself: what other formats keep beside their codes.
pub(super) fn matrix(module: &Module<'_>, suffix: &str, rows: usize, cols: usize) -> Result<StoredMatrix> {
    let tensor = module.require(suffix)?;
    let (codec, data) = self::rows(tensor, rows, cols, RowOrder::Stored)?;
    Ok(StoredMatrix {
        name: tensor.name.clone(),
        rows,
        cols,
        codec,
        input: InputTransform::None,
        output: OutputTransform::None,
        activations: None,
        sparse: None,
        low_rank: None,
        slices: Vec::new(),
        bias: None,
        data: Arc::new(data),
        disk_bytes: tensor.bytes(),
        format: "unquantized",
    })
}

fn rows(tensor: &TensorInfo, rows: usize, cols: usize, order: RowOrder) -> Result<(Arc<Plain>, Rows)> {
    let kind = tensor.expect_float()?;
    tensor.expect_shape(&[rows, cols])?;
    let codec = Plain::new(kind);
    let data = Rows { tensor: tensor.clone(), codec: codec.clone(), kind, rows, cols, order };
    Ok((codec, data))
}

/// Rows of floats.
struct Rows {
    tensor: TensorInfo,
    codec: Arc<Plain>,
    kind: Kind,
    rows: usize,
    cols: usize,
    order: RowOrder,
}

impl PieceSource for Rows {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let cost = self.kind.bits() as usize / 8;
        Grid { row_step: self.order.step(), cost, ..Grid::new(self.rows, self.cols, &*self.codec) }
            .cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let size = self.kind.bits() as usize / 8;
            let part = extent.cols.start * size..extent.cols.end * size;
            let bytes = self.order.read(&self.tensor, self.cols * size, extent.rows.clone(), part).await?;
            let items = self.tensor.float_items(&bytes, "weight")?;
            Ok(Piece { extent: extent.clone(), items: vec![items] })
        })
    }
}
