//! Lowering: an [`Op`] becomes one dispatch or a few. The only place that knows kernels by name.

use super::context::{Capabilities, Rounding};
use super::fuse::Fused;
use super::link::{Constant, Module};
use crate::device::{Matrix, Part, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Activation, Cache, Heads, Index, Op, Rows, Transform};
use crate::quant::activations::{ActivationCode, ActivationScale};
use crate::quant::cache::CacheFormat;
use crate::quant::hadamard::{self, Mix, Plan};
use crate::quant::{CODECS, Codec, Shape, UNIT};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A dispatch that is not compiled yet.
pub(crate) struct Lowered<'a> {
    pub(crate) module: Module,
    pub(crate) buffers: Vec<(u32, &'a wgpu::Buffer)>,
    /// The uniform at binding 3.
    pub(crate) params: Vec<u32>,
    pub(crate) grid: Grid,
}

/// Workgroups of a dispatch in one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    /// So many.
    Fixed(u32),
    /// One for every so many of these rows.
    Rows(Rows, u32),
}

/// Workgroups of a dispatch, in x and y.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid(pub(crate) Count, pub(crate) Count);

impl Grid {
    fn each(x: usize, rows: Rows) -> Self {
        Self(Count::Fixed(x as u32), Count::Rows(rows, 1))
    }

    pub(crate) fn fixed(x: usize, y: usize) -> Self {
        Self(Count::Fixed(x as u32), Count::Fixed(y as u32))
    }
}

/// Not a page, whose megabyte has no room for kernels that only make some GPUs faster.
pub(crate) const NATIVE: bool = !cfg!(target_arch = "wasm32");
/// Tokens of a recording from which a product is a matmul: a recording for one is a decode step.
pub(crate) const MATMUL_FROM: usize = 2;
/// Rows and tokens of a matmul tile.
const TILE: usize = 32;
/// Lanes of most workgroups; a power of two, at least `head_dim / 4`.
const LANES: u32 = 64;

/// The parts and constants of a product or gather with this codec.
pub(crate) fn codec_module(kernel: &'static str, codec: &dyn Codec) -> Module {
    Module {
        name: format!("{kernel} × {}", codec.name()),
        enable: Vec::new(),
        constants: codec.constants().into_iter().map(|(name, v)| (name, Constant::U32(v))).collect(),
        parts: [codec.family().wgsl, &["lib/product.wgsl"]].concat(),
        invocations: None,
        workgroup_bytes: None,
    }
}

/// How a product spreads its work. Which one is fastest is a matter of the adapter; the result is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spread {
    /// One token, on a CPU: a lane works on `tiles` rows (even where the product is gated).
    Matvec { tiles: u32, x: XSource },
    /// One token, x in workgroup memory: a lane works on `tiles` rows, `split` lanes share each of them, `abreast` of these
    /// side by side.
    Floats { tiles: u32, split: u32, abreast: u32 },
    /// The same with integers for packed dot products, for codecs [of integers](Codec::fixed).
    Fixed { tiles: u32, split: u32, abreast: u32 },
    /// Many tokens, by tiles of 64 rows × 4·`high`·`wide` tokens in workgroup memory.
    Tiles { high: u32, wide: u32 },
    /// Many tokens by matrix units, 128 rows × 128 tokens a workgroup; `exact`: as good as f32.
    Matrix { exact: bool },
    /// The same in single halves, two units of columns at a time.
    Single,
    /// Many tokens by packed dot products, 64 rows × 64 tokens a workgroup, for codecs [of integers](Codec::fixed); x rounded.
    Bytes,
    /// Many tokens: a lane owns `rows` rows × 8·`eights` tokens.
    Rows { rows: u32, eights: u32, x: XSource },
}

/// Lanes of a GPU that share an expert's row of so many columns: each has two units or more.
fn lanes_a_row(cols: usize) -> u32 {
    let units = cols.div_ceil(UNIT);
    [8u32, 4, 2].into_iter().find(|&split| units >= 2 * split as usize).unwrap_or(1)
}

/// How a lane comes by the activations that it shares with all lanes of its workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum XSource {
    /// It loads them: GPUs have a cache for that.
    Lane,
    /// Eight lanes load them and show them to their subgroup: CPU adapters load lane by lane.
    Subgroup,
}

impl XSource {
    /// What suits a CPU.
    fn of_software(capabilities: &Capabilities) -> Self {
        if has_wide_subgroups(capabilities) { XSource::Subgroup } else { XSource::Lane }
    }

    fn link(self, module: &mut Module) {
        match self {
            XSource::Lane => module.parts.push("lib/x_lane.wgsl"),
            XSource::Subgroup => {
                module.enable.push("subgroups");
                module.parts.push("lib/x_subgroup.wgsl");
            }
        }
    }
}

/// The spreads of large matrices that suit an adapter: its class says which, or a measurement, see [`super::tuning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    pub(crate) decode: Spread,
    /// For codecs with integers, where that is faster.
    pub(crate) fixed: Option<Spread>,
    pub(crate) prefill: Spread,
}

impl Tuning {
    /// Measured, or else that of the class.
    fn now(capabilities: &Capabilities) -> Self {
        capabilities.tuning.unwrap_or_else(|| Self::of_class(capabilities))
    }

    /// What is known without measuring.
    pub(crate) fn of_class(capabilities: &Capabilities) -> Self {
        match capabilities.software {
            // One row a lane and few loads of x: what a CPU's vector units like.
            true => {
                let x = XSource::of_software(capabilities);
                let prefill = if takes_blocks(capabilities) {
                    wide_rows(x)
                } else {
                    Spread::Tiles { high: 8, wide: 1 }
                };
                Self { decode: Spread::Matvec { tiles: 4, x }, fixed: None, prefill }
            }
            false => Self {
                decode: Spread::Floats { tiles: 4, split: 32, abreast: 4 },
                fixed: has_fixed(capabilities).then_some(Spread::Fixed { tiles: 4, split: 8, abreast: 1 }),
                prefill: match capabilities.matrix {
                    _ if has_bytes(capabilities) => Spread::Bytes,
                    true => Spread::Matrix { exact: capabilities.rounding != Rounding::Halves },
                    false => Spread::Tiles { high: 16, wide: 1 },
                },
            },
        }
    }

    /// The same with `spread` in its place.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn with(self, spread: Spread) -> Self {
        match spread {
            Spread::Fixed { .. } => Self { fixed: Some(spread), ..self },
            Spread::Matvec { .. } | Spread::Floats { .. } => Self { decode: spread, ..self },
            _ => Self { prefill: spread, ..self },
        }
    }

    /// All that may turn out to be fastest: for one token, for one token and integers, for many; the class's own first.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn candidates(capabilities: &Capabilities) -> [Vec<Spread>; 3] {
        let own = Self::of_class(capabilities);
        let wide = has_wide_subgroups(capabilities);
        let Capabilities { software, invocations, matrix, rounding, .. } = *capabilities;
        // Bytes are what was asked for, whatever else would be fastest.
        let (matrix, halves) = (matrix && own.prefill != Spread::Bytes, rounding == Rounding::Halves);
        let fits = |spread: &Spread| match *spread {
            Spread::Matvec { x, .. } => software && (wide || x == XSource::Lane),
            Spread::Fixed { .. } | Spread::Floats { .. } => {
                let room = spread.staged_bytes() <= capabilities.workgroup_bytes;
                let suits = matches!(spread, Spread::Floats { .. }) || has_fixed(capabilities);
                !software && suits && spread.lanes() <= invocations && room
            }
            Spread::Tiles { wide, .. } => (wide == 1 || !software) && own.prefill != Spread::Bytes,
            Spread::Matrix { exact } => matrix && exact != halves,
            Spread::Single => matrix && halves,
            Spread::Bytes => has_bytes(capabilities),
            Spread::Rows { x, .. } => {
                software && takes_blocks(capabilities) && x == XSource::of_software(capabilities)
            }
        };
        let kind = |spread: &Spread| match spread {
            Spread::Matvec { .. } | Spread::Floats { .. } => 0,
            Spread::Fixed { .. } => 1,
            _ => 2,
        };
        let mut all = [vec![own.decode], Vec::from_iter(own.fixed), vec![own.prefill]];
        for spread in Spread::ALL.into_iter().filter(fits) {
            let list = &mut all[kind(&spread)];
            if !list.contains(&spread) {
                list.push(spread);
            }
        }
        all
    }
}

/// Whether packed dot products are there to be used, and lanes can ask their neighbours.
fn has_fixed(capabilities: &Capabilities) -> bool {
    !capabilities.software
        && capabilities.dot4
        && capabilities.subgroups.is_some_and(|(smallest, _)| smallest >= 4)
}

/// Whether they are, and activations may be rounded to bytes for them.
fn has_bytes(capabilities: &Capabilities) -> bool {
    has_fixed(capabilities) && capabilities.rounding == Rounding::Bytes
}

impl Capabilities {
    /// Whether the adapter has what [`Capabilities::rounding`] is for; otherwise nothing is rounded.
    pub fn rounds(&self) -> bool {
        match self.rounding {
            Rounding::None => true,
            Rounding::Halves => self.matrix,
            Rounding::Bytes => has_bytes(self),
        }
    }
}

/// Whether a product of so many tokens multiplies bytes in the place of its activations.
pub(crate) fn multiplies_bytes(capabilities: &Capabilities, matrix: &Matrix, tokens: usize) -> bool {
    let spread = Spread::choose(capabilities, &*matrix.codec, matrix.shape, tokens, false);
    has_bytes(capabilities) && matches!(spread, Spread::Fixed { .. } | Spread::Bytes)
}

/// Whether a CPU's compiler makes good code of a block of rows × tokens: GL's take many seconds for it, and small subgroups
/// are those of SwiftShader, whose loops are not unrolled.
fn takes_blocks(capabilities: &Capabilities) -> bool {
    !capabilities.gl && (capabilities.subgroups.is_none() || has_wide_subgroups(capabilities))
}

/// Whether eight lanes can show each other what they loaded.
fn has_wide_subgroups(capabilities: &Capabilities) -> bool {
    capabilities.subgroups.is_some_and(|(smallest, _)| smallest >= 8)
}

/// For matrices of many rows. A large block takes a compiler longer, where each lane loads all activations most of all.
const fn wide_rows(x: XSource) -> Spread {
    let eights = match x {
        XSource::Subgroup => 3,
        XSource::Lane => 1,
    };
    Spread::Rows { rows: 24, eights, x }
}

/// For other matrices.
const fn narrow_rows(x: XSource) -> Spread {
    Spread::Rows { rows: 8, eights: 1, x }
}

/// Whether matrices of many rows have a kernel of their own.
pub(crate) fn has_wide_rows(capabilities: &Capabilities) -> bool {
    matches!(Tuning::now(capabilities).prefill, wide @ Spread::Rows { x, .. } if wide == wide_rows(x))
}

