//! The repository: created once, opened against a pinned root, read with its signatures verified.
//!
//! Nothing read from the store is believed before it was verified: the newest configuration is
//! signed by the pinned root and is no older than one already seen; every record and manifest is
//! signed by a signer that this configuration enrols for it, lies under the name it was made for,
//! and belongs to this repository. What a `Repository` hands out has passed all of that.
//!
//! Writing only ever creates. A crash between two writes leaves objects nobody refers to; they cost
//! space until a prune, and nothing else.

mod bundles;
mod conf;
mod error;
mod keeper;
mod log;
mod manifest;
mod marks;
mod masters;
mod reader;
mod records;
mod verbatim;

pub use bundles::{BundleEntry, Bundled};
pub use error::RepoError;
pub use keeper::{LeaseDraft, LeaseSlot, PruneHead};
pub use log::{LogDraft, LogFront, LogIndex, LogObject, LogSigning, name_of};
pub use manifest::{Draft, Fronts, Listed, Manifest, ManifestFront, Read, Rewrite, Rewriting, Root, SealedBody};
pub use marks::{KnownMarks, MarkFault, MarkNames, Marks};
pub use masters::{NewWrap, Unlocked};
pub use reader::{Directory, LeafAt, SealedAgain, SnapshotReader, Step, unit_size};
pub use records::{Chain, Record, Signing};

use crate::StoreError;
use crate::keys;
use crate::seal::{Master, Sealer};
use crate::seam::{Entry, Key, Page, Put, Store, Verb};
use crate::signing::SigningKey;
use backstay_format::facts::{Conf, Role};
use backstay_format::{ObjectType, facts};
use backstay_model::lock::ObjectLock;
use backstay_model::{Digest, ObjectId, Random, RepoId, SignerKey, seams};
use bytes::Bytes;
use std::sync::Arc;

/// Keys asked for in one page of a listing.
const PAGE: usize = 1000;
/// The longest listing that is read to its end; a store that goes on for ever must not take all memory.
const LISTED_MAX: usize = 4 << 20;

/// The newest configuration a host has seen; an older one served later is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SeenConf {
    pub generation: u64,
    pub digest: Digest,
}

/// A configuration this host verified and kept, and why the store's own does not do.
pub struct KeptConf {
    pub bytes: Bytes,
    pub seen: SeenConf,
    pub why: RepoError,
}

/// An open repository: its newest configuration is verified.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    id: RepoId,
    root: SignerKey,
    conf: Arc<Conf>,
    seen: SeenConf,
    conf_bytes: Bytes,
    /// Why the store's own configuration could not be used, when this host's kept one is.
    conf_fault: Option<Arc<RepoError>>,
    master: Master,
    /// What the newest configuration asks of whoever writes, and this program does not know.
    unknown_to_writers: u32,
    /// What this host was told of the store's object lock.
    lock: Option<ObjectLock>,
    /// The same of the stores that copies of it are in.
    locks_of_copies: Vec<ObjectLock>,
}

/// What a new repository is made of.
pub struct NewRepository<'a> {
    pub id: RepoId,
    pub root: &'a SigningKey,
    pub conf: Conf,
}

impl Repository {
    /// Writes the first configuration. Refuses a store that already has one.
    pub async fn create(store: Arc<dyn Store>, new: NewRepository<'_>) -> Result<Self, RepoError> {
        let there = store.list(keys::CONF_PREFIX, None, 1).await?;
        if !there.entries.is_empty() {
            return Err(RepoError::AlreadyThere { store: store.describe() });
        }
        let record = records::Draft {
            kind: ObjectType::Conf,
            repo: new.id,
            object: ObjectId::from_bytes(*new.id.as_bytes()),
            chain: Chain::START,
            facts: facts::encode(&new.conf),
        };
        let bytes = record.sign(new.root);
        let key = keys::conf(new.conf.generation);
        match store.put_new(&key, bytes).await? {
            Put::Created => Self::open(store, new.root.public(), None).await,
            Put::Exists => Err(RepoError::AlreadyThere { store: store.describe() }),
        }
    }

