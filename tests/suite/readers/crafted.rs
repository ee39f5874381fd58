//! Small models made on the spot, one of every format: their weights against the formula of the format, written
//! down once more; and their bytes, damaged in every way that chance finds, against panics.

use super::transformed::Qtip;
use super::*;
use halfbyte::checkpoint::Files;
use halfbyte::checkpoint::source::{Bytes, Source};
use halfbyte::model::RopeScaling;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

pub(super) const HIDDEN: usize = 64;
pub(super) const FFN: usize = 128;
pub(super) const VOCAB: usize = 40;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// Every linear layer: its name, N and K.
pub(super) const LAYERS: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", HIDDEN, HIDDEN),
    ("self_attn.k_proj", HIDDEN / 2, HIDDEN),
    ("self_attn.v_proj", HIDDEN / 2, HIDDEN),
    ("self_attn.o_proj", HIDDEN, HIDDEN),
    ("mlp.gate_proj", FFN, HIDDEN),
    ("mlp.up_proj", FFN, HIDDEN),
    ("mlp.down_proj", HIDDEN, FFN),
];

/// Golden weights by matrix name, row-major.
pub(super) type Weights = BTreeMap<String, Vec<f32>>;

pub(super) fn config(quantization: &str) -> String {
    format!(
        r#"{{"model_type":"llama","hidden_size":{HIDDEN},"intermediate_size":{FFN},"num_hidden_layers":1,
        "num_attention_heads":{HEADS},"num_key_value_heads":{KV_HEADS},"vocab_size":{VOCAB},"rms_norm_eps":1e-5,
        "max_position_embeddings":64,"tie_word_embeddings":true,"eos_token_id":[2,3]{quantization}}}"#
    )
}

/// A safetensors file under construction.
#[derive(Default)]
pub(crate) struct Container {
    pub(super) header: serde_json::Map<String, Value>,
    pub(super) data: Vec<u8>,
}

impl Container {
    pub(crate) fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) {
        let begin = self.data.len();
        self.data.extend(bytes);
        let entry =
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, self.data.len()]});
        self.header.insert(name.to_string(), entry);
    }

    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.add(name, "F32", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    pub(super) fn halves(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let halves = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes());
        self.add(name, "F16", shape, halves.collect());
    }

    pub(super) fn words(&mut self, name: &str, shape: &[usize], words: &[u32]) {
        self.add(name, "I32", shape, words.iter().flat_map(|w| w.to_le_bytes()).collect());
    }

    /// Embedding and norms.
    pub(super) fn rest(&mut self, rng: &mut StdRng, weights: &mut Weights) {
        let values = random(rng, VOCAB * HIDDEN);
        self.floats("model.embed_tokens.weight", &[VOCAB, HIDDEN], &values);
        weights.insert("model.embed_tokens".into(), values);
        for norm in ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"] {
            self.floats(&format!("model.{norm}.weight"), &[HIDDEN], &random(rng, HIDDEN));
        }
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let header = Value::Object(self.header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        length.into_iter().chain(header.into_bytes()).chain(self.data).collect()
    }
}

pub(crate) fn random(rng: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| half::f16::from_f32(rng.random_range(-1.0..1.0)).to_f32()).collect()
}

pub(super) fn files(config: &str, weights: Vec<u8>) -> Files {
    let file = |name: &str, bytes: Vec<u8>| -> Arc<dyn Source> { Bytes::new(name.to_string(), bytes) };
    let mut files = Files::new();
    files.insert("config.json".into(), file("config.json", config.into()));
    files.insert("model.safetensors".into(), file("model.safetensors", weights));
    files
}

/// A crafted model: configuration (empty for GGUF), weight file, golden weights.
pub(super) struct Crafted {
    pub(super) config: String,
    pub(super) bytes: Vec<u8>,
    pub(super) weights: Weights,
}

impl Crafted {
    pub(super) fn open(&self, bytes: Vec<u8>) -> Result<Checkpoint> {
        if self.config.is_empty() {
            return block_on(Checkpoint::from_gguf(Bytes::new("model.gguf", bytes)));
        }
        block_on(Checkpoint::from_files(files(&self.config, bytes)))
    }

    pub(super) fn verify(&self) {
        verify(&self.open(self.bytes.clone()).unwrap(), &self.weights);
    }
}

/// Reads all of a checkpoint, in large pieces and in small ones, and compares it with what it was made from.
pub(super) fn verify(checkpoint: &Checkpoint, golden: &Weights) {
    checkpoint.check().unwrap();
    for budget in BUDGETS {
        for matrix in load_all(checkpoint, budget).unwrap() {
            let weights = decode(&matrix, budget).unwrap();
            for slice in &matrix.slices {
                let name = match matrix.slices.len() {
                    1 => matrix.name.clone(),
                    _ => format!("{}.{}", matrix.name.rsplit_once('.').unwrap().0, slice.name),
                };
                let rows = &weights[slice.rows.start * matrix.cols..slice.rows.end * matrix.cols];
                assert!(rows == golden[&name], "{name} of {}", matrix.format);
            }
        }
    }
    assert!(checkpoint.tensors().iter().map(|t| t.bytes).sum::<u64>() == checkpoint.disk_bytes());
}

