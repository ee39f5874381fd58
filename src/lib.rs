//! Runs quantized language models on any GPU that speaks WebGPU.

pub mod chat;
pub mod checkpoint;
pub mod error;
pub mod model;
pub mod quant;
pub mod sampler;
pub mod stop;
pub mod tokenizer;

pub use error::{Error, Result};
