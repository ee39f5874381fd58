//! Text to token ids and back.
//!
//! [`Tokenizer`] has two sources: a `tokenizer.json`, which the `tokenizers` crate runs, and the vocabulary inside
//! a GGUF file, which is run as llama.cpp runs it. Decoding is one table of bytes for both.

mod gguf;
mod json;
mod load;
mod pieces;
mod pre;

pub use gguf::GgufVocab;
pub(crate) use json::token_text;
pub use pieces::Decoder;

use crate::error::{Error, Result};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Turns text into token ids and token ids into text.
pub struct Tokenizer {
    model: Model,
    pieces: Arc<pieces::Pieces>,
    bos: Option<u32>,
    eos: Vec<u32>,
    add_bos: Add,
    add_eos: Add,
    /// One past the largest id of the vocabulary proper, without added tokens.
    base_len: usize,
    /// Ids from here on are unknown to the model.
    limit: usize,
}

/// What finds the tokens.
enum Model {
    Json(Mutex<tokenizers::Tokenizer>),
    Spm(gguf::SpecialTokens, gguf::Spm),
    Bpe(gguf::SpecialTokens, Mutex<tokenizers::Tokenizer>),
}

/// What is done about BOS at the beginning or EOS at the end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Add {
    /// Nothing.
    Never,
    /// It is put there, unless it is there.
    Always,
    /// It is taken away: the post-processor puts it there against the configuration.
    Undo,
    /// Nothing: no configuration speaks, and the post-processor of `tokenizer.json` has done its part.
    Unsaid,
}

impl From<bool> for Add {
    fn from(add: bool) -> Self {
        if add { Add::Always } else { Add::Never }
    }
}

/// What becomes of special tokens when text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Specials {
    /// `<s>` in the text is three characters.
    AsText,
    /// `<s>` in the text is the token.
    Parsed,
    /// And the model's BOS and EOS are put around the text.
    Added,
}

/// Texts of tokens that end a turn or a document, whatever else the model's configuration says.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

impl Tokenizer {
    /// The ids of `text`.
    ///
    /// With `special`, the tokens that the model wants around a text (BOS, EOS) are added, and the text of a
    /// special token stands for that token. Without, `<s>` is just three characters, so that untrusted text
    /// cannot steer the model.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.encode_with(text, if special { Specials::Added } else { Specials::AsText })
    }

    /// The ids of what a [chat template](crate::chat::ChatTemplate) rendered: special-token text stands for the
    /// tokens, and nothing is added, because the template has written BOS itself where the model wants it.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, Specials::Parsed)
    }

    fn encode_with(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let add = specials == Specials::Added;
        let mut ids = match &self.model {
            Model::Json(tokenizer) => {
                let as_text = specials == Specials::AsText;
                run(tokenizer, text, add, |tokenizer| tokenizer.set_encode_special_tokens(as_text))?
            }
            Model::Spm(special, spm) => spm.encode(special, text, specials != Specials::AsText)?,
            Model::Bpe(special, bpe) => gguf::encode_bpe(special, bpe, text, specials)?,
        };
        if add {
            self.frame(&mut ids);
        }
        match ids.iter().find(|&&id| id as usize >= self.limit) {
            None => Ok(ids),
            Some(&id) => Err(Error::invalid(format!("token {:?} is unknown to the model", self.piece(id)))
                .expected(format!("an id below {}", self.limit))
                .found(id)
                .remedy("leave it out of the prompt, or use the tokenizer that belongs to the model")),
        }
    }

    /// Puts BOS and EOS around the ids or takes them away; a BOS that the text has itself is not doubled.
    fn frame(&self, ids: &mut Vec<u32>) {
        let begins = |ids: &[u32]| self.bos.is_some() && ids.first().copied() == self.bos;
        let doubled = begins(ids) && ids.get(1).copied() == self.bos;
        match (self.add_bos, self.bos) {
            (Add::Always, Some(bos)) if !begins(ids) => ids.insert(0, bos),
            (Add::Always | Add::Unsaid, _) if doubled => _ = ids.remove(0),
            (Add::Undo, _) if begins(ids) => _ = ids.remove(0),
            _ => {}
        }
        let ends = |ids: &[u32]| !ids.is_empty() && ids.last() == self.eos.first();
        match (self.add_eos, self.eos.first()) {
            (Add::Always, Some(&eos)) if !ends(ids) => ids.push(eos),
            (Add::Undo, _) if ends(ids) => _ = ids.pop(),
            _ => {}
        }
    }

    /// The text of `ids`. Control tokens (BOS, end of turn …) are left out, ids that no token has are ignored,
    /// bytes that are no UTF-8 become U+FFFD, and the space that SentencePiece puts before a text is taken off.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text += &decoder.flush();
        text
    }

    /// A decoder for a new text.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(Arc::clone(&self.pieces))
    }

    /// A decoder for what follows `ids`: a leading space is kept, a character begun in `ids` is completed.
    pub fn decoder_after(&self, ids: &[u32]) -> Decoder {
        let mut decoder = self.decoder();
        for &id in ids {
            decoder.push(id);
        }
        decoder
    }

    /// How to show a single token: control tokens by their name, half a character as `<0xNN>`.
    pub fn piece(&self, id: u32) -> String {
        self.pieces.display(id)
    }

    /// One past the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Tokens at which generation ends; the first is the one that the tokenizer itself names.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Adds a token at which generation ends (`eos_token_id` of `config.json` or `generation_config.json`).
    pub fn add_eos(&mut self, id: u32) {
        if !self.eos.contains(&id) {
            self.eos.push(id);
        }
    }

    /// Names the token that begins a text (`bos_token_id` of `config.json`), unless the tokenizer knows it.
    ///
    /// With `add` it is also put before every text, unless `tokenizer_config.json` or the post-processor of
    /// `tokenizer.json` have their say. That is the rule of the Llama family (Llama, Mistral, Gemma); GPT-2 and
    /// Qwen want none.
    pub fn set_bos(&mut self, id: u32, add: bool) {
        self.bos.get_or_insert(id);
        if add && self.add_bos == Add::Unsaid && self.encode("", true).is_ok_and(|ids| ids.is_empty()) {
            self.add_bos = Add::Always;
        }
    }

    /// Fits the tokenizer to a model with `model_vocab` embeddings.
    ///
    /// The vocabulary must not be larger. Added tokens may lie beyond it, as some checkpoints have it; they
    /// become an error when a text uses them.
    pub fn check_vocab(&mut self, model_vocab: usize) -> Result<()> {
        if self.base_len > model_vocab {
            let error = Error::corrupt("token id out of range of the model vocabulary");
            let error =
                if matches!(self.model, Model::Json(_)) { error.file("tokenizer.json") } else { error };
            return Err(error
                .expected(format!("at most {model_vocab} tokens, the model's vocab_size"))
                .found(format!("{} ({:?} is the last)", self.base_len, self.piece(self.base_len as u32 - 1)))
                .remedy("use the tokenizer that belongs to the model"));
        }
        self.limit = model_vocab.min(self.pieces.len());
        self.eos.retain(|&id| (id as usize) < model_vocab);
        self.bos = self.bos.filter(|&id| (id as usize) < model_vocab);
        Ok(())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match self.model {
            Model::Json(_) => "tokenizer.json",
            Model::Spm(..) => "GGUF SentencePiece",
            Model::Bpe(..) => "GGUF byte-level BPE",
        };
        f.debug_struct("Tokenizer")
            .field("source", &source)
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// Runs the `tokenizers` crate on a text.
fn run(
    tokenizer: &Mutex<tokenizers::Tokenizer>,
    text: &str,
    add: bool,
    set: impl FnOnce(&mut tokenizers::Tokenizer),
) -> Result<Vec<u32>> {
    let mut tokenizer = tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
    set(&mut tokenizer);
    match guarded(|| tokenizer.encode_fast(text, add))? {
        Ok(encoding) => Ok(encoding.get_ids().to_vec()),
        Err(e) => Err(Error::invalid("the tokenizer cannot encode the text").found(e)),
    }
}

/// Calls into the `tokenizers` crate, which panics on some damaged files, and makes that an error.
/// (Where panics abort, as in wasm, the checks on the JSON are the only guard.)
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|_| {
        Error::corrupt("the tokenizers library gave up on it")
            .file("tokenizer.json")
            .remedy("download the file again")
    })
}

