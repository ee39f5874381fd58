//! What a step costs, counted: submits, passes, dispatches, bytes up and down; and weights cut into parts.

use crate::adapters::contexts;
use crate::shared::shared;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::gpu::{Context, Options};
use halfbyte::model::{CacheFormat, LoadOptions, Progress, Stage};
use halfbyte::ops::{Op, Rows, STEP_HEADER, Step, Tokens};
use halfbyte::quant::plain::Plain;
use halfbyte::quant::{Kind, Shape};
use halfbyte::verify::relative_error;
use halfbyte::{Device, Model, embedded};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

/// Dispatches of a decode step beside the layers: gather, norm, head, argmax.
const AROUND: usize = 4;

fn load(context: &Context, checkpoint: &Checkpoint) -> Model {
    let options = LoadOptions { precision: CacheFormat::F32, ..LoadOptions::default() };
    pollster::block_on(Model::load(&Device::Gpu(context.clone()), checkpoint, &options, |_| {}))
        .expect("it loads")
}

/// Submits, passes, dispatches, uploads, bytes up, bytes down so far.
fn counts(context: &Context) -> [u64; 6] {
    let c = context.counters();
    [&c.submits, &c.passes, &c.dispatches, &c.uploads, &c.upload_bytes, &c.read_bytes]
        .map(|n| n.load(Relaxed))
}

/// What `run` adds to the counts.
fn cost(context: &Context, run: impl Future<Output = halfbyte::Result<u32>>) -> [u64; 6] {
    let before = counts(context);
    pollster::block_on(run).expect("the step runs");
    let after = counts(context);
    std::array::from_fn(|i| after[i] - before[i])
}

fn check_step(context: &Context, checkpoint: &Checkpoint, name: &str) {
    let model = load(context, checkpoint);
    let prompt: Vec<u32> = (0..128).map(|i| 3 + i % 90).collect();
    let prefill = cost(context, model.prefill(0, &prompt));
    let decode = cost(context, model.decode(128, Tokens::Chosen));
    let transforms = model.decode_ops().iter().filter(|op| matches!(op, Op::Hadamard { .. })).count();
    let [submits, passes, dispatches, uploads, up, down] = decode;
    assert_eq!([submits, passes, uploads, up, down], [1, 1, 1, 16, 4], "{name}");
    // On a GPU the two norms go too, and attention may be cut into shares: at most six.
    let a_layer = if transforms == 0 { 7 } else { 8 };
    let most = AROUND + a_layer * model.config.layers + transforms;
    assert!(dispatches as usize <= most, "{name}: {dispatches} dispatches, at most {most}");
    assert_eq!([prefill[0], prefill[1], prefill[3], prefill[5]], [1, 1, 1, 4], "{name}");
    assert!(prefill[2] <= 2 * dispatches, "{name}: prefill takes {} dispatches", prefill[2]);
}

#[test]
fn a_step_is_one_submit_and_few_dispatches() {
    let context = contexts(&Options::default()).remove(0);
    let embedded = pollster::block_on(embedded::open()).expect("the embedded model");
    check_step(&context, &embedded, "embedded");
    let Some(shared) = shared("steps of quantized fixtures") else { return };
    for name in ["gptq-4bit-g32-actorder", "bnb-nf4-dq", "quip-e8p12", "gguf-q5_1"] {
        let folder = shared.join("fixtures/tinystories-656k").join(name);
        let gguf = folder.join(format!("model-{name}.gguf"));
        let path = if gguf.is_file() { gguf } else { folder };
        let checkpoint = pollster::block_on(Checkpoint::open(path)).expect(name);
        check_step(&context, &checkpoint, name);
    }
}

/// Norms go into what reads them, blocks of inputs are rotated by the product; other transforms are a dispatch each.
#[test]
fn a_step_on_a_gpu_takes_norms_and_rotations_along() {
    let Some(shared) = shared("steps of transformed fixtures") else { return };
    let options = Options { without: vec!["software".into()], ..Options::default() };
    let context = contexts(&options).remove(0);
    for (name, rotated) in [("exl3-3bpw-mul1", true), ("quip-e8p12", false)] {
        let folder = shared.join("fixtures/tinystories-656k").join(name);
        let model = load(&context, &pollster::block_on(Checkpoint::open(folder)).expect(name));
        let count = |wanted: fn(&Op) -> bool| model.decode_ops().iter().filter(|op| wanted(op)).count();
        let products = count(|op| matches!(op, Op::Product { .. }));
        let inputs = count(|op| matches!(op, Op::Hadamard { before: Some(_), .. }));
        let outputs = count(|op| matches!(op, Op::Hadamard { after: Some(_), .. }));
        assert!(inputs > 0 && outputs > 0, "{name}: {inputs} and {outputs} transforms");
        let transforms = if rotated { outputs } else { inputs + outputs };
        // Embedding and argmax; of a layer attention, which may be two, and the gated activation.
        let most = 2 + products + transforms + 3 * model.config.layers;
        let dispatches = model.dispatches().0;
        assert!(dispatches <= most, "{name}: {dispatches} dispatches, at most {most}");
    }
}

