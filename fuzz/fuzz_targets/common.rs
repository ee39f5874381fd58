//! What the targets share: a small model around the bytes that the fuzzer makes.

use halfbyte::checkpoint::source::{Bytes, Source};
use halfbyte::checkpoint::{Checkpoint, Files, StoredMatrix};
use halfbyte::quant::{Packed, Shape};
use std::sync::Arc;

/// The configuration that the seeds were made for; `quantization` is appended.
pub fn config(quantization: &str) -> String {
    format!(
        r#"{{"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_hidden_layers":1,
        "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":40,"tie_word_embeddings":true{quantization}}}"#
    )
}

/// A folder of two files.
pub fn files(json: (&str, &[u8]), weights: (&str, &[u8])) -> Files {
    let file = |(name, bytes): (&str, &[u8])| {
        let source: Arc<dyn Source> = Bytes::new(name, bytes.to_vec());
        (name.to_string(), source)
    };
    [file(json), file(weights)].into()
}

/// Opens a model with these weights, and reads all of it.
pub fn model(config: &str, weights: &[u8]) {
    let files = files(("config.json", config.as_bytes()), ("model.safetensors", weights));
    if let Ok(checkpoint) = pollster::block_on(Checkpoint::from_files(files)) {
        read(&checkpoint);
    }
}

/// Reads all of a model.
pub fn read(checkpoint: &Checkpoint) {
    let _ = checkpoint.check();
    let _ = checkpoint.tensors();
    if let Ok(Some(matrix)) = pollster::block_on(checkpoint.matrix("model.embed_tokens")) {
        load(&matrix);
    }
    for layer in 0..checkpoint.config().layers.min(2) {
        for (parent, names) in [
            ("self_attn", &["q_proj", "k_proj", "v_proj", "o_proj"][..]),
            ("mlp", &["gate_proj", "up_proj", "down_proj"][..]),
        ] {
            let parent = format!("model.layers.{layer}.{parent}");
            for name in names {
                for matrix in pollster::block_on(checkpoint.matrices(&parent, &[name])).unwrap_or_default() {
                    load(&matrix);
                }
            }
        }
    }
}

/// Packs a matrix and decodes a row.
fn load(matrix: &StoredMatrix) {
    let shape = Shape { rows: matrix.rows, cols: matrix.cols };
    if shape.packed_bytes(&*matrix.codec) > 1 << 26 {
        return;
    }
    let mut packed = Packed::new(matrix.codec.clone(), shape);
    for extent in matrix.data.extents(5000) {
        if let Ok(piece) = pollster::block_on(matrix.data.read(&extent)) {
            packed.write_piece(&piece);
        }
    }
    packed.decode_row(0, &mut vec![0.0; matrix.cols]);
}
