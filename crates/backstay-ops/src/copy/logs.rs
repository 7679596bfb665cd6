//! Carries the logs behind the snapshots that a copy has: slot after slot, so that what is there is always the
//! beginning of what is here, and then their roll-ups. What a prune of the copy has taken is not sent again.

use super::perform::Run;
use super::{Act, Reread};
use crate::OpsError;
use crate::catalog::{Catalog, PruneRead};
use backstay_model::{ObjectId, Onward, Ranges, Sequence, SourceName, StreamId};
use backstay_store::keys::{self, LogName, Place};
use backstay_store::repo::{RepoError, Repository};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The streams of this run, each with the first slot that was dealt with and where it leads.
#[derive(Default)]
pub(super) struct Streams(HashMap<StreamId, (Sequence, Onward)>);

impl Run<'_> {
    /// The log behind every snapshot of a source that both sides have.
    pub(super) async fn logs(
        &mut self,
        copy: &Repository,
        catalog: &Catalog,
        source: &SourceName,
    ) -> Result<(), OpsError> {
        let there: BTreeSet<ObjectId> = copy.snapshot_names(source).await?.iter().map(|(name, _)| name.id).collect();
        let mut places: Vec<(Sequence, StreamId, Sequence)> = catalog
            .fronts
            .values()
            .filter(|front| there.contains(&front.name.id))
            .filter_map(|front| Some((front.name.sequence, front.facts.following.as_ref()?)))
            .map(|(number, following)| (number, following.stream, following.sequence))
            .collect();
        // The oldest first: what it leads through need not be gone through again for the later ones.
        places.sort_unstable();
        for (_, mut stream, mut slot) in places {
            let mut seen = BTreeSet::new();
            // A chain that bites its own tail ends.
            while seen.insert(stream) {
                let known = self.streams.0.get(&stream).filter(|(first, _)| *first <= slot);
                let next = match known {
                    Some((_, onward)) => onward.of(source),
                    None => {
                        let onward = self.stream(copy, stream, slot).await?;
                        let next = onward.of(source);
                        self.streams.0.insert(stream, (slot, onward));
                        next
                    }
                };
                let Some(next) = next else { break };
                (stream, slot) = (next, Sequence::FIRST);
            }
        }
        Ok(())
    }

    /// One stream from a slot on. Where it leads, if everything of it is there now.
    async fn stream(&mut self, copy: &Repository, stream: StreamId, slot: Sequence) -> Result<Onward, OpsError> {
        let prune = PruneRead::of(copy).await?.head;
        let gone = prune.map_or(0, |head| head.record.facts.log_below(&stream));
        let from = slot.get().max(gone);
        let here = Held::of(&self.vault.repo, &stream).await?;
        let there = Held::of(copy, &stream).await?;
        let mut wanted: Option<u64> = None;
        for (number, len) in here.slots.range(from..) {
            self.vault.env.cancel.check()?;
            let name = LogName::slot(stream, Sequence::new(*number));
            if let Some(wanted) = wanted.filter(|wanted| !here.covers(*wanted, *number)) {
                let key = keys::log(&stream, Sequence::new(wanted));
                self.found(&key, RepoError::Missing { key: key.to_string() }, Vec::new()).await?;
                return Ok(Onward::default());
            }
            wanted = number.checked_add(1);
            // A prune of the copy let go what a roll-up there has.
            let sent = there.slots.get(number) == Some(len);
            if !sent && there.rolled.keys().any(|rolled| rolled.has(&name)) {
                continue;
            }
            if !self.log_object(&name, there.slots.contains_key(number), sent).await? {
                return Ok(Onward::default());
            }
        }
        for (name, len) in here.rolled.iter().filter(|(name, _)| name.first.get() >= from) {
            let sent = there.rolled.get(name) == Some(len);
            // What was sealed again there is not sent as it was before.
            let within = |other: &LogName| other != name && other.has(name) && other.generation >= name.generation;
            let wanted = sent || !there.rolled.keys().any(within);
            if wanted && !self.log_object(name, there.rolled.contains_key(name), sent).await? {
                return Ok(Onward::default());
            }
        }
        let Some(last) = here.slots.keys().next_back() else { return Ok(Onward::default()) };
        match self.vault.repo.log_front(&stream, Sequence::new(*last)).await {
            Ok(front) => Ok(front.map(|front| front.facts.onward()).unwrap_or_default()),
            Err(error) => {
                self.found(&keys::log(&stream, Sequence::new(*last)), error, Vec::new()).await?;
                Ok(Onward::default())
            }
        }
    }

    /// Sends one object, unless what is there is not to be read again. Whether the next may follow.
    async fn log_object(&mut self, name: &LogName, is_there: bool, sent: bool) -> Result<bool, OpsError> {
        if sent && self.request.reread == Reread::Nothing {
            return Ok(true);
        }
        if !is_there && self.request.act == Act::Compare {
            self.lacking += 1;
            return Ok(true);
        }
        match self.vault.repo.log_object_of(name).await {
            Ok(Some(object)) => self.small(&name.key(), object.bytes().clone()).await?,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.found(&name.key(), error, Vec::new()).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What is listed of a stream, and how long each object is.
struct Held {
    slots: BTreeMap<u64, u64>,
    rolled: BTreeMap<LogName, u64>,
}

impl Held {
    async fn of(repo: &Repository, stream: &StreamId) -> Result<Self, OpsError> {
        let (mut slots, mut rolled) = (BTreeMap::new(), BTreeMap::new());
        for entry in repo.list(&keys::log_prefix(stream)).await? {
            match Place::of(&entry.key) {
                Place::Log(_, slot) => drop(slots.insert(slot.get(), entry.len)),
                Place::RollUp(name) => drop(rolled.insert(name, entry.len)),
                _ => {}
            }
        }
        Ok(Self { slots, rolled })
    }

    /// Whether roll-ups have all slots from one to before another.
    fn covers(&self, from: u64, to: u64) -> bool {
        let runs: Ranges = self.rolled.keys().map(|name| (name.first.get(), name.last.get())).collect();
        from >= to || runs.holes(from, to - 1).is_empty()
    }
}
