//! Checking: are the bytes of a source's snapshots still what was signed?
//!
//! *Intact* needs no identity: signatures, the chain, every object's length and digest. *Authentic*
//! opens every frame of every pack once, compares each unit with its fingerprint, and each snapshot's
//! map and root digest with those. What is found damaged is remembered, so that the next backup
//! stores it again, and quarantined when this host may say so.
//!
//! One object that cannot be read is a finding about that object, and the check goes on: nothing is
//! known of the snapshots that need it, so they are inconclusive and never quarantined. Nothing to look
//! at is no pass either.

mod back;
mod log;
mod memory;

pub use back::{Committed, Older, look_back};

use crate::catalog::{Catalog, Vault};
use crate::prove::{About, put_mark, with_causes};
use crate::{Event, OpsError, rebuild};
use backstay_format::FingerprintKey;
use backstay_format::directory::Holding;
use backstay_format::facts::Role;
use backstay_format::layout::FRAME_RAW_MAX;
use backstay_format::object::Object;
use backstay_format::table::Reference;
use backstay_model::catalog::{MarkKind, Snapshot};
use backstay_model::checking::Select;
use backstay_model::{Digest, Kind, Kinded, ObjectId, SourceName, Verdict};
use backstay_store::keys;
use backstay_store::repo::{Manifest, RepoError, SnapshotReader};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug, Clone)]
pub struct CheckRequest {
    pub source: SourceName,
    /// Only this snapshot, by its id; otherwise all of them.
    pub snapshot: Option<ObjectId>,
    pub depth: Depth,
}

/// How much of a source is looked at, and what counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    pub select: Select,
    pub holes: Holes,
}

/// Whether numbers without a snapshot are a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    Damage,
    /// A copy need not hold everything the original had.
    ByRight,
}

impl Scope {
    pub const EVERYTHING: Self = Self { select: Select::All, holes: Holes::Damage };
}

/// How far the check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    Intact,
    Authentic,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckReport {
    pub source: SourceName,
    pub verdict: Verdict,
    pub depth: Depth,
    pub snapshots: Vec<CheckedSnapshot>,
    pub objects: u64,
    pub bytes: u64,
    /// Objects of the log behind the snapshots, each looked at whole; their bytes are among `bytes`.
    pub log_objects: u64,
    /// Packs nobody refers to: left by runs that died, they cost space and nothing else.
    pub unreferenced: u64,
    /// Objects that were left for another time; nothing is known of them from this run.
    pub left: u64,
    /// What a look back after a backup found of objects that were left because the backup did not write them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<Older>,
    pub problems: Vec<Problem>,
    pub millis: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckedSnapshot {
    pub id: ObjectId,
    /// Inconclusive while some of its objects were not looked at.
    pub verdict: Verdict,
    /// Objects it refers to that were left for another time.
    pub left: u64,
}

/// One thing that is wrong, and the snapshots that cannot be restored because of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Problem {
    pub object: String,
    pub what: String,
    /// Fail when it is known to be wrong, inconclusive when it could not be read.
    pub verdict: Verdict,
    pub snapshots: Vec<ObjectId>,
}

/// Said of snapshots that have one number.
const RIVAL: &str = "another snapshot has its number: two writers backed up this source at once";
/// And of the one that nothing comes after, neither a snapshot nor a log, where a snapshot comes after the other.
const RIVAL_LEFT: &str = "another snapshot has its number, and the next comes after that: two writers backed up this \
    source at once";

impl Problem {
    /// Whether nothing is damaged, and one of two snapshots with one number is to be given up.
    pub fn is_of_rivals(&self) -> bool {
        [RIVAL, RIVAL_LEFT].contains(&self.what.as_str())
    }

    /// The snapshot to be given up, if it is that one.
    pub fn left(&self) -> Option<ObjectId> {
        self.snapshots.first().copied().filter(|_| self.what == RIVAL_LEFT)
    }

