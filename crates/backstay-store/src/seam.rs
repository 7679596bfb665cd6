//! The store seam: one trait, which every backend and every decorator implements.
//!
//! Objects are created once and never overwritten (F1). A `put_new` that returns `Created` has made
//! the bytes durable. A listing is in byte order of the keys and may be cut into pages; it is a hint
//! about what exists, never proof that something does not.

use crate::error::StoreError;
use async_trait::async_trait;
use backstay_model::Moment;
use bytes::Bytes;
use std::ops::Range;

/// The largest object a store takes or gives back.
///
/// A foreign object or a forged length cannot make a reader allocate more than this; a pack is an
/// eighth of it.
pub const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The longest segment of a key: a file name of 255 bytes with room for a store's own suffix.
pub const SEGMENT_BYTES_MAX: usize = 200;

/// A slash-separated name in the store. Made by `keys`, so that no caller spells one by hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Reads a name that came from a listing: segments of `[a-z0-9._+-]` between single slashes.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let legal = text.len() <= KEY_BYTES_MAX && text.split('/').all(is_segment);
        if legal { Ok(Self(text.to_owned())) } else { Err(StoreError::BadName { name: text.to_owned() }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a key may hold this between two slashes.
pub(crate) fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._+-".contains(&b);
    (1..=SEGMENT_BYTES_MAX).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(plain)
}

/// The verbs of a store, for counting, limiting and breaking them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    PutNew,
    Get,
    GetRange,
    Head,
    List,
    Delete,
}

impl Verb {
    pub const ALL: [Verb; 6] = [Verb::PutNew, Verb::Get, Verb::GetRange, Verb::Head, Verb::List, Verb::Delete];

    /// The word in messages, such as `did not answer delete data/shop/pack/…`.
    pub const fn word(self) -> &'static str {
        match self {
            Verb::PutNew => "put",
            Verb::Get => "get",
            Verb::GetRange => "get range of",
            Verb::Head => "head",
            Verb::List => "list",
            Verb::Delete => "delete",
        }
    }
}

/// What became of a `put_new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is there, durable, with these bytes.
    Created,
    /// An object of this name was there before. Whose it is, the caller must find out.
    Exists,
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub len: u64,
    /// When the object was created, by the store's clock, to the second or finer. It is the same in every
    /// listing. Ages are told by it, since no other clock is the same for all who use a store.
    pub modified: Moment,
}

/// One page of a listing, and where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Pass it as `after` to go on; `None` when this was the last page.
    pub next: Option<Key>,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates an object unless one of that name exists. Never overwrites.
    ///
    /// Any error leaves open whether the object is there now. `Exists` says that an object of this
    /// name is durable, not whose it is: after an error it may well be the caller's own.
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError>;
    /// The whole object; `StoreError::NotFound` when there is none.
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError>;
    /// Exactly these bytes; a range past the end is `StoreError::Short`.
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError>;
    /// The length of an object; `None` when there is none.
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError>;
    /// Up to `limit` entries (at least one) whose key begins with `prefix`, after `after`, in byte order.
    ///
    /// The prefix is a string, not a folder: `a/b` lists `a/bc` too.
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError>;
    /// Removes an object durably. Removing what is not there is success.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;
    /// The name for messages, such as `local folder /srv/vault`. Never holds a secret.
    fn describe(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::{Kind, Kinded};
    use proptest::prelude::*;

    #[test]
    fn keys_are_plain_segments_between_single_slashes() {
        let longest = format!("{0}/{0}/{1}", "a".repeat(200), "b".repeat(110));
        assert_eq!(longest.len(), KEY_BYTES_MAX);
        for good in ["a", "ctl/conf/0000000000000001", "data/shop/snap/ff-0a.1", "a/...", "x+y_z/.hidden", &longest] {
            assert_eq!(Key::parse(good).map(|k| k.to_string()).ok(), Some(good.to_owned()));
        }
        let long_segment = "a".repeat(SEGMENT_BYTES_MAX + 1);
        let long_key = format!("{longest}b");
        let bad =
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "A", "a b", "a#1", "a\0", "a\\b", "é", "a%2fb"];
        for bad in bad.into_iter().chain([long_segment.as_str(), long_key.as_str()]) {
            let error = Key::parse(bad).expect_err(bad);
            assert_eq!(error.kind(), Kind::Corrupt, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_key_never_leaves_its_folder(text in "[a-c./]{0,12}") {
            if let Ok(key) = Key::parse(&text) {
                prop_assert_eq!(key.as_str(), &text);
                let path = std::path::Path::new(&text);
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(path.components().count(), text.split('/').count());
            }
        }
    }
}
