//! The text of one result: verdict first, evidence second, the next step last.

use super::{Mode, Table};
use crate::diagnostics::render::{Colour, safe};
use backstay_model::Verdict;

/// Collects lines. In quiet mode data and bad verdicts stay, everything else is dropped.
pub struct Page {
    mode: Mode,
    colour: Colour,
    text: String,
}

impl Page {
    pub(super) fn new(mode: Mode, colour: Colour) -> Self {
        Self { mode, colour, text: String::new() }
    }

    /// `PASS  shop  stored and proven`
    pub fn verdict(&mut self, verdict: Verdict, subject: &str, words: &str) {
        if self.mode == Mode::Quiet && verdict == Verdict::Pass {
            return;
        }
        let word = verdict.word().to_uppercase();
        let line = [self.colour.paint(code(verdict), &word), safe(subject), safe(words)];
        let filled: Vec<&str> = line.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        self.push(&filled.join("  "));
    }

    /// An indented line with what the verdict rests on.
    pub fn evidence(&mut self, name: &str, words: &str) {
        if self.mode != Mode::Quiet {
            self.push(format!("  {:<12}  {}", safe(name), safe(words)).trim_end());
        }
    }

    /// The command to run next.
    pub fn next(&mut self, command: &str) {
        if self.mode != Mode::Quiet {
            self.push(&format!("Next: {}", safe(command)));
        }
    }

    /// A line of the data that was asked for.
    pub fn line(&mut self, text: &str) {
        self.push(&safe(text));
    }

    pub fn table(&mut self, table: &Table) {
        self.text.push_str(&table.render(self.colour));
    }

    /// An empty line between two parts.
    pub fn gap(&mut self) {
        if self.mode != Mode::Quiet && !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The escape code of a verdict.
pub fn code(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "1;32",
        Verdict::Fail => "1;31",
        Verdict::Partial | Verdict::Inconclusive => "1;33",
    }
}
