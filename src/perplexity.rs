//! Perplexity: how surprised a model is by a text.
//!
//! The protocol is that of the golden files: documents stand between `<|endoftext|>`; each is stripped, begins with
//! BOS and is cut to the context; the mean is over all predicted tokens.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use serde::Serialize;

/// What separates documents in a file.
pub const SEPARATOR: &str = "<|endoftext|>";

/// The measure of a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood of a predicted token, in nats.
    pub nll: f64,
    /// Predicted tokens.
    pub tokens: usize,
}

/// Cuts a text into the token lists that [`perplexity`] runs, each of at most `context` tokens.
///
/// A text without [`SEPARATOR`] is one document: if it is longer than the context, it becomes windows that begin
/// with BOS each, and nothing of it is left out.
pub fn documents(tokenizer: &Tokenizer, text: &str, context: usize) -> Result<Vec<Vec<u32>>> {
    let encode = |text: &str| -> Result<Vec<u32>> {
        let mut ids = tokenizer.encode(text.trim(), true)?;
        // No document is asked to predict its end, whatever the tokenizer adds.
        if ids.last().is_some_and(|id| tokenizer.eos().contains(id)) {
            ids.pop();
        }
        Ok(ids)
    };
    let mut all = Vec::new();
    if text.contains(SEPARATOR) {
        for document in text.split(SEPARATOR) {
            let mut ids = encode(document)?;
            ids.truncate(context);
            all.push(ids);
        }
    } else {
        let ids = encode(text)?;
        let begins = ids.len() > context && context > 1 && ids.first().copied() == tokenizer.bos();
        let (bos, body) = ids.split_at(usize::from(begins));
        all.extend(
            body.chunks(context.saturating_sub(bos.len()).max(1)).map(|window| [bos, window].concat()),
        );
    }
    all.retain(|ids| ids.len() > 1);
    if all.is_empty() {
        return Err(Error::invalid("the text has nothing to predict")
            .expected("a document of at least two tokens")
            .remedy("give a longer text"));
    }
    Ok(all)
}

/// Runs `documents` and measures how well each token was predicted. `progress` is told how it stands after every
/// predicted token.
pub async fn perplexity(
    model: &Model,
    documents: &[Vec<u32>],
    mut progress: impl FnMut(&Perplexity),
) -> Result<Perplexity> {
    let mut sum = 0.0;
    let mut standing = Perplexity { perplexity: f64::NAN, nll: f64::NAN, tokens: 0 };
    for document in documents {
        let each = |position: usize, logits: &[f32]| {
            let Some(&next) = document.get(position + 1) else { return Ok(()) };
            sum += surprise(logits, next)?;
            standing.tokens += 1;
            standing.nll = sum / standing.tokens as f64;
            standing.perplexity = standing.nll.exp();
            progress(&standing);
            Ok(())
        };
        model.every_position(document, each).await?;
    }
    if standing.tokens == 0 {
        return Err(Error::invalid("no document has a token to predict"));
    }
    Ok(standing)
}

/// −ln of the probability that `logits` give to `next`.
fn surprise(logits: &[f32], next: u32) -> Result<f64> {
    let logit = |l: f32| f64::from(l);
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| (logit(l) - logit(most)).exp()).sum();
    let found = logits.get(next as usize).map_or(f64::NAN, |&l| logit(most) + total.ln() - logit(l));
    if found.is_nan() {
        return Err(Error::corrupt("a logit is not a number")
            .remedy("check the model file, the GPU with `halfbyte verify`, or take --kv-cache f32"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_the_log_softmax() {
        let even = surprise(&[3.0; 8], 5).unwrap();
        assert!((even - 8f64.ln()).abs() < 1e-12, "{even}");
        let sure = surprise(&[1000.0, 0.0], 0).unwrap();
        assert!(sure.abs() < 1e-12, "{sure}");
        assert!(surprise(&[f32::NAN, 0.0], 1).is_err());
        assert!(surprise(&[f32::INFINITY, 0.0], 0).is_err());
    }
}
