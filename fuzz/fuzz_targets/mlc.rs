//! MLC folders: the directory of tensors, a zero byte, a shard.

#![no_main]

#[allow(dead_code)]
mod common;

use halfbyte::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

const CHAT: &str = r#"{"model_type":"llama","quantization":"q3f16_1","model_config":{"hidden_size":64,
    "intermediate_size":128,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":40,
    "tie_word_embeddings":true}}"#;

fuzz_target!(|data: &[u8]| {
    let (directory, shard) = data.split_at(data.iter().position(|&b| b == 0).unwrap_or(data.len()));
    let shard = shard.get(1..).unwrap_or_default();
    let mut files = common::files(("ndarray-cache.json", directory), ("params_shard_0.bin", shard));
    files.extend(common::files(("mlc-chat-config.json", CHAT.as_bytes()), ("tokenizer.json", b"")));
    if let Ok(checkpoint) = pollster::block_on(Checkpoint::from_files(files)) {
        common::read(&checkpoint);
    }
});