/// Each id once; and `<|end|>` ends nothing where `<|return|>` and `<|call|>` do (gpt-oss: it ends a message).
fn tidy_eos(eos: &mut Vec<u32>, id_of: impl Fn(&str) -> Option<u32>) {
    let mut seen = std::collections::HashSet::new();
    eos.retain(|id| seen.insert(*id));
    if let (Some(end), Some(_), Some(_)) = (id_of("<|end|>"), id_of("<|return|>"), id_of("<|call|>")) {
        eos.retain(|&id| id != end);
    }
}

/// Both halves of a merge and their union must be tokens. The second half loses `prefix` bytes in the union.
fn check_merge(a: &str, b: &str, prefix: usize, known: impl Fn(&str) -> bool) -> Result<()> {
    let unknown = |token: &str| {
        Err(Error::corrupt(format!("merge ({a}, {b}): token not in vocabulary")).found(format!("{token:?}")))
    };
    if let Some(half) = [a, b].into_iter().find(|half| !known(half)) {
        return unknown(half);
    }
    let Some(rest) = b.get(prefix..) else { return unknown("") };
    let union = format!("{a}{rest}");
    if known(&union) { Ok(()) } else { unknown(&union) }
}

fn unknown_text(part: &str) -> Error {
    Error::invalid(format!("the vocabulary has no token for {part:?}"))
        .remedy("leave it out of the prompt: this tokenizer has neither byte tokens nor an unknown token")
}

/// `<0x0A>` as the byte 10.
fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// GPT-2 writes each byte as one printable character: itself where that is printable, else U+0100 and up.
fn from_byte_level(text: &str) -> Vec<u8> {
    static TABLE: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
        let mut table = [None; 0x144];
        let mut shifted = 0x100;
        for byte in 0..=255u8 {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let at = if printable { usize::from(byte) } else { shifted };
            shifted += usize::from(!printable);
            table[at] = Some(byte);
        }
        table
    });
    let bytes: Option<Vec<u8>> = text.chars().map(|c| TABLE.get(c as usize).copied().flatten()).collect();
    bytes.unwrap_or_else(|| text.as_bytes().to_vec())
}