    pub(crate) fn of(object: String, error: &RepoError, snapshots: Vec<ObjectId>) -> Self {
        let (verdict, what) = match error.is_unreadable() {
            true => (Verdict::Inconclusive, format!("cannot be read: {}", with_causes(error))),
            false => (Verdict::Fail, with_causes(error)),
        };
        Self { object, what, verdict, snapshots }
    }
}

/// What became of the objects, each looked at once for each way in which manifests describe it: a
/// manifest that describes an object falsely says nothing about the snapshots that describe it rightly.
#[derive(Default)]
struct Objects {
    looked_at: HashMap<Described, Option<Wrong>>,
    bytes: u64,
    /// Only these are looked at; `None` is all.
    chosen: Option<BTreeSet<ObjectId>>,
    left: BTreeSet<ObjectId>,
    /// Manifests that were read and hold.
    manifests: BTreeSet<ObjectId>,
    /// Bytes looked at when what was learnt was last written down.
    remembered: u64,
    bad: Vec<BadObject>,
}

/// What is wrong with an object or a manifest.
#[derive(Clone)]
enum Wrong {
    /// It is not what was signed.
    Damaged(String),
    /// The store answers, but does not give this. It may be fine.
    Unreadable(String),
}

/// The thing, and what is wrong with it.
type Finding = (String, Wrong);

impl Wrong {
    fn verdict(&self) -> Verdict {
        match self {
            Wrong::Damaged(_) => Verdict::Fail,
            Wrong::Unreadable(_) => Verdict::Inconclusive,
        }
    }
}

fn verdict_of(found: &[Finding]) -> Verdict {
    found.iter().fold(Verdict::Pass, |all, (_, wrong)| all.and(wrong.verdict()))
}

/// An object, and the digest of all that a manifest says of it.
type Described = (ObjectId, Digest);

impl Objects {
    fn ids(&self, bad: bool) -> BTreeSet<ObjectId> {
        let chosen = self.looked_at.iter().filter(|(_, what)| what.is_some() == bad);
        chosen.map(|((id, _), _)| *id).collect()
    }

    fn all(&self) -> BTreeSet<ObjectId> {
        self.looked_at.keys().map(|(id, _)| *id).collect()
    }

    /// Everything that some manifest refers to.
    fn referenced(&self) -> BTreeSet<ObjectId> {
        self.looked_at.keys().map(|(id, _)| *id).chain(self.left.iter().copied()).collect()
    }
}

fn described(manifest: &Manifest, reference: &Reference, reader: Option<&SnapshotReader>) -> Described {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[reference.kind as u8]).update(&reference.stored.to_le_bytes());
    hasher.update(reference.digest.as_bytes()).update(&reference.salt);
    hasher.update(manifest.table.wrap(reference).unwrap_or_default());
    if let Some(reader) = reader {
        let facts = &reader.body().facts;
        hasher.update(facts.fingerprint.key.as_bytes());
        facts.streams.iter().for_each(|stream| {
            hasher.update(&stream.unit.to_le_bytes());
        });
    }
    (reference.object, Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// Looks at everything.
pub async fn check(vault: &Vault, request: &CheckRequest) -> Result<CheckReport, OpsError> {
    check_within(vault, request, Scope::EVERYTHING).await
}

/// Looks at what the scope names, and remembers what was found good.
pub async fn check_within(vault: &Vault, request: &CheckRequest, scope: Scope) -> Result<CheckReport, OpsError> {
    Ok(examine(vault, request, (scope, Marking::Now)).await?.report)
}

/// Whether what is found damaged is quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marking {
    Now,
    /// The caller may still bring back what is damaged, and a quarantine is not easily undone.
    Later,
}

/// A check and what it was made of.
pub(crate) struct Examined {
    pub report: CheckReport,
    pub catalog: Catalog,
    /// Objects that are not what a manifest says of them.
    pub bad: Vec<BadObject>,
    /// Every object that a manifest refers to.
    pub referenced: BTreeSet<ObjectId>,
}

/// An object that is not what a manifest says of it.
#[derive(Debug, Clone)]
pub(crate) struct BadObject {
    pub reference: Reference,
    pub missing: bool,
    /// It is what another manifest says of it.
    pub good_for_another: bool,
}

