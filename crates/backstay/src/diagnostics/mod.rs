//! The only place where errors become words for people: what went wrong, why, and the command that mends it.
//!
//! A library error carries data and a kind; here it gets its hints. Each family of errors has one file with one
//! `From`, matched exhaustively, so that a new variant asks for its hint at compile time. Must never: decide an exit
//! code by itself (the table of `Kind` does), or print.

pub mod config;
pub mod ops;
pub mod panic;
pub mod render;
pub mod repo;
pub mod sqlite;

#[cfg(test)]
mod tests;

use backstay_model::{Kind, Kinded};
use std::error::Error;

/// A failure in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub kind: Kind,
    /// What went wrong, as one lower-case fragment.
    pub what: String,
    /// The chain of causes, nearest first.
    pub because: Vec<String>,
    /// Full sentences, each naming a command or an edit.
    pub hints: Vec<String>,
}

impl Diagnostic {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), because: Vec::new(), hints: Vec::new() }
    }

    /// Any error that knows its kind, with the chain of its sources and no hints yet.
    pub fn of<E: Error + Kinded>(error: &E) -> Self {
        Self { because: chain(error), ..Self::new(error.kind(), error.to_string()) }
    }

    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.because.push(cause.into());
        self
    }

    pub fn hint(mut self, sentence: impl Into<String>) -> Self {
        self.hints.push(sentence.into());
        self
    }

    /// What went wrong and why, for a row among others.
    pub fn in_one_line(&self) -> String {
        let mut line = self.what.clone();
        self.because.iter().for_each(|cause| line += &format!(": {cause}"));
        line
    }

    pub fn exit(&self) -> u8 {
        self.kind.meaning().exit
    }

    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "stopped before it was done")
            .hint("Run the same command again: it goes on from what is complete.")
    }
}

/// The causes of an error. One whose words its effect already quotes says nothing new and is left out.
fn chain(error: &dyn Error) -> Vec<String> {
    const DEPTH_MAX: usize = 16;
    let mut said = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next.filter(|_| causes.len() < DEPTH_MAX) {
        let words = cause.to_string();
        if !said.contains(&words) {
            said.clone_from(&words);
            causes.push(words);
        }
        next = cause.source();
    }
    causes
}
