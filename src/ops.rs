//! The vocabulary of a model: one [`Op`] for each thing that a forward pass does, shape-checked when it is made.
//!
//! An op is data. [`crate::gpu::kernels`] lowers it to dispatches, [`crate::reference`] computes it on the CPU
//! from the same fields; tests and `verify` compare the two.

use crate::device::{Matrix, Tensor};
use crate::error::{Error, Result};
use crate::quant::hadamard::Plan;
use std::sync::Arc;

/// How many rows an op works on, known when the recording runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// The tokens of the step.
    Tokens,
    /// The rows that the head looks at.
    Head,
}

/// One operation.
#[derive(Debug, Clone)]
pub enum Op {
    /// `out[t] = table[token_ids[t]]`: the embedding.
    Gather {
        /// `[vocab, width]`
        table: Arc<Matrix>,
        /// `[tokens, width]`
        out: Tensor,
    },
    /// `out = x / sqrt(mean(x²) + eps) ⊙ weight`; for [`Rows::Head`] the rows of x start at the step's head row.
    RmsNorm {
        /// How many rows.
        rows: Rows,
        /// `[tokens, width]`
        x: Tensor,
        /// `[width]`
        weight: Tensor,
        /// Added under the root.
        eps: f32,
        /// `[rows, width]`
        out: Tensor,
    },
    /// `out[:, offset..] (+)= x[:, permutation]·Wᵀ + bias`.
    Product {
        /// How many rows.
        rows: Rows,
        /// `[n, k]`
        matrix: Arc<Matrix>,
        /// `[rows, k]`
        x: Tensor,
        /// Column of x for each column of the matrix, as u32 words `[k]`.
        permutation: Option<Tensor>,
        /// `[n]`
        bias: Option<Tensor>,
        /// `[rows, ≥ offset + n]`
        out: Tensor,
        /// First column of out.
        offset: usize,
        /// Add to what is there.
        add: bool,
    },
    /// `out[:, offset..] (+)= after ⊙ H(before ⊙ x)`.
    Hadamard {
        /// How many rows.
        rows: Rows,
        /// The transform, of order n.
        plan: Arc<Transform>,
        /// `[rows, ≥ n]`
        x: Tensor,
        /// `[n]`
        before: Option<Tensor>,
        /// `[n]`
        after: Option<Tensor>,
        /// Room for a step between, `[rows, ≥ n]`; used when the order is no power of two.
        scratch: Tensor,
        /// `[rows, ≥ offset + n]`
        out: Tensor,
        /// First column of out.
        offset: usize,
        /// Add to what is there.
        add: bool,
    },
    /// `out = by ⊙ x`.
    Scale {
        /// How many rows.
        rows: Rows,
        /// `[rows, ≥ n]`
        x: Tensor,
        /// `[n]`
        by: Tensor,
        /// `[rows, ≥ n]`
        out: Tensor,
    },
    /// Norms and rotates q and k, writes k and v to the cache and q back in place.
    Rope {
        /// Sizes.
        heads: Heads,
        /// `[tokens, q + k + v]`
        qkv: Tensor,
        /// (cos, sin) pairs, `[positions, head_dim]`
        rotations: Tensor,
        /// Weights `[head_dim]` of q's and k's RMSNorm, and its eps.
        norms: Option<(Tensor, Tensor, f32)>,
        /// Keys and values.
        cache: Cache,
    },
    /// `out = softmax(q·Kᵀ / sqrt(head_dim))·V`, causal.
    Attention {
        /// Sizes.
        heads: Heads,
        /// `[tokens, q + k + v]`
        qkv: Tensor,
        /// Keys and values.
        cache: Cache,
        /// Positions a query sees, its own included.
        window: Option<usize>,
        /// `[tokens, heads · head_dim]`
        out: Tensor,
    },
    /// `out = silu(gate) ⊙ up`.
    SwiGlu {
        /// `[tokens, gate and up]`
        x: Tensor,
        /// First column of gate.
        gate: usize,
        /// First column of up.
        up: usize,
        /// `[tokens, width]`
        out: Tensor,
    },
    /// The index of the largest logit of the first row becomes the first token of the next step.
    Argmax {
        /// `[1, vocab]`
        logits: Tensor,
        /// The step's words.
        step: Tensor,
    },
}

