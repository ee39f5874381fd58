//! Decoded weights equal the makers' tools': to the bit, where the fixture says that it can be.

use super::*;
use crate::fixtures::READ;
use halfbyte::checkpoint::TokenizerFiles;
use halfbyte::model::RopeScaling;

/// Compares every matrix of `folder` with its golden.json; gives how many there were.
fn compare(folder: &Path) -> usize {
    let golden = json(&folder.join("golden.json"));
    let checkpoint = block_on(Checkpoint::open(folder)).unwrap();
    checkpoint.check().unwrap();
    let matrices = load_all(&checkpoint, BUDGETS[0]).unwrap();
    let mut found = BTreeMap::new();
    for matrix in &matrices {
        let [large, small] = BUDGETS.map(|budget| decode(matrix, budget).unwrap());
        assert!(large == small, "{}: cut up, it decodes to something else", matrix.name);
        for slice in &matrix.slices {
            let rows = slice.rows.start * matrix.cols..slice.rows.end * matrix.cols;
            let fused = matrix.slices.len() > 1;
            let parent = matrix.name.rsplit_once('.').filter(|_| fused).map(|(parent, _)| parent);
            let name = parent.map_or(matrix.name.clone(), |parent| format!("{parent}.{}", slice.name));
            found.insert(format!("{name}.weight"), large[rows].to_vec());
        }
    }
    let wanted = golden["dequantized"].as_object().unwrap();
    for (name, wanted) in wanted {
        let weights = match found.get(name) {
            None if name == "lm_head.weight" => &found["model.embed_tokens.weight"],
            None => panic!("{name} of {} was not read", folder.display()),
            Some(weights) => weights,
        };
        assert_eq!(wanted["sha256_f32"], sha256(weights), "{name} of {}", folder.display());
    }
    let disk = matrices.iter().map(|m| m.disk_bytes).sum::<u64>();
    assert!(disk > 0 && disk <= checkpoint.disk_bytes());
    wanted.len()
}

#[test]
fn decoded_weights_are_golden() {
    let Some(shared) = shared("golden weights") else { return };
    for (folder, format) in READ {
        let path = shared.join("fixtures").join(folder);
        let checkpoint = block_on(Checkpoint::open(&path)).unwrap();
        assert_eq!(checkpoint.format_name(), *format, "{folder}");
        // Where transforms are part of a weight its last bits depend on their order: a test of its own compares those.
        if json(&path.join("golden.json"))["dequant_bit_exact"] == true {
            assert!(compare(&path) > 1, "{folder}");
        }
    }
}

/// Where transforms are part of a weight, and a hash is none of its last bits: against `golden_weights.safetensors` if
/// there is one, else against what golden.json tells of each matrix.
#[test]
fn transformed_weights_are_golden() {
    let Some(shared) = shared("weights with transforms") else { return };
    for (folder, _) in READ {
        let folder = shared.join("fixtures").join(folder);
        let golden = json(&folder.join("golden.json"));
        if golden["dequant_bit_exact"] == true {
            continue;
        }
        let checkpoint = block_on(Checkpoint::open(&folder)).unwrap();
        // The same folder with the golden weights in place of the quantized ones.
        let weights = block_on(Checkpoint::open(folder.join("golden_weights.safetensors"))).ok();
        let mut compared = 0;
        for matrix in load_all(&checkpoint, BUDGETS[1]).unwrap() {
            let parent = matrix.name.rsplit_once('.').map_or("", |(parent, _)| parent).to_string();
            // EXL3's: what the first input has for the first 16 outputs, before any transform.
            if let Some(codes) = golden["what_row0_first16"].get(&matrix.name) {
                let weights = decode(&matrix, BUDGETS[1]).unwrap();
                let first: Vec<f32> = weights.into_iter().step_by(matrix.cols).take(16).collect();
                assert_eq!(*codes, serde_json::json!(first), "{}", matrix.name);
            }
            let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
            let add = |row: usize, weights: &[f32]| {
                let slice = matrix.slices.iter().find(|slice| slice.rows.contains(&row)).unwrap();
                found.entry(slice.name.clone()).or_default().extend_from_slice(weights);
                Ok(())
            };
            block_on(halfbyte::checkpoint::decode::rows(&matrix, add)).unwrap();
            for (name, found) in found {
                let full = format!("{parent}.{name}");
                let Some(told) = golden["dequantized"].get(format!("{full}.weight")) else { continue };
                told_of(&found, told, &full);
                if let Some(weights) = &weights {
                    let wanted = &block_on(weights.matrices(&parent, &[&name])).unwrap()[0];
                    let error = distance(&found, &decode(wanted, BUDGETS[0]).unwrap());
                    assert!(error < 1e-6, "{full}: {error}");
                }
                compared += 1;
            }
        }
        assert_eq!(compared, golden["dequantized"].as_object().unwrap().len(), "{}", folder.display());
    }
}

