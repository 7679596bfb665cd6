//! The decisions of a backup: which branch it continues or opens, and where in it the snapshot stands.

use crate::{BranchNo, Digest, ObjectId, Position, Sequence};

/// The newest snapshot of a source, as the repository has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    pub id: ObjectId,
    pub sequence: Sequence,
    pub digest: Digest,
    pub branch: BranchNo,
    pub position: Position,
}

/// What this host remembers of the file it backed up last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// The same file, or nothing is remembered that says otherwise.
    Same,
    /// Another file stands at the path.
    Replaced,
    /// The newest snapshot is not one this host wrote: another host took over or was cloned, or this
    /// host's disk went back to an older state.
    Takeover,
    /// A restore put the state of this point in place.
    Restored { branch: BranchNo, position: Position },
}

/// What was gathered before deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// The newest snapshot that could be verified, of whatever branch: the next one is made after it.
    pub tip: Option<Tip>,
    /// The newest one of the line that is continued: the living history, or what was imported before.
    pub own: Option<Tip>,
    /// The highest sequence any snapshot's name has, verifiable or not: it is used up.
    pub used: Option<Sequence>,
    /// How many branches the source has.
    pub branches: u64,
    /// The newest of them that is of the line that is continued, whether or not it has a snapshot.
    pub newest: Option<BranchNo>,
    pub lineage: Lineage,
}

/// Where a snapshot will stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub branch: BranchPlan,
    pub position: Position,
    pub sequence: Sequence,
    pub previous: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchPlan {
    Continue(BranchNo),
    Open { branch: BranchNo, parent: Option<(BranchNo, Position)>, lineage: Lineage },
}

impl BranchPlan {
    pub fn branch(&self) -> BranchNo {
        match self {
            BranchPlan::Continue(branch) | BranchPlan::Open { branch, .. } => *branch,
        }
    }
}

/// The counters of a source ran out: 2^64 snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source has used up its numbers")]
pub struct Exhausted;

