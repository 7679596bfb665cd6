//! Whether a source can be restored now, to when, and when that was last proven: three facts, one verdict.

use crate::catalog::{NoPoint, Snapshot, Target, choose, living};
use crate::lock::Horizon;
use crate::{Moment, ObjectId, Verdict};

/// A clock this far behind the newest snapshot is wrong, or the other host's was.
const AHEAD_MILLIS: i64 = 5 * 60_000;

/// Whether backups are to be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofPolicy {
    Wanted,
    Off,
}

/// What was gathered about one source.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub snapshots: &'a [Snapshot],
    /// Manifests nobody can verify.
    pub broken: usize,
    /// Marks that cannot be verified, or that must be there and are not.
    pub mark_faults: usize,
    pub now: Moment,
    pub max_age_millis: i64,
    pub proof: ProofPolicy,
    /// How long the newest good snapshot is locked, where an object lock is known of.
    pub horizon: Option<Horizon>,
}

/// A snapshot and how old it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Point {
    pub id: ObjectId,
    pub taken: Moment,
    pub age_millis: i64,
}

/// Something that keeps the verdict from being a pass.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "concern", rename_all = "kebab-case")]
pub enum Concern {
    NoBackup,
    AllQuarantined,
    TooOld {
        age_millis: i64,
        max_age_millis: i64,
    },
    NewestNotProven,
    NewestQuarantined {
        id: ObjectId,
    },
    Rivals {
        a: ObjectId,
        b: ObjectId,
    },
    Broken {
        count: usize,
    },
    /// What was said about a snapshot may be missing: none of those it may concern is called proven.
    MarkFaults {
        count: usize,
    },
    AheadOfClock {
        by_millis: i64,
    },
    /// The newest snapshot can be deleted sooner than it should be.
    LockShort {
        horizon: Horizon,
    },
}

