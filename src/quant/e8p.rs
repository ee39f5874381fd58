//! QuIP#'s E8P12: 16 bits for 8 weights, a point of the E8 lattice shifted by ±¼ (QuIP# §4).
//!
//! The high byte of a code is a row of 256 vectors `v` of half-odd values whose sum is even; the low byte holds
//! signs `s`. Dimension i takes bit `p = [0, 4, 1, 5, 2, 6, 3, 7][i]`: even dimensions the low four bits, odd ones
//! the high four. An odd number of bits asks for the other shift, and flips bit 0 to become even:
//!
//! `par = s₀ ⊕ … ⊕ s₇;  s' = s ⊕ par;  w_i = (1 − 2 s'_p) · v_i + (par ? −¼ : ¼)`
//!
//! For 3 and 4 bits a residual code follows for the same weights: `w + r / 2.04`, r one of 256 points around the
//! origin of E8, or `w + r / 3.45`, r another E8P12 point.
//!
//! Scales belong to the layer's output transform; there is none in here. Columns past the end of a row decode
//! to something other than zero, so a product has to pad its activations with zeros.

use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use std::any::Any;
use std::sync::{Arc, LazyLock};

/// E8P12, alone or with a residual plane.
pub static FAMILY: Family = Family {
    name: "e8p12",
    about: "2-bit lattice codes, 16 bits for 8 weights, with residual codes for 3 and 4 bits (QuIP#)",
    wgsl: &["codecs/e8p12.wgsl", "lib/nibbles.wgsl"],
    samples: || {
        let residuals = [None, Some(Residual::RVQ3B), Some(Residual::RVQ4B)];
        residuals.into_iter().map(|residual| E8p12::new(residual) as _).collect()
    },
};

/// The codec: `w = E8P12(code)`, plus `plane(residual code) / divisor`.
#[derive(Debug, Clone, PartialEq)]
pub struct E8p12 {
    residual: Option<Residual>,
}

/// A second code for the same 8 weights, which corrects the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residual {
    /// What it means.
    pub plane: Plane,
    /// What its points are divided by.
    pub divisor: f64,
}

/// How a residual is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// 8 bits: the 241 points of E8 with |v|² ≤ 2 and 15 of the ±2e_i.
    E8,
    /// 16 bits: E8P12 once more.
    E8p12,
}

impl Residual {
    /// Of E8P12RVQ3B.
    pub const RVQ3B: Self = Self { plane: Plane::E8, divisor: 2.04 };
    /// Of E8P12RVQ4B.
    pub const RVQ4B: Self = Self { plane: Plane::E8p12, divisor: 3.45 };

    fn bits(&self) -> u32 {
        match self.plane {
            Plane::E8 => 8,
            Plane::E8p12 => 16,
        }
    }
}

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

/// What shaders look up: words of eight nibbles q, dimension d in nibble d / 4 of byte d % 4. The word of a row and that
/// of a byte of signs (256 each) make the weights q/2 − 3¾ by exclusive or: a row's nibbles are even, and turning the
/// upper three bits of one negates what the lowest, the shift, is added to. 256 points of the 8-bit plane follow, q/2 − 4.
static WORDS: LazyLock<[u32; 768]> = LazyLock::new(|| {
    let word =
        |nibble: &dyn Fn(usize) -> u32| (0..8).fold(0, |word, d| word | nibble(d) << (d % 4 * 8 + d / 4 * 4));
    std::array::from_fn(|i| match (i / 256, i % 256) {
        (0, row) => word(&|d| (ROWS[row] >> (4 * d) & 15) - 1),
        (1, signs) => {
            let odd = signs.count_ones() & 1;
            word(&|d| (1 - odd) | if negative(signs as u32 ^ odd, d) { 14 } else { 0 })
        }
        (_, point) => word(&|d| E8_ROWS[point] >> (4 * d) & 15),
    })
});

