//! The pages a log wrote after a snapshot, up to one state of it.
//!
//! The log's records are compared with the digests they were captured under, as in a restore, and the last image
//! of each page is kept in a file without a name, as long as the pages that changed. A crash leaves nothing.

use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::{At, DiskFile};
use crate::fingerprints::FingerprintFile;
use crate::log::{self, LogPoint, Onto};
use backstay_format::FingerprintKey;
use backstay_model::catalog::Snapshot;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct Overlay {
    file: File,
    folder: PathBuf,
    laid: Mutex<Laid>,
}

#[derive(Default)]
struct Laid {
    /// By the place in the database: where the newest bytes for it are, and how many.
    images: HashMap<u64, (u64, usize)>,
    end: u64,
    /// Of the database after the last commit.
    length: Option<u64>,
}

impl Overlay {
    pub(super) fn new(folder: &Path) -> Result<Self, OpsError> {
        let file = FingerprintFile::nameless(folder, "query")?;
        Ok(Self { file, folder: folder.to_owned(), laid: Mutex::default() })
    }

    pub(super) async fn fill(
        &self,
        vault: &Vault,
        point: &LogPoint,
        snapshot: (&Snapshot, &FingerprintKey),
    ) -> Result<(), OpsError> {
        log::apply(vault, point, snapshot, &Onto { file: self, path: &self.folder }).await
    }

    fn laid(&self) -> MutexGuard<'_, Laid> {
        self.laid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length of the database; `None` when no commit said one.
    pub(super) fn length(&self) -> Option<u64> {
        self.laid().length
    }

    pub(super) fn has(&self, offset: u64) -> bool {
        self.laid().images.contains_key(&offset)
    }

    /// The newest bytes that were written at a place of the database.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<bool> {
        let Some((at, len)) = self.laid().images.get(&offset).copied() else { return Ok(false) };
        if len != into.len() {
            return Err(io::Error::other("the log has an image of another length"));
        }
        self.file.read_exact_at(into, at)?;
        Ok(true)
    }

    /// The beginning of the first page, if the log wrote it.
    pub(super) fn first(&self, len: usize) -> Result<Option<Vec<u8>>, OpsError> {
        let Some((at, _)) = self.laid().images.get(&0).copied() else { return Ok(None) };
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).at("read a file in", &self.folder)?;
        Ok(Some(bytes))
    }
}

impl DiskFile for Overlay {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut laid = self.laid();
        let at = match laid.images.get(&offset) {
            Some((at, len)) if *len == bytes.len() => *at,
            _ => {
                let at = laid.end;
                laid.end += bytes.len() as u64;
                laid.images.insert(offset, (at, bytes.len()));
                at
            }
        };
        self.file.write_all_at(bytes, at)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.laid().length = Some(len);
        Ok(())
    }
    /// It is gone with the process in any case.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn give_owner_of(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn is_at(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }
    fn lock(&self) -> io::Result<()> {
        Ok(())
    }
}
