//! Which objects of a log are sealed again, and in what their commits come to lie.
//!
//! A slot is never put twice, so it is a roll-up of a later generation that takes the place of what a master of before
//! opens: of a roll-up one with the same slots, and of the slots that are in none, one for each run of them. The next
//! prune lets go what they stand for, after it was compared.
//!
//! What stays is the end of a stream that nobody has taken over: its last two slots are the fence, and say
//! where numbers go on.

use super::logs::{Logs, Rolled, Stream};
use crate::{Ranges, StreamId};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// What of a stream a master of before opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Before {
    /// Slots with commits.
    pub slots: BTreeSet<u64>,
    pub rolled: BTreeSet<Rolled>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Again {
    /// Roll-ups that are sealed again each by itself.
    pub rolled: Vec<Rolled>,
    /// Slots that follow one another, from the first to the last: as many of a run as fit go into one roll-up.
    pub runs: Vec<(u64, u64)>,
    /// Slots that nothing can take the place of yet.
    pub left: Vec<u64>,
}

impl Again {
    pub fn is_empty(&self) -> bool {
        self.rolled.is_empty() && self.runs.is_empty()
    }
}

impl Logs {
    pub fn again(&self, id: &StreamId, before: &Before) -> Again {
        let Some(stream) = self.streams.get(id) else { return Again::default() };
        let mut standing: Vec<Rolled> =
            stream.rolled.keys().filter(|rolled| !before.rolled.contains(rolled)).copied().collect();
        let rolled = self.rolled_again((id, stream), before, &mut standing);
        let for_all = standing.iter().filter(|rolled| !self.leads_into(id, rolled));
        let there: Ranges = for_all.map(|rolled| (rolled.first, rolled.last)).collect();
        let mut again = Again { rolled, ..Again::default() };
        let ends = stream.closed_at();
        let fence = stream.slots.keys().next_back().copied().unwrap_or(0).saturating_sub(1);
        for slot in before.slots.iter().copied() {
            let is_end = ends == Some(slot);
            if ends.is_none() && slot >= fence {
                again.left.push(slot);
            } else if is_end && !standing.iter().any(|rolled| (rolled.first, rolled.last) == (slot, slot)) {
                again.runs.push((slot, slot));
            } else if !is_end && !there.contains(slot) {
                let begins = self.anchors.iter().any(|a| a.stream == *id && a.slot.get() == slot);
                match again.runs.last_mut().filter(|(_, last)| !begins && *last + 1 == slot) {
                    Some((_, last)) => *last = slot,
                    None => again.runs.push((slot, slot)),
                }
            }
        }
        again
    }

    /// The widest first, so that those inside one go with it. What comes to stand is added to what stands.
    fn rolled_again(
        &self,
        (id, stream): (&StreamId, &Stream),
        before: &Before,
        standing: &mut Vec<Rolled>,
    ) -> Vec<Rolled> {
        let mut old: Vec<Rolled> = before.rolled.iter().copied().collect();
        old.sort_by_key(|rolled| (Reverse(rolled.last - rolled.first), rolled.first, Reverse(rolled.generation)));
        let mut again = Vec::new();
        for rolled in old {
            let is_end = stream.closed_at() == Some(rolled.first) && rolled.first == rolled.last;
            let same = |by: &Rolled| (by.first, by.last) == (rolled.first, rolled.last);
            let for_it = |by: &&Rolled| by.generation >= rolled.generation && by.spans(rolled.first, rolled.last);
            let stands = |by: &Rolled| same(by) || !is_end && !self.leads_into(id, by);
            if standing.iter().filter(for_it).any(stands) {
                continue;
            }
            again.push(rolled);
            standing.push(stream.next_of(rolled.first, rolled.last));
        }
        again
    }
}

