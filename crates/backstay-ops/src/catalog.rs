//! Gathering a source's restore points: manifests' fronts and the marks on them, verified.

use crate::bundles::Unpacking;
use crate::state::{SeenHead, SeenMark, SeenSource};
use crate::{Env, OpsError, State};
use backstay_format::facts::{Mark, Prune, PrunedSource, Role};
use backstay_model::catalog::{self, MarkKind, NoPoint, Snapshot, Target};
use backstay_model::prune::Named;
use backstay_model::{Digest, Kind, Kinded, Moment, ObjectId, Ranges, SignerKey, SourceName};
use backstay_store::Key;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::remember::{Remembered, Seal, Verified};
use backstay_store::repo::{Chain, Listed, ManifestFront, MarkFault, MarkNames, Marks, PruneHead, Record};
use backstay_store::repo::{RepoError, Repository};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a repository holds of one source.
pub struct Catalog {
    /// Newest first; those that are condemned are not among them.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that will be deleted, and may lack objects already.
    pub condemned: Vec<Snapshot>,
    /// Numbers of which no snapshot stays: holes there are no loss.
    pub gone: Ranges,
    /// Fronts by snapshot.
    pub fronts: HashMap<ObjectId, ManifestFront>,
    pub marks: Vec<Record<Mark>>,
    /// What is wrong with the marks. A snapshot about which a mark may be missing is not called proven
    /// and is not chosen for anyone who does not name it.
    pub mark_faults: Vec<MarkFault>,
    /// Manifests that cannot be verified: never restored, never hidden.
    pub broken: Vec<(SnapshotName, RepoError)>,
    /// There are older snapshots that were not gathered.
    pub older: bool,
    /// The newest prune record. A host that may not read it goes without.
    pub prune: Option<PruneHead>,
    /// Why the prune records cannot be believed. Then nothing counts as condemned.
    pub prune_fault: Option<RepoError>,
    /// Where a list saw every mark and nothing is wrong with them, the height of the highest notice.
    pub noticed: Option<u64>,
}

/// What is said of each snapshot, and about which content.
type MarksBySnapshot = HashMap<ObjectId, Vec<(Digest, MarkKind)>>;

/// Sources looked at side by side.
const SOURCES_AT_ONCE: usize = 8;

/// Listings of the marks, before a hole in them is believed: while one signer's marks are being put,
/// a listing may show the later without the earlier.
const MARK_LISTINGS: u32 = 3;

impl Catalog {
    pub async fn gather(repo: &Repository, source: &SourceName) -> Result<Self, OpsError> {
        let marks = Self::read_marks(repo, source, &SeenSource::default()).await?;
        Self::gather_with(repo, source, marks, None).await
    }

    async fn gather_with(
        repo: &Repository,
        source: &SourceName,
        marks: Marks,
        listed: Option<Listed>,
    ) -> Result<Self, OpsError> {
        let prune = PruneRead::of(repo).await?;
        let listed = match listed {
            Some(listed) => listed,
            None => repo.list_newest(source, None).await?,
        };
        let older = listed.older;
        let mut catalog = Self::assemble(source, marks, repo.fronts_of(listed).await, prune)?;
        catalog.older = older;
        catalog.check_answering(repo, source).await?;
        Ok(catalog)
    }

    /// What a list shows, through a memory: what it does not know comes from bundles where there are any, and from the
    /// objects themselves where anything is wrong with what those brought.
    async fn recall(
        (repo, remembered): (&Repository, &Remembered),
        source: &SourceName,
        (newest, seen): (Option<usize>, &SeenSource),
    ) -> Result<Self, OpsError> {
        let mut bundles = Unpacking::new(repo, remembered, source);
        loop {
            let listed = repo.list_newest(source, newest).await?;
            bundles.bring_fronts(listed.newest()).await;
            let (marks, noticed) = Self::read_noticed(repo, source, seen, (remembered, &mut bundles)).await?;
            let mut catalog = Self::gather_with(repo, source, marks, Some(listed)).await?;
            catalog.noticed = noticed;
            if !bundles.give_up(&catalog) {
                return Ok(catalog);
            }
        }
    }

