//! When to stop asking: a person's wish, or a time that is over.

use crate::{Cancel, OpsError};
use backstay_model::{Clock, Kind, Kinded, Moment};
use backstay_sqlite::SqliteError;
use backstay_sqlite::lazy::PageFault;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// SQLite's code for a statement that was stopped.
const INTERRUPTED: i32 = 9;

/// Looked at between two steps of SQLite, and while a page is waited for.
#[derive(Clone)]
pub struct Stop {
    cancel: Cancel,
    clock: Arc<dyn Clock>,
    until: Arc<Mutex<Option<Moment>>>,
}

impl Stop {
    pub(super) fn new(cancel: Cancel, clock: Arc<dyn Clock>) -> Self {
        Self { cancel, clock, until: Arc::default() }
    }

    /// Gives what follows so much time from now on; without a limit it has all there is.
    pub fn within(&self, limit: Option<Duration>) {
        let millis = limit.map(|limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        let until = millis.and_then(|millis| Moment::from_millis(self.clock.now().as_millis().checked_add(millis)?));
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub fn is_over(&self) -> bool {
        self.reason().is_some()
    }

    /// An error of SQLite, or where that is only the interruption, the reason for it.
    pub fn said(&self, error: SqliteError) -> OpsError {
        match self.reason().filter(|_| error.kind() == Kind::Cancelled) {
            Some(fault) => SqliteError::Page { code: INTERRUPTED, fault }.into(),
            None => error.into(),
        }
    }

    /// Why there is no more to come, if that is so.
    pub fn reason(&self) -> Option<PageFault> {
        if self.cancel.check().is_err() {
            return Some(PageFault { kind: Kind::Cancelled, what: "stopped before it was done".to_owned() });
        }
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until
            .filter(|until| self.clock.now() >= *until)
            .map(|_| PageFault { kind: Kind::Unavailable, what: "the time allowed for it ran out".to_owned() })
    }
}
