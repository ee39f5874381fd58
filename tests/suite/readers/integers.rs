//! Crafted models of packed integers: every layout of AWQ, compressed-tensors, GPTQ, AutoRound, LLM.int8 and torch-int,
//! written with loops that put one code after the other, against `(q − z) · s`.

use super::crafted::{Container, Crafted, FFN, HIDDEN, LAYERS, VOCAB, Weights, config, files, random};
use super::*;
use halfbyte::checkpoint::source::{Bytes, Source};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// A random layer `[rows, cols]` with groups of `group` columns.
struct Layer {
    name: String,
    rows: usize,
    cols: usize,
    groups: usize,
    codes: Vec<u32>,
    zeros: Vec<u32>,
    scales: Vec<f32>,
    g_idx: Vec<u32>,
}

impl Layer {
    fn new(rng: &mut StdRng, name: &str, [rows, cols]: [usize; 2], bits: usize, group: usize) -> Self {
        let groups = cols.div_ceil(group);
        let max = (1u32 << bits) - 1;
        let codes = (0..rows * cols).map(|_| rng.random_range(0..=max)).collect();
        let zeros = (0..rows * groups).map(|_| rng.random_range(0..=max)).collect();
        let g_idx = (0..cols).map(|k| (k / group) as u32).collect();
        let (name, scales) = (name.to_string(), random(rng, rows * groups));
        Self { name, rows, cols, groups, codes, zeros, scales, g_idx }
    }

    fn tensor(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name)
    }

    fn dense(&self) -> Vec<f32> {
        let weight = |i: usize| {
            let j = i / self.cols * self.groups + self.g_idx[i % self.cols] as usize;
            ((f64::from(self.codes[i]) - f64::from(self.zeros[j])) * f64::from(self.scales[j])) as f32
        };
        (0..self.rows * self.cols).map(weight).collect()
    }

    /// The same zero point everywhere.
    fn symmetric(mut self, zero: u32) -> Self {
        self.zeros.fill(zero);
        self
    }

    /// Inputs in groups at random.
    fn act_order(mut self, rng: &mut StdRng) -> Self {
        (0..self.cols).for_each(|k| self.g_idx.swap(k, rng.random_range(0..self.cols)));
        self
    }
}

/// `[rows][cols]` → `[cols][rows]`.
fn transposed<T: Copy>(items: &[T], cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| items.iter().skip(c).step_by(cols).copied()).collect()
}

