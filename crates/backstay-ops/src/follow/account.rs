//! What a follower says of itself to others on this host: a status, and whoever collects metrics.
//!
//! Owns two small files. `following.json` in a source's folder says where it stands; it is written when that changed,
//! and at least once a minute, without a sync: it is worth nothing after a power cut. The metrics file has times,
//! never ages, and is replaced whole, as node_exporter's textfile collector wants it.

use super::audit::Audited;
use super::{Alarm, Mode, Position};
use crate::catalog::Vault;
use crate::disk::{self, PathError};
use backstay_model::{Moment, SourceName, Tx};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

const FILE: &str = "following.json";
/// A follower that has said nothing for so long does not run.
pub const SILENT_AFTER_MILLIS: i64 = 150_000;

/// A gap that this run recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub at: Moment,
    pub reason: String,
}

/// Where following of a source stands, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub pid: u32,
    /// When it said so.
    pub written: Moment,
    pub mode: Mode,
    /// Between two objects, or two snapshots of a database without a log, as it is now.
    pub interval_millis: u64,
    /// The last durable state, and when it was committed.
    pub tx: Tx,
    pub at: Moment,
    /// Commits read and not durable yet, and when the oldest of them was read.
    pub waiting: u64,
    pub waiting_since: Option<Moment>,
    pub waiting_bytes: u64,
    pub spooled_bytes: u64,
    pub log_bytes: u64,
    pub alarm: Option<Alarm>,
    /// Since when the repository has not taken anything.
    pub store_away_since: Option<Moment>,
    pub gaps: u64,
    pub last_gap: Option<Gap>,
    pub audit: Option<Audited>,
    /// Looks of the audit that found a page which was not what was captured.
    pub audit_wrong: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Nothing is held of it until somebody writes: it costs no handle.
    #[serde(default)]
    pub rests: bool,
    /// When it ended in order.
    pub stopped: Option<Moment>,
    /// Why it ended out of order.
    pub ended: Option<String>,
}

impl Account {
    pub fn new(position: &Position, now: Moment) -> Self {
        Self {
            pid: std::process::id(),
            written: now,
            mode: position.mode,
            interval_millis: 0,
            tx: position.tx,
            at: position.at,
            waiting: position.waiting,
            waiting_since: position.waiting_since,
            waiting_bytes: position.waiting_bytes,
            spooled_bytes: position.spooled_bytes,
            log_bytes: position.log_bytes,
            alarm: position.alarm,
            store_away_since: None,
            gaps: 0,
            last_gap: None,
            audit: position.audit,
            audit_wrong: 0,
            objects: 0,
            bytes: 0,
            rests: false,
            stopped: None,
            ended: None,
        }
    }

    /// Whether it says the same, but for when it says it.
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { written: other.written, ..self.clone() } == *other
    }

    /// What the follower of a source said last.
    pub fn recall(vault: &Vault, source: &SourceName) -> Result<Option<Self>, PathError> {
        vault.state.recall(source, FILE)
    }

    /// Best effort: a disk that takes no more is told by the alarm of the spool.
    pub fn write(&self, vault: &Vault, source: &SourceName) {
        let bytes = serde_json::to_vec(self).expect("plain facts can be written to memory");
        if let Ok(folder) = vault.state.source_dir(source) {
            let _ = disk::replace_unsynced(vault.env.disk.as_ref(), &folder.join(FILE), &bytes, 0o600);
        }
    }
}

/// One metric of a source.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Account) -> Option<f64>,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Account) -> Option<f64>) -> Metric {
    Metric { name, kind: "gauge", help, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Account) -> Option<f64>) -> Metric {
    Metric { name, kind: "counter", help, value }
}

const METRICS: [Metric; 12] = [
    gauge("durable_timestamp_seconds", "when the last durable commit was made", |a| Some(seconds(a.at))),
    gauge("durable_tx", "the number of the last durable state", |a| Some(a.tx.get() as f64)),
    gauge("waiting_commits", "commits that are read and not durable", |a| Some(a.waiting as f64)),
    gauge("waiting_since_timestamp_seconds", "when the oldest of them was read", |a| a.waiting_since.map(seconds)),
    gauge("waiting_bytes", "what they take", |a| Some(a.waiting_bytes as f64)),
    gauge("spool_bytes", "how much of it lies in the state folder", |a| Some(a.spooled_bytes as f64)),
    gauge("wal_bytes", "the length of the application's log", |a| Some(a.log_bytes as f64)),
    gauge("alarm", "1 while something is wrong", |a| {
        Some(f64::from(u8::from(a.alarm.is_some() || a.ended.is_some() || a.store_away_since.is_some())))
    }),
    counter("gaps_total", "gaps recorded since it began", |a| Some(a.gaps as f64)),
    gauge("audit_timestamp_seconds", "when pages were last compared", |a| a.audit.map(|audit| seconds(audit.at))),
    counter("audit_wrong_total", "audits that found a page which was not what was captured", |a| {
        Some(a.audit_wrong as f64)
    }),
    counter("objects_total", "log objects put since it began", |a| Some(a.objects as f64)),
];

fn seconds(at: Moment) -> f64 {
    at.as_millis() as f64 / 1000.0
}

/// The text that node_exporter's textfile collector reads, for all sources.
pub fn metrics(sources: &[(SourceName, Account)], now: Moment) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, value } in METRICS {
        let _ = writeln!(text, "# HELP backstay_follow_{name} {help}\n# TYPE backstay_follow_{name} {kind}");
        for (source, account) in sources {
            if let Some(value) = value(account) {
                let _ = writeln!(text, "backstay_follow_{name}{{source=\"{source}\"}} {value}");
            }
        }
    }
    let name = "backstay_follow_written_timestamp_seconds";
    let _ = writeln!(text, "# HELP {name} when this was written\n# TYPE {name} gauge\n{name} {}", seconds(now));
    text
}

/// Replaces the metrics file whole.
pub fn write_metrics(vault: &Vault, path: &Path, text: &str) -> Result<(), PathError> {
    disk::replace_unsynced(vault.env.disk.as_ref(), path, text.as_bytes(), 0o644)
}