pub(crate) async fn examine(
    vault: &Vault,
    request: &CheckRequest,
    (scope, marking): (Scope, Marking),
) -> Result<Examined, OpsError> {
    let began = vault.env.clock.now();
    let catalog = catalog_for(vault, &request.source, scope).await?;
    vault.env.tell(Event::Began { source: request.source.clone(), what: "checking", bytes: None });
    let chosen = memory::chosen(vault, request, (&catalog, scope.select)).await?;
    let mut objects = Objects { chosen, ..Objects::default() };
    let mut problems = history_problems(vault, &request.source, (&catalog, scope.holes)).await?;
    let (mut snapshots, mut sealed_elsewhere) = (Vec::new(), None);
    let chosen = catalog.snapshots.iter().filter(|s| request.snapshot.is_none_or(|id| id == s.id));
    for snapshot in chosen {
        vault.env.cancel.check()?;
        memory::remember_now_and_then(vault, request, &mut objects);
        let mut left = 0;
        let (verdict, found) = match check_snapshot(vault, request, &catalog, snapshot, &mut objects).await {
            Ok((found, passed_over)) => {
                left = passed_over;
                (verdict_of(&found), found)
            }
            // Sealed to somebody else: nothing is known of it, and nothing may be said against it.
            Err(OpsError::Repo(error @ RepoError::Sealed { .. })) if error.kind() == Kind::Denied => {
                let found = vec![(format!("snapshot {}", snapshot.id), Wrong::Unreadable(with_causes(&error)))];
                sealed_elsewhere = Some(error);
                (Verdict::Inconclusive, found)
            }
            Err(error) => {
                give_up(vault, request, (&catalog, &snapshots, &problems), (&mut objects, marking)).await?;
                return Err(error);
            }
        };
        let verdict = if left > 0 { verdict.and(Verdict::Inconclusive) } else { verdict };
        snapshots.push(CheckedSnapshot { id: snapshot.id, verdict, left });
        add_problems(&mut problems, snapshot.id, found);
    }
    anything_seen(request, &snapshots, sealed_elsewhere)?;
    let logged =
        log::look(vault, request, (&catalog, scope.holes), &log::behind(request, &catalog, scope.select)).await?;
    problems.extend(logged.problems);
    let packs = packs(vault, &request.source).await?;
    problems.extend(without_manifests(request, &catalog, &packs));
    let unreferenced = unreferenced(request, &catalog, &packs, &objects);
    remember_suspects(vault, request, &objects)?;
    memory::remember(vault, request, &mut objects);
    if request.snapshot.is_none() && catalog.broken.is_empty() {
        memory::restrict(vault, request, &objects);
    }
    if marking == Marking::Now {
        quarantine(vault, &catalog, &snapshots, &problems).await?;
    }
    vault.env.tell(Event::Ended);
    let report = CheckReport {
        source: request.source.clone(),
        verdict: overall(&snapshots, &problems),
        depth: request.depth,
        snapshots,
        objects: objects.all().len() as u64,
        bytes: objects.bytes + logged.bytes,
        log_objects: logged.objects,
        unreferenced,
        left: objects.left.len() as u64,
        older: None,
        problems,
        millis: vault.env.clock.now().millis_since(began).max(0) as u64,
    };
    let good = objects.ids(false);
    objects.bad.iter_mut().for_each(|bad| bad.good_for_another = good.contains(&bad.reference.object));
    Ok(Examined { report, catalog, referenced: objects.referenced(), bad: objects.bad })
}

/// A check of everything reads every mark; any other leaves some for another day.
async fn catalog_for(vault: &Vault, source: &SourceName, scope: Scope) -> Result<Catalog, OpsError> {
    match scope.select {
        Select::All => vault.catalog(source).await,
        _ => vault.in_turns(source).await,
    }
}

