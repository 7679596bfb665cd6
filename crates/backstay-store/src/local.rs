//! A store in a local folder: one file per object.
//!
//! Owns the folder it was opened on. It must never follow a symbolic link inside it, never show an
//! object that is not whole, and never say `Created` or `Ok` before a power cut could no longer undo
//! it. A file is staged beside its place (`name#1`), synced, linked to its name, and the directory synced.
//! - Missing directories are made (0700), and once per process every directory on the way to a key is synced, because
//!   whoever made it may have been stopped before doing so.
//! - The directory is synced again when a name is already taken, for the same reason.
//! - Everything goes from open directory to open directory without following links: `object_store`, which goes by paths, would
//!   make the folder anew where it was moved away amid a put, and say that the object is there.
//!
//! A crash leaves either no object or a whole one, and perhaps a staged file, which no listing shows
//! and which `sweep_staging` removes once it is old. The folder is recognised by its device and inode:
//! if another disk is mounted over it or it is gone, every verb fails rather than seeing an empty store.
//!
//! Takes one lock, around the set of directories known to be durable, held only to look or add.

mod listing;
mod tree;

use crate::error::StoreError;
use crate::seam::{Key, OBJECT_BYTES_MAX, Page, Put, Store, Verb};
use async_trait::async_trait;
use backstay_model::Moment;
use bytes::Bytes;
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tree::{Child, Root};

/// Whether opening may make the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The folder must be there.
    Existing,
    /// The folder is made, with its parents, unless it is there.
    Create,
}

/// How old a staged file must be before it cannot belong to a put that is still going on.
///
/// Staged names are used again, so removing one in use could give its name to another's half-written
/// file just before the first is linked: far above any deadline of a put is the only safe side.
pub const STAGING_AGE_MIN_MILLIS: i64 = 24 * 3_600_000;

pub struct LocalStore {
    folder: Arc<Folder>,
}

struct Folder {
    root: Root,
    /// Directories, as key prefixes, whose own entry this process has seen synced.
    durable: Mutex<HashSet<String>>,
}

/// What a verb did not find, or found and could not use.
enum Missed {
    Absent,
    Short,
    TooLarge(u64),
    Io(io::Error),
}

impl From<io::Error> for Missed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Self::Absent,
            _ => Self::Io(error),
        }
    }
}

impl LocalStore {
    /// Opens the folder as a store. Blocks on a few system calls.
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.display().to_string(), source };
        if mode == OpenMode::Create {
            tree::create_folder(path).map_err(failed)?;
        }
        let root = Root::open(path).map_err(failed)?;
        Ok(Self { folder: Arc::new(Folder { root, durable: Mutex::default() }) })
    }

    pub fn path(&self) -> &Path {
        self.folder.root.path()
    }

    /// Names in the folder that are not the store's: other programs', links, pipes. Listings leave them
    /// out. Not more than some.
    pub async fn foreign_names(&self) -> Result<Vec<String>, StoreError> {
        self.spawn(|folder| listing::foreign(&folder.root)).await.map_err(|e| e.0)
    }

    /// Removes what unfinished puts left behind more than a day ago, and says how many files that was.
    pub async fn sweep_staging(&self, now: Moment) -> Result<u64, StoreError> {
        let before = now.as_millis().saturating_sub(STAGING_AGE_MIN_MILLIS) / 1000;
        self.blocking("sweep", "unfinished puts", move |folder| {
            tree::sweep(&folder.root.dir()?, before, tree::DEPTH_MAX)
        })
        .await
    }

    /// Runs a closure that blocks on the disk; an `io::Error` of its becomes what it means here.
    async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &str,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.spawn(move |folder| work(folder)).await.map_err(|error| StoreError::of_io(op, key, error))
    }

    async fn spawn<T, E>(&self, work: impl FnOnce(&Folder) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<io::Error> + Send + 'static,
    {
        let folder = Arc::clone(&self.folder);
        match tokio::task::spawn_blocking(move || work(&folder)).await {
            Ok(answer) => answer,
            // The runtime is shutting down; whether the work was done nobody will tell.
            Err(lost) => Err(io::Error::other(lost).into()),
        }
    }

    async fn read(&self, verb: Verb, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let wanted = range.as_ref().map_or(0, |range| range.start.max(range.end));
        let name = key.clone();
        let answer = self.spawn(move |folder| folder.read(&name, range)).await;
        let key = key.to_string();
        answer.map_err(|missed| match missed {
            Missed::Absent => StoreError::NotFound { key },
            Missed::Short => StoreError::Short { key, wanted },
            Missed::TooLarge(len) => StoreError::TooLarge { key, len },
            Missed::Io(error) => StoreError::of_io(verb.word(), &key, error),
        })
    }
}

