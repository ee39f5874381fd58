//! Stored matrices as rows of f32, transforms undone: what one compares two tools by.
//!
//! A band of rows is in memory at a time; a matrix with an output transform (QuIP#) has to be there as a whole.

use super::{InputTransform, OutputTransform, StoredMatrix};
use crate::error::Result;
use crate::quant::hadamard::{Factor, Signs, factor, matrix as core_matrix};
use crate::quant::{Extent, Packed, Shape, TILE_ROWS};
use sha2::{Digest, Sha256};

/// Weights of a band.
const BAND: usize = 1 << 20;
/// Columns that are transformed at once.
const COLUMNS: usize = 16;

/// Decodes `matrix` and hands out its rows in order: the weights W of `y = W·x`, so with permutations and Hadamard
/// transforms undone (in f64, rounded once).
pub async fn rows(matrix: &StoredMatrix, mut each: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
    let cols = matrix.cols;
    let input = match &matrix.input {
        InputTransform::Hadamard(_) => Some(Hadamard::new(cols)?),
        _ => None,
    };
    let mut whole = Vec::new();
    let mut out = vec![0f32; cols];
    let high = (BAND / cols.max(1) / TILE_ROWS * TILE_ROWS).max(TILE_ROWS);
    for first in (0..matrix.rows).step_by(high) {
        let band = first..matrix.rows.min(first + high);
        let piece = matrix.data.read(&Extent { rows: band.clone(), cols: 0..cols }).await?;
        let shape = Shape { rows: band.len(), cols };
        let mut packed = Packed::band(matrix.codec.clone(), shape, first);
        packed.write_piece(&piece);
        drop(piece);
        let mut row = vec![0f32; cols];
        for r in 0..band.len() {
            packed.decode_row(r, &mut row);
            let exact = match (&matrix.input, &input) {
                (InputTransform::Permute(order), _) => {
                    // x'[k] = x[order[k]]
                    order.iter().zip(&row).for_each(|(&k, &w)| out[k as usize] = w);
                    None
                }
                (InputTransform::Scale(scales), _) => {
                    let exact = row.iter().zip(scales).map(|(&w, &s)| f64::from(w) * f64::from(s));
                    Some(exact.collect())
                }
                (InputTransform::Hadamard(signs), Some(hadamard)) => {
                    // Ŵ Hᵀ diag(signs): every row goes through H.
                    let mut wide: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
                    hadamard.apply(&mut wide);
                    wide.iter_mut().zip(signs).for_each(|(w, &s)| *w *= f64::from(s));
                    Some(wide)
                }
                _ => {
                    out.copy_from_slice(&row);
                    None
                }
            };
            match (&matrix.output, exact) {
                (OutputTransform::None, None) => each(first + r, &out)?,
                (OutputTransform::None, Some(exact)) => {
                    out.iter_mut().zip(&exact).for_each(|(out, &w)| *out = w as f32);
                    each(first + r, &out)?;
                }
                (OutputTransform::Hadamard(_), Some(exact)) => whole.extend(exact),
                (OutputTransform::Hadamard(_), None) => whole.extend(out.iter().map(|&w| f64::from(w))),
            }
        }
    }
    let OutputTransform::Hadamard(signs) = &matrix.output else { return Ok(()) };
    // diag(signs) H: every column goes through H.
    let hadamard = Hadamard::new(matrix.rows)?;
    for first in (0..cols).step_by(COLUMNS) {
        let columns = first..cols.min(first + COLUMNS);
        let mut turned: Vec<Vec<f64>> = columns.clone().map(|_| Vec::with_capacity(matrix.rows)).collect();
        for row in whole.chunks_exact(cols) {
            turned.iter_mut().zip(&row[columns.clone()]).for_each(|(column, &w)| column.push(w));
        }
        turned.iter_mut().for_each(|column| hadamard.apply(column));
        for (r, row) in whole.chunks_exact_mut(cols).enumerate() {
            row[columns.clone()].iter_mut().zip(&turned).for_each(|(w, column)| *w = column[r]);
        }
    }
    for (r, (row, &sign)) in whole.chunks_exact(cols).zip(signs).enumerate() {
        out.iter_mut().zip(row).for_each(|(out, &w)| *out = (w * f64::from(sign)) as f32);
        each(r, &out)?;
    }
    Ok(())
}

/// The SHA-256 of each slice of `matrix` (`q_proj` …) as row-major little-endian f32, in hexadecimal.
pub async fn sha256(matrix: &StoredMatrix) -> Result<Vec<(String, String)>> {
    let mut hashes: Vec<Sha256> = matrix.slices.iter().map(|_| Sha256::new()).collect();
    let mut bytes = Vec::with_capacity(matrix.cols * 4);
    rows(matrix, |row, weights| {
        bytes.clear();
        bytes.extend(weights.iter().flat_map(|w| w.to_le_bytes()));
        let mut inside = matrix.slices.iter().zip(&mut hashes).filter(|(slice, _)| slice.rows.contains(&row));
        if let Some((_, hash)) = inside.next() {
            hash.update(&bytes);
        }
        Ok(())
    })
    .await?;
    let hex = |hash: Sha256| hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(matrix.slices.iter().zip(hashes).map(|(slice, hash)| (slice.name.clone(), hex(hash))).collect())
}

/// H of order n in f64.
struct Hadamard {
    core: Signs,
    power: usize,
    scale: f64,
}

impl Hadamard {
    fn new(n: usize) -> Result<Self> {
        let Factor { order, power } = factor(n)?;
        let core = core_matrix(order).ok_or_else(|| crate::Error::unsupported("order").found(order))?;
        Ok(Self { core, power, scale: 1.0 / (n as f64).sqrt() })
    }

    /// `x ← H x`
    fn apply(&self, x: &mut [f64]) {
        for run in x.chunks_exact_mut(self.power) {
            let mut half = 1;
            while half < run.len() {
                for pair in run.chunks_exact_mut(2 * half) {
                    let (low, high) = pair.split_at_mut(half);
                    low.iter_mut().zip(high).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
                }
                half *= 2;
            }
        }
        if self.core.order() > 1 {
            let source = x.to_vec();
            for (i, run) in x.chunks_exact_mut(self.power).enumerate() {
                run.fill(0.0);
                for (j, from) in source.chunks_exact(self.power).enumerate() {
                    let sign = if self.core.negative(i, j) { -1.0 } else { 1.0 };
                    run.iter_mut().zip(from).for_each(|(sum, x)| *sum += sign * x);
                }
            }
        }
        x.iter_mut().for_each(|x| *x *= self.scale);
    }
}
