//! What a copy of a repository still needs, and when it must not be written to.
//!
//! A copy keeps what its own retention keeps. What that freed is not brought back: the rules are asked
//! about everything either side has, so a snapshot they would free there is never sent again. Two
//! histories that cannot be one another's past are rivals, and nothing is copied between them.

use crate::catalog::Snapshot;
use crate::retention::{Candidate, Fate, RetentionPolicy, decide};
use crate::{Digest, Generation, Moment, ObjectId, Ranges, Sequence};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, HashMap};

/// What both sides hold of one source.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    pub original: &'a [Snapshot],
    /// Manifests of the original that cannot be verified, by number and id.
    pub unverified: &'a [(Sequence, ObjectId)],
    pub copy: &'a [Snapshot],
}

/// What is to be done for one source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyPlan {
    /// Snapshots to copy, oldest first.
    pub missing: Vec<ObjectId>,
    /// Snapshots of the original that the copy's retention would free at once.
    pub left_out: usize,
    /// The numbers of those.
    pub without: Ranges,
    /// Snapshots only the copy still has.
    pub only_there: usize,
}

/// The copy holds a snapshot that the original can never have had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the copy's snapshot {copy} is number {}; {}", sequence.get(), beside(.original))]
pub struct Rivals {
    pub sequence: Sequence,
    pub copy: ObjectId,
    /// What stands at that number here; `None` where the original ends before it.
    pub original: Option<ObjectId>,
}

fn beside(original: &Option<ObjectId>) -> String {
    match original {
        Some(id) => format!("here that number is {id}"),
        None => "the original has none so new".to_owned(),
    }
}

/// Decides what to copy. Reads nothing but the two catalogs.
pub fn plan(sides: Sides<'_>, policy: &RetentionPolicy, now: Moment, zone: &TimeZone) -> Result<CopyPlan, Rivals> {
    let here: HashMap<ObjectId, Digest> = sides.original.iter().map(|s| (s.id, s.digest)).collect();
    let there: HashMap<ObjectId, Generation> = sides.copy.iter().map(|s| (s.id, s.generation)).collect();
    let newest: HashMap<ObjectId, Generation> = sides.original.iter().map(|s| (s.id, s.generation)).collect();
    // One that was rewritten here since is sent again: who was taken off could still open the one there.
    let is_there =
        |id: &ObjectId| there.get(id).is_some_and(|there| newest.get(id).is_none_or(|newest| there >= newest));
    if let Some(rivals) = sides.copy.iter().find_map(|s| rival(&sides, &here, s)) {
        return Err(rivals);
    }
    let mut all: Vec<Snapshot> = sides.original.to_vec();
    all.extend(sides.copy.iter().filter(|s| !here.contains_key(&s.id)).cloned());
    let mut plan = CopyPlan { only_there: all.len() - sides.original.len(), ..CopyPlan::default() };
    let number: HashMap<ObjectId, Sequence> = sides.original.iter().map(|s| (s.id, s.sequence)).collect();
    let mut without: Vec<u64> = Vec::new();
    let candidates: Vec<Candidate<'_>> = all.iter().map(Candidate::of).collect();
    for decision in decide(&candidates, policy, now, zone) {
        let id = decision.snapshot;
        match decision.fate {
            _ if is_there(&id) => {}
            Fate::Keep(_) => plan.missing.push(id),
            Fate::Free(_) => {
                plan.left_out += 1;
                without.extend(number.get(&id).map(|sequence| sequence.get()));
            }
        }
    }
    plan.without = without.into_iter().collect();
    plan.missing.sort_by_key(|id| (number.get(id).copied(), *id));
    Ok(plan)
}

/// What a copy holds of one source, and what its newest prune record says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Snapshots that stand there, by number; those nobody can verify have no digest.
    pub standing: BTreeMap<u64, Option<Digest>>,
    pub gone: Ranges,
    pub head: Option<(Sequence, Digest)>,
}

/// What the copy's next record says of that source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaidOfCopy {
    pub gone: Ranges,
    pub head: Option<(Sequence, Digest)>,
}

/// Writes down which numbers the copy was never sent, of those that it need not have: freed by its rules, or gone
/// at the original. `None` when there is nothing new to say.
///
/// Up to the head of its newest record every number was accounted for, so one that is missing there now is a
/// loss, and stays one. The new head goes no further than every number is accounted for.
pub fn account(held: &Held, absent: &Ranges) -> Option<SaidOfCopy> {
    let accounted = held.head.map_or(0, |(sequence, _)| sequence.get());
    let newest = held.standing.keys().max().copied()?;
    let here: Ranges = held.standing.keys().copied().collect();
    let known = here.with(&held.gone);
    let from = accounted.saturating_add(1);
    let unsaid = absent.runs().iter().flat_map(|(first, last)| known.holes(from.max(*first), newest.min(*last)));
    let new: Ranges = unsaid.collect();
    if new.is_empty() {
        return None;
    }
    // One that was sent after all is not gone.
    let gone = held.gone.runs().iter().flat_map(|(first, last)| here.holes(*first, *last));
    let gone = gone.collect::<Ranges>().with(&new);
    let hole = here.with(&gone).holes(Sequence::FIRST.get(), newest).first().map_or(u64::MAX, |(from, _)| *from);
    let below = held.standing.range(..hole).filter_map(|(number, digest)| Some((Sequence::new(*number), (*digest)?)));
    Some(SaidOfCopy { gone, head: below.max_by_key(|(sequence, _)| *sequence).max(held.head) })
}

fn rival(sides: &Sides<'_>, here: &HashMap<ObjectId, Digest>, copied: &Snapshot) -> Option<Rivals> {
    let rivals = |original| Some(Rivals { sequence: copied.sequence, copy: copied.id, original });
    match here.get(&copied.id) {
        Some(digest) if *digest == copied.digest => return None,
        Some(_) => return rivals(Some(copied.id)),
        None => {}
    }
    // Damaged here and whole there: that is what a copy is for.
    if sides.unverified.contains(&(copied.sequence, copied.id)) {
        return None;
    }
    let newest = sides.original.iter().map(|s| s.sequence).chain(sides.unverified.iter().map(|(s, _)| *s)).max();
    match sides.original.iter().find(|s| s.sequence == copied.sequence) {
        Some(other) => rivals(Some(other.id)),
        None if newest < Some(copied.sequence) => rivals(None),
        // The original's retention freed it.
        None => None,
    }
}

#[cfg(test)]
mod tests;
