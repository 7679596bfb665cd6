//! Puts what the plan names, in the order of every writer, and counts what became of it.

use super::gather::SourceSides;
use super::logs::Streams;
use super::{Act, CopyRequest, Destination, Reread, SourceCopy, finding};
use crate::bundles;
use crate::catalog::{Catalog, Vault};
use crate::check::Problem;
use crate::{Event, OpsError, State, verified};
use backstay_format::ObjectType;
use backstay_format::table::Reference;
use backstay_model::{BranchNo, ObjectId, SourceName};
use backstay_store::keys;
use backstay_store::repo::{Manifest, RepoError, Repository};
use backstay_store::{Key, Put, StoreError};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};

pub struct Run<'a> {
    pub(super) vault: &'a Vault,
    to: &'a Destination,
    pub(super) request: &'a CopyRequest,
    pub objects: u64,
    pub bytes: u64,
    /// Records that are not there yet, when comparing.
    pub lacking: u64,
    pub problems: Vec<Problem>,
    /// Packs of the source at hand that the copy's keeper has condemned.
    condemned: HashSet<ObjectId>,
    pub(super) streams: Streams,
}

/// What the copy's listing shows of a source's packs.
type There = HashMap<ObjectId, u64>;

/// What became of one object that the copy must have.
enum Handed {
    Was,
    Put(u64),
    /// It is lacking there, and this run only compares.
    Lacking,
    Wrong(RepoError),
    /// What stands there is not what was signed, and cannot be overwritten.
    WrongThere(RepoError),
}

impl<'a> Run<'a> {
    pub fn new(vault: &'a Vault, to: &'a Destination, request: &'a CopyRequest) -> Self {
        Self {
            vault,
            to,
            request,
            objects: 0,
            bytes: 0,
            lacking: 0,
            problems: Vec::new(),
            condemned: HashSet::new(),
            streams: Streams::default(),
        }
    }

    /// The first configurations of a copy that is not there yet; from then on it is one.
    pub async fn begin(&mut self) -> Result<Repository, OpsError> {
        for (key, bytes) in self.vault.repo.confs().await? {
            match bytes {
                Ok(bytes) => self.put_slot(&key, bytes).await?,
                Err(error) => self.found(&key, error, Vec::new()).await?,
            }
        }
        let copy = Repository::open(self.to.store.clone(), self.vault.repo.root(), None).await?;
        let state = State::open(self.vault.env.disk.clone(), &self.to.state_root, copy.id())?;
        state.remember_conf(copy.seen())?;
        Ok(copy)
    }

    /// The generations the copy has not seen yet, in order.
    pub async fn confs(&mut self, copy: &Repository) -> Result<(), OpsError> {
        for (key, bytes) in self.vault.repo.confs().await? {
            let newer = keys::slot_number(&key).is_some_and(|generation| generation > copy.seen().generation);
            match bytes {
                Ok(bytes) if newer => self.small(&key, bytes).await?,
                Ok(_) => {}
                Err(error) => self.found(&key, error, Vec::new()).await?,
            }
        }
        Ok(())
    }

    /// The master's wraps, without which a reader's own key does not open the copy.
    pub async fn wraps(&mut self) -> Result<(), OpsError> {
        for (key, bytes) in self.vault.repo.needed_wraps().await {
            match bytes {
                Ok(bytes) => self.small(&key, bytes).await?,
                Err(error) => self.found(&key, error, Vec::new()).await?,
            }
        }
        Ok(())
    }

