//! Formats of the KV cache in whole models: what they cost and what they save.

use crate::adapters::contexts;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::gpu::Options;
use halfbyte::inspect::{self, inspect};
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::ops::Tokens;
use halfbyte::perplexity::{documents, perplexity};
use halfbyte::tokenizer::Tokenizer;
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model, embedded};
use std::path::Path;

fn load(device: &Device, checkpoint: &Checkpoint, precision: CacheFormat) -> Model {
    let options = LoadOptions { precision, context: Some(192), ..LoadOptions::default() };
    pollster::block_on(Model::load(device, checkpoint, &options, |_| {})).expect("it loads")
}

/// Logits after a forced text: its beginning in one step, by the kernels of prompts, the rest token by token.
fn logits(model: &Model, text: &[u32], at_once: usize) -> Vec<f32> {
    pollster::block_on(async {
        model.prefill(0, &text[..at_once]).await.expect("prefill");
        for (position, &token) in text.iter().enumerate().skip(at_once) {
            model.decode(position, Tokens::Given(vec![token])).await.expect("decode");
        }
        model.logits().await.expect("logits")
    })
}

/// Token by token or at once, on the twin or on a GPU: the same but for the codes of what lies on a tie but for rounding.
#[test]
fn steps_and_devices_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let checkpoint = pollster::block_on(Checkpoint::open(folder)).expect("llama");
    let text: Vec<u32> = (0..80).map(|i| 3 + i * i % 90).collect();
    for (format, tolerance) in [(CacheFormat::Int8, 5e-4), (CacheFormat::Int4, 1e-2)] {
        let wanted = logits(&load(&Device::Cpu, &checkpoint, format), &text, text.len());
        for context in contexts(&Options::default()) {
            let model = load(&Device::Gpu(context), &checkpoint, format);
            for at_once in [text.len(), 1] {
                let error = relative_error(&logits(&model, &text, at_once), &wanted);
                assert!(error < tolerance, "{format:?}, {at_once} tokens at once: {error:e}");
            }
        }
    }
}

/// Logits and perplexity of a text against an f32 cache; as a GPU, in shares of the positions.
#[test]
fn integers_cost_little() {
    let options = Options { without: vec!["software".into()], ..Options::default() };
    let device = Device::Gpu(contexts(&options).remove(0));
    let checkpoint = pollster::block_on(embedded::open()).expect("the embedded model");
    let (tokenizer, _) = pollster::block_on(Tokenizer::from_checkpoint(&checkpoint)).expect("a tokenizer");
    let text = documents(&tokenizer, include_str!("../../models/sample.txt"), 160).expect("a text").remove(0);
    let measure = |format| {
        let model = load(&device, &checkpoint, format);
        let look = inspect::Options { context: Some(192), cache: format, ..inspect::Options::default() };
        let report = pollster::block_on(inspect(&checkpoint, &device, look, |_, _| {})).expect("a report");
        assert_eq!(model.memory.kv_bytes, report.fits.kv_bytes, "{format:?}");
        assert_eq!(model.cache_format(), format);
        let found = pollster::block_on(perplexity(&model, std::slice::from_ref(&text), |_| {}));
        (logits(&model, &text, 96), found.expect("it runs").nll, model.memory.kv_bytes, model.dispatches())
    };
    let (exact, nll, bytes, dispatches) = measure(CacheFormat::F32);
    for (format, least, most, cost, share) in [
        (CacheFormat::F16, 1e-6, 2e-3, 1e-3, 0.5),
        (CacheFormat::Int8, 1e-4, 2e-2, 5e-3, 0.2813),
        (CacheFormat::Int4, 1e-3, 2e-1, 5e-2, 0.1563),
    ] {
        let (found, found_nll, found_bytes, found_dispatches) = measure(format);
        let error = relative_error(&found, &exact);
        assert!(least < error && error < most, "{format:?}: logits are off by {error:e}");
        assert!((found_nll - nll).abs() < cost, "{format:?}: nll {nll} has become {found_nll}");
        assert_eq!(found_dispatches, dispatches, "{format:?}");
        assert!(found_bytes as f64 <= share * bytes as f64, "{format:?}: {found_bytes} of {bytes} bytes");
    }
}
