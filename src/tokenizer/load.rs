//! Tokenizer and chat template of a checkpoint, whichever files hold them.

use super::{GgufVocab, Tokenizer};
use crate::chat::ChatTemplate;
use crate::checkpoint::gguf::Metadata;
use crate::checkpoint::{Checkpoint, TokenizerFiles};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, architecture};

impl GgufVocab {
    /// The `tokenizer.*` keys of a GGUF file.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let text = |key: &str| Ok::<_, Error>(metadata.string(key)?.map(str::to_owned));
        let id = |name: &str| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let id = metadata.unsigned(&key)?;
            id.map(|id| {
                u32::try_from(id).map_err(|_| Error::corrupt(format!("{key} out of range")).found(id))
            })
            .transpose()
        };
        let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.{name}"));
        let types = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
        let model = text("tokenizer.ggml.model")?;
        Ok(Self {
            model: model.ok_or_else(|| Error::missing("missing metadata tokenizer.ggml.model"))?,
            pre: text("tokenizer.ggml.pre")?,
            name: text("general.name")?,
            tokens: metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default().to_vec(),
            scores: metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            token_types: types.iter().map(|&t| i32::try_from(t).unwrap_or(0)).collect(),
            merges: metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            chat_template: text("tokenizer.chat_template")?,
        })
    }
}

impl Tokenizer {
    /// The tokenizer of a checkpoint, fitted to its model, and its chat template if it has one.
    pub async fn from_checkpoint(checkpoint: &Checkpoint) -> Result<(Self, Option<ChatTemplate>)> {
        let config = checkpoint.config();
        let (mut tokenizer, template) = Self::from_files(&checkpoint.tokenizer_files().await?)?;
        tokenizer.fit(config)?;
        Ok((tokenizer, template))
    }

    /// The tokenizer in `files`, not fitted to any model.
    pub fn from_files(files: &TokenizerFiles) -> Result<(Self, Option<ChatTemplate>)> {
        match files {
            TokenizerFiles::None => Err(Error::missing("missing file tokenizer.json")
                .remedy("put the tokenizer.json of the model beside its weights")),
            TokenizerFiles::Gguf(metadata) => {
                let vocab = GgufVocab::from_metadata(metadata)?;
                Ok((Self::from_gguf(&vocab)?, ChatTemplate::from_gguf(&vocab)?))
            }
            TokenizerFiles::Hf { tokenizer_json, tokenizer_config, chat_template, .. } => {
                let config = tokenizer_config.as_ref();
                let tokenizer = Self::from_json(tokenizer_json, config)?;
                let token = |key| config.and_then(|c| super::token_text(&c[key])).unwrap_or_default();
                let template = match chat_template {
                    Some(source) => Some(ChatTemplate::new(source, token("bos_token"), token("eos_token"))?),
                    None => config.map(ChatTemplate::from_config).transpose()?.flatten(),
                };
                Ok((tokenizer, template))
            }
        }
    }

    fn fit(&mut self, config: &ModelConfig) -> Result<()> {
        if let Some(bos) = config.bos {
            self.set_bos(bos, architecture(config).is_some_and(|a| a.adds_bos));
        }
        config.eos.iter().for_each(|&id| self.add_eos(id));
        self.check_vocab(config.vocab)
    }

    /// The tokenizer of a folder, a bare `tokenizer.json`, or a GGUF file, which may hold nothing else.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        use crate::checkpoint::source::{MappedFile, Source};
        use std::sync::Arc;
        let path = path.as_ref();
        let path = if path.is_dir() && path.join("tokenizer.json").is_file() {
            path.join("tokenizer.json")
        } else {
            path.to_path_buf()
        };
        if path.extension().is_some_and(|e| e == "json") {
            let bytes = std::fs::read(&path).map_err(|e| Error::io(path.display(), e))?;
            let beside = path.with_file_name("tokenizer_config.json");
            let config = match std::fs::read(&beside) {
                Ok(text) => serde_json::from_slice(&text).ok(),
                Err(_) => None,
            };
            return Self::from_json(&bytes, config.as_ref());
        }
        if path.extension().is_some_and(|e| e == "gguf") {
            let file: Arc<dyn Source> = MappedFile::open(&path)?;
            let (metadata, _) = crate::checkpoint::gguf::open(&file).await?;
            return Self::from_gguf(&GgufVocab::from_metadata(&metadata)?);
        }
        let checkpoint = Checkpoint::open(&path).await?;
        Ok(Self::from_checkpoint(&checkpoint).await?.0)
    }
}
