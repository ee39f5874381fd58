//! Layers with transforms and side terms, made on the spot: the dense weights that `decode` gives against the formula, and
//! a whole model against one that has these dense weights.

use super::crafted::{Container, Crafted, LAYERS, QUIP, Quip, Weights, config, files, quip, random};
use super::*;
use crate::adapters::contexts;
use halfbyte::checkpoint::{OutputTransform, decode};
use halfbyte::gpu::Options;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::quant::hadamard::Plan;
use halfbyte::quant::trellis::Codebook;
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The dense weights of every module, with their shapes, by full name.
fn dense(checkpoint: &Checkpoint) -> BTreeMap<String, ([usize; 2], Vec<f32>)> {
    let mut all: BTreeMap<String, ([usize; 2], Vec<f32>)> = BTreeMap::new();
    for matrix in load_all(checkpoint, BUDGETS[0]).unwrap() {
        let parent = matrix.name.rsplit_once('.').map_or(String::new(), |(parent, _)| format!("{parent}."));
        let add = |row: usize, weights: &[f32]| {
            let slice = matrix.slices.iter().find(|slice| slice.rows.contains(&row)).unwrap();
            let shape = [slice.rows.len(), matrix.cols];
            let name = format!("{parent}{}", slice.name);
            all.entry(name).or_insert((shape, Vec::new())).1.extend_from_slice(weights);
            Ok(())
        };
        block_on(decode::rows(&matrix, add)).unwrap();
    }
    all
}

/// The same model with dense weights in f32; biases and norms are copied.
fn unquantized(checkpoint: &Checkpoint, config: &str) -> Checkpoint {
    let mut file = Container::default();
    for (name, (shape, weights)) in dense(checkpoint) {
        file.floats(&format!("{name}.weight"), &shape, &weights);
        let bias = checkpoint.raw_tensors().get(&format!("{name}.bias"));
        if let Some(bias) = bias {
            let values = block_on(checkpoint.vector(&bias.name, bias.shape[0])).unwrap().unwrap();
            file.floats(&bias.name, &shape[..1], &values[..shape[0]]);
        }
    }
    for norm in checkpoint.raw_tensors().iter().filter(|tensor| tensor.name.ends_with("norm.weight")) {
        let values = block_on(checkpoint.vector(&norm.name, norm.shape[0])).unwrap().unwrap();
        file.floats(&norm.name, &norm.shape, &values);
    }
    block_on(Checkpoint::from_files(files(config, file.bytes()))).unwrap()
}

/// Logits after a prefill of several tokens and a decode step.
fn logits(device: &Device, checkpoint: &Checkpoint) -> Vec<f32> {
    let options = LoadOptions { precision: CacheFormat::F32, context: Some(16), ..LoadOptions::default() };
    block_on(async {
        let model = Model::load(device, checkpoint, &options, |_| {}).await.unwrap();
        model.prefill(0, &[1, 5, 9, 7, 12]).await.unwrap();
        model.decode_logits(5, 3).await.unwrap()
    })
}

/// The twin and a GPU compute with the quantized layers what the dense weights give.
pub(super) fn runs_as_dense(model: &Crafted, config: &str) {
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let wanted = logits(&Device::Cpu, &unquantized(&checkpoint, config));
    let gpu = Device::Gpu(contexts(&Options::default()).remove(0));
    for (device, name, tolerance) in [(&Device::Cpu, "the twin", 1e-5), (&gpu, "the GPU", 1e-4)] {
        let error = relative_error(&logits(device, &checkpoint), &wanted);
        assert!(error < tolerance, "{name} is off by {error:e}");
    }
}

