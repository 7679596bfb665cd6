//! The state that is held, page by page, for whoever compares it with what was captured.

use super::{Hold, LogCursor, Tail};
use crate::error::SqliteError;
use crate::view::View;

/// The state that a tail holds.
pub struct Held<'t> {
    tail: &'t Tail,
    hold: &'t Hold,
    view: View,
}

impl Tail {
    /// What is held; `None` while nothing is, or nothing that could be read.
    pub fn held(&self) -> Result<Option<Held<'_>>, SqliteError> {
        let Some(hold) = self.hold.as_ref().filter(|hold| hold.aside.is_none()) else { return Ok(None) };
        let view = self.view_of(hold)?;
        Ok(Some(Held { tail: self, hold, view }))
    }
}

impl Held<'_> {
    pub fn cursor(&self) -> &LogCursor {
        &self.hold.cursor
    }

    /// Fills `out` with a page of the state, numbered from 1.
    pub fn read(&self, page: u32, out: &mut [u8]) -> Result<(), SqliteError> {
        let database = self.tail.database(self.hold.at)?;
        let offset = u64::from(page.saturating_sub(1)) * u64::from(self.hold.cursor.page_size);
        self.view.read(&database.conn, &database.path, offset, out)
    }

    /// Whether it was held all the while. What was read counts only then.
    pub fn is_still_held(&self) -> Result<bool, SqliteError> {
        self.tail.is_unbroken()
    }
}
