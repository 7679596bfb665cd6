//! What a store's object lock means for retention: deletions that are refused, and how long a snapshot is safe.
//!
//! What is condemned waits until its lock is over (`model::prune::due`). A store that refuses all the same is not
//! asked again in the run: the object is named, stays condemned, and comes up in the next one.

use super::{AT_ONCE, gather};
use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use backstay_model::catalog::{Snapshot, living};
use backstay_model::lock::{Horizon, ObjectLock};
use backstay_model::prune::{Found, Standing};
use backstay_model::{Moment, ObjectId};
use backstay_store::{Key, StoreError};
use futures::stream::{self, StreamExt};
use std::collections::BTreeSet;

/// What became of some deletions.
#[derive(Default)]
pub(super) struct Batch {
    pub deleted: usize,
    pub bytes: u64,
    /// The objects that the store keeps.
    pub refused: Vec<String>,
}

/// Deletes objects of these lengths. A refusal by a lock is no error; any other is.
pub(super) async fn delete_batch(vault: &Vault, batch: &[(Key, u64)]) -> Result<Batch, OpsError> {
    let store = vault.repo.store();
    let deletes = batch.iter().map(|(key, len)| async move { (key, *len, store.delete(key).await) });
    let mut deletes = stream::iter(deletes).buffer_unordered(AT_ONCE);
    let mut done = Batch::default();
    while let Some((key, len, answer)) = deletes.next().await {
        match answer {
            Ok(()) => {
                done.deleted += 1;
                done.bytes += len;
            }
            Err(error) if is_lock(&error, vault.repo.lock()) => done.refused.push(key.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    done.refused.sort_unstable();
    Ok(done)
}

/// Some stores have no word of their own for a lock: where one is known to be, a plain refusal is taken for it.
fn is_lock(error: &StoreError, lock: Option<ObjectLock>) -> bool {
    matches!(error, StoreError::Locked { .. }) || (matches!(error, StoreError::Denied { .. }) && lock.is_some())
}

/// How long each snapshot that stays is safe; nothing where no lock is known of.
pub(super) fn horizons(
    found: &Found,
    lock: Option<ObjectLock>,
    (leaving, now): (&BTreeSet<ObjectId>, Moment),
) -> Vec<Horizon> {
    let Some(lock) = lock else { return Vec::new() };
    let snapshots: Vec<Snapshot> = found.standing.iter().map(|s| s.snapshot.clone()).collect();
    let newest = newest_of(&snapshots);
    let staying = found.standing.iter().filter(|s| !leaving.contains(&s.snapshot.id));
    let mut staying: Vec<_> = staying.collect();
    staying.sort_by_key(|s| std::cmp::Reverse((s.snapshot.sequence, s.snapshot.id)));
    staying.iter().map(|s| lock.horizon(s, &found.packs, newest == Some(s.snapshot.id), now)).collect()
}

/// The newest that one would go back to.
fn newest_of(snapshots: &[Snapshot]) -> Option<ObjectId> {
    let good = living(snapshots).filter(|s| !s.is_quarantined());
    good.max_by_key(|s| s.sequence).map(|s| s.id)
}

/// How long one snapshot is safe, without looking at any other: its manifest, its place in the listing, the packs.
pub async fn horizon_of(vault: &Vault, catalog: &Catalog, snapshot: &Snapshot) -> Result<Option<Horizon>, OpsError> {
    let (Some(lock), Some(front)) = (vault.repo.lock(), catalog.front(&snapshot.id)) else { return Ok(None) };
    let name = &front.name;
    let key = name.key();
    let listed = vault.repo.list(key.as_str()).await?;
    let Some(entry) = listed.into_iter().find(|entry| entry.key == key) else { return Ok(None) };
    let needs = gather::packs_of(&vault.repo.manifest(name).await?);
    let packs = gather::packs(vault, &name.source).await?;
    let now = super::host_now(vault, catalog.prune.as_ref());
    let followed = front.facts.following.is_some();
    let standing = Standing { snapshot: snapshot.clone(), stored: entry.modified, len: entry.len, needs, followed };
    Ok(Some(lock.horizon(&standing, &packs, newest_of(&catalog.snapshots) == Some(snapshot.id), now)))
}
