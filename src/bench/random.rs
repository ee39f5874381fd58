//! Random weights of a real model's shape: for the speed of a codec on an adapter the values do not matter.
//!
//! A matrix consists of eight random tiles of rows, again and again: they are drawn and packed once for all
//! matrices of one width, so that making a model of 70 billion weights takes as long as writing it to the GPU. Codes are
//! uniform; scales are such that a product of numbers of size 1 gives numbers of about size 1, as training does it.

use super::shapes::ShapeSpec;
use crate::checkpoint::tensor::Grid;
use crate::checkpoint::{
    BoxFuture, InputTransform, OutputTransform, PieceSource, Slice, StoredMatrix, Weights, module_shape,
};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, QkNorms, architecture};
use crate::quant::e8p::E8p12;
use crate::quant::hadamard::Form;
use crate::quant::hyb;
use crate::quant::int::{Int, Offset};
use crate::quant::lookup::{Lookup, NF4, Nested, Scales};
use crate::quant::mixed::{Mixed, Segment};
use crate::quant::plain::Plain;
use crate::quant::trellis::{Codebook, Order, Trellis};
use crate::quant::vectors::{Sizes, Vectors};
use crate::quant::{
    CODECS, Codec, Extent, Field, Kind, Packed, Piece, Shape, TILE_ROWS, Tiles, UNIT, WHOLE_ROW,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

/// Random tiles of a matrix before they repeat.
const TILES: usize = 8;

/// A short name for how people code whole models.
pub struct Scheme {
    /// What `--codec` names.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// The codec of a matrix of `[rows, cols]`.
    codec: fn(Shape) -> Result<Arc<dyn Codec>>,
    extent: Reach,
}

/// What of a model a scheme codes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The layers; embedding and head are f16, as in a Hugging Face folder.
    Layers,
    /// Embedding and head too, as in a GGUF file.
    Everything,
    /// The layers, with Hadamard transforms on both sides: of blocks of this size (EXL3) or whole.
    Rotated(Option<usize>),
    /// The same, whole, of modules fused as QuIP# does it.
    Incoherent,
    /// The layers, their inputs in another order, the same for all that read them, as EXL2 does it.
    Permuted,
}

impl Reach {
    /// Of the transforms on both sides, if there are such.
    fn form(self) -> Option<Form> {
        match self {
            Reach::Rotated(Some(block)) => Some(Form::Blocks(block)),
            Reach::Rotated(None) | Reach::Incoherent => Some(Form::Whole),
            _ => None,
        }
    }
}