    /// The marks as a list reads them: what is known of them need not be asked for again, if nothing is wrong with
    /// what comes of that. With the height up to which all of them were seen.
    async fn read_noticed(
        repo: &Repository,
        source: &SourceName,
        seen: &SeenSource,
        (remembered, bundles): (&Remembered, &mut Unpacking<'_>),
    ) -> Result<(Marks, Option<u64>), OpsError> {
        let since = match remembered.known_marks(source) {
            Some(known) => repo.mark_names_since(source, &known).await?,
            None => None,
        };
        if let Some(names) = since {
            bundles.bring_marks(names.marks()).await;
            let marks = Self::named_marks(repo, source, seen, &names).await?;
            if marks.faults.is_empty() {
                return Ok((marks, names.height));
            }
        }
        let names = repo.mark_names(source).await?;
        bundles.bring_marks(names.marks()).await;
        let marks = Self::named_marks(repo, source, seen, &names).await?;
        if marks.faults.is_empty() {
            return Ok((marks, names.height));
        }
        Ok((Self::read_marks(repo, source, seen).await?, None))
    }

    async fn named_marks(
        repo: &Repository,
        source: &SourceName,
        seen: &SeenSource,
        names: &MarkNames,
    ) -> Result<Marks, OpsError> {
        let mut marks = repo.marks_named(source, names).await?;
        marks.faults.extend(unseen_again(repo, source, (&marks.records, seen)));
        Ok(marks)
    }

    pub(crate) async fn read_marks(
        repo: &Repository,
        source: &SourceName,
        seen: &SeenSource,
    ) -> Result<Marks, OpsError> {
        let mut marks = repo.marks(source).await?;
        for _ in 1..MARK_LISTINGS {
            if marks.faults.is_empty() {
                break;
            }
            marks = repo.marks(source).await?;
        }
        marks.faults.extend(unseen_again(repo, source, (&marks.records, seen)));
        Ok(marks)
    }

    /// Puts together what was read. Condemned snapshots are those the prune record names.
    pub(crate) fn assemble(
        source: &SourceName,
        marks: Marks,
        fronts: Fronts,
        prune: PruneRead,
    ) -> Result<Self, OpsError> {
        let recorded = prune.head.as_ref().and_then(|head| record_of(&head.record.facts, source));
        let condemned: HashSet<Named> = recorded.map(condemned_manifests).unwrap_or_default();
        let mut catalog = Self {
            snapshots: Vec::new(),
            condemned: Vec::new(),
            gone: recorded.map(|r| r.gone.clone()).unwrap_or_default(),
            fronts: HashMap::new(),
            marks: marks.records,
            mark_faults: marks.faults,
            broken: Vec::new(),
            older: false,
            prune: prune.head,
            prune_fault: prune.fault,
            noticed: None,
        };
        let said = catalog.marks_by_snapshot();
        for (name, front) in fronts {
            let is_condemned = condemned.contains(&named(&name));
            match front {
                Ok(front) => {
                    let snapshot = catalog.snapshot(&front, &said);
                    let those = if is_condemned { &mut catalog.condemned } else { &mut catalog.snapshots };
                    those.push(snapshot);
                    catalog.fronts.insert(name.id, front);
                }
                // Not to be had is not the same as damaged: the caller must not go on without it. But what
                // is condemned may go at any time.
                Err(_) if is_condemned => {}
                Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                Err(error) => catalog.broken.push((name, error)),
            }
        }
        // Who may read none of them is no judge of them.
        let denied = |(_, error): &(SnapshotName, RepoError)| error.kind() == Kind::Denied && error.is_unreadable();
        if let (true, Some(at)) = (catalog.snapshots.is_empty(), catalog.broken.iter().position(denied)) {
            return Err(catalog.broken.swap_remove(at).1.into());
        }
        Ok(catalog)
    }

    /// One manifest or mark that cannot be read is a fact about it, and the others stand. A store that gives
    /// nothing any more is an outage: that says nothing about what it holds.
    async fn check_answering(&self, repo: &Repository, source: &SourceName) -> Result<(), OpsError> {
        let of_marks = self.mark_faults.iter().any(|fault| fault.error().is_unreadable());
        if of_marks || self.broken.iter().any(|(_, error)| error.is_unreadable()) {
            repo.store().list(&keys::snapshot_prefix(source), None, 1).await?;
        }
        Ok(())
    }

    /// Manifests newer than a snapshot that cannot be verified or read: what they hold is passed over.
    pub fn broken_above(&self, snapshot: &Snapshot) -> impl Iterator<Item = &(SnapshotName, RepoError)> {
        self.broken.iter().filter(|(name, _)| name.sequence > snapshot.sequence)
    }

    /// The newest good snapshot of the living history that is not younger than an instant.
    pub fn own_at(&self, at: Moment) -> Option<Snapshot> {
        let good = catalog::living(&self.snapshots).filter(|s| !s.imported && !s.is_quarantined() && s.taken <= at);
        good.max_by_key(|s| (s.taken, s.sequence)).cloned()
    }

    /// The snapshot a target names. One about which marks may be missing answers to its own id only.
    pub fn choose(&mut self, target: &Target) -> Result<Snapshot, OpsError> {
        let chosen = catalog::choose(&self.snapshots, target);
        if let (Err(NoPoint::UnknownId { .. }), Target::Id(_)) = (&chosen, target)
            && let Ok(condemned) = catalog::choose(&self.condemned, target)
        {
            return Err(OpsError::Condemned { snapshot: condemned.id });
        }
        let doubtful = match &chosen {
            Ok(_) if matches!(target, Target::Id(_)) => None,
            Ok(snapshot) => self.doubt(snapshot),
            // It may be for want of marks that none is proven.
            Err(NoPoint::NoneProven { .. }) if !self.mark_faults.is_empty() => Some(0),
            Err(_) => None,
        };
        match doubtful {
            None => Ok(chosen?.clone()),
            Some(at) => Err(self.mark_faults.swap_remove(at).into_error().into()),
        }
    }

    /// The fault, if any, that may have hidden a mark on this snapshot.
    fn doubt(&self, snapshot: &Snapshot) -> Option<usize> {
        self.mark_faults.iter().position(|fault| match fault {
            MarkFault::Missing { until, .. } => snapshot.taken <= *until,
            MarkFault::Unreadable { snapshot: about, kind, .. } => {
                *about == snapshot.id && matches!(kind, MarkKind::Quarantined | MarkKind::Tombstoned)
            }
        })
    }

    fn marks_by_snapshot(&self) -> MarksBySnapshot {
        // A hold or a quarantine that was taken back, by a mark on the same snapshot, says nothing any more.
        let release = |mark: &Record<Mark>| Some((mark.facts.snapshot, mark.facts.root, mark.facts.releases?));
        let released: HashSet<_> = self.marks.iter().filter_map(release).collect();
        let is_over = |mark: &Record<Mark>| {
            matches!(mark.facts.kind, MarkKind::Pinned | MarkKind::Quarantined)
                && released.contains(&(mark.facts.snapshot, mark.facts.root, mark.object))
        };
        let mut marks = MarksBySnapshot::new();
        for mark in self.marks.iter().filter(|mark| !is_over(mark)) {
            marks.entry(mark.facts.snapshot).or_default().push((mark.facts.root, mark.facts.kind));
        }
        marks
    }

    fn snapshot(&self, front: &ManifestFront, marks: &MarksBySnapshot) -> Snapshot {
        let facts = &front.facts;
        let said = marks.get(&front.name.id).map(Vec::as_slice).unwrap_or_default();
        let mut marks: Vec<_> = said.iter().filter(|(root, _)| *root == facts.root).map(|(_, kind)| *kind).collect();
        marks.sort_unstable();
        marks.dedup();
        let mut snapshot = Snapshot {
            id: front.name.id,
            sequence: front.chain.sequence,
            generation: front.name.generation,
            digest: front.digest,
            previous: front.chain.previous,
            branch: facts.branch,
            position: facts.position,
            taken: facts.taken,
            root: facts.root,
            length: facts.length,
            added: facts.added,
            quality: facts.quality,
            imported: facts.imported,
            made_of: facts.following.as_ref().filter(|following| following.made.is_some()).map(|f| f.tx),
            label: facts.label.clone(),
            keep: facts.keep,
            marks,
        };
        if self.doubt(&snapshot).is_some() {
            snapshot.marks.retain(|kind| *kind != MarkKind::Proven);
        }
        snapshot
    }

    /// The names of everything here that was verified.
    pub fn verified_keys(&self, source: &SourceName) -> HashSet<Key> {
        let fronts = self.fronts.values().map(|front| front.name.key());
        let mark = |mark: &Record<Mark>| keys::mark(source, &mark.facts.snapshot, mark.facts.kind, &mark.object);
        fronts.chain(self.marks.iter().map(mark)).collect()
    }

    /// The marks that say something about a snapshot.
    pub fn about<'a>(&'a self, front: &'a ManifestFront) -> impl Iterator<Item = &'a Record<Mark>> {
        self.marks.iter().filter(|mark| mark.facts.snapshot == front.name.id && mark.facts.root == front.facts.root)
    }

    /// Packs that will be deleted.
    pub fn condemned_packs(&self, source: &SourceName) -> impl Iterator<Item = ObjectId> {
        let recorded = self.prune.as_ref().and_then(|head| record_of(&head.record.facts, source));
        recorded.into_iter().flat_map(|recorded| &recorded.pending).flat_map(|batch| &batch.packs).copied()
    }

    /// Good snapshots with a log behind them, the newest first.
    pub(crate) fn followed(&self) -> Vec<Snapshot> {
        let has_log = |s: &&Snapshot| self.front(&s.id).is_some_and(|front| front.facts.following.is_some());
        let good = self.snapshots.iter().filter(|s| !s.is_quarantined()).filter(has_log);
        let mut followed: Vec<Snapshot> = good.cloned().collect();
        followed.sort_by_key(|s| std::cmp::Reverse(s.sequence));
        followed
    }

    pub(crate) fn oldest(&self) -> Option<Snapshot> {
        self.snapshots.iter().filter(|s| !s.is_quarantined()).min_by_key(|s| (s.taken, s.sequence)).cloned()
    }

    pub fn front(&self, id: &ObjectId) -> Option<&ManifestFront> {
        self.fronts.get(id)
    }

    /// Where a signer's next mark on this source stands in the chain of its marks.
    pub fn next_mark(&self, signer: &SignerKey) -> Result<Chain, OpsError> {
        let mine = self.marks.iter().filter(|mark| mark.signer == *signer);
        match mine.max_by_key(|mark| mark.chain.sequence) {
            None => Ok(Chain::START),
            Some(last) => Ok(Chain::after(last.chain.sequence, last.digest).ok_or(backstay_model::backup::Exhausted)?),
        }
    }

    /// Refuses a history older than one this host has seen.
    pub(crate) fn check_seen(&self, seen: &SeenSource) -> Result<(), OpsError> {
        let Some(head) = seen.head else { return Ok(()) };
        let verified = self.snapshots.iter().map(|s| (s.sequence, s.digest));
        Ok(head.check(verified, self.broken.iter().map(|(name, _)| name.sequence))?)
    }

    /// Remembers the newest snapshot and each signer's newest mark, so that their disappearance is noticed. A list
    /// may have seen a mark by its notice alone: a run that was killed never put the mark itself, and nobody else
    /// would find what a list remembered.
    pub(crate) fn remember(&self, state: &State, source: &SourceName) -> Result<(), OpsError> {
        let newest = self.snapshots.iter().max_by_key(|s| s.sequence);
        state.update(source, |seen| {
            if let Some(newest) = newest.filter(|newest| seen.head.is_none_or(|head| head.sequence < newest.sequence)) {
                seen.head = Some(SeenHead { sequence: newest.sequence, digest: newest.digest });
            }
            for mark in self.marks.iter().filter(|_| self.noticed.is_none()) {
                let sequence = mark.chain.sequence;
                if seen.marks.get(&mark.signer).is_none_or(|known| known.sequence < sequence) {
                    seen.marks.insert(mark.signer, SeenMark { sequence, digest: mark.digest, at: mark.facts.at });
                }
            }
        })?;
        Ok(())
    }
}

/// How marks are found that are not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    ByNotice,
    ByName,
    /// By name, and some of what is known is read again: another part each day.
    InTurns,
}

