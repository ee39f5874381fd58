//! Runs quantized language models on any GPU that speaks WebGPU.

pub mod chat;
pub mod checkpoint;
pub mod device;
pub mod embedded;
pub mod error;
pub mod gpu;
pub mod linear;
pub mod model;
pub mod ops;
pub mod quant;
pub mod reference;
pub mod sampler;
pub mod session;
pub mod stop;
pub mod tokenizer;
pub mod verify;

pub use device::Device;
pub use error::{Error, Result};
pub use model::Model;
pub use session::Session;
