//! Which objects a check looks at now: always those that have gone unchecked longest first.
//!
//! A check that looks at a part comes round to everything: what it leaves is next in line.

use crate::{Moment, ObjectId};
use std::collections::BTreeSet;

/// How much a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    All,
    /// What the newest snapshot refers to, and of the rest as much as fits into so many bytes.
    Newest {
        budget: u64,
    },
    /// So many hundredths of all bytes.
    Sample {
        percent: u8,
    },
    /// What has not been checked for so long, or never.
    OlderThan {
        millis: i64,
    },
}

/// An object that could be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub object: ObjectId,
    pub bytes: u64,
    /// When it was last found good, as deep as is asked for now.
    pub checked: Option<Moment>,
    /// Whether the newest snapshot refers to it.
    pub newest: bool,
}

/// Chooses. Each object is named once, however many snapshots refer to it.
pub fn choose(candidates: &[Candidate], select: Select, now: Moment) -> BTreeSet<ObjectId> {
    let mut waiting: Vec<&Candidate> = candidates.iter().collect();
    waiting.sort_by_key(|c| (c.checked, c.object));
    let first_bytes = |most: u64, waiting: Vec<&Candidate>| {
        let mut left = most;
        let fits = move |c: &&Candidate| {
            let room = left > 0;
            left = left.saturating_sub(c.bytes);
            room
        };
        waiting.into_iter().take_while(fits).map(|c| c.object).collect::<BTreeSet<_>>()
    };
    match select {
        Select::All => candidates.iter().map(|c| c.object).collect(),
        Select::Newest { budget } => {
            let (newest, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|c| c.newest);
            let mut chosen = first_bytes(budget, rest);
            chosen.extend(newest.iter().map(|c| c.object));
            chosen
        }
        Select::Sample { percent } => {
            let all: u64 = candidates.iter().map(|c| c.bytes).sum();
            first_bytes(all.saturating_mul(u64::from(percent)).div_ceil(100), waiting)
        }
        Select::OlderThan { millis } => {
            let old = |c: &&Candidate| c.checked.is_none_or(|at| now.millis_since(at) > millis);
            candidates.iter().filter(old).map(|c| c.object).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u8, checked: Option<i64>, newest: bool) -> Candidate {
        let checked = checked.and_then(Moment::from_millis);
        Candidate { object: ObjectId::from_bytes([n; 16]), bytes: 10, checked, newest }
    }

    #[test]
    fn what_waited_longest_comes_first() {
        let all = [
            candidate(1, Some(400), false),
            candidate(2, None, false),
            candidate(3, Some(100), false),
            candidate(4, Some(900), true),
        ];
        let now = Moment::from_millis(1000).expect("in range");
        let chosen = |select| choose(&all, select, now).iter().map(|id| id.as_bytes()[0]).collect::<Vec<_>>();
        assert_eq!(chosen(Select::All), [1, 2, 3, 4]);
        assert_eq!(chosen(Select::Newest { budget: 0 }), [4]);
        assert_eq!(chosen(Select::Newest { budget: 11 }), [2, 3, 4]);
        assert_eq!(chosen(Select::Sample { percent: 0 }), [0; 0]);
        assert_eq!(chosen(Select::Sample { percent: 5 }), [2], "a part of an object is the object");
        assert_eq!(chosen(Select::Sample { percent: 50 }), [2, 3]);
        assert_eq!(chosen(Select::Sample { percent: 100 }), [1, 2, 3, 4]);
        assert_eq!(chosen(Select::OlderThan { millis: 500 }), [1, 2, 3]);
        assert_eq!(chosen(Select::OlderThan { millis: 899 }), [2, 3]);
    }
}
