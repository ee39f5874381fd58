//! Tokens in, text out: prefill, decode, sampling, stops, a stream of text.
//!
//! A [`Session`] owns a model and remembers which tokens its cache holds, so that a conversation only pays for
//! what is new.

use crate::chat::{ChatTemplate, Message};
use crate::checkpoint::Checkpoint;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Ahead, LARGEST, LoadOptions, Model, Progress};
use crate::sampler::{Sampler, SamplerOptions};
use crate::stop::StopStrings;
use crate::tokenizer::{Decoder, Tokenizer};
use futures_util::Stream;
use serde::Serialize;
use std::time::Duration;
use web_time::Instant;

/// A model with its tokenizer and the conversation in its cache.
pub struct Session {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it wants conversations written, if it says.
    pub template: Option<ChatTemplate>,
    cached: Vec<u32>,
    runs: u64, // of the model when `cached` was true
}

/// How to generate.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None`: until the model stops or the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are picked.
    pub sampling: SamplerOptions,
    /// Texts that end the generation; they are not part of the output.
    pub stop: Vec<String>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model's end token or a stop string.
    Stop,
    /// `max_tokens`, or a full context.
    Length,
}

/// A generation in progress: [`Generation::next`] gives text as it comes. Dropping it cancels it; the session
/// stays usable.
pub struct Generation<'a> {
    session: &'a mut Session,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    sampler: Sampler,
    stops: StopStrings,
    decoder: Decoder,
    max_tokens: usize,
    reading: bool,          // in the middle of the prompt
    chosen_on_device: bool, // the last token is where the next step reads it
    ahead: Ahead,
    finished: Option<FinishReason>,
    prefilled: usize,
    prefill_time: Duration,
    decoded: usize,
    decode_time: Duration,
}

/// Something that happened in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A chunk of the prompt was read.
    Prompt {
        /// Its tokens that are in the cache.
        done: usize,
        /// Its tokens.
        total: usize,
    },
    /// One token more. Its text is empty while a character or a stop text may still be incomplete.
    Text(String),
}

/// What a generation came to.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Tokens of the prompt.
    pub prompt_token_ids: Vec<u32>,
    /// Tokens generated, the end token not among them.
    pub token_ids: Vec<u32>,
    /// Why it ended; none if it was cancelled.
    pub finish_reason: Option<FinishReason>,
    /// Prompt tokens a second; those that the cache held already are not counted.
    pub prefill_tokens_per_s: f64,
    /// Decode steps a second; each gives one token, the prefill has given the first.
    pub decode_tokens_per_s: f64,
}

impl Session {
    /// Loads a checkpoint's model and tokenizer onto `device`.
    pub async fn load(
        device: &Device,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        progress: impl FnMut(Progress),
    ) -> Result<Self> {
        let (tokenizer, template) = Tokenizer::from_checkpoint(checkpoint).await?;
        let model = Model::load(device, checkpoint, options, progress).await?;
        Ok(Self { model, tokenizer, template, cached: Vec::new(), runs: 0 })
    }