/// Decides where the next snapshot stands. Positions are dense within a branch and never reused: the
/// tip is on the newest branch, or that branch has no snapshot yet (a crash right after opening it).
pub fn place(world: World) -> Result<Place, Exhausted> {
    let used = world.used.max(world.tip.map(|tip| tip.sequence));
    let sequence = used.map_or(Some(Sequence::FIRST), Sequence::next).ok_or(Exhausted)?;
    let previous = world.tip.map_or(Digest::ZERO, |tip| tip.digest);
    // The tip's branch was opened, whether or not its record is still there: positions go on in it.
    let newest = world.newest.max(world.own.map(|tip| tip.branch));
    let tip_here = world.own.filter(|tip| Some(tip.branch) == newest);
    // Branches of both lines are numbered together.
    let last = newest.max(world.tip.map(|tip| tip.branch)).max(world.branches.checked_sub(1).map(BranchNo::new));
    let free = last.map_or(Some(BranchNo::FIRST), BranchNo::next).ok_or(Exhausted)?;
    let branch = match (newest, world.lineage, tip_here) {
        (None, _, _) => BranchPlan::Open { branch: free, parent: None, lineage: Lineage::Same },
        // A newest branch without a snapshot was opened for this very change by a run that died.
        (Some(branch), Lineage::Same, _) | (Some(branch), _, None) => BranchPlan::Continue(branch),
        (Some(_), lineage, Some(tip)) => {
            let parent = match lineage {
                Lineage::Restored { branch, position } => (branch, position),
                _ => (tip.branch, tip.position),
            };
            BranchPlan::Open { branch: free, parent: Some(parent), lineage }
        }
    };
    let position = match (branch, tip_here) {
        (BranchPlan::Continue(_), Some(tip)) => tip.position.next().ok_or(Exhausted)?,
        _ => Position::FIRST,
    };
    Ok(Place { branch, position, sequence, previous })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(branch: u64, position: u64) -> Tip {
        Tip {
            id: ObjectId::ZERO,
            sequence: Sequence::new(7),
            digest: Digest::from_bytes([7; 32]),
            branch: BranchNo::new(branch),
            position: Position::new(position),
        }
    }

    fn placed(tip: Option<Tip>, branches: u64, lineage: Lineage) -> (BranchPlan, u64, u64) {
        let newest = branches.checked_sub(1).map(BranchNo::new);
        let world = World { tip, own: tip, used: None, branches, newest, lineage };
        let place = place(world).expect("numbers are left");
        (place.branch, place.position.get(), place.sequence.get())
    }

    #[test]
    fn the_first_backup_opens_the_first_branch() {
        let open = BranchPlan::Open { branch: BranchNo::FIRST, parent: None, lineage: Lineage::Same };
        assert_eq!(placed(None, 0, Lineage::Same), (open, 1, 1));
        let again = BranchPlan::Continue(BranchNo::FIRST);
        assert_eq!(placed(None, 1, Lineage::Replaced), (again, 1, 1), "a run died after opening it");
    }

    #[test]
    fn a_lost_branch_record_does_not_use_positions_twice() {
        let here = BranchPlan::Continue(BranchNo::new(1));
        assert_eq!(placed(Some(tip(1, 3)), 1, Lineage::Same), (here, 4, 8));
        assert_eq!(placed(Some(tip(1, 3)), 0, Lineage::Same), (here, 4, 8));
    }

    #[test]
    fn the_same_file_continues_its_branch() {
        let here = BranchPlan::Continue(BranchNo::FIRST);
        assert_eq!(placed(Some(tip(0, 3)), 1, Lineage::Same), (here, 4, 8));
    }

    #[test]
    fn a_number_on_a_snapshot_nobody_can_verify_is_not_used_again() {
        let (here, newest) = (Some(tip(0, 3)), Some(BranchNo::FIRST));
        let used = Some(Sequence::new(9));
        let world = World { tip: here, own: here, used, branches: 1, newest, lineage: Lineage::Same };
        assert_eq!(place(world).map(|place| place.sequence), Ok(Sequence::new(10)));
    }

    #[test]
    fn another_file_opens_a_branch_at_the_point_it_left() {
        let (plan, position, sequence) = placed(Some(tip(0, 3)), 1, Lineage::Replaced);
        let parent = Some((BranchNo::new(0), Position::new(3)));
        assert_eq!(plan, BranchPlan::Open { branch: BranchNo::new(1), parent, lineage: Lineage::Replaced });
        assert_eq!((position, sequence), (1, 8));
    }

    #[test]
    fn a_restore_branches_off_where_it_went_back_to() {
        let lineage = Lineage::Restored { branch: BranchNo::new(0), position: Position::new(2) };
        let (plan, position, _) = placed(Some(tip(0, 9)), 1, lineage);
        let parent = Some((BranchNo::new(0), Position::new(2)));
        assert_eq!(plan, BranchPlan::Open { branch: BranchNo::new(1), parent, lineage });
        assert_eq!(position, 1);
    }

    #[test]
    fn a_branch_opened_by_a_run_that_died_is_used_not_doubled() {
        let (plan, position, _) = placed(Some(tip(0, 9)), 2, Lineage::Replaced);
        assert_eq!((plan, position), (BranchPlan::Continue(BranchNo::new(1)), 1));
    }

    /// The living history is branch 0 with three snapshots, and branch 1 holds old copies.
    fn beside(own: Option<Tip>, newest: Option<u64>, lineage: Lineage) -> Place {
        let newest = newest.map(BranchNo::new);
        place(World { tip: Some(tip(1, 2)), own, used: None, branches: 2, newest, lineage }).expect("numbers are left")
    }

    #[test]
    fn old_copies_that_were_brought_in_do_not_divert_the_living_history() {
        let next = beside(Some(tip(0, 3)), Some(0), Lineage::Same);
        assert_eq!((next.branch, next.position.get()), (BranchPlan::Continue(BranchNo::FIRST), 4));
        assert_eq!((next.sequence.get(), next.previous), (8, Digest::from_bytes([7; 32])), "numbers are of both lines");
        let replaced = beside(Some(tip(0, 3)), Some(0), Lineage::Replaced);
        let parent = Some((BranchNo::FIRST, Position::new(3)));
        assert_eq!(replaced.branch, BranchPlan::Open { branch: BranchNo::new(2), parent, lineage: Lineage::Replaced });
    }

    #[test]
    fn the_first_backup_after_old_copies_opens_its_own_branch() {
        let first = beside(None, None, Lineage::Same);
        let open = BranchPlan::Open { branch: BranchNo::new(2), parent: None, lineage: Lineage::Same };
        assert_eq!((first.branch, first.position.get()), (open, 1));
    }
}
