//! suite

mod tokenizer;
