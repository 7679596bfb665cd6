//! Bringing back: where good bytes come from, and the order in which they take their place.

use super::look::{Fault, Looked};
use super::report::{Healed, Kept, Unhealed};
use crate::catalog::{PruneRead, Vault, record_of};
use crate::check::{BadObject, Problem};
use crate::retain::Turn;
use crate::{OpsError, journal};
use backstay_format::facts::{AuditAct, Prune, Role};
use backstay_format::object;
use backstay_format::table::Reference;
use backstay_model::scrub::{Cure, Found, State, Thing, cure};
use backstay_model::{Kind, Kinded, ObjectId, Ranges, Sequence, SourceName};
use backstay_store::keys::{self, Place, SnapshotName, Spare};
use backstay_store::repo::{MarkFault, RepoError};
use backstay_store::{Key, Put, StoreError};
use bytes::Bytes;
use std::collections::BTreeSet;

/// How long a run that was paused may wake up and delete what it had decided on: as long as a prune's usual grace.
const SLEEP_MAX_MILLIS: i64 = 24 * 3_600_000;

pub(super) struct Healer<'a> {
    vault: &'a Vault,
    from: Option<&'a Vault>,
    /// Spares that were listed.
    spares: Vec<(Key, Spare)>,
    /// Those that this run put: nobody else relies on them.
    own: BTreeSet<Key>,
    turn: Option<Turn<'a>>,
    outcome: Outcome,
    /// Names that are as they must be by now.
    whole: BTreeSet<Key>,
}

#[derive(Default)]
pub(super) struct Outcome {
    pub healed: Vec<Healed>,
    pub unhealed: Vec<Unhealed>,
}

/// What good bytes are compared with.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// They say it themselves, signed.
    Signed,
    Described(&'a Reference),
}

/// Verified bytes.
struct Good {
    bytes: Bytes,
    from_spare: bool,
}

impl<'a> Healer<'a> {
    pub fn new(vault: &'a Vault, from: Option<&'a Vault>, looked: &Looked) -> Self {
        let spares = looked.entries.keys().filter_map(|key| Some((key.clone(), Spare::parse(key)?)));
        let outcome = Outcome::default();
        let (spares, own, whole) = (spares.collect(), BTreeSet::new(), BTreeSet::new());
        Self { vault, from, spares, own, turn: None, outcome, whole }
    }

    /// Whether this run heals at all.
    fn may(&self) -> bool {
        let asked = self.from.is_some() || !self.spares.is_empty();
        asked && self.vault.signer(Role::Keeper).is_ok()
    }

    /// Everything that is signed by itself: what is damaged, then what is missing.
    pub async fn signed_objects(&mut self, looked: &Looked) -> Result<(), OpsError> {
        if !self.may() {
            return Ok(());
        }
        for fault in looked.faults.iter().filter(|fault| Looked::is_known(fault)) {
            self.fault(fault).await?;
        }
        for key in self.missing_manifests(looked).await? {
            self.bring_back(&key, (Thing::Manifest { newest: false }, State::Missing), (Wanted::Signed, false)).await?;
        }
        self.missing_marks(looked).await
    }

    async fn fault(&mut self, fault: &Fault) -> Result<(), OpsError> {
        // What is about one store is not in a copy, and a spare is for `clear_spares`.
        if matches!(Place::of(&fault.key), Place::Prune(_) | Place::Lease(_) | Place::Spare(_)) {
            return Ok(());
        }
        if fault.key == keys::conf(self.vault.repo.seen().generation) && fault.state == State::Missing {
            self.vault.repo.put_conf_back().await?;
            self.say(&fault.key, (self.vault.repo.conf_bytes().len(), false, false));
            return Ok(());
        }
        self.bring_back(&fault.key, (fault.thing, fault.state), (Wanted::Signed, false)).await
    }

    /// Manifests that a spare or the copy has, and that must be here: no prune took them.
    async fn missing_manifests(&self, looked: &Looked) -> Result<Vec<Key>, OpsError> {
        let prune = PruneRead::of(&self.vault.repo).await?;
        if prune.fault.is_some() {
            // What was pruned is not known, so nothing may come back.
            return Ok(Vec::new());
        }
        let prune = prune.head.map(|head| head.record.facts);
        let of_spares = self.spares.iter().filter_map(|(_, spare)| named(&spare.of));
        let mut names: BTreeSet<Key> = of_spares.map(|name| name.key()).collect();
        if let Some(from) = self.from {
            for source in from.repo.sources().await? {
                names.extend(from.repo.snapshot_names(&source).await?.iter().map(|(name, _)| name.key()));
            }
        }
        let missing = names.into_iter().filter(|key| !looked.entries.contains_key(key));
        Ok(missing.filter(|key| named(key).is_some_and(|name| self.is_lost(looked, prune.as_ref(), &name))).collect())
    }

