//! Models: configuration → forward.

pub mod config;
pub use config::{ModelConfig, Rope, RopeScaling};