/// Days in which every mark that is known is read again once. A prime, so that checks of any rhythm come to all of them.
const TURNS: u64 = 17;
/// So many marks are read each time.
const MARKS_READ: usize = 256;

/// Whether a mark's turn is on a day.
fn is_its_turn(key: &Key, day: u64) -> bool {
    let [first, ..] = *blake3::hash(key.as_str().as_bytes()).as_bytes();
    u64::from(first) % TURNS == day % TURNS
}

/// Names of manifests, and what each says of itself.
pub(crate) type Fronts = Vec<backstay_store::repo::Read>;

/// What could be learnt from the prune records.
#[derive(Default)]
pub(crate) struct PruneRead {
    pub head: Option<PruneHead>,
    pub fault: Option<RepoError>,
}

impl PruneRead {
    /// A writer need not be allowed to read them. One that cannot be believed must not stop a restore.
    pub(crate) async fn of(repo: &Repository) -> Result<Self, OpsError> {
        match repo.newest_prune().await {
            Ok(head) => Ok(Self { head, fault: None }),
            Err(error) if error.is_outage() && error.kind() == Kind::Denied => Ok(Self::default()),
            Err(error) if error.is_outage() => Err(error.into()),
            Err(error) => Ok(Self { head: None, fault: Some(error) }),
        }
    }
}

