//! Whether an adapter computes what the CPU twin computes: the same tokens through both.

use super::measure::prompt;
use crate::checkpoint::{StoredMatrix, Weights};
use crate::device::Device;
use crate::error::Result;
use crate::model::{LoadOptions, Model, ModelConfig, PREFILL_CHUNK};
use crate::reference::argmax;
use crate::verify::relative_error;
use serde::{Deserialize, Serialize};

/// About so many weights the twin is given: it decodes each one for every [`PREFILL_CHUNK`] tokens.
const WEIGHTS: u64 = if cfg!(target_arch = "wasm32") { 60_000_000 } else { 250_000_000 };
/// One layer with the head may have so many; beyond that nothing is compared.
const MOST_WEIGHTS: u64 = 5 * WEIGHTS;

/// How near the logits of an adapter are to the twin's, when both are made to read the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Tokens that both read, one after the other on the GPU.
    pub tokens: usize,
    /// Layers that took part, from the first on: the twin is slow.
    pub layers: usize,
    /// Layers of the model.
    pub of_layers: usize,
    /// ‖gpu − cpu‖ / ‖cpu‖ of a token's logits, the worst.
    pub max_relative_error: f64,
    /// Share of the tokens for which both have the same largest logit.
    pub same_argmax: f64,
}

/// The first layers of a model, as a model.
struct FirstLayers<'a, W> {
    weights: &'a W,
    config: ModelConfig,
}

impl<W: Weights> Weights for FirstLayers<'_, W> {
    fn name(&self) -> &str {
        self.weights.name()
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn format_name(&self) -> &str {
        self.weights.format_name()
    }

    fn disk_bytes(&self) -> u64 {
        self.weights.disk_bytes()
    }

    fn check(&self) -> Result<()> {
        self.weights.check()
    }

    async fn matrices(&self, parent: &str, names: &[&str]) -> Result<Vec<StoredMatrix>> {
        self.weights.matrices(parent, names).await
    }

    async fn matrix(&self, name: &str) -> Result<Option<StoredMatrix>> {
        self.weights.matrix(name).await
    }

    async fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.weights.vector(name, len).await
    }
}

/// Layers that the twin can be given; none if a single one is too many.
fn affordable(config: &ModelConfig) -> Option<usize> {
    let (layer, head) = (config.layer_weights(), (config.vocab * config.hidden) as u64);
    let layers = (WEIGHTS.saturating_sub(head) / layer).clamp(1, config.layers as u64);
    (layers * layer + head <= MOST_WEIGHTS).then_some(layers as usize)
}

/// Loads the first layers on `device` and on the CPU, both as `load` says but for the context, and runs `tokens` tokens
/// through both. None on the CPU, where nothing is computed, and for models of which the twin cannot run one layer in
/// reasonable time.
pub async fn agreement(
    device: &Device,
    weights: &impl Weights,
    load: impl Fn() -> LoadOptions,
    tokens: usize,
) -> Result<Option<Agreement>> {
    let config = weights.config();
    let (Device::Gpu(context), Some(layers), 1..) = (device, affordable(config), tokens) else {
        return Ok(None);
    };
    if context.is_noop() {
        return Ok(None);
    }
    let of_layers = config.layers;
    let tokens = tokens.min(PREFILL_CHUNK).min(config.context);
    let first = FirstLayers { weights, config: ModelConfig { layers, ..config.clone() } };
    let options = || LoadOptions { context: Some(tokens), ..load() };
    let text = prompt(config, tokens);
    let mut wanted = Vec::new();
    {
        let twin = Model::load(&Device::Cpu, &first, &options(), |_| {}).await?;
        twin.every_position(&text, |_, logits| {
            wanted.push(logits.to_vec());
            Ok(())
        })
        .await?;
    }
    let model = Model::load(device, &first, &options(), |_| {}).await?;
    let (mut max_relative_error, mut same) = (0f64, 0);
    for (position, (&token, wanted)) in text.iter().zip(&wanted).enumerate() {
        let found = model.decode_logits(position, token).await?;
        max_relative_error = max_relative_error.max(relative_error(&found, wanted));
        // Equal logits are equally right: rows of random weights repeat.
        let best = |logits: &[f32]| wanted.get(argmax(logits) as usize).copied();
        same += usize::from(best(&found).is_some() && best(&found) == best(wanted));
    }
    let same_argmax = same as f64 / tokens as f64;
    Ok(Some(Agreement { tokens, layers, of_layers, max_relative_error, same_argmax }))
}
