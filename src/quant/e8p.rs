//! QuIP#'s E8P12: 16 bits for 8 weights, a point of the E8 lattice shifted by ±¼ (QuIP# §4).
//!
//! The high byte of a code is a row of 256 vectors `v` of half-odd values whose sum is even; the low byte holds
//! signs `s`. Dimension i takes bit `p = [0, 4, 1, 5, 2, 6, 3, 7][i]`: even dimensions the low four bits, odd ones
//! the high four. An odd number of bits asks for the other shift, and flips bit 0 to become even:
//!
//! `par = s₀ ⊕ … ⊕ s₇;  s' = s ⊕ par;  w_i = (1 − 2 s'_p) · v_i + (par ? −¼ : ¼)`
//!
//! Scales belong to the layer's output transform; there is none in here. Columns past the end of a row decode
//! to something other than zero, so a product has to pad its activations with zeros.

use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use std::any::Any;
use std::sync::{Arc, LazyLock};

/// E8P12.
pub static FAMILY: Family = Family {
    name: "e8p12",
    about: "2-bit lattice codes, 16 bits for 8 weights (QuIP#)",
    wgsl: &["codecs/e8p12.wgsl"],
    samples: || vec![E8p12::new()],
};

/// The codec; it has no parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct E8p12;

/// Where the 0.5s are in the 29 rows of norm 12, one octal digit a dimension; the other five are 1.5.
const NORM_12: [u32; 29] = [
    0o123, 0o023, 0o013, 0o012, 0o367, 0o357, 0o347, 0o356, 0o346, 0o345, 0o267, 0o257, 0o247, 0o256, 0o246,
    0o245, 0o167, 0o157, 0o147, 0o156, 0o146, 0o045, 0o067, 0o057, 0o047, 0o056, 0o046, 0o014, 0o237,
];

/// The 256 rows: nibble i = 2 v_i + 8.
static ROWS: LazyLock<[u32; 256]> = LazyLock::new(|| {
    // 2v of {½, 1½, 2½, 3½}⁸ in lexicographic order, |v|² ≤ 10.
    let short = (0..1u32 << 16)
        .map(|i| std::array::from_fn(|d| 2 * (i >> (14 - 2 * d) & 3) as i32 + 1))
        .filter(|v: &[i32; 8]| v.iter().map(|v| v * v).sum::<i32>() <= 40);
    let norm_12 = NORM_12.iter().map(|&dims| {
        let mut v = [3; 8];
        (0..3).for_each(|i| v[(dims >> (3 * i) & 7) as usize] = 1);
        v
    });
    let mut rows = [0; 256];
    for (row, mut v) in rows.iter_mut().zip(short.chain(norm_12)) {
        // v sums to an even number where 2v sums to a multiple of 4.
        if v.iter().sum::<i32>() % 4 != 0 {
            v[7] = -v[7];
        }
        *row = (0..8).fold(0, |word, d| word | ((v[d] + 8) as u32) << (4 * d));
    }
    rows
});

/// The weights of one code; the shader does the same four dimensions at a time.
pub fn decode(code: u16) -> [f32; 8] {
    let row = ROWS[code as usize >> 8];
    let parity = (code & 0xff).count_ones() as u16 & 1;
    let signs = code ^ parity;
    let shift = if parity == 0 { 0.25 } else { -0.25 };
    std::array::from_fn(|d| {
        let v = ((row >> (4 * d) & 15) as f32 - 8.0) / 2.0;
        let bit = d / 2 + d % 2 * 4;
        (if signs >> bit & 1 == 0 { v } else { -v }) + shift
    })
}

impl E8p12 {
    /// The codec.
    pub fn new() -> Arc<Self> {
        Arc::new(Self)
    }
}

