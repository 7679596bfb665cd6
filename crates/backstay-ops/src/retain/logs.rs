//! Logs in a prune: what of them may go, condemned by the slot below which everything goes, and deleted after the
//! grace. What a stop leaves of it nobody needs, and the record says so.
//!
//! What a roll-up says once more needs no record: the roll-up is there longer than the grace, and nothing that can be
//! restored changes. But a roll-up is a writer's word, and a writer's word deletes nothing: it goes only after whoever
//! holds an identity has compared the two, commit by commit.
//!
//! A stream may hold the commits of several sources, so one source in doubt stops this for all.

use super::gather::{self, Known};
use super::{BATCH, SourceRules, Turn, doubts, locked};
use crate::OpsError;
use crate::catalog::Vault;
use crate::log::{self, Rolled};
use backstay_format::facts::{CondemnedSlots, Prune, PrunedStream};
use backstay_model::prune::GivenUp;
use backstay_model::prune::logs::{Anchor, Logs, RollUp, Rolled as Name, Stream};
use backstay_model::{ByteLen, Generation, Kind, Kinded, Moment, Sequence, StreamId};
use backstay_store::keys::{self, LogName, Place};
use backstay_store::{Entry, Key};
use std::collections::BTreeMap;

/// Slots that are looked for behind a listing: half an hour of a follower that never rests.
const WALK_MAX: usize = 10_000;

/// What a run did to logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct LogReport {
    pub streams: usize,
    pub condemned: LogTally,
    pub deleted: LogTally,
    pub waiting: LogTally,
    /// What roll-ups say once more: deleted, or to be compared and deleted.
    pub rolled: LogTally,
    /// Roll-ups that could not be compared for want of an identity, and those that say something else.
    pub unread: usize,
    pub contradicted: usize,
    /// A source is in doubt: nothing of any log was touched.
    pub doubted: bool,
    /// Objects that the store would not delete: what is younger was not tried.
    pub refused: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct LogTally {
    pub objects: u64,
    pub bytes: ByteLen,
}

impl LogTally {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = ByteLen::new(self.bytes.get() + bytes);
    }
}

/// Everything there is of logs; nothing when a source is in doubt.
pub async fn gather(
    vault: &Vault,
    rules: &[SourceRules],
    (last, known): (Option<&Prune>, &mut Known),
) -> Result<Option<Logs>, OpsError> {
    let Some(streams) = streams(vault).await? else { return Ok(None) };
    let mut logs = Logs { streams, ..Logs::default() };
    if logs.streams.is_empty() {
        return Ok(Some(logs));
    }
    for source in vault.repo.sources().await? {
        let gathered = gather::gather(vault, &source, last, known).await?;
        if !doubts(&gathered, &GivenUp::default()).is_empty() {
            return Ok(None);
        }
        for standing in &gathered.found.standing {
            let snapshot = &standing.snapshot;
            let Some(following) = known.following(&source, snapshot) else { continue };
            logs.anchors.push(Anchor {
                source: source.clone(),
                branch: snapshot.branch,
                number: snapshot.sequence,
                at: snapshot.taken.max(standing.stored),
                stream: following.stream,
                slot: following.sequence,
                counts: standing.counts(),
            });
        }
    }
    if is_hidden(vault, &logs, last).await? {
        return Ok(None);
    }
    let with_rules = rules.iter().filter(|rules| rules.policy.is_set());
    logs.spans = with_rules.map(|rules| (rules.source.clone(), rules.log_millis)).collect();
    Ok(Some(logs))
}

/// What is listed of logs; nothing if a listing left something out, or an end cannot be read: what it leads to
/// would count as needed by nobody.
async fn streams(vault: &Vault) -> Result<Option<BTreeMap<StreamId, Stream>>, OpsError> {
    let mut streams = listed(vault).await?;
    for (id, stream) in &mut streams {
        if !walk_to_its_end(vault, id, stream).await? {
            return Ok(None);
        }
    }
    Ok(Some(streams))
}

/// What a listing shows of logs: nothing of where they lead.
pub(crate) async fn listed(vault: &Vault) -> Result<BTreeMap<StreamId, Stream>, OpsError> {
    let mut streams: BTreeMap<StreamId, Stream> = BTreeMap::new();
    for Entry { key, len, modified } in vault.repo.list(keys::LOGS_PREFIX).await? {
        let stream = match Place::of(&key) {
            Place::Log(id, slot) => {
                let stream = streams.entry(id).or_default();
                stream.slots.insert(slot.get(), len);
                stream
            }
            Place::RollUp(name) => {
                let stream = streams.entry(name.stream).or_default();
                stream.rolled.insert(name_in(&name), RollUp { len, stored: modified });
                stream
            }
            _ => continue,
        };
        stream.newest = stream.newest.max(Some(modified));
    }
    Ok(streams)
}

