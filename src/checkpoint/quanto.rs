//! Quanto, as optimum-quanto saves its tensors (`QuantizedModelForCausalLM`).
//!
//! For a layer `[N, K]`:
//!
//! * `qint8`: `M.weight._data` i8 `[N, K]`, `M.weight._scale` `[N, 1]`: `w = q · scale`; `qfloat8`: the same with FP8 codes.
//! * `qint4`, `qint2`, in groups of g inputs, R = N·K/g: `M.weight._data._data` u8 `[⌈R·b/8⌉, g]`, the groups in 8/b slices, the
//!   first in the lowest bits; `M.weight._scale`, `M.weight._shift` f16, bf16 or f32 `[R, 1]`: `w = q · scale − shift`; a
//!   `_shift` of u8 or i8 is a zero point: `w = (q − shift) · scale`.
//! * `M.input_scale`, `M.output_scale`: scales of quantized activations, which are not needed for the weights.
//! * `M.bias` `[N]`, optional.

use super::affine::{Affine, Floats, Layout, Zeros};
use super::hqq::Groups;
use super::ints::Ints;
use super::tensor::{Dtype, Slices};
use super::{Module, Reader, StoredMatrix, fp8};
use crate::error::{Error, Result};
use crate::quant::WHOLE_ROW;
use crate::quant::int::{Int, Offset};
use std::sync::Arc;

/// Quanto.
pub static READER: Reader = Reader {
    name: "Quanto",
    about: "qint8, qint4, qint2 and qfloat8 weights",
    signature: ".weight._data or .weight._data._data, .weight._scale [.weight._shift]",
    source: "optimum-quanto",
    methods: &["quanto"],
    claims: |module| module.tensor(BYTES).is_some() || module.tensor(PACKED).is_some(),
    format: |module| match module.tensor(BYTES) {
        None => "Quanto qint4/qint2",
        Some(data) if data.dtype.float8().is_some() => "Quanto qfloat8",
        Some(_) => "Quanto qint8",
    },
    read: |module| Box::pin(read(module)),
};

const BYTES: &str = "weight._data";
const PACKED: &str = "weight._data._data";

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    module.only(&[BYTES, "weight._scale", "weight._shift", "input_scale", "output_scale", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    let scale = module.require("weight._scale")?;
    let Some(data) = module.tensor(BYTES) else { return packed(module).await };
    if data.dtype.float8().is_some() {
        return fp8::scaled(module, &READER, data, scale, (1, cols)).await;
    }
    let layout = if scale.shape.iter().product::<usize>() == 1 { Layout::One } else { Layout::Rows };
    let layer = Affine {
        codes: Ints::signed(data, (rows, cols))?,
        scales: Floats::new(scale, (rows, 1), layout)?,
        zeros: Zeros::Same(128),
        group: cols,
        divisor: 1,
        order: None,
    };
    layer.matrix(module, &READER).await
}

/// Four or two bits: which, and in what groups, is told by the sizes of the tensors.
async fn packed(module: &Module<'_>) -> Result<StoredMatrix> {
    let (rows, cols) = (module.rows, module.cols);
    let (scale, shift, data) =
        (module.require("weight._scale")?, module.require("weight._shift")?, module.require(PACKED)?);
    let groups: usize = scale.shape.iter().product();
    if groups == 0 || !groups.is_multiple_of(rows) || !cols.is_multiple_of(groups / rows) {
        let error = Error::corrupt(format!("shape mismatch for {}", scale.name));
        return Err(error.file(scale.source.name()).expected(format!("groups of {rows} rows")).found(groups));
    }
    let group = cols / (groups / rows);
    scale.expect_shape(&[groups, 1])?;
    let kind = scale.expect_float()?;
    let integers = shift.dtype.integer_bits() == Some(8);
    if shift.dtype != scale.dtype && !integers {
        let error = Error::unsupported(format!("shifts in {} of Quanto", shift.dtype));
        let wanted = format!("real numbers in {}, as the scales, or integers of 8 bits", scale.dtype);
        return Err(shift.blame(error.expected(wanted)));
    }
    shift.expect_shape(&[groups, 1])?;
    if data.dtype != Dtype::U8 {
        return Err(data.blame(Error::corrupt("_data must be U8").found(data.dtype)));
    }
    let lines = data.shape.first().copied().unwrap_or(0);
    let bits = [4, 2].into_iter().find(|bits| groups.div_ceil(8 / bits) == lines);
    let Some(bits) = bits else {
        let wanted = format!("{} or {} lines", groups.div_ceil(2), groups.div_ceil(4));
        return Err(data.blame(Error::corrupt("codes of Quanto").expected(wanted).found(lines)));
    };
    data.expect_shape(&[lines, group])?;
    let run = if group == cols { WHOLE_ROW } else { group };
    let offset = if integers { Offset::Zero } else { Offset::Min };
    let codec = Int::new(bits as u32, run, kind, offset).map_err(|e| e.tensor(module.name))?;
    let (count, step) = (8 / bits, lines * group);
    let codes = Slices { tensor: data.clone(), word: 1, bits, count, step, high_first: false };
    let (scale, zero) = (scale.clone(), shift.clone());
    let layer = Groups { codes, scale, zero, negated: !integers, codec: codec.clone(), rows, cols, group };
    module.matrix(&READER, codec, Arc::new(layer)).await
}
