//! The GGUF container, versions 2 and 3 (ggml, docs/gguf.md).
//!
//! `"GGUF" · u32 version · u64 tensors · u64 pairs`, then the pairs (`string key · u32 type · value`), the tensor
//! directory (`string name · u32 dimensions · u64 each, fastest first · u32 type · u64 offset`) and, aligned to
//! `general.alignment` (32), the data. A string is `u64 length · bytes`; an array `u32 type · u64 count · items`.
//!
//! llama.cpp's tensor names are turned into Hugging Face's on the way, so that everything else knows one spelling.

use super::gguf_model::hugging_face_name;
use super::source::Source;
use super::tensor::{Dtype, TensorInfo};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A GGUF tensor type: runs of `weights` weights in `bytes` bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockType {
    /// ggml's number for it.
    pub id: u32,
    /// ggml's name for it.
    pub name: &'static str,
    /// Weights of a block.
    pub weights: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

const fn ty(id: u32, name: &'static str, weights: usize, bytes: usize) -> BlockType {
    BlockType { id, name, weights, bytes }
}

/// Every type of ggml, also those without a codec here: their sizes are needed to check a file.
pub static TYPES: &[BlockType] = &[
    ty(0, "F32", 1, 4),
    ty(1, "F16", 1, 2),
    ty(2, "Q4_0", 32, 18),
    ty(3, "Q4_1", 32, 20),
    ty(6, "Q5_0", 32, 22),
    ty(7, "Q5_1", 32, 24),
    ty(8, "Q8_0", 32, 34),
    ty(9, "Q8_1", 32, 36),
    ty(10, "Q2_K", 256, 84),
    ty(11, "Q3_K", 256, 110),
    ty(12, "Q4_K", 256, 144),
    ty(13, "Q5_K", 256, 176),
    ty(14, "Q6_K", 256, 210),
    ty(15, "Q8_K", 256, 292),
    ty(16, "IQ2_XXS", 256, 66),
    ty(17, "IQ2_XS", 256, 74),
    ty(18, "IQ3_XXS", 256, 98),
    ty(19, "IQ1_S", 256, 50),
    ty(20, "IQ4_NL", 32, 18),
    ty(21, "IQ3_S", 256, 110),
    ty(22, "IQ2_S", 256, 82),
    ty(23, "IQ4_XS", 256, 136),
    ty(24, "I8", 1, 1),
    ty(25, "I16", 1, 2),
    ty(26, "I32", 1, 4),
    ty(27, "I64", 1, 8),
    ty(28, "F64", 1, 8),
    ty(29, "IQ1_M", 256, 56),
    ty(30, "BF16", 1, 2),
    ty(34, "TQ1_0", 256, 54),
    ty(35, "TQ2_0", 256, 66),
    ty(39, "MXFP4", 32, 17),
    ty(40, "NVFP4", 64, 36),
    ty(41, "Q1_0", 128, 18),
    ty(42, "Q2_0", 64, 18),
];

/// Types that ggml once had.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text; bytes that are no UTF-8 are replaced.
    String(String),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of f32.
    Floats(Vec<f32>),
    /// An array of integers or truth values.
    Integers(Vec<i64>),
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Value::Unsigned(_) => "an unsigned integer",
            Value::Signed(_) => "a signed integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Strings(_) => "an array of strings",
            Value::Floats(_) => "an array of floats",
            Value::Integers(_) => "an array of integers",
        }
    }
}

/// The key/value pairs of a file.
#[derive(Debug, Default)]
pub struct Metadata {
    pub(super) file: String,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All pairs by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// `key`'s value through `read`; an error if it is there but is not `what`.
    fn typed<'a, T>(&'a self, key: &str, what: &str, read: fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            Error::corrupt(format!("{key} must be {what}")).file(&self.file).found(value.type_name())
        })
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// An integer that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer that is not negative", |v| match v {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| match v {
            Value::Float(x) => Some(*x),
            Value::Unsigned(n) => Some(*n as f64),
            Value::Signed(n) => Some(*n as f64),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Strings(all) => Some(all.as_slice()),
            _ => None,
        })
    }

    /// An array of floats.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of floats", |v| match v {
            Value::Floats(all) => Some(all.as_slice()),
            _ => None,
        })
    }

    /// An array of integers.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Integers(all) => Some(all.as_slice()),
            _ => None,
        })
    }

    /// The error of a key that has to be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        Error::missing(format!("missing metadata {key}")).file(&self.file)
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str> {
        self.string("general.architecture")?.ok_or_else(|| self.missing("general.architecture"))
    }
}

/// Why parsing stopped.
enum Stop {
    /// More of the file is needed.
    More,
    /// The file is broken.
    Bad(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Bad(error)
    }
}

type Parsed<T> = Result<T, Stop>;

/// First guess of how long metadata and directory are; doubled until they fit.
const FIRST_READ: u64 = 1 << 20;
/// The largest tokenizers take a few megabytes.
const MAX_READ: u64 = 64 << 20;

