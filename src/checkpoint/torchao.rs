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
//! * `Int4TilePackedTo4dTensor`: qdata i32 `[N'/8, K'/128, 32, 4]`, scale_and_zero bf16 `[K'/g, N', 2]`, N' and K' being N and K
//!   filled up to multiples of 8 and 1024: `w = (q − 8) · scale + zero`. The order is that of tinygemm's kernels
//!   (`matrix_to_m16n8k16_Bint4_layout` of PyTorch's `int4mm.cu`), for tiles of 8 rows and 128 inputs: word j of lane t has,
//!   of row t / 4, inputs 32j + 8i + 2(t mod 4) + c in nibbles i + 4c.
//!
//! They are told apart by dtype and shape. `Int4Tensor` is refused; tiles that an AMD GPU packed look the same and are not.

use super::affine::{Affine, Floats, Layout, Zeros};
use super::ints::{Ints, Tiling};
use super::tensor::{TensorInfo, dims};
use super::{InputTransform, Module, Reader, StoredMatrix, fp8};
use crate::error::{Error, Result};

/// torchao.
pub static READER: Reader = Reader {
    name: "torchao",
    about: "int8, unpacked intx, tile-packed int4 and float8 weights in safetensors",
    signature: "._weight_qdata, ._weight_scale [._weight_zero_point] or ._weight_scale_and_zero [._weight_act_pre_scale]",
    source: "torchao, transformers",
    methods: &["torchao"],
    claims: |module| module.tensor("_weight_qdata").is_some(),
    format: |_| READER.name,
    read: |module| Box::pin(read(module)),
};

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    const PARTS: [&str; 4] =
        ["_weight_qdata", "_weight_scale", "_weight_zero_point", "_weight_act_pre_scale"];
    let pairs = module.tensor(PAIRS);
    let numbers = if pairs.is_some() { &[PAIRS] } else { &PARTS[1..3] };
    module.only(&[&[PARTS[0], PARTS[3], "bias"], numbers].concat())?;
    let data = module.require(PARTS[0])?;
    let scale = module.require(numbers[0])?;
    let mut matrix = match module.tensor(PARTS[2]) {
        _ if pairs.is_some() => tiles(module, data, scale)?.matrix(module, &READER).await?,
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

const PAIRS: &str = "_weight_scale_and_zero";

/// Integers of four bits in tiles of 8 rows and 128 inputs.
fn tiles(module: &Module<'_>, data: &TensorInfo, pairs: &TensorInfo) -> Result<Affine> {
    let (rows, cols) = (module.rows.next_multiple_of(8), module.cols.next_multiple_of(1024));
    data.expect_shape(&[rows / 8, cols / 128, 32, 4])?;
    let groups = pairs.shape.first().copied().unwrap_or(0);
    let group = cols.checked_div(groups).unwrap_or(0);
    if !matches!(group, 32 | 64 | 128 | 256) || !module.cols.is_multiple_of(group) {
        let error = Error::unsupported("groups of torchao's int4").found(dims(&pairs.shape));
        return Err(pairs.blame(error.expected("groups of 32, 64, 128 or 256 inputs that divide the row")));
    }
    let flat = TensorInfo { shape: vec![rows / 8, cols], ..data.clone() };
    let place = |row: usize, k: usize| {
        let (lane, nibble) = (4 * row + k % 8 / 2, k % 32 / 8 + 4 * (k % 2));
        32 * (4 * lane + k / 32) + 4 * nibble
    };
    let tiling = Tiling::new(4, 8 * 128, 32, |i, bit| place(i / 128, i % 128) + bit).rows(8);
    Ok(Affine {
        codes: Ints::new(&flat, (rows, cols), tiling, false, 0)?,
        scales: Floats::new(pairs, (rows, groups), Layout::Pairs(0))?,
        zeros: Zeros::Around(8, Floats::new(pairs, (rows, groups), Layout::Pairs(1))?),
        group,
        divisor: 1,
        order: None,
    })
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
