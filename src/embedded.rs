//! The model that the crate carries: a small storyteller, trained by `models/train.py`.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::source::Bytes;
use crate::error::Result;

/// The GGUF file.
static TALE: &[u8] = include_bytes!("../models/tale.gguf");

/// What it writes when it is not told how to begin.
pub const PROMPT: &str = "Once upon a time";

/// Opens the embedded model.
pub async fn open() -> Result<Checkpoint> {
    Checkpoint::from_gguf(Bytes::new("tale.gguf", TALE)).await
}
