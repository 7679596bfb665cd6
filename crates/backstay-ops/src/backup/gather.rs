//! What a backup looks at before it decides, and the decision.

use super::report::BaseUse;
use super::{BackupRequest, Begin, Plan, Purpose};
use crate::OpsError;
use crate::base::Base;
use crate::catalog::{Catalog, PruneRead, Vault, condemned_manifests, named, record_of};
use crate::rebuild;
use crate::state::{Identity, SeenSource};
use backstay_model::backup::{self, Lineage, Tip, World};
use backstay_model::catalog::{MarkKind, Quality};
use backstay_model::lock::ObjectLock;
use backstay_model::prune::Named;
use backstay_model::space::{self, ObjectUse, SpacePolicy};
use backstay_model::{BranchNo, Moment, ObjectId, Sequence, SourceName};
use backstay_sqlite::FileIdentity;
use backstay_store::Entry;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::repo::ManifestFront;
use std::collections::{HashMap, HashSet};

/// How far back a backup looks for a snapshot it can build on.
pub(crate) const LOOK_BACK: usize = 16;

/// How far above the newest verified snapshot a number is still believed to have been used.
const NUMBERS_AHEAD: u64 = 1 << 20;

/// Bytes referred to, in hundredths of the live ones, above which objects are left behind.
const RATIO_PERCENT: u64 = 125;
/// Small objects a snapshot may refer to before they are merged, and what small is: packs are full at
/// several times that.
const SMALL_OBJECTS_MAX: usize = 512;
const SMALL: u64 = 4 << 20;
/// The share of the live bytes one backup may spend on that: one part in this many.
const BUDGET_SHARE: u64 = 16;

pub struct Gathered {
    /// The newest snapshot of all: the next one is numbered after it.
    pub tip: Option<Tip>,
    /// The newest one of the line this run continues.
    pub own: Option<Tip>,
    pub used: Option<Sequence>,
    pub newest_taken: Option<Moment>,
    pub branches: u64,
    newest_branch: Option<BranchNo>,
    /// Whether this host wrote the newest snapshot, as far as it remembers or its signature says.
    pub tip_is_ours: bool,
    pub seen: SeenSource,
    pub file: Option<Identity>,
    pub base: Option<Base>,
    pub base_name: Option<SnapshotName>,
    why_full: &'static str,
    /// Objects the base refers to that are not in the store as they should be.
    missing: HashSet<ObjectId>,
    /// Objects the base refers to whose lock ends before a new snapshot's is to.
    unlocked: HashSet<ObjectId>,
}

impl Gathered {
    /// Whether the newest snapshot is this one, and all of it may be built upon.
    pub fn is_just(&self, id: &ObjectId) -> bool {
        let is_it = self.own.is_some_and(|own| own.id == *id);
        let builds_on_it = self.base_name.as_ref().is_some_and(|base| base.id == *id);
        let is_whole = self.missing.is_empty() && self.unlocked.is_empty() && self.seen.suspects.is_empty();
        is_it && builds_on_it && is_whole
    }

    pub fn base_use(&self) -> BaseUse {
        match &self.base_name {
            Some(name) => BaseUse::Incremental { on: name.id },
            None => BaseUse::Full { why: self.why_full },
        }
    }
}

pub async fn gather(vault: &Vault, request: &BackupRequest, purpose: Purpose<'_>) -> Result<Gathered, OpsError> {
    let source = &request.source;
    let seen = vault.state.seen(source)?;
    // A damaged manifest is passed over, not a reason to stop backing up: the check and the status
    // speak of it.
    let (fronts, unverified) = vault.repo.newest_fronts(source, LOOK_BACK).await?;
    let unverified: Vec<Sequence> = unverified.iter().map(|name| name.sequence).collect();
    if let Some(head) = seen.head {
        let verified = fronts.iter().map(|front| (front.chain.sequence, front.digest));
        head.check(verified, unverified.iter().copied())?;
    }
    let imports = matches!(purpose, Purpose::Import { .. });
    let own = newest_of_line(vault, source, &fronts, imports).await?;
    let branches = vault.repo.newest_branches(source).await?;
    let mut gathered = Gathered {
        tip: fronts.first().map(tip),
        own: own.as_ref().map(tip),
        used: used(&fronts, &unverified),
        newest_taken: own.as_ref().map(|front| front.facts.taken),
        branches: branches.taken,
        newest_branch: if imports { branches.imported } else { branches.living },
        tip_is_ours: imports || tip_is_ours(vault, &seen, own.as_ref()),
        seen,
        file: FileIdentity::of_path(&request.path).ok().map(Identity::from),
        base: None,
        base_name: None,
        why_full: "it is the first",
        missing: HashSet::new(),
        unlocked: HashSet::new(),
    };
    choose_base(vault, request, &fronts, &mut gathered).await?;
    if let Some(base) = &gathered.base {
        let packs = vault.repo.list(&keys::pack_prefix(&request.source)).await?;
        let packs: HashMap<ObjectId, &Entry> =
            packs.iter().filter_map(|e| Some((keys::parse_pack(&request.source, &e.key)?, e))).collect();
        gathered.missing = missing_objects(base, &packs);
        gathered.unlocked = unlocked_objects(vault, base, &packs);
    }
    Ok(gathered)
}

