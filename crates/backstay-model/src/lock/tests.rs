//! Horizons, span by span.

use super::*;
use crate::catalog::{Quality, Snapshot};
use crate::{BranchNo, ByteLen, Digest, Generation, Position, Sequence};

const DAY: i64 = 86_400_000;
const NOW: i64 = 20_000 * DAY;

fn days_ago(days: i64) -> Moment {
    Moment::from_millis(NOW - days * DAY).expect("in range")
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 16])
}

/// A snapshot stored so many days ago, over packs that were.
fn standing(stored: i64, packs: &[i64]) -> (Standing, BTreeMap<ObjectId, Listed>) {
    let packs: BTreeMap<ObjectId, Listed> =
        (1..).zip(packs).map(|(n, days)| (id(n), Listed { len: 1, modified: days_ago(*days) })).collect();
    let snapshot = Snapshot {
        id: id(99),
        sequence: Sequence::FIRST,
        generation: Generation::FIRST,
        digest: Digest::ZERO,
        previous: Digest::ZERO,
        branch: BranchNo::FIRST,
        position: Position::new(1),
        taken: days_ago(stored),
        root: Digest::ZERO,
        length: ByteLen::new(0),
        added: ByteLen::new(0),
        quality: Quality::Whole,
        label: None,
        keep: None,
        marks: Vec::new(),
        imported: false,
        made_of: None,
    };
    let needs = packs.keys().copied().collect();
    (Standing { snapshot, stored: days_ago(stored), len: 1, needs, followed: false }, packs)
}

fn lock(objects: i64, snapshots: i64) -> ObjectLock {
    ObjectLock::new(objects * DAY, Some(snapshots * DAY)).expect("spans that fit")
}

fn horizon(lock: ObjectLock, stored: i64, packs: &[i64], is_newest: bool) -> (Option<i64>, bool) {
    let (standing, packs) = standing(stored, packs);
    let horizon = lock.horizon(&standing, &packs, is_newest, days_ago(0));
    (horizon.until.map(|until| until.millis_since(days_ago(0)) / DAY), horizon.short)
}

#[test]
fn a_horizon_is_the_least_of_what_a_snapshot_refers_to() {
    let month = lock(30, 14);
    assert_eq!(horizon(month, 0, &[0, 0], false), (Some(30), false));
    assert_eq!(horizon(month, 0, &[3, 16, 1], false), (Some(14), false), "just what was wanted");
    assert_eq!(horizon(month, 0, &[3, 17, 1], false), (Some(13), true), "one pack is a day too old");
    assert_eq!(horizon(month, 0, &[40], false), (Some(-10), true), "its lock is over");
    assert_eq!(horizon(month, 5, &[], false), (Some(25), false), "the manifest itself is locked too");
}

#[test]
fn an_old_snapshot_owes_nothing_more_unless_it_is_the_newest() {
    let month = lock(30, 14);
    assert_eq!(horizon(month, 14, &[20], false), (Some(10), false));
    assert_eq!(horizon(month, 15, &[40], false), (Some(-10), false), "its fortnight is over");
    assert_eq!(horizon(month, 15, &[40], true), (Some(-10), true), "nothing that can be restored is locked");
    assert_eq!(horizon(month, 29, &[29], true), (Some(1), false));
}

#[test]
fn what_is_not_listed_is_not_locked() {
    let (mut standing, packs) = standing(0, &[0]);
    standing.needs.push(id(77));
    let horizon = lock(30, 14).horizon(&standing, &packs, false, days_ago(0));
    assert_eq!((horizon.until, horizon.short), (None, true));
}

#[test]
fn an_object_is_left_behind_while_its_lock_still_covers_the_snapshots_before() {
    let month = lock(30, 14);
    assert!(month.may_refer(days_ago(15), days_ago(0)));
    assert!(!month.may_refer(days_ago(16), days_ago(0)), "it may take half a day until the snapshot is stored");
    // Whatever the spans, a snapshot that was let refer to an object reaches as far as it is to.
    for (objects, snapshots) in [(2, 1), (30, 15), (30, 29), (365, 7)] {
        let lock = lock(objects, snapshots);
        for age in 0..objects {
            let half_a_day_later = Moment::from_millis(NOW + WRITER_DEADLINE_MILLIS).expect("in range");
            let stored = days_ago(age);
            let reaches = lock.ends(stored) >= lock.wanted(half_a_day_later);
            assert_eq!(lock.may_refer(stored, days_ago(0)), reaches, "{objects} {snapshots} {age}");
        }
        assert!(lock.may_refer(days_ago(0), days_ago(0)), "what is fresh is always good");
    }
}

#[test]
fn spans_that_cannot_be_kept_together_are_refused() {
    assert!(ObjectLock::new(DAY, None).is_none());
    assert!(ObjectLock::new(2 * DAY, None).is_some());
    assert!(ObjectLock::new(30 * DAY, Some(29 * DAY)).is_some());
    assert!(ObjectLock::new(30 * DAY, Some(30 * DAY)).is_none());
    assert!(ObjectLock::new(i64::MAX, None).is_none());
    assert!(ObjectLock::new(30 * DAY, Some(-1)).is_none());
}
