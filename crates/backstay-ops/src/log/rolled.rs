//! The roll-ups of a stream, by a listing: where each begins, and how far it goes.
//!
//! A listing is a hint. What a roll-up says counts once its signature holds and it fits what is before and behind it;
//! one that does not is forgotten, and the slots are read.

use backstay_model::{Generation, Sequence, StreamId};
use backstay_store::keys::LogName;
use backstay_store::repo::{RepoError, Repository};
use std::cmp::Reverse;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct Rolled(BTreeSet<LogName>);

impl Rolled {
    pub async fn of(repo: &Repository, stream: &StreamId) -> Result<Self, RepoError> {
        Ok(Self(repo.roll_ups(stream).await?.into_iter().collect()))
    }

    /// The longest roll-up that begins at a slot, the latest of the same, or else the slot.
    pub fn at(&self, stream: StreamId, slot: Sequence) -> LogName {
        let own = LogName::slot(stream, slot);
        self.0.range(own..=ending(own, Sequence::new(u64::MAX))).next_back().copied().unwrap_or(own)
    }

    /// Those that have a slot, the longest first.
    pub fn over(&self, slot: Sequence) -> Vec<LogName> {
        let mut over: Vec<LogName> =
            self.0.iter().filter(|name| name.first <= slot && slot <= name.last).copied().collect();
        over.sort_by_key(|name| Reverse((name.last.get() - name.first.get(), name.generation)));
        over
    }

    /// What of a roll-up's own slots begins at one of them, the smallest first: the slot, and smaller roll-ups.
    pub fn within(&self, name: &LogName, slot: Sequence) -> Vec<LogName> {
        [LogName::slot(name.stream, slot)].into_iter().chain(self.inside(name, slot)).collect()
    }

    /// The smallest objects that a roll-up can be compared with, in order; `None` where one of its slots is in no other.
    pub fn parts(&self, name: &LogName, is_there: impl Fn(Sequence) -> bool) -> Option<Vec<LogName>> {
        let (mut parts, mut slot) = (Vec::new(), name.first);
        while slot <= name.last {
            let own = LogName::slot(name.stream, slot);
            let part = if is_there(slot) { Some(own) } else { self.inside(name, slot).next() }?;
            parts.push(part);
            slot = part.last.next()?;
        }
        Some(parts)
    }

    /// Those that begin at a slot and end no later than another one, the shortest first.
    pub fn inside(&self, name: &LogName, slot: Sequence) -> impl Iterator<Item = LogName> {
        let (own, name) = (LogName::slot(name.stream, slot), *name);
        self.0.range(own..=ending(own, name.last)).filter(move |part| **part != name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &LogName> {
        self.0.iter()
    }

    pub fn forget(&mut self, name: &LogName) {
        self.0.remove(name);
    }
}

/// The last name of those that begin where one does and end there.
fn ending(own: LogName, last: Sequence) -> LogName {
    LogName { last, generation: Generation::new(u64::MAX), ..own }
}

impl FromIterator<LogName> for Rolled {
    fn from_iter<I: IntoIterator<Item = LogName>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_roll_up_that_begins_at_a_slot_stands_for_it() {
        let stream = StreamId::from_bytes([1; 16]);
        let again = |first, last, generation| LogName {
            stream,
            first: Sequence::new(first),
            last: Sequence::new(last),
            generation: Generation::new(generation),
        };
        let name = |first, last| again(first, last, 0);
        let mut rolled: Rolled = [name(1, 3), name(1, 9), name(1, 5), name(4, 5), name(6, 9)].into_iter().collect();
        let at = |rolled: &Rolled, slot| rolled.at(stream, Sequence::new(slot));
        assert_eq!(at(&rolled, 1), name(1, 9));
        assert_eq!([at(&rolled, 2), at(&rolled, 10)], [name(2, 2), name(10, 10)], "none begins there");
        assert_eq!(rolled.over(Sequence::new(5)), [name(1, 9), name(1, 5), name(4, 5)]);
        let parts = |name: LogName, slots: &[u64]| rolled.parts(&name, |slot| slots.contains(&slot.get()));
        assert_eq!(parts(name(1, 9), &[]), Some(vec![name(1, 3), name(4, 5), name(6, 9)]));
        assert_eq!(parts(name(1, 5), &[1, 2, 3]), Some(vec![name(1, 1), name(2, 2), name(3, 3), name(4, 5)]));
        assert_eq!(parts(name(6, 9), &[6, 7, 8]), None, "slot 9 is in nothing else");
        let within = |first, last, slot| rolled.within(&name(first, last), Sequence::new(slot));
        assert_eq!(within(1, 9, 1), [name(1, 1), name(1, 3), name(1, 5)]);
        assert_eq!(within(4, 5, 4), [name(4, 4)]);
        rolled.forget(&name(1, 9));
        assert_eq!(at(&rolled, 1), name(1, 5));
        let rolled: Rolled = [name(1, 5), again(1, 5, 2), again(1, 5, 1), again(6, 6, 1)].into_iter().collect();
        assert_eq!([at(&rolled, 1), at(&rolled, 6)], [again(1, 5, 2), again(6, 6, 1)], "the latest");
        let parts = |name: LogName| rolled.parts(&name, |_| false);
        assert_eq!(parts(again(1, 5, 2)), Some(vec![name(1, 5)]), "compared with what it was made of");
    }
}
