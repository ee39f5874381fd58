//! The Llama family: Llama, Mistral, Qwen, Phi-3, BitNet (Touvron et al. 2023 and after); with experts Mixtral (Jiang et al.
//! 2024), Qwen3-MoE, gpt-oss; with LayerNorm and learned positions OPT (Zhang et al. 2022).

use super::block::Block;
use crate::error::Result;

/// Appends one decoder layer: x += attention(norm(x)); x += ffn(norm(x)).
pub(super) fn forward(block: &mut Block<'_>) -> Result<()> {
    let (x, normed) = (&block.a.x.clone(), &block.a.normed.clone());
    let [attention_norm, ffn_norm] = block.norms()?;
    block.norm(attention_norm, x, normed, false);
    block.attention(normed, x, true)?;
    block.norm(ffn_norm, x, normed, false);
    block.feed_forward(normed, x, true)
}
