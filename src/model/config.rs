//! What a model is: sizes and switches, whichever file they came from.

use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::quant::TILE_ROWS;
use serde::Serialize;

/// The hyper-parameters of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// `llama`, `gemma2`, `mixtral` …: a name in `ARCHITECTURES`.
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
    /// Added under the root of RMSNorm and LayerNorm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions that the model was made for (after RoPE scaling).
    pub context: usize,
    /// The most positions that the forward pass is right for, where it has a limit.
    pub longest: Option<usize>,
    /// Sliding window: a query sees this many positions, its own included.
    pub window: Option<usize>,
    /// Where only some layers have the window, and what else depends on the layer.
    pub alternating: Option<Alternating>,
    /// Layers whose heads do not turn (NoPE; Kazemnejad et al. 2023), one flag a layer; empty where all turn.
    pub unrotated: Vec<bool>,
    /// Experts instead of one feed-forward layer.
    pub experts: Option<Experts>,
    /// Between the two products of the feed-forward layer.
    pub activation: Activation,
    /// Constants that scale or bound activations.
    pub constants: Constants,
    /// The head is the embedding.
    pub tied: bool,
    /// Begin-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// Layers of two kinds (Gemma 2 and after).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternating {
    /// Which layers have the window, one flag a layer.
    pub sliding: Vec<bool>,
    /// What those rotate by, if not by the model's embedding (Gemma 3).
    pub local_rope: Option<Rope>,
}

/// A mixture of experts (Shazeer et al. 2017): every token goes through a few of many feed-forward layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token goes through.
    pub per_token: usize,
    /// Width of each.
    pub ffn: usize,
    /// The weights of the chosen ones sum to 1; otherwise they are what the softmax over all gave them.
    pub normalized: bool,
}

/// Constants of a forward pass; the default ones change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Constants {
    /// The embedding is multiplied by it (Gemma: √hidden).
    pub embedding_scale: f32,
    /// Scores are divided by its root instead of the head's (Gemma's `query_pre_attn_scalar`).
    pub attention_width: Option<f32>,
    /// Scores s become `cap · tanh(s / cap)` (Gemma 2).
    pub attention_softcap: Option<f32>,
    /// So do logits.
    pub logit_softcap: Option<f32>,
    /// Logits are multiplied by it (Command-R).
    pub logit_scale: f32,
    /// What a layer adds to the residual stream is multiplied by it (Granite).
    pub residual_scale: f32,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            embedding_scale: 1.0,
            attention_width: None,
            attention_softcap: None,
            logit_softcap: None,
            logit_scale: 1.0,
            residual_scale: 1.0,
        }
    }
}

/// Rotary position embedding (Su et al. 2021).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies were stretched.
    pub scaling: RopeScaling,
    /// Channels of a head that turn, the first ones; none where positions are learned.
    pub dims: usize,
    /// Pairs are neighbouring channels, not channels of the two halves.
    pub interleaved: bool,
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
    /// YaRN (Peng et al. 2023): as Llama 3's, the ramp given in rotations, over the index of the frequency; rotated
    /// vectors grow by `amplitude`.
    Yarn {
        /// The factor.
        factor: f64,
        /// `beta_fast`: from so many rotations on a frequency is kept.
        fast: f64,
        /// `beta_slow`: below so many it is divided by the factor.
        slow: f64,
        /// The ramp begins and ends at whole indices.
        truncated: bool,
        /// `original_max_position_embeddings`.
        original: usize,
        /// `attention_factor`.
        amplitude: f64,
    },
    /// LongRoPE (Ding et al. 2024): every frequency divided by its own factor, `[dims / 2]`, by another one once a text
    /// is longer than `original`; rotated vectors grow by `amplitude`.
    Long {
        /// `short_factor`.
        short: Vec<f64>,
        /// `long_factor`.
        long: Vec<f64>,
        /// `original_max_position_embeddings`.
        original: usize,
        /// `attention_factor`.
        amplitude: f64,
    },
    /// GGUF's `rope_freqs.weight`: every frequency divided by its own factor, `[head_dim / 2]`.
    Factors(Vec<f32>),
}

