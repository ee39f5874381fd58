//! Unquantized safetensors files.

#![no_main]

#[allow(dead_code)]
mod common;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| common::model(&common::config(""), data));