/// [`Codec::halves`], which a page has no use for.
#[cfg(not(target_arch = "wasm32"))]
fn halves_part(codec: &dyn Codec) -> Option<&'static str> {
    codec.halves()
}

#[cfg(target_arch = "wasm32")]
fn halves_part(_: &dyn Codec) -> Option<&'static str> {
    None
}

/// Whether there is such a kernel for the codec.
fn codec_suits(codec: &dyn Codec, spread: Spread) -> bool {
    match spread {
        Spread::Fixed { .. } => codec.fixed().is_some(),
        Spread::Bytes => {
            let integers = codec.fixed().is_some() && codec.fixed_dot().is_none();
            integers && codec.workgroup_bytes() <= FLOOR_BYTES - BYTES_TILES
        }
        _ if spread.by_matrix() => codec.workgroup_bytes() <= MATRIX_TABLES && halves_part(codec).is_some(),
        _ => true,
    }
}

/// Bytes of workgroup memory that products by matrix units take, and how many of them are for a codec's tables.
pub(crate) const MATRIX_BYTES: u32 = 48 << 10;
const MATRIX_TABLES: u32 = MATRIX_BYTES - 4 * 128 * 10 * 8 - 4096;

/// Bytes of workgroup memory of [`Spread::Bytes`]: of 64 rows and 64 tokens two units and their factors.
const BYTES_TILES: u32 = 2 * 64 * 2 * (32 + 16);

/// Words of four f16 that a token's activations are for them, of so many columns.
fn halves_vecs(cols: usize) -> usize {
    16 * cols.div_ceil(UNIT) + 2
}

impl Spread {
    /// All that [`Spread::choose`] returns, but for smaller ones where a matrix is.
    const ALL: [Self; 29] = [
        Spread::Matvec { tiles: 1, x: XSource::Lane },
        Spread::Matvec { tiles: 4, x: XSource::Lane },
        Spread::Matvec { tiles: 1, x: XSource::Subgroup },
        Spread::Matvec { tiles: 4, x: XSource::Subgroup },
        Spread::Floats { tiles: 1, split: 4, abreast: 1 },
        Spread::Floats { tiles: 1, split: 8, abreast: 1 },
        Spread::Floats { tiles: 1, split: 16, abreast: 1 },
        Spread::Floats { tiles: 2, split: 16, abreast: 2 },
        Spread::Floats { tiles: 2, split: 32, abreast: 2 },
        Spread::Floats { tiles: 4, split: 32, abreast: 4 },
        Spread::Fixed { tiles: 1, split: 4, abreast: 1 },
        Spread::Fixed { tiles: 1, split: 8, abreast: 1 },
        Spread::Fixed { tiles: 1, split: 16, abreast: 1 },
        Spread::Fixed { tiles: 2, split: 8, abreast: 1 },
        Spread::Fixed { tiles: 2, split: 16, abreast: 2 },
        Spread::Fixed { tiles: 2, split: 32, abreast: 2 },
        Spread::Fixed { tiles: 4, split: 8, abreast: 1 },
        Spread::Fixed { tiles: 4, split: 32, abreast: 4 },
        Spread::Tiles { high: 8, wide: 1 },
        Spread::Tiles { high: 16, wide: 1 },
        Spread::Tiles { high: 16, wide: 2 },
        narrow_rows(XSource::Subgroup),
        wide_rows(XSource::Subgroup),
        narrow_rows(XSource::Lane),
        wide_rows(XSource::Lane),
        Spread::Matrix { exact: true },
        Spread::Matrix { exact: false },
        Spread::Single,
        Spread::Bytes,
    ];

    /// Those of them that a norm before the product or a gated activation after it is tested with.
    const FUSED: [Self; 7] = [
        Spread::Matvec { tiles: 2, x: XSource::Lane },
        Spread::Matvec { tiles: 4, x: XSource::Lane },
        Spread::Matvec { tiles: 4, x: XSource::Subgroup },
        Spread::Floats { tiles: 2, split: 16, abreast: 2 },
        Spread::Floats { tiles: 4, split: 32, abreast: 4 },
        Spread::Fixed { tiles: 2, split: 16, abreast: 2 },
        Spread::Fixed { tiles: 4, split: 8, abreast: 1 },
    ];

    /// For a matrix of `shape`, in a recording of up to `tokens` tokens.
    pub(super) fn choose(
        capabilities: &Capabilities,
        codec: &dyn Codec,
        shape: Shape,
        tokens: usize,
        gated: bool,
    ) -> Self {
        let Tuning { decode, fixed, prefill } = Tuning::now(capabilities);
        if tokens >= MATMUL_FROM {
            return match prefill {
                Spread::Tiles { .. } if tokens <= 32 => Spread::Tiles { high: 8, wide: 1 },
                Spread::Tiles { high, .. } if codec.workgroup_bytes() > prefill.tile_room() => {
                    Spread::Tiles { high, wide: 1 }
                }
                Spread::Rows { x, .. } if shape.rows < wide_rows(x).block().0 => narrow_rows(x),
                _ if !codec_suits(codec, prefill) => match (Spread::Matrix { exact: true }) {
                    exact if capabilities.matrix && codec_suits(codec, exact) => exact,
                    _ => Spread::Tiles { high: 16, wide: 1 },
                },
                Spread::Single if shape.cols.div_ceil(UNIT) % 2 == 1 => Spread::Matrix { exact: false },
                other => other,
            };
        }
        let least = if gated { 2 } else { 1 };
        let fixed = fixed.filter(|_| codec.fixed().is_some());
        if let Some(spread) = fixed.and_then(|spread| spread.staged(capabilities, codec, shape, least)) {
            return spread;
        }
        match decode {
            Spread::Matvec { tiles, x } => {
                let tiles = if shape.rows >= TILE * tiles as usize { tiles } else { 1 };
                Spread::Matvec { tiles: tiles.max(least), x }
            }
            other => {
                let plain = Spread::Matvec { tiles: least, x: XSource::Lane };
                other.staged(capabilities, codec, shape, least).unwrap_or(plain)
            }
        }
    }

    /// What suits a matrix best of the spreads with x in workgroup memory, `least` tiles or more; None: none has room.
    fn staged(
        self,
        capabilities: &Capabilities,
        codec: &dyn Codec,
        shape: Shape,
        least: u32,
    ) -> Option<Self> {
        let (Spread::Fixed { mut tiles, mut abreast, .. } | Spread::Floats { mut tiles, mut abreast, .. }) =
            self
        else {
            return None;
        };
        // A lane decodes slowly where it keeps a lot in registers for every row.
        let floats = matches!(self, Spread::Floats { .. });
        let heavy = floats && !codec.is_light();
        tiles = if heavy { least } else { tiles.max(least) };
        let with = |tiles, abreast, lanes| {
            let split = lanes * abreast / TILE as u32;
            if floats {
                Spread::Floats { tiles, split, abreast }
            } else {
                Spread::Fixed { tiles, split, abreast }
            }
        };
        let fits = |spread: Self| {
            let bytes = spread.staged_bytes() + codec.workgroup_bytes();
            bytes <= capabilities.workgroup_bytes && spread.lanes() <= capabilities.invocations
        };
        // Enough workgroups for a large GPU: else of fewer rows each, their lanes side by side, and then of more lanes.
        let mut lanes = self.lanes();
        if floats || shape.rows < 256 * TILE * (tiles / abreast) as usize {
            abreast = tiles;
        }
        if (heavy || shape.rows < 256 * TILE) && MOST_STAGING <= capabilities.invocations {
            (tiles, lanes) = (tiles.min(2), MOST_STAGING);
            abreast = abreast.min(tiles);
        }
        // Units for every lane: fewer side by side need fewer.
        let suits = |spread: Self| fits(spread) && shape.cols.div_ceil(UNIT) >= spread.units_at_once();
        let keeps = |spread: Self, abreast| if abreast > 1 { suits(spread) } else { fits(spread) };
        while tiles > least && !keeps(with(tiles, abreast, lanes), abreast) {
            tiles /= 2;
            abreast = abreast.min(tiles);
        }
        while lanes * abreast > 4 * TILE as u32 && !suits(with(tiles, abreast, lanes)) {
            lanes /= 2;
        }
        Some(with(tiles, abreast, lanes)).filter(|&spread| fits(spread))
    }

    /// Lanes of a workgroup that has x in its memory.
    fn lanes(self) -> u32 {
        match self {
            Spread::Fixed { split, abreast, .. } | Spread::Floats { split, abreast, .. } => {
                TILE as u32 * split / abreast
            }
            _ => 0,
        }
    }

    /// Units that the lanes of such a workgroup work on at a time.
    fn units_at_once(self) -> usize {
        match self {
            Spread::Fixed { split, .. } => (4 * split).min(FIXED_UNITS) as usize,
            Spread::Floats { split, .. } => (4 * split).min(FLOAT_UNITS) as usize,
            _ => 1,
        }
    }

    /// Bytes that the tiles leave to a codec's tables of the workgroup memory that WebGPU promises.
    fn tile_room(self) -> u32 {
        let Spread::Tiles { high, wide } = self else { return FLOOR_BYTES };
        FLOOR_BYTES - 16 * (64 * 5 + 16 * high * wide)
    }

    /// Bytes of workgroup memory of a matvec with x there, without its codec's tables, and with what a norm before it needs.
    fn staged_bytes(self) -> u32 {
        match self {
            Spread::Fixed { tiles, .. } => {
                let lanes = self.lanes();
                (6 * 16 + 12) * FIXED_UNITS + 4 * lanes * tiles + lanes + 4
            }
            Spread::Floats { tiles, .. } => {
                let lanes = self.lanes();
                4 * UNIT as u32 * FLOAT_UNITS + 4 * lanes * tiles + 4 * lanes
            }
            _ => 0,
        }
    }

    /// Bytes that a token's activations, of so many columns, are made of in a dispatch before the product.
    fn prepared_bytes(self, cols: usize) -> usize {
        match self {
            Spread::Matrix { .. } | Spread::Single if NATIVE => 8 * halves_vecs(cols),
            Spread::Bytes => 48 * cols.div_ceil(UNIT),
            _ => 0,
        }
    }

    fn by_matrix(self) -> bool {
        matches!(self, Spread::Matrix { .. } | Spread::Single)
    }

    /// Rows and tokens that a workgroup works on.
    const fn block(self) -> (usize, u32) {
        match self {
            Spread::Matvec { tiles, .. } => (TILE * tiles as usize, 1),
            Spread::Fixed { tiles, abreast, .. } | Spread::Floats { tiles, abreast, .. } => {
                (TILE * (tiles / abreast) as usize, 1)
            }
            Spread::Tiles { high, wide } => (2 * TILE, 4 * high * wide),
            Spread::Matrix { .. } | Spread::Single => (4 * TILE, 128),
            Spread::Bytes => (2 * TILE, 64),
            Spread::Rows { rows, eights, .. } => (TILE * rows as usize, 8 * eights),
        }
    }
}

