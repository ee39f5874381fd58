//! Small HQQ, MLC, EXL2, BitNet and SpQR models made on the spot, for what the golden files do not show: other widths,
//! settings that are refused, and damaged bytes.

use super::crafted::{
    Container, Crafted, FFN, HIDDEN, LAYERS, VOCAB, Weights, config, plain, put, random, verify,
};
use super::*;
use crate::adapters::contexts;
use halfbyte::checkpoint::Files;
use halfbyte::checkpoint::source::{Bytes, Source};
use halfbyte::gpu::Options;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

fn error_of(crafted: &Crafted) -> String {
    let opened = crafted.open(crafted.bytes.clone());
    opened.and_then(|checkpoint| load_all(&checkpoint, BUDGETS[0]).map(|_| ())).unwrap_err().to_string()
}

/// HQQ; settings are tensors of each module (`own`) or keys of the configuration.
fn hqq(bits: usize, group: usize, own: bool) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(bits as u64);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let width = if bits > 4 { 8 } else { bits };
    let count = if bits == 3 { 10 } else { 8 / width };
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let groups = rows * cols / group;
        let step = groups.div_ceil(count) * group;
        let mut words = vec![0u32; step];
        let (scale, zero) = (random(rng, groups), random(rng, groups));
        let mut dense = Vec::new();
        for i in 0..rows * cols {
            let code = rng.random_range(0..1u32 << width);
            words[i % step] |= code << (width * (count - 1 - i / step));
            dense.push((f64::from(code) - f64::from(zero[i / group])) * f64::from(scale[i / group]));
        }
        weights.insert(name.clone(), dense.into_iter().map(|w| w as f32).collect());
        match bits {
            3 => file.words(&format!("{name}.W_q"), &[step / group, group], &words),
            _ => file.add(
                &format!("{name}.W_q"),
                "U8",
                &[step / group, group],
                words.iter().map(|&w| w as u8).collect(),
            ),
        }
        file.halves(&format!("{name}.scale"), &[groups, 1], &scale);
        file.halves(&format!("{name}.zero"), &[groups, 1], &zero);
        if own {
            file.words(&format!("{name}.nbits"), &[], &[bits as u32]);
            file.words(&format!("{name}.group_size"), &[], &[group as u32]);
            file.words(&format!("{name}.axis"), &[], &[1]);
            file.add(&format!("{name}.quant_scale"), "U8", &[], vec![0]);
        }
    }
    let settings = format!(
        r#","quantization_config":{{"quant_method":"hqq","quant_config":{{"weight_quant_params":{{"nbits":{bits},"group_size":{group},"axis":1}}}}}}"#
    );
    Crafted {
        config: config(if own { r#","quantization_config":{"quant_method":"hqq"}"# } else { &settings }),
        bytes: file.bytes(),
        weights,
    }
}

#[test]
fn hqq_of_every_width() {
    for bits in [1, 2, 3, 4, 5, 8] {
        for group in [8, 32, HIDDEN] {
            hqq(bits, group, bits % 2 == 0).verify();
        }
    }
}

#[test]
fn hqq_that_is_not_read() {
    for (from, to, says) in [
        (r#""axis":1"#, r#""axis":0"#, "axis 0"),
        (r#""nbits":4"#, r#""nbits":7"#, "nbits 7"),
        (r#""group_size":32"#, r#""group_size":48"#, "group_size 48"),
        (r#""group_size":32"#, r#""group_size":4"#, "scale length mismatch"),
    ] {
        let model = hqq(4, 32, false);
        let model = Crafted { config: model.config.replace(from, to), ..model };
        let error = error_of(&model);
        assert!(error.contains(says), "{error}");
    }
    // Scales that are themselves quantized.
    let model = hqq(4, 32, true);
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let flag = checkpoint.raw_tensors().get("model.layers.0.self_attn.q_proj.quant_scale").unwrap();
    let mut bytes = model.bytes.clone();
    bytes[flag.range.start as usize] = 1;
    let error = error_of(&Crafted { bytes, ..model });
    assert!(error.contains("quant_scale"), "{error}");
}

/// An MLC folder: its files, and the weights that it holds.
fn mlc(quantization: &str, model_type: &str) -> (Files, Weights) {
    let rng = &mut StdRng::seed_from_u64(3);
    let mut weights = Weights::new();
    let (mut shard, mut records) = (Vec::new(), Vec::new());
    let mut add = |name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>| {
        records.push(serde_json::json!({"name": name, "shape": shape, "dtype": dtype, "format": "raw",
            "nbytes": bytes.len(), "byteOffset": shard.len()}));
        shard.extend(bytes);
    };
    let halves = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
    };
    let (bits, group) = if quantization.starts_with("q3") { (3, 40) } else { (4, 32) };
    let attention = if model_type == "qwen2" { "c_attn" } else { "qkv_proj" };
    let layer = |name: &str| format!("model.layers.0.{name}");
    let modules = [
        ("model.embed_tokens".to_string(), VOCAB, HIDDEN, vec!["model.embed_tokens".to_string()]),
        (
            layer(&format!("self_attn.{attention}")),
            2 * HIDDEN,
            HIDDEN,
            [0, 1, 2].map(|i| layer(LAYERS[i].0)).to_vec(),
        ),
        (layer("self_attn.o_proj"), HIDDEN, HIDDEN, vec![layer("self_attn.o_proj")]),
        (layer("mlp.gate_up_proj"), 2 * FFN, HIDDEN, [4, 5].map(|i| layer(LAYERS[i].0)).to_vec()),
        (layer("mlp.down_proj"), HIDDEN, FFN, vec![layer("mlp.down_proj")]),
    ];
    for (name, rows, cols, parts) in modules {
        let groups = cols.div_ceil(group);
        let mut dense = vec![0f32; rows * cols];
        if quantization == "q0f16" || quantization == "q4f16_2" && name == "model.embed_tokens" {
            dense = random(rng, rows * cols);
            add(&format!("{name}.weight"), "float16", &[rows, cols], halves(&dense));
        } else {
            let (a_word, scales) = (32 / bits, random(rng, rows * groups));
            let mut words = vec![0u32; rows * groups * group / a_word];
            for (i, w) in dense.iter_mut().enumerate() {
                let (row, k) = (i / cols, i % cols);
                let code = rng.random_range(0..1u32 << bits);
                words[row * groups * group / a_word + k / a_word] |= code << (k % a_word * bits);
                *w = (code as f32 - ((1 << (bits - 1)) - 1) as f32) * scales[row * groups + k / group];
            }
            let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            add(&format!("{name}.q_weight"), "uint32", &[rows, words.len() / rows], bytes);
            match quantization {
                "q4f32_1" => {
                    let bytes = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
                    add(&format!("{name}.q_scale"), "float32", &[rows, groups], bytes);
                }
                _ => add(&format!("{name}.q_scale"), "float16", &[rows, groups], halves(&scales)),
            }
        }
        let mut rest = &dense[..];
        for part in parts {
            let rows = LAYERS.iter().find(|(layer, ..)| part.ends_with(layer)).map_or(VOCAB, |layer| layer.1);
            let (own, more) = rest.split_at(rows * cols);
            weights.insert(part, own.to_vec());
            rest = more;
        }
        assert!(rest.is_empty());
    }
    for norm in ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"] {
        add(&format!("model.{norm}.weight"), "float16", &[HIDDEN], halves(&random(rng, HIDDEN)));
    }
    let directory = serde_json::json!({"metadata": {}, "records": [{"dataPath": "params_shard_0.bin",
        "format": "raw-shard", "nbytes": shard.len(), "records": records}]});
    let chat = serde_json::json!({"model_type": model_type, "quantization": quantization, "eos_token_id": [2, 3],
        "model_config": {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
            "context_window_size": 64, "position_embedding_base": 5000, "tie_word_embeddings": true}});
    (mlc_files(chat.to_string().into(), directory.to_string().into(), shard), weights)
}

fn mlc_files(chat: Vec<u8>, directory: Vec<u8>, shard: Vec<u8>) -> Files {
    let file = |(name, bytes): (&str, Vec<u8>)| -> (String, Arc<dyn Source>) {
        (name.to_string(), Bytes::new(name.to_string(), bytes))
    };
    [("mlc-chat-config.json", chat), ("ndarray-cache.json", directory), ("params_shard_0.bin", shard)]
        .map(file)
        .into()
}

#[test]
fn mlc_of_every_kind() {
    for (quantization, model_type, format) in [
        ("q4f16_1", "qwen2", "MLC q4f16_1"),
        ("q4f32_1", "llama", "MLC q4f32_1"),
        ("q4f16_2", "llama", "MLC q4f16_2"),
        ("q3f16_1", "llama", "MLC q3f16_1"),
        ("q0f16", "mistral", "f16"),
    ] {
        let (files, weights) = mlc(quantization, model_type);
        let checkpoint = block_on(Checkpoint::from_files(files)).unwrap();
        verify(&checkpoint, &weights);
        assert_eq!(checkpoint.format_name(), format);
        let config = checkpoint.config();
        assert_eq!((config.eos.as_slice(), config.rope.theta, config.context), (&[2, 3][..], 5000.0, 64));
    }
}

fn text(files: &Files, name: &str) -> Vec<u8> {
    let source = &files[name];
    block_on(source.read(0..source.len())).unwrap().into_owned()
}

/// One file of a folder changed, and read.
fn edited(files: &Files, name: &str, bytes: Vec<u8>) -> Result<()> {
    let mut files = files.clone();
    files.insert(name.to_string(), Bytes::new(name.to_string(), bytes));
    load_all(&block_on(Checkpoint::from_files(files))?, BUDGETS[1]).map(|_| ())
}

#[test]
fn mlc_that_is_not_read() {
    let (files, _) = mlc("q4f16_1", "llama");
    for (name, from, to, says) in [
        ("mlc-chat-config.json", "q4f16_1", "q4f16_0", "quantization q4f16_0 of MLC"),
        ("mlc-chat-config.json", "q4f16_1", "q3f16_1", "words with more than 30 bits"),
        ("mlc-chat-config.json", r#""rms_norm_eps":0.00001"#, r#""rms_norm_eps":-1"#, "mlc-chat-config.json"),
        ("ndarray-cache.json", "params_shard_0", "params_shard_1", "missing file params_shard_1.bin"),
        ("ndarray-cache.json", "uint32", "uint31", "unknown dtype uint31"),
        ("ndarray-cache.json", r#""format":"raw","#, r#""format":"zip","#, "format zip"),
        ("ndarray-cache.json", r#""nbytes":1280"#, r#""nbytes":1281"#, "nbytes do not fit"),
        (
            "ndarray-cache.json",
            r#""byteOffset":0"#,
            r#""byteOffset":18446744073709551615"#,
            "byteOffset past the end",
        ),
    ] {
        let text = String::from_utf8(text(&files, name)).unwrap();
        assert!(text.contains(from), "{text}");
        let error = edited(&files, name, text.replace(from, to).into_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
}

/// EXL2: rates 6, 5 and 3 in groups of 32, or all of 4 bits in groups of two; the head quantized, too.
fn exl2(mixed: bool) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(8);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let layers = LAYERS.map(|(name, rows, cols)| (format!("model.layers.0.{name}"), rows, cols));
    for (name, rows, cols) in layers.into_iter().chain([("lm_head".to_string(), VOCAB, HIDDEN)]) {
        let stored = rows.next_multiple_of(32);
        let units = cols / 32;
        let rates: Vec<usize> =
            (0..units).map(|unit| if !mixed { 4 } else { [6, 5, 3, 3][unit * 4 / units] }).collect();
        let group = if mixed { 1 } else { 2 };
        let groups = units / group;
        let lines: usize = rates.iter().sum();
        let mut words = vec![0; lines * stored];
        let mut scale_words = vec![0u32; groups * stored / 8];
        let max = random(rng, groups);
        let first = |unit: usize| rates[..unit].iter().sum::<usize>();
        let pairs = (0..groups).flat_map(|g| [rates[g * group] as u16, first(g * group) as u16]);
        let pairs: Vec<u8> = pairs.flat_map(|v| v.to_le_bytes()).collect();
        let mut invperm: Vec<u32> = (0..cols as u32).collect();
        (0..cols).for_each(|k| invperm.swap(k, rng.random_range(0..cols)));
        let codes: Vec<u32> = (0..groups * stored).map(|_| rng.random_range(0..16)).collect();
        codes.iter().enumerate().for_each(|(i, code)| scale_words[i / 8] |= code << (i % 8 * 4));
        let mut dense = vec![0.0; rows * cols];
        for n in 0..rows {
            let place = |k: usize| invperm.iter().position(|&p| p == k as u32).unwrap();
            for k in 0..cols {
                let (unit, bits) = (k / 32, rates[k / 32]);
                let code = rng.random_range(0..1u32 << bits);
                put(&mut words[first(unit) * stored + n..], stored, k % 32 * bits, code);
                let root = f64::from(codes[unit / group * stored + n] + 1);
                let scale = root * root * f64::from(max[unit / group]) / 256.0;
                dense[n * cols + place(k)] = ((f64::from(code) - f64::from(1 << (bits - 1))) * scale) as f32;
            }
        }
        file.words(&format!("{name}.q_weight"), &[lines, stored], &words);
        file.add(&format!("{name}.q_groups"), "I16", &[2 * groups], pairs);
        file.words(&format!("{name}.q_scale"), &[groups, stored / 8], &scale_words);
        file.halves(&format!("{name}.q_scale_max"), &[groups], &max);
        file.words(&format!("{name}.q_invperm"), &[cols], &invperm);
        weights.insert(name, dense);
    }
    let settings = r#","quantization_config":{"quant_method":"exl2","bits":4.0,"head_bits":6}"#;
    Crafted { config: config(settings), bytes: file.bytes(), weights }
}

#[test]
fn exl2_with_a_head() {
    for mixed in [false, true] {
        let model = exl2(mixed);
        model.verify();
        let checkpoint = model.open(model.bytes.clone()).unwrap();
        assert!(!checkpoint.config().tied);
        let head = block_on(checkpoint.matrix("lm_head")).unwrap().unwrap();
        assert_eq!(head.format, "EXL2");
    }
}

/// BitNet: ternary, or whatever two bits hold.
fn bitnet(class: &str, codes: u32) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(9);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let scale = 0.75f32;
        let mut bytes = vec![0u8; rows / 4 * cols];
        let mut dense = Vec::new();
        for n in 0..rows {
            for k in 0..cols {
                let code = rng.random_range(0..codes);
                bytes[n % (rows / 4) * cols + k] |= (code << (n / (rows / 4) * 2)) as u8;
                let value = code as f32 - 1.0;
                dense.push(if class == "bitlinear" {
                    (f64::from(value) / f64::from(scale)) as f32
                } else {
                    value * scale
                });
            }
        }
        file.add(&format!("{name}.weight"), "U8", &[rows / 4, cols], bytes);
        file.floats(&format!("{name}.weight_scale"), &[1], &[scale]);
        weights.insert(name, dense);
    }
    let settings = format!(
        r#","quantization_config":{{"quant_method":"bitnet","linear_class":"{class}","quantization_mode":"offline"}}"#
    );
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

#[test]
fn bitnet_both_ways() {
    bitnet("bitlinear", 3).verify();
    bitnet("autobitlinear", 3).verify();
    let error = error_of(&bitnet("bitlinear", 4));
    assert!(error.contains("ternary code out of range"), "{error}");
    for (from, to, says) in [
        ("bitlinear\"", "wildlinear\"", "linear_class wildlinear"),
        ("offline\"", "offline\",\"use_rms_norm\":true", "use_rms_norm"),
    ] {
        let model = bitnet("bitlinear", 3);
        let error = error_of(&Crafted { config: model.config.replace(from, to), ..model });
        assert!(error.contains(says), "{error}");
    }
    // What was trained is not what a ternary model computes with.
    let trained = plain();
    let config = config(r#","quantization_config":{"quant_method":"bitnet","quantization_mode":"online"}"#);
    let error = error_of(&Crafted { config, ..trained });
    assert!(error.contains("online"), "{error}");
}

/// A whole BitNet layer at the first position, where attention is v itself: the formula in f64, written down once more.
#[test]
fn bitnet_layer() {
    let Crafted { config, bytes, weights } = bitnet("autobitlinear", 3);
    let config = config.replace(r#""model_type":"llama""#, r#""model_type":"bitnet","hidden_act":"relu2""#);
    let rng = &mut StdRng::seed_from_u64(12);
    let (attention_norm, ffn_norm) = (random(rng, HIDDEN), random(rng, FFN));
    // The norms of the crafted file, and two more.
    let mut file = Container::default();
    let head = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    file.header = serde_json::from_slice(&bytes[8..8 + head]).unwrap();
    file.data = bytes[8 + head..].to_vec();
    file.floats("model.layers.0.self_attn.attn_sub_norm.weight", &[HIDDEN], &attention_norm);
    file.floats("model.layers.0.mlp.ffn_sub_norm.weight", &[FFN], &ffn_norm);
    let model = Crafted { config, bytes: file.bytes(), weights };
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let vector = |name: &str| block_on(checkpoint.vector(name, HIDDEN)).unwrap().unwrap();
    let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| f64::from(v)).collect() };
    let norm = |x: &[f64], weight: &[f32]| -> Vec<f64> {
        let scale = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
        x.iter().zip(weight).map(|(x, &w)| x * scale * f64::from(w)).collect()
    };
    let product = |name: &str, x: &[f64]| -> Vec<f64> {
        let rows = model.weights[name].chunks(x.len());
        rows.map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect()
    };
    let layer = |name: &str, x: &[f64]| product(&format!("model.layers.0.{name}"), x);
    let mut x = wide(&model.weights["model.embed_tokens"][7 * HIDDEN..8 * HIDDEN]);
    let normed = norm(&x, &vector("model.layers.0.input_layernorm.weight"));
    let v = layer("self_attn.v_proj", &normed);
    let heads: Vec<f64> = v.chunks(HIDDEN / 4).flat_map(|head| [head, head].concat()).collect();
    let attended = layer("self_attn.o_proj", &norm(&heads, &attention_norm));
    x.iter_mut().zip(attended).for_each(|(x, a)| *x += a);
    let normed = norm(&x, &vector("model.layers.0.post_attention_layernorm.weight"));
    let (gate, up) = (layer("mlp.gate_proj", &normed), layer("mlp.up_proj", &normed));
    let activated: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gate.max(0.0).powi(2) * up).collect();
    let down = layer("mlp.down_proj", &norm(&activated, &ffn_norm));
    x.iter_mut().zip(down).for_each(|(x, d)| *x += d);
    let logits = product("model.embed_tokens", &norm(&x, &vector("model.norm.weight")));
    let logits: Vec<f32> = logits.into_iter().map(|logit| logit as f32).collect();

    let mut devices = vec![Device::Cpu];
    devices.extend(contexts(&Options::default()).into_iter().map(Device::Gpu));
    for device in devices {
        let options = LoadOptions { precision: CacheFormat::F32, context: Some(8), ..LoadOptions::default() };
        let found = block_on(async {
            let model = Model::load(&device, &checkpoint, &options, |_| {}).await.unwrap();
            model.prefill(0, &[7]).await.unwrap();
            model.logits().await.unwrap()
        });
        let error = relative_error(&found, &logits);
        assert!(error <= 1e-5, "{device:?}: off by {error:e}");
    }
}

/// SpQR with outliers in some rows.
fn spqr() -> Crafted {
    let rng = &mut StdRng::seed_from_u64(10);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let tiles = cols / 16;
        let halves = random(rng, rows / 16 * tiles * 4);
        let mut order: Vec<u16> = (0..cols as u16).collect();
        (0..cols).for_each(|k| order.swap(k, rng.random_range(0..cols)));
        let mut words = vec![0u64; rows * tiles];
        let mut exact = vec![0f64; rows * cols];
        for row in 0..rows {
            for tile in 0..tiles {
                let index = row / 16 * tiles + tile;
                let half: Vec<f64> = halves[index * 4..index * 4 + 4].iter().map(|&h| f64::from(h)).collect();
                let word = &mut words[index * 16 + row % 16];
                let (s, z) = (rng.random_range(0..8u64), rng.random_range(0..8u64));
                let bytes = half::f16::from_f32(halves[index * 4 + row % 16 / 4]).to_le_bytes();
                *word = s | z << 3 | u64::from(bytes[row % 4 / 2]) << 54;
                let (scale, zero) = (half[0] * (s as f64 - half[2]), half[1] * (z as f64 - half[3]));
                for i in 0..16 {
                    let code = rng.random_range(0..8u64);
                    *word |= code << (6 + 3 * i);
                    exact[row * cols + order[tile * 16 + i] as usize] = scale * (code as f64 - zero);
                }
            }
        }
        let (mut offsets, mut entries) = (vec![0], Vec::new());
        for row in 0..rows {
            for _ in 0..row % 3 {
                let (column, value) = (rng.random_range(0..cols), random(rng, 1)[0]);
                entries.push(u32::from(half::f16::from_f32(value).to_bits()) << 16 | column as u32);
                exact[row * cols + order[column] as usize] += f64::from(value);
            }
            offsets.push(entries.len() as u32);
        }
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        file.add(&format!("{name}.dense_weights"), "I64", &[words.len()], bytes);
        file.words(&format!("{name}.row_offsets"), &[rows + 1], &offsets);
        file.words(&format!("{name}.col_vals"), &[entries.len()], &entries);
        let order: Vec<u32> = order.chunks(2).map(|p| u32::from(p[0]) | u32::from(p[1]) << 16).collect();
        file.words(&format!("{name}.in_perm"), &[cols / 2], &order);
        weights.insert(name, exact.into_iter().map(|w| w as f32).collect());
    }
    let settings = r#","quantization_config":{"quant_method":"spqr","bits":3,"beta1":16,"beta2":16}"#;
    Crafted { config: config(settings), bytes: file.bytes(), weights }
}

#[test]
fn spqr_with_outliers() {
    spqr().verify();
    let beta = spqr();
    let error = error_of(&Crafted { config: beta.config.replace(r#""beta1":16"#, r#""beta1":32"#), ..beta });
    assert!(error.contains("beta1 32"), "{error}");
}

/// Quanto in so many bits: groups of 32 inputs below 8 bits.
fn quanto(bits: usize) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(11);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let codes: Vec<u8> = (0..rows * cols).map(|_| rng.random::<u8>() >> (8 - bits)).collect();
        let group = if bits == 8 { cols } else { 32 };
        let groups = rows * cols / group;
        let (scales, shifts) = (random(rng, groups), random(rng, groups));
        let weight = |i: usize| match bits {
            8 => (f64::from(codes[i] as i8) * f64::from(scales[i / group])) as f32,
            _ => (f64::from(codes[i]) * f64::from(scales[i / group]) - f64::from(shifts[i / group])) as f32,
        };
        weights.insert(name.clone(), (0..rows * cols).map(weight).collect());
        file.halves(&format!("{name}.weight._scale"), &[groups, 1], &scales);
        if bits == 8 {
            file.add(&format!("{name}.weight._data"), "I8", &[rows, cols], codes);
        } else {
            let slice = rows * cols * bits / 8;
            let byte = |i: usize| (0..8 / bits).fold(0, |byte, s| byte | codes[s * slice + i] << (s * bits));
            let bytes = (0..slice).map(byte).collect();
            file.add(&format!("{name}.weight._data._data"), "U8", &[groups * bits / 8, group], bytes);
            file.halves(&format!("{name}.weight._shift"), &[groups, 1], &shifts);
        }
        file.floats(&format!("{name}.input_scale"), &[], &[1.0]);
        file.floats(&format!("{name}.output_scale"), &[], &[1.0]);
    }
    Crafted { config: config(""), bytes: file.bytes(), weights }
}

/// The same with shifts that are zero points.
fn quanto_zeros(bits: usize) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(14);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let (groups, slice) = (rows * cols / 32, rows * cols * bits / 8);
        let mut integers =
            |count: usize| -> Vec<u8> { (0..count).map(|_| rng.random::<u8>() >> (8 - bits)).collect() };
        let (codes, zeros) = (integers(rows * cols), integers(groups));
        let scales = random(rng, groups);
        let weight = |i: usize| {
            (f64::from(i32::from(codes[i]) - i32::from(zeros[i / 32])) * f64::from(scales[i / 32])) as f32
        };
        weights.insert(name.clone(), (0..rows * cols).map(weight).collect());
        let byte = |i: usize| (0..8 / bits).fold(0, |byte, s| byte | codes[s * slice + i] << (s * bits));
        let bytes = (0..slice).map(byte).collect();
        file.add(&format!("{name}.weight._data._data"), "U8", &[groups * bits / 8, 32], bytes);
        file.halves(&format!("{name}.weight._scale"), &[groups, 1], &scales);
        file.add(&format!("{name}.weight._shift"), "U8", &[groups, 1], zeros);
    }
    Crafted { config: config(""), bytes: file.bytes(), weights }
}

#[test]
fn quanto_of_every_width() {
    for bits in [8, 4, 2] {
        quanto(bits).verify();
    }
    quanto_zeros(4).verify();
    quanto_zeros(2).verify();
    // A zero point that is no code: the last byte of the file is one of the last layer's.
    let mut beyond = quanto_zeros(4);
    *beyond.bytes.last_mut().unwrap() = 16;
    let error = error_of(&beyond);
    assert!(error.contains("zero point out of range") && error.contains("_shift"), "{error}");
    let model = quanto(4);
    for (from, to, says) in [
        ("q_proj.weight._shift", "q_proj.weight._zhift", "no use for"),
        ("q_proj.weight._data._data", "q_proj.weight._data._dato", "no reader knows module"),
    ] {
        let mut bytes = model.bytes.clone();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let checkpoint = model.open(bytes).unwrap();
        let error = load_all(&checkpoint, BUDGETS[0]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

/// torchao's integers in bytes: a scale a row, or groups of 32 inputs with zero points; `packed`: two in a byte.
fn torchao(groups: bool, packed: bool) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(12);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let codes: Vec<u8> = (0..rows * cols).map(|_| rng.random()).collect();
        let group = if groups { 32 } else { cols };
        let count = rows * cols / group;
        let scales = random(rng, count);
        let zeros: Vec<u8> = (0..count).map(|_| if groups { rng.random() } else { 0 }).collect();
        let weight = |i: usize| {
            let difference = i32::from(codes[i] as i8) - i32::from(zeros[i / group] as i8);
            (f64::from(difference) * f64::from(scales[i / group])) as f32
        };
        weights.insert(name.clone(), (0..rows * cols).map(weight).collect());
        let (shape, bytes) =
            if packed { ([rows, cols / 2], codes[1..].to_vec()) } else { ([rows, cols], codes) };
        let bytes = if packed { bytes[..rows * cols / 2].to_vec() } else { bytes };
        file.add(&format!("{name}._weight_qdata"), "I8", &shape, bytes);
        file.halves(&format!("{name}._weight_scale"), &[rows, cols / group], &scales);
        if groups {
            file.add(&format!("{name}._weight_zero_point"), "I8", &[rows, cols / group], zeros);
        }
    }
    let settings = r#","quantization_config":{"quant_method":"torchao","quant_type":{"default":{}}}"#;
    Crafted { config: config(settings), bytes: file.bytes(), weights }
}

#[test]
fn torchao_in_bytes() {
    torchao(false, false).verify();
    torchao(true, false).verify();
    let error = error_of(&torchao(true, true));
    assert!(error.contains("packed integers of torchao") && error.contains("a byte each"), "{error}");
}

/// torchao's int4 in tiles of 8 rows and 128 inputs, rows filled up to 1024 inputs, as a CUDA device packs them: lane t of
/// 32 has row t/4, and of every 32 inputs those 2(t mod 4) + 8i and the next, the even ones in the lower half of a word.
fn torchao_tiles() -> Crafted {
    let rng = &mut StdRng::seed_from_u64(13);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let number = |bits: u16| half::bf16::from_bits(bits).to_f64();
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let (wide, group) = (1024, 32);
        let codes: Vec<u32> = (0..rows * wide).map(|_| rng.random_range(0..16)).collect();
        let pairs: Vec<u16> = random(rng, wide / group * rows * 2)
            .into_iter()
            .map(|v| half::bf16::from_f32(v).to_bits())
            .collect();
        let mut words = Vec::new();
        for tile in 0..rows / 8 {
            for outer in 0..wide / 128 {
                for (t, inner) in (0..32).flat_map(|t| (0..4).map(move |inner| (t, inner))) {
                    let code = |i: usize, odd: usize| {
                        let k = 128 * outer + 32 * inner + 8 * i + 2 * (t % 4) + odd;
                        codes[(8 * tile + t / 4) * wide + k] << (4 * i + 16 * odd)
                    };
                    words.push((0..4).map(|i| code(i, 0) | code(i, 1)).fold(0, |word, bits| word | bits));
                }
            }
        }
        let weight = |n: usize, k: usize| {
            let pair = 2 * (k / group * rows + n);
            let (scale, zero) = (number(pairs[pair]), number(pairs[pair + 1]));
            ((f64::from(codes[n * wide + k]) - 8.0) * scale + zero) as f32
        };
        let dense = (0..rows * cols).map(|i| weight(i / cols, i % cols)).collect();
        weights.insert(name.clone(), dense);
        file.words(&format!("{name}._weight_qdata"), &[rows / 8, wide / 128, 32, 4], &words);
        let bytes = pairs.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        file.add(&format!("{name}._weight_scale_and_zero"), "BF16", &[wide / group, rows, 2], bytes);
    }
    let settings = r#","quantization_config":{"quant_method":"torchao","quant_type":{"default":{}}}"#;
    Crafted { config: config(settings), bytes: file.bytes(), weights }
}

#[test]
fn torchao_in_tiles() {
    let model = torchao_tiles();
    model.verify();
    super::transformed::runs_as_dense(&model, &config(""));
    // 1024 inputs in groups of 32 become, by another shape of as many pairs, groups of 16.
    let text = String::from_utf8_lossy(&model.bytes[8..]).into_owned();
    let from = "\"shape\":[32,64,2]";
    let at = 8 + text.find(from).unwrap();
    let mut bytes = model.bytes.clone();
    bytes[at..at + from.len()].copy_from_slice(b"\"shape\":[64,32,2]");
    let error = error_of(&Crafted { bytes, ..model });
    assert!(error.contains("groups of torchao's int4"), "{error}");
}

/// Methods that nobody reads here are refused by their name, whatever the tensors look like.
#[test]
fn other_methods_are_named() {
    for method in ["eetq", "higgs", "quark", "fp_quant"] {
        let config = config(&format!(r#","quantization_config":{{"quant_method":"{method}"}}"#));
        let error = error_of(&Crafted { config, ..hqq(4, 32, true) });
        assert!(error.contains(&format!("unsupported quantization method {method}")), "{error}");
    }
}

/// The small tensors of a module with every word replaced in turn: an error, not a wrong answer.
#[test]
fn tables_are_checked() {
    for (model, name, word, says) in [
        (spqr(), "row_offsets", 7u32, "row_offsets"),
        (spqr(), "col_vals", 0x3c00_0000 | HIDDEN as u32, "column 64"),
        (spqr(), "col_vals", 0x7c00_0000, "no finite number"),
        (spqr(), "in_perm", 0x0040_0000, "in_perm is not a permutation"),
        (exl2(true), "q_groups", 0x0001_0006, "q_groups"),
        (exl2(true), "q_invperm", 64, "q_invperm is not a permutation"),
        (exl2(true), "q_scale_max", 0x7c00_7c00, "non-finite scale"),
    ] {
        let checkpoint = model.open(model.bytes.clone()).unwrap();
        let name = format!("model.layers.0.self_attn.q_proj.{name}");
        let at = checkpoint.raw_tensors().get(&name).unwrap().range.start as usize;
        let mut bytes = model.bytes.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        let error = error_of(&Crafted { bytes, ..model });
        assert!(error.contains(says), "{name}: {error}");
    }
}

proptest! {
    /// A damaged model gives weights or an error.
    #[test]
    fn damaged_codes_do_not_panic(
        which in 0..8usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        thread_local!(static MODELS: [Crafted; 10] = [
            hqq(3, 32, true), hqq(1, 64, true), exl2(true), exl2(false), bitnet("bitlinear", 3), spqr(), quanto(4),
            torchao(true, false),
            torchao_tiles(),
            quanto_zeros(4),
        ]);
        MODELS.with(|models| {
            let model = &models[which];
            let mut bytes = model.bytes.clone();
            let head = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            for (i, (at, byte)) in flips.iter().enumerate() {
                let end = if i % 2 == 0 { head } else { bytes.len() };
                bytes[at.index(end)] = *byte;
            }
            if let Ok(checkpoint) = model.open(bytes) {
                let _ = checkpoint.check();
                let _ = checkpoint.tensors();
                let _ = load_all(&checkpoint, BUDGETS[1]);
            }
        });
    }

    /// A damaged MLC folder gives weights or an error.
    #[test]
    fn damaged_mlc_folders_do_not_panic(
        which in 0..3usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9']), 1..6),
    ) {
        thread_local!(static FILES: Files = mlc("q3f16_1", "llama").0);
        FILES.with(|files| {
            let name = ["mlc-chat-config.json", "ndarray-cache.json", "params_shard_0.bin"][which];
            let mut bytes = text(files, name);
            flips.iter().for_each(|(at, byte)| { let at = at.index(bytes.len()); bytes[at] = *byte; });
            let _ = edited(files, name, bytes);
        });
    }
}

/// `cargo test --test suite write_fuzz_seeds -- --ignored` writes the seeds of the fuzzing targets.
#[test]
#[ignore = "writes files"]
fn write_fuzz_seeds_of_codes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let write = |target: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.join(target)).unwrap();
        std::fs::write(folder.join(target).join("model"), bytes).unwrap();
    };
    write("hqq", &hqq(3, 32, true).bytes);
    write("exl2", &exl2(true).bytes);
    write("bitnet", &bitnet("bitlinear", 3).bytes);
    write("spqr", &spqr().bytes);
    let (files, _) = mlc("q3f16_1", "llama");
    write("mlc", &[text(&files, "ndarray-cache.json"), vec![0], text(&files, "params_shard_0.bin")].concat());
}
