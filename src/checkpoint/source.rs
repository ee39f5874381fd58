//! Sources of bytes: a memory-mapped file, a slice; later HTTP ranges and the browser's files.

use super::BoxFuture;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Random access to the bytes of one file. Offsets are u64: models outgrow a 32-bit address space.
pub trait Source: Send + Sync {
    /// File name, for messages.
    fn name(&self) -> &str;

    /// Bytes in all.
    fn len(&self) -> u64;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which lies inside the file.
    fn read(&self, range: Range<u64>) -> BoxFuture<'_, Result<Cow<'_, [u8]>>>;
}

/// Bytes in memory: an embedded model, a fetched file, a test.
pub struct Bytes {
    name: String,
    bytes: Cow<'static, [u8]>,
}

impl Bytes {
    /// A source over `bytes`.
    pub fn new(name: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), bytes: bytes.into() })
    }
}

/// The part of `bytes` that `range` names, or an error that says where the file ends.
fn slice<'a>(name: &str, bytes: &'a [u8], range: Range<u64>) -> Result<&'a [u8]> {
    let found = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    found.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
        Error::corrupt("read past the end of the file")
            .file(name)
            .expected(format!("at least {} bytes", range.end))
            .found(bytes.len())
            .remedy("the file may be truncated: fetch it again")
    })
}

impl Source for Bytes {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> BoxFuture<'_, Result<Cow<'_, [u8]>>> {
        Box::pin(async move { slice(&self.name, &self.bytes, range).map(Cow::Borrowed) })
    }
}

/// A memory-mapped file.
#[cfg(not(target_arch = "wasm32"))]
pub struct MappedFile {
    name: String,
    map: Option<memmap2::Mmap>, // an empty file cannot be mapped
}

#[cfg(not(target_arch = "wasm32"))]
impl MappedFile {
    /// Maps `path` into memory.
    pub fn open(path: &std::path::Path) -> Result<Arc<Self>> {
        let io = |e| Error::io(path.display(), e);
        let file = std::fs::File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::invalid("not a regular file").file(path.display()));
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the map is only read. Another process that truncates the file while it is mapped can make
            // reads fault, as with every memory-mapped file; model files are not edited in place.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(io)?)
        };
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Arc::new(Self { name, map }))
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Source for MappedFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn read(&self, range: Range<u64>) -> BoxFuture<'_, Result<Cow<'_, [u8]>>> {
        Box::pin(async move { slice(&self.name, self.bytes(), range).map(Cow::Borrowed) })
    }
}