/// Short names for what people run. Every other codec goes by the name that `inspect` prints, with `-` for spaces.
#[rustfmt::skip]
pub static SCHEMES: &[Scheme] = &[
    Scheme { name: "q4_0", about: "GGUF Q4_0: int4, blocks of 32", extent: Reach::Everything,
        codec: |_| Ok(Int::new(4, 32, Kind::F16, Offset::Symmetric(8))?) },
    Scheme { name: "q4_1", about: "GGUF Q4_1: int4 with minima, blocks of 32", extent: Reach::Everything,
        codec: |_| Ok(Int::new(4, 32, Kind::F16, Offset::Min)?) },
    Scheme { name: "q8_0", about: "GGUF Q8_0: int8, blocks of 32", extent: Reach::Everything,
        codec: |_| Ok(Int::new(8, 32, Kind::F16, Offset::Symmetric(128))?) },
    Scheme { name: "int4-g128", about: "GPTQ, AWQ: int4 with zero points, groups of 128", extent: Reach::Layers,
        codec: |_| Ok(Int::new(4, 128, Kind::F16, Offset::Zero)?) },
    Scheme { name: "int8", about: "int8, one scale a row", extent: Reach::Layers,
        codec: |_| Ok(Int::new(8, WHOLE_ROW, Kind::F32, Offset::Symmetric(128))?) },
    Scheme { name: "nf4", about: "bitsandbytes NF4, blocks of 64", extent: Reach::Layers,
        codec: |_| Ok(Lookup::new("nf4", NF4, 64, Scales::Float(Kind::F32))?) },
    Scheme { name: "nf4-dq", about: "NF4 with double quantization (QLoRA)", extent: Reach::Layers,
        codec: double_nf4 },
    Scheme { name: "e8p12", about: "QuIP#: 2 bits, Hadamard transforms on both sides", extent: Reach::Incoherent,
        codec: |_| Ok(E8p12::new(None)) },
    Scheme { name: "e8p12-plain", about: "the same without the transforms", extent: Reach::Layers,
        codec: |_| Ok(E8p12::new(None)) },
    Scheme { name: "exl3-4", about: "EXL3: 4 bits, Hadamard transforms of 128 on both sides", extent: Reach::Rotated(Some(128)),
        codec: |_| Ok(Trellis::new(4, Codebook::Mul1, Order::Lanes)?) },
    Scheme { name: "qtip-2", about: "QTIP HYB: 2 bits, Hadamard transforms on both sides", extent: Reach::Rotated(None),
        codec: hybrid },
    Scheme { name: "exl2-4", about: "EXL2: 4 bits on average, 5, 4 and 3 in a row", extent: Reach::Permuted,
        codec: mixed_integers },
    Scheme { name: "vptq-3", about: "VPTQ: 8 outputs of 2^16 vectors and 2^8 residuals, 3 bits", extent: Reach::Layers,
        codec: learned_vectors },
    Scheme { name: "f32", about: "unquantized f32", extent: Reach::Everything, codec: |_| Ok(Plain::new(Kind::F32)) },
    Scheme { name: "f16", about: "unquantized f16", extent: Reach::Everything, codec: |_| Ok(Plain::new(Kind::F16)) },
    Scheme { name: "bf16", about: "unquantized bf16", extent: Reach::Everything, codec: |_| Ok(Plain::new(Kind::Bf16)) },
];

/// NF4 whose scales are bytes, in blocks of 256 over the flattened matrix.
fn double_nf4(shape: Shape) -> Result<Arc<dyn Codec>> {
    let map = (0..256).map(|i| (i as f32 - 127.0) / 128.0).collect();
    let scale = 1.8 / (shape.cols as f32).sqrt(); // NF4's levels have a root mean square of 0.55
    let blocks = shape.rows * shape.cols.div_ceil(64);
    let absmax = (0..blocks.div_ceil(256)).map(|i| scale * (0.2 + (i % 7) as f32 / 64.0)).collect();
    let nested = Nested { map, absmax, offset: scale, block: 256 };
    Ok(Lookup::new("nf4", NF4, 64, Scales::Nested(vec![(shape.rows, nested)]))?)
}

/// An eighth of a row at 5 bits, an eighth at 3, the rest at 4; groups of 128 where they fit.
fn mixed_integers(shape: Shape) -> Result<Arc<dyn Codec>> {
    let units = shape.cols.div_ceil(UNIT);
    let group = if units.is_multiple_of(4) { 4 } else { 1 };
    let eighth = units / 8 / group * group;
    let segments = [(5, eighth), (4, units - 2 * eighth), (3, eighth)];
    let segments = segments.map(|(bits, units)| Segment { bits, units, group });
    let segments: Vec<Segment> = segments.into_iter().filter(|segment| segment.units > 0).collect();
    // Codes of b bits have a root mean square of 2^b / √12, the squares of 1…16 over 256 one of 0.48.
    let max = |s: &Segment| 12f32.sqrt() / (0.48 * (1 << s.bits) as f32 * (shape.cols as f32).sqrt());
    let groups = segments.iter().flat_map(|s| std::iter::repeat_n(max(s), s.units / s.group)).collect();
    Ok(Mixed::new(&segments, groups)?)
}

/// 2 bits, with the table of the codec's tests.
fn hybrid(_: Shape) -> Result<Arc<dyn Codec>> {
    let found = (hyb::FAMILY.samples)().into_iter().next();
    found.ok_or_else(|| Error::missing("sample of a hybrid code"))
}