    pub async fn source(&mut self, copy: &Repository, sides: SourceSides) -> Result<SourceCopy, OpsError> {
        let source = sides.source.clone();
        self.vault.env.tell(Event::Began { source: source.clone(), what: "copying", bytes: None });
        for (name, error) in &sides.catalog.broken {
            // Whole there, and only damaged here: it is not the copy that lacks anything.
            if sides.there.as_ref().is_none_or(|there| there.front(&name.id).is_none()) {
                self.problems.push(Problem::of(name.key().to_string(), error, vec![name.id]));
            }
        }
        self.branches(&source).await?;
        let mut there = there(copy, &source).await?;
        // Condemned is final: what will be deleted there must not be referred to again.
        self.condemned = sides.there.iter().flat_map(|there| there.condemned_packs(&source)).collect();
        let (mut copied, mut renewed) = (0, 0);
        for id in &sides.plan.missing {
            self.vault.env.cancel.check()?;
            let is_copied = self.snapshot(&sides.catalog, id, &mut there).await?;
            // One that was rewritten here has stood there before.
            let stood = sides.there.as_ref().is_some_and(|there| there.front(id).is_some());
            copied += usize::from(is_copied);
            renewed += usize::from(is_copied && stood);
        }
        if self.request.reread == Reread::Everything || self.request.act == Act::Compare {
            let old = sides.there.iter().flat_map(|there| &there.snapshots).map(|s| s.id);
            for id in old.filter(|id| sides.catalog.front(id).is_some()) {
                self.vault.env.cancel.check()?;
                self.again(&sides.catalog, &id, &mut there).await?;
            }
        }
        self.logs(copy, &sides.catalog, &source).await?;
        self.marks(copy, &sides.catalog, &source).await?;
        self.bundles(copy, &source).await?;
        self.vault.env.tell(Event::Ended);
        let had = sides.there.as_ref().map_or(0, |there| there.snapshots.len());
        let missing = sides.plan.missing.len() - copied;
        let newest = newest(copy, &source).await?;
        let snapshots = had + copied - renewed;
        Ok(SourceCopy { source, snapshots, copied, missing, left_out: sides.plan.left_out, newest })
    }

    /// What each signer did.
    pub async fn audit(&mut self) -> Result<(), OpsError> {
        for signer in &self.vault.repo.conf().signers {
            match self.vault.repo.audit(&signer.key).await {
                Ok(records) => {
                    for record in records {
                        let key = keys::audit(&signer.key, record.chain.sequence.get());
                        let bytes = self.vault.repo.record_bytes(&key, &record).await?;
                        self.small(&key, bytes).await?;
                    }
                }
                Err(error) => {
                    let error = finding(self.vault, error).await?;
                    self.problems.push(Problem::of(keys::audit_prefix(&signer.key), &error, Vec::new()));
                }
            }
        }
        Ok(())
    }

    async fn branches(&mut self, source: &SourceName) -> Result<(), OpsError> {
        match self.vault.repo.branches(source).await {
            Ok(records) => {
                for (number, record) in (0..).zip(&records) {
                    let key = keys::branch(source, BranchNo::new(number));
                    let bytes = self.vault.repo.record_bytes(&key, record).await?;
                    self.small(&key, bytes).await?;
                }
            }
            Err(error) => {
                let error = finding(self.vault, error).await?;
                self.problems.push(Problem::of(keys::branch_prefix(source), &error, Vec::new()));
            }
        }
        Ok(())
    }

    /// One snapshot: what it refers to, and only then its manifest. Whether the copy has it now.
    async fn snapshot(&mut self, catalog: &Catalog, id: &ObjectId, there: &mut There) -> Result<bool, OpsError> {
        let Some(manifest) = self.manifest(catalog, id).await? else { return Ok(false) };
        let whole = self.refs(&manifest, there).await?;
        if !whole || self.request.act == Act::Compare {
            return Ok(false);
        }
        self.put_slot(&manifest.key(), manifest.bytes().clone()).await?;
        Ok(true)
    }

    /// What a snapshot that the copy has refers to, looked at once more.
    async fn again(&mut self, catalog: &Catalog, id: &ObjectId, there: &mut There) -> Result<(), OpsError> {
        let Some(manifest) = self.manifest(catalog, id).await? else { return Ok(()) };
        self.refs(&manifest, there).await?;
        if self.request.act == Act::Compare {
            for reference in manifest.table.refs().iter().filter(|r| !there.contains_key(&r.object)) {
                let key = keys::pack(&manifest.front.name.source, &reference.object);
                self.add(in_copy(&key, &RepoError::Missing { key: key.to_string() }, vec![*id]));
            }
        }
        Ok(())
    }

