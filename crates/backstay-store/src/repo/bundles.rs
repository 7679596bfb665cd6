//! Bundles: fronts and marks that were put long ago, in one object, for a host that has read none of them.
//!
//! A bundle vouches for nothing and nothing is decided by it. Listings alone say what exists; what a bundle brings of that is
//! verified as if it had been read under its own name, and what it does not bring is asked for.

use super::marks::side_by_side;
use super::{RepoError, Repository};
use crate::keys::{self, BundleName, Place};
use crate::remember::Remembered;
use crate::seam::Key;
use backstay_format::{Header, bundle, layout, object};
use backstay_model::{Moment, Sequence, SourceName};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A bundle as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEntry {
    pub name: BundleName,
    pub len: u64,
    /// When the store got it.
    pub stored: Moment,
}

/// What is put into a bundle, by name.
#[derive(Debug, Default)]
pub struct Bundled {
    items: BTreeMap<Key, Bytes>,
    bytes: usize,
}

impl Bundled {
    /// Whether there was room for it.
    pub fn add(&mut self, key: Key, bytes: Bytes) -> bool {
        let len = layout::item::LEN + key.as_str().len() + bytes.len();
        let fits = self.bytes + len <= layout::BUNDLE_MAX;
        if fits && self.items.insert(key, bytes).is_none() {
            self.bytes += len;
        }
        fits
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn encode(&self) -> Vec<u8> {
        bundle::encode(self.items.iter().map(|(key, bytes)| bundle::Item { name: key.as_str(), bytes }))
    }
}

impl Repository {
    /// The bundles of a source, newest first.
    pub async fn bundles(&self, source: &SourceName) -> Result<Vec<BundleEntry>, RepoError> {
        let entries = self.list(&keys::bundle_prefix(source)).await?;
        let named = |entry: &crate::Entry| {
            let name = BundleName::parse(source, &entry.key)?;
            Some(BundleEntry { name, len: entry.len, stored: entry.modified })
        };
        Ok(entries.iter().filter_map(named).collect())
    }

    /// Reads a bundle and offers what is in it of a source, and is wanted, to a memory. One that is not what its name says
    /// brings nothing.
    pub async fn unpack(
        &self,
        entry: &BundleEntry,
        is_wanted: impl Fn(&Key) -> bool,
        into: &Remembered,
    ) -> Result<(), RepoError> {
        let (key, bytes) = self.bundle(entry).await?;
        for item in bundle::parse(&bytes).map_err(|error| RepoError::damaged(&key, error))? {
            let Ok(of) = Key::parse(item.name) else { continue };
            let is_of_source = match Place::of(&of) {
                Place::Snapshot(name) => name.source == entry.name.source,
                Place::Mark(source, _) => source == entry.name.source,
                _ => false,
            };
            if is_of_source && is_wanted(&of) {
                // A piece of it alone, and not the whole bundle, stays in memory.
                into.offer(of, Bytes::copy_from_slice(item.bytes));
            }
        }
        Ok(())
    }

    /// A bundle for whoever hands it on as it is: refused unless all that is in it is what was signed under its name.
    pub async fn verified_bundle(&self, entry: &BundleEntry) -> Result<Bytes, RepoError> {
        let (key, bytes) = self.bundle(entry).await?;
        let items = bundle::parse(&bytes).map_err(|error| RepoError::damaged(&key, error))?;
        let verified = side_by_side(items, |item| self.verify_item(&key, entry, item));
        verified.into_iter().collect::<Result<(), _>>().map(|()| bytes)
    }

    fn verify_item(&self, key: &Key, of: &BundleEntry, item: bundle::Item<'_>) -> Result<(), RepoError> {
        let wrong = || RepoError::misplaced(key, "it holds something else than fronts and marks of its snapshots");
        let name = Key::parse(item.name).map_err(|_| wrong())?;
        match Place::of(&name) {
            Place::Snapshot(snapshot) if snapshot.source == of.name.source && of.name.spans(snapshot.sequence) => {
                let front = Header::parse(item.bytes).map_err(|error| RepoError::damaged(&name, error))?;
                self.parse_front(&snapshot, item.bytes)?;
                if front.front_len() == item.bytes.len() { Ok(()) } else { Err(wrong()) }
            }
            Place::Mark(source, mark) if source == of.name.source => {
                self.parse_mark(&source, (&name, &Bytes::copy_from_slice(item.bytes)), mark).map(drop)
            }
            _ => Err(wrong()),
        }
    }

    async fn bundle(&self, entry: &BundleEntry) -> Result<(Key, Bytes), RepoError> {
        let key = entry.name.key();
        if entry.len > layout::BUNDLE_MAX as u64 {
            return Err(RepoError::misplaced(&key, "it is longer than a bundle may be"));
        }
        let bytes = self.store().get_range(&key, 0..entry.len).await?;
        if object::digest(&bytes) != entry.name.digest {
            return Err(RepoError::misplaced(&key, "its bytes are not those its name says"));
        }
        Ok((key, bytes))
    }

    /// Puts a bundle. The same one made twice is one object.
    pub async fn put_bundle(
        &self,
        source: &SourceName,
        (first, last): (Sequence, Sequence),
        (noticed, of): (u64, &Bundled),
    ) -> Result<(), RepoError> {
        let bytes = Bytes::from(of.encode());
        let name = BundleName { source: source.clone(), first, last, noticed, digest: object::digest(&bytes) };
        self.put_fresh(&name.key(), bytes).await
    }
}
