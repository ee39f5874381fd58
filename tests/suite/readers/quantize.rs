//! Unquantized weights that are quantized as they are read.

use super::*;
use crate::memory::plain;
use halfbyte::checkpoint::quantize::Quantization;
use halfbyte::quant::Kind;
use halfbyte::quant::lookup::NF4;

/// bitsandbytes has quantized the fixtures; we quantize what they were made of.
#[test]
fn codes_are_those_of_bitsandbytes() {
    let Some(shared) = shared("what bitsandbytes makes of a model") else { return };
    let models = shared.join("fixtures/tinystories-656k");
    let base = block_on(Checkpoint::open(models.join("f16"))).unwrap();
    for (to, name) in [(Quantization::Nf4, "bnb-nf4"), (Quantization::Int8, "bnb-int8")] {
        let golden = json(&models.join(name).join("golden.json"));
        let layers = load_all(&base, BUDGETS[0]).unwrap().into_iter();
        let mut compared = 0;
        for matrix in layers.filter(|matrix| matrix.name.starts_with("model.layers.")) {
            let matrix = to.of(matrix).unwrap();
            let [large, small] = BUDGETS.map(|budget| decode(&matrix, budget).unwrap());
            assert!(large == small, "{}: cut up, it decodes to something else", matrix.name);
            let wanted = &golden["dequantized"][format!("{}.weight", matrix.name)];
            assert_eq!(wanted["sha256_f32"], sha256(&large), "{} as {name}", matrix.name);
            compared += 1;
        }
        assert_eq!(compared, 14);
    }
}

/// Against the definitions, in f64: rows that are no multiple of a block, blocks of zeros, of one sign, of a single
/// weight, of numbers too large for an f16 scale or too small for one.
#[test]
fn odd_rows_and_odd_weights() {
    let (rows, cols) = (37, 8 * 64 + 36);
    let weight = |i: usize| {
        let x = ((i * 7919 + 13) % 10_007) as f32 / 5003.0 - 1.0;
        match (i / cols, i % cols / 64) {
            (1, _) | (_, 2) => 0.0,
            (2, _) => 0.3 + x.abs(),
            (3, _) => -0.3 - x.abs(),
            (4, _) => x * 1e30,
            (5, _) => x * 1e-41,
            (6, _) => {
                if i.is_multiple_of(64) {
                    0.7
                } else {
                    0.0
                }
            }
            _ => x * x * x,
        }
    };
    for kind in [Kind::F32, Kind::Bf16] {
        let item = |i: usize| weight(i).to_bits() >> (32 - kind.bits());
        let items: Vec<u32> = (0..rows * cols).map(item).collect();
        let weights: Vec<f64> = items.iter().map(|&item| kind.value(item)).collect();
        let of = |to: Quantization| {
            let matrix = to.of(plain("model.layers.0.mlp.down_proj", kind, cols, items.clone())).unwrap();
            assert!(matrix.data.extents(BUDGETS[1]).len() > 1);
            let [large, small] = BUDGETS.map(|budget| decode(&matrix, budget).unwrap());
            assert!(large == small);
            large.into_iter().map(f64::from).collect::<Vec<f64>>()
        };
        let check = |found: &[f64], run: usize, error: &dyn Fn(&[f64]) -> f64| {
            for (row, (w, q)) in weights.chunks(cols).zip(found.chunks(cols)).enumerate() {
                for (w, q) in w.chunks(run).zip(q.chunks(run)) {
                    let allowed = error(w);
                    for (w, q) in w.iter().zip(q) {
                        assert!((w - q).abs() <= allowed, "{kind:?}, row {row}: {w} became {q}");
                    }
                }
            }
        };
        let absmax = |run: &[f64]| run.iter().fold(0f64, |most, w| most.max(w.abs()));
        // The nearest of 16 levels, so far as f32 can tell.
        let nf4 = of(Quantization::Nf4);
        for (w, q) in weights.chunks(cols).zip(nf4.chunks(cols)) {
            for (w, q) in w.chunks(64).zip(q.chunks(64)) {
                let most = absmax(w);
                for (w, q) in w.iter().zip(q).filter(|_| most > 1e-37) {
                    let levels = NF4.iter().map(|&level| (f64::from(level) * most - w).abs());
                    let least = levels.fold(f64::INFINITY, f64::min);
                    assert!((w - q).abs() <= least + 1e-6 * most, "{kind:?}: {w} became {q}");
                }
            }
        }
        check(&nf4, 64, &|run| if absmax(run) < 1e-37 { 1e-37 } else { 0.16 * absmax(run) });
        check(&of(Quantization::Int8), cols, &|run| (absmax(run) / 254.0 * 1.000_001).max(1e-37));
        let int4 = of(Quantization::Int4);
        for (w, q) in weights.chunks(cols).zip(int4.chunks(cols)) {
            for (w, q) in w.chunks(32).zip(q.chunks(32)) {
                let (min, max) = w.iter().fold((0f64, 0f64), |(min, max), &w| (min.min(w), max.max(w)));
                let step = (max as f32 / 15.0 - min as f32 / 15.0).min(65504.0);
                let step = half::f16::from_f32(step).to_f64();
                let zero = (-min / step).round_ties_even().min(15.0);
                // Where f32 and f64 may be on different sides of a tie.
                let tie = |x: f64| (x.abs().fract() - 0.5).abs() < 1e-5;
                for (w, q) in w.iter().zip(q).filter(|(w, _)| !tie(*w / step) && !tie(min / step)) {
                    let code = ((w / step).round_ties_even() + zero).clamp(0.0, 15.0);
                    let wanted = if step == 0.0 { 0.0 } else { (code - zero) * step };
                    assert_eq!(*q, wanted, "{kind:?}: {w} in {min}..{max}");
                }
            }
        }
    }
}

#[test]
fn what_is_quantized_is_told() {
    let Some(shared) = shared("quantized models") else { return };
    for (folder, format) in
        [("bnb-nf4", "bitsandbytes NF4"), ("gguf-q4_0", "Q4_0"), ("quip-e8p12", "QuIP# E8P12")]
    {
        let path = shared.join("fixtures/tinystories-656k").join(folder);
        let path = if format == "Q4_0" { path.join("model-gguf-q4_0.gguf") } else { path };
        let checkpoint = block_on(Checkpoint::open(&path)).unwrap();
        let matrix = block_on(checkpoint.matrices("model.layers.0.mlp", &["down_proj"])).unwrap().remove(0);
        let error = Quantization::Nf4.of(matrix).err().expect("an error").to_string();
        for part in ["quantized already", format, "model.layers.0.mlp.down_proj", "without --quantize"] {
            assert!(error.contains(part), "{error}");
        }
    }
    let error = "nf5".parse::<Quantization>().unwrap_err().to_string();
    assert!(error.contains("nf4, int8 or int4"), "{error}");
}
