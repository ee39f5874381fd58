//! Ctrl-C: while a text is being written it ends the text; at any other time, or the second time, the program.

use anyhow::Result;
use std::sync::atomic::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const WRITING: u8 = 1;
const CANCELLED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// Exit status of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Takes over Ctrl-C; to be called once.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        let cancelled = STATE.compare_exchange(WRITING, CANCELLED, Ordering::Relaxed, Ordering::Relaxed);
        if cancelled.is_err() {
            std::process::exit(INTERRUPTED);
        }
    })?;
    Ok(())
}

/// While it lives, Ctrl-C asks for the end of the text and no more.
pub struct Writing(());

impl Writing {
    /// Starts.
    pub fn new() -> Self {
        STATE.store(WRITING, Ordering::Relaxed);
        Self(())
    }

    /// Whether Ctrl-C was pressed.
    pub fn cancelled(&self) -> bool {
        STATE.load(Ordering::Relaxed) == CANCELLED
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        STATE.store(IDLE, Ordering::Relaxed);
    }
}
