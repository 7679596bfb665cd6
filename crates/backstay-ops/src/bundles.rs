//! Bundles: what a host that has read nothing yet would ask for one by one, in one object.
//!
//! A backup makes one after every sixteenth snapshot, of what it has just read and verified; a list and whatever else goes
//! by memory reads them where much is unknown; a copy takes those along in which all was signed; a prune deletes those that
//! are of no more use. Nothing is decided by a bundle: listings say what exists, and each front and mark in it is verified
//! like any other. Without any of them, or with all of them damaged, the same is shown for more requests.
//!
//! A crash leaves a bundle or none. Two hosts that make one of the same snapshots leave two, of which a prune lets one stay.

use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use backstay_model::bundles::{covered, first_of, is_due, is_quarter};
use backstay_model::prune::Found;
use backstay_model::{Moment, Sequence, SourceName};
use backstay_store::Key;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::remember::Remembered;
use backstay_store::repo::{BundleEntry, Bundled, MarkFault, Repository};
use futures::future::join_all;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Fewer unknown objects than this are asked for one by one.
const FEW: usize = 16;
/// Bundles read at once.
const AT_ONCE: usize = 4;
/// Marks in a bundle, for each snapshot in it.
const MARKS_EACH: u64 = 8;

/// Bundles that are read for one list: a dozen have all that a list shows.
const MOST: usize = 16;
/// Bundles that are looked at, the newest, and of the same snapshots: more than anybody needs, and than anybody made who
/// wishes well.
const LOOKED_AT: usize = 4096;
const ALIKE: usize = 2;

/// The bundles of a source that are of numbers a bundle is made of, newest first. Whoever may put can put any name.
async fn sound(repo: &Repository, source: &SourceName) -> Result<Vec<BundleEntry>, OpsError> {
    let mut alike: BTreeMap<(Sequence, Sequence), usize> = BTreeMap::new();
    let mut there = repo.bundles(source).await?;
    there.retain(|of| {
        let span = (of.name.first, of.name.last);
        let count = alike.entry(span).or_default();
        *count += 1;
        is_due(span) && *count <= ALIKE
    });
    there.truncate(LOOKED_AT);
    Ok(there)
}

/// Makes the bundle that is due after a snapshot, if one is.
pub async fn make(vault: &Vault, source: &SourceName, last: Sequence) -> Result<(), OpsError> {
    let Some(first) = first_of(last) else { return Ok(()) };
    let there = sound(&vault.repo, source).await?;
    let remembered = Arc::new(Remembered::new(vault.repo.store().clone()));
    let repo = vault.repo.through(remembered.clone());
    for inside in there.iter().filter(|of| is_quarter((of.name.first, of.name.last), (first, last))) {
        // What cannot be had of it is read one by one.
        let _ = repo.unpack(inside, |_| true, &remembered).await;
    }
    let of = gather((&repo, &remembered), source, (first, last, noticed_before(&there, first))).await?;
    let (noticed, bundled) = of;
    if bundled.is_empty() {
        return Ok(());
    }
    Ok(vault.repo.put_bundle(source, (first, last), (noticed, &bundled)).await?)
}

/// From where on marks are in no bundle of earlier snapshots.
fn noticed_before(there: &[BundleEntry], first: Sequence) -> u64 {
    there.iter().filter(|of| of.name.last < first).map(|of| of.name.noticed).max().unwrap_or(0)
}

/// The fronts of these snapshots and the marks that were noticed since, as far as they can be verified.
async fn gather(
    (repo, remembered): (&Repository, &Remembered),
    source: &SourceName,
    (first, last, from): (Sequence, Sequence, u64),
) -> Result<(u64, Bundled), OpsError> {
    let span = last.get() - first.get() + 1;
    let listed = repo.list_newest(source, usize::try_from(span).ok()).await?;
    let names = repo.mark_names_from(source, from, usize::try_from(span * MARKS_EACH).unwrap_or(usize::MAX)).await?;
    let fronts = repo.fronts_of(listed).await;
    let fronts = fronts.into_iter().filter_map(|(_, front)| front.ok()).map(|front| front.name);
    let fronts = fronts.filter(|name| (first..=last).contains(&name.sequence)).map(|name| name.key());
    let marks = repo.marks_named(source, &names).await?.records;
    let marks = marks.iter().map(|mark| keys::mark(source, &mark.facts.snapshot, mark.facts.kind, &mark.object));
    let mut bundled = Bundled::default();
    for key in fronts.chain(marks) {
        if let Some(bytes) = remembered.bytes(&key)
            && !bundled.add(key, bytes)
        {
            break;
        }
    }
    Ok((names.noticed(), bundled))
}

/// The bundles that another one has whole, and those of which no snapshot stands, with their lengths: as many as the
/// store lets go by now.
pub(crate) async fn idle(
    vault: &Vault,
    source: &SourceName,
    (found, now): (&Found, Moment),
) -> Result<Vec<(Key, u64)>, OpsError> {
    let there = sound(&vault.repo, source).await?;
    let spans: Vec<_> = there.iter().map(|of| (of.name.first, of.name.last)).collect();
    let stands = |of: &BundleEntry| found.standing.iter().any(|s| of.name.spans(s.snapshot.sequence));
    let idle = there.iter().zip(covered(&spans)).filter(|(of, covered)| *covered || !stands(of));
    let idle = idle.filter(|(of, _)| vault.repo.lock().is_none_or(|lock| lock.is_over(of.stored, now)));
    Ok(idle.map(|(of, _)| (of.name.key(), of.len)).collect())
}

