//! A store that breaks: by a crash at a chosen effect, or by chance from a seed.
//!
//! Crash points come from `Effects`, for reads too. A verb that changes something has two: before it
//! is applied, and after it is applied but before the caller hears of it. A stopped verb answers
//! `Unknown`, as a cut connection would; `Retry` above a stopped store waits out its deadline, so
//! put it there only with the paused clock.
//!
//! Faults by chance are data: which verb, how often, what. The seed is in every injected error, in
//! `describe`, and on stderr when a test panics while the store is alive.

use crate::effects::{Effects, Stopped};
use async_trait::async_trait;
use backstay_store::error::BoxError;
use backstay_store::{Entry, Key, Page, Put, Store, StoreError, Verb};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Every crash point of a store.
pub const CRASH_POINTS: [&str; 8] = [
    "store put, not applied",
    "store put, applied",
    "store get",
    "store get range",
    "store head",
    "store list",
    "store delete, not applied",
    "store delete, applied",
];

/// One way to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which verb; `None` is any.
    pub verb: Option<Verb>,
    /// How often, in calls of a thousand.
    pub per_thousand: u16,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// `Unknown`, and nothing was done.
    Unapplied,
    /// `Unknown`, and it was done.
    Applied,
    Denied,
    Full,
    /// The answer is right, and late.
    Slow(Duration),
    /// A listing that leaves out its tail and says it is complete. Other verbs are left alone.
    ShortListing,
    /// A listing from before the last few changes made through this store. Other verbs are left alone.
    StaleListing,
}

#[derive(Debug, thiserror::Error)]
#[error("injected {kind:?} (seed {seed})")]
struct Injected {
    kind: FaultKind,
    seed: u64,
}

pub struct FaultStore {
    inner: Arc<dyn Store>,
    effects: Option<Effects>,
    faults: Vec<Fault>,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dice: u64,
    injected: BTreeMap<&'static str, u64>,
    /// The latest changes made through this store, newest last; what a stale listing undoes.
    changes: Vec<Change>,
    /// Objects that cannot be read, as by a disk with a bad sector; everything else of them works.
    unreadable: BTreeSet<Key>,
    /// Nothing answers.
    away: bool,
    /// What is put is there, and not answered.
    mute: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Created(Key),
    Deleted(Entry),
}

/// How far back a stale listing may look.
const CHANGES_KEPT: usize = 16;

impl FaultStore {
    /// Breaks nothing until told how.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, effects: None, faults: Vec::new(), seed: 0, state: Mutex::default() }
    }

    /// Asks `effects` before and after every verb.
    pub fn with_effects(mut self, effects: Effects) -> Self {
        self.effects = Some(effects);
        self
    }

    /// Breaks by chance; the same seed and the same calls break the same way.
    pub fn with_faults(mut self, seed: u64, faults: Vec<Fault>) -> Self {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).dice = seed;
        (self.seed, self.faults) = (seed, faults);
        self
    }

    /// From now on this object cannot be read, though it is there and is listed.
    pub fn make_unreadable(&self, key: Key) {
        self.lock().unreadable.insert(key);
    }

    /// Every object can be read again.
    pub fn make_readable(&self) {
        self.lock().unreadable.clear();
    }

    fn bad_sector(&self, verb: Verb, key: &Key) -> Result<(), StoreError> {
        if !self.lock().unreadable.contains(key) {
            return Ok(());
        }
        // EIO
        Err(unknown(verb, key.as_str(), std::io::Error::from_raw_os_error(5).into()))
    }

    /// From now on nothing answers, until [`FaultStore::come_back`].
    pub fn go_away(&self) {
        self.lock().away = true;
    }

    /// From now on what is put is there, and nobody is told so, until [`FaultStore::come_back`].
    pub fn lose_answers(&self) {
        self.lock().mute = true;
    }

    pub fn come_back(&self) {
        let mut state = self.lock();
        (state.away, state.mute) = (false, false);
    }

    /// How many faults were injected into each verb, by the verb's word.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.lock().injected.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, verb: Verb, key: &str, name: &'static str) -> Result<(), StoreError> {
        let Some(effects) = &self.effects else { return Ok(()) };
        effects.step(name).map_err(|stopped: Stopped| unknown(verb, key, stopped.into()))
    }

    /// The first fault whose dice fall, for one call of this verb.
    fn draw(&self, verb: Verb) -> Option<FaultKind> {
        let mut state = self.lock();
        if state.away {
            return Some(FaultKind::Unapplied);
        }
        if state.mute && verb == Verb::PutNew {
            return Some(FaultKind::Applied);
        }
        let drawn = self.faults.iter().find(|fault| {
            let wanted = fault.verb.is_none_or(|v| v == verb) && applies(fault.kind, verb);
            wanted && roll(&mut state.dice, 1000) < u64::from(fault.per_thousand)
        })?;
        *state.injected.entry(verb.word()).or_default() += 1;
        Some(drawn.kind)
    }

    /// One call with its fault, if any: what comes before it, and whether its answer is lost.
    async fn call<T>(
        &self,
        verb: Verb,
        key: &str,
        fault: Option<FaultKind>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let Some(kind) = fault else { return call.await };
        let source = BoxError::from(Injected { kind, seed: self.seed });
        let (op, name) = (verb.word(), key.to_owned());
        match kind {
            FaultKind::Unapplied => return Err(unknown(verb, key, source)),
            FaultKind::Denied => return Err(StoreError::Denied { op, key: name, source }),
            FaultKind::Full => return Err(StoreError::Full { op, key: name, source }),
            FaultKind::Slow(pause) => tokio::time::sleep(pause).await,
            FaultKind::Applied | FaultKind::ShortListing | FaultKind::StaleListing => {}
        }
        let answer = call.await?;
        if kind == FaultKind::Applied { Err(unknown(verb, key, source)) } else { Ok(answer) }
    }

    fn remember(&self, change: Change) {
        let mut state = self.lock();
        state.changes.push(change);
        let excess = state.changes.len().saturating_sub(CHANGES_KEPT);
        state.changes.drain(..excess);
    }

    async fn put_and_remember(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let put = self.inner.put_new(key, bytes).await?;
        if put == Put::Created {
            self.remember(Change::Created(key.clone()));
        }
        Ok(put)
    }

    async fn delete_and_remember(&self, key: &Key) -> Result<(), StoreError> {
        let stale = self.faults.iter().any(|fault| fault.kind == FaultKind::StaleListing);
        // An object's own name is the first of those that begin with it.
        let page = if stale { self.inner.list(key.as_str(), None, 1).await? } else { Page::default() };
        self.inner.delete(key).await?;
        if let Some(gone) = page.entries.into_iter().find(|entry| entry.key == *key) {
            self.remember(Change::Deleted(gone));
        }
        Ok(())
    }

    fn shorten(&self, mut page: Page) -> Page {
        let kept = roll(&mut self.lock().dice, page.entries.len().max(1) as u64);
        page.entries.truncate(kept as usize);
        Page { entries: page.entries, next: None }
    }

    /// The page as it would have been some changes ago.
    fn age(&self, page: Page, prefix: &str, after: Option<&Key>, limit: usize) -> Page {
        let undone: Vec<Change> = {
            let mut state = self.lock();
            let most = state.changes.len() as u64;
            let count = 1 + roll(&mut state.dice, most.max(1)) as usize;
            state.changes.iter().rev().take(count).cloned().collect()
        };
        let ends = page.next.clone();
        let mut entries: BTreeMap<Key, Entry> = page.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        for change in undone {
            match change {
                Change::Created(key) => drop(entries.remove(&key)),
                Change::Deleted(gone) => {
                    let key = &gone.key;
                    let here = key.as_str().starts_with(prefix)
                        && after.is_none_or(|after| key > after)
                        && ends.as_ref().is_none_or(|end| key <= end);
                    if here {
                        entries.insert(key.clone(), gone);
                    }
                }
            }
        }
        let cut = entries.len() > limit.max(1);
        let entries: Vec<Entry> = entries.into_values().take(limit.max(1)).collect();
        let next = if cut { entries.last().map(|entry| entry.key.clone()) } else { ends };
        Page { entries, next }
    }
}

