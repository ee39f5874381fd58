//! The registry of formats, and what a reader is shown of a checkpoint.

use super::tensor::{RowOrder, TensorInfo, Tensors};
use super::{
    BoxFuture, InputTransform, OutputTransform, PieceSource, Slice, StoredMatrix, aqlm, autoround, awq,
    bitnet, bitsandbytes, compressed_tensors, exl2, exl3, fp4, fp8, ggml, gptq, hqq, mlc, plain, qtip,
    quanto, quip, quip_for_all, spqr, torch_int, torchao, vptq,
};
use crate::error::{Error, Result};
use crate::quant::Codec;
use serde_json::Value;
use std::sync::Arc;
use tokenizers::utils::SysRegex;

/// A format: one per file of this folder.
pub struct Reader {
    /// `GPTQ`, `bitsandbytes` …
    pub name: &'static str,
    /// What of it is read, for tables and help texts.
    pub about: &'static str,
    /// The tensors of a module that it is told by.
    pub signature: &'static str,
    /// The tools that write it.
    pub source: &'static str,
    /// Values of `quantization_config.quant_method` that it answers to.
    pub methods: &'static [&'static str],
    /// Whether a module is of this format.
    pub claims: fn(&Module<'_>) -> bool,
    /// What `inspect` calls a module of it.
    pub format: fn(&Module<'_>) -> &'static str,
    /// Reads what is small and hands over the rest as a [`PieceSource`].
    pub read: for<'a> fn(&'a Module<'a>) -> BoxFuture<'a, Result<StoredMatrix>>,
}

/// All formats; the first that claims a module reads it. Error messages, the README's table and tests walk it.
pub static READERS: &[&Reader] = &[
    &gptq::READER,
    &awq::READER,
    &autoround::READER,
    &fp8::READER,
    &fp4::READER,
    &compressed_tensors::READER,
    &exl2::READER,
    &hqq::READER,
    &mlc::READER,
    &spqr::READER,
    &bitnet::READER,
    &bitsandbytes::READER,
    &torch_int::READER,
    &torchao::READER,
    &quanto::READER,
    &aqlm::READER,
    &vptq::READER,
    &quip_for_all::READER,
    &quip::READER,
    &exl3::READER,
    &qtip::READER,
    &ggml::READER,
    &plain::READER,
];

/// A linear layer or an embedding as a reader is shown it.
pub struct Module<'a> {
    /// `model.layers.0.self_attn.q_proj`
    pub name: &'a str,
    /// Output features that the configuration asks for.
    pub rows: usize,
    /// Input features that the configuration asks for.
    pub cols: usize,
    /// The modules that it consists of.
    pub slices: Vec<Slice>,
    /// All tensors of the checkpoint.
    pub tensors: &'a Tensors,
    /// `quantization_config`, or what takes its place.
    pub quantization: &'a Value,
    /// How its rows lie on disk.
    pub order: RowOrder,
}

impl<'a> Module<'a> {
    /// The tensor `name.suffix`.
    pub fn tensor(&self, suffix: &str) -> Option<&'a TensorInfo> {
        self.tensors.get(&format!("{}.{suffix}", self.name))
    }

    /// The tensor `name.suffix`, or an error that names it.
    pub fn require(&self, suffix: &str) -> Result<&'a TensorInfo> {
        self.tensors.require(&format!("{}.{suffix}", self.name))
    }

    /// The float tensor `suffix`, which has to have `len` elements.
    pub(crate) async fn vector(&self, suffix: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.require(suffix)?;
        let found: usize = tensor.shape.iter().product();
        if found != len {
            let error = Error::corrupt(format!("{suffix} length mismatch")).expected(len).found(found);
            return Err(tensor.blame(error));
        }
        tensor.floats(len, suffix).await
    }

    /// `quant_method` of the configuration.
    pub fn method(&self) -> Option<&'a str> {
        self.quantization.get("quant_method")?.as_str()
    }

    /// Whether a regular expression of a configuration matches its name from the beginning, as Python's `re.match`.
    pub(crate) fn matches(&self, pattern: &str) -> Result<bool> {
        let invalid =
            |e| Error::invalid(format!("invalid regular expression {pattern}: {e}")).file("config.json");
        let regex = SysRegex::new(&format!("^(?:{pattern})")).map_err(invalid)?;
        Ok(regex.find_iter(self.name).next().is_some())
    }

    /// The reader that claims it, or an error that says what was seen.
    pub(super) fn reader(&self) -> Result<&'static Reader> {
        if let Some(reader) = READERS.iter().find(|r| (r.claims)(self)) {
            return Ok(reader);
        }
        let prefix = self.name.len() + 1;
        let seen: Vec<String> =
            self.tensors.under(self.name).map(|t| format!("{} {}", &t.name[prefix..], t.dtype)).collect();
        if seen.is_empty() {
            return Err(Error::missing(format!("missing tensor {}.weight", self.name)));
        }
        if self.method().is_none() && self.tensor("qweight").is_some() {
            let error = Error::missing(format!("nothing says how {} is quantized", self.name));
            return Err(error.found(seen.join(", ")).remedy(NO_SETTINGS));
        }
        Err(Error::unsupported(format!("no reader knows module {}", self.name))
            .found(seen.join(", "))
            .remedy(supported()))
    }

    /// An error if it has other tensors than `suffixes` and what lies below them: ignoring one would give wrong
    /// answers.
    pub(crate) fn only(&self, suffixes: &[&str]) -> Result<()> {
        let prefix = self.name.len() + 1;
        let known = |name: &str| {
            let rest = |suffix: &&str| name.strip_prefix(*suffix);
            suffixes.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match self.tensors.under(self.name).find(|t| !known(&t.name[prefix..])) {
            None => Ok(()),
            Some(tensor) => Err(tensor.blame(
                Error::unsupported(format!("a tensor that this format has no use for ({})", tensor.dtype))
                    .expected(suffixes.join(", "))
                    .remedy(supported()),
            )),
        }
    }

    /// A matrix without transforms; the bias is read.
    pub(crate) async fn matrix(
        &self,
        reader: &Reader,
        codec: Arc<dyn Codec>,
        data: Arc<dyn PieceSource>,
    ) -> Result<StoredMatrix> {
        let bias = match self.tensor("bias") {
            None => None,
            Some(bias) => {
                if bias.shape != [1, self.rows] {
                    bias.expect_shape(&[self.rows])?;
                }
                let stored = bias.floats(self.rows, "bias").await?;
                Some((0..self.rows).map(|row| stored[self.order.stored(row)]).collect())
            }
        };
        Ok(StoredMatrix {
            name: self.name.to_string(),
            rows: self.rows,
            cols: self.cols,
            codec,
            input: InputTransform::None,
            output: OutputTransform::None,
            activations: None,
            low_rank: None,
            slices: self.slices.clone(),
            bias,
            sparse: None,
            data,
            disk_bytes: self.tensors.under(self.name).map(TensorInfo::bytes).sum(),
            format: (reader.format)(self),
        })
    }
}

/// What to do about a layer whose settings are not told, as in OmniQuant's exports.
const NO_SETTINGS: &str = "add a quantization_config to config.json, or a file quantize_config.json beside it, such as \
    {\"bits\": 4, \"group_size\": 128, \"checkpoint_format\": \"gptq\"} for GPTQ's layout (OmniQuant's exports)";

/// `halfbyte reads GPTQ (2, 3 …), …`
pub(super) fn supported() -> String {
    let all: Vec<String> = READERS.iter().map(|r| format!("{} ({})", r.name, r.about)).collect();
    format!("halfbyte reads {}", all.join("; "))
}