    /// Whether there is a hole at this number that no prune made.
    fn is_lost(&self, looked: &Looked, prune: Option<&Prune>, name: &SnapshotName) -> bool {
        let recorded = prune.and_then(|prune| record_of(prune, &name.source));
        let pending = recorded.iter().flat_map(|r| &r.pending).flat_map(|batch| &batch.snapshots);
        let gone: Ranges = recorded.map(|recorded| recorded.gone.clone()).unwrap_or_default();
        let here: Ranges = looked.snapshots(&name.source).map(|(sequence, _)| sequence.get()).collect();
        let seen = self.vault.state.seen(&name.source).ok().and_then(|seen| seen.head).map(|head| head.sequence);
        let newest: Option<Sequence> =
            looked.newest(&name.source).max(seen).max(recorded.and_then(|r| Some(r.head?.sequence)));
        let number = name.sequence.get();
        let condemned = pending.map(|snapshot| snapshot.id).any(|id| id == name.id);
        !here.contains(number) && !gone.contains(number) && !condemned && Some(name.sequence) <= newest
    }

    /// A mark that another mark here names as the one before it.
    async fn missing_marks(&mut self, looked: &Looked) -> Result<(), OpsError> {
        let Some(from) = self.from else { return Ok(()) };
        for source in self.vault.repo.sources().await? {
            let there = from.repo.marks(&source).await?;
            // A chain may lack several.
            for _ in 0..=there.records.len() {
                let here = self.vault.repo.marks(&source).await?;
                if !here.faults.iter().any(|fault| matches!(fault, MarkFault::Missing { .. })) {
                    break;
                }
                let lost = there.records.iter().find(|mark| {
                    let next = mark.chain.sequence.next();
                    let key = keys::mark(&source, &mark.facts.snapshot, mark.facts.kind, &mark.object);
                    let stands = looked.entries.contains_key(&key) || self.whole.contains(&key);
                    !stands
                        && here.records.iter().any(|after| {
                            after.signer == mark.signer
                                && Some(after.chain.sequence) == next
                                && after.chain.previous == mark.digest
                        })
                });
                let Some(mark) = lost else { break };
                let key = keys::mark(&source, &mark.facts.snapshot, mark.facts.kind, &mark.object);
                self.bring_back(&key, (Thing::Record, State::Missing), (Wanted::Signed, false)).await?;
            }
        }
        Ok(())
    }

    /// Packs that are not what a manifest says of them. The ids of those that are now.
    pub async fn packs(&mut self, source: &SourceName, bad: &[BadObject]) -> Result<BTreeSet<ObjectId>, OpsError> {
        let mut healed = BTreeSet::new();
        if !self.may() {
            return Ok(healed);
        }
        for bad in bad {
            let key = keys::pack(source, &bad.reference.object);
            let state = if bad.missing { State::Missing } else { State::Damaged };
            let wanted = (Wanted::Described(&bad.reference), bad.good_for_another);
            self.bring_back(&key, (Thing::Pack, state), wanted).await?;
            if self.whole.contains(&key) {
                healed.insert(bad.reference.object);
            }
        }
        Ok(healed)
    }

