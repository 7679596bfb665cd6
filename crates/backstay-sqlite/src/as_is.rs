//! The files of a database as they lie there, for one that SQLite cannot read.
//!
//! Owns raw streams of the main file and of the log or journal beside it. Nothing is parsed and nothing
//! is locked, so the streams belong together only if no file changed meanwhile: [`AsIs::finish`] says
//! what it knows about that. The main file is still read through a handle of SQLite, because a
//! descriptor of our own would drop the locks of other captures in this process when closed.

use crate::error::{At, SqliteError};
use crate::facts::FileIdentity;
use crate::ffi;
use crate::open::sibling;
use backstay_model::ByteLen;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What changes when somebody writes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    identity: FileIdentity,
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of_path(path: &Path) -> Result<Self, SqliteError> {
        let found = std::fs::metadata(path).at("look at", path)?;
        if !found.is_file() {
            return Err(SqliteError::NotAFile { path: path.to_owned() });
        }
        let modified = (found.mtime(), found.mtime_nsec());
        Ok(Self { identity: FileIdentity::of_metadata(&found), len: found.len(), modified })
    }
}

enum Handle {
    Main(Box<Mutex<Connection>>),
    Beside(File),
}

/// One file, read as bytes.
pub struct RawStream {
    pub name: &'static str,
    pub path: PathBuf,
    pub len: ByteLen,
    stamp: Stamp,
    handle: Handle,
}

impl RawStream {
    /// Fills `buf` from `offset`; what lies past the end is zeros.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SqliteError> {
        match &self.handle {
            Handle::Main(conn) => {
                let conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
                ffi::read_main(&conn, offset, buf).at("read", &self.path)
            }
            Handle::Beside(file) => {
                let mut got = 0;
                while let Some(rest) = buf.get_mut(got..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset + got as u64) {
                        Ok(0) => {
                            rest.fill(0);
                            break;
                        }
                        Ok(n) => got += n,
                        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e).at("read", &self.path),
                    }
                }
                Ok(())
            }
        }
    }
}

/// The files of one database.
pub struct AsIs {
    pub path: PathBuf,
    pub streams: Vec<RawStream>,
}

/// Whether the streams can belong together.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AsIsReport {
    /// Names of streams whose file changed, came or went while they were read.
    pub changed: Vec<&'static str>,
}

const BESIDE: [(&str, &str); 2] = [("wal", "-wal"), ("journal", "-journal")];

/// Opens the main file and what lies beside it. Anything that is a regular file will do.
pub fn capture_as_is(path: &Path) -> Result<AsIs, SqliteError> {
    let path = std::fs::canonicalize(path).at("find", path)?;
    let stamp = Stamp::of_path(&path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let conn = Connection::open_with_flags(&path, flags).at("open", &path)?;
    let handle = Handle::Main(Box::new(Mutex::new(conn)));
    let mut streams = vec![RawStream { name: "main", path: path.clone(), len: ByteLen::new(stamp.len), stamp, handle }];
    for (name, suffix) in BESIDE {
        let beside = sibling(&path, suffix);
        let stamp = match Stamp::of_path(&beside) {
            Ok(stamp) => stamp,
            Err(SqliteError::Missing { .. } | SqliteError::NotAFile { .. }) => continue,
            Err(error) => return Err(error),
        };
        let handle = Handle::Beside(File::open(&beside).at("open", &beside)?);
        streams.push(RawStream { name, path: beside, len: ByteLen::new(stamp.len), stamp, handle });
    }
    Ok(AsIs { path, streams })
}

impl AsIs {
    /// Looks again at every file, after the streams were read.
    pub fn finish(&self) -> AsIsReport {
        let same = |stream: &RawStream| Stamp::of_path(&stream.path).is_ok_and(|now| now == stream.stamp);
        let mut changed: Vec<&'static str> = self.streams.iter().filter(|s| !same(s)).map(|s| s.name).collect();
        for (name, suffix) in BESIDE {
            let known = self.streams.iter().any(|stream| stream.name == name);
            if !known && sibling(&self.path, suffix).try_exists().unwrap_or(true) {
                changed.push(name);
            }
        }
        AsIsReport { changed }
    }
}
