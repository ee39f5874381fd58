//! OLMo 2 (Team OLMo 2024), EXAONE 4: a norm after each half of a layer, none before it.

use super::block::Block;
use crate::error::Result;

/// Appends one decoder layer: x += norm(attention(x)); x += norm(ffn(x)).
pub(super) fn forward(block: &mut Block<'_>) -> Result<()> {
    let (x, y) = (&block.a.x.clone(), &block.a.normed.clone());
    let [after_attention, after_ffn] = block.norms()?;
    block.attention(x, y, false)?;
    block.norm(after_attention, y, x, true);
    block.feed_forward(x, y, false)?;
    block.norm(after_ffn, y, x, true);
    Ok(())
}
