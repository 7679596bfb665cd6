//! Object lock: how long a store refuses to delete what was put into it, and so how long a snapshot is safe from
//! everybody.
//!
//! A bucket locks each object for a span that begins when the store gets it. A snapshot refers to objects of many
//! ages, so it is only safe until the *first* of their locks ends: its **horizon**. That is the trap of
//! incremental backups in a locked bucket: the newest manifest is locked for a month, and the pack from last month
//! that it needs is not. A backup therefore leaves objects behind whose lock ends too soon, and what is short of what was
//! wanted is an alarm.

use crate::prune::{Listed, Standing, WRITER_DEADLINE_MILLIS};
use crate::{Moment, ObjectId};
use std::collections::BTreeMap;

/// What a bucket locks, and what that must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    objects_millis: i64,
    snapshots_millis: i64,
}

/// The shortest lock that is of any use: half of it is the time between two fresh copies of everything.
pub const LOCK_MIN_MILLIS: i64 = 2 * 86_400_000;
/// Longer than any bucket's lock, and far from where times end.
pub const LOCK_MAX_MILLIS: i64 = 100 * 366 * 86_400_000;
/// How much longer an object must be locked than a snapshot that refers to it. The closer they are, the more often everything
/// is stored again.
pub const LEEWAY_MILLIS: i64 = 86_400_000;
const _: () = assert!(WRITER_DEADLINE_MILLIS < LEEWAY_MILLIS && LEEWAY_MILLIS <= LOCK_MIN_MILLIS / 2);

impl ObjectLock {
    /// Every object is locked for the one span; every snapshot is to be for the other, half of that if it is not
    /// said. `None` when they cannot be kept together.
    pub fn new(objects_millis: i64, snapshots_millis: Option<i64>) -> Option<Self> {
        let snapshots_millis = snapshots_millis.unwrap_or(objects_millis / 2);
        let fits = (LOCK_MIN_MILLIS..=LOCK_MAX_MILLIS).contains(&objects_millis)
            && (0..=objects_millis - LEEWAY_MILLIS).contains(&snapshots_millis);
        fits.then_some(Self { objects_millis, snapshots_millis })
    }

    pub fn objects_millis(&self) -> i64 {
        self.objects_millis
    }

    /// When the lock of an object ends that the store got then.
    pub fn ends(&self, stored: Moment) -> Option<Moment> {
        after(stored, self.objects_millis)
    }

    /// Until when a snapshot is to be locked that the store got then.
    fn wanted(&self, stored: Moment) -> Option<Moment> {
        after(stored, self.snapshots_millis)
    }

    /// Whether the store may delete an object that it got then.
    pub fn is_over(&self, stored: Moment, now: Moment) -> bool {
        now.millis_since(stored) >= self.objects_millis
    }

    /// Whether a snapshot that begins now may refer to an object that the store got then: the object's lock must last
    /// as long as the snapshot's is to, counted from the latest time it may be stored.
    pub fn may_refer(&self, stored: Moment, now: Moment) -> bool {
        now.millis_since(stored) + WRITER_DEADLINE_MILLIS + self.snapshots_millis <= self.objects_millis
    }

    /// How long a snapshot is safe, and whether that is too short.
    pub fn horizon(
        &self,
        standing: &Standing,
        packs: &BTreeMap<ObjectId, Listed>,
        is_newest: bool,
        now: Moment,
    ) -> Horizon {
        let of_packs = standing.needs.iter().map(|pack| packs.get(pack).map(|listed| listed.modified));
        let oldest = of_packs.chain([Some(standing.stored)]).min().flatten();
        let until = oldest.and_then(|oldest| self.ends(oldest));
        let wanted = self.wanted(standing.stored);
        let owed = match (is_newest, wanted) {
            // Somebody must always be able to go back to something.
            (true, wanted) => wanted.max(Some(now)),
            (false, wanted) => wanted.filter(|wanted| now < *wanted),
        };
        Horizon { snapshot: standing.snapshot.id, until, wanted, short: owed.is_some() && until < owed }
    }
}

fn after(stored: Moment, millis: i64) -> Option<Moment> {
    Moment::from_millis(stored.as_millis().saturating_add(millis))
}

/// Until when nobody can delete a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Horizon {
    pub snapshot: ObjectId,
    /// The least of the locks of what it refers to; null when something of that is not listed.
    pub until: Option<Moment>,
    /// Until when it should be locked.
    pub wanted: Option<Moment>,
    /// Whether it ends too soon.
    pub short: bool,
}

#[cfg(test)]
mod tests;
