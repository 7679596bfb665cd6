//! Sealing old snapshots to the present master: afterwards a master of before opens nothing that stands.
//!
//! Owns the order. A pack that is sealed to a master of before is fetched, compared with what was signed, and sealed
//! again as another object with the same frames; when all packs of a snapshot are durable, a later generation of its
//! manifest is put, which names those. Nothing is deleted here: the earlier generation and its packs go by the next
//! prune, after the grace, and until then a restore can use either.
//!
//! Packs are sealed again once however many snapshots refer to them, and leaves of the maps that come out equal to
//! those of the snapshot rewritten before are referred to where they lie; so the repository grows by what it holds,
//! for as long as the grace is. Memory holds the maps of two snapshots, as a backup does, and a line for each pack.
//!
//! A crash leaves packs nothing refers to. Those that are written down in the state folder are used by the next run,
//! the others go by a prune. Snapshots that were done are done.
//!
//! Locks: a keeper's turn, so that no prune decides about what comes and goes here. Backups run beside it; one that
//! built on an earlier generation finds out before it commits.

mod logs;
mod made;
mod map;

use crate::catalog::{Catalog, Vault};
use crate::check::Problem;
use crate::journal;
use crate::retain::turn::Turn;
use crate::trust::TrustError;
use crate::{Event, OpsError, verified};
use backstay_format::facts::{AuditAct, Role};
use backstay_format::table::{Reference, Table};
use backstay_format::{Header, ObjectType, layout};
use backstay_model::catalog::Snapshot;
use backstay_model::{ByteLen, ObjectId, SourceName, Verdict};
use backstay_store::repo::{Manifest, RepoError, Rewrite, SnapshotReader};
use backstay_store::seal::{SealError, Sealer, Unsealer};
use backstay_store::{Key, keys};
use futures::stream::{self, StreamExt};
pub use logs::LogsReport;
use made::{Made, Pack};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Packs fetched, sealed again and put at once: each takes twice its length of memory.
const AT_ONCE: usize = 3;
/// How often the listing is looked at anew for snapshots that were committed meanwhile.
const ROUNDS: usize = 4;

#[derive(Debug, Clone, serde::Serialize)]
pub struct RewriteReport {
    /// Pass when nothing that stands is sealed to a master of before.
    pub verdict: Verdict,
    /// The master everything is sealed to now.
    pub master: String,
    pub sources: Vec<SourceReport>,
    /// All logs of the repository: one may hold the commits of several sources.
    pub logs: LogsReport,
    pub not_recorded: Option<String>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct SourceReport {
    pub source: SourceName,
    pub verdict: Verdict,
    /// Snapshots that stand.
    pub snapshots: usize,
    /// Those of them that this run sealed again.
    pub rewritten: usize,
    /// Packs that were sealed again, and their bytes.
    pub packs: u64,
    pub bytes: ByteLen,
    /// Log objects with its commits that masters of before open, and that nothing can take the place of yet.
    pub log_objects: u64,
    /// Snapshots that could not be rewritten, and why; their earlier manifests stand.
    pub problems: Vec<Problem>,
}

/// Rewrites what of these sources is sealed to a master of before. Needs a keeper who reads.
pub async fn rewrite(vault: &Vault, sources: &[SourceName]) -> Result<RewriteReport, OpsError> {
    if vault.repo.is_unsealed() {
        return Err(TrustError::Unsealed.into());
    }
    vault.signer(Role::Reader)?;
    vault.signer(Role::Keeper)?;
    let present = present(vault)?;
    let mut turn = Turn::take(vault).await?;
    let done = in_turn(vault, &present, (sources, &mut turn)).await;
    turn.give_back().await;
    let (sources, logs) = done?;
    let master = vault.repo.conf().master.clone();
    let snapshots: u64 = sources.iter().map(|row| row.rewritten as u64).sum();
    let act = AuditAct::SnapshotsRewritten { master: master.clone(), snapshots };
    let not_recorded = if snapshots > 0 || logs.roll_ups > 0 { journal::note(vault, act).await } else { None };
    let verdict = sources.iter().map(|row| row.verdict).fold(logs.verdict, Verdict::and);
    Ok(RewriteReport { verdict, master, sources, logs, not_recorded })
}

/// What opens only what is sealed to the present master.
fn present(vault: &Vault) -> Result<Unsealer, OpsError> {
    let master = &vault.repo.conf().master;
    let own = vault.unsealer()?.identities().iter().find(|identity| identity.master().text() == master);
    Ok(Unsealer::new(own.ok_or(RepoError::NoIdentity)?.clone()))
}

async fn in_turn(
    vault: &Vault,
    present: &Unsealer,
    (sources, turn): (&[SourceName], &mut Turn<'_>),
) -> Result<(Vec<SourceReport>, LogsReport), OpsError> {
    let mut rows = Vec::new();
    for source in sources {
        let mut run = Run::begin(vault, present, source).await?;
        run.all(turn).await?;
        rows.push(run.end());
    }
    let (logs, left): (LogsReport, BTreeMap<SourceName, u64>) = logs::rewrite(vault, present, turn).await?;
    for row in &mut rows {
        row.log_objects = left.get(&row.source).copied().unwrap_or(0);
        if row.log_objects > 0 {
            row.verdict = row.verdict.and(Verdict::Partial);
        }
    }
    Ok((rows, logs))
}

/// The rewriting of one source.
struct Run<'a> {
    vault: &'a Vault,
    present: &'a Unsealer,
    source: &'a SourceName,
    made: Made,
    /// The snapshot that was rewritten, or found to be, last: what the next one's map is compared with.
    before: Option<map::Before>,
    /// Snapshots this run is done with, one way or the other.
    seen: HashSet<ObjectId>,
    report: SourceReport,
}

impl<'a> Run<'a> {
    async fn begin(vault: &'a Vault, present: &'a Unsealer, source: &'a SourceName) -> Result<Self, OpsError> {
        vault.env.tell(Event::Began { source: source.clone(), what: "sealing again", bytes: None });
        let report = SourceReport {
            source: source.clone(),
            verdict: Verdict::Pass,
            snapshots: 0,
            rewritten: 0,
            packs: 0,
            bytes: ByteLen::new(0),
            log_objects: 0,
            problems: Vec::new(),
        };
        let made = Made::load(vault, present, source).await?;
        Ok(Self { vault, present, source, made, before: None, seen: HashSet::new(), report })
    }

