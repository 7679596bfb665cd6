//! A diagnostic as text for a terminal and as JSON for a program.

use super::Diagnostic;

/// Whether escape codes may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    On,
    Off,
}

impl Colour {
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Colour::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Colour::Off => text.to_owned(),
        }
    }
}

impl Diagnostic {
    /// For a person, ending in a line feed.
    pub fn human(&self, colour: Colour) -> String {
        let mut text = format!("{} {}\n", colour.paint("1;31", "error:"), safe(&self.what));
        if !self.because.is_empty() {
            text.push_str(&format!("  {}  {}\n", colour.paint("1", "why"), safe(&self.because.join(": "))));
        }
        for hint in &self.hints {
            text.push_str(&format!("  {}  {}\n", colour.paint("1;32", "fix"), safe(hint)));
        }
        text
    }

    /// For a program: the shape is a contract, fields are only ever added.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "kind": self.kind.word(),
            "exit": self.exit(),
            "what": self.what,
            "because": self.because,
            "hints": self.hints,
        }})
    }
}

/// File names and foreign messages may hold control characters; a terminal must not obey them.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