/// Reads metadata and tensor directory of `source` and checks them against the file.
pub async fn open(source: &Arc<dyn Source>) -> Result<(Metadata, Vec<TensorInfo>)> {
    let mut length = FIRST_READ.min(source.len());
    loop {
        let bytes = source.read(0..length).await?;
        match parse(&bytes, source) {
            Ok(parsed) => return Ok(parsed),
            Err(Stop::Bad(error)) => return Err(error.file(source.name())),
            Err(Stop::More) => length = (2 * length).min(source.len()).min(MAX_READ),
        }
    }
}

/// The beginning of a file, read from the front.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    size: u64, // of the whole file
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: u64, what: &str) -> Parsed<&'a [u8]> {
        let end = (self.at as u64).checked_add(n).filter(|&end| end <= self.size);
        let Some(end) = end else {
            let left = self.size - self.at as u64;
            return Err(Stop::Bad(
                Error::corrupt(format!("{what} exceeds file size"))
                    .expected(format!("at most {left} more bytes"))
                    .found(n)
                    .remedy("the file may be truncated: fetch it again"),
            ));
        };
        if end > MAX_READ {
            let error = Error::corrupt("metadata too long").expected(format!("at most {MAX_READ} bytes"));
            return Err(Stop::Bad(error));
        }
        let taken =
            usize::try_from(end).ok().and_then(|end| self.bytes.get(self.at..end)).ok_or(Stop::More)?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().unwrap_or([0; N]))
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string(&mut self) -> Parsed<String> {
        let length = self.u64("string length")?;
        let bytes = self.take(length, "string length")?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// A count of things of at least `bytes` bytes each.
    fn count(&mut self, what: &str, bytes: u64) -> Parsed<u64> {
        let count = self.u64(what)?;
        let left = self.size - self.at as u64;
        if count > left / bytes {
            return Err(Stop::Bad(
                Error::corrupt(format!("{what} exceeds file size"))
                    .expected(format!("at most {}", left / bytes))
                    .found(count),
            ));
        }
        Ok(count)
    }

    fn value(&mut self, ty: u32) -> Parsed<Value> {
        Ok(match ty {
            6 => Value::Float(f64::from(f32::from_bits(self.u32("value")?))),
            12 => Value::Float(f64::from_bits(self.u64("value")?)),
            0 | 2 | 4 | 10 => Value::Unsigned(self.integer(ty)? as u64),
            1 | 3 | 5 | 11 => Value::Signed(self.integer(ty)?),
            7 => Value::Bool(self.integer(7)? != 0),
            8 => Value::String(self.string()?),
            9 => {
                let ty = self.u32("array type")?;
                self.values(ty)?
            }
            _ => return Err(Stop::Bad(Error::unsupported(format!("unknown metadata value type {ty}")))),
        })
    }

    /// An integer of type `ty`; a u64 keeps its bits.
    fn integer(&mut self, ty: u32) -> Parsed<i64> {
        Ok(match ty {
            0 => i64::from(u8::from_le_bytes(self.array("value")?)),
            1 => i64::from(i8::from_le_bytes(self.array("value")?)),
            2 => i64::from(u16::from_le_bytes(self.array("value")?)),
            3 => i64::from(i16::from_le_bytes(self.array("value")?)),
            4 => i64::from(u32::from_le_bytes(self.array("value")?)),
            5 => i64::from(i32::from_le_bytes(self.array("value")?)),
            7 => match self.array("value")? {
                [flag @ 0..=1] => i64::from(flag),
                [flag] => return Err(Stop::Bad(Error::corrupt(format!("invalid bool value {flag}")))),
            },
            _ => i64::from_le_bytes(self.array("value")?),
        })
    }

    fn values(&mut self, ty: u32) -> Parsed<Value> {
        const COUNT: &str = "array length";
        Ok(match ty {
            8 => {
                let mut all = Vec::new();
                for _ in 0..self.count(COUNT, 8)? {
                    all.push(self.string()?);
                }
                Value::Strings(all)
            }
            6 | 12 => {
                let mut all = Vec::new();
                for _ in 0..self.count(COUNT, 4)? {
                    let Value::Float(x) = self.value(ty)? else { continue };
                    all.push(x as f32);
                }
                Value::Floats(all)
            }
            0..=5 | 7 | 10 | 11 => {
                let mut all = Vec::new();
                for _ in 0..self.count(COUNT, 1)? {
                    all.push(self.integer(ty)?);
                }
                Value::Integers(all)
            }
            9 => return Err(Stop::Bad(Error::unsupported("an array of arrays in the metadata"))),
            _ => return Err(Stop::Bad(Error::unsupported(format!("unknown metadata value type {ty}")))),
        })
    }
}

/// More dimensions than ggml itself can have.
const MAX_DIMS: u32 = 4;

