//! Sizes of models that people run, so that their speed can be measured without a download.

use crate::error::{Error, Result};
use crate::model::{Constants, ModelConfig, Rope};
use crate::ops::Activation;

/// The sizes of one model, from its `config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShapeSpec {
    /// What `--shape` names.
    pub name: &'static str,
    /// An entry of [`crate::model::ARCHITECTURES`].
    pub architecture: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads and key/value heads.
    pub heads: (usize, usize),
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// The head is the embedding.
    pub tied: bool,
}

macro_rules! shapes {
    ($($name:literal $architecture:literal $hidden:literal $layers:literal $heads:literal $kv:literal $head_dim:literal
        $ffn:literal $vocab:literal $context:literal $theta:literal $tied:literal;)*) => {
        &[$(ShapeSpec {
            name: $name,
            architecture: $architecture,
            hidden: $hidden,
            layers: $layers,
            heads: ($heads, $kv),
            head_dim: $head_dim,
            ffn: $ffn,
            vocab: $vocab,
            context: $context,
            theta: $theta,
            tied: $tied,
        }),*]
    };
}

/// Every shape that `--shape` names. `tale` is the embedded model's, `llama-134m` that of small benchmarks elsewhere.
#[rustfmt::skip]
pub static SHAPES: &[ShapeSpec] = shapes![
    // name         architecture hidden layers heads kv head_dim ffn vocab context theta tied
    "tale"           "llama"    256  6  8  4  32   768   4096   1024     10000.0 true;
    "llama-134m"     "llama"    768 12 12 12  64  2048  32000   4096     10000.0 false;
    "llama-2-7b"     "llama"   4096 32 32 32 128 11008  32000   4096     10000.0 false;
    "llama-2-13b"    "llama"   5120 40 40 40 128 13824  32000   4096     10000.0 false;
    "llama-2-70b"    "llama"   8192 80 64  8 128 28672  32000   4096     10000.0 false;
    "llama-3-8b"     "llama"   4096 32 32  8 128 14336 128256   8192    500000.0 false;
    "llama-3-70b"    "llama"   8192 80 64  8 128 28672 128256   8192    500000.0 false;
    "llama-3.2-1b"   "llama"   2048 16 32  8  64  8192 128256 131072    500000.0 true;
    "llama-3.2-3b"   "llama"   3072 28 24  8 128  8192 128256 131072    500000.0 true;
    "qwen3-0.6b"     "qwen3"   1024 28 16  8 128  3072 151936  40960   1000000.0 true;
    "qwen3-1.7b"     "qwen3"   2048 28 16  8 128  6144 151936  40960   1000000.0 true;
    "qwen3-4b"       "qwen3"   2560 36 32  8 128  9728 151936  40960   1000000.0 true;
    "qwen3-8b"       "qwen3"   4096 36 32  8 128 12288 151936  40960   1000000.0 false;
    "mistral-7b"     "mistral" 4096 32 32  8 128 14336  32768  32768   1000000.0 false;
    "smollm2-135m"   "llama"    576 30  9  3  64  1536  49152   8192    100000.0 true;
    "smollm2-360m"   "llama"    960 32 15  5  64  2560  49152   8192    100000.0 true;
];

impl ShapeSpec {
    /// The shape of that name, in any case.
    pub fn named(name: &str) -> Result<&'static Self> {
        let known = || SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
        let found = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::invalid("unknown shape").expected(known()).found(name))
    }

    /// The configuration of a model of this shape.
    pub fn config(&self) -> ModelConfig {
        ModelConfig {
            architecture: self.architecture.into(),
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads.0,
            kv_heads: self.heads.1,
            head_dim: self.head_dim,
            ffn: self.ffn,
            vocab: self.vocab,
            norm_eps: 1e-5,
            rope: Rope::plain(self.theta, self.head_dim),
            context: self.context,
            longest: None,
            window: None,
            alternating: None,
            unrotated: Vec::new(),
            experts: None,
            activation: Activation::Silu,
            constants: Constants::default(),
            tied: self.tied,
            bos: None,
            eos: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_model() {
        for shape in SHAPES {
            shape.config().check(shape.name).unwrap();
        }
        let error = ShapeSpec::named("gpt-5").unwrap_err().to_string();
        assert!(error.contains("llama-3.2-1b"), "{error}");
    }

    #[test]
    fn tale_is_the_embedded_one() {
        let embedded = pollster::block_on(crate::embedded::open()).unwrap();
        let own = ShapeSpec::named("tale").unwrap().config();
        let (bos, eos) = (embedded.config().bos, embedded.config().eos.clone());
        assert_eq!(ModelConfig { bos, eos, ..own }, *embedded.config());
    }

    /// Parameters as the models' authors count them, without the norms, in millions.
    #[test]
    fn sizes_are_the_published_ones() {
        for (name, millions) in [
            ("llama-134m", 134),
            ("llama-2-7b", 6738),
            ("llama-2-13b", 13015),
            ("llama-2-70b", 68975),
            ("llama-3-8b", 8030),
            ("llama-3-70b", 70552),
            ("llama-3.2-1b", 1236),
            ("llama-3.2-3b", 3213),
            ("qwen3-0.6b", 596),
            ("qwen3-1.7b", 1720),
            ("qwen3-4b", 4022),
            ("qwen3-8b", 8190),
            ("mistral-7b", 7248),
            ("smollm2-135m", 134),
            ("smollm2-360m", 362),
        ] {
            let parameters = ShapeSpec::named(name).unwrap().config().parameters();
            assert_eq!((parameters as f64 / 1e6).round() as u64, millions, "{name}");
        }
    }
}
