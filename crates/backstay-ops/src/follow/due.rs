//! How long the log of who commits without a pause becomes before we copy it back.
//!
//! Whoever commits meanwhile waits for the writer's lock, and SQLite waits in steps: it looks again after 1, 3, 8 and 18 ms. So
//! what matters is how often it is kept and that it is kept for less than 8 ms: as much is copied at once as that
//! allows. Where the log is long by then, it is not let become longer: it has a bound.

use std::time::Duration;

/// Where it begins, and the least and the most it becomes.
const USUAL: u64 = 16 << 20;
const LEAST: u64 = 8 << 20;
const MOST: u64 = 24 << 20;
/// The lock was kept for less than there is room for, or nearly for too long.
const ROOM: Duration = Duration::from_micros(5500);
const ENOUGH: Duration = Duration::from_millis(7);

#[derive(Debug, Clone, Copy)]
pub struct Due {
    bytes: u64,
    /// How long the log may become because of us.
    limit: u64,
}

impl Due {
    pub fn new(limit: u64) -> Self {
        Self { bytes: USUAL.min(limit / 2), limit }
    }

    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Past this nothing is prepared any more: who is quicker than we are must wait.
    pub fn too_long(self) -> u64 {
        self.bytes.max(USUAL.min(self.limit / 2)) / 2 * 3
    }

    /// It was not copied back, and goes on to grow until the next attempt.
    pub fn failed(&mut self) {
        self.bytes = self.bytes.min(USUAL);
    }

    /// So much was in the log when it was copied back, and the lock was kept for so long.
    pub fn copied(&mut self, log: u64, kept: Duration) {
        let bytes = match () {
            () if log > self.limit / 4 * 3 => self.bytes / 8 * 7,
            // Of what was copied in a quiet moment nothing is learned: it was little.
            () if kept > ENOUGH && log >= self.bytes => self.bytes / 8 * 7,
            () if kept < ROOM && (self.bytes..self.limit / 8 * 5).contains(&log) => self.bytes / 8 * 9,
            () => self.bytes,
        };
        let most = MOST.min(self.limit / 2);
        self.bytes = bytes.clamp(LEAST.min(most), most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 64 << 20;

    /// After so many times.
    fn after(limit: u64, times: u32, of: impl Fn(u64) -> (u64, u64)) -> u64 {
        let mut due = Due::new(limit);
        for _ in 0..times {
            let (log, millis) = of(due.bytes());
            due.copied(log, Duration::from_millis(millis));
        }
        due.bytes()
    }

    #[test]
    fn as_much_is_copied_at_once_as_the_lock_may_be_kept_for() {
        let at_a_rate = |per_ms: u64| move |due: u64| (due + (4 << 20), (due + (4 << 20)) / per_ms);
        let due = after(LIMIT, 50, at_a_rate(4 << 20));
        assert!((18 << 20..25 << 20).contains(&due), "{due}");
        assert_eq!(after(LIMIT, 50, at_a_rate(1 << 20)), LEAST, "a slow disk");
        assert_eq!(after(LIMIT, 50, at_a_rate(64 << 20)), MOST, "a quick one");
        assert_eq!(after(LIMIT, 50, |_| (4 << 20, 1)), USUAL, "quiet moments");
        assert_eq!(after(LIMIT, 50, |_| (4 << 20, 20)), USUAL, "and of a slow disk");
    }

    #[test]
    fn the_log_of_who_is_quicker_than_the_rest_keeps_its_bound() {
        let due = after(LIMIT, 50, |due| (due + (36 << 20), 1));
        assert!(due + (36 << 20) < LIMIT / 8 * 7, "{due}");
        assert_eq!(after(4 << 20, 50, |_| (0, 0)), 2 << 20, "never more than half of it");
        assert_eq!(after(4 << 20, 50, |_| (4 << 20, 9)), 2 << 20);
    }

    #[test]
    fn what_is_prepared_does_not_become_less_and_an_attempt_that_failed_leaves_room() {
        let (mut slow, mut quick) = (Due::new(LIMIT), Due::new(LIMIT));
        for _ in 0..50 {
            slow.copied(slow.bytes(), Duration::from_millis(40));
            quick.copied(quick.bytes(), Duration::from_millis(1));
        }
        assert_eq!((slow.bytes(), slow.too_long()), (LEAST, 24 << 20));
        assert_eq!((quick.bytes(), quick.too_long()), (MOST, 36 << 20));
        // A quarter of a second at the 160 MB of log in a second of a quick writer.
        assert!(quick.bytes() + (160_000_000 / 4) < LIMIT);
        quick.failed();
        assert_eq!(quick.bytes(), USUAL);
        slow.failed();
        assert_eq!(slow.bytes(), LEAST);
    }
}
