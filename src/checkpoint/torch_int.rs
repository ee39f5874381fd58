//! The first checkpoints of SmoothQuant (Xiao et al. 2022), whose linear layers are torch-int's `W8A8…Linear`:
//!
//! * `M.weight` i8 `[N, K]`, one scale for all: `M.a` f32, a scalar
//! * `M.bias` f32 `[1, N]`
//!
//! `y = a · W x + bias`; x is what the norm before gives, in units of the activations' step: it is rounded only where native activations are asked for.
//! Layers with int8 outputs (`W8A8B8O8Linear`, told by `M.b`) hand their scales on to attention: they are refused.

use super::affine::{Affine, Floats, Layout, Zeros};
use super::ints::Ints;
use super::{Dtype, Module, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::activations::{ActivationScale, Activations};

/// torch-int.
pub static READER: Reader = Reader {
    name: "torch-int",
    about: "int8 layers of SmoothQuant with float outputs",
    signature: ".weight (I8) .a [.bias]",
    source: "torch-int, smoothquant",
    methods: &[],
    claims: |module| {
        let signed = |weight: &super::TensorInfo| matches!(weight.dtype, Dtype::Other { name: "I8", .. });
        module.tensor("a").is_some() && module.tensor("weight").is_some_and(signed)
    },
    format: |_| "torch-int W8",
    read: |module| Box::pin(read(module)),
};

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    if let Some(b) = module.tensor("b") {
        let error =
            Error::unsupported("a layer with int8 outputs of torch-int").expected("float outputs (no .b)");
        return Err(b.blame(error.remedy("quantize the model anew, as compressed-tensors W8A8")));
    }
    module.only(&["weight", "bias", "a"])?;
    let (rows, cols) = (module.rows, module.cols);
    let layer = Affine {
        codes: Ints::signed(module.require("weight")?, (rows, cols))?,
        scales: Floats::new(module.require("a")?, (rows, 1), Layout::One)?,
        zeros: Zeros::Same(128),
        group: cols,
        divisor: 1,
        order: None,
    };
    let mut matrix = layer.matrix(module, &READER).await?;
    matrix.activations =
        Some(Activations { scale: ActivationScale::Static(1.0), ..Activations::int8(127.0) });
    Ok(matrix)
}
