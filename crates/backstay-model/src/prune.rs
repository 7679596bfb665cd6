//! What may be condemned and what may be deleted, decided from what was found of one source.
//!
//! Two decisions, at different times. `plan` says what to condemn: the manifests that retention frees and
//! the packs that nothing needs any more. `due` says what to delete: what was condemned longer ago than
//! the grace and is, looked at anew, still needed by nothing. Between them stands everything that can go
//! wrong: so both refuse (`doubts`) when what was found cannot be the whole truth. A listing is a hint
//! about what exists; that something is not in it frees nothing.

pub mod logs;
pub mod reseal;

use crate::catalog::Snapshot;
use crate::lock::ObjectLock;
use crate::retention::{self, Candidate, Decision, Fate, Freed, Reason, RetentionPolicy};
use crate::{BranchNo, Digest, Generation, Moment, ObjectId, Ranges, Sequence};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// A run of a writer that takes longer than this does not commit: what it refers to may have been
/// condemned. An object no manifest names may be such a run's, unless it is older than this.
pub const WRITER_DEADLINE_MILLIS: i64 = 12 * 3_600_000;

/// The shortest time between condemning and deleting that needs no exclusive turn.
pub const GRACE_MIN_MILLIS: i64 = 24 * 3_600_000;
const _: () = assert!(2 * WRITER_DEADLINE_MILLIS <= GRACE_MIN_MILLIS);

/// A verified manifest that is not condemned.
#[derive(Debug, Clone)]
pub struct Standing {
    pub snapshot: Snapshot,
    /// When the store got it, by the store's clock.
    pub stored: Moment,
    pub len: u64,
    /// The packs it needs.
    pub needs: Vec<ObjectId>,
    /// A log goes on from it.
    pub followed: bool,
}

impl Standing {
    /// Whether the log before it may go because of it: nobody believes a writer alone what it made of it.
    pub fn counts(&self) -> bool {
        self.snapshot.made_of.is_none() || self.snapshot.is_proven()
    }
}

/// An object in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub len: u64,
    pub modified: Moment,
}

/// A manifest by its name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Named {
    pub sequence: Sequence,
    pub id: ObjectId,
    pub generation: Generation,
}

impl Named {
    pub fn of(snapshot: &Snapshot) -> Self {
        Self { sequence: snapshot.sequence, id: snapshot.id, generation: snapshot.generation }
    }
}

/// The id, and behind a point the generation if it is not the first: as in the name in the store.
impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.generation {
            Generation::FIRST => write!(f, "{}", self.id),
            later => write!(f, "{}.{:016x}", self.id, later.get()),
        }
    }
}

/// A verified manifest in whose place a later generation of the same snapshot stands.
#[derive(Debug, Clone)]
pub struct Superseded {
    pub named: Named,
    pub len: u64,
    /// The packs it needs.
    pub needs: Vec<ObjectId>,
}

/// An object that was condemned and has not been seen gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending<T> {
    pub object: T,
    pub at: Moment,
}

/// What the newest prune record says of the source.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub head: Option<(Sequence, Digest)>,
    pub gone: Ranges,
    pub snapshots: Vec<Pending<Named>>,
    pub packs: Vec<Pending<ObjectId>>,
}

impl Recorded {
    pub fn pending(&self) -> usize {
        self.snapshots.len() + self.packs.len()
    }

    fn condemned_packs(&self) -> BTreeSet<ObjectId> {
        self.packs.iter().map(|pending| pending.object).collect()
    }
}

/// One source as it was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub standing: Vec<Standing>,
    /// Manifests that are not condemned, of snapshots for which a later one of their manifests stands.
    pub superseded: Vec<Superseded>,
    /// Manifests nobody can verify, and that are not condemned.
    pub unverified: Vec<Named>,
    /// Names among the manifests that this build does not know: a manifest of another kind, perhaps.
    pub unread: Vec<String>,
    pub mark_faults: usize,
    pub recorded: Recorded,
    /// The newest snapshot this host has seen.
    pub seen: Option<(Sequence, Digest)>,
    pub packs: BTreeMap<ObjectId, Listed>,
    /// The condemned manifests that are still listed.
    pub condemned: BTreeMap<Named, Listed>,
}

/// What a person gives up in so many words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenUp {
    pub snapshots: BTreeSet<ObjectId>,
    /// Manifests nobody can verify.
    pub unverified: BTreeSet<Named>,
    /// Numbers of snapshots that are missing.
    pub missing: Ranges,
}