/// `W = diag(SV) · H · (Ŵ + A·B) · Hᵀ · diag(SU / scaleWH)`
#[test]
fn quip_with_low_rank_and_rescaling() {
    let model = quip(Quip { extras: true, fused: false, ..QUIP });
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let found = dense(&checkpoint);
    for (layer, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{layer}");
        let part = |suffix: &str| {
            let tensor = checkpoint.raw_tensors().get(&format!("{name}.{suffix}")).unwrap();
            let range = tensor.range.start as usize..tensor.range.end as usize;
            let data = &model.bytes[range];
            data.as_chunks::<2>()
                .0
                .iter()
                .map(|&b| half::f16::from_le_bytes(b).to_f32())
                .collect::<Vec<f32>>()
        };
        let (su, sv, scale, a, b) = (part("SU"), part("SV"), part("scaleWH"), part("A"), part("B"));
        let mut weights = model.weights[&name].clone();
        for n in 0..rows {
            for k in 0..cols {
                weights[n * cols + k] += (0..4).map(|r| a[n * 4 + r] * b[r * cols + k]).sum::<f32>();
            }
        }
        Plan::new(cols, false).unwrap().apply(&mut weights);
        let mut wanted = vec![0.0; rows * cols];
        for k in 0..cols {
            let mut column: Vec<f32> = (0..rows).map(|n| weights[n * cols + k] * su[k] / scale[k]).collect();
            Plan::new(rows, false).unwrap().apply(&mut column);
            (0..rows).for_each(|n| wanted[n * cols + k] = column[n] * sv[n]);
        }
        let error = relative_error(&found[&name].1, &wanted);
        assert!(error < 1e-6, "{name}: {error:e}");
    }
    runs_as_dense(&model, &config(""));
    runs_as_dense(&quip(Quip { extras: true, fused: true, ..QUIP }), &config(""));
}

/// Layers of a small EXL3 model: name, outputs, inputs, bits, codebook. The head of the tied embedding is quantized.
const TRELLISES: [(&str, usize, usize, usize, Codebook); 8] = [
    ("model.layers.0.self_attn.q_proj", 128, 128, 1, Codebook::Mul1),
    ("model.layers.0.self_attn.k_proj", 64, 128, 2, Codebook::Mcg),
    ("model.layers.0.self_attn.v_proj", 64, 128, 3, Codebook::ThreeInst),
    ("model.layers.0.self_attn.o_proj", 128, 128, 4, Codebook::Mul1),
    ("model.layers.0.mlp.gate_proj", 256, 128, 5, Codebook::Mcg),
    ("model.layers.0.mlp.up_proj", 256, 128, 6, Codebook::Mul1),
    ("model.layers.0.mlp.down_proj", 128, 256, 7, Codebook::ThreeInst),
    ("lm_head", 40, 128, 8, Codebook::Mul1),
];

fn exl3_config(tied: bool, quantization: &str) -> String {
    format!(
        r#"{{"model_type":"llama","hidden_size":128,"intermediate_size":256,"num_hidden_layers":1,
        "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":40,"rms_norm_eps":1e-5,
        "max_position_embeddings":64,"tie_word_embeddings":{tied}{quantization}}}"#
    )
}

/// The weight at column k and row n of every place t of a tile's stream, a bit of the state at a time.
fn tile(words: &[u32], codebook: Codebook) -> [[f32; 16]; 16] {
    let length = 32 * words.len();
    let mut weights = [[0.0; 16]; 16];
    for t in 0..256 {
        let (lane, j) = (t / 8, t % 8);
        let k = 2 * (lane % 4) + [0, 1, 8, 9][j % 4];
        let n = lane / 4 + 8 * (j / 4);
        let end = (t + 1) * length / 256;
        let bit = |i: usize| {
            let at = (end + length - 16 + i) % length;
            (words[at / 32] >> (31 - at % 32) & 1) as u16
        };
        let state = (0..16).fold(0, |state, i| state << 1 | bit(i));
        weights[n][k] = codebook.value(state);
    }
    weights
}

