//! Which objects of logs may go: those that only restore points older than the span of commits lead to.
//!
//! A log is read forward from a snapshot, slot by slot and from stream to stream. So what may go is always the
//! beginning of a stream, below the first slot that anything still needs. The last two slots of a stream never
//! go: the last is the fence that a run which was asleep runs into, and both say where numbers go on.
//!
//! In the middle of a stream goes what a roll-up says once more, when nobody can still be reading it instead.

use super::WRITER_DEADLINE_MILLIS;
use crate::{BranchNo, Moment, Onward, Sequence, SourceName, StreamId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A verified snapshot that stands and that a log goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    pub source: SourceName,
    pub branch: BranchNo,
    /// Its number among the snapshots of its source.
    pub number: Sequence,
    /// The later of when it was taken and when the store got it.
    pub at: Moment,
    pub stream: StreamId,
    /// The first slot that can hold a commit after it.
    pub slot: Sequence,
    /// Whether what comes before it may go: of one that was made of the log only when it is proven.
    pub counts: bool,
}

/// A stream as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stream {
    /// The slots that are listed, in order, with the bytes in each.
    pub slots: BTreeMap<u64, u64>,
    /// Where it hands over to, by its last slot.
    pub onward: Onward,
    pub rolled: BTreeMap<Rolled, RollUp>,
    /// When the newest of its slots was taken, by the store's clock.
    pub newest: Option<Moment>,
}

/// Which roll-up of a stream: the first and the last slot it stands for. Of a later generation is one that was sealed
/// again, and may stand for one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rolled {
    pub first: u64,
    pub last: u64,
    pub generation: u64,
}

impl Rolled {
    /// Whether it has every slot from one to another.
    pub fn spans(&self, first: u64, last: u64) -> bool {
        self.first <= first && last <= self.last
    }

    /// Whether another says nothing more, and was not made to stand in its place.
    fn has(&self, other: &Self) -> bool {
        self.spans(other.first, other.last) && other != self && other.generation <= self.generation
    }

    fn is_lone(&self, slot: u64) -> bool {
        (self.first, self.last) == (slot, slot)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollUp {
    pub len: u64,
    /// By the store's clock.
    pub stored: Moment,
}

impl Stream {
    /// The first slot that something listed is of.
    pub fn first(&self) -> Option<u64> {
        let rolled = self.rolled.keys().next().map(|rolled| rolled.first);
        self.slots.keys().next().copied().into_iter().chain(rolled).min()
    }

    /// The last slot but one, below which slots may go.
    fn kept(&self) -> Option<u64> {
        let before = |last: u64| last.checked_sub(1).filter(|end| self.stands_alone(*end));
        self.end().and_then(before).or_else(|| self.slots.keys().rev().nth(1).copied())
    }

    fn end(&self) -> Option<u64> {
        self.slots.keys().next_back().copied()
    }

    /// Whether what was in a slot is there by itself, sealed again.
    fn stands_alone(&self, slot: u64) -> bool {
        self.rolled.keys().any(|rolled| rolled.is_lone(slot))
    }

    /// The last slot with commits, once the stream was handed over: nobody puts into it any more.
    pub fn closed_at(&self) -> Option<u64> {
        self.end().filter(|_| self.onward.ends())?.checked_sub(1).filter(|slot| *slot > 0)
    }
}

/// A roll-up, and what is there besides that says nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    pub stream: StreamId,
    pub by: Rolled,
    /// Slots, and smaller or earlier roll-ups, with their bytes.
    pub slots: Vec<(u64, u64)>,
    pub rolled: Vec<(Rolled, u64)>,
}

/// All logs of a repository. They are found whole or not at all: one stream may hold commits of several sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Logs {
    pub anchors: Vec<Anchor>,
    pub streams: BTreeMap<StreamId, Stream>,
    /// How long every commit of a source can be restored; of one that is not named, for ever.
    pub spans: BTreeMap<SourceName, i64>,
}

/// Of those a log goes on from on one branch, the ones inside the span, and the newest one before it that counts, because
/// the span begins between the two. `place` gives the number and the time of one, and whether it counts.
pub fn within<T>(
    line: &[T],
    place: impl Fn(&T) -> (Sequence, Moment, bool),
    (span, now): (i64, Moment),
) -> impl Iterator<Item = &T> {
    let before = line.iter().map(&place).filter(|(_, at, counts)| *counts && now.millis_since(*at) > span);
    let begins = before.map(|(number, ..)| number).max();
    line.iter().filter(move |one| {
        let (number, at, _) = place(one);
        Some(number) >= begins || now.millis_since(at) <= span
    })
}