/// A model whose layers are made by `make` and written by `write`.
fn model(
    quantization: &str,
    seed: u64,
    make: impl Fn(&mut StdRng, &str, [usize; 2]) -> Layer,
    write: impl Fn(&mut Container, &Layer),
) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(seed);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let layer = make(rng, &format!("model.layers.0.{name}"), [rows, cols]);
        write(&mut file, &layer);
        weights.insert(layer.name.clone(), layer.dense());
    }
    let settings = format!(r#","quantization_config":{{{quantization}}}"#);
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

/// Packs `items`, `[lines][width]`, along the lines into nibbles, eight to a word in `order`.
fn nibbles(items: &[u32], width: usize, order: [usize; 8]) -> Vec<u32> {
    let line = |line: &[u32]| -> Vec<u32> {
        line.chunks(8).map(|c| c.iter().enumerate().map(|(j, q)| q << (4 * order[j])).sum()).collect()
    };
    items.chunks(width).flat_map(line).collect()
}

const IN_ORDER: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const GEMM_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

fn write_gemm(file: &mut Container, l: &Layer) {
    let qweight = nibbles(&transposed(&l.codes, l.cols), l.rows, GEMM_ORDER);
    file.words(&l.tensor("qweight"), &[l.cols, l.rows / 8], &qweight);
    let qzeros = nibbles(&transposed(&l.zeros, l.groups), l.rows, GEMM_ORDER);
    file.words(&l.tensor("qzeros"), &[l.groups, l.rows / 8], &qzeros);
    file.halves(&l.tensor("scales"), &[l.groups, l.rows], &transposed(&l.scales, l.groups));
}

fn awq(version: &str, group: usize) -> Crafted {
    let settings = format!(
        r#""quant_method":"awq","bits":4,"group_size":{group},"zero_point":true,"version":"{version}","modules_to_not_convert":["lm_head"]"#
    );
    let make = |rng: &mut StdRng, name: &str, shape| Layer::new(rng, name, shape, 4, group);
    match version {
        "gemm" => model(&settings, 1, make, write_gemm),
        "gemv" => model(&settings, 2, make, |file, l| {
            // Groups are padded to whole words, and to four words where they are small.
            let width = l.groups.div_ceil(8).next_multiple_of(if group < 64 { 4 } else { 1 });
            let pad = |line: &[u32]| [line, &vec![0; 8 * width - l.groups]].concat();
            let zeros: Vec<u32> = l.zeros.chunks(l.groups).flat_map(pad).collect();
            let pad = |line: &[f32]| [line, &vec![0.0; 8 * width - l.groups]].concat();
            let scales: Vec<f32> = l.scales.chunks(l.groups).flat_map(pad).collect();
            let qweight = nibbles(&l.codes, l.cols, IN_ORDER);
            file.words(&l.tensor("qweight"), &[l.rows, l.cols / 8], &qweight);
            file.words(&l.tensor("qzeros"), &[l.rows, width], &nibbles(&zeros, 8 * width, IN_ORDER));
            file.halves(&l.tensor("scales"), &[l.rows, 8 * width], &scales);
        }),
        _ => {
            let mut crafted = model(&settings, 3, make, |file, l| {
                let mut words = vec![0u16; l.rows / 4 * l.cols];
                for n in 0..l.rows {
                    for k in 0..l.cols {
                        // Inside 32 inputs the pairs of 8 are dealt out, then odd follows even.
                        let (pair, eight) = (k % 8 / 2, k % 32 / 8);
                        let dealt = pair * 8 + eight * 2 + k % 2;
                        let place = dealt / 8 * 8 + dealt % 2 * 4 + dealt % 8 / 2;
                        let at = n % 4 * 64 + k % 64 / 32 * 32 + place;
                        let word = n / 4 * l.cols + k / 64 * 64 + at / 4;
                        words[word] |= (l.codes[n * l.cols + k] << (at % 4 * 4)) as u16;
                    }
                }
                let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                file.add(&l.tensor("qweight"), "I16", &[l.rows / 4, l.cols], bytes);
                let pad = |mut values: Vec<f32>| {
                    values.resize(8 * l.rows, 0.0);
                    values
                };
                let minima: Vec<f32> = l.scales.iter().zip(&l.zeros).map(|(s, &z)| minimum(*s, z)).collect();
                file.halves(&l.tensor("scales"), &[8, l.rows], &pad(transposed(&l.scales, l.groups)));
                file.halves(&l.tensor("qzeros"), &[8, l.rows], &pad(transposed(&minima, l.groups)));
            });
            // w = q · s + m with m rounded to f16, not (q − z) · s.
            let rng = &mut StdRng::seed_from_u64(3);
            Container::default().rest(rng, &mut Weights::new());
            for (name, rows, cols) in LAYERS {
                let l = make(rng, &format!("model.layers.0.{name}"), [rows, cols]);
                let weight = |i: usize| {
                    let j = i / cols * l.groups + i % cols / group;
                    let minimum = f64::from(minimum(l.scales[j], l.zeros[j]));
                    (f64::from(l.codes[i]) * f64::from(l.scales[j]) + minimum) as f32
                };
                crafted.weights.insert(l.name.clone(), (0..rows * cols).map(weight).collect());
            }
            crafted
        }
    }
}

/// What `gemv_fast` stores in place of a zero point.
fn minimum(scale: f32, zero: u32) -> f32 {
    half::f16::from_f32(-scale * zero as f32).to_f32()
}

/// Packs along lines of `width` items: as many whole items in a word as fit.
fn whole(items: &[u32], width: usize, bits: usize) -> Vec<u32> {
    let word = |c: &[u32]| c.iter().enumerate().map(|(j, q)| q << (j * bits)).sum();
    items.chunks(width).flat_map(|line| line.chunks(32 / bits).map(word).collect::<Vec<u32>>()).collect()
}

fn compressed(format: &str, bits: usize, group: Option<usize>, symmetric: bool, act_order: bool) -> Crafted {
    let (strategy, size) = group.map_or(("channel", "null".into()), |g| ("group", g.to_string()));
    let settings = format!(
        r#""quant_method":"compressed-tensors","format":"mixed-precision","ignore":["re:.*lm_head"],"config_groups":{{
        "group_0":{{"targets":["Linear"],"weights":{{"num_bits":{bits},"type":"int","symmetric":{symmetric},
        "group_size":{size},"strategy":"{strategy}","actorder":{act_order}}},"format":"{format}",
        "input_activations":{{"num_bits":8,"type":"int","strategy":"token","dynamic":true}}}}}}"#
    );
    let packed = format == "pack-quantized";
    let make = |rng: &mut StdRng, name: &str, shape: [usize; 2]| {
        let mut layer = Layer::new(rng, name, shape, bits, group.unwrap_or(shape[1]));
        if act_order {
            layer = layer.act_order(rng);
        }
        if symmetric { layer.symmetric(1 << (bits - 1)) } else { layer }
    };
    model(&settings, 10 + bits as u64, make, |file, l| {
        let middle = 1u32 << (bits - 1);
        let signed =
            |items: &[u32]| -> Vec<u8> { items.iter().map(|q| q.wrapping_sub(middle) as u8).collect() };
        if packed {
            let words = whole(&l.codes, l.cols, bits);
            file.words(&l.tensor("weight_packed"), &[l.rows, words.len() / l.rows], &words);
            let shape = [l.rows as u64, l.cols as u64].iter().flat_map(|d| d.to_le_bytes()).collect();
            file.add(&l.tensor("weight_shape"), "I64", &[2], shape);
        } else {
            file.add(&l.tensor("weight"), "I8", &[l.rows, l.cols], signed(&l.codes));
        }
        file.halves(&l.tensor("weight_scale"), &[l.rows, l.groups], &l.scales);
        if !symmetric && packed {
            let words = whole(&transposed(&l.zeros, l.groups), l.rows, bits);
            let high = words.len() / l.groups;
            file.words(&l.tensor("weight_zero_point"), &[high, l.groups], &transposed(&words, high));
        } else if !symmetric {
            file.add(&l.tensor("weight_zero_point"), "I8", &[l.rows, l.groups], signed(&l.zeros));
        }
        if act_order {
            file.words(&l.tensor("weight_g_idx"), &[l.cols], &l.g_idx);
        }
    })
}

