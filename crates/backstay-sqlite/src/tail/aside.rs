//! Stepping aside for a checkpoint that waits for the very slot our mark moved into.
//!
//! A RESTART or TRUNCATE checkpoint that finds an old mark in a slot waits until it has that slot for itself. When our
//! next hold takes the slot in that moment, with the newest mark, nobody is behind any more and the checkpoint waits all
//! the same, as long as we stay: for its whole busy timeout, with every writer behind it.
//!
//! So where the log stands still behind our mark, once for each end of it, the transaction ends for a moment. What keeps
//! the log from being begun anew meanwhile is a shared lock on a slot that no reader uses: whoever begins it anew needs all
//! of them. The proof of decision 0019 holds on: at no time is there no lock.

use super::Tail;
use crate::error::{At, SqliteError};
use crate::ffi::{self, SlotLock};
use crate::open::Database;
use crate::pin::IndexHeader;
use crate::steps::{self, Step};
use std::time::Duration;

/// A slot in which no mark stands.
const UNUSED: u32 = u32::MAX;
/// Whoever waits for a slot looks at it at least this often, and is given it twice.
const ASIDE_MAX: Duration = Duration::from_millis(250);

/// What holds instead of a transaction.
pub(super) struct Aside {
    slot: usize,
    until: Duration,
}

impl Aside {
    pub(super) fn end(&self, database: &Database) {
        // To give a lock back cannot be refused.
        let _ = ffi::lock_slot(&database.conn(), self.slot, SlotLock::GiveBack);
    }
}

impl Tail {
    /// Lets go of the slot our mark is in, if the log stands still behind it, and holds another.
    pub fn make_way(&mut self) -> Result<(), SqliteError> {
        let until = self.clock.uptime() + ASIDE_MAX;
        let Self { databases, hold: Some(hold), next: None, made_way, options, .. } = self else { return Ok(()) };
        let Some(index) = hold.index.filter(|_| !hold.is_slot_0 && hold.aside.is_none()) else { return Ok(()) };
        let end = (index.salts, index.frames);
        if made_way.replace(end) == Some(end) {
            return Ok(());
        }
        let Some(database) = databases.get(hold.at) else { return Ok(()) };
        let live = ffi::live_index(&database.conn()).at("read the wal-index of", &database.path)?;
        let stands = live.is_some_and(|live| {
            let header = IndexHeader::of_words(&live.header);
            (header.salts, header.frames) == end && live.backfilled < header.frames
        });
        if stands && let Some(slot) = share_unused(database)? {
            hold.aside = Some(Aside { slot, until });
            steps::reach(&options.steps, Step::SteppingAside);
            // Ending to read takes nothing that could be refused.
            let _ = database.end();
            steps::reach(&options.steps, Step::SteppedAside);
        }
        Ok(())
    }

    /// Whether way was made, or there is nobody to make it for.
    pub(super) fn has_made_way(&self) -> bool {
        let waits = self.hold.as_ref().and_then(|hold| hold.index.filter(|_| !hold.is_slot_0 && hold.aside.is_none()));
        self.next.is_some() || waits.is_none_or(|index| self.made_way == Some((index.salts, index.frames)))
    }

    pub(super) fn is_aside_too_long(&self, hold: &super::Hold) -> bool {
        hold.aside.as_ref().is_some_and(|aside| self.clock.uptime() >= aside.until)
    }
}