impl Folder {
    /// Puts an object, or says that something has its name. Either way, durable.
    fn put_new(&self, key: &str, bytes: &[u8]) -> io::Result<Put> {
        let (dir, name) = match self.prepare(key)? {
            Prepared::Taken => return Ok(Put::Exists),
            Prepared::Free(dir, name) => (dir, name),
        };
        if tree::put_new(&dir, name, bytes)? {
            return Ok(Put::Created);
        }
        // The name was taken since; that is said only once its directory entry is durable.
        match self.prepare(key)? {
            Prepared::Taken => Ok(Put::Exists),
            Prepared::Free(..) => Err(io::Error::other("the name was taken and is free again")),
        }
    }

    /// Whether something has this name; if not, makes its directories. Either way, durable.
    fn prepare<'k>(&self, key: &'k str) -> io::Result<Prepared<'k>> {
        tree::refuse_illegal(key)?;
        let mut dir = self.root.dir()?;
        let mut done = 0;
        let folders = key.match_indices('/').map(|(at, _)| at);
        for at in folders {
            // The indices are those of slashes in this very string.
            let (path, name) = (&key[..at], &key[done..at]);
            let (child, made) = tree::enter_or_make(&dir, name)?;
            if made || !self.known().contains(path) {
                rustix::fs::fsync(&dir)?;
                self.known().insert(path.to_owned());
            }
            (dir, done) = (child, at + 1);
        }
        let name = &key[done..];
        match tree::kind_of(&dir, name)? {
            None => Ok(Prepared::Free(dir, name)),
            Some(Child::File) => {
                rustix::fs::fsync(&dir)?;
                Ok(Prepared::Taken)
            }
            Some(Child::Link) => Err(tree::link_refused(name)),
            Some(Child::Folder | Child::Other) => Err(tree::refused(name, "is there and is not a file")),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // The set only grows by whole entries, so a panic elsewhere cannot have spoilt it.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Missed> {
        use std::os::unix::fs::FileExt;
        let (dir, name) = self.root.dir_of(key.as_str())?;
        let (file, len) = tree::open_file(&dir, name)?;
        let range = range.unwrap_or(0..len);
        if range.start > range.end || range.end > len {
            return Err(Missed::Short);
        }
        let wanted = range.end - range.start;
        if wanted > OBJECT_BYTES_MAX {
            return Err(Missed::TooLarge(wanted));
        }
        let mut bytes = vec![0; wanted as usize];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            // Somebody is cutting the file while it is read.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Missed::Short),
            Err(error) => Err(Missed::Io(error)),
        }
    }

    fn head(&self, key: &Key) -> Result<u64, Missed> {
        let (dir, name) = self.root.dir_of(key.as_str())?;
        Ok(tree::file_facts(&dir, name)?.0)
    }

    /// Syncs even when there was nothing to remove: who removed it may have been stopped before doing so.
    fn delete(&self, key: &Key) -> Result<(), Missed> {
        let (dir, name) = self.root.dir_of(key.as_str())?;
        match tree::kind_of(&dir, name)? {
            Some(Child::File) => tree::unlink(&dir, name)?,
            Some(Child::Link) => return Err(Missed::Io(tree::link_refused(name))),
            Some(Child::Folder | Child::Other) | None => {}
        }
        rustix::fs::fsync(&dir).map_err(|error| Missed::Io(error.into()))
    }
}

enum Prepared<'k> {
    /// The directory, and the name in it.
    Free(OwnedFd, &'k str),
    Taken,
}

#[async_trait]
impl Store for LocalStore {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let len = bytes.len() as u64;
        if len > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge { key: key.to_string(), len });
        }
        let name = key.clone();
        let done = self.spawn(move |folder| folder.put_new(name.as_str(), &bytes)).await;
        done.map_err(|error| put_failed(key.as_str(), error))
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.read(Verb::Get, key, None).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.read(Verb::GetRange, key, Some(range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let name = key.clone();
        match self.spawn(move |folder| folder.head(&name)).await {
            Ok(len) => Ok(Some(len)),
            Err(Missed::Io(error)) => Err(StoreError::of_io(Verb::Head.word(), key.as_str(), error)),
            Err(Missed::Absent | Missed::Short | Missed::TooLarge(_)) => Ok(None),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.spawn(move |folder| listing::list(&folder.root, &prefix, after.as_ref(), limit)).await.map_err(|e| e.0)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let name = key.clone();
        match self.spawn(move |folder| folder.delete(&name)).await {
            Err(Missed::Io(error)) => Err(StoreError::of_io(Verb::Delete.word(), key.as_str(), error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn describe(&self) -> String {
        format!("local folder {}", self.path().display())
    }
}

/// A put that meets something in its way will meet it again: that is a refusal, not silence.
fn put_failed(key: &str, error: io::Error) -> StoreError {
    let op = Verb::PutNew.word();
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename => {
            StoreError::Denied { op, key: key.to_owned(), source: error.into() }
        }
        _ => StoreError::of_io(op, key, error),
    }
}

#[cfg(test)]
mod tests;
