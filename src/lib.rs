//! Runs quantized language models on any GPU that speaks WebGPU.

pub mod checkpoint;
pub mod error;
pub mod model;
pub mod quant;

pub use error::{Error, Result};
