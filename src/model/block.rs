//! The steps that the forward passes of a layer are made of: norms, attention, feed-forward layers.

use super::architecture::{NormKind, architecture};
use super::config::{Alternating, Experts, ModelConfig, Rope};
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::linear::{Linear, Scratch, ScratchSize};
use crate::ops::{Activation, Cache, Heads, Op, Routes, Rows};

/// A norm with its weights.
pub struct Norm {
    pub(super) kind: NormKind,
    pub(super) weight: Tensor,       // [width]
    pub(super) bias: Option<Tensor>, // [width]
    pub(super) eps: f32,
}

impl Norm {
    /// `out (+)= norm(x)`; only an RMSNorm can be added.
    pub(super) fn forward(&self, ops: &mut Vec<Op>, rows: Rows, x: &Tensor, out: &Tensor, add: bool) {
        let (x, weight, eps) = (x.clone(), self.weight.clone(), self.eps);
        ops.push(match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => {
                Op::RmsNorm { rows, x, weight, eps, out: out.clone(), add }
            }
            NormKind::Layer => Op::LayerNorm {
                rows,
                x,
                offset: 0,
                width: weight.cols,
                centered: true,
                weight,
                bias: self.bias.clone(),
                eps,
                out: Some(out.clone()),
            },
        });
    }
}

/// Weights of one decoder layer.
pub struct Layer {
    pub(super) norms: Vec<Norm>,             // as `Architecture::norms` names them
    pub(super) wqkv: Linear,                 // [q + k + v, hidden]
    pub(super) qk_norms: Option<[Norm; 2]>,  // [head_dim]; Command-R+, OLMo 2: [q], [k]
    pub(super) sub_norms: Option<[Norm; 2]>, // [q], [ffn], BitNet
    pub(super) sinks: Option<Tensor>,        // [heads], gpt-oss
    pub(super) wo: Linear,                   // [hidden, q]
    pub(super) ffn: FeedForward,
}

/// The second half of a layer.
pub(super) enum FeedForward {
    Dense {
        gate_up: Linear, // [2 · ffn, hidden]; [ffn, hidden] without a gate
        down: Linear,    // [hidden, ffn]
    },
    Experts {
        router: Linear, // [experts, hidden]
        gate: Linear,   // [experts · ffn, hidden]
        up: Linear,     // [experts · ffn, hidden]
        down: Linear,   // [experts · hidden, ffn]
    },
}

impl Layer {
    /// All products, with the module that they belong to.
    pub(super) fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut all = vec![("self_attn", &self.wqkv), ("self_attn", &self.wo)];
        match &self.ffn {
            FeedForward::Dense { gate_up, down } => all.extend([("mlp", gate_up), ("mlp", down)]),
            FeedForward::Experts { router, gate, up, down } => {
                all.extend([router, gate, up, down].map(|linear| ("mlp", linear)));
            }
        }
        all
    }
}

/// Activations of a step; `rows` of each is how many tokens it may have.
#[derive(Debug, Clone)]
pub(super) struct Activations {
    pub(super) x: Tensor,                       // [tokens, hidden], the residual stream, f32
    pub(super) normed: Tensor,                  // [tokens, hidden]
    pub(super) qkv: Tensor,                     // [tokens, q + k + v]
    pub(super) attended: Tensor,                // [tokens, q]
    pub(super) gate_up: Tensor, // [tokens, 2 · ffn]; with experts a row for each that is chosen
    pub(super) activated: Tensor, // [tokens, ffn]; so here
    pub(super) sub_normed: Option<[Tensor; 2]>, // [tokens, q], [tokens, ffn]
    pub(super) experts: Option<ExpertActivations>,
    pub(super) scratch: Scratch,
}

/// What only experts need.
#[derive(Debug, Clone)]
pub(super) struct ExpertActivations {
    logits: Tensor,   // [tokens, experts]
    routes: Routes,   // [tokens, per_token]
    out: Tensor,      // [tokens · per_token, hidden]
    low: [Tensor; 2], // [tokens · per_token, rank]
}

impl Activations {
    /// Numbers of one token, all of them together.
    pub(super) fn width(config: &ModelConfig, scratch: ScratchSize) -> usize {
        let (rows, ffn) = config.experts.as_ref().map_or((1, config.ffn), |e| (e.per_token, e.ffn));
        let attention = 2 * (config.hidden + config.q_rows() + config.kv_rows());
        let low = if config.experts.is_some() { 2 * rows + 1 } else { 1 } * scratch.low;
        attention + 3 * rows * ffn + 2 * scratch.wide + low
    }

