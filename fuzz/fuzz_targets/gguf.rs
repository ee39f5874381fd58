//! GGUF files.

#![no_main]

#[allow(dead_code)]
mod common;

use halfbyte::checkpoint::Checkpoint;
use halfbyte::checkpoint::source::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let source = Bytes::new("model.gguf", data.to_vec());
    if let Ok(checkpoint) = pollster::block_on(Checkpoint::from_gguf(source)) {
        common::read(&checkpoint);
    }
});
