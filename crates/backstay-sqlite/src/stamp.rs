//! What a writer could not leave as it was: lengths, times and counters of a database's files.
//!
//! Owns the second look at a medium that nobody should write. Two equal stamps around a read say that
//! no commit and no checkpoint came between. Takes no lock, and opens only the `-wal`, on which no lock
//! ever lies.

use crate::error::{At, SqliteError};
use crate::ffi;
use crate::open::{Database, sibling};
use backstay_model::Moment;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The fixed part of both headers that every commit changes.
const HEAD_LEN: usize = 32;

/// A file, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    pub(crate) fn of_path(path: &Path) -> Result<Option<Self>, SqliteError> {
        let found = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).at("look at", path),
        };
        Ok(Some(Self {
            device: found.dev(),
            inode: found.ino(),
            len: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it was written and changed last so long before.
    pub(crate) fn is_older_than(&self, now: Moment, millis: i64) -> bool {
        let of = |(seconds, nanos): (i64, i64)| seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
        let before = now.as_millis().saturating_sub(millis);
        of(self.modified) < before && of(self.changed) < before
    }
}

/// The main file, the log and the journal at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    files: [Option<FileStamp>; 3],
    /// The start of the main file, change counter included: a clock that stands still hides nothing.
    main_head: [u8; HEAD_LEN],
    /// The start of the log, salts included.
    log_head: Vec<u8>,
}

impl Stamp {
    pub(crate) fn take(db: &Database) -> Result<Self, SqliteError> {
        let log = sibling(&db.path, "-wal");
        let mut main_head = [0; HEAD_LEN];
        ffi::read_main(&db.conn(), 0, &mut main_head).at("read", &db.path)?;
        let mut log_head = Vec::new();
        match std::fs::File::open(&log) {
            Ok(file) => {
                file.take(HEAD_LEN as u64).read_to_end(&mut log_head).at("read", &log)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("open", &log),
        }
        let journal = sibling(&db.path, "-journal");
        let files = [FileStamp::of_path(&db.path)?, FileStamp::of_path(&log)?, FileStamp::of_path(&journal)?];
        Ok(Self { files, main_head, log_head })
    }
}