/// The newest snapshot of the living history, or of what was imported. Many old copies may have been
/// brought in since the last backup: then all fronts are read.
async fn newest_of_line(
    vault: &Vault,
    source: &SourceName,
    newest: &[ManifestFront],
    imports: bool,
) -> Result<Option<ManifestFront>, OpsError> {
    let is_own = |front: &&ManifestFront| front.facts.imported == imports;
    let found = newest.iter().find(is_own).cloned();
    // Imports may begin at any time, and there mostly is none: only their absence from a living history is odd.
    if found.is_some() || newest.len() < LOOK_BACK || (imports && !newest.iter().any(|front| front.facts.imported)) {
        return Ok(found);
    }
    let all = vault.repo.fronts(source).await?;
    let fronts = all.into_iter().filter_map(|(_, front)| front.ok());
    Ok(fronts.filter(|front| is_own(&front)).max_by_key(|front| front.chain.sequence))
}

/// The highest number that is taken. A manifest nobody can verify has used its number too, unless
/// nobody can have counted that far: rubbish must not use up the numbers.
fn used(fronts: &[ManifestFront], unverified: &[Sequence]) -> Option<Sequence> {
    let tip = fronts.first().map(|front| front.chain.sequence);
    let reachable = tip.map_or(0, Sequence::get).saturating_add(NUMBERS_AHEAD);
    let believable = unverified.iter().copied().filter(|sequence| sequence.get() <= reachable);
    believable.max().max(tip)
}

fn tip(front: &ManifestFront) -> Tip {
    Tip {
        id: front.name.id,
        sequence: front.chain.sequence,
        digest: front.digest,
        branch: front.facts.branch,
        position: front.facts.position,
    }
}

/// Looks for the newest snapshot worth building on: whole, and with nothing said against it.
async fn choose_base(
    vault: &Vault,
    request: &BackupRequest,
    fronts: &[ManifestFront],
    gathered: &mut Gathered,
) -> Result<(), OpsError> {
    let dir = vault.state.source_dir(&request.source)?;
    let condemned = condemned(vault, request).await?;
    for front in fronts {
        if front.facts.quality != Quality::Whole {
            gathered.why_full = "the newest snapshot is not whole";
            continue;
        }
        if condemned.contains(&named(&front.name)) {
            gathered.why_full = "the newest snapshot is condemned";
            return Ok(());
        }
        // What made it bad may lie in an object that older snapshots refer to as well: building on one
        // of those would only make the next bad one.
        if is_quarantined(vault, front).await? {
            gathered.why_full = "the newest snapshot is quarantined";
            return Ok(());
        }
        // Those of other manifests are never used again, and a full disk may be full of them.
        Base::sweep(vault.env.disk.as_ref(), &dir, &front.name.id);
        // A cache that cannot be read is as good as none.
        gathered.base = match Base::load(&dir, &front.name).unwrap_or_default() {
            Some(base) => Some(base),
            None if vault.unsealer.is_some() => rebuild::base(vault, &front.name, &dir).await?,
            None => None,
        };
        gathered.why_full = match vault.unsealer {
            Some(_) => "the local cache is gone and cannot be rebuilt from the repository",
            None => "the local cache is gone and this host cannot read the repository",
        };
        gathered.base_name = gathered.base.as_ref().map(|_| front.name.clone());
        return Ok(());
    }
    Ok(())
}

/// What must not be referred to any more, if this host may read it. One that may not builds on the newest,
/// which is never condemned.
async fn condemned(vault: &Vault, request: &BackupRequest) -> Result<HashSet<Named>, OpsError> {
    let head = PruneRead::of(&vault.repo).await?.head;
    let recorded = head.as_ref().and_then(|head| record_of(&head.record.facts, &request.source));
    Ok(recorded.map(condemned_manifests).unwrap_or_default())
}

async fn is_quarantined(vault: &Vault, front: &ManifestFront) -> Result<bool, OpsError> {
    let source = &front.name.source;
    let listed = vault.repo.list(&format!("{}{}/", keys::mark_prefix(source), front.name.id)).await?;
    let kinds: Vec<MarkKind> =
        listed.iter().filter_map(|entry| keys::parse_mark(source, &entry.key)).map(|(_, kind, _)| kind).collect();
    if !kinds.contains(&MarkKind::Quarantined) || !kinds.contains(&MarkKind::Released) {
        return Ok(kinds.contains(&MarkKind::Quarantined));
    }
    // It may have been taken back, which only the marks themselves say; where one is in doubt it stands.
    let marks = Catalog::read_marks(&vault.repo, source, &SeenSource::default()).await?;
    let doubtful = !marks.faults.is_empty();
    let catalog =
        Catalog::assemble(source, marks, vec![(front.name.clone(), Ok(front.clone()))], PruneRead::default())?;
    Ok(doubtful || catalog.snapshots.iter().any(|snapshot| snapshot.is_quarantined()))
}

