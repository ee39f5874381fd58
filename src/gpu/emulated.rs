//! Products by matrix units on adapters that have none, for tests: the same kernels, a cooperative matrix replaced by what
//! lanes can do themselves.
//!
//! Of the 16 × 16 sums of a subgroup's 32 lanes each has eight; matrices of f16 are the place where their tile begins.
//! Tiles are in a storage buffer: software adapters have 32 KiB of workgroup memory, the kernels take up to 48.

use super::context::{Capabilities, Context, Options};
use super::fuse::Fused;
use super::kernels::{Spare, Spread, Tuning, lower, scratch_bytes};
use super::link::part;
use super::recorder::GpuRecording;
use crate::device::{Device, GpuBuffer};
use crate::error::Result;
use crate::ops::{Op, Rows, STEP_HEADER, Step, Tokens};
use crate::quant::{CODECS, Codec, Shape};
use crate::verify::{random_items, relative_error};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the emulation finds its tiles: no kernel has a binding of that number.
const BINDING: u32 = 10;
/// vec4s of a tile, and of the four of a workgroup.
const TILE: u64 = 128 * 18;
const AREA: u64 = 4 * TILE;
/// Workgroups in x and y.
const GROUPS: (u64, u64) = (3, 2);

const HEADER: &str = "
@group(0) @binding(10) var<storage, read_write> tiles: array<vec4<f16>>;
var<private> area: u32; // of this workgroup
var<private> of_32: u32; // which lane of its subgroup

struct Sums {
    a: vec4<f32>, b: vec4<f32>, // of row of_32 / 2, columns 8·(of_32 & 1) and up
}

fn sum_of_tiles(a: u32, b: u32, column: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < 4u; j++) {
        sum += dot(vec4<f32>(tiles[a + of_32 / 2u * PITCH + j]), vec4<f32>(tiles[b + column * PITCH + j]));
    }
    return sum;
}

fn multiply_add(a: u32, b: u32, c: Sums) -> Sums {
    var sums = c;
    for (var i = 0u; i < 4u; i++) {
        sums.a[i] += sum_of_tiles(a, b, 8u * (of_32 & 1u) + i);
        sums.b[i] += sum_of_tiles(a, b, 8u * (of_32 & 1u) + 4u + i);
    }
    return sums;
}

fn keep(c: Sums, at: u32) {
    for (var i = 0u; i < 4u; i++) {
        results[at + 16u * (8u * (of_32 & 1u) + i) + of_32 / 2u] = c.a[i];
        results[at + 16u * (8u * (of_32 & 1u) + 4u + i) + of_32 / 2u] = c.b[i];
    }
}
";

/// The kernel without cooperative matrices.
fn emulated(file: &str) -> String {
    let mut text = part(file).text.to_string();
    for (i, tile) in ["w_high", "w_low", "x_high", "x_low"].into_iter().enumerate() {
        let place = format!("area + {}u + ", i as u64 * TILE);
        for role in ["coopLoadT<coop_mat16x16<f16, A>>", "coopLoad<coop_mat16x16<f16, B>>"] {
            text = text.replace(&format!("{role}(&{tile}["), &format!("({place}"));
        }
        text = text.replace(&format!("{tile}["), &format!("tiles[{place}"));
    }
    let tiles = |line: &&str| !(line.starts_with("var<workgroup>") && line.contains("vec4<f16>"));
    text = text.lines().filter(tiles).map(|line| format!("{line}\n")).collect();
    let subgroup = ",\n        @builtin(subgroup_id) subgroup: u32) {\n";
    assert!(text.contains(subgroup), "{file}");
    let own = format!("area = (group.y * {}u + group.x) * {AREA}u;", GROUPS.0);
    let start = format!(") {{\n    let subgroup = index / 32u;\n    of_32 = index & 31u;\n    {own}\n");
    text = text
        .replace(subgroup, &start)
        .replace("], PITCH);", ");")
        .replace("coop_mat16x16<f32, C>()", "Sums()")
        .replace("coopMultiplyAdd(", "multiply_add(")
        .replace("coopStore(", "keep(")
        .replace("&results[own], 16u", "own")
        .replace("    workgroupBarrier();", "    storageBarrier();\n    workgroupBarrier();");
    text + HEADER
}