/// The 256 points of the 8-bit plane, in the same form: integers in lexicographic order, halves likewise, then 2e_i
/// and −2e_i but for the last.
static E8_ROWS: LazyLock<[u32; 256]> = LazyLock::new(|| {
    let row = |doubled: [i32; 8]| (0..8).fold(0, |row, d| row | ((doubled[d] + 8) as u32) << (4 * d));
    // 2v of {−1, 0, 1}⁸ and of {−½, ½}⁸; sums of v are even.
    let integers =
        (0..3i32.pow(8)).map(|i| std::array::from_fn(|d| 2 * (i / 3i32.pow(7 - d as u32) % 3 - 1)));
    let halves = (0..1 << 8).map(|i| std::array::from_fn(|d| 2 * (i >> (7 - d) & 1) - 1));
    let short = integers
        .chain(halves)
        .filter(|v: &[i32; 8]| v.iter().map(|v| v * v).sum::<i32>() <= 8 && v.iter().sum::<i32>() % 4 == 0);
    let axes = (0..15).map(|i| std::array::from_fn(|d| if d == i % 8 { 4 - i as i32 / 8 * 8 } else { 0 }));
    let mut rows = [0; 256];
    rows.iter_mut().zip(short.chain(axes)).for_each(|(to, from)| *to = row(from));
    rows
});

/// Whether signs turn a dimension.
fn negative(signs: u32, dimension: usize) -> bool {
    signs >> (dimension / 2 + dimension % 2 * 4) & 1 == 1
}

/// The point of a code of the 8-bit plane.
pub fn decode_e8(code: u8) -> [f32; 8] {
    std::array::from_fn(|d| ((E8_ROWS[code as usize] >> (4 * d) & 15) as f32 - 8.0) / 2.0)
}

/// The weights of one code.
pub fn decode(code: u16) -> [f32; 8] {
    let row = ROWS[code as usize >> 8];
    let parity = (code & 0xff).count_ones() as u16 & 1;
    let signs = code ^ parity;
    let shift = if parity == 0 { 0.25 } else { -0.25 };
    std::array::from_fn(|d| {
        let v = ((row >> (4 * d) & 15) as f32 - 8.0) / 2.0;
        (if negative(signs.into(), d) { -v } else { v }) + shift
    })
}

impl E8p12 {
    /// E8P12, corrected by a residual if there is one.
    pub fn new(residual: Option<Residual>) -> Arc<Self> {
        Arc::new(Self { residual })
    }

    /// What corrects the first code.
    pub fn residual(&self) -> Option<Residual> {
        self.residual
    }

    fn residual_bits(&self) -> u32 {
        self.residual.map_or(0, |residual| residual.bits())
    }
}

