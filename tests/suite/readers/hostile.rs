//! Broken files give the error that a user can act on: no panic, no hang, no wrong answer.

use super::*;
use halfbyte::checkpoint::source::{Bytes, MappedFile, Source};
use halfbyte::checkpoint::{Files, gguf, safetensors};
use std::sync::Arc;

/// What the message of every entry has to contain. An entry `ok_…` has to load.
const EXPECTED: &[(&str, &[&str])] = &[
    ("st_empty.safetensors", &["too short to be safetensors (0 bytes)"]),
    ("st_truncated_header.safetensors", &["header says", "file holds fewer"]),
    ("st_header_len_short.safetensors", &["header is not valid JSON"]),
    ("st_header_len_zero.safetensors", &["empty header"]),
    ("st_header_array.safetensors", &["header must be a JSON object"]),
    ("st_deep_nesting.safetensors", &["invalid type"]),
    ("st_offset_reversed.safetensors", &["data_offsets end < start"]),
    ("st_offset_negative.safetensors", &["invalid data_offsets"]),
    ("st_hole.safetensors", &["gap in the data section"]),
    ("st_trailing_garbage.safetensors", &["file longer than its tensors"]),
    ("st_dim_overflow_wrap0.safetensors", &["shape overflow for b.weight"]),
    ("st_missing_offsets.safetensors", &["missing field data_offsets"]),
    ("st_many_empty_tensors.safetensors", &["missing tensor model."]),
    ("st_path_traversal_name.safetensors", &["missing tensor model."]),
    ("missing_tensor", &["missing tensor model.layers.0.self_attn.k_proj.weight"]),
    (
        "shape_mismatch",
        &["shape mismatch for model.layers.0.mlp.up_proj.weight: expected [32,16], found [32,15]"],
    ),
    ("config_heads_indivisible", &["hidden_size 16 is not divisible by num_attention_heads 3"]),
    ("config_kv_indivisible", &["num_attention_heads 4 is not divisible by num_key_value_heads 3"]),
    ("config_negative_hidden", &["invalid hidden_size -16"]),
    ("config_unknown_quant", &["unsupported quantization method wizardry", "GPTQ"]),
    ("config_rms_eps_nan", &["invalid rms_norm_eps"]),
    ("wrong_dtype_embed", &["unexpected dtype I64 for model.embed_tokens.weight"]),
    ("index_path_traversal", &["shard path leaves the model directory"]),
    ("gptq_gidx_oob", &["g_idx out of range (77 >= 1)", "q_proj"]),
    ("gptq_missing_qzeros", &["missing tensor", "q_proj.qzeros"]),
    ("gptq_bits_5", &["unsupported bits 5"]),
    ("gptq_group_size_0", &["invalid group_size 0"]),
    ("gptq_qweight_f32", &["qweight must be I32"]),
    ("aqlm_code_oob", &["code 5000 out of range", "q_proj.codes"]),
    ("quip_su_short", &["SU length mismatch"]),
    ("bnb_absmax_short", &["absmax length mismatch"]),
    ("spqr_row_offsets_oob", &["row_offsets exceed col_vals"]),
    ("exl2_bits_7", &["unsupported bit rate 7", "q_proj.q_groups"]),
    ("exl2_invperm_not_perm", &["q_invperm is not a permutation"]),
    ("gg_version_1.gguf", &["unsupported GGUF version 1"]),
    ("gg_big_endian.gguf", &["unsupported GGUF version", "byte order"]),
    ("gg_truncated_data.gguf", &["tensor token_embd.weight ends past end of file"]),
    ("gg_kv_count_huge.gguf", &["metadata count exceeds file size"]),
    ("gg_string_len_huge.gguf", &["string length exceeds file size"]),
    ("gg_unknown_kv_type.gguf", &["unknown metadata value type 77"]),
    ("gg_duplicate_tensor.gguf", &["duplicate tensor token_embd.weight"]),
    ("gg_removed_type_q4_2.gguf", &["ggml type Q4_2 is no longer supported"]),
    ("gg_offset_overflow.gguf", &["token_embd.weight"]),
    ("gg_dims_overflow.gguf", &["shape overflow"]),
    ("gg_dim_zero.gguf", &["invalid dimension 0"]),
    ("gg_alignment_not_pow2.gguf", &["alignment must be a power of two"]),
    ("gg_no_architecture.gguf", &["missing metadata general.architecture"]),
    ("gg_arch_wrong_type.gguf", &["general.architecture must be a string"]),
    ("gg_bad_bool.gguf", &["invalid bool value 9"]),
    ("gg_q4_0_nan_scale.gguf", &["missing metadata"]),
    ("ok_minimal_container.gguf", &["missing metadata llama.context_length"]),
    ("npz_as_safetensors.safetensors", &["not a safetensors file (looks like zip/PyTorch pickle)"]),
    ("html_error_page.safetensors", &["not a safetensors file (looks like HTML)"]),
    ("lora_rank_mismatch", &["LoRA rank mismatch: config 8, tensor 4"]),
];

