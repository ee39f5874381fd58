//! HQQ (Badri and Shaji 2023) as hqq and transformers save it.
//!
//! For a layer `[N, K]`, b = 1, 2, 3, 4 or 8 bits and groups of g inputs (`axis` 1), R = N·K/g groups:
//!
//! * `M.W_q` u8 `[R·b/8, g]`, or i32 `[⌈R/10⌉, g]` for 3 bits: the groups are cut into as many slices as a word has
//!   codes; the first slice is in the highest bits.
//! * `M.scale`, `M.zero` f16, bf16 or f32 `[R, 1]`; zero points are real numbers.
//! * scalars `M.nbits`, `M.group_size`, `M.axis` i32, `M.quant_scale`, `M.quant_zero` u8, `M.shape` i64 `[2]` and more,
//!   which hqq encodes its settings in. Where they are absent, `quant_config` of the configuration tells.
//!
//! `w = (q − zero) · scale`. 5 and 6 bits are stored in bytes.

use super::hf::Keys;
use super::tensor::{Grid, Slices, TensorInfo, dims, words32, words64};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Piece, WHOLE_ROW};
use serde_json::Value;
use std::sync::Arc;

/// HQQ.
pub static READER: Reader = Reader {
    name: "HQQ",
    about: "1, 2, 3, 4 and 8 bits with real zero points, axis 1",
    signature: ".W_q .scale .zero",
    source: "hqq, transformers",
    methods: &["hqq"],
    claims: |module| module.tensor("W_q").is_some(),
    format: |_| "HQQ",
    read: |module| Box::pin(read(module)),
};

/// Tensors that hold settings of hqq, not weights.
const SETTINGS: &[&str] = &[
    "nbits",
    "group_size",
    "axis",
    "shape",
    "packing",
    "channel_wise",
    "compute_dtype",
    "encoded_state_dict",
    "offload_meta",
    "optimize",
    "quant_scale",
    "quant_zero",
    "round_zero",
    "stores_quant_config",
    "unpack_view_dtype",
    "view_as_float",
];

/// The settings of one module: its own tensors, or what the configuration says for all of them.
struct Settings<'a> {
    module: &'a Module<'a>,
    weights: Keys<'a>,
}

impl<'a> Settings<'a> {
    fn new(module: &'a Module<'a>) -> Self {
        let config = module.quantization.get("quant_config").unwrap_or(&Value::Null);
        let weights = config.get("weight_quant_params").unwrap_or(&Value::Null);
        Self { module, weights: Keys::new(weights, "config.json") }
    }

    /// The number that tensor `name` holds, a byte or an i32.
    async fn scalar(&self, name: &str) -> Result<Option<usize>> {
        let Some(tensor) = self.module.tensor(name) else { return Ok(None) };
        let bytes = match tensor.bytes() {
            1 | 4 => tensor.read_all().await?,
            found => {
                let error = Error::corrupt(format!("{name} must be one number"));
                return Err(tensor.blame(error.expected("1 or 4 bytes").found(found)));
            }
        };
        Ok(Some(words32(&bytes).next().unwrap_or(u32::from(bytes[0])) as usize))
    }