/// What a check that cannot go on has learnt all the same. What stopped it may well stop this too; the check
/// says so itself.
async fn give_up(
    vault: &Vault,
    request: &CheckRequest,
    (catalog, snapshots, problems): (&Catalog, &[CheckedSnapshot], &[Problem]),
    (objects, marking): (&mut Objects, Marking),
) -> Result<(), OpsError> {
    remember_suspects(vault, request, objects)?;
    memory::remember(vault, request, objects);
    if marking == Marking::Now {
        let _ = quarantine(vault, catalog, snapshots, problems).await;
    }
    Ok(())
}

/// Where everything is sealed to somebody else, or what was named is not there, nothing was found out.
fn anything_seen(
    request: &CheckRequest,
    snapshots: &[CheckedSnapshot],
    sealed_elsewhere: Option<RepoError>,
) -> Result<(), OpsError> {
    if let Some(error) = sealed_elsewhere.filter(|_| snapshots.iter().all(|s| s.verdict == Verdict::Inconclusive)) {
        return Err(error.into());
    }
    match request.snapshot {
        Some(id) if snapshots.is_empty() => {
            Err(backstay_model::catalog::NoPoint::UnknownId { id: id.to_string() }.into())
        }
        _ => Ok(()),
    }
}

fn without_manifests(request: &CheckRequest, catalog: &Catalog, packs: &[ObjectId]) -> Option<Problem> {
    let none = catalog.snapshots.is_empty() && catalog.broken.is_empty() && !packs.is_empty();
    let object = format!("data/{}/snap/", request.source);
    let what = "packs are stored and no manifest is: the snapshots are gone, or none was ever finished".into();
    none.then_some(Problem { object, what, verdict: Verdict::Fail, snapshots: Vec::new() })
}

pub(crate) fn overall(snapshots: &[CheckedSnapshot], problems: &[Problem]) -> Verdict {
    // What was left for another time says nothing, for or against.
    let told = snapshots.iter().filter(|checked| checked.left == 0 || checked.verdict == Verdict::Fail);
    let looked = (!snapshots.is_empty()).then_some(Verdict::Pass);
    let verdicts = told.map(|checked| checked.verdict).chain(looked).chain(problems.iter().map(|p| p.verdict));
    // With nothing to look at, nothing was found out.
    verdicts.reduce(Verdict::and).unwrap_or(Verdict::Inconclusive)
}

/// What is wrong with the history as a whole: objects that cannot be verified, holes, rivals.
async fn history_problems(
    vault: &Vault,
    source: &SourceName,
    (catalog, holes): (&Catalog, Holes),
) -> Result<Vec<Problem>, OpsError> {
    let broken = catalog.broken.iter().map(|(name, error)| Problem::of(name.key().to_string(), error, vec![name.id]));
    let mut problems: Vec<Problem> = broken.collect();
    if let Some(fault) = vault.repo.conf_fault() {
        problems.push(Problem::of(keys::conf(vault.repo.conf().generation).to_string(), fault, Vec::new()));
    }
    problems.extend(chain_problems(catalog, holes));
    let faults = catalog.mark_faults.iter();
    problems.extend(faults.map(|fault| Problem::of(keys::mark_prefix(source), fault.error(), Vec::new())));
    let fault = catalog.prune_fault.iter();
    problems.extend(fault.map(|error| Problem::of(keys::PRUNE_PREFIX.to_owned(), error, Vec::new())));
    match vault.repo.branches(source).await {
        Ok(branches) => problems.extend(without_branch(catalog, branches.len() as u64)),
        Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
        Err(error) => problems.push(Problem::of(keys::branch_prefix(source), &error, Vec::new())),
    }
    Ok(problems)
}

/// Snapshots on a line of history that nothing describes.
fn without_branch(catalog: &Catalog, branches: u64) -> Option<Problem> {
    let beyond = catalog.snapshots.iter().filter(|s| s.branch.get() >= branches);
    let snapshots: Vec<ObjectId> = beyond.map(|s| s.id).collect();
    let (object, what) = ("branch records".to_owned(), "the record of a snapshot's branch is missing".to_owned());
    (!snapshots.is_empty()).then_some(Problem { object, what, verdict: Verdict::Fail, snapshots })
}