    /// Finds and verifies the newest configuration.
    pub async fn open(store: Arc<dyn Store>, root: SignerKey, seen: Option<SeenConf>) -> Result<Self, RepoError> {
        let Some((generation, key)) = newest_conf(store.as_ref()).await? else {
            return Err(RepoError::NotARepository { store: store.describe() });
        };
        let bytes = store.get(&key).await?;
        Self::with_conf(store, root, seen, (generation, &key, bytes))
    }

    /// Opens with the very bytes of the newest configuration that this host has verified and kept, where the
    /// store's copy of that same generation is damaged, cannot be read or is gone. Never in the place of
    /// another one, nor for a store that holds nothing: an empty folder under a mount point is no repository.
    pub async fn open_kept(store: Arc<dyn Store>, root: SignerKey, kept: KeptConf) -> Result<Self, RepoError> {
        let key = keys::conf(kept.seen.generation);
        let replaceable = match newest_conf(store.as_ref()).await? {
            Some((generation, _)) => generation == kept.seen.generation,
            None => !store.list(keys::SOURCES_PREFIX, None, 1).await?.entries.is_empty(),
        };
        if !replaceable {
            return Err(kept.why);
        }
        match Self::with_conf(store, root, Some(kept.seen), (kept.seen.generation, &key, kept.bytes)) {
            Ok(open) => Ok(Self { conf_fault: Some(Arc::new(kept.why)), ..open }),
            // What was kept is no better: the store's own fault is the one to tell.
            Err(_) => Err(kept.why),
        }
    }

    /// Puts the kept configuration after an older one that the store shows, if it follows that one; the store has
    /// lost it. Its slot must be free.
    pub async fn put_conf_after(store: Arc<dyn Store>, root: SignerKey, kept: KeptConf) -> Result<Self, RepoError> {
        let key = keys::conf(kept.seen.generation);
        let older = Self::open(store.clone(), root, None).await?;
        let record = records::Record::<Conf>::parse(&key, &kept.bytes, ObjectType::Conf)?;
        let opened = Self::with_conf(store, root, Some(kept.seen), (kept.seen.generation, &key, kept.bytes))?;
        let follows = older.seen.generation.checked_add(1) == Some(kept.seen.generation)
            && (record.repo, record.chain.previous) == (older.id, older.seen.digest);
        if !follows {
            return Err(kept.why);
        }
        opened.put_conf_back().await?;
        Ok(opened)
    }

    /// Whether these bytes are a configuration that this root signed.
    pub fn is_conf_of(bytes: &[u8], root: SignerKey) -> bool {
        let record = records::Record::<Conf>::parse(&keys::conf(0), bytes, ObjectType::Conf);
        record.is_ok_and(|record| record.signer == root)
    }

    fn with_conf(
        store: Arc<dyn Store>,
        root: SignerKey,
        seen: Option<SeenConf>,
        (generation, key, bytes): (u64, &Key, Bytes),
    ) -> Result<Self, RepoError> {
        let record = records::Record::<Conf>::parse(key, &bytes, ObjectType::Conf)?;
        if record.signer != root {
            return Err(RepoError::OtherRoot { key: key.to_string(), pinned: root, found: record.signer });
        }
        if record.facts.generation != generation || generation.checked_add(1) != Some(record.chain.sequence.get()) {
            return Err(RepoError::misplaced(key, "its generation is not the one its name says"));
        }
        let found = SeenConf { generation, digest: record.digest };
        check_not_older(seen, found)?;
        let master = Master::parse(&record.facts.master).map_err(|e| RepoError::sealed(key, e))?;
        let (seen, locks_of_copies) = (found, Vec::new());
        let unknown_to_writers = record.read_compatible;
        let (id, conf, conf_bytes) = (record.repo, Arc::new(record.facts), bytes);
        Ok(Self {
            unknown_to_writers,
            store,
            id,
            root,
            conf,
            seen,
            conf_bytes,
            conf_fault: None,
            master,
            lock: None,
            locks_of_copies,
        })
    }

