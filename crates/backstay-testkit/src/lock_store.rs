//! A store with object lock: it refuses to delete what it got less than a span ago, whoever asks.

use async_trait::async_trait;
use backstay_model::Clock;
use backstay_store::{Key, Store, StoreError, Verb};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// In which words it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// It has a code for locks.
    Locked,
    /// It says that access is denied, as Amazon's does.
    Denied,
}

#[derive(Debug, thiserror::Error)]
#[error("its time is not over")]
struct Young;

pub struct LockStore {
    inner: Arc<dyn Store>,
    /// The store's own.
    clock: Arc<dyn Clock>,
    millis: AtomicI64,
    words: Words,
    refused: AtomicU64,
}

impl LockStore {
    pub fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, (millis, words): (i64, Words)) -> Self {
        let millis = AtomicI64::new(millis);
        Self { inner, clock, millis, words, refused: AtomicU64::new(0) }
    }

    /// How many deletions it refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// From now on it locks for this long, what is there already too.
    pub fn lock_for(&self, millis: i64) {
        self.millis.store(millis, Ordering::SeqCst);
    }

    async fn is_locked(&self, key: &Key) -> Result<bool, StoreError> {
        let page = self.inner.list(key.as_str(), None, 1).await?;
        let entry = page.entries.first().filter(|entry| entry.key == *key);
        Ok(entry
            .is_some_and(|entry| self.clock.now().millis_since(entry.modified) < self.millis.load(Ordering::SeqCst)))
    }
}

#[async_trait]
impl Store for LockStore {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        if !self.is_locked(key).await? {
            return self.inner.delete(key).await;
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        let (op, key) = (Verb::Delete.word(), key.to_string());
        Err(match self.words {
            Words::Locked => StoreError::Locked { op, key, source: Box::new(Young) },
            Words::Denied => StoreError::Denied { op, key, source: Box::new(Young) },
        })
    }
    fn describe(&self) -> String {
        format!("{} with object lock", self.inner.describe())
    }

    crate::forward!(inner: put_new get get_range head list);
}