    /// Opens a model file or folder on the best device there is.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>, progress: impl FnMut(Progress)) -> Result<Self> {
        let checkpoint = Checkpoint::open(path).await?;
        let device = Device::best().await?;
        Self::load(&device, &checkpoint, &LoadOptions::default(), progress).await
    }

    /// Continues `text`.
    pub fn generate(&mut self, text: &str, options: &GenerateOptions) -> Result<Generation<'_>> {
        let prompt = self.tokenizer.encode(text, true)?;
        self.generate_from(prompt, options)
    }

    /// Answers the last of `messages`. What the cache holds of the conversation is not computed again.
    pub fn chat(&mut self, messages: &[Message], options: &GenerateOptions) -> Result<Generation<'_>> {
        let template = self.template.as_ref().ok_or_else(|| {
            Error::unsupported("the model has no chat template").remedy("use plain text, with --raw")
        })?;
        let prompt = self.tokenizer.encode_rendered(&template.render(messages, true)?)?;
        self.generate_from(prompt, options)
    }

    /// Continues a list of tokens.
    pub fn generate_from(&mut self, prompt: Vec<u32>, options: &GenerateOptions) -> Result<Generation<'_>> {
        if prompt.is_empty() {
            return Err(Error::invalid("the prompt has no tokens").remedy("give some text"));
        }
        if prompt.len() >= self.model.context {
            return Err(Error::ContextFull { prompt: prompt.len(), context: self.model.context });
        }
        let room = self.model.context - prompt.len();
        Ok(Generation {
            sampler: Sampler::new(options.sampling.clone())?,
            stops: StopStrings::new(options.stop.iter().filter(|s| !s.is_empty())),
            decoder: self.tokenizer.decoder_after(&prompt),
            max_tokens: options.max_tokens.unwrap_or(room).min(room),
            session: self,
            prompt,
            tokens: Vec::new(),
            reading: false,
            chosen_on_device: false,
            ahead: Ahead::default(),
            finished: None,
            prefilled: 0,
            prefill_time: Duration::ZERO,
            decoded: 0,
            decode_time: Duration::ZERO,
        })
    }

    /// Goes on with another load of the same model, after [`Error::DeviceLost`].
    pub fn replace_model(&mut self, model: Model) {
        self.model = model;
        self.cached.clear();
    }

    /// [`Model::set_adapter_weights`]; the next text finds that the cache is not its own.
    pub async fn set_adapter_weights(&mut self, weights: &[(&str, f32)]) -> Result<()> {
        self.model.set_adapter_weights(weights).await
    }

    /// Forgets the conversation.
    pub fn reset(&mut self) {
        self.cached.clear();
    }
}

