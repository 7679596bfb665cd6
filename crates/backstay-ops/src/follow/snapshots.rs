//! Following of a database that keeps no write-ahead log: every change a snapshot, at a bounded rate.
//!
//! There is no log to read and none is forced upon it. Commits are noticed, and a snapshot stores the pages that
//! differ; what is committed between two snapshots is one step, so what may be lost is as long as the interval. An
//! interval without a change stores nothing. One that is given a log meanwhile says so, and is followed by that.
//!
//! Locks: the source's lock on this host as long as it lives; those of a backup while one is made.

use super::turns::Turns;
use super::{Began, FollowRequest, Mode, Position, Ticked};
use crate::OpsError;
use crate::backup::{self, Purpose};
use crate::catalog::Vault;
use crate::env::blocking;
use crate::state::SourceLock;
use backstay_format::facts::Role;
use backstay_model::{BranchNo, Moment, Tx};
use backstay_sqlite::{Pulse, SqliteError};

pub struct SnapshotFollower<'v> {
    vault: &'v Vault,
    request: FollowRequest,
    /// `None` while the file is away.
    pulse: Option<Pulse>,
    /// Since when there is something that no snapshot has.
    changed: Option<Moment>,
    branch: BranchNo,
    at: Moment,
    began: Began,
    /// It was given a log meanwhile.
    has_log: bool,
    _lock: SourceLock,
}

impl<'v> SnapshotFollower<'v> {
    /// Begins with a snapshot.
    pub async fn start(vault: &'v Vault, request: FollowRequest, pulse: Pulse) -> Result<Self, OpsError> {
        vault.signer(Role::Writer)?;
        let lock = vault.state.lock(&request.source)?;
        let report = backup::take(vault, &request.backup(), Purpose::Live).await?;
        let began = Began::Snapshot { id: report.snapshot, branch: report.branch, tx: Tx::FIRST, reason: None };
        let (pulse, branch, at) = (Some(pulse), report.branch, report.taken);
        Ok(Self { vault, request, pulse, changed: None, branch, at, began, has_log: false, _lock: lock })
    }

    pub fn began(&self) -> &Began {
        &self.began
    }

    pub fn position(&self) -> Position {
        Position {
            branch: self.branch,
            tx: Tx::FIRST,
            at: self.at,
            waiting: u64::from(self.changed.is_some()),
            waiting_bytes: 0,
            waiting_since: self.changed,
            spooled_bytes: 0,
            log_bytes: 0,
            mode: Mode::Snapshots,
            alarm: None,
            audit: None,
            lost: None,
        }
    }

    /// Whether it keeps a log now, and is to be followed by that.
    pub fn has_log(&self) -> bool {
        self.has_log
    }

    pub fn has_news(&self) -> bool {
        self.changed.is_some()
    }

    /// Looks whether something was committed, or another file stands at the path.
    pub fn catch(&mut self) -> Result<u64, OpsError> {
        let beat = blocking(|| self.pulse.as_mut().map_or(Ok(true), Pulse::beat));
        let changed = match beat {
            Ok(changed) => changed,
            Err(SqliteError::Locked { .. }) => false,
            Err(SqliteError::Replaced { .. } | SqliteError::Missing { .. }) => {
                self.pulse = None;
                true
            }
            Err(error) => return Err(error.into()),
        };
        if changed && self.changed.is_none() {
            self.changed = Some(self.vault.env.clock.now());
            return Ok(1);
        }
        Ok(0)
    }

    /// Takes a snapshot if something was committed, once it is its turn. Also of one that was given a log meanwhile: nobody
    /// knows whether it will be followed by that, and what was committed until then is promised.
    pub(super) async fn tick_in(&mut self, turns: &Turns) -> Result<Ticked, OpsError> {
        let mut ticked = Ticked { caught: self.catch()?, ..Ticked::default() };
        if self.changed.is_none() {
            return Ok(ticked);
        }
        let _turn = turns.snapshot(&self.request.path).await;
        // Noticed before it is read: what is committed meanwhile is noticed again.
        let pulse = blocking(|| Pulse::open(&self.request.path, self.request.busy))?;
        self.has_log = blocking(|| pulse.is_wal())?;
        self.pulse = Some(pulse);
        let report = backup::take(self.vault, &self.request.backup(), Purpose::Live).await?;
        (self.changed, self.branch, self.at) = (None, report.branch, report.taken);
        (ticked.shipped, ticked.objects, ticked.bytes) = (1, 1, report.stored.get());
        Ok(ticked)
    }
}
