//! `tokenizer.json`, read with the `tokenizers` crate.
//!
//! That crate trusts its file. Everything that could make it panic, build a table of gigabytes or answer with
//! an obscure message is checked on the plain JSON first.

use super::pieces::{Kind, Pieces};
use super::{Add, END_OF_GENERATION, Model, Tokenizer};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokenizers::normalizers::Precompiled;

/// No vocabulary is larger; ids beyond it are damage, and a table by id would fill the memory.
const MAX_ID: u64 = 1 << 22;

impl Tokenizer {
    /// Reads `tokenizer.json`, and from `tokenizer_config.json`, if there is one, which tokens begin and end a text.
    ///
    /// Follow it with [`Tokenizer::check_vocab`], and with [`Tokenizer::add_eos`] for `eos_token_id` of
    /// `config.json` and `generation_config.json`.
    pub fn from_json(bytes: &[u8], config: Option<&Value>) -> Result<Self> {
        read(bytes, config).map_err(|e| e.file("tokenizer.json"))
    }
}

fn read(bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer> {
    let mut json: Value = serde_json::from_slice(bytes).map_err(|e| {
        Error::corrupt("not valid JSON").found(e).remedy("download the file again: it may be cut short")
    })?;
    if !json.is_object() {
        return Err(Error::corrupt("wrong kind of JSON")
            .expected("an object with a model")
            .found(kind(&json)));
    }
    let base_len = check_model(&json["model"])?;
    check_added(&json["added_tokens"])?;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        check_patterns(part, &json[part])?;
    }
    // A prompt is neither cut, padded nor encoded at random.
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    json["model"]["dropout"] = Value::Null;
    let decoder = Decoding::new(&json["decoder"])?;

    let tokenizer: tokenizers::Tokenizer = super::guarded(|| serde_json::from_value(json))?
        .map_err(|e| Error::corrupt("the tokenizers library refuses it").found(e))?;

    let vocab = tokenizer.get_vocab(true);
    let added = tokenizer.get_added_tokens_decoder();
    let mut texts: Vec<Option<&str>> = Vec::new();
    for (text, &id) in &vocab {
        let id = id as usize;
        if id as u64 >= MAX_ID {
            return Err(id_too_large(text, id as u64));
        }
        if texts.len() <= id {
            texts.resize(id + 1, None);
        }
        texts[id] = Some(text);
    }
    let mut pieces = Pieces::default();
    pieces.strip = decoder.strip;
    for (id, text) in texts.iter().enumerate() {
        match (text, added.get(&(id as u32))) {
            (_, Some(token)) if token.special => pieces.push(Kind::Control, token.content.as_bytes()),
            (_, Some(token)) => pieces.push(Kind::Text, &decoder.bytes(&token.content)),
            (Some(text), None) => pieces.push(Kind::Text, &decoder.bytes(text)),
            (None, None) => pieces.push(Kind::Absent, &[]),
        }
    }

    let id_of = |text: &str| vocab.get(text).copied();
    let named = |key: &str| config.and_then(|config| token_text(&config[key])).and_then(id_of);
    let flag = |key: &str| config.and_then(|config| config[key].as_bool());
    let mut eos: Vec<u32> = named("eos_token").into_iter().collect();
    eos.extend(END_OF_GENERATION.iter().filter_map(|text| {
        let id = id_of(text)?;
        added.get(&id).is_some_and(|token| token.special).then_some(id)
    }));
    super::tidy_eos(&mut eos, id_of);
    let limit = pieces.len();
    let mut tokenizer = Tokenizer {
        model: Model::Json(Mutex::new(tokenizer)),
        pieces: Arc::new(pieces),
        bos: named("bos_token"),
        eos,
        add_bos: Add::Unsaid,
        add_eos: Add::Unsaid,
        base_len,
        limit,
    };
    // What the post-processor adds shows on an empty text; it may name ids that no token has.
    let frame = tokenizer.encode("", true).map_err(|e| {
        Error::corrupt("post_processor").expected("special tokens of the vocabulary").found(e)
    })?;
    let first = frame.first().copied().filter(|id| !tokenizer.eos.contains(id));
    tokenizer.bos = tokenizer.bos.or(first);
    let decide = |configured: Option<bool>, present: bool| match configured {
        Some(true) => Add::Always,
        Some(false) if present => Add::Undo,
        Some(false) => Add::Never,
        None => Add::Unsaid,
    };
    let begins = !frame.is_empty() && frame.first().copied() == tokenizer.bos;
    let ends = !frame.is_empty() && frame.last() == tokenizer.eos.first();
    tokenizer.add_bos = decide(flag("add_bos_token"), begins);
    tokenizer.add_eos = decide(flag("add_eos_token"), ends);
    Ok(tokenizer)
}