/// Every snapshot follows the one before it: none is missing, none was exchanged, none has a rival.
fn chain_problems(catalog: &Catalog, holes: Holes) -> Vec<Problem> {
    let mut by_sequence: BTreeMap<u64, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in &catalog.snapshots {
        by_sequence.entry(snapshot.sequence.get()).or_default().push(snapshot);
    }
    // The condemned are still what the next ones name, as long as they are there.
    let mut before_it = by_sequence.clone();
    for snapshot in &catalog.condemned {
        before_it.entry(snapshot.sequence.get()).or_default().push(snapshot);
    }
    let unverified: BTreeSet<u64> = catalog.broken.iter().map(|(name, _)| name.sequence.get()).collect();
    let mut problems = Vec::new();
    for (sequence, here) in &by_sequence {
        let mut say = |snapshot: &Snapshot, what: &str| {
            let object = format!("snapshot {}", snapshot.id);
            let snapshots = vec![snapshot.id];
            problems.push(Problem { object, what: what.into(), verdict: Verdict::Fail, snapshots });
        };
        let before = before_it.get(&sequence.wrapping_sub(1));
        let after = sequence.checked_add(1).and_then(|next| by_sequence.get(&next));
        let goes_on = |from: &Snapshot| after.is_some_and(|after| after.iter().any(|s| s.previous == from.digest));
        // The log of whoever goes on now may begin at the one that no snapshot comes after.
        let is_followed = |from: &Snapshot| catalog.fronts.get(&from.id).is_none_or(|f| f.facts.following.is_some());
        for snapshot in here {
            let follows = |before: &&Snapshot| before.digest == snapshot.previous;
            match before {
                Some(before) if !before.iter().any(follows) => {
                    say(snapshot, "it does not follow the snapshot before it: the history was forked or exchanged");
                }
                None if holes == Holes::Damage
                    && *sequence > 1
                    && !unverified.contains(&(sequence - 1))
                    && !catalog.gone.contains(sequence - 1) =>
                {
                    say(snapshot, "the history has a hole: the snapshot before it is missing");
                }
                _ => {}
            }
            if here.len() > 1 {
                let is_left = !goes_on(snapshot) && !is_followed(snapshot) && here.iter().any(|other| goes_on(other));
                say(snapshot, if is_left { RIVAL_LEFT } else { RIVAL });
            }
        }
    }
    problems
}

fn add_problems(problems: &mut Vec<Problem>, snapshot: ObjectId, found: Vec<Finding>) {
    for (object, wrong) in found {
        let verdict = wrong.verdict();
        let (Wrong::Damaged(what) | Wrong::Unreadable(what)) = wrong;
        match problems.iter_mut().find(|p| p.object == object && p.what == what) {
            Some(known) => known.snapshots.push(snapshot),
            None => problems.push(Problem { object, what, verdict, snapshots: vec![snapshot] }),
        }
    }
}

async fn check_snapshot(
    vault: &Vault,
    request: &CheckRequest,
    catalog: &Catalog,
    snapshot: &Snapshot,
    objects: &mut Objects,
) -> Result<(Vec<Finding>, u64), OpsError> {
    let front = catalog.front(&snapshot.id).expect("every snapshot of a catalog has its front");
    let key = front.name.key().to_string();
    let manifest = match vault.repo.manifest(&front.name).await {
        Ok(manifest) => manifest,
        Err(error) => return Ok((finding(vault, request, error.into(), key).await?, 0)),
    };
    objects.bytes += manifest.len();
    let reader = match (request.depth, &vault.unsealer) {
        (Depth::Authentic, Some(unsealer)) => {
            match SnapshotReader::open(vault.repo.clone(), manifest.clone(), unsealer) {
                Ok(reader) => Some(reader),
                Err(error) => return Ok((finding(vault, request, error.into(), key).await?, 0)),
            }
        }
        (Depth::Authentic, None) => return Err(RepoError::NoIdentity.into()),
        (Depth::Intact, _) => None,
    };
    let (mut found, mut left) = (Vec::new(), 0);
    for reference in manifest.table.refs() {
        if objects.chosen.as_ref().is_some_and(|chosen| !chosen.contains(&reference.object)) {
            objects.left.insert(reference.object);
            left += 1;
            continue;
        }
        if let Some(wrong) =
            check_object(vault, request, Look { manifest: &manifest, reference, reader: reader.as_ref() }, objects)
                .await?
        {
            found.push((keys::pack(&request.source, &reference.object).to_string(), wrong));
        }
    }
    if let (Some(reader), true) = (&reader, found.is_empty() && left == 0)
        && let Err(error) = restorable(vault, request, reader).await
    {
        found.extend(finding(vault, request, error, key).await?);
    }
    if found.is_empty() && left == 0 {
        objects.manifests.insert(snapshot.id);
    }
    Ok((found, left))
}

