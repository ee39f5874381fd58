//! Runs quantized language models on any GPU that speaks WebGPU: natively over Vulkan, Metal and DX12, and (the
//! same core) in the browser.
//!
//! ```no_run
//! use halfbyte::{Session, session::GenerateOptions};
//!
//! # fn main() -> halfbyte::Result<()> {
//! let loading = Session::open("models/tale.gguf", |p| println!("{p}"));
//! let mut session = pollster::block_on(loading)?;
//! let mut text = session.generate("Once upon a time", &GenerateOptions::default())?;
//! while let Some(piece) = pollster::block_on(text.next()) {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! In `async` code the same calls are awaited, and [`session::Generation::into_stream`] gives a stream. Dropping a
//! generation cancels it; the session goes on. Everything that can go wrong is an [`enum@Error`].
//!
//! # Layers
//!
//! An arrow may only point down.
//!
//! | module | what |
//! |---|---|
//! | [`session`] | tokens in, text out: prefill, decode, sampling, stops ([`tokenizer`], [`chat`], [`sampler`], [`stop`]) |
//! | [`model`] | configuration → forward, written down the page like the paper |
//! | [`linear`] | codec × transform × side term: the one place where they meet |
//! | [`ops`] ‖ [`mod@reference`] | the vocabulary of a forward pass, and its CPU twin ([`verify`] compares them) |
//! | [`device`], [`quant`], [`gpu`] | where it runs; codecs; adapters, shader linking, recordings |
//! | [`checkpoint`] | readers: on-disk layouts; know nothing of the GPU |

pub mod bench;
pub mod chat;
pub mod checkpoint;
pub mod device;
#[cfg(not(target_arch = "wasm32"))]
pub mod embedded;
pub mod error;
pub mod gpu;
pub mod hub;
pub mod inspect;
pub mod linear;
pub mod model;
pub mod ops;
pub mod perplexity;
pub mod quant;
pub mod reference;
pub mod sampler;
pub mod session;
pub mod stop;
pub mod tokenizer;
pub mod verify;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
mod web;

pub use device::Device;
pub use error::{Error, Result};
pub use model::Model;
pub use session::Session;