/// EXL3 of every width and codebook; the golden weights are those of the trellis, before any transform.
pub(super) fn exl3() -> Crafted {
    let rng = &mut StdRng::seed_from_u64(8);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    let embedding = random(rng, 40 * 128);
    file.halves("model.embed_tokens.weight", &[40, 128], &embedding);
    weights.insert("model.embed_tokens".into(), embedding);
    for norm in ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"] {
        file.floats(&format!("model.{norm}.weight"), &[128], &random(rng, 128));
    }
    for (name, rows, cols, bits, codebook) in TRELLISES {
        let padded = rows.next_multiple_of(128);
        let words: Vec<u32> = (0..padded * cols * bits / 32).map(|_| rng.random()).collect();
        let mut dense = vec![0.0; padded * cols];
        for (i, words) in words.chunks(8 * bits).enumerate() {
            let (first_k, first_n) = (i / (padded / 16) * 16, i % (padded / 16) * 16);
            for (n, row) in tile(words, codebook).into_iter().enumerate() {
                dense[(first_n + n) * cols + first_k..][..16].copy_from_slice(&row);
            }
        }
        dense.truncate(rows * cols);
        weights.insert(name.to_string(), dense);
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        file.add(&format!("{name}.trellis"), "I16", &[cols / 16, padded / 16, 16 * bits], bytes);
        match codebook {
            Codebook::ThreeInst | Codebook::OneMad => {}
            Codebook::Mcg => file.words(&format!("{name}.mcg"), &[], &[0xcbac_1fed]),
            Codebook::Mul1 => file.words(&format!("{name}.mul1"), &[], &[0x83dc_d12d]),
        }
        if name.ends_with("o_proj") || name.ends_with("down_proj") {
            for (suffix, len) in [("su", cols), ("sv", padded)] {
                let bytes = (0..len / 8).map(|_| rng.random()).collect();
                file.add(&format!("{name}.{suffix}"), "I16", &[len / 16], bytes);
            }
        } else {
            let mut scales = |len: usize| -> Vec<f32> {
                random(rng, len).into_iter().map(|s| (0.5 + s.abs()).copysign(s) / 16.0).collect()
            };
            file.halves(&format!("{name}.suh"), &[cols], &scales(cols));
            let mut svh = scales(padded);
            svh[rows..].fill(0.0);
            file.halves(&format!("{name}.svh"), &[padded], &svh);
        }
        if name.ends_with("q_proj") || name.ends_with("k_proj") {
            file.halves(&format!("{name}.bias"), &[padded], &random(rng, padded));
        }
    }
    let settings = r#","quantization_config":{"quant_method":"exl3","bits":4.0}"#;
    Crafted { config: exl3_config(true, settings), bytes: file.bytes(), weights }
}

#[test]
fn exl3_of_every_width() {
    let model = exl3();
    model.verify();
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    assert!(!checkpoint.config().tied);
    // W = diag(svh) · H · Ŵ · H · diag(suh), for one that is padded.
    let found = &dense(&checkpoint)["model.layers.0.self_attn.k_proj"];
    let matrices = block_on(checkpoint.matrices("model.layers.0.self_attn", &["k_proj"])).unwrap();
    let (InputTransform::Hadamard { signs: suh, .. }, OutputTransform::Hadamard { signs: svh, .. }) =
        (&matrices[0].input, &matrices[0].output)
    else {
        panic!("no transforms");
    };
    let mut weights = decode(&matrices[0], BUDGETS[0]).unwrap();
    let block = Plan::blocks(128, 128).unwrap();
    block.apply(&mut weights);
    let mut wanted = vec![0.0; 64 * 128];
    for k in 0..128 {
        let mut column: Vec<f32> = (0..128).map(|n| weights[n * 128 + k] * suh[k]).collect();
        block.apply(&mut column);
        (0..64).for_each(|n| wanted[n * 128 + k] = column[n] * svh[n]);
    }
    let error = relative_error(&found.1, &wanted);
    assert!(found.0 == [64, 128] && error < 1e-6, "{error:e}");
    runs_as_dense(&model, &exl3_config(false, ""));
}

