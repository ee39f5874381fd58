//! Which files of a hub's repository make a model. Asks nobody: names go in, names come out, natively and in a page.

use crate::checkpoint::gguf_split::parts;
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// What a model needs besides its weights.
const SMALL: &[&str] = &[
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "quantize_config.json",
    "adapter_config.json",
    "mlc-chat-config.json",
    "ndarray-cache.json",
    "tensor-cache.json",
];

/// What `hf:…` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `owner/repo`
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// One file of the repository, the rest of which is left alone: a `.gguf`, or a `.safetensors` with its
    /// configuration.
    pub file: Option<String>,
}

impl FromStr for Source {
    type Err = Error;

    /// Reads `hf:owner/repo[/file][@revision]`.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid("not a model of the hub")
                .expected("hf:owner/repo, hf:owner/repo@revision or hf:owner/repo/file.gguf")
                .found(text)
        };
        let name = text.strip_prefix("hf:").ok_or_else(invalid)?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let mut parts = name.splitn(3, '/');
        let plain = |part: Option<&str>| {
            let part = part.filter(|p| !p.is_empty() && *p != "." && *p != "..")?;
            part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)).then(|| part.to_string())
        };
        let (owner, repo) = plain(parts.next()).zip(plain(parts.next())).ok_or_else(invalid)?;
        let file = parts.next().map(str::to_string);
        let inside = |path: &str| Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
        if revision.is_empty()
            || !inside(revision)
            || file.as_ref().is_some_and(|f| f.is_empty() || !inside(f))
        {
            return Err(invalid());
        }
        Ok(Self { repo: format!("{owner}/{repo}"), revision: revision.to_string(), file })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// What is downloaded, in this order: small files, then weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Names in the repository.
    pub files: Vec<String>,
    /// The one file to open; `None`: the folder.
    pub open: Option<String>,
}

/// The index file that [`choose`] wants to see, if the choice depends on one.
pub fn index_file(source: &Source, names: &[String]) -> Option<&'static str> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let folder = source.file.is_none() && (has("config.json") || has("adapter_config.json"));
    (folder && has(INDEX)).then_some(INDEX)
}

/// Chooses the files of a model among the `names` of its repository; `index` is the text of [`index_file`].
pub fn choose(source: &Source, names: &[String], index: Option<&[u8]>) -> Result<Choice> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let flat = |name: &&String| !name.contains(['/', '\\']);
    let ending = |end: &str| -> Vec<String> {
        names.iter().filter(flat).filter(|n| n.ends_with(end)).cloned().collect()
    };
    let tokenizer = |n: &str| n.starts_with("tokenizer") && n.ends_with(".json");
    let mut files: Vec<String> =
        names.iter().filter(flat).filter(|n| SMALL.contains(&n.as_str()) || tokenizer(n)).cloned().collect();
    if let Some(file) = &source.file {
        if !has(file) {
            let (ggufs, weights) = (ending(".gguf"), ending(".safetensors"));
            let all: Vec<&str> = ggufs.iter().chain(&weights).map(String::as_str).collect();
            let error = Error::missing(format!("{} has no file {file}", source.repo));
            return Err(error.remedy(format!("it has {}", listed(&all))));
        }
        if file.ends_with(".gguf") {
            return gguf(source, names, file);
        } else if !file.ends_with(".safetensors") || file.contains('/') {
            return Err(Error::unsupported(format!("file {file}"))
                .expected("a .gguf, or a .safetensors beside its config.json"));
        }
        files.push(file.clone());
        return Ok(Choice { files, open: Some(file.clone()) });
    }
    if has("config.json") || has("adapter_config.json") {
        let indexed = index.map(shards).unwrap_or_default();
        // An index that was copied from the unquantized model names no file that is here (EXL2).
        let weights = if indexed.iter().any(|name| has(name))
            || !indexed.is_empty() && ending(".safetensors").is_empty()
        {
            files.push(INDEX.into());
            indexed
        } else if has(SINGLE) {
            vec![SINGLE.into()]
        } else {
            ending(".safetensors")
        };
        if let Some(missing) = weights.iter().find(|name| !has(name)) {
            return Err(Error::corrupt(format!(
                "{} has no file {missing}, which {INDEX} names",
                source.repo
            )));
        }
        if !weights.is_empty() {
            files.extend(weights);
            return Ok(Choice { files, open: None });
        }
    }
    if has("mlc-chat-config.json") {
        files.extend(names.iter().filter(|n| n.starts_with("params_shard_")).cloned());
        return Ok(Choice { files, open: None });
    }
    let ggufs: Vec<String> = names.iter().filter(|n| n.ends_with(".gguf")).cloned().collect();
    match &ggufs[..] {
        [] => {
            let found: Vec<&str> = names.iter().map(String::as_str).collect();
            Err(Error::missing(format!("{} has no .safetensors and no .gguf file", source.repo))
                .found(listed(&found))
                .remedy("PyTorch .bin files are not read: look for a converted copy"))
        }
        [first, rest @ ..] if rest.iter().all(|name| parts(first).contains(name)) => {
            gguf(source, names, first)
        }
        several => {
            let found: Vec<&str> = several.iter().map(String::as_str).collect();
            Err(Error::invalid(format!("{} has several GGUF files: {}", source.repo, listed(&found)))
                .remedy(format!("name one, as in hf:{}/{}", source.repo, several[0])))
        }
    }
}

/// A GGUF file, with the other parts of its model if it is split.
fn gguf(source: &Source, names: &[String], file: &str) -> Result<Choice> {
    let files = parts(file);
    match files.iter().find(|part| !names.contains(part)) {
        Some(missing) => Err(Error::corrupt(format!("{} has no file {missing}", source.repo))
            .remedy(format!("{file} is one of {} parts", files.len()))),
        None => Ok(Choice { files, open: Some(file.to_string()) }),
    }
}

/// The files that an index names; those that are no plain names are left out, and missed later.
fn shards(index: &[u8]) -> Vec<String> {
    let json: Value = serde_json::from_slice(index).unwrap_or_default();
    let map = json["weight_map"].as_object();
    let names: BTreeSet<&str> = map.into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
    names.into_iter().filter(|name| !name.contains(['/', '\\', ':'])).map(str::to_string).collect()
}

/// At most 40 names.
fn listed(names: &[&str]) -> String {
    let more = if names.len() > 40 { format!(" and {} more", names.len() - 40) } else { String::new() };
    let first: Vec<&str> = names.iter().take(40).copied().collect();
    if names.is_empty() { "nothing".into() } else { first.join(", ") + &more }
}