/// Finds the end of a stream, and where it leads. False if that cannot be found or read.
pub(crate) async fn walk_to_its_end(vault: &Vault, id: &StreamId, stream: &mut Stream) -> Result<bool, OpsError> {
    if !walk_on(vault, id, stream).await? {
        return Ok(false);
    }
    let Some(last) = stream.slots.keys().next_back().map(|last| Sequence::new(*last)) else { return Ok(true) };
    stream.onward = match vault.repo.log_front(id, last).await {
        Ok(front) => front.map(|front| front.facts.onward()).unwrap_or_default(),
        Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
        Err(_) => return Ok(false),
    };
    Ok(true)
}

/// A follower puts while others list. What came behind the listing is found by its name, up to the slot that is free.
/// False if there is no end of it.
async fn walk_on(vault: &Vault, id: &StreamId, stream: &mut Stream) -> Result<bool, OpsError> {
    for _ in 0..WALK_MAX {
        let last = stream.slots.keys().next_back().map(|last| Sequence::new(*last));
        let Some(after) = last.and_then(Sequence::next) else { return Ok(true) };
        let Some(len) = vault.repo.store().head(&keys::log(id, after)).await? else { return Ok(true) };
        stream.slots.insert(after.get(), len);
        // Somebody is at it now.
        stream.newest = None;
    }
    Ok(false)
}

