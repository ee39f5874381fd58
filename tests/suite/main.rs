//! One integration binary: links once, runs everything.

mod adapters;
mod golden;
mod kernels;
mod mutations;
mod readers;
mod recording;
mod shaders;
mod shared;
mod tokenizer;
