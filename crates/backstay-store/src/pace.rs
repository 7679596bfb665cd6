//! Bytes per second, paid for in the order of asking.
//!
//! Owns one instant behind a lock that is never held across an await. Up to a little silence is saved up. Whoever
//! moves an object asks for a piece of it at a time (`PIECE`), so that what goes over a line is even within an object and
//! several objects share the line piece by piece.

use bytes::Bytes;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How much silence is saved up, and so the largest burst.
const CREDIT: Duration = Duration::from_secs(1);
/// Longer than any wait, and far from where adding to an instant overflows.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How much goes at once.
pub(crate) const PIECE: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: NonZeroU64,
    /// When everything asked for so far will have been paid.
    paid_until: Mutex<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// Takes the next place in the line for this many bytes and says when it may go.
    pub fn reserve(&self, bytes: u64) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(CENTURY);
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = now.checked_sub(CREDIT).unwrap_or(now);
        let turn = (*paid_until).clamp(floor, now + CENTURY);
        *paid_until = turn + cost;
        turn
    }
}

/// The same bytes in pieces, without copying.
pub(crate) fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || match bytes.len() {
        0 => None,
        len => Some(bytes.split_to(len.min(PIECE))),
    })
}
