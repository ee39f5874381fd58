//! Runs quantized language models on any GPU that speaks WebGPU.

pub mod checkpoint;
pub mod device;
pub mod error;
pub mod gpu;
pub mod model;
pub mod ops;
pub mod quant;
pub mod reference;
pub mod verify;

pub use error::{Error, Result};