/// Changes one tensor's entry in the header, or the configuration.
#[test]
fn exl3_that_is_not_read() {
    let model = exl3();
    let header = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut bytes = model.bytes.clone();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let marker = checkpoint.raw_tensors().get("model.layers.0.self_attn.q_proj.mul1").unwrap();
    let mut other = model.bytes.clone();
    other[marker.range.start as usize] ^= 1;
    for (bytes, says) in [
        (other, "codebook of EXL3"),
        (header("k_proj.svh", "k_proj.xvh"), "no use for"),
        (header("o_proj.su\"", "o_proj.sv\""), "duplicate"),
    ] {
        let opened = block_on(Checkpoint::from_files(files(&model.config, bytes)));
        let error = opened.and_then(|c| load_all(&c, BUDGETS[0])).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    for (width, says) in [(192, "an EXL3 layer of 192 inputs"), (384, "shape mismatch")] {
        let from = r#""intermediate_size":256"#;
        let config = model.config.replace(from, &format!(r#""intermediate_size":{width}"#));
        let checkpoint = block_on(Checkpoint::from_files(files(&config, model.bytes.clone()))).unwrap();
        let error = load_all(&checkpoint, BUDGETS[0]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

/// How a small QTIP model is coded: `decode_mode`, bits.
pub(super) struct Qtip(pub(super) &'static str, pub(super) usize);

fn qtip_settings(&Qtip(mode, bits): &Qtip) -> String {
    let (pair, tlut_bits) = if mode == "quantlut_sym" { (2, 9) } else { (1, 0) };
    format!(
        r#","quip_params":{{"codebook":"bitshift","codebook_version":0,"L":16,"K":{bits},"V":{pair},"td_x":16,"td_y":16,
        "tlut_bits":{tlut_bits},"decode_mode":"{mode}","split_for_tp":false,"skip_list":[]}}"#
    )
}

/// QTIP, from the definitions of the paper and the operands of a tensor core; the golden weights are those of the trellis.
pub(super) fn qtip(model: &Qtip) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(9);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    let (hyb, bits) = (model.0 == "quantlut_sym", model.1);
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let table = random(rng, 1024);
        let mut dense = vec![0.0; rows * cols];
        let mut bytes = vec![0u8; rows * cols * bits / 8];
        for tile in 0..rows * cols / 256 {
            let (tile_row, tile_col) = (tile / (cols / 16), tile % (cols / 16));
            let stream: Vec<bool> = (0..256 * bits).map(|_| rng.random()).collect();
            let number = |first: usize, count: usize| {
                (first..first + count).fold(0u64, |n, i| n << 1 | u64::from(stream[i % stream.len()]))
            };
            for w in 0..256 {
                let (place, value) = if hyb {
                    // Operand A of mma.m16n8k16: eight weights a lane.
                    let (lane, i) = (w / 8, w % 8);
                    let place = (lane / 4 + 8 * (i / 2 % 2), 2 * (lane % 4) + i % 2 + 8 * (i / 4));
                    let s = number(w / 2 * 2 * bits, 16);
                    let entry = (s * (s + 1)) as usize >> 6 & 511;
                    let sign = if i % 2 == 0 && (s * (s + 1)) >> 15 & 1 == 1 { -1.0 } else { 1.0 };
                    (place, sign * table[2 * entry + i % 2])
                } else {
                    let s = number(w * bits, 16) as u16;
                    let codebook = if model.0 == "1mad" { Codebook::OneMad } else { Codebook::ThreeInst };
                    ((w / 16, w % 16), codebook.value(s))
                };
                dense[(16 * tile_row + place.0) * cols + 16 * tile_col + place.1] = value;
            }
            if hyb {
                // A lane reads its 8 weights of 2 × 2 tiles at once.
                let block = tile_row / 2 * (cols / 32) + tile_col / 2;
                for lane in 0..32 {
                    let at = ((block * 32 + lane) * 4 + 2 * (tile_col % 2) + tile_row % 2) * bits;
                    let number = number(lane * 8 * bits, 8 * bits).to_le_bytes();
                    bytes[at..at + bits].copy_from_slice(&number[..bits]);
                }
            } else {
                for i in 0..16 * bits {
                    let word = (number(16 * i, 16) as u16).to_le_bytes();
                    bytes[(tile * 16 * bits + i) * 2..][..2].copy_from_slice(&word);
                }
            }
        }
        file.add(&format!("{name}.trellis"), "I16", &[rows * cols / 256, 16 * bits], bytes);
        if hyb {
            file.halves(&format!("{name}.tlut"), &[512, 2], &table);
        }
        file.halves(&format!("{name}.SU"), &[cols], &random(rng, cols));
        file.floats(&format!("{name}.SV"), &[rows], &random(rng, rows));
        let split = u64::from(name.ends_with("up_proj")) * 2; // outputs of two GPUs
        for (suffix, value) in [("rcp", split), ("tp_rank", 2)] {
            file.add(&format!("{name}.{suffix}"), "I64", &[], value.to_le_bytes().to_vec());
        }
        weights.insert(name, dense);
    }
    Crafted { config: config(&qtip_settings(model)), bytes: file.bytes(), weights }
}

#[test]
fn qtip_of_every_mode() {
    let modes = [("quantlut_sym", 2), ("quantlut_sym", 3), ("quantlut_sym", 4), ("1mad", 3), ("3inst", 2)];
    for (mode, bits) in modes {
        let model = qtip(&Qtip(mode, bits));
        model.verify();
        if bits == 4 {
            runs_as_dense(&model, &config(""));
        }
    }
}

/// `W = diag(SV) · H · Ŵ · Hᵀ · diag(SU)`, H of half the size where the outputs were made for two GPUs.
#[test]
fn qtip_is_transformed() {
    let model = qtip(&Qtip("quantlut_sym", 2));
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let found = dense(&checkpoint);
    for (name, parts) in [("mlp.gate_proj", 1), ("mlp.up_proj", 2)] {
        let (rows, cols) = (128, 64);
        let name = format!("model.layers.0.{name}");
        let vector = |suffix: &str, len| {
            block_on(checkpoint.vector(&format!("{name}.{suffix}"), len)).unwrap().unwrap()
        };
        let (su, sv) = (vector("SU", cols), vector("SV", rows));
        let mut weights = model.weights[&name].clone();
        Plan::new(cols, false).unwrap().apply(&mut weights);
        let mut wanted = vec![0.0; rows * cols];
        for k in 0..cols {
            let mut column: Vec<f32> = (0..rows).map(|n| weights[n * cols + k] * su[k]).collect();
            Plan::new(rows / parts, false).unwrap().apply(&mut column);
            (0..rows).for_each(|n| wanted[n * cols + k] = column[n] * sv[n]);
        }
        let error = relative_error(&found[&name].1, &wanted);
        assert!(error < 1e-6, "{name}: {error:e}");
    }
}

#[test]
fn qtip_that_is_not_read() {
    let model = qtip(&Qtip("quantlut_sym", 2));
    for (from, to, says) in [
        (r#""L":16"#, r#""L":12"#, "L 12 of QTIP"),
        (r#""K":2"#, r#""K":5"#, "hybrid code"),
        (r#""V":2"#, r#""V":1"#, "V 1 of QTIP: expected 2"),
        (r#""tlut_bits":9"#, r#""tlut_bits":8"#, "tlut_bits 8 of QTIP"),
        (r#""td_x":16"#, r#""td_x":8"#, "td_x 8 of QTIP"),
        ("quantlut_sym", "2mad", "decode_mode 2mad of QTIP: expected quantlut_sym, 1mad, 3inst"),
        (r#""K":2"#, r#""K":4"#, "shape mismatch for model.layers.0.self_attn.q_proj.trellis"),
    ] {
        let changed = model.config.replace(from, to);
        assert_ne!(changed, model.config);
        let checkpoint = block_on(Checkpoint::from_files(files(&changed, model.bytes.clone()))).unwrap();
        let error = load_all(&checkpoint, BUDGETS[0]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    for (tensor, byte, says) in [("rcp", 3, "rcp"), ("tlut", 0x7f, "non-finite tlut")] {
        let name = format!("model.layers.0.self_attn.q_proj.{tensor}");
        let at = checkpoint.raw_tensors().get(&name).unwrap().range.start as usize;
        let mut bytes = model.bytes.clone();
        (bytes[at], bytes[at + 1]) = if tensor == "rcp" { (byte, 0) } else { (0, byte) };
        let opened = block_on(Checkpoint::from_files(files(&model.config, bytes)));
        let error = opened.and_then(|c| load_all(&c, BUDGETS[0])).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

/// Layers of a small QuIP-for-all model: sizes that are no powers of two.
const ODD_LAYERS: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 96, 96),
    ("self_attn.k_proj", 96, 96),
    ("self_attn.v_proj", 96, 96),
    ("self_attn.o_proj", 96, 96),
    ("mlp.gate_proj", 160, 96),
    ("mlp.up_proj", 160, 96),
    ("mlp.down_proj", 96, 160),
];

fn odd_config(quantization: &str) -> String {
    format!(
        r#"{{"model_type":"llama","hidden_size":96,"intermediate_size":160,"num_hidden_layers":1,
        "num_attention_heads":3,"num_key_value_heads":3,"vocab_size":40,"rms_norm_eps":1e-5,
        "max_position_embeddings":64,"tie_word_embeddings":true{quantization}}}"#
    )
}

/// An orthogonal matrix, and not a symmetric one: a reflection with its rows moved by one.
fn core(order: usize) -> Vec<f32> {
    let norm: f32 = (1..=order).map(|i| (i * i) as f32).sum();
    let entry = |i: usize, j: usize| f32::from(i == j) - 2.0 * ((i + 1) * (j + 1)) as f32 / norm;
    let moved = |n: usize| entry((n / order + 1) % order, n % order);
    (0..order * order).map(|n| half::f16::from_f32(moved(n)).to_f32()).collect()
}

/// The weights of a code of QuIP-for-all: its signs are those of bytes in another order than QuIP#'s.
fn e8p(code: u16) -> [f64; 8] {
    let odd = (code & 0xff).count_ones() as u16 % 2;
    let signs = (code & 0xff) ^ odd;
    let shift = if odd == 1 { -0.25 } else { 0.25 };
    let row = halfbyte::quant::e8p::decode(code & 0xff00).map(|w| f64::from(w) - 0.25);
    std::array::from_fn(|d| {
        let negative = signs >> (7 - [0, 2, 1, 3, 4, 6, 5, 7][d]) & 1 == 1;
        (if negative { -row[d] } else { row[d] }) + shift
    })
}

/// QuIP-for-all with stored matrices; the golden weights are the code points.
pub(super) fn quip_for_all(codebook: &str) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(10);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    let embedding = random(rng, 40 * 96);
    file.halves("model.embed_tokens.weight", &[40, 96], &embedding);
    weights.insert("model.embed_tokens".into(), embedding);
    for norm in ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"] {
        file.floats(&format!("model.{norm}.weight"), &[96], &random(rng, 96));
    }
    for (name, rows, cols) in ODD_LAYERS {
        let name = format!("model.layers.0.{name}");
        let (mut dense, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..rows * cols / 8 {
            let (code, more): (u16, u16) = (rng.random(), rng.random());
            let [low, high] = code.to_le_bytes();
            let residual = match codebook {
                "E8P12RVQ3B" => {
                    bytes.extend([more as u8, low, high]);
                    halfbyte::quant::e8p::decode_e8(more as u8).map(|r| f64::from(r) / 2.04)
                }
                "E8P12RVQ4B" => {
                    bytes.extend([more.to_le_bytes(), [low, high]].concat());
                    e8p(more).map(|r| r / 3.45)
                }
                _ => {
                    bytes.extend([low, high]);
                    [0.0; 8]
                }
            };
            dense.extend(e8p(code).iter().zip(residual).map(|(w, r)| (w + r) as f32));
        }
        let (dtype, width) = match codebook {
            "E8P12" => ("I16", cols / 8),
            "E8P12RVQ3B" => ("I32", cols / 32 * 3),
            _ => ("I32", cols / 8),
        };
        file.add(&format!("{name}.Qidxs"), dtype, &[rows, width], bytes);
        file.halves(&format!("{name}.SU"), &[cols], &random(rng, cols));
        file.halves(&format!("{name}.SV"), &[rows], &random(rng, rows));
        file.floats(&format!("{name}.Wscale"), &[], &[0.5]);
        file.halves(&format!("{name}.weight"), &[], &[0.0]);
        for (side, size) in [("had_left", cols), ("had_right", rows)] {
            let order = size / 32;
            file.halves(&format!("{name}.{side}"), &[order, order], &core(order));
        }
        if name.ends_with("q_proj") {
            file.halves(&format!("{name}.bias"), &[rows], &random(rng, rows));
        }
        weights.insert(name, dense);
    }
    let settings = format!(
        r#","quantization_config":{{"quant_method":"QUiP","rescale_WH":false,"use_rand":true,"codebook":"{codebook}",
        "codesz":8,"idx_dtype":"torch.int16","merge_suv":false,"per_channel":false,"opt_resid_scale":null}}"#
    );
    Crafted { config: odd_config(&settings), bytes: file.bytes(), weights }
}

/// `W = Wscale · diag(SV) · H · Ŵ · Hᵀ · diag(SU)`, entry by entry.
#[test]
fn quip_for_all_with_stored_matrices() {
    for codebook in ["E8P12", "E8P12RVQ3B", "E8P12RVQ4B"] {
        quip_for_all(codebook).verify();
    }
    let model = quip_for_all("E8P12");
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let name = "model.layers.0.mlp.gate_proj";
    let (rows, cols) = (160, 96);
    let hadamard = |size: usize| {
        let core = core(size / 32);
        move |i: usize, j: usize| {
            let sign = if ((i % 32) & (j % 32)).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
            sign * f64::from(core[i / 32 * (size / 32) + j / 32]) / 32f64.sqrt()
        }
    };
    let (left, right) = (hadamard(cols), hadamard(rows));
    let vector =
        |suffix: &str, len| block_on(checkpoint.vector(&format!("{name}.{suffix}"), len)).unwrap().unwrap();
    let (su, sv) = (vector("SU", cols), vector("SV", rows));
    let weights = &model.weights[name];
    let mut half = vec![0.0; rows * cols];
    for n in 0..rows {
        for k in 0..cols {
            // (Ŵ Hᵀ)[n, k] = Σ Ŵ[n, i] H[k, i]
            half[n * cols + k] = (0..cols).map(|i| f64::from(weights[n * cols + i]) * left(k, i)).sum();
        }
    }
    let mut wanted = vec![0.0; rows * cols];
    for n in 0..rows {
        for k in 0..cols {
            let sum: f64 = (0..rows).map(|i| right(n, i) * half[i * cols + k]).sum();
            wanted[n * cols + k] = (0.5 * f64::from(sv[n]) * sum * f64::from(su[k])) as f32;
        }
    }
    let error = relative_error(&dense(&checkpoint)[name].1, &wanted);
    assert!(error < 1e-6, "{error:e}");
    runs_as_dense(&model, &odd_config(""));
}

#[test]
fn quip_for_all_that_is_not_read() {
    let model = quip_for_all("E8P12");
    for (from, to, says) in [
        (r#""per_channel":false"#, r#""per_channel":true"#, "per_channel true"),
        (r#""merge_suv":false"#, r#""merge_suv":true"#, "merge_suv true"),
        (r#""codebook":"E8P12""#, r#""codebook":"D4""#, "codebook D4 of QuIP-for-all"),
        (r#""codebook":"E8P12""#, r#""codebook":"E8P12RVQ4B""#, "Qidxs must be I32"),
        (
            r#""codebook":"E8P12""#,
            r#""codebook":"E8P12RVQ4B","opt_resid_scale":0.0,"x":0"#,
            "opt_resid_scale 0",
        ),
    ] {
        let config = model.config.replace(from, to).replace(r#","opt_resid_scale":null"#, "");
        let checkpoint = block_on(Checkpoint::from_files(files(&config, model.bytes.clone()))).unwrap();
        let error = load_all(&checkpoint, BUDGETS[0]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    for (from, to, says) in [
        ("q_proj.had_left\"", "q_proj.weight_x\"", "no use for"),
        ("q_proj.had_left\"", "z_proj.had_left\"", "without had_left; quantize with use_rand"),
    ] {
        let mut bytes = model.bytes.clone();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let opened = block_on(Checkpoint::from_files(files(&model.config, bytes)));
        let error = opened.and_then(|c| load_all(&c, BUDGETS[0])).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
