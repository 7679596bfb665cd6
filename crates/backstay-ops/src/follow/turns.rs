//! Who may do what costs memory, among many sources that are followed side by side.
//!
//! Owns three counts: puts under way, and first snapshots of small and of large databases. A large one never stands in
//! the way of a small one, and neither of a put. Whoever waits for a turn holds nothing of an application meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Sources that seal and put at once; each has at most an object of images and its sealed form in memory.
const PUTS: usize = 32;
/// Snapshots at once of databases below [`LARGE`], and of those above. Each keeps a thread of the runtime until its packs
/// are put, which takes others.
const SMALL_SNAPSHOTS: usize = 4;
const LARGE_SNAPSHOTS: usize = 2;
const LARGE: u64 = 64 << 20;

pub struct Turns {
    puts: Semaphore,
    small: Semaphore,
    large: Semaphore,
    /// Turns to put that were given.
    given: AtomicU64,
}

impl Turns {
    pub const fn new() -> Self {
        Self {
            puts: Semaphore::const_new(PUTS),
            small: Semaphore::const_new(SMALL_SNAPSHOTS),
            large: Semaphore::const_new(LARGE_SNAPSHOTS),
            given: AtomicU64::new(0),
        }
    }

    /// To put. Given back when it is dropped; `None` never happens: the counts are never closed.
    pub async fn put(&self) -> Option<SemaphorePermit<'_>> {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.puts.acquire().await.ok()
    }

    /// How many turns to put were asked for.
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// To take a snapshot of what lies at a path.
    pub async fn snapshot(&self, path: &Path) -> Option<SemaphorePermit<'_>> {
        let is_large = std::fs::metadata(path).is_ok_and(|file| file.len() >= LARGE);
        let turns = if is_large { &self.large } else { &self.small };
        turns.acquire().await.ok()
    }
}
