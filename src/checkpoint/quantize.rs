//! Unquantized weights, quantized while they are read: what bitsandbytes' `load_in_4bit` and `load_in_8bit` do.
//!
//! * [`Nf4`](Quantization::Nf4): blocks of 64 weights; `absmax` is the largest magnitude, a code the level of NF4 nearest
//!   to `w · (1 / absmax)` (QLoRA, Dettmers et al. 2023). Equal to bitsandbytes' own codes to the bit where 64 divides the
//!   rows: its blocks go on in the next row, ours begin anew.
//! * [`Int8`](Quantization::Int8): `q = round(w · ((1 / absmax) · 127))` of every row, ties to even (LLM.int8, 2022); activations
//!   as that has them, where they are quantized.
//! * [`Int4`](Quantization::Int4): groups of 32, `s = f16((max − min) / 15)`, `z = round(−min / s)`, `q = round(w / s) + z`,
//!   with 0 always between min and max. At 4.6 bits a weight closer than NF4 at 4.5, and than groups of 128 at 4.2.

use super::bitsandbytes::OUTLIERS;
use super::tensor::Grid;
use super::{BoxFuture, PieceSource, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::activations::Activations;
use crate::quant::int::{Int, Offset};
use crate::quant::lookup::{Lookup, NF4, Scales};
use crate::quant::{Codec, Extent, Kind, Piece, WHOLE_ROW, plain};
use std::str::FromStr;
use std::sync::Arc;

/// What unquantized weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 4.5 bits a weight, fit for weights of a normal distribution.
    Nf4,
    /// 8 bits a weight: next to no loss.
    Int8,
    /// 4.6 bits a weight, evenly spaced between the extremes of a group.
    Int4,
}

/// Names of all of them.
pub const QUANTIZATIONS: &[(&str, Quantization)] =
    &[("nf4", Quantization::Nf4), ("int8", Quantization::Int8), ("int4", Quantization::Int4)];

impl FromStr for Quantization {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = QUANTIZATIONS.iter().find(|(known, _)| *known == name);
        let unknown = || Error::invalid("quantization").expected("nf4, int8 or int4").found(name);
        found.map(|&(_, to)| to).ok_or_else(unknown)
    }
}

impl Quantization {
    /// Columns that share a scale.
    fn run(self) -> usize {
        match self {
            Self::Nf4 => 64,
            Self::Int8 => WHOLE_ROW,
            Self::Int4 => 32,
        }
    }

    fn codec(self) -> Result<Arc<dyn Codec>> {
        Ok(match self {
            Self::Nf4 => Lookup::new("nf4", NF4, self.run(), Scales::Float(Kind::F32))?,
            Self::Int8 => Int::divided(self.run(), Kind::F32, 127)?,
            Self::Int4 => Int::new(4, self.run(), Kind::F16, Offset::Zero)?,
        })
    }

    /// The same matrix, to be quantized as it is read; an error if it is already quantized.
    pub fn of(self, matrix: StoredMatrix) -> Result<StoredMatrix> {
        if matrix.codec.family().name != plain::FAMILY.name {
            return Err(Error::invalid("the weights are quantized already")
                .tensor(&matrix.name)
                .expected("f32, f16 or bf16")
                .found(matrix.format)
                .remedy("load it without --quantize, or quantize the model that it was made from"));
        }
        let kind = matrix.codec.fields()[0].kind;
        let (codec, rows, cols) = (self.codec()?, matrix.rows, matrix.cols);
        let activations = match self {
            Self::Int8 => Some(Activations { outliers: Some(OUTLIERS), ..Activations::int8(127.0) }),
            Self::Nf4 | Self::Int4 => None,
        };
        let data = Quantizer { to: self, plain: matrix.data, kind, codec: codec.clone(), rows, cols };
        Ok(StoredMatrix { codec, activations, data: Arc::new(data), ..matrix })
    }

    /// Appends the items of a run: its codes, its scale and, for int4, its zero point.
    fn quantize(self, run: &[f32], items: &mut [Vec<u32>]) {
        let [codes, scales, zeros @ ..] = items else { return };
        let absmax = run.iter().fold(0f32, |most, w| most.max(w.abs()));
        match self {
            Self::Nf4 => {
                let by = reciprocal(1.0, absmax);
                codes.extend(run.iter().map(|w| nearest(w * by)));
                scales.push(absmax.to_bits());
            }
            Self::Int8 => {
                let by = reciprocal(127.0, absmax);
                codes.extend(run.iter().map(|w| (128.0 + (w * by).round_ties_even()) as u32));
                scales.push(absmax.to_bits());
            }
            Self::Int4 => {
                let (min, max) = run.iter().fold((0f32, 0f32), |(min, max), &w| (min.min(w), max.max(w)));
                let scale = half::f16::from_f32((max / 15.0 - min / 15.0).min(half::f16::MAX.to_f32()));
                let by = reciprocal(1.0, scale.to_f32());
                let zero = (-min * by).round_ties_even().min(15.0);
                codes.extend(run.iter().map(|w| ((w * by).round_ties_even() + zero).clamp(0.0, 15.0) as u32));
                scales.push(u32::from(scale.to_bits()));
                zeros[0].push(zero as u32);
            }
        }
    }
}

/// `top / absmax` as PyTorch divides a number by a tensor; 0 where that is no number.
fn reciprocal(top: f32, absmax: f32) -> f32 {
    let by = 1.0 / absmax * top;
    if by.is_finite() { by } else { 0.0 }
}

/// The level of NF4 nearest to `x`; the lower of two as near.
fn nearest(x: f32) -> u32 {
    let above = NF4.partition_point(|&level| level < x).clamp(1, 15);
    let (low, high) = (NF4[above - 1], NF4[above]);
    (if (x - low).abs() <= (high - x).abs() { above - 1 } else { above }) as u32
}

/// Reads floats, gives codes.
struct Quantizer {
    to: Quantization,
    plain: Arc<dyn PieceSource>,
    kind: Kind,
    codec: Arc<dyn Codec>,
    rows: usize,
    cols: usize,
}

impl PieceSource for Quantizer {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &*self.codec);
        let col_step = if self.to.run() == WHOLE_ROW { self.cols } else { grid.col_step };
        Grid { col_step, cost: self.kind.bits() as usize / 8, ..grid }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            // A scale of a row is of the whole row, whatever part of it is wanted.
            let cols = if self.to.run() == WHOLE_ROW { 0..self.cols } else { extent.cols.clone() };
            let first = extent.cols.start - cols.start;
            let whole = Extent { rows: extent.rows.clone(), cols: cols.clone() };
            let plain = self.plain.read(&whole).await?;
            let mut items = vec![Vec::new(); self.codec.fields().len()];
            let mut row = Vec::with_capacity(cols.len());
            for weights in plain.items[0].chunks_exact(cols.len()) {
                row.clear();
                row.extend(weights.iter().map(|&item| self.kind.value(item) as f32));
                let begin = items[0].len();
                row.chunks(self.to.run()).for_each(|run| self.to.quantize(run, &mut items));
                items[0].drain(begin..begin + first);
                items[0].truncate(begin + extent.cols.len());
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}
