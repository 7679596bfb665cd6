//! What a follower writes down for the next run: where it stands, and what it is about to put.
//!
//! No object is put before it is written down here, and synced: the next run looks into the store which of them are there,
//! and stands behind the last. One writing is for all that are sealed by then. Objects in the spool bring their place with
//! them. Worth less than the log: when it cannot be written, or is deleted, the next run begins with a snapshot.

use super::spool::Spool;
use crate::OpsError;
use crate::catalog::Vault;
use crate::state::Identity;
use backstay_format::FingerprintKey;
use backstay_format::facts::{After, FingerprintFacts, Log};
use backstay_model::{BranchNo, Digest, Moment, ObjectId, Sequence, SourceName, StreamId, Tx};
use backstay_sqlite::LogCursor;
use backstay_store::repo::{LogFront, RepoError};
use serde::{Deserialize, Serialize};

const FILE: &str = "follow.json";
/// Objects of others that are gone past, one request each: beyond that a snapshot costs less.
const STEPS_MAX: u32 = 1 << 12;

/// A state of the source that is durable in the repository, and its place in the source's own log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub tx: Tx,
    pub time: Moment,
    /// The digest of the last record, or the root of the snapshot.
    pub chain: Digest,
    pub cursor: LogCursor,
}

/// An object that is about to be put into its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub digest: Digest,
    pub standing: Standing,
}

impl Pending {
    pub fn of(digest: Digest, standing: &Standing) -> Self {
        Self { digest, standing: standing.clone() }
    }
}

/// The end of what the run before made durable.
pub struct Durable {
    pub stream: StreamId,
    /// The last slot that is taken, and its digest.
    pub sequence: Sequence,
    pub digest: Digest,
    pub standing: Standing,
    /// What the next span comes after: of others there may be more in the stream.
    pub after: After,
    /// Others write, or are about to write, into the stream as well.
    pub is_shared: bool,
    /// The stream has ended already, for the one that was asked about.
    pub is_ended: bool,
}

impl Durable {
    /// Goes past an object that has nothing of the source; false if it has, or ends the stream for it. An end that leads
    /// it to `ours` is our own, of which no answer came.
    fn pass(&mut self, (source, ours): (&SourceName, StreamId), front: &LogFront) -> bool {
        let Log { spans, next, .. } = &front.facts;
        self.is_ended = front.facts.onward().of(source) == Some(ours);
        if self.is_ended {
            return true;
        }
        match next {
            Some(next) if front.facts.is_left_by_others(source) => {
                (self.stream, self.sequence, self.digest) = (*next, Sequence::new(0), Digest::ZERO);
            }
            None if !spans.is_empty() && spans.iter().all(|span| span.source != *source) => {
                (self.sequence, self.digest) = (front.name.last, front.digest);
            }
            _ => return false,
        }
        self.is_shared = true;
        true
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub file: Identity,
    pub branch: BranchNo,
    /// The snapshot following began with.
    pub snapshot: ObjectId,
    pub fingerprint: FingerprintFacts,
    pub stream: StreamId,
    /// How many slots of the stream are taken, and the digest of the last.
    pub slots: u64,
    pub previous: Digest,
    /// Slots that were taken when this stretch of the log began.
    pub before: u64,
    /// What the first commit of this stretch comes after.
    pub after: After,
    pub standing: Option<Standing>,
    /// What is put into the slots after those, in their order.
    #[serde(default)]
    pub putting: Vec<Pending>,
}

impl Memory {
    pub fn begin(file: Identity, branch: BranchNo, snapshot: ObjectId, key: &FingerprintKey, stream: StreamId) -> Self {
        let fingerprint = FingerprintFacts { id: key.id, key: Digest::from_bytes(*key.secret()) };
        let (previous, after) = (Digest::ZERO, After::Snapshot(snapshot));
        Self {
            file,
            branch,
            snapshot,
            fingerprint,
            stream,
            slots: 0,
            previous,
            before: 0,
            after,
            standing: None,
            putting: Vec::new(),
        }
    }

    pub fn recall(vault: &Vault, source: &SourceName) -> Result<Option<Self>, OpsError> {
        Ok(vault.state.recall(source, FILE)?)
    }

    /// The time of the newest commit it knows of.
    pub fn last_time(&self) -> Option<Moment> {
        let putting = self.putting.iter().map(|pending| &pending.standing);
        self.standing.iter().chain(putting).map(|standing| standing.time).max()
    }

    pub fn write(&self, vault: &Vault, source: &SourceName) -> Result<(), OpsError> {
        Ok(vault.state.note(source, FILE, self)?)
    }

    /// Where the run before stands, once what is still in the spool was put; `None` when the store has more of the
    /// source than this remembers.
    pub async fn durable(
        &self,
        vault: &Vault,
        (source, ours): (&SourceName, StreamId),
    ) -> Result<Option<Durable>, OpsError> {
        let Some(standing) = self.standing.clone() else { return Ok(None) };
        let spool = Spool::of(vault, source)?;
        let (stream, sequence, digest) = (self.stream, Sequence::new(self.slots), self.previous);
        // Whoever put nothing into its stream leaves its own beginning to the next.
        let after = if self.slots > self.before { After::Log { stream, sequence, digest } } else { self.after };
        let mut at = Durable { stream, sequence, digest, standing, after, is_shared: false, is_ended: false };
        for _ in 0..STEPS_MAX {
            let next = Sequence::new(at.sequence.get().saturating_add(1));
            // What was made to follow something else follows nothing any more.
            let spooled = spool.read(&at.stream, next).filter(|_| !at.is_shared);
            let pending = self.putting_behind(at.sequence).filter(|_| at.stream == self.stream && !at.is_shared);
            let found = match vault.repo.log_front(&at.stream, next).await {
                Err(error) if error.is_outage() => return Err(error.into()),
                found => found.ok(),
            };
            let (digest, standing) = match (found, spooled) {
                (Some(None), Some((known, bytes))) => match vault.repo.put_log(&at.stream, next, bytes).await {
                    Ok(()) => (known.digest, known.standing),
                    Err(RepoError::LostRace { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                },
                // Whether more follows shows when the slot after it is taken.
                (Some(None), None) => return Ok(Some(at)),
                (Some(Some(front)), Some((known, _))) if known.digest == front.digest => (known.digest, known.standing),
                (Some(Some(front)), _) => match pending.filter(|pending| pending.digest == front.digest) {
                    Some(pending) => (pending.digest, pending.standing.clone()),
                    None if !at.pass((source, ours), &front) => return Ok(None),
                    None if at.is_ended => return Ok(Some(at)),
                    None => continue,
                },
                (None, _) => return Ok(None),
            };
            let after = After::Log { stream: at.stream, sequence: next, digest };
            at = Durable { sequence: next, digest, standing, after, ..at };
        }
        Ok(None)
    }

    /// What this says is put behind a slot.
    pub fn putting_behind(&self, slot: Sequence) -> Option<&Pending> {
        let behind = slot.get().checked_sub(self.slots)?;
        self.putting.get(usize::try_from(behind).ok()?)
    }
}
