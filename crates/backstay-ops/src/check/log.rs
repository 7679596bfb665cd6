//! The log behind snapshots, from where each begins to where it ends. Every object is looked at once.
//!
//! *Intact*: signature, name, place in the chain, every byte. *Authentic*: also every record's digest, and so every
//! page, from the snapshot on. What is wrong with a log says nothing against the snapshots: the commits behind
//! the place cannot be restored, and they can.

use super::{CheckRequest, Depth, Holes, Problem};
use crate::catalog::{Catalog, Vault};
use crate::disk::DiskFile;
use crate::log::{self, LogPoint, Onto, Rolled};
use crate::prove::with_causes;
use crate::{Event, OpsError};
use backstay_format::FingerprintKey;
use backstay_format::facts::{Following, Prune};
use backstay_model::catalog::Snapshot;
use backstay_model::checking::Select;
use backstay_model::{Digest, Kind, Kinded, Onward, Sequence, SourceName, StreamId, Verdict};
use backstay_store::keys::{self, LogName, Place};
use backstay_store::repo::{ManifestFront, RepoError, SnapshotReader};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

/// Streams that are followed one after another before it is taken for a circle.
const STREAMS_MAX: u32 = 1 << 16;

/// What was found of logs.
#[derive(Default)]
pub(super) struct Logged {
    pub problems: Vec<Problem>,
    pub objects: u64,
    pub bytes: u64,
}

/// What an object that is whole says of its place.
#[derive(Clone)]
struct Seen {
    previous: Digest,
    digest: Digest,
    onward: Onward,
    last: Sequence,
}

struct Walk<'a> {
    vault: &'a Vault,
    prune: Option<&'a Prune>,
    holes: Holes,
    seen: HashMap<(StreamId, Sequence), Seen>,
    /// The roll-ups of the streams that were walked through.
    rolled: HashMap<StreamId, Rolled>,
    found: Logged,
}

/// Looks at the log behind each of these snapshots.
pub(super) async fn look(
    vault: &Vault,
    request: &CheckRequest,
    (catalog, holes): (&Catalog, Holes),
    snapshots: &[&Snapshot],
) -> Result<Logged, OpsError> {
    let prune = catalog.prune.as_ref().map(|head| &head.record.facts);
    let (seen, rolled) = (HashMap::new(), HashMap::new());
    let mut walk = Walk { vault, prune, holes, seen, rolled, found: Logged::default() };
    // The oldest first: what is made of a log is read with the log that leads past it.
    let mut read = BTreeSet::new();
    for snapshot in snapshots.iter().rev() {
        let Some(front) = catalog.front(&snapshot.id) else { continue };
        let Some(following) = &front.facts.following else { continue };
        let whole = walk.from(&front.facts.source, following).await?;
        if let (true, Depth::Authentic, Some(_)) = (whole, request.depth, &vault.unsealer) {
            let began = following.made.map_or(snapshot.id, |made| made.began);
            let is_read = read.contains(&began) && following.made.is_some();
            let before = walk.found.problems.len();
            walk.authentic((front, following), is_read).await?;
            // Where it ended early, what is behind was not read.
            if walk.found.problems.len() == before {
                read.insert(began);
            }
        }
    }
    walk.roll_ups(request.depth).await?;
    Ok(walk.found)
}

/// The snapshots whose log is looked at: of a check that leaves something for another time, the newest.
pub(super) fn behind<'a>(request: &CheckRequest, catalog: &'a Catalog, select: Select) -> Vec<&'a Snapshot> {
    let followed = |s: &&Snapshot| catalog.front(&s.id).is_some_and(|front| front.facts.following.is_some());
    let wanted = |s: &&Snapshot| request.snapshot.is_none_or(|id| id == s.id);
    let mut snapshots: Vec<&Snapshot> = catalog.snapshots.iter().filter(followed).filter(wanted).collect();
    snapshots.sort_by_key(|s| std::cmp::Reverse(s.sequence));
    if select != Select::All {
        snapshots.truncate(1);
    }
    snapshots
}