/// The strategy `tensor`: one scale for a matrix.
fn one_scale() -> Crafted {
    let settings = r#""quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"group_0":{
        "targets":["Linear"],"weights":{"num_bits":8,"type":"int","symmetric":true,"strategy":"tensor"}}}"#;
    let make = |rng: &mut StdRng, name: &str, shape: [usize; 2]| {
        let mut layer = Layer::new(rng, name, shape, 8, shape[1]).symmetric(128);
        layer.scales.fill(0.375);
        layer
    };
    model(settings, 20, make, |file, l| {
        let bytes = l.codes.iter().map(|&q| q as u8 ^ 128).collect();
        file.add(&l.tensor("weight"), "I8", &[l.rows, l.cols], bytes);
        file.halves(&l.tensor("weight_scale"), &[1], &[0.375]);
        file.halves(&l.tensor("input_scale"), &[1], &[0.5]);
    })
}

/// Packs lines of `width` items in planes: 32 items in `bits` words.
fn planes(items: &[u32], width: usize, bits: usize) -> Vec<u32> {
    let widths: &[usize] = match bits {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        _ => &[8],
    };
    let mut words = Vec::new();
    for block in items.chunks(width).flat_map(|line| line.chunks(32)) {
        let mut shift = 0;
        for &w in widths {
            let plane: Vec<u32> = block.iter().map(|q| q >> shift & ((1 << w) - 1)).collect();
            words.extend(whole(&plane, 32, w));
            shift += w;
        }
    }
    words
}

