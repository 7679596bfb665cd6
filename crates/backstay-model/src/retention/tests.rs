use super::*;
use crate::catalog::Quality;
use crate::{BranchNo, ByteLen, Digest, Position, Sequence};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn moment(ms: i64) -> Moment {
    Moment::from_millis(ms).expect("in range")
}

/// Snapshot `n`, taken at `ms`.
fn snapshot(n: u64, ms: i64, marks: &[MarkKind]) -> Snapshot {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    Snapshot {
        id: ObjectId::from_bytes(id),
        sequence: Sequence::new(n),
        digest: Digest::ZERO,
        previous: Digest::ZERO,
        branch: BranchNo::FIRST,
        position: Position::new(n),
        taken: moment(ms),
        root: Digest::ZERO,
        length: ByteLen::new(0),
        added: ByteLen::new(0),
        quality: Quality::Whole,
        imported: false,
        label: None,
        keep: None,
        marks: marks.to_vec(),
    }
}

/// The sequences of the kept, oldest first, on the last day of the history.
fn kept(snapshots: &[Snapshot], policy: RetentionPolicy) -> Vec<u64> {
    let now = snapshots.iter().map(|s| s.taken).max().expect("there are some");
    let decisions = decide(snapshots, &policy, now, &TimeZone::UTC);
    assert_eq!(decisions.len(), snapshots.len(), "every snapshot has its decision");
    let kept = decisions.iter().filter(|d| matches!(d.fate, Fate::Keep(_)));
    let mut kept: Vec<u64> =
        kept.map(|d| snapshots.iter().find(|s| s.id == d.snapshot).expect("known").sequence.get()).collect();
    kept.sort_unstable();
    kept
}

/// One a day for a year, the first on 2026-01-01 at noon.
fn year() -> Vec<Snapshot> {
    let begin = 1_767_268_800_000;
    (1..=365).map(|n| snapshot(n, begin + (n as i64 - 1) * DAY, &[])).collect()
}

#[test]
fn without_a_policy_nothing_is_freed() {
    assert_eq!(kept(&year(), RetentionPolicy::default()).len(), 365);
}

#[test]
fn the_handbooks_rules_keep_what_they_say() {
    let policy = RetentionPolicy { daily: 7, weekly: 4, monthly: 12, ..Default::default() };
    let kept = kept(&year(), policy);
    // Seven days, then the newest of the older weeks, then the last day of each month.
    assert_eq!(kept[kept.len() - 7..], [359, 360, 361, 362, 363, 364, 365]);
    assert!(kept.contains(&31) && kept.contains(&59), "{kept:?}");
    assert!((19..=22).contains(&kept.len()), "{kept:?}");
}

#[test]
fn bad_snapshots_take_no_slot_and_go_first() {
    let mut all = vec![snapshot(1, 0, &[MarkKind::Proven])];
    all.extend((2..=5).map(|n| snapshot(n, n as i64 * HOUR, &[MarkKind::Quarantined])));
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    assert_eq!(kept(&all, policy), [1, 5], "the good one, and the tip that the chain needs");
}

#[test]
fn the_last_proven_stays_whatever_the_policy_says() {
    let mut all = year();
    all[3].marks = vec![MarkKind::Proven];
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    assert_eq!(kept(&all, policy), [4, 365]);
}

#[test]
fn pins_and_labels_outlive_every_rule_until_their_day() {
    let mut all = year();
    all[0].keep = Some(Keep::ForEver);
    all[1].keep = Some(Keep::Until(moment(all[364].taken.as_millis() + 1)));
    all[2].keep = Some(Keep::Until(all[364].taken));
    all[3].marks = vec![MarkKind::Pinned];
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    assert_eq!(kept(&all, policy), [1, 2, 4, 365]);
}

#[test]
fn more_of_a_rule_never_keeps_less() {
    let all = year();
    for count in 0..40 {
        let fewer = kept(&all, RetentionPolicy { daily: count, weekly: 3, ..Default::default() });
        let more = kept(&all, RetentionPolicy { daily: count + 1, weekly: 3, ..Default::default() });
        assert!(fewer.iter().all(|n| more.contains(n)), "{count}");
    }
}

#[test]
fn deciding_again_after_freeing_frees_nothing_more() {
    let all = year();
    let policy = RetentionPolicy { days: 3, daily: 10, weekly: 5, monthly: 6, yearly: 2, ..Default::default() };
    let first = kept(&all, policy);
    let left: Vec<Snapshot> = all.into_iter().filter(|s| first.contains(&s.sequence.get())).collect();
    assert_eq!(kept(&left, policy), first);
}

#[test]
fn a_clock_that_jumped_does_not_free_the_newest() {
    // The newest by number was taken, by a wrong clock, long before the others.
    let all = vec![snapshot(1, 10 * DAY, &[]), snapshot(2, 11 * DAY, &[]), snapshot(3, DAY, &[])];
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    assert_eq!(kept(&all, policy), [2, 3]);
}
