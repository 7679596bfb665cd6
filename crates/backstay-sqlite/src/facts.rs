//! What is known about a database at one consistent state.

use crate::error::{At, SqliteError};
use crate::ffi;
use crate::stopwatch::Stopwatch;
use backstay_format::sqlite::{AutoVacuum, DatabaseHeader, TextEncoding};
use backstay_model::{ByteLen, Clock, Digest, PageSize};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Row};
use std::cell::{Cell, OnceCell};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the database makes its commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalMode {
    Wal,
    /// Any of the modes with a rollback journal, or none.
    Rollback,
    /// On a medium nobody can write: read without locks.
    ReadOnlyImage,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
}

impl FileIdentity {
    /// Of the regular file the path leads to. Nothing is opened.
    pub fn of_path(path: &Path) -> Result<Self, SqliteError> {
        let found = std::fs::metadata(path).at("look at", path)?;
        if !found.is_file() {
            return Err(SqliteError::NotAFile { path: path.to_owned() });
        }
        Ok(Self::of_metadata(&found))
    }

    pub(crate) fn of_metadata(found: &std::fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// The database at the state that is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    pub page_size: PageSize,
    pub page_count: u32,
    pub len: ByteLen,
    pub journal: JournalMode,
    /// BLAKE3 over type, name, table and SQL of every schema row, ordered.
    pub schema_digest: Digest,
    pub change_counter: u32,
    pub schema_cookie: u32,
    pub user_version: i32,
    pub application_id: i32,
    pub encoding: TextEncoding,
    pub auto_vacuum: AutoVacuum,
    pub identity: FileIdentity,
    /// With every symbolic link resolved.
    pub path: PathBuf,
}

/// The page size SQLite gives a database that has no page yet.
pub(crate) const EMPTY_PAGE_SIZE: u32 = 4096;

/// The parts of the facts that the header has; those of a file without a byte if there is none.
pub(crate) struct Shape {
    pub header: Option<DatabaseHeader>,
    pub page_size: PageSize,
    pub page_count: u32,
    pub journal: JournalMode,
}

impl Shape {
    pub(crate) fn len(&self) -> u64 {
        self.page_size.bytes() * u64::from(self.page_count)
    }

    pub(crate) fn into_facts(self, schema_digest: Digest, identity: FileIdentity, path: PathBuf) -> SourceFacts {
        let of = |field: fn(&DatabaseHeader) -> u32| self.header.as_ref().map_or(0, field);
        SourceFacts {
            page_size: self.page_size,
            page_count: self.page_count,
            len: ByteLen::new(self.len()),
            journal: self.journal,
            schema_digest,
            change_counter: of(|h| h.change_counter),
            schema_cookie: of(|h| h.schema_cookie),
            user_version: of(|h| h.user_version).cast_signed(),
            application_id: of(|h| h.application_id).cast_signed(),
            encoding: self.header.map_or(TextEncoding::Utf8, |h| h.encoding),
            auto_vacuum: self.header.map_or(AutoVacuum::None, |h| h.auto_vacuum),
            identity,
            path,
        }
    }
}

const SCHEMA_CONTEXT: &str = "backstay v1 sqlite schema digest";
const SCHEMA_ROWS: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name, tbl_name, sql";

/// A schema may be longer in no database that anybody made on purpose. A hostile one, whose tree refers
/// to one page many times over, has no end at all.
const SCHEMA_ROWS_MAX: u64 = 1_000_000;
const SCHEMA_BYTES_MAX: u64 = 1 << 30;
const SCHEMA_VALUE_MAX: i32 = 64 << 20;
/// Steps of SQLite's machine between two looks at the bounds, and all it may take: at forty for a row
/// that is read, parsed and sorted this is the bound on rows again, for what happens before we see one.
const OPS_PER_LOOK: i32 = 1000;
const LOOKS_MAX: u64 = 20_000;
/// A disk may be slow; this long is a reason to give up and none to call the database malformed.
const SCHEMA_MILLIS_MAX: u64 = 120_000;

/// Digests the schema as it is stored. Rows that this SQLite cannot parse (the module of another
/// program, a later syntax) are no reason to refuse: they are bytes to keep. A schema without an end is
/// malformed.
pub(crate) fn schema_digest(conn: &Connection, path: &Path, clock: &dyn Clock) -> Result<Digest, SqliteError> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true).at("prepare", path)?;
    let length = ffi::limit_length(conn, SCHEMA_VALUE_MAX);
    let digest = bounded_digest(conn, path, clock);
    ffi::limit_length(conn, length);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false).at("prepare", path)?;
    digest
}

fn bounded_digest(conn: &Connection, path: &Path, clock: &dyn Clock) -> Result<Digest, SqliteError> {
    // Begun at the first look: an ordinary schema is read before it, within a hold that is timed elsewhere.
    let watch = OnceCell::new();
    let looks = Cell::new(0);
    let watched = ffi::watch(conn, OPS_PER_LOOK, || {
        looks.set(looks.get() + 1);
        let over = looks.get() > LOOKS_MAX
            || watch.get_or_init(|| Stopwatch::begin(clock)).is_past(Duration::from_millis(SCHEMA_MILLIS_MAX));
        if over { ffi::Go::Stop } else { ffi::Go::On }
    });
    let digest = has_an_end(conn).and_then(|ends| if ends { digest_rows(conn).map(Some) } else { Ok(None) });
    drop(watched);
    let endless = || SqliteError::Malformed { path: path.to_owned(), reason: "its schema has no end".to_owned() };
    match digest {
        Ok(digest) => digest.ok_or_else(endless),
        Err(_) if looks.get() > LOOKS_MAX => Err(endless()),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => {
                let waited_ms = watch.get().map_or(0, Stopwatch::millis);
                Err(SqliteError::TooSlow { op: "read the schema of", path: path.to_owned(), waited_ms })
            }
            Some(ErrorCode::TooBig) => Err(endless()),
            _ => Err(error).at("read the schema of", path),
        },
    }
}

/// Walks the rows as they lie, before anything is sorted or kept.
fn has_an_end(conn: &Connection) -> rusqlite::Result<bool> {
    let mut rows = conn.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")?;
    let mut rows = rows.query([])?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..4 {
            if let ValueRef::Text(value) | ValueRef::Blob(value) = row.get_ref(column)? {
                bytes += value.len() as u64;
            }
        }
        if count > SCHEMA_ROWS_MAX || bytes > SCHEMA_BYTES_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

fn digest_rows(conn: &Connection) -> rusqlite::Result<Digest> {
    let mut hasher = blake3::Hasher::new_derive_key(SCHEMA_CONTEXT);
    let mut rows = conn.prepare(SCHEMA_ROWS)?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..4 {
            digest_value(&mut hasher, row, column)?;
        }
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// Kind, length and bytes, so that no two rows look alike.
fn digest_value(hasher: &mut blake3::Hasher, row: &Row<'_>, column: usize) -> rusqlite::Result<()> {
    let number;
    let (kind, bytes): (u8, &[u8]) = match row.get_ref(column)? {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(n) => {
            number = n.to_le_bytes();
            (1, &number)
        }
        ValueRef::Real(x) => {
            number = x.to_le_bytes();
            (2, &number)
        }
        ValueRef::Text(text) => (3, text),
        ValueRef::Blob(blob) => (4, blob),
    };
    hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    Ok(())
}
