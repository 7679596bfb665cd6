//! The restore points of a source in the order of time: snapshots, and between them every commit of a log.

use crate::OpsError;
use crate::catalog::Vault;
use crate::log;
use backstay_model::catalog::{Quality, Target};
use backstay_model::{Moment, ObjectId, SourceName, Tx};

/// A moment one can go back to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PointAt {
    pub snapshot: ObjectId,
    /// Of a followed source: the number of the state.
    pub tx: Option<Tx>,
    /// When it was the newest; of a state inside a log not before it.
    pub at: Moment,
    /// A commit that was followed, and not only a state that was captured.
    pub is_commit: bool,
}

impl PointAt {
    pub fn target(&self) -> Target {
        self.tx.map_or_else(|| Target::Id(self.snapshot.to_string()), Target::Tx)
    }
}

/// All of them on the branch of the newest snapshot, oldest first. What is quarantined is no evidence of anything.
pub async fn points(vault: &Vault, source: &SourceName, since: Option<Moment>) -> Result<Vec<PointAt>, OpsError> {
    let mut catalog = vault.recalled(source, None).await?;
    let newest = catalog.choose(&Target::Latest)?;
    let mut snapshots: Vec<_> = catalog.snapshots.clone();
    snapshots.retain(|s| s.branch == newest.branch && s.quality == Quality::Whole && !s.is_quarantined());
    snapshots.sort_by_key(|snapshot| snapshot.sequence);
    let mut found: Vec<PointAt> = Vec::new();
    let mut last: Option<Tx> = None;
    for snapshot in snapshots {
        let Some((front, following)) = catalog
            .front(&snapshot.id)
            .cloned()
            .and_then(|front| Some((front.clone(), front.facts.following.clone()?)))
        else {
            found.push(PointAt { snapshot: snapshot.id, tx: None, at: snapshot.taken, is_commit: false });
            continue;
        };
        let reached = log::reach(&vault.repo, &front, &following).await?;
        let mut push = |tx: Tx, at: Moment, is_commit: bool| {
            if last.is_none_or(|last| tx > last) {
                found.push(PointAt { snapshot: snapshot.id, tx: Some(tx), at, is_commit });
                last = Some(tx);
            }
        };
        push(following.tx, snapshot.taken, false);
        for link in &reached.links {
            if link.name.is_rolled() {
                // It spans too long a time for its ends to stand for what is between.
                let records = link.records(&vault.repo, vault.unsealer()?).await?;
                for record in records.iter().filter(|r| r.part.completes() && r.tx <= reached.tx) {
                    push(record.tx, record.time, true);
                }
                continue;
            }
            let (first, end) = (link.span.first.get(), link.span.last.get());
            for tx in first..=end.min(reached.tx.get()) {
                let at = if tx == first { link.span.from } else { link.span.to };
                push(Tx::new(tx), at, true);
            }
        }
    }
    if let Some(since) = since {
        // The point before it stays: what changed first is found against it.
        let from = found.partition_point(|point| point.at < since).saturating_sub(1);
        found.drain(..from);
    }
    Ok(found)
}