/// `v8-k65536-256` in VPTQ's names; all matrices have the same codebooks.
fn learned_vectors(shape: Shape) -> Result<Arc<dyn Codec>> {
    static VALUES: LazyLock<Vec<u16>> = LazyLock::new(|| {
        let mut rng = StdRng::seed_from_u64(VECTORS.vectors() as u64);
        let mut number = |size: f32| half::f16::from_f32(size * rng.random_range(-1.0..1.0f32)).to_bits();
        let mut values: Vec<u16> = (0..VECTORS.length << VECTORS.bits).map(|_| number(1.7)).collect();
        values.extend((0..VECTORS.length << VECTORS.residual_bits).map(|_| number(0.3)));
        values
    });
    let scale = half::f16::from_f32(1.0 / (shape.cols as f32).sqrt()).to_bits();
    Ok(Vectors::new(VECTORS, Kind::F16, &vec![[scale, 0]; shape.cols], &VALUES)?)
}

const VECTORS: Sizes = Sizes { bits: 16, residual_bits: 8, length: 8 };

/// Members of the codec families that can be had for any matrix.
fn samples() -> impl Iterator<Item = Arc<dyn Codec>> {
    CODECS.iter().flat_map(|family| (family.samples)()).filter(|codec| !codec.tied_to_shape())
}

fn spelled(codec: &Arc<dyn Codec>) -> String {
    codec.name().replace(' ', "-")
}

/// All that `--codec` may name: [`SCHEMES`], then members of the codec families.
pub fn codec_names() -> Vec<String> {
    let mut names: Vec<String> = SCHEMES.iter().map(|s| s.name.into()).collect();
    for name in samples().map(|codec| spelled(&codec)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

type Make = Box<dyn Fn(Shape) -> Result<Arc<dyn Codec>> + Send + Sync>;

/// Random tiles of one codec and width.
struct Pool {
    items: Vec<Vec<u32>>, // of each field, row-major
    tiles: Arc<Vec<Packed>>,
    gain: f32, // what brings products to size 1 and is in no scale
}

/// A model of random weights, called by its shape and codec: `llama-2-7b q4_0`.
pub struct RandomModel {
    name: String,
    codec_name: String,
    config: ModelConfig,
    make: Make,
    reach: Reach,
    pools: Mutex<BTreeMap<(String, usize), Arc<Pool>>>,
}

impl RandomModel {
    /// Of a shape in [`super::shapes::SHAPES`], coded as `codec` names; see [`codec_names`].
    pub fn new(shape: &ShapeSpec, codec: &str) -> Result<Self> {
        let wanted = codec.to_lowercase().replace(' ', "-");
        let (make, reach): (Make, _) = if let Some(s) = SCHEMES.iter().find(|s| s.name == wanted) {
            (Box::new(s.codec), s.extent)
        } else if let Some(sample) = samples().find(|codec| spelled(codec) == wanted) {
            (Box::new(move |_| Ok(sample.clone())), Reach::Layers)
        } else {
            let known = codec_names().join(", ");
            return Err(Error::invalid("unknown codec").expected(known).found(codec));
        };
        let (name, config) = (format!("{} {wanted}", shape.name), shape.config());
        Ok(Self { name, codec_name: wanted, config, make, reach, pools: Mutex::default() })
    }

    fn pool(&self, codec: &Arc<dyn Codec>, cols: usize) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(|p| p.into_inner());
        pools.entry((codec.name(), cols)).or_insert_with(|| Arc::new(Pool::new(codec, cols))).clone()
    }

    fn module(&self, name: &str, parts: &[&str]) -> Result<StoredMatrix> {
        let (mut rows, mut cols, mut slices) = (0, 0, Vec::new());
        for part in parts {
            let unknown = || Error::invalid(format!("the model has no module {part}"));
            let (high, wide) = module_shape(&self.config, part).ok_or_else(unknown)?;
            slices.push(Slice { name: part.to_string(), rows: rows..rows + high });
            (rows, cols) = (rows + high, wide);
        }
        let shape = Shape { rows, cols };
        let in_layer = name.starts_with("model.layers.");
        let codec = if in_layer || self.reach == Reach::Everything {
            (self.make)(shape)?
        } else {
            Plain::new(Kind::F16)
        };
        let pool = self.pool(&codec, cols);
        let mut rng =
            StdRng::seed_from_u64(name.bytes().fold(7, |hash, b| hash * 31 % 1_000_003 + u64::from(b)));
        let (mut input, mut output) = (InputTransform::None, OutputTransform::None);
        if let Some(form) = self.reach.form().filter(|_| in_layer) {
            for size in [rows, cols] {
                form.plan(size, false).map_err(|e| e.tensor(name))?;
            }
            let mut signs = |count, size: f32| {
                (0..count).map(|_| if rng.random() { size } else { -size }).collect::<Vec<f32>>()
            };
            input = InputTransform::Hadamard { signs: signs(cols, 1.0), form: form.clone() };
            output = OutputTransform::Hadamard { signs: signs(rows, pool.gain), form };
        }
        if in_layer && self.reach == Reach::Permuted {
            let mut order: Vec<u32> = (0..cols as u32).collect();
            order.shuffle(&mut StdRng::seed_from_u64(cols as u64));
            input = InputTransform::Permute(order);
        }
        let first = rng.random_range(0..TILES);
        let tiles = Tiles { tiles: pool.tiles.clone(), first };
        let disk_bytes = shape.packed_bytes(&*codec);
        let data = Arc::new(Repeated { codec: codec.clone(), shape, pool, tiles });
        let name = name.to_string();
        Ok(StoredMatrix {
            name,
            rows,
            cols,
            codec,
            input,
            output,
            activations: None,
            low_rank: None,
            slices,
            bias: None,
            sparse: None,
            data,
            disk_bytes,
            format: "random",
        })
    }

    /// The modules of a layer as they are stored: each by itself, or (QuIP#) fused.
    fn stored<'a>(&self, names: &[&'a str]) -> Vec<(&'a str, Vec<&'a str>)> {
        match (self.reach, names) {
            (Reach::Incoherent, ["q_proj", ..]) => vec![("qkv_proj", names.to_vec())],
            (Reach::Incoherent, ["gate_proj", "up_proj"]) => vec![("upgate_proj", names.to_vec())],
            _ => names.iter().map(|&name| (name, vec![name])).collect(),
        }
    }
}

