//! The GPU side: adapters and capabilities, shader linking, pipelines, recordings that replay.

pub mod context;
#[cfg(not(target_arch = "wasm32"))]
mod disk_cache;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod emulated;
mod fuse;
pub mod kernels;
pub mod link;
mod pipeline;
pub mod probe;
pub mod recorder;
#[cfg(not(target_arch = "wasm32"))]
mod tuning;

pub use context::{AdapterChoice, Browser, Capabilities, Context, LimitSet, Options, Rounding};
pub use probe::Probe;
