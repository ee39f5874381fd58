//! VPTQ, made on the spot: vectors along the outputs, two codebooks, columns out of order with a scale and an offset each.

use super::crafted::{Container, Crafted, LAYERS, Weights, config, random};
use super::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// What a crafted model has.
#[derive(Clone, Copy)]
pub(super) struct Vptq {
    length: usize,
    bits: u32,
    residual_bits: u32,
    bf16: bool,
    norm: bool,
    perm: bool,
}

pub(super) const VPTQ: Vptq =
    Vptq { length: 8, bits: 8, residual_bits: 5, bf16: false, norm: true, perm: true };

/// Numbers as they are stored, and what they are then.
fn stored(numbers: Vec<f32>, bf16: bool) -> (Vec<u8>, Vec<f64>) {
    let bits =
        |v: f32| if bf16 { half::bf16::from_f32(v).to_bits() } else { half::f16::from_f32(v).to_bits() };
    let value =
        |b: u16| if bf16 { half::bf16::from_bits(b).to_f64() } else { half::f16::from_bits(b).to_f64() };
    let all: Vec<u16> = numbers.into_iter().map(bits).collect();
    (all.iter().flat_map(|b| b.to_le_bytes()).collect(), all.into_iter().map(value).collect())
}

/// Codes of all widths, one bit after the other, into words.
fn packed(codes: &[u32], bits: u32) -> Vec<u32> {
    let mut words = vec![0u32; (codes.len() * bits as usize).div_ceil(32)];
    for i in 0..codes.len() * bits as usize {
        words[i / 32] |= (codes[i / bits as usize] >> (i % bits as usize) & 1) << (i % 32);
    }
    words
}

pub(super) fn vptq(model: Vptq) -> Crafted {
    let Vptq { length, bits, residual_bits, bf16, norm, perm } = model;
    let rng = &mut StdRng::seed_from_u64(9);
    let (mut file, mut weights) = (Container::default(), Weights::new());
    file.rest(rng, &mut weights);
    let mut settings = serde_json::Map::new();
    let dtype = if bf16 { "BF16" } else { "F16" };
    for (name, rows, cols) in LAYERS {
        let name = format!("model.layers.0.{name}");
        let lines = rows.div_ceil(length);
        let mut floats = |file: &mut Container, suffix: &str, shape: &[usize]| {
            let (bytes, values) = stored(random(rng, shape.iter().product()), bf16);
            file.add(&format!("{name}.{suffix}"), dtype, shape, bytes);
            values
        };
        let main = floats(&mut file, "centroids.weight", &[1, length << bits]);
        let residual = match residual_bits {
            0 => vec![0.0; length],
            bits => floats(&mut file, "res_centroids.weight", &[1, length << bits]),
        };
        let (scales, offsets) = match norm {
            true => (floats(&mut file, "weight_scale", &[cols]), floats(&mut file, "weight_bias", &[cols])),
            false => (vec![1.0; cols], vec![0.0; cols]),
        };
        let mut order: Vec<usize> = (0..cols).collect();
        if perm {
            order.shuffle(rng);
            let bytes = order.iter().flat_map(|&k| (k as u16).to_le_bytes()).collect();
            file.add(&format!("{name}.perm"), "I16", &[cols], bytes);
        }
        let (mut words, mut dense) = (Vec::new(), vec![0.0; rows * cols]);
        for line in 0..lines {
            let pairs: Vec<(u32, u32)> = (0..cols)
                .map(|_| (rng.random_range(0..1 << bits), rng.random_range(0..1 << residual_bits)))
                .collect();
            let codes: Vec<u32> = pairs.iter().map(|&(i, j)| j << bits | i).collect();
            words.extend(packed(&codes, bits + residual_bits));
            for (k, &(i, j)) in pairs.iter().enumerate() {
                for n in (0..length).filter(|n| line * length + n < rows) {
                    let vector = main[i as usize * length + n] + residual[j as usize * length + n];
                    dense[(line * length + n) * cols + order[k]] =
                        (vector * scales[order[k]] + offsets[order[k]]) as f32;
                }
            }
        }
        file.words(&format!("{name}.indices"), &[1, lines, words.len() / lines], &words);
        let residuals = if residual_bits > 0 { 1 << residual_bits } else { -1 };
        settings.insert(
            name.clone(),
            serde_json::json!({"vector_lens": [-1, length], "num_centroids": [-1, 1 << bits],
                "num_res_centroids": [-1, residuals], "group_num": 1, "group_size": cols, "outlier_size": 0,
                "enable_norm": norm, "enable_perm": perm, "indices_as_float": false, "is_indice_packed": true}),
        );
        weights.insert(name, dense);
    }
    let settings = format!(
        r#","quantization_config":{{"quant_method":"vptq","config_for_layers":{}}}"#,
        Value::Object(settings)
    );
    Crafted { config: config(&settings), bytes: file.bytes(), weights }
}

