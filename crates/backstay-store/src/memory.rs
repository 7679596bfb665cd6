//! A store in memory: the reference the contract is written against, and the bed of simulations.
//!
//! Owns one map behind one lock, which is never held across an await. Nothing outlives the process:
//! `dump` and `load` are how a test keeps the contents over a pretended crash.

use crate::error::StoreError;
use crate::os::SystemClock;
use crate::seam::{Entry, Key, OBJECT_BYTES_MAX, Page, Put, Store};
use async_trait::async_trait;
use backstay_model::{Clock, Moment};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Everything a store holds, by key.
pub type Contents = BTreeMap<Key, Bytes>;

pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    contents: Mutex<BTreeMap<Key, Kept>>,
}

#[derive(Clone)]
struct Kept {
    bytes: Bytes,
    created: Moment,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// A store whose own clock is this one.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, contents: Mutex::default() }
    }

    /// A store that begins with these objects, all of them created now.
    pub fn load(contents: Contents) -> Self {
        let store = Self::new();
        let created = store.clock.now();
        let kept = contents.into_iter().map(|(key, bytes)| (key, Kept { bytes, created }));
        *store.lock() = kept.collect();
        store
    }

    /// Everything in the store now; the bytes are shared, not copied.
    pub fn dump(&self) -> Contents {
        self.lock().iter().map(|(key, kept)| (key.clone(), kept.bytes.clone())).collect()
    }

    /// Another store that holds the same objects, created when these were, and has the same clock.
    pub fn fork(&self) -> Self {
        let contents = self.lock().clone();
        Self { clock: Arc::clone(&self.clock), contents: Mutex::new(contents) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Kept>> {
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
        contents.insert(key.clone(), Kept { bytes, created: self.clock.now() });
        Ok(Put::Created)
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.lock().get(key).map(|kept| kept.bytes.clone()).ok_or_else(|| StoreError::NotFound { key: key.to_string() })
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
        Ok(self.lock().get(key).map(|kept| kept.bytes.len() as u64))
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let contents = self.lock();
        // Names with a common beginning stand together.
        let begin = Key::new(prefix.to_owned());
        let from = match after {
            Some(after) if *after >= begin => Bound::Excluded(after),
            _ => Bound::Included(&begin),
        };
        let mut found = contents
            .range::<Key, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, kept)| Entry { key: key.clone(), len: kept.bytes.len() as u64, modified: kept.created });
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
