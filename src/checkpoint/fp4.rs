//! MXFP4 and NVFP4 (OCP MX; NVIDIA): E2M1 codes, two a byte, the *low* nibble first, with a scale of 8 bits a block.
//!
//! | written by | codes | scales | weight |
//! |---|---|---|---|
//! | compressed-tensors `mxfp4-pack-quantized` | `M.weight_packed` u8 `[N, K/2]` | `M.weight_scale` u8 (E8M0) `[N, K/32]` | `e2m1 · scale` |
//! | compressed-tensors `nvfp4-pack-quantized` | the same | `M.weight_scale` F8_E4M3 `[N, K/16]`, `M.weight_global_scale` f32 `[1]` | `e2m1 · scale / global` |
//! | ModelOpt | `M.weight` u8 `[N, K/2]` | `M.weight_scale` as above, `M.weight_scale_2` f32 | `e2m1 · scale · scale_2` |
//! | gpt-oss | `…experts.gate_up_proj_blocks` u8 `[E, 2I, H/32, 16]` | `…_scales` u8 (E8M0) `[E, 2I, H/32]` | `e2m1 · scale` |
//!
//! gpt-oss keeps the experts of a layer in one tensor; rows of gate and up alternate. They are read as one matrix an
//! expert: `…experts.{e}.gate_proj`, `up_proj`, and `down_proj` of `down_proj_blocks [E, H, I/32, 16]`; biases
//! `gate_up_proj_bias [E, 2I]`, `down_proj_bias [E, H]`.

use super::compressed_tensors::scheme_if_any;
use super::tensor::{Dtype, Grid, TensorInfo};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::lookup::{E2M1, Factor, Lookup, Scales};
use crate::quant::{Extent, Kind, Piece};
use std::ops::Range;
use std::sync::Arc;

/// MXFP4 and NVFP4.
pub static READER: Reader = Reader {
    name: "FP4",
    about: "MXFP4 and NVFP4 of compressed-tensors, ModelOpt and gpt-oss",
    signature: ".weight_packed or .weight (U8), .weight_scale (U8 or F8)",
    source: "llm-compressor, ModelOpt, gpt-oss",
    methods: &["mxfp4", "modelopt", "modelopt_fp4"],
    claims: |module| layout(module).is_some(),
    format: |module| match layout(module) {
        Some(layout) if layout.kind() == Kind::E4m3 => "NVFP4",
        _ => "MXFP4",
    },
    read: |module| Box::pin(read(module)),
};

/// Where the codes and scales of a module are.
struct Layout<'a> {
    codes: &'a TensorInfo,
    scales: &'a TensorInfo,
    /// The biases of all experts.
    bias: Option<&'a TensorInfo>,
    /// Of all experts' rows those of this module: the first, and how far the next is.
    rows: Option<(usize, usize)>,
}

impl Layout<'_> {
    /// What a scale is: E4M3 of 16 columns, or E8M0 of 32.
    fn kind(&self) -> Kind {
        if self.scales.dtype.float8() == Some(Kind::E4m3) { Kind::E4m3 } else { Kind::E8m0 }
    }
}

fn layout<'a>(module: &Module<'a>) -> Option<Layout<'a>> {
    if let Some(expert) = expert(module) {
        return Some(expert);
    }
    let bytes = |suffix| module.tensor(suffix).filter(|tensor| tensor.dtype == Dtype::U8);
    let (codes, scales) = (bytes("weight_packed").or(bytes("weight"))?, module.tensor("weight_scale")?);
    let eight = scales.dtype == Dtype::U8 || scales.dtype.float8().is_some_and(|kind| kind != Kind::E5m2);
    eight.then_some(Layout { codes, scales, bias: None, rows: None })
}