impl Stream {
    /// The name of a roll-up that comes after all there are inside it.
    pub fn next_of(&self, first: u64, last: u64) -> Rolled {
        let whole = Rolled { first, last, generation: 0 };
        let inside = self.rolled.keys().filter(|rolled| whole.spans(rolled.first, rolled.last));
        let highest = inside.map(|rolled| rolled.generation).max().unwrap_or(0);
        Rolled { generation: highest.saturating_add(1), ..whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::logs::{Anchor, RollUp};
    use crate::{BranchNo, Moment, Onward, Sequence};

    const NOW: i64 = 100 * 86_400_000;

    fn id() -> StreamId {
        StreamId::from_bytes([1; 16])
    }

    fn at(millis_ago: i64) -> Moment {
        Moment::from_millis(NOW - millis_ago).expect("in range")
    }

    fn rolled(first: u64, last: u64, generation: u64) -> Rolled {
        Rolled { first, last, generation }
    }

    /// Slots from 1 to `last`; closed by the last of them, or not.
    fn logs(last: u64, closed: bool, names: &[Rolled], led_to: &[u64]) -> Logs {
        let rolled = names.iter().map(|name| (*name, RollUp { len: 1, stored: at(10) })).collect();
        let onward = if closed { StreamId::from_bytes([2; 16]).into() } else { Onward::default() };
        let stream = Stream { slots: (1..=last).map(|n| (n, 10)).collect(), onward, rolled, newest: Some(at(10)) };
        let source: crate::SourceName = "shop".parse().expect("a name");
        let anchor = |slot: &u64| Anchor {
            source: source.clone(),
            branch: BranchNo::FIRST,
            number: Sequence::new(*slot),
            at: at(20),
            stream: id(),
            slot: Sequence::new(*slot),
            counts: true,
        };
        let anchors = led_to.iter().map(anchor).collect();
        Logs { anchors, streams: [(id(), stream)].into(), spans: [(source.clone(), 86_400_000)].into() }
    }

    fn all(slots: impl IntoIterator<Item = u64>, names: &[Rolled]) -> Before {
        Before { slots: slots.into_iter().collect(), rolled: names.iter().copied().collect() }
    }

    /// Puts what is to be put, lets go what goes, and says what a master of before still opens.
    fn done(logs: &mut Logs, before: &Before) -> (Vec<u64>, Vec<Rolled>) {
        let again = logs.again(&id(), before);
        let stream = logs.streams.get_mut(&id()).expect("there");
        let same = again.rolled.iter().map(|name| (name.first, name.last));
        let new: Vec<Rolled> =
            same.chain(again.runs.iter().copied()).map(|(first, last)| stream.next_of(first, last)).collect();
        stream.rolled.extend(new.iter().map(|name| (*name, RollUp { len: 1, stored: at(10) })));
        for covered in logs.covered(at(0), 5) {
            let stream = logs.streams.get_mut(&id()).expect("there");
            stream.slots.retain(|slot, _| !covered.slots.iter().any(|(gone, _)| gone == slot));
            stream.rolled.retain(|name, _| !covered.rolled.iter().any(|(gone, _)| gone == name));
        }
        let stream = &logs.streams[&id()];
        assert!(logs.again(&id(), before).is_empty(), "there is nothing left to do");
        let slots = stream.slots.keys().filter(|slot| before.slots.contains(slot));
        let rolled = stream.rolled.keys().filter(|name| before.rolled.contains(name));
        (slots.copied().collect(), rolled.copied().collect())
    }

    #[test]
    fn of_a_stream_that_was_handed_over_nothing_is_left() {
        let names = [rolled(1, 3, 0), rolled(4, 6, 0), rolled(1, 6, 0)];
        let mut all_of_it = logs(10, true, &names, &[1]);
        let before = all(1..=9, &names);
        let again = all_of_it.again(&id(), &before);
        assert_eq!(again, Again { rolled: vec![rolled(1, 6, 0)], runs: vec![(7, 8), (9, 9)], left: vec![] });
        assert_eq!(done(&mut all_of_it, &before), (vec![], vec![]));
        let stream = &all_of_it.streams[&id()];
        assert_eq!(stream.slots.keys().copied().collect::<Vec<_>>(), [10], "its end names the next stream");
        let names: Vec<Rolled> = stream.rolled.keys().copied().collect();
        assert_eq!(names, [rolled(1, 6, 1), rolled(7, 8, 1), rolled(9, 9, 1)]);
        // And once more under another master.
        assert_eq!(done(&mut all_of_it, &all([], &names)), (vec![], vec![]));
        let names: Vec<Rolled> = all_of_it.streams[&id()].rolled.keys().copied().collect();
        assert_eq!(names, [rolled(1, 6, 2), rolled(7, 8, 2), rolled(9, 9, 2)]);
    }

    #[test]
    fn the_end_of_one_that_goes_on_is_left() {
        let mut open = logs(5, false, &[], &[1]);
        let before = all(1..=5, &[]);
        assert_eq!(open.again(&id(), &before), Again { runs: vec![(1, 3)], left: vec![4, 5], ..Again::default() });
        assert_eq!(done(&mut open, &before), (vec![4, 5], vec![]));
        assert_eq!(logs(5, false, &[], &[1]).again(&id(), &all([], &[])), Again::default());
    }

    #[test]
    fn where_a_snapshot_leads_into_a_roll_up_its_slots_are_sealed_again_too() {
        let names = [rolled(1, 3, 0), rolled(4, 6, 0), rolled(1, 6, 0)];
        let mut led_into = logs(8, true, &names, &[1, 5]);
        let before = all(1..=7, &names);
        let again = led_into.again(&id(), &before);
        let wanted = vec![rolled(1, 6, 0), rolled(1, 3, 0), rolled(4, 6, 0)];
        assert_eq!(again, Again { rolled: wanted, runs: vec![(4, 4), (5, 6), (7, 7)], left: vec![] });
        assert_eq!(done(&mut led_into, &before), (vec![], vec![]));
    }

    #[test]
    fn whatever_was_there_nothing_but_the_fence_is_left() {
        // Every set of roll-ups out of some, with and without what an earlier run has done.
        let some =
            [rolled(1, 4, 0), rolled(2, 3, 0), rolled(3, 6, 0), rolled(1, 4, 1), rolled(5, 7, 0), rolled(7, 7, 1)];
        for set in 0..1u32 << some.len() {
            let names: Vec<Rolled> = (0..some.len()).filter(|n| set & 1 << n != 0).map(|n| some[n]).collect();
            for led_to in [&[1][..], &[1, 3], &[1, 4, 7]] {
                for old in [0, 1] {
                    let before: Vec<Rolled> = names.iter().copied().filter(|name| name.generation <= old).collect();
                    let mut closed = logs(8, true, &names, led_to);
                    let left = done(&mut closed, &all(1..=7, &before));
                    assert_eq!(left, (vec![], vec![]), "{names:?}, {led_to:?}, {old}");
                    let mut open = logs(8, false, &names, led_to);
                    let left = done(&mut open, &all(1..=8, &before));
                    assert_eq!(left, (vec![7, 8], vec![]), "{names:?}, {led_to:?}, {old}");
                }
            }
        }
    }
}
