//! A store that allows what a bucket's policy would: verbs below prefixes, and nothing else.
//!
//! The three policies are those `docs/keys-and-custody.md` gives people to copy, so what runs over them
//! here runs there.

use async_trait::async_trait;
use backstay_store::{Key, Page, Put, Store, StoreError, Verb};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

const READ: [Verb; 4] = [Verb::Get, Verb::GetRange, Verb::Head, Verb::List];
const CREATE: [Verb; 5] = [Verb::PutNew, Verb::Get, Verb::GetRange, Verb::Head, Verb::List];
const ALL: [Verb; 6] = Verb::ALL;
const NOTHING: [Verb; 0] = [];

/// What is allowed below a prefix; the longest prefix of a name decides.
pub type Policy = &'static [(&'static str, &'static [Verb])];

/// Creates backups, deletes nothing, and cannot even see the wraps of the master.
pub const WRITER: Policy = &[("data/", &CREATE), ("ctl/", &READ), ("ctl/master/", &NOTHING)];
/// Deletes what is condemned, and never a configuration.
pub const KEEPER: Policy = &[("data/", &ALL), ("ctl/", &ALL), ("ctl/conf/", &READ), ("ctl/audit/", &CREATE)];
/// Reads everything, and adds nothing but marks.
pub const READER: Policy = &[("data/", &READ), ("ctl/", &READ), ("ctl/mark/", &CREATE)];
/// Whoever holds the root key: a keeper who also signs configurations.
pub const ROOT: Policy = &[("data/", &ALL), ("ctl/", &ALL), ("ctl/conf/", &CREATE), ("ctl/audit/", &CREATE)];

#[derive(Debug, thiserror::Error)]
#[error("the policy does not allow it")]
struct NotAllowed;

pub struct RoleStore {
    inner: Arc<dyn Store>,
    policy: Policy,
    refused: Mutex<BTreeMap<(&'static str, String), u64>>,
}

impl RoleStore {
    pub fn new(inner: Arc<dyn Store>, policy: Policy) -> Self {
        Self { inner, policy, refused: Mutex::default() }
    }

    /// What was asked for and refused.
    pub fn refused(&self) -> Vec<(&'static str, String)> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn ask(&self, verb: Verb, name: &str) -> Result<(), StoreError> {
        let of_it = self.policy.iter().filter(|(prefix, _)| name.starts_with(prefix));
        let verbs = of_it.max_by_key(|(prefix, _)| prefix.len()).map_or(&NOTHING[..], |(_, verbs)| verbs);
        if verbs.contains(&verb) {
            return Ok(());
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry((verb.word(), name.to_owned())).or_default() += 1;
        Err(StoreError::Denied { op: verb.word(), key: name.to_owned(), source: Box::new(NotAllowed) })
    }
}

#[async_trait]
impl Store for RoleStore {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.ask(Verb::PutNew, key.as_str())?;
        self.inner.put_new(key, bytes).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.ask(Verb::Get, key.as_str())?;
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.ask(Verb::GetRange, key.as_str())?;
        self.inner.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.ask(Verb::Head, key.as_str())?;
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.ask(Verb::List, prefix)?;
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.ask(Verb::Delete, key.as_str())?;
        self.inner.delete(key).await
    }
    fn describe(&self) -> String {
        format!("{} for one role", self.inner.describe())
    }
}
