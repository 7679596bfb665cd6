//! Keeps a store's use within bounds: operations in flight, and bytes per second.
//!
//! Owns a semaphore and one instant per direction behind locks that are never held across an await. Bytes
//! are paid for in order of asking; up to one second of silence is saved up. A `get` learns its size
//! only afterwards and leaves the debt to whoever reads next. An object goes through in one piece, so the
//! pace holds over many of them, not within one.
//!
//! A call that is dropped gives its permit back at once, even if the store below is still busy with it.

use crate::error::StoreError;
use crate::seam::{Key, Page, Put, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub in_flight: NonZeroU32,
    pub rates: Rates,
}

/// Bytes per second; `None` is as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Towards the store.
    pub upload: Option<NonZeroU64>,
    pub download: Option<NonZeroU64>,
}

pub struct Limit {
    inner: Arc<dyn Store>,
    permits: Semaphore,
    upload: Option<Pace>,
    download: Option<Pace>,
}

/// How much silence is saved up, and so the largest burst.
const CREDIT: Duration = Duration::from_secs(1);

struct Pace {
    bytes_per_second: NonZeroU64,
    /// When everything asked for so far will have been paid.
    paid_until: Mutex<Instant>,
}

impl Pace {
    fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// Takes the next place in the line for this many bytes and says when it may go.
    fn reserve(&self, bytes: u64) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        // A century is longer than any wait, and far from where adding to an instant overflows.
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(CENTURY);
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = now.checked_sub(CREDIT).unwrap_or(now);
        let turn = (*paid_until).clamp(floor, now + CENTURY);
        *paid_until = turn + cost;
        turn
    }
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Limit {
    pub fn new(inner: Arc<dyn Store>, bounds: Bounds) -> Self {
        Self {
            inner,
            permits: Semaphore::new(bounds.in_flight.get() as usize),
            upload: bounds.rates.upload.map(Pace::new),
            download: bounds.rates.download.map(Pace::new),
        }
    }

    /// Waits first for the bytes and then for a place, so that a slow transfer holds no place in vain.
    async fn enter(&self, pace: Option<&Pace>, bytes: u64) -> SemaphorePermit<'_> {
        if let Some(pace) = pace {
            sleep_until(pace.reserve(bytes)).await;
        }
        self.permits.acquire().await.expect("the semaphore is never closed")
    }
}

#[async_trait]
impl Store for Limit {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let _permit = self.enter(self.upload.as_ref(), bytes.len() as u64).await;
        self.inner.put_new(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        let _permit = self.enter(self.download.as_ref(), 0).await;
        let bytes = self.inner.get(key).await?;
        if let Some(pace) = &self.download {
            pace.reserve(bytes.len() as u64);
        }
        Ok(bytes)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        // A range that cannot be met must not cost its forged length in waiting.
        let asked = range.end.saturating_sub(range.start).min(crate::seam::OBJECT_BYTES_MAX);
        let _permit = self.enter(self.download.as_ref(), asked).await;
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let _permit = self.enter(None, 0).await;
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let _permit = self.enter(None, 0).await;
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let _permit = self.enter(None, 0).await;
        self.inner.delete(key).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests;
