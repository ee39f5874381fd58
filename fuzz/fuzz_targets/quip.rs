//! QuIP# layers.

#![no_main]

#[allow(dead_code)]
mod common;
use libfuzzer_sys::fuzz_target;

const QUANTIZATION: &str = r#","quip_params":{"codebook":"E8P12","codebook_version":1}"#;

fuzz_target!(|data: &[u8]| common::model(&common::config(QUANTIZATION), data));