impl Walk<'_> {
    /// From a snapshot's place to the end of what is durable. Whether nothing is wrong on the way.
    async fn from(&mut self, source: &SourceName, following: &Following) -> Result<bool, OpsError> {
        let (mut stream, mut slot) = (following.stream, following.sequence);
        let (mut previous, mut streams) = (None, 0);
        // The last slot of a roll-up that stands for slots that are gone.
        let mut unsure = None;
        loop {
            self.vault.env.cancel.check()?;
            let seen = match self.at(stream, slot).await {
                Ok(Some(seen)) => seen,
                Ok(None) => match (self.instead(stream, slot).await?, unsure) {
                    (Some((rolled, from)), _) => {
                        // In the middle of one the chain goes on with its end.
                        previous = previous.filter(|_| from == slot);
                        unsure = Some(rolled.last);
                        rolled
                    }
                    // The last slots of a stream never go.
                    (None, Some(last)) => return self.lacks(stream, last),
                    (None, None) => return self.ends(stream, slot).await,
                },
                Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                Err(error) => {
                    self.say(keys::log(&stream, slot).to_string(), &error);
                    return Ok(false);
                }
            };
            if previous.is_some_and(|previous| previous != seen.previous) {
                let key = keys::log(&stream, slot).to_string();
                self.say(key.clone(), &RepoError::BrokenChain { key });
                return Ok(false);
            }
            if let Some(next) = seen.onward.of(source) {
                streams += 1;
                if streams > STREAMS_MAX {
                    return Ok(false);
                }
                (stream, slot, previous) = (next, Sequence::FIRST, Some(Digest::ZERO));
                // What comes behind the roll-up is there.
                unsure = None;
                continue;
            }
            unsure = unsure.filter(|last| *last == seen.last);
            previous = Some(seen.digest);
            let Some(next) = seen.last.next() else { return Ok(true) };
            slot = next;
        }
    }

    /// A roll-up that stands for a slot which is not there, and the slot it begins at.
    async fn instead(&mut self, stream: StreamId, slot: Sequence) -> Result<Option<(Seen, Sequence)>, OpsError> {
        for name in self.roll_ups_of(stream).await?.over(slot) {
            match self.vault.repo.log_front_of(&name).await {
                Ok(Some(front)) => {
                    let (previous, digest, last) = (front.chain.previous, front.end, name.last);
                    return Ok(Some((Seen { previous, digest, onward: Onward::default(), last }, name.first)));
                }
                Ok(None) => {}
                Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                // It is named with the others.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    async fn roll_ups_of(&mut self, stream: StreamId) -> Result<&Rolled, OpsError> {
        Ok(match self.rolled.entry(stream) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Rolled::of(&self.vault.repo, &stream).await?),
        })
    }

    /// Every roll-up of the streams on the way: whole, and no other commits than those it stands for.
    async fn roll_ups(&mut self, depth: Depth) -> Result<(), OpsError> {
        let mut streams: Vec<StreamId> = self.seen.keys().map(|(stream, _)| *stream).collect();
        streams.sort_unstable();
        streams.dedup();
        for stream in streams {
            let rolled: Vec<LogName> = self.roll_ups_of(stream).await?.iter().copied().collect();
            for name in rolled {
                self.vault.env.cancel.check()?;
                self.roll_up(&name, depth).await?;
            }
        }
        Ok(())
    }

    async fn roll_up(&mut self, name: &LogName, depth: Depth) -> Result<(), OpsError> {
        let found = match self.vault.repo.log_object_of(name).await {
            Ok(Some(object)) => object,
            // Taken by a prune since it was listed.
            Ok(None) => return Ok(()),
            Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
            Err(error) => {
                self.add(Problem::of(name.key().to_string(), &error, Vec::new()));
                return Ok(());
            }
        };
        self.found.objects += 1;
        self.found.bytes += found.bytes().len() as u64;
        self.vault.env.tell(Event::Advanced { bytes: found.bytes().len() as u64 });
        let slot = |slot: Sequence| self.seen.get(&(name.stream, slot));
        let begins = slot(name.first).is_none_or(|seen| seen.previous == found.front.chain.previous);
        let ends = match slot(name.last) {
            Some(seen) => seen.digest == found.front.end,
            None => self.goes_on_behind(name).await?,
        };
        let mut same = begins && ends;
        if let (true, Depth::Authentic, Some(_)) = (same, depth, &self.vault.unsealer) {
            let is_there = |slot: Sequence| self.seen.contains_key(&(name.stream, slot));
            let parts = self.rolled.get(&name.stream).and_then(|rolled| rolled.parts(name, is_there));
            same = match parts {
                None => true,
                Some(parts) => match log::is_of(self.vault, name, &parts).await {
                    Err(error) if error.kind() == Kind::Corrupt => false,
                    other => other?,
                },
            };
        }
        if !same {
            let what = "it has other commits than the slots it stands for".to_owned();
            let object = name.key().to_string();
            self.add(Problem { object, what, verdict: Verdict::Fail, snapshots: Vec::new() });
        }
        Ok(())
    }

    /// Whether there is a slot from the last one of a roll-up on. The last two of a stream never go.
    async fn goes_on_behind(&self, name: &LogName) -> Result<bool, OpsError> {
        let before = keys::log(&name.stream, Sequence::new(name.last.get() - 1));
        let later = self.vault.repo.store().list(&keys::log_prefix(&name.stream), Some(&before), 1).await?;
        Ok(later.entries.iter().any(|entry| matches!(Place::of(&entry.key), Place::Log(..))))
    }

    fn lacks(&mut self, stream: StreamId, slot: Sequence) -> Result<bool, OpsError> {
        let key = keys::log(&stream, slot).to_string();
        self.say(key.clone(), &RepoError::Missing { key });
        Ok(false)
    }

    async fn at(&mut self, stream: StreamId, slot: Sequence) -> Result<Option<Seen>, RepoError> {
        if let Some(seen) = self.seen.get(&(stream, slot)) {
            return Ok(Some(seen.clone()));
        }
        let Some(object) = self.vault.repo.log_object(&stream, slot).await? else { return Ok(None) };
        let front = &object.front;
        let (previous, digest, last) = (front.chain.previous, front.digest, slot);
        let seen = Seen { previous, digest, onward: front.facts.onward(), last };
        let bytes = object.bytes().len() as u64;
        (self.found.objects, self.found.bytes) = (self.found.objects + 1, self.found.bytes + bytes);
        self.vault.env.tell(Event::Advanced { bytes });
        self.seen.insert((stream, slot), seen.clone());
        Ok(Some(seen))
    }

    /// A slot that is not there is the end, unless a later one is: then it is a hole, or prune's work.
    async fn ends(&mut self, stream: StreamId, slot: Sequence) -> Result<bool, OpsError> {
        let pruned = self.prune.is_some_and(|prune| slot.get() < prune.log_below(&stream));
        if pruned || self.holes == Holes::ByRight {
            return Ok(true);
        }
        let key = keys::log(&stream, slot);
        let later = self.vault.repo.store().list(&keys::log_prefix(&stream), Some(&key), 1).await?;
        // Roll-ups are listed behind all slots.
        if !later.entries.iter().any(|entry| matches!(Place::of(&entry.key), Place::Log(..))) {
            return Ok(true);
        }
        self.lacks(stream, slot)
    }

    /// Every commit behind a snapshot that counts, applied onto nothing: all digests are compared on the way.
    /// Where all that follows was read already, only the first of it is: that it goes on from the snapshot's digest.
    async fn authentic(
        &mut self,
        (front, following): (&ManifestFront, &Following),
        is_read: bool,
    ) -> Result<(), OpsError> {
        match self.applies((front, following), is_read).await {
            Ok(None) => Ok(()),
            // Nothing there need be damaged: what follows is not what was promised to follow.
            Ok(Some(fault)) => {
                let object = keys::log(&following.stream, following.sequence).to_string();
                let what = format!(
                    "the log behind it ends before its end: {fault}; the commits from there on cannot be restored"
                );
                self.add(Problem { object, what, verdict: Verdict::Fail, snapshots: Vec::new() });
                Ok(())
            }
            Err(error) if error.kind() == Kind::Corrupt => {
                let object = keys::log(&following.stream, following.sequence).to_string();
                let what = format!("the log from there on: {}", with_causes(&error));
                self.add(Problem { object, what, verdict: Verdict::Fail, snapshots: Vec::new() });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Why the log ends where it does, if that is not its end.
    async fn applies(
        &self,
        (front, following): (&ManifestFront, &Following),
        is_read: bool,
    ) -> Result<Option<String>, OpsError> {
        let vault = self.vault;
        let reached = match is_read {
            true => log::reach_first(&vault.repo, front, following).await?,
            false => log::reach(&vault.repo, front, following).await?,
        };
        let fault = reached.fault;
        if reached.links.is_empty() {
            return Ok(fault);
        }
        let manifest = vault.repo.manifest(&front.name).await?;
        let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
        let secret = &reader.body().facts.fingerprint;
        let key = FingerprintKey::new(secret.id, *secret.key.as_bytes());
        let (tx, at, objects) = (reached.tx, reached.at, reached.links.len());
        let point = LogPoint { tx, at, next: None, objects, links: reached.links };
        let onto = Onto { file: &Nowhere, path: Path::new("") };
        log::apply(vault, &point, (front.facts.chain(), &key), &onto).await?;
        Ok(fault)
    }

    fn say(&mut self, object: String, error: &RepoError) {
        let mut problem = Problem::of(object, error, Vec::new());
        problem.what = format!("{}; the commits from there on cannot be restored", problem.what);
        self.add(problem);
    }

    fn add(&mut self, problem: Problem) {
        if !self.found.problems.iter().any(|known| known.object == problem.object) {
            self.found.problems.push(problem);
        }
    }
}

/// A file of which nothing is kept.
struct Nowhere;

impl DiskFile for Nowhere {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn give_owner_of(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn is_at(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }
    fn lock(&self) -> io::Result<()> {
        Ok(())
    }
}
