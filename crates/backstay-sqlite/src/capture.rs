//! A consistent image of a live database, without stopping its writers.
//!
//! Owns one read of a database from [`Capture::open`] to [`Capture::settle`]. In WAL mode the read
//! transaction begun by `open` holds one state until `settle` proves that it did. With a rollback
//! journal the first pass reads without any lock and may see a torn state; `settle` then takes SHARED
//! for a short time, compares every unit with what the first pass saw, and keeps those that differ.
//! On a medium nobody can write there is nothing to hold; `settle` looks whether somebody did.
//!
//! Invariant: the units the caller saw, with [`Settled::changed`] put over them and cut to
//! [`Settled::len`], are the bytes of one committed state. When that cannot be proven the error is a
//! conflict, and the caller begins again.
//!
//! Where the log of a busy application would grow too long meanwhile, the state is let go
//! ([`CaptureOptions::let_go`]): what is left of the first pass reads without a lock, as with a rollback journal, and
//! `settle` compares everything once more under a new read mark. That is a pass of reading alone, which no store slows
//! down.
//!
//! A crash leaves nothing. Locks: SHARED and a read mark (WAL) for the whole capture, unless it was let go; SHARED
//! for at most `hold_max` at a time (rollback journal), unless the report says otherwise.

use crate::error::{PinLoss, SqliteError};
use crate::facts::{JournalMode, SourceFacts};
use crate::look::{self, Look};
use crate::open::{Database, Medium, sibling};
use crate::pin::Placement;
use crate::stamp::Stamp;
use crate::stopwatch::millis_since;
use crate::tail::LogCursor;
use crate::view::View;
use backstay_format::Fingerprint;
use backstay_format::fingerprint::UnitHasher;
use backstay_model::{ByteLen, Clock, Moment};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod image;
mod rehash;
#[cfg(test)]
mod tests;

pub use crate::spool::ChangedUnits;

/// How a capture behaves towards others.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// How long to wait for a locked database.
    pub busy: Duration,
    /// How long SHARED may be held at a time while a writer may wait for it.
    pub hold_max: Duration,
    /// How many bytes the write-ahead log may grow while its read mark keeps it from being begun anew.
    pub log_growth_max: ByteLen,
    /// How many bytes it may grow before the first pass lets the state go.
    pub let_go: Option<ByteLen>,
    /// Where units taken a second time go when they are many.
    pub spool_dir: PathBuf,
}

impl CaptureOptions {
    /// Thirty seconds for a lock, one second for a hold, 1 GiB for the log.
    pub fn in_dir(spool_dir: PathBuf) -> Self {
        let log_growth_max = ByteLen::new(1 << 30);
        Self {
            busy: Duration::from_secs(30),
            hold_max: Duration::from_secs(1),
            log_growth_max,
            let_go: None,
            spool_dir,
        }
    }
}

/// What the first pass saw, unit by unit.
pub trait SeenUnits {
    /// Fills `out` with the fingerprints from `first_unit`; never asked beyond the length that
    /// [`Capture::facts`] gave.
    fn read(&mut self, first_unit: u64, out: &mut [Fingerprint]) -> io::Result<()>;
}

/// What kept the state still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldKind {
    /// A read mark of the write-ahead log: no writer waits for it.
    ReadMark,
    /// One SHARED lock, shorter than the limit.
    SharedRehash,
    /// Several SHARED locks with a proof that nobody committed between them.
    Chunked,
    /// A copy made by the file system in an instant, under SHARED.
    Reflink,
    /// One SHARED lock without limit, after everything shorter had failed.
    Long,
    /// A medium that cannot be written.
    None,
}

/// How the capture went.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CaptureReport {
    pub journal: JournalMode,
    /// Frames of the log that were laid over the main file; 0 where the main file had everything.
    pub wal_frames: u32,
    /// Distinct pages among them.
    pub wal_pages: u64,
    pub hold_kind: HoldKind,
    /// Longest time a lock was held without a break.
    pub hold_ms: u64,
    /// How often the units were read.
    pub passes: u32,
    pub units_retaken: u64,
    pub busy_wait_ms: u64,
}