/// What a prune record says of a source.
pub(crate) fn record_of<'a>(prune: &'a Prune, source: &SourceName) -> Option<&'a PrunedSource> {
    prune.sources.iter().find(|pruned| pruned.source == *source)
}

/// The manifests that a record condemned and that have not been seen gone.
pub(crate) fn condemned_manifests(recorded: &PrunedSource) -> HashSet<Named> {
    let all = recorded.pending.iter().flat_map(|batch| &batch.snapshots);
    all.map(|s| Named { sequence: s.sequence, id: s.id, generation: s.generation }).collect()
}

/// A manifest's name without its source.
pub(crate) fn named(name: &SnapshotName) -> Named {
    Named { sequence: name.sequence, id: name.id, generation: name.generation }
}

/// Marks this host has seen and is not shown again, of signers who were enrolled when they made them.
fn unseen_again(
    repo: &Repository,
    source: &SourceName,
    (marks, seen): (&[Record<Mark>], &SeenSource),
) -> Vec<MarkFault> {
    let mut faults = Vec::new();
    for (signer, head) in &seen.marks {
        let roles = [Role::Reader, Role::Keeper];
        let name = backstay_store::keys::mark_prefix(source);
        let enrolled = repo.conf().accepts(signer, &roles, (&name, head.sequence, head.digest));
        let mine = || marks.iter().filter(|mark| mark.signer == *signer);
        let there = mine().any(|mark| mark.chain.sequence == head.sequence && mark.digest == head.digest);
        if enrolled && !there {
            let found = mine().map(|mark| mark.chain.sequence.get()).max().unwrap_or(0);
            let error = RepoError::RolledBack { what: "set of marks", seen: head.sequence.get(), found };
            faults.push(MarkFault::Missing { until: head.at, error });
        }
    }
    faults
}