/// matvec or matmul of `codec`, for every way the slots can be filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProductSlots {
    pub(crate) add: bool,
    pub(crate) biased: bool,
    pub(crate) permuted: bool,
    pub(crate) rows: Rows,
    /// The columns are no multiple of a unit.
    pub(crate) ragged: bool,
    /// A matvec whose x is normed, of so many columns.
    pub(crate) normed: Option<usize>,
    /// A matvec whose columns of x are multiplied by numbers of their own.
    pub(crate) scaled: bool,
    /// [`Spread::Floats`] whose x then goes through orthonormal Hadamard transforms of so many columns; 1: it does not.
    pub(crate) rotated: usize,
    /// A matvec of gate and up, with what comes after it.
    pub(crate) gated: Option<Activation>,
    /// [`Spread::Fixed`] with a byte for each number of x, not three.
    pub(crate) rounded: bool,
}

impl ProductSlots {
    /// With none of them filled.
    fn plain(rows: Rows) -> Self {
        Self {
            add: false,
            biased: false,
            permuted: false,
            rows,
            ragged: false,
            normed: None,
            scaled: false,
            rotated: 1,
            gated: None,
            rounded: false,
        }
    }
}

/// What the dispatch before a product reads activations with.
const PREPARES_X: [&str; 4] =
    ["lib/product.wgsl", "lib/product_io.wgsl", "lib/columns.wgsl", "lib/product_out.wgsl"];

/// The names of the slots that are filled.
fn filled(slots: &[(bool, &str)]) -> String {
    slots.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect()
}

/// Lanes that not every adapter has.
fn beyond_floor(lanes: u32) -> Option<u32> {
    Some(lanes).filter(|&lanes| lanes > Capabilities::FLOOR.invocations)
}

/// Bytes of workgroup memory that WebGPU promises.
const FLOOR_BYTES: u32 = Capabilities::FLOOR.workgroup_bytes;

/// The most lanes of a workgroup with x in its memory.
const MOST_STAGING: u32 = 512;

/// Units of x that a matvec has in workgroup memory, as integers and as floats.
const FIXED_UNITS: u32 = 128;
const FLOAT_UNITS: u32 = 64;

impl ProductSlots {
    fn constants(self) -> [(&'static str, Constant); 4] {
        [
            ("ADD", self.add.into()),
            ("BIASED", self.biased.into()),
            ("PERMUTED", self.permuted.into()),
            ("SCALED", self.scaled.into()),
        ]
    }

    /// What tells modules apart that differ in their slots.
    fn suffix(self) -> String {
        let slots = [
            (self.add, " add"),
            (self.biased, " bias"),
            (self.permuted, " permuted"),
            (self.ragged, " ragged"),
            (self.normed.is_some(), " normed"),
            (self.scaled, " scaled"),
            (self.rotated > 1, " rotated"),
            (self.gated.is_some(), " gated"),
            (self.rounded, " rounded"),
        ];
        filled(&slots)
    }

    pub(crate) fn module(self, codec: &dyn Codec, spread: Spread) -> Module {
        let (kernel, file) = match spread {
            Spread::Matvec { .. } => ("matvec", "kernels/matvec.wgsl"),
            Spread::Floats { .. } | Spread::Fixed { .. } => ("matvec_staged", "kernels/matvec_staged.wgsl"),
            Spread::Tiles { .. } => ("matmul", "kernels/matmul.wgsl"),
            Spread::Matrix { .. } => ("matmul_matrix", "kernels/matmul_matrix.wgsl"),
            Spread::Single => ("matmul_f16", "kernels/matmul_f16.wgsl"),
            Spread::Bytes => ("matmul_bytes", "kernels/matmul_bytes.wgsl"),
            Spread::Rows { .. } => ("matmul_rows", "kernels/matmul_rows.wgsl"),
        };
        let staged = matches!(spread, Spread::Floats { .. } | Spread::Fixed { .. });
        let mut module = codec_module(kernel, codec);
        module.parts.extend(["lib/product_out.wgsl", file]);
        module.constants.extend(self.constants());
        if self.normed.is_none() || staged {
            module.constants.push(("RAGGED", self.ragged.into()));
        }
        module.parts.extend(match (self.normed, spread) {
            (None, _) if NATIVE && spread.by_matrix() => &["lib/matrix.wgsl"][..],
            (None, Spread::Bytes) => &["lib/integers.wgsl"],
            (None, _) => &["lib/product_io.wgsl", "lib/columns.wgsl"],
            (Some(_), Spread::Fixed { .. }) => {
                &["lib/product_io_normed.wgsl", "lib/columns.wgsl", "lib/reduce_subgroup.wgsl"]
            }
            (Some(_), _) => &["lib/product_io_normed.wgsl", "lib/columns.wgsl", "lib/reduce_workgroup.wgsl"],
        });
        match spread {
            Spread::Matvec { tiles, x } => {
                self.share_rows(&mut module, tiles, (1, 1), 0);
                x.link(&mut module);
            }
            Spread::Floats { tiles, split, abreast } | Spread::Fixed { tiles, split, abreast } => {
                let chunk = match spread {
                    Spread::Fixed { .. } => {
                        module.enable.push("subgroups");
                        module.parts.extend(["lib/fixed.wgsl", "lib/integers.wgsl", "lib/x_integers.wgsl"]);
                        module.parts.extend(codec.fixed().unwrap_or_default());
                        module.parts.push(codec.fixed_dot().unwrap_or("lib/fixed_dot.wgsl"));
                        module.constants.push(("PLANES", if self.rounded { 1u32 } else { 3 }.into()));
                        FIXED_UNITS
                    }
                    _ => {
                        module.parts.extend(["lib/floats.wgsl", "lib/walsh.wgsl"]);
                        module.parts.extend(codec.floats());
                        let scale = (1.0 / (self.rotated as f64).sqrt()) as f32;
                        module.constants.extend([
                            ("LENGTH", Constant::U32(self.rotated as u32)),
                            ("SCALE", scale.to_bits().into()),
                            ("ROOM", (FLOAT_UNITS * UNIT as u32 / 4).into()),
                        ]);
                        FLOAT_UNITS
                    }
                };
                let lanes = spread.lanes();
                module.constants.extend([("CHUNK", Constant::U32(chunk)), ("LANES", lanes.into())]);
                module.invocations = beyond_floor(lanes);
                let bytes = spread.staged_bytes();
                self.share_rows(&mut module, tiles, (split, abreast), bytes);
                let beyond = bytes + codec.workgroup_bytes() > FLOOR_BYTES;
                module.workgroup_bytes = beyond.then_some(2 * FLOOR_BYTES);
            }
            Spread::Tiles { high, wide } => {
                let room = Constant::U32(spread.tile_room());
                module.parts.push("lib/eight_rows.wgsl");
                module.constants.extend([("HIGH", high.into()), ("WIDE", wide.into()), ("TABLE_ROOM", room)]);
                let beyond = codec.workgroup_bytes() > spread.tile_room();
                module.workgroup_bytes = beyond.then_some(2 * FLOOR_BYTES);
            }
            Spread::Matrix { .. } | Spread::Single if NATIVE => {
                let exact = spread == Spread::Matrix { exact: true };
                module.constants.push(("EXACT", exact.into()));
                module.enable.extend(["f16", "subgroups", "wgpu_cooperative_matrix"]);
                module.workgroup_bytes = Some(MATRIX_BYTES);
                module.parts.extend(halves_part(codec));
                module.parts.push("lib/nearest_half.wgsl");
            }
            Spread::Matrix { .. } | Spread::Single => {}
            Spread::Bytes => {
                module.parts.push("lib/eight_rows.wgsl");
                module.constants.push(("TABLE_ROOM", (FLOOR_BYTES - BYTES_TILES).into()));
                module.parts.extend(codec.fixed().unwrap_or_default());
            }
            Spread::Rows { rows, eights, x } => {
                module.constants.extend([("BLOCK_ROWS", Constant::U32(rows)), ("EIGHTS", eights.into())]);
                x.link(&mut module);
            }
        }
        if !staged && !matches!(spread, Spread::Matvec { .. }) {
            module.constants.push(("HEAD", (self.rows == Rows::Head).into()));
            module.parts.push("lib/step.wgsl");
        }
        module
    }

    /// What makes bytes of the activations for [`Spread::Bytes`].
    fn bytes(self) -> Module {
        let mut module = module("bytes", "kernels/bytes.wgsl");
        module.name.push_str(&self.suffix());
        module.constants.extend(self.constants());
        module.constants.extend([("RAGGED", Constant::Bool(self.ragged)), ("PLANES", 1u32.into())]);
        module.parts.extend(PREPARES_X);
        module.parts.push("lib/x_integers.wgsl");
        module.enable.push("subgroups");
        module
    }

    /// What makes f16 of the activations for [`Spread::Matrix`].
    fn halves(self) -> Module {
        let mut module = module("halves", "kernels/halves.wgsl");
        module.name.push_str(&self.suffix());
        module.constants.extend(self.constants());
        module.constants.push(("RAGGED", self.ragged.into()));
        module.parts.extend(PREPARES_X);
        module.parts.push("lib/nearest_half.wgsl");
        module.enable.push("f16");
        module
    }

    /// What all matvecs have: `bytes` of workgroup memory, lanes that share rows, and where these go.
    fn share_rows(self, module: &mut Module, tiles: u32, (split, abreast): (u32, u32), bytes: u32) {
        module.constants.extend([
            ("TILES", Constant::U32(tiles)),
            ("SPLIT", split.into()),
            ("ABREAST", abreast.into()),
            ("TABLE_ROOM", FLOOR_BYTES.saturating_sub(bytes).into()),
        ]);
        module.parts.push("lib/split.wgsl");
        match self.gated {
            Some(activation) => {
                module.constants.push(("ACTIVATION", activation_number(activation).into()));
                module.parts.extend(["lib/rows_gated.wgsl", "lib/activation.wgsl", "lib/tanh.wgsl"]);
            }
            None => module.parts.push("lib/rows_plain.wgsl"),
        }
    }

    /// The product in integers of `batch` tokens at a time, `split` lanes a row.
    pub(crate) fn int8(self, codec: &dyn Codec, batch: u32, split: u32) -> Module {
        let mut module = codec_module("product_int8", codec);
        module.constants.extend([("ADD", Constant::Bool(self.add)), ("BIASED", self.biased.into())]);
        module.constants.push(("HEAD", (self.rows == Rows::Head).into()));
        module.constants.extend([("BATCH", Constant::U32(batch)), ("SPLIT", split.into())]);
        module.parts.extend(["lib/product_out.wgsl", "lib/step.wgsl", "kernels/product_int8.wgsl"]);
        module
    }
}

/// All that [`int8_variant`] returns.
const INT8_VARIANTS: [(u32, u32); 4] = [(1, 1), (8, 1), (1, 8), (8, 8)];

/// How a product in integers spreads its work: (tokens at a time, lanes that share a row).
fn int8_variant(capabilities: &Capabilities, capacity: usize) -> (u32, u32) {
    (if capacity < MATMUL_FROM { 1 } else { 8 }, if capabilities.software { 1 } else { 8 })
}

/// Products with a sparse matrix.
pub(crate) fn sparse_module() -> Module {
    let mut module = module("sparse", "kernels/sparse.wgsl");
    module.parts.push("lib/product.wgsl");
    module
}

/// Row gathers with `codec`.
pub(crate) fn gather_module(codec: &dyn Codec, index: Index) -> Module {
    let mut module = codec_module("gather", codec);
    let (positions, first) = match index {
        Index::Token => (false, 0),
        Index::Position(first) => (true, first as u32),
    };
    module.constants.extend([("POSITIONS", positions.into()), ("FIRST_POSITION", Constant::U32(first))]);
    module.parts.extend(["lib/step.wgsl", "kernels/gather.wgsl"]);
    module
}

/// Products with the matrix of each row's own expert, of `n` rows, `shared` rows to one of x; `first` is the first
/// expert.
pub(crate) fn expert_module(
    codec: &dyn Codec,
    (n, shared, first): (usize, usize, usize),
    [add, biased, permuted, ragged]: [bool; 4],
    split: u32,
) -> Module {
    let mut module = codec_module("expert_product", codec);
    module.constants.extend([
        ("EXPERT_ROWS", Constant::U32(n as u32)),
        ("SHARERS", (shared as u32).into()),
        ("FIRST_EXPERT", (first as u32).into()),
        ("ADD", add.into()),
        ("BIASED", biased.into()),
        ("PERMUTED", permuted.into()),
        ("SCALED", false.into()),
        ("RAGGED", ragged.into()),
        ("SPLIT", split.into()),
    ]);
    module.parts.extend(["lib/product_io.wgsl", "lib/columns.wgsl"]);
    module.parts.extend(["lib/x_lane.wgsl", "kernels/expert_product.wgsl"]);
    module
}

/// Adds the reduction that the device does best.
fn with_reduction(module: Module, capabilities: &Capabilities) -> Module {
    with_reduction_of(LANES, module, capabilities)
}

fn with_reduction_of(lanes: u32, mut module: Module, capabilities: &Capabilities) -> Module {
    if capabilities.subgroups.is_some() {
        module.enable.push("subgroups");
        module.parts.push("lib/reduce_subgroup.wgsl");
    } else {
        module.parts.push("lib/reduce_workgroup.wgsl");
    }
    module.constants.push(("LANES", lanes.into()));
    module
}

/// Lanes that norm a row of so many columns.
fn norm_lanes(width: usize, capabilities: &Capabilities) -> u32 {
    if !capabilities.software && width >= 1024 { 256 } else { LANES }
}

fn module(name: &str, kernel: &'static str) -> Module {
    Module { name: name.into(), parts: vec![kernel], ..Module::default() }
}

/// RMSNorm over tokens or head rows.
pub(crate) fn rms_norm_module(rows: Rows, add: bool, width: usize, capabilities: &Capabilities) -> Module {
    let mut module = module("rms_norm", "kernels/rms_norm.wgsl");
    module.constants.extend([("HEAD", Constant::from(rows == Rows::Head)), ("ADD", add.into())]);
    module.parts.push("lib/step.wgsl");
    with_reduction_of(norm_lanes(width, capabilities), module, capabilities)
}

/// LayerNorm, or RMSNorm, over tokens, head rows, heads or parts of rows.
pub(crate) fn layer_norm_module(
    rows: Rows,
    centered: bool,
    biased: bool,
    in_place: bool,
    capabilities: &Capabilities,
) -> Module {
    let mut module = module("layer_norm", "kernels/layer_norm.wgsl");
    module.constants.extend([
        ("HEAD", Constant::from(rows == Rows::Head)),
        ("CENTERED", centered.into()),
        ("BIASED", biased.into()),
        ("IN_PLACE", in_place.into()),
    ]);
    module.parts.push("lib/step.wgsl");
    with_reduction(module, capabilities)
}

/// The experts of a token.
pub(crate) fn route_module(capabilities: &Capabilities) -> Module {
    with_reduction(module("route", "kernels/route.wgsl"), capabilities)
}

/// The weighted sum of experts.
pub(crate) fn combine_module(add: bool) -> Module {
    let mut module = module("combine", "kernels/combine.wgsl");
    module.constants.push(("ADD", add.into()));
    module
}

/// cap·tanh(x / cap).
pub(crate) fn softcap_module() -> Module {
    let mut module = module("softcap", "kernels/softcap.wgsl");
    module.parts.push("lib/tanh.wgsl");
    module
}

/// `held` heads of so many channels in workgroup memory, as a cache of that format takes them.
fn heads_module(
    name: &str,
    kernel: &'static str,
    head_dim: usize,
    cache: CacheFormat,
    held: usize,
) -> Module {
    let mut module = module(name, kernel);
    module.parts.extend(["lib/heads.wgsl", "lib/hadamard.wgsl", "lib/step.wgsl"]);
    module.constants.extend([
        ("HEAD_DIM", Constant::U32(head_dim as u32)),
        ("HADAMARD", (cache.hadamard(head_dim) as u32).into()),
        ("HELD", (held as u32).into()),
    ]);
    module
}

/// The same for kernels that prepare heads or read the cache.
fn cache_module(
    name: &str,
    kernel: &'static str,
    head_dim: usize,
    normed: bool,
    cache: CacheFormat,
    held: usize,
) -> Module {
    let mut module = heads_module(name, kernel, head_dim, cache, held);
    let norm = if normed { "lib/head_normed.wgsl" } else { "lib/head_plain.wgsl" };
    module.parts.extend(["lib/head.wgsl", norm]);
    match cache.code_bits() {
        Some(bits) => {
            module.parts.extend(["lib/cache_int.wgsl", "lib/quotient.wgsl"]);
            module.constants.push(("BITS", bits.into()));
        }
        None if cache == CacheFormat::F32 => module.parts.push("lib/cache_f32.wgsl"),
        None => module.parts.push("lib/cache_f16.wgsl"),
    }
    module
}

/// RoPE, head norms and cache writes.
pub(crate) fn rope_module(
    head_dim: usize,
    normed: bool,
    cache: CacheFormat,
    capabilities: &Capabilities,
) -> Module {
    let module = cache_module("rope", "kernels/rope.wgsl", head_dim, normed, cache, 1);
    // A CPU runs the subgroups of a workgroup in turn, from barrier to barrier: one alone has none to wait for.
    let lanes = if has_wide_subgroups(capabilities) && capabilities.software { 8 } else { LANES };
    with_reduction_of(lanes, module, capabilities)
}

/// Queries that a lane has registers for.
const MOST_QUERIES: usize = 4;

/// How a workgroup goes through the positions, see lib/attend.wgsl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attend {
    /// Queries that share what is read, [`MOST_QUERIES`] at most.
    pub(crate) queries: usize,
    /// Lanes of a workgroup: fewer than [`LANES`] are one subgroup.
    pub(crate) lanes: u32,
}

