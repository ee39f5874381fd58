//! Configurations.

#![no_main]

use halfbyte::checkpoint::hf::parse_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = parse_config(data, None);
    let _ = parse_config(br#"{"model_type":"llama"}"#, Some(data));
});
