//! The snapshot that following begins with: the log is held from before its capture ends, and read on from there while
//! the snapshot is on its way to the store, which may take hours. So the application's log is bounded all that time.
//!
//! What was read meanwhile lies in one file without a name: if this process dies there is no snapshot either that
//! needs it.

use super::audit::Audit;
use super::catch::{Catcher, LOCK_PATIENCE, Limits, Mode};
use super::due::Due;
use super::hours::{self, Hours};
use super::memory::{Memory, Standing};
use super::ship::Shipper;
use super::{Began, FollowRequest};
use crate::OpsError;
use crate::backup::{self, Begin, Purpose};
use crate::base::Base;
use crate::catalog::Vault;
use crate::env::blocking;
use crate::log::LogTip;
use backstay_format::FingerprintKey;
use backstay_format::facts::{After, Following, Resync};
use backstay_model::{BranchNo, ByteLen, Digest, Moment, Sequence, StreamId, Tx};
use backstay_sqlite::{Caught, Fixed, LogCursor, PinLoss, Seen, SqliteError, Step, Tail, TailOptions};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

pub struct Beginning {
    stream: StreamId,
    sequence: Sequence,
    tip: Option<LogTip>,
    reason: String,
    limits: Limits,
    got: Mutex<Got>,
}

struct Got {
    tail: Tail,
    held: Option<Held>,
    following: Option<Following>,
    key: Option<FingerprintKey>,
}

/// From when the snapshot's state was fixed.
struct Held {
    cursor: LogCursor,
    /// What was committed since.
    caught: Caught,
    /// Why nothing more of it can be had.
    lost: Option<String>,
}

/// What is there once the snapshot is stored.
pub struct Begun {
    pub tail: Tail,
    /// The state of the snapshot in the source's log.
    pub cursor: LogCursor,
    pub caught: Caught,
    pub lost: Option<String>,
    pub following: Following,
    pub key: FingerprintKey,
}

impl Beginning {
    pub fn new(
        tail: Tail,
        (stream, sequence): (StreamId, Sequence),
        tip: Option<LogTip>,
        reason: String,
        limits: Limits,
    ) -> Self {
        let got = Mutex::new(Got { tail, held: None, following: None, key: None });
        Self { stream, sequence, tip, reason, limits, got }
    }

    fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads on, if the state of the snapshot is fixed and something was committed since.
    pub fn go_on(&self) {
        let got = &mut *self.got();
        let Some(held) = got.held.as_mut().filter(|held| held.lost.is_none()) else { return };
        if held.caught.images.bytes() > self.limits.spool_limit.get() {
            held.lost = Some("what was committed during its first snapshot is more than the spool may hold".to_owned());
        } else if let Err(why) = look(&mut got.tail, held, &self.limits) {
            held.lost = Some(why);
        }
        if held.lost.is_some() {
            got.tail.release();
        }
    }

    pub fn done(self) -> Result<Begun, OpsError> {
        let got = self.got.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (Some(held), Some(following), Some(key)) = (got.held, got.following, got.key) else {
            let problem = "the snapshot was stored without a place in the log".into();
            return Err(OpsError::Unsound { problem });
        };
        let Held { cursor, caught, lost } = held;
        Ok(Begun { tail: got.tail, cursor, caught, lost, following, key })
    }
}

