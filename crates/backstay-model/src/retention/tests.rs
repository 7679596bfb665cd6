use super::*;
use crate::catalog::Quality;
use crate::{BranchNo, ByteLen, Digest, Generation, Position, Sequence};

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
        generation: Generation::FIRST,
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
        made_of: None,
        label: None,
        keep: None,
        marks: marks.to_vec(),
    }
}

/// The sequences of the kept, oldest first, on the last day of the history.
fn kept(snapshots: &[Snapshot], policy: RetentionPolicy) -> Vec<u64> {
    let now = snapshots.iter().map(|s| s.taken).max().expect("there are some");
    let candidates: Vec<Candidate<'_>> =
        snapshots.iter().map(|snapshot| Candidate { snapshot, stored: moment(0), complete: true }).collect();
    let decisions = decide(&candidates, &policy, now, &TimeZone::UTC);
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

#[test]
fn an_unproven_snapshot_never_pushes_out_a_proven_one() {
    let mut all = year();
    all[..360].iter_mut().for_each(|s| s.marks = vec![MarkKind::Proven]);
    for policy in
        [RetentionPolicy { last: 3, ..Default::default() }, RetentionPolicy { daily: 3, ..Default::default() }]
    {
        assert_eq!(kept(&all, policy), [358, 359, 360, 363, 364, 365], "three of each");
    }
}

#[test]
fn times_from_the_future_take_one_slot_together() {
    let mut all = year();
    let now = all[364].taken;
    // Ten snapshots on ten days of another year, by a clock that was wrong.
    (100..110).for_each(|n| all[n].taken = moment(now.as_millis() + (400 + n as i64) * DAY));
    let candidates: Vec<Candidate<'_>> =
        all.iter().map(|snapshot| Candidate { snapshot, stored: moment(0), complete: true }).collect();
    let policy = RetentionPolicy { daily: 7, ..Default::default() };
    let kept =
        decide(&candidates, &policy, now, &TimeZone::UTC).into_iter().filter(|d| matches!(d.fate, Fate::Keep(_)));
    let mut kept: Vec<u64> =
        kept.map(|d| all.iter().find(|s| s.id == d.snapshot).expect("known").sequence.get()).collect();
    kept.sort_unstable();
    assert_eq!(kept, [359, 360, 361, 362, 363, 364, 365]);
}

#[test]
fn what_the_store_got_lately_is_recent_whatever_its_time_says() {
    let old = [snapshot(1, DAY, &[]), snapshot(2, 2 * DAY, &[])];
    let now = moment(1000 * DAY);
    let stored =
        |millis| old.iter().map(move |snapshot| Candidate { snapshot, stored: moment(millis), complete: true });
    let policy = RetentionPolicy { days: 7, ..Default::default() };
    let freed = |candidates: Vec<Candidate<'_>>| {
        decide(&candidates, &policy, now, &TimeZone::UTC).iter().filter(|d| matches!(d.fate, Fate::Free(_))).count()
    };
    assert_eq!(freed(stored(990 * DAY).collect()), 1);
    assert_eq!(freed(stored(994 * DAY).collect()), 0);
}

#[test]
fn a_snapshot_whose_objects_are_not_listed_is_neither_freed_nor_counted() {
    let mut all = year();
    all[364].marks = vec![MarkKind::Proven];
    let candidates: Vec<Candidate<'_>> = all
        .iter()
        .map(|snapshot| Candidate { snapshot, stored: moment(0), complete: snapshot.sequence.get() < 364 })
        .collect();
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    let decisions = decide(&candidates, &policy, all[364].taken, &TimeZone::UTC);
    let of = |n: usize| &decisions.iter().find(|d| d.snapshot == all[n - 1].id).expect("decided").fate;
    assert_eq!(of(365), &Fate::Keep(vec![Reason::Newest, Reason::Incomplete, Reason::LastProven]));
    assert_eq!(of(364), &Fate::Keep(vec![Reason::Incomplete]));
    assert_eq!(of(363), &Fate::Keep(vec![Reason::Newest, Reason::Last]));
    assert_eq!(of(362), &Fate::Free(Freed::Outlived));
}

#[test]
fn an_imported_copy_frees_neither_the_latest_nor_its_proof() {
    let mut all = year();
    all[300].marks = vec![MarkKind::Proven];
    for copy in &mut all[360..] {
        (copy.imported, copy.marks) = (true, vec![MarkKind::Proven]);
    }
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    assert_eq!(kept(&all, policy), [301, 360, 365]);
}

/// Whatever the history and the rules, some things never go.
#[test]
fn no_policy_frees_the_newest_the_last_proven_a_pin_or_a_promise() {
    let mut dice: u64 = 7;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    for _ in 0..500 {
        let mut all = Vec::new();
        for n in 1..=1 + roll(40) {
            let mut marks = Vec::new();
            for kind in [MarkKind::Proven, MarkKind::Quarantined, MarkKind::Pinned] {
                marks.extend((roll(4) == 0).then_some(kind));
            }
            let mut snapshot = snapshot(n, roll(400) as i64 * DAY / 4, &marks);
            snapshot.keep = (roll(9) == 0).then_some(Keep::ForEver);
            all.push(snapshot);
        }
        let mut number = || if roll(3) == 0 { roll(9) as u32 } else { 0 };
        let policy = RetentionPolicy {
            last: number(),
            days: number(),
            hourly: number(),
            daily: number(),
            weekly: number(),
            monthly: number(),
            yearly: number(),
        };
        let kept = kept(&all, policy);
        let good = || all.iter().filter(|s| !s.is_quarantined());
        let wanted = [
            all.last().map(|s| s.sequence),
            good().next_back().map(|s| s.sequence),
            good().rfind(|s| s.is_proven()).map(|s| s.sequence),
        ];
        for sequence in wanted.into_iter().flatten() {
            assert!(kept.contains(&sequence.get()), "{sequence:?} of {all:?}");
        }
        for held in all.iter().filter(|s| s.has(MarkKind::Pinned) || s.keep.is_some()) {
            assert!(kept.contains(&held.sequence.get()), "{held:?}");
        }
        assert!(policy.is_set() || kept.len() == all.len());
    }
}