impl Generation<'_> {
    /// The next piece of text, never empty; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<String>> {
        loop {
            match self.next_event().await? {
                Ok(Event::Text(text)) if !text.is_empty() => return Some(Ok(text)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next step, be it text or progress; `None` at the end. Between two of them a caller can stop.
    pub async fn next_event(&mut self) -> Option<Result<Event>> {
        if self.finished.is_some() { None } else { Some(self.advance().await) }
    }

    /// The model that writes.
    pub fn model(&self) -> &Model {
        &self.session.model
    }

    /// [`Session::replace_model`], in the middle of a text: what was read and written so far is read again.
    pub fn replace_model(&mut self, model: Model) {
        self.session.replace_model(model);
        self.reading = false;
        self.chosen_on_device = false;
        self.ahead.clear();
    }

    /// The pieces as a stream; the generation is dropped with it.
    pub fn into_stream(self) -> impl Stream<Item = Result<String>> {
        futures_util::stream::unfold(self, |mut generation| async move {
            let item = generation.next().await?;
            Some((item, generation))
        })
    }

    /// Runs to the end and returns all text; blocks the thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&mut self) -> Result<String> {
        let mut text = String::new();
        while let Some(piece) = pollster::block_on(self.next()) {
            text.push_str(&piece?);
        }
        Ok(text)
    }

    /// The seed of its random choices: the same one gives the same text again. `None` if nothing is random.
    pub fn seed(&self) -> Option<u64> {
        (self.sampler.temperature() > 0.0).then(|| self.sampler.seed())
    }

    /// What it came to so far.
    pub fn summary(&self) -> Summary {
        let rate = |tokens: usize, time: Duration| {
            if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
        };
        Summary {
            prompt_token_ids: self.prompt.clone(),
            token_ids: self.tokens.clone(),
            finish_reason: self.finished,
            prefill_tokens_per_s: rate(self.prefilled, self.prefill_time),
            decode_tokens_per_s: rate(self.decoded, self.decode_time),
        }
    }

    /// One chunk of the prompt or one token further.
    async fn advance(&mut self) -> Result<Event> {
        if self.max_tokens == 0 {
            return Ok(Event::Text(self.finish(FinishReason::Length)));
        }
        let token = match self.behind() {
            true => match self.prefill().await? {
                Some(token) => token,
                None => {
                    let (done, total) = (self.session.cached.len(), self.prompt.len() + self.tokens.len());
                    return Ok(Event::Prompt { done, total });
                }
            },
            false => self.decode().await?,
        };
        if self.session.tokenizer.eos().contains(&token) {
            return Ok(Event::Text(self.finish(FinishReason::Stop)));
        }
        self.tokens.push(token);
        let (mut text, stopped) = self.stops.push(&self.decoder.push(token));
        if stopped {
            self.finished = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.max_tokens {
            text.push_str(&self.finish(FinishReason::Length));
        }
        Ok(Event::Text(text))
    }

    /// Whether the cache lacks more than the last token: at the start, and after the model was replaced.
    fn behind(&self) -> bool {
        self.tokens.is_empty() || self.session.cached.len() + 1 < self.prompt.len() + self.tokens.len()
    }

    /// Ends the generation; the text that was held back.
    fn finish(&mut self, reason: FinishReason) -> String {
        self.finished = Some(reason);
        let rest = self.decoder.flush();
        let (mut text, stopped) = self.stops.push(&rest);
        if stopped {
            self.finished = Some(FinishReason::Stop);
        } else {
            text.push_str(&self.stops.flush());
        }
        text
    }

    /// One chunk further through the prompt and what was generated; the next token after the last.
    async fn prefill(&mut self) -> Result<Option<u32>> {
        let start = Instant::now();
        let session = &mut *self.session;
        let all = [&self.prompt[..], &self.tokens].concat();
        if !std::mem::replace(&mut self.reading, true) {
            // Somebody else has used the cache, or the keys in it were rotated for another length.
            let longest = session.cached.len().max(all.len());
            let turned = session.model.turned() || session.model.config.turns_with_length(longest);
            if session.runs != session.model.runs() || turned {
                session.cached.clear();
            }
        }
        let same = session.cached.iter().zip(&all).take_while(|(a, b)| a == b).count();
        let kept = same.min(all.len() - 1);
        session.cached.truncate(kept);
        let end = all.len().min(kept + session.model.next_chunk());
        let chosen = session.model.prefill_chunk(kept, &all[kept..end], all.len()).await?;
        session.cached.extend(&all[kept..end]);
        session.runs = session.model.runs();
        self.prefilled += end - kept;
        let token = match chosen {
            Some(_) if !self.sampler.is_greedy() => {
                let mut logits = session.model.logits().await?;
                Some(self.sampler.sample(&mut logits, &self.recent())?)
            }
            chosen => chosen,
        };
        self.reading = token.is_none();
        self.chosen_on_device = token.is_some() && self.sampler.is_greedy();
        self.prefill_time += start.elapsed();
        Ok(token)
    }

    /// Runs the last token and picks the next.
    async fn decode(&mut self) -> Result<u32> {
        let start = Instant::now();
        let last = *self.tokens.last().ok_or_else(|| Error::invalid("nothing to continue"))?;
        let position = self.session.cached.len();
        let model = &self.session.model;
        // False while a step is under way: if this future is dropped, the device is ahead of us by some tokens.
        let on_device = std::mem::replace(&mut self.chosen_on_device, false);
        let next = if self.sampler.is_greedy() {
            // The device chose the last token itself: nothing but the position goes up, 4 bytes come back.
            let given = (!on_device).then_some(last);
            self.ahead.next(model, position, given, self.max_tokens - self.tokens.len()).await?
        } else {
            let recent = self.recent();
            let enough = self.sampler.needs(recent.len()).is_some_and(|needed| needed <= LARGEST);
            let largest = if enough { model.decode_largest(position, last).await? } else { None };
            match largest {
                Some(largest) => self.sampler.sample_largest(largest, &recent)?,
                None if enough => self.sampler.sample(&mut model.logits().await?, &recent)?,
                None => self.sampler.sample(&mut model.decode_logits(position, last).await?, &recent)?,
            }
        };
        self.session.cached.push(last);
        self.session.runs = self.session.model.runs();
        self.chosen_on_device = self.sampler.is_greedy();
        self.decoded += 1;
        self.decode_time += start.elapsed();
        Ok(next)
    }

    /// The text so far.
    fn recent(&self) -> Vec<u32> {
        self.prompt.iter().chain(&self.tokens).copied().collect()
    }
}
