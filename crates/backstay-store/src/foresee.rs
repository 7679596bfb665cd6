//! A store that asks for what will be wanted before it is.
//!
//! Whoever opens a moment lists a handful of prefixes, and reads what stands at one end of each: one request after
//! another, and over a network it would mostly wait. Here all the listings are under way at once, and what they lead
//! to right behind them, so that it takes as long as two requests. What was foreseen is given out as the store gave
//! it, a listing once and an object for as long as this lives; what was not, or failed, is asked for when it is wanted.
//! Nothing is verified here, and nothing is believed that would not be believed of the store itself.

use crate::seam::{Entry, Key, Page, Put, Store};
use crate::{StoreError, keys};
use async_trait::async_trait;
use backstay_model::SourceName;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// Names in a page of a listing, as the repository asks for them.
const PAGE: usize = 1000;
/// Objects that are longer are asked for when somebody wants them.
const WHOLE_MAX: u64 = 2 << 20;
/// As much of an object as has its front, nearly always.
const BEGINNING: u64 = 8 << 10;

/// Listings and reads of a trail: opening a moment takes half of them, and a search the other half.
const LISTED_MAX: usize = 4;
const READ_MAX: usize = 16;
/// Bytes of all the pieces of a trail.
const PIECES_MAX: u64 = 2 << 20;

/// What a listing leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The object with the greatest name, whole.
    Last,
    /// The first object whole, and the beginnings of some behind it.
    First {
        beginnings: usize,
    },
    /// So many of them, whole.
    All {
        most: usize,
    },
    Nothing,
}

/// Whether this host has read the source's marks and manifests before, and remembers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Blank,
    Remembers(Trail),
}

/// What somebody read of a store first, by its names. For a host to keep, who may believe it or not: what it leads to
/// is verified like everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// Whose names they are.
    store: String,
    /// Beside those that everyone lists.
    listed: Vec<String>,
    read: Vec<Read>,
}

/// An object or, by its first byte and the one behind its last, a piece of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Read {
    name: String,
    piece: Option<(u64, u64)>,
}

impl Trail {
    pub fn is_of(&self, store: &dyn Store) -> bool {
        self.store == store.describe()
    }

    /// As far as it makes sense, and no more than a trail can be.
    fn listings(&self, (store, source): (&dyn Store, &SourceName)) -> Vec<String> {
        let possible =
            |prefix: &&String| **prefix == keys::mark_prefix(source) || prefix.starts_with(keys::LOGS_PREFIX);
        let listed = self.listed.iter().filter(|_| self.is_of(store));
        listed.filter(possible).take(LISTED_MAX).cloned().collect()
    }

    fn reads(&self, store: &dyn Store) -> Vec<(Key, Option<Range<u64>>)> {
        let mut bytes = 0;
        let read = self.read.iter().filter(|_| self.is_of(store)).take(READ_MAX);
        let sane = read.filter_map(|Read { name, piece }| {
            bytes += piece.map_or(0, |(start, end)| end.saturating_sub(start));
            let is_one = match piece {
                Some((start, end)) => *start < *end && bytes <= PIECES_MAX,
                None => may_be_whole(name),
            };
            Some((Key::parse(name).ok().filter(|_| is_one)?, piece.map(|(start, end)| start..end)))
        });
        sane.collect()
    }

    fn note_listed(&mut self, prefix: &str) {
        if self.listed.len() < LISTED_MAX && self.listed.iter().all(|known| known != prefix) {
            self.listed.push(prefix.to_owned());
        }
    }

    fn note_read(&mut self, key: &Key, piece: Option<Range<u64>>) {
        let read = Read { name: key.as_str().to_owned(), piece: piece.map(|piece| (piece.start, piece.end)) };
        let is_small = read.piece.is_some() || may_be_whole(&read.name);
        if is_small && self.read.len() < READ_MAX && !self.read.contains(&read) {
            self.read.push(read);
        }
    }
}

/// Whoever reads a pack or a piece of a log whole reads a lot: no trail leads there.
fn may_be_whole(name: &str) -> bool {
    !name.contains("/pack/") && !name.starts_with(keys::LOGS_PREFIX)
}

