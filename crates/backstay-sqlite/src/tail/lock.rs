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
use crate::open::{Database, sibling};
use crate::steps::Step;
use std::fs::File;
use std::time::Duration;

/// Between two tries at a lock. SQLite itself sleeps for a thousandth of a second and longer, and whoever commits without a
/// pause has the lock most of the time.
const TRY_AGAIN: Duration = Duration::from_micros(100);
/// Tries right after one another before each of those pauses: between two commits of a writer at full speed its lock is free for
/// a microsecond or two, and whoever does not meet one of these moments lets the log grow.
const AT_ONCE: u32 = 16;
/// How long the end of somebody else's checkpoint is waited for.
const COPYING_PATIENCE: Duration = Duration::from_millis(10);

/// Asks until it is not refused, or for about as long as it is told.
fn insist<T>(patience: Duration, ask: impl Fn() -> T, is_refused: impl Fn(&T) -> bool) -> T {
    let mut left = patience.as_micros() / TRY_AGAIN.as_micros();
    loop {
        for _ in 1..AT_ONCE {
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

impl Tail {
    /// Takes the writer's lock, unless somebody keeps it for longer than `patience` or we may not write at all.
    pub fn lock_writers(&mut self, patience: Duration) -> Result<bool, SqliteError> {
        let database = match self.writer.take() {
            Some(database) => database,
            None => self.open_writer()?,
        };
        let ask = || database.conn().execute_batch("BEGIN IMMEDIATE").at("lock", &database.path);
        let taken = insist(patience, ask, |asked| matches!(asked, Err(SqliteError::Locked { .. })));
        self.writer = Some(database);
        match taken {
            Ok(()) => {
                self.reach(Step::Locked);
                Ok(true)
            }
            Err(SqliteError::Locked { .. } | SqliteError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn open_writer(&self) -> Result<Database, SqliteError> {
        let database = Database::open(&self.given, None, Duration::ZERO)?;
        if database.identity != self.identity() {
            return Err(SqliteError::Replaced { path: database.path.clone() });
        }
        // A connection that only asks may not take the lock. Nothing is ever written through this one either.
        database.conn().pragma_update(None, "query_only", false).at("prepare", &database.path)?;
        Ok(database)
    }

    /// Copies back what is in the log; says whether that was all of it. Only between [`Tail::lock_writers`] and
    /// [`Tail::unlock_writers`].
    pub fn copy_back(&mut self) -> Result<bool, SqliteError> {
        self.move_on();
        if self.writer.as_ref().is_none_or(|writer| writer.conn().is_autocommit()) {
            return Ok(false);
        }
        let free = self.hold.as_ref().map_or(0, |hold| 1 - hold.at.min(1));
        let Some(database) = self.databases.get(free) else { return Ok(false) };
        self.reach(Step::CopyingBack);
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let ask =
            || database.conn().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], row).at("copy back", &database.path);
        // Somebody else's checkpoint ends soon: no commit can give it more to do.
        let asked = insist(COPYING_PATIENCE, ask, |asked| matches!(asked, Ok((1, ..))));
        self.reach(Step::CopiedBack);
        match asked {
            Ok((busy, frames, copied)) => Ok(busy == 0 && frames == copied),
            Err(SqliteError::Locked { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the log to the disk, as whoever copies it back must do first: so that it does not take long while nobody can
    /// commit. What cannot be done now is done then.
    pub fn settle_log(&self) {
        let _ = File::open(sibling(&self.path, "-wal")).and_then(|log| log.sync_data());
    }

    /// Gives the writer's lock back.
    pub fn unlock_writers(&mut self) {
        let Some(writer) = self.writer.take_if(|writer| !writer.conn().is_autocommit()) else { return };
        self.reach(Step::Unlocking);
        let given_up = writer.conn().execute_batch("ROLLBACK").is_ok();
        // A connection that cannot even give up a transaction without writes is closed instead.
        self.writer = Some(writer).filter(|_| given_up);
    }
}