/// gpt-oss: a module of one expert.
fn expert<'a>(module: &Module<'a>) -> Option<Layout<'a>> {
    let (parent, projection) = module.name.rsplit_once('.')?;
    let (experts, expert) = parent.rsplit_once('.').filter(|(parent, _)| parent.ends_with(".experts"))?;
    let expert: usize = expert.parse().ok()?;
    let (stored, first, step) = match projection {
        "gate_proj" => ("gate_up_proj", 0, 2),
        "up_proj" => ("gate_up_proj", 1, 2),
        _ => (projection, 0, 1),
    };
    let tensor = |part| module.tensors.get(&format!("{experts}.{stored}_{part}"));
    let (codes, scales) = (tensor("blocks")?, tensor("scales")?);
    let first = expert.checked_mul(step * module.rows)?.checked_add(first)?;
    Some(Layout { codes, scales, bias: tensor("bias"), rows: Some((first, step)) })
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let (rows, cols) = (module.rows, module.cols);
    let layout = layout(module).ok_or_else(|| Error::missing("missing weights").tensor(module.name))?;
    let kind = layout.kind();
    let block = if kind == Kind::E4m3 { 16 } else { 32 };
    if !cols.is_multiple_of(block) {
        let error = Error::unsupported(format!("blocks of {block} in rows of {cols}"));
        return Err(layout.scales.blame(error.expected("blocks that fill the rows")));
    }
    let (blocks, experts) = (cols / block, layout.codes.shape.first().copied().unwrap_or(0));
    match layout.rows {
        None => {
            module.only(&[
                "weight",
                "weight_packed",
                "weight_scale",
                "weight_scale_2",
                "weight_global_scale",
                "bias",
                "input_scale",
                "input_global_scale",
                "k_scale",
                "v_scale",
            ])?;
            scheme_if_any(module)?;
            layout.codes.expect_shape(&[rows, cols / 2])?;
            layout.scales.expect_shape(&[rows, blocks])?;
        }
        Some((first, step)) => {
            let stored = step * rows;
            if first / stored >= experts {
                let error = Error::missing(format!("missing expert {}", first / stored));
                return Err(layout.codes.blame(error.found(format!("{experts} experts"))));
            }
            layout.codes.expect_shape(&[experts, stored, blocks, block / 2])?;
            layout.scales.expect_shape(&[experts, stored, blocks])?;
        }
    }
    let scales = match factor(module).await? {
        Some(factor) => Scales::Factored(kind, vec![(rows, factor)]),
        None => Scales::Float(kind),
    };
    let codec = Lookup::new("e2m1", E2M1, block, scales)?;
    let (first, step) = layout.rows.unwrap_or((0, 1));
    let (codes, scales) = (layout.codes.clone(), layout.scales.clone());
    let data = Rows { codes, scales, kind, codec: codec.clone(), rows, cols, block, first, step };
    let mut matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    if layout.rows.is_some() {
        matrix.disk_bytes = (rows * (cols / 2 + blocks)) as u64;
        matrix.bias = expert_bias(&layout, rows, first, step).await?;
    }
    Ok(matrix)
}

/// NVFP4's second scale.
async fn factor(module: &Module<'_>) -> Result<Option<Factor>> {
    let one = async |tensor: &TensorInfo| -> Result<f32> {
        let value = tensor.floats(1, "scale").await?;
        match value.first() {
            Some(&value) if value != 0.0 => Ok(value),
            _ => Err(tensor.blame(Error::corrupt("a global scale of 0"))),
        }
    };
    match (module.tensor("weight_scale_2"), module.tensor("weight_global_scale")) {
        (None, None) => Ok(None),
        (Some(tensor), None) => Ok(Some(Factor { times: one(tensor).await?, over: 1.0 })),
        (None, Some(tensor)) => Ok(Some(Factor { times: 1.0, over: one(tensor).await? })),
        (Some(_), Some(tensor)) => Err(tensor.blame(Error::corrupt("a second global scale"))),
    }
}

/// The bias of one expert's module, if the layer has biases.
async fn expert_bias(
    layout: &Layout<'_>,
    rows: usize,
    first: usize,
    step: usize,
) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = layout.bias else { return Ok(None) };
    let experts = layout.codes.shape.first().copied().unwrap_or(0);
    tensor.expect_shape(&[experts, step * rows])?;
    let all = tensor.floats(experts * step * rows, "bias").await?;
    Ok(Some(all.into_iter().skip(first).step_by(step).take(rows).collect()))
}

/// Rows of codes and of scales, `step` stored rows apart.
struct Rows {
    codes: TensorInfo,
    scales: TensorInfo,
    kind: Kind,
    codec: Arc<Lookup>,
    rows: usize,
    cols: usize,
    block: usize,
    first: usize,
    step: usize,
}

impl Rows {
    /// The bytes `part` of rows `rows`, stored ones `stride` bytes long.
    async fn bytes(
        &self,
        tensor: &TensorInfo,
        stride: usize,
        rows: &Range<usize>,
        part: Range<usize>,
    ) -> Result<Vec<u8>> {
        let stored = self.first + rows.start * self.step..self.first + (rows.end - 1) * self.step + 1;
        let width = part.len();
        let bytes = tensor.read_rows(stride, stored, part).await?;
        Ok(bytes.chunks(width).step_by(self.step).flatten().copied().collect())
    }
}

impl PieceSource for Rows {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid { cost: self.step, ..Grid::new(self.rows, self.cols, &*self.codec) }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let (rows, cols) = (&extent.rows, &extent.cols);
            let bytes = self.bytes(&self.codes, self.cols / 2, rows, cols.start / 2..cols.end / 2).await?;
            let codes = bytes.iter().flat_map(|&b| [u32::from(b & 15), u32::from(b >> 4)]).collect();
            let part = cols.start / self.block..cols.end / self.block;
            let bytes = self.bytes(&self.scales, self.cols / self.block, rows, part).await?;
            let scales = self.scales.items(self.kind, &bytes, "scale")?;
            Ok(Piece { extent: extent.clone(), items: vec![codes, scales] })
        })
    }
}