    async fn manifest(&mut self, catalog: &Catalog, id: &ObjectId) -> Result<Option<Manifest>, OpsError> {
        let Some(front) = catalog.front(id) else { return Ok(None) };
        match self.vault.repo.manifest(&front.name).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) => {
                self.found(&front.name.key(), error, vec![*id]).await?;
                Ok(None)
            }
        }
    }

    /// Hands over the objects a manifest refers to, several at a time. Whether all of them are there.
    async fn refs(&mut self, manifest: &Manifest, there: &mut There) -> Result<bool, OpsError> {
        let source = &manifest.front.name.source;
        let this: &Self = self;
        let known: &There = there;
        let hand = |reference: &Reference| {
            let reference = reference.clone();
            async move {
                let handed = this.hand(source, &reference, known.get(&reference.object).copied()).await;
                (reference, handed)
            }
        };
        let in_flight = self.request.in_flight.get() as usize;
        let mut work = stream::iter(manifest.table.refs().iter().map(hand)).buffer_unordered(in_flight);
        let mut done = Vec::new();
        while let Some((reference, handed)) = work.next().await {
            this.vault.env.cancel.check()?;
            done.push((reference.object, reference.stored, handed?));
        }
        drop(work);
        let mut whole = true;
        for (object, stored, handed) in done {
            let key = keys::pack(source, &object);
            match handed {
                Handed::Was => {}
                Handed::Put(bytes) => {
                    (self.objects, self.bytes) = (self.objects + 1, self.bytes + bytes);
                    there.insert(object, stored);
                }
                Handed::Lacking => whole = false,
                Handed::Wrong(error) => {
                    whole = false;
                    self.add(Problem::of(key.to_string(), &error, vec![manifest.id()]));
                }
                Handed::WrongThere(error) => {
                    whole = false;
                    self.add(in_copy(&key, &error, vec![manifest.id()]));
                }
            }
        }
        Ok(whole)
    }

    async fn hand(&self, source: &SourceName, reference: &Reference, there: Option<u64>) -> Result<Handed, OpsError> {
        if reference.kind != ObjectType::Pack {
            let key = keys::pack(source, &reference.object);
            return Ok(Handed::Wrong(RepoError::misplaced(
                &key,
                "it is no pack; a newer Backstay is needed to copy it",
            )));
        }
        let key = keys::pack(source, &reference.object);
        if self.condemned.contains(&reference.object) {
            return Ok(Handed::WrongThere(RepoError::misplaced(
                &key,
                "it is condemned there; it can be sent again once it is gone",
            )));
        }
        match there {
            Some(len) if len != reference.stored => {
                let (wanted, found) = (reference.stored, len);
                return Ok(Handed::WrongThere(RepoError::WrongLength { key: key.to_string(), wanted, found }));
            }
            Some(_) if self.request.reread == Reread::Everything => {
                return match verified::object(self.to.store.as_ref(), &key, reference).await {
                    Ok(_) => Ok(Handed::Was),
                    Err(error) if error.is_outage() => Err(error.into()),
                    Err(error) => Ok(Handed::WrongThere(error)),
                };
            }
            Some(_) => return Ok(Handed::Was),
            None if self.request.act == Act::Compare => return Ok(Handed::Lacking),
            None => {}
        }
        let bytes = match verified::object(self.vault.repo.store().as_ref(), &key, reference).await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Handed::Wrong(finding(self.vault, error).await?)),
        };
        match self.to.store.put_new(&key, bytes).await? {
            Put::Created => {}
            // A run beside this one was quicker, or an earlier one did not hear of its success.
            Put::Exists => {
                if let Err(error) = verified::object(self.to.store.as_ref(), &key, reference).await {
                    return Ok(Handed::WrongThere(error));
                }
            }
        }
        self.vault.env.tell(Event::Advanced { bytes: reference.stored });
        Ok(Handed::Put(reference.stored))
    }

    /// Every verified mark, in the order its signer made them, so that no run leaves a hole. Also those
    /// on snapshots the copy does not have: the chain they stand in is whole or it is in doubt.
    async fn marks(&mut self, copy: &Repository, catalog: &Catalog, source: &SourceName) -> Result<(), OpsError> {
        for fault in &catalog.mark_faults {
            self.problems.push(Problem::of(keys::mark_prefix(source), fault.error(), Vec::new()));
        }
        let listed = copy.list(&keys::mark_prefix(source)).await?;
        let there: HashMap<&Key, u64> = listed.iter().map(|entry| (&entry.key, entry.len)).collect();
        let mut notices = self.vault.repo.notices(source).await?;
        let mut marks: Vec<_> = catalog.marks.iter().collect();
        marks.sort_by_key(|mark| (mark.signer, mark.chain.sequence));
        for mark in marks {
            let key = keys::mark(source, &mark.facts.snapshot, mark.facts.kind, &mark.object);
            if there.contains_key(&key) && self.request.reread == Reread::Nothing {
                continue;
            }
            match self.vault.repo.record_bytes(&key, mark).await {
                Ok(bytes) => {
                    for notice in notices.remove(&key).unwrap_or_default() {
                        self.small(&notice, bytes.clone()).await?;
                    }
                    self.small(&key, bytes).await?;
                }
                Err(error) => self.found(&key, error, Vec::new()).await?,
            }
        }
        Ok(())
    }

    /// What spares a host requests that has never been at the copy. One that cannot be had is nobody's loss.
    async fn bundles(&mut self, copy: &Repository, source: &SourceName) -> Result<(), OpsError> {
        if self.request.act == Act::Compare {
            return Ok(());
        }
        for of in bundles::lacking((&self.vault.repo, copy), source).await? {
            self.vault.env.cancel.check()?;
            if let Ok(bytes) = self.vault.repo.verified_bundle(&of).await {
                self.put_slot(&of.name.key(), bytes).await?;
            }
        }
        Ok(())
    }

    /// A small object that is the same in both, or is put now.
    pub(super) async fn small(&mut self, key: &Key, bytes: Bytes) -> Result<(), OpsError> {
        match self.to.store.get(key).await {
            Ok(found) if found == bytes => Ok(()),
            Ok(_) => {
                let differs = RepoError::misplaced(key, "it has other bytes than the original's");
                self.add(in_copy(key, &differs, Vec::new()));
                Ok(())
            }
            Err(StoreError::NotFound { .. }) if self.request.act == Act::Compare => {
                self.lacking += 1;
                Ok(())
            }
            Err(StoreError::NotFound { .. }) => self.put_slot(key, bytes).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn put_slot(&mut self, key: &Key, bytes: Bytes) -> Result<(), OpsError> {
        let len = bytes.len() as u64;
        if self.to.store.put_new(key, bytes.clone()).await? == Put::Exists && self.to.store.get(key).await? != bytes {
            return Err(RepoError::LostRace { key: key.to_string() }.into());
        }
        (self.objects, self.bytes) = (self.objects + 1, self.bytes + len);
        Ok(())
    }

    pub(super) async fn found(
        &mut self,
        key: &Key,
        error: RepoError,
        snapshots: Vec<ObjectId>,
    ) -> Result<(), OpsError> {
        let error = finding(self.vault, error).await?;
        self.add(Problem::of(key.to_string(), &error, snapshots));
        Ok(())
    }

    fn add(&mut self, problem: Problem) {
        let same = |known: &&mut Problem| (&known.object, &known.what) == (&problem.object, &problem.what);
        match self.problems.iter_mut().find(same) {
            Some(known) => known.snapshots.extend(problem.snapshots),
            None => self.problems.push(problem),
        }
    }
}

/// A finding about what stands in the copy.
fn in_copy(key: &Key, error: &RepoError, snapshots: Vec<ObjectId>) -> Problem {
    let mut problem = Problem::of(key.to_string(), error, snapshots);
    problem.what = format!("in the copy: {}", problem.what);
    problem
}

async fn there(copy: &Repository, source: &SourceName) -> Result<There, OpsError> {
    let entries = copy.list(&keys::pack_prefix(source)).await?;
    Ok(entries.iter().filter_map(|entry| Some((keys::parse_pack(source, &entry.key)?, entry.len))).collect())
}

async fn newest(copy: &Repository, source: &SourceName) -> Result<Option<ObjectId>, OpsError> {
    Ok(copy.newest_names(source, 1).await?.first().map(|name| name.id))
}