impl Attend {
    fn of(queries: usize, head_dim: usize, capabilities: &Capabilities) -> Self {
        // Reductions inside one subgroup need no barrier.
        let alone = capabilities.subgroups.map(|(smallest, _)| smallest);
        let fits = |&lanes: &u32| {
            !capabilities.software && (8..LANES).contains(&lanes) && head_dim <= 4 * lanes as usize
        };
        Self { queries, lanes: alone.filter(fits).unwrap_or(LANES) }
    }

    /// For tokens of a prompt, where workgroup memory has room for them.
    fn of_tokens(head_dim: usize, capabilities: &Capabilities) -> Self {
        let several =
            !capabilities.software && Self::bytes(MOST_QUERIES, 1, head_dim) <= FLOOR_BYTES as usize;
        Self::of(if several { MOST_QUERIES } else { 1 }, head_dim, capabilities)
    }

    /// Bytes of workgroup memory, with so many heads that are made ready: they and queries; weights, sums, reductions.
    fn bytes(queries: usize, held: usize, head_dim: usize) -> usize {
        4 * ((queries + held) * head_dim + 9 * LANES as usize + 2)
    }

    fn link(self, mut module: Module, capabilities: &Capabilities) -> Module {
        module.parts.extend(["lib/attend.wgsl", "lib/tanh.wgsl"]);
        module.constants.push(("QUERIES", (self.queries as u32).into()));
        if self.lanes == LANES {
            return with_reduction(module, capabilities);
        }
        module.enable.push("subgroups");
        module.parts.push("lib/reduce_alone.wgsl");
        module.constants.push(("LANES", self.lanes.into()));
        module
    }
}

/// Attention over the cache.
pub(crate) fn attention_module(
    head_dim: usize,
    cache: CacheFormat,
    attend: Attend,
    capabilities: &Capabilities,
) -> Module {
    attend.link(cache_module("attention", "kernels/attention.wgsl", head_dim, false, cache, 1), capabilities)
}

/// Lanes of a workgroup of [`attention_rows_module`], each with a token of its own.
const ATTENTION_TOKENS: u32 = 32;

/// The same for adapters that are CPUs, over a cache that is not transformed.
pub(crate) fn attention_rows_module(head_dim: usize, cache: CacheFormat) -> Module {
    let kernel = "kernels/attention_rows.wgsl";
    let mut module = cache_module("attention_rows", kernel, head_dim, false, cache, 1);
    module.parts.push("lib/tanh.wgsl");
    module.constants.push(("LANES", ATTENTION_TOKENS.into()));
    module
}

/// Whether a lane has a token of its own, as barriers are dear on a CPU. Larger heads take its compiler many seconds, and
/// llvmpipe ends a lane's loops after 65535 turns: one a position, and one for sixteen channels of its key and value.
fn attends_by_rows(
    head_dim: usize,
    cache: &Cache,
    window: Option<usize>,
    capabilities: &Capabilities,
) -> bool {
    let turns = cache.context.min(window.unwrap_or(usize::MAX)).saturating_mul(head_dim / 8 + 1);
    capabilities.software && suits_rows(head_dim, cache.format) && turns < 65_000
}

/// Whether a head is few vectors, four at a time, and stored as it is.
fn suits_rows(head_dim: usize, format: CacheFormat) -> bool {
    head_dim.is_multiple_of(16) && head_dim <= 128 && format.hadamard(head_dim) == 1
}

/// How the attention of a decode step is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DecodeAttention {
    pub(crate) head_dim: usize,
    pub(crate) normed: bool,
    pub(crate) cache: CacheFormat,
    /// Shares of the positions, a workgroup each.
    pub(crate) shares: u32,
    /// Query heads of a key/value head.
    pub(crate) group: usize,
    pub(crate) attend: Attend,
}

