//! The checkpoints of `$HALFBYTE_SHARED/fixtures` whose format is read: one line each, walked by the tests of readers
//! (decoded weights) and of whole models (logits, texts, perplexities).

/// Folder, and what `Checkpoint::format_name` calls it.
pub(crate) const READ: &[(&str, &str)] = &[
    ("stories260K-w256/f16", "f16"),
    ("tinystories-656k/bf16", "bf16"),
    ("tinystories-656k/bnb-fp4", "bitsandbytes FP4"),
    ("tinystories-656k/bnb-nf4", "bitsandbytes NF4"),
    ("tinystories-656k/bnb-nf4-dq", "bitsandbytes NF4"),
    ("tinystories-656k/f16", "f16"),
    ("tinystories-656k/f32", "f32"),
    ("tinystories-656k/gguf-bf16", "GGUF"),
    ("tinystories-656k/gguf-f16", "GGUF"),
    ("tinystories-656k/gguf-q4_0", "GGUF"),
    ("tinystories-656k/gguf-q4_1", "GGUF"),
    ("tinystories-656k/gguf-q5_0", "GGUF"),
    ("tinystories-656k/gguf-q5_1", "GGUF"),
    ("tinystories-656k/gguf-q8_0", "GGUF"),
    ("tinystories-656k/gptq-2bit-g64", "GPTQ"),
    ("tinystories-656k/gptq-3bit-g128", "GPTQ"),
    ("tinystories-656k/gptq-4bit-g128", "GPTQ"),
    ("tinystories-656k/gptq-4bit-g32-actorder", "GPTQ"),
    ("tinystories-656k/gptq-8bit-perchannel", "GPTQ"),
    ("tinystories-656k/gptq_v2-4bit-g128", "GPTQ"),
    ("tinystories-656k/hqq-2bit-g64", "HQQ"),
    ("tinystories-656k/hqq-3bit-g64", "HQQ"),
    ("tinystories-656k/hqq-4bit-g64", "HQQ"),
    ("tinystories-656k/mlc-q3f16_1", "MLC q3f16_1"),
    ("tinystories-656k/mlc-q4f16_1", "MLC q4f16_1"),
    ("tinystories-656k/quip-e8p12", "QuIP# E8P12"),
];