impl Logs {
    /// The anchors from which commits must stay restorable: of each branch those inside the span, and the newest
    /// one before it, because the span begins between the two.
    pub fn needed(&self, now: Moment) -> Vec<&Anchor> {
        let mut lines: BTreeMap<(&SourceName, BranchNo), Vec<&Anchor>> = BTreeMap::new();
        for anchor in &self.anchors {
            lines.entry((&anchor.source, anchor.branch)).or_default().push(anchor);
        }
        let mut needed = Vec::new();
        for ((source, _), line) in lines {
            let Some(span) = self.spans.get(source) else {
                needed.extend(line);
                continue;
            };
            needed.extend(within(&line, |anchor| (anchor.number, anchor.at, anchor.counts), (*span, now)));
        }
        needed
    }

    /// The first slot of each stream that can be read forward from these anchors; a stream that is not named cannot.
    fn first_reached<'a>(&self, anchors: impl IntoIterator<Item = &'a Anchor>) -> BTreeMap<StreamId, u64> {
        let mut first: BTreeMap<StreamId, u64> = BTreeMap::new();
        for anchor in anchors {
            let (mut stream, mut slot) = (anchor.stream, anchor.slot.get());
            let mut seen = BTreeSet::new();
            // A chain that bites its own tail ends.
            while seen.insert(stream) {
                let known = first.entry(stream).or_insert(u64::MAX);
                *known = slot.min(*known);
                match self.streams.get(&stream).and_then(|found| found.onward.of(&anchor.source)) {
                    Some(next) => (stream, slot) = (next, Sequence::FIRST.get()),
                    None => break,
                }
            }
        }
        first
    }

    /// Below which slot everything of a stream may go. Streams of which nothing may go are not named.
    pub fn free_below(&self, now: Moment) -> BTreeMap<StreamId, u64> {
        let needed = self.first_reached(self.needed(now));
        let led_to = self.first_reached(&self.anchors);
        let mut free = BTreeMap::new();
        for (id, stream) in &self.streams {
            let first = needed.get(id).copied().unwrap_or(u64::MAX);
            // One that no snapshot leads to may be a run's that has not stored its snapshot yet.
            let young = stream.newest.is_none_or(|at| now.millis_since(at) < WRITER_DEADLINE_MILLIS);
            if !led_to.contains_key(id) && young {
                continue;
            }
            let Some(kept) = stream.kept() else { continue };
            let below = first.min(kept);
            if stream.first().is_some_and(|slot| slot < below) {
                free.insert(*id, below);
            }
        }
        free
    }

    /// Slots of a stream below a number, with their bytes.
    pub fn below(&self, stream: &StreamId, below: u64) -> impl Iterator<Item = (u64, u64)> {
        let found = self.streams.get(stream);
        found.into_iter().flat_map(move |found| found.slots.range(..below)).map(|(slot, len)| (*slot, *len))
    }

    /// Roll-ups of a stream that begin below a number: whoever reads from there on has no use for them.
    pub fn rolled_below(&self, stream: &StreamId, below: u64) -> impl Iterator<Item = (Rolled, u64)> {
        let found = self.streams.get(stream);
        let end = Rolled { first: below, last: 0, generation: 0 };
        found.into_iter().flat_map(move |found| found.rolled.range(..end)).map(|(name, rolled)| (*name, rolled.len))
    }

    /// Whether a snapshot leads into the middle of a roll-up: then its slots are read from there on.
    pub fn leads_into(&self, stream: &StreamId, rolled: &Rolled) -> bool {
        let inside = |slot: u64| rolled.first < slot && slot <= rolled.last;
        self.anchors.iter().any(|anchor| anchor.stream == *stream && inside(anchor.slot.get()))
    }

    /// What roll-ups say once more. Only those that are there longer than a grace count: who began to read before has
    /// ended. Nobody can begin to read in the middle of one, so one that a snapshot leads into is for those before it,
    /// and takes the place of nothing but the same sealed before.
    pub fn covered(&self, now: Moment, grace_millis: i64) -> Vec<Covered> {
        let (mut covered, free) = (Vec::new(), self.free_below(now));
        let without_rules = self.anchors.iter().filter(|anchor| !self.spans.contains_key(&anchor.source));
        let left_alone = self.first_reached(without_rules);
        for (id, stream) in self.streams.iter().filter(|(id, _)| !left_alone.contains_key(id)) {
            let goes = free.get(id).copied().unwrap_or(0);
            let Some(kept) = stream.kept() else { continue };
            let old = |rolled: &RollUp| now.millis_since(rolled.stored) >= grace_millis;
            let usable = stream.rolled.iter().filter(|(name, rolled)| name.first >= goes && old(rolled));
            let usable: Vec<Rolled> = usable.map(|(name, _)| *name).collect();
            for by in stands(stream, &usable, |by| self.leads_into(id, by)) {
                let (slots, rolled) = match by {
                    Stands::ForAll(by) => (stream.slots_within(&by, kept), stream.others(|name| by.has(name))),
                    Stands::ForThePlace(by) => {
                        let same = |name: &Rolled| by.has(name) && name.spans(by.first, by.last);
                        (stream.slots_at_the_end(&by), stream.others(same))
                    }
                };
                if !slots.is_empty() || !rolled.is_empty() {
                    covered.push(Covered { stream: *id, by: by.name(), slots, rolled });
                }
            }
        }
        covered
    }
}

