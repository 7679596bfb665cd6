//! Facts: the canonical JSON that objects carry, one type each.
//!
//! Keys are sorted and there is no white space, so equal facts are equal bytes. Readers accept keys
//! they do not know (a later build may add one) but never a missing or ill-typed one.

use crate::{Corrupt, hex, layout, tree};
use backstay_model::catalog::{Keep, MarkKind, Quality};
use backstay_model::{
    BranchNo, ByteLen, Digest, FingerprintKeyId, Generation, Label, Moment, ObjectId, Onward, Position, Ranges,
    Sequence, SignerKey, SourceName, StreamId, Tx, UnitSize,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod audit;
mod conf;
mod enrol;

pub use audit::{Audit, AuditAct};
pub use conf::{Conf, Recipient, Retired, Role, Signer, StoreAbilities, Until, Wrapped, is_plain_name};
pub use enrol::{Enrolment, EnrolmentRequest};

/// The canonical bytes of some facts.
pub fn encode<T: Serialize>(facts: &T) -> Vec<u8> {
    // A detour through `Value`, whose maps are sorted, gives sorted keys whatever the field order.
    let value = serde_json::to_value(facts).expect("facts have text keys and finite numbers");
    serde_json::to_vec(&value).expect("a JSON value can be written to memory")
}

pub fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Corrupt> {
    if bytes.len() > layout::FACTS_MAX {
        return Err(Corrupt::TooLong { what, len: bytes.len() as u64, max: layout::FACTS_MAX as u64 });
    }
    serde_json::from_slice(bytes).map_err(|error| Corrupt::Json { what, reason: error.to_string() })
}

/// `data/<source>/branch/<n>`: one line of a source's history begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    pub source: SourceName,
    pub branch: BranchNo,
    pub created: Moment,
    pub engine: Engine,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BranchPoint>,
    pub reason: BranchReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchPoint {
    pub branch: BranchNo,
    pub position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchReason {
    /// The first backup of the source.
    First,
    /// Another file stands at the source's path.
    Replaced,
    /// A restore put an older state in place.
    RestoredInPlace,
    /// Another host took over.
    Takeover,
    /// Old copies of the database were brought in: a branch beside the living history, without a parent.
    Imported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// The plain facts of a manifest: what retention, listing and checking need without an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub source: SourceName,
    pub branch: BranchNo,
    pub position: Position,
    /// When the captured state was the newest, by the host's clock.
    pub taken: Moment,
    pub engine: Engine,
    /// The logical root digest: what a restore must reproduce and every mark is bound to.
    pub root: Digest,
    /// Length of the restored content.
    pub length: ByteLen,
    /// Bytes this snapshot added to the repository, its manifest not counted.
    pub added: ByteLen,
    pub quality: Quality,
    /// An old copy that was brought in later: it belongs to the past and is never the latest.
    #[serde(default, skip_serializing_if = "is_not")]
    pub imported: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Where the log goes on from this snapshot, if the source is followed from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<Following>,
    /// This manifest stands in the place of an earlier one of the same snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<Rewritten>,
}

impl Manifest {
    /// What the first span behind it comes after, if a log goes on from it. `id` is its own.
    pub fn after(&self, id: ObjectId) -> After {
        self.made().map_or(After::Snapshot(id), |made| made.after)
    }

    /// The digest that the first record behind it continues.
    pub fn chain(&self) -> Digest {
        self.made().map_or(self.root, |made| made.chain)
    }

    pub fn made(&self) -> Option<&Made> {
        self.following.as_ref()?.made.as_ref()
    }
}

/// What a later generation of a manifest carries of the first: what its writer signed. Everything the snapshot
/// is known by (its facts, its place in the chain, its digest, its signer) is still said by that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewritten {
    /// The bytes of the first generation's front, in hexadecimal.
    pub front: String,
}

impl Rewritten {
    pub fn of(front: &[u8]) -> Self {
        Self { front: hex::encode(front) }
    }

    /// The front's bytes.
    pub fn bytes(&self) -> Result<Vec<u8>, Corrupt> {
        let rule = Corrupt::Rule { what: "a rewritten manifest", rule: "the front it carries is hexadecimal" };
        hex::decode(&self.front).ok_or(rule)
    }
}

/// A snapshot that following begins with: the log's first commit after it is right after its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    pub stream: StreamId,
    /// The first object of the stream that can have commits after this snapshot.
    pub sequence: Sequence,
    /// The number of the snapshot's own state.
    pub tx: Tx,
    /// Present if commits before this snapshot may be missing from every log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<Resync>,
    /// Present if the snapshot was made of another one and the log behind that, which goes on past it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
}