impl Weights for RandomModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn format_name(&self) -> &str {
        &self.codec_name
    }

    fn disk_bytes(&self) -> u64 {
        let layer = [
            ("self_attn", "q_proj"),
            ("self_attn", "k_proj"),
            ("self_attn", "v_proj"),
            ("self_attn", "o_proj"),
            ("mlp", "gate_proj"),
            ("mlp", "up_proj"),
            ("mlp", "down_proj"),
        ];
        let bytes = |name: &str, part| self.module(name, &[part]).map_or(0, |m| m.disk_bytes);
        let layer: u64 = layer.map(|(_, part)| bytes("model.layers.0", part)).iter().sum();
        let head = if self.config.tied { 0 } else { bytes("lm_head", "lm_head") };
        layer * self.config.layers as u64 + bytes("model.embed_tokens", "embed_tokens") + head
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn matrices(&self, parent: &str, names: &[&str]) -> Result<Vec<StoredMatrix>> {
        let stored = self.stored(names);
        stored.iter().map(|(name, parts)| self.module(&format!("{parent}.{name}"), parts)).collect()
    }

    async fn matrix(&self, name: &str) -> Result<Option<StoredMatrix>> {
        let last = name.rsplit('.').next().unwrap_or(name);
        if last == "lm_head" && self.config.tied { Ok(None) } else { self.module(name, &[last]).map(Some) }
    }

    async fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let of_heads = name.contains("q_norm") || name.contains("k_norm");
        let has = if of_heads {
            architecture(&self.config).is_some_and(|a| a.qk_norms != QkNorms::Optional)
        } else {
            name.ends_with("norm.weight")
        };
        Ok(has.then(|| vec![1.0; len]))
    }
}

