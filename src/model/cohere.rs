//! Command-R (Cohere 2024): attention and feed-forward layer side by side on one norm (Wang & Komatsuzaki 2021).

use super::block::Block;
use crate::error::Result;

/// Appends one decoder layer: y = norm(x); x += attention(y) + ffn(y).
pub(super) fn forward(block: &mut Block<'_>) -> Result<()> {
    let (x, y) = (&block.a.x.clone(), &block.a.normed.clone());
    let [norm] = block.norms()?;
    block.norm(norm, x, y, false);
    block.attention(y, x, true)?;
    block.feed_forward(y, x, true)
}