impl Codec for E8p12 {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        match self.residual {
            None => "e8p12".into(),
            Some(Residual { plane: Plane::E8, divisor }) => format!("e8p12 + e8/{divisor}"),
            Some(Residual { plane: Plane::E8p12, divisor }) => format!("e8p12 + e8p12/{divisor}"),
        }
    }

    /// The residual's code stands above the first.
    fn fields(&self) -> Vec<Field> {
        vec![Field::new("codes", Kind::Code(16 + self.residual_bits()), 8)]
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section { binding: 0, field: 0, shift: 0, bits: 16, cell: 4 }];
        if let Some(residual) = self.residual {
            sections.push(Section { binding: 0, field: 0, shift: 16, bits: residual.bits(), cell: 4 });
        }
        sections
    }

    /// [`WORDS`], those of the 8-bit plane where they are needed.
    fn codebook(&self) -> &'static [u32] {
        match self.residual {
            Some(Residual { plane: Plane::E8, .. }) => &*WORDS,
            _ => &WORDS[..512],
        }
    }

    fn fixed(&self) -> Option<&'static [&'static str]> {
        Some(&["codecs/e8p12_fixed.wgsl", "lib/ungrouped.wgsl"])
    }

    fn fixed_dot(&self) -> Option<&'static str> {
        self.residual.is_some().then_some("codecs/e8p12_fixed_dot.wgsl")
    }

    fn workgroup_bytes(&self) -> u32 {
        4 * self.codebook().len() as u32
    }

    fn is_light(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let factor = self.residual.map_or(0.0, |residual| 1.0 / residual.divisor) as f32;
        vec![
            ("RESIDUAL_BITS", self.residual_bits()),
            ("RESIDUAL_FACTOR", factor.to_bits()),
            ("TABLE_WORDS", self.codebook().len() as u32),
        ]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(8).enumerate() {
            let weights = decode(packed.item(0, row, i) as u16);
            out.copy_from_slice(&weights[..out.len()]);
            let Some(Residual { plane, divisor }) = self.residual else { continue };
            let residual = match (plane, packed.item(1, row, i)) {
                (Plane::E8, code) => decode_e8(code as u8),
                (Plane::E8p12, code) => decode(code as u16),
            };
            for (w, r) in out.iter_mut().zip(residual) {
                *w = (f64::from(*w) + f64::from(r) / divisor) as f32;
            }
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Arc::new(self.clone()) as _)
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

    #[test]
    fn the_8_bit_plane_is_around_the_origin() {
        let points: Vec<[f32; 8]> = (0..=255).map(decode_e8).collect();
        let norm = |v: &[f32; 8]| v.iter().map(|v| v * v).sum::<f32>();
        let count = |n: f32| points.iter().filter(|v| norm(v) == n).count();
        assert_eq!([0.0, 2.0, 4.0].map(count), [1, 112 + 128, 15]);
        assert!(points.iter().all(|v| v.iter().sum::<f32>() % 2.0 == 0.0));
        assert_eq!(points.iter().map(|v| v.map(f32::to_bits)).collect::<HashSet<_>>().len(), 256);
        assert_eq!((points[0], points[56]), ([-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0; 8]));
        assert_eq!(points[113], [-0.5; 8]);
        assert_eq!((points[241][0], points[248][7], points[249][0], points[255][6]), (2.0, 2.0, -2.0, -2.0));
    }

    #[test]
    fn residuals_are_added() {
        for (residual, points) in [(Residual::RVQ3B, decode_e8(7)), (Residual::RVQ4B, decode(7))] {
            let codec = E8p12::new(Some(residual));
            let mut packed = Packed::new(codec, Shape { rows: 1, cols: 16 });
            let items = vec![vec![7 << 16, 7 << 16 | 0x1234]];
            packed.write_piece(&Piece { extent: Extent { rows: 0..1, cols: 0..16 }, items });
            let mut row = [0.0; 16];
            packed.decode_row(0, &mut row);
            for d in 0..8 {
                let wanted = f64::from(decode(0x1234)[d]) + f64::from(points[d]) / residual.divisor;
                assert_eq!(row[8 + d], wanted as f32);
            }
        }
    }

    /// Two words of the shader's and an exclusive or give what one dimension at a time gives.
    #[test]
    fn the_shaders_words_are_exact() {
        let nibble = |word: u32, d: usize| (word >> (d % 4 * 8 + d / 4 * 4) & 15) as f32;
        for code in 0..=u16::MAX {
            let word = WORDS[code as usize >> 8] ^ WORDS[256 + (code as usize & 255)];
            for (d, weight) in decode(code).into_iter().enumerate() {
                assert_eq!(nibble(word, d) * 0.5 - 3.75, weight, "{code:#06x}[{d}]");
            }
        }
        for code in 0..=255 {
            let word = WORDS[512 + code as usize];
            assert_eq!(decode_e8(code), std::array::from_fn(|d| nibble(word, d) * 0.5 - 4.0), "{code:#04x}");
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
        let mut packed = Packed::new(E8p12::new(None), Shape { rows, cols });
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
}
