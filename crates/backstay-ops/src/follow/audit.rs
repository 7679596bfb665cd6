//! The audit of the capture: pages of the live database, at a commit that was captured, against what was captured of
//! them.
//!
//! Owns one short digest per page of what the repository holds: from the snapshot that following began with, and from
//! each commit since. A few pages are read again each minute, all of them within a day; one that differs means that
//! something was missed, by us or by whoever wrote past SQLite. That is told, and healed by beginning anew.
//!
//! Never compares what has no content of its own: a page that a transaction made and freed without writing it may
//! change without a commit. What this run never saw captured (after a restart, or where pages are smaller than the
//! units of a snapshot) is taken as it is at first sight and compared from then on.

use crate::OpsError;
use crate::base::Base;
use backstay_format::fingerprint::UnitHasher;
use backstay_format::{Fingerprint, FingerprintKey};
use backstay_model::Moment;
use backstay_sqlite::{Commit, Held, Images, LogCursor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(60);
/// Looks of one round: a day of minutes.
const LOOKS_PER_ROUND: u32 = 1440;
const PAGES_LEAST: u32 = 256;
/// Pages beyond these are not compared: a bound of 64 MiB of memory.
const PAGES_MAX: u32 = 8 << 20;
/// Not seen yet.
const UNKNOWN: u64 = 0;
/// Nothing to compare.
const NO_CONTENT: u64 = u64::MAX;

/// What the last look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    pub at: Moment,
    /// Pages compared since this run began.
    pub compared: u64,
    /// A page that was not what was captured.
    pub wrong: Option<u32>,
}

pub struct Audit {
    hasher: UnitHasher,
    known: Vec<u64>,
    /// Where the next look begins.
    next: u32,
    due: Duration,
    /// Pages that still have to be looked at after the last change.
    left: u32,
    pages: u64,
    last: Option<Audited>,
}

impl Audit {
    /// From a state whose pages are those of a base, where there is one in pages.
    pub fn begin(key: &FingerprintKey, cursor: &LogCursor, base: Option<&Base>) -> Self {
        let pages = cursor.page_count.min(PAGES_MAX) as usize;
        let mut known = Vec::with_capacity(pages);
        if let Some(base) = base.filter(|base| base.facts.unit == cursor.page_size) {
            let units = base.units().min(u64::from(PAGES_MAX));
            let read = base.fingerprints.each(units, |batch| known.extend(batch.iter().map(short)));
            if read.is_err() {
                known.clear();
            }
        }
        known.resize(pages, UNKNOWN);
        let (next, due, left) = (1, Duration::ZERO, cursor.page_count);
        Self { hasher: key.units(), known, next, due, left, pages: 0, last: None }
    }

    pub fn last(&self) -> Option<Audited> {
        self.last
    }

    /// Takes note of what was captured.
    pub fn captured(&mut self, commits: &[Commit], images: &Images) -> std::io::Result<()> {
        let mut newest = BTreeMap::new();
        for commit in commits {
            self.left = commit.page_count.min(PAGES_MAX);
            self.known.resize(self.left as usize, UNKNOWN);
            // Only what a page is in the end counts: a busy one is written by each commit.
            newest.extend(commit.pages.iter().map(|(page, image)| (*page, (*image, commit))));
        }
        let mut bytes = Vec::new();
        for (page, (image, commit)) in newest {
            let Some(known) = (page as usize).checked_sub(1).and_then(|at| self.known.get_mut(at)) else { continue };
            *known = if commit.unwritten.binary_search(&page).is_ok() {
                NO_CONTENT
            } else {
                bytes.resize(commit.end.page_size as usize, 0);
                images.read(image, &mut bytes)?;
                short(&self.hasher.fingerprint(&bytes))
            };
        }
        Ok(())
    }

    /// Nothing is looked at twice while nothing changes.
    pub fn is_due(&self, now: Duration) -> bool {
        self.left > 0 && now >= self.due
    }

    /// Looks at the next pages of a state that is held, all of which was captured. Gives the page that differs.
    pub fn look(&mut self, held: &Held<'_>, now: Duration, at: Moment) -> Result<Option<u32>, OpsError> {
        self.due = now + EVERY;
        let cursor = held.cursor();
        let count = cursor.page_count.min(PAGES_MAX);
        let lock_page = u32::try_from((1_u64 << 30) / u64::from(cursor.page_size) + 1).unwrap_or(u32::MAX);
        let many = (count / LOOKS_PER_ROUND).max(PAGES_LEAST).min(count);
        let mut bytes = vec![0; cursor.page_size as usize];
        let mut seen = Vec::with_capacity(many as usize);
        for step in 0..many {
            let page = (self.next - 1 + step) % count + 1;
            if page != lock_page {
                held.read(page, &mut bytes)?;
                seen.push((page, short(&self.hasher.fingerprint(&bytes))));
            }
        }
        if !held.is_still_held()? {
            return Ok(None);
        }
        let mut wrong = None;
        for (page, found) in &seen {
            let Some(known) = self.known.get_mut(*page as usize - 1) else { continue };
            match *known {
                NO_CONTENT => {}
                UNKNOWN => *known = *found,
                captured if captured == *found => {}
                _ => wrong = wrong.or(Some(*page)),
            }
        }
        self.next = (self.next - 1 + many) % count.max(1) + 1;
        self.left = self.left.saturating_sub(many);
        self.pages += seen.len() as u64;
        self.last = Some(Audited { at, compared: self.pages, wrong });
        Ok(wrong)
    }

    /// Looks again at once, for whoever does not want to wait.
    pub fn hurry(&mut self) {
        (self.due, self.left) = (Duration::ZERO, self.left.max(1));
    }
}

/// Neither of the two words that mean something else.
fn short(fingerprint: &Fingerprint) -> u64 {
    let (first, _) = fingerprint.0.as_chunks::<8>();
    let word = first.first().map_or(1, |bytes| u64::from_le_bytes(*bytes));
    word.clamp(UNKNOWN + 1, NO_CONTENT - 1)
}