    pub(super) fn new(
        device: &Device,
        config: &ModelConfig,
        scratch: ScratchSize,
        tokens: usize,
    ) -> Result<Self> {
        let zeros = |rows, cols| device.zeros("activations", rows, cols);
        let (rows, ffn) =
            config.experts.as_ref().map_or((tokens, config.ffn), |e| (tokens * e.per_token, e.ffn));
        let experts = match &config.experts {
            Some(Experts { count, per_token, .. }) => Some(ExpertActivations {
                logits: zeros(tokens, *count)?,
                routes: Routes { ids: zeros(tokens, *per_token)?, weights: zeros(tokens, *per_token)? },
                out: zeros(rows, config.hidden)?,
                low: [zeros(rows, scratch.low.max(4))?, zeros(rows, scratch.low.max(4))?],
            }),
            None => None,
        };
        Ok(Self {
            x: zeros(tokens, config.hidden)?,
            normed: zeros(tokens, config.hidden)?,
            qkv: zeros(tokens, config.q_rows() + 2 * config.kv_rows())?,
            attended: zeros(tokens, config.q_rows())?,
            gate_up: zeros(rows, 2 * ffn)?,
            activated: zeros(rows, ffn)?,
            sub_normed: match architecture(config).is_some_and(|a| a.sub_norms) {
                true => Some([zeros(tokens, config.q_rows())?, zeros(rows, ffn)?]),
                false => None,
            },
            experts,
            scratch: scratch.allocate(device, tokens)?,
        })
    }
}

/// The tables that layers rotate by.
pub(super) struct Rotations {
    pub(super) global: Option<(Rope, Tensor)>, // [positions, dims]
    pub(super) local: Option<(Rope, Tensor)>,  // of layers with the window, where theirs differ
}

impl Rotations {
    pub(super) fn new(device: &Device, config: &ModelConfig, context: usize) -> Result<Self> {
        let table = |rope: &Rope| -> Result<Option<(Rope, Tensor)>> {
            let cols = rope.dims;
            let tensor = (cols > 0).then(|| device.zeros("rotations", context, cols)).transpose()?;
            Ok(tensor.map(|tensor| (rope.clone(), tensor)))
        };
        let local = match &config.alternating {
            Some(Alternating { local_rope: Some(rope), .. }) => table(rope)?,
            _ => None,
        };
        Ok(Self { global: table(&config.rope)?, local })
    }

    /// The table of a layer.
    fn of(&self, sliding: bool) -> Option<&(Rope, Tensor)> {
        if sliding && self.local.is_some() { self.local.as_ref() } else { self.global.as_ref() }
    }
}

/// A layer with what it works on.
pub struct Block<'a> {
    pub(super) ops: &'a mut Vec<Op>,
    pub(super) config: &'a ModelConfig,
    pub(super) index: usize,
    pub(super) layer: &'a Layer,
    pub(super) rotations: &'a Rotations,
    pub(super) cache: &'a Cache,
    pub(super) a: &'a Activations,
}

impl<'a> Block<'a> {
    /// The norms of the layer.
    pub(super) fn norms<const N: usize>(&self) -> Result<[&'a Norm; N]> {
        let all: Vec<&Norm> = self.layer.norms.iter().collect();
        all.try_into().map_err(|_| Error::invalid("a layer has other norms than its forward pass"))
    }

    /// `out (+)= norm(x)`.
    pub(super) fn norm(&mut self, norm: &Norm, x: &Tensor, out: &Tensor, add: bool) {
        norm.forward(self.ops, Rows::Tokens, x, out, add);
    }

