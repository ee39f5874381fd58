//! One integration binary: links once, runs everything.

mod adapters;
mod bench;
mod cache;
#[cfg(feature = "cli")]
mod cli;
mod documents;
mod fixtures;
mod golden;
#[cfg(feature = "hub")]
mod hub;
mod inspect;
mod kernels;
mod memory;
mod mutations;
mod readers;
mod recording;
mod session;
mod shaders;
mod shared;
mod tokenizer;