    /// Every snapshot, the newest first, until a look finds none that is left.
    async fn all(&mut self, turn: &mut Turn<'_>) -> Result<(), OpsError> {
        for _ in 0..ROUNDS {
            let catalog = self.vault.catalog(self.source).await?;
            self.report.snapshots = catalog.snapshots.len();
            let mut left: Vec<&Snapshot> = catalog.snapshots.iter().filter(|s| !self.seen.contains(&s.id)).collect();
            if left.is_empty() {
                return self.broken(&catalog);
            }
            left.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence));
            for snapshot in left {
                turn.check().await?;
                self.vault.env.cancel.check()?;
                self.seen.insert(snapshot.id);
                match self.one(&catalog, snapshot, turn).await {
                    Ok(()) => {}
                    Err(OpsError::Repo(error)) if is_of_the_snapshot(&error) => {
                        self.problem(format!("snapshot {}", snapshot.id), &error, snapshot.id);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Manifests nobody can verify are not rewritten, and what they need stays.
    fn broken(&mut self, catalog: &Catalog) -> Result<(), OpsError> {
        for (name, error) in &catalog.broken {
            self.problem(name.key().to_string(), error, name.id);
        }
        Ok(())
    }

    fn problem(&mut self, object: String, error: &RepoError, snapshot: ObjectId) {
        self.report.problems.push(Problem::of(object, error, vec![snapshot]));
    }

    async fn one(&mut self, catalog: &Catalog, snapshot: &Snapshot, turn: &mut Turn<'_>) -> Result<(), OpsError> {
        let Some(front) = catalog.front(&snapshot.id) else { return Ok(()) };
        let repo = &self.vault.repo;
        let manifest = repo.manifest(&front.name).await?;
        let sealed = |error| RepoError::sealed(&manifest.key(), error);
        let old = self.sealed_before(&manifest).map_err(sealed)?;
        let own = self.present.opens(&manifest.wrap()?).map_err(sealed)?;
        let reader = SnapshotReader::open(repo.clone(), manifest, self.vault.unsealer()?)?;
        if own && old.is_empty() {
            self.before = map::Before::of(&reader).await?;
            return Ok(());
        }
        let sealer = repo.sealer(self.vault.env.random.as_ref());
        self.packs(&reader, (&sealer, &old), turn).await?;
        let built = map::build(self, &reader, &sealer).await?;
        turn.check().await?;
        self.commit(&reader, &sealer, built).await?;
        self.report.rewritten += 1;
        Ok(())
    }

    /// The objects of its table that the present master does not open.
    fn sealed_before(&self, manifest: &Manifest) -> Result<BTreeSet<ObjectId>, SealError> {
        let mut old = BTreeSet::new();
        for reference in manifest.table.refs() {
            if !self.present.opens(manifest.table.wrap(reference).unwrap_or_default())? {
                old.insert(reference.object);
            }
        }
        Ok(old)
    }

    /// Seals those packs again that hold units and were not made before. Those that hold nothing but nodes have no
    /// use: the nodes are made anew.
    async fn packs(
        &mut self,
        reader: &SnapshotReader,
        (sealer, old): (&Sealer, &BTreeSet<ObjectId>),
        turn: &mut Turn<'_>,
    ) -> Result<(), OpsError> {
        let table = &reader.manifest().table;
        let wanted = |r: &&Reference| r.live_units > 0 && old.contains(&r.object) && self.made.get(&r.object).is_none();
        let wanted: Vec<Reference> = table.refs().iter().filter(wanted).cloned().collect();
        let vault = self.vault;
        let work = wanted.into_iter().map(|reference| async move { again(vault, reader, sealer, reference).await });
        let mut work = stream::iter(work).buffer_unordered(AT_ONCE);
        while let Some(pack) = work.next().await {
            let pack = pack?;
            vault.env.cancel.check()?;
            turn.check().await?;
            self.report.packs += 1;
            self.report.bytes = ByteLen::new(self.report.bytes.get() + pack.reference.stored);
            vault.env.tell(Event::Advanced { bytes: pack.reference.stored });
            self.made.add(pack);
        }
        Ok(())
    }

    /// The later generation: the one put that changes anything.
    async fn commit(&mut self, reader: &SnapshotReader, sealer: &Sealer, built: map::Built) -> Result<(), OpsError> {
        let (vault, manifest) = (self.vault, reader.manifest());
        let table: Table = built.table(self, manifest, sealer)?;
        let body =
            backstay_store::repo::SealedBody { facts: reader.body().facts.elsewhere(), roots: built.roots.clone() };
        let generation = vault.repo.next_generation(self.source).await?;
        let rewrite =
            Rewrite { of: manifest, generation, table: table.clone(), body, signer: vault.signer(Role::Keeper)? };
        let (name, bytes) = rewrite.seal(sealer, vault.env.random.as_ref())?;
        if vault.repo.is_outdated().await? {
            return Err(OpsError::KeysChanged);
        }
        vault.env.cancel.check()?;
        vault.repo.put_generation(&name, bytes).await?;
        self.before = Some(map::Before { parts: built.parts, table });
        Ok(())
    }

    fn end(mut self) -> SourceReport {
        if self.report.problems.is_empty() {
            self.made.forget(self.vault);
        }
        let problems = self.report.problems.iter().map(|problem| problem.verdict).reduce(Verdict::and);
        self.report.verdict = problems.unwrap_or(Verdict::Pass);
        self.vault.env.tell(Event::Ended);
        self.report
    }
}

/// Whether it says something about one snapshot only: then the others are rewritten all the same.
pub(crate) fn is_of_the_snapshot(error: &RepoError) -> bool {
    !matches!(error, RepoError::LostRace { .. }) && (!error.is_outage() || error.is_unreadable())
}

/// One pack: fetched, compared with what was signed, sealed again, durable, and read back.
async fn again(
    vault: &Vault,
    reader: &SnapshotReader,
    sealer: &Sealer,
    reference: Reference,
) -> Result<Pack, OpsError> {
    let (repo, source) = (&vault.repo, &reader.manifest().front.name.source);
    let bytes = verified::object(repo.store().as_ref(), &reader.object_key(&reference.object)?, &reference).await?;
    let random = vault.env.random.as_ref();
    let sealed = crate::env::blocking(|| reader.seal_again(&reference.object, &bytes, sealer, random))?;
    drop(bytes);
    let object = sealed.object;
    let new = Reference {
        object: object.id,
        kind: ObjectType::Pack,
        stored: object.bytes.len() as u64,
        digest: object.digest,
        salt: object.salt,
        ..reference
    };
    let key = keys::pack(source, &object.id);
    repo.put_fresh(&key, object.bytes).await?;
    // Once a manifest refers to it the one before goes: so it is what the store gives back that counts.
    verified::object(repo.store().as_ref(), &key, &new).await?;
    Ok(Pack { old: reference.object, reference: new, wrap: sealer.wrap().into(), moved: sealed.moved })
}

/// Whether an object is sealed to the present master, by its front.
async fn front_opens(vault: &Vault, present: &Unsealer, (key, len): (&Key, u64)) -> Result<bool, RepoError> {
    let front = len.min((layout::header::LEN + layout::WRAP_MAX) as u64);
    let bytes = vault.repo.store().get_range(key, 0..front).await?;
    let wrap = Header::parse(&bytes).map_err(|e| RepoError::damaged(key, e))?.seal.map(|seal| seal.wrap);
    present.opens(&wrap.unwrap_or_default()).map_err(|e| RepoError::sealed(key, e))
}
