//! A source that is followed, whichever way its journal mode allows.
//!
//! What takes a while lies in memory of its own for as long as it takes: of a thousand sources each keeps as much as the
//! largest thing it may ever do, if it does not.

use super::carrier::Carrier;
use super::snapshots::SnapshotFollower;
use super::turns::Turns;
use super::{Began, FollowRequest, Follower, Position, Ticked};
use crate::OpsError;
use crate::catalog::Vault;
use crate::env::blocking;
use backstay_sqlite::{Pulse, SqliteError};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

pub enum Followed<'v> {
    /// By its write-ahead log, commit by commit.
    Log(Box<Follower<'v>>),
    /// By snapshots.
    Snapshots(Box<SnapshotFollower<'v>>),
}

impl<'v> Followed<'v> {
    pub async fn start(vault: &'v Vault, request: FollowRequest) -> Result<Self, OpsError> {
        Self::start_in(vault, request, false, &Turns::new()).await
    }

    /// The same beside others. With `only_log` a database that keeps no log is an error.
    pub(super) fn start_in<'a>(
        vault: &'v Vault,
        request: FollowRequest,
        only_log: bool,
        turns: &'a Turns,
    ) -> BoxFuture<'a, Result<Self, OpsError>>
    where
        'v: 'a,
    {
        Box::pin(async move {
            let pulse = blocking(|| Pulse::open(&request.path, request.busy))?;
            if blocking(|| pulse.is_wal())? {
                drop(pulse);
                return Ok(Self::Log(Box::new(Follower::start_in(vault, request, turns).await?)));
            }
            if only_log {
                return Err(SqliteError::NotWal { path: request.path }.into());
            }
            let _turn = turns.snapshot(&request.path).await;
            Ok(Self::Snapshots(Box::new(SnapshotFollower::start(vault, request, pulse).await?)))
        })
    }

    pub fn began(&self) -> &Began {
        match self {
            Self::Log(follower) => follower.began(),
            Self::Snapshots(follower) => follower.began(),
        }
    }

    pub fn position(&self) -> Position {
        match self {
            Self::Log(follower) => follower.position(),
            Self::Snapshots(follower) => follower.position(),
        }
    }

    pub fn has_news(&self) -> bool {
        match self {
            Self::Log(follower) => follower.has_news(),
            Self::Snapshots(follower) => follower.has_news(),
        }
    }

    /// Whether what there is should not wait for the turn of its source.
    pub(super) fn is_pressing(&self) -> bool {
        match self {
            Self::Log(follower) => follower.is_pressing(),
            // It has an interval of its own.
            Self::Snapshots(_) => true,
        }
    }

    /// How soon to look again while something goes on.
    pub(super) fn gap(&self) -> Duration {
        match self {
            Self::Log(follower) => follower.gap(),
            Self::Snapshots(_) => Duration::MAX,
        }
    }

    pub(super) fn is_by_snapshots(&self) -> bool {
        matches!(self, Self::Snapshots(_))
    }

    pub fn catch(&mut self) -> Result<u64, OpsError> {
        match self {
            Self::Log(follower) => follower.catch(),
            Self::Snapshots(follower) => follower.catch(),
        }
    }

    /// Puts a roll-up of what was followed, if one is due.
    pub async fn roll(&mut self) -> Result<Ticked, OpsError> {
        match self {
            Self::Log(follower) => Box::pin(follower.roll()).await,
            Self::Snapshots(_) => Ok(Ticked::default()),
        }
    }

    /// A snapshot of what was followed and is in none yet: this run ends, and the next one could not make it. One that
    /// may read the repository can.
    pub async fn last_hour(&mut self) {
        if let Self::Log(follower) = self
            && follower.vault.unsealer.is_none()
        {
            Box::pin(follower.last_hour()).await;
        }
    }

    pub async fn tick(&mut self) -> Result<Ticked, OpsError> {
        self.tick_in(&Turns::new()).await
    }

    /// The same beside others.
    pub(super) fn tick_in<'a>(&'a mut self, turns: &'a Turns) -> BoxFuture<'a, Result<Ticked, OpsError>> {
        match self {
            Self::Log(follower) => Box::pin(follower.tick_in(turns)),
            Self::Snapshots(follower) => Box::pin(follower.tick_in(turns)),
        }
    }

    /// Whether it shares a stream with others.
    pub(super) fn rides(&self) -> bool {
        matches!(self, Self::Log(follower) if follower.rides())
    }

    pub(super) fn may_share(&self) -> bool {
        matches!(self, Self::Log(follower) if follower.may_share())
    }

    pub(super) async fn board(&mut self, carrier: &Arc<Carrier>) -> Result<bool, OpsError> {
        match self {
            Self::Log(follower) => Box::pin(follower.board(carrier)).await,
            Self::Snapshots(_) => Ok(false),
        }
    }

    /// Leaves those it shares a stream with.
    pub(super) async fn part_in(&mut self, turns: &Turns) -> Result<Ticked, OpsError> {
        match self {
            Self::Log(follower) => Box::pin(follower.part_in(turns)).await,
            Self::Snapshots(_) => Ok(Ticked::default()),
        }
    }

    /// Whether it must be begun again, because it keeps a log now.
    pub fn is_outgrown(&self) -> bool {
        matches!(self, Self::Snapshots(follower) if follower.has_log())
    }

    /// Gives up every handle, if it can be gone on from there. Without a log there is nothing that could prove it.
    pub fn rest(&mut self) -> Result<bool, OpsError> {
        match self {
            Self::Log(follower) => follower.rest(),
            Self::Snapshots(_) => Ok(false),
        }
    }

    pub fn rests(&self) -> bool {
        matches!(self, Self::Log(follower) if follower.rests())
    }

    /// Whether somebody seems to have been at the database while it rested.
    pub fn is_stirred(&self) -> bool {
        matches!(self, Self::Log(follower) if follower.is_stirred())
    }

    /// Goes on after a rest. Gives the number of commits read.
    pub fn wake(&mut self) -> Result<u64, OpsError> {
        match self {
            Self::Log(follower) => follower.wake(),
            Self::Snapshots(_) => Ok(0),
        }
    }

    /// Keeps what could not be put. Of a database without a log there is nothing to keep: it is all still there.
    pub fn keep(&mut self) -> u64 {
        match self {
            Self::Log(follower) => follower.keep(),
            Self::Snapshots(follower) => follower.position().waiting,
        }
    }
}
