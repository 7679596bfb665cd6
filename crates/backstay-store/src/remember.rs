//! Remembers small signed objects that were read before, so that a long listing asks for each only once.
//!
//! Objects are created once and never change, so what was verified under a name is still what was made under
//! it. Only what `verified` names is ever written down, and it is verified again whenever it is read from
//! memory. Listings always come from the store: what it does not show now is not shown. What the store holds
//! by now under a remembered name is not looked at; that is what a check is for.
//!
//! Owns what was read, behind a lock that is never held across an await. The encoded form is a cache: an entry
//! that is damaged, and what follows it, is ignored.

use crate::error::StoreError;
use crate::seam::{Key, Page, Put, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More than this is not remembered: about a hundred thousand manifests and marks.
pub const REMEMBERED_MAX: usize = 256 << 20;
/// Larger objects are no small signed ones.
const OBJECT_MAX: usize = 64 << 10;
const DIGEST: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    bytes: Bytes,
    /// Whether that is all of the object, or its beginning.
    whole: bool,
}

#[derive(Default)]
struct Memory {
    /// From earlier runs, or verified in this one.
    known: HashMap<Key, Part>,
    /// Read in this run, not yet known to be good.
    fresh: HashMap<Key, Part>,
}

pub struct Remembered {
    inner: Arc<dyn Store>,
    memory: Mutex<Memory>,
}

impl Remembered {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, memory: Mutex::default() }
    }

    /// Takes what an earlier run wrote down; returns how much of it makes sense, in bytes.
    pub fn load(&self, encoded: &[u8]) -> usize {
        let (entries, sound) = decode(encoded);
        self.memory().known.extend(entries);
        sound
    }

    /// What of this run's reading was verified and is new, encoded to stand behind what was loaded.
    pub fn verified(&self, keys: &HashSet<Key>) -> Vec<u8> {
        let mut memory = self.memory();
        let mut encoded = Vec::new();
        let fresh = std::mem::take(&mut memory.fresh);
        for (key, part) in fresh.into_iter().filter(|(key, _)| keys.contains(key)) {
            encode(&mut encoded, &key, &part);
            memory.known.insert(key, part);
        }
        encoded
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, key: &Key) -> Option<Part> {
        self.memory().known.get(key).cloned()
    }

    fn note(&self, key: &Key, bytes: &Bytes, whole: bool) {
        if bytes.len() <= OBJECT_MAX {
            self.memory().fresh.insert(key.clone(), Part { bytes: bytes.clone(), whole });
        }
    }
}

/// Length of the key, length of the bytes, whether they are all; key; bytes; digest of all that.
fn encode(out: &mut Vec<u8>, key: &Key, part: &Part) {
    let begin = out.len();
    out.extend((key.as_str().len() as u32).to_le_bytes());
    out.extend((part.bytes.len() as u32).to_le_bytes());
    out.push(u8::from(part.whole));
    out.extend(key.as_str().as_bytes());
    out.extend(&part.bytes);
    let digest = blake3::hash(out.get(begin..).unwrap_or_default());
    out.extend(digest.as_bytes().iter().take(DIGEST));
}

/// The entries up to the first that makes no sense, and how long they are together.
fn decode(encoded: &[u8]) -> (Vec<(Key, Part)>, usize) {
    let (mut entries, mut at) = (Vec::new(), 0);
    while let Some((key, part, len)) = encoded.get(at..).and_then(entry) {
        entries.push((key, part));
        at += len;
    }
    (entries, at)
}

fn entry(bytes: &[u8]) -> Option<(Key, Part, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let (key_len, len) = (number(0)?, number(4)?);
    let whole = match bytes.get(8)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let key_end = 9_usize.checked_add(key_len)?;
    let end = key_end.checked_add(len)?;
    let digest = bytes.get(end..end.checked_add(DIGEST)?)?;
    if blake3::hash(bytes.get(..end)?).as_bytes().get(..DIGEST) != Some(digest) {
        return None;
    }
    let key = Key::parse(std::str::from_utf8(bytes.get(9..key_end)?).ok()?).ok()?;
    let part = Part { bytes: Bytes::copy_from_slice(bytes.get(key_end..end)?), whole };
    Some((key, part, end + DIGEST))
}

