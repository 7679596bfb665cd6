//! The roll-ups of a stream, by a listing: where each begins, and how far it goes.
//!
//! A listing is a hint. What a roll-up says counts once its signature holds and it fits what is before and behind it;
//! one that does not is forgotten, and the slots are read.

use backstay_model::{Sequence, StreamId};
use backstay_store::keys::LogName;
use backstay_store::repo::{RepoError, Repository};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct Rolled(BTreeSet<LogName>);

impl Rolled {
    pub async fn of(repo: &Repository, stream: &StreamId) -> Result<Self, RepoError> {
        Ok(Self(repo.roll_ups(stream).await?.into_iter().collect()))
    }

    /// The longest roll-up that begins at a slot, or else the slot.
    pub fn at(&self, stream: StreamId, slot: Sequence) -> LogName {
        let own = LogName::slot(stream, slot);
        let longest = LogName { last: Sequence::new(u64::MAX), ..own };
        self.0.range(own..=longest).next_back().copied().unwrap_or(own)
    }

    /// Those that have a slot, the longest first.
    pub fn over(&self, slot: Sequence) -> Vec<LogName> {
        let mut over: Vec<LogName> =
            self.0.iter().filter(|name| name.first <= slot && slot <= name.last).copied().collect();
        over.sort_by_key(|name| std::cmp::Reverse(name.last.get() - name.first.get()));
        over
    }

    /// The smallest objects that a roll-up can be compared with, in order; `None` where one of its slots is in no other.
    pub fn parts(&self, name: &LogName, is_there: impl Fn(Sequence) -> bool) -> Option<Vec<LogName>> {
        let (mut parts, mut slot) = (Vec::new(), name.first);
        while slot <= name.last {
            let own = LogName::slot(name.stream, slot);
            let longest = LogName { last: name.last, ..own };
            let shortest = || self.0.range(own..=longest).find(|part| *part != name).copied();
            let part = if is_there(slot) { Some(own) } else { shortest() }?;
            parts.push(part);
            slot = part.last.next()?;
        }
        Some(parts)
    }

    pub fn iter(&self) -> impl Iterator<Item = &LogName> {
        self.0.iter()
    }

    pub fn forget(&mut self, name: &LogName) {
        self.0.remove(name);
    }
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
        let name = |first, last| LogName { stream, first: Sequence::new(first), last: Sequence::new(last) };
        let mut rolled: Rolled = [name(1, 3), name(1, 9), name(1, 5), name(4, 5), name(6, 9)].into_iter().collect();
        let at = |rolled: &Rolled, slot| rolled.at(stream, Sequence::new(slot));
        assert_eq!(at(&rolled, 1), name(1, 9));
        assert_eq!([at(&rolled, 2), at(&rolled, 10)], [name(2, 2), name(10, 10)], "none begins there");
        assert_eq!(rolled.over(Sequence::new(5)), [name(1, 9), name(1, 5), name(4, 5)]);
        let parts = |name: LogName, slots: &[u64]| rolled.parts(&name, |slot| slots.contains(&slot.get()));
        assert_eq!(parts(name(1, 9), &[]), Some(vec![name(1, 3), name(4, 5), name(6, 9)]));
        assert_eq!(parts(name(1, 5), &[1, 2, 3]), Some(vec![name(1, 1), name(2, 2), name(3, 3), name(4, 5)]));
        assert_eq!(parts(name(6, 9), &[6, 7, 8]), None, "slot 9 is in nothing else");
        rolled.forget(&name(1, 9));
        assert_eq!(at(&rolled, 1), name(1, 5));
    }
}
