//! Tries again when a store did not answer, and never waits for ever.
//!
//! Only `StoreError::Unknown` is tried again: every other answer is an answer. Each attempt has its
//! own time limit, the pauses between them grow with full jitter, and one deadline covers it all.
//!
//! An attempt without an answer may have been applied. A `put_new` that says `Exists` after one is
//! therefore passed on as it is: it may be the caller's own earlier attempt or another's object, and
//! only the caller can tell, by reading it. An attempt that was given up on may also still be applied
//! later; that is harmless because objects are never overwritten and names never used again.

use crate::error::StoreError;
use crate::seam::{Key, Page, Put, Store, Verb};
use async_trait::async_trait;
use backstay_model::{Random, seams::fresh};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// One attempt is given up on after this.
    pub attempt: Duration,
    /// No new attempt begins later than this after the first.
    pub deadline: Duration,
    /// The longest first pause; it doubles with each attempt.
    pub pause_first: Duration,
    pub pause_max: Duration,
}

impl Patience {
    /// For a store across a network, with objects of a few tens of megabytes.
    pub const STANDARD: Patience = Patience {
        attempt: Duration::from_secs(120),
        deadline: Duration::from_secs(300),
        pause_first: Duration::from_millis(100),
        pause_max: Duration::from_secs(10),
    };

    /// The longest pause after this many attempts.
    fn pause(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.pause_first.saturating_mul(1 << doublings).min(self.pause_max)
    }
}

pub struct Retry {
    inner: Arc<dyn Store>,
    random: Arc<dyn Random>,
    patience: Patience,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {millis} ms")]
struct NoAnswer {
    millis: u64,
}

impl Retry {
    pub fn new(inner: Arc<dyn Store>, random: Arc<dyn Random>, patience: Patience) -> Self {
        Self { inner, random, patience }
    }

    async fn persist<T, F>(&self, verb: Verb, key: &str, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let begun = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let left = self.patience.deadline.saturating_sub(begun.elapsed());
            let limit = self.patience.attempt.min(left);
            let error = match timeout(limit, attempt()).await {
                Ok(Err(error @ StoreError::Unknown { .. })) => error,
                Ok(answer) => return answer,
                Err(_) => {
                    let source = NoAnswer { millis: millis(limit) }.into();
                    StoreError::Unknown { op: verb.word(), key: key.to_owned(), source }
                }
            };
            let pause = jitter(self.random.as_ref(), self.patience.pause(attempts));
            if begun.elapsed() + pause >= self.patience.deadline {
                return Err(StoreError::Deadline {
                    op: verb.word(),
                    key: key.to_owned(),
                    millis: millis(begun.elapsed()),
                    attempts,
                    source: Box::new(error),
                });
            }
            tracing::debug!(verb = verb.word(), key, attempts, ?pause, "no answer from the store");
            sleep(pause).await;
        }
    }
}

/// Any pause up to `longest`, so that many clients that failed together do not come back together.
fn jitter(random: &dyn Random, longest: Duration) -> Duration {
    let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(u64::from_le_bytes(fresh(random)) % (nanos + 1))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Store for Retry {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.persist(Verb::PutNew, key.as_str(), || self.inner.put_new(key, bytes.clone())).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.persist(Verb::Get, key.as_str(), || self.inner.get(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.persist(Verb::GetRange, key.as_str(), || self.inner.get_range(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.persist(Verb::Head, key.as_str(), || self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.persist(Verb::List, prefix, || self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.persist(Verb::Delete, key.as_str(), || self.inner.delete(key)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests;
