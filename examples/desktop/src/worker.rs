//! The model's thread. Loading and writing block while the GPU works, so the window does neither: it sends
//! commands, draws on, and is woken up by events.

use halfbyte::chat::Message;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::inspect::{self, Report};
use halfbyte::model::{CacheFormat, LoadOptions, Progress};
use halfbyte::session::{self, GenerateOptions, Summary};
use halfbyte::{Device, Result, Session, embedded};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

pub enum Command {
    /// A file or folder; `None` is the model that halfbyte carries.
    Open(Option<PathBuf>),
    /// Answers the last message; a model without a chat template goes on with all of them as one text.
    Write(Vec<Message>, GenerateOptions),
    Quit,
}

pub enum Event {
    /// What is done, and which part of it: loading a model, reading a prompt.
    Progress(String, f32),
    /// The model is ready; true if it has a chat template.
    Opened(Box<Report>, bool),
    /// More text, and what the answer comes to so far.
    Text(String, Box<Summary>),
    /// The answer ended or was stopped.
    Written(Box<Summary>),
    Failed(String),
}

/// Commands have numbers, and only the newest is worked on: sending one cancels what is under way.
#[derive(Clone)]
pub struct Commands(Sender<(u64, Command)>, Arc<AtomicU64>);

impl Commands {
    pub fn send(&self, command: Command) {
        let number = self.1.fetch_add(1, Relaxed) + 1;
        let _ = self.0.send((number, command)); // fails while the window closes
    }

    pub fn stop(&self) {
        self.1.fetch_add(1, Relaxed);
    }
}

/// The window's end of the thread.
pub struct Worker {
    pub commands: Commands,
    pub events: Receiver<Event>,
    pub thread: Option<JoinHandle<()>>,
}

/// Starts the thread; `wake` is called after every event.
pub fn start(device: Device, precision: CacheFormat, wake: impl Fn() + Send + 'static) -> Worker {
    let (sender, inbox) = channel::<(u64, Command)>();
    let (outbox, events) = channel();
    let newest = Arc::new(AtomicU64::new(0));
    let commands = Commands(sender, newest.clone());
    let thread = std::thread::spawn(move || {
        let tell = move |event| {
            let _ = outbox.send(event);
            wake();
        };
        let mut model = Model { device, precision, session: None, tell };
        for (number, command) in inbox {
            let done = match command {
                Command::Open(path) => pollster::block_on(model.open(path)),
                Command::Write(messages, options) => {
                    pollster::block_on(model.write(&messages, &options, || newest.load(Relaxed) == number))
                }
                Command::Quit => return,
            };
            done.unwrap_or_else(|error| (model.tell)(Event::Failed(error.to_string())));
        }
    });
    Worker { commands, events, thread: Some(thread) }
}

struct Model<T> {
    device: Device,
    precision: CacheFormat,
    session: Option<Session>,
    tell: T,
}

impl<T: Fn(Event)> Model<T> {
    async fn open(&mut self, path: Option<PathBuf>) -> Result<()> {
        self.session = None; // its memory is free before the next model takes some
        let checkpoint = match path {
            Some(path) => Checkpoint::open(path).await?,
            None => embedded::open().await?,
        };
        let report = inspect::inspect(&checkpoint, &self.device, Default::default(), |_, _| {}).await?;
        let options = LoadOptions { precision: self.precision, ..LoadOptions::default() };
        let progress =
            |p: Progress| (self.tell)(Event::Progress(p.to_string(), p.done as f32 / p.total as f32));
        let session = Session::load(&self.device, &checkpoint, &options, progress).await?;
        (self.tell)(Event::Opened(Box::new(report), session.template.is_some()));
        self.session = Some(session);
        Ok(())
    }

    async fn write(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        wanted: impl Fn() -> bool,
    ) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut generation = if session.template.is_some() {
            session.chat(messages, options)?
        } else {
            let text: String = messages.iter().map(|m| m.content.as_str()).collect();
            session.generate(&text, options)?
        };
        // Dropping the generation cancels it: between two tokens, or between two pieces of a long prompt.
        while wanted()
            && let Some(event) = generation.next_event().await
        {
            (self.tell)(match event? {
                session::Event::Prompt { done, total } => {
                    Event::Progress(format!("{done} of {total} tokens read"), done as f32 / total as f32)
                }
                session::Event::Text(text) => Event::Text(text, Box::new(generation.summary())),
            });
        }
        (self.tell)(Event::Written(Box::new(generation.summary())));
        Ok(())
    }
}
