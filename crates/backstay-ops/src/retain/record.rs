//! The next prune record: what the last one said, less what has been seen gone, and what is condemned now.

use super::gather::Gathered;
use crate::OpsError;
use crate::catalog::{Vault, condemned_manifests, record_of};
use backstay_format::facts::{self, Condemned, CondemnedSnapshot, Head, Prune, PrunedSource, PrunedStream};
use backstay_format::layout::FACTS_MAX;
use backstay_model::catalog::Snapshot;
use backstay_model::prune::{Named, Plan};
use backstay_model::{Moment, SourceName};
use backstay_store::keys::SnapshotName;
use std::collections::HashSet;

/// How many objects may be condemned and not yet seen gone, in the whole repository: a record has to fit
/// into an object's facts. A snapshot takes some 70 bytes of it, a run of numbers at most 45.
pub const PENDING_MAX: usize = 10_000;

/// A source that is dealt with, and what is decided about it.
pub struct Decided<'a> {
    pub source: &'a SourceName,
    pub gathered: &'a Gathered,
    pub plan: &'a Plan,
}

/// Every source the last record names stays in the next, whether or not it is dealt with.
pub async fn next(
    vault: &Vault,
    last: Option<&Prune>,
    at: Moment,
    (decided, streams): (&[Decided<'_>], Vec<PrunedStream>),
) -> Result<Prune, OpsError> {
    let dealt_with: HashSet<&SourceName> = decided.iter().map(|d| d.source).collect();
    let others = last.iter().flat_map(|last| &last.sources).filter(|s| !dealt_with.contains(&s.source));
    let mut sources: Vec<PrunedSource> = others.cloned().collect();
    for decided in decided {
        let before = last.and_then(|last| record_of(last, decided.source));
        sources.push(one(vault, before, at, decided).await?);
    }
    sources.sort_by(|a, b| a.source.cmp(&b.source));
    let record = Prune { at, sources, streams };
    if facts::encode(&record).len() > FACTS_MAX {
        return Err(OpsError::RecordFull);
    }
    Ok(record)
}

async fn one(
    vault: &Vault,
    before: Option<&PrunedSource>,
    at: Moment,
    decided: &Decided<'_>,
) -> Result<PrunedSource, OpsError> {
    let found = &decided.gathered.found;
    let newest = found.standing.iter().map(|s| &s.snapshot).max_by_key(|s| s.sequence);
    let head = newest.map(|s| Head { sequence: s.sequence, digest: s.digest });
    let mut pending = Vec::new();
    for batch in before.iter().flat_map(|before| &before.pending) {
        let mut left = Condemned { at: batch.at, snapshots: Vec::new(), packs: batch.packs.clone() };
        left.packs.retain(|pack| found.packs.contains_key(pack));
        for snapshot in &batch.snapshots {
            if found.condemned.contains_key(&manifest(snapshot)) || is_there(vault, decided.source, snapshot).await? {
                left.snapshots.push(*snapshot);
            }
        }
        pending.extend((!left.snapshots.is_empty() || !left.packs.is_empty()).then_some(left));
    }
    let entry = |s: &Named| CondemnedSnapshot { id: s.id, sequence: s.sequence, generation: s.generation };
    let snapshots = decided.plan.snapshots.iter().map(entry);
    let new = Condemned { at, snapshots: snapshots.collect(), packs: decided.plan.packs.clone() };
    pending.extend((!new.snapshots.is_empty() || !new.packs.is_empty()).then_some(new));
    let gone = before.map(|before| before.gone.clone()).unwrap_or_default().with(&decided.plan.gone);
    Ok(PrunedSource { source: decided.source.clone(), head, gone, pending })
}

/// A listing may have left it out. A manifest that is forgotten too early would count as a snapshot again.
async fn is_there(vault: &Vault, source: &SourceName, snapshot: &CondemnedSnapshot) -> Result<bool, OpsError> {
    let CondemnedSnapshot { id, sequence, generation } = *snapshot;
    let name = SnapshotName { source: source.clone(), sequence, id, generation };
    Ok(vault.repo.store().head(&name.key()).await?.is_some())
}

/// The packs and manifests a record holds as condemned.
pub fn pending(record: Option<&Prune>) -> usize {
    let batches = record.iter().flat_map(|record| &record.sources).flat_map(|source| &source.pending);
    batches.map(|batch| batch.snapshots.len() + batch.packs.len()).sum()
}

/// Whether a record says anything that the one before it does not.
pub fn says_more(last: Option<&Prune>, next: &Prune) -> bool {
    let said = |prune: &Prune| (prune.sources.clone(), prune.streams.clone());
    last.map_or(!next.sources.is_empty() || !next.streams.is_empty(), |last| said(last) != said(next))
}

fn manifest(condemned: &CondemnedSnapshot) -> Named {
    Named { sequence: condemned.sequence, id: condemned.id, generation: condemned.generation }
}

/// Whether the manifest that speaks for a snapshot is condemned by this record.
pub fn condemns(record: &Prune, source: &SourceName, snapshot: &Snapshot) -> bool {
    record_of(record, source).is_some_and(|recorded| condemned_manifests(recorded).contains(&Named::of(snapshot)))
}
