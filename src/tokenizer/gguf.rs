//! The tokenizer that a GGUF file carries: SentencePiece (`llama`) and byte-level BPE (`gpt2`).
//!
//! Token for token what llama.cpp does with the same metadata, `parse_special` and special-token stripping
//! included; the tests compare with its published vocabularies.

use super::pieces::{Kind, Pieces};
use super::{END_OF_GENERATION, Model, Specials, Tokenizer, pre};
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// The `tokenizer.*` metadata of a GGUF file. Keys that the file lacks stay empty.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `llama` or `gpt2`.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split into words (`gpt2` only).
    pub pre: Option<String>,
    /// `general.name`; llama.cpp recognizes Phi-3, whose special tokens swallow following spaces, by it.
    pub name: Option<String>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        check(vocab)?;
        let sentence_piece = match vocab.model.as_str() {
            "llama" => true,
            "gpt2" => false,
            other => {
                return Err(Error::unsupported("tokenizer.ggml.model")
                    .expected("llama (SentencePiece) or gpt2 (byte-level BPE)")
                    .found(format!("{other:?}"))
                    .remedy("convert the model again, or use its Hugging Face files"));
            }
        };
        let known = |id: Option<u32>| id.filter(|&id| (id as usize) < vocab.tokens.len());
        let spm_default = |id: u32| if sentence_piece { known(Some(id)) } else { None };
        let bos = known(vocab.bos).or(spm_default(1));
        let mut eos: Vec<u32> = known(vocab.eos).or(spm_default(2)).into_iter().collect();
        let by_text =
            vocab.tokens.iter().enumerate().filter(|(_, t)| END_OF_GENERATION.contains(&t.as_str()));
        let by_text: Vec<u32> = by_text.map(|(id, _)| id as u32).collect();
        eos.extend(known(vocab.eot).into_iter().chain(known(vocab.eom)).chain(by_text.iter().copied()));
        super::tidy_eos(&mut eos, |text| vocab.tokens.iter().position(|t| t == text).map(|id| id as u32));

        let special = SpecialTokens::new(vocab, &by_text);
        let mut pieces = pieces(vocab, &by_text, sentence_piece)?;
        let space_prefix = vocab.add_space_prefix.unwrap_or(sentence_piece);
        let (model, add_bos) = if sentence_piece {
            pieces.strip = usize::from(space_prefix);
            let unk = known(vocab.unk).or(known(Some(0)));
            (Model::Spm(special, Spm::new(vocab, space_prefix, unk)), true)
        } else {
            let name = vocab.pre.as_deref().unwrap_or("default");
            let pre = pre::find(name).ok_or_else(|| {
                Error::unsupported("tokenizer.ggml.pre: unknown pre-tokenizer")
                    .expected(format!("one of {}", pre::names()))
                    .found(format!("{name:?}"))
                    .remedy("use the model's Hugging Face files, or ask for this pre-tokenizer")
            })?;
            (Model::Bpe(special, Mutex::new(byte_level_bpe(vocab, pre)?)), pre.add_bos)
        };
        let base_len = vocab.tokens.len();
        Ok(Tokenizer {
            model,
            pieces: Arc::new(pieces),
            bos,
            eos,
            add_bos: vocab.add_bos.unwrap_or(add_bos).into(),
            add_eos: vocab.add_eos.unwrap_or(false).into(),
            base_len,
            limit: base_len,
        })
    }
}

/// What contradicts itself is refused before anything is built.
fn check(vocab: &GgufVocab) -> Result<()> {
    let n = vocab.tokens.len();
    if n == 0 {
        return Err(Error::missing("tokenizer.ggml.tokens: the file carries no vocabulary")
            .remedy("give a tokenizer.json, or convert the model again with its tokenizer"));
    }
    let short = |key: &str, found: usize| {
        Err(Error::corrupt(format!("tokenizer.ggml.{key}: wrong length"))
            .expected(format!("{n} entries, one a token"))
            .found(found))
    };
    match (vocab.scores.len(), vocab.token_types.len()) {
        (scores, _) if scores != 0 && scores < n => return short("scores", scores),
        (_, types) if types != 0 && types < n => return short("token_type", types),
        _ => {}
    }
    if let Some(i) = vocab.scores.iter().position(|s| s.is_nan()) {
        return Err(Error::corrupt(format!("tokenizer.ggml.scores: entry {i} is not a number")));
    }
    Ok(())
}