/// An open repository with this host's memory of it, and the keys it was opened with.
pub struct Vault {
    pub repo: Repository,
    pub state: State,
    pub signer: Option<backstay_store::signing::SigningKey>,
    pub unsealer: Option<backstay_store::seal::Unsealer>,
    pub env: Env,
}

impl Vault {
    /// The same repository with its newest configuration: what is sealed from now on is sealed to the master of now.
    pub async fn renewed(&self) -> Result<Self, OpsError> {
        let states = self.state.dir().parent().unwrap_or(self.state.dir());
        let repo = crate::open::open(self.repo.store().clone(), self.repo.root(), states).await?;
        let (repo, state) = (repo.told_like(&self.repo), self.state.clone());
        state.remember_conf(repo.seen())?;
        // It is a help for a day on which the repository has lost it.
        let _ = state.keep_conf(repo.conf_bytes());
        let unsealer = self.unsealer.as_ref().map(backstay_store::seal::Unsealer::again);
        Ok(Self { repo, state, signer: self.signer.clone(), unsealer, env: self.env.clone() })
    }

    pub fn unsealer(&self) -> Result<&backstay_store::seal::Unsealer, OpsError> {
        Ok(self.unsealer.as_ref().ok_or(RepoError::NoIdentity)?)
    }

    /// The signing key, if it is enrolled for a role.
    pub fn signer(&self, role: backstay_format::facts::Role) -> Result<&backstay_store::signing::SigningKey, OpsError> {
        use backstay_format::facts::Role;
        let word = match role {
            Role::Writer => "a writer",
            Role::Keeper => "a keeper",
            Role::Reader => "a reader",
        };
        let signer = self.signer.as_ref().filter(|signer| self.repo.allows(&signer.public(), role));
        signer.ok_or(OpsError::NotEnrolled { role: word })
    }

    /// The catalog of a source, refused if it is older than what this host has seen.
    pub async fn catalog(&self, source: &SourceName) -> Result<Catalog, OpsError> {
        let seen = self.state.seen(source)?;
        let marks = Catalog::read_marks(&self.repo, source, &seen).await?;
        let catalog = Catalog::gather_with(&self.repo, source, marks, None).await?;
        self.not_older(catalog, source, &seen)
    }

