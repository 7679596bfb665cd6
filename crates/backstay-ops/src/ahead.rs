//! Ranges of objects, fetched ahead of the threads that need them.
//!
//! Many requests are on their way while others are being opened and written, so that neither the store's latency nor
//! one slow answer stops the work, and the memory they take is bounded by bytes. They are handed out as they
//! arrive, in no order.
//!
//! Owns the requests on their way: dropping it ends them. The lock is held while a thread waits for the next arrival,
//! since the others could only wait for the same.

use crate::OpsError;
use backstay_store::{Key, Store, StoreError};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Bytes asked for and not yet handed out. What they take in memory is about three times that: threads keep what they
/// have freed.
const AHEAD_BYTES: u64 = 32 << 20;
/// Requests that are on their way or waiting to be taken.
const AHEAD_MOST: usize = 16;

/// What to fetch, and what it is for.
pub struct Wanted<T> {
    pub key: Key,
    pub range: Range<u64>,
    pub what: T,
}

pub struct Ahead<I, T> {
    state: Mutex<State<I, T>>,
    store: Arc<dyn Store>,
    handle: Handle,
}

struct State<I, T> {
    wanted: I,
    bytes: u64,
    arriving: JoinSet<(T, u64, Result<Bytes, StoreError>)>,
}

impl<I: Iterator<Item = Wanted<T>>, T: Send + 'static> Ahead<I, T> {
    pub fn new(store: Arc<dyn Store>, wanted: I, handle: Handle) -> Self {
        Self { state: Mutex::new(State { wanted, bytes: 0, arriving: JoinSet::new() }), store, handle }
    }

    /// Waits for the next arrival; `None` when everything has arrived.
    pub fn next(&self) -> Result<Option<(T, Bytes)>, OpsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.ask(&mut state);
        let Some(arrived) = self.handle.block_on(state.arriving.join_next()) else { return Ok(None) };
        let (what, len, bytes) = arrived.map_err(|_| OpsError::Cancelled)?;
        state.bytes -= len;
        self.ask(&mut state);
        Ok(Some((what, bytes?)))
    }

    fn ask(&self, state: &mut State<I, T>) {
        while state.arriving.len() < AHEAD_MOST && (state.bytes < AHEAD_BYTES || state.arriving.is_empty()) {
            let Some(Wanted { key, range, what }) = state.wanted.next() else { return };
            let (store, len) = (self.store.clone(), range.end - range.start);
            state.bytes += len;
            state.arriving.spawn_on(async move { (what, len, store.get_range(&key, range).await) }, &self.handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_store::memory::MemoryStore;
    use std::collections::BTreeSet;

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_arrives_once_and_a_failure_is_told() {
        let store = Arc::new(MemoryStore::new());
        let key = Key::parse("data/x").expect("legal");
        store.put_new(&key, Bytes::from(vec![7; 100])).await.expect("put");
        let wanted = |n: u64| Wanted { key: key.clone(), range: n..n + 1, what: n };
        let ahead = Ahead::new(store.clone(), (0..100).map(wanted), Handle::current());
        let mut seen = BTreeSet::new();
        tokio::task::block_in_place(|| {
            while let Some((n, bytes)) = ahead.next().expect("there") {
                assert!(bytes.as_ref() == [7] && seen.insert(n), "{n}");
            }
        });
        assert_eq!(seen.len(), 100);
        let ahead = Ahead::new(store, (99..101).map(wanted), Handle::current());
        let ends: Vec<bool> = tokio::task::block_in_place(|| (0..2).map(|_| ahead.next().is_ok()).collect());
        assert!(ends.contains(&false), "one lies past the end of the object: {ends:?}");
    }
}