#[test]
fn a_matrix_larger_than_a_binding_is_cut_by_rows() {
    let checkpoint = pollster::block_on(embedded::open()).expect("the embedded model");
    let prompt = [0u32, 499, 466, 259, 421];
    let logits = |max_binding: Option<u64>| {
        let context = contexts(&Options { max_binding, ..Options::default() }).remove(0);
        let options =
            LoadOptions { precision: CacheFormat::F32, context: Some(64), ..LoadOptions::default() };
        pollster::block_on(async {
            let model = Model::load(&Device::Gpu(context), &checkpoint, &options, |_| {}).await?;
            model.prefill(0, &prompt).await?;
            Ok::<_, halfbyte::Error>((model.dispatches().0, model.logits().await?))
        })
    };
    let (whole_dispatches, whole) = logits(None).expect("whole");
    let (split_dispatches, split) = logits(Some(900_000)).expect("split");
    assert!(split_dispatches > whole_dispatches, "{split_dispatches} dispatches: nothing was cut");
    let error = relative_error(&split, &whole);
    assert!(error < 1e-6, "cut weights change the logits by {error:e}");
}

#[test]
fn a_model_too_large_for_the_adapter_is_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let checkpoint = pollster::block_on(Checkpoint::open(folder)).expect("llama");
    let context = contexts(&Options { max_binding: Some(300_000), ..Options::default() }).remove(0);
    let options = LoadOptions { precision: CacheFormat::F32, context: Some(4096), ..LoadOptions::default() };
    let result = pollster::block_on(Model::load(&Device::Gpu(context), &checkpoint, &options, |_| {}));
    let message = result.err().expect("the cache does not fit").to_string();
    assert!(message.contains("KV cache") && message.contains("--context"), "{message}");
}

/// An adapter, and a device as an app of its own makes it.
fn app(descriptor: &wgpu::DeviceDescriptor<'_>) -> (wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    pollster::block_on(async {
        let adapter = instance.request_adapter(&Default::default()).await.expect("an adapter");
        adapter.request_device(descriptor).await.expect("a device")
    })
}

#[test]
fn a_lost_device_is_an_error() {
    let (device, queue) = app(&Default::default());
    let context = Context::from_device(device.clone(), queue).expect("it can compute");
    let lost = Arc::new(AtomicBool::new(false));
    let seen = lost.clone();
    device.set_device_lost_callback(move |_, _| seen.store(true, Relaxed));
    let checkpoint = pollster::block_on(embedded::open()).expect("the embedded model");
    let model = load(&context, &checkpoint);
    pollster::block_on(model.prefill(0, &[0, 499])).expect("the device is there");
    device.destroy();
    let error = pollster::block_on(model.decode(2, Tokens::Chosen)).expect_err("the device is gone");
    assert!(matches!(error, halfbyte::Error::DeviceLost(_)), "{error}");
    assert!(lost.load(Relaxed), "the app's own callback was not called");
}

#[test]
fn an_apps_device_keeps_its_error_handler() {
    let (device, queue) = app(&Default::default());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let seen = heard.clone();
    device.on_uncaptured_error(Arc::new(move |e| seen.lock().expect("a lock").push(e.to_string())));
    let context = Context::from_device(device.clone(), queue.clone()).expect("it can compute");
    let tensor = Device::Gpu(context.clone()).zeros("small", 1, 4).expect("room");
    Device::Gpu(context.clone()).write(&tensor, 1 << 20, &[1]);
    let error = context.check().expect_err("it was written past its end");
    assert!(matches!(error, halfbyte::Error::Gpu(_)), "{error}");
    assert!(heard.lock().expect("a lock").is_empty(), "the app hears of halfbyte's errors");
    context.check().expect("an error is told once");

    let usage = wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false };
    queue.write_buffer(&device.create_buffer(&descriptor), 64, &[0; 16]);
    assert_eq!(heard.lock().expect("a lock").len(), 1, "the app hears of its own errors");
    context.check().expect("and halfbyte does not");
}

#[test]
fn a_device_without_compute_is_refused() {
    let required_limits = wgpu::Limits::downlevel_webgl2_defaults();
    let (device, queue) = app(&wgpu::DeviceDescriptor { required_limits, ..Default::default() });
    let error = Context::from_device(device, queue).expect_err("no storage buffers").to_string();
    assert!(error.contains("device_descriptor"), "{error}");
}

