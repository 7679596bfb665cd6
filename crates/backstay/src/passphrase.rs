//! A passphrase, asked for at the terminal without showing it, or read as one line of standard input.
//!
//! Must never: take one from an argument or a variable, print it, or keep it longer than the command runs.

use crate::confirm::Asking;
use crate::diagnostics::Diagnostic;
use crate::output::Printer;
use backstay_model::Kind;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{BufRead, Read};

/// The longest that is read.
const LEN_MAX: u64 = 1024;
/// A wrap lies in the repository: whoever can read that can try passphrases as fast as they like.
const CHARS_MIN: usize = 12;

/// One to be set: typed twice at a terminal, and long enough.
pub fn fresh(printer: &Printer, whose: &str) -> Result<String, Diagnostic> {
    let words = existing(printer, whose)?;
    if words.chars().count() < CHARS_MIN {
        return Err(Diagnostic::new(Kind::Usage, format!("the passphrase has fewer than {CHARS_MIN} characters"))
            .because("whoever can read the repository can try passphrases as fast as they like")
            .hint("Take five or six words that nobody would guess, and run it again."));
    }
    if Asking::of(printer) == Asking::Possible && existing(printer, &format!("{whose}, once more"))? != words {
        return Err(
            Diagnostic::new(Kind::Usage, "the two passphrases differ; nothing was changed").hint("Run it again.")
        );
    }
    Ok(words)
}

/// One that is there already.
pub fn existing(printer: &Printer, whose: &str) -> Result<String, Diagnostic> {
    let asked = Asking::of(printer) == Asking::Possible;
    if asked {
        printer.talk(&format!("Passphrase of {whose}:"));
    }
    let hidden = asked.then(Hidden::begin).flatten();
    let mut line = String::new();
    let read = std::io::stdin().lock().take(LEN_MAX).read_line(&mut line);
    drop(hidden);
    let line = line.trim_end_matches(['\r', '\n']);
    match read {
        Ok(_) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Diagnostic::new(Kind::Usage, format!("no passphrase was given for {whose}"))
            .hint("Type it at a terminal, or give it as one line on standard input.")),
    }
}

/// While it lives the terminal does not show what is typed.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn begin() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut without = before.clone();
        without.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &without).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