/// Whether a fault of this kind can happen to this verb.
fn applies(kind: FaultKind, verb: Verb) -> bool {
    match kind {
        FaultKind::ShortListing | FaultKind::StaleListing => verb == Verb::List,
        FaultKind::Full => verb == Verb::PutNew,
        FaultKind::Unapplied | FaultKind::Applied | FaultKind::Denied | FaultKind::Slow(_) => true,
    }
}

fn unknown(verb: Verb, key: &str, source: BoxError) -> StoreError {
    StoreError::Unknown { op: verb.word(), key: key.to_owned(), source }
}

/// The next number of the sequence a seed begins, below `sides`.
fn roll(dice: &mut u64, sides: u64) -> u64 {
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let hash = blake3::hash(&dice.to_le_bytes());
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    u64::from_le_bytes(number) % sides
}

#[async_trait]
impl Store for FaultStore {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let (verb, name) = (Verb::PutNew, key.as_str());
        self.step(verb, name, "store put, not applied")?;
        let answer = self.call(verb, name, self.draw(verb), self.put_and_remember(key, bytes)).await;
        self.step(verb, name, "store put, applied")?;
        answer
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.step(Verb::Get, key.as_str(), "store get")?;
        self.bad_sector(Verb::Get, key)?;
        self.call(Verb::Get, key.as_str(), self.draw(Verb::Get), self.inner.get(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.step(Verb::GetRange, key.as_str(), "store get range")?;
        self.bad_sector(Verb::GetRange, key)?;
        self.call(Verb::GetRange, key.as_str(), self.draw(Verb::GetRange), self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.step(Verb::Head, key.as_str(), "store head")?;
        self.call(Verb::Head, key.as_str(), self.draw(Verb::Head), self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.step(Verb::List, prefix, "store list")?;
        let fault = self.draw(Verb::List);
        let page = self.call(Verb::List, prefix, fault, self.inner.list(prefix, after, limit)).await?;
        Ok(match fault {
            Some(FaultKind::ShortListing) => self.shorten(page),
            Some(FaultKind::StaleListing) => self.age(page, prefix, after, limit),
            _ => page,
        })
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let (verb, name) = (Verb::Delete, key.as_str());
        self.step(verb, name, "store delete, not applied")?;
        let answer = self.call(verb, name, self.draw(verb), self.delete_and_remember(key)).await;
        self.step(verb, name, "store delete, applied")?;
        answer
    }

    fn describe(&self) -> String {
        if self.faults.is_empty() {
            return self.inner.describe();
        }
        format!("{} with faults (seed {})", self.inner.describe(), self.seed)
    }
}

impl Drop for FaultStore {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.faults.is_empty() {
            eprintln!("the fault store's seed was {}", self.seed);
        }
    }
}

#[cfg(test)]
mod tests;