impl Concern {
    pub fn verdict(&self) -> Verdict {
        match self {
            Concern::NoBackup | Concern::AllQuarantined | Concern::TooOld { .. } => Verdict::Fail,
            Concern::NewestNotProven
            | Concern::NewestQuarantined { .. }
            | Concern::Rivals { .. }
            | Concern::Broken { .. }
            | Concern::MarkFaults { .. }
            | Concern::AheadOfClock { .. }
            | Concern::LockShort { .. } => Verdict::Partial,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    pub verdict: Verdict,
    /// The newest snapshot with nothing said against it.
    pub newest: Option<Point>,
    /// The newest one that was restored and questioned.
    pub proven: Option<Point>,
    pub concerns: Vec<Concern>,
}

/// Decides. A pass needs a young snapshot that is proven, or a policy that wants no proof.
pub fn judge(found: Situation<'_>) -> Status {
    let good = || living(found.snapshots).filter(|s| !s.is_quarantined());
    let newest = good().max_by_key(|s| s.sequence);
    let proven = good().filter(|s| s.is_proven()).max_by_key(|s| s.sequence);
    let point = |s: &Snapshot| Point { id: s.id, taken: s.taken, age_millis: found.now.millis_since(s.taken) };
    let mut concerns = Vec::new();
    match newest.map(point) {
        None if found.snapshots.is_empty() => concerns.push(Concern::NoBackup),
        None => concerns.push(Concern::AllQuarantined),
        Some(Point { age_millis, .. }) if age_millis > found.max_age_millis => {
            concerns.push(Concern::TooOld { age_millis, max_age_millis: found.max_age_millis });
        }
        Some(Point { age_millis, .. }) if age_millis < -AHEAD_MILLIS => {
            concerns.push(Concern::AheadOfClock { by_millis: -age_millis });
        }
        Some(_) => {}
    }
    // What was made of the log says once more what that leads to, and need not be proven each by itself; but one that is
    // young enough must be.
    let asked = good().filter(|s| s.made_of.is_none() || s.is_proven()).max_by_key(|s| s.sequence).or(newest);
    let is_old = |s: &Snapshot| found.now.millis_since(s.taken) > found.max_age_millis;
    let is_behind = |s: &Snapshot| is_old(s) && !newest.is_some_and(is_old);
    if found.proof == ProofPolicy::Wanted && asked.is_some_and(|s| !s.is_proven() || is_behind(s)) {
        concerns.push(Concern::NewestNotProven);
    }
    if let Some(tip) = living(found.snapshots).max_by_key(|s| s.sequence).filter(|s| s.is_quarantined()) {
        concerns.push(Concern::NewestQuarantined { id: tip.id });
    }
    if let Err(NoPoint::Rivals { a, b }) = choose(found.snapshots, &Target::Latest) {
        concerns.push(Concern::Rivals { a, b });
    }
    if found.broken > 0 {
        concerns.push(Concern::Broken { count: found.broken });
    }
    if found.mark_faults > 0 {
        concerns.push(Concern::MarkFaults { count: found.mark_faults });
    }
    if let Some(horizon) = found.horizon.filter(|horizon| horizon.short) {
        concerns.push(Concern::LockShort { horizon });
    }
    let verdict = concerns.iter().fold(Verdict::Pass, |all, concern| all.and(concern.verdict()));
    Status { verdict, newest: newest.map(point), proven: proven.map(point), concerns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{MarkKind, Quality};
    use crate::{BranchNo, ByteLen, Digest, Position, Sequence};

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_795_000_000_000;

    fn at(millis: i64) -> Moment {
        Moment::from_millis(millis).expect("in range")
    }

    fn id(n: u8) -> ObjectId {
        ObjectId::from_bytes([n; 16])
    }

    /// The n-th snapshot, so many hours old.
    fn snapshot(n: u8, hours: i64, marks: &[MarkKind]) -> Snapshot {
        Snapshot {
            id: id(n),
            sequence: Sequence::new(u64::from(n)),
            generation: crate::Generation::FIRST,
            digest: Digest::ZERO,
            previous: Digest::ZERO,
            branch: BranchNo::FIRST,
            position: Position::new(u64::from(n)),
            taken: at(NOW - hours * HOUR),
            root: Digest::ZERO,
            length: ByteLen::new(1),
            added: ByteLen::new(1),
            quality: Quality::Whole,
            imported: false,
            made_of: None,
            label: None,
            keep: None,
            marks: marks.to_vec(),
        }
    }

    fn judged(snapshots: &[Snapshot], proof: ProofPolicy) -> (Verdict, Vec<Concern>) {
        let max_age_millis = 24 * HOUR;
        let found =
            Situation { snapshots, broken: 0, mark_faults: 0, now: at(NOW), max_age_millis, proof, horizon: None };
        let status = judge(found);
        (status.verdict, status.concerns)
    }

    #[test]
    fn only_a_young_and_proven_newest_point_is_a_pass() {
        use MarkKind::{Proven, Quarantined};
        use ProofPolicy::{Off, Wanted};
        use Verdict::{Fail, Partial, Pass};
        let old = Concern::TooOld { age_millis: 25 * HOUR, max_age_millis: 24 * HOUR };
        let cases = [
            (vec![], Wanted, Fail, vec![Concern::NoBackup]),
            (vec![snapshot(1, 1, &[Proven])], Wanted, Pass, vec![]),
            (vec![snapshot(1, 24, &[Proven])], Wanted, Pass, vec![]),
            (vec![snapshot(1, 25, &[Proven])], Wanted, Fail, vec![old.clone()]),
            (vec![snapshot(1, 25, &[])], Wanted, Fail, vec![old, Concern::NewestNotProven]),
            (vec![snapshot(1, 1, &[])], Off, Pass, vec![]),
            (vec![snapshot(1, 2, &[Proven]), snapshot(2, 1, &[])], Wanted, Partial, vec![Concern::NewestNotProven]),
            (
                vec![snapshot(1, 2, &[Proven]), snapshot(2, 1, &[Proven, Quarantined])],
                Wanted,
                Partial,
                vec![Concern::NewestQuarantined { id: id(2) }],
            ),
            (
                vec![snapshot(1, 1, &[Quarantined])],
                Wanted,
                Fail,
                vec![Concern::AllQuarantined, Concern::NewestQuarantined { id: id(1) }],
            ),
            (vec![snapshot(1, -2, &[Proven])], Wanted, Partial, vec![Concern::AheadOfClock { by_millis: 2 * HOUR }]),
        ];
        for (snapshots, proof, verdict, concerns) in cases {
            assert_eq!(judged(&snapshots, proof), (verdict, concerns), "{snapshots:?}");
        }
    }

    #[test]
    fn what_was_made_of_a_log_need_not_be_proven_each_but_one_that_is_young_must_be() {
        let made = |number, hours, marks: &[MarkKind]| Snapshot {
            made_of: Some(crate::Tx::new(7)),
            ..snapshot(number, hours, marks)
        };
        let judged = |snapshots: &[Snapshot]| judged(snapshots, ProofPolicy::Wanted);
        let not_proven = (Verdict::Partial, vec![Concern::NewestNotProven]);
        let proven = &[MarkKind::Proven];
        assert_eq!(judged(&[snapshot(1, 20, proven), made(2, 1, &[])]), (Verdict::Pass, vec![]));
        assert_eq!(judged(&[snapshot(1, 20, &[]), made(2, 1, &[])]), not_proven);
        assert_eq!(judged(&[snapshot(1, 30, proven), made(2, 1, &[])]), not_proven, "only one of long ago is proven");
        assert_eq!(judged(&[snapshot(1, 30, proven), made(2, 9, proven), made(3, 1, &[])]), (Verdict::Pass, vec![]));
        assert_eq!(judged(&[snapshot(1, 30, &[]), made(2, 9, proven), made(3, 1, &[])]), (Verdict::Pass, vec![]));
    }

    #[test]
    fn rival_tips_and_broken_manifests_are_never_green() {
        let mut rival = snapshot(1, 1, &[MarkKind::Proven]);
        rival.id = id(9);
        let snapshots = [snapshot(1, 1, &[MarkKind::Proven]), rival];
        let (verdict, concerns) = judged(&snapshots, ProofPolicy::Wanted);
        assert_eq!(verdict, Verdict::Partial);
        assert!(matches!(concerns.as_slice(), [Concern::Rivals { .. }]), "{concerns:?}");
        let proof = ProofPolicy::Wanted;
        let found = Situation {
            snapshots: &snapshots[..1],
            broken: 2,
            mark_faults: 1,
            now: at(NOW),
            max_age_millis: 24 * HOUR,
            proof,
            horizon: None,
        };
        assert_eq!(judge(found).concerns, [Concern::Broken { count: 2 }, Concern::MarkFaults { count: 1 }]);
        let mut horizon = Horizon { snapshot: id(1), until: Some(at(NOW)), wanted: Some(at(NOW)), short: false };
        let safe = Situation { broken: 0, mark_faults: 0, horizon: Some(horizon), ..found };
        assert_eq!(judge(safe).verdict, Verdict::Pass);
        horizon.short = true;
        assert_eq!(judge(Situation { horizon: Some(horizon), ..safe }).verdict, Verdict::Partial);
    }
}
