//! Keeps a store's use within bounds: operations in flight, and bytes per second.
//!
//! Owns a semaphore and a pace per direction. A `get` learns its size only afterwards and leaves the debt to whoever
//! reads next. An object goes through in one piece, so the pace holds over many of them, not within one: a store that
//! can wait within an object is given the pace itself, and none is set here.
//!
//! A call that is dropped gives its permit back at once, even if the store below is still busy with it.

use crate::error::StoreError;
use crate::pace::Pace;
use crate::seam::{Key, Page, Put, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep_until;

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
