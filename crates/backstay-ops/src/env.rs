//! What every operation is given: time, chance, the disk, and somewhere to tell how far it is.

use crate::OpsError;
use crate::disk::Disk;
use backstay_model::{Clock, Random, SourceName};
use backstay_sqlite::{Answers, Asking, Questions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something worth telling a person while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stretch of work begins, of so many bytes if that is known.
    Began {
        source: SourceName,
        what: &'static str,
        bytes: Option<u64>,
    },
    Advanced {
        bytes: u64,
    },
    Ended,
}

/// Set once by a signal; every operation looks at it between steps and stops there.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn check(&self) -> Result<(), OpsError> {
        if self.0.load(Ordering::SeqCst) { Err(OpsError::Cancelled) } else { Ok(()) }
    }
}

#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub disk: Arc<dyn Disk>,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    pub cancel: Cancel,
    /// Threads for hashing, compression and reading back.
    pub threads: usize,
}

impl Env {
    pub fn tell(&self, event: Event) {
        (self.events)(event);
    }

    /// Asks a private file, until a signal says to stop.
    pub(crate) fn question(&self, path: &Path, questions: &Questions) -> Result<Answers, OpsError> {
        let cancelled = || self.cancel.check().is_err();
        let asking = Asking { clock: self.clock.as_ref(), cancelled: &cancelled };
        let answers = blocking(|| backstay_sqlite::question(path, questions, &asking))?;
        self.cancel.check()?;
        Ok(answers)
    }
}

/// Runs blocking work where it may block. The one gate from async to sync code in this crate.
pub fn blocking<R>(work: impl FnOnce() -> R) -> R {
    tokio::task::block_in_place(work)
}