/// Whether the maps lead to what was captured, and a restore would know what to do with it.
async fn restorable(vault: &Vault, request: &CheckRequest, reader: &SnapshotReader) -> Result<(), OpsError> {
    crate::restore::suffixes(&reader.body().facts.streams)?;
    rebuild::fingerprints(reader, &vault.state.source_dir(&request.source)?).await?;
    Ok(())
}

/// A damaged thing is a finding, and so is one that a store which answers otherwise does not give; a
/// store that does not answer is not.
async fn finding(
    vault: &Vault,
    request: &CheckRequest,
    error: OpsError,
    object: String,
) -> Result<Vec<Finding>, OpsError> {
    Ok(vec![(object, wrong(vault, request, error).await?)])
}

async fn wrong(vault: &Vault, request: &CheckRequest, error: OpsError) -> Result<Wrong, OpsError> {
    match &error {
        _ if error.kind() == Kind::Corrupt => Ok(Wrong::Damaged(with_causes(&error))),
        OpsError::Repo(RepoError::Store(of_store)) if of_store.is_of_one_object() => {
            let answers = vault.repo.store().list(&keys::pack_prefix(&request.source), None, 1).await;
            answers.map(|_| Wrong::Unreadable(format!("cannot be read: {}", with_causes(&error)))).map_err(|_| error)
        }
        _ => Err(error),
    }
}

/// One object as a manifest describes it.
#[derive(Clone, Copy)]
struct Look<'a> {
    manifest: &'a Manifest,
    reference: &'a Reference,
    reader: Option<&'a SnapshotReader>,
}

/// Looks at an object once, whatever the number of snapshots that refer to it. What is wrong with it.
async fn check_object(
    vault: &Vault,
    request: &CheckRequest,
    look: Look<'_>,
    objects: &mut Objects,
) -> Result<Option<Wrong>, OpsError> {
    let Look { manifest, reference, reader } = look;
    let described = described(manifest, reference, reader);
    if let Some(known) = objects.looked_at.get(&described) {
        return Ok(known.clone());
    }
    let looked = look_at_object(vault, manifest, reference, reader).await;
    settle(vault, request, (reference, described), (looked, objects)).await
}

/// Writes down what came of looking at an object.
async fn settle(
    vault: &Vault,
    request: &CheckRequest,
    (reference, described): (&Reference, Described),
    (looked, objects): (Result<(), OpsError>, &mut Objects),
) -> Result<Option<Wrong>, OpsError> {
    let found = match looked {
        Ok(()) => None,
        Err(error) => {
            let missing = matches!(error, OpsError::Repo(RepoError::Missing { .. }));
            let wrong = wrong(vault, request, error).await?;
            if matches!(wrong, Wrong::Damaged(_)) {
                objects.bad.push(BadObject { reference: reference.clone(), missing, good_for_another: false });
            }
            Some(wrong)
        }
    };
    objects.bytes += if found.is_none() { reference.stored } else { 0 };
    objects.looked_at.insert(described, found.clone());
    vault.env.tell(Event::Advanced { bytes: reference.stored });
    Ok(found)
}

