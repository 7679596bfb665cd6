//! What a copy of a repository still needs, and when it must not be written to.
//!
//! A copy keeps what its own retention keeps. What that freed is not brought back: the rules are asked
//! about everything either side has, so a snapshot they would free there is never sent again. Two
//! histories that cannot be one another's past are rivals, and nothing is copied between them.

use crate::catalog::Snapshot;
use crate::retention::{Candidate, Fate, RetentionPolicy, decide};
use crate::{Digest, Generation, Moment, ObjectId, Sequence};
use jiff::tz::TimeZone;
use std::collections::HashMap;

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
    let candidates: Vec<Candidate<'_>> = all.iter().map(Candidate::of).collect();
    for decision in decide(&candidates, policy, now, zone) {
        let id = decision.snapshot;
        match decision.fate {
            _ if is_there(&id) => {}
            Fate::Keep(_) => plan.missing.push(id),
            Fate::Free(_) => plan.left_out += 1,
        }
    }
    let number: HashMap<ObjectId, Sequence> = sides.original.iter().map(|s| (s.id, s.sequence)).collect();
    plan.missing.sort_by_key(|id| (number.get(id).copied(), *id));
    Ok(plan)
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