fn pieces(vocab: &GgufVocab, control: &[u32], sentence_piece: bool) -> Result<Pieces> {
    let mut pieces = Pieces::default();
    for (id, text) in vocab.tokens.iter().enumerate() {
        let ty = vocab.token_types.get(id).copied().unwrap_or(NORMAL);
        match ty {
            UNKNOWN | CONTROL | UNUSED => pieces.push(Kind::Control, text.as_bytes()),
            _ if control.contains(&(id as u32)) => pieces.push(Kind::Control, text.as_bytes()),
            USER_DEFINED => pieces.push(Kind::Text, text.as_bytes()),
            BYTE => {
                let byte = super::byte_token(text).ok_or_else(|| {
                    Error::corrupt(format!("token {id} is of type byte"))
                        .expected("a text like <0x0A>")
                        .found(format!("{text:?}"))
                })?;
                pieces.push(Kind::Text, &[byte]);
            }
            _ if sentence_piece => pieces.push(Kind::Text, text.replace('\u{2581}', " ").as_bytes()),
            _ => pieces.push(Kind::Text, &super::from_byte_level(text)),
        }
    }
    Ok(pieces)
}

/// Tokens that are cut out of the text before anything else, longest first.
pub(super) struct SpecialTokens(Vec<SpecialToken>);

struct SpecialToken {
    id: u32,
    text: String,
    /// Only where the caller asks for special tokens; user-defined ones are cut out always.
    on_request: bool,
    /// Swallows white space that follows.
    strip_right: bool,
}

enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

impl SpecialTokens {
    fn new(vocab: &GgufVocab, control: &[u32]) -> Self {
        let name = vocab.name.as_deref().unwrap_or_default().to_lowercase();
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let mut list = Vec::new();
        for (id, text) in vocab.tokens.iter().enumerate() {
            let ty = vocab.token_types.get(id).copied().unwrap_or(NORMAL);
            let control = matches!(ty, UNKNOWN | CONTROL) || control.contains(&(id as u32));
            if text.is_empty() || !(control || ty == USER_DEFINED) {
                continue;
            }
            let strip_right = phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text.as_str());
            list.push(SpecialToken { id: id as u32, text: text.clone(), on_request: control, strip_right });
        }
        list.sort_unstable_by_key(|special| std::cmp::Reverse((special.text.len(), special.id)));
        SpecialTokens(list)
    }

    fn cut<'t>(&self, text: &'t str, all: bool) -> Vec<Fragment<'t>> {
        let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
        for special in self.0.iter().filter(|special| all || !special.on_request) {
            if !text.contains(special.text.as_str()) {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(mut rest) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                while let Some((left, right)) = rest.split_once(special.text.as_str()) {
                    if !left.is_empty() {
                        cut.push(Fragment::Text(left));
                    }
                    cut.push(Fragment::Token(special.id));
                    let white = |c| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
                    rest = if special.strip_right { right.trim_start_matches(white) } else { right };
                }
                if !rest.is_empty() {
                    cut.push(Fragment::Text(rest));
                }
            }
            fragments = cut;
        }
        fragments
    }
}

/// SentencePiece's BPE: the neighbours whose union has the best score are merged first.
pub(super) struct Spm {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    bytes: Vec<Option<u32>>,
    unk: Option<u32>,
    space_prefix: bool,
}

/// A run of characters `start..start + len` in a doubly linked list; merged away when `len` is 0.
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could become one token.
struct Bigram {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Bigram {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}
impl PartialOrd for Bigram {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Bigram {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Bigram {}

impl Spm {
    fn new(vocab: &GgufVocab, space_prefix: bool, unk: Option<u32>) -> Self {
        let ids: HashMap<String, u32> =
            vocab.tokens.iter().enumerate().map(|(id, text)| (text.clone(), id as u32)).collect();
        let bytes = (0..=255u8).map(|byte| {
            let raw = if byte.is_ascii() { ids.get(char::from(byte).encode_utf8(&mut [0])) } else { None };
            ids.get(&format!("<0x{byte:02X}>")).or(raw).copied()
        });
        let bytes = bytes.collect();
        // Converters that find no scores write the same one everywhere; tokens are then numbered in the order in
        // which they were merged in training, which is what scores say otherwise.
        let n = vocab.tokens.len();
        let normal = |id: &usize| vocab.token_types.get(*id).is_none_or(|&ty| ty == NORMAL);
        let mut known = (0..n.min(vocab.scores.len())).filter(normal).map(|id| vocab.scores[id]);
        let first = known.next();
        let no_scores = known.all(|score| Some(score) == first);
        // Adding 0.0 makes -0.0 equal to 0.0 in the total order.
        let score = |id: usize| if no_scores { -(id as f32) } else { vocab.scores[id] + 0.0 };
        let scores = (0..n).map(score).collect();
        Spm { ids, scores, bytes, unk, space_prefix }
    }