impl Pool {
    fn new(codec: &Arc<dyn Codec>, cols: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(cols as u64);
        let fields = codec.fields();
        let draw = |(i, field): (usize, &Field)| {
            let count = TILES * field.lines(TILE_ROWS) * codec.items(i, 0..cols).len();
            (0..count).map(|_| random_item(&mut rng, field.kind)).collect()
        };
        let mut items: Vec<Vec<u32>> = fields.iter().enumerate().map(draw).collect();
        let rms = root_mean_square(&Self::tile(codec, cols, &items, 0));
        let factor = 1.0 / (rms * (cols as f32).sqrt());
        let mut gain = factor;
        for (field, items) in fields.iter().zip(&mut items) {
            // Scales, or the weights themselves where there is nothing else.
            if !matches!(field.kind, Kind::Code(_)) && (fields.len() == 1 || field.run > 1) {
                items.iter_mut().for_each(|item| *item = scaled(field.kind, *item, factor));
                gain = 1.0;
            }
        }
        let tiles = (0..TILES).map(|tile| Self::tile(codec, cols, &items, tile)).collect();
        Self { items, tiles: Arc::new(tiles), gain }
    }

    /// Tile `tile`, packed.
    fn tile(codec: &Arc<dyn Codec>, cols: usize, items: &[Vec<u32>], tile: usize) -> Packed {
        let mut packed = Packed::new(codec.clone(), Shape { rows: TILE_ROWS, cols });
        let cut = |items: &Vec<u32>| {
            let count = items.len() / TILES;
            items[tile * count..][..count].to_vec()
        };
        let items = items.iter().map(cut).collect();
        packed.write_piece(&Piece { extent: Extent { rows: 0..TILE_ROWS, cols: 0..cols }, items });
        packed
    }
}

/// A code, or a number of size ½ to 1.
fn random_item(rng: &mut StdRng, kind: Kind) -> u32 {
    let Kind::Code(bits) = kind else {
        let value = rng.random_range(0.5..1.0f32);
        return item(kind, if rng.random() { value } else { -value });
    };
    rng.random::<u32>() >> (32 - bits)
}

fn item(kind: Kind, value: f32) -> u32 {
    match kind {
        Kind::F16 => half::f16::from_f32(value).to_bits().into(),
        Kind::Bf16 => half::bf16::from_f32(value).to_bits().into(),
        Kind::F32 | Kind::Code(_) => value.to_bits(),
        // Eight bits: rounded towards zero, which random weights can bear.
        Kind::E5m2 => u32::from(half::f16::from_f32(value).to_bits()) >> 8,
        Kind::E4m3 => {
            let magnitude = (value.abs() * 2f32.powi(-8)).clamp(0.0, 1.0); // exponents start 8 lower than f16's
            u32::from(half::f16::from_f32(magnitude).to_bits()) >> 7 & 0x7f | u32::from(value < 0.0) << 7
        }
        Kind::E8m0 => (value.abs().max(f32::MIN_POSITIVE).log2().round() as i32 + 127).clamp(0, 254) as u32,
    }
}

fn scaled(kind: Kind, old: u32, factor: f32) -> u32 {
    item(kind, kind.value(old) as f32 * factor)
}

fn root_mean_square(packed: &Packed) -> f32 {
    let mut row = vec![0.0; packed.shape.cols];
    let mut squares = 0.0;
    for i in 0..packed.shape.rows {
        packed.decode_row(i, &mut row);
        squares += row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
    }
    (squares / (packed.shape.rows * packed.shape.cols) as f64).sqrt() as f32
}

/// A matrix of tiles out of a pool.
struct Repeated {
    codec: Arc<dyn Codec>,
    shape: Shape,
    pool: Arc<Pool>,
    tiles: Tiles,
}