/// Whether a stream that something leads to is not listed although it has objects.
async fn is_hidden(vault: &Vault, logs: &Logs, last: Option<&Prune>) -> Result<bool, OpsError> {
    let handed = logs.streams.values().flat_map(|stream| stream.onward.all()).map(|next| (next, Sequence::FIRST));
    let anchored = logs.anchors.iter().map(|anchor| (anchor.stream, anchor.slot));
    for (stream, slot) in handed.chain(anchored).filter(|(stream, _)| !logs.streams.contains_key(stream)) {
        let said = last.into_iter().flat_map(|last| &last.streams).any(|pruned| pruned.stream == stream);
        let there = vault.repo.store().head(&keys::log(&stream, slot)).await?.is_some();
        if said || slot > Sequence::FIRST || there {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the next record says of streams: what the last one said, less what is seen gone, and what goes now.
pub fn next(last: Option<&Prune>, logs: &Logs, at: Moment) -> Vec<PrunedStream> {
    let mut said: BTreeMap<StreamId, PrunedStream> =
        last.into_iter().flat_map(|last| &last.streams).map(|pruned| (pruned.stream, pruned.clone())).collect();
    for (id, below) in logs.free_below(at) {
        let pruned = said.entry(id).or_insert(PrunedStream { stream: id, gone: 1, pending: Vec::new() });
        if pruned.below() < below {
            pruned.pending.push(CondemnedSlots { at, below });
        }
    }
    for pruned in said.values_mut() {
        let first = logs.streams.get(&pruned.stream).and_then(Stream::first).unwrap_or(u64::MAX);
        let over = pruned.pending.iter().take_while(|condemned| condemned.below <= first).count();
        if let Some(gone) = pruned.pending.drain(..over).map(|condemned| condemned.below).max() {
            pruned.gone = pruned.gone.max(gone);
        }
    }
    // A stream of which nothing is left, and that no snapshot leads into, needs no word any more.
    let wanted = |pruned: &PrunedStream| {
        logs.streams.contains_key(&pruned.stream) || logs.anchors.iter().any(|anchor| anchor.stream == pruned.stream)
    };
    said.into_values().filter(wanted).collect()
}

/// Slots that outlived their grace and that nothing needs now.
fn due(record: &Prune, logs: &Logs, (now, grace_millis): (Moment, i64)) -> Vec<(Key, u64)> {
    let free = logs.free_below(now);
    let mut due = Vec::new();
    for pruned in &record.streams {
        let over = pruned.pending.iter().filter(|condemned| now.millis_since(condemned.at) >= grace_millis);
        let Some(below) = over.map(|condemned| condemned.below).max() else { continue };
        let below = below.min(free.get(&pruned.stream).copied().unwrap_or(0));
        let slots = logs.below(&pruned.stream, below);
        due.extend(slots.map(|(slot, len)| (keys::log(&pruned.stream, Sequence::new(slot)), len)));
        let rolled = logs.rolled_below(&pruned.stream, below);
        due.extend(rolled.map(|(name, len)| (named(&pruned.stream, name).key(), len)));
    }
    due
}

/// Of a roll-up among those of its stream.
pub(crate) fn name_in(name: &LogName) -> Name {
    Name { first: name.first.get(), last: name.last.get(), generation: name.generation.get() }
}

pub(crate) fn named(stream: &StreamId, name: Name) -> LogName {
    let (first, last) = (Sequence::new(name.first), Sequence::new(name.last));
    LogName { stream: *stream, first, last, generation: Generation::new(name.generation) }
}

/// What a run that condemns now would say.
pub fn report(
    last: Option<&Prune>,
    next: &[PrunedStream],
    (logs, now, grace_millis): (&Logs, Moment, i64),
) -> LogReport {
    let mut report = LogReport { streams: logs.streams.len(), ..LogReport::default() };
    for pruned in next {
        let before = last.into_iter().flat_map(|last| &last.streams).find(|known| known.stream == pruned.stream);
        let before = before.map_or(1, PrunedStream::below);
        let rolled = logs.rolled_below(&pruned.stream, pruned.below()).map(|(name, len)| (name.first, len));
        for (slot, len) in logs.below(&pruned.stream, pruned.below()).chain(rolled) {
            match slot < before {
                true => report.waiting.add(len),
                false => report.condemned.add(len),
            }
        }
    }
    for covered in logs.covered(now, grace_millis) {
        covered.slots.iter().for_each(|(_, len)| report.rolled.add(*len));
        covered.rolled.iter().for_each(|(_, len)| report.rolled.add(*len));
    }
    report
}

/// Deletes what roll-ups say once more, each after it was compared with all it stands for.
pub async fn delete_covered(
    vault: &Vault,
    logs: &Logs,
    (turn, grace_millis): (&mut Turn<'_>, i64),
    report: &mut LogReport,
) -> Result<(), OpsError> {
    report.rolled = LogTally::default();
    for covered in logs.covered(turn.now(), grace_millis) {
        if vault.unsealer.is_none() {
            report.unread += 1;
            continue;
        }
        turn.check().await?;
        let Some(stream) = logs.streams.get(&covered.stream) else { continue };
        let name = named(&covered.stream, covered.by);
        let rolled: Rolled = stream.rolled.keys().map(|name| named(&covered.stream, *name)).collect();
        // What a run before was stopped in can be compared no more, and goes with the span.
        let Some(parts) = rolled.parts(&name, |slot| stream.slots.contains_key(&slot.get())) else { continue };
        match log::is_of(vault, &name, &parts).await {
            Ok(true) => {}
            Err(error) if error.kind() != Kind::Corrupt => return Err(error),
            _ => {
                report.contradicted += 1;
                continue;
            }
        }
        // Smaller roll-ups last: with them the rest can be compared again.
        let slots = covered.slots.iter().map(|(slot, len)| (keys::log(&covered.stream, Sequence::new(*slot)), *len));
        let rolled = covered.rolled.iter().map(|(name, len)| (named(&covered.stream, *name).key(), *len));
        for objects in [slots.collect::<Vec<_>>(), rolled.collect()] {
            report.refused += delete_all(vault, turn, (&objects, &mut report.rolled)).await?;
            if report.refused > 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Deletes what is due, a batch at a time, and says how many the store keeps by a lock.
pub async fn delete(
    vault: &Vault,
    (record, logs): (&Prune, &Logs),
    (turn, grace_millis): (&mut Turn<'_>, i64),
) -> Result<(LogTally, u64), OpsError> {
    let mut deleted = LogTally::default();
    let due = due(record, logs, (turn.now(), grace_millis));
    let refused = delete_all(vault, turn, (&due, &mut deleted)).await?;
    Ok((deleted, refused))
}

/// Says how many the store refused: what comes after them was not tried.
async fn delete_all(
    vault: &Vault,
    turn: &mut Turn<'_>,
    (objects, deleted): (&[(Key, u64)], &mut LogTally),
) -> Result<u64, OpsError> {
    for batch in objects.chunks(BATCH) {
        vault.env.cancel.check()?;
        turn.check().await?;
        let done = locked::delete_batch(vault, batch).await?;
        deleted.objects += done.deleted as u64;
        deleted.bytes = ByteLen::new(deleted.bytes.get() + done.bytes);
        if !done.refused.is_empty() {
            return Ok(done.refused.len() as u64);
        }
    }
    Ok(0)
}
