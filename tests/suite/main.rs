//! One integration binary: links once, runs everything.

mod adapters;
mod golden;
#[cfg(feature = "hub")]
mod hub;
mod inspect;
mod kernels;
mod mutations;
mod readers;
mod recording;
mod shaders;
mod shared;
mod tokenizer;