/// GPTQ's tensors with items packed by `pack(items, width)`; `less` is taken off the stored zero points.
fn write_gptq(
    file: &mut Container,
    l: &Layer,
    bits: usize,
    less: u32,
    pack: impl Fn(&[u32], usize) -> Vec<u32>,
) {
    let mask = (1u32 << bits) - 1;
    let columns = pack(&l.codes, l.cols);
    let high = columns.len() / l.rows;
    file.words(&l.tensor("qweight"), &[high, l.rows], &transposed(&columns, high));
    let zeros: Vec<u32> = l.zeros.iter().map(|z| z.wrapping_sub(less) & mask).collect();
    let words = pack(&transposed(&zeros, l.groups), l.rows);
    file.words(&l.tensor("qzeros"), &[l.groups, words.len() / l.groups], &words);
    file.halves(&l.tensor("scales"), &[l.groups, l.rows], &transposed(&l.scales, l.groups));
    file.words(&l.tensor("g_idx"), &[l.cols], &l.g_idx);
}

fn gptq_planar(bits: usize) -> Crafted {
    let settings =
        format!(r#""quant_method":"gptq","bits":{bits},"group_size":32,"checkpoint_format":"gptq_p""#);
    let make = |rng: &mut StdRng, name: &str, shape| Layer::new(rng, name, shape, bits, 32).act_order(rng);
    model(&settings, 30 + bits as u64, make, |file, l| {
        write_gptq(file, l, bits, 0, |items, width| planes(items, width, bits));
    })
}

/// Per-module widths and group sizes, in the first rule that matches.
fn gptq_dynamic() -> Crafted {
    let settings = r#""quant_method":"gptq","bits":4,"group_size":64,"checkpoint_format":"gptq_v2","dynamic":{
        "-:.*lm_head":{},"+:.*\\.(?:gate|up)_proj":{"bits":8,"group_size":-1},".*down_proj$":{"bits":2},
        "+:.*\\.mlp\\..*":{"bits":3}}"#;
    let bits = |name: &str| match name.rsplit('.').next().unwrap() {
        "gate_proj" | "up_proj" => 8,
        "down_proj" => 2,
        _ => 4,
    };
    let make = |rng: &mut StdRng, name: &str, shape: [usize; 2]| {
        Layer::new(rng, name, shape, bits(name), if bits(name) == 8 { shape[1] } else { 64 })
    };
    model(settings, 40, make, |file, l| {
        write_gptq(file, l, bits(&l.name), 0, |items, width| whole(items, width, bits(&l.name)));
    })
}

