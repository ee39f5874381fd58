//! A GGUF model in several files, as `llama-gguf-split` makes them: `name-00001-of-00003.gguf` and so on.
//!
//! Every file is a GGUF of its own with `split.no` (from 0), `split.count` and `split.tensors.count` (of all files);
//! all other metadata is in the first.

use super::gguf::{self, Metadata};
use super::source::Source;
use super::{Files, TensorInfo};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The names of all parts of the model that file `name` is a part of; `name` alone where it is no name of a part.
pub fn parts(name: &str) -> Vec<String> {
    match split(name) {
        None => vec![name.to_string()],
        Some((stem, count)) => (1..=count).map(|no| format!("{stem}-{no:05}-of-{count:05}.gguf")).collect(),
    }
}

/// Stem and number of parts of `stem-00001-of-00003.gguf`.
fn split(name: &str) -> Option<(&str, u32)> {
    let number = |digits: &str| -> Option<u32> {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let (no, count) = (number(no)?, number(count)?);
    (1..=count).contains(&no).then_some((stem, count))
}

/// All parts of the model that file `name` is a part of.
pub(super) fn sources(files: &Files, name: &str) -> Result<Vec<Arc<dyn Source>>> {
    let parts = parts(name);
    let count = parts.len();
    let source = |part: String| {
        files.get(&part).cloned().ok_or_else(|| {
            Error::missing(format!("missing file {part}"))
                .file(name)
                .remedy(format!("the model is split in {count} files: put all of them in one folder"))
        })
    };
    parts.into_iter().map(source).collect()
}

/// The metadata of the first file and the tensors of all.
pub(super) async fn open(sources: &[Arc<dyn Source>]) -> Result<(Metadata, Vec<TensorInfo>)> {
    let mut joined: Option<(Metadata, Vec<TensorInfo>)> = None;
    for (i, source) in sources.iter().enumerate() {
        let (metadata, tensors) = gguf::open(source).await?;
        let number = |key: &str| metadata.unsigned(key);
        let (no, count) = (number("split.no")?.unwrap_or(0), number("split.count")?.unwrap_or(0).max(1));
        if count != sources.len() as u64 {
            return Err(Error::missing(format!(
                "part {} of a model in {count} file(s)",
                no.saturating_add(1)
            ))
            .file(source.name())
            .expected(format!("{count} files, named like model-00001-of-{count:05}.gguf"))
            .found(sources.len())
            .remedy("keep the names that the parts were published under, and all parts in one folder"));
        }
        if no != i as u64 {
            let error = Error::corrupt("split.no does not fit the name of the file").file(source.name());
            return Err(error.expected(i).found(no));
        }
        match &mut joined {
            None => joined = Some((metadata, tensors)),
            Some((_, all)) => all.extend(tensors),
        }
    }
    let (metadata, tensors) = joined.ok_or_else(|| Error::missing("no GGUF file"))?;
    if let Some(count) = metadata.unsigned("split.tensors.count")?.filter(|&n| n != tensors.len() as u64) {
        let error = Error::corrupt("split.tensors.count: the parts do not belong together");
        return Err(error.file(&metadata.file).expected(count).found(tensors.len()));
    }
    Ok((metadata, tensors))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn names_of_parts() {
        assert_eq!(
            parts("a/b-of-c-00002-of-00002.gguf").join(" "),
            "a/b-of-c-00001-of-00002.gguf a/b-of-c-00002-of-00002.gguf"
        );
        for alone in [
            "m.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "m-1-of-2.gguf",
            "m-00001-of-00002.bin",
            "m-+0001-of-00002.gguf",
        ] {
            assert_eq!(parts(alone), [alone]);
        }
    }
}
