//! Greedy decoding ahead of the host: steps are submitted before the tokens of those before them are read.

use super::Model;
use crate::device::{Device, Pending};
use crate::error::{Error, Result};
use crate::ops::Tokens;
use std::collections::VecDeque;
use web_time::Instant;

/// Steps in flight, at least: the GPU works on one while the host submits the next.
const FEWEST: usize = 2;
/// Steps in flight, at most.
const MOST: usize = 8;
/// Seconds of work in flight, about: as long as a text that is stopped may keep the GPU. A browser that looks only every
/// 100 ms for what is done has [`MOST`] tokens to read each time.
const IN_FLIGHT: f64 = 0.2;
/// How much the newest of the measured times counts.
const NEWEST: f64 = 1.0 / MOST as f64;

/// Decode steps that are submitted, the first for the token that comes next.
#[derive(Debug)]
pub struct Ahead {
    pending: VecDeque<Pending>,
    seconds: f64, // a token, averaged
}

impl Default for Ahead {
    fn default() -> Self {
        Self { pending: VecDeque::new(), seconds: IN_FLIGHT / FEWEST as f64 }
    }
}

impl Ahead {
    /// The token after the one at `position`, which is `given`, or what the device itself chose in the step before. At most
    /// `left` tokens are wanted from here on. If the future is dropped, the steps in flight are forgotten.
    pub async fn next(
        &mut self,
        model: &Model,
        position: usize,
        given: Option<u32>,
        left: usize,
    ) -> Result<u32> {
        let start = Instant::now();
        let mut pending = std::mem::take(&mut self.pending);
        let depth = match model.device() {
            Device::Cpu => 1,
            Device::Gpu(_) => ((IN_FLIGHT / self.seconds) as usize).clamp(FEWEST, MOST).min(left),
        };
        while pending.len() < depth {
            let tokens = match given {
                Some(token) if pending.is_empty() => Tokens::Given(vec![token]),
                _ => Tokens::Chosen,
            };
            pending.push_back(model.start_decode(position + pending.len(), tokens)?);
        }
        let first = pending.pop_front().ok_or_else(|| Error::invalid("no token is wanted"))?;
        let token = model.finish_decode(first).await?;
        self.pending = pending;
        self.seconds += NEWEST * (start.elapsed().as_secs_f64() - self.seconds);
        Ok(token)
    }

    /// Forgets the steps in flight.
    pub fn clear(&mut self) {
        self.pending.clear();
    }
}
