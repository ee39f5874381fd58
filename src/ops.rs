//! The vocabulary of a model: one [`Op`] for each thing that a forward pass does, shape-checked when it is made.
//!
//! An op is data. [`crate::gpu::kernels`] lowers it to dispatches, [`crate::reference`] computes it on the CPU
//! from the same fields; tests and `verify` compare the two.

use crate::device::{Device, Matrix, Tensor};
use crate::error::{Error, Result};
use crate::quant::TILE_ROWS;
use crate::quant::activations::{ActivationCode, Activations};
use crate::quant::cache::CacheFormat;
use crate::quant::hadamard::Plan;
use serde::Serialize;
use std::sync::Arc;

/// How many rows an op works on, known when the recording runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// The tokens of the step.
    Tokens,
    /// The rows that the head looks at.
    Head,
    /// The tokens of the step, so many rows for each: one for each of the experts that it goes through.
    Chosen(usize),
}

/// The function between the two products of a feed-forward layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(−x))`
    #[default]
    Silu,
    /// GELU by tanh (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`
    SquaredRelu,
    /// gpt-oss: `min(x, limit) / (1 + exp(−1.702 · min(x, limit)))`; what it gates is bounded to ±limit, plus 1.
    Clamped {
        /// `swiglu_limit`.
        limit: f32,
    },
}

/// What rows a gather takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// Those of the token ids.
    Token,
    /// Those of the positions, from this row on.
    Position(usize),
}

/// The experts that each token goes through, as [`Op::Route`] leaves them.
#[derive(Debug, Clone)]
pub struct Routes {
    /// `[tokens, per_token]`, u32 words.
    pub ids: Tensor,
    /// `[tokens, per_token]`
    pub weights: Tensor,
}

