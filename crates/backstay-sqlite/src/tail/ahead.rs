//! Reading on while the mark stays where it is.
//!
//! A mark that moves with every look costs the application: its own checkpoint, which it tries after each commit once the
//! log has a thousand frames, finds a little more each time and syncs both files for it. One that stays costs it a look at the
//! slot.
//!
//! A mark in slot 1 to 4 keeps the log from being begun anew, so every frame behind it stays where it is, also those after the
//! mark. How far they are committed the shared wal-index says, with a checksum of its own; that it says so of these very frames
//! the chain of checksums proves. Where nothing new is found the mark moves to the end of what was read, so that nobody
//! waits for it longer than before: see decision 0048.

use super::{Caught, Hold, LogCursor, Step, Tail};
use crate::error::{At, SqliteError};
use crate::ffi;
use crate::pin::{IndexHeader, Placement, is_whole};
use backstay_model::PageSize;

impl Tail {
    /// Reads what was committed behind `from`, and holds what it held. `None` where only a hold that moves on can tell what
    /// there is.
    pub fn read_ahead(&mut self, from: &LogCursor) -> Result<Option<Caught>, SqliteError> {
        self.move_on();
        let Some(newest) = self.newest()? else { return Ok(None) };
        let Ok(caught) = self.read_between(from, &newest, false)? else { return Ok(None) };
        self.reach(Step::Read);
        if !self.is_unbroken()? {
            return Ok(None);
        }
        if let Some(hold) = &mut self.hold {
            hold.ahead = newest.index;
        }
        Ok(Some(caught))
    }

    /// What a transaction would see that began now, behind the mark that is held.
    fn newest(&self) -> Result<Option<Hold>, SqliteError> {
        let is_marked = |hold: &&Hold| !hold.is_slot_0 && hold.aside.is_none();
        let Some(hold) = self.hold.as_ref().filter(is_marked) else { return Ok(None) };
        let database = self.database(hold.at)?;
        database.still_there()?;
        let live = ffi::live_index(&database.conn()).at("read the wal-index of", &database.path)?;
        let Some(live) = live.filter(|live| is_whole(&live.header)) else { return Ok(None) };
        let index = IndexHeader::of_words(&live.header);
        let is_known = hold.index.is_some_and(|held| held.salts == index.salts && held.frames <= index.frames);
        let page_size = PageSize::try_from(hold.cursor.page_size).ok().filter(|_| is_known && index.page_count > 0);
        Ok(page_size.map(|page_size| Hold {
            at: hold.at,
            index: Some(index),
            placement: Placement::Overlay { frames: index.frames },
            cursor: LogCursor::of(Some(&index), page_size, index.page_count),
            is_slot_0: false,
            aside: None,
            ahead: None,
        }))
    }
}