/// First eight weights, mean and standard deviation.
fn told_of(weights: &[f32], told: &Value, name: &str) {
    for (&w, first) in weights.iter().zip(told["first8"].as_array().unwrap()) {
        assert!((f64::from(w) - first.as_f64().unwrap()).abs() < 1e-6, "{name}");
    }
    let count = weights.len() as f64;
    let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / count;
    let std = (weights.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / count).sqrt();
    assert!((mean - told["mean"].as_f64().unwrap()).abs() < 1e-7, "{name}: mean {mean}");
    assert!((std - told["std"].as_f64().unwrap()).abs() < 1e-7, "{name}: std {std}");
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    (error / b.iter().map(|&b| square(f64::from(b))).sum::<f64>()).sqrt()
}

/// LoRA: base + scale · B A.
#[test]
fn lora_weights_are_golden() {
    let Some(shared) = shared("LoRA weights") else { return };
    let models = shared.join("fixtures/tinystories-656k");
    let base = block_on(Checkpoint::open(models.join("bnb-nf4-dq"))).unwrap();
    let matrices = load_all(&base, BUDGETS[0]).unwrap();
    for (folder, modules) in [("lora-on-bnb-nf4-dq", 14), ("lora-rslora-qv-on-bnb-nf4-dq", 4)] {
        let golden = json(&models.join(folder).join("golden.json"));
        let adapter = block_on(Adapter::open(models.join(folder))).unwrap();
        adapter.check(base.config()).unwrap();
        assert_eq!(adapter.modules.len(), modules);
        let mut compared = 0;
        for matrix in &matrices {
            let Some(wanted) = golden["dequantized"].get(format!("{}.weight", matrix.name)) else { continue };
            let mut weights: Vec<f64> =
                decode(matrix, BUDGETS[0]).unwrap().into_iter().map(f64::from).collect();
            if let Some(lora) = adapter.modules.get(&matrix.name) {
                for (n, row) in weights.chunks_mut(matrix.cols).enumerate() {
                    for (k, w) in row.iter_mut().enumerate() {
                        let term = |r: usize| {
                            f64::from(lora.b[n * lora.rank + r]) * f64::from(lora.a[r * lora.cols + k])
                        };
                        *w += f64::from(lora.scale) * (0..lora.rank).map(term).sum::<f64>();
                    }
                }
                compared += 1;
            } else {
                assert_eq!(wanted["sha256_f32"], sha256(&decode(matrix, BUDGETS[0]).unwrap()));
            }
            for (w, first) in weights.iter().zip(wanted["first8"].as_array().unwrap()) {
                assert!((w - first.as_f64().unwrap()).abs() < 1e-6, "{} of {folder}", matrix.name);
            }
            let count = weights.len() as f64;
            let mean = weights.iter().sum::<f64>() / count;
            let std = (weights.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / count).sqrt();
            assert!((mean - wanted["mean"].as_f64().unwrap()).abs() < 1e-7, "{} of {folder}", matrix.name);
            assert!((std - wanted["std"].as_f64().unwrap()).abs() < 1e-6, "{} of {folder}", matrix.name);
        }
        assert_eq!(compared, modules);
    }
}

/// No fixture is left out: all are in the list but for adapters, which have a base elsewhere.
#[test]
fn every_fixture_is_read() {
    let Some(shared) = shared("the list of fixtures") else { return };
    for model in ["tinystories-656k", "stories260K-w256"] {
        let folder = shared.join("fixtures").join(model);
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        for name in names.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with("lora-")) {
            let path = format!("{model}/{name}");
            assert!(READ.iter().any(|(read, _)| *read == path), "{path} is not in the list");
        }
    }
}

