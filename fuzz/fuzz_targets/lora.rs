//! LoRA adapters.

#![no_main]

#[allow(dead_code)]
mod common;

use halfbyte::checkpoint::lora::Adapter;
use libfuzzer_sys::fuzz_target;

const CONFIG: &[u8] = br#"{"peft_type":"LORA","r":8,"lora_alpha":16,"rank_pattern":{"q_proj":4}}"#;

fuzz_target!(|data: &[u8]| {
    let files = common::files(("adapter_config.json", CONFIG), ("adapter_model.safetensors", data));
    let _ = pollster::block_on(Adapter::from_files(&files));
});
