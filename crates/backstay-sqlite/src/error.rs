//! Why a database could not be captured, questioned or taken.

use backstay_format::sqlite::{HeaderError, WalError};
use backstay_model::{ByteLen, Kind, Kinded};
use std::io;
use std::path::{Path, PathBuf};

/// How the proof of one consistent state failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinLoss {
    /// The log was begun anew while pages were read from it.
    LogRestarted,
    /// The log on disk is not the one the read transaction sees.
    LogReplaced,
    /// A checkpoint went past a read mark that should have stopped it.
    MarkIgnored,
    /// The page size is not what it was at the start.
    PageSizeChanged,
    /// A file on a medium that nobody can write was written.
    MediumWritten,
}

impl std::fmt::Display for PinLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PinLoss::LogRestarted => "its write-ahead log was restarted",
            PinLoss::LogReplaced => "its write-ahead log was replaced",
            PinLoss::MarkIgnored => "a checkpoint went past our read mark",
            PinLoss::PageSizeChanged => "its page size changed",
            PinLoss::MediumWritten => "its read-only medium was written meanwhile",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    #[error(
        "the linked SQLite {version} cannot be used: 3.51.3 or later with snapshots is needed (snapshots: {snapshots})"
    )]
    Engine { version: String, snapshots: bool },
    #[error("{path} does not exist")]
    Missing { path: PathBuf },
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{op} {path}: permission denied")]
    Denied { op: &'static str, path: PathBuf },
    #[error("{path} is not a SQLite database")]
    NotADatabase {
        path: PathBuf,
        #[source]
        header: HeaderError,
    },
    #[error("{path} is not a SQLite database, or encrypted by another tool")]
    Encrypted { path: PathBuf },
    #[error("{path} is malformed: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path} stayed locked for {waited_ms} ms{}", held_by(.holders))]
    Locked { path: PathBuf, waited_ms: u64, holders: Vec<crate::holders::Holder> },
    #[error("{path} has a journal to roll back and cannot be written")]
    HotJournal { path: PathBuf },
    #[error(
        "{path} is in WAL mode and lies on a read-only mount of a file system that others may write; SQLite cannot make its -shm there"
    )]
    ReadOnlyMount { path: PathBuf },
    #[error("{op} {path}: stopped after {waited_ms} ms")]
    TooSlow { op: &'static str, path: PathBuf, waited_ms: u64 },
    #[error("the write-ahead log of {path} grew by {grown} while it was read; {limit} is allowed")]
    LogGrew { path: PathBuf, grown: ByteLen, limit: ByteLen },
    #[error("{path} is not in WAL mode")]
    NotWal { path: PathBuf },
    #[error("{path} cannot become the other state while it is open: its {what} would change")]
    Unlike { path: PathBuf, what: &'static str },
    #[error("somebody else wrote to {path}")]
    WrittenByOthers { path: PathBuf },
    #[error("{path} was moved or replaced by another file meanwhile")]
    Replaced { path: PathBuf },
    #[error("{path} could not be held still: {why}")]
    PinLost { path: PathBuf, why: PinLoss },
    #[error("read the write-ahead log of {path}")]
    Wal {
        path: PathBuf,
        #[source]
        source: WalError,
    },
    #[error("{op} {path}")]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read back the fingerprints of the first pass")]
    Seen(#[source] io::Error),
    #[error("SQLite stopped with an I/O error (code {code}) and gave no rows: {fault}")]
    Page {
        code: i32,
        #[source]
        fault: crate::lazy::PageFault,
    },
    #[error("this is no single statement that reads")]
    NoQuestion,
    #[error("{message} (SQLite code {code})")]
    Query { code: i32, message: String },
    #[error("there is no table {table:?} at that moment")]
    NoTable { table: String },
    #[error("the name {table:?} is taken in the living database")]
    TableTaken { table: String },
    #[error("the table {table:?} has another shape today{}", lacks(.columns))]
    TableDiffers { table: String, columns: Vec<String> },
    #[error("the table {table:?} tells its rows apart otherwise today: by {today}, and by {then} then")]
    KeyDiffers { table: String, today: String, then: String },
    #[error("{} is another database: it has none of the tables there were then", path.display())]
    Stranger { path: PathBuf },
    #[error("the row {key} of {table:?} {why}; nothing was changed")]
    Conflict { table: String, key: String, why: &'static str },
    #[error("references of {} would be broken; nothing was changed", .tables.join(", "))]
    References { tables: Vec<String> },
    #[error("{table:?} does not take what its columns would become: {message} (SQLite code {code})")]
    Masked { table: String, code: i32, message: String },
    #[error("write what would undo it; nothing was changed")]
    Undo {
        #[source]
        source: io::Error,
    },
    #[error("{op} {path}: {message} (SQLite code {code})")]
    Sqlite { op: &'static str, path: PathBuf, code: i32, message: String },
}

fn lacks(columns: &[String]) -> String {
    if columns.is_empty() { String::new() } else { format!(": it lacks {}", columns.join(", ")) }
}

fn held_by(holders: &[crate::holders::Holder]) -> String {
    if holders.is_empty() {
        return String::new();
    }
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    format!(", open in {}", names.join(", "))
}

impl SqliteError {
    /// Of a commit that failed: whether what was to be committed may still come out of the log, or go back out of the
    /// journal, when the database is opened next. SQLite has tried to make it durable then, and was told of a failure.
    pub fn leaves_doubt(&self) -> bool {
        !matches!(self, Self::Locked { .. } | Self::Replaced { .. } | Self::Missing { .. })
            && self.kind() != Kind::NoSpace
    }
}

impl Kinded for SqliteError {
    fn kind(&self) -> Kind {
        match self {
            SqliteError::Engine { .. } => Kind::Internal,
            SqliteError::Missing { .. } | SqliteError::NotAFile { .. } => Kind::Config,
            SqliteError::Denied { .. } => Kind::Denied,
            SqliteError::NotADatabase { .. } | SqliteError::Encrypted { .. } | SqliteError::Malformed { .. } => {
                Kind::Corrupt
            }
            SqliteError::Locked { .. } => Kind::Unavailable,
            SqliteError::HotJournal { .. } | SqliteError::TooSlow { .. } | SqliteError::LogGrew { .. } => {
                Kind::Unavailable
            }
            SqliteError::ReadOnlyMount { .. } | SqliteError::NotWal { .. } => Kind::Config,
            SqliteError::Replaced { .. } | SqliteError::PinLost { .. } | SqliteError::Unlike { .. } => Kind::Conflict,
            SqliteError::WrittenByOthers { .. } => Kind::Conflict,
            SqliteError::Wal { source: WalError::Io(e), .. } => Kind::of_io(e),
            SqliteError::Wal { .. } => Kind::Corrupt,
            SqliteError::Io { source, .. } | SqliteError::Seen(source) => Kind::of_io(source),
            SqliteError::Page { fault, .. } => fault.kind,
            SqliteError::NoQuestion | SqliteError::NoTable { .. } => Kind::Usage,
            SqliteError::TableTaken { .. } | SqliteError::TableDiffers { .. } => Kind::Conflict,
            SqliteError::KeyDiffers { .. } | SqliteError::Stranger { .. } => Kind::Conflict,
            SqliteError::Conflict { .. } | SqliteError::References { .. } => Kind::Conflict,
            SqliteError::Masked { .. } => Kind::Conflict,
            SqliteError::Undo { source } => Kind::of_io(source),
            SqliteError::Query { code, .. } if code & 0xff == rusqlite::ffi::SQLITE_ERROR => Kind::Usage,
            SqliteError::Query { code, .. } if code & 0xff == rusqlite::ffi::SQLITE_CORRUPT => Kind::Corrupt,
            SqliteError::Sqlite { code, .. } | SqliteError::Query { code, .. } => match code & 0xff {
                rusqlite::ffi::SQLITE_FULL => Kind::NoSpace,
                rusqlite::ffi::SQLITE_BUSY | rusqlite::ffi::SQLITE_LOCKED | rusqlite::ffi::SQLITE_IOERR => {
                    Kind::Unavailable
                }
                rusqlite::ffi::SQLITE_INTERRUPT => Kind::Cancelled,
                _ => Kind::Internal,
            },
        }
    }
}

/// Adds what was being done and to which file.
pub(crate) trait At<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, SqliteError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, SqliteError> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SqliteError::Missing { path: path.to_owned() },
            io::ErrorKind::PermissionDenied => SqliteError::Denied { op, path: path.to_owned() },
            _ => SqliteError::Io { op, path: path.to_owned(), source },
        })
    }
}

