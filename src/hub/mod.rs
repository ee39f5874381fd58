//! `hf:owner/repo[@revision]`: models of a Hugging Face hub, downloaded into its cache.
//!
//! Only the files that a model consists of are fetched, each once: the cache is laid out as `huggingface_hub` does it
//! (`blobs`, `snapshots`, `refs`), so that other programs' downloads are found too. A download that breaks goes on
//! where it stopped, in the same run or the next. Files whose etag is a SHA-256 are checked against it.
//!
//! ```no_run
//! # fn main() -> halfbyte::Result<()> {
//! use halfbyte::hub::{Hub, Source};
//! let source: Source = "hf:HuggingFaceTB/SmolLM2-135M-Instruct".parse()?;
//! let fetched = Hub::from_env()?.fetch(&source, &mut |p| println!("{} {}/{}", p.file, p.done, p.total))?;
//! println!("{}", fetched.path.display()); // for Checkpoint::open
//! # Ok(()) }
//! ```

mod choice;
#[cfg(all(feature = "hub", not(target_arch = "wasm32")))]
mod download;

pub use choice::{Choice, Source, choose, index_file};
#[cfg(all(feature = "hub", not(target_arch = "wasm32")))]
pub use download::{Fetched, Hub, Options, Progress, cache_home};