    /// Refuses it if its configuration is older than one this host has seen of it.
    pub fn not_older_than(self, seen: SeenConf) -> Result<Self, RepoError> {
        check_not_older(Some(seen), self.seen)?;
        Ok(self)
    }

    /// The same, in a store that refuses to delete for a while.
    pub fn with_lock(self, lock: Option<ObjectLock>) -> Self {
        Self { lock, ..self }
    }

    /// The same, copied into stores that refuse to delete for a while.
    pub fn with_locks_of_copies(self, locks_of_copies: Vec<ObjectLock>) -> Self {
        Self { locks_of_copies, ..self }
    }

    /// With what this host was told of another opening of it.
    pub fn told_like(self, other: &Self) -> Self {
        self.with_lock(other.lock).with_locks_of_copies(other.locks_of_copies.clone())
    }

    /// Every lock that a snapshot is to be safe under, here and in copies. What is copied is put there later than here, so
    /// that counting from here errs on the safe side.
    pub fn locks(&self) -> impl Iterator<Item = ObjectLock> {
        self.lock.into_iter().chain(self.locks_of_copies.iter().copied())
    }

    /// The same, reached through another store that stands before this one.
    pub fn through(&self, store: Arc<dyn Store>) -> Self {
        Self { store, ..self.clone() }
    }

    pub fn lock(&self) -> Option<ObjectLock> {
        self.lock
    }

