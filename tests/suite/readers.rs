//! Readers: decoded weights against golden hashes, broken files against the errors that a user should read, and
//! damaged bytes against panics.

use crate::shared::{fixtures, shared};
use halfbyte::checkpoint::lora::Adapter;
use halfbyte::checkpoint::{Checkpoint, InputTransform, StoredMatrix};
use halfbyte::model::architecture;
use halfbyte::quant::{Packed, Shape, TILE_ROWS, UNIT};
use halfbyte::{Error, Result};
use pollster::block_on;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

mod codes;
pub(crate) mod crafted;
mod floats;
mod ggml;
mod golden;
mod hostile;
mod integers;
mod quantize;
mod split;
mod transformed;
mod vptq;

/// Pieces as large as a loader would take them, and so small that everything is cut up.
const BUDGETS: [usize; 2] = [4 << 20, 5000];

/// The matrix in packed form, read in pieces of `budget`, whose extents are checked.
fn load(matrix: &StoredMatrix, budget: usize) -> Result<Packed> {
    let shape = Shape { rows: matrix.rows, cols: matrix.cols };
    let fields = matrix.codec.fields();
    let mut packed = Packed::new(matrix.codec.clone(), shape);
    let mut area = 0;
    for extent in matrix.data.extents(budget) {
        let (rows, cols) = (&extent.rows, &extent.cols);
        assert!(rows.end <= shape.rows && cols.end <= shape.cols, "{}: {extent:?}", matrix.name);
        assert!(rows.start.is_multiple_of(TILE_ROWS) && cols.start.is_multiple_of(UNIT), "{extent:?}");
        assert!(rows.end == shape.rows || rows.end.is_multiple_of(TILE_ROWS), "{extent:?}");
        area += rows.len() * cols.len();
        for section in matrix.codec.sections() {
            let field = &fields[section.field];
            let begins = cols.start.is_multiple_of(section.cell_cols(field));
            assert!(cols.start == 0 || field.run > shape.cols || begins);
        }
        let piece = block_on(matrix.data.read(&extent))?;
        assert_eq!(piece.extent, extent);
        assert_eq!(piece.items.len(), fields.len());
        for (i, (field, items)) in fields.iter().zip(&piece.items).enumerate() {
            assert!(cols.start == 0 || field.run > shape.cols || cols.start.is_multiple_of(field.run));
            let wanted = field.lines(rows.len()) * matrix.codec.items(i, cols.clone()).len();
            assert_eq!(items.len(), wanted, "{} {}", matrix.name, field.name);
        }
        packed.write_piece(&piece);
    }
    assert_eq!(area, shape.rows * shape.cols, "{}: the extents do not cover the matrix", matrix.name);
    Ok(packed)
}

/// The decoded weights, row-major, columns in the order of x.
fn decode(matrix: &StoredMatrix, budget: usize) -> Result<Vec<f32>> {
    let packed = load(matrix, budget)?;
    let mut weights = vec![0.0; matrix.rows * matrix.cols];
    let mut line = vec![0f64; matrix.cols];
    for (row, out) in weights.chunks_mut(matrix.cols).enumerate() {
        packed.codec.exact_row(&packed, row, &mut line);
        let mut exact = line.clone();
        if let InputTransform::Permute(order) = &matrix.input {
            order.iter().zip(&line).for_each(|(&from, &w)| exact[from as usize] = w);
        }
        // Outliers are added before the one rounding.
        let outliers = matrix.sparse.iter().flat_map(|sparse| sparse.row(row));
        outliers.for_each(|(k, value)| exact[k] += value);
        out.iter_mut().zip(exact).for_each(|(out, w)| *out = w as f32);
    }
    Ok(weights)
}

/// Everything that a model needs, in the order in which it would be loaded.
fn load_all(checkpoint: &Checkpoint, budget: usize) -> Result<Vec<StoredMatrix>> {
    let config = checkpoint.config();
    let arch = architecture(config).unwrap();
    let mut matrices = Vec::new();
    block_on(async {
        matrices.extend(checkpoint.matrix("model.embed_tokens").await?);
        for layer in 0..config.layers {
            let layer = format!("model.layers.{layer}");
            let (attention, mlp) = (format!("{layer}.self_attn"), format!("{layer}.mlp"));
            matrices.extend(checkpoint.matrices(&attention, &["q_proj", "k_proj", "v_proj"]).await?);
            matrices.extend(checkpoint.matrices(&attention, &["o_proj"]).await?);
            let ffn: &[&str] = if arch.gated { &["gate_proj", "up_proj"] } else { &["up_proj"] };
            for names in [ffn, &["down_proj"]] {
                matrices.extend(match &config.experts {
                    None => checkpoint.matrices(&mlp, names).await?,
                    Some(experts) => {
                        let all = |name| (0..experts.count).map(move |e| format!("experts.{e}.{name}"));
                        let all: Vec<String> = names.iter().flat_map(all).collect();
                        let all: Vec<&str> = all.iter().map(String::as_str).collect();
                        checkpoint.matrices(&mlp, &all).await?
                    }
                });
            }
            if config.experts.is_some() {
                matrices.extend(checkpoint.matrices(&mlp, &["gate"]).await?);
            }
            for norm in arch.norms {
                let name = format!("{layer}.{norm}.weight");
                let norm = checkpoint.vector(&name, config.hidden).await?;
                norm.ok_or_else(|| Error::missing(format!("missing tensor {name}")))?;
            }
        }
        matrices.extend(checkpoint.matrix("lm_head").await?);
        Ok::<_, Error>(())
    })?;
    for matrix in &matrices {
        load(matrix, budget)?;
    }
    Ok(matrices)
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn sha256(weights: &[f32]) -> String {
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