fn parse(bytes: &[u8], source: &Arc<dyn Source>) -> Parsed<(Metadata, Vec<TensorInfo>)> {
    let mut cursor = Cursor { bytes, at: 0, size: source.len() };
    let magic = cursor.array::<4>("magic")?;
    if &magic != b"GGUF" {
        return Err(Stop::Bad(Error::unsupported("not a GGUF file").expected("the magic GGUF")));
    }
    let version = cursor.u32("version")?;
    if !(2..=3).contains(&version) {
        let swapped = (2..=3).contains(&version.swap_bytes());
        let (found, note) =
            if swapped { (version.swap_bytes(), " in big-endian byte order") } else { (version, "") };
        let error = Error::unsupported(format!("unsupported GGUF version {found}{note}"));
        return Err(Stop::Bad(error.expected("version 2 or 3, little-endian")));
    }
    let tensors = cursor.count("tensor count", 8 + 4 + 4 + 8)?;
    let pairs = cursor.count("metadata count", 8 + 4 + 1)?;
    let mut metadata = Metadata { file: source.name().to_string(), values: BTreeMap::new() };
    for _ in 0..pairs {
        let key = cursor.string()?;
        let ty = cursor.u32("metadata value type")?;
        let value = cursor.value(ty).map_err(|stop| match stop {
            Stop::Bad(error) => Stop::Bad(error.tensor(&key)),
            more => more,
        })?;
        if metadata.values.insert(key.clone(), value).is_some() {
            return Err(Stop::Bad(Error::corrupt(format!("duplicate metadata key {key}"))));
        }
    }
    let alignment = metadata.unsigned("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return Err(Stop::Bad(Error::corrupt("alignment must be a power of two").found(alignment)));
    }
    let mut names = HashSet::new();
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let (tensor, offset) = directory_entry(&mut cursor, source)?;
        if !names.insert(tensor.name.clone()) {
            return Err(Stop::Bad(Error::corrupt(format!("duplicate tensor {}", tensor.name))));
        }
        infos.push((tensor, offset));
    }
    let arch = metadata.architecture().unwrap_or_default().to_owned();
    let arch = arch.as_str();
    let data = (cursor.at as u64).checked_next_multiple_of(alignment);
    let mut tensors = Vec::new();
    for (mut tensor, offset) in infos {
        if !offset.is_multiple_of(alignment) {
            let error = Error::corrupt(format!("offset is not a multiple of the alignment {alignment}"));
            return Err(Stop::Bad(error.tensor(&tensor.name).found(offset)));
        }
        let start = data.and_then(|data| data.checked_add(offset));
        let end =
            start.and_then(|start| start.checked_add(tensor.range.end)).filter(|&end| end <= source.len());
        let (Some(start), Some(end)) = (start, end) else {
            let error = Error::corrupt(format!("tensor {} ends past end of file", tensor.name));
            return Err(Stop::Bad(error.remedy("the file may be truncated: fetch it again")));
        };
        tensor.range = start..end;
        tensor.name = hugging_face_name(&tensor.name, arch);
        tensors.push(tensor);
    }
    Ok((metadata, tensors))
}

/// One line of the tensor directory: the tensor, its range still without an offset, and the offset.
fn directory_entry(cursor: &mut Cursor, source: &Arc<dyn Source>) -> Parsed<(TensorInfo, u64)> {
    let name = cursor.string()?;
    let bad = |error: Error| Stop::Bad(error.tensor(&name));
    let count = cursor.u32("dimensions")?;
    if !(1..=MAX_DIMS).contains(&count) {
        return Err(bad(Error::corrupt("dimensions").expected(format!("1 to {MAX_DIMS}")).found(count)));
    }
    let mut dims = Vec::new();
    for _ in 0..count {
        dims.push(cursor.u64("dimensions")?);
    }
    let ty = cursor.u32("tensor type")?;
    let offset = cursor.u64("tensor offset")?;
    if let Some((_, removed)) = REMOVED.iter().find(|(id, _)| *id == ty) {
        let error = Error::unsupported(format!("ggml type {removed} is no longer supported"));
        return Err(bad(error.remedy("quantize the model anew")));
    }
    let Some(ty) = TYPES.iter().find(|t| t.id == ty) else {
        return Err(bad(Error::unsupported(format!("unknown ggml type {ty}"))));
    };
    if dims.contains(&0) {
        return Err(bad(Error::corrupt("invalid dimension 0").found(format!("{dims:?}"))));
    }
    let overflow = || bad(Error::corrupt(format!("shape overflow for {name}")).found(format!("{dims:?}")));
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
    if !dims[0].is_multiple_of(ty.weights as u64) {
        let expected = format!("a multiple of {}", ty.weights);
        return Err(bad(Error::corrupt(format!("row length for {}", ty.name))
            .expected(expected)
            .found(dims[0])));
    }
    let dtype = match ty.name {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        _ => Dtype::Block(ty),
    };
    let bytes = dtype.bytes(elements).ok_or_else(overflow)?;
    let shape = dims.iter().rev().map(|&d| usize::try_from(d).map_err(|_| overflow()));
    let shape = shape.collect::<Parsed<Vec<usize>>>()?;
    Ok((TensorInfo { name, dtype, shape, source: source.clone(), range: 0..bytes }, offset))
}