/// The result: what to put over the first pass, and what it then is.
pub struct Settled {
    pub len: ByteLen,
    pub page_count: u32,
    pub facts: SourceFacts,
    pub changed: ChangedUnits,
    pub report: CaptureReport,
}

/// The state that a capture will have been of, while it still holds it.
pub struct Fixed<'a> {
    pub facts: &'a SourceFacts,
    /// Where it stands in the log, for whoever goes on from it; `None` unless it is in WAL mode.
    pub cursor: Option<LogCursor>,
}

impl<'a> Fixed<'a> {
    fn of(look: &'a Look) -> Self {
        let facts = &look.facts;
        let is_wal = facts.journal == JournalMode::Wal;
        let cursor = is_wal.then(|| LogCursor::of(look.index.as_ref(), facts.page_size, facts.page_count));
        Self { facts, cursor }
    }
}

/// What is done while the state is held for the last time.
pub type WhileFixed<'a> = dyn FnMut(Fixed<'_>) -> Result<(), SqliteError> + 'a;

/// One capture under way.
pub struct Capture {
    database: Database,
    look: Look,
    options: CaptureOptions,
    clock: Arc<dyn Clock>,
    begun: Moment,
    busy_wait_ms: u64,
    /// The length of the write-ahead log when the state was fixed.
    log_len: u64,
    /// The state that was looked at is not held any more.
    let_go: AtomicBool,
    /// What lay on a read-only medium before anything of it was read.
    stamp: Option<Stamp>,
}

impl Capture {
    /// Opens the database and, in WAL mode, fixes the state that will be read.
    pub fn open(path: &Path, options: CaptureOptions, clock: Arc<dyn Clock>) -> Result<Self, SqliteError> {
        Self::open_on(path, None, options, clock)
    }

    fn open_on(
        path: &Path,
        medium: Option<Medium>,
        options: CaptureOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SqliteError> {
        let database = Database::open(path, medium, options.busy)?;
        let stamp = match database.medium {
            Medium::Live => None,
            Medium::ReadOnly => {
                let stamp = Stamp::take(&database)?;
                look::refuse_hot_journal(&database.path)?;
                Some(stamp)
            }
        };
        let busy_wait_ms = database.begin(clock.as_ref())?;
        let begun = clock.now();
        let mut look = Look::take(&database, clock.as_ref())?;
        match look.facts.journal {
            JournalMode::Wal => {}
            JournalMode::Rollback => database.end()?,
            JournalMode::ReadOnlyImage => {
                database.end()?;
                image::overlay(&database, &mut look, &options, clock.as_ref())?;
            }
        }
        database.still_there()?;
        let log_len = log_len(&database);
        Ok(Self { database, look, options, clock, begun, busy_wait_ms, log_len, let_go: AtomicBool::new(false), stamp })
    }

    /// Lets the state go when the write-ahead log grew too long because this capture holds it, or fails, as the options
    /// say. The application comes before its backup: whoever gets this error drops the capture.
    pub fn check_log(&self) -> Result<(), SqliteError> {
        if self.look.facts.journal != JournalMode::Wal || self.is_let_go() {
            return Ok(());
        }
        if self.options.let_go.is_some_and(|limit| self.grown_since(self.log_len) > limit) {
            self.let_go.store(true, Ordering::SeqCst);
            return self.database.end();
        }
        self.check_growth(self.log_len)
    }

    fn is_let_go(&self) -> bool {
        self.let_go.load(Ordering::SeqCst)
    }

    fn grown_since(&self, before: u64) -> ByteLen {
        ByteLen::new(log_len(&self.database).saturating_sub(before))
    }

    fn check_growth(&self, before: u64) -> Result<(), SqliteError> {
        let (grown, limit) = (self.grown_since(before), self.options.log_growth_max);
        let path = self.database.path.clone();
        if grown > limit { Err(SqliteError::LogGrew { path, grown, limit }) } else { Ok(()) }
    }

    /// What is known now. With a rollback journal the final facts are those of [`Settled`].
    pub fn facts(&self) -> &SourceFacts {
        &self.look.facts
    }

    /// Reads the image; what lies past its end is zeros. May be called from several threads.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SqliteError> {
        let (main, path) = (&self.database.conn, &self.database.path);
        if !self.is_let_go() {
            let read = self.view().read(main, path, offset, buf);
            // It may have been let go in the middle: what is read then need not be of any state.
            if read.is_ok() || !self.is_let_go() {
                return read;
            }
        }
        self.view().read_main(main, path, offset, buf)
    }

