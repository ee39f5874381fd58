//! Stored matrices as rows of f32, transforms undone: what one compares two tools by.
//!
//! A band of rows is in memory at a time; a matrix with an output transform (QuIP#) has to be there as a whole.

use super::{InputTransform, OutputTransform, StoredMatrix};
use crate::error::Result;
use crate::quant::hadamard::{Factor, Form, core_factor, factor, matrix as core_matrix};
use crate::quant::{Extent, Packed, Shape, TILE_ROWS};
use sha2::{Digest, Sha256};

/// Weights of a band.
const BAND: usize = 1 << 20;
/// Columns that are transformed at once.
const COLUMNS: usize = 16;

/// Decodes `matrix` and hands out its rows in order: the weights W of `y = W·x`, so with permutations and Hadamard
/// transforms undone and low-rank terms added (in f64, rounded once).
pub async fn rows(matrix: &StoredMatrix, mut each: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
    let cols = matrix.cols;
    let input = match &matrix.input {
        InputTransform::Hadamard { form, .. } => Some(Hadamard::new(cols, form)?),
        _ => None,
    };
    let low_rank = match matrix.low_rank.as_deref() {
        Some([down, up]) => Some((dense(down).await?, dense(up).await?, down.rows)),
        None => None,
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
        for r in 0..band.len() {
            let mut row = vec![0f64; cols];
            packed.codec.exact_row(&packed, r, &mut row); // what is added comes before the one rounding
            if let Some((down, up, rank)) = &low_rank {
                for (down, &up) in down.chunks_exact(cols).zip(&up[(first + r) * rank..]).take(*rank) {
                    row.iter_mut().zip(down).for_each(|(w, &d)| *w += f64::from(up) * f64::from(d));
                }
            }
            match (&matrix.input, &input) {
                (InputTransform::Permute(order), _) => {
                    // x'[k] = x[order[k]]
                    let permuted = row.clone();
                    order.iter().zip(permuted).for_each(|(&k, w)| row[k as usize] = w);
                }
                (InputTransform::Scale(scales), _) => {
                    row.iter_mut().zip(scales).for_each(|(w, &s)| *w *= f64::from(s));
                }
                (InputTransform::Hadamard { signs, .. }, Some(hadamard)) => {
                    // Ŵ Hᵀ diag(signs): every row goes through H.
                    hadamard.apply(&mut row);
                    row.iter_mut().zip(signs).for_each(|(w, &s)| *w *= f64::from(s));
                }
                _ => {}
            }
            let sparse = matrix.sparse.iter().flat_map(|sparse| sparse.row(first + r));
            sparse.for_each(|(k, value)| row[k] += value);
            if matrix.output == OutputTransform::None {
                out.iter_mut().zip(&row).for_each(|(out, &w)| *out = w as f32);
                each(first + r, &out)?;
            } else {
                whole.extend(row);
            }
        }
    }
    let OutputTransform::Hadamard { signs, form } = &matrix.output else { return Ok(()) };
    // diag(signs) H: every column goes through H.
    let hadamard = Hadamard::new(matrix.rows, form)?;
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
    for (r, (row, &sign)) in whole.chunks_exact(cols).zip(signs).take(matrix.width()).enumerate() {
        out.iter_mut().zip(row).for_each(|(out, &w)| *out = (w * f64::from(sign)) as f32);
        each(r, &out)?;
    }
    Ok(())
}

/// All of a small matrix, row-major.
async fn dense(matrix: &StoredMatrix) -> Result<Vec<f32>> {
    let mut all = Vec::with_capacity(matrix.rows * matrix.cols);
    Box::pin(rows(matrix, |_, row| {
        all.extend_from_slice(row);
        Ok(())
    }))
    .await?;
    Ok(all)
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

/// H in f64.
struct Hadamard {
    /// What is no power of two: K × K, row-major.
    core: Vec<f64>,
    order: usize,
    power: usize,
    scale: f64,
}

impl Hadamard {
    fn new(n: usize, form: &Form) -> Result<Self> {
        if let Form::Core(core) = form {
            let Factor { order, power } = core_factor(n, core)?;
            let (core, scale) = (core.iter().map(|&c| f64::from(c)).collect(), 1.0 / (power as f64).sqrt());
            return Ok(Self { core, order, power, scale });
        }
        let n = if let Form::Blocks(block) = form { *block } else { n };
        let Factor { order, power } = factor(n)?;
        let signs = core_matrix(order).ok_or_else(|| crate::Error::unsupported("order").found(order))?;
        let sign = |i: usize| if signs.negative(i / order, i % order) { -1.0 } else { 1.0 };
        let core = (0..order * order).map(sign).collect();
        Ok(Self { core, order, power, scale: 1.0 / (n as f64).sqrt() })
    }

    /// `x ← H x`, block by block.
    fn apply(&self, x: &mut [f64]) {
        x.chunks_exact_mut(self.order * self.power).for_each(|block| self.apply_block(block));
    }

    fn apply_block(&self, x: &mut [f64]) {
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
        if self.order > 1 {
            let source = x.to_vec();
            for (i, run) in x.chunks_exact_mut(self.power).enumerate() {
                run.fill(0.0);
                for (from, by) in source.chunks_exact(self.power).zip(&self.core[i * self.order..]) {
                    run.iter_mut().zip(from).for_each(|(sum, x)| *sum += by * x);
                }
            }
        }
        x.iter_mut().for_each(|x| *x *= self.scale);
    }
}
