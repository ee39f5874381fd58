//! What a model is: sizes and switches, whichever file they came from.

use crate::error::{Error, Result};
use serde::Serialize;

/// The hyper-parameters of a Llama-family model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// `llama`, `mistral`, `qwen2`, `qwen3`: a name in `ARCHITECTURES`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads` (GQA).
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Added under RMSNorm's root.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions that the model was made for (after RoPE scaling).
    pub context: usize,
    /// Sliding window: a query sees this many positions, its own included.
    pub window: Option<usize>,
    /// The head is the embedding.
    pub tied: bool,
    /// Begin-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// Rotary position embedding (Su et al. 2021), rotate-half convention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies were stretched.
    pub scaling: RopeScaling,
}

/// Context extension by RoPE.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency divided by `factor` (position interpolation).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original: usize,
    },
    /// NTK-aware base that grows once a text is longer than `original`.
    Dynamic {
        /// The factor.
        factor: f64,
        /// `max_position_embeddings` of the checkpoint.
        original: usize,
    },
    /// GGUF's `rope_freqs.weight`: every frequency divided by its own factor, `[head_dim / 2]`.
    Factors(Vec<f32>),
}

/// Larger sizes than this are taken for a broken file, not a model.
const MAX_SIZE: usize = 1 << 24;

impl ModelConfig {
    /// Checks that the sizes fit together; `file` is named in the error.
    pub fn check(&self, file: &str) -> Result<()> {
        let invalid =
            |what: String| Err(Error::invalid(what).file(file).remedy("the configuration is damaged"));
        for (name, size) in [
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.ffn),
            ("vocab_size", self.vocab),
            ("max_position_embeddings", self.context),
        ] {
            if size == 0 || size > MAX_SIZE {
                return invalid(format!("invalid {name} {size}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv) = (self.heads, self.kv_heads);
            return invalid(format!(
                "num_attention_heads {heads} is not divisible by num_key_value_heads {kv}"
            ));
        }
        for (name, size) in [("hidden_size", self.hidden), ("intermediate_size", self.ffn)] {
            if !size.is_multiple_of(4) {
                return Err(Error::unsupported(name).file(file).expected("a multiple of 4").found(size));
            }
        }
        // The cache stores fours, and attention gives each four columns a lane of its 64.
        if !self.head_dim.is_multiple_of(4) || self.head_dim > 256 {
            let expected = "a multiple of 4 up to 256";
            return Err(Error::unsupported("head_dim").file(file).expected(expected).found(self.head_dim));
        }
        let width = self.heads.saturating_mul(self.head_dim);
        if width > MAX_SIZE {
            return invalid(format!("invalid attention width {width}"));
        }
        if !width.is_multiple_of(4) {
            return Err(Error::unsupported("attention width")
                .file(file)
                .expected("a multiple of 4")
                .found(width));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return invalid(format!("invalid rms_norm_eps {}", self.norm_eps));
        }
        if !(self.rope.theta.is_finite() && self.rope.theta > 0.0) {
            return invalid(format!("invalid rope_theta {}", self.rope.theta));
        }
        let sound = match &self.rope.scaling {
            RopeScaling::None => true,
            RopeScaling::Linear { factor } => factor.is_finite() && *factor > 0.0,
            RopeScaling::Llama3 { factor, low, high, original } => {
                factor.is_finite()
                    && *factor > 0.0
                    && low.is_finite()
                    && high.is_finite()
                    && high > low
                    && *original > 0
            }
            RopeScaling::Dynamic { factor, original } => {
                factor.is_finite() && *factor >= 1.0 && *original > 0 && self.head_dim > 2
            }
            RopeScaling::Factors(factors) => {
                factors.len() == self.head_dim / 2 && factors.iter().all(|f| f.is_finite() && *f > 0.0)
            }
        };
        if !sound {
            return invalid(format!("invalid RoPE scaling {:?}", self.rope.scaling));
        }
        Ok(())
    }

    /// Whether rotations of a text of `length` positions differ from those of a shorter one (dynamic RoPE).
    pub fn turns_with_length(&self, length: usize) -> bool {
        matches!(self.rope.scaling, RopeScaling::Dynamic { original, .. } if length > original)
    }

    /// Weights of one layer's matrices.
    pub fn layer_weights(&self) -> u64 {
        let rows = (2 * self.q_rows() + 2 * self.kv_rows() + 3 * self.ffn) as u64;
        rows * self.hidden as u64
    }

    /// Weights of all matrices, the embedding once if it is the head; norms are not counted.
    pub fn parameters(&self) -> u64 {
        let ends = if self.tied { 1 } else { 2 } * (self.vocab * self.hidden) as u64;
        self.layers as u64 * self.layer_weights() + ends
    }

    /// Rows of q: all query heads.
    pub fn q_rows(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of k, and of v.
    pub fn kv_rows(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
