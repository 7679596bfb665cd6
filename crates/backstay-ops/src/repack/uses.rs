//! Which units live in which packs, over all snapshots of a source: from the maps, each shared node once.

use super::Volume;
use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use crate::check::Problem;
use crate::rewrite::is_of_the_snapshot;
use backstay_format::table::Reference;
use backstay_format::tree::Run as UnitRun;
use backstay_model::catalog::{Quality, Snapshot};
use backstay_model::space::ObjectUse;
use backstay_model::{ByteLen, ObjectId, SourceName};
use backstay_store::keys::SnapshotName;
use backstay_store::repo::{RepoError, SnapshotReader, Step};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The slots of a frame in which a unit lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Vec<u64>);

impl Slots {
    fn add(&mut self, slot: u16) {
        let (word, bit) = (usize::from(slot) / 64, slot % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// What is known of a pack that some snapshot refers to.
pub(super) struct PackUse {
    stored: u64,
    pub total: u32,
    /// By the frame's number.
    pub live: HashMap<u32, Slots>,
    /// The newest snapshot that refers to it, by its place in the list.
    pub newest: usize,
    /// The next backup builds on it.
    pub held: bool,
}

impl PackUse {
    pub fn live_units(&self) -> u64 {
        self.live.values().map(Slots::count).sum()
    }

    pub fn used(&self) -> ObjectUse {
        ObjectUse { stored: self.stored, total_units: u64::from(self.total), live_units: self.live_units() }
    }
}

pub(super) struct Uses {
    /// The manifests that speak for the snapshots that stand, newest first, and what they refer to.
    pub snapshots: Vec<(SnapshotName, BTreeSet<ObjectId>)>,
    pub packs: BTreeMap<ObjectId, PackUse>,
    /// Snapshots that cannot be read: what they need is not known, and they are left alone.
    pub problems: Vec<Problem>,
}

impl Uses {
    pub async fn gather(vault: &Vault, source: &SourceName) -> Result<Self, OpsError> {
        let catalog = vault.catalog(source).await?;
        let mut uses = Self { snapshots: Vec::new(), packs: BTreeMap::new(), problems: Vec::new() };
        let of_broken = catalog.broken.iter().map(|(name, e)| Problem::of(name.key().to_string(), e, vec![name.id]));
        uses.problems.extend(of_broken);
        let base = base_of_the_next(&catalog);
        let mut standing: Vec<&Snapshot> = catalog.snapshots.iter().collect();
        standing.sort_by_key(|snapshot| (std::cmp::Reverse(snapshot.sequence), snapshot.id));
        let mut seen = HashSet::new();
        for snapshot in standing {
            vault.env.cancel.check()?;
            let Some(front) = catalog.front(&snapshot.id) else { continue };
            match uses.add(vault, &front.name, (base == Some(snapshot.id), &mut seen)).await {
                Ok(()) => {}
                Err(error) if is_of_the_snapshot(&error) => {
                    uses.hold_all_of(&front.name);
                    let object = format!("snapshot {}", snapshot.id);
                    uses.problems.push(Problem::of(object, &error, vec![snapshot.id]));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(uses)
    }

    /// Counts what a snapshot uses. `seen` are the places of nodes whose units were counted with another.
    async fn add(
        &mut self,
        vault: &Vault,
        name: &SnapshotName,
        (held, seen): (bool, &mut HashSet<(ObjectId, u32, u32)>),
    ) -> Result<(), RepoError> {
        let manifest = vault.repo.manifest(name).await?;
        let unsealer = vault.unsealer.as_ref().ok_or(RepoError::NoIdentity)?;
        let reader = SnapshotReader::open(vault.repo.clone(), manifest, unsealer)?;
        let newest = self.snapshots.len();
        for Reference { object, stored, total_units, .. } in reader.manifest().table.refs() {
            let fresh = PackUse { stored: *stored, total: *total_units, live: HashMap::new(), newest, held };
            self.packs.entry(*object).or_insert(fresh).held |= held;
        }
        let refs = reader.manifest().table.refs().iter().map(|reference| reference.object).collect();
        self.snapshots.push((name.clone(), refs));
        for stream in 0..reader.body().facts.streams.len() {
            let wanted = |node: &backstay_format::tree::NodeRef| seen.insert((node.object, node.place.offset, node.at));
            let packs = &mut self.packs;
            reader
                .walk_where(stream, wanted, |step| {
                    let Step::Leaf(at) = step else { return Ok(()) };
                    at.leaf.runs().iter().for_each(|run| live(packs, run));
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    /// What this snapshot needs is not known after all, so nothing it refers to is left.
    fn hold_all_of(&mut self, name: &SnapshotName) {
        let Some((_, refs)) = self.snapshots.pop_if(|(last, _)| last == name) else { return };
        for (_, pack) in self.packs.iter_mut().filter(|(id, _)| refs.contains(*id)) {
            pack.held = true;
        }
    }

    /// How many snapshots refer to one of these.
    pub fn affected(&self, packs: &BTreeSet<ObjectId>) -> usize {
        self.snapshots.iter().filter(|(_, refs)| !refs.is_disjoint(packs)).count()
    }

    pub fn volume(&self, which: impl Fn(&ObjectId) -> bool) -> Volume {
        let mut volume = Volume::default();
        for (_, pack) in self.packs.iter().filter(|(id, _)| which(id)) {
            volume.packs += 1;
            volume.bytes = ByteLen::new(volume.bytes.get() + pack.stored);
            let live = if pack.total == 0 { pack.stored } else { pack.used().live_bytes() };
            volume.live = ByteLen::new(volume.live.get() + live);
        }
        volume
    }
}

fn live(packs: &mut BTreeMap<ObjectId, PackUse>, run: &UnitRun) {
    if let Some(pack) = packs.get_mut(&run.object) {
        let slots = pack.live.entry(run.place.frame).or_default();
        (run.slot..run.slot.saturating_add(run.count)).for_each(|slot| slots.add(slot));
    }
}

/// The newest whole snapshot, as a backup looks for it.
fn base_of_the_next(catalog: &Catalog) -> Option<ObjectId> {
    let whole = catalog.snapshots.iter().filter(|snapshot| snapshot.quality == Quality::Whole);
    whole.max_by_key(|snapshot| snapshot.sequence).map(|snapshot| snapshot.id)
}
