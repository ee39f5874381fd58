//! Readers: on-disk layout → codes, scales, transforms, side terms. Pure Rust on bytes, nothing of the GPU.
//!
//! [`Checkpoint`] is what the layers above see: a configuration, matrices by their Hugging Face module names,
//! vectors, a tokenizer. A GGUF file answers to the same names.

use crate::error::Result;
use crate::quant::{Codec, Extent, Piece};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

pub mod source;

/// A boxed future; `Send` is not asked for, because the browser cannot give it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A weight matrix that is still on disk: how to read it and what it means. `[rows, cols] = [out, in]`.
pub struct StoredMatrix {
    /// Module name, for messages: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// How the weights are coded.
    pub codec: Arc<dyn Codec>,
    /// What happens to x before the product.
    pub input: InputTransform,
    /// What happens to y after it.
    pub output: OutputTransform,
    /// The modules that the rows belong to, in row order; one, unless the checkpoint itself is fused (QuIP#).
    pub slices: Vec<Slice>,
    /// Added to y, `[rows]`.
    pub bias: Option<Vec<f32>>,
    /// The bytes.
    pub data: Arc<dyn PieceSource>,
    /// Bytes on disk, scales, permutations and tables included.
    pub disk_bytes: u64,
    /// The format that it was read from, as `inspect` prints it: `GPTQ`, `Q4_0` …
    pub format: &'static str,
}

/// Named rows of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Last part of the module name: `q_proj`, `up_proj`.
    pub name: String,
    /// Its rows.
    pub rows: Range<usize>,
}

/// What happens to the activations before the product.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum InputTransform {
    /// Nothing.
    #[default]
    None,
    /// `x'[k] = x[perm[k]]` (GPTQ act-order).
    Permute(Vec<u32>),
    /// `x' = Hᵀ (signs ⊙ x)`, H the orthonormal Hadamard matrix of order `cols` (QuIP#'s SU).
    Hadamard(Vec<f32>),
}

/// What happens to the product afterwards.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum OutputTransform {
    /// Nothing.
    #[default]
    None,
    /// `y = signs ⊙ (H y')`, H the orthonormal Hadamard matrix of order `rows` (QuIP#'s SV, its scales folded in).
    Hadamard(Vec<f32>),
}

/// Reads rectangles of one matrix as items of its codec's fields.
pub trait PieceSource: Send + Sync {
    /// Rectangles that cover the matrix, cut along what is contiguous on disk, each of at most about `budget`
    /// bytes on disk and `budget` items. All obey the rules of [`Extent`].
    fn extents(&self, budget: usize) -> Vec<Extent>;

    /// Reads one of them. Items are checked: codes in range, scales finite.
    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>>;
}