/// Unquantized, with biases.
pub(super) fn plain() -> Crafted {
    let rng = &mut StdRng::seed_from_u64(1);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let values = random(rng, rows * cols);
        file.halves(&format!("{name}.weight"), &[rows, cols], &values);
        file.halves(&format!("{name}.bias"), &[rows], &random(rng, rows));
        weights.insert(name, values);
    }
    Crafted { config: config(""), bytes: file.bytes(), weights }
}

/// Sets `code` at bit `bit` of a stream of 32-bit words that are `stride` apart.
pub(super) fn put(words: &mut [u32], stride: usize, bit: usize, code: u32) {
    let (index, shift) = (bit / 32, bit % 32);
    words[index * stride] |= code << shift;
    if shift != 0 && u64::from(code) << shift > u64::from(u32::MAX) {
        words[(index + 1) * stride] |= code >> (32 - shift);
    }
}

/// GPTQ with groups of `group` inputs, `v2` or v1 zero points that differ (`zeros`) or not, act-order or not.
fn gptq(bits: usize, group: usize, v2: bool, zeros: bool, act_order: bool) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(bits as u64);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let max = (1u32 << bits) - 1;
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let groups = cols.div_ceil(group);
        let mut g_idx: Vec<u32> = (0..cols).map(|k| (k / group) as u32).collect();
        if act_order {
            (0..cols).for_each(|k| g_idx.swap(k, rng.random_range(0..cols)));
        }
        let scales = random(rng, groups * rows);
        let (mut qweight, mut qzeros) =
            (vec![0; cols * bits / 32 * rows], vec![0; groups * rows * bits / 32]);
        let mut zero = vec![1 << (bits - 1); groups * rows];
        if zeros {
            zero.iter_mut().for_each(|z| *z = rng.random_range(0..=max));
        }
        for (i, &zero) in zero.iter().enumerate() {
            let stored = if v2 { zero } else { zero.wrapping_sub(1) & max };
            let line = &mut qzeros[i / rows * (rows * bits / 32)..];
            put(line, 1, i % rows * bits, stored);
        }
        let mut dense = vec![0.0; rows * cols];
        for n in 0..rows {
            for k in 0..cols {
                let code = rng.random_range(0..=max);
                put(&mut qweight[n..], rows, k * bits, code);
                let at = g_idx[k] as usize * rows + n;
                dense[n * cols + k] = (code as f32 - zero[at] as f32) * scales[at];
            }
        }
        file.words(&format!("{name}.qweight"), &[cols * bits / 32, rows], &qweight);
        file.words(&format!("{name}.qzeros"), &[groups, rows * bits / 32], &qzeros);
        file.halves(&format!("{name}.scales"), &[groups, rows], &scales);
        if act_order || bits == 4 {
            file.words(&format!("{name}.g_idx"), &[cols], &g_idx);
        }
        weights.insert(name, dense);
    }
    let group = if group >= FFN { -1 } else { group as i64 };
    let layout = if v2 { "gptq_v2" } else { "gptq" };
    let settings = format!(
        r#","quantization_config":{{"quant_method":"gptq","bits":{bits},"group_size":{group},"checkpoint_format":"{layout}","dynamic":{{"-:lm_head":{{}}}}}}"#
    );
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

/// bitsandbytes, doubly quantized or not, the codes stored as `storage`.
fn bitsandbytes(double: bool, storage: &str) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(4);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let weight = format!("{name}.weight");
        let blocks = rows * cols / 64;
        let table = random(rng, 16);
        let codes: Vec<u8> = (0..rows * cols / 2).map(|_| rng.random()).collect();
        let size = if storage == "BF16" { 2 } else { 1 };
        file.add(&weight, storage, &[codes.len() / size, 1], codes.clone());
        file.floats(&format!("{weight}.quant_map"), &[16], &table);
        let absmax: Vec<f64> = if double {
            let (map, factors) = (random(rng, 256), random(rng, blocks.div_ceil(16)));
            let bytes: Vec<u8> = (0..blocks).map(|_| rng.random()).collect();
            file.floats(&format!("{weight}.nested_quant_map"), &[256], &map);
            file.floats(&format!("{weight}.nested_absmax"), &[factors.len()], &factors);
            file.add(&format!("{weight}.absmax"), "U8", &[blocks], bytes.clone());
            let scale =
                |(i, &b): (usize, &u8)| f64::from(map[b as usize]) * f64::from(factors[i / 16]) + 0.75;
            bytes.iter().enumerate().map(scale).collect()
        } else {
            let absmax = random(rng, blocks);
            file.floats(&format!("{weight}.absmax"), &[blocks], &absmax);
            absmax.into_iter().map(f64::from).collect()
        };
        let state = serde_json::json!({"quant_type": "nf4", "blocksize": 64, "dtype": "float16",
            "shape": [rows, cols], "nested_blocksize": 16, "nested_offset": 0.75});
        let state = state.to_string().into_bytes();
        file.add(&format!("{weight}.quant_state.bitsandbytes__nf4"), "U8", &[state.len()], state);
        let nibble = |i: usize| codes[i / 2] >> (if i.is_multiple_of(2) { 4 } else { 0 }) & 15;
        let dense = (0..rows * cols).map(|i| (f64::from(table[nibble(i) as usize]) * absmax[i / 64]) as f32);
        weights.insert(name, dense.collect());
    }
    let settings = r#","quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}"#;
    Crafted { config: config(settings), bytes: file.bytes(), weights }
}

