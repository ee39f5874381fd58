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
        let name = format!("{}.weight", matrix.name);
        assert_eq!(matrix.slices.len(), 1);
        found.insert(name, large);
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

/// QuIP#: the dense weights are what the layer makes of unit vectors.
#[test]
fn quip_weights_are_golden() {
    let Some(shared) = shared("QuIP# weights") else { return };
    let folder = shared.join("fixtures/tinystories-656k/quip-e8p12");
    let checkpoint = block_on(Checkpoint::open(&folder)).unwrap();
    assert_eq!(checkpoint.format_name(), "QuIP# E8P12");
    // The same folder with the golden weights in place of the quantized ones.
    let golden = block_on(Checkpoint::open(folder.join("golden_weights.safetensors"))).unwrap();
    let mut compared = 0;
    for matrix in load_all(&checkpoint, BUDGETS[1]).unwrap() {
        let dense = dense(&matrix);
        let parent = matrix.name.rsplit_once('.').unwrap().0;
        for slice in matrix.slices.iter().filter(|_| matrix.format.starts_with("QuIP#")) {
            let rows = slice.rows.start * matrix.cols..slice.rows.end * matrix.cols;
            let wanted = &block_on(golden.matrices(parent, &[&slice.name])).unwrap()[0];
            let wanted = decode(wanted, BUDGETS[0]).unwrap();
            let error = distance(&dense[rows], &wanted);
            assert!(error < 1e-6, "{parent}.{}: {error}", slice.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 14);
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    (error / b.iter().map(|&b| square(f64::from(b))).sum::<f64>()).sqrt()
}

/// The matrix with its transforms multiplied in, row-major.
fn dense(matrix: &StoredMatrix) -> Vec<f32> {
    let weights = decode(matrix, BUDGETS[1]).unwrap();
    let (InputTransform::Hadamard(su), OutputTransform::Hadamard(sv)) = (&matrix.input, &matrix.output)
    else {
        return weights;
    };
    let (rows, cols) = (matrix.rows, matrix.cols);
    let row_transform = halfbyte::quant::hadamard::Plan::new(cols, false).unwrap();
    let col_transform = halfbyte::quant::hadamard::Plan::new(rows, false).unwrap();
    // W = diag(SV) H_N Ŵ H_Kᵀ diag(SU): rows of Ŵ times H_Kᵀ are H_K applied to each row.
    let mut dense = weights;
    for row in dense.chunks_mut(cols) {
        row_transform.apply(row);
        row.iter_mut().zip(su).for_each(|(w, su)| *w *= su);
    }
    for k in 0..cols {
        let mut column: Vec<f32> = (0..rows).map(|n| dense[n * cols + k]).collect();
        col_transform.apply(&mut column);
        (0..rows).for_each(|n| dense[n * cols + k] = column[n] * sv[n]);
    }
    dense
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

/// Every fixture in a format that has no reader is refused with that format's name.
#[test]
fn unread_formats_are_named() {
    let Some(shared) = shared("unread formats") else { return };
    for (model, folder, says) in [
        ("tinystories-656k", "aqlm-2x8-g8", "aqlm"),
        ("tinystories-656k", "awq-gemm-g128", "awq"),
        ("tinystories-656k", "bitnet-bitlinear", "bitnet"),
        ("tinystories-656k", "bnb-int8", "LLM.int8"),
        ("tinystories-656k", "ct-mxfp4", "compressed-tensors"),
        ("tinystories-656k", "exl2-3bpw", "exl2"),
        ("tinystories-656k", "exl3-3bpw-mul1", "exl3"),
        ("tinystories-656k", "fp8-deepseek-128x128", "fp8"),
        ("tinystories-656k", "gguf-nvfp4", "NVFP4"),
        ("tinystories-656k", "hqq-4bit-g64", "hqq"),
        ("tinystories-656k", "mlc-q4f16_1", "MLC"),
        ("tinystories-656k", "nvfp4-modelopt", "modelopt"),
        ("tinystories-656k", "quip-e8p12rvq3b", "E8P12RVQ3B"),
        ("tinystories-656k", "quip-e8p12rvq4b", "E8P12RVQ4B"),
        ("tinystories-656k", "spqr-3bit", "spqr"),
    ] {
        let path = shared.join("fixtures").join(model).join(folder);
        let opened = block_on(Checkpoint::open(&path));
        let error = opened.and_then(|checkpoint| load_all(&checkpoint, BUDGETS[0])).err();
        let Some(error @ Error::Unsupported(_)) = error else { panic!("{folder}: {error:?}") };
        assert!(error.to_string().contains(says), "{folder}: {error}");
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
        assert_eq!(matrices.len(), 1 + 7 * config.layers + usize::from(!config.tied), "{}", path.display());
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
    assert_eq!(compared, 12);
}