/// Where in a log a snapshot stands that was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The snapshot that following began with.
    pub began: ObjectId,
    /// What the next span comes after.
    pub after: After,
    /// The digest of the record that led to the state: what the next one continues.
    pub chain: Digest,
}

/// A recorded gap: nothing between the last commit of the log before and the snapshot can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    pub reason: String,
    /// The last state before the gap.
    pub after: Tx,
    /// When that state was committed.
    pub since: Moment,
}

/// The plain facts of a log object, `data/log/<stream>/<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    pub stream: StreamId,
    /// One for each source whose commits are in it, in the order of their numbers in the records.
    pub spans: Vec<Span>,
    /// The stream ends with this object; what follows it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<StreamId>,
    /// Of these sources the log goes on elsewhere than that of all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<Leaves>,
    /// Others may write where it goes on: in this stream, or in the one that `next` names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// A source whose log leaves those it shared a stream with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaves {
    pub source: SourceName,
    /// The stream its log goes on in.
    pub next: StreamId,
}

impl Log {
    /// Parses, and checks what no writer would say.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        const WHAT: &str = "a log object";
        let facts: Self = parse(WHAT, bytes)?;
        if facts.next.is_none() && !facts.leaves.is_empty() {
            return Err(Corrupt::Rule { what: WHAT, rule: "a source leaves where the stream ends" });
        }
        if facts.next.iter().chain(facts.leaves.iter().map(|leaves| &leaves.next)).any(|next| *next == facts.stream) {
            return Err(Corrupt::Rule { what: WHAT, rule: "a stream that ends leads to another" });
        }
        if facts.onward().leaves.len() != facts.leaves.len() {
            return Err(Corrupt::Rule { what: WHAT, rule: "a source leaves once" });
        }
        Ok(facts)
    }

    /// Of the object that ends a stream.
    pub fn end_of(stream: StreamId, onward: Onward) -> Self {
        let leaves = onward.leaves.into_iter().map(|(source, next)| Leaves { source, next }).collect();
        Self { stream, spans: Vec::new(), next: onward.next, leaves, shared: false }
    }

    /// The same of one that leads into a stream of several.
    pub fn boards(stream: StreamId, next: StreamId) -> Self {
        Self { shared: true, ..Self::end_of(stream, next.into()) }
    }

    /// Whether it ends the stream for others, and the log of this source goes on with those that stay.
    pub fn is_left_by_others(&self, source: &SourceName) -> bool {
        !self.leaves.is_empty() && self.leaves.iter().all(|leaves| leaves.source != *source)
    }

    /// Where the logs in the stream go on, if it ends here.
    pub fn onward(&self) -> Onward {
        let leaves = self.leaves.iter().map(|leaves| (leaves.source.clone(), leaves.next)).collect();
        Onward { next: self.next, leaves }
    }
}

/// The commits of one source in a log object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub source: SourceName,
    pub branch: BranchNo,
    pub after: After,
    /// The states its first and its last record lead to.
    pub first: Tx,
    pub last: Tx,
    /// When they were committed.
    pub from: Moment,
    pub to: Moment,
    /// The last commit goes on in the stream's next object, and counts only when it is whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