/// How a roll-up lets others go.
#[derive(Clone, Copy)]
enum Stands {
    /// For every slot it has, and every roll-up with some of them.
    ForAll(Rolled),
    /// For those that have just its slots.
    ForThePlace(Rolled),
}

impl Stands {
    fn name(self) -> Rolled {
        match self {
            Self::ForAll(name) | Self::ForThePlace(name) => name,
        }
    }
}

/// The widest that nobody begins to read in the middle of, the latest of the same; and of the others those that were
/// sealed again.
fn stands(stream: &Stream, usable: &[Rolled], led_into: impl Fn(&Rolled) -> bool) -> Vec<Stands> {
    let end = stream.closed_at();
    let mut usable = usable.to_vec();
    usable.sort_by_key(|name| (Reverse(name.last - name.first), name.first, Reverse(name.generation)));
    let mut taken: Vec<Stands> = Vec::new();
    for name in usable {
        let larger = |by: &Stands| matches!(by, Stands::ForAll(by) if by.spans(name.first, name.last));
        let is_end = end.is_some_and(|end| name.is_lone(end));
        if !is_end && taken.iter().any(larger) {
            continue;
        }
        if !is_end && !led_into(&name) {
            taken.push(Stands::ForAll(name));
        } else if name.generation > 0 {
            taken.push(Stands::ForThePlace(name));
        }
    }
    taken
}

impl Stream {
    /// Slots that a roll-up has, below the ones that stay.
    fn slots_within(&self, by: &Rolled, kept: u64) -> Vec<(u64, u64)> {
        let slots = self.slots.range(by.first..=by.last).filter(|(slot, _)| **slot < kept);
        slots.map(|(slot, len)| (*slot, *len)).collect()
    }

    /// The last slot with commits goes when what is in it was sealed again by itself.
    fn slots_at_the_end(&self, by: &Rolled) -> Vec<(u64, u64)> {
        let end = self.closed_at().filter(|end| by.is_lone(*end));
        end.and_then(|end| Some((end, *self.slots.get(&end)?))).into_iter().collect()
    }