/// One operation.
#[derive(Debug, Clone)]
pub enum Op {
    /// `out[t] (+)= table[index[t]]`: the embedding, of tokens or (added to those) of positions.
    Gather {
        /// `[vocab, width]`
        table: Arc<Matrix>,
        /// Which rows; those of positions are added.
        index: Index,
        /// `[tokens, width]`
        out: Tensor,
    },
    /// `out (+)= x / sqrt(mean(x²) + eps) ⊙ weight`; for [`Rows::Head`] the rows of x start at the step's head row.
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
        /// Add to what is there.
        add: bool,
    },
    /// `out = (x − mean(x)) / sqrt(var(x) + eps) ⊙ weight + bias` of every run of `width` columns from `offset` on; an
    /// RMSNorm of them where they are not `centered`. For [`Rows::Head`] the rows of x start at the step's head row.
    LayerNorm {
        /// How many rows.
        rows: Rows,
        /// `[tokens, ≥ offset + runs · width]`
        x: Tensor,
        /// First column.
        offset: usize,
        /// Columns that are normed together; `weight.cols / width` is how many runs there are.
        width: usize,
        /// The mean is taken off.
        centered: bool,
        /// `[runs · width]`
        weight: Tensor,
        /// `[runs · width]`
        bias: Option<Tensor>,
        /// Added under the root.
        eps: f32,
        /// As x; x itself when it is `None`.
        out: Option<Tensor>,
    },
    /// `out[:, k] = x[:, k]` in columns where any row has a magnitude of at least `threshold`, else 0.
    Outliers {
        /// How many rows.
        rows: Rows,
        /// `[rows, ≥ cols]`
        x: Tensor,
        /// Columns.
        cols: usize,
        /// The smallest outlier.
        threshold: f32,
        /// `[rows, ≥ cols]`
        out: Tensor,
    },
    /// Codes of activations: of integers `out` has, in each row, four codes a word and then the scale; otherwise what
    /// the codes mean.
    Quantize {
        /// How many rows.
        rows: Rows,
        /// `[rows, ≥ cols]`
        x: Tensor,
        /// Columns.
        cols: usize,
        /// How.
        scheme: Activations,
        /// `[rows, ≥ cols]`: where it is not 0, x counts as 0 (what [`Op::Outliers`] has taken out).
        outliers: Option<Tensor>,
        /// `[rows, ≥ cols]`
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
        /// x has integers of 8 bits and their scale, as [`Op::Quantize`] leaves them.
        int8: bool,
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
    /// `out[:, offset..] += x·Sᵀ`, S sparse, in CSR.
    Sparse {
        /// How many rows.
        rows: Rows,
        /// Where the entries of each row of S begin, and where the last row's end, as u32 words `[n + 1]`.
        offsets: Tensor,
        /// An f16 value in the upper half, a column in the lower, of every entry.
        entries: Tensor,
        /// `[rows, k]`
        x: Tensor,
        /// `[rows, ≥ offset + n]`
        out: Tensor,
        /// First column of out.
        offset: usize,
    },
    /// `out[:, offset..offset + width] (+)= after ⊙ H(before ⊙ x)`.
    Hadamard {
        /// How many rows.
        rows: Rows,
        /// The transform, of order n.
        plan: Arc<Transform>,
        /// `[rows, ≥ n]`, a multiple of 4 columns.
        x: Tensor,
        /// `[n]`
        before: Option<Tensor>,
        /// `[n]`
        after: Option<Tensor>,
        /// `[rows, ≥ offset + width]`
        out: Tensor,
        /// First column of out.
        offset: usize,
        /// Results that are wanted, the first of the n.
        width: usize,
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
    /// The product with the matrix of the expert of each row, `out[r, offset..] = x[r / shared, permutation]·W[e(r)]ᵀ +
    /// bias[e(r)]`, for experts whose matrices lie in this part of the stack.
    ExpertProduct {
        /// `[experts · n, k]`, the experts of this part one below the other.
        matrix: Arc<Matrix>,
        /// First expert of this part.
        first: usize,
        /// Rows of an expert's matrix, a multiple of 32.
        n: usize,
        /// `[rows / shared, k]`
        x: Tensor,
        /// Rows of out that share a row of x.
        shared: usize,
        /// Column of x for each column of the matrix, as u32 words `[k]`.
        permutation: Option<Tensor>,
        /// `[experts of this part · n]`
        bias: Option<Tensor>,
        /// Which experts.
        routes: Routes,
        /// `[tokens · per_token, ≥ offset + n]`
        out: Tensor,
        /// First column of out.
        offset: usize,
        /// Add to what is there.
        add: bool,
    },
    /// The experts with the largest logits, and the softmax of those (`normalized`) or of all at them.
    Route {
        /// `[tokens, experts]`
        logits: Tensor,
        /// The weights of the chosen ones sum to 1.
        normalized: bool,
        /// What comes out.
        routes: Routes,
    },
    /// `out (+)= Σ weights[slot] · x[token · per_token + slot]`: the experts of a token become one.
    Combine {
        /// `[tokens · per_token, width]`
        x: Tensor,
        /// Which experts.
        routes: Routes,
        /// `[tokens, width]`
        out: Tensor,
        /// Add to what is there.
        add: bool,
    },
    /// `x = cap · tanh(x / cap)`, in place.
    SoftCap {
        /// How many rows.
        rows: Rows,
        /// `[rows, width]`
        x: Tensor,
        /// The bound.
        cap: f32,
    },
    /// Norms and rotates q and k, transforms all heads as the cache asks for, writes k and v to it and q back in place.
    Rope {
        /// Sizes.
        heads: Heads,
        /// `[tokens, q + k + v]`
        qkv: Tensor,
        /// (cos, sin) pairs, `[positions, dims]`: the first `dims` channels of a head turn.
        rotations: Option<Tensor>,
        /// Pairs are neighbouring channels, not channels of the two halves.
        interleaved: bool,
        /// Weights `[head_dim]` of q's and k's RMSNorm, and its eps.
        norms: Option<(Tensor, Tensor, f32)>,
        /// Keys and values.
        cache: Cache,
    },
    /// `out = softmax(scale · q·Kᵀ)·V`, causal, out of the cache's transform.
    Attention {
        /// Sizes.
        heads: Heads,
        /// `[tokens, q + k + v]`
        qkv: Tensor,
        /// Keys and values.
        cache: Cache,
        /// Positions a query sees, its own included.
        window: Option<usize>,
        /// Usually `1 / sqrt(head_dim)`.
        scale: f32,
        /// Scores s become `cap · tanh(s / cap)`.
        softcap: Option<f32>,
        /// A score for each head that takes its share of the softmax and has no value, `[heads]` (gpt-oss).
        sinks: Option<Tensor>,
        /// `[tokens, heads · head_dim]`
        out: Tensor,
    },
    /// `out = activation(gate) ⊙ up`, or `activation(gate)` alone: GLU variants (Shazeer 2020).
    Glu {
        /// How many rows.
        rows: Rows,
        /// The function.
        activation: Activation,
        /// `[rows, gate and up]`
        x: Tensor,
        /// First column of gate.
        gate: usize,
        /// First column of up, if there is one.
        up: Option<usize>,
        /// `[rows, width]`
        out: Tensor,
    },
    /// The index of the largest logit of the first row becomes the first token of the next step.
    Argmax {
        /// `[1, vocab]`
        logits: Tensor,
        /// The step's words.
        step: Tensor,
    },
    /// The largest logits of the first row, with their tokens: what sampling needs of them.
    TopK {
        /// `[1, vocab]`
        logits: Tensor,
        /// `[1, 1 + 2k]` words: k, or [`NO_TOKEN`](crate::reference::NO_TOKEN) if a logit is +∞ or no number; then pairs of
        /// token and logit, in no order. Of equal logits the lowest tokens belong to them.
        out: Tensor,
    },
}

/// A Hadamard transform with its mix where ops can reach it.
#[derive(Debug)]
pub struct Transform {
    /// How it is computed.
    pub plan: Plan,
    /// The words of `plan.mix`, when there are any.
    pub mix: Option<Tensor>,
}

impl Transform {
    /// Puts the mix on `device`.
    pub fn new(device: &Device, plan: Plan) -> Result<Self> {
        let words = plan.mix.words();
        let mix = (!words.is_empty()).then(|| device.words("hadamard mix", words)).transpose()?;
        Ok(Self { plan, mix })
    }
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

/// Keys `[kv_head][entries][context]` and values `[kv_head][context][entries]` of one layer: entries of four numbers, of
/// four or eight integers in a word, and then one of their scale.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
    /// Positions.
    pub context: usize,
    /// In what numbers; [`CacheFormat::words`] are a head's words on a GPU, the twin has an f32 of each number.
    pub format: CacheFormat,
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
            Rows::Chosen(experts) => self.count() * experts,
        }
    }
}

