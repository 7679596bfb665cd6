//! Nothing is left for later in the source, and nothing private in the text.

use super::House;
use crate::finding::Finding;

/// Spelt in halves, so that this table is not its own finding.
const REMINDERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

const PRINTING: &[&str] = &["print", "println", "eprint", "eprintln"];

/// Crates with a terminal of their own.
const MAY_PRINT: &[&str] = &["crates/backstay/", "crates/backstay-testkit/", "crates/xtask/"];

/// Places of one machine, and hosts of one network. Examples use `/srv` and `/var/lib`.
const PLACES: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("index", "-url"),
    concat!("replace", "-with"),
    concat!("arti", "factory"),
    concat!("registry", ".npm"),
];

const LOCK_SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

pub fn code(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in house.tree.files().filter(|(path, _)| path.ends_with(".rs") || path.ends_with(".toml")) {
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = REMINDERS.iter().find(|word| holds_word(line, word)) {
                findings.push(Finding {
                    file: path.to_owned(),
                    line: i + 1,
                    what: format!("`{word}`"),
                    why: "a reminder in the source is an issue nobody sees",
                    instead: "do it now, or open an issue".to_owned(),
                });
            }
        }
    }
    for file in house.sources.files.values() {
        let quiet = !file.test && !MAY_PRINT.iter().any(|prefix| file.path.starts_with(prefix));
        for (name, line) in &file.source.macros {
            let printing = quiet && PRINTING.contains(&name.as_str()) && !file.source.in_test(*line);
            if printing || name == "dbg" {
                findings.push(Finding {
                    file: file.path.clone(),
                    line: *line,
                    what: format!("`{name}!`"),
                    why: "only the binary has a terminal; stdout is data",
                    instead: "return a report or an event, or use `tracing`".to_owned(),
                });
            }
        }
    }
    findings
}

pub fn places(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in house.tree.files() {
        for (i, line) in text.lines().enumerate() {
            let foreign = path.ends_with("Cargo.lock") && line.starts_with("source = ") && line != LOCK_SOURCE;
            let place = PLACES.iter().find(|place| holds_place(line, place));
            if let Some(what) = place.map(|p| format!("`{p}`")).or_else(|| foreign.then(|| line.to_owned())) {
                findings.push(Finding {
                    file: path.to_owned(),
                    line: i + 1,
                    what,
                    why: "a path or host of one machine means nothing on another",
                    instead: "use a relative path, or one under `/srv` in an example".to_owned(),
                });
            }
        }
    }
    findings
}

fn holds_word(line: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !before.is_some_and(letter) && !after.is_some_and(letter)
    })
}

/// An absolute place only: `a/work/b` is a relative path and harmless.
fn holds_place(line: &str, place: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | ')');
    let absolute = |at: usize| !place.starts_with('/') || !line[..at].chars().next_back().is_some_and(inside);
    line.match_indices(place).any(|(at, _)| absolute(at))
}