/// The bundles of a repository that a copy of it lacks, of snapshots that it has.
pub(crate) async fn lacking(
    (repo, copy): (&Repository, &Repository),
    source: &SourceName,
) -> Result<Vec<BundleEntry>, OpsError> {
    let of_use = of_use(sound(repo, source).await?);
    let there = sound(copy, source).await?;
    let has =
        |of: &BundleEntry| there.iter().any(|has| has.name.first <= of.name.first && of.name.last <= has.name.last);
    let mut lacking: Vec<BundleEntry> = of_use.into_iter().filter(|of| !has(of)).collect();
    if !lacking.is_empty() {
        let stands = copy.list_newest(source, None).await?;
        lacking.retain(|of| stands.newest().any(|name| of.name.spans(name.sequence)));
    }
    Ok(lacking)
}

/// Those that no other one has whole.
fn of_use(there: Vec<BundleEntry>) -> Vec<BundleEntry> {
    let spans: Vec<_> = there.iter().map(|of| (of.name.first, of.name.last)).collect();
    there.into_iter().zip(covered(&spans)).filter(|(_, covered)| !*covered).map(|(of, _)| of).collect()
}

/// Bundles as they are read for what a memory does not know.
pub(crate) struct Unpacking<'a> {
    repo: &'a Repository,
    remembered: &'a Remembered,
    source: &'a SourceName,
    /// Those that were not read yet, once they were listed; newest first.
    left: Option<Vec<BundleEntry>>,
    /// How many were.
    read: usize,
}

impl<'a> Unpacking<'a> {
    pub fn new(repo: &'a Repository, remembered: &'a Remembered, source: &'a SourceName) -> Self {
        Self { repo, remembered, source, left: None, read: 0 }
    }

    /// Brings what it can of fronts that are not known.
    pub async fn bring_fronts(&mut self, names: impl Iterator<Item = &SnapshotName>) {
        let unknown: Vec<(Key, Sequence)> =
            names.map(|name| (name.key(), name.sequence)).filter(|(key, _)| !self.remembered.has(key)).collect();
        let sequences: Vec<Sequence> = unknown.iter().map(|(_, sequence)| *sequence).collect();
        let unknown = unknown.into_iter().map(|(key, _)| key).collect();
        self.bring(unknown, |of| sequences.iter().any(|sequence| of.name.spans(*sequence))).await;
    }

    /// The same of marks. Their names do not say which bundle has them: the newest come first.
    pub async fn bring_marks(&mut self, names: impl Iterator<Item = &Key>) {
        let unknown = names.filter(|key| !self.remembered.has(key)).cloned().collect();
        self.bring(unknown, |_| true).await;
    }

    /// Where something is wrong that was brought: takes all of that back, and brings no more. Whether it was so.
    pub fn give_up(&mut self, catalog: &Catalog) -> bool {
        let of_fronts = catalog.broken.iter().map(|(name, _)| name.key());
        let of_marks = catalog.mark_faults.iter().filter_map(|fault| match fault {
            MarkFault::Unreadable { key, .. } => Some(key.clone()),
            MarkFault::Missing { .. } => None,
        });
        let is_wrong = of_fronts.chain(of_marks).any(|key| self.remembered.is_offered(&key));
        if is_wrong {
            self.left = Some(Vec::new());
            self.remembered.take_back();
        }
        is_wrong
    }

    async fn bring(&mut self, mut unknown: HashSet<Key>, may_have: impl Fn(&BundleEntry) -> bool) {
        if unknown.len() < FEW {
            return;
        }
        let left = match self.left.take() {
            Some(left) => left,
            None => self.listed().await,
        };
        let (mut wanted, kept): (Vec<_>, Vec<_>) = left.into_iter().partition(may_have);
        while unknown.len() >= FEW && !wanted.is_empty() && self.read < MOST {
            let now: Vec<BundleEntry> = wanted.drain(..wanted.len().min(AT_ONCE).min(MOST - self.read)).collect();
            self.read += now.len();
            // One that cannot be had brings nothing, and what it has is asked for itself.
            // Which marks are asked for next is not known while fronts are.
            let is_wanted = |key: &Key| unknown.contains(key) || keys::parse_mark(self.source, key).is_some();
            join_all(now.iter().map(|of| self.repo.unpack(of, is_wanted, self.remembered))).await;
            unknown.retain(|key| !self.remembered.has(key));
        }
        wanted.extend(kept);
        wanted.sort_by_key(|of| std::cmp::Reverse(of.name.last));
        self.left = Some(wanted);
    }

    /// A store that does not give them says so when it is asked for what they are to bring.
    async fn listed(&self) -> Vec<BundleEntry> {
        of_use(sound(self.repo, self.source).await.unwrap_or_default())
    }
}
