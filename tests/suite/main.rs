//! One integration binary: links once, runs everything.

mod adapters;
mod golden;
mod kernels;
mod readers;
mod shared;
mod tokenizer;