/// Workgroups that a decode step's attention is cut into on a GPU, about.
const ATTENTION_GROUPS: usize = 2048;
/// Largest number of shares, and lanes that sum them.
const MOST_SHARES: usize = 64;
const SHARES_LANES: u32 = 256;

impl DecodeAttention {
    /// Whether a workgroup has memory for queries, k and v.
    pub(crate) fn fits(heads: &Heads) -> bool {
        Attend::bytes(MOST_QUERIES, MOST_QUERIES + 2, heads.head_dim) <= FLOOR_BYTES as usize
    }

    fn of(heads: &Heads, normed: bool, cache: &Cache, capabilities: &Capabilities) -> Self {
        let group = heads.heads / heads.kv_heads;
        let attend = Attend::of(group.div_ceil(group.div_ceil(MOST_QUERIES)), heads.head_dim, capabilities);
        let tiles = cache.context.div_ceil(attend.lanes as usize);
        let shares = match capabilities.software {
            true => 1,
            false => (ATTENTION_GROUPS / heads.kv_heads).clamp(1, MOST_SHARES).min(tiles),
        };
        Self { head_dim: heads.head_dim, normed, cache: cache.format, shares: shares as u32, group, attend }
    }

    /// Rotations, cache writes and the shares.
    pub(crate) fn module(self, capabilities: &Capabilities) -> Module {
        let Self { head_dim, normed, cache, shares, group, attend } = self;
        let (kernel, held) = ("kernels/decode_attention.wgsl", attend.queries + 2);
        let mut module = cache_module("decode_attention", kernel, head_dim, normed, cache, held);
        module.parts.push("lib/shares.wgsl");
        module.constants.extend([("SHARES", Constant::U32(shares)), ("TILE", attend.lanes.into())]);
        module.constants.push(("GROUP", (group as u32).into()));
        attend.link(module, capabilities)
    }

    /// What makes one result of the shares.
    pub(crate) fn sum_module(self) -> Module {
        let kernel = "kernels/attention_shares.wgsl";
        let mut module = heads_module("attention_shares", kernel, self.head_dim, self.cache, 1);
        module.parts.push("lib/shares.wgsl");
        module.constants.extend([
            ("SHARES", Constant::U32(self.shares)),
            ("LANES", SHARES_LANES.into()),
            ("TILE", self.attend.lanes.into()),
        ]);
        module
    }

    /// Bytes of all shares' results.
    fn bytes(self, heads: usize) -> u64 {
        if self.shares == 1 { 0 } else { (heads * self.shares as usize * (self.head_dim + 4) * 4) as u64 }
    }
}

/// Codes of activations.
pub(crate) fn quantize_module(int8: bool, dynamic: bool, outliers: bool) -> Module {
    let mut module = module("quantize", "kernels/quantize.wgsl");
    module.parts.push("lib/quotient.wgsl");
    let slots = [("INT8", int8), ("DYNAMIC", dynamic), ("OUTLIERS", outliers)];
    module.constants.extend(slots.map(|(name, on)| (name, Constant::Bool(on))));
    module
}

/// Columns with outliers.
pub(crate) fn outliers_module(rows: Rows) -> Module {
    let mut module = module("outliers", "kernels/outliers.wgsl");
    module.constants.push(("HEAD", (rows == Rows::Head).into()));
    module.parts.push("lib/step.wgsl");
    module
}

/// x ⊙ a vector.
pub(crate) fn scale_module() -> Module {
    module("scale", "kernels/scale.wgsl")
}

/// How shaders call an activation.
fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::SquaredRelu => 3,
        Activation::Clamped { .. } => 4,
    }
}

/// The bound of an activation that has one.
fn activation_limit(activation: Activation) -> f32 {
    if let Activation::Clamped { limit } = activation { limit } else { 0.0 }
}

/// activation(gate)·up.
pub(crate) fn glu_module(activation: Activation, gated: bool) -> Module {
    let mut module = module("glu", "kernels/glu.wgsl");
    let number = activation_number(activation);
    module.constants.extend([("ACTIVATION", Constant::U32(number)), ("GATED", gated.into())]);
    module.parts.extend(["lib/activation.wgsl", "lib/tanh.wgsl"]);
    module
}

/// The largest logits.
pub(crate) fn top_k_module() -> Module {
    module("top_k", "kernels/top_k.wgsl")
}

/// The largest logit.
pub(crate) fn argmax_module(capabilities: &Capabilities) -> Module {
    let mut module = module("argmax", "kernels/argmax.wgsl");
    let lanes = if capabilities.software { 256 } else { capabilities.invocations.clamp(256, 1024) };
    let lanes = 1 << lanes.ilog2();
    module.constants.push(("LANES", lanes.into()));
    module.invocations = beyond_floor(lanes);
    module
}

/// A Hadamard transform, for every way the slots can be filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HadamardSlots {
    /// Runs of x.
    runs: usize,
    /// Runs that are mixed: all, or 1, when each is a transform of its own.
    order: usize,
    /// Values of a run.
    length: usize,
    /// The mix is of numbers.
    dense: bool,
    before: bool,
    after: bool,
    add: bool,
    /// Of an RMSNorm's result.
    normed: bool,
}

/// Values of a run before which a norm has lanes to be reduced over, and workgroup memory to do it in.
const NORMED_RUNS: Range<usize> = 16..hadamard::MAX_RUN;

impl HadamardSlots {
    /// What tells modules apart.
    fn suffix(self) -> String {
        let slots = [
            (self.dense, " dense"),
            (self.before, " before"),
            (self.after, " after"),
            (self.add, " add"),
            (self.normed, " normed"),
        ];
        format!(" {} × {}{}", self.order, self.length, filled(&slots))
    }

    /// Vectors of four in a run.
    fn quads(self) -> usize {
        self.length.div_ceil(4)
    }

    /// Lanes of a GPU that share a mixed quad, each with eight runs or more.
    fn sharers(self, capabilities: &Capabilities) -> usize {
        let most = self.order.div_ceil(8).min(256 / self.quads().min(256));
        if capabilities.software { 1 } else { 1 << most.ilog2() }
    }

    /// Runs that a workgroup makes: on a CPU, where barriers are dear, an eighth of all.
    fn runs_at_once(self, capabilities: &Capabilities) -> usize {
        let most = (self.runs / 8).clamp(1, 256 / self.quads().min(256));
        if capabilities.software { 1 << most.ilog2() } else { 1 }
    }

    pub(crate) fn module(self, capabilities: &Capabilities) -> Module {
        let mut module = module("hadamard", "kernels/hadamard.wgsl");
        module.parts.push("lib/walsh.wgsl");
        let (runs, sharers) = (self.runs_at_once(capabilities), self.sharers(capabilities));
        let lanes = (self.quads() * runs * sharers).min(256) as u32;
        module.constants.extend([
            ("ORDER", Constant::U32(self.order as u32)),
            ("LENGTH", (self.length as u32).into()),
            ("ROOM", ((self.quads() * runs * sharers) as u32).into()),
            ("RUNS", (runs as u32).into()),
            ("SHARERS", (sharers as u32).into()),
            ("DENSE", self.dense.into()),
            ("BEFORE", self.before.into()),
            ("AFTER", self.after.into()),
            ("ADD", self.add.into()),
        ]);
        if self.normed {
            module.parts.push("lib/runs_normed.wgsl");
            return with_reduction_of(lanes, module, capabilities);
        }
        module.parts.push("lib/runs_plain.wgsl");
        module.constants.push(("LANES", lanes.into()));
        module
    }
}

/// The uniform of products and gathers.
fn product_params(codec: &dyn Codec, part: &Part, x_cols: usize, out_cols: usize, offset: usize) -> Vec<u32> {
    let shape = part.shape;
    let mut sections: Vec<u32> = shape.section_offsets(codec).into_iter().map(|o| o as u32).collect();
    sections.resize(8, 0);
    let mut params = vec![
        shape.rows as u32,
        shape.padded_rows() as u32,
        shape.cols as u32,
        shape.cols.div_ceil(UNIT) as u32,
        (x_cols / 4) as u32,
        out_cols as u32,
        offset as u32,
        part.first_row as u32,
    ];
    params.extend(sections);
    params
}

fn codec_buffers(part: &Part) -> Vec<(u32, &wgpu::Buffer)> {
    part.buffers().enumerate().map(|(i, b)| (i as u32, b)).collect()
}

/// Whether a decode step's product with `matrix` can norm its activations.
pub(crate) fn normed_fits(matrix: &Matrix, capabilities: &Capabilities) -> bool {
    let suits = |part: &Part| {
        let spread = Spread::choose(capabilities, &*matrix.codec, part.shape, 1, true);
        matches!(spread, Spread::Floats { .. } | Spread::Fixed { .. })
    };
    matrix.shape.cols.is_multiple_of(4) && matrix.parts().iter().all(suits)
}

/// Whether a decode step's product with `matrix` can do what `transform` does to its activations before it: scale them, or
/// rotate blocks of them.
pub(crate) fn transform_fits(transform: &Op, matrix: &Matrix, capabilities: &Capabilities) -> bool {
    let cols = matrix.shape.cols;
    let of_floats = |part: &Part| {
        let spread = |gated| Spread::choose(capabilities, &*matrix.codec, part.shape, 1, gated);
        [false, true].map(spread).iter().all(|spread| matches!(spread, Spread::Floats { .. }))
    };
    match transform {
        Op::Scale { x, by, .. } => {
            x.cols.is_multiple_of(4) && by.cols >= cols && normed_fits(matrix, capabilities)
        }
        Op::Hadamard { plan, width, after: None, offset: 0, add: false, .. } => {
            let Plan { n, run, mix, .. } = &plan.plan;
            let blocks = *mix == Mix::None && (4..=FLOAT_UNITS as usize * UNIT).contains(run);
            blocks && *n == cols && *width == cols && matrix.parts().iter().all(of_floats)
        }
        _ => false,
    }
}

/// Whether a transform can norm what it reads: a workgroup of it reads all of it.
pub(crate) fn normed_transform(transform: &Transform) -> bool {
    let Transform { plan, mix } = transform;
    (mix.is_some() || plan.runs == 1) && NORMED_RUNS.contains(&plan.run)
}

/// Buffers that are bound where an op has none.
#[derive(Clone, Copy)]
pub(crate) struct Spare<'a> {
    /// For slots that are not used.
    pub(crate) unused: &'a wgpu::Buffer,
    /// Of [`scratch_bytes`], for what goes from one dispatch of an op to the next.
    pub(crate) scratch: &'a wgpu::Buffer,
}