    /// Where the captured state stands in the log, as long as it was not let go.
    pub fn cursor(&self) -> Option<LogCursor> {
        Fixed::of(&self.look).cursor
    }

    fn view(&self) -> &View {
        &self.look.view
    }

    /// Proves that what was read is one state, or takes again what is not, and gives every lock back.
    pub fn settle(&mut self, seen: &mut dyn SeenUnits, hasher: &UnitHasher) -> Result<Settled, SqliteError> {
        self.settle_while(seen, hasher, &mut |_| Ok(()))
    }

    /// The same, with something to do as long as the state is still held.
    pub fn settle_while(
        &mut self,
        seen: &mut dyn SeenUnits,
        hasher: &UnitHasher,
        fixed: &mut WhileFixed<'_>,
    ) -> Result<Settled, SqliteError> {
        match self.look.facts.journal {
            JournalMode::Wal if !self.is_let_go() => {
                fixed(Fixed::of(&self.look))?;
                self.look.verify(&self.database)?;
                self.database.end()?;
                self.settled_as_seen(HoldKind::ReadMark)
            }
            JournalMode::ReadOnlyImage => {
                fixed(Fixed::of(&self.look))?;
                self.database.still_there()?;
                if self.stamp != Some(Stamp::take(&self.database)?) {
                    let path = self.database.path.clone();
                    return Err(SqliteError::PinLost { path, why: PinLoss::MediumWritten });
                }
                self.settled_as_seen(HoldKind::None)
            }
            JournalMode::Rollback | JournalMode::Wal => rehash::settle(self, seen, hasher, fixed),
        }
    }

    /// The first pass already is the state.
    fn settled_as_seen(&self, hold_kind: HoldKind) -> Result<Settled, SqliteError> {
        let facts = self.look.facts.clone();
        let held = hold_kind != HoldKind::None;
        Ok(Settled {
            len: facts.len,
            page_count: facts.page_count,
            changed: crate::spool::Spool::new(&self.options.spool_dir).into_units()?,
            report: CaptureReport {
                journal: facts.journal,
                wal_frames: wal_frames(&self.look),
                wal_pages: wal_pages(&self.look),
                hold_kind,
                hold_ms: if held { millis_since(self.clock.as_ref(), self.begun) } else { 0 },
                passes: 1,
                units_retaken: 0,
                busy_wait_ms: self.busy_wait_ms,
            },
            facts,
        })
    }
}

/// By its name: a descriptor of our own on the log could drop the locks of SQLite.
fn log_len(database: &Database) -> u64 {
    std::fs::metadata(sibling(&database.path, "-wal")).map_or(0, |log| log.len())
}

fn wal_frames(look: &Look) -> u32 {
    match (look.placement, &look.view.log) {
        (Placement::Overlay { frames }, _) => frames,
        (Placement::MainOnly, log) => log.as_ref().map_or(0, |log| log.frames),
    }
}

fn wal_pages(look: &Look) -> u64 {
    look.view.log.as_ref().map_or(0, |log| log.map.pages() as u64)
}
