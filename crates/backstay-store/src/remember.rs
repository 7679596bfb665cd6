//! Remembers small signed objects that were read before, so that a long listing asks for each only once.
//!
//! Objects are created once and never change, so what was verified under a name is still what was made under
//! it. Only what `verified` names is ever written down, and it is verified again whenever it is read from
//! memory. Listings always come from the store: what it does not show now is not shown. What the store holds
//! by now under a remembered name is not looked at; that is what a check is for.
//!
//! It also remembers up to which notice it knows every mark of a source, so that a list need not ask for the names of
//! all of them. No signature in the store says that, so this host says it to itself: with a keyed digest over all
//! that it wrote down before, under a key that is made of its own signing key. Whoever can write to the state folder
//! and cannot sign as this host can take from the memory, which costs requests, and can hide no mark.
//!
//! Owns what was read, behind a lock that is never held across an await. The encoded form is a cache: an entry
//! that is damaged, and what follows it, is ignored.

use crate::error::StoreError;
use crate::keys;
use crate::repo::KnownMarks;
use crate::seam::{Key, Page, Put, Store};
use crate::signing::SigningKey;
use async_trait::async_trait;
use backstay_format::Header;
use backstay_model::{RepoId, SourceName};
use blake3::Hasher;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More than this is not remembered: about a hundred thousand manifests and marks.
pub const REMEMBERED_MAX: usize = 256 << 20;
/// Larger objects are no small signed ones.
const OBJECT_MAX: usize = 64 << 10;
const DIGEST: usize = 16;
const HEAD: usize = 9;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    bytes: Bytes,
    holds: Holds,
}

/// What the bytes of an entry are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// The beginning of an object.
    Beginning,
    Object,
    /// A height and a seal: every mark below the prefix that the key names is known up to there.
    Height,
}

impl Holds {
    const ALL: [Holds; 3] = [Holds::Beginning, Holds::Object, Holds::Height];
}

#[derive(Default)]
struct Memory {
    /// From earlier runs, or verified in this one.
    known: HashMap<Key, Part>,
    /// Read in this run, not yet known to be good.
    fresh: HashMap<Key, Part>,
    /// Brought by a bundle, in `fresh` as well: as good as read, and taken back if anything is wrong.
    offered: HashSet<Key>,
    /// Known, and asked for all the same.
    again: HashSet<Key>,
    /// Of the source that was loaded last.
    source: Loaded,
}

/// The written memory of one source, as far as it makes sense.
#[derive(Default)]
struct Loaded {
    hasher: Hasher,
    seal: Option<Seal>,
    /// Up to which height every mark is known.
    height: Option<u64>,
}

/// What this host says to itself, and nobody else can.
#[derive(Clone)]
pub struct Seal([u8; 32]);

impl Seal {
    pub fn of(signer: &SigningKey, repo: RepoId) -> Self {
        let mut secret = blake3::Hasher::new_derive_key("backstay 2026-11 the seal of what a list remembers");
        secret.update(signer.seed()).update(repo.as_bytes());
        Self(*secret.finalize().as_bytes())
    }

    /// Over everything written before, and what it is said of.
    fn over(&self, before: &Hasher, key: &Key, height: u64) -> blake3::Hash {
        let mut hasher = Hasher::new_keyed(&self.0);
        hasher.update(before.finalize().as_bytes()).update(&height.to_le_bytes()).update(key.as_str().as_bytes());
        hasher.finalize()
    }
}

/// What of this run's reading was verified.
pub struct Verified<'a> {
    pub keys: &'a HashSet<Key>,
    pub source: &'a SourceName,
    /// Where every mark of the source was seen and held, the height of its highest notice.
    pub height: Option<u64>,
}

pub struct Remembered {
    inner: Arc<dyn Store>,
    memory: Mutex<Memory>,
}