/// Whether its rows are whole vectors of four.
fn fours(what: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.cols.is_multiple_of(4) {
        return Err(Error::invalid(what).expected("a multiple of 4 columns").found(tensor.cols));
    }
    Ok(())
}

fn check(what: &str, tensor: &Tensor, cols: usize) -> Result<()> {
    if tensor.cols < cols {
        return Err(Error::invalid(format!("{what} is too narrow"))
            .expected(format!("{cols} columns"))
            .found(tensor.cols));
    }
    Ok(())
}

/// Words of a row of 8-bit codes with its scale.
pub const fn int8_words(cols: usize) -> usize {
    cols / 4 + 1
}

impl Op {
    /// Checks the shapes of an op's operands.
    pub fn check(&self) -> Result<()> {
        match self {
            Op::Gather { table, out, .. } => check("embedding output", out, table.shape.cols),
            Op::RmsNorm { x, weight, out, .. } => {
                fours("norm input", x)?;
                check("norm weight", weight, x.cols)?;
                check("norm output", out, x.cols)
            }
            Op::LayerNorm { x, offset, width, weight, bias, out, .. } => {
                if *width == 0 || !weight.cols.is_multiple_of(*width) {
                    return Err(Error::invalid("norm weight")
                        .expected(format!("runs of {width}"))
                        .found(weight.cols));
                }
                check("norm input", x, offset + weight.cols)?;
                check("norm output", out.as_ref().unwrap_or(x), offset + weight.cols)?;
                bias.as_ref().map_or(Ok(()), |b| check("norm bias", b, weight.cols))
            }
            Op::Outliers { x, cols, out, .. } => {
                check("activations", x, *cols)?;
                check("outliers", out, *cols)
            }
            Op::Quantize { x, cols, scheme, outliers, out, .. } => {
                check("activations", x, *cols)?;
                if let Some(outliers) = outliers {
                    check("outliers", outliers, *cols)?;
                }
                let int8 = scheme.code == ActivationCode::Int8;
                check("codes of activations", out, if int8 { int8_words(*cols) } else { *cols })
            }
            Op::Product { matrix, x, int8, permutation, bias, out, offset, .. } => {
                let (n, k) = (matrix.shape.rows, matrix.shape.cols);
                check("product input", x, if *int8 { int8_words(k) } else { k })?;
                if *int8 && (!matrix.codec.has_integers() || permutation.is_some() || !k.is_multiple_of(4)) {
                    return Err(Error::unsupported("a product in integers").found(matrix.codec.name()));
                }
                check("product output", out, offset + n)?;
                if let Some(permutation) = permutation {
                    check("permutation", permutation, k)?;
                }
                bias.as_ref().map_or(Ok(()), |b| check("bias", b, n))
            }
            Op::Sparse { offsets, entries, out, offset, .. } => {
                check("entries of a sparse matrix", entries, 1)?;
                check("sparse product output", out, offset + offsets.cols.saturating_sub(1))
            }
            Op::Hadamard { plan, x, before, after, out, offset, width, .. } => {
                let n = plan.plan.n;
                fours("transform input", x)?;
                check("transform input", x, n)?;
                check("transform output", out, offset + width)?;
                for vector in [before, after].into_iter().flatten() {
                    check("sign vector", vector, n)?;
                }
                Ok(())
            }
            Op::Scale { x, by, out, .. } => {
                check("scale input", x, by.cols)?;
                check("scale output", out, by.cols)
            }
            Op::Rope { heads, qkv, rotations, .. } => {
                if let Some(wide) = rotations.as_ref().filter(|r| r.cols > heads.head_dim) {
                    let error = Error::invalid("rotations are too wide");
                    return Err(error.expected(heads.head_dim).found(wide.cols));
                }
                check("qkv", qkv, heads.offsets[2] + heads.kv_heads * heads.head_dim)
            }
            Op::ExpertProduct { matrix, n, x, permutation, bias, out, offset, .. } => {
                let (rows, k) = (matrix.shape.rows, matrix.shape.cols);
                if *n == 0 || !n.is_multiple_of(TILE_ROWS) || !rows.is_multiple_of(*n) {
                    return Err(Error::unsupported("rows of an expert")
                        .expected(format!("a multiple of {TILE_ROWS}"))
                        .found(n));
                }
                check("expert input", x, k)?;
                check("expert output", out, offset + n)?;
                if let Some(permutation) = permutation {
                    check("permutation", permutation, k)?;
                }
                bias.as_ref().map_or(Ok(()), |b| check("expert bias", b, rows))
            }
            Op::Route { logits, routes, .. } => {
                check("logits of the router", logits, routes.ids.cols)?;
                check("weights of experts", &routes.weights, routes.ids.cols)
            }
            Op::Combine { x, out, .. } => check("output of experts", x, out.cols),
            Op::SoftCap { .. } => Ok(()),
            Op::Attention { heads, sinks, out, .. } => {
                if let Some(sinks) = sinks {
                    check("attention sinks", sinks, heads.heads)?;
                }
                check("attention output", out, heads.heads * heads.head_dim)
            }
            Op::Glu { x, gate, up, out, .. } => {
                check("gate and up", x, (*gate).max(up.unwrap_or(0)) + out.cols)
            }
            Op::Argmax { .. } => Ok(()),
            Op::TopK { logits, out } => check("logits", logits, out.cols / 2),
        }
    }