impl Span {
    /// The last state that this object completes; `None` if it only holds a part of one commit.
    pub fn completes(&self) -> Option<Tx> {
        if !self.unfinished {
            return Some(self.last);
        }
        let before = self.last.get().checked_sub(1).map(Tx::new)?;
        (before >= self.first).then_some(before)
    }
}

/// The plain facts of a roll-up, `data/log/<stream>/rolled/<first>-<last>[.<generation>]`: the commits of several objects of a
/// stream once more, in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollUp {
    pub stream: StreamId,
    /// The slots whose commits it has.
    pub first: Sequence,
    pub last: Sequence,
    /// Above the first: sealed again to a later master by whoever keeps and reads, perhaps of one slot.
    #[serde(default = "first_generation", skip_serializing_if = "is_first_generation")]
    pub generation: Generation,
    /// The front digest of the object in the last of them.
    pub digest: Digest,
    /// As in a log object: what several of them have of one source, and that follows one another, is one span.
    pub spans: Vec<Span>,
    /// For each span the object that its last record was in.
    pub ends: Vec<SpanEnd>,
}

/// The object of a stream that a span ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanEnd {
    pub sequence: Sequence,
    pub digest: Digest,
}

impl RollUp {
    /// Parses, and checks what no writer would say.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        const WHAT: &str = "a roll-up";
        let facts: Self = parse(WHAT, bytes)?;
        let broken = |rule| Err(Corrupt::Rule { what: WHAT, rule });
        if facts.first > facts.last || facts.first == facts.last && is_first_generation(&facts.generation) {
            return broken("it has the commits of several slots, or is sealed again");
        }
        if facts.ends.len() != facts.spans.len() {
            return broken("each of its spans has an end");
        }
        if !facts.ends.iter().all(|end| (facts.first..=facts.last).contains(&end.sequence)) {
            return broken("its spans end inside it");
        }
        Ok(facts)
    }
}

/// What a span's first record comes right after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    Snapshot(ObjectId),
    Log { stream: StreamId, sequence: Sequence, digest: Digest },
}

fn is_not(flag: &bool) -> bool {
    !flag
}

/// The sealed facts of a manifest: its first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedManifest {
    pub fingerprint: FingerprintFacts,
    pub host: String,
    pub path: String,
    pub streams: Vec<Stream>,
    /// What the engine said of itself, for people and for later questions.
    pub engine: serde_json::Value,
    /// What whoever asks a question reads first. A help: nothing is missing without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Opening>,
}

impl SealedManifest {
    /// The same of a snapshot whose content lies in other objects by now.
    pub fn elsewhere(&self) -> Self {
        let opening = self.opening.as_ref().map(|opening| Opening { pages: opening.pages.clone(), frames: Vec::new() });
        Self { opening, ..self.clone() }
    }
}

/// The pages of a database at which every search begins, and where those it comes to next lie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub pages: Vec<OpeningPage>,
    pub frames: Vec<OpeningFrame>,
}

/// A page of the first stream, as it stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningPage {
    pub page: u32,
    /// In hexadecimal, without the zeros at its end.
    pub bytes: String,
}

impl OpeningPage {
    pub fn new(page: u32, bytes: &[u8]) -> Self {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Self { page, bytes: hex::encode(bytes.get(..end).unwrap_or_default()) }
    }

    /// Fills `into` with the page's beginning. `None` where these are no bytes.
    pub fn fill(&self, into: &mut [u8]) -> Option<()> {
        let bytes = hex::decode(&self.bytes)?;
        let zeros = std::iter::repeat(0);
        into.iter_mut().zip(bytes.into_iter().chain(zeros)).for_each(|(into, byte)| *into = byte);
        Some(())
    }
}

/// A page of the first stream; the row of the refs table its object has; and its frame: number, offset, stored and raw
/// length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningFrame(pub u32, pub u32, pub u32, pub u32, pub u32, pub u32);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FingerprintFacts {
    pub id: FingerprintKeyId,
    /// The secret, in hexadecimal.
    pub key: Digest,
}