impl Remembered {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, memory: Mutex::default() }
    }

    /// Takes what an earlier run wrote down of a source; returns how much of it makes sense, in bytes.
    pub fn load(&self, encoded: &[u8], source: &SourceName, seal: Option<Seal>) -> usize {
        let (mut hasher, mut height, mut sound) = (Hasher::new(), None, 0);
        let mut memory = self.memory();
        for (key, part, len) in entries(encoded) {
            if part.holds == Holds::Height {
                let said = seal.as_ref().and_then(|seal| sealed_height(seal, &hasher, &key, &part.bytes));
                height = said.filter(|_| key == height_key(source)).or(height);
            } else {
                memory.known.insert(key, part);
            }
            hasher.update(encoded.get(sound..sound + len).unwrap_or_default());
            sound += len;
        }
        memory.source = Loaded { hasher, seal, height };
        sound
    }

    /// Every mark of the source that was loaded last, if they are all known up to some height.
    pub fn known_marks(&self, source: &SourceName) -> Option<KnownMarks> {
        let memory = self.memory();
        let height = memory.source.height?;
        let marks = memory.known.keys().filter(|key| keys::parse_mark(source, key).is_some());
        Some(KnownMarks { height, marks: marks.cloned().collect() })
    }

    /// Whether nothing has to be asked for to read it.
    pub fn has(&self, key: &Key) -> bool {
        self.recall(key).is_some()
    }

    /// The bytes that are known of an object or of its front, verified or not.
    pub fn bytes(&self, key: &Key) -> Option<Bytes> {
        let memory = self.memory();
        memory.fresh.get(key).or_else(|| memory.known.get(key)).map(|part| part.bytes.clone())
    }

    /// Takes what somebody else has read, as if it had been read now. It is no more believed than that.
    pub fn offer(&self, key: Key, bytes: Bytes) {
        if bytes.len() > OBJECT_MAX || self.has(&key) {
            return;
        }
        let is_front = matches!(keys::Place::of(&key), keys::Place::Snapshot(_));
        let holds = if is_front { Holds::Beginning } else { Holds::Object };
        let mut memory = self.memory();
        memory.fresh.insert(key.clone(), Part { bytes, holds });
        memory.offered.insert(key);
    }

    pub fn is_offered(&self, key: &Key) -> bool {
        self.memory().offered.contains(key)
    }

    /// Forgets what was offered, so that all of it is asked for.
    pub fn take_back(&self) {
        let mut memory = self.memory();
        let offered = std::mem::take(&mut memory.offered);
        memory.fresh.retain(|key, _| !offered.contains(key));
    }

    /// What is known under these names is read from the store all the same. How many names stay that are not.
    pub fn read_again(&self, which: impl Fn(&Key) -> bool) -> usize {
        let mut memory = self.memory();
        memory.again = memory.known.keys().filter(|key| which(key)).cloned().collect();
        memory.known.len() - memory.again.len()
    }

    /// What was verified and is new, encoded to stand behind what was loaded.
    pub fn verified(&self, verified: Verified<'_>) -> Vec<u8> {
        let mut memory = self.memory();
        let mut encoded = Vec::new();
        let (fresh, again) = (std::mem::take(&mut memory.fresh), std::mem::take(&mut memory.again));
        let is_new = |key: &Key| verified.keys.contains(key) && !again.contains(key);
        for (key, part) in fresh.into_iter().filter(|(key, _)| is_new(key)) {
            encode(&mut encoded, &key, &part);
            memory.known.insert(key, part);
        }
        memory.source.hasher.update(&encoded);
        let all_kept = || {
            let mut marks = verified.keys.iter().filter(|key| keys::parse_mark(verified.source, key).is_some());
            marks.all(|key| memory.known.contains_key(key))
        };
        let said = memory.source.height == verified.height && encoded.is_empty();
        if let (Some(height), Some(seal)) = (verified.height, memory.source.seal.clone())
            && !said
            && all_kept()
        {
            let key = height_key(verified.source);
            let hash = seal.over(&memory.source.hasher, &key, height);
            let bytes = [height.to_le_bytes().as_slice(), hash.as_bytes()].concat().into();
            let mut said = Vec::new();
            encode(&mut said, &key, &Part { bytes, holds: Holds::Height });
            memory.source.hasher.update(&said);
            memory.source.height = Some(height);
            encoded.extend(said);
        }
        encoded
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A notice is its mark under another name, and is remembered as that.
    fn recall(&self, key: &Key) -> Option<Part> {
        let (memory, mark) = (self.memory(), keys::noticed(key));
        let key = mark.as_ref().unwrap_or(key);
        let known = memory.known.get(key).filter(|_| !memory.again.contains(key));
        known.or_else(|| memory.fresh.get(key).filter(|_| memory.offered.contains(key))).cloned()
    }

    fn note(&self, key: &Key, bytes: &Bytes, holds: Holds) {
        let bytes = match holds {
            Holds::Beginning => &front_of(bytes).unwrap_or_else(|| bytes.clone()),
            Holds::Object | Holds::Height => bytes,
        };
        if bytes.len() <= OBJECT_MAX {
            let key = keys::noticed(key).unwrap_or_else(|| key.clone());
            self.memory().fresh.insert(key, Part { bytes: bytes.clone(), holds });
        }
    }
}