/// AQLM with `count` codebooks of `bits` bits for blocks of `output` × `input` weights.
fn aqlm(count: usize, bits: u32, output: usize, input: usize) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(7);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let entries = 1usize << bits;
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let codebooks = random(rng, count * entries * output * input);
        let scales = random(rng, rows / output);
        let codes: Vec<usize> =
            (0..rows / output * (cols / input) * count).map(|_| rng.random_range(0..entries)).collect();
        let mut dense = Vec::new();
        for n in 0..rows {
            for k in 0..cols {
                let block = n / output * (cols / input) + k / input;
                let value = |c: usize| {
                    let entry = c * entries + codes[block * count + c];
                    f64::from(codebooks[(entry * output + n % output) * input + k % input])
                };
                let sum: f64 = (0..count).map(value).sum();
                dense.push((sum * f64::from(scales[n / output])) as f32);
            }
        }
        let wide = if bits > 8 { 2 } else { 1 };
        // The upper half of the codes is stored as negative numbers.
        let signed = |&code: &usize| code as i32 - if code >= entries / 2 { entries as i32 } else { 0 };
        let bytes = codes.iter().flat_map(|code| signed(code).to_le_bytes()[..wide].to_vec()).collect();
        let dtype = if wide == 2 { "I16" } else { "I8" };
        file.add(&format!("{name}.codes"), dtype, &[rows / output, cols / input, count], bytes);
        file.halves(&format!("{name}.codebooks"), &[count, entries, output, input], &codebooks);
        file.halves(&format!("{name}.scales"), &[rows / output, 1, 1, 1], &scales);
        weights.insert(name, dense);
    }
    let sizes = format!(
        r#""num_codebooks":{count},"nbits_per_codebook":{bits},"out_group_size":{output},"in_group_size":{input}"#
    );
    let settings = format!(r#","quantization_config":{{"quant_method":"aqlm",{sizes}}}"#);
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

/// What a crafted QuIP# layer has; `settings` go into `quip_params`.
#[derive(Clone, Copy)]
pub(super) struct Quip {
    pub(super) codebook: &'static str,
    pub(super) fused: bool,
    /// `scaleWH`, and A and B of rank 4.
    pub(super) extras: bool,
    pub(super) settings: &'static str,
}

/// QuIP# in 2 bits.
pub(super) const QUIP: Quip =
    Quip { codebook: "E8P12", fused: true, extras: false, settings: r#""codebook_version":1"# };

const RVQ3B: Quip = Quip { codebook: "E8P12RVQ3B", settings: r#""codebook_version":0"#, ..QUIP };
const RVQ4B: Quip = Quip { codebook: "E8P12RVQ4B", ..QUIP };

/// QuIP#; the golden weights are the code points, before any transform.
pub(super) fn quip(Quip { codebook, fused, extras, settings }: Quip) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(5);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let modules: &[(&str, &[usize])] = if fused {
        &[
            ("self_attn.qkv_proj", &[0, 1, 2]),
            ("self_attn.o_proj", &[3]),
            ("mlp.upgate_proj", &[5, 4]),
            ("mlp.down_proj", &[6]),
        ]
    } else {
        &[
            (LAYERS[0].0, &[0]),
            (LAYERS[1].0, &[1]),
            (LAYERS[2].0, &[2]),
            (LAYERS[3].0, &[3]),
            (LAYERS[4].0, &[4]),
            (LAYERS[5].0, &[5]),
            (LAYERS[6].0, &[6]),
        ]
    };
    for &(module, parts) in modules {
        let cols = LAYERS[parts[0]].2;
        let rows: usize = parts.iter().map(|&part| LAYERS[part].1).sum();
        let plane = cols / 32;
        // A plane of E8P12: element e of it is word e % plane of stored row e / plane.
        let put = |words: &mut [u64], r: usize, c: usize, code: u16| {
            let word = &mut words[(r / 16 * (cols / 64) + c / 8) * 32 + r % 16 / 2 * 4 + c / 2 % 4];
            let byte = r % 2 + 2 * (c % 2);
            *word |= u64::from(code >> 8) << (8 * byte);
            (0..8).for_each(|p| *word |= u64::from(code >> p & 1) << (32 + 4 * p + byte));
        };
        let (mut first, mut second) = (vec![0u64; rows * plane], Vec::new());
        let mut dense: Vec<f32> = Vec::new();
        second.resize(rows * plane / if codebook == "E8P12RVQ3B" { 2 } else { 1 }, 0u64);
        for r in 0..rows {
            for c in 0..cols / 8 {
                let (code, more): (u16, u16) = (rng.random(), rng.random());
                put(&mut first, r, c, code);
                let residual = match codebook {
                    "E8P12RVQ3B" => {
                        second[(r * cols / 8 + c) / 8] |= u64::from(more & 255) << (c % 8 * 8);
                        Some((halfbyte::quant::e8p::decode_e8(more as u8), 2.04))
                    }
                    "E8P12RVQ4B" => {
                        put(&mut second, r, c, more);
                        let divisor =
                            if settings.contains("resid_scale_override\":2.5") { 2.5 } else { 3.45 };
                        Some((halfbyte::quant::e8p::decode(more), divisor))
                    }
                    _ => None,
                };
                for (d, w) in halfbyte::quant::e8p::decode(code).into_iter().enumerate() {
                    let more = residual.map_or(0.0, |(r, divisor)| f64::from(r[d]) / divisor);
                    dense.push((f64::from(w) + more) as f32);
                }
            }
        }
        let mut rest = &dense[..];
        for &part in parts {
            let (own, more) = rest.split_at(LAYERS[part].1 * cols);
            weights.insert(format!("model.layers.0.{}", LAYERS[part].0), own.to_vec());
            rest = more;
        }
        if codebook == "E8P12" {
            second.clear();
        }
        let residual_words = second.len() / rows;
        let row = |r: usize| {
            [&first[r * plane..][..plane], &second[r * residual_words..][..residual_words]].concat()
        };
        let bytes = (0..rows).flat_map(row).flat_map(u64::to_le_bytes).collect();
        let name = format!("model.layers.0.{module}");
        file.add(&format!("{name}.Qidxs"), "I64", &[rows, plane + residual_words], bytes);
        file.halves(&format!("{name}.SU"), &[cols], &random(rng, cols));
        file.halves(&format!("{name}.SV"), &[rows], &random(rng, rows));
        if extras {
            let scales: Vec<f32> = random(rng, cols).into_iter().map(|s| s.abs() + 0.5).collect();
            file.halves(&format!("{name}.scaleWH"), &[cols], &scales);
            file.halves(&format!("{name}.A"), &[rows, 4], &random(rng, rows * 4));
            file.halves(&format!("{name}.B"), &[4, cols], &random(rng, cols * 4));
        } else {
            file.floats(&format!("{name}.Wscale"), &[], &[0.5]);
        }
        let id: u64 = match codebook {
            "E8P12" => 7,
            "E8P12RVQ3B" => 18,
            _ => 17,
        };
        file.add(&format!("{name}.codebook_id"), "I64", &[], id.to_le_bytes().into());
        if parts.len() > 1 {
            file.floats(&format!("{name}.fuse_scales"), &[parts.len()], &random(rng, parts.len()));
        }
    }
    let extra = if extras { r#","rescale_WH":true,"lora_rank":4"# } else { "" };
    let settings = format!(r#","quip_params":{{"codebook":"{codebook}",{settings}{extra}}}"#);
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

/// A GGUF file under construction.
pub(super) struct GgufFile {
    arch: String,
    pairs: Vec<Vec<u8>>,
    directory: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn gguf_string(s: &str) -> Vec<u8> {
    (s.len() as u64).to_le_bytes().into_iter().chain(s.bytes()).collect()
}

impl GgufFile {
    /// No tensors, no pairs.
    pub(super) fn empty(arch: &str) -> Self {
        Self { arch: arch.into(), pairs: Vec::new(), directory: Vec::new(), data: Vec::new() }
    }

    /// The hyper-parameters of a model of one layer.
    pub(super) fn new(arch: &str, hidden: usize) -> Self {
        let mut file = Self::empty(arch);
        file.pair("general.architecture", 8, &gguf_string(arch));
        for (key, value) in [
            ("context_length", 64),
            ("embedding_length", hidden),
            ("feed_forward_length", FFN),
            ("block_count", 1),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
        ] {
            let key = format!("{}.{key}", file.arch);
            file.pair(&key, 4, &(value as u32).to_le_bytes());
        }
        file.pair(&format!("{arch}.attention.layer_norm_rms_epsilon"), 6, &1e-5f32.to_le_bytes());
        let tokens = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &gguf_string("a"), &gguf_string("b")];
        file.pair("tokenizer.ggml.tokens", 9, &tokens.concat());
        file.pair("tokenizer.ggml.add_bos_token", 7, &[1]);
        file
    }

    /// A key with a value of type `ty`.
    pub(super) fn pair(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.pairs.push([&gguf_string(key)[..], &ty.to_le_bytes(), value].concat());
    }

    /// A tensor of the ggml type `ty`.
    pub(super) fn add(&mut self, name: &str, dims: &[usize], ty: u32, bytes: &[u8]) {
        let mut entry = [&gguf_string(name)[..], &(dims.len() as u32).to_le_bytes()].concat();
        dims.iter().rev().for_each(|&d| entry.extend((d as u64).to_le_bytes()));
        entry.extend(ty.to_le_bytes());
        entry.extend((self.data.len() as u64).to_le_bytes());
        self.directory.push(entry);
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(name, dims, 0, &bytes);
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = [b"GGUF".to_vec(), 3u32.to_le_bytes().into()].concat();
        bytes.extend((self.directory.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.directory.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(self.data);
        bytes
    }
}

/// A GGUF file of architecture `arch`, all layers of the ggml type `id`.
pub(super) fn gguf(arch: &str, id: u32) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(u64::from(id));
    let mut file = GgufFile::new(arch, HIDDEN);
    let mut weights = Weights::new();
    let embedding = random(rng, VOCAB * HIDDEN);
    file.floats("token_embd.weight", &[VOCAB, HIDDEN], &embedding);
    weights.insert("model.embed_tokens".into(), embedding);
    for norm in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        file.floats(&format!("{norm}.weight"), &[HIDDEN], &random(rng, HIDDEN));
    }
    let names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for (i, (name, rows, cols)) in LAYERS.into_iter().enumerate() {
        let (mut bytes, mut dense) = (Vec::new(), Vec::new());
        while dense.len() < rows * cols {
            let (block, values) = ggml_block(id, rng);
            bytes.extend(block);
            dense.extend(values);
        }
        if arch == "llama" && i < 2 {
            // As the converter permutes: [heads, 2, head_dim / 2] → [heads, head_dim / 2, 2].
            let half = HIDDEN / HEADS / 2;
            let stored = |n: usize| {
                let (head, p, j) = (n / (2 * half), n / half % 2, n % half);
                head * 2 * half + 2 * j + p
            };
            dense =
                (0..rows).flat_map(|n| dense[stored(n) * cols..(stored(n) + 1) * cols].to_vec()).collect();
        }
        file.add(&format!("blk.0.{}.weight", names[i]), &[rows, cols], id, &bytes);
        weights.insert(format!("model.layers.0.{name}"), dense);
    }
    Crafted { config: String::new(), bytes: file.bytes(), weights }
}

/// A random block of 32 or 64 weights of a ggml type, and what it means.
fn ggml_block(id: u32, rng: &mut StdRng) -> (Vec<u8>, Vec<f32>) {
    if matches!(id, 20 | 39 | 40) {
        return super::floats::ggml_block(id, rng);
    }
    let floats = random(rng, 2);
    let (d, m) = (floats[0], floats[1]);
    let half_bytes = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let mut block = half_bytes(d).to_vec();
    let mut codes: Vec<i32> = (0..32).map(|_| rng.random_range(0..16)).collect();
    if matches!(id, 3 | 7) {
        block.extend(half_bytes(m));
    }
    if id == 8 {
        codes.iter_mut().for_each(|q| *q = rng.random_range(-128..128));
        block.extend(codes.iter().map(|&q| q as u8));
    } else {
        let nibbles: Vec<u8> = (0..16).map(|j| (codes[j] | codes[j + 16] << 4) as u8).collect();
        if matches!(id, 6 | 7) {
            let fifth: u32 = rng.random();
            codes.iter_mut().enumerate().for_each(|(j, q)| *q |= (fifth >> j & 1) as i32 * 16);
            block.extend(fifth.to_le_bytes());
        }
        block.extend(nibbles);
    }
    let value = |&q: &i32| match id {
        2 => (q - 8) as f32 * d,
        6 => (q - 16) as f32 * d,
        8 => q as f32 * d,
        _ => q as f32 * d + m,
    };
    (block, codes.iter().map(value).collect())
}

/// One of every kind, for the tests that damage bytes.
fn all() -> Vec<Crafted> {
    let mut all = vec![plain(), quip(QUIP), bitsandbytes(false, "U8"), bitsandbytes(true, "U8")];
    all.extend([aqlm(2, 8, 1, 8), aqlm(1, 9, 2, 16), super::vptq::vptq(super::vptq::VPTQ)]);
    all.extend([quip(Quip { extras: true, ..RVQ4B }), quip(RVQ3B), super::transformed::exl3()]);
    all.extend([
        super::transformed::qtip(&Qtip("quantlut_sym", 3)),
        super::transformed::qtip(&Qtip("1mad", 2)),
        super::transformed::quip_for_all("E8P12RVQ3B"),
    ]);
    all.extend([
        gptq(4, 32, false, true, true),
        gptq(3, 64, false, false, false),
        gptq(4, 16, true, true, false),
    ]);
    all.extend(super::integers::samples());
    all.extend(super::floats::samples());
    all.extend([gguf("llama", 2), gguf("qwen2", 7), gguf("llama", 40)]);
    all
}

#[test]
fn unquantized() {
    let model = plain();
    model.verify();
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    assert_eq!(checkpoint.config().eos, [2, 3]);
    assert_eq!(checkpoint.format_name(), "f16");
    let q = &block_on(checkpoint.matrices("model.layers.0.self_attn", &["q_proj"])).unwrap()[0];
    assert_eq!(q.bias.as_ref().unwrap().len(), HIDDEN);
}

#[test]
fn gptq_of_every_width() {
    for bits in [2, 3, 4, 8] {
        for group in [16, 32, 64, FFN] {
            for (v2, zeros) in [(false, false), (false, true), (true, true)] {
                gptq(bits, group, v2, zeros, false).verify();
                gptq(bits, group, v2, zeros, true).verify();
            }
        }
    }
}

#[test]
fn bitsandbytes_of_every_storage() {
    for (double, storage) in [(false, "U8"), (true, "U8"), (true, "BF16")] {
        bitsandbytes(double, storage).verify();
    }
}

#[test]
fn aqlm_of_every_shape() {
    for (count, bits, output, input) in
        [(1, 16, 1, 8), (2, 8, 1, 8), (1, 9, 1, 16), (3, 4, 8, 4), (4, 7, 2, 8), (8, 8, 1, 32)]
    {
        aqlm(count, bits, output, input).verify();
    }
}

/// The configuration of AQLM's first models, and settings that are not the tensors'.
#[test]
fn aqlm_configurations() {
    let model = aqlm(2, 8, 1, 8);
    let older = model.config.replace(r#""quantization_config""#, r#""aqlm""#);
    let older = older.replace(r#""model_type":"llama""#, r#""model_type":"llama_aqlm""#);
    let older = older.replace(r#""quant_method":"aqlm","#, "");
    assert!(older != model.config && !older.contains("quant_method"));
    Crafted { config: older, ..aqlm(2, 8, 1, 8) }.verify();
    for (from, to, says) in [
        ("\"num_codebooks\":2", "\"num_codebooks\":1", "num_codebooks"),
        ("\"in_group_size\":8", "\"in_group_size\":16", "in_group_size"),
        ("\"nbits_per_codebook\":8", "\"nbits_per_codebook\":-1", "invalid nbits_per_codebook -1"),
    ] {
        let config = model.config.replace(from, to);
        let checkpoint = block_on(Checkpoint::from_files(files(&config, model.bytes.clone()))).unwrap();
        let error = load_all(&checkpoint, BUDGETS[0]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
}

#[test]
fn quip_tiles() {
    let model = quip(QUIP);
    model.verify();
    for kind in [RVQ3B, RVQ4B, QUIP] {
        quip(kind).verify();
        quip(Quip { fused: false, ..kind }).verify();
        quip(Quip { extras: true, ..kind }).verify();
    }
    let settings = r#""codebook_version":1,"resid_scale_override":2.5"#;
    quip(Quip { settings, ..RVQ4B }).verify();
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let parent = "model.layers.0.mlp";
    let mlp = block_on(checkpoint.matrices(parent, &["gate_proj", "up_proj"])).unwrap();
    let names: Vec<&str> = mlp[0].slices.iter().map(|slice| slice.name.as_str()).collect();
    assert_eq!((mlp.len(), names), (1, vec!["up_proj", "gate_proj"]));
}

/// Settings that would mean other weights.
#[test]
fn quip_settings() {
    for (kind, from, to, says) in [
        (QUIP, r#""codebook":"E8P12""#, r#""codebook":"D4""#, "codebook D4"),
        (QUIP, r#""codebook":"E8P12""#, r#""codebook":"E8P12RVQ4B""#, "codebook_id 7"),
        (RVQ3B, r#"version":0"#, r#"version":1"#, "codebook_version 1"),
        (QUIP, r#"version":1"#, r#"version":1,"outlier_channel_split":true"#, "outlier_channel_split"),
        (QUIP, r#"version":1"#, r#"version":1,"lora_rank":4"#, "lora_rank 4 beside Wscale"),
        (QUIP, r#"version":1"#, r#"version":1,"rescale_WH":true"#, "missing tensor"),
        (Quip { extras: true, ..QUIP }, r#","lora_rank":4"#, "", "no use for"),
        (Quip { extras: true, ..QUIP }, r#","rescale_WH":true"#, "", "no use for"),
        (
            Quip { extras: true, ..QUIP },
            r#""lora_rank":4"#,
            r#""lora_rank":3"#,
            "expected [3,64], found [4,64]",
        ),
    ] {
        let model = quip(kind);
        let config = model.config.replace(from, to);
        assert!(config != model.config, "{from}");
        let checkpoint = block_on(Checkpoint::from_files(files(&config, model.bytes))).unwrap();
        let error = load_all(&checkpoint, BUDGETS[0]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
}

#[test]
fn gguf_of_every_type() {
    for arch in ["llama", "qwen2", "qwen3"] {
        for id in [2, 3, 6, 7, 8, 20, 39, 40] {
            gguf(arch, id).verify();
        }
    }
}

/// Numbers that are none: every float of a file in turn, everything else left alone.
#[test]
fn nan_is_refused() {
    let model = gptq(4, 32, false, true, false);
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let ranges: Vec<_> = checkpoint.raw_tensors().iter().map(|t| (t.name.clone(), t.range.clone())).collect();
    for (name, range) in
        ranges.iter().filter(|(name, _)| name.ends_with("scales") || name.ends_with("weight"))
    {
        if name.ends_with("qweight") || name.ends_with("norm.weight") {
            continue;
        }
        let mut bytes = model.bytes.clone();
        bytes[range.start as usize..range.start as usize + 4].fill(0xff);
        let error = model.open(bytes).and_then(|c| load_all(&c, BUDGETS[0]).map(|_| ())).unwrap_err();
        assert!(error.to_string().contains("non-finite"), "{name}: {error}");
    }
}

/// Configurations that say something else than the usual.
#[test]
fn configurations() {
    let parse = |more: &str, generation: Option<&str>| {
        let config = config(more).replace(r#""vocab_size":40,"#, r#""vocab_size":40,"hidden_act":"silu","#);
        halfbyte::checkpoint::hf::parse_config(config.as_bytes(), generation.map(str::as_bytes))
    };
    let plain = parse("", Some(r#"{"eos_token_id":[3,7]}"#)).unwrap();
    assert_eq!((plain.eos, plain.window, plain.context), (vec![2, 3, 7], None, 64));
    let mistral = r#","model_type":"mistral","sliding_window":16"#;
    assert_eq!(parse(mistral, None).unwrap().window, Some(16));
    assert_eq!(parse(r#","model_type":"mistral","sliding_window":null"#, None).unwrap().window, None);
    let qwen = r#","model_type":"qwen2","sliding_window":16,"max_window_layers":0,"use_sliding_window""#;
    assert_eq!(parse(&format!("{qwen}:true"), None).unwrap().window, Some(16));
    assert_eq!(parse(&format!("{qwen}:false"), None).unwrap().window, None);
    let gemma = r#","model_type":"gemma2","sliding_window":16"#;
    let gemma = parse(gemma, None).unwrap();
    let sliding = gemma.alternating.clone().map(|a| a.sliding);
    assert_eq!((gemma.window, sliding), (Some(16), None), "its one layer slides");
    let asked =
        r#","model_type":"qwen2","sliding_window":16,"use_sliding_window":true,"num_hidden_layers":3"#;
    let mixed = parse(&format!(r#"{asked},"max_window_layers":1"#), None).unwrap();
    assert_eq!([0, 1, 2].map(|layer| mixed.slides(layer)), [false, true, true]);
    let yarn = r#","rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16}"#;
    assert_eq!(parse(yarn, None).unwrap().context, 64);
    let linear = parse(r#","rope_scaling":{"type":"linear","factor":4.0}"#, None).unwrap();
    assert_eq!((linear.rope.scaling, linear.context), (RopeScaling::Linear { factor: 4.0 }, 256));
    for (more, says) in [
        (r#","rope_scaling":{"rope_type":"ntk","factor":4.0}"#, "rope type ntk"),
        (r#","rope_scaling":{"rope_type":"yarn","factor":4.0,"beta_slow":-1}"#, "invalid beta_slow -1"),
        (r#","rope_scaling":{"type":"su","short_factor":[1],"long_factor":[1]}"#, "missing original_max"),
        (
            r#","rope_scaling":{"type":"su","short_factor":[1],"long_factor":[1],"original_max_position_embeddings":8}"#,
            "invalid RoPE scaling Long",
        ),
        (r#","num_experts":4,"num_experts_per_tok":5"#, "invalid experts: 5 of 4"),
        (r#","num_experts":4"#, "missing num_experts_per_tok"),
        (r#","num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":40"#, "width of an expert"),
        (r#","final_logit_softcapping":0.0"#, "invalid scale 0"),
        (r#","do_layer_norm_before":false"#, "do_layer_norm_before"),
        (r#","model_type":"qwen3_moe","decoder_sparse_step":2"#, "decoder_sparse_step 2"),
        (r#","rope_scaling":{"rope_type":"linear"}"#, "missing factor"),
        (r#","rope_scaling":{"rope_type":"linear","factor":-2}"#, "invalid factor -2"),
        (r#","rope_scaling":[1]"#, "invalid rope_scaling [1]"),
        (r#","partial_rotary_factor":0.5"#, "partial_rotary_factor 0.5"),
        (r#","hidden_act":"gelu""#, "hidden_act gelu"),
        (r#","model_type":"mamba""#, "architecture mamba"),
        (r#","architectures":["LlamaForSequenceClassification"]"#, "LlamaForSequenceClassification"),
        (r#","num_hidden_layers":1e9"#, "invalid num_hidden_layers"),
        (r#","num_hidden_layers":1000000000"#, "invalid num_hidden_layers 1000000000"),
        (r#","eos_token_id":"end""#, "invalid eos_token_id"),
        (r#","head_dim":7"#, "head_dim"),
        (r#","head_dim":0"#, "invalid head_dim 0"),
        (r#","rope_theta":-1"#, "invalid rope_theta -1"),
    ] {
        let error = parse(more, None).unwrap_err().to_string();
        assert!(error.contains(says), "{more}: {error}");
    }
}

/// A block scale that is no number, in the one place where the hostile files cannot show it.
#[test]
fn nan_block_scale_is_refused() {
    let model = gguf("qwen2", 2);
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let q =
        checkpoint.raw_tensors().get("model.layers.0.self_attn.q_proj.weight").unwrap().range.start as usize;
    let mut bytes = model.bytes.clone();
    bytes[q..q + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let error = model.open(bytes).and_then(|c| load_all(&c, BUDGETS[0]).map(|_| ())).unwrap_err();
    assert!(error.to_string().contains("non-finite block scale"), "{error}");
}

fn adapter() -> (String, Vec<u8>) {
    let rng = &mut StdRng::seed_from_u64(6);
    let mut file = Container::default();
    let name = "base_model.model.model.layers.0.self_attn.q_proj";
    file.floats(&format!("{name}.lora_A.weight"), &[4, HIDDEN], &random(rng, 4 * HIDDEN));
    file.halves(&format!("{name}.lora_B.weight"), &[HIDDEN, 4], &random(rng, 4 * HIDDEN));
    let config = r#"{"peft_type":"LORA","r":8,"lora_alpha":16,"use_rslora":true,"rank_pattern":{"q_proj":4},"alpha_pattern":{"self_attn.q_proj":6}}"#;
    (config.to_string(), file.bytes())
}

pub(super) fn open_adapter(config: &str, weights: Vec<u8>) -> Result<Adapter> {
    let file = |name: &str, bytes: Vec<u8>| -> Arc<dyn Source> { Bytes::new(name.to_string(), bytes) };
    let mut files = Files::new();
    files.insert("adapter_config.json".into(), file("adapter_config.json", config.into()));
    files.insert("adapter_model.safetensors".into(), file("adapter_model.safetensors", weights));
    block_on(Adapter::from_files(&files))
}

#[test]
fn adapters() {
    let (config, weights) = adapter();
    let adapter = open_adapter(&config, weights.clone()).unwrap();
    let lora = &adapter.modules["model.layers.0.self_attn.q_proj"];
    assert_eq!((lora.rows, lora.cols, lora.rank, lora.scale), (HIDDEN, HIDDEN, 4, 3.0));
    adapter.check(plain().open(plain().bytes).unwrap().config()).unwrap();
    for (from, to, says) in [
        ("\"LORA\"", "\"IA3\"", "adapter type IA3"),
        ("\"use_rslora\":true", "\"use_dora\":true", "use_dora"),
        ("\"q_proj\":4", "\".*_proj\":4", "regular expression"),
        ("\"q_proj\":4", "\"q_proj\":3", "LoRA rank mismatch: config 3, tensor 4"),
        ("\"lora_alpha\":16", "\"lora_alpha\":\"big\"", "invalid lora_alpha"),
        ("\"r\":8", "\"modules_to_save\":[\"lm_head\"]", "modules_to_save"),
    ] {
        let error = open_adapter(&config.replace(from, to), weights.clone()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Places and new bytes, digits among them: headers are mostly numbers.
type Flips = Vec<(prop::sample::Index, u8)>;

/// What damages a file: bytes changed, the end cut off.
fn damage() -> impl Strategy<Value = (Flips, Option<prop::sample::Index>)> {
    let byte = prop_oneof![any::<u8>(), b'0'..=b'9'];
    let flips = prop::collection::vec((any::<prop::sample::Index>(), byte), 1..6);
    (flips, prop::option::weighted(0.2, any::<prop::sample::Index>()))
}

/// Applies it, mostly to the first `head` bytes, where the structure is.
fn damaged(bytes: &[u8], head: usize, (flips, cut): &(Flips, Option<prop::sample::Index>)) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (i, (at, byte)) in flips.iter().enumerate() {
        let at = at.index(if i % 4 == 3 { bytes.len() } else { head.min(bytes.len()) });
        bytes[at] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

proptest! {
    /// A damaged model gives weights or an error.
    #[test]
    fn damaged_models_do_not_panic(which in any::<prop::sample::Index>(), how in damage()) {
        thread_local!(static MODELS: Vec<Crafted> = all());
        MODELS.with(|models| {
            let model = which.get(models);
            let bytes = damaged(&model.bytes, 6000, &how);
            if let Ok(checkpoint) = model.open(bytes) {
                let _ = checkpoint.check();
                let _ = checkpoint.tensors();
                let _ = load_all(&checkpoint, BUDGETS[1]);
            }
        });
    }

    /// A damaged configuration gives a model or an error.
    #[test]
    fn damaged_configurations_do_not_panic(which in any::<prop::sample::Index>(), how in damage()) {
        thread_local!(static MODELS: Vec<Crafted> =
            all().into_iter().filter(|model| !model.config.is_empty()).collect());
        MODELS.with(|models| {
            let model = which.get(models);
            let config = String::from_utf8_lossy(&damaged(model.config.as_bytes(), 6000, &how)).into_owned();
            if let Ok(checkpoint) = block_on(Checkpoint::from_files(files(&config, model.bytes.clone()))) {
                let _ = checkpoint.check();
                let _ = load_all(&checkpoint, BUDGETS[1]);
            }
        });
    }

    /// A damaged adapter gives an adapter or an error.
    #[test]
    fn damaged_adapters_do_not_panic(how in damage(), config_too in any::<bool>()) {
        let (config, weights) = adapter();
        let config = if config_too { damaged(config.as_bytes(), 6000, &how) } else { config.into() };
        let _ = open_adapter(&String::from_utf8_lossy(&config), damaged(&weights, 300, &how));
    }
}

/// `cargo test --test suite write_fuzz_seeds -- --ignored` writes the seeds of the fuzzing targets.
#[test]
#[ignore = "writes files"]
fn write_fuzz_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.join(target)).unwrap();
        std::fs::write(folder.join(target).join(name), bytes).unwrap();
    };
    write("safetensors", "plain", &plain().bytes);
    write("gptq", "4bit-actorder", &gptq(4, 32, false, true, true).bytes);
    write("bitsandbytes", "nf4-double", &bitsandbytes(true, "U8").bytes);
    write("aqlm", "2x8", &aqlm(2, 8, 1, 8).bytes);
    write("quip", "e8p12", &quip(QUIP).bytes);
    write("exl3", "every-width", &super::transformed::exl3().bytes);
    write("gguf", "q4_0", &gguf("llama", 2).bytes);
    write("gguf", "q5_1", &gguf("qwen2", 7).bytes);
    write("lora", "rslora", &adapter().1);
    write("config", "llama", config("").as_bytes());
}
