//! What may be condemned and deleted, case by case. Histories by chance are in `ops`.

use super::*;
use crate::catalog::{MarkKind, Quality};
use crate::{BranchNo, ByteLen, Position};

const HOUR: i64 = 3_600_000;
const NOW: i64 = 10_000 * HOUR;

fn at(millis: i64) -> Moment {
    Moment::from_millis(millis).expect("in range")
}

fn id(n: u64) -> ObjectId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    ObjectId::from_bytes(id)
}

fn digest(n: u64) -> Digest {
    Digest::from_bytes([n as u8; 32])
}

/// Snapshot `n`, as many hours old as it is before number 100, that needs these packs.
fn standing(n: u64, needs: &[u64]) -> Standing {
    let snapshot = Snapshot {
        id: id(n),
        sequence: Sequence::new(n),
        generation: Generation::FIRST,
        digest: digest(n),
        previous: digest(n - 1),
        branch: BranchNo::FIRST,
        position: Position::new(n),
        taken: at(NOW - (100 - n as i64) * HOUR),
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
    let stored = snapshot.taken;
    Standing { snapshot, stored, len: 10, needs: needs.iter().map(|n| id(*n)).collect(), followed: false }
}

fn found(standing: Vec<Standing>) -> Found {
    let packs = standing.iter().flat_map(|s| s.needs.clone());
    let packs = packs.map(|pack| (pack, Listed { len: 1000, modified: at(NOW - 100 * HOUR) })).collect();
    Found { standing, packs, ..Found::default() }
}

fn last(count: u32) -> Rules {
    Rules {
        policy: RetentionPolicy { last: count, ..Default::default() },
        zone: TimeZone::UTC,
        now: at(NOW),
        grace_millis: 24 * HOUR,
        given_up: GivenUp::default(),
        most: 100,
        lock: None,
        log_millis: 0,
    }
}

fn numbers(named: &[Named]) -> Vec<u64> {
    named.iter().map(|named| named.sequence.get()).collect()
}

#[test]
fn what_the_kept_need_is_never_condemned() {
    let found = found(vec![standing(1, &[901, 902]), standing(2, &[902, 903]), standing(3, &[903, 904])]);
    let plan = plan(&found, &last(1));
    assert_eq!((numbers(&plan.snapshots), &plan.packs[..]), (vec![1, 2], &[id(901), id(902)][..]));
    assert_eq!((plan.gone.runs(), plan.bytes, plan.put_off), (&[(1, 2)][..], 2020, 0));
    assert!(doubts(&found, &GivenUp::default()).is_empty());
}

#[test]
fn what_no_manifest_names_goes_only_once_no_run_can_name_it() {
    let mut found = found(vec![standing(1, &[901])]);
    let deadline = NOW - WRITER_DEADLINE_MILLIS;
    for (n, modified) in [(950, deadline), (951, deadline + 1), (952, NOW + HOUR)] {
        found.packs.insert(id(n), Listed { len: 5, modified: at(modified) });
    }
    let plan_now = plan(&found, &last(1));
    assert_eq!((&plan_now.packs[..], plan_now.young), (&[id(950)][..], 2));
    let keep_all = Rules { policy: RetentionPolicy::default(), ..last(1) };
    assert_eq!(plan(&found, &keep_all).packs, [], "without a policy nothing goes");
}

#[test]
fn there_is_room_for_so_many_and_the_rest_comes_next_time() {
    let found = found((1..=9).map(|n| standing(n, &[900 + n])).collect());
    let plan = plan(&found, &Rules { most: 5, ..last(1) });
    assert_eq!((numbers(&plan.snapshots), plan.packs.len(), plan.put_off), (vec![1, 2, 3, 4, 5], 0, 8));
    let most_snapshots = super::plan(&found, &Rules { most: 12, ..last(1) });
    assert_eq!((most_snapshots.snapshots.len(), most_snapshots.packs.len(), most_snapshots.put_off), (8, 4, 4));
}

#[test]
fn a_history_that_is_not_whole_is_doubted() {
    let whole = || found(vec![standing(2, &[901]), standing(3, &[901]), standing(5, &[901])]);
    let of = |found: &Found| doubts(found, &GivenUp::default());
    assert_eq!(of(&whole()), [Doubt::Hole { from: 1, to: 1 }, Doubt::Hole { from: 4, to: 4 }]);
    let mut explained = whole();
    explained.recorded.gone = [1, 4].into_iter().collect();
    assert_eq!(of(&explained), []);
    explained.recorded.head = Some((Sequence::new(5), digest(5)));
    explained.seen = explained.recorded.head;
    assert_eq!(of(&explained), []);
    let head = |sequence, digest| Found { seen: Some((Sequence::new(sequence), digest)), ..explained.clone() };
    assert_eq!(of(&head(5, digest(9))), [Doubt::HeadMissing { sequence: Sequence::new(5) }], "another stands there");
    let newer = [Doubt::Hole { from: 6, to: 7 }, Doubt::HeadMissing { sequence: Sequence::new(7) }];
    assert_eq!(of(&head(7, digest(7))), newer, "the newest is withheld");
    assert_eq!(of(&head(4, digest(4))), [], "that one was condemned");
    let marks = Found { mark_faults: 2, ..explained.clone() };
    assert_eq!(of(&marks), [Doubt::Marks { count: 2 }]);
    let unread = Found { unread: vec!["x".to_owned()], ..explained.clone() };
    assert_eq!(of(&unread), [Doubt::Unread { name: "x".to_owned() }]);
    assert_eq!(of(&Found::default()), [], "nothing yet");
}

#[test]
fn what_cannot_be_verified_stops_everything_until_exactly_that_is_given_up() {
    let mut found = found(vec![standing(1, &[901]), standing(3, &[903])]);
    let rotten = Named { sequence: Sequence::new(2), id: id(2), generation: Generation::FIRST };
    found.unverified = vec![rotten];
    assert_eq!(doubts(&found, &GivenUp::default()), [Doubt::Unverified(rotten)]);
    let other = GivenUp { snapshots: [id(7)].into(), ..GivenUp::default() };
    assert_eq!(doubts(&found, &other).len(), 1);
    let given_up = GivenUp { unverified: [rotten].into(), missing: [2].into_iter().collect(), ..GivenUp::default() };
    assert_eq!(doubts(&found, &given_up), []);
    let rules = Rules { given_up, policy: RetentionPolicy::default(), ..last(1) };
    let plan = plan(&found, &rules);
    assert_eq!((&plan.snapshots[..], &plan.packs[..], plan.gone.runs()), (&[rotten][..], &[][..], &[(2, 2)][..]));
}

#[test]
fn a_right_is_not_given_up_but_a_promise_to_oneself_is() {
    let mut all = vec![standing(1, &[901]), standing(2, &[902]), standing(3, &[903]), standing(4, &[904])];
    all[0].snapshot.keep = Some(crate::catalog::Keep::ForEver);
    all[1].snapshot.marks = vec![MarkKind::Pinned];
    all[2].snapshot.marks = vec![MarkKind::Proven];
    let found = found(all);
    let given_up = GivenUp { snapshots: (1..=4).map(id).collect(), ..GivenUp::default() };
    let plan = plan(&found, &Rules { given_up, policy: RetentionPolicy::default(), ..last(1) });
    assert_eq!((numbers(&plan.snapshots), plan.refused.len()), (vec![1], 3));
}

#[test]
fn only_what_outlived_its_grace_and_is_needed_by_nothing_is_deleted() {
    let mut found = found(vec![standing(9, &[904])]);
    let listed = |len| Listed { len, modified: at(0) };
    found.packs.extend([(id(901), listed(1)), (id(902), listed(2)), (id(903), listed(4))]);
    let ago = |hours| at(NOW - hours * HOUR);
    let named = |n| Named { sequence: Sequence::new(n), id: id(n), generation: Generation::FIRST };
    found.condemned = [(named(1), listed(10)), (named(2), listed(20))].into();
    found.recorded.snapshots =
        [(1, 24), (2, 23), (3, 99)].map(|(n, h)| Pending { object: named(n), at: ago(h) }).into();
    let packs = [(901, 24), (902, 23), (904, 99), (905, 99)];
    found.recorded.packs = packs.map(|(n, h)| Pending { object: id(n), at: ago(h) }).into();
    let due = due(&found, &last(1));
    assert_eq!((numbers(&due.snapshots), &due.packs[..], due.bytes), (vec![1], &[id(901)][..], 11));
    assert_eq!(due.spared, [Spared { pack: id(904), needed_by: id(9) }]);
    assert_eq!((due.waiting, due.waiting_bytes, due.waiting_until), (2, 22, Some(at(NOW + HOUR))));
}

#[test]
fn a_number_that_a_rival_still_has_is_not_gone() {
    let mut rival = standing(2, &[905]);
    rival.snapshot.id = id(77);
    rival.snapshot.marks = vec![MarkKind::Pinned];
    let found = found(vec![standing(1, &[901]), standing(2, &[902]), rival, standing(3, &[903])]);
    let plan = plan(&found, &last(1));
    assert_eq!((numbers(&plan.snapshots), plan.gone.runs()), (vec![1, 2], &[(1, 1)][..]));
}

/// The first manifest of a snapshot whose later one is `standing`.
fn first_of(standing: &Standing, needs: &[u64]) -> Superseded {
    let named = Named { generation: Generation::FIRST, ..Named::of(&standing.snapshot) };
    Superseded { named, len: 7, needs: needs.iter().map(|n| id(*n)).collect() }
}

#[test]
fn a_manifest_goes_once_a_later_one_has_all_it_needs_and_its_packs_go_unless_another_needs_them() {
    let mut rewritten = standing(1, &[911]);
    rewritten.snapshot.generation = Generation::new(1);
    let first = first_of(&rewritten, &[901, 902]);
    let listed = Listed { len: 1000, modified: at(NOW - 100 * HOUR) };
    let mut found = found(vec![rewritten, standing(2, &[902])]);
    found.packs.extend([(id(901), listed), (id(902), listed)]);
    found.superseded = vec![first.clone()];
    let keep_all = Rules { policy: RetentionPolicy::default(), ..last(2) };
    let planned = plan(&found, &keep_all);
    assert_eq!((&planned.snapshots[..], &planned.packs[..]), (&[first.named][..], &[id(901)][..]));
    assert_eq!((planned.gone.runs(), planned.bytes), (&[][..], 1007), "the snapshot stays");
    found.packs.remove(&id(911));
    let planned = plan(&found, &keep_all);
    assert_eq!((planned.snapshots.len(), planned.packs.len()), (0, 0), "the later one lacks a pack");
}

#[test]
fn a_condemned_first_manifest_stays_while_the_later_one_lacks_a_pack() {
    let mut rewritten = standing(1, &[911]);
    rewritten.snapshot.generation = Generation::new(1);
    let first = first_of(&rewritten, &[901]).named;
    let mut found = found(vec![rewritten]);
    found.condemned = [(first, Listed { len: 7, modified: at(0) })].into();
    found.recorded.snapshots = vec![Pending { object: first, at: at(0) }];
    assert_eq!(due(&found, &last(1)).snapshots, [first]);
    found.packs.clear();
    assert_eq!(due(&found, &last(1)).snapshots, []);
}

#[test]
fn what_is_locked_waits_and_a_manifest_never_outlives_the_packs_it_needs() {
    const DAY: i64 = 24 * HOUR;
    let mut found = found(vec![standing(99, &[909])]);
    let ago = |days: i64| at(NOW - days * DAY);
    let listed = |days| Listed { len: 1, modified: ago(days) };
    let named = |n| Named { sequence: Sequence::new(n), id: id(n), generation: Generation::FIRST };
    // All condemned five days ago but the last; the manifest of number 2 is younger than the packs that went with it.
    found.condemned = [(named(1), listed(40)), (named(2), listed(20))].into();
    found.recorded.snapshots = [1, 2].map(|n| Pending { object: named(n), at: ago(5) }).into();
    found.packs.extend([(id(901), listed(40)), (id(902), listed(25)), (id(903), listed(40))]);
    let packs = [(901, 5), (902, 5), (903, 6)];
    found.recorded.packs = packs.map(|(n, days)| Pending { object: id(n), at: ago(days) }).into();
    let free = due(&found, &last(1));
    assert_eq!((free.snapshots.len(), free.packs.len(), free.locked), (2, 3, 0));
    let lock = ObjectLock::new(30 * DAY, None);
    let locked = due(&found, &Rules { lock, ..last(1) });
    assert_eq!((numbers(&locked.snapshots), &locked.packs[..]), (vec![1], &[id(903)][..]));
    assert_eq!((locked.waiting, locked.locked, locked.waiting_until), (3, 3, Some(at(NOW + 10 * DAY))));
    let later = due(&found, &Rules { lock, now: at(NOW + 10 * DAY), ..last(1) });
    assert_eq!((later.snapshots.len(), later.packs.len()), (2, 3));
}