/// A product of random numbers: the relative error.
async fn error(
    context: &Context,
    codec: &Arc<dyn Codec>,
    (shape, tokens): (Shape, usize),
    spread: Spread,
    add: bool,
    rng: &mut StdRng,
) -> Result<f64> {
    let tuning = Some(Tuning::of_class(context.capabilities()).with(spread));
    let capabilities = Capabilities { tuning, matrix: true, ..context.capabilities().clone() };
    let items = random_items(rng, &**codec, shape);
    // Tokens of very different sizes.
    let value = |i: usize| rng.random_range(-1.0..1.0f32) * 10f32.powi((i / shape.cols) as i32 % 9 - 4);
    let x: Vec<u32> = (0..tokens * shape.cols).map(value).map(f32::to_bits).collect();
    let once = Step { position: 0, tokens: Tokens::Given(vec![0; tokens]), head_first: 0, head_rows: 1 };
    let mut results = Vec::new();
    for device in [Device::Gpu(context.clone()), Device::Cpu] {
        let matrix = Arc::new(device.dense("test", codec.clone(), shape, items.clone())?);
        let source = device.zeros("x", tokens, shape.cols)?;
        let out = device.zeros("y", tokens, shape.rows + 3)?;
        device.write(&source, 0, &x);
        let before = if add { 1e-5f32 } else { 0.0 };
        device.write(&out, 0, &vec![before.to_bits(); tokens * out.cols]);
        let step = device.zeros("step", 1, STEP_HEADER + tokens)?;
        let (int8, permutation, bias, offset) = (false, None, None, 2);
        let (rows, to) = (Rows::Tokens, out.clone());
        let op = Op::Product { rows, matrix, x: source, int8, permutation, bias, out: to, offset, add };
        if let Device::Cpu = device {
            device.run(&device.record(&step, vec![op]).await?, &step, &once)?;
        } else {
            let fused = Fused::One(&op);
            let scratch = GpuBuffer::new(context, "scratch", scratch_bytes(&fused, &capabilities))?;
            let tiles = GpuBuffer::new(context, "tiles", AREA * GROUPS.0 * GROUPS.1 * 8)?;
            let spare = Spare { unused: &context.shared.unused, scratch: &scratch.buffer };
            let mut lowered = lower(&fused, &step, spare, &capabilities)?;
            for dispatch in &mut lowered {
                dispatch.module.enable.retain(|name| *name == "f16");
                if dispatch.module.parts.contains(&"lib/matrix.wgsl") {
                    dispatch.buffers.push((BINDING, &tiles.buffer));
                }
            }
            context.write(step.gpu()?, 0, &[0, tokens as u32, 0, 1]);
            GpuRecording::of(context, lowered).await?.run(context, &once, None)?;
        }
        results.push(device.read(&out, tokens).await?);
    }
    // A token is as good as its own size allows.
    let width = shape.rows + 3;
    let errors = (0..tokens).map(|t| t * width..(t + 1) * width);
    Ok(errors.map(|at| relative_error(&results[0][at.clone()], &results[1][at])).fold(0.0, f64::max))
}

/// Rows and tokens beyond a block, units even and odd, the last one not full.
#[test]
fn products_by_matrix_units_equal_their_twins() {
    let kernels = ["kernels/matmul_matrix.wgsl", "kernels/matmul_f16.wgsl"];
    let shader_overrides: BTreeMap<String, String> =
        kernels.iter().map(|file| (file.to_string(), emulated(file))).collect();
    let mut rng = StdRng::seed_from_u64(9);
    pollster::block_on(async {
        let context =
            Context::open(&Options { shader_overrides, ..Options::default() }).await.expect("a GPU");
        assert!(context.capabilities().f16, "an adapter with f16");
        let [large, odd, small] =
            [(300, 124, 150), (40, 160, 3), (40, 64, 3)].map(|(rows, cols, t)| (Shape { rows, cols }, t));
        // One of each way to halves: what else is a codec's is `decode8`, and these take a compiler seconds.
        let mut ways = Vec::new();
        for (n, codec) in CODECS.iter().filter_map(|family| (family.samples)().into_iter().next()).enumerate()
        {
            let Some(halves) = codec.halves().filter(|halves| !ways.contains(halves)) else { continue };
            ways.push(halves);
            // A software adapter's multiply-adds of f16 are not fused, so that low halves of integers are lost.
            let exact = if halves == "codecs/int_halves.wgsl" { 1e-3 } else { 1e-5 };
            for case in if n == 0 { vec![large, odd] } else { vec![small] } {
                let spreads = [
                    (Spread::Matrix { exact: true }, exact),
                    (Spread::Matrix { exact: false }, 1e-3),
                    (Spread::Single, 1e-3),
                ];
                for (spread, tolerance) in spreads {
                    let add = case == large;
                    let found = error(&context, &codec, case, spread, add, &mut rng).await.expect("it runs");
                    assert!(found < tolerance, "{} {spread:?} {case:?}: {found:.1e}", codec.name());
                }
            }
        }
        assert_eq!(ways.len(), 2, "{ways:?}");
        let used = |kernel: &str| context.shaders().iter().any(|text| text.contains(kernel));
        assert!(
            used("var<workgroup> results: array<f32, 1024>")
                && used("var<workgroup> results: array<f32, 2048>")
        );
    });
}