/// Why what was found cannot be the whole truth.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "doubt", rename_all = "kebab-case")]
pub enum Doubt {
    /// A manifest cannot be verified: what it needs is not known.
    Unverified(Named),
    /// Something among the manifests has a name this build does not know.
    Unread { name: String },
    /// Snapshots are missing that no prune took.
    Hole { from: u64, to: u64 },
    /// The newest snapshot that the last prune, or this host, has seen is not there.
    HeadMissing { sequence: Sequence },
    /// Marks are missing or cannot be verified: a hold may be among them.
    Marks { count: usize },
    /// An older state of the source is served than this host has seen.
    RolledBack { seen: u64, found: u64 },
}

/// Everything that forbids to condemn or delete anything of the source.
pub fn doubts(found: &Found, given_up: &GivenUp) -> Vec<Doubt> {
    let unverified = || found.unverified.iter().filter(|named| !given_up.unverified.contains(named));
    let mut doubts: Vec<Doubt> = unverified().map(|named| Doubt::Unverified(*named)).collect();
    doubts.extend(found.unread.iter().map(|name| Doubt::Unread { name: name.clone() }));
    let explained = found.recorded.gone.with(&given_up.missing);
    let here = found.standing.iter().map(|s| s.snapshot.sequence).chain(unverified().map(|named| named.sequence));
    let here: Ranges = here.map(Sequence::get).collect();
    let heads = [found.recorded.head, found.seen];
    let newest = here.runs().last().map(|(_, to)| *to).max(heads.iter().flatten().map(|(s, _)| s.get()).max());
    let holes = here.with(&explained).holes(Sequence::FIRST.get(), newest.unwrap_or(0));
    doubts.extend(holes.into_iter().map(|(from, to)| Doubt::Hole { from, to }));
    for (sequence, digest) in heads.into_iter().flatten() {
        let is_it = |s: &Standing| (s.snapshot.sequence, s.snapshot.digest) == (sequence, digest);
        let missing = !found.standing.iter().any(is_it) && !explained.contains(sequence.get());
        doubts.extend(missing.then_some(Doubt::HeadMissing { sequence }));
    }
    doubts.dedup();
    if found.mark_faults > 0 {
        doubts.push(Doubt::Marks { count: found.mark_faults });
    }
    doubts
}

/// What is to be done to a source.
#[derive(Debug, Clone)]
pub struct Rules {
    pub policy: RetentionPolicy,
    pub zone: TimeZone,
    pub now: Moment,
    pub grace_millis: i64,
    pub given_up: GivenUp,
    /// How many objects may be condemned: a record has a size. What is beyond comes next time.
    pub most: usize,
    /// What the store refuses to delete.
    pub lock: Option<ObjectLock>,
    /// How long every commit can be restored: the snapshots its log goes on from stay as long.
    pub log_millis: i64,
}

/// What is to be condemned.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Every snapshot's fate, newest first.
    pub decisions: Vec<Decision>,
    pub snapshots: Vec<Named>,
    pub packs: Vec<ObjectId>,
    pub bytes: u64,
    /// Numbers of which no snapshot stays.
    pub gone: Ranges,
    /// Objects that are free, and for which this time there was no room.
    pub put_off: usize,
    /// Objects no manifest names, and that may still be a running backup's.
    pub young: usize,
    /// Packs that a snapshot which stays needs, and that are not listed.
    pub missing: BTreeSet<ObjectId>,
    /// Snapshots that a person gave up and that stay all the same, and why.
    pub refused: Vec<(ObjectId, Vec<Reason>)>,
}

/// Decides what to condemn. Only for a source without doubts.
pub fn plan(found: &Found, rules: &Rules) -> Plan {
    let mut plan = Plan { decisions: decide(found, rules), ..Plan::default() };
    give_up(&mut plan, &rules.given_up);
    let mut freed: Vec<&Standing> = freed(found, &plan.decisions);
    plan.put_off = freed.len().saturating_sub(rules.most);
    freed.truncate(rules.most);
    let leaving: BTreeSet<ObjectId> = freed.iter().map(|s| s.snapshot.id).collect();
    let unverified = found.unverified.iter().filter(|named| rules.given_up.unverified.contains(named));
    plan.snapshots = freed.iter().map(|s| Named::of(&s.snapshot)).collect();
    plan.snapshots.extend(unverified);
    plan.bytes = freed.iter().map(|s| s.len).sum();
    let (outlived, kept) = superseded(&mut plan, found, rules.most);
    plan.snapshots.extend(outlived.iter().map(|old| old.named));
    plan.bytes += outlived.iter().map(|old| old.len).sum::<u64>();
    let staying = || found.standing.iter().filter(|s| !leaving.contains(&s.snapshot.id));
    let mut needed: BTreeSet<ObjectId> = staying().flat_map(|s| &s.needs).copied().collect();
    plan.missing = needed.iter().filter(|pack| !found.packs.contains_key(pack)).copied().collect();
    needed.extend(kept.iter().flat_map(|old| &old.needs));
    let going = freed.iter().map(|s| &s.needs).chain(outlived.iter().map(|old| &old.needs));
    let of_the_freed: BTreeSet<ObjectId> = going.flatten().copied().collect();
    condemn_packs(&mut plan, found, rules, (&needed, &of_the_freed));
    let stays: BTreeSet<u64> = staying().map(|s| s.snapshot.sequence.get()).collect();
    let gone = plan.snapshots.iter().map(|named| named.sequence.get()).filter(|n| !stays.contains(n));
    plan.gone = gone.collect::<Ranges>().with(&rules.given_up.missing);
    plan
}

