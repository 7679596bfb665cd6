//! Where a replica's files are: in a folder, or in a bucket, where they are read in pieces as they are needed.
//!
//! Litestream names the folders of its levels `ltx/0` in a folder and `0000` in a bucket; both are looked for in both,
//! as one may have been made of the other by copying.

use crate::OpsError;
use crate::disk::At;
use backstay_format::ltx::{HEADER, LtxError, parse_name};
use backstay_model::litestream::LtxFile;
use backstay_store::{Key, Store, StoreError};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Where a replica keeps its files, and a replica of the releases before 0.5.
const FILES: &str = "ltx";
const OLD: &str = "generations";
const LEVEL_MAX: u8 = 9;
/// Bytes of a file that are fetched with one request.
const PIECE: u64 = 8 << 20;
/// Requests for beginnings of files at once.
const AT_ONCE: usize = 16;
/// Names asked for in one page of a listing.
const PAGE: usize = 1000;

#[derive(Clone)]
pub enum Replica {
    /// A folder with the folders of the levels, or with the folder `ltx` that has them.
    Folder(PathBuf),
    /// Everything below the prefix that the store stands for. What reads it must be inside the runtime of the store, and may block.
    Bucket(Arc<dyn Store>),
}

impl std::fmt::Display for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Replica::Folder(path) => path.display().fmt(f),
            Replica::Bucket(store) => f.write_str(&store.describe()),
        }
    }
}

/// One file of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub file: LtxFile,
    /// For people.
    pub shown: PathBuf,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Where it is shown to be.
    File,
    Object {
        key: Key,
        len: u64,
    },
}

impl Replica {
    /// The files by their names. What Litestream has not finished has another name.
    pub(super) fn list(&self) -> Result<Vec<Found>, OpsError> {
        let found = match self {
            Replica::Folder(folder) => in_folder(folder)?,
            Replica::Bucket(store) => Handle::current().block_on(in_bucket(store))?,
        };
        if found.is_empty() { Err(self.is_none()) } else { Ok(found) }
    }

    pub(super) fn is_none(&self) -> OpsError {
        match self {
            Replica::Folder(path) => OpsError::NotAReplica { path: path.clone(), is_old: path.join(OLD).is_dir() },
            Replica::Bucket(store) => OpsError::NotAReplica { path: store.describe().into(), is_old: false },
        }
    }

    pub(super) fn open(&self, found: &Found) -> Result<Source, OpsError> {
        Ok(match (self, &found.place) {
            (Replica::Bucket(store), Place::Object { key, len }) => {
                let (store, key) = (store.clone(), key.clone());
                Source::Object(Fetched { store, key, len: *len, at: 0, held: Bytes::new() })
            }
            _ => Source::File(BufReader::new(File::open(&found.shown).at("open", &found.shown)?)),
        })
    }

    /// As much of a file as has its header, or all of a shorter one.
    pub(super) fn beginning(&self, found: &Found) -> Result<Vec<u8>, OpsError> {
        Ok(self.beginnings(std::slice::from_ref(found))?.pop().unwrap_or_default())
    }

    /// The same of many, in their order.
    pub(super) fn beginnings(&self, all: &[Found]) -> Result<Vec<Vec<u8>>, OpsError> {
        let Replica::Bucket(store) = self else { return all.iter().map(|found| front_of(&found.shown)).collect() };
        let reads = all.iter().map(|found| async {
            let Place::Object { key, len } = &found.place else { return Ok(Bytes::new()) };
            store.get_range(key, 0..(*len).min(HEADER as u64)).await
        });
        let read: Vec<Result<Bytes, StoreError>> =
            Handle::current().block_on(stream::iter(reads).buffered(AT_ONCE).collect());
        read.into_iter().map(|bytes| Ok(bytes?.to_vec())).collect()
    }
}

fn front_of(path: &Path) -> Result<Vec<u8>, OpsError> {
    let mut bytes = Vec::with_capacity(HEADER);
    let read = File::open(path).and_then(|file| file.take(HEADER as u64).read_to_end(&mut bytes));
    read.at("read", path)?;
    Ok(bytes)
}

/// The folders that a level may have, below the replica.
fn folders_of(level: u8) -> [String; 2] {
    [format!("{FILES}/{level}"), format!("{level:04x}")]
}

fn in_folder(replica: &Path) -> Result<Vec<Found>, OpsError> {
    let mut found = Vec::new();
    for level in 0..=LEVEL_MAX {
        // The folder `ltx` itself may have been named.
        let folders = folders_of(level).into_iter().chain([level.to_string()]).map(|folder| replica.join(folder));
        for folder in folders.filter(|folder| folder.is_dir()) {
            for entry in std::fs::read_dir(&folder).at("look into", &folder)? {
                let shown = entry.at("look into", &folder)?.path();
                let name = shown.file_name().and_then(|name| name.to_str());
                if let Some((min, max)) = name.and_then(parse_name) {
                    found.push(Found { file: LtxFile { level, min, max }, shown, place: Place::File });
                }
            }
        }
    }
    Ok(found)
}

async fn in_bucket(store: &Arc<dyn Store>) -> Result<Vec<Found>, OpsError> {
    let folders = (0..=LEVEL_MAX).flat_map(|level| folders_of(level).map(|folder| (level, folder)));
    let listings = folders.map(|(level, folder)| in_folder_of_bucket(store, level, format!("{folder}/")));
    let listed: Vec<_> = stream::iter(listings).buffered(AT_ONCE).collect().await;
    let mut found = Vec::new();
    for listing in listed {
        found.extend(listing?);
    }
    Ok(found)
}

async fn in_folder_of_bucket(store: &Arc<dyn Store>, level: u8, prefix: String) -> Result<Vec<Found>, OpsError> {
    let (mut found, mut after): (Vec<Found>, Option<Key>) = (Vec::new(), None);
    loop {
        let page = store.list(&prefix, after.as_ref(), PAGE).await?;
        for entry in page.entries {
            let Some((min, max)) = entry.key.as_str().strip_prefix(&prefix).and_then(parse_name) else { continue };
            let shown = PathBuf::from(format!("{}/{}", store.describe(), entry.key));
            let place = Place::Object { key: entry.key, len: entry.len };
            found.push(Found { file: LtxFile { level, min, max }, shown, place });
        }
        match page.next {
            // A listing that does not move on would never end.
            Some(next) if after.as_ref().is_none_or(|after| next > *after) => after = Some(next),
            _ => return Ok(found),
        }
    }
}

/// A file on its way to whoever reads it.
pub(super) enum Source {
    File(BufReader<File>),
    Object(Fetched),
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::File(file) => file.read(into),
            Source::Object(fetched) => fetched.read(into),
        }
    }
}

/// An object, piece by piece.
pub(super) struct Fetched {
    store: Arc<dyn Store>,
    key: Key,
    len: u64,
    at: u64,
    held: Bytes,
}

impl Read for Fetched {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() && self.at < self.len {
            let end = self.len.min(self.at + PIECE);
            let fetched = Handle::current().block_on(self.store.get_range(&self.key, self.at..end));
            (self.held, self.at) = (fetched.map_err(io::Error::other)?, end);
        }
        let count = self.held.len().min(into.len());
        self.held.copy_to_slice(into.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

/// What went wrong with the store, and not with the file.
pub(super) fn of_store(error: LtxError) -> Result<StoreError, LtxError> {
    match error {
        LtxError::Io(error) => error.downcast::<StoreError>().map_err(LtxError::Io),
        other => Err(other),
    }
}