    /// The activations that it reads and those that it writes; where it adds or works in place, both.
    pub(crate) fn activations(&self) -> (Vec<&Tensor>, Vec<&Tensor>) {
        let (mut reads, writes, adds) = match self {
            Op::Gather { index, out, .. } => (vec![], vec![out], matches!(index, Index::Position(_))),
            Op::RmsNorm { x, out, add, .. } => (vec![x], vec![out], *add),
            Op::LayerNorm { x, out, .. } => (vec![x], vec![out.as_ref().unwrap_or(x)], false),
            Op::Outliers { x, out, .. } => (vec![x], vec![out], false),
            Op::Quantize { x, outliers, out, .. } => {
                ([x].into_iter().chain(outliers).collect(), vec![out], false)
            }
            Op::Product { x, out, add, .. } => (vec![x], vec![out], *add),
            Op::Sparse { x, out, .. } => (vec![x], vec![out], true),
            Op::Hadamard { x, out, add, .. } => (vec![x], vec![out], *add),
            Op::Scale { x, out, .. } => (vec![x], vec![out], false),
            Op::ExpertProduct { x, routes, out, add, .. } => (vec![x, &routes.ids], vec![out], *add),
            Op::Route { logits, routes, .. } => (vec![logits], vec![&routes.ids, &routes.weights], false),
            Op::Combine { x, routes, out, add } => (vec![x, &routes.weights], vec![out], *add),
            Op::SoftCap { x, .. } => (vec![x], vec![x], false),
            Op::Rope { qkv, cache, .. } => (vec![qkv], vec![qkv, &cache.keys, &cache.values], false),
            Op::Attention { qkv, cache, out, .. } => {
                (vec![qkv, &cache.keys, &cache.values], vec![out], false)
            }
            Op::Glu { x, out, .. } => (vec![x], vec![out], false),
            Op::Argmax { logits, step } => (vec![logits], vec![step], false),
            Op::TopK { logits, out } => (vec![logits], vec![out], false),
        };
        if adds {
            reads.extend(&writes);
        }
        (reads, writes)
    }

    /// Short name, for profiles and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Gather { .. } => "gather",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Outliers { .. } => "outliers",
            Op::Quantize { .. } => "quantize",
            Op::Product { .. } => "product",
            Op::Sparse { .. } => "sparse",
            Op::Hadamard { .. } => "hadamard",
            Op::Scale { .. } => "scale",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::Glu { .. } => "glu",
            Op::LayerNorm { .. } => "layer_norm",
            Op::ExpertProduct { .. } => "expert_product",
            Op::Route { .. } => "route",
            Op::Combine { .. } => "combine",
            Op::SoftCap { .. } => "softcap",
            Op::Argmax { .. } => "argmax",
            Op::TopK { .. } => "top_k",
        }
    }
}