/// The front of an object that begins with these bytes, if all of it is in them.
fn front_of(bytes: &Bytes) -> Option<Bytes> {
    let len = Header::parse(bytes).ok()?.front_len();
    (len <= bytes.len()).then(|| bytes.slice(..len))
}

/// What a height is said of.
fn height_key(source: &SourceName) -> Key {
    Key::new(keys::mark_prefix(source).trim_end_matches('/').to_owned())
}

/// The height in an entry, if it is this host that said it.
fn sealed_height(seal: &Seal, before: &Hasher, key: &Key, bytes: &[u8]) -> Option<u64> {
    let (height, hash) = bytes.split_first_chunk::<8>()?;
    let height = u64::from_le_bytes(*height);
    let said = blake3::Hash::from_bytes(hash.try_into().ok()?);
    // Compared in constant time.
    (seal.over(before, key, height) == said).then_some(height)
}

/// Length of the key, length of the bytes, what they are; key; bytes; digest of all that.
fn encode(out: &mut Vec<u8>, key: &Key, part: &Part) {
    let begin = out.len();
    out.extend((key.as_str().len() as u32).to_le_bytes());
    out.extend((part.bytes.len() as u32).to_le_bytes());
    out.push(part.holds as u8);
    out.extend(key.as_str().as_bytes());
    out.extend(&part.bytes);
    let digest = blake3::hash(out.get(begin..).unwrap_or_default());
    out.extend(digest.as_bytes().iter().take(DIGEST));
}

/// The entries up to the first that makes no sense, and how long each is.
fn entries(encoded: &[u8]) -> impl Iterator<Item = (Key, Part, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let found = encoded.get(at..).and_then(entry)?;
        at += found.2;
        Some(found)
    })
}

fn entry(bytes: &[u8]) -> Option<(Key, Part, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let (key_len, len) = (number(0)?, number(4)?);
    let holds = *Holds::ALL.get(usize::from(*bytes.get(8)?))?;
    let key_end = HEAD.checked_add(key_len)?;
    let end = key_end.checked_add(len)?;
    let digest = bytes.get(end..end.checked_add(DIGEST)?)?;
    if blake3::hash(bytes.get(..end)?).as_bytes().get(..DIGEST) != Some(digest) {
        return None;
    }
    let key = Key::parse(std::str::from_utf8(bytes.get(HEAD..key_end)?).ok()?).ok()?;
    let part = Part { bytes: Bytes::copy_from_slice(bytes.get(key_end..end)?), holds };
    Some((key, part, end + DIGEST))
}

