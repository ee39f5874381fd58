//! The Llama family: Llama, Mistral, Qwen2, Qwen3 (Touvron et al. 2023 and after).

use super::config::ModelConfig;
use crate::device::Tensor;
use crate::error::Result;
use crate::linear::{Linear, Scratch};
use crate::ops::{Cache, Heads, Op, Rows};

/// Weights of one decoder layer.
pub struct Layer {
    pub(super) attention_norm: Tensor,        // [hidden]
    pub(super) wqkv: Linear,                  // [q + k + v, hidden]
    pub(super) qk_norms: Option<[Tensor; 2]>, // [head_dim], Qwen3
    pub(super) wo: Linear,                    // [hidden, q]
    pub(super) ffn_norm: Tensor,              // [hidden]
    pub(super) gate_up: Linear,               // [2 · ffn, hidden]
    pub(super) down: Linear,                  // [hidden, ffn]
}

/// Activations of a step; `rows` of each is how many tokens it may have.
#[derive(Debug, Clone)]
pub struct Activations {
    pub(super) x: Tensor,         // [tokens, hidden], the residual stream, f32
    pub(super) normed: Tensor,    // [tokens, hidden]
    pub(super) qkv: Tensor,       // [tokens, q + k + v]
    pub(super) attended: Tensor,  // [tokens, q]
    pub(super) gate_up: Tensor,   // [tokens, 2 · ffn]
    pub(super) activated: Tensor, // [tokens, ffn]
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
    let norm = |weight: &Tensor| Op::RmsNorm {
        rows: Rows::Tokens,
        x: a.x.clone(),
        weight: weight.clone(),
        eps: config.norm_eps,
        out: a.normed.clone(),
    };
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

    ops.push(norm(&layer.attention_norm));
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
    layer.wo.forward(ops, Rows::Tokens, &a.scratch, &a.attended, &a.x, true);

    ops.push(norm(&layer.ffn_norm));
    layer.gate_up.forward(ops, Rows::Tokens, &a.scratch, &a.normed, &a.gate_up, false);
    ops.push(Op::SwiGlu {
        x: a.gate_up.clone(),
        gate: first(&layer.gate_up, "gate_proj")?,
        up: first(&layer.gate_up, "up_proj")?,
        out: a.activated.clone(),
    });
    layer.down.forward(ops, Rows::Tokens, &a.scratch, &a.activated, &a.x, true);
    Ok(())
}
