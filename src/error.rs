//! The one error type. Every message names the file and tensor, what was expected, what was found and what to do.

use std::fmt;

/// `std::result::Result` with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, grouped by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes contradict themselves: truncated, overlapping, out of range, not a number.
    #[error("{0}")]
    Corrupt(Box<Problem>),
    /// Well formed, but nothing that halfbyte knows how to run.
    #[error("{0}")]
    Unsupported(Box<Problem>),
    /// A tensor, key or file that should be there is not.
    #[error("{0}")]
    Missing(Box<Problem>),
    /// The caller asked for something impossible (an empty prompt, a token outside the vocabulary …).
    #[error("{0}")]
    Invalid(Box<Problem>),
    /// The operating system refused to read or write.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A source of the embedding program could not be read: the program's own words.
    #[error("{message}")]
    Source {
        /// What it was about: `Network`, `Quota` …
        kind: String,
        /// What to tell the user.
        message: String,
    },
    /// No adapter answers to the request.
    #[error("{0}")]
    AdapterMissing(String),
    /// The adapter cannot hold what was asked of it.
    #[error("the adapter is out of memory: {0}")]
    OutOfMemory(String),
    /// The device went away (driver reset, suspended laptop, unplugged GPU); load the model again.
    #[error("the GPU device was lost: {0}; load the model again")]
    DeviceLost(String),
    /// A shader did not compile or a command was invalid: a bug in halfbyte or in the driver.
    #[error("GPU error: {0}")]
    Gpu(String),
    /// The prompt and what was to be generated do not fit in the context.
    #[error("the prompt has {prompt} tokens but the context holds {context}: shorten it or raise --context")]
    ContextFull {
        /// Tokens of the prompt, with what the conversation already holds.
        prompt: usize,
        /// Tokens that the KV cache holds.
        context: usize,
    },
}

/// The facts of an error: which file, which tensor, what, expected, found, remedy.
#[derive(Debug, Default)]
pub struct Problem {
    file: String,
    tensor: String,
    what: String,
    expected: String,
    found: String,
    remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}: ", self.file)?;
        }
        if !self.tensor.is_empty() {
            write!(f, "{}: ", self.tensor)?;
        }
        f.write_str(&self.what)?;
        match (self.expected.is_empty(), self.found.is_empty()) {
            (false, false) => write!(f, ": expected {}, found {}", self.expected, self.found)?,
            (false, true) => write!(f, ": expected {}", self.expected)?,
            (true, false) => write!(f, ": found {}", self.found)?,
            (true, true) => {}
        }
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Error {
    /// One word for programs: what the npm package calls `kind`.
    pub fn kind(&self) -> &str {
        match self {
            Error::Corrupt(_) => "Corrupt",
            Error::Unsupported(_) => "UnsupportedFormat",
            Error::Missing(_) => "Missing",
            Error::Invalid(_) => "Invalid",
            Error::Io { .. } => "Io",
            Error::Source { kind, .. } => kind,
            Error::AdapterMissing(_) => "AdapterMissing",
            Error::OutOfMemory(_) => "OutOfMemory",
            Error::DeviceLost(_) => "DeviceLost",
            Error::Gpu(_) => "Gpu",
            Error::ContextFull { .. } => "ContextFull",
        }
    }

    /// Starts an [`Error::Corrupt`]; add facts with the builder methods below.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Error::Corrupt(Box::new(Problem { what: what.into(), ..Problem::default() }))
    }

    /// Starts an [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Error::Unsupported(Box::new(Problem { what: what.into(), ..Problem::default() }))
    }

    /// Starts an [`Error::Missing`].
    pub fn missing(what: impl Into<String>) -> Self {
        Error::Missing(Box::new(Problem { what: what.into(), ..Problem::default() }))
    }

    /// Starts an [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>) -> Self {
        Error::Invalid(Box::new(Problem { what: what.into(), ..Problem::default() }))
    }

    /// An [`Error::Io`] on `path`.
    pub fn io(path: impl fmt::Display, source: std::io::Error) -> Self {
        Error::Io { path: path.to_string(), source }
    }

    fn problem(mut self, set: impl FnOnce(&mut Problem)) -> Self {
        match &mut self {
            Error::Corrupt(p) | Error::Unsupported(p) | Error::Missing(p) | Error::Invalid(p) => set(p),
            _ => {}
        }
        self
    }

    /// Names the file, unless one is named already.
    pub fn file(self, file: impl fmt::Display) -> Self {
        self.problem(|p| {
            if p.file.is_empty() {
                p.file = file.to_string();
            }
        })
    }

    /// Names the tensor, unless one is named already.
    pub fn tensor(self, tensor: impl fmt::Display) -> Self {
        self.problem(|p| {
            if p.tensor.is_empty() {
                p.tensor = tensor.to_string();
            }
        })
    }

    /// What should have been there.
    pub fn expected(self, expected: impl fmt::Display) -> Self {
        self.problem(|p| p.expected = expected.to_string())
    }

    /// What was there.
    pub fn found(self, found: impl fmt::Display) -> Self {
        self.problem(|p| p.found = found.to_string())
    }

    /// What the user can do about it.
    pub fn remedy(self, remedy: impl fmt::Display) -> Self {
        self.problem(|p| p.remedy = remedy.to_string())
    }
}
