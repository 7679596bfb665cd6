//! What a retention run found, decided and did, as values. A plan is the same value with nothing done.

use super::LogReport;
use backstay_model::lock::Horizon;
use backstay_model::prune::{Doubt, Spared};
use backstay_model::retention::{Decision, RetentionPolicy};
use backstay_model::{ByteLen, Moment, ObjectId, SourceName, Verdict};

#[derive(Debug, Clone, serde::Serialize)]
pub struct RetainReport {
    pub verdict: Verdict,
    /// The time everything was judged at: the store's when it was performed, this host's when planned.
    pub at: Moment,
    pub performed: bool,
    /// The number of the prune record that was written, if anything was to be said.
    pub record: Option<u64>,
    pub sources: Vec<SourceReport>,
    pub logs: LogReport,
    /// Why the deletions stopped before their end; the next run goes on.
    pub stopped: Option<String>,
    pub millis: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct SourceReport {
    pub source: SourceName,
    pub verdict: Verdict,
    pub policy: RetentionPolicy,
    /// Why nothing of the source was touched.
    pub doubts: Vec<Doubt>,
    /// Every snapshot and its fate, newest first.
    pub snapshots: Vec<Decision>,
    pub condemned: Tally,
    /// When what is condemned now may be deleted.
    pub goes: Option<Moment>,
    /// What outlived its grace.
    pub deleted: Tally,
    /// What was condemned before and waits.
    pub waiting: Waiting,
    /// Free objects that did not fit into one record: the next run condemns them.
    pub put_off: usize,
    /// Objects no manifest names that may still be a running backup's.
    pub young: usize,
    /// Condemned objects that a snapshot needs all the same: they stay.
    pub spared: Vec<Spared>,
    /// Objects that snapshots which stay need, and that are not listed.
    pub missing: Vec<ObjectId>,
    /// The oldest restore point before and after.
    pub oldest: Option<Oldest>,
    /// How long nobody can delete each snapshot that stays, newest first; empty where no object lock is known of.
    pub horizons: Vec<Horizon>,
    /// What the store would not delete: it stays condemned, and the next run tries again.
    pub refused: Vec<String>,
}

impl SourceReport {
    pub fn new(source: SourceName, policy: RetentionPolicy) -> Self {
        Self {
            source,
            verdict: Verdict::Pass,
            policy,
            doubts: Vec::new(),
            snapshots: Vec::new(),
            condemned: Tally::default(),
            goes: None,
            deleted: Tally::default(),
            waiting: Waiting::default(),
            put_off: 0,
            young: 0,
            spared: Vec::new(),
            missing: Vec::new(),
            oldest: None,
            horizons: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Nothing is done to a source that is doubted, and what should not be is for a person to look at.
    pub(super) fn judge(&mut self) {
        let safe = self.refused.is_empty() && !self.horizons.iter().any(|horizon| horizon.short);
        let clean = safe && self.doubts.is_empty() && self.spared.is_empty() && self.missing.is_empty();
        self.verdict = if clean { Verdict::Pass } else { Verdict::Partial };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Tally {
    pub snapshots: usize,
    pub packs: usize,
    pub bytes: ByteLen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Waiting {
    pub objects: usize,
    pub bytes: ByteLen,
    /// When the last of it may go.
    pub until: Option<Moment>,
    /// How many objects wait for the store's lock alone.
    pub locked: usize,
}

/// How far back one could and can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Oldest {
    pub before: Moment,
    pub after: Moment,
}