/// One look, and what the log of a busy application asks for.
fn look(tail: &mut Tail, held: &mut Held, limits: &Limits) -> Result<(), String> {
    match tail.look() {
        Ok(Seen::News | Seen::Behind | Seen::InTheWay) => read(tail, held)?,
        Ok(Seen::Nothing) | Err(SqliteError::Locked { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    let (in_use, limit) = (tail.log_in_use(), limits.wal_limit.get());
    if limits.stays && limits.mode != Mode::Watch && in_use >= Due::new(limit).bytes() {
        copy_back(tail, held)?;
    }
    if limits.mode == Mode::Watch || (limits.mode == Mode::Yield && in_use > limit) {
        tail.release();
    }
    Ok(())
}

fn read(tail: &mut Tail, held: &mut Held) -> Result<(), String> {
    match tail.read_on(&held.caught.end) {
        Ok(Ok(later)) => held.caught.append(later).map_err(|error| format!("it could not be kept: {error}"))?,
        Ok(Err(lost)) => return Err(lost.to_string()),
        Err(SqliteError::Locked { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    tail.move_on();
    Ok(())
}

/// As the catcher does it: see there.
fn copy_back(tail: &mut Tail, held: &mut Held) -> Result<(), String> {
    let locked = tail.lock_writers(LOCK_PATIENCE).map_err(|error| error.to_string())?;
    let done = if locked {
        read(tail, held).and_then(|()| match tail.copy_back() {
            // Nobody could commit meanwhile: this only moves the hold to what is in the main file.
            Ok(true) => read(tail, held),
            Ok(false) | Err(SqliteError::Locked { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
    } else {
        Ok(())
    };
    tail.unlock_writers();
    done
}

impl Begin for Beginning {
    fn hold(&self, fixed: Fixed<'_>) -> Result<(), SqliteError> {
        let got = &mut *self.got();
        let path = &fixed.facts.path;
        let cursor = fixed.cursor.ok_or_else(|| SqliteError::NotWal { path: path.clone() })?;
        if got.tail.identity() != fixed.facts.identity {
            return Err(SqliteError::Replaced { path: path.clone() });
        }
        got.tail.hold()?;
        got.tail.reach(Step::Captured);
        // The capture still holds: what was committed in between is all there.
        let caught = got.tail.catch_up(&cursor)?;
        let caught = caught.map_err(|_| SqliteError::PinLost { path: path.clone(), why: PinLoss::MarkIgnored })?;
        got.held = Some(Held { cursor, caught, lost: None });
        Ok(())
    }

    fn log_limit(&self) -> ByteLen {
        ByteLen::new(self.limits.wal_limit.get() / 2)
    }

    fn not_before(&self) -> Option<Moment> {
        self.tip.as_ref().map(|tip| tip.time)
    }

    fn leaves(&self, branch: BranchNo) -> bool {
        self.tip.as_ref().is_some_and(|tip| tip.fault.is_some() && tip.branch == branch)
    }

    fn following(&self, branch: BranchNo, key: &FingerprintKey) -> Following {
        let before = self.tip.as_ref().filter(|tip| tip.branch == branch);
        let tx = before.map_or(Tx::FIRST, |tip| tip.used.next().unwrap_or(tip.used));
        let said = before.or(self.tip.as_ref().filter(|tip| tip.fault.is_some()));
        let resync = said.map(|tip| Resync { reason: self.reason.clone(), after: tip.complete, since: tip.time });
        let following = Following { stream: self.stream, sequence: self.sequence, tx, resync, made: None };
        let mut got = self.got();
        got.following = Some(following.clone());
        got.key = Some(key.clone());
        following
    }
}

pub fn open_tail(vault: &Vault, request: &FollowRequest) -> Result<Tail, OpsError> {
    let options =
        TailOptions { steps: request.steps.clone(), ..TailOptions::in_dir(vault.state.source_dir(&request.source)?) };
    Ok(blocking(|| Tail::open(&request.path, options, vault.env.clock.clone()))?)
}

/// Where a snapshot that begins following stands.
pub struct Anew {
    pub stream: StreamId,
    pub sequence: Sequence,
    pub previous: Option<Digest>,
    pub tip: Option<LogTip>,
    pub reason: String,
}

pub async fn begin_anew<'v>(
    vault: &'v Vault,
    request: &FollowRequest,
    tail: Tail,
    place: Anew,
) -> Result<(Began, Catcher, Shipper<'v>, Hours), OpsError> {
    tail.reach(Step::Fenced);
    let identity = tail.identity();
    let at = (place.stream, place.sequence);
    let beginning = Arc::new(Beginning::new(tail, at, place.tip, place.reason, request.limits));
    let mut reading = JoinSet::new();
    let (reader, pause) = (beginning.clone(), request.limits.look);
    reading.spawn(async move {
        loop {
            tokio::time::sleep(pause).await;
            blocking(|| reader.go_on());
        }
    });
    let taken = backup::take(vault, &request.backup(), Purpose::Follow(beginning.as_ref())).await;
    reading.shutdown().await;
    let report = taken?;
    let problem = || OpsError::Unsound { problem: "the log is read by somebody else".into() };
    let begun = Arc::into_inner(beginning).ok_or_else(problem)?.done()?;
    begun.tail.reach(Step::Stored);
    let standing = Standing { tx: begun.following.tx, time: report.taken, chain: report.root, cursor: begun.cursor };
    let memory = Memory::begin(identity.into(), report.branch, report.snapshot, &begun.key, place.stream);
    let after = After::Snapshot(report.snapshot);
    let mut shipper = Shipper::new(vault, &request.source, place.stream, &memory, after, standing.clone())?;
    if let Some(previous) = place.previous {
        shipper.go_on_at(place.sequence, previous);
    }
    shipper.remember();
    // The base that the snapshot was written with says what the repository has of each page.
    let base = Base::load_any(&vault.state.source_dir(&request.source)?, &report.snapshot)?;
    let audit = Audit::begin(&begun.key, &standing.cursor, base.as_ref());
    let mut catcher = Catcher::new(begun.tail, &standing, request.limits, audit, vault.env.clock.clone());
    catcher.take(begun.caught)?;
    if let Some(lost) = begun.lost {
        catcher.lose_sight(lost);
    }
    let reason = begun.following.resync.map(|resync| resync.reason);
    let began = Began::Snapshot { id: report.snapshot, branch: report.branch, tx: standing.tx, reason };
    let next = (place.stream, place.sequence, After::Snapshot(report.snapshot));
    let at = hours::place_of((report.snapshot, report.branch), begun.key, next, &standing);
    let hours = Hours::begin(vault, request, at)?;
    Ok((began, catcher, shipper, hours))
}
