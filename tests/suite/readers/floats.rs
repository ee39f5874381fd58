//! Weights of 8 and 4 bits that are floats: FP8, MXFP4, NVFP4, and the containers that hold them.

use super::crafted::{
    Container, Crafted, FFN, HIDDEN, LAYERS, Weights, config, files, gguf, open_adapter, random,
};
use super::*;
use halfbyte::checkpoint::lora::Adapter;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::quant::WHOLE_ROW;
use halfbyte::quant::activations::{ActivationScale, Activations};
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The number that a code of a small float means, from the definition of its bits.
fn small_float(code: u8, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let fraction = f64::from(code & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
    let exponent = i32::from(code >> fraction_bits & ((1 << exponent_bits) - 1));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
    };
    if code >> (exponent_bits + fraction_bits) & 1 == 1 { -magnitude } else { magnitude }
}

fn e2m1(code: u8) -> f64 {
    small_float(code, 2, 1)
}

fn e4m3(code: u8) -> f64 {
    small_float(code, 4, 3)
}

fn e8m0(code: u8) -> f64 {
    2f64.powi(i32::from(code) - 127)
}

/// Random codes of numbers: below `limit` once the sign is off.
fn codes(rng: &mut StdRng, count: usize, limit: u8) -> Vec<u8> {
    (0..count).map(|_| rng.random_range(0..limit) | rng.random_range(0..2u8) << 7).collect()
}

/// A block of IQ4_NL, MXFP4 or NVFP4.
pub(super) fn ggml_block(id: u32, rng: &mut StdRng) -> (Vec<u8>, Vec<f32>) {
    const IQ4_NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let (mut block, run, scales): (Vec<u8>, usize, Vec<f64>) = match id {
        20 => {
            let d = half::f16::from_f32(rng.random_range(-1.0..1.0));
            (d.to_le_bytes().into(), 32, vec![d.to_f64()])
        }
        39 => {
            let e = rng.random_range(100..130);
            (vec![e], 32, vec![e8m0(e)])
        }
        _ => {
            let scales: Vec<u8> = (0..4).map(|_| rng.random_range(0..127)).collect();
            (scales.clone(), 16, scales.into_iter().map(e4m3).collect())
        }
    };
    let mut weights = Vec::new();
    for scale in scales {
        let q: Vec<u8> = (0..run).map(|_| rng.random_range(0..16)).collect();
        block.extend((0..run / 2).map(|j| q[j] | q[j + run / 2] << 4));
        let value = |&q: &u8| if id == 20 { f64::from(IQ4_NL[q as usize]) } else { e2m1(q) };
        weights.extend(q.iter().map(|q| (value(q) * scale) as f32));
    }
    (block, weights)
}

