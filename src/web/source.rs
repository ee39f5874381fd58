//! Files of the page: whatever has `{name, size, read(start, end)}`.

use crate::checkpoint::BoxFuture;
use crate::checkpoint::source::Source;
use crate::error::{Error, Result};
use js_sys::{Promise, Uint8Array};
use send_wrapper::SendWrapper;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// A `File`, a download, a file of OPFS … may give this many bytes at once.
const READ_MAX: u64 = 16 << 20;

#[wasm_bindgen]
extern "C" {
    /// What the worker makes of a source.
    pub type CoreFile;
    #[wasm_bindgen(method, getter)]
    fn name(this: &CoreFile) -> String;
    #[wasm_bindgen(method, getter)]
    fn size(this: &CoreFile) -> f64;
    /// Exactly the bytes `start..end`.
    #[wasm_bindgen(method, catch)]
    fn read(this: &CoreFile, start: f64, end: f64) -> std::result::Result<Promise, JsValue>;
}

/// A file that JavaScript reads. A page has one thread, which the wrapper makes sure of.
pub struct PageFile {
    name: String,
    size: u64,
    file: SendWrapper<CoreFile>,
}

impl PageFile {
    /// Takes name and size of `file`.
    pub fn new(file: CoreFile) -> Arc<dyn Source> {
        let (name, size) = (file.name(), file.size());
        Arc::new(Self { name, size: size.max(0.0) as u64, file: SendWrapper::new(file) })
    }

    async fn fill(&self, range: Range<u64>, bytes: &mut [u8]) -> Result<()> {
        let read = self.file.read(range.start as f64, range.end as f64).map_err(failure)?;
        let read: Uint8Array = JsFuture::from(read).await.map_err(failure)?.unchecked_into();
        if read.length() as usize != bytes.len() {
            return Err(Error::corrupt("the file ends early")
                .file(&self.name)
                .expected(format!("{} bytes at {}", bytes.len(), range.start))
                .found(read.length())
                .remedy("the file may have changed: load it again"));
        }
        read.copy_to(bytes);
        Ok(())
    }
}

impl Source for PageFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> BoxFuture<'_, Result<Cow<'_, [u8]>>> {
        Box::pin(async move {
            if range.start > range.end || range.end > self.size {
                return Err(Error::corrupt("read past the end of the file")
                    .file(&self.name)
                    .expected(format!("at least {} bytes", range.end))
                    .found(self.size)
                    .remedy("the file may be truncated: fetch it again"));
            }
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let mut bytes = Vec::new();
            let room = bytes.try_reserve_exact(length);
            room.map_err(|_| Error::OutOfMemory(format!("no room for {length} bytes of {}", self.name)))?;
            bytes.resize(length, 0);
            let mut at = range.start;
            for piece in bytes.chunks_mut(READ_MAX as usize) {
                let end = at + piece.len() as u64;
                self.fill(at..end, piece).await?;
                at = end;
            }
            Ok(Cow::Owned(bytes))
        })
    }
}

/// An exception as an error: its `kind` and `message`, where it has them.
pub fn failure(thrown: JsValue) -> Error {
    let text = |key: &str| js_sys::Reflect::get(&thrown, &key.into()).ok().and_then(|v| v.as_string());
    let message = text("message").or_else(|| thrown.as_string());
    Error::Source {
        kind: text("kind").unwrap_or_else(|| "Network".into()),
        message: message.unwrap_or_else(|| format!("{thrown:?}")),
    }
}