#[test]
fn loading_tells_of_weights_and_then_of_kernels() {
    let context = contexts(&Options::default()).remove(0);
    let checkpoint = pollster::block_on(embedded::open()).expect("the embedded model");
    let mut told = Vec::new();
    let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
    let device = Device::Gpu(context.clone());
    pollster::block_on(Model::load(&device, &checkpoint, &options, |p| told.push(p))).expect("it loads");
    let (weights, kernels): (Vec<Progress>, Vec<Progress>) =
        told.iter().copied().partition(|p| p.stage == Stage::Weights);
    for stage in [&weights, &kernels] {
        assert!(stage.windows(2).all(|p| p[0].done <= p[1].done && p[0].total == p[1].total), "{stage:?}");
        assert!(stage.last().is_some_and(|p| p.done == p.total && p.total > 5), "{stage:?}");
    }
    assert!(told.is_sorted_by_key(|p| p.stage == Stage::Kernels), "weights first: {told:?}");
    // Each kernel is compiled in this stage, none later and none twice.
    assert_eq!(kernels.last().map(|p| p.total), Some(context.shaders().len() as u64));
}

/// A norm is no part of a product that adds to what was normed: one dispatch cannot read a buffer and write to it.
#[test]
fn a_product_may_add_to_what_was_normed() {
    let result = |device: &Device| {
        let tensor = |cols, first: f32| {
            let tensor = device.zeros("test", 1, cols).expect("a tensor");
            let values: Vec<f32> = (0..cols).map(|i| first + i as f32 / 64.0).collect();
            device.write(&tensor, 0, bytemuck::cast_slice(&values));
            tensor
        };
        let (x, weight, normed) = (tensor(64, -0.5), tensor(64, 0.25), tensor(64, 0.0));
        let step = device.zeros("step", 1, STEP_HEADER + 1).expect("a step");
        let items = vec![(0..64 * 64).map(|i| ((i * 37 % 101) as f32 / 101.0 - 0.5).to_bits()).collect()];
        let shape = Shape { rows: 64, cols: 64 };
        let matrix = Arc::new(device.dense("test", Plain::new(Kind::F32), shape, items).expect("a matrix"));
        let rows = Rows::Tokens;
        let norm = Op::RmsNorm { rows, x: x.clone(), weight, eps: 0.1, out: normed.clone(), add: false };
        let (int8, permutation, bias, out) = (false, None, None, x.clone());
        let product =
            Op::Product { rows, matrix, x: normed, int8, permutation, bias, out, offset: 0, add: true };
        let once = Step { position: 0, tokens: Tokens::Given(vec![0]), head_first: 0, head_rows: 1 };
        pollster::block_on(async {
            let recording = device.record(&step, vec![norm, product]).await?;
            device.run(&recording, &step, &once)?;
            device.read(&x, 1).await
        })
    };
    let options = Options { without: vec!["software".into()], ..Options::default() };
    let gpu = result(&Device::Gpu(contexts(&options).remove(0))).expect("the GPU runs it");
    let error = relative_error(&gpu, &result(&Device::Cpu).expect("the twin runs it"));
    assert!(error < 1e-5, "{error}");
}

/// What a driver compiled is written beside its digest; a damaged file is as good as none, and is written again.
#[test]
fn compiled_pipelines_are_kept() {
    let folder = std::env::temp_dir().join(format!("halfbyte-pipelines-{}", std::process::id()));
    std::fs::remove_dir_all(&folder).ok(); // of an earlier process with this number
    let options = Options { pipeline_cache: Some(folder.clone()), ..Options::default() };
    let checkpoint = pollster::block_on(embedded::open()).expect("the embedded model");
    let file = || {
        let mut files: Vec<_> = std::fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0).path()
    };
    let write = || {
        let context = contexts(&options).remove(0);
        let token = pollster::block_on(load(&context, &checkpoint).prefill(0, &[1, 50, 51]));
        (token.expect("it runs"), std::fs::read(file()).expect("a file"))
    };
    let (token, first) = write();
    assert!(first.len() > 32 && first[..32] == Sha256::digest(&first[32..])[..], "{} bytes", first.len());
    assert_eq!(write().0, token);
    let mut damaged = first.clone();
    damaged[40] ^= 1;
    std::fs::write(file(), &damaged).expect("written");
    let (again, mended) = write();
    assert_eq!(again, token);
    assert!(mended[..32] == Sha256::digest(&mended[32..])[..]);
    std::fs::remove_dir_all(folder).expect("removed");
}
