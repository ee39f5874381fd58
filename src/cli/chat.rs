//! `halfbyte chat`: a conversation in the terminal.

use super::writing::{Writing, Written, is_context_full, load, named_weight, write};
use super::{Common, device_name, interrupt, note, print_json};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use halfbyte::chat::Message;
use halfbyte::model::CacheFormat;
use halfbyte::session::{FinishReason, GenerateOptions, Session};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

/// Talk with a model in the terminal
#[derive(Args)]
#[command(after_help = "\
A model without a chat template has no turns: it continues the text that you and
it have written so far, 200 tokens at a time unless --max-tokens says otherwise.

Examples:
  halfbyte chat ./Qwen3-0.6B-GPTQ --system \"You are a pirate.\"
  halfbyte chat            # take turns with the embedded storyteller
  printf 'Hi!\\nAnd now in French.\\n' | halfbyte chat model.gguf

In the conversation: /reset forgets it, /quit or Ctrl-D ends it, Ctrl-C stops
the answer. With --json: lines from stdin, then {messages, adapter}.")]
pub struct Chat {
    /// A Hugging Face folder, a .gguf or .safetensors file, hf:owner/repo [default: the embedded storyteller]
    model: Option<String>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Tokens that a model without turns writes before it is the user's turn again.
const PLAIN_TOKENS: usize = 200;

const HELP: &str = "\
/reset: forget it all. /quit or Ctrl-D: leave. Ctrl-C: stop the answer.
/lora: list the LoRA adapters. /lora NAME=WEIGHT: how much one counts, 0 for not at all.";

impl Chat {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let mut options = self.writing.options()?;
        interrupt::install()?;
        let (device, mut session) =
            load(self.model.as_deref(), &self.common, &self.writing.lora, CacheFormat::default()).await?;
        let plain = session.template.is_none();
        if plain && self.writing.system.is_some() {
            bail!("the model has no chat template, so --system has no place; say it in the conversation");
        }
        if plain {
            options.max_tokens.get_or_insert(PLAIN_TOKENS);
        }
        let mut input = Input::new(self.common.json)?;
        if input.is_terminal() {
            let name = self.model.as_deref().unwrap_or("The embedded storyteller");
            note(&format!("{name} on {}\n{HELP}", device_name(&device)));
            if plain {
                note("It has no chat template: it continues your text; an empty line lets it go on.");
            }
        }
        let system = self.writing.system.as_ref().map(|text| Message::new("system", text));
        let mut talk = Talk { system, messages: Vec::new(), text: String::new() };
        let mut out: Box<dyn Write> =
            if self.common.json { Box::new(std::io::sink()) } else { Box::new(std::io::stdout()) };
        while let Some(line) = input.line()? {
            match line.trim() {
                "/quit" | "/exit" | "/bye" => break,
                "/help" | "/?" => note(HELP),
                "/reset" | "/clear" => {
                    talk.messages.clear();
                    talk.text.clear();
                    session.reset();
                    note("(forgotten)");
                }
                command if command == "/lora" || command.starts_with("/lora ") => {
                    if let Err(error) = adapters(&mut session, command["/lora".len()..].trim()).await {
                        note(&format!("halfbyte: {}", super::message(&error)));
                    }
                }
                "" if !plain || talk.text.is_empty() => {}
                command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                    note(&format!("{command} is no command.\n{HELP}"));
                }
                _ => match talk.turn(&mut session, &options, &line, &mut out).await {
                    Ok(written) => {
                        writeln!(out)?;
                        if input.is_terminal() {
                            note(&remark(&written, &session));
                        }
                    }
                    // What cannot be answered in a terminal is no reason to lose the conversation.
                    Err(error) if input.is_terminal() && error.downcast_ref::<std::io::Error>().is_none() => {
                        note(&format!("halfbyte: {}", super::message(&error)));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        if self.common.json {
            let messages: Vec<Message> = talk.system.into_iter().chain(talk.messages).collect();
            print_json(&json!({ "messages": messages, "adapter": device_name(&device) }))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `/lora NAME=WEIGHT`, or nothing to set; then tells what counts how much.
async fn adapters(session: &mut Session, setting: &str) -> Result<()> {
    if !setting.is_empty() {
        let (name, weight) =
            named_weight(setting).context("/lora takes NAME=WEIGHT, such as /lora poet=0.5")?;
        session.set_adapter_weights(&[(name.trim(), weight)]).await?;
    }
    let all: Vec<String> =
        session.model.adapters().map(|(name, weight)| format!("{name}={weight}")).collect();
    let all = if all.is_empty() { "no adapters; start with --lora DIR".into() } else { all.join(" ") };
    note(&format!("({all})"));
    Ok(())
}

/// `(57 tokens, 23.4 tokens/s)` and what else the user should know.
fn remark(written: &Written, session: &Session) -> String {
    let summary = &written.summary;
    let (prompt, tokens) = (summary.prompt_token_ids.len(), summary.token_ids.len());
    let end = match summary.finish_reason {
        None => "; interrupted",
        Some(FinishReason::Length) if prompt + tokens >= session.model.context => {
            "; the context is full, /reset or take a larger --context"
        }
        _ => "",
    };
    format!("({tokens} tokens, {:.1} tokens/s{end})", summary.decode_tokens_per_s)
}

/// The conversation so far.
struct Talk {
    system: Option<Message>,
    messages: Vec<Message>,
    /// All of it as one text, for a model without turns.
    text: String,
}

impl Talk {
    /// Lets the model answer `line`. If that fails, the line is as if it had not been said.
    async fn turn(
        &mut self,
        session: &mut Session,
        options: &GenerateOptions,
        line: &str,
        out: &mut dyn Write,
    ) -> Result<Written> {
        self.messages.push(Message::new("user", line));
        let length = self.text.len();
        let turn = if session.template.is_some() {
            self.answer(session, options, out).await
        } else {
            self.go_on(session, options, line, out).await
        };
        match turn {
            Ok(written) => {
                self.messages.push(Message::new("assistant", written.text.as_str()));
                Ok(written)
            }
            Err(error) => {
                self.messages.pop();
                self.text.truncate(length);
                Err(error)
            }
        }
    }

    /// Answers the last message; the oldest turns are forgotten when they no longer fit.
    async fn answer(
        &mut self,
        session: &mut Session,
        options: &GenerateOptions,
        out: &mut dyn Write,
    ) -> Result<Written> {
        loop {
            let messages: Vec<Message> = self.system.iter().chain(&self.messages).cloned().collect();
            match session.chat(&messages, options).map_err(anyhow::Error::from) {
                Ok(generation) => return write(generation, true, out).await,
                Err(error) if is_context_full(&error) && self.messages.len() > 2 => {
                    note("(the context is full: forgetting the oldest turn)");
                    self.messages.drain(..2);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Continues the text, with `line` added.
    async fn go_on(
        &mut self,
        session: &mut Session,
        options: &GenerateOptions,
        line: &str,
        out: &mut dyn Write,
    ) -> Result<Written> {
        let apart = self.text.is_empty() || self.text.ends_with(char::is_whitespace) || line.is_empty();
        self.text.push_str(if apart { "" } else { " " });
        self.text.push_str(line);
        let written = write(session.generate(&self.text, options)?, true, out).await?;
        self.text.push_str(&written.text);
        Ok(written)
    }
}

/// Where lines come from.
enum Input {
    /// A person, with line editing and history.
    Editor(Box<DefaultEditor>),
    /// A pipe or a file.
    Lines(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    fn new(json: bool) -> Result<Self> {
        if json || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Ok(Self::Lines(std::io::stdin().lock().lines()));
        }
        Ok(Self::Editor(Box::new(DefaultEditor::new()?)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// The next line; none at the end.
    fn line(&mut self) -> Result<Option<String>> {
        match self {
            Self::Lines(lines) => Ok(lines.next().transpose()?),
            Self::Editor(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        editor.add_history_entry(line.as_str())?;
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => note("(/quit or Ctrl-D to leave)"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }
}
