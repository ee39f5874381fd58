//! Stop strings: ends the text where one of them appears, even across pieces.

/// Watches a stream of text for strings at which it ends.
///
/// Text that could be the beginning of a stop string is held back until it is known to be none, so nothing of a
/// stop string is ever emitted. The one that is complete first ends the text; how the text was cut into pieces
/// does not matter.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Stops at any of `stops`; empty strings are left out.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|stop: &String| !stop.is_empty()).collect();
        StopStrings { stops, ..Self::default() }
    }

    /// Takes the next piece of text; what can be emitted now, and whether the text has ended.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        self.held.push_str(piece);
        // The match that ends first; of those, the longest, since it began first.
        let ends = self.stops.iter().filter_map(|stop| self.held.find(stop).map(|at| (at + stop.len(), at)));
        if let Some((_, at)) = ends.min() {
            self.held.truncate(at);
            self.stopped = true;
            return (std::mem::take(&mut self.held), true);
        }
        let hold = self.held.char_indices().map(|(at, _)| at).find(|&at| {
            let tail = &self.held[at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        });
        let tail = self.held.split_off(hold.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, tail), false)
    }

    /// The text is over: what was held back is no stop string after all.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut watch = StopStrings::new(stops.iter().copied());
        let mut text = String::new();
        let mut stopped = false;
        for piece in pieces {
            let (emit, stop) = watch.push(piece);
            text += &emit;
            stopped = stop;
        }
        (text + &watch.flush(), stopped)
    }

    #[test]
    fn stops_across_pieces_and_releases_false_alarms() {
        assert_eq!(stream(&["</s>"], &["Hello <", "/", "s> more", "!"]), ("Hello ".into(), true));
        assert_eq!(stream(&["</s>"], &["a <", "/b>", " c <"]), ("a </b> c <".into(), false));
        assert_eq!(stream(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(stream(&["é!", "x"], &["caf", "é", "?"]), ("café?".into(), false));
        assert_eq!(stream(&[], &["any", "thing"]), ("anything".into(), false));
        assert_eq!(stream(&[""], &["any"]), ("any".into(), false));
    }

    #[test]
    fn emits_at_once_what_cannot_be_a_stop() {
        let mut watch = StopStrings::new(["User:"]);
        assert_eq!(watch.push("Hi"), ("Hi".into(), false));
        assert_eq!(watch.push(" U"), (" ".into(), false));
        assert_eq!(watch.push("p"), ("Up".into(), false));
        assert_eq!(watch.push("\nUser"), ("\n".into(), false));
        assert_eq!(watch.push(": x"), (String::new(), true));
        assert_eq!(watch.push("y"), (String::new(), true));
        assert_eq!(watch.flush(), "");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 0..4), cuts in prop::collection::vec(0usize..25, 0..6)) {
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let one: Vec<&str> = letters.iter().map(String::as_str).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            // The oracle: the shortest beginning of the text that ends with a stop string.
            let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
            let first = ends.filter_map(|end| {
                let longest = stops.iter().filter(|stop| text[..end].ends_with(**stop)).map(|stop| stop.len()).max()?;
                Some(text[..end - longest].to_owned())
            }).next();
            let expected = (first.clone().unwrap_or(text.clone()), first.is_some());
            prop_assert_eq!(stream(&stops, &one), expected.clone());
            prop_assert_eq!(stream(&stops, &[&text]), expected.clone());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(one.len())).collect();
            cuts.push(0);
            cuts.push(one.len());
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|w| one[w[0]..w[1]].concat()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(stream(&stops, &pieces), expected);
        }
    }
}
