//! A rest: every handle is given up, and what happened meanwhile can still be proven.
//!
//! Begins only where everything that is known lies in the main file (the hold is in slot 0) and the file was not
//! written for a while. Nobody can commit to a database without either writing the main file, or frames into a log
//! that goes on from that very state: a log is begun anew only once all of it was copied into the main file. So if
//! the main file is untouched when the next hold has begun, the generation of the log that is there then begins right
//! behind what is known, or goes on with it: see decision 0040.
//!
//! Untouched is: the same file, length, time of writing and time of change, which the kernel sets with each write and
//! no program can set. A file that was written just before is not let go: its times could not tell the next write.

use super::{Caught, LogCursor, Lost, Seen, Tail};
use crate::error::SqliteError;
use crate::open::{Database, sibling};
use crate::stamp::FileStamp;
use crate::steps::Step;

/// Gives back to the system what many tails that rest have left in this process.
pub fn give_back_memory() {
    crate::images::give_back();
    crate::ffi::give_back_memory();
}

/// So long ago the main file must have been written last: more than the coarsest clock of a file system.
pub(super) const SETTLED_MILLIS: i64 = 3000;

/// What was left behind.
pub(super) struct Rest {
    main: FileStamp,
    /// Whether it was stirred since shows there first.
    log: Option<FileStamp>,
}

impl Tail {
    /// Gives up every handle, if whoever wakes can prove what happened meanwhile. Says whether it did.
    pub fn rest(&mut self, known: &LogCursor) -> Result<bool, SqliteError> {
        self.move_on();
        let is_settled = self.hold.as_ref().is_some_and(|hold| hold.is_slot_0 && hold.cursor == *known);
        if !is_settled || self.look()? != Seen::Nothing {
            return Ok(false);
        }
        let (main, log) = self.stamps()?;
        let Some(main) = main.filter(|main| main.is_older_than(self.clock.now(), SETTLED_MILLIS)) else {
            return Ok(false);
        };
        // Held until here, the main file was that state when it was looked at.
        if !self.is_unbroken()? {
            return Ok(false);
        }
        self.reach(Step::Resting);
        self.release();
        self.writer = None;
        self.databases.clear();
        // An empty log that was there for us alone went with our close: nobody else did that.
        let log = log.filter(|log| !log.is_empty() || sibling(&self.path, "-wal").try_exists().unwrap_or(true));
        self.rest = Some(Rest { main, log });
        self.reach(Step::Rested);
        Ok(true)
    }

    pub fn rests(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether somebody seems to have been at it: no lock, two looks at the file system.
    pub fn is_stirred(&self) -> bool {
        let Some(rest) = &self.rest else { return false };
        self.stamps().map_or(true, |(main, log)| main.as_ref() != Some(&rest.main) || log != rest.log)
    }

    /// Opens and holds it again, and reads what was committed behind `known`. Another file at its path, or one that is
    /// locked, is an error, and the rest goes on.
    pub fn wake(&mut self, known: &LogCursor) -> Result<Result<Caught, Lost>, SqliteError> {
        let Some(rest) = self.rest.take() else { return Ok(Err(Lost::HoldBroken)) };
        match self.read_after(&rest, known) {
            Ok(caught) => Ok(caught),
            Err(error) => {
                self.release();
                self.databases.clear();
                self.rest = Some(rest);
                Err(error)
            }
        }
    }

    fn read_after(&mut self, rest: &Rest, known: &LogCursor) -> Result<Result<Caught, Lost>, SqliteError> {
        self.databases = self.open_both()?;
        self.reach(Step::Woken);
        self.hold()?;
        self.reach(Step::HeldAgain);
        // Looked at after the hold has begun: nothing before it can be missing from the log that it sees.
        let untouched = self.stamps()?.0.as_ref() == Some(&rest.main);
        let Some(hold) = &self.hold else { return Ok(Err(Lost::HoldBroken)) };
        let is_bare = hold.index.is_none() && untouched && hold.cursor.page_count == known.page_count;
        let caught = if is_bare {
            // The last to close it removed a log that had nothing new.
            Ok(Caught { commits: Vec::new(), images: self.images(&hold.cursor), end: hold.cursor.clone() })
        } else {
            self.read_between(known, hold, untouched)?
        };
        if caught.is_ok() && !self.is_unbroken()? {
            return Ok(Err(Lost::HoldBroken));
        }
        Ok(caught)
    }

    fn open_both(&self) -> Result<Vec<Database>, SqliteError> {
        let open = || Database::open(&self.given, None, self.options.busy);
        let databases = vec![open()?, open()?];
        if databases.iter().any(|database| database.identity != self.identity) {
            return Err(SqliteError::Replaced { path: self.given.clone() });
        }
        Ok(databases)
    }

    fn stamps(&self) -> Result<(Option<FileStamp>, Option<FileStamp>), SqliteError> {
        Ok((FileStamp::of_path(&self.path)?, FileStamp::of_path(&sibling(&self.path, "-wal"))?))
    }
}
