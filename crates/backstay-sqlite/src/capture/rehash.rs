//! The second pass of a database with a rollback journal, or of one whose log was let go in the first: every unit
//! compared under SHARED.
//!
//! Owns the rule that keeps writers moving. A hold ends at `hold_max`, and goes on later from where it
//! stopped only if change counter, page count and length prove that nobody committed in between; if
//! somebody did, everything is compared again. After three such restarts the file is cloned by the
//! file system under a hold of an instant, and where that cannot be done one hold goes on to the end
//! and the report says so.

use super::{Capture, CaptureReport, Fixed, HoldKind, SeenUnits, Settled, WhileFixed};
use crate::error::{At, PinLoss, SqliteError};
use crate::facts::{FileIdentity, JournalMode};
use crate::ffi;
use crate::look::Look;
use crate::spool::Spool;
use crate::stopwatch::Stopwatch;
use backstay_format::Fingerprint;
use backstay_format::fingerprint::UnitHasher;
use backstay_model::UnitSize;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Units compared between two looks at the clock: about a mebibyte.
const BATCH_BYTES: u64 = 1024 * 1024;
const RESTARTS_MAX: u32 = 3;

/// What a commit by anybody changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof {
    journal: JournalMode,
    change_counter: u32,
    schema_cookie: u32,
    page_count: u32,
    main_len: u64,
}

/// How one hold ended.
enum Outcome {
    Complete(HoldKind),
    /// The limit came first.
    More,
    /// The file system made a copy, which needs no lock.
    Cloned(File),
}

struct Rehash<'a> {
    capture: &'a Capture,
    hasher: &'a UnitHasher,
    unit: UnitSize,
    /// How many units the first pass saw.
    seen_units: u64,
    next_unit: u64,
    changed: Spool,
    proof: Option<Proof>,
    restarts: u32,
    busy_wait_ms: u64,
    longest_hold_ms: u64,
}

pub(super) fn settle(
    capture: &mut Capture,
    seen: &mut dyn SeenUnits,
    hasher: &UnitHasher,
    fixed: &mut WhileFixed<'_>,
) -> Result<Settled, SqliteError> {
    let unit = UnitSize::for_pages(capture.look.facts.page_size);
    let mut rehash = Rehash {
        capture,
        hasher,
        unit,
        seen_units: unit.count(capture.look.facts.len),
        next_unit: 0,
        changed: Spool::new(&capture.options.spool_dir),
        proof: None,
        restarts: 0,
        busy_wait_ms: capture.busy_wait_ms,
        longest_hold_ms: 0,
    };
    let (look, hold_kind) = rehash.run(seen, fixed)?;
    let report = CaptureReport {
        journal: look.facts.journal,
        wal_frames: super::wal_frames(&look),
        wal_pages: super::wal_pages(&look),
        hold_kind,
        hold_ms: rehash.longest_hold_ms,
        passes: 2 + rehash.restarts,
        units_retaken: rehash.changed.count(),
        busy_wait_ms: rehash.busy_wait_ms,
    };
    let changed = rehash.changed.into_units()?;
    Ok(Settled { len: look.facts.len, page_count: look.facts.page_count, changed, facts: look.facts, report })
}