    /// Roll-ups that go. What the last slot stands alone in stays beside those that have it too.
    fn others(&self, goes: impl Fn(&Rolled) -> bool) -> Vec<(Rolled, u64)> {
        let end = self.closed_at();
        let stays = |name: &Rolled| end.is_some_and(|end| name.is_lone(end));
        let rolled = self.rolled.iter().filter(|(name, _)| goes(name));
        let newest =
            |name: &Rolled| !self.rolled.keys().any(|other| other.has(name) && name.spans(other.first, other.last));
        rolled.filter(|(name, _)| !(stays(name) && newest(name))).map(|(name, rolled)| (*name, rolled.len)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const NOW: i64 = 100 * DAY;

    fn id(n: u8) -> StreamId {
        StreamId::from_bytes([n; 16])
    }

    fn at(days_ago: i64) -> Moment {
        Moment::from_millis(NOW - days_ago * DAY).expect("in range")
    }

    fn source(name: &str) -> SourceName {
        name.parse().expect("a name")
    }

    fn anchor(number: u64, days_ago: i64, stream: u8, slot: u64) -> Anchor {
        Anchor {
            source: source("shop"),
            branch: BranchNo::FIRST,
            number: Sequence::new(number),
            at: at(days_ago),
            stream: id(stream),
            slot: Sequence::new(slot),
            counts: true,
        }
    }

    fn onward(next: Option<u8>) -> Onward {
        next.map(|next| id(next).into()).unwrap_or_default()
    }

    fn stream(last: u64, next: Option<u8>) -> Stream {
        let slots = (1..=last).map(|n| (n, 10)).collect();
        Stream { slots, onward: onward(next), newest: Some(at(1)), ..Stream::default() }
    }

    fn logs(anchors: Vec<Anchor>) -> Logs {
        let streams = [(id(1), stream(100, Some(2))), (id(2), stream(50, None))].into();
        Logs { anchors, streams, spans: [(source("shop"), 7 * DAY)].into() }
    }

    fn free(logs: &Logs) -> Vec<(u8, u64)> {
        logs.free_below(at(0)).into_iter().map(|(id, below)| (id.as_bytes()[0], below)).collect()
    }

    #[test]
    fn the_span_begins_at_the_newest_snapshot_before_it() {
        let all = vec![anchor(1, 30, 1, 1), anchor(2, 9, 1, 40), anchor(3, 8, 1, 60), anchor(4, 2, 2, 20)];
        assert_eq!(free(&logs(all.clone())), [(1, 60)]);
        assert_eq!(free(&logs(all[..1].to_vec())), [], "with one alone all of its log is the span");
        let fresh = vec![anchor(3, 8, 1, 60), anchor(4, 2, 2, 20), anchor(5, 1, 2, 45)];
        assert_eq!(free(&logs(fresh)), [(1, 60)], "what lies behind it stays whole, stream after stream");
        let later = vec![anchor(3, 9, 1, 60), anchor(4, 8, 2, 20)];
        assert_eq!(free(&logs(later)), [(1, 99), (2, 20)], "the last two slots stay for ever");
    }

    #[test]
    fn what_was_made_of_the_log_lets_it_go_only_when_it_is_proven() {
        let mut all = logs(vec![anchor(1, 30, 1, 1), anchor(2, 9, 1, 40), anchor(3, 8, 1, 60), anchor(4, 2, 2, 20)]);
        all.anchors[1].counts = false;
        all.anchors[2].counts = false;
        assert_eq!(free(&all), [], "the first one alone counts");
        all.anchors[1].counts = true;
        assert_eq!(free(&all), [(1, 40)]);
        all.anchors.remove(0);
        all.anchors[0].counts = false;
        assert_eq!(free(&all), [(1, 40)], "where none counts all are needed");
    }

    #[test]
    fn a_source_without_a_span_keeps_everything() {
        let mut all = logs(vec![anchor(1, 30, 1, 30), anchor(2, 9, 2, 40)]);
        assert_eq!(free(&all), [(1, 99), (2, 40)]);
        all.spans.clear();
        assert_eq!(free(&all), [(1, 30)]);
    }

    #[test]
    fn one_stream_for_several_sources_stays_for_each() {
        let mut other = anchor(1, 60, 1, 5);
        other.source = source("crm");
        let mut all = logs(vec![anchor(4, 2, 2, 20), other]);
        all.spans.insert(source("crm"), 7 * DAY);
        assert_eq!(free(&all), [(1, 5)]);
    }

    #[test]
    fn a_source_that_left_the_others_keeps_none_of_what_they_wrote_since() {
        let of = |name: &str, anchor: Anchor| Anchor { source: source(name), ..anchor };
        let mut all = logs(vec![of("crm", anchor(1, 60, 1, 5)), anchor(4, 60, 1, 70), anchor(5, 9, 2, 40)]);
        all.spans.insert(source("crm"), 7 * DAY);
        all.streams.insert(id(3), stream(30, None));
        let mut left = all.clone();
        left.streams.get_mut(&id(1)).expect("there").onward.leaves.insert(source("crm"), id(3));
        assert_eq!(free(&left), [(1, 5), (2, 40)], "where it left it goes on in another stream");
        assert_eq!(
            free(&all),
            [(1, 5), (3, 29)],
            "where it stayed it goes through theirs, and a stream nothing leads to goes"
        );
    }

    #[test]
    fn every_branch_has_its_own_span() {
        let mut old = anchor(5, 60, 1, 10);
        old.branch = BranchNo::new(1);
        assert_eq!(free(&logs(vec![old, anchor(9, 2, 2, 20)])), [(1, 10)]);
    }

    #[test]
    fn a_stream_nothing_leads_to_goes_once_no_run_can_be_at_it_and_its_end_stays() {
        let mut orphan = logs(vec![]);
        assert_eq!(free(&orphan), [(1, 99), (2, 49)]);
        orphan.streams.get_mut(&id(2)).expect("there").newest = Some(at(0));
        assert_eq!(free(&orphan), [(1, 99)]);
        orphan.streams.insert(id(3), stream(2, None));
        orphan.streams.insert(id(4), stream(1, None));
        assert_eq!(free(&orphan), [(1, 99)], "two slots are what always stays");
    }

    #[test]
    fn a_circle_ends() {
        let mut all = logs(vec![anchor(1, 1, 1, 70)]);
        all.streams.get_mut(&id(2)).expect("there").onward = id(1).into();
        assert_eq!(free(&all), [(1, 70)]);
    }

    fn rolled(logs: &mut Logs, stream: u8, names: &[(u64, u64, i64)]) {
        let found = logs.streams.get_mut(&id(stream)).expect("there");
        let name = |first, last| Rolled { first, last, generation: 0 };
        found.rolled = names.iter().map(|(a, b, days)| (name(*a, *b), RollUp { len: 1, stored: at(*days) })).collect();
    }

    fn slots(name: Rolled) -> (u64, u64) {
        (name.first, name.last)
    }

    /// By which roll-up, how many slots, which roll-ups.
    type Said = ((u64, u64), usize, Vec<(u64, u64)>);

    fn covered(logs: &Logs) -> Vec<Said> {
        let all = logs.covered(at(0), DAY);
        let rolled = |c: Covered| c.rolled.into_iter().map(|(name, _)| slots(name)).collect();
        all.into_iter().map(|c| (slots(c.by), c.slots.len(), rolled(c))).collect()
    }

    #[test]
    fn what_a_roll_up_says_once_more_goes_when_nobody_can_be_reading_it() {
        let mut all = logs(vec![anchor(1, 2, 1, 1)]);
        rolled(&mut all, 1, &[(1, 3, 2), (4, 6, 2), (1, 6, 2), (7, 9, 0), (10, 12, 2)]);
        assert_eq!(covered(&all), [((1, 6), 6, vec![(1, 3), (4, 6)]), ((10, 12), 3, vec![])], "7 to 9 is too young");
        let mut without_rules = all.clone();
        without_rules.spans.clear();
        assert_eq!(covered(&without_rules), []);
        // The last two slots stay, whatever says them once more.
        rolled(&mut all, 1, &[(90, 100, 2)]);
        assert_eq!(covered(&all), [((90, 100), 9, vec![])]);
    }

    #[test]
    fn a_roll_up_that_a_snapshot_leads_into_lets_nothing_go() {
        let mut all = logs(vec![anchor(1, 2, 1, 1), anchor(2, 1, 1, 5)]);
        rolled(&mut all, 1, &[(1, 3, 2), (4, 6, 2), (1, 6, 2)]);
        assert_eq!(covered(&all), [((1, 3), 3, vec![])]);
        rolled(&mut all, 1, &[(5, 9, 2)]);
        assert_eq!(covered(&all), [((5, 9), 5, vec![])], "one that begins there does");
    }

    #[test]
    fn roll_ups_go_with_the_beginning_of_their_stream() {
        let mut all = logs(vec![anchor(1, 30, 1, 1), anchor(2, 9, 1, 40)]);
        rolled(&mut all, 1, &[(1, 9, 2), (30, 60, 2), (40, 60, 2)]);
        assert_eq!(free(&all), [(1, 40)]);
        let goes: Vec<(u64, u64)> = all.rolled_below(&id(1), 40).map(|(name, _)| slots(name)).collect();
        assert_eq!(goes, [(1, 9), (30, 60)]);
        assert_eq!(covered(&all), [((40, 60), 21, vec![])], "what goes anyway is not looked at");
        let stream = all.streams.get_mut(&id(1)).expect("there");
        stream.slots.retain(|slot, _| *slot > 50);
        assert_eq!(free(&all), [(1, 40)], "a roll-up is left there");
    }
}
