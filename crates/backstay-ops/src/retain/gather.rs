//! Reading all that a prune of one source must know, from listings, manifests, marks and the newest record.

use crate::OpsError;
use crate::catalog::{Catalog, Fronts, PruneRead, Vault, condemned_manifests, named, record_of};
use backstay_format::ObjectType;
use backstay_format::facts::{CondemnedSnapshot, Following, Prune, PrunedSource};
use backstay_model::catalog::Snapshot;
use backstay_model::prune::{Doubt, Found, Listed, Named, Pending, Recorded, Standing, Superseded};
use backstay_model::{Generation, Moment, ObjectId, SourceName};
use backstay_store::Key;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::repo::{Manifest, ManifestFront, RepoError};
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Manifests read at once.
const AT_ONCE: usize = 16;

/// Manifests that were read and verified: they never change, so a second look only lists.
#[derive(Default)]
pub struct Known(HashMap<Key, (ManifestFront, Vec<ObjectId>)>);

impl Known {
    /// Where the log goes on from a snapshot that was gathered.
    pub fn following(&self, source: &SourceName, snapshot: &Snapshot) -> Option<&Following> {
        let generation = snapshot.generation;
        let name = SnapshotName { generation, ..SnapshotName::first(source.clone(), snapshot.sequence, snapshot.id) };
        let (front, _) = self.0.get(&name.key())?;
        front.facts.following.as_ref()
    }
}

/// One source with what was found of it.
pub struct Gathered {
    pub found: Found,
    /// An older state of the source is served than this host has seen.
    pub rolled_back: Option<Doubt>,
    /// The marks that were read.
    marks: HashSet<ObjectId>,
}

impl Gathered {
    /// Looks once more for marks on what decides, each by itself: a listing of all may have
    /// left out its end, and the end may be a hold. How many were not known.
    pub async fn unknown_marks(
        &self,
        vault: &Vault,
        source: &SourceName,
        snapshots: &[ObjectId],
    ) -> Result<usize, OpsError> {
        let prefixes: Vec<String> = snapshots.iter().map(|id| format!("{}{id}/", keys::mark_prefix(source))).collect();
        let looks = prefixes.into_iter().map(|prefix| async move { vault.repo.list(&prefix).await });
        let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
        let mut unknown = 0;
        while let Some(entries) = looks.next().await {
            let marks = entries?;
            let ids = marks.iter().filter_map(|entry| keys::parse_mark(source, &entry.key)).map(|(_, _, id)| id);
            unknown += ids.filter(|id| !self.marks.contains(id)).count();
        }
        Ok(unknown)
    }
}

pub async fn gather(
    vault: &Vault,
    source: &SourceName,
    prune: Option<&Prune>,
    known: &mut Known,
) -> Result<Gathered, OpsError> {
    let seen = vault.state.seen(source)?;
    let recorded = prune.and_then(|prune| record_of(prune, source));
    let marks = Catalog::read_marks(&vault.repo, source, &seen).await?;
    let listed = manifests(vault, source).await?;
    let condemned = recorded.map(condemned_manifests).unwrap_or_default();
    let (condemned, standing): (Vec<_>, Vec<_>) =
        listed.names.into_iter().partition(|(name, _)| condemned.contains(&named(name)));
    // Packs are listed after manifests: what a manifest that was seen needs was there before it.
    let packs = packs(vault, source).await?;
    let (fronts, older) = newest_of_each(read(vault, &standing, known).await?);
    let mut catalog = Catalog::assemble(source, marks, fronts, PruneRead::default())?;
    let rolled_back = match catalog.check_seen(&seen) {
        Ok(()) => None,
        Err(OpsError::Repo(RepoError::RolledBack { seen, found, .. })) => Some(Doubt::RolledBack { seen, found }),
        Err(error) => return Err(error),
    };
    let mark_faults = catalog.mark_faults.len();
    let _ = catalog.remember(&vault.state, source);
    let read = catalog.marks.iter().map(|mark| mark.object).collect();
    let unverified = catalog.broken.drain(..).map(|(name, _)| named(&name)).collect();
    let places: HashMap<Named, &Listed> = standing.iter().map(|(name, listed)| (named(name), listed)).collect();
    let found = Found {
        superseded: older.iter().filter_map(|name| supersede(name, &places, known)).collect(),
        standing: stand(catalog, &places, known),
        unverified,
        unread: listed.unread,
        mark_faults,
        recorded: recorded.map(of_record).unwrap_or_default(),
        seen: seen.head.map(|head| (head.sequence, head.digest)),
        packs,
        condemned: condemned.into_iter().map(|(name, listed)| (named(&name), listed)).collect(),
    };
    Ok(Gathered { found, rolled_back, marks: read })
}