impl Rehash<'_> {
    fn run(&mut self, seen: &mut dyn SeenUnits, fixed: &mut WhileFixed<'_>) -> Result<(Look, HoldKind), SqliteError> {
        let database = &self.capture.database;
        let mut holds = 0;
        loop {
            self.busy_wait_ms += database.begin(self.capture.clock.as_ref())?;
            let held = self.hold(seen).and_then(|(look, outcome)| {
                if !matches!(outcome, Outcome::More) {
                    fixed(Fixed::of(&look))?;
                }
                Ok((look, outcome))
            });
            let ended = database.end();
            let (look, outcome) = held?;
            ended?;
            holds += 1;
            match outcome {
                Outcome::More => {}
                Outcome::Complete(HoldKind::SharedRehash) if holds > 1 => return Ok((look, HoldKind::Chunked)),
                Outcome::Complete(kind) => return Ok((look, kind)),
                Outcome::Cloned(copy) => {
                    self.compare_clone(seen, &look, &copy)?;
                    return Ok((look, HoldKind::Reflink));
                }
            }
        }
    }

    /// One hold: the caller has taken the lock and gives it back.
    fn hold(&mut self, seen: &mut dyn SeenUnits) -> Result<(Look, Outcome), SqliteError> {
        let capture = self.capture;
        let watch = Stopwatch::begin(capture.clock.as_ref());
        let look = Look::take(&capture.database, capture.clock.as_ref())?;
        self.check_proof(&look)?;
        let kind = match (look.facts.journal, self.restarts) {
            // The log was let go, or there is one now. A read mark stops nobody, however long it is held.
            (JournalMode::Wal, _) => HoldKind::ReadMark,
            (_, 0..RESTARTS_MAX) => HoldKind::SharedRehash,
            _ => HoldKind::Long,
        };
        if kind == HoldKind::Long
            && let Some(copy) = clone_main(capture)
        {
            look.verify(&capture.database)?;
            self.longest_hold_ms = self.longest_hold_ms.max(watch.millis());
            return Ok((look, Outcome::Cloned(copy)));
        }
        let limited = kind == HoldKind::SharedRehash;
        let log_len = super::log_len(&capture.database);
        let end = self.unit.count(look.facts.len);
        while self.next_unit < end {
            if limited && watch.is_past(capture.options.hold_max) {
                break;
            }
            if kind == HoldKind::ReadMark {
                capture.check_growth(log_len)?;
            }
            self.compare_batch(seen, end, look.facts.len.get(), |offset, buf| {
                look.view.read(&capture.database.conn, &capture.database.path, offset, buf)
            })?;
        }
        look.verify(&capture.database)?;
        self.longest_hold_ms = self.longest_hold_ms.max(watch.millis());
        let outcome = if self.next_unit < end { Outcome::More } else { Outcome::Complete(kind) };
        Ok((look, outcome))
    }

    /// Begins the comparison anew if anybody committed since the last hold.
    fn check_proof(&mut self, look: &Look) -> Result<(), SqliteError> {
        let database = &self.capture.database;
        if look.facts.page_size != self.capture.look.facts.page_size {
            return Err(SqliteError::PinLost { path: database.path.clone(), why: PinLoss::PageSizeChanged });
        }
        let now = Proof {
            journal: look.facts.journal,
            change_counter: look.facts.change_counter,
            schema_cookie: look.facts.schema_cookie,
            page_count: look.facts.page_count,
            main_len: ffi::main_len(&database.conn()).at("read", &database.path)?,
        };
        if self.proof.is_some_and(|before| before != now) {
            self.restarts += 1;
            self.next_unit = 0;
            self.changed = Spool::new(&self.capture.options.spool_dir);
        }
        self.proof = Some(now);
        Ok(())
    }

    fn compare_clone(&mut self, seen: &mut dyn SeenUnits, look: &Look, copy: &File) -> Result<(), SqliteError> {
        let dir = &self.capture.options.spool_dir;
        let end = self.unit.count(look.facts.len);
        let view = &look.view;
        while self.next_unit < end {
            self.compare_batch(seen, end, look.facts.len.get(), |offset, buf| {
                copy.read_exact_at(buf, offset).at("read the copy in", dir)?;
                view.blank_lock_page(offset, buf);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Compares the next units and keeps those that are not what the first pass saw.
    fn compare_batch(
        &mut self,
        seen: &mut dyn SeenUnits,
        end: u64,
        len: u64,
        read: impl FnOnce(u64, &mut [u8]) -> Result<(), SqliteError>,
    ) -> Result<(), SqliteError> {
        let unit = self.unit.bytes();
        let first = self.next_unit;
        let take = (BATCH_BYTES / unit).min(end - first);
        let offset = first * unit;
        let mut bytes = vec![0; usize::try_from((take * unit).min(len - offset)).unwrap_or(0)];
        read(offset, &mut bytes)?;
        let known = usize::try_from(self.seen_units.saturating_sub(first).min(take)).unwrap_or(0);
        let mut before = vec![Fingerprint::default(); known];
        if known > 0 {
            seen.read(first, &mut before).map_err(SqliteError::Seen)?;
        }
        for (index, content) in bytes.chunks(unit as usize).enumerate() {
            if before.get(index).is_none_or(|seen| *seen != self.hasher.fingerprint(content)) {
                self.changed.push(first + index as u64, content)?;
            }
        }
        self.next_unit = first + take;
        Ok(())
    }
}

/// Has the file system clone the main file; `None` where it cannot.
fn clone_main(capture: &Capture) -> Option<File> {
    let copy = tempfile::tempfile_in(&capture.options.spool_dir).ok()?;
    let identity = capture.database.identity;
    ffi::clone_open_file(|found| FileIdentity::of_metadata(found) == identity, &copy)?;
    let len = ffi::main_len(&capture.database.conn()).ok()?;
    copy.metadata().is_ok_and(|found| found.len() == len).then_some(copy)
}