/// Entries that hold the first projection only.
const ONE_MODULE: [&str; 6] = [
    "quip_su_short",
    "bnb_absmax_short",
    "aqlm_code_oob",
    "exl2_bits_7",
    "exl2_invperm_not_perm",
    "spqr_row_offsets_oob",
];

/// Opens and reads all of an entry the way a user would; one layer's module where only that is in the file.
fn try_entry(hostile: &Path, name: &str, kind: &str) -> Result<()> {
    let path = hostile.join(name);
    match kind {
        "adapter" => block_on(Adapter::open(&path)).map(|_| ()),
        "safetensors" => {
            let weights = MappedFile::open(&path)?;
            let config = MappedFile::open(&hostile.join("ok_tiny_llama/config.json"))?;
            let mut files = Files::new();
            files.insert("config.json".into(), config);
            files.insert("model.safetensors".into(), weights);
            let checkpoint = block_on(Checkpoint::from_files(files))?;
            checkpoint.check()?;
            load_all(&checkpoint, BUDGETS[0]).map(|_| ())
        }
        _ if ONE_MODULE.contains(&name) => {
            let checkpoint = block_on(Checkpoint::open(&path))?;
            let matrices = block_on(checkpoint.matrices("model.layers.0.self_attn", &["q_proj"]))?;
            load(&matrices[0], BUDGETS[0]).map(|_| ())
        }
        _ => load_all(&block_on(Checkpoint::open(&path))?, BUDGETS[0]).map(|_| ()),
    }
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    let Some(shared) = shared("hostile files") else { return };
    let hostile = shared.join("fixtures/hostile");
    let manifest = json(&hostile.join("manifest.json"));
    let entries = manifest["files"].as_array().unwrap();
    assert_eq!(entries.len(), 60);
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        let kind = entry["kind"].as_str().unwrap();
        let start = Instant::now();
        let result = try_entry(&hostile, name, kind);
        assert!(start.elapsed() < Duration::from_secs(60), "{name} hangs: {:?}", start.elapsed());
        let expected = EXPECTED.iter().find(|(n, _)| *n == name);
        match (result, expected) {
            // What is wrong with a tokenizer is found when one is made of it.
            (Ok(()), None) => assert!(name.starts_with("ok_") || kind == "tokenizer", "{name} loads"),
            (Ok(()), Some(_)) => panic!("{name} loads"),
            (Err(error), None) => panic!("{name}: {error}"),
            (Err(error), Some((_, facts))) => {
                let text = error.to_string();
                println!("{name}: {text}");
                assert!(facts.iter().all(|fact| text.contains(fact)), "{name}: {text}");
            }
        }
    }
}

/// Containers alone, without a model around them.
#[test]
fn hostile_containers() {
    let Some(shared) = shared("hostile containers") else { return };
    let hostile = shared.join("fixtures/hostile");
    let source = |name: &str| -> Arc<dyn Source> { MappedFile::open(&hostile.join(name)).unwrap() };
    let (_, tensors) = block_on(gguf::open(&source("ok_minimal_container.gguf"))).unwrap();
    assert_eq!(tensors.len(), 1);
    assert_eq!(
        block_on(safetensors::tensors(&source("st_many_empty_tensors.safetensors"))).unwrap().len(),
        3000
    );
    let nested = br#"{"__metadata__":"#.iter().copied();
    let nested: Vec<u8> = nested.chain([b'['; 100_000]).collect();
    let file: Vec<u8> = (nested.len() as u64).to_le_bytes().into_iter().chain(nested).collect();
    let source: Arc<dyn Source> = Bytes::new("deep", file);
    assert!(block_on(safetensors::tensors(&source)).is_err());
}