type Coming<T> = Shared<BoxFuture<'static, Option<T>>>;
/// Bytes from the beginning of objects, and whether they are all there are.
type Objects = Arc<Mutex<HashMap<Key, (bool, Coming<Bytes>)>>>;
type Pieces = HashMap<(Key, Range<u64>), Coming<Bytes>>;

pub struct Foreseen {
    inner: Arc<dyn Store>,
    listings: Mutex<HashMap<String, Coming<Page>>>,
    objects: Objects,
    /// Of the trail.
    pieces: Mutex<Pieces>,
    /// What everyone lists.
    usual: Vec<String>,
    trail: Mutex<Trail>,
    /// What is under way ends with this.
    _tasks: JoinSet<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Foreseen {
    /// For whoever will open a moment of a source. Must be called inside a runtime.
    pub fn of_source(inner: Arc<dyn Store>, (source, host): (&SourceName, Host)) -> Self {
        let is_blank = host == Host::Blank;
        let beginnings = if is_blank { 31 } else { 0 };
        let mut wanted = vec![
            (keys::CONF_PREFIX.to_owned(), Then::Last),
            (keys::PRUNE_PREFIX.to_owned(), Then::Last),
            (keys::snapshot_prefix(source), Then::First { beginnings }),
            (keys::notice_prefix(source), Then::Nothing),
        ];
        let usual = wanted.iter().map(|(prefix, _)| prefix.clone()).collect();
        if is_blank {
            wanted.push((keys::mark_prefix(source), Then::All { most: 64 }));
        }
        let (mut objects, mut pieces) = (HashMap::new(), Pieces::new());
        if let Host::Remembers(trail) = host {
            let listings = trail.listings((inner.as_ref(), source)).into_iter();
            wanted.extend(listings.map(|prefix| (prefix, Then::Nothing)));
            for (key, piece) in trail.reads(inner.as_ref()) {
                let coming = bytes_of(inner.clone(), key.clone(), piece.clone());
                match piece {
                    None => drop(objects.insert(key, (true, coming))),
                    Some(piece) => drop(pieces.insert((key, piece), coming)),
                }
            }
        }
        let of_trail: Vec<_> = objects.values().map(|(_, coming)| coming).chain(pieces.values()).cloned().collect();
        let objects: Objects = Arc::new(Mutex::new(objects));
        let mut tasks = JoinSet::new();
        let mut listings = HashMap::new();
        for (prefix, then) in wanted {
            let listing = listing_of((inner.clone(), prefix.clone()), then, objects.clone());
            listings.insert(prefix, listing.clone());
            let found = objects.clone();
            tasks.spawn(async move {
                listing.await;
                let under_way: Vec<_> = lock(&found).values().map(|(_, coming)| coming.clone()).collect();
                futures::future::join_all(under_way).await;
            });
        }
        // Behind the listings, which lead to more: the store may let only so many requests go at once.
        for coming in of_trail {
            tasks.spawn(async move { drop(coming.await) });
        }
        let trail = Mutex::new(Trail { store: inner.describe(), ..Trail::default() });
        Self { inner, listings: Mutex::new(listings), objects, pieces: Mutex::new(pieces), usual, trail, _tasks: tasks }
    }

    /// What was read first, so far.
    pub fn trail(&self) -> Trail {
        lock(&self.trail).clone()
    }

    fn object(&self, key: &Key) -> Option<(bool, Coming<Bytes>)> {
        lock(&self.objects).get(key).cloned()
    }
}

/// A listing, and right behind it what it leads to.
fn listing_of((store, under): (Arc<dyn Store>, String), then: Then, found: Objects) -> Coming<Page> {
    let listing = async move {
        let page = store.list(&under, None, PAGE).await.ok()?;
        let mut found = lock(&found);
        for (key, wanted, is_whole) in led_to(&page.entries, then) {
            let piece = (!is_whole).then_some(0..wanted);
            found.entry(key.clone()).or_insert_with(|| (is_whole, bytes_of(store.clone(), key, piece)));
        }
        drop(found);
        Some(page)
    };
    listing.boxed().shared()
}

/// An object, or a piece of it.
fn bytes_of(store: Arc<dyn Store>, key: Key, piece: Option<Range<u64>>) -> Coming<Bytes> {
    let bytes = async move {
        let read = match piece {
            None => store.get(&key).await,
            Some(piece) => store.get_range(&key, piece).await,
        };
        read.ok()
    };
    bytes.boxed().shared()
}

/// What will be read of the objects in a listing: how many of their bytes, and whether those are all.
fn led_to(entries: &[Entry], then: Then) -> Vec<(Key, u64, bool)> {
    let whole = |entry: &Entry| (entry.key.clone(), entry.len, true);
    let small = |entry: &&Entry| entry.len <= WHOLE_MAX;
    match then {
        Then::Last => entries.last().filter(small).map(whole).into_iter().collect(),
        Then::Nothing => Vec::new(),
        Then::All { most } => entries.iter().filter(small).take(most).map(whole).collect(),
        Then::First { beginnings } => {
            let first = entries.first().filter(small).map(whole);
            let rest = entries.iter().skip(usize::from(first.is_some())).take(beginnings);
            let beginning = |entry: &Entry| (entry.key.clone(), entry.len.min(BEGINNING), false);
            first.into_iter().chain(rest.map(beginning)).collect()
        }
    }
}

#[async_trait]
impl Store for Foreseen {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.inner.put_new(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        lock(&self.trail).note_read(key, None);
        match self.object(key) {
            Some((true, coming)) => match coming.await {
                Some(bytes) => Ok(bytes),
                None => self.inner.get(key).await,
            },
            _ => self.inner.get(key).await,
        }
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        if let Some((_, coming)) = self.object(key)
            && let Some(bytes) = coming.await
            && range.start <= range.end
            && range.end <= bytes.len() as u64
        {
            return Ok(bytes.slice(range.start as usize..range.end as usize));
        }
        lock(&self.trail).note_read(key, Some(range.clone()));
        let foreseen = lock(&self.pieces).get(&(key.clone(), range.clone())).cloned();
        if let Some(coming) = foreseen
            && let Some(bytes) = coming.await
        {
            return Ok(bytes);
        }
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let foreseen = if after.is_none() { lock(&self.listings).remove(prefix) } else { None };
        if after.is_none() && self.usual.iter().all(|usual| usual != prefix) {
            lock(&self.trail).note_listed(prefix);
        }
        if let Some(coming) = foreseen
            && let Some(page) = coming.await
        {
            return Ok(cut_to(page, limit));
        }
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        lock(&self.objects).remove(key);
        lock(&self.pieces).retain(|(of, _), _| of != key);
        self.inner.delete(key).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// As many entries as were asked for.
fn cut_to(mut page: Page, limit: usize) -> Page {
    if page.entries.len() > limit {
        page.entries.truncate(limit);
        page.next = page.entries.last().map(|entry| entry.key.clone());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::meter::Meter;
    use crate::seam::Verb;

    async fn store(names: &[&str]) -> Arc<Meter> {
        let meter = Arc::new(Meter::new(Arc::new(MemoryStore::new())));
        for name in names {
            let key = Key::parse(name).expect("legal");
            meter.put_new(&key, Bytes::from(name.repeat(1000))).await.expect("put");
        }
        meter
    }

    #[tokio::test]
    async fn what_was_foreseen_is_asked_for_once_and_what_was_not_when_it_is_wanted() {
        let names = ["ctl/conf/01", "ctl/conf/02", "data/shop/snap/01-aa", "data/shop/snap/02-bb", "data/shop/pack/cc"];
        let meter = store(&names).await;
        let foreseen = Foreseen::of_source(meter.clone(), (&"shop".parse().expect("a name"), Host::Blank));
        for prefix in ["ctl/conf/", "data/shop/snap/"] {
            let (ours, theirs) = (foreseen.list(prefix, None, 1).await, meter.list(prefix, None, 1).await);
            assert_eq!(ours.expect("listed"), theirs.expect("listed"), "{prefix}");
        }
        let before = meter.read();
        for name in ["ctl/conf/02", "data/shop/snap/01-aa"] {
            let key = Key::parse(name).expect("legal");
            assert_eq!(foreseen.get(&key).await.expect("read"), name.repeat(1000));
            assert_eq!(foreseen.get_range(&key, 5..8).await.expect("read"), name.repeat(1000)[5..8]);
        }
        let second = Key::parse("data/shop/snap/02-bb").expect("legal");
        assert_eq!(foreseen.get_range(&second, 0..BEGINNING).await.expect("read").len() as u64, BEGINNING);
        let since = meter.read().since(&before);
        assert!(since.of(Verb::Get).calls <= 2 && since.of(Verb::GetRange).calls <= 1, "{since:?}");
        let before = meter.read();
        assert_eq!(foreseen.get(&second).await.expect("read").len(), 20_000, "a beginning is not all of it");
        let pack = Key::parse("data/shop/pack/cc").expect("legal");
        assert_eq!(foreseen.get_range(&pack, 0..4).await.expect("read"), "data");
        meter.put_new(&Key::parse("ctl/conf/03").expect("legal"), Bytes::from("new")).await.expect("put");
        let again = foreseen.list("ctl/conf/", None, 10).await.expect("listed");
        assert_eq!(again.entries.len(), 3, "a listing is given out once");
        assert_eq!(meter.read().since(&before).calls(), 4);
        let none = Key::parse("ctl/conf/09").expect("legal");
        assert!(matches!(foreseen.get(&none).await, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_trail_is_gone_along_at_once_and_leads_nowhere_else() {
        let names = ["ctl/conf/01", "data/shop/snap/01-aa", "data/shop/pack/cc"];
        let (meter, source) = (store(&names).await, "shop".parse().expect("a name"));
        let [conf, snapshot, pack] = [names[0], names[1], names[2]].map(|name| Key::parse(name).expect("legal"));
        let ask = async |foreseen: &Foreseen| {
            assert_eq!(foreseen.list(&keys::mark_prefix(&source), None, 10).await.expect("listed").entries.len(), 0);
            assert_eq!(foreseen.get(&conf).await.expect("read"), names[0].repeat(1000));
            assert_eq!(foreseen.get(&snapshot).await.expect("read"), names[1].repeat(1000));
            assert_eq!(foreseen.get_range(&pack, 7..900).await.expect("read"), names[2].repeat(1000)[7..900]);
        };
        let first = Foreseen::of_source(meter.clone(), (&source, Host::Remembers(Trail::default())));
        ask(&first).await;
        let trail = first.trail();
        drop(first);
        assert_eq!((trail.listed.len(), trail.read.len()), (1, 3), "{trail:?}");
        let encoded = serde_json::to_vec(&trail).expect("written");
        let again: Trail = serde_json::from_slice(&encoded).expect("read");
        let before = meter.read();
        let second = Foreseen::of_source(meter.clone(), (&source, Host::Remembers(again)));
        while meter.read().since(&before).calls() < 8 {
            tokio::task::yield_now().await;
        }
        ask(&second).await;
        assert_eq!(meter.read().since(&before).calls(), 8, "four listings of all, and four steps of the trail");
        assert_eq!(second.trail(), trail, "what is used stays");
        // What everyone lists, and what two of those listings lead to.
        for (other, calls) in [
            (Trail { store: "another".to_owned(), ..trail.clone() }, 6),
            (Trail { listed: vec!["ctl/".to_owned(), "../".to_owned()], read: Vec::new(), ..trail.clone() }, 6),
            (Trail { read: vec![Read { name: "../x".to_owned(), piece: None }; 99], ..trail.clone() }, 7),
            (Trail { read: vec![Read { name: names[2].to_owned(), piece: Some((0, u64::MAX)) }], ..trail.clone() }, 7),
            (Trail { read: vec![Read { name: names[2].to_owned(), piece: None }], ..trail.clone() }, 7),
        ] {
            let before = meter.read();
            let foreseen = Foreseen::of_source(meter.clone(), (&source, Host::Remembers(other)));
            while meter.read().since(&before).calls() < calls {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(meter.read().since(&before).calls(), calls);
            drop(foreseen);
        }
    }
}
