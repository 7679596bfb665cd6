//! Everything that reaches a terminal or a pipe goes through here: data on stdout, talk on stderr.
//!
//! A command hands over a [`View`]; human, quiet and JSON output are renderings of that one value. Writing never
//! ends a command: a reader that went away (`| head`) must not stop a backup half-way, so a broken pipe only closes
//! the channel, and any other failure is kept for [`Printer::finish`]. Must never: decide a verdict or an exit code.

pub mod page;
pub mod progress;
pub mod table;
pub mod time;
pub mod traffic;

/// `1 table`, `3 tables`: for words that take an s.
pub fn counted(count: impl TryInto<u64>, word: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {word}{s}")
}

#[cfg(test)]
mod tests;

pub use page::Page;
pub use progress::Progress;
pub use table::Table;
pub use traffic::{Distance, Meters, Traffic};

use crate::diagnostics::Diagnostic;
use crate::diagnostics::render::{Colour, safe};
use backstay_model::{Clock, Kind};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// Which of the three renderings is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Human,
    Quiet,
    Json,
}

/// How the two channels are to be treated.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub mode: Mode,
    pub stdout: Colour,
    pub stderr: Colour,
    /// Progress is drawn as a bar that moves; otherwise as a line now and then.
    pub stderr_is_terminal: bool,
}

/// What a command shows: one value, several renderings. The serde form is the JSON contract.
pub trait View: serde::Serialize {
    fn render(&self, page: &mut Page);
}

/// The way out.
#[derive(Clone)]
pub struct Printer {
    shape: Shape,
    channels: Arc<Mutex<Channels>>,
}

struct Channels {
    out: Channel,
    err: Channel,
}

struct Channel {
    to: Box<dyn Write + Send>,
    state: State,
}

enum State {
    Open,
    /// The reader went away, which is its right.
    Closed,
    Failed(io::Error),
}

impl Channel {
    fn write(&mut self, text: &str) {
        if !matches!(self.state, State::Open) {
            return;
        }
        if let Err(error) = self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush()) {
            self.state = match error.kind() {
                io::ErrorKind::BrokenPipe => State::Closed,
                _ => State::Failed(error),
            };
        }
    }
}

impl Printer {
    pub fn new(shape: Shape) -> Self {
        Self::to(shape, Box::new(io::stdout()), Box::new(io::stderr()))
    }

    /// A printer on other channels than the process's own.
    pub fn to(shape: Shape, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        let open = |to| Channel { to, state: State::Open };
        Self { shape, channels: Arc::new(Mutex::new(Channels { out: open(out), err: open(err) })) }
    }

    pub fn mode(&self) -> Mode {
        self.shape.mode
    }

    pub fn stderr_colour(&self) -> Colour {
        self.shape.stderr
    }

    /// The result of the command.
    pub fn show<V: View>(&self, view: &V) -> Result<(), Diagnostic> {
        let text = match self.shape.mode {
            Mode::Json => json_text(view)?,
            mode => {
                let mut page = Page::new(mode, self.shape.stdout);
                view.render(&mut page);
                page.into_text()
            }
        };
        self.on(|channels| channels.out.write(&text));
        Ok(())
    }

    /// Text that is itself the result, such as a completion script.
    pub fn data(&self, text: &str) {
        self.on(|channels| channels.out.write(text));
    }

    /// One line about what is going on; left out by `--quiet` and `--json`.
    pub fn talk(&self, text: &str) {
        if self.shape.mode == Mode::Human {
            self.on(|channels| channels.err.write(&format!("{}\n", safe(text))));
        }
    }

    /// One line that a person must see even when they asked for silence.
    pub fn warn(&self, text: &str) {
        let line = format!("{} {}\n", self.shape.stderr.paint("1;33", "warning:"), safe(text));
        self.on(|channels| channels.err.write(&line));
    }

    /// The failure of the command: words on stderr, or JSON on stdout.
    pub fn fail(&self, diagnostic: &Diagnostic) {
        match self.shape.mode {
            Mode::Json => {
                let text = format!("{:#}\n", diagnostic.json());
                self.on(|channels| channels.out.write(&text));
            }
            Mode::Human | Mode::Quiet => {
                let text = diagnostic.human(self.shape.stderr);
                self.on(|channels| channels.err.write(&text));
            }
        }
    }

    /// Begins to show how far something is.
    pub fn progress(&self, clock: Arc<dyn Clock>, what: &str) -> Progress {
        Progress::begin(self, clock, what)
    }

    fn draws_bars(&self) -> bool {
        self.shape.stderr_is_terminal
    }

    /// Whether everything that was shown has reached its reader.
    pub fn finish(&self) -> Result<(), Diagnostic> {
        self.on(|channels| match std::mem::replace(&mut channels.out.state, State::Closed) {
            State::Failed(error) => Err(Diagnostic::new(Kind::of_io(&error), "cannot write the result to stdout")
                .because(error.to_string())
                .hint("Direct the output to a place with room; run `backstay status` to see what was done.")),
            State::Open | State::Closed => Ok(()),
        })
    }

    fn on<T>(&self, act: impl FnOnce(&mut Channels) -> T) -> T {
        // A panic while printing leaves nothing inconsistent behind but half a line.
        let mut channels = self.channels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut channels)
    }
}

fn json_text<V: serde::Serialize>(view: &V) -> Result<String, Diagnostic> {
    let text = serde_json::to_string_pretty(view).map_err(|error| {
        Diagnostic::new(Kind::Internal, "cannot write the result as JSON").because(error.to_string())
    })?;
    Ok(text + "\n")
}