/// FP8 codes with scales of `[high, wide]` blocks: of dtype `scale`, called `name`.
fn fp8(dtype: &str, high: usize, wide: usize, scale: &str, name: &str, quantization: &str) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(8);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    for (module, rows, cols) in LAYERS {
        let module = format!("model.layers.0.{module}");
        let (down, across) = (rows.div_ceil(high), cols.div_ceil(wide));
        let shape = match (high >= FFN, wide >= FFN) {
            (true, true) => vec![],
            _ => vec![down, across],
        };
        let scale_name = format!("{module}.{name}");
        let scales: Vec<f64> = if scale == "F8_E8M0" {
            let bytes: Vec<u8> = (0..down * across).map(|_| rng.random_range(110..130)).collect();
            file.add(&scale_name, scale, &shape, bytes.clone());
            bytes.into_iter().map(e8m0).collect()
        } else {
            let values = random(rng, down * across);
            file.floats(&scale_name, &shape, &values);
            values.into_iter().map(f64::from).collect()
        };
        let (limit, bits) = if dtype == "F8_E4M3" { (127, (4, 3)) } else { (124, (5, 2)) };
        let codes = codes(rng, rows * cols, limit);
        let weight = match name {
            "weight._scale" => "weight._data",  // Quanto
            "_weight_scale" => "_weight_qdata", // torchao
            _ => "weight",
        };
        file.add(&format!("{module}.{weight}"), dtype, &[rows, cols], codes.clone());
        if quantization.contains("static") {
            file.floats(&format!("{module}.input_scale"), &[], &[0.5]);
        }
        let value = |(i, &code): (usize, &u8)| {
            let (row, col) = (i / cols, i % cols);
            (small_float(code, bits.0, bits.1) * scales[row / high * across + col / wide]) as f32
        };
        weights.insert(module, codes.iter().enumerate().map(value).collect());
    }
    let settings = format!(r#","quantization_config":{{{quantization}}}"#);
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

const BLOCKS: &str = r#""quant_method":"fp8","weight_block_size":[48,32],"activation_scheme":"dynamic""#;

fn blocks(scale: &str) -> Crafted {
    fp8("F8_E4M3", 48, 32, scale, "weight_scale_inv", BLOCKS)
}

/// MXFP4 or NVFP4 in one of the containers.
fn fp4(container: &str) -> Crafted {
    let rng = &mut StdRng::seed_from_u64(9);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let (mx, modelopt) = (container.starts_with("mxfp4"), container == "modelopt");
    let block = if mx { 32 } else { 16 };
    for (module, rows, cols) in LAYERS {
        let module = format!("model.layers.0.{module}");
        let bytes: Vec<u8> = (0..rows * cols / 2).map(|_| rng.random()).collect();
        let packed = if modelopt { "weight" } else { "weight_packed" };
        file.add(&format!("{module}.{packed}"), "U8", &[rows, cols / 2], bytes.clone());
        let (limit, dtype) = if mx { (130, "U8") } else { (127, "F8_E4M3") };
        let scales: Vec<u8> = (0..rows * cols / block).map(|_| rng.random_range(90..limit)).collect();
        file.add(&format!("{module}.weight_scale"), dtype, &[rows, cols / block], scales.clone());
        let global = rng.random_range(0.1f32..3.0);
        match container {
            "modelopt" => file.floats(&format!("{module}.weight_scale_2"), &[], &[global]),
            _ if mx => {}
            _ => file.floats(&format!("{module}.weight_global_scale"), &[1], &[global]),
        }
        let dense = (0..rows * cols).map(|i| {
            let code = bytes[i / 2] >> (4 * (i % 2)) & 15;
            let scale = scales[i / block];
            let product = e2m1(code) * if mx { e8m0(scale) } else { e4m3(scale) };
            let value = match container {
                "modelopt" => product * f64::from(global),
                _ if mx => product,
                _ => product / f64::from(global),
            };
            value as f32
        });
        weights.insert(module, dense.collect());
    }
    let quantization = match container {
        "modelopt" => r#""quant_method":"modelopt","quant_algo":"NVFP4""#.to_owned(),
        format => format!(
            r#""quant_method":"compressed-tensors","format":"{format}","config_groups":{{"group_0":{{"targets":["Linear"],"weights":{{"num_bits":4,"type":"float","strategy":"group","group_size":{block}}}}}}}"#
        ),
    };
    let settings = format!(r#","quantization_config":{{{quantization}}}"#);
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

/// An unquantized model with the experts of gpt-oss beside its own layers; all weights.
fn experts(count: usize) -> (Crafted, BTreeMap<String, Vec<f32>>) {
    let rng = &mut StdRng::seed_from_u64(10);
    let (mut file, mut weights, mut of_experts) = (Container::default(), Weights::new(), BTreeMap::new());
    file.rest(rng, &mut weights);
    for (name, rows, cols) in LAYERS {
        let values = random(rng, rows * cols);
        file.halves(&format!("model.layers.0.{name}.weight"), &[rows, cols], &values);
        weights.insert(format!("model.layers.0.{name}"), values);
    }
    let experts = "model.layers.0.mlp.experts";
    for (name, rows, cols) in [("gate_up_proj", 2 * FFN, HIDDEN), ("down_proj", HIDDEN, FFN)] {
        let bytes: Vec<u8> = (0..count * rows * cols / 2).map(|_| rng.random()).collect();
        let scales: Vec<u8> = (0..count * rows * cols / 32).map(|_| rng.random_range(110..130)).collect();
        let bias = random(rng, count * rows);
        file.add(&format!("{experts}.{name}_blocks"), "U8", &[count, rows, cols / 32, 16], bytes.clone());
        file.add(&format!("{experts}.{name}_scales"), "U8", &[count, rows, cols / 32], scales.clone());
        file.floats(&format!("{experts}.{name}_bias"), &[count, rows], &bias);
        for row in 0..count * rows {
            let value = |k: usize| {
                let i = row * cols + k;
                (e2m1(bytes[i / 2] >> (4 * (i % 2)) & 15) * e8m0(scales[i / 32])) as f32
            };
            let (expert, row) = (row / rows, row % rows);
            let module = match (name, row % 2) {
                ("down_proj", _) => "down_proj",
                (_, 0) => "gate_proj",
                _ => "up_proj",
            };
            let module = format!("{experts}.{expert}.{module}");
            of_experts.entry(module.clone()).or_insert_with(Vec::new).extend((0..cols).map(value));
            of_experts.entry(format!("{module}.bias")).or_default().push(bias[expert * rows + row]);
        }
    }
    (Crafted { config: config(""), bytes: file.bytes(), weights }, of_experts)
}

pub(super) fn samples() -> Vec<Crafted> {
    let row = r#""quant_method":"fbgemm_fp8""#;
    let mut all = vec![blocks("F32"), fp8("F8_E5M2", 1, FFN, "F32", "weight_scale", row)];
    all.extend(["mxfp4-pack-quantized", "nvfp4-pack-quantized", "modelopt"].map(fp4));
    all.push(experts(2).0);
    all
}

#[test]
fn fp8_of_every_scale() {
    blocks("F32").verify();
    blocks("F8_E8M0").verify();
    for dtype in ["F8_E4M3", "F8_E5M2"] {
        fp8(dtype, 1, FFN, "F32", "weight_scale", r#""quant_method":"fbgemm_fp8""#).verify();
        fp8(dtype, FFN, FFN, "F32", "weight_scale", r#""quant_method":"fp8","activation_scheme":"static""#)
            .verify();
    }
    for (name, settings, format) in
        [("weight._scale", "", "Quanto qfloat8"), ("_weight_scale", r#""quant_method":"torchao""#, "torchao")]
    {
        let mut model = fp8("F8_E4M3", 1, FFN, "F32", name, settings);
        model.config = model.config.replace(r#","quantization_config":{}"#, "");
        model.verify();
        assert_eq!(model.open(model.bytes.clone()).unwrap().format_name(), format);
    }
    let model = blocks("F32");
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    assert_eq!(checkpoint.format_name(), "FP8 E4M3");
    for (from, to, says) in [
        ("[48,32]", "[32,32]", "weight_scale_inv: expected [] or"),
        ("[48,32]", "[0,32]", "invalid weight_block_size [0,32]"),
        ("[48,32]", "[48]", "invalid weight_block_size [48]"),
    ] {
        let model = Crafted { config: model.config.replace(from, to), ..blocks("F32") };
        let error = model.open(model.bytes.clone()).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn fp4_of_every_container() {
    for (container, format) in
        [("mxfp4-pack-quantized", "MXFP4"), ("nvfp4-pack-quantized", "NVFP4"), ("modelopt", "NVFP4")]
    {
        let model = fp4(container);
        model.verify();
        assert_eq!(model.open(model.bytes.clone()).unwrap().format_name(), format);
    }
}

#[test]
fn gpt_oss_experts() {
    let (model, wanted) = experts(3);
    model.verify();
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    for (name, weights) in wanted.iter().filter(|(name, _)| !name.ends_with(".bias")) {
        let matrix = block_on(checkpoint.read(name)).unwrap();
        assert_eq!((matrix.format, &matrix.name), ("MXFP4", name));
        assert_eq!(matrix.disk_bytes, (FFN * HIDDEN / 2 + FFN * HIDDEN / 32) as u64);
        assert_eq!(matrix.bias.as_ref(), wanted.get(&format!("{name}.bias")));
        for budget in BUDGETS {
            assert!(decode(&matrix, budget).unwrap() == *weights, "{name}");
        }
    }
    let error = block_on(checkpoint.read("model.layers.0.mlp.experts.3.gate_proj")).err().unwrap();
    assert!(error.to_string().contains("missing expert 3"), "{error}");
}

/// An adapter of both parameters of three experts, of rank 2 and scale ½; `weights` of their modules get what it adds to
/// them, by PEFT's formula: einsum("o r e, e r i -> e i o", B, A).
fn adapter_of_experts(weights: &mut BTreeMap<String, Vec<f32>>) -> Adapter {
    let rng = &mut StdRng::seed_from_u64(12);
    let (count, rank) = (3, 2);
    let experts = "model.layers.0.mlp.experts";
    let mut file = Container::default();
    for (name, inputs, outputs) in [("experts.base_layer", HIDDEN, 2 * FFN), ("experts", FFN, HIDDEN)] {
        let (a, b) = (random(rng, count * rank * inputs), random(rng, outputs * rank * count));
        let name = format!("base_model.model.model.layers.0.mlp.{name}");
        file.floats(&format!("{name}.lora_A.weight"), &[count * rank, inputs], &a);
        file.floats(&format!("{name}.lora_B.weight"), &[outputs, rank * count], &b);
        for expert in 0..count {
            for out in 0..outputs {
                let (module, row) = match (inputs, out % 2) {
                    (FFN, _) => ("down_proj", out),
                    (_, 0) => ("gate_proj", out / 2),
                    _ => ("up_proj", out / 2),
                };
                let weights = weights.get_mut(&format!("{experts}.{expert}.{module}")).unwrap();
                for (i, w) in weights[row * inputs..][..inputs].iter_mut().enumerate() {
                    let of = |j| b[(out * rank + j) * count + expert] * a[(expert * rank + j) * inputs + i];
                    *w += 0.5 * (0..rank).map(of).sum::<f32>();
                }
            }
        }
    }
    let config = r#"{"peft_type":"LORA","r":2,"lora_alpha":1,"target_parameters":["mlp.experts.down_proj","mlp.experts.gate_up_proj"]}"#;
    open_adapter(config, file.bytes()).unwrap()
}

/// The configuration of three experts, and a file with their router.
fn with_router(model: &Crafted) -> (String, Container) {
    let rng = &mut StdRng::seed_from_u64(11);
    let mut file = Container::default();
    let head = u64::from_le_bytes(model.bytes[..8].try_into().unwrap()) as usize;
    file.header = serde_json::from_slice(&model.bytes[8..8 + head]).unwrap();
    file.data = model.bytes[8 + head..].to_vec();
    file.floats("model.layers.0.mlp.router.weight", &[3, HIDDEN], &random(rng, 3 * HIDDEN));
    file.floats("model.layers.0.mlp.router.bias", &[3], &random(rng, 3));
    let experts = r#""model_type":"gpt_oss","num_local_experts":3,"num_experts_per_tok":2"#;
    (model.config.replace(r#""model_type":"llama""#, experts), file)
}

/// A model runs on experts in MXFP4 as on the same weights in f32, and with an adapter as on their sum.
#[test]
fn gpt_oss_runs_on_its_experts() {
    let (model, plain) = experts(3);
    let mut adapted = plain.clone();
    let adapter = adapter_of_experts(&mut adapted);
    assert_ne!(plain, adapted);
    let logits = |dense: Option<&BTreeMap<String, Vec<f32>>>, adapters: &[Adapter]| {
        let (config, mut file) = with_router(&model);
        if let Some(dense) = dense {
            let renamed = |(name, tensor): (String, _)| (name.replace("_proj_", "_unused_"), tensor);
            file.header = file.header.into_iter().map(renamed).collect();
            for (name, values) in dense {
                match name.strip_suffix(".bias") {
                    Some(_) => file.floats(name, &[values.len()], values),
                    None if name.ends_with("down_proj") => {
                        file.floats(&format!("{name}.weight"), &[HIDDEN, FFN], values);
                    }
                    None => file.floats(&format!("{name}.weight"), &[FFN, HIDDEN], values),
                }
            }
        }
        let checkpoint = block_on(Checkpoint::from_files(files(&config, file.bytes()))).unwrap();
        let options = LoadOptions {
            precision: CacheFormat::F32,
            context: Some(8),
            adapters: adapters.to_vec(),
            ..LoadOptions::default()
        };
        block_on(async {
            let model = Model::load(&Device::Cpu, &checkpoint, &options, |_| {}).await.unwrap();
            model.prefill(0, &[7, 5, 30]).await.unwrap();
            model.logits().await.unwrap()
        })
    };
    let adapter = [adapter];
    let results = [(&plain, &[][..]), (&adapted, &adapter)].map(|(weights, adapters)| {
        let (packed, dense) = (logits(None, adapters), logits(Some(weights), &[]));
        let error = relative_error(&packed, &dense);
        assert!(error <= 1e-6, "off by {error:e}");
        dense
    });
    assert!(relative_error(&results[0], &results[1]) > 0.01, "the adapter does nothing");
}

/// Pairs of all experts that do not fit the model, or belong to a model that keeps them otherwise.
#[test]
fn adapters_of_other_experts_are_refused() {
    let (model, mut weights) = experts(3);
    let (gpt_oss, file) = with_router(&model);
    let file = file.bytes();
    for (config, size, rank, says) in [
        (&model.config, FFN, 6, "expected gpt_oss, found llama"),
        (&gpt_oss, FFN, 5, "expected a multiple of 3, found 5"),
        (&gpt_oss, 32, 6, "shape mismatch for the LoRA of experts"),
    ] {
        let mut adapter = adapter_of_experts(&mut weights);
        let term = adapter.modules.get_mut("model.layers.0.mlp.experts").unwrap();
        (term.cols, term.rank) = (size, rank);
        let checkpoint = block_on(Checkpoint::from_files(files(config, file.clone()))).unwrap();
        let options = LoadOptions { adapters: vec![adapter], ..LoadOptions::default() };
        let error = block_on(Model::load(&Device::Cpu, &checkpoint, &options, |_| {})).err().unwrap();
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Codes that are no numbers, in weights and in scales.
#[test]
fn nan_codes_are_refused() {
    let q = "model.layers.0.self_attn.q_proj";
    for (model, tensor, byte, says) in [
        (blocks("F32"), "weight", 0x7f, "non-finite weight"),
        (blocks("F32"), "weight", 0xff, "non-finite weight"),
        (blocks("F8_E8M0"), "weight_scale_inv", 0xff, "non-finite scale"),
        (fp4("mxfp4-pack-quantized"), "weight_scale", 0xff, "non-finite scale"),
        (fp4("modelopt"), "weight_scale", 0x7f, "non-finite scale"),
    ] {
        let checkpoint = model.open(model.bytes.clone()).unwrap();
        let at = checkpoint.raw_tensors().get(&format!("{q}.{tensor}")).unwrap().range.start as usize;
        let mut bytes = model.bytes.clone();
        bytes[at] = byte;
        let error = model.open(bytes).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
        assert!(error.to_string().contains(says), "{error}");
    }
    for id in [39, 40] {
        let model = gguf("qwen2", id);
        let checkpoint = model.open(model.bytes.clone()).unwrap();
        let at = checkpoint.raw_tensors().get(&format!("{q}.weight")).unwrap().range.start as usize;
        let mut bytes = model.bytes.clone();
        bytes[at] = 0xff;
        let error = model.open(bytes).and_then(|c| load_all(&c, BUDGETS[0])).err().unwrap();
        assert!(error.to_string().contains("non-finite block scale"), "{error}");
    }
}

#[test]
fn activations_are_quantized_as_the_configuration_says() {
    let compressed = |inputs: &str| {
        let weights = r#""weights":{"num_bits":8,"type":"float","strategy":"channel"}"#;
        format!(
            r#""quant_method":"compressed-tensors","format":"float-quantized","config_groups":{{"group_0":{{"targets":["Linear"],{weights},"input_activations":{inputs}}}}}"#
        )
    };
    let given = Activations { scale: ActivationScale::Static(0.5), ..Activations::e4m3(WHOLE_ROW) };
    let row = |quantization: &str| fp8("F8_E4M3", 1, FFN, "F32", "weight_scale", quantization);
    let float = r#""num_bits":8,"type":"float""#;
    for (model, wanted) in [
        (blocks("F32"), Some(Activations::e4m3(32))),
        (row(r#""quant_method":"fbgemm_fp8""#), Some(Activations::e4m3(WHOLE_ROW))),
        (row(r#""quant_method":"fp8","activation_scheme":"static""#), Some(given)),
        (row(&compressed("null")), None),
        (
            row(&compressed(&format!(r#"{{{float},"strategy":"token","dynamic":true}}"#))),
            Some(Activations::e4m3(WHOLE_ROW)),
        ),
        (
            row(&compressed(&format!(r#"{{{float},"strategy":"group","group_size":128,"dynamic":true}}"#))),
            Some(Activations::e4m3(128)),
        ),
        (
            row(&compressed(&format!(r#"{{{float},"strategy":"tensor","dynamic":false,"of":"static"}}"#))),
            Some(given),
        ),
        (
            row(&compressed(r#"{"num_bits":8,"type":"int","strategy":"token","dynamic":true}"#)),
            Some(Activations::int8(127.5)),
        ),
        (row(&compressed(r#"{"num_bits":4,"type":"float","strategy":"token","dynamic":true}"#)), None),
    ] {
        let checkpoint = model.open(model.bytes.clone()).unwrap();
        let q = block_on(checkpoint.read("model.layers.0.self_attn.q_proj")).unwrap();
        assert_eq!(q.activations, wanted, "{}", model.config);
    }
    let model = row(r#""quant_method":"fp8","activation_scheme":"static""#);
    let checkpoint = model.open(model.bytes.clone()).unwrap();
    let q = "model.layers.0.self_attn.q_proj";
    let scale = checkpoint.raw_tensors().get(&format!("{q}.input_scale")).unwrap().range.clone();
    let mut bytes = model.bytes.clone();
    bytes[scale.start as usize..scale.end as usize].fill(0);
    let error = block_on(model.open(bytes).unwrap().read(q)).err().unwrap();
    assert!(error.to_string().contains("scale of activations must be positive"), "{error}");
}
