//! The restore points of a source as values, and the choice of one of them.

use crate::{BranchNo, ByteLen, Digest, Generation, Label, Moment, ObjectId, Position, Sequence, Tx};

/// Whether the captured bytes are a whole database or only what could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quality {
    Whole,
    /// Captured byte for byte although it is malformed.
    AsIs,
}

/// How long a person asked for a snapshot to be kept, beyond what retention would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    ForEver,
    Until(Moment),
}

/// What a mark says of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkKind {
    Proven,
    Quarantined,
    /// Held: it stays until that is taken back.
    Pinned,
    /// Takes a hold back.
    Released,
    Tombstoned,
}

impl MarkKind {
    pub const ALL: [MarkKind; 5] = [Self::Proven, Self::Quarantined, Self::Pinned, Self::Released, Self::Tombstoned];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Quarantined => "quarantined",
            Self::Pinned => "pinned",
            Self::Released => "released",
            Self::Tombstoned => "tombstoned",
        }
    }
}

/// One snapshot that can be restored, with everything that was marked on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: ObjectId,
    pub sequence: Sequence,
    /// Which of its manifests speaks for it.
    pub generation: Generation,
    /// The digest of its first manifest, whichever generation speaks for it: what chains and heads name.
    pub digest: Digest,
    /// The digest of the manifest it was made after; zero for the first.
    pub previous: Digest,
    pub branch: BranchNo,
    pub position: Position,
    pub taken: Moment,
    pub root: Digest,
    pub length: ByteLen,
    pub added: ByteLen,
    pub quality: Quality,
    /// Brought in later from an old copy.
    pub imported: bool,
    /// Put together from the snapshot before it and the log since: the state of the log that it has.
    pub made_of: Option<Tx>,
    pub label: Option<Label>,
    pub keep: Option<Keep>,
    pub marks: Vec<MarkKind>,
}

impl Snapshot {
    pub fn has(&self, kind: MarkKind) -> bool {
        self.marks.contains(&kind)
    }
    /// Proven, and nothing said against it.
    pub fn is_proven(&self) -> bool {
        self.has(MarkKind::Proven) && !self.is_quarantined()
    }
    pub fn is_quarantined(&self) -> bool {
        self.has(MarkKind::Quarantined) || self.quality == Quality::AsIs
    }
}

/// What a person names to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Latest,
    LatestProven,
    /// The newest point at or before this instant.
    At(Moment),
    /// The same, and where that lies in a gap of the log the nearer side of it.
    Nearest(Moment),
    /// A state inside the log of the newest followed branch, by its number.
    Tx(Tx),
    /// A snapshot's id, or its unambiguous beginning.
    Id(String),
    /// The newest snapshot with this label.
    Label(Label),
    /// The newest point older than the newest snapshot with this label.
    Before(Label),
}

/// Why no single snapshot answers to a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPoint {
    #[error("there is no snapshot yet")]
    Empty,
    #[error("no snapshot is proven yet; the newest whole one is {newest}")]
    NoneProven { newest: String },
    #[error("every snapshot is quarantined")]
    AllQuarantined,
    #[error("nothing is as old as {at}; the oldest restore point is {oldest}")]
    BeforeFirst { at: Moment, oldest: Moment },
    #[error("no snapshot's id begins with {id:?}")]
    UnknownId { id: String },
    #[error("{count} snapshots have an id that begins with {id:?}")]
    AmbiguousId { id: String, count: usize },
    #[error("no snapshot is labelled {label:?}")]
    UnknownLabel { label: String },
    #[error("it is not followed: no snapshot has a log behind it")]
    NotFollowed,
    #[error(
        "no log holds state {tx}: what can be restored ends at {before}{}",
        .after.map_or_else(String::new, |tx| format!(", and goes on at {tx}"))
    )]
    TxNotHeld { tx: u64, before: u64, after: Option<u64> },
    #[error("state {tx} is older than what is kept: the oldest that can be restored is {oldest}")]
    TxBeforeFirst { tx: u64, oldest: u64 },
    #[error("{at} lies in a gap of the log: the state before it is of {before}, the one behind it of {after}")]
    InGap { at: Moment, before: Moment, after: Moment },
    #[error("the history has two newest snapshots, {a} and {b}: two writers backed up this source at once")]
    Rivals { a: ObjectId, b: ObjectId },
}

