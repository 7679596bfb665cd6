use super::*;
use crate::catalog::{MarkKind, Quality};
use crate::{BranchNo, ByteLen, Generation, Position};

const DAY: i64 = 86_400_000;
const NOW: i64 = 1_795_000_000_000;

fn at(millis: i64) -> Moment {
    Moment::from_millis(millis).expect("in range")
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 16])
}

/// Number n, so many days old.
fn snapshot(n: u8, days: i64) -> Snapshot {
    Snapshot {
        id: id(n),
        sequence: Sequence::new(u64::from(n)),
        generation: Generation::FIRST,
        digest: Digest::from_bytes([n; 32]),
        previous: Digest::ZERO,
        branch: BranchNo::FIRST,
        position: Position::new(u64::from(n)),
        taken: at(NOW - days * DAY),
        root: Digest::ZERO,
        length: ByteLen::new(1),
        added: ByteLen::new(1),
        quality: Quality::Whole,
        label: None,
        keep: None,
        marks: Vec::new(),
        imported: false,
        made_of: None,
    }
}

fn planned(original: &[Snapshot], copy: &[Snapshot], policy: RetentionPolicy) -> Result<CopyPlan, Rivals> {
    let unverified = [(Sequence::new(9), id(9))];
    plan(Sides { original, unverified: &unverified, copy }, &policy, at(NOW), &TimeZone::UTC)
}

#[test]
fn what_the_copy_lacks_comes_oldest_first() {
    let all = [snapshot(3, 1), snapshot(1, 3), snapshot(2, 2)];
    let nothing = RetentionPolicy::default();
    let missing = |copy: &[Snapshot]| planned(&all, copy, nothing).expect("a plan").missing;
    assert_eq!(missing(&[]), [id(1), id(2), id(3)]);
    assert_eq!(missing(&all[1..2]), [id(2), id(3)]);
    assert_eq!(missing(&all), []);
}

#[test]
fn what_the_copys_retention_freed_is_not_brought_back() {
    let all = [snapshot(1, 3), snapshot(2, 2), snapshot(3, 1)];
    let two = RetentionPolicy { last: 2, ..RetentionPolicy::default() };
    let plan = planned(&all, &all[1..], two).expect("a plan");
    assert_eq!((plan.missing, plan.left_out), (vec![], 1));
    // And what it never had and would free at once is not sent at all.
    let plan = planned(&all, &[], two).expect("a plan");
    assert_eq!((plan.missing, plan.left_out), (vec![id(2), id(3)], 1));
    // What is held stays, whatever the rules say.
    let mut held = all.to_vec();
    held[0].marks.push(MarkKind::Pinned);
    assert_eq!(planned(&held, &held[1..], two).expect("a plan").missing, [id(1)]);
}

#[test]
fn a_copy_may_keep_what_the_original_freed() {
    let all = [snapshot(1, 3), snapshot(2, 2), snapshot(3, 1)];
    let plan = planned(&all[2..], &all[..2], RetentionPolicy::default()).expect("a plan");
    assert_eq!((plan.missing, plan.only_there), (vec![id(3)], 2));
}

#[test]
fn a_history_that_cannot_be_the_originals_is_a_rival() {
    let all = [snapshot(1, 3), snapshot(2, 2)];
    let nothing = RetentionPolicy::default();
    let mut other = snapshot(2, 2);
    other.id = id(7);
    let rivals = planned(&all, &[other], nothing).expect_err("another snapshot has its number");
    assert_eq!((rivals.copy, rivals.original), (id(7), Some(id(2))));
    let mut changed = snapshot(2, 2);
    changed.digest = Digest::ZERO;
    assert!(planned(&all, &[changed], nothing).is_err(), "the same name over other bytes");
    let rivals = planned(&all, &[snapshot(10, 1)], nothing).expect_err("newer than the original");
    assert_eq!((rivals.copy, rivals.original), (id(10), None));
    assert!(planned(&all, &[snapshot(9, 1)], nothing).is_ok(), "here it stands and cannot be verified");
    assert!(planned(&[], &[], nothing).is_ok());
}

#[test]
fn a_snapshot_that_was_rewritten_since_is_sent_again() {
    let (old, mut new) = (snapshot(1, 2), snapshot(1, 2));
    new.generation = Generation::new(4);
    let keep_all = RetentionPolicy::default();
    let missing = |original: &Snapshot, copy: &Snapshot| {
        use std::slice::from_ref;
        planned(from_ref(original), from_ref(copy), keep_all).expect("no rivals").missing
    };
    assert_eq!(missing(&new, &old), [id(1)]);
    assert_eq!(missing(&new, &new), []);
    assert_eq!(missing(&old, &new), [], "it has the later one");
}

fn held(standing: &[u64], gone: &str, head: Option<u64>) -> Held {
    let digest = |n: u64| Digest::from_bytes([n as u8; 32]);
    Held {
        standing: standing.iter().map(|n| (*n, Some(digest(*n)))).collect(),
        gone: gone.parse().unwrap_or_default(),
        head: head.map(|n| (Sequence::new(n), digest(n))),
    }
}

fn said(held: &Held, absent: &str) -> Option<(String, Option<u64>)> {
    let said = account(held, &absent.parse().expect("numbers"))?;
    Some((said.gone.to_string(), said.head.map(|(sequence, _)| sequence.get())))
}

#[test]
fn what_was_left_out_is_accounted_for_once() {
    let words = |text: &str, head| Some((text.to_owned(), head));
    assert_eq!(said(&held(&[5, 6], "", None), "1-4"), words("1-4", Some(6)));
    assert_eq!(said(&held(&[5, 6], "1-4", Some(6)), "1-4"), None, "it is said already");
    assert_eq!(said(&held(&[2, 5, 6], "", None), "1-4"), words("1, 3-4", Some(6)), "what stands is not gone");
    assert_eq!(said(&held(&[5, 8], "1-4", Some(5)), "6-7"), words("1-4, 6-7", Some(8)));
    assert_eq!(said(&held(&[3, 5, 8], "1-4", Some(5)), "6-7"), words("1-2, 4, 6-7", Some(8)), "3 was sent after all");
    assert_eq!(said(&held(&[], "", None), "1-4"), None, "nothing was sent yet");
    assert_eq!(said(&held(&[2], "", None), "3-9"), None, "what comes after the newest may still come");
}

#[test]
fn a_snapshot_that_was_lost_in_the_copy_is_never_explained_away() {
    // Number 3 stood there when the record was made. Its rules would free it by now, and the original has.
    assert_eq!(said(&held(&[4, 5], "1-2", Some(4)), "1-3"), None);
    let found = said(&held(&[4, 5, 7], "1-2", Some(4)), "1-3,6").expect("6 is new");
    assert_eq!(found.0, "1-2, 6", "and 3 stays a hole");
    assert_eq!(found.1, Some(4), "the head goes no further than everything is accounted for");
    // What could not be sent is no more accounted for than what was lost.
    assert_eq!(said(&held(&[2, 4], "", None), "1"), Some(("1".to_owned(), Some(2))), "3 is missing");
    let huge = said(&held(&[2, u64::MAX], "", None), "1").expect("rubbish with a great number");
    assert_eq!(huge, ("1".to_owned(), Some(2)));
}
