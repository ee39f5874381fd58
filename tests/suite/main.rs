//! One integration binary: links once, runs everything.

mod adapters;
mod kernels;
mod tokenizer;