/// A slot that no reader uses, locked so that none can begin to.
fn share_unused(database: &Database) -> Result<Option<usize>, SqliteError> {
    let conn = database.conn();
    let path = &database.path;
    let is_unused = |slot| ffi::reader_mark(&conn, slot).at("read the wal-index of", path).map(|m| m == Some(UNUSED));
    for slot in (1..=4).rev() {
        if !is_unused(slot)? || !ffi::lock_slot(&conn, slot, SlotLock::Share).at("lock a slot of", path)? {
            continue;
        }
        if is_unused(slot)? {
            return Ok(Some(slot));
        }
        ffi::lock_slot(&conn, slot, SlotLock::GiveBack).at("unlock a slot of", path)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::{Seen, TailOptions};
    use rusqlite::Connection;
    use std::path::Path;
    use std::sync::Arc;

    struct Still;

    impl backstay_model::Clock for Still {
        fn now(&self) -> backstay_model::Moment {
            backstay_model::Moment::from_millis(0).expect("a moment")
        }
    }

    /// Which slots a checkpoint that waits for them would get.
    fn free(path: &Path) -> Vec<usize> {
        let waiting = Database::open(path, None, Duration::ZERO).expect("opens");
        waiting.try_read().expect("reads");
        let get = |slot: &usize| {
            let got = ffi::lock_slot(&waiting.conn(), *slot, SlotLock::Own).expect("asked");
            got && ffi::lock_slot(&waiting.conn(), *slot, SlotLock::Disown).expect("given back")
        };
        (1..=4).filter(get).collect()
    }

    fn checkpoint(app: &Connection, mode: &str) -> i64 {
        app.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(0)).expect("asked")
    }

    /// Trap 13: a checkpoint that waits for the slot of our mark gets it, and the log is not begun anew unseen.
    #[test]
    fn trap_13_a_checkpoint_that_waits_for_our_slot_gets_it_and_no_commit_is_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db");
        let app = Connection::open(&path).expect("opens");
        app.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)").expect("made");
        let mut tail = Tail::open(&path, TailOptions::in_dir(folder.path().into()), Arc::new(Still)).expect("opens");
        let mut cursor = tail.hold().expect("holds");
        app.execute("INSERT INTO t VALUES (1)", []).expect("inserted");
        cursor = tail.advance(&cursor).expect("reads").expect("nothing lost").end;
        let before = free(&path);
        assert_eq!(before.len(), 3, "our mark is in one of them");
        assert_eq!(tail.look().expect("looks"), Seen::Nothing);
        tail.make_way().expect("steps aside");
        let aside = free(&path);
        assert_eq!(aside.len(), 3);
        let ours = (1..=4).find(|slot| !before.contains(slot)).expect("a slot");
        assert!(aside.contains(&ours), "who waits for it gets it");
        assert!(tail.held().expect("asked").is_none(), "nothing is read without a transaction");
        assert_eq!(checkpoint(&app, "FULL"), 0, "it is copied back whole");
        assert_eq!(checkpoint(&app, "RESTART"), 1, "and not begun anew before we know");
        assert_eq!(tail.look().expect("looks"), Seen::InTheWay);
        let caught = tail.advance(&cursor).expect("reads").expect("nothing lost");
        assert_eq!(caught.commits.len(), 0);
        assert_eq!(checkpoint(&app, "TRUNCATE"), 0, "now nobody is in the way");
        app.execute("INSERT INTO t VALUES (2)", []).expect("inserted");
        let caught = tail.advance(&caught.end).expect("reads").expect("nothing lost");
        assert_eq!(caught.commits.len(), 1, "across the new log");
        // Once for each end of the log, and commits go on meanwhile.
        tail.make_way().expect("steps aside");
        app.execute_batch("INSERT INTO t VALUES (3); PRAGMA wal_checkpoint(PASSIVE); INSERT INTO t VALUES (4)")
            .expect("done");
        assert_eq!(tail.look().expect("looks"), Seen::News);
        assert_eq!(tail.advance(&caught.end).expect("reads").expect("nothing lost").commits.len(), 2);
        assert_eq!(free(&path).len(), 3, "the slot that was held instead is free again");
        let end = caught.end;
        let caught = tail.advance(&end).expect("reads").expect("nothing lost");
        app.execute("INSERT INTO t VALUES (5)", []).expect("inserted");
        tail.advance(&caught.end).expect("reads").expect("nothing lost");
        tail.make_way().expect("steps aside");
        assert!(tail.held().expect("asked").is_none());
        drop(tail);
        assert_eq!(free(&path).len(), 4, "who goes while he stands aside leaves no lock to this process");
    }
}
