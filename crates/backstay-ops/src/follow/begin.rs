//! The snapshot that following begins with: the log is held from before its capture ends.

use crate::OpsError;
use crate::backup::Begin;
use crate::log::LogTip;
use backstay_format::FingerprintKey;
use backstay_format::facts::{Following, Resync};
use backstay_model::{BranchNo, Moment, Sequence, StreamId, Tx};
use backstay_sqlite::{Capture, LogCursor, SqliteError, Tail};
use std::sync::{Mutex, PoisonError};

pub struct Beginning {
    stream: StreamId,
    sequence: Sequence,
    tip: Option<LogTip>,
    reason: String,
    got: Mutex<Got>,
}

struct Got {
    tail: Tail,
    cursor: Option<LogCursor>,
    following: Option<Following>,
    key: Option<FingerprintKey>,
}

/// What is there once the snapshot is stored.
pub struct Begun {
    pub tail: Tail,
    /// The state of the snapshot in the source's log.
    pub cursor: LogCursor,
    pub following: Following,
    pub key: FingerprintKey,
}

impl Beginning {
    pub fn new(tail: Tail, stream: StreamId, sequence: Sequence, tip: Option<LogTip>, reason: String) -> Self {
        let got = Mutex::new(Got { tail, cursor: None, following: None, key: None });
        Self { stream, sequence, tip, reason, got }
    }

    pub fn done(self) -> Result<Begun, OpsError> {
        let got = self.got.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (Some(cursor), Some(following), Some(key)) = (got.cursor, got.following, got.key) else {
            let problem = "the snapshot was stored without a place in the log".into();
            return Err(OpsError::Unsound { problem });
        };
        Ok(Begun { tail: got.tail, cursor, following, key })
    }
}

impl Begin for Beginning {
    fn hold(&self, capture: &Capture) -> Result<(), OpsError> {
        let mut got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = capture.facts();
        let cursor = capture.cursor().ok_or_else(|| SqliteError::NotWal { path: facts.path.clone() })?;
        if got.tail.identity() != facts.identity {
            return Err(SqliteError::Replaced { path: facts.path.clone() }.into());
        }
        got.tail.hold()?;
        got.cursor = Some(cursor);
        Ok(())
    }

    fn not_before(&self) -> Option<Moment> {
        self.tip.as_ref().map(|tip| tip.time)
    }

    fn following(&self, branch: BranchNo, key: &FingerprintKey) -> Following {
        let before = self.tip.as_ref().filter(|tip| tip.branch == branch);
        let tx = before.map_or(Tx::FIRST, |tip| tip.used.next().unwrap_or(tip.used));
        let resync = before.map(|tip| Resync { reason: self.reason.clone(), after: tip.complete, since: tip.time });
        let following = Following { stream: self.stream, sequence: self.sequence, tx, resync };
        let mut got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        got.following = Some(following.clone());
        got.key = Some(key.clone());
        following
    }
}
