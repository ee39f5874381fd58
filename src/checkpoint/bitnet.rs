//! BitNet b1.58 (Ma et al. 2024): ternary weights, as transformers packs them.
//!
//! For a layer `[N, K]`:
//!
//! * `M.weight` u8 `[N/4, K]`: row n is in bits 2i, 2i + 1 of packed row n − i·N/4, i = ⌊n / (N/4)⌋; codes 0, 1, 2 are
//!   −1, 0, 1.
//! * `M.weight_scale` f16, bf16 or f32 `[1]`
//!
//! `w = (q − 1) / weight_scale` (`linear_class` bitlinear), or `(q − 1) · weight_scale` (autobitlinear). Where that is asked
//! for, activations are rounded to int8 as in training, `q = round(x · 127 / max(max|x|, 1e-5))` of a token.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, Slices};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::activations::{ActivationScale, Activations};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Kind, Piece, WHOLE_ROW};
use std::sync::Arc;

/// BitNet b1.58.
pub static READER: Reader = Reader {
    name: "BitNet",
    about: "b1.58, packed offline",
    signature: ".weight .weight_scale",
    source: "transformers",
    methods: &["bitnet"],
    claims: |module| module.method() == Some("bitnet") && (packed(module) || online(module)),
    format: |_| "BitNet b1.58",
    read: |module| Box::pin(read(module)),
};

fn packed(module: &Module<'_>) -> bool {
    module.tensor("weight").is_some_and(|weight| weight.dtype == Dtype::U8)
}

/// Whether a layer is stored as it was trained, to be made ternary by whoever loads it.
fn online(module: &Module<'_>) -> bool {
    let online = module.quantization.get("quantization_mode").is_some_and(|mode| mode == "online");
    online && module.name.contains(".layers.")
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let keys = Keys::new(module.quantization, "config.json");
    let unsupported = |what: String, expected: &str| {
        Err(Error::unsupported(format!("{what} of BitNet")).file("config.json").expected(expected))
    };
    if !packed(module) {
        return unsupported("quantization_mode online".into(), "offline: packed ternary weights");
    }
    if keys.flag("use_rms_norm")? {
        return unsupported("use_rms_norm, a norm in every layer".into(), "false");
    }
    let inverse = match keys.text("linear_class")?.unwrap_or("bitlinear") {
        "bitlinear" => true,
        "autobitlinear" => false,
        class => return unsupported(format!("linear_class {class}"), "bitlinear or autobitlinear"),
    };
    module.only(&["weight", "weight_scale", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    if !rows.is_multiple_of(4) {
        let error = Error::unsupported(format!("a BitNet layer of {rows} outputs")).tensor(module.name);
        return Err(error.expected("a multiple of 4"));
    }
    let weight = module.require("weight")?;
    weight.expect_shape(&[rows / 4, cols])?;
    let tensor = module.require("weight_scale")?;
    let stored = tensor.floats(1, "weight_scale").await?[0];
    let scale = if inverse { (1.0 / f64::from(stored)) as f32 } else { stored };
    if !scale.is_finite() {
        return Err(tensor.blame(Error::corrupt("weight_scale must not be zero").found(stored)));
    }
    let codec = Int::new(2, WHOLE_ROW, Kind::F32, Offset::Symmetric(1))?;
    let tensor = weight.clone();
    let codes = Slices { tensor, word: 1, bits: 2, count: 4, step: rows / 4 * cols, high_first: false };
    let data = Ternary { codes, scale, codec: codec.clone(), rows, cols };
    let matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    let scale = ActivationScale::Dynamic { top: 127.0, floor: 1e-5 };
    Ok(StoredMatrix { activations: Some(Activations { scale, ..Activations::int8(127.0) }), ..matrix })
}

/// A layer on disk.
struct Ternary {
    codes: Slices,
    scale: f32,
    codec: Arc<Int>,
    rows: usize,
    cols: usize,
}

impl PieceSource for Ternary {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let codes = self.codes.read(self.cols, extent).await?;
            if codes.contains(&3) {
                let error = Error::corrupt("a ternary code out of range").expected("0, 1 or 2").found(3);
                return Err(self.codes.tensor.blame(error));
            }
            let scales = vec![self.scale.to_bits(); extent.rows.len()];
            Ok(Piece { extent: extent.clone(), items: vec![codes, scales] })
        })
    }
}