#[async_trait]
impl Store for Remembered {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.inner.put_new(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        if let Some(part) = self.recall(key).filter(|part| part.holds == Holds::Object) {
            return Ok(part.bytes);
        }
        let bytes = self.inner.get(key).await?;
        self.note(key, &bytes, Holds::Object);
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
        // Who asks for a beginning wants the front that is in it, and guesses how long that is.
        if let Some(front) = self.recall(key).and_then(|part| front_of(&part.bytes)).filter(|_| range.start == 0) {
            return Ok(front);
        }
        let bytes = self.inner.get_range(key, range.clone()).await?;
        if range.start == 0 {
            self.note(key, &bytes, Holds::Beginning);
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
    entries(bytes).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::meter::Meter;
    use backstay_model::ObjectId;
    use backstay_model::catalog::MarkKind;
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
        let shop: SourceName = "shop".parse().expect("a name");
        let those = || Verified { keys: &verified, source: &shop, height: Some(7) };
        let written = store.verified(those());
        let later = Remembered::new(meter.clone());
        assert_eq!(later.load(&written, &shop, None), written.len());
        let before = meter.read().calls();
        assert_eq!(later.get(&key("a")).await.expect("get"), "aaaaaaaaaa");
        assert_eq!(later.get_range(&key("c"), 0..3).await.expect("range"), "ccc");
        assert_eq!(meter.read().calls(), before, "both from memory");
        assert_eq!(later.get(&key("b")).await.expect("get"), "bbbbbbbbbb");
        assert_eq!(later.get(&key("c")).await.expect("get"), "cccccccccc", "a part is not the whole");
        assert_eq!(later.get_range(&key("c"), 3..8).await.expect("range"), "ccccc");
        assert_eq!(meter.read().calls(), before + 3);
        assert_eq!(later.verified(those()).len(), 9 + 1 + 10 + 16, "c, now whole");
        assert!(later.known_marks(&shop).is_none(), "who has no key of its own says nothing to itself");
    }

    #[tokio::test]
    async fn what_the_store_does_not_list_is_not_listed() {
        let (meter, store) = store(&["a"]).await;
        store.get(&key("a")).await.expect("get");
        let shop: SourceName = "shop".parse().expect("a name");
        store.verified(Verified { keys: &[key("a")].into(), source: &shop, height: None });
        meter.delete(&key("a")).await.expect("deleted by another");
        assert_eq!(store.list("", None, 10).await.expect("list").entries, []);
        assert_eq!(store.head(&key("a")).await.expect("head"), None);
    }

    /// What the state folder says of itself is believed only where this host said it, of this, last.
    #[tokio::test]
    async fn a_height_counts_only_over_what_this_host_wrote_before_it() {
        let shop: SourceName = "shop".parse().expect("a name");
        let repo = RepoId::from_bytes([9; 16]);
        let seal = |seed| Some(Seal::of(&SigningKey::from_seed([seed; 32]), repo));
        let (snapshot, id) = (ObjectId::from_bytes([1; 16]), |n| ObjectId::from_bytes([n; 16]));
        let mark = |n| keys::mark(&shop, &snapshot, MarkKind::Proven, &id(n));
        let (_, store) = store(&[mark(1).as_str(), mark(2).as_str()]).await;
        store.load(&[], &shop, seal(1));
        let mut written = Vec::new();
        for (n, height) in [(1, 4), (2, 5)] {
            store.get(&mark(n)).await.expect("get");
            written.extend(store.verified(Verified { keys: &[mark(n)].into(), source: &shop, height: Some(height) }));
        }
        let known = |bytes: &[u8], seed| {
            let later = Remembered::new(Arc::new(MemoryStore::new()));
            later.load(bytes, &shop, seal(seed));
            later.known_marks(&shop).map(|known| (known.height, known.marks.len()))
        };
        assert_eq!(known(&written, 1), Some((5, 2)));
        assert_eq!(known(&written, 2), None, "said with another key");
        let lens: Vec<usize> = entries(&written).map(|(_, _, len)| len).collect();
        let without_the_second = [&written[..lens[0] + lens[1]], &written[written.len() - lens[3]..]].concat();
        assert_eq!(known(&without_the_second, 1), Some((4, 1)), "what was said of more is not said of less");
        let mut elsewhere = written.clone();
        elsewhere.drain(..lens[0]);
        assert_eq!(known(&elsewhere, 1), None, "nor of what does not begin where it began");
    }

    proptest! {
        #[test]
        fn a_damaged_memory_is_forgotten_from_there_on(at in 0_usize..200, flip in 1_u8..) {
            let mut bytes = Vec::new();
            for name in ["a", "b", "c", "d"] {
                let part = Part { bytes: Bytes::from(name.repeat(24)), holds: Holds::Object };
                encode(&mut bytes, &key(name), &part);
            }
            let len = bytes.len() / 4;
            prop_assert_eq!(entries(&bytes).map(|(_, _, len)| len).sum::<usize>(), bytes.len());
            prop_assert_eq!(entries(&bytes).count(), 4);
            bytes[at] ^= flip;
            prop_assert_eq!(entries(&bytes).count(), at / len);
            prop_assert_eq!(entries(&bytes[..at]).count(), at / len);
        }
    }
}