/// Words of 8 or 16 bits.
fn gptq_narrow(bits: usize, word: usize) -> Crafted {
    let settings = format!(
        r#""quant_method":"gptq","bits":{bits},"group_size":32,"format":"gptq_v2","pack_dtype":"int{word}""#
    );
    let make = |rng: &mut StdRng, name: &str, shape| Layer::new(rng, name, shape, bits, 32);
    model(&settings, 50 + word as u64, make, |file, l| {
        let pack = |items: &[u32]| -> Vec<u32> {
            let code = |c: &[u32]| c.iter().enumerate().map(|(j, q)| q << (j * bits)).sum();
            items.chunks(word / bits).map(code).collect()
        };
        let bytes = |words: Vec<u32>| -> Vec<u8> {
            words.iter().flat_map(|w| w.to_le_bytes()[..word / 8].to_vec()).collect()
        };
        let columns = pack(&l.codes);
        let high = columns.len() / l.rows;
        let dtype = format!("I{word}");
        file.add(&l.tensor("qweight"), &dtype, &[high, l.rows], bytes(transposed(&columns, high)));
        let zeros = pack(&transposed(&l.zeros, l.groups));
        file.add(&l.tensor("qzeros"), &dtype, &[l.groups, zeros.len() / l.groups], bytes(zeros));
        file.halves(&l.tensor("scales"), &[l.groups, l.rows], &transposed(&l.scales, l.groups));
    })
}

fn autoround(packing: &str, bits: usize, less: u32) -> Crafted {
    let settings = format!(
        r#""quant_method":"auto-round","bits":{bits},"group_size":64,"sym":false,"data_type":"int","packing_format":"{packing}",
        "extra_config":{{"model.layers.0.mlp.down_proj":{{"group_size":32}},"lm_head":{{"bits":16}},
        ".*o_proj":{{"group_size":-1}}}}"#
    );
    let make = |rng: &mut StdRng, name: &str, shape: [usize; 2]| {
        let group = match name.rsplit('.').next().unwrap() {
            "down_proj" => 32,
            "o_proj" => shape[1],
            _ => 64,
        };
        Layer::new(rng, name, shape, bits, group)
    };
    model(&settings, 60 + u64::from(less), make, |file, l| match packing {
        "auto_round:auto_awq" => write_gemm(file, l),
        _ => write_gptq(file, l, bits, less, |items, width| whole(items, width, bits)),
    })
}

fn llm_int8(weight_format: u8) -> Crafted {
    let settings = r#""quant_method":"bitsandbytes","load_in_8bit":true"#;
    let make = |rng: &mut StdRng, name: &str, shape: [usize; 2]| Layer::new(rng, name, shape, 8, shape[1]);
    let mut crafted = model(settings, 70, make, |file, l| {
        let bytes = l.codes.iter().map(|&q| q as u8).collect();
        file.add(&l.tensor("weight"), "I8", &[l.rows, l.cols], bytes);
        file.floats(&l.tensor("SCB"), &[l.rows], &l.scales);
        file.add(&l.tensor("weight_format"), "U8", &[], vec![weight_format]);
    });
    let rng = &mut StdRng::seed_from_u64(70);
    Container::default().rest(rng, &mut Weights::new());
    for (name, rows, cols) in LAYERS {
        let l = make(rng, &format!("model.layers.0.{name}"), [rows, cols]);
        let weight = |(i, &q): (usize, &u32)| {
            (f64::from(q as u8 as i8) * f64::from(l.scales[i / cols]) / 127.0) as f32
        };
        crafted.weights.insert(l.name.clone(), l.codes.iter().enumerate().map(weight).collect());
    }
    crafted
}

fn torch_int(int8_output: bool) -> Crafted {
    let make = |rng: &mut StdRng, name: &str, shape: [usize; 2]| {
        let mut layer = Layer::new(rng, name, shape, 8, shape[1]).symmetric(128);
        layer.scales.fill(0.125);
        layer
    };
    let mut crafted = model("", 80, make, |file, l| {
        let bytes = l.codes.iter().map(|&q| q as u8 ^ 128).collect();
        file.add(&l.tensor("weight"), "I8", &[l.rows, l.cols], bytes);
        file.floats(&l.tensor("bias"), &[1, l.rows], &vec![0.5; l.rows]);
        file.floats(&l.tensor("a"), &[], &[0.125]);
        if int8_output {
            file.floats(&l.tensor("b"), &[], &[0.5]);
        }
    });
    crafted.config = config("");
    crafted
}

