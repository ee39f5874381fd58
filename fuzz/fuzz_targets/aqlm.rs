//! AQLM layers.

#![no_main]

#[allow(dead_code)]
mod common;
use libfuzzer_sys::fuzz_target;

const QUANTIZATION: &str = r#","quantization_config":{"quant_method":"aqlm"}"#;

fuzz_target!(|data: &[u8]| common::model(&common::config(QUANTIZATION), data));