impl PieceSource for Repeated {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.shape.rows, self.shape.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        let fields = self.codec.fields();
        let cut = |(i, items): (usize, &Vec<u32>)| {
            let (field, lines) = (&fields[i], fields[i].lines(TILE_ROWS));
            let a_line = self.codec.items(i, 0..self.shape.cols).len();
            let part = self.codec.items(i, extent.cols.clone());
            let line = |line: usize| {
                let tile = (line / lines + self.tiles.first) % TILES;
                &items[(tile * lines + line % lines) * a_line..][part.clone()]
            };
            let all = extent.rows.start / field.rows..field.lines(extent.rows.end);
            all.flat_map(line).copied().collect()
        };
        let items = self.pool.items.iter().enumerate().map(cut).collect();
        Box::pin(std::future::ready(Ok(Piece { extent: extent.clone(), items })))
    }

    fn tiles(&self) -> Option<&Tiles> {
        Some(&self.tiles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is copied tile by tile is what packing the pieces gives, for every codec there is.
    #[test]
    fn tiles_are_the_packed_rows() {
        let shape =
            ShapeSpec { hidden: 384, heads: (3, 1), vocab: 341, ..*ShapeSpec::named("tale").unwrap() };
        for name in codec_names() {
            let model = RandomModel::new(&shape, &name).unwrap();
            for matrix in [
                pollster::block_on(model.matrix("model.embed_tokens")).unwrap().unwrap(),
                pollster::block_on(model.matrices("model.layers.1.mlp", &["down_proj"])).unwrap().remove(0),
            ] {
                let shape = Shape { rows: matrix.rows, cols: matrix.cols };
                let mut packed = Packed::new(matrix.codec.clone(), shape);
                for extent in matrix.data.extents(10_000) {
                    packed.write_piece(&pollster::block_on(matrix.data.read(&extent)).unwrap());
                }
                let tiles = matrix.data.tiles().unwrap();
                let count = matrix.rows / TILE_ROWS;
                let offsets = shape.section_offsets(&*matrix.codec);
                for (i, (section, offset)) in matrix.codec.sections().iter().zip(offsets).enumerate() {
                    let words = tiles.words(i, 0, count);
                    assert_eq!(words, packed.bindings()[section.binding][offset..][..words.len()], "{name}");
                }
                let mut row = vec![0.0; matrix.cols];
                packed.decode_row(matrix.rows - 1, &mut row);
                assert!(row.iter().all(|w| w.is_finite()) && row.iter().any(|w| *w != 0.0), "{name}");
            }
        }
    }

    /// A product of numbers of size 1 gives numbers of about size 1.
    #[test]
    fn weights_are_of_a_trained_size() {
        let shape = ShapeSpec::named("tale").unwrap();
        for name in codec_names().iter().filter(|name| *name != "e8p12-plain") {
            let model = RandomModel::new(shape, name).unwrap();
            let matrix = model.module("model.layers.0.mlp.down_proj", &["down_proj"]).unwrap();
            let only_codes = matrix.codec.fields().iter().all(|field| matches!(field.kind, Kind::Code(_)));
            if only_codes && SCHEMES.iter().all(|scheme| scheme.name != name) {
                continue; // a sample without a scale to give it a size
            }
            let gain = match &matrix.output {
                OutputTransform::Hadamard { signs, .. } => signs[0].abs(),
                OutputTransform::None => 1.0,
            };
            let rms = root_mean_square(&matrix.data.tiles().unwrap().tiles[0]);
            let size = gain * rms * (matrix.cols as f32).sqrt();
            assert!((0.5..2.0).contains(&size), "{name}: {size}");
        }
    }

    #[test]
    fn names_are_known() {
        let tale = ShapeSpec::named("tale").unwrap();
        let error = RandomModel::new(tale, "int1").err().map(|e| e.to_string()).unwrap();
        assert!(error.contains("nf4-dq") && error.contains("int3-g128-bf16-zeros"), "{error}");
        assert!(RandomModel::new(tale, "INT4 g64 zeros").is_ok());
    }
}