/// For the tests that damage bytes.
pub(super) fn samples() -> Vec<Crafted> {
    vec![
        awq("gemm", 32),
        awq("gemv_fast", 64),
        compressed("pack-quantized", 3, Some(32), false, true),
        compressed("int-quantized", 8, None, false, false),
        gptq_dynamic(),
        autoround("auto_round:auto_gptq", 4, 1),
        llm_int8(0),
    ]
}

#[test]
fn awq_of_every_version() {
    for group in [32, 64] {
        for version in ["gemm", "gemv", "gemv_fast"] {
            awq(version, group).verify();
        }
    }
    let fast = awq("gemv_fast", 64);
    let other = |to: &str| Crafted {
        config: fast.config.replace("gemv_fast", to),
        bytes: fast.bytes.clone(),
        weights: Weights::new(),
    };
    let error =
        other("marlin").open(fast.bytes.clone()).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
    assert!(error.to_string().contains("version marlin of AWQ"), "{error}");
    // The wrong version cannot pass for the right one.
    assert!(other("gemm").open(fast.bytes.clone()).and_then(|c| load_all(&c, BUDGETS[0])).is_err());
}

/// Older repositories have the settings in a file of their own, in other words.
#[test]
fn awq_with_quant_config() {
    let model = awq("gemm", 64);
    let mut all = files(&config(""), model.bytes.clone());
    let settings = br#"{"zero_point":true,"q_group_size":64,"w_bit":4,"version":"GEMM"}"#;
    let source: Arc<dyn Source> = Bytes::new("quant_config.json", settings.to_vec());
    all.insert("quant_config.json".into(), source);
    let checkpoint = block_on(Checkpoint::from_files(all)).unwrap();
    for matrix in load_all(&checkpoint, BUDGETS[1]).unwrap() {
        assert!(decode(&matrix, BUDGETS[1]).unwrap() == model.weights[&matrix.name], "{}", matrix.name);
    }
}

/// Scales that stayed at an activation divide what the matrix after it is given.
#[test]
fn awq_scaled_activations() {
    let model = awq("gemm", 64);
    let (header, data) = split(&model.bytes);
    let mut file = Container { header, data };
    let scales = random(&mut StdRng::seed_from_u64(9), FFN);
    file.floats("model.layers.0.mlp.act_fn.scales", &[FFN], &scales);
    let checkpoint = model.open(file.bytes()).unwrap();
    let down = &block_on(checkpoint.matrices("model.layers.0.mlp", &["down_proj"])).unwrap()[0];
    let wanted: Vec<f32> = scales.iter().map(|s| 1.0 / s).collect();
    assert_eq!(down.input, InputTransform::Scale(wanted));
    let up = &block_on(checkpoint.matrices("model.layers.0.mlp", &["up_proj"])).unwrap()[0];
    assert_eq!(up.input, InputTransform::None);
}

/// Header and data of a safetensors file.
fn split(bytes: &[u8]) -> (serde_json::Map<String, Value>, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    (header.as_object().unwrap().clone(), bytes[8 + length..].to_vec())
}

#[test]
fn compressed_tensors_of_every_width() {
    for bits in 2..=8 {
        for (group, symmetric, act_order) in
            [(Some(32), true, false), (Some(32), false, true), (None, true, false), (Some(16), false, false)]
        {
            compressed("pack-quantized", bits, group, symmetric, act_order).verify();
        }
    }
    for (group, symmetric) in [(None, true), (None, false), (Some(64), false)] {
        compressed("int-quantized", 8, group, symmetric, false).verify();
    }
    one_scale().verify();
    let odd = compressed("pack-quantized", 4, Some(12), true, false);
    let error = odd.open(odd.bytes.clone()).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
    assert!(error.to_string().contains("group size: expected a multiple of 8"), "{error}");
}

