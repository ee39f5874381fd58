//! One integration binary: links once, runs everything.

mod adapters;
mod cli;
mod golden;
mod kernels;
mod session;
mod tokenizer;