fn kind(json: &Value) -> &'static str {
    match json {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// `"<s>"` or `{"content": "<s>", …}`.
pub(crate) fn token_text(json: &Value) -> Option<&str> {
    json.as_str().or_else(|| json["content"].as_str())
}

fn id_too_large(token: &str, id: u64) -> Error {
    Error::corrupt(format!("token {token:?}: token id out of range of the model vocabulary"))
        .expected(format!("an id below {MAX_ID}"))
        .found(id)
}

fn id_of(token: &str, id: &Value) -> Result<u64> {
    let number = id.as_u64().ok_or_else(|| {
        Error::corrupt(format!("token {token:?}: its id")).expected("a whole number").found(id)
    })?;
    if number < MAX_ID { Ok(number) } else { Err(id_too_large(token, number)) }
}

/// Checks vocabulary and merges; one past the largest id of the vocabulary without added tokens.
fn check_model(model: &Value) -> Result<usize> {
    if !model.is_object() {
        return Err(Error::corrupt("model").expected("an object with a vocabulary").found(kind(model)));
    }
    let mut len = 0;
    let vocab = match &model["vocab"] {
        Value::Object(vocab) => vocab,
        Value::Array(pairs) => {
            // Unigram: [[text, score], …], the id is the place.
            if pairs.len() as u64 >= MAX_ID {
                return Err(id_too_large("", pairs.len() as u64));
            }
            let bad = |pair: &Value| pair[0].as_str().is_none_or(str::is_empty) || !pair[1].is_number();
            if let Some(id) = pairs.iter().position(bad) {
                return Err(Error::corrupt(format!("model.vocab: token {id}"))
                    .expected("[text, score]")
                    .found(&pairs[id]));
            }
            return Ok(pairs.len());
        }
        other => {
            return Err(Error::corrupt("model.vocab").expected("token texts with ids").found(kind(other)));
        }
    };
    for (token, id) in vocab {
        len = len.max(id_of(token, id)? as usize + 1);
    }
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (i, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        let halves = match merge {
            Value::String(text) => text.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        let Some((a, b)) = halves else {
            return Err(Error::corrupt(format!("model.merges: entry {i}"))
                .expected("two tokens, as \"a b\" or [\"a\", \"b\"]")
                .found(merge));
        };
        super::check_merge(a, b, prefix.len(), |token| vocab.contains_key(token))?;
    }
    Ok(len)
}

fn check_added(added: &Value) -> Result<()> {
    for token in added.as_array().into_iter().flatten() {
        let text = token["content"]
            .as_str()
            .ok_or_else(|| Error::corrupt("added_tokens").expected("objects with a content").found(token))?;
        id_of(text, &token["id"])?;
    }
    Ok(())
}

/// Compiles every regular expression, and refuses what is known to make the library panic.
fn check_patterns(part: &str, json: &Value) -> Result<()> {
    match json {
        Value::Object(fields) => {
            if let Some(regex) = fields.get("pattern").and_then(|pattern| pattern["Regex"].as_str()) {
                tokenizers::utils::SysRegex::new(regex).map_err(|e| {
                    Error::corrupt(format!("invalid regex in {part}")).found(format!("{regex:?} ({e})"))
                })?;
            }
            let panics = match fields.get("type").and_then(Value::as_str) {
                Some("FixedLength") => fields.get("length").is_some_and(|length| *length == 0),
                Some("Precompiled") => Precompiled::deserialize(json).is_err(),
                _ => false,
            };
            if panics {
                let found: String = json.to_string().chars().take(100).collect();
                return Err(Error::corrupt(format!("{part}: not what its type says")).found(found));
            }
            fields.values().try_for_each(|field| check_patterns(part, field))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_patterns(part, item)),
        _ => Ok(()),
    }
}

/// What the file's decoder does to one token, and how many spaces it takes off the whole text.
struct Decoding {
    steps: Vec<Step>,
    strip: usize,
}

enum Step {
    /// Characters stand for bytes, as GPT-2 writes them.
    ByteLevel,
    /// `<0x0A>` stands for a byte.
    ByteFallback,
    Replace(String, String),
    Prepend(&'static str),
}

impl Decoding {
    fn new(json: &Value) -> Result<Self> {
        let mut decoding = Decoding { steps: Vec::new(), strip: 0 };
        if json.is_null() {
            // Without a decoder the library puts spaces between tokens.
            decoding.steps.push(Step::Prepend(" "));
            decoding.strip = 1;
        } else {
            decoding.read(json)?;
        }
        Ok(decoding)
    }

    fn read(&mut self, json: &Value) -> Result<()> {
        let unsupported = |what: String| Err(Error::unsupported(what).found(json));
        match json["type"].as_str().unwrap_or_default() {
            "Sequence" => {
                for step in json["decoders"].as_array().into_iter().flatten() {
                    self.read(step)?;
                }
            }
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "ByteFallback" => self.steps.push(Step::ByteFallback),
            "Fuse" => {}
            "Metaspace" => {
                let mark = json["replacement"].as_str().unwrap_or("\u{2581}");
                self.steps.push(Step::Replace(mark.to_owned(), " ".to_owned()));
                let never = json["prepend_scheme"] == "never" || json["add_prefix_space"] == false;
                self.strip = usize::from(!never);
            }
            "Replace" => match (json["pattern"]["String"].as_str(), json["content"].as_str()) {
                (Some(from), Some(to)) if !from.is_empty() => {
                    self.steps.push(Step::Replace(from.to_owned(), to.to_owned()));
                }
                _ => return unsupported("decoder: only plain strings can be replaced".to_owned()),
            },
            "Strip" => {
                let count = |key: &str| json[key].as_u64().unwrap_or(0);
                if count("stop") != 0 || json["content"] != " " {
                    return unsupported("decoder: only leading spaces can be stripped".to_owned());
                }
                self.strip = count("start") as usize;
            }
            other => return unsupported(format!("decoder of type {other:?}")),
        }
        Ok(())
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteLevel => return super::from_byte_level(&text),
                Step::ByteFallback => {
                    if let Some(byte) = super::byte_token(&text) {
                        return vec![byte];
                    }
                }
                Step::Replace(from, to) => text = text.replace(from, to),
                Step::Prepend(before) => text.insert_str(0, before),
            }
        }
        text.into_bytes()
    }
}