async fn look_at_object(
    vault: &Vault,
    manifest: &Manifest,
    reference: &Reference,
    reader: Option<&SnapshotReader>,
) -> Result<(), OpsError> {
    let key = keys::pack(&manifest.front.name.source, &reference.object);
    let bytes = crate::verified::object(vault.repo.store().as_ref(), &key, reference).await?;
    match reader {
        Some(reader) => crate::env::blocking(|| open_every_frame(reader, reference, &bytes)),
        None => Ok(()),
    }
}

/// Opens every frame and compares every unit with the fingerprint beside it.
fn open_every_frame(reader: &SnapshotReader, reference: &Reference, bytes: &[u8]) -> Result<(), OpsError> {
    let key = reader.object_key(&reference.object)?;
    let parsed = Object::parse(bytes).map_err(|e| RepoError::damaged(&key, e))?;
    let directory = reader.open_directory(&reference.object, &parsed)?;
    let facts = &reader.body().facts;
    let hasher = FingerprintKey::new(facts.fingerprint.id, *facts.fingerprint.key.as_bytes()).units();
    for (place, holding) in &directory {
        let sealed = parsed.frame(place).map_err(|e| RepoError::damaged(&key, e))?;
        let raw = reader.open_frame(&reference.object, place, sealed)?;
        let Holding::Units { stream, units } = holding else { continue };
        let size = reader.stream(usize::from(*stream))?.unit.clamp(1, FRAME_RAW_MAX as u32) as usize;
        let same = raw.chunks(size).map(|unit| hasher.fingerprint(unit)).eq(units.iter().map(|(_, f)| *f));
        if !same {
            return Err(RepoError::misplaced(&key, "its units are not those its fingerprints were made of").into());
        }
    }
    Ok(())
}

async fn packs(vault: &Vault, source: &SourceName) -> Result<Vec<ObjectId>, OpsError> {
    let entries = vault.repo.list(&keys::pack_prefix(source)).await?;
    Ok(entries.iter().filter_map(|entry| keys::parse_pack(source, &entry.key)).collect())
}

fn unreferenced(request: &CheckRequest, catalog: &Catalog, packs: &[ObjectId], objects: &Objects) -> u64 {
    // With one snapshot chosen, most objects were not looked at: nothing can be said.
    if request.snapshot.is_some() {
        return 0;
    }
    let mut known = objects.referenced();
    known.extend(catalog.condemned_packs(&request.source));
    packs.iter().filter(|id| !known.contains(id)).count() as u64
}

fn remember_suspects(vault: &Vault, request: &CheckRequest, objects: &Objects) -> Result<(), OpsError> {
    let good = objects.ids(false);
    let suspects: Vec<ObjectId> = objects.ids(true).into_iter().filter(|id| !good.contains(id)).collect();
    if suspects.is_empty() {
        return Ok(());
    }
    vault.state.update(&request.source, |seen| {
        seen.suspects.extend(&suspects);
        seen.suspects.sort_unstable();
        seen.suspects.dedup();
    })?;
    Ok(())
}

/// Says of every damaged snapshot, for everyone, that it must not be relied on.
pub(crate) async fn quarantine(
    vault: &Vault,
    catalog: &Catalog,
    snapshots: &[CheckedSnapshot],
    problems: &[Problem],
) -> Result<(), OpsError> {
    if vault.signer(Role::Reader).is_err() {
        return Ok(());
    }
    for checked in snapshots.iter().filter(|s| s.verdict == Verdict::Fail) {
        let known = catalog.snapshots.iter().any(|s| s.id == checked.id && s.has(MarkKind::Quarantined));
        let Some(front) = catalog.front(&checked.id).filter(|_| !known) else { continue };
        let what = problems.iter().find(|p| p.snapshots.contains(&checked.id)).map(|p| p.what.clone());
        let evidence = serde_json::json!({ "check": "failed", "reason": what });
        // Each mark follows the one before it, so the marks are read anew.
        let fresh = Catalog::gather(&vault.repo, &front.name.source).await?;
        let about = About { front, kind: MarkKind::Quarantined, releases: None, evidence, at: vault.env.clock.now() };
        put_mark(vault, &fresh, about).await?;
    }
    Ok(())
}
