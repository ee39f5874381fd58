//! Gemma 2 and 3 (Gemma Team 2024, 2025): a norm before each half of a layer and another one after it.

use super::block::Block;
use crate::error::Result;

/// Appends one decoder layer: x += norm(attention(norm(x))); x += norm(ffn(norm(x))).
pub(super) fn forward(block: &mut Block<'_>) -> Result<()> {
    let (x, y) = (&block.a.x.clone(), &block.a.normed.clone());
    let [before_attention, after_attention, before_ffn, after_ffn] = block.norms()?;
    block.norm(before_attention, x, y, false);
    block.attention(y, y, false)?;
    block.norm(after_attention, y, x, true);
    block.norm(before_ffn, x, y, false);
    block.feed_forward(y, y, false)?;
    block.norm(after_ffn, y, x, true);
    Ok(())
}