    /// The same for whoever wants to know what can be restored, and not whether the store still holds it: what this host has
    /// verified before is not read again, and marks are found by their notices.
    pub async fn recalled(&self, source: &SourceName, newest: Option<usize>) -> Result<Catalog, OpsError> {
        self.read_remembered(source, (newest, Finding::ByNotice)).await
    }

    /// The same of several sources, in their order: most of their time is waiting for the store.
    pub async fn recalled_side_by_side(
        &self,
        sources: &[&SourceName],
        newest: Option<usize>,
    ) -> Result<Vec<Catalog>, OpsError> {
        let each = sources.iter().map(|source| self.recalled(source, newest));
        stream::iter(each).buffered(SOURCES_AT_ONCE).try_collect().await
    }

    /// The same for whoever will add a mark: it must follow one that is there, so every name is asked for. Only what is new is
    /// read.
    pub(crate) async fn recalled_by_name(&self, source: &SourceName) -> Result<Catalog, OpsError> {
        self.read_remembered(source, (None, Finding::ByName)).await
    }

    /// The same for a check that leaves some things for another day. Manifests are read, and of the marks those that are new
    /// and those whose turn it is; all of them where there are few.
    pub(crate) async fn in_turns(&self, source: &SourceName) -> Result<Catalog, OpsError> {
        self.read_remembered(source, (None, Finding::InTurns)).await
    }

    fn read_in_turns(&self, remembered: &Remembered, source: &SourceName) {
        let day = self.env.clock.now().as_millis() / 86_400_000;
        let stays = |key: &Key| keys::parse_mark(source, key).is_some() && !is_its_turn(key, day.unsigned_abs());
        if remembered.read_again(|key| !stays(key)) < MARKS_READ {
            remembered.read_again(|_| true);
        }
    }

    async fn read_remembered(
        &self,
        source: &SourceName,
        (newest, finding): (Option<usize>, Finding),
    ) -> Result<Catalog, OpsError> {
        let remembered = Arc::new(Remembered::new(self.repo.store().clone()));
        let sound = remembered.load(&self.state.remembered(source)?, source, self.seal());
        let (repo, seen) = (self.repo.through(remembered.clone()), self.state.seen(source)?);
        if finding == Finding::InTurns {
            self.read_in_turns(&remembered, source);
        }
        let catalog = match finding {
            Finding::ByNotice => Catalog::recall((&repo, &remembered), source, (newest, &seen)).await?,
            Finding::ByName | Finding::InTurns => {
                let marks = Catalog::read_marks(&repo, source, &seen).await?;
                Catalog::gather_with(&repo, source, marks, Some(repo.list_newest(source, newest).await?)).await?
            }
        };
        let catalog = self.not_older(catalog, source, &seen)?;
        let verified = Verified { keys: &catalog.verified_keys(source), source, height: catalog.noticed };
        // What is wrong with a mark makes what was known void: else it would be well again on the day after its turn. And a
        // full or read-only state folder must not stand between a person and a restore.
        let _ = match finding == Finding::InTurns && !catalog.mark_faults.is_empty() {
            true => self.state.remember_nothing(source),
            false => self.state.remember_more(source, sound, &remembered.verified(verified)),
        };
        Ok(catalog)
    }

    /// The same of the newest snapshots alone, for a list; all marks are looked at, so that none can be hidden, and
    /// those that are known are not read again.
    pub async fn newest(
        &self,
        source: &SourceName,
        newest: Option<usize>,
        remembered: &Remembered,
    ) -> Result<Catalog, OpsError> {
        let seen = self.state.seen(source)?;
        let catalog = Catalog::recall((&self.repo, remembered), source, (newest, &seen)).await?;
        self.not_older(catalog, source, &seen)
    }

    fn not_older(&self, mut catalog: Catalog, source: &SourceName, seen: &SeenSource) -> Result<Catalog, OpsError> {
        catalog.check_seen(seen)?;
        if catalog.prune_fault.is_none() {
            catalog.prune_fault = self.state.check_prune(catalog.prune.as_ref().map(|head| &head.record))?.err();
        }
        // A full or read-only state folder must not stand between a person and a restore: what was seen
        // is then as well known as before.
        let _ = catalog.remember(&self.state, source);
        Ok(catalog)
    }

    /// What makes a list's memory this host's own.
    pub fn seal(&self) -> Option<Seal> {
        self.signer.as_ref().map(|signer| Seal::of(signer, self.repo.id()))
    }
}