/// A Hadamard transform with its sign table where ops can reach it.
#[derive(Debug)]
pub struct Transform {
    /// How it is computed.
    pub plan: Plan,
    /// `plan.signs`, when there are any.
    pub signs: Option<Tensor>,
}

/// Attention's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// First columns of q, k and v.
    pub offsets: [usize; 3],
}

/// Keys `[kv_head][head_dim / 4][context]` and values `[kv_head][context][head_dim / 4]` of one layer.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
    /// Positions.
    pub context: usize,
    /// Stored as f16.
    pub f16: bool,
}

/// Words of the step before the token ids: position, tokens, first head row, head rows.
pub const STEP_HEADER: usize = 4;

/// What changes from one replay of a recording to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Position of the first token.
    pub position: usize,
    /// Tokens to work on.
    pub tokens: Tokens,
    /// First row that the head looks at.
    pub head_first: usize,
    /// Rows that the head looks at.
    pub head_rows: usize,
}

/// Where the tokens of a step come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokens {
    /// From the caller.
    Given(Vec<u32>),
    /// One token: what the last step's [`Op::Argmax`] chose.
    Chosen,
}

impl Step {
    /// How many tokens.
    pub fn count(&self) -> usize {
        match &self.tokens {
            Tokens::Given(ids) => ids.len(),
            Tokens::Chosen => 1,
        }
    }

    /// How many rows an op over `rows` sees.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.count(),
            Rows::Head => self.head_rows,
        }
    }
}

fn check(what: &str, tensor: &Tensor, cols: usize) -> Result<()> {
    if tensor.cols < cols {
        return Err(Error::invalid(format!("{what} is too narrow"))
            .expected(format!("{cols} columns"))
            .found(tensor.cols));
    }
    Ok(())
}

impl Op {
    /// Checks the shapes of an op's operands.
    pub fn check(&self) -> Result<()> {
        match self {
            Op::Gather { table, out } => check("embedding output", out, table.shape.cols),
            Op::RmsNorm { x, weight, out, .. } => {
                check("norm weight", weight, x.cols)?;
                check("norm output", out, x.cols)
            }
            Op::Product { matrix, x, permutation, bias, out, offset, .. } => {
                let (n, k) = (matrix.shape.rows, matrix.shape.cols);
                check("product input", x, k)?;
                check("product output", out, offset + n)?;
                if let Some(permutation) = permutation {
                    check("permutation", permutation, k)?;
                }
                bias.as_ref().map_or(Ok(()), |b| check("bias", b, n))
            }
            Op::Hadamard { plan, x, before, after, scratch, out, offset, .. } => {
                let n = plan.plan.n;
                check("transform input", x, n)?;
                check("transform scratch", scratch, n)?;
                check("transform output", out, offset + n)?;
                for vector in [before, after].into_iter().flatten() {
                    check("sign vector", vector, n)?;
                }
                Ok(())
            }
            Op::Scale { x, by, out, .. } => {
                check("scale input", x, by.cols)?;
                check("scale output", out, by.cols)
            }
            Op::Rope { heads, qkv, .. } => {
                check("qkv", qkv, heads.offsets[2] + heads.kv_heads * heads.head_dim)
            }
            Op::Attention { heads, out, .. } => check("attention output", out, heads.heads * heads.head_dim),
            Op::SwiGlu { x, gate, up, out } => check("gate and up", x, gate.max(up) + out.cols),
            Op::Argmax { .. } => Ok(()),
        }
    }

    /// Short name, for profiles and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Gather { .. } => "gather",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Product { .. } => "product",
            Op::Hadamard { .. } => "hadamard",
            Op::Scale { .. } => "scale",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::SwiGlu { .. } => "swiglu",
            Op::Argmax { .. } => "argmax",
        }
    }
}