/// Of each snapshot the newest manifest that can be verified, and the names of the verified ones before it. One
/// that cannot be verified stays what it is, whichever generation it has.
fn newest_of_each(fronts: Fronts) -> (Fronts, Vec<SnapshotName>) {
    let mut newest: HashMap<ObjectId, Generation> = HashMap::new();
    for (name, _) in fronts.iter().filter(|(_, front)| front.is_ok()) {
        let known = newest.entry(name.id).or_insert(name.generation);
        *known = name.generation.max(*known);
    }
    let is_older = |name: &SnapshotName| newest.get(&name.id).is_some_and(|newest| name.generation < *newest);
    let (older, standing): (Fronts, Fronts) =
        fronts.into_iter().partition(|(name, front)| front.is_ok() && is_older(name));
    (standing, older.into_iter().map(|(name, _)| name).collect())
}

fn supersede(name: &SnapshotName, places: &HashMap<Named, &Listed>, known: &Known) -> Option<Superseded> {
    let (_, needs) = known.0.get(&name.key())?;
    Some(Superseded { named: named(name), len: places.get(&named(name))?.len, needs: needs.clone() })
}

/// The verified manifests, with what they need.
fn stand(catalog: Catalog, places: &HashMap<Named, &Listed>, known: &Known) -> Vec<Standing> {
    let Catalog { snapshots, fronts, .. } = catalog;
    let one = |snapshot: Snapshot| {
        let listed = places.get(&Named::of(&snapshot))?;
        let (front, needs) = known.0.get(&fronts.get(&snapshot.id)?.name.key())?;
        let followed = front.facts.following.is_some();
        Some(Standing { stored: listed.modified, len: listed.len, needs: needs.clone(), followed, snapshot })
    };
    snapshots.into_iter().filter_map(one).collect()
}

pub(super) async fn packs(vault: &Vault, source: &SourceName) -> Result<BTreeMap<ObjectId, Listed>, OpsError> {
    let entries = vault.repo.list(&keys::pack_prefix(source)).await?;
    let one = |entry: &backstay_store::Entry| {
        Some((keys::parse_pack(source, &entry.key)?, Listed { len: entry.len, modified: entry.modified }))
    };
    Ok(entries.iter().filter_map(one).collect())
}

struct Manifests {
    names: Vec<(SnapshotName, Listed)>,
    unread: Vec<String>,
}

async fn manifests(vault: &Vault, source: &SourceName) -> Result<Manifests, OpsError> {
    let mut manifests = Manifests { names: Vec::new(), unread: Vec::new() };
    for entry in vault.repo.list(&keys::snapshot_prefix(source)).await? {
        let listed = Listed { len: entry.len, modified: entry.modified };
        match SnapshotName::parse(source, &entry.key) {
            Some(name) => manifests.names.push((name, listed)),
            None => manifests.unread.push(entry.key.to_string()),
        }
    }
    Ok(manifests)
}

/// The packs that a manifest needs. What lies in a log goes by the log's own rules.
pub(super) fn packs_of(manifest: &Manifest) -> Vec<ObjectId> {
    let packs = manifest.table.refs().iter().filter(|reference| reference.kind == ObjectType::Pack);
    packs.map(|reference| reference.object).collect()
}

/// Reads the manifests that are not known yet, whole: their tables count.
async fn read(vault: &Vault, names: &[(SnapshotName, Listed)], known: &mut Known) -> Result<Fronts, OpsError> {
    let all = names.iter().map(|(name, _)| name);
    let unknown: Vec<SnapshotName> = all.filter(|name| !known.0.contains_key(&name.key())).cloned().collect();
    let mut bad: HashMap<Key, RepoError> = HashMap::new();
    let reads = unknown.into_iter().map(|name| async move {
        let manifest = vault.repo.manifest(&name).await;
        (name, manifest)
    });
    let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
    while let Some((name, manifest)) = reads.next().await {
        vault.env.cancel.check()?;
        match manifest {
            Ok(manifest) => {
                let needs = packs_of(&manifest);
                known.0.insert(name.key(), (manifest.front, needs));
            }
            Err(error) => drop(bad.insert(name.key(), error)),
        }
    }
    let front = |name: &SnapshotName| match bad.remove(&name.key()) {
        Some(error) => Some((name.clone(), Err(error))),
        None => known.0.get(&name.key()).map(|(front, _)| (name.clone(), Ok(front.clone()))),
    };
    Ok(names.iter().map(|(name, _)| name).filter_map(front).collect())
}

fn pending_snapshots(recorded: Option<&PrunedSource>) -> impl Iterator<Item = (Named, Moment)> {
    let batches = recorded.into_iter().flat_map(|recorded| &recorded.pending);
    batches.flat_map(|batch| {
        let named = |s: &CondemnedSnapshot| Named { sequence: s.sequence, id: s.id, generation: s.generation };
        batch.snapshots.iter().map(move |s| (named(s), batch.at))
    })
}

fn of_record(recorded: &PrunedSource) -> Recorded {
    let packs = recorded.pending.iter().flat_map(|batch| batch.packs.iter().map(|pack| (*pack, batch.at)));
    Recorded {
        head: recorded.head.map(|head| (head.sequence, head.digest)),
        gone: recorded.gone.clone(),
        snapshots: pending_snapshots(Some(recorded)).map(|(object, at)| Pending { object, at }).collect(),
        packs: packs.map(|(object, at)| Pending { object, at }).collect(),
    }
}