/// Objects of the base that a listing does not show with the length they must have.
fn missing_objects(base: &Base, packs: &HashMap<ObjectId, &Entry>) -> HashSet<ObjectId> {
    let refs = base.table.refs().iter();
    refs.filter(|r| packs.get(&r.object).is_none_or(|entry| entry.len != r.stored)).map(|r| r.object).collect()
}

/// Packs that the store, or that of a copy, may delete before a snapshot of this run may be deleted. Time is the store's as far as it
/// has said any, and this host's if that is later: a clock that is behind makes the locks short, and that is alarmed.
fn unlocked_objects(vault: &Vault, base: &Base, packs: &HashMap<ObjectId, &Entry>) -> HashSet<ObjectId> {
    let locks: Vec<ObjectLock> = vault.repo.locks().collect();
    let said = packs.values().map(|entry| entry.modified).max();
    let now = said.map_or(vault.env.clock.now(), |said| said.max(vault.env.clock.now()));
    let is_old = |object: &ObjectId| {
        packs.get(object).is_some_and(|entry| {
            let may_refer = |lock: &ObjectLock| lock.may_refer(entry.modified, now);
            !locks.iter().all(may_refer)
        })
    };
    base.table.refs().iter().map(|of| of.object).filter(is_old).collect()
}

pub fn decide(gathered: &Gathered, purpose: Purpose<'_>) -> Result<Plan, OpsError> {
    let lineage = match purpose {
        Purpose::Follow(begin) => lineage_of_log(gathered, begin),
        Purpose::Live | Purpose::Log(_) => lineage(gathered),
        Purpose::Import { .. } => Lineage::Same,
    };
    let world = World {
        tip: gathered.tip,
        own: gathered.own,
        used: gathered.used,
        branches: gathered.branches,
        newest: gathered.newest_branch,
        lineage,
    };
    let mut leaving = gathered.missing.clone();
    leaving.extend(gathered.seen.suspects.iter().copied());
    leaving.extend(gathered.unlocked.iter().copied());
    if let Some(base) = &gathered.base {
        leaving.extend(thin_objects(base));
    }
    Ok(Plan { place: backup::place(world)?, leaving })
}

/// Whether this run goes on where the newest snapshot left off.
fn lineage(gathered: &Gathered) -> Lineage {
    let seen = &gathered.seen;
    match (seen.file, gathered.file, seen.restored) {
        (_, Some(now), Some(restored)) if restored.file == now => {
            Lineage::Restored { branch: restored.branch, position: restored.position }
        }
        _ if !gathered.tip_is_ours => Lineage::Takeover,
        (Some(before), Some(now), _) if before != now => Lineage::Replaced,
        _ => Lineage::Same,
    }
}

/// The same for a log. One whose end nobody can read is taken over, as if another host had written it.
fn lineage_of_log(gathered: &Gathered, begin: &dyn Begin) -> Lineage {
    let leaves = gathered.own.is_some_and(|own| begin.leaves(own.branch));
    match lineage(gathered) {
        Lineage::Same if leaves => Lineage::Takeover,
        other => other,
    }
}

/// A tip this host does not remember writing was written by another host, by a clone of this one, or
/// by this one before its disk went back. Without any memory the signature has to do.
pub(crate) fn tip_is_ours(vault: &Vault, seen: &SeenSource, tip: Option<&ManifestFront>) -> bool {
    let Some(tip) = tip else { return true };
    if seen.written.is_empty() {
        return vault.signer.as_ref().is_none_or(|signer| signer.public() == tip.signer);
    }
    seen.written.iter().any(|head| head.digest == tip.digest)
}

fn thin_objects(base: &Base) -> Vec<ObjectId> {
    let refs = base.table.refs();
    let uses: Vec<ObjectUse> = refs
        .iter()
        .map(|r| ObjectUse {
            stored: r.stored,
            total_units: u64::from(r.total_units),
            live_units: u64::from(r.live_units),
        })
        .collect();
    let stored: u64 = uses.iter().map(|u| u.stored).sum();
    let policy = SpacePolicy {
        ratio_percent: RATIO_PERCENT,
        budget: stored / BUDGET_SHARE,
        small_max: SMALL_OBJECTS_MAX,
        small: SMALL,
    };
    space::evacuate(&uses, policy).into_iter().filter_map(|at| refs.get(at)).map(|r| r.object).collect()
}