#[test]
fn vptq_of_every_shape() {
    vptq(VPTQ).verify();
    vptq(Vptq { bits: 16, residual_bits: 0, ..VPTQ }).verify();
    vptq(Vptq { bits: 12, residual_bits: 12, length: 16, bf16: true, ..VPTQ }).verify();
    vptq(Vptq { bits: 16, residual_bits: 16, length: 4, norm: false, ..VPTQ }).verify();
    vptq(Vptq { bits: 7, residual_bits: 8, length: 32, perm: false, ..VPTQ }).verify();
}

/// Models run as those with the same weights in f32.
#[test]
fn vptq_runs_as_dense() {
    for model in [VPTQ, Vptq { bits: 9, residual_bits: 6, length: 16, bf16: true, ..VPTQ }] {
        super::transformed::runs_as_dense(&vptq(model), &config(""));
    }
}

#[test]
fn vptq_refusals() {
    let model = vptq(VPTQ);
    for (from, to, says) in [
        ("\"vector_lens\":[-1,8]", "\"vector_lens\":[-1,12]", "VPTQ with vectors of 12"),
        ("\"vector_lens\":[-1,8]", "\"vector_lens\":[-1,4]", "shape mismatch"),
        ("\"vector_lens\":[-1,8]", "\"vector_lens\":8", "invalid vector_lens 8"),
        ("\"num_centroids\":[-1,256]", "\"num_centroids\":[-1,250]", "num_centroids 250"),
        ("\"num_res_centroids\":[-1,32]", "\"num_res_centroids\":[-1,-1]", "residual centroids"),
        ("\"num_res_centroids\":[-1,32]", "\"num_res_centroids\":[-1,16]", "shape mismatch"),
        ("\"group_num\":1", "\"group_num\":2", "2 groups of columns"),
        ("\"outlier_size\":0", "\"outlier_size\":8", "outlier columns"),
        ("\"is_indice_packed\":true", "\"is_indice_packed\":false", "vptq.utils.pack"),
        ("\"group_size\":", "\"group_size\":1", "group_size"),
        ("config_for_layers", "shared_layer_config", "config_for_layers"),
    ] {
        let config = model.config.replace(from, to);
        assert!(config != model.config, "{from}");
        let changed = Crafted { config, bytes: Vec::new(), weights: Weights::new() };
        let opened = changed.open(model.bytes.clone());
        let error =
            opened.and_then(|checkpoint| load_all(&checkpoint, BUDGETS[0])).err().unwrap().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    // The same input twice.
    let mut bytes = model.bytes.clone();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let parsed: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let perm = &parsed["model.layers.0.self_attn.q_proj.perm"]["data_offsets"][0];
    let at = header + perm.as_u64().unwrap() as usize;
    bytes.copy_within(at..at + 2, at + 2);
    let error = load_all(&model.open(bytes).unwrap(), BUDGETS[0]).err().unwrap().to_string();
    assert!(error.contains("perm is not a permutation"), "{error}");
}
