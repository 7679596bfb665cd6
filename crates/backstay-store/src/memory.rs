//! A store in memory: the reference the contract is written against, and the bed of simulations.
//!
//! Owns one map behind one lock, which is never held across an await. Nothing outlives the process:
//! `dump` and `load` are how a test keeps the contents over a pretended crash.

use crate::error::StoreError;
use crate::seam::{Entry, Key, OBJECT_BYTES_MAX, Page, Put, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Everything a store holds, by key.
pub type Contents = BTreeMap<Key, Bytes>;

#[derive(Debug, Default)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that begins with these objects.
    pub fn load(contents: Contents) -> Self {
        Self { contents: Mutex::new(contents) }
    }

    /// Everything in the store now; the bytes are shared, not copied.
    pub fn dump(&self) -> Contents {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Every change is one call of the map, so a panic elsewhere cannot have left it half made.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let len = bytes.len() as u64;
        if len > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge { key: key.to_string(), len });
        }
        let mut contents = self.lock();
        if contents.contains_key(key) {
            return Ok(Put::Exists);
        }
        contents.insert(key.clone(), bytes);
        Ok(Put::Created)
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.lock().get(key).cloned().ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.get(key).await?;
        if range.start > range.end || range.end > bytes.len() as u64 {
            let wanted = range.start.max(range.end);
            return Err(StoreError::Short { key: key.to_string(), wanted });
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        Ok(self.lock().get(key).map(|bytes| bytes.len() as u64))
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let contents = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = contents
            .range::<Key, _>((from, Bound::Unbounded))
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, bytes)| Entry { key: key.clone(), len: bytes.len() as u64 });
        let entries: Vec<Entry> = found.by_ref().take(limit.max(1)).collect();
        let next = found.next().and(entries.last()).map(|entry| entry.key.clone());
        Ok(Page { entries, next })
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.lock().remove(key);
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