/// Which group a module belongs to: a name or pattern comes before a class; what nothing names is an error.
#[test]
fn compressed_tensors_targets() {
    let model = compressed("pack-quantized", 4, Some(32), true, false);
    let open = |from: &str, to: &str| {
        assert!(model.config.contains(from), "{from}");
        let config = model.config.replace(from, to);
        let opened = block_on(Checkpoint::from_files(files(&config, model.bytes.clone())));
        opened.and_then(|checkpoint| load_all(&checkpoint, BUDGETS[0]))
    };
    let decoy = r#""config_groups":{"decoy":{"targets":["Linear"],"weights":{"num_bits":8,"type":"int"}},"#;
    let first = open(r#""config_groups":{"#, decoy).err().unwrap().to_string();
    assert!(first.contains("format mixed-precision"), "{first}");
    assert!(open(r#"["Linear"]"#, r#"["re:.*_proj$"]"#).is_ok());
    for (from, to, says) in [
        (r#"["Linear"]"#, r#"["Embedding"]"#, "in none of config_groups"),
        (r#"["Linear"]"#, r#"["re:model.layers.0.self_attn"]"#, "mlp.gate_proj: quantized, but in none"),
        (r#"["Linear"]"#, r#"["re:(" ]"#, "invalid regular expression"),
        (r#""re:.*lm_head""#, r#""re:.*o_proj""#, "o_proj: quantized, but the configuration exempts it"),
        (r#""format":"pack-quantized""#, r#""format":"marlin-24""#, "format marlin-24 of compressed-tensors"),
        (
            r#""ignore""#,
            r#""sparsity_config":{"format":"sparse-24-bitmask"},"ignore""#,
            "sparsity sparse-24-bitmask",
        ),
        (r#""num_bits":4"#, r#""num_bits":9"#, "num_bits 9"),
        (r#""group_size":32"#, r#""group_size":0"#, "invalid group_size 0"),
    ] {
        let error = open(from, to).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn gptq_in_planes() {
    (2..=8).for_each(|bits| gptq_planar(bits).verify());
}

#[test]
fn gptq_by_module() {
    let model = gptq_dynamic();
    model.verify();
    for (from, to, says) in [
        ("-:.*lm_head", "-:.*o_proj", "o_proj: quantized, but rule -:.*o_proj of dynamic exempts it"),
        (r#"".*down_proj$":{"bits":2}"#, r#"".*down_proj$":{"bits":5}"#, "unsupported bits 5 of GPTQ"),
    ] {
        let config = model.config.replace(from, to);
        let opened = block_on(Checkpoint::from_files(files(&config, model.bytes.clone())));
        let error =
            opened.and_then(|checkpoint| load_all(&checkpoint, BUDGETS[0])).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn gptq_in_narrow_words() {
    for (bits, word) in [(4, 8), (2, 16), (8, 16), (8, 8)] {
        gptq_narrow(bits, word).verify();
    }
}

#[test]
fn autoround_of_every_packing() {
    for bits in [2, 4, 8] {
        autoround("auto_round:auto_gptq", bits, 1).verify();
        autoround("auto_round", bits, 0).verify();
    }
    autoround("auto_round:auto_awq", 4, 0).verify();
}

#[test]
fn llm_int8_is_divided_by_127() {
    llm_int8(0).verify();
    let turing = llm_int8(2);
    let error = turing.open(turing.bytes.clone()).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
    assert!(
        error.to_string().contains("weight_format of LLM.int8: expected 0, whole rows, found 2"),
        "{error}"
    );
}

#[test]
fn torch_int_with_float_outputs() {
    let model = torch_int(false);
    model.verify();
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    assert_eq!(checkpoint.format_name(), "torch-int W8");
    let q = &block_on(checkpoint.matrices("model.layers.0.self_attn", &["q_proj"])).unwrap()[0];
    assert_eq!(q.bias, Some(vec![0.5; HIDDEN]));
    let model = torch_int(true);
    let error = model.open(model.bytes.clone()).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
    assert!(error.to_string().contains("int8 outputs of torch-int"), "{error}");
}

/// OmniQuant's exports are GPTQ v1 and say so nowhere: the error names the file that does.
#[test]
fn settings_that_are_missing() {
    let make = |rng: &mut StdRng, name: &str, shape| Layer::new(rng, name, shape, 2, 64);
    let write =
        |file: &mut Container, l: &Layer| write_gptq(file, l, 2, 1, |items, width| whole(items, width, 2));
    let model = model("", 90, make, write);
    let open = |settings: Option<&str>| {
        let mut all = files(&config(""), model.bytes.clone());
        if let Some(settings) = settings {
            let source: Arc<dyn Source> = Bytes::new("quantize_config.json", settings.as_bytes().to_vec());
            all.insert("quantize_config.json".into(), source);
        }
        block_on(Checkpoint::from_files(all)).and_then(|checkpoint| load_all(&checkpoint, BUDGETS[1]))
    };
    let error = open(None).err().unwrap().to_string();
    assert!(error.contains("nothing says how model.layers.0.self_attn.q_proj is quantized"), "{error}");
    assert!(error.contains("quantize_config.json") && error.contains("group_size"), "{error}");
    for matrix in open(Some(r#"{"bits":2,"group_size":64}"#)).unwrap() {
        assert!(decode(&matrix, BUDGETS[1]).unwrap() == model.weights[&matrix.name], "{}", matrix.name);
    }
}

/// Quantized embeddings and heads, tied or not.
#[test]
fn quantized_embeddings_and_heads() {
    let make = |rng: &mut StdRng, name: &str, shape| Layer::new(rng, name, shape, 4, 32);
    for (stored, tied) in [
        (&["model.embed_tokens"][..], true),
        (&["lm_head"], true),
        (&["model.embed_tokens", "lm_head"], false),
        (&["model.embed_tokens", "lm_head"], true), // a quantized head cannot be tied
    ] {
        let rng = &mut StdRng::seed_from_u64(95);
        let (mut file, mut weights) = (Container::default(), Weights::new());
        file.rest(rng, &mut weights);
        file.header.shift_remove("model.embed_tokens.weight");
        let layers = LAYERS.map(|(name, rows, cols)| (format!("model.layers.0.{name}"), rows, cols));
        let tables = stored.iter().map(|name| (name.to_string(), VOCAB, HIDDEN));
        for (name, rows, cols) in layers.into_iter().chain(tables) {
            let layer = make(rng, &name, [rows, cols]);
            write_gptq(&mut file, &layer, 4, 1, |items, width| whole(items, width, 4));
            weights.insert(name, layer.dense());
        }
        let settings =
            r#","quantization_config":{"quant_method":"gptq","bits":4,"group_size":32,"lm_head":true}"#;
        let config = config(settings)
            .replace(r#""tie_word_embeddings":true"#, &format!(r#""tie_word_embeddings":{tied}"#));
        // The embedding's floats are still in front of the data.
        let gap = VOCAB * HIDDEN * 4;
        file.data.drain(..gap);
        for entry in file.header.values_mut() {
            for offset in entry["data_offsets"].as_array_mut().unwrap() {
                *offset = (offset.as_u64().unwrap() - gap as u64).into();
            }
        }
        let checkpoint = block_on(Checkpoint::from_files(files(&config, file.bytes()))).unwrap();
        checkpoint.check().unwrap();
        let matrices = load_all(&checkpoint, BUDGETS[1]).unwrap();
        assert_eq!(matrices.len(), 8 + stored.len() - 1, "{stored:?}, tied {tied}");
        for matrix in matrices {
            let name = if matrix.name == "model.embed_tokens" { stored[0] } else { &matrix.name };
            assert!(decode(&matrix, BUDGETS[1]).unwrap() == weights[name], "{name}");
        }
    }
}
