//! Who may do what costs memory, among many sources that are followed side by side.
//!
//! Owns some counts: puts under way, first snapshots of small and of large databases, and ends of streams that several share. A large one never stands in
//! the way of a small one, and neither of a put. Whoever waits for a turn holds nothing of an application meanwhile.

use backstay_model::StreamId;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Sources that seal and put at once; each has at most an object of images and its sealed form in memory.
const PUTS: usize = 32;
/// Snapshots at once of databases below [`LARGE`], and of those above. Each keeps a thread of the runtime until its packs
/// are put, which takes others.
const SMALL_SNAPSHOTS: usize = 4;
const LARGE_SNAPSHOTS: usize = 2;
const ENDS: usize = 16;
const LARGE: u64 = 64 << 20;

pub struct Turns {
    puts: Semaphore,
    small: Semaphore,
    large: Semaphore,
    /// Ends of streams of several, by their streams: who ends the same one waits for the other, and finds where it leads.
    ends: [Semaphore; ENDS],
    /// Turns to put that were given.
    given: AtomicU64,
}

impl Turns {
    pub const fn new() -> Self {
        Self {
            puts: Semaphore::const_new(PUTS),
            small: Semaphore::const_new(SMALL_SNAPSHOTS),
            large: Semaphore::const_new(LARGE_SNAPSHOTS),
            ends: [const { Semaphore::const_new(1) }; ENDS],
            given: AtomicU64::new(0),
        }
    }

    /// To put. Given back when it is dropped; `None` never happens: the counts are never closed.
    pub async fn put(&self) -> Option<SemaphorePermit<'_>> {
        self.count();
        self.puts.acquire().await.ok()
    }

    /// To end a stream of several.
    pub async fn end(&self, stream: &StreamId) -> Option<SemaphorePermit<'_>> {
        let first = stream.as_bytes().first().copied().unwrap_or_default();
        self.ends.get(usize::from(first) % ENDS)?.acquire().await.ok()
    }

    /// Counts one that is not waited for.
    pub fn count(&self) {
        self.given.fetch_add(1, Ordering::Relaxed);
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
