//! torchao, whose quantized tensors are taken apart for safetensors (`flatten_tensor_state_dict`, transformers'
//! `TorchAoConfig`). What a tensor `M.weight` consists of is `M._weight_qdata`, `M._weight_scale` and more.
//!
//! For a layer `[N, K]`, in groups of g inputs:
//!
//! * `Int8Tensor`: qdata i8 `[N, K]`, scale `[N, 1]` or `[1, 1]`: `w = q · scale`
//! * `IntxUnpackedToInt8Tensor`: qdata i8 `[N, K]`, scale and zero_point (i8) `[N, K/g]`: `w = (q − zero) · scale`
//! * `Float8Tensor`: qdata F8_E4M3 `[N, K]`, scale `[N, 1]` or `[1, 1]`
//! * act_pre_scale `[K]`, optional: what activations are multiplied with. `M.bias` `[N]`, optional.
//!
//! They are told apart by dtype and shape. Packed int4 (`Int4Tensor`, `Int4TilePackedTo4dTensor`), in the order of a GPU's
//! kernels, is refused.

use super::affine::{Affine, Floats, Layout, Zeros};
use super::ints::Ints;
use super::tensor::{TensorInfo, dims};
use super::{InputTransform, Module, Reader, StoredMatrix, fp8};
use crate::error::{Error, Result};

/// torchao.
pub static READER: Reader = Reader {
    name: "torchao",
    about: "int8, unpacked intx and float8 weights in safetensors",
    signature: "._weight_qdata ._weight_scale [._weight_zero_point] [._weight_act_pre_scale]",
    source: "torchao, transformers",
    methods: &["torchao"],
    claims: |module| module.tensor("_weight_qdata").is_some(),
    format: |_| READER.name,
    read: |module| Box::pin(read(module)),
};

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    const PARTS: [&str; 4] =
        ["_weight_qdata", "_weight_scale", "_weight_zero_point", "_weight_act_pre_scale"];
    module.only(&[&PARTS[..], &["bias"]].concat())?;
    let [data, scale] = [module.require(PARTS[0])?, module.require(PARTS[1])?];
    let mut matrix = match module.tensor(PARTS[2]) {
        _ if data.dtype.float8().is_some() => {
            fp8::scaled(module, &READER, data, scale, (1, module.cols)).await?
        }
        zero => integers(module, data, scale, zero)?.matrix(module, &READER).await?,
    };
    if module.tensor(PARTS[3]).is_some() {
        matrix.input = InputTransform::Scale(module.vector(PARTS[3], module.cols).await?);
    }
    Ok(matrix)
}

/// How the integers of a layer lie.
fn integers(
    module: &Module<'_>,
    data: &TensorInfo,
    scale: &TensorInfo,
    zero: Option<&TensorInfo>,
) -> Result<Affine> {
    let (rows, cols) = (module.rows, module.cols);
    let count: usize = scale.shape.iter().product();
    if count > 1 && (!count.is_multiple_of(rows) || !cols.is_multiple_of(count / rows)) {
        return Err(
            scale.blame(Error::corrupt("scales of torchao").expected(format!("n · {rows}")).found(count))
        );
    }
    let groups = (count / rows).max(1);
    if data.shape != [rows, cols] {
        let error = Error::unsupported("packed integers of torchao").found(dims(&data.shape));
        let wanted =
            format!("{}, a byte each (IntxWeightOnlyConfig, Int8WeightOnlyConfig)", dims(&[rows, cols]));
        return Err(data.blame(error.expected(wanted)));
    }
    let zeros = match zero {
        Some(zero) => Zeros::Each(Ints::signed(zero, (rows, groups))?),
        None => Zeros::Same(128),
    };
    let layout = if count == 1 { Layout::One } else { Layout::Rows };
    let (codes, scales) = (Ints::signed(data, (rows, cols))?, Floats::new(scale, (rows, groups), layout)?);
    Ok(Affine { codes, scales, zeros, group: cols / groups, divisor: 1, order: None })
}