/// Bytes that must be there for the dispatches of an op to share.
pub(crate) fn scratch_bytes(fused: &Fused<'_>, capabilities: &Capabilities) -> u64 {
    match fused {
        Fused::Attention { rope: Op::Rope { heads, norms, cache, .. }, .. } => {
            DecodeAttention::of(heads, norms.is_some(), cache, capabilities).bytes(heads.heads)
        }
        Fused::One(Op::Product { int8: false, matrix, out, .. }) => {
            let bytes = |part: &Part| {
                let spread = Spread::choose(capabilities, &*matrix.codec, part.shape, out.rows, false);
                out.rows * spread.prepared_bytes(matrix.shape.cols)
            };
            matrix.parts().iter().map(bytes).max().unwrap_or(0) as u64
        }
        _ => 0,
    }
}

/// The dispatches of ops that are done together.
pub(crate) fn lower<'a>(
    fused: &Fused<'a>,
    step: &'a Tensor,
    spare: Spare<'a>,
    capabilities: &Capabilities,
) -> Result<Vec<Lowered<'a>>> {
    match *fused {
        Fused::One(op @ Op::Product { int8: false, .. }) => {
            lower_product([None, None, Some(op), None], step, spare, capabilities)
        }
        Fused::Hadamard { norm, hadamard } => {
            lower_hadamard(Some(norm), hadamard, spare.unused, capabilities)
        }
        Fused::One(op) => lower_one(op, step, spare.unused, capabilities),
        Fused::Product { norm, transform, product, glu } => {
            lower_product([norm, transform, Some(product), glu], step, spare, capabilities)
        }
        Fused::Attention { rope, attention } => lower_attention(rope, attention, step, spare, capabilities),
    }
}

/// The dispatches of one op.
fn lower_one<'a>(
    op: &'a Op,
    step: &'a Tensor,
    unused: &'a wgpu::Buffer,
    capabilities: &Capabilities,
) -> Result<Vec<Lowered<'a>>> {
    let or_unused = |t: &'a Option<Tensor>| t.as_ref().map_or(Ok(unused), Tensor::gpu);
    let mut all = Vec::new();
    match op {
        Op::Gather { table, index, out } => {
            for part in table.parts() {
                let mut buffers = codec_buffers(part);
                buffers.extend([(5, out.gpu()?), (6, step.gpu()?)]);
                all.push(Lowered {
                    module: gather_module(&*table.codec, *index),
                    buffers,
                    params: product_params(&*table.codec, part, 0, out.cols / 4, 0),
                    grid: Grid::each(part.shape.cols.div_ceil(8 * 64), Rows::Tokens),
                });
            }
        }
        Op::LayerNorm { rows, x, offset, width, centered, weight, bias, eps, out } => {
            // A buffer is bound for reading or for writing, not for both: in place x is read through y.
            let (from, to) = match out {
                Some(out) => (x.gpu()?, out.gpu()?),
                None => (unused, x.gpu()?),
            };
            all.push(Lowered {
                module: layer_norm_module(*rows, *centered, bias.is_some(), out.is_none(), capabilities),
                buffers: vec![
                    (4, from),
                    (5, to),
                    (6, step.gpu()?),
                    (7, weight.gpu()?),
                    (8, or_unused(bias)?),
                ],
                params: vec![*width as u32, x.cols as u32, *offset as u32, eps.to_bits()],
                grid: Grid::each(weight.cols / width, *rows),
            });
        }
        Op::ExpertProduct { matrix, first, n, x, shared, permutation, bias, routes, out, offset, add } => {
            let codec = &*matrix.codec;
            for part in matrix.parts() {
                let split = if capabilities.software { 1 } else { lanes_a_row(part.shape.cols) };
                let ragged = !part.shape.cols.is_multiple_of(UNIT);
                let slots = [*add, bias.is_some(), permutation.is_some(), ragged];
                let mut buffers = codec_buffers(part);
                buffers.extend([(4, x.gpu()?), (5, out.gpu()?), (6, routes.ids.gpu()?)]);
                buffers.extend([(7, or_unused(permutation)?), (8, or_unused(bias)?)]);
                all.push(Lowered {
                    module: expert_module(codec, (*n, *shared, *first), slots, split),
                    buffers,
                    params: product_params(codec, part, x.cols, out.cols, *offset),
                    grid: Grid::each(n / TILE, Rows::Chosen(routes.ids.cols)),
                });
            }
        }
        Op::Route { logits, normalized, routes } => all.push(Lowered {
            module: route_module(capabilities),
            buffers: vec![(4, logits.gpu()?), (5, routes.ids.gpu()?), (7, routes.weights.gpu()?)],
            params: vec![logits.cols as u32, routes.ids.cols as u32, u32::from(*normalized)],
            grid: Grid::each(1, Rows::Tokens),
        }),
        Op::Combine { x, routes, out, add } => all.push(Lowered {
            module: combine_module(*add),
            buffers: vec![(4, x.gpu()?), (5, out.gpu()?), (7, routes.weights.gpu()?)],
            params: vec![out.cols as u32, x.cols as u32, routes.weights.cols as u32],
            grid: Grid::each(out.cols.div_ceil(64), Rows::Tokens),
        }),
        Op::SoftCap { rows, x, cap } => all.push(Lowered {
            module: softcap_module(),
            buffers: vec![(5, x.gpu()?)],
            params: vec![x.cols as u32, cap.to_bits()],
            grid: Grid::each(x.cols.div_ceil(64), *rows),
        }),
        Op::RmsNorm { rows, x, weight, eps, out, add } => all.push(Lowered {
            module: rms_norm_module(*rows, *add, x.cols, capabilities),
            buffers: vec![(4, x.gpu()?), (5, out.gpu()?), (6, step.gpu()?), (7, weight.gpu()?)],
            params: vec![x.cols as u32, eps.to_bits()],
            grid: Grid(Count::Rows(*rows, 1), Count::Fixed(1)),
        }),
        Op::Outliers { rows, x, cols, threshold, out } => all.push(Lowered {
            module: outliers_module(*rows),
            buffers: vec![(4, x.gpu()?), (5, out.gpu()?), (6, step.gpu()?)],
            params: vec![*cols as u32, x.cols as u32, out.cols as u32, threshold.to_bits()],
            grid: Grid::fixed(cols.div_ceil(64), 1),
        }),
        Op::Quantize { rows, x, cols, scheme, outliers, out } => {
            let run = scheme.run.min(*cols);
            let (dynamic, top, given) = match scheme.scale {
                ActivationScale::Dynamic { top, floor } => (true, top, floor),
                ActivationScale::Static(scale) => (false, 1.0, scale),
            };
            all.push(Lowered {
                module: quantize_module(scheme.code == ActivationCode::Int8, dynamic, outliers.is_some()),
                buffers: vec![(4, x.gpu()?), (5, out.gpu()?), (7, or_unused(outliers)?)],
                params: vec![
                    *cols as u32,
                    run as u32,
                    x.cols as u32,
                    out.cols as u32,
                    top.to_bits(),
                    given.to_bits(),
                    outliers.as_ref().map_or(0, |outliers| outliers.cols) as u32,
                ],
                grid: Grid::each(cols.div_ceil(run), *rows),
            });
        }
        Op::Hadamard { .. } => return lower_hadamard(None, op, unused, capabilities),
        // Of integers: all others are for `lower_product`.
        Op::Product { rows, matrix, x, bias, out, offset, add, .. } => {
            let slots = ProductSlots { add: *add, biased: bias.is_some(), ..ProductSlots::plain(*rows) };
            let codec = &*matrix.codec;
            let (batch, split) = int8_variant(capabilities, out.rows);
            for part in matrix.parts() {
                let mut buffers = codec_buffers(part);
                buffers.extend([(4, x.gpu()?), (5, out.gpu()?), (6, step.gpu()?), (8, or_unused(bias)?)]);
                all.push(Lowered {
                    module: slots.int8(codec, batch, split),
                    buffers,
                    // The kernel counts x in words, not in runs of four.
                    params: product_params(codec, part, 4 * x.cols, out.cols, offset + part.first_row),
                    grid: Grid(
                        Count::Fixed(part.shape.rows.div_ceil(TILE) as u32),
                        Count::Rows(*rows, batch),
                    ),
                });
            }
        }
        Op::Sparse { rows, offsets, entries, x, out, offset } => {
            let n = offsets.cols - 1;
            let sizes = [n, n, x.cols, x.cols.div_ceil(UNIT), x.cols / 4, out.cols, *offset];
            let mut params: Vec<u32> = sizes.map(|size| size as u32).to_vec();
            params.resize(12, 0);
            all.push(Lowered {
                module: sparse_module(),
                buffers: vec![(0, offsets.gpu()?), (1, entries.gpu()?), (4, x.gpu()?), (5, out.gpu()?)],
                params,
                grid: Grid::each(n.div_ceil(64), *rows),
            });
        }
        Op::Scale { rows, x, by, out } => all.push(Lowered {
            module: scale_module(),
            buffers: vec![(4, x.gpu()?), (5, out.gpu()?), (7, by.gpu()?)],
            params: vec![by.cols as u32, x.cols as u32, out.cols as u32],
            grid: Grid::each(by.cols.div_ceil(64), *rows),
        }),
        Op::Rope { heads, qkv, norms, cache, .. } => {
            let mut buffers = rope_buffers(op, unused)?;
            buffers.extend([(5, qkv.gpu()?), (6, step.gpu()?)]);
            buffers.extend([(7, cache.keys.gpu()?), (8, cache.values.gpu()?)]);
            all.push(Lowered {
                module: rope_module(heads.head_dim, norms.is_some(), cache.format, capabilities),
                buffers,
                params: heads_params(op),
                grid: Grid::each(heads.heads + 2 * heads.kv_heads, Rows::Tokens),
            });
        }
        Op::Attention { heads, qkv, cache, window, sinks, out, .. } => {
            let (module, grid) = match attends_by_rows(heads.head_dim, cache, *window, capabilities) {
                true => (
                    attention_rows_module(heads.head_dim, cache.format),
                    Grid(Count::Fixed(heads.heads as u32), Count::Rows(Rows::Tokens, ATTENTION_TOKENS)),
                ),
                false => {
                    let attend = Attend::of_tokens(heads.head_dim, capabilities);
                    let tokens = Count::Rows(Rows::Tokens, attend.queries as u32);
                    (
                        attention_module(heads.head_dim, cache.format, attend, capabilities),
                        Grid(Count::Fixed(heads.heads as u32), tokens),
                    )
                }
            };
            all.push(Lowered {
                module,
                buffers: vec![
                    (0, unused),
                    (1, or_unused(sinks)?),
                    (4, qkv.gpu()?),
                    (5, out.gpu()?),
                    (6, step.gpu()?),
                    (7, cache.keys.gpu()?),
                    (8, cache.values.gpu()?),
                ],
                params: heads_params(op),
                grid,
            });
        }
        Op::Glu { rows, activation, x, gate, up, out } => {
            let columns = [out.cols, x.cols, *gate, up.unwrap_or(0)].map(|n| n as u32);
            all.push(Lowered {
                module: glu_module(*activation, up.is_some()),
                buffers: vec![(4, x.gpu()?), (5, out.gpu()?)],
                params: columns.into_iter().chain([activation_limit(*activation).to_bits()]).collect(),
                grid: Grid::each(out.cols.div_ceil(64), *rows),
            });
        }
        Op::TopK { logits, out } => all.push(Lowered {
            module: top_k_module(),
            buffers: vec![(4, logits.gpu()?), (5, out.gpu()?)],
            params: vec![logits.cols as u32, out.cols as u32 / 2],
            grid: Grid::fixed(1, 1),
        }),
        Op::Argmax { logits, step } => all.push(Lowered {
            module: argmax_module(capabilities),
            buffers: vec![(4, logits.gpu()?), (5, step.gpu()?)],
            params: vec![logits.cols as u32, crate::ops::STEP_HEADER as u32],
            grid: Grid::fixed(1, 1),
        }),
    }
    Ok(all)
}

