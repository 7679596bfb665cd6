//! Counts what passes through a store: calls and failures per verb, bytes both ways.
//!
//! Owns a few atomics and takes no lock, so that watching never slows the work. A reading is taken
//! counter by counter while work goes on: each number is exact, their sum is a moment's blur.

use crate::error::StoreError;
use crate::seam::{Key, Page, Put, Store, Verb};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Meter {
    inner: Arc<dyn Store>,
    verbs: [Counters; Verb::ALL.len()],
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    failures: AtomicU64,
}

/// What a meter said at one time, or between two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    pub verbs: BTreeMap<Verb, Count>,
    /// Bytes of objects that were created.
    pub bytes_sent: u64,
    /// Bytes of objects that were read.
    pub bytes_received: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub calls: u64,
    pub failures: u64,
}

impl Reading {
    pub fn of(&self, verb: Verb) -> Count {
        self.verbs.get(&verb).copied().unwrap_or_default()
    }

    pub fn calls(&self) -> u64 {
        self.verbs.values().map(|count| count.calls).sum()
    }

    pub fn failures(&self) -> u64 {
        self.verbs.values().map(|count| count.failures).sum()
    }

    /// What this and another meter saw together.
    pub fn and(&self, other: &Reading) -> Reading {
        let verbs = Verb::ALL.map(|verb| {
            let (one, two) = (self.of(verb), other.of(verb));
            (verb, Count { calls: one.calls + two.calls, failures: one.failures + two.failures })
        });
        Reading {
            verbs: verbs.into(),
            bytes_sent: self.bytes_sent + other.bytes_sent,
            bytes_received: self.bytes_received + other.bytes_received,
        }
    }

    /// What happened between an earlier reading of the same meter and this one.
    pub fn since(&self, earlier: &Reading) -> Reading {
        let verbs = Verb::ALL.map(|verb| {
            let (now, then) = (self.of(verb), earlier.of(verb));
            let calls = now.calls.saturating_sub(then.calls);
            (verb, Count { calls, failures: now.failures.saturating_sub(then.failures) })
        });
        Reading {
            verbs: verbs.into(),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
        }
    }
}

impl Meter {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, verbs: Default::default(), bytes_sent: AtomicU64::new(0), bytes_received: AtomicU64::new(0) }
    }

    pub fn read(&self) -> Reading {
        let verbs = Verb::ALL.map(|verb| {
            let counters = self.of(verb);
            let (calls, failures) = (counters.calls.load(Ordering::Relaxed), counters.failures.load(Ordering::Relaxed));
            (verb, Count { calls, failures })
        });
        Reading {
            verbs: verbs.into(),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
        }
    }

    fn of(&self, verb: Verb) -> &Counters {
        &self.verbs[verb as usize]
    }

    /// Counts the call when it begins, so that one that is dropped half-way was still made.
    async fn count<T>(&self, verb: Verb, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.of(verb).calls.fetch_add(1, Ordering::Relaxed);
        let answer = call.await;
        if answer.is_err() {
            self.of(verb).failures.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    fn received(&self, bytes: &Bytes) {
        self.bytes_received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for Meter {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let len = bytes.len() as u64;
        let put = self.count(Verb::PutNew, self.inner.put_new(key, bytes)).await?;
        if put == Put::Created {
            self.bytes_sent.fetch_add(len, Ordering::Relaxed);
        }
        Ok(put)
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.count(Verb::Get, self.inner.get(key)).await.inspect(|bytes| self.received(bytes))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.count(Verb::GetRange, self.inner.get_range(key, range)).await.inspect(|bytes| self.received(bytes))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.count(Verb::Head, self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.count(Verb::List, self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.count(Verb::Delete, self.inner.delete(key)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    #[tokio::test]
    async fn a_meter_counts_calls_failures_and_bytes() {
        let meter = Meter::new(Arc::new(MemoryStore::new()));
        let key = Key::new("a".to_owned());
        meter.put_new(&key, Bytes::from_static(b"12345")).await.expect("put");
        meter.put_new(&key, Bytes::from_static(b"12345")).await.expect("exists");
        let first = meter.read();
        assert_eq!((first.of(Verb::PutNew), first.bytes_sent), (Count { calls: 2, failures: 0 }, 5));

        meter.get(&key).await.expect("get");
        meter.get_range(&key, 1..3).await.expect("range");
        meter.get_range(&key, 1..9).await.expect_err("past the end");
        meter.head(&key).await.expect("head");
        meter.list("", None, 9).await.expect("list");
        meter.delete(&key).await.expect("delete");
        let between = meter.read().since(&first);
        assert_eq!(between.of(Verb::GetRange), Count { calls: 2, failures: 1 });
        assert_eq!((between.bytes_sent, between.bytes_received, between.calls()), (0, 7, 6));
        assert_eq!(between.of(Verb::PutNew), Count::default());
    }
}
