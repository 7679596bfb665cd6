//! Copying the log back ourselves, so that it can be begun anew although we hold it.
//!
//! While somebody reads behind every commit, no checkpoint of the application ever finds the log without a
//! reader that is behind, and the log is never begun anew. So at a bound we do what its next commit
//! could not: take the writer's lock, read to the end that nobody can move any more, copy back, and hold
//! what is then in the main file alone.
//!
//! Only ever PASSIVE, and only while the writer's lock is ours: no commit can begin the log anew meanwhile,
//! which is what the versions of SQLite before 3.51.3 get wrong when two processes copy back at once.
//! Whoever has the lock is waited for no longer than the caller says.

use super::Tail;
use crate::error::{At, SqliteError};
use crate::facts::FileIdentity;
use crate::ffi;
use crate::open::{Database, sibling};
use crate::steps::Step;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Between two tries at a lock. SQLite itself sleeps for a thousandth of a second and longer, and whoever commits without a
/// pause has the lock most of the time.
const TRY_AGAIN: Duration = Duration::from_micros(100);
/// Tries right after one another before each of those pauses: between two commits of a writer at full speed its lock is free for
/// a microsecond or less, and whoever does not meet one of these moments lets the log grow. A try takes half of one.
const AT_ONCE: u32 = 128;
/// The same for a checkpoint, which takes ten times as long to ask for.
const AT_ONCE_COPYING: u32 = 8;
/// How long the end of somebody else's checkpoint is waited for.
const COPYING_PATIENCE: Duration = Duration::from_millis(10);

/// Asks until it is not refused, or for about as long as it is told.
fn insist<T>((patience, at_once): (Duration, u32), ask: impl Fn() -> T, is_refused: impl Fn(&T) -> bool) -> T {
    let mut left = patience.as_micros() / TRY_AGAIN.as_micros();
    loop {
        for _ in 1..at_once {
            let asked = ask();
            if !is_refused(&asked) {
                return asked;
            }
            std::thread::yield_now();
        }
        let asked = ask();
        if left == 0 || !is_refused(&asked) {
            return asked;
        }
        left -= 1;
        std::thread::sleep(TRY_AGAIN);
    }
}

/// What takes the writer's lock, and gives it back at the latest when it goes.
///
/// Not by a transaction: between two commits of a writer at full speed there is a microsecond, and a transaction begins
/// with a state that must still be the newest when it asks for the lock. Who has the lock keeps every commit out all the same.
pub(super) struct Writer {
    database: Database,
    has_lock: bool,
}

impl Writer {
    /// `None` as long as somebody has the database whole, or where there is no wal-index.
    fn open(given: &Path, identity: FileIdentity) -> Result<Option<Self>, SqliteError> {
        let database = Database::open(given, None, Duration::ZERO)?;
        if database.identity != identity {
            return Err(SqliteError::Replaced { path: database.path.clone() });
        }
        // Maps the wal-index.
        match database.try_read() {
            Ok(()) => Ok(Some(Self { database, has_lock: false })),
            Err(SqliteError::Locked { .. } | SqliteError::Denied { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(&mut self, patience: Duration) -> bool {
        let conn = self.database.conn();
        let taken = insist((patience, AT_ONCE), || ffi::lock_writers(&conn, true), |asked| matches!(asked, Ok(false)));
        drop(conn);
        // Where there is no wal-index any more, whoever reads finds out.
        self.has_lock = matches!(taken, Ok(true));
        self.has_lock
    }

    fn unlock(&mut self) {
        if std::mem::take(&mut self.has_lock) {
            // To give a lock back cannot be refused.
            let _ = ffi::lock_writers(&self.database.conn(), false);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Tail {
    /// Takes the writer's lock, unless somebody keeps it for longer than `patience` or we may not write at all.
    pub fn lock_writers(&mut self, patience: Duration) -> Result<bool, SqliteError> {
        let writer = match self.writer.take() {
            Some(writer) => Some(writer),
            None => Writer::open(&self.given, self.identity())?,
        };
        let Some(mut writer) = writer else { return Ok(false) };
        let is_locked = writer.lock(patience);
        self.writer = Some(writer);
        if is_locked {
            self.reach(Step::Locked);
        }
        Ok(is_locked)
    }

    /// Copies back what is in the log; says whether that was all of it. Only between [`Tail::lock_writers`] and
    /// [`Tail::unlock_writers`].
    pub fn copy_back(&mut self) -> Result<bool, SqliteError> {
        self.move_on();
        if !self.has_writers_lock() {
            return Ok(false);
        }
        let free = self.hold.as_ref().map_or(0, |hold| 1 - hold.at.min(1));
        let Some(database) = self.databases.get(free) else { return Ok(false) };
        self.reach(Step::CopyingBack);
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let ask =
            || database.conn().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], row).at("copy back", &database.path);
        // Somebody else's checkpoint ends soon: no commit can give it more to do.
        let asked = insist((COPYING_PATIENCE, AT_ONCE_COPYING), ask, |asked| matches!(asked, Ok((1, ..))));
        self.reach(Step::CopiedBack);
        match asked {
            Ok((busy, frames, copied)) => Ok(busy == 0 && frames == copied),
            Err(SqliteError::Locked { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What writes the log to the disk, for whoever has time for it: who copies it back must do that first, and it is not to take
    /// long while nobody can commit. What cannot be done now is done then.
    pub fn settling(&self) -> impl FnOnce() + Send + 'static + use<> {
        let log = sibling(&self.path, "-wal");
        move || {
            let _ = File::open(log).and_then(|log| log.sync_data());
        }
    }

    fn has_writers_lock(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.has_lock)
    }

    /// Gives the writer's lock back.
    pub fn unlock_writers(&mut self) {
        if self.has_writers_lock() {
            self.reach(Step::Unlocking);
        }
        self.writer.iter_mut().for_each(Writer::unlock);
    }
}