    /// `out (+)= attention(x)` (Vaswani et al. 2017), queries in groups (Ainslie et al. 2023).
    pub(super) fn attention(&mut self, x: &Tensor, out: &Tensor, add: bool) -> Result<()> {
        let Self { config, layer, a, .. } = *self;
        let heads = Heads {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            offsets: [
                first(&layer.wqkv, "q_proj")?,
                first(&layer.wqkv, "k_proj")?,
                first(&layer.wqkv, "v_proj")?,
            ],
        };
        let sliding = config.slides(self.index);
        let rotations = self.rotations.of(sliding).filter(|_| config.rotates(self.index));
        layer.wqkv.forward(self.ops, Rows::Tokens, &a.scratch, x, &a.qkv, false);
        let norms = match &layer.qk_norms {
            Some([q, k]) if q.weight.cols == config.head_dim && q.kind != NormKind::Layer => {
                Some((q.weight.clone(), k.weight.clone(), q.eps))
            }
            Some(norms) => {
                for (norm, offset) in norms.iter().zip(heads.offsets) {
                    let centered = norm.kind == NormKind::Layer;
                    self.ops.push(Op::LayerNorm {
                        rows: Rows::Tokens,
                        x: a.qkv.clone(),
                        offset,
                        width: if centered { config.head_dim } else { norm.weight.cols },
                        centered,
                        weight: norm.weight.clone(),
                        bias: None,
                        eps: norm.eps,
                        out: None,
                    });
                }
                None
            }
            None => None,
        };
        self.ops.push(Op::Rope {
            heads,
            qkv: a.qkv.clone(),
            rotations: rotations.map(|(_, table)| table.clone()),
            interleaved: rotations.is_some_and(|(rope, _)| rope.interleaved),
            norms,
            cache: self.cache.clone(),
        });
        let width = config.constants.attention_width.unwrap_or(config.head_dim as f32);
        self.ops.push(Op::Attention {
            heads,
            qkv: a.qkv.clone(),
            cache: self.cache.clone(),
            window: config.window.filter(|_| sliding),
            scale: 1.0 / width.sqrt(),
            softcap: config.constants.attention_softcap,
            sinks: layer.sinks.clone(),
            out: a.attended.clone(),
        });
        let attended = self.sub_norm(0, &a.attended);
        layer.wo.forward(self.ops, Rows::Tokens, &a.scratch, attended, out, add);
        Ok(())
    }

    /// `out (+)= ffn(x)`: down(activation(gate(x)) ⊙ up(x)), of all of the layer or of a few of its experts.
    pub(super) fn feed_forward(&mut self, x: &Tensor, out: &Tensor, add: bool) -> Result<()> {
        let Self { config, layer, a, .. } = *self;
        match &layer.ffn {
            FeedForward::Dense { gate_up, down } => {
                gate_up.forward(self.ops, Rows::Tokens, &a.scratch, x, &a.gate_up, false);
                let up = first(gate_up, "up_proj")?;
                let gate = first(gate_up, "gate_proj").ok();
                self.glu(Rows::Tokens, config.activation, gate.unwrap_or(up), gate.map(|_| up));
                let activated = self.sub_norm(1, &a.activated);
                down.forward(self.ops, Rows::Tokens, &a.scratch, activated, out, add);
            }
            FeedForward::Experts { router, gate, up, down } => {
                let missing = || Error::invalid("experts without a configuration");
                let Experts { per_token, ffn, normalized, .. } =
                    config.experts.clone().ok_or_else(missing)?;
                let e = a.experts.as_ref().ok_or_else(missing)?;
                router.forward(self.ops, Rows::Tokens, &a.scratch, x, &e.logits, false);
                self.ops.push(Op::Route { logits: e.logits.clone(), normalized, routes: e.routes.clone() });
                let sizes = (ffn, per_token);
                gate.forward_chosen(self.ops, &e.routes, sizes, x, &e.low, (&a.gate_up, 0))?;
                up.forward_chosen(self.ops, &e.routes, sizes, x, &e.low, (&a.gate_up, ffn))?;
                self.glu(Rows::Chosen(per_token), config.activation, 0, Some(ffn));
                let sizes = (config.hidden, 1);
                down.forward_chosen(self.ops, &e.routes, sizes, &a.activated, &e.low, (&e.out, 0))?;
                let (x, routes, out) = (e.out.clone(), e.routes.clone(), out.clone());
                self.ops.push(Op::Combine { x, routes, out, add });
            }
        }
        Ok(())
    }

    /// What the last product of attention (0) and of the feed-forward layer (1) works on: BitNet norms it once more.
    fn sub_norm(&mut self, which: usize, x: &'a Tensor) -> &'a Tensor {
        match (&self.layer.sub_norms, &self.a.sub_normed) {
            (Some(norms), Some(normed)) => {
                norms[which].forward(self.ops, Rows::Tokens, x, &normed[which], false);
                &normed[which]
            }
            _ => x,
        }
    }

    fn glu(&mut self, rows: Rows, activation: Activation, gate: usize, up: Option<usize>) {
        let (x, out) = (self.a.gate_up.clone(), self.a.activated.clone());
        self.ops.push(Op::Glu { rows, activation, x, gate, up, out });
    }
}

fn first(linear: &Linear, name: &str) -> Result<usize> {
    linear.slice(name).map(|rows| rows.start)
}