impl<T> At<T> for Result<T, crate::ffi::Code> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, SqliteError> {
        self.map_err(|code| of_code(code.0, String::from("file operation failed"), op, path))
    }
}

impl<T> At<T> for rusqlite::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, SqliteError> {
        self.map_err(|error| match error {
            rusqlite::Error::SqliteFailure(failure, message) => {
                let message = message.unwrap_or_else(|| failure.to_string());
                of_code(failure.extended_code, message, op, path)
            }
            other => {
                let message = other.to_string();
                SqliteError::Sqlite { op, path: path.to_owned(), code: rusqlite::ffi::SQLITE_ERROR, message }
            }
        })
    }
}

/// What a result code means, as far as the code alone tells.
fn of_code(code: i32, message: String, op: &'static str, path: &Path) -> SqliteError {
    use rusqlite::ffi;
    let path = path.to_owned();
    match code & 0xff {
        _ if code == ffi::SQLITE_READONLY_ROLLBACK => SqliteError::HotJournal { path },
        _ if code == ffi::SQLITE_READONLY_DBMOVED => SqliteError::Replaced { path },
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => SqliteError::Locked { path, waited_ms: 0, holders: Vec::new() },
        ffi::SQLITE_CORRUPT => SqliteError::Malformed { path, reason: message },
        ffi::SQLITE_NOTADB => SqliteError::NotADatabase { path, header: HeaderError::NotSqlite },
        ffi::SQLITE_READONLY | ffi::SQLITE_PERM | ffi::SQLITE_AUTH => SqliteError::Denied { op, path },
        ffi::SQLITE_CANTOPEN => match path.try_exists() {
            Ok(false) => SqliteError::Missing { path },
            _ => SqliteError::Denied { op, path },
        },
        _ => SqliteError::Sqlite { op, path, code, message },
    }
}