impl crate::Kinded for NoPoint {
    fn kind(&self) -> crate::Kind {
        match self {
            NoPoint::Rivals { .. } => crate::Kind::Conflict,
            NoPoint::AllQuarantined => crate::Kind::Corrupt,
            _ => crate::Kind::Usage,
        }
    }
}

/// Chooses the snapshot a target names. `snapshots` are those of one source in any order.
///
/// Quarantined snapshots answer to their own id only: nothing that failed a check is chosen for a
/// person who did not name it.
pub fn choose<'a>(snapshots: &'a [Snapshot], target: &Target) -> Result<&'a Snapshot, NoPoint> {
    if let Target::Id(id) = target {
        return by_id(snapshots, id);
    }
    if snapshots.is_empty() {
        return Err(NoPoint::Empty);
    }
    let good: Vec<&Snapshot> = snapshots.iter().filter(|s| !s.is_quarantined()).collect();
    let line: Vec<&Snapshot> = living(snapshots).filter(|s| !s.is_quarantined()).collect();
    let newest = newest(&line)?.ok_or(NoPoint::AllQuarantined)?;
    match target {
        Target::Latest => Ok(newest),
        Target::LatestProven => last(line.into_iter().filter(|s| s.is_proven()))
            .ok_or_else(|| NoPoint::NoneProven { newest: newest.id.short() }),
        Target::Tx(_) => Err(NoPoint::NotFollowed),
        Target::At(at) | Target::Nearest(at) => {
            let oldest = good.iter().map(|s| s.taken).min().unwrap_or(newest.taken);
            let early = good.into_iter().filter(|s| s.taken <= *at);
            early.max_by_key(|s| (s.taken, s.sequence)).ok_or(NoPoint::BeforeFirst { at: *at, oldest })
        }
        Target::Label(label) => last(good.into_iter().filter(|s| s.label.as_ref() == Some(label)))
            .ok_or_else(|| NoPoint::UnknownLabel { label: label.to_string() }),
        Target::Before(label) => {
            let labelled = choose(snapshots, &Target::Label(label.clone()))?;
            let early = line.into_iter().filter(|s| s.sequence < labelled.sequence && s.taken < labelled.taken);
            last(early).ok_or(NoPoint::BeforeFirst { at: labelled.taken, oldest: labelled.taken })
        }
        Target::Id(id) => by_id(snapshots, id),
    }
}

/// The living history: what was brought in from old copies is no part of it, unless there is nothing else.
pub fn living(snapshots: &[Snapshot]) -> impl Iterator<Item = &Snapshot> {
    let has_own = snapshots.iter().any(|s| !s.imported);
    snapshots.iter().filter(move |s| !(has_own && s.imported))
}

fn by_id<'a>(snapshots: &'a [Snapshot], id: &str) -> Result<&'a Snapshot, NoPoint> {
    let matching: Vec<&Snapshot> = snapshots.iter().filter(|s| s.id.to_string().starts_with(id)).collect();
    match matching.as_slice() {
        [one] if !id.is_empty() => Ok(one),
        [] => Err(NoPoint::UnknownId { id: id.to_owned() }),
        many => Err(NoPoint::AmbiguousId { id: id.to_owned(), count: many.len() }),
    }
}

fn last<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> Option<&'a Snapshot> {
    snapshots.max_by_key(|s| s.sequence)
}

/// The tip of the history; two of equal sequence are rivals, and neither is silently preferred.
fn newest<'a>(good: &[&'a Snapshot]) -> Result<Option<&'a Snapshot>, NoPoint> {
    let Some(tip) = last(good.iter().copied()) else { return Ok(None) };
    match good.iter().find(|s| s.sequence == tip.sequence && s.id != tip.id) {
        Some(rival) => Err(NoPoint::Rivals { a: tip.id, b: rival.id }),
        None => Ok(Some(tip)),
    }
}

#[cfg(test)]
mod tests;
