//! What each token id stands for, and the way back from ids to text.

use std::sync::Arc;

/// How a token takes part in decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// No token has this id.
    #[default]
    Absent,
    /// Ordinary text, or bytes of it.
    Text,
    /// Steers the model (BOS, end of turn …) and is no part of the text.
    Control,
}

/// The bytes of every token in one flat buffer: a table by id, filled once.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Spaces that the tokenizer put before the text, and that decoding takes off again.
    pub(super) strip: usize,
}

impl Pieces {
    /// Appends the piece of the next id.
    pub(super) fn push(&mut self, kind: Kind, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        self.kinds.push(kind);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token's kind and bytes; any number is allowed.
    pub(super) fn get(&self, id: u32) -> (Kind, &[u8]) {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else { return (Kind::Absent, &[]) };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        (self.kinds[i], self.bytes.get(start as usize..end as usize).unwrap_or_default())
    }

    /// For display: control tokens show their text, bytes that are no character show as `<0xNN>`.
    pub(super) fn display(&self, id: u32) -> String {
        let (kind, bytes) = self.get(id);
        if kind == Kind::Absent {
            return format!("<no token {id}>");
        }
        let mut shown = String::new();
        for chunk in bytes.utf8_chunks() {
            shown.push_str(chunk.valid());
            for byte in chunk.invalid() {
                shown.push_str(&format!("<0x{byte:02X}>"));
            }
        }
        shown
    }
}

/// Turns a stream of token ids into text, a token at a time, and never emits half a character.
///
/// All that [`Decoder::push`] returned, with what [`Decoder::flush`] returns at the end, is exactly what
/// [`Tokenizer::decode`](super::Tokenizer::decode) makes of the same ids.
#[derive(Debug, Clone)]
pub struct Decoder {
    pieces: Arc<Pieces>,
    pending: Vec<u8>,
    strip: usize,
}

impl Decoder {
    pub(super) fn new(pieces: Arc<Pieces>) -> Self {
        let strip = pieces.strip;
        Decoder { pieces, pending: Vec::new(), strip }
    }

    /// The text that this token completes; empty for control tokens and for the first half of a character.
    pub fn push(&mut self, id: u32) -> String {
        let (kind, mut bytes) = self.pieces.get(id);
        if kind != Kind::Text {
            return String::new();
        }
        while self.strip > 0 && !bytes.is_empty() {
            match bytes.strip_prefix(b" ") {
                Some(rest) => {
                    bytes = rest;
                    self.strip -= 1;
                }
                None => self.strip = 0,
            }
        }
        self.pending.extend_from_slice(bytes);
        let held = unfinished(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - held);
        let whole = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// How many bytes at the end begin a character that the next bytes may complete.
fn unfinished(bytes: &[u8]) -> usize {
    // In the middle the same bytes would be wrong, so only the last chunk counts.
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(last) {
        Err(e) if e.error_len().is_none() => last.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoder(pieces: &[&[u8]], strip: usize) -> Decoder {
        let mut table = Pieces { strip, ..Pieces::default() };
        for piece in pieces {
            table.push(Kind::Text, piece);
        }
        Decoder::new(Arc::new(table))
    }

    #[test]
    fn halves_of_an_emoji_wait_for_each_other() {
        let emoji = "🦀".as_bytes();
        let mut d = decoder(&[&emoji[..1], &emoji[1..3], &emoji[3..], b"!"], 0);
        assert_eq!([d.push(0), d.push(1), d.push(2), d.push(3)].concat(), "🦀!");
        assert_eq!([d.push(0), d.push(1)].concat(), "");
        assert_eq!(d.push(3), "\u{fffd}!");
        d.push(0);
        assert_eq!(d.flush(), "\u{fffd}");
        assert_eq!(d.flush(), "");
    }

    #[test]
    fn only_the_first_space_is_taken_off() {
        let mut d = decoder(&[b" ", b" a", b"b"], 1);
        assert_eq!([d.push(0), d.push(1), d.push(0)].concat(), " a ");
        let mut d = decoder(&[b" ", b" a", b"b"], 1);
        assert_eq!([d.push(2), d.push(1)].concat(), "b a");
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_decodes_alike(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..40), strip in 0usize..3) {
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let mut d = decoder(&slices, strip);
            let mut streamed: String = (0..pieces.len() as u32).map(|id| d.push(id)).collect();
            streamed += &d.flush();
            let all = pieces.concat();
            let lead = all.iter().take_while(|&&b| b == b' ').count().min(strip);
            prop_assert_eq!(streamed, String::from_utf8_lossy(&all[lead..]));
        }
    }
}