/// All folders of models that are only unquantized: opened, read whole, their embeddings of the right size.
#[test]
fn models_load() {
    let mut paths: Vec<_> =
        std::fs::read_dir(fixtures().join("models")).unwrap().map(|e| e.unwrap().path()).collect();
    if let Some(shared) = shared("models") {
        let models =
            ["stories260K-hf", "tinystories-656k", "tale-start", "stories260K/stories260Ktok512.gguf"];
        paths.extend(models.map(|model| shared.join("models").join(model)));
    }
    let mut loaded = 0;
    for path in paths.into_iter().filter(|p| {
        p.join("golden.json").exists()
            || p.is_file() && p.extension().is_some_and(|e| e == "gguf")
            || p.join("config.json").exists()
    }) {
        let checkpoint =
            block_on(Checkpoint::open(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        checkpoint.check().unwrap();
        let matrices =
            load_all(&checkpoint, BUDGETS[1]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let config = checkpoint.config();
        assert_eq!((matrices[0].rows, matrices[0].cols), (config.vocab, config.hidden));
        let ffn = if architecture(config).unwrap().gated { 3 } else { 2 };
        let ffn = config.experts.as_ref().map_or(ffn, |experts| 1 + 3 * experts.count);
        let modules = 1 + (4 + ffn) * config.layers + usize::from(!config.tied);
        assert_eq!(matrices.iter().map(|m| m.slices.len()).sum::<usize>(), modules, "{}", path.display());
        loaded += 1;
    }
    assert!(loaded >= 16, "{loaded}");
}

/// A GGUF file and a Hugging Face folder of one model, written by different tools, hold the same weights.
#[test]
fn gguf_and_hugging_face_agree() {
    let Some(shared) = shared("stories260K") else { return };
    let open = |path: &str| block_on(Checkpoint::open(shared.join("models").join(path))).unwrap();
    let (gguf, hf) = (open("stories260K/stories260Ktok512.gguf"), open("stories260K-hf"));
    let all = |checkpoint| load_all(checkpoint, BUDGETS[0]).unwrap();
    for (a, b) in all(&gguf).iter().zip(&all(&hf)) {
        assert_eq!(a.name, b.name);
        assert!(decode(a, BUDGETS[1]).unwrap() == decode(b, BUDGETS[1]).unwrap(), "{}", a.name);
    }
}

/// `rope_freqs.weight` becomes factors; tokenizers are handed over.
#[test]
fn side_material() {
    let models = fixtures().join("models");
    let gguf = block_on(Checkpoint::open(models.join("llama-rope-llama3-gguf"))).unwrap();
    let RopeScaling::Factors(factors) = &gguf.config().rope.scaling else {
        panic!("{:?}", gguf.config().rope)
    };
    assert_eq!(factors.len(), gguf.config().head_dim / 2);
    let TokenizerFiles::Gguf(metadata) = block_on(gguf.tokenizer_files()).unwrap() else { panic!() };
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), gguf.config().vocab);
    let hf = block_on(Checkpoint::open(models.join("llama"))).unwrap();
    assert!(matches!(block_on(hf.tokenizer_files()).unwrap(), TokenizerFiles::None));
    let Some(shared) = shared("tokenizer.json") else { return };
    let hf = block_on(Checkpoint::open(shared.join("models/tinystories-656k"))).unwrap();
    let TokenizerFiles::Hf { tokenizer_json, tokenizer_config, .. } = block_on(hf.tokenizer_files()).unwrap()
    else {
        panic!()
    };
    assert!(tokenizer_json.len() > 80_000 && tokenizer_config.is_some());
}

/// `config.json` in the keys of transformers 4 and 5 say the same.
#[test]
fn both_spellings_of_the_configuration_agree() {
    let mut compared = 0;
    for entry in std::fs::read_dir(fixtures().join("models")).unwrap() {
        let folder = entry.unwrap().path();
        let (Ok(new), Ok(old)) =
            (std::fs::read(folder.join("config.json")), std::fs::read(folder.join("config.v4.json")))
        else {
            continue;
        };
        let parse = |json: &[u8]| halfbyte::checkpoint::hf::parse_config(json, None).unwrap();
        let (new, old) = (parse(&new), parse(&old));
        assert_eq!(new, old, "{}", folder.display());
        compared += 1;
    }
    assert_eq!(compared, 16);
}

/// Of a model that sees as well, the part that writes is what there is.
#[test]
fn eyes_are_left_out() {
    for name in ["mistral3", "qwen2_5-vl", "qwen3-vl"] {
        let checkpoint = block_on(Checkpoint::open(fixtures().join("models").join(name))).unwrap();
        let tensors = checkpoint.tensors();
        assert!(tensors.iter().any(|t| t.name == "model.layers.1.mlp.down_proj"), "{name}");
        let eyes = ["vis", "multi_modal", "language_model"];
        let left = tensors.iter().find(|t| eyes.iter().any(|part| t.name.contains(part)));
        assert!(left.is_none(), "{name}: {:?}", left.map(|t| &t.name));
    }
}
