//! What a follower writes down for the next run: where it stands, and what it is about to put.
//!
//! No object is put before it is written down here, and synced: the next run looks into the store which of them are there,
//! and stands behind the last. One writing is for all that are sealed by then. Objects in the spool bring their place with
//! them. Of a source that shares a stream with others it says besides where it goes on by itself. Worth less than the log: when it cannot be written, or is deleted, the next run begins with a snapshot.

use super::ends;
use super::spool::{Spool, Spooled};
use crate::OpsError;
use crate::catalog::Vault;
use crate::state::Identity;
use backstay_format::FingerprintKey;
use backstay_format::facts::{After, FingerprintFacts, Log};
use backstay_format::object::Front;
use backstay_model::backup::Exhausted;
use backstay_model::{BranchNo, Digest, Moment, ObjectId, Sequence, SourceName, StreamId, Tx};
use backstay_sqlite::LogCursor;
use backstay_store::repo::{Chain, LogFront, RepoError};
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

/// What is found in the slot behind.
enum Found {
    /// Commits of others, or an end that leads elsewhere: it was gone past.
    Passed,
    /// Something of the source that nobody here knows of, or its end.
    Unknown,
}

impl Durable {
    fn go_to(&mut self, (stream, slots, digest): (StreamId, Sequence, Digest), is_shared: bool) -> Found {
        (self.stream, self.sequence, self.digest, self.is_shared) = (stream, slots, digest, is_shared);
        Found::Passed
    }

    /// Goes past an object that has nothing of the source, and where its own ends lead. An end that leads it to `ours` is our
    /// own, of which no answer came.
    fn pass(&mut self, (source, ours): (&SourceName, StreamId), memory: &Memory, front: &LogFront) -> Found {
        let (facts, aboard) = (&front.facts, memory.aboard.as_ref());
        let Some(next) = facts.onward().of(source) else {
            let is_of_others = !facts.spans.is_empty() && facts.spans.iter().all(|span| span.source != *source);
            return match is_of_others {
                true => self.go_to((self.stream, front.name.last, front.digest), true),
                false => Found::Unknown,
            };
        };
        if next == ours {
            self.is_ended = true;
            return Found::Passed;
        }
        if memory.next == Some(next) || aboard.is_some_and(|aboard| aboard.own == next) {
            return self.go_to((next, Sequence::new(0), Digest::ZERO), false);
        }
        if let Some(boards) = aboard.and_then(|aboard| aboard.boards).filter(|boards| boards.stream == next) {
            return self.go_to((next, boards.slots, boards.previous), true);
        }
        match facts.is_left_by_others(source) {
            true => self.go_to((next, Sequence::new(0), Digest::ZERO), true),
            false => Found::Unknown,
        }
    }

    /// The number of the state that the next commit leads to.
    fn next_tx(&self) -> Tx {
        Tx::new(self.standing.tx.get().saturating_add(1))
    }

    /// What stands in a slot; nothing where that cannot be known. Behind one that is free others may be: then it was let go
    /// for a roll-up.
    async fn found(&self, vault: &Vault, slot: Sequence) -> Result<Option<Option<LogFront>>, OpsError> {
        let found = self.look(vault, slot).await?;
        let is_free = matches!(found, Some(None));
        if is_free && self.is_shared && vault.repo.log_end(&self.stream).await?.is_some_and(|end| end >= slot) {
            // Or it was put since.
            return Ok(self.look(vault, slot).await?.filter(Option::is_some));
        }
        Ok(found)
    }

    async fn look(&self, vault: &Vault, slot: Sequence) -> Result<Option<Option<LogFront>>, OpsError> {
        match vault.repo.log_front(&self.stream, slot).await {
            Err(error) if error.is_outage() => Err(error.into()),
            found => Ok(found.ok()),
        }
    }

    fn free(&self) -> Option<Chain> {
        Chain::after(self.sequence, self.digest)
    }
}

/// How a source shares a stream with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aboard {
    /// Where it goes on when it leaves them. What could not wait lies in the spool for that stream.
    pub own: StreamId,
    /// Until it is known to have come to them: where the stream it has had so far ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boards: Option<Boards>,
}