    async fn bring_back(
        &mut self,
        key: &Key,
        (thing, state): (Thing, State),
        (wanted, good_for_another): (Wanted<'_>, bool),
    ) -> Result<(), OpsError> {
        self.vault.env.cancel.check()?;
        if self.whole.contains(key) {
            return Ok(());
        }
        let good = self.find(key, wanted).await?;
        match (cure(Found { thing, state, good: good.is_some(), good_for_another }), good) {
            (Cure::Put, Some(good)) => self.put(key, (&good, wanted), false).await,
            (Cure::Replace, Some(good)) => self.replace(key, (&good, wanted)).await,
            (Cure::Leave(why), _) => {
                self.outcome.unhealed.push(Unhealed { object: key.to_string(), why });
                Ok(())
            }
            (Cure::Put | Cure::Replace, None) => Ok(()),
        }
    }

    /// Bytes of an object that were compared with what was signed: its spare's, or the copy's.
    async fn find(&self, key: &Key, wanted: Wanted<'_>) -> Result<Option<Good>, OpsError> {
        for (at, _) in self.spares.iter().filter(|(_, spare)| spare.of == *key) {
            if let Some(bytes) = self.verified(self.vault, (at, key), wanted).await? {
                return Ok(Some(Good { bytes, from_spare: true }));
            }
        }
        let Some(from) = self.from else { return Ok(None) };
        let found = self.verified(from, (key, key), wanted).await?;
        Ok(found.map(|bytes| Good { bytes, from_spare: false }))
    }

    /// What lies at a place, if it is what must lie under a name.
    async fn verified(
        &self,
        at: &Vault,
        (place, key): (&Key, &Key),
        wanted: Wanted<'_>,
    ) -> Result<Option<Bytes>, OpsError> {
        match at.repo.store().get(place).await {
            Ok(bytes) => Ok(self.fits(key, &bytes, wanted).then_some(bytes)),
            Err(error) if error.is_of_one_object() || error.kind() == Kind::Corrupt => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn fits(&self, key: &Key, bytes: &Bytes, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::Signed => self.vault.repo.verify(key, bytes).is_ok(),
            Wanted::Described(reference) => {
                bytes.len() as u64 == reference.stored && object::digest(bytes) == reference.digest
            }
        }
    }

    /// The turn, asked for before everything that changes the repository.
    async fn turn(&mut self) -> Result<(), OpsError> {
        if let Some(turn) = &mut self.turn {
            match turn.check().await {
                Err(OpsError::LeaseOver) => self.turn = None,
                other => return other,
            }
        }
        self.turn = Some(Turn::take(self.vault).await?);
        Ok(())
    }

    async fn put(&mut self, key: &Key, (good, wanted): (&Good, Wanted<'_>), replaced: bool) -> Result<(), OpsError> {
        self.turn().await?;
        self.lay(key, (good, wanted), replaced).await
    }

    async fn lay(&mut self, key: &Key, (good, wanted): (&Good, Wanted<'_>), replaced: bool) -> Result<(), OpsError> {
        self.vault.repo.put_slot(key, good.bytes.clone()).await?;
        let there = self.vault.repo.store().get(key).await?;
        if !self.fits(key, &there, wanted) {
            return Err(RepoError::misplaced(key, "it was put back a moment ago and is not what was put").into());
        }
        self.say(key, (good.bytes.len(), replaced, good.from_spare));
        Ok(())
    }

    /// The spare, durable and read back, is what makes the delete safe.
    async fn replace(&mut self, key: &Key, (good, wanted): (&Good, Wanted<'_>)) -> Result<(), OpsError> {
        let spare = Spare { of: key.clone(), digest: object::digest(&good.bytes) };
        let at = spare.key().ok_or_else(|| RepoError::misplaced(key, "no spare can be kept of it"))?;
        self.turn().await?;
        let store = self.vault.repo.store().clone();
        // A spare beside an object says that this was not as it must be: not after one bad read.
        if self.is_whole(key, wanted).await? {
            return Ok(());
        }
        match store.put_new(&at, good.bytes.clone()).await? {
            Put::Created => drop(self.own.insert(at.clone())),
            Put::Exists if store.get(&at).await? == good.bytes => {}
            Put::Exists => return Err(RepoError::misplaced(&at, "it is not the spare its name says; delete it").into()),
        }
        if !self.spares.iter().any(|(known, _)| *known == at) {
            self.spares.push((at.clone(), spare));
        }
        let kept = store.get(&at).await?;
        if kept != good.bytes {
            return Err(RepoError::misplaced(&at, "what was put there a moment ago is not given back").into());
        }
        // Somebody may have been quicker.
        if self.is_whole(key, wanted).await? {
            return Ok(());
        }
        self.turn().await?;
        store.delete(key).await?;
        if self.turn.as_ref().is_none_or(Turn::is_over) {
            // It slept: what it deleted may have been whole by then, or a prune's. The spare says what to do, and whoever
            // finished with it meanwhile is put right.
            store.put_new(&at, good.bytes.clone()).await?;
            return Err(OpsError::LeaseOver);
        }
        self.lay(key, (good, wanted), true).await
    }

    /// Looks once more at what lies under a name, and remembers if it is as it must be after all.
    async fn is_whole(&mut self, key: &Key, wanted: Wanted<'_>) -> Result<bool, OpsError> {
        let whole = match self.vault.repo.store().get(key).await {
            Ok(there) => self.fits(key, &there, wanted),
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if whole {
            self.whole.insert(key.clone());
        }
        Ok(whole)
    }

    fn say(&mut self, key: &Key, (bytes, replaced, from_spare): (usize, bool, bool)) {
        self.whole.insert(key.clone());
        let object = key.to_string();
        self.outcome.healed.push(Healed { object, replaced, from_spare, bytes: bytes as u64 });
    }

    /// What is still wrong with what is signed by itself.
    pub fn problems(&self, looked: &Looked) -> Vec<Problem> {
        let left = looked.faults.iter().filter(|fault| !self.whole.contains(&fault.key));
        // What belongs to a source is named again by the check of it, and with what it means for its snapshots.
        let own = left.filter(|fault| !matches!(Place::of(&fault.key), Place::Snapshot(_)));
        own.map(|fault| Problem::of(fault.key.to_string(), &fault.error, Vec::new())).collect()
    }

    /// Removes the spares of objects that are whole, each after the replacement was written down. Those that stay.
    pub async fn clear_spares(
        &mut self,
        looked: &Looked,
        (referenced, clean): (&BTreeSet<Key>, bool),
    ) -> Result<Vec<Kept>, OpsError> {
        let mut kept = Vec::new();
        for (at, spare) in self.spares.clone() {
            let over = self.is_over(&spare, referenced).await? || clean && !self.is_needed(&spare, referenced);
            if over && self.is_nobodys(&at, looked).await? && self.vault.signer(Role::Keeper).is_ok() {
                self.turn().await?;
                let act = AuditAct::ObjectHealed { object: spare.of.to_string(), digest: spare.digest };
                // One that was whole before this run was replaced by a run that may have died before it said so.
                if self.whole.contains(&spare.of) || !self.is_recorded(&act).await? {
                    journal::record(self.vault, act).await?;
                }
                self.vault.repo.store().delete(&at).await?;
            } else if let Some(entry) = looked.entries.get(&at) {
                kept.push(Kept::of(&spare, entry));
            }
        }
        Ok(kept)
    }

    /// Whoever put a spare may sleep between the last look and the delete, and delete the good object that another has
    /// put since. So the spare of another run is kept for as long as anybody is thought to sleep.
    async fn is_nobodys(&mut self, at: &Key, looked: &Looked) -> Result<bool, OpsError> {
        if self.own.contains(at) {
            return Ok(true);
        }
        if self.vault.signer(Role::Keeper).is_err() {
            return Ok(false);
        }
        self.turn().await?;
        let (entry, now) = (looked.entries.get(at), self.turn.as_ref().map(Turn::now));
        Ok(entry.zip(now).is_some_and(|(entry, now)| now.millis_since(entry.modified) >= SLEEP_MAX_MILLIS))
    }

    async fn is_recorded(&self, act: &AuditAct) -> Result<bool, OpsError> {
        Ok(journal::read(self.vault).await?.records.iter().any(|entry| entry.act == *act))
    }

    /// Whether the object's place holds the very bytes of the spare, and they are what was signed.
    async fn is_over(&self, spare: &Spare, referenced: &BTreeSet<Key>) -> Result<bool, OpsError> {
        match self.vault.repo.store().get(&spare.of).await {
            Ok(bytes) => {
                let signed = match Place::of(&spare.of) {
                    Place::Pack(..) => referenced.contains(&spare.of) && object::digest(&bytes) == spare.digest,
                    _ => self.vault.repo.verify(&spare.of, &bytes).is_ok(),
                };
                Ok(signed)
            }
            Err(error) if error.is_of_one_object() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether anything could want it: a pack that a snapshot refers to, a manifest that may come back.
    fn is_needed(&self, spare: &Spare, referenced: &BTreeSet<Key>) -> bool {
        !matches!(Place::of(&spare.of), Place::Pack(..)) || referenced.contains(&spare.of)
    }

    pub async fn end(self) -> Outcome {
        if let Some(turn) = self.turn {
            turn.give_back().await;
        }
        self.outcome
    }
}

fn named(key: &Key) -> Option<SnapshotName> {
    match Place::of(key) {
        Place::Snapshot(name) => Some(name),
        _ => None,
    }
}