impl Codec for E8p12 {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        "e8p12".into()
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field { name: "codes", kind: Kind::Code(16), run: 8 }]
    }

    fn sections(&self) -> Vec<Section> {
        vec![Section { binding: 0, field: 0, shift: 0, bits: 16, cell: 4 }]
    }

    /// The 256 rows, a nibble a dimension: 2 v_i + 8.
    fn codebook(&self) -> &'static [u32] {
        &*ROWS
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(8).enumerate() {
            let weights = decode(packed.item(0, row, i) as u16);
            out.copy_from_slice(&weights[..out.len()]);
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Self::new() as _)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::hadamard::Plan;
    use super::super::testing::{Tensors, shared};
    use super::super::{Extent, Piece, Shape};
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::HashSet;

    /// The rows as QuIP# packs them: nibble p holds dimension [0, 2, 4, 6, 1, 3, 5, 7][p].
    fn published_row(row: usize) -> u32 {
        let nibble = |(p, d): (usize, &usize)| (ROWS[row] >> (4 * d) & 15) << (4 * p);
        [0, 2, 4, 6, 1, 3, 5, 7].iter().enumerate().map(nibble).sum()
    }

    #[test]
    fn rows_are_the_published_ones() {
        assert_eq!((published_row(0), published_row(1)), (0x9999_9999, 0x5999_9999));
        let norm = |row: u32| (0..8).map(|d| ((row >> (4 * d) & 15) as i32 - 8).pow(2)).sum::<i32>() / 4;
        let count = |n: i32| ROWS.iter().filter(|&&row| norm(row) == n).count();
        assert_eq!([2, 4, 6, 8, 10, 12].map(count), [1, 8, 28, 64, 126, 29]);
        assert!(ROWS[227..].iter().all(|&row| norm(row) == 12));
    }

    /// All 65536 codes: the published formula on the published table, distinct points, even sums.
    #[test]
    fn every_code_decodes() {
        let mut seen = HashSet::new();
        for code in 0..=u16::MAX {
            let weights = decode(code);
            let (row, s) = (published_row(code as usize >> 8), code as u32 & 255);
            let parity = s.count_ones() & 1;
            let s = s ^ parity;
            let shift = 0.25 - 0.5 * parity as f32;
            for (p, d) in [0, 2, 4, 6, 1, 3, 5, 7].into_iter().enumerate() {
                let v = ((row >> (4 * p) & 15) as f32 - 8.0) / 2.0;
                assert_eq!(weights[d], (1.0 - 2.0 * (s >> p & 1) as f32) * v + shift, "{code:#06x}[{d}]");
            }
            assert_eq!(weights.iter().map(|w| w - shift).sum::<f32>() % 2.0, 0.0, "{code:#06x}");
            assert!(seen.insert(weights.map(f32::to_bits)), "{code:#06x} is a duplicate");
        }
    }

    /// What four dimensions at a time in a word give is what one at a time gives.
    #[test]
    fn the_shaders_arithmetic_is_exact() {
        let spread = |bits: u32| bits.wrapping_mul(0x0020_4081) & 0x0101_0101;
        for code in 0..=u16::MAX {
            let (row, signs) = (ROWS[code as usize >> 8], code as u32 & 0xff);
            let odd = signs.count_ones() & 1;
            let (low, high) = (spread((signs ^ odd) & 15), spread(signs >> 4));
            let even_dims = ((row & 0x0f0f_0f0f) ^ (low * 15)) + low;
            let odd_dims = ((row >> 4 & 0x0f0f_0f0f) ^ (high * 15)) + high;
            for (d, weight) in decode(code).into_iter().enumerate() {
                let byte = if d % 2 == 0 { even_dims } else { odd_dims }.to_le_bytes()[d / 2];
                assert_eq!(byte as f32 * 0.5 - 3.75 - 0.5 * odd as f32, weight, "{code:#06x}[{d}]");
            }
        }
    }

    /// Nearest points to Gaussian vectors at the optimal scale: the published distortion.
    #[test]
    fn the_distortion_is_the_published_one() {
        let points: Vec<[f32; 8]> = (0..=u16::MAX).map(decode).collect();
        let mut rng = StdRng::seed_from_u64(8);
        let mut gauss = || {
            let (radius, angle) =
                (rng.random_range(1e-9f32..1.0), rng.random_range(0.0..std::f32::consts::TAU));
            (-2.0 * radius.ln()).sqrt() * angle.cos()
        };
        let (samples, scale) = (800, 1.03f32);
        let mut sum = 0.0;
        for _ in 0..samples {
            let x: [f32; 8] = std::array::from_fn(|_| gauss() * scale);
            let distance = |point: &[f32; 8]| -> f32 { (0..8).map(|d| (point[d] - x[d]).powi(2)).sum() };
            sum += points.iter().map(distance).fold(f32::MAX, f32::min) / 8.0;
        }
        let error = sum / samples as f32 / (scale * scale);
        assert!((error - 0.0918).abs() < 0.006, "{error}");
    }

    /// The codes of a stored plane, row-major: undoes QuIP#'s 16 × 64 tile order.
    fn untile(bytes: &[u8], rows: usize, cols: usize) -> Vec<u32> {
        let code = |i: usize| {
            let (r, c) = (i / (cols / 8), i % (cols / 8));
            let (t, byte) = (c / 2, r % 2 + 2 * (c % 2));
            let tile = r / 16 * (cols / 64) + t / 4;
            let lane = (r % 16) / 2 * 4 + t % 4;
            let at = (tile * 32 + lane) * 8;
            let word = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let signs = (0..8).fold(0, |s, p| s | (word >> (32 + 4 * p + byte) & 1) << p);
            ((word >> (8 * byte) & 255) << 8 | signs) as u32
        };
        (0..rows * cols / 8).map(code).collect()
    }

    const FIXTURE: &str = "fixtures/tinystories-656k/quip-e8p12";

    /// A fixture's stored matrix, packed.
    fn stored(tensors: &Tensors, module: &str) -> Packed {
        let qidxs = format!("{module}.Qidxs");
        let (rows, cols) = (tensors.shape(&qidxs)[0], tensors.shape(&qidxs)[1] * 32);
        let mut packed = Packed::new(E8p12::new(), Shape { rows, cols });
        let items = vec![untile(tensors.bytes(&qidxs), rows, cols)];
        packed.write_piece(&Piece { extent: Extent { rows: 0..rows, cols: 0..cols }, items });
        packed
    }

    #[test]
    fn the_fixtures_codewords_decode() {
        let Some(tensors) = Tensors::open(&format!("{FIXTURE}/model.safetensors")) else { return };
        let Some(golden) = shared(&format!("{FIXTURE}/golden.json")) else { return };
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let golden = golden["codewords_first16_of_row0"].as_object().unwrap();
        assert!(!golden.is_empty());
        for (name, expected) in golden {
            let packed = stored(&tensors, name.strip_suffix(".What_first16").unwrap());
            let mut row = vec![0.0; packed.shape.cols];
            packed.decode_row(0, &mut row);
            let expected: Vec<f32> =
                expected.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
            assert_eq!(row[..16], expected, "{name}");
        }
    }

    /// diag(SV) · Had_N · Ŵ · Had_Kᵀ · diag(SU), cut into the layers' own matrices, is the golden one.
    #[test]
    fn the_fixtures_matrices_come_back() {
        let Some(tensors) = Tensors::open(&format!("{FIXTURE}/model.safetensors")) else { return };
        let Some(golden) = Tensors::open(&format!("{FIXTURE}/golden_weights.safetensors")) else { return };
        let modules: [(&str, &[&str]); 4] = [
            ("self_attn.qkv_proj", &["q", "k", "v"]),
            ("self_attn.o_proj", &["o"]),
            ("mlp.upgate_proj", &["up", "gate"]),
            ("mlp.down_proj", &["down"]),
        ];
        for (module, slices) in modules {
            let name = format!("model.layers.1.{module}");
            let packed = stored(&tensors, &name);
            let Shape { rows, cols } = packed.shape;
            let (input, output) = (Plan::new(cols, false).unwrap(), Plan::new(rows, false).unwrap());
            // Columns of Ŵ · Had_Kᵀ: its rows are Had_K · ŵ.
            let mut turned = vec![0.0; rows * cols];
            for row in 0..rows {
                let mut weights = vec![0.0; cols];
                packed.decode_row(row, &mut weights);
                input.apply(&mut weights);
                weights.iter().enumerate().for_each(|(col, w)| turned[col * rows + row] = *w);
            }
            output.apply(&mut turned);
            let part = |part: &str| tensors.floats(&format!("{name}.{part}"));
            let (su, sv, wscale) = (part("SU"), part("SV"), part("Wscale")[0]);
            let fuse_scales = if slices.len() > 1 { part("fuse_scales") } else { vec![1.0] };
            let mut first = 0;
            for (slice, fuse_scale) in slices.iter().zip(fuse_scales) {
                let group = module.split('.').next().unwrap();
                let name = format!("model.layers.1.{group}.{slice}_proj.weight");
                assert!(golden.has(&name), "{name}");
                let mut worst = 0f64;
                for (i, expected) in golden.floats(&name).into_iter().enumerate() {
                    let (row, col) = (first + i / cols, i % cols);
                    let found = turned[col * rows + row] as f64 * su[col] * sv[row] * wscale * fuse_scale;
                    worst = worst.max((found - expected).abs());
                }
                first += golden.shape(&name)[0];
                assert!(worst < 1e-6, "{name}: off by {worst}");
            }
            assert_eq!(first, rows);
        }
    }

    #[test]
    fn the_shader_part_is_valid() {
        let stub = "
            @group(0) @binding(4) var<storage, read_write> y: array<f32>;
            @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {
                prepare(lane, 64u);
                workgroupBarrier();
                let w = decode8(lane, 1u);
                let x = X32(w.a, w.b, w.a, w.b, w.a, w.b, w.a, w.b);
                y[lane] = dot32(lane, 0u, x);
            }
        ";
        let product = include_str!("../../shaders/lib/product.wgsl");
        let codec = include_str!("../../shaders/codecs/e8p12.wgsl");
        let source = format!("{stub}{product}{codec}");
        let module = naga::front::wgsl::parse_str(&source).map_err(|e| e.emit_to_string(&source)).unwrap();
        let (flags, floor) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
        naga::valid::Validator::new(flags, floor).validate(&module).unwrap();
    }
}
