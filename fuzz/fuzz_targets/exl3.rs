//! EXL3 layers, whose inputs are multiples of 128.

#![no_main]

#[allow(dead_code)]
mod common;
use libfuzzer_sys::fuzz_target;

const QUANTIZATION: &str = r#","quantization_config":{"quant_method":"exl3"}"#;

fuzz_target!(|data: &[u8]| {
    let config = common::config(QUANTIZATION);
    let config = config.replace(r#""hidden_size":64"#, r#""hidden_size":128"#);
    common::model(&config.replace(r#""intermediate_size":128"#, r#""intermediate_size":256"#), data)
});