/// A Hadamard transform, with the norm before it if there is one.
fn lower_hadamard<'a>(
    norm: Option<&'a Op>,
    hadamard: &'a Op,
    unused: &'a wgpu::Buffer,
    capabilities: &Capabilities,
) -> Result<Vec<Lowered<'a>>> {
    let Op::Hadamard { rows, plan, x, before, after, out, offset, width, add } = hadamard else {
        return Err(Error::invalid("no transform to lower"));
    };
    let Transform { plan, mix } = &**plan;
    let or_unused = |t: &'a Option<Tensor>| t.as_ref().map_or(Ok(unused), Tensor::gpu);
    let (x, weight, eps) = normed(norm, x, unused)?;
    let slots = HadamardSlots {
        runs: plan.runs,
        order: if mix.is_some() { plan.runs } else { 1 },
        length: plan.run,
        dense: matches!(plan.mix, Mix::Dense(_)),
        before: before.is_some(),
        after: after.is_some(),
        add: *add,
        normed: norm.is_some(),
    };
    let [x_stride, y_stride, offset, wide] = [x.cols, out.cols, *offset, *width].map(|n| n as u32);
    Ok(vec![Lowered {
        module: slots.module(capabilities),
        buffers: vec![
            (0, or_unused(mix)?),
            (4, x.gpu()?),
            (5, out.gpu()?),
            (7, or_unused(before)?),
            (8, or_unused(after)?),
            (9, weight),
        ],
        params: vec![x_stride, y_stride, offset, plan.scale.to_bits(), wide, plan.runs as u32, eps.to_bits()],
        grid: Grid::each(width.div_ceil(plan.run * slots.runs_at_once(capabilities)), *rows),
    }])
}

/// What an op reads in whose place a norm stands: the norm's own x, its weight and epsilon.
fn normed<'a>(
    norm: Option<&'a Op>,
    x: &'a Tensor,
    unused: &'a wgpu::Buffer,
) -> Result<(&'a Tensor, &'a wgpu::Buffer, f32)> {
    Ok(match norm {
        Some(Op::RmsNorm { x, weight, eps, .. }) => (x, weight.gpu()?, *eps),
        _ => (x, unused, 0.0),
    })
}

/// The dispatches of [norm, transform, product, gated activation], of which the product is there.
fn lower_product<'a>(
    [norm, transform, product, glu]: [Option<&'a Op>; 4],
    step: &'a Tensor,
    Spare { unused, scratch }: Spare<'a>,
    capabilities: &Capabilities,
) -> Result<Vec<Lowered<'a>>> {
    let Some(Op::Product { rows, matrix, x, permutation, bias, out, offset, add, .. }) = product else {
        return Err(Error::invalid("no product to lower"));
    };
    let or_unused = |t: &'a Option<Tensor>| t.as_ref().map_or(Ok(unused), Tensor::gpu);
    // What it reads and writes in their stead.
    let (x, scales, rotated) = match transform {
        Some(Op::Scale { x, by, .. }) => (x, Some(by), 1),
        Some(Op::Hadamard { x, before, plan, .. }) => (x, before.as_ref(), plan.plan.run),
        _ => (x, None, 1),
    };
    let (x, weight, eps) = normed(norm, x, unused)?;
    let (out, width, gated, [gate, up]) = match glu {
        Some(Op::Glu { activation, gate, up: Some(up), out, .. }) => {
            (out, Some(out.cols), Some(*activation), [*gate, *up])
        }
        _ => (out, None, None, [0, 0]),
    };
    let codec = &*matrix.codec;
    let mut all = Vec::new();
    for part in matrix.parts() {
        let spread = Spread::choose(capabilities, codec, part.shape, out.rows, gated.is_some());
        let slots = ProductSlots {
            add: *add,
            biased: bias.is_some(),
            permuted: permutation.is_some(),
            rows: *rows,
            ragged: !part.shape.cols.is_multiple_of(UNIT),
            normed: norm.map(|_| part.shape.cols),
            scaled: scales.is_some(),
            rotated,
            gated,
            rounded: has_bytes(capabilities) && matches!(spread, Spread::Fixed { .. }),
        };
        let (block_rows, block_tokens) = spread.block();
        let mut params = product_params(codec, part, x.cols, out.cols, offset + part.first_row);
        let limit = gated.map_or(0.0, activation_limit);
        params.extend([eps.to_bits(), gate as u32, up as u32, limit.to_bits()]);
        let groups = match width {
            Some(width) => {
                params[0] = width as u32; // rows that are written
                width.div_ceil(block_rows / 2)
            }
            None => part.shape.rows.div_ceil(block_rows),
        };
        let mut buffers = codec_buffers(part);
        buffers.extend([(4, x.gpu()?), (5, out.gpu()?), (6, step.gpu()?)]);
        let columns = scales.map_or_else(|| or_unused(permutation), Tensor::gpu)?;
        buffers.extend([(7, columns), (8, or_unused(bias)?), (9, weight)]);
        if spread.prepared_bytes(part.shape.cols) > 0 {
            if all.is_empty() {
                let mut buffers = buffers.clone();
                buffers.retain(|&(binding, _)| binding >= 4);
                buffers.iter_mut().filter(|(binding, _)| *binding == 9).for_each(|(_, b)| *b = scratch);
                let (module, count) = match spread {
                    Spread::Bytes => (slots.bytes(), part.shape.cols.div_ceil(UNIT).div_ceil(32)),
                    _ => (slots.halves(), 1),
                };
                let grid = Grid::each(count, *rows);
                all.push(Lowered { module, buffers, params: params.clone(), grid });
            }
            buffers.iter_mut().filter(|(binding, _)| *binding == 4).for_each(|(_, b)| *b = scratch);
        }
        all.push(Lowered {
            module: slots.module(codec, spread),
            buffers,
            params,
            grid: Grid(Count::Fixed(groups as u32), Count::Rows(*rows, block_tokens)),
        });
    }
    Ok(all)
}

/// The dispatches of a decode step's rotations and attention.
fn lower_attention<'a>(
    rope: &'a Op,
    attention: &'a Op,
    step: &'a Tensor,
    Spare { unused, scratch }: Spare<'a>,
    capabilities: &Capabilities,
) -> Result<Vec<Lowered<'a>>> {
    let (Op::Rope { heads, qkv, norms, cache, .. }, Op::Attention { sinks, out, .. }) = (rope, attention)
    else {
        return Err(Error::invalid("no attention to lower"));
    };
    let plan = DecodeAttention::of(heads, norms.is_some(), cache, capabilities);
    let params: Vec<u32> =
        heads_params(rope).iter().zip(heads_params(attention)).map(|(a, b)| a | b).collect();
    let target = if plan.shares > 1 { scratch } else { out.gpu()? };
    let mut buffers = rope_buffers(rope, unused)?;
    if let Some(sinks) = sinks {
        buffers[1].1 = sinks.gpu()?;
    }
    buffers.extend([(5, target), (6, step.gpu()?), (7, cache.keys.gpu()?), (8, cache.values.gpu()?)]);
    buffers.push((9, qkv.gpu()?));
    let mut all = vec![Lowered {
        module: plan.module(capabilities),
        buffers,
        params: params.clone(),
        grid: Grid::fixed(heads.kv_heads * plan.group.div_ceil(plan.attend.queries), plan.shares as usize),
    }];
    if plan.shares > 1 {
        all.push(Lowered {
            module: plan.sum_module(),
            buffers: vec![(4, scratch), (5, out.gpu()?), (6, step.gpu()?)],
            params,
            grid: Grid::fixed(heads.heads, 1),
        });
    }
    Ok(all)
}

/// The uniform of attention's kernels, as far as `op` knows it: 0 is what it does not know.
fn heads_params(op: &Op) -> Vec<u32> {
    let (Op::Rope { heads, qkv, cache, .. } | Op::Attention { heads, qkv, cache, .. }) = op else {
        return Vec::new();
    };
    let [q, k, v] = heads.offsets;
    let sizes = [heads.heads, heads.kv_heads, qkv.cols, q, k, v, cache.context];
    let mut params: Vec<u32> = sizes.map(|size| size as u32).to_vec();
    params.extend(match op {
        Op::Rope { rotations, interleaved, norms, .. } => {
            let eps = norms.as_ref().map_or(0.0, |n| n.2);
            let planes = rotations.as_ref().map_or(0, |r| r.cols as u32 / 2);
            [eps.to_bits(), planes, u32::from(*interleaved), 0, 0, 0, 0]
        }
        Op::Attention { window, scale, softcap, sinks, .. } => {
            let window = window.map_or(u32::MAX, |w| w as u32);
            let softcap = softcap.unwrap_or(0.0);
            [0, 0, 0, window, scale.to_bits(), softcap.to_bits(), u32::from(sinks.is_some())]
        }
        _ => [0; 7],
    });
    params
}

/// Bindings 0 to 2 of what rotates heads.
fn rope_buffers<'a>(op: &'a Op, unused: &'a wgpu::Buffer) -> Result<Vec<(u32, &'a wgpu::Buffer)>> {
    let Op::Rope { rotations, norms, .. } = op else { return Ok(Vec::new()) };
    let rotations = rotations.as_ref().map_or(Ok(unused), Tensor::gpu)?;
    let (q_norm, k_norm) = match norms {
        Some((q, k, _)) => (q.gpu()?, k.gpu()?),
        None => (unused, unused),
    };
    Ok(vec![(0, rotations), (1, q_norm), (2, k_norm)])
}

/// Head sizes of the models there are, and those that `verify` draws.
pub const HEAD_DIMS: [usize; 16] = [4, 8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 128, 160, 192, 256];
/// Of integers a few will do: blocks of the transform from 4 to 256 channels, a last word that is full or half full.
const INTEGER_HEAD_DIMS: [usize; 6] = [4, 20, 64, 80, 128, 256];

