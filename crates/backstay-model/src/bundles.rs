//! Which snapshots a bundle is made of, and which bundles are of no more use.
//!
//! Every sixteenth snapshot makes a bundle of the sixteen up to it, and every fourth of those takes the three before it in,
//! up to a thousand: so the newest thousand lie in a dozen bundles at most, and each front is put four times.

use crate::Sequence;

/// How many snapshots one bundle is of, each four times the next.
const SPANS: [u64; 4] = [1024, 256, 64, 16];
/// The fewest.
pub const SPAN_MIN: u64 = 16;

/// The first snapshot of the bundle that is due after this one.
pub fn first_of(last: Sequence) -> Option<Sequence> {
    let span = SPANS.into_iter().find(|span| last.get().is_multiple_of(*span))?;
    last.get().checked_sub(span - 1).filter(|first| *first > 0).map(Sequence::new)
}

/// The numbers a bundle is of.
pub type Span = (Sequence, Sequence);

/// Whether anybody makes a bundle of these.
pub fn is_due((first, last): Span) -> bool {
    first_of(last) == Some(first)
}

/// Whether a bundle is one of the four that a larger one takes in.
pub fn is_quarter(of: Span, (first, last): Span) -> bool {
    let numbers = |(first, last): Span| last.get().saturating_sub(first.get()).saturating_add(1);
    first <= of.0 && of.1 <= last && numbers(of).saturating_mul(4) == numbers((first, last))
}

/// Which of these bundles another one has whole; of several alike the first stays.
pub fn covered(spans: &[Span]) -> Vec<bool> {
    let has = |a: Span, b: Span| a.0 <= b.0 && b.1 <= a.1;
    let by_another = |(at, of): (usize, &Span)| {
        let others = spans.iter().enumerate().filter(|(other, _)| *other != at);
        others.into_iter().any(|(other, span)| has(*span, *of) && (span != of || other < at))
    };
    spans.iter().enumerate().map(by_another).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, last: u64) -> Span {
        (Sequence::new(first), Sequence::new(last))
    }

    #[test]
    fn every_sixteenth_is_due_and_larger_ones_take_the_smaller_in() {
        let first = |last| first_of(Sequence::new(last)).map(Sequence::get);
        assert_eq!([1, 15, 17, 0].map(first), [None; 4]);
        assert_eq!([16, 32, 64, 256, 1024, 1040, 2048].map(first), [1, 17, 1, 1, 1, 1025, 1025].map(Some));
    }

    /// However many there are, the newest thousand are in few bundles, and all but the last fifteen in one.
    #[test]
    fn the_newest_thousand_are_in_a_dozen_bundles() {
        for newest in [1000_u64, 1023, 1024, 5000, 9999, 10_000, 12_287] {
            let due = |last| Some((first_of(Sequence::new(last))?, Sequence::new(last)));
            let all: Vec<Span> = (1..=newest).filter_map(due).collect();
            let covered = covered(&all);
            let of_use: Vec<Span> =
                all.iter().zip(&covered).filter(|(_, covered)| !**covered).map(|(s, _)| *s).collect();
            let oldest = newest.saturating_sub(999).max(1);
            let needed = of_use.iter().filter(|(_, last)| last.get() >= oldest).count();
            let has = |n: u64| of_use.iter().any(|(first, last)| first.get() <= n && n <= last.get());
            assert!(needed <= 11, "{needed} of {newest}");
            assert_eq!((oldest..=newest).filter(|n| !has(*n)).count() as u64, newest % SPAN_MIN, "{newest}");
        }
    }

    #[test]
    fn a_bundle_is_of_the_numbers_that_were_due_and_takes_in_its_quarters() {
        let due = [span(1, 16), span(1, 64), span(17, 32), span(1, 1024)];
        assert!(due.into_iter().all(is_due));
        let others = [span(0, u64::MAX), span(1, u64::MAX), span(2, 17), span(49, 64), span(16, 1), span(1, 32)];
        assert!(!others.into_iter().any(is_due));
        assert!(is_quarter(span(17, 32), span(1, 64)) && is_quarter(span(1, 256), span(1, 1024)));
        assert!(!is_quarter(span(1, 64), span(1, 64)) && !is_quarter(span(1, 16), span(1, 1024)));
        assert!(!is_quarter(span(65, 80), span(1, 64)));
    }

    #[test]
    fn what_another_has_whole_is_covered_and_of_two_alike_one_stays() {
        let spans = [span(1, 64), span(1, 16), span(60, 70), span(1, 64)];
        assert_eq!(covered(&spans), [false, true, false, true]);
    }
}