#[async_trait]
impl Store for Remembered {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.inner.put_new(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        if let Some(part) = self.recall(key).filter(|part| part.whole) {
            return Ok(part.bytes);
        }
        let bytes = self.inner.get(key).await?;
        self.note(key, &bytes, true);
        Ok(bytes)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = range.start as usize..range.end as usize;
        if let Some(part) = self.recall(key)
            && range.start <= range.end
            && range.end <= part.bytes.len() as u64
        {
            return Ok(part.bytes.slice(wanted));
        }
        let bytes = self.inner.get_range(key, range.clone()).await?;
        if range.start == 0 {
            self.note(key, &bytes, false);
        }
        Ok(bytes)
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.memory().known.remove(key);
        self.inner.delete(key).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// For the fuzzer: any bytes may stand in the state folder.
pub fn decodes(bytes: &[u8]) -> usize {
    decode(bytes).0.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::meter::Meter;
    use proptest::prelude::*;

    fn key(text: &str) -> Key {
        Key::parse(text).expect("legal")
    }

    async fn store(names: &[&str]) -> (Arc<Meter>, Remembered) {
        let meter = Arc::new(Meter::new(Arc::new(MemoryStore::new())));
        for name in names {
            meter.put_new(&key(name), Bytes::from(name.repeat(10))).await.expect("put");
        }
        (meter.clone(), Remembered::new(meter))
    }

    #[tokio::test]
    async fn only_what_was_verified_is_remembered_and_read_no_more() {
        let (meter, store) = store(&["a", "b", "c"]).await;
        for name in ["a", "b"] {
            store.get(&key(name)).await.expect("get");
        }
        store.get_range(&key("c"), 0..5).await.expect("range");
        let verified: HashSet<Key> = [key("a"), key("c")].into();
        let written = store.verified(&verified);
        let later = Remembered::new(meter.clone());
        assert_eq!(later.load(&written), written.len());
        let before = meter.read().calls();
        assert_eq!(later.get(&key("a")).await.expect("get"), "aaaaaaaaaa");
        assert_eq!(later.get_range(&key("c"), 0..3).await.expect("range"), "ccc");
        assert_eq!(meter.read().calls(), before, "both from memory");
        assert_eq!(later.get(&key("b")).await.expect("get"), "bbbbbbbbbb");
        assert_eq!(later.get(&key("c")).await.expect("get"), "cccccccccc", "a part is not the whole");
        assert_eq!(later.get_range(&key("c"), 3..8).await.expect("range"), "ccccc");
        assert_eq!(meter.read().calls(), before + 3);
        assert_eq!(later.verified(&verified).len(), 9 + 1 + 10 + 16, "c, now whole");
    }

    #[tokio::test]
    async fn what_the_store_does_not_list_is_not_listed() {
        let (meter, store) = store(&["a"]).await;
        store.get(&key("a")).await.expect("get");
        store.verified(&[key("a")].into());
        meter.delete(&key("a")).await.expect("deleted by another");
        assert_eq!(store.list("", None, 10).await.expect("list").entries, []);
        assert_eq!(store.head(&key("a")).await.expect("head"), None);
    }

    proptest! {
        #[test]
        fn a_damaged_memory_is_forgotten_from_there_on(at in 0_usize..200, flip in 1_u8..) {
            let mut bytes = Vec::new();
            for name in ["a", "b", "c", "d"] {
                let part = Part { bytes: Bytes::from(name.repeat(24)), whole: true };
                encode(&mut bytes, &key(name), &part);
            }
            let len = bytes.len() / 4;
            prop_assert_eq!(decode(&bytes), (decode(&bytes).0, bytes.len()));
            prop_assert_eq!(decode(&bytes).0.len(), 4);
            bytes[at] ^= flip;
            prop_assert_eq!(decode(&bytes).0.len(), at / len);
            prop_assert_eq!(decode(&bytes[..at]).0.len(), at / len);
        }
    }
}
