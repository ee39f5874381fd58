//! The registry of formats, and what a reader is shown of a checkpoint.

use super::tensor::{RowOrder, TensorInfo, Tensors};
use super::{
    BoxFuture, InputTransform, OutputTransform, PieceSource, Slice, StoredMatrix, bitsandbytes,
    compressed_tensors, ggml, gptq, hqq, mlc, plain, quip,
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
    &compressed_tensors::READER,
    &hqq::READER,
    &mlc::READER,
    &bitsandbytes::READER,
    &quip::READER,
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
                bias.expect_shape(&[self.rows])?;
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
            slices: self.slices.clone(),
            bias,
            data,
            disk_bytes: self.tensors.under(self.name).map(TensorInfo::bytes).sum(),
            format: (reader.format)(self),
        })
    }
}

/// `halfbyte reads GPTQ (2, 3 …), …`
pub(super) fn supported() -> String {
    let all: Vec<String> = READERS.iter().map(|r| format!("{} ({})", r.name, r.about)).collect();
    format!("halfbyte reads {}", all.join("; "))
}