    pub(super) fn encode(&self, special: &SpecialTokens, text: &str, parse: bool) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        let mut after_special = true;
        for fragment in special.cut(text, parse) {
            match fragment {
                Fragment::Token(id) => out.push(id),
                Fragment::Text(text) => {
                    let prefix = if self.space_prefix && after_special { "\u{2581}" } else { "" };
                    self.merge(&format!("{prefix}{}", text.replace(' ', "\u{2581}")), &mut out)?;
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        Ok(out)
    }

    fn merge(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: i.checked_sub(1),
                next: Some(i + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        let consider = |queue: &mut BinaryHeap<Bigram>, symbols: &[Symbol], left: usize, right: usize| {
            let len = symbols[left].len + symbols[right].len;
            let start = symbols[left].start;
            if let Some(&id) = self.ids.get(&text[start..start + len]) {
                queue.push(Bigram { score: self.scores[id as usize], left, right, len });
            }
        };
        for right in 1..symbols.len() {
            consider(&mut queue, &symbols, right - 1, right);
        }
        while let Some(Bigram { left, right, len, .. }) = queue.pop() {
            let gone = symbols[left].len == 0 || symbols[right].len == 0;
            if gone || symbols[left].len + symbols[right].len != len {
                continue; // one of the two has been merged since
            }
            symbols[left].len = len;
            symbols[right].len = 0;
            let next = symbols[right].next;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].prev = Some(left);
                consider(&mut queue, &symbols, left, next);
            }
            if let Some(prev) = symbols[left].prev {
                consider(&mut queue, &symbols, prev, left);
            }
        }
        let mut after_unknown = false;
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let part = &text[symbol.start..symbol.start + symbol.len];
            let bytes: Option<Vec<u32>> = match self.ids.get(part) {
                Some(&id) => Some(vec![id]),
                None => part.bytes().map(|byte| self.bytes[usize::from(byte)]).collect(),
            };
            match (&bytes, self.unk) {
                (Some(ids), _) => out.extend(ids),
                (None, Some(_)) if after_unknown => {} // a run of unknown characters is one token
                (None, Some(unk)) => out.push(unk),
                (None, None) => return Err(super::unknown_text(part)),
            }
            after_unknown = bytes.is_none();
        }
        Ok(())
    }
}

/// The merges run in the `tokenizers` crate; special tokens are cut out before it sees the text.
fn byte_level_bpe(vocab: &GgufVocab, pre: &pre::PreTokenizer) -> Result<tokenizers::Tokenizer> {
    let ids: tokenizers::models::bpe::Vocab =
        vocab.tokens.iter().enumerate().map(|(id, text)| (text.clone(), id as u32)).collect();
    let mut merges = Vec::with_capacity(vocab.merges.len());
    if vocab.merges.is_empty() {
        return Err(Error::missing("tokenizer.ggml.merges: a gpt2 vocabulary needs its merges")
            .remedy("convert the model again with its tokenizer"));
    }
    for (i, merge) in vocab.merges.iter().enumerate() {
        // The first half may itself begin with a space, so the search starts behind its first character.
        let after = merge.chars().next().map_or(0, char::len_utf8);
        let Some(at) = merge[after..].find(' ').map(|at| at + after) else {
            return Err(Error::corrupt(format!("tokenizer.ggml.merges: entry {i}"))
                .expected("two tokens with a space between them")
                .found(format!("{merge:?}")));
        };
        let pair = (merge[..at].to_owned(), merge[at + 1..].to_owned());
        super::check_merge(&pair.0, &pair.1, 0, |token| ids.contains_key(token))?;
        merges.push(pair);
    }
    let foreign = |e: tokenizers::Error| Error::corrupt(format!("the BPE vocabulary: {e}"));
    let bpe = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre.ignore_merges);
    let mut stages = Vec::with_capacity(pre.splits.len() + 1);
    for split in pre.splits {
        let pattern = SplitPattern::Regex((*split).to_owned());
        stages.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(foreign)?.into());
    }
    stages.push(ByteLevel::new(false, false, false).into());
    let mut tokenizer = tokenizers::Tokenizer::new(bpe.build().map_err(foreign)?);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(stages)));
    Ok(tokenizer)
}

/// Encodes with [`byte_level_bpe`].
pub(super) fn encode_bpe(
    special: &SpecialTokens,
    bpe: &Mutex<tokenizers::Tokenizer>,
    text: &str,
    specials: Specials,
) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for fragment in special.cut(text, specials != Specials::AsText) {
        match fragment {
            Fragment::Token(id) => out.push(id),
            Fragment::Text(text) => out.extend(super::run(bpe, text, false, |_| {})?),
        }
    }
    Ok(out)
}
