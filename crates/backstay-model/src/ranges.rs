//! Runs of numbers: sorted, apart from each other, both ends within. What a history of thousands of
//! deleted snapshots shrinks to.

use std::fmt;

/// A set of numbers as the fewest runs of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<(u64, u64)>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("runs of numbers are sorted, apart from each other, and end after they begin")]
pub struct BadRanges;

impl TryFrom<Vec<(u64, u64)>> for Ranges {
    type Error = BadRanges;
    fn try_from(runs: Vec<(u64, u64)>) -> Result<Self, BadRanges> {
        let upright = runs.iter().all(|(from, to)| from <= to);
        let apart = runs.windows(2).all(|pair| matches!(pair, [(_, end), (from, _)] if *from > end.saturating_add(1)));
        if upright && apart { Ok(Self(runs)) } else { Err(BadRanges) }
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        numbers.into_iter().map(|n| (n, n)).collect()
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    /// Runs in any order, also overlapping; one that ends before it begins holds nothing.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(runs: I) -> Self {
        let mut runs: Vec<(u64, u64)> = runs.into_iter().filter(|(from, to)| from <= to).collect();
        runs.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
        for (from, to) in runs {
            match joined.last_mut() {
                Some((_, end)) if from <= end.saturating_add(1) => *end = to.max(*end),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }
}

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn runs(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|(_, to)| *to < number);
        self.0.get(at).is_some_and(|(from, _)| *from <= number)
    }

    /// These and those together.
    pub fn with(&self, more: &Ranges) -> Self {
        self.0.iter().chain(&more.0).copied().collect()
    }

    /// The runs from `first` to `last` that are not in here.
    pub fn holes(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut next = Some(first);
        for (from, to) in &self.0 {
            let Some(at) = next.filter(|at| *at <= last) else { break };
            if at < *from {
                holes.push((at, last.min(from - 1)));
            }
            next = to.checked_add(1).map(|after| after.max(at));
        }
        holes.extend(next.filter(|at| *at <= last).map(|at| (at, last)));
        holes
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (from, to)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

impl std::str::FromStr for Ranges {
    type Err = BadRanges;
    /// `3`, `6-9` or `3,6-9`.
    fn from_str(text: &str) -> Result<Self, BadRanges> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| BadRanges);
        let run = |part: &str| match part.split_once('-') {
            Some((from, to)) => Ok((number(from)?, number(to)?)),
            None => number(part).map(|n| (n, n)),
        };
        let runs: Vec<(u64, u64)> = text.split(',').map(run).collect::<Result<_, _>>()?;
        if runs.iter().all(|(from, to)| from <= to) { Ok(runs.into_iter().collect()) } else { Err(BadRanges) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_join_and_text_round_trips() {
        let ranges: Ranges = [(4, 6), (1, 2), (3, 3), (9, 9)].into_iter().collect();
        assert_eq!(ranges.runs(), [(1, 6), (9, 9)]);
        assert_eq!((ranges.to_string().as_str(), ranges.to_string().parse()), ("1-6, 9", Ok(ranges)));
        for bad in ["", "x", "3-", "9-3", "1,,2", "-1"] {
            assert_eq!(bad.parse::<Ranges>(), Err(BadRanges), "{bad:?}");
        }
        for bad in [vec![(2, 1)], vec![(1, 2), (3, 4)], vec![(5, 6), (1, 2)], vec![(1, u64::MAX), (7, 8)]] {
            assert_eq!(Ranges::try_from(bad), Err(BadRanges));
        }
        let edge: Ranges = [(0, 3), (u64::MAX, u64::MAX)].into_iter().collect();
        assert_eq!(edge.holes(0, u64::MAX), [(4, u64::MAX - 1)]);
    }

    /// Every pair of sets of eight numbers.
    #[test]
    fn ranges_are_sets() {
        let set = |bits: u32| (0..8).filter(|n| bits >> n & 1 == 1).collect::<BTreeSet<u64>>();
        let of = |set: &BTreeSet<u64>| set.iter().copied().collect::<Ranges>();
        for bits in 0..1 << 8 {
            let a = set(bits);
            assert!((0..10).all(|n| of(&a).contains(n) == a.contains(&n)), "{a:?}");
            assert_eq!(Ranges::try_from(of(&a).runs().to_vec()), Ok(of(&a)));
            for (first, last) in (0..8).flat_map(|first| (0..9).map(move |last| (first, last))) {
                let holes: Ranges = of(&a).holes(first, last).into_iter().collect();
                let wanted: BTreeSet<u64> = (first..=last).filter(|n| !a.contains(n)).collect();
                assert_eq!(holes, of(&wanted), "{a:?} from {first} to {last}");
            }
            for b in (0..1 << 8).step_by(3).map(set) {
                assert_eq!(of(&a).with(&of(&b)), of(&a.union(&b).copied().collect()));
            }
        }
    }
}