/// The manifests that are not needed any more because a later generation of their snapshot has all its packs,
/// whatever the policy says of the snapshot; and those that stay for now.
fn superseded<'a>(plan: &mut Plan, found: &'a Found, most: usize) -> (Vec<&'a Superseded>, Vec<&'a Superseded>) {
    let whole: BTreeSet<ObjectId> = found.standing.iter().filter(|s| found.has_all(s)).map(|s| s.snapshot.id).collect();
    let room = most.saturating_sub(plan.snapshots.len());
    let (mut outlived, mut kept): (Vec<_>, Vec<_>) =
        found.superseded.iter().partition(|old| whole.contains(&old.named.id));
    plan.put_off += outlived.len().saturating_sub(room);
    kept.extend(outlived.split_off(room.min(outlived.len())));
    (outlived, kept)
}

impl Found {
    /// Whether all the packs it needs are listed.
    fn has_all(&self, standing: &Standing) -> bool {
        standing.needs.iter().all(|pack| self.packs.contains_key(pack))
    }
}

fn decide(found: &Found, rules: &Rules) -> Vec<Decision> {
    let candidates: Vec<Candidate<'_>> = found
        .standing
        .iter()
        .map(|s| Candidate { snapshot: &s.snapshot, stored: s.stored, complete: found.has_all(s) })
        .collect();
    let mut decisions = retention::decide(&candidates, &rules.policy, rules.now, &rules.zone);
    if rules.policy.is_set() {
        let begins = log_begins(found, rules);
        decisions.iter_mut().filter(|one| begins.contains(&one.snapshot)).for_each(keep_for_its_log);
    }
    decisions
}

fn keep_for_its_log(decision: &mut Decision) {
    match &mut decision.fate {
        Fate::Keep(reasons) => reasons.push(Reason::LogBegins),
        Fate::Free(Freed::Outlived) => decision.fate = Fate::Keep(vec![Reason::LogBegins]),
        Fate::Free(_) => {}
    }
}

/// The snapshots from which commits that were promised are read forward.
fn log_begins(found: &Found, rules: &Rules) -> BTreeSet<ObjectId> {
    let mut lines: BTreeMap<BranchNo, Vec<&Standing>> = BTreeMap::new();
    for standing in found.standing.iter().filter(|s| s.followed) {
        lines.entry(standing.snapshot.branch).or_default().push(standing);
    }
    let at = |standing: &Standing| standing.snapshot.taken.max(standing.stored);
    let place = |standing: &&Standing| (standing.snapshot.sequence, at(standing), standing.counts());
    let span = (rules.log_millis, rules.now);
    let mut needed = BTreeSet::new();
    // When the next branch began: a log that ended before the span holds nothing of it.
    let mut ended: Option<Moment> = None;
    for line in lines.values().rev() {
        if ended.is_none_or(|at| rules.now.millis_since(at) <= rules.log_millis) {
            needed.extend(logs::within(line, place, span).map(|standing| standing.snapshot.id));
        }
        ended = ended.into_iter().chain(line.iter().map(|standing| at(standing))).min();
    }
    needed
}

/// What a person gave up goes, unless it stays by right.
fn give_up(plan: &mut Plan, given_up: &GivenUp) {
    for decision in plan.decisions.iter_mut().filter(|d| given_up.snapshots.contains(&d.snapshot)) {
        match &decision.fate {
            Fate::Keep(reasons) if reasons.iter().any(|reason| reason.is_a_right()) => {
                plan.refused.push((decision.snapshot, reasons.clone()));
            }
            _ => decision.fate = Fate::Free(Freed::GivenUp),
        }
    }
}

/// The oldest first: if there is no room for all, those are the ones that go.
fn freed<'a>(found: &'a Found, decisions: &[Decision]) -> Vec<&'a Standing> {
    let free: BTreeSet<ObjectId> =
        decisions.iter().filter(|d| matches!(d.fate, Fate::Free(_))).map(|d| d.snapshot).collect();
    let mut freed: Vec<&Standing> = found.standing.iter().filter(|s| free.contains(&s.snapshot.id)).collect();
    freed.sort_by_key(|s| (s.snapshot.sequence, s.snapshot.id));
    freed
}