/// Larger sizes than this are taken for a broken file, not a model.
const MAX_SIZE: usize = 1 << 24;
/// The router's kernel keeps a flag for each expert in workgroup memory.
const MAX_EXPERTS: usize = 1024;

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
        self.rope.check(self.head_dim, &invalid)?;
        if let Some(Alternating { sliding, local_rope }) = &self.alternating {
            if sliding.len() != self.layers {
                let (found, layers) = (sliding.len(), self.layers);
                return invalid(format!("layer_types of {found} layers in a model of {layers}"));
            }
            if let Some(rope) = local_rope {
                rope.check(self.head_dim, &invalid)?;
            }
        }
        if !self.unrotated.is_empty() && self.unrotated.len() != self.layers {
            let (found, layers) = (self.unrotated.len(), self.layers);
            return invalid(format!("no_rope_layers of {found} layers in a model of {layers}"));
        }
        if let Some(Experts { count, per_token, ffn, .. }) = self.experts {
            if count == 0 || count > MAX_EXPERTS || per_token == 0 || per_token > count {
                return invalid(format!("invalid experts: {per_token} of {count} a token"));
            }
            if ffn == 0 || ffn > MAX_SIZE {
                return invalid(format!("invalid width of an expert {ffn}"));
            }
            for (name, size) in [("width of an expert", ffn), ("hidden_size with experts", self.hidden)] {
                if !size.is_multiple_of(TILE_ROWS) {
                    let error = Error::unsupported(name).file(file);
                    return Err(error.expected(format!("a multiple of {TILE_ROWS}")).found(size));
                }
            }
        }
        let c = &self.constants;
        let caps = [c.attention_width, c.attention_softcap, c.logit_softcap].into_iter().flatten();
        let positive = |x: &f32| x.is_finite() && *x > 0.0;
        match caps.chain([c.embedding_scale, c.logit_scale, c.residual_scale]).find(|x| !positive(x)) {
            Some(x) => invalid(format!("invalid scale {x}")),
            None => Ok(()),
        }
    }

    /// Whether rotations of a text of `length` positions differ from those of a shorter one (dynamic RoPE, LongRoPE).
    pub fn turns_with_length(&self, length: usize) -> bool {
        use RopeScaling::{Dynamic, Long};
        matches!(self.rope.scaling, Dynamic { original, .. } | Long { original, .. } if length > original)
    }

    /// Rows of q: all query heads.
    pub fn q_rows(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of k, and of v.
    pub fn kv_rows(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Weights of one layer's matrices.
    pub fn layer_weights(&self) -> u64 {
        let attention = 2 * self.q_rows() + 2 * self.kv_rows();
        let ffn = match &self.experts {
            Some(experts) => 3 * experts.count * experts.ffn + experts.count,
            None => 3 * self.ffn,
        };
        (attention + ffn) as u64 * self.hidden as u64
    }

    /// Weights of all matrices, the embedding once if it is the head; norms are not counted.
    pub fn parameters(&self) -> u64 {
        let ends = if self.tied { 1 } else { 2 } * (self.vocab * self.hidden) as u64;
        self.layers as u64 * self.layer_weights() + ends
    }

    /// Whether a layer has the sliding window.
    pub fn slides(&self, layer: usize) -> bool {
        let sliding = |a: &Alternating| a.sliding.get(layer).copied().unwrap_or(false);
        self.window.is_some() && self.alternating.as_ref().is_none_or(sliding)
    }

    /// Whether the heads of a layer turn with the position.
    pub fn rotates(&self, layer: usize) -> bool {
        !self.unrotated.get(layer).copied().unwrap_or(false)
    }
}

impl Rope {
    /// What most models have: all channels of a head turn, in halves.
    pub fn plain(theta: f64, head_dim: usize) -> Self {
        Self { theta, scaling: RopeScaling::None, dims: head_dim, interleaved: false }
    }

    fn check(&self, head_dim: usize, invalid: &dyn Fn(String) -> Result<()>) -> Result<()> {
        let factor_of = |factors: &[f64]| {
            factors.len() == self.dims / 2 && factors.iter().all(|f| f.is_finite() && *f > 0.0)
        };
        if self.dims > head_dim || !self.dims.is_multiple_of(2) {
            return invalid(format!("invalid rotation of {} of {head_dim} channels", self.dims));
        }
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return invalid(format!("invalid rope_theta {}", self.theta));
        }
        let sound = match &self.scaling {
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
                factor.is_finite() && *factor >= 1.0 && *original > 0 && self.dims > 2
            }
            RopeScaling::Yarn { factor, fast, slow, original, amplitude, .. } => {
                let numbers = [factor, fast, slow, amplitude];
                numbers.iter().all(|x| x.is_finite() && **x > 0.0) && *original > 0 && self.theta > 1.0
            }
            RopeScaling::Long { short, long, original, amplitude } => {
                factor_of(short)
                    && factor_of(long)
                    && *original > 0
                    && amplitude.is_finite()
                    && *amplitude > 0.0
            }
            RopeScaling::Factors(factors) => {
                factors.len() == self.dims / 2 && factors.iter().all(|f| f.is_finite() && *f > 0.0)
            }
        };
        if sound { Ok(()) } else { invalid(format!("invalid RoPE scaling {:?}", self.scaling)) }
    }
}
