//! What the commands that ask the past share: which moment a person means, and values as they are shown.

use crate::args::{self, MomentArgs, MomentWord, Point, ReadingArgs};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::output::time;
use crate::vault::Keep;
use backstay_model::catalog::Target;
use backstay_model::{Moment, Tx};
use backstay_ops::query::{MomentFacts, Reading};
use backstay_sqlite::lazy::{Value, hex};
use jiff::tz::TimeZone;

/// Bytes of a blob that are shown to a person.
const BLOB_SHOWN: usize = 16;

pub fn reading(args: &ReadingArgs) -> Reading {
    Reading { cache: args.cache }
}

/// Whether what is fetched may be kept on this host.
pub fn keep(args: &ReadingArgs) -> Keep {
    if args.no_cache { Keep::Nothing } else { Keep::OnDisk }
}

/// The moment that flags, or else a word, name; the newest state when there is neither.
pub fn target(context: &Context, moment: &MomentArgs, word: Option<MomentWord>) -> Result<Target, Diagnostic> {
    let of_flags = match (&moment.at, moment.tx, &moment.snapshot) {
        (Some(time), _, _) => Some(MomentWord::Time(time.clone())),
        (_, Some(tx), _) => Some(MomentWord::Tx(tx)),
        (_, _, Some(id)) => Some(MomentWord::Snapshot(id.clone())),
        (None, None, None) => None,
    };
    word_target(context, of_flags.or(word).unwrap_or(MomentWord::Point(Point::Latest)))
}

/// The moment that the words of `restore` name.
pub fn restore_target(context: &Context, args: &args::Restore) -> Result<Target, Diagnostic> {
    let word = match args.point.wanted() {
        args::Wanted::Point(point) => MomentWord::Point(point),
        args::Wanted::At(text) => MomentWord::Time(text),
        args::Wanted::Snapshot(id) => MomentWord::Snapshot(id),
    };
    word_target(context, args.tx.map_or(word, MomentWord::Tx))
}

pub fn word_target(context: &Context, word: MomentWord) -> Result<Target, Diagnostic> {
    Ok(match word {
        MomentWord::Point(Point::Latest) => Target::Latest,
        MomentWord::Point(Point::LatestProven) => Target::LatestProven,
        MomentWord::Point(Point::Label(label)) => Target::Label(label),
        MomentWord::Tx(tx) => Target::Tx(Tx::new(tx)),
        MomentWord::Snapshot(id) => Target::Id(id.as_str().to_owned()),
        MomentWord::Time(text) => Target::At(context.read_time(&text)?),
    })
}

/// `shop as of 2026-11-21 11:16:41 UTC (…), state 41`
pub fn said(facts: &MomentFacts, zone: &TimeZone) -> String {
    let state = match &facts.log {
        Some(log) => format!(", state {}", log.tx),
        None => format!(", snapshot {}", facts.snapshot.short()),
    };
    let doubt = if facts.quarantined { " (QUARANTINED)" } else { "" };
    format!("{} as of {}{state}{doubt}", facts.source, time::resolved(facts.at(), zone))
}

/// What a person should know before they believe what they see.
pub fn warn(context: &Context, facts: &MomentFacts) {
    if facts.quarantined {
        context.printer.warn("this snapshot is QUARANTINED: it failed a check or was malformed when taken");
    }
    if let Some(fault) = &facts.log_fault {
        context.printer.warn(&format!("newer commits may exist that cannot be used, and are passed over: {fault}"));
    }
}

/// A moment in JSON.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MomentView {
    pub snapshot: String,
    pub at: Moment,
    /// Of a state in the log.
    pub tx: Option<u64>,
    pub proven: bool,
    pub quarantined: bool,
}

impl MomentView {
    pub fn of(facts: &MomentFacts) -> Self {
        Self {
            snapshot: facts.snapshot.to_string(),
            at: facts.at(),
            tx: facts.log.as_ref().map(|log| log.tx.get()),
            proven: facts.proven,
            quarantined: facts.quarantined,
        }
    }
}

/// A value for a person: what is no text is marked as what it is.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Real(x) => x.to_string(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Blob(blob) if blob.len() <= BLOB_SHOWN => format!("x'{}'", hex(blob)),
        Value::Blob(blob) => {
            format!("x'{}'... ({} bytes)", hex(blob.get(..BLOB_SHOWN).unwrap_or_default()), blob.len())
        }
    }
}

/// A value in JSON: what JSON has no word for is an object with one field.
pub fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(n) => (*n).into(),
        Value::Real(x) => {
            serde_json::Number::from_f64(*x).map_or_else(|| serde_json::json!({ "real": x.to_string() }), Into::into)
        }
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => text.into(),
            Err(_) => serde_json::json!({ "text": hex(text).to_lowercase() }),
        },
        Value::Blob(blob) => serde_json::json!({ "blob": hex(blob).to_lowercase() }),
    }
}

/// One line of CSV: quoted where it must be, NULL as nothing, a blob as `x'…'`.
pub fn csv(cells: impl Iterator<Item = String>) -> String {
    let quoted = |cell: String| {
        let is_plain = !cell.contains(['"', ',', '\n', '\r']);
        if is_plain { cell } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
    };
    cells.map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

pub fn csv_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Blob(blob) => format!("x'{}'", hex(blob)),
        other => shown(other),
    }
}