/// Packs that nothing needs: those of the manifests that go, and, once no run can refer to them any more,
/// those that no manifest names. Without a policy what nobody names stays too.
fn condemn_packs(
    plan: &mut Plan,
    found: &Found,
    rules: &Rules,
    (needed, of_the_freed): (&BTreeSet<ObjectId>, &BTreeSet<ObjectId>),
) {
    let condemned = found.recorded.condemned_packs();
    for (id, listed) in &found.packs {
        if needed.contains(id) || condemned.contains(id) {
            continue;
        }
        let old = rules.now.millis_since(listed.modified) >= WRITER_DEADLINE_MILLIS;
        match of_the_freed.contains(id) || (old && rules.policy.is_set()) {
            false => plan.young += usize::from(!old),
            true if plan.snapshots.len() + plan.packs.len() >= rules.most => plan.put_off += 1,
            true => {
                plan.packs.push(*id);
                plan.bytes += listed.len;
            }
        }
    }
}

/// A condemned object that a snapshot needs all the same: it is not deleted, and somebody broke a rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Spared {
    pub pack: ObjectId,
    pub needed_by: ObjectId,
}

/// What may be deleted now, and what waits.
#[derive(Debug, Clone, Default)]
pub struct Due {
    /// Deleted first, so that at no time a manifest lacks its packs.
    pub snapshots: Vec<Named>,
    pub packs: Vec<ObjectId>,
    pub bytes: u64,
    pub spared: Vec<Spared>,
    pub waiting: usize,
    pub waiting_bytes: u64,
    /// When the last of those that wait may go.
    pub waiting_until: Option<Moment>,
    /// How many of them wait for a lock alone: their grace is over.
    pub locked: usize,
}

/// Decides what to delete of what was condemned and is still listed. Only for a source without doubts.
pub fn due(found: &Found, rules: &Rules) -> Due {
    let mut due = Due::default();
    let mut needed_by: BTreeMap<ObjectId, ObjectId> = BTreeMap::new();
    for standing in &found.standing {
        needed_by.extend(standing.needs.iter().map(|pack| (*pack, standing.snapshot.id)));
    }
    for old in &found.superseded {
        needed_by.extend(old.needs.iter().map(|pack| (*pack, old.named.id)));
    }
    // A manifest that was condemned because a later one stands in its place stays until that has all it needs.
    let torn: BTreeSet<ObjectId> = found.standing.iter().filter(|s| !found.has_all(s)).map(|s| s.snapshot.id).collect();
    // When manifests that stay for now were condemned, and until when they stay.
    let mut staying: Vec<(Moment, Option<Moment>)> = Vec::new();
    for Pending { object, at } in &found.recorded.snapshots {
        let Some(listed) = found.condemned.get(object).filter(|_| !torn.contains(&object.id)) else { continue };
        match due.wait((*at, listed), rules, None) {
            Wait::Over => due.snapshots.push(*object),
            Wait::Until(until) => staying.push((*at, until)),
        }
    }
    for Pending { object: pack, at } in &found.recorded.packs {
        let Some(listed) = found.packs.get(pack) else { continue };
        // A manifest is locked for longer than the older packs it needs, and must not come to lack them.
        let manifests = staying.iter().filter(|(condemned, _)| condemned <= at).map(|(_, until)| *until).max();
        match needed_by.get(pack) {
            Some(needed_by) => due.spared.push(Spared { pack: *pack, needed_by: *needed_by }),
            None if due.wait((*at, listed), rules, manifests) == Wait::Over => due.packs.push(*pack),
            None => {}
        }
    }
    due
}

/// Whether a condemned object stays for now, and until when if that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Over,
    Until(Option<Moment>),
}

impl Due {
    /// It stays while its grace is not over, its lock is not, or what needed it stays.
    fn wait(&mut self, (at, listed): (Moment, &Listed), rules: &Rules, others: Option<Option<Moment>>) -> Wait {
        let graced = rules.now.millis_since(at) >= rules.grace_millis;
        if graced && others.is_none() && rules.lock.is_none_or(|lock| lock.is_over(listed.modified, rules.now)) {
            self.bytes += listed.len;
            return Wait::Over;
        }
        let grace = Moment::from_millis(at.as_millis().saturating_add(rules.grace_millis));
        let lock = rules.lock.and_then(|lock| lock.ends(listed.modified));
        let until = grace.max(lock).max(others.flatten());
        self.waiting += 1;
        self.waiting_bytes += listed.len;
        self.locked += usize::from(graced);
        self.waiting_until = self.waiting_until.max(until);
        Wait::Until(until)
    }
}

#[cfg(test)]
mod tests;
