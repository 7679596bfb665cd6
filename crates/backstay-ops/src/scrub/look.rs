//! Everything a repository lists, and what is wrong with what was signed. Packs are for the check of their
//! source: a manifest alone says what they must be.

use super::tell;
use crate::OpsError;
use crate::catalog::{PruneRead, Vault};
use backstay_model::scrub::{State, Thing};
use backstay_model::{Kind, Kinded, ObjectId, Ranges, Sequence, SourceName, StreamId};
use backstay_store::keys::{self, Place};
use backstay_store::repo::RepoError;
use backstay_store::{Entry, Key, StoreError};
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;

/// Objects read at once.
const AT_ONCE: usize = 8;

pub(super) struct Looked {
    pub entries: BTreeMap<Key, Entry>,
    pub faults: Vec<Fault>,
}

/// An object that is not as it must be.
pub(super) struct Fault {
    pub key: Key,
    pub thing: Thing,
    pub state: State,
    pub error: RepoError,
}

pub(super) async fn look(vault: &Vault) -> Result<Looked, OpsError> {
    if let Ok(source) = "repository".parse::<SourceName>() {
        tell(vault, &source, "looking at what is listed");
    }
    let mut entries = BTreeMap::new();
    for prefix in ["ctl/", keys::SOURCES_PREFIX] {
        entries.extend(vault.repo.list(prefix).await?.into_iter().map(|entry| (entry.key.clone(), entry)));
    }
    let mut looked = Looked { entries, faults: Vec::new() };
    looked.faults = looked.missing(vault).await?;
    let damaged = looked.damaged(vault).await?;
    looked.faults.extend(damaged);
    Ok(looked)
}

/// The first slot of each stream that a snapshot leads to.
async fn log_beginnings(vault: &Vault) -> Result<BTreeMap<StreamId, u64>, OpsError> {
    let mut begin: BTreeMap<StreamId, u64> = BTreeMap::new();
    for source in vault.repo.sources().await? {
        for (_, front) in vault.repo.fronts(&source).await? {
            let Ok(Some(following)) = front.map(|front| front.facts.following) else { continue };
            let first = begin.entry(following.stream).or_insert(following.sequence.get());
            *first = following.sequence.get().min(*first);
        }
    }
    Ok(begin)
}

fn log_folder(stream: &StreamId) -> String {
    keys::log_prefix(stream).trim_end_matches('/').to_owned()
}

impl Looked {
    /// Slots that must be taken, because a later one of the same chain is.
    async fn missing(&self, vault: &Vault) -> Result<Vec<Fault>, OpsError> {
        let mut chains: BTreeMap<String, (u64, Vec<u64>)> = BTreeMap::new();
        for key in self.entries.keys() {
            let (first, number) = match Place::of(key) {
                Place::Conf(n) => (0, n),
                Place::Branch(_, n) => (0, n.get()),
                Place::Audit(_, n) | Place::Prune(n) | Place::Lease(n) => (1, n),
                _ => continue,
            };
            let prefix = key.as_str().rsplit_once('/').map_or("", |(prefix, _)| prefix).to_owned();
            chains.entry(prefix).or_insert((first, Vec::new())).1.push(number);
        }
        let newest = vault.repo.seen().generation;
        if let Some((_, confs)) = chains.get_mut("ctl/conf") {
            confs.push(newest + 1);
        }
        let prune = PruneRead::of(&vault.repo).await?.head;
        let mut streams: BTreeMap<StreamId, Vec<u64>> = BTreeMap::new();
        let mut rolled: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for key in self.entries.keys() {
            match Place::of(key) {
                Place::Log(stream, slot) => streams.entry(stream).or_default().push(slot.get()),
                Place::RollUp(name) => {
                    let runs = rolled.entry(log_folder(&name.stream)).or_default();
                    runs.push((name.first.get(), name.last.get()));
                }
                _ => {}
            }
        }
        let begin = log_beginnings(vault).await?;
        for (stream, slots) in streams {
            let below = prune.as_ref().map_or(0, |head| head.record.facts.log_below(&stream));
            // What lies before the first snapshot that leads there may be nobody's.
            let first = begin.get(&stream).or(slots.iter().min()).copied().unwrap_or(1);
            chains.insert(log_folder(&stream), (below.max(first), slots));
        }
        let mut faults = Vec::new();
        for (prefix, (first, numbers)) in chains {
            // What a roll-up has a prune may let go.
            let here: Ranges = numbers.iter().copied().collect();
            let here = here.with(&rolled.remove(&prefix).unwrap_or_default().into_iter().collect());
            let last = numbers.iter().max().copied().unwrap_or(first);
            for (from, to) in here.holes(first, last) {
                for number in from..=to {
                    let Ok(key) = Key::parse(&format!("{prefix}/{number:016x}")) else { continue };
                    let error = RepoError::Missing { key: key.to_string() };
                    faults.push(Fault { thing: self.thing(&key), key, state: State::Missing, error });
                }
            }
        }
        Ok(faults)
    }