/// One named run of units. Its root node is the frame at its own place after the facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub name: String,
    pub unit: u32,
    pub length: ByteLen,
    /// Levels of inner nodes above the leaves; 0 when the root is the only leaf.
    pub levels: u8,
}

impl Stream {
    /// The unit size and the number of units, after checking that the stream can exist.
    pub fn shape(&self) -> Result<(UnitSize, u64), Corrupt> {
        const WHAT: &str = "a stream";
        let rule = |rule| Corrupt::Rule { what: WHAT, rule };
        let unit = UnitSize::try_from(self.unit).map_err(|_| rule("units are 4096 to 65536 bytes, a power of two"))?;
        let units = unit.count(self.length);
        if self.levels != tree::levels_for(units) || self.levels > layout::LEVELS_MAX {
            return Err(rule("the tree is as deep as its units need, and at most 4 levels"));
        }
        Ok((unit, units))
    }
}

/// `ctl/mark/<source>/<snapshot>/<kind>-<id>`: a fact added later about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub source: SourceName,
    pub snapshot: ObjectId,
    pub kind: MarkKind,
    /// The logical root digest of the snapshot the mark is about.
    pub root: Digest,
    pub at: Moment,
    /// Which mark this one takes back: only a `released` one does, and only a `pinned` one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases: Option<ObjectId>,
    pub evidence: serde_json::Value,
}

/// `ctl/prune/<n>`: all that was ever condemned, and what was seen when it was. The newest counts alone:
/// each carries on what the one before it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// By the store's clock.
    pub at: Moment,
    pub sources: Vec<PrunedSource>,
    /// Streams of log objects of which the beginning went or will go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<PrunedStream>,
}

impl Prune {
    /// The slot of a stream below which everything went or will go; none has number 0.
    pub fn log_below(&self, stream: &StreamId) -> u64 {
        let said = self.streams.iter().find(|pruned| pruned.stream == *stream);
        said.map_or(0, PrunedStream::below)
    }
}

/// What went of a log: always the beginning of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedStream {
    pub stream: StreamId,
    /// Below this slot nothing is there any more.
    pub gone: u64,
    /// What is condemned beyond that, oldest first.
    pub pending: Vec<CondemnedSlots>,
}

impl PrunedStream {
    /// Below this slot everything went or will go.
    pub fn below(&self) -> u64 {
        self.pending.iter().map(|condemned| condemned.below).fold(self.gone, u64::max)
    }
}

/// Everything of a stream below a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondemnedSlots {
    /// By the store's clock.
    pub at: Moment,
    pub below: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedSource {
    pub source: SourceName,
    /// The newest snapshot seen; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// Sequences of which no snapshot stays: holes in the history that are no loss.
    pub gone: Ranges,
    /// Condemned objects that have not been seen gone, by the time they were condemned.
    pub pending: Vec<Condemned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub sequence: Sequence,
    pub digest: Digest,
}

/// What one prune condemned of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// By the store's clock: the grace is counted from here.
    pub at: Moment,
    pub snapshots: Vec<CondemnedSnapshot>,
    pub packs: Vec<ObjectId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondemnedSnapshot {
    pub id: ObjectId,
    pub sequence: Sequence,
    /// Which of its manifests; the others are not meant.
    #[serde(default = "first_generation", skip_serializing_if = "is_first_generation")]
    pub generation: Generation,
}

fn first_generation() -> Generation {
    Generation::FIRST
}

fn is_first_generation(generation: &Generation) -> bool {
    *generation == Generation::FIRST
}

/// `ctl/lease/<scope>/<n>`: one keeper's turn, as long as the span from `from` to `until`, from when the
/// store made it. One of no length gives the turn back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub holder: SignerKey,
    pub from: Moment,
    pub until: Moment,
}

#[cfg(test)]
mod tests;
