//! The Llama family: Llama, Mistral, Qwen2, Qwen3, BitNet (Touvron et al. 2023 and after).

use super::config::ModelConfig;
use crate::device::Tensor;
use crate::error::Result;
use crate::linear::{Linear, Scratch};
use crate::ops::{Activation, Cache, Heads, Op, Rows};

/// Weights of one decoder layer.
pub struct Layer {
    pub(super) attention_norm: Tensor,         // [hidden]
    pub(super) wqkv: Linear,                   // [q + k + v, hidden]
    pub(super) qk_norms: Option<[Tensor; 2]>,  // [head_dim], Qwen3
    pub(super) sub_norms: Option<[Tensor; 2]>, // [q], [ffn], BitNet
    pub(super) wo: Linear,                     // [hidden, q]
    pub(super) ffn_norm: Tensor,               // [hidden]
    pub(super) gate_up: Linear,                // [2 · ffn, hidden]
    pub(super) down: Linear,                   // [hidden, ffn]
}

/// Activations of a step; `rows` of each is how many tokens it may have.
#[derive(Debug, Clone)]
pub struct Activations {
    pub(super) x: Tensor,                       // [tokens, hidden], the residual stream, f32
    pub(super) normed: Tensor,                  // [tokens, hidden]
    pub(super) qkv: Tensor,                     // [tokens, q + k + v]
    pub(super) attended: Tensor,                // [tokens, q]
    pub(super) gate_up: Tensor,                 // [tokens, 2 · ffn]
    pub(super) activated: Tensor,               // [tokens, ffn]
    pub(super) sub_normed: Option<[Tensor; 2]>, // [tokens, q], [tokens, ffn]
    pub(super) scratch: Scratch,
}

/// Appends one decoder layer: x += attention(norm(x)); x += ffn(norm(x)).
pub fn forward(
    ops: &mut Vec<Op>,
    config: &ModelConfig,
    layer: &Layer,
    rotations: &Tensor,
    cache: &Cache,
    a: &Activations,
) -> Result<()> {
    let norm = |x: &Tensor, weight: &Tensor, out: &Tensor| Op::RmsNorm {
        rows: Rows::Tokens,
        x: x.clone(),
        weight: weight.clone(),
        eps: config.norm_eps,
        out: out.clone(),
    };
    // What the last product of attention (0) and feed-forward (1) works on: BitNet norms it once more.
    let sub_norm = |ops: &mut Vec<Op>, which: usize, x: &Tensor| match (&layer.sub_norms, &a.sub_normed) {
        (Some(weights), Some(normed)) => {
            ops.push(norm(x, &weights[which], &normed[which]));
            normed[which].clone()
        }
        _ => x.clone(),
    };
    let activation = super::architecture(config).map_or(Activation::Silu, |a| a.activation);
    let first = |linear: &Linear, name| linear.slice(name).map(|rows| rows.start);
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

    ops.push(norm(&a.x, &layer.attention_norm, &a.normed));
    layer.wqkv.forward(ops, Rows::Tokens, &a.scratch, &a.normed, &a.qkv, false);
    ops.push(Op::Rope {
        heads,
        qkv: a.qkv.clone(),
        rotations: rotations.clone(),
        norms: layer.qk_norms.as_ref().map(|[q, k]| (q.clone(), k.clone(), config.norm_eps)),
        cache: cache.clone(),
    });
    ops.push(Op::Attention {
        heads,
        qkv: a.qkv.clone(),
        cache: cache.clone(),
        window: config.window,
        out: a.attended.clone(),
    });
    let attended = sub_norm(ops, 0, &a.attended);
    layer.wo.forward(ops, Rows::Tokens, &a.scratch, &attended, &a.x, true);

    ops.push(norm(&a.x, &layer.ffn_norm, &a.normed));
    layer.gate_up.forward(ops, Rows::Tokens, &a.scratch, &a.normed, &a.gate_up, false);
    ops.push(Op::Glu {
        activation,
        x: a.gate_up.clone(),
        gate: first(&layer.gate_up, "gate_proj")?,
        up: first(&layer.gate_up, "up_proj")?,
        out: a.activated.clone(),
    });
    let activated = sub_norm(ops, 1, &a.activated);
    layer.down.forward(ops, Rows::Tokens, &a.scratch, &activated, &a.x, true);
    Ok(())
}