    async fn size(&self, name: &str) -> Result<Option<usize>> {
        match self.scalar(name).await? {
            Some(number) => Ok(Some(number)),
            None => self.weights.size(name),
        }
    }
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let unsupported = |what: String, expected: &str| {
        Err(Error::unsupported(format!("{what} of HQQ")).tensor(module.name).expected(expected))
    };
    for name in ["scale_q", "zero_q", "meta_scale", "meta_zero"] {
        if module.tensors.under(module.name).any(|t| t.name[module.name.len() + 1..].starts_with(name)) {
            return unsupported(format!("{name}, quantized scales or zero points"), "plain ones");
        }
    }
    let settings = Settings::new(module);
    for name in ["quant_scale", "quant_zero"] {
        if settings.scalar(name).await?.is_some_and(|on| on != 0) {
            return unsupported(format!("{name}, quantized scales or zero points"), "plain ones");
        }
    }
    module.only(&[&["W_q", "scale", "zero", "bias"], SETTINGS].concat())?;
    let (rows, cols) = (module.rows, module.cols);
    if let Some(axis) = settings.size("axis").await?.filter(|&axis| axis != 1) {
        return unsupported(format!("axis {axis}"), "axis 1: groups along the inputs");
    }
    if let Some(shape) = module.tensor("shape").filter(|t| t.bytes() == 16) {
        let found: Vec<usize> = words64(&shape.read_all().await?).map(|d| d as usize).collect();
        if found != [rows, cols] {
            let error = Error::corrupt(format!("shape mismatch for {}.W_q", module.name));
            return Err(error.file(shape.source.name()).expected(dims(&[rows, cols])).found(dims(&found)));
        }
    }
    let missing = || Error::missing("missing nbits of HQQ").tensor(module.name);
    let nbits = settings.size("nbits").await?.ok_or_else(missing)?;
    let (bits, word, count) = match nbits {
        1 | 2 | 4 | 8 => (nbits, 1, 8 / nbits),
        3 => (3, 4, 10),
        5 | 6 => (8, 1, 1),
        _ => return unsupported(format!("nbits {nbits}"), "1, 2, 3, 4, 5, 6 or 8"),
    };
    let group = settings.size("group_size").await?.unwrap_or(cols);
    if group == 0 || !cols.is_multiple_of(group) {
        return unsupported(format!("group_size {group}"), "groups that divide the row");
    }
    let groups = rows * (cols / group);
    if nbits != 3 && !groups.is_multiple_of(count) {
        return unsupported(format!("{groups} groups"), "groups that fill the slices");
    }
    let step = groups.div_ceil(count) * group;
    let codes = sized(module, "W_q", (step * word) as u64)?;
    let scale = module.require("scale")?;
    let kind = scale.expect_float()?;
    let zero = module.require("zero")?;
    if zero.dtype != scale.dtype {
        return unsupported(
            format!("zero points in {} beside scales in {}", zero.dtype, scale.dtype),
            "one dtype",
        );
    }
    for suffix in ["scale", "zero"] {
        sized(module, suffix, (groups * kind.bits() as usize / 8) as u64)?;
    }
    let run = if group == cols { WHOLE_ROW } else { group };
    let codec = Int::new(bits as u32, run, kind, Offset::RealZero).map_err(|e| e.tensor(module.name))?;
    let codes = Slices { tensor: codes.clone(), word, bits, count, step, high_first: true };
    let (scale, zero) = (scale.clone(), zero.clone());
    let data = Groups { codes, scale, zero, negated: false, codec: codec.clone(), rows, cols, group };
    module.matrix(&READER, codec, Arc::new(data)).await
}

/// The tensor `suffix`, which has to have `bytes` bytes: its dtype depends on `view_as_float`.
fn sized<'a>(module: &Module<'a>, suffix: &str, bytes: u64) -> Result<&'a TensorInfo> {
    let tensor = module.require(suffix)?;
    if tensor.bytes() == bytes {
        return Ok(tensor);
    }
    let error = Error::corrupt(format!("{suffix} length mismatch")).expected(format!("{bytes} bytes"));
    Err(tensor.blame(error.found(tensor.bytes())))
}

/// A layer on disk: slices of codes, and for every group two real numbers; or one, and a zero point in a byte.
pub(super) struct Groups {
    pub(super) codes: Slices,
    pub(super) scale: TensorInfo,
    pub(super) zero: TensorInfo,
    /// `zero` is stored with the other sign.
    pub(super) negated: bool,
    pub(super) codec: Arc<Int>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) group: usize,
}

impl Groups {
    /// Zero points, which must be codes.
    fn zero_points(&self, bytes: &[u8]) -> Result<Vec<u32>> {
        let most = u32::MAX >> (32 - self.codes.bits);
        match bytes.iter().find(|&&zero| u32::from(zero) > most) {
            None => Ok(bytes.iter().map(|&zero| u32::from(zero)).collect()),
            Some(zero) => {
                let error = Error::corrupt("zero point out of range").expected(format!("at most {most}"));
                Err(self.zero.blame(error.found(zero)))
            }
        }
    }
}

impl PieceSource for Groups {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let mut items = vec![self.codes.read(self.cols, extent).await?];
            for (tensor, what) in [(&self.scale, "scale"), (&self.zero, "zero point")] {
                let integers = tensor.dtype.integer_bits() == Some(8); // zero points of Quanto
                let size = if integers { 1 } else { tensor.expect_float()?.bits() as usize / 8 };
                let part = extent.cols.start / self.group * size..extent.cols.end.div_ceil(self.group) * size;
                let bytes =
                    tensor.read_rows(self.cols / self.group * size, extent.rows.clone(), part).await?;
                items.push(match integers {
                    true => self.zero_points(&bytes)?,
                    false => tensor.float_items(&bytes, what)?,
                });
            }
            if self.negated {
                let sign = 1 << (self.zero.expect_float()?.bits() - 1);
                items[2].iter_mut().for_each(|item| *item ^= sign);
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}