    pub fn id(&self) -> RepoId {
        self.id
    }
    pub fn root(&self) -> SignerKey {
        self.root
    }
    pub fn conf(&self) -> &Conf {
        &self.conf
    }
    pub fn master(&self) -> &Master {
        &self.master
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    /// What the host must remember, so that an older configuration is noticed.
    pub fn seen(&self) -> SeenConf {
        self.seen
    }
    /// The verified configuration as it is stored, for a host to keep.
    pub fn conf_bytes(&self) -> &Bytes {
        &self.conf_bytes
    }
    /// What is wrong with the store's own configuration, when it was opened with a kept one.
    pub fn conf_fault(&self) -> Option<&RepoError> {
        self.conf_fault.as_deref()
    }
    /// Puts a configuration that is missing back into its slot, byte for byte. One that stands there damaged
    /// cannot be replaced: the slot is taken.
    pub async fn put_conf_back(&self) -> Result<(), RepoError> {
        self.put_slot(&keys::conf(self.seen.generation), self.conf_bytes.clone()).await
    }
    /// Whether anyone who reads the repository can read the data.
    pub fn is_unsealed(&self) -> bool {
        self.conf.published_identity.is_some()
    }

    /// Whether the configuration enrols this signer for this role now.
    pub fn allows(&self, signer: &SignerKey, role: Role) -> bool {
        self.conf.allows(signer, &[role])
    }

    /// Refuses to write where a newer program keeps something this one would break.
    fn may_write(&self) -> Result<(), RepoError> {
        match self.unknown_to_writers {
            0 => Ok(()),
            bits => Err(RepoError::NewerWriters { bits }),
        }
    }

    /// A sealer with a fresh data key. One per run.
    pub fn sealer(&self, random: &dyn Random) -> Sealer {
        Sealer::new(self.id, &self.master, random)
    }

    /// A fresh object id.
    pub fn fresh_id(&self, random: &dyn Random) -> ObjectId {
        ObjectId::from_bytes(seams::fresh(random))
    }

    /// Puts an object whose name holds a fresh random id: one that is there already is our own.
    pub async fn put_fresh(&self, key: &Key, bytes: Bytes) -> Result<(), RepoError> {
        self.may_write()?;
        let len = bytes.len() as u64;
        match self.store.put_new(key, bytes).await? {
            Put::Created => Ok(()),
            Put::Exists => match self.store.head(key).await? {
                Some(found) if found == len => Ok(()),
                _ => Err(RepoError::misplaced(key, "another object lies under a name that was never used")),
            },
        }
    }

    /// Puts an object into a dense slot: an equal one there is ours, any other means a lost race.
    pub async fn put_slot(&self, key: &Key, bytes: Bytes) -> Result<(), RepoError> {
        self.may_write()?;
        if !self.conf.store.conditional_put {
            return self.put_slot_unguarded(key, bytes).await;
        }
        match self.store.put_new(key, bytes.clone()).await? {
            Put::Created => Ok(()),
            Put::Exists => self.expect_ours(key, &bytes).await,
        }
    }

    /// For a store that overwrites. Looking before keeps what is there; looking after finds a writer who came
    /// between. One who comes later still than that is not found here: there, one writer is the rule.
    async fn put_slot_unguarded(&self, key: &Key, bytes: Bytes) -> Result<(), RepoError> {
        match self.store.get(key).await {
            Ok(found) if found == bytes => return Ok(()),
            Ok(_) => return Err(RepoError::LostRace { key: key.to_string() }),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.store.put_new(key, bytes.clone()).await?;
        self.expect_ours(key, &bytes).await
    }

    async fn expect_ours(&self, key: &Key, bytes: &Bytes) -> Result<(), RepoError> {
        if self.store.get(key).await? == *bytes { Ok(()) } else { Err(RepoError::LostRace { key: key.to_string() }) }
    }

    /// One page of a listing that was asked for and moves forward.
    async fn list_page(&self, prefix: &str, after: Option<&Key>, most: usize) -> Result<Page, RepoError> {
        Ok(list_page(self.store.as_ref(), prefix, after, most).await?)
    }

    /// Every entry below a prefix.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RepoError> {
        Ok(list_all(self.store.as_ref(), prefix).await?)
    }
}

async fn newest_conf(store: &dyn Store) -> Result<Option<(u64, Key)>, StoreError> {
    let slots = list_all(store, keys::CONF_PREFIX).await?;
    Ok(slots.into_iter().filter_map(|e| Some((keys::slot_number(&e.key)?, e.key))).max())
}

async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = list_page(store, prefix, after.as_ref(), PAGE).await?;
        entries.extend(page.entries);
        match page.next {
            Some(_) if entries.len() >= LISTED_MAX => return Err(senseless(prefix, "it does not end")),
            Some(next) => after = Some(next),
            None => return Ok(entries),
        }
    }
}

/// One page of a listing that makes sense. One that repeats itself would never end, or would hide
/// what it has no room for; it is no answer.
async fn list_page(store: &dyn Store, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
    let page = store.list(prefix, after, limit).await?;
    let keys = page.entries.iter().map(|entry| &entry.key);
    if !after.into_iter().chain(keys.clone()).is_sorted_by(|a, b| a < b) {
        return Err(senseless(prefix, "it goes back to what it has shown"));
    }
    if keys.clone().any(|key| !key.as_str().starts_with(prefix)) {
        return Err(senseless(prefix, "it shows names that were not asked for"));
    }
    // The keys are past `after`, so to go on after the last of them, or after more, is to move forward.
    let forward = |next: &Key| after.is_none_or(|after| next > after) && keys.max().is_none_or(|last| next >= last);
    match &page.next {
        Some(next) if !forward(next) => Err(senseless(prefix, "it does not move forward")),
        _ => Ok(page),
    }
}

fn senseless(prefix: &str, what: &'static str) -> StoreError {
    StoreError::Unknown { op: Verb::List.word(), key: prefix.to_owned(), source: what.into() }
}

fn check_not_older(seen: Option<SeenConf>, found: SeenConf) -> Result<(), RepoError> {
    let Some(seen) = seen else { return Ok(()) };
    let older = found.generation < seen.generation;
    let other = found.generation == seen.generation && found.digest != seen.digest;
    if older || other {
        return Err(RepoError::RolledBack { what: "configuration", seen: seen.generation, found: found.generation });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