/// A place in a stream of several, behind which spans of one more may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boards {
    pub stream: StreamId,
    pub slots: Sequence,
    pub previous: Digest,
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
    /// Present while others write into the stream, or are about to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aboard: Option<Aboard>,
    /// Where a run was about to go on that ended the stream and may not have come to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<StreamId>,
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
            aboard: None,
            next: None,
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
        let is_shared = self.aboard.is_some_and(|aboard| aboard.boards.is_none());
        // An attempt before may have come there already.
        let is_ended = stream == ours;
        let mut at = Durable { stream, sequence, digest, standing, after, is_shared, is_ended };
        for _ in 0..STEPS_MAX {
            let free = at.free().ok_or(Exhausted)?;
            // What was made to follow something else follows nothing any more.
            let spooled = spool
                .read(&at.stream, free.sequence)
                .filter(|(_, bytes)| place_of(bytes, source) == Some((at.digest, at.after, at.next_tx())));
            let found = at.found(vault, free.sequence).await?;
            let (digest, standing) = match (found, spooled) {
                (Some(None), Some((known, bytes))) => {
                    match vault.repo.put_log(&at.stream, free.sequence, bytes).await {
                        Ok(()) => (known.digest, known.standing),
                        // It is looked at again.
                        Err(RepoError::LostRace { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                (Some(None), None) => match self.fill(vault, (source, &spool), (&at, free)).await? {
                    true => continue,
                    // Whether more follows shows when the slot after it is taken.
                    false => return Ok(Some(at)),
                },
                (Some(Some(front)), Some((known, _))) if known.digest == front.digest => (known.digest, known.standing),
                (Some(Some(front)), _) => match self.putting.iter().find(|pending| pending.digest == front.digest) {
                    Some(pending) => (pending.digest, pending.standing.clone()),
                    None => match at.pass((source, ours), self, &front) {
                        Found::Unknown => return Ok(None),
                        Found::Passed if at.is_ended => return Ok(Some(at)),
                        Found::Passed => continue,
                    },
                },
                (None, _) => return Ok(None),
            };
            let after = After::Log { stream: at.stream, sequence: free.sequence, digest };
            at = Durable { sequence: free.sequence, digest, standing, after, ..at };
        }
        Ok(None)
    }

    /// Takes a free slot for what still waits on this disk: what another source keeps that shares the stream, or the end
    /// behind which comes what this one keeps. Says whether there is any.
    async fn fill(
        &self,
        vault: &Vault,
        (source, spool): (&SourceName, &Spool),
        (at, free): (&Durable, Chain),
    ) -> Result<bool, OpsError> {
        let of_others = at.is_shared.then(|| Spool::of_any(vault, &at.stream, free.sequence)).flatten();
        // What it has of this source comes right after what is durable, and is known to.
        let is_next = |(known, bytes): &(Spooled, bytes::Bytes)| {
            let is_put = self.putting.iter().any(|pending| pending.digest == known.digest);
            let place = place_of(bytes, source);
            place.map_or(previous_of(bytes) == Some(at.digest), |place| {
                is_put && place == (at.digest, at.after, at.next_tx())
            })
        };
        let of_others = of_others.filter(is_next);
        let done = match (of_others, self.own_behind((source, spool), at)) {
            (Some((_, bytes)), _) => vault.repo.put_log(&at.stream, free.sequence, bytes).await,
            (None, Some(own)) => {
                ends::close(vault, at.stream, free, ends::onward(vault, source, own, at.is_shared)).await
            }
            (None, None) => return Ok(false),
        };
        match done {
            Ok(()) | Err(RepoError::LostRace { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The same once that was found, of a run that is about to end the stream there.
    pub fn stands_at(self, at: &Durable, next: StreamId) -> Self {
        let slots = at.sequence.get();
        Self {
            stream: at.stream,
            slots,
            previous: at.digest,
            before: slots,
            after: at.after,
            standing: Some(at.standing.clone()),
            putting: Vec::new(),
            // Others may come into it first: it is not to be ended for them.
            aboard: at.is_shared.then(|| Aboard { own: self.aboard.map_or(next, |aboard| aboard.own), boards: None }),
            next: Some(next),
            ..self
        }
    }

    /// Its own stream, if something waits for it in the spool that comes right after this.
    fn own_behind(&self, (source, spool): (&SourceName, &Spool), at: &Durable) -> Option<StreamId> {
        let own = self.aboard.map(|aboard| aboard.own).filter(|own| *own != at.stream)?;
        let (_, bytes) = spool.read(&own, Sequence::FIRST)?;
        (place_of(&bytes, source)? == (Digest::ZERO, at.after, at.next_tx())).then_some(own)
    }

    /// What this says is put behind a slot.
    pub fn putting_behind(&self, slot: Sequence) -> Option<&Pending> {
        let behind = slot.get().checked_sub(self.slots)?;
        self.putting.get(usize::try_from(behind).ok()?)
    }
}

/// What an object follows in its stream.
fn previous_of(bytes: &[u8]) -> Option<Digest> {
    Some(Front::parse(bytes).ok()?.header.signed?.previous)
}

/// The same, what the span of a source in it comes after, and its first number.
fn place_of(bytes: &[u8], source: &SourceName) -> Option<(Digest, After, Tx)> {
    let front = Front::parse(bytes).ok()?;
    let facts = Log::parse(front.facts).ok()?;
    let span = facts.spans.iter().find(|span| span.source == *source)?;
    Some((front.header.signed?.previous, span.after, span.first))
}