/// Those that `verify` draws and [`all_modules`] has.
pub(crate) fn head_dims(cache: CacheFormat) -> &'static [usize] {
    if cache.code_bits().is_some() { &INTEGER_HEAD_DIMS } else { &HEAD_DIMS }
}

/// Columns of the products with a norm that [`all_modules`] has.
const NORMED_COLS: usize = 132;
/// Rows of an expert, and (rows that share one of x, first expert), as `verify` has them.
pub(crate) const EXPERT_ROWS: usize = 64;
pub(crate) const EXPERT_SHARES: [(usize, usize); 2] = [(3, 0), (1, 3)];
/// Up to this size [`all_modules`] has every Hadamard transform; 57344 is the largest of a known model.
const LARGEST_HADAMARD: usize = 1 << 16;

/// Every module that `lower` asks for: codecs × kernels × slots × capabilities, under names that differ.
pub fn all_modules() -> Vec<Module> {
    modules(true)
}

/// Of [`all_modules`] those that a compiler may judge differently: a product's slots and spreads do not touch the
/// code of its codec, so all of them go with the first codec of each family only.
/// The tests that compile shaders without a GPU walk this list, and so does the browser's.
pub fn distinct_modules() -> Vec<Module> {
    modules(false).into_iter().filter(|module| !module.needs_matrix_units()).collect()
}

/// Of [`all_modules`] those for matrix units, which are Vulkan's alone.
pub fn matrix_modules() -> Vec<Module> {
    modules(false).into_iter().filter(Module::needs_matrix_units).collect()
}

fn modules(every_slot: bool) -> Vec<Module> {
    let mut all = Vec::new();
    let mut add = |suffix: String, mut module: Module| {
        module.name.push_str(&suffix);
        all.push(module);
    };
    for (i, codec) in CODECS.iter().flat_map(|family| (family.samples)().into_iter().enumerate()) {
        let codec = &*codec;
        add(String::new(), gather_module(codec, Index::Token));
        add(" of positions".into(), gather_module(codec, Index::Position(2)));
        for (biased, (shared, first)) in [(true, EXPERT_SHARES[0]), (false, EXPERT_SHARES[1])] {
            for split in
                [1, 2, 4, 8].into_iter().filter(|&split| every_slot || i == 0 || biased && split == 1)
            {
                let slots = [!biased, biased, !biased, biased];
                let module = expert_module(codec, (EXPERT_ROWS, shared, first), slots, split);
                add(format!(" biased {biased}, split {split}"), module);
            }
        }
        for bits in (0..16u32).filter(|&bits| every_slot || i == 0 || bits == 0) {
            let rows = if bits & 8 > 0 { Rows::Head } else { Rows::Tokens };
            let (added, biased, permuted) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            let slots =
                ProductSlots { add: added, biased, permuted, ragged: added, ..ProductSlots::plain(rows) };
            for spread in Spread::ALL.into_iter().filter(|&spread| codec_suits(codec, spread)) {
                // A matvec is the same for head rows.
                if rows == Rows::Tokens || spread.block().1 > 1 {
                    add(format!("{} {rows:?} {spread:?}", slots.suffix()), slots.module(codec, spread));
                }
            }
            for (batch, split) in
                INT8_VARIANTS.into_iter().filter(|_| codec.has_integers() && !slots.permuted)
            {
                let suffix = format!("{} {rows:?} batch {batch}, split {split}", slots.suffix());
                add(suffix, slots.int8(codec, batch, split));
            }
        }
    }
    for bits in 0..16u32 {
        let [added, biased, permuted, ragged] = [1, 2, 4, 8].map(|bit| bits & bit > 0);
        let slots =
            ProductSlots { add: added, biased, permuted, ragged, ..ProductSlots::plain(Rows::Tokens) };
        add(String::new(), slots.halves());
        add(String::new(), slots.bytes());
    }
    // With what may be fused with them.
    for (i, codec) in CODECS.iter().flat_map(|family| (family.samples)().into_iter().enumerate()) {
        for (normed, gated, marked) in [(true, false, true), (false, true, true), (true, true, false)] {
            let slots = ProductSlots {
                biased: marked,
                permuted: marked,
                normed: normed.then_some(NORMED_COLS),
                gated: gated.then_some(Activation::Silu),
                ..ProductSlots::plain(Rows::Tokens)
            };
            let norms = |spread| !matches!(spread, Spread::Matvec { .. });
            let suits = |&spread: &Spread| {
                codec_suits(&*codec, spread) && (every_slot || i == 0) && (!normed || norms(spread))
            };
            for spread in Spread::FUSED.into_iter().filter(suits) {
                add(format!("{} {spread:?}", slots.suffix()), slots.module(&*codec, spread));
            }
        }
        let staged = [
            Spread::Floats { tiles: 2, split: 16, abreast: 2 },
            Spread::Fixed { tiles: 2, split: 16, abreast: 2 },
        ];
        for spread in
            staged.into_iter().filter(|&spread| codec_suits(&*codec, spread) && (every_slot || i == 0))
        {
            for (normed, rotated) in [(false, 1), (true, 1), (false, 128), (true, 128)] {
                let normed = normed.then_some(NORMED_COLS);
                let rounded = rotated == 1 && spread != staged[0]; // a few of either will do
                let slots = ProductSlots {
                    normed,
                    scaled: true,
                    rotated,
                    rounded,
                    ..ProductSlots::plain(Rows::Tokens)
                };
                if rotated == 1 || spread == staged[0] {
                    add(format!("{} {spread:?}", slots.suffix()), slots.module(&*codec, spread));
                }
            }
        }
    }
    for subgroups in [None, Some((4, 128))] {
        let capabilities = Capabilities { subgroups, ..Capabilities::FLOOR };
        let reduction = if subgroups.is_some() { " subgroups" } else { "" };
        for (rows, flag) in
            [Rows::Tokens, Rows::Head].into_iter().flat_map(|rows| [(rows, false), (rows, true)])
        {
            let suffix = format!(" {rows:?} {flag}{reduction}");
            for width in [64, 4096] {
                add(format!("{suffix} {width}"), rms_norm_module(rows, flag, width, &capabilities));
            }
            add(suffix.clone(), layer_norm_module(rows, true, flag, false, &capabilities));
            add(format!("{suffix} in place"), layer_norm_module(rows, flag, false, true, &capabilities));
        }
        add(reduction.into(), route_module(&capabilities));
        let sizes = |cache| head_dims(cache).iter().map(move |&head_dim| (head_dim, cache));
        for (head_dim, cache) in CacheFormat::ALL.into_iter().flat_map(sizes) {
            let suffix = format!(" {head_dim} {}{reduction}", cache.name());
            let alone = if subgroups.is_some() && head_dim <= 128 { 32 } else { LANES };
            for (queries, lanes) in [(1, LANES), (4, alone)] {
                let attend = Attend { queries, lanes };
                add(
                    format!("{suffix} of {queries}"),
                    attention_module(head_dim, cache, attend, &capabilities),
                );
            }
            if subgroups.is_none() && suits_rows(head_dim, cache) {
                add(suffix.clone(), attention_rows_module(head_dim, cache));
            }
            for (group, normed, shares) in [(1, false, 1), (1, true, 16), (3, false, 5), (3, true, 1)] {
                let attend = Attend { queries: group, lanes: if group == 1 { alone } else { LANES } };
                let plan = DecodeAttention { head_dim, normed, cache, shares, group, attend };
                let suffix = format!("{suffix}, group {group}, shares {shares}");
                add(suffix.clone(), plan.module(&capabilities));
                if shares > 1 {
                    add(suffix, plan.sum_module());
                }
            }
            let cpu = Capabilities { software: true, subgroups: Some((8, 8)), ..Capabilities::FLOOR };
            for normed in [false, true] {
                let suffix = format!("{suffix} normed {normed}");
                add(suffix.clone(), rope_module(head_dim, normed, cache, &capabilities));
                if subgroups.is_some() {
                    add(format!("{suffix}, of a CPU"), rope_module(head_dim, normed, cache, &cpu));
                }
            }
        }
    }
    for bits in 0..8u32 {
        let (int8, dynamic, outliers) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
        let suffix = format!(" int8 {int8}, dynamic {dynamic}, outliers {outliers}");
        add(suffix, quantize_module(int8, dynamic, outliers));
    }
    for rows in [Rows::Tokens, Rows::Head] {
        add(format!(" {rows:?}"), outliers_module(rows));
    }
    add(String::new(), scale_module());
    add(String::new(), sparse_module());
    use Activation::{Clamped, GeluTanh, Relu, Silu, SquaredRelu};
    for activation in [Silu, GeluTanh, Relu, SquaredRelu, Clamped { limit: 7.0 }] {
        for gated in [true, false] {
            add(format!(" {activation:?} gated {gated}"), glu_module(activation, gated));
        }
    }
    for flag in [true, false] {
        add(format!(" add {flag}"), combine_module(flag));
    }
    add(String::new(), softcap_module());
    for invocations in [256, 1024] {
        let capabilities = Capabilities { invocations, ..Capabilities::FLOOR };
        add(format!(" {invocations} lanes"), argmax_module(&capabilities));
    }
    add(String::new(), top_k_module());
    super::probe::modules().into_iter().for_each(|module| add(String::new(), module));
    let alone = (0..).map(|m| 1 << m).take_while(|&length| length <= hadamard::MAX_RUN);
    let mut sizes: Vec<(usize, usize, bool)> = alone.map(|length| (1, length, false)).collect();
    sizes.extend(hadamard::mixes(LARGEST_HADAMARD).into_iter().map(|(order, length)| (order, length, false)));
    sizes.extend([(7, 64, true), (43, 256, true)]);
    let cpu = Capabilities { software: true, ..Capabilities::FLOOR };
    for (order, length, dense) in sizes {
        let plain = HadamardSlots {
            runs: if order == 1 { 16 } else { order }, // a CPU makes two at once
            order,
            length,
            dense,
            before: false,
            after: false,
            add: false,
            normed: false,
        };
        for bits in 0..8u32 {
            let [before, after, added] = [1, 2, 4].map(|bit| bits & bit > 0);
            let slots = HadamardSlots { before, after, add: added, ..plain };
            add(slots.suffix(), slots.module(&Capabilities::FLOOR));
            if slots.runs_at_once(&cpu) > 1 {
                add(slots.suffix() + " of a CPU", slots.module(&cpu));
            }
        }
        for subgroups in [None, Some((4, 128))].into_iter().filter(|_| NORMED_RUNS.contains(&length)) {
            let capabilities = Capabilities { subgroups, ..Capabilities::FLOOR };
            let slots = HadamardSlots { before: true, normed: true, ..plain };
            let reduction = if subgroups.is_some() { " subgroups" } else { "" };
            add(slots.suffix() + reduction, slots.module(&capabilities));
        }
    }
    all
}
