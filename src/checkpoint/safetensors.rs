//! The safetensors container: `u64 header length · JSON header · data`.
//!
//! The header maps tensor names to `{dtype, shape, data_offsets: [begin, end]}`, offsets counted from the end of
//! the header; `__metadata__` is free text. As the reference library does, the data must be covered without
//! gaps, overlaps or rest.

use super::source::Source;
use super::tensor::{Dtype, TensorInfo};
use crate::error::{Error, Result};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// The reference library refuses longer headers, too.
const MAX_HEADER: u64 = 100_000_000;

/// Reads the header of `source` and checks it against the file.
pub async fn tensors(source: &Arc<dyn Source>) -> Result<Vec<TensorInfo>> {
    read(source).await.map_err(|e| e.file(source.name()))
}

async fn read(source: &Arc<dyn Source>) -> Result<Vec<TensorInfo>> {
    let size = source.len();
    let start = source.read(0..size.min(64)).await?;
    let Some(length) = start.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(Error::corrupt(format!("file too short to be safetensors ({size} bytes)")));
    };
    if let (true, Some(what)) = (length > size - 8, looks_like(&start)) {
        return Err(Error::unsupported(format!("not a safetensors file (looks like {what})"))
            .remedy("fetch the .safetensors file of this model"));
    }
    if length == 0 {
        return Err(Error::corrupt("empty header"));
    }
    if length > size - 8 {
        return Err(Error::corrupt(format!("header says {length} bytes, file holds fewer"))
            .found(format!("{} bytes", size - 8))
            .remedy("the download may be truncated: fetch it again"));
    }
    if length > MAX_HEADER {
        return Err(Error::corrupt("header too long")
            .expected(format!("at most {MAX_HEADER} bytes"))
            .found(length));
    }
    let header = source.read(8..8 + length).await?;
    let entries = parse(&header)?;
    let data = 8 + length;
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        tensors.push(entry.check(source, data)?);
    }
    check_cover(&tensors, data, size)?;
    Ok(tensors)
}

/// What the first bytes of a file that is no safetensors file betray.
fn looks_like(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start();
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        Some("zip/PyTorch pickle")
    } else if start.starts_with(b"GGUF") {
        Some("GGUF")
    } else if start.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer")
    } else if text.first() == Some(&b'<')
        && text.get(1).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'!')
    {
        Some("HTML")
    } else {
        None
    }
}

/// One tensor as the header has it.
#[derive(Default)]
struct Entry {
    name: String,
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    offsets: Option<[u64; 2]>,
}

impl Entry {
    /// The tensor, its shape and range checked; `data` is where the data begin.
    fn check(self, source: &Arc<dyn Source>, data: u64) -> Result<TensorInfo> {
        let name = self.name;
        let field = |field: &str| Error::corrupt(format!("missing field {field}")).tensor(&name);
        let dtype = self.dtype.ok_or_else(|| field("dtype"))?;
        let shape = self.shape.ok_or_else(|| field("shape"))?;
        let [begin, end] = self.offsets.ok_or_else(|| field("data_offsets"))?;
        let dtype = Dtype::named(&dtype)
            .ok_or_else(|| Error::unsupported(format!("unknown dtype {dtype}")).tensor(&name))?;
        let overflow = || Error::corrupt(format!("shape overflow for {name}")).found(format!("{shape:?}"));
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
        let bytes = dtype.bytes(elements).ok_or_else(overflow)?;
        let shape: Vec<usize> =
            shape.iter().map(|&d| usize::try_from(d).map_err(|_| overflow())).collect::<Result<_>>()?;
        if end < begin {
            return Err(Error::corrupt(format!("data_offsets end < start ({end} < {begin})")).tensor(&name));
        }
        if end - begin != bytes {
            return Err(Error::corrupt("data_offsets do not fit dtype and shape")
                .tensor(&name)
                .expected(format!("{bytes} bytes"))
                .found(end - begin));
        }
        let past = || Error::corrupt("data_offsets past the end of the file").tensor(&name).found(end);
        let end = end.checked_add(data).filter(|&end| end <= source.len()).ok_or_else(past)?;
        Ok(TensorInfo { range: data + begin..end, name, dtype, shape, source: source.clone() })
    }
}

/// Every byte of the data belongs to exactly one tensor.
fn check_cover(tensors: &[TensorInfo], data: u64, size: u64) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| (t.range.start, t.range.end));
    let mut at = data;
    for tensor in order {
        if tensor.range.start > at {
            return Err(Error::corrupt("gap in the data section").tensor(&tensor.name));
        }
        if tensor.range.start < at {
            return Err(Error::corrupt("overlaps another tensor").tensor(&tensor.name));
        }
        at = tensor.range.end;
    }
    if at != size {
        return Err(Error::corrupt("file longer than its tensors").expected(at).found(size));
    }
    Ok(())
}

/// The header's JSON as entries.
fn parse(json: &[u8]) -> Result<Vec<Entry>> {
    let mut header = Header::default();
    let mut json = serde_json::Deserializer::from_slice(json);
    let parsed = header.deserialize_into(&mut json).and_then(|()| json.end());
    match parsed {
        Ok(()) => Ok(header.entries),
        Err(e) => {
            let what = match header.reading {
                _ if e.to_string().contains("recursion limit") => format!("JSON nesting too deep: {e}"),
                _ if !e.is_data() => format!("header is not valid JSON: {e}"),
                Some(field) => format!("invalid {field}: {e}"),
                None => e.to_string(),
            };
            Err(Error::corrupt(what).tensor(header.tensor))
        }
    }
}

/// The state of parsing, kept outside of serde's errors so that they can name tensor and field.
#[derive(Default)]
struct Header {
    entries: Vec<Entry>,
    tensor: String,
    reading: Option<&'static str>,
}

impl Header {
    fn deserialize_into<'de, D: Deserializer<'de>>(&mut self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(Names(self))
    }
}

/// Visits the header: name → entry.
struct Names<'a>(&'a mut Header);

impl<'de> Visitor<'de> for Names<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("header must be a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format!("duplicate tensor {name}")));
            }
            self.0.tensor.clone_from(&name);
            let entry =
                map.next_value_seed(Fields { header: self.0, entry: Entry { name, ..Entry::default() } })?;
            self.0.entries.push(entry);
            self.0.tensor.clear();
        }
        Ok(())
    }
}

/// Visits one entry.
struct Fields<'a> {
    header: &'a mut Header,
    entry: Entry,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Entry, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Entry, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "dtype" => {
                    self.header.reading = Some("dtype");
                    self.entry.dtype = Some(map.next_value()?);
                }
                "shape" => {
                    self.header.reading = Some("shape");
                    self.entry.shape = Some(map.next_value()?);
                }
                "data_offsets" => {
                    self.header.reading = Some("data_offsets");
                    self.entry.offsets = Some(map.next_value()?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            self.header.reading = None;
        }
        Ok(self.entry)
    }
}