    async fn damaged(&self, vault: &Vault) -> Result<Vec<Fault>, OpsError> {
        let is_signed = |key: &&Key| !matches!(Place::of(key), Place::Pack(..) | Place::Bundle(_) | Place::Unknown);
        let signed = self.entries.keys().filter(is_signed);
        let reads = signed.map(|key| async move {
            let found = match vault.repo.store().get(key).await {
                Ok(bytes) => vault.repo.verify(key, &bytes),
                // A prune, or whoever may, took it away since it was listed.
                Err(StoreError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
            (key, found)
        });
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        let mut faults = Vec::new();
        while let Some((key, found)) = reads.next().await {
            vault.env.cancel.check()?;
            match found {
                Ok(()) => {}
                Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                Err(error) => {
                    let key = key.clone();
                    faults.push(Fault { thing: self.thing(&key), key, state: State::Damaged, error });
                }
            }
        }
        faults.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(faults)
    }

    pub(super) fn thing(&self, key: &Key) -> Thing {
        match Place::of(key) {
            Place::Snapshot(name) => Thing::Manifest { newest: self.newest(&name.source) <= Some(name.sequence) },
            Place::Log(..) | Place::Branch(..) => Thing::Slot { last: self.is_last_slot(key) },
            Place::RollUp(_) => Thing::Slot { last: false },
            Place::Pack(..) => Thing::Pack,
            _ => Thing::Record,
        }
    }

    /// Slots are in order of their numbers.
    fn is_last_slot(&self, key: &Key) -> bool {
        let prefix = key.as_str().rsplit_once('/').map_or("", |(prefix, _)| prefix);
        let above = self.entries.range(key.clone()..).map(|(above, _)| above).find(|above| *above != key);
        above.is_none_or(|above| above.as_str().rsplit_once('/').is_none_or(|(other, _)| other != prefix))
    }

    /// Snapshots count down in their names: the first is the newest.
    pub(super) fn newest(&self, source: &SourceName) -> Option<Sequence> {
        self.snapshots(source).map(|(sequence, _)| sequence).max()
    }

    pub(super) fn snapshots(&self, source: &SourceName) -> impl Iterator<Item = (Sequence, ObjectId)> {
        let prefix = keys::snapshot_prefix(source);
        let source = source.clone();
        let from = Key::parse(prefix.trim_end_matches('/')).ok();
        let below = from.map(|from| self.entries.range(from..)).into_iter().flatten();
        let below = below
            .map(|(key, _)| key)
            .take_while(move |key| key.as_str() <= prefix.as_str() || key.as_str().starts_with(&prefix));
        below.filter_map(move |key| keys::SnapshotName::parse(&source, key)).map(|name| (name.sequence, name.id))
    }

    /// Whether somebody may still make sense of it: one that cannot be read is not known to be damaged.
    pub(super) fn is_known(fault: &Fault) -> bool {
        !fault.error.is_unreadable() && fault.error.kind() != Kind::Unavailable
    }
}
