//! A connection that looks at a database and leaves no trace of having looked.
//!
//! Owns opening, the read transaction and closing. Never checkpoints, never removes a `-wal` it
//! found. A `-wal` and `-shm` that SQLite had to make for us go away with our close, unless somebody
//! else uses them by then; where the process dies first they stay behind, empty and harmless.
//!
//! Locks: SHARED (and in WAL mode a read mark) from [`Database::begin`] to [`Database::end`].

use crate::error::{At, SqliteError};
use crate::facts::FileIdentity;
pub(crate) use crate::medium::Medium;
use crate::medium::is_mounted_read_only;
use crate::stopwatch::Stopwatch;
use crate::{ffi, holders};
use backstay_format::sqlite::{DatabaseHeader, HeaderError};
use backstay_model::{ByteLen, Clock};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An open database.
pub(crate) struct Database {
    pub conn: Mutex<Connection>,
    /// As the caller wrote it.
    pub given: PathBuf,
    /// With every symbolic link resolved: `-wal` and the others lie beside this one.
    pub path: PathBuf,
    pub identity: FileIdentity,
    pub medium: Medium,
    log_was_absent: bool,
}

/// The name of a file that belongs to the database at `path`.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Database {
    pub(crate) fn open(given: &Path, medium: Option<Medium>, busy: Duration) -> Result<Self, SqliteError> {
        crate::assert_engine()?;
        let path = std::fs::canonicalize(given).at("find", given)?;
        let identity = FileIdentity::of_path(&path)?;
        let medium = match medium {
            Some(medium) => medium,
            None => Medium::of_path(&path)?,
        };
        let log_was_absent = !sibling(&path, "-wal").try_exists().unwrap_or(true);
        let conn = match medium {
            Medium::Live => Connection::open_with_flags(&path, live_flags()),
            Medium::ReadOnly => Connection::open_with_flags(immutable_uri(&path), immutable_flags()),
        };
        let conn = conn.at("open", &path)?;
        ffi::keep_small(&conn);
        prepare(&conn, busy).at("prepare", &path)?;
        if medium == Medium::Live {
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).at("prepare", &path)?;
            ffi::set_persist_wal(&conn, true).at("prepare", &path)?;
        }
        let database = Self { conn: Mutex::new(conn), given: given.to_owned(), path, identity, medium, log_was_absent };
        database.still_there()?;
        Ok(database)
    }

    pub(crate) fn conn(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read transaction and really reads, which takes the locks and rolls back a journal that
    /// a crashed writer left. Gives how long that took.
    pub(crate) fn begin(&self, clock: &dyn Clock) -> Result<u64, SqliteError> {
        let watch = Stopwatch::begin(clock);
        let conn = self.conn();
        let begun = conn
            .execute_batch("BEGIN")
            .and_then(|()| conn.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)));
        let Err(error) = begun.at("read", &self.path) else { return Ok(watch.millis()) };
        let _ = conn.execute_batch("ROLLBACK");
        Err(match error {
            SqliteError::Locked { path, .. } => {
                let holders = holders::processes(&path).processes;
                SqliteError::Locked { path, waited_ms: watch.millis(), holders }
            }
            SqliteError::NotADatabase { .. } => self.not_a_database(&conn),
            SqliteError::Denied { .. } if self.medium == Medium::Live && is_mounted_read_only(&self.path)? => {
                SqliteError::ReadOnlyMount { path: self.path.clone() }
            }
            other => other,
        })
    }

    /// Reads once and gives the lock back.
    pub(crate) fn try_read(&self) -> Result<(), SqliteError> {
        let conn = self.conn();
        conn.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)).at("read", &self.path).map(|_| ())
    }

    /// Ends the read transaction and gives its locks back.
    pub(crate) fn end(&self) -> Result<(), SqliteError> {
        self.conn().execute_batch("COMMIT").at("end reading", &self.path)
    }

    /// SQLite refused the first page: says more precisely why.
    fn not_a_database(&self, conn: &Connection) -> SqliteError {
        let path = self.path.clone();
        let first = read_start(conn).at("read", &path);
        match first.map(|(first, len)| DatabaseHeader::parse(&first, len)) {
            Err(error) => error,
            Ok(Ok(_)) => SqliteError::Malformed { path, reason: String::from("its first page is not valid") },
            Ok(Err(HeaderError::LooksEncrypted)) => SqliteError::Encrypted { path },
            Ok(Err(header)) => SqliteError::NotADatabase { path, header },
        }
    }

    /// Fails when the path no longer leads to the file that is open.
    pub(crate) fn still_there(&self) -> Result<(), SqliteError> {
        let moved = self.medium == Medium::Live && ffi::has_moved(&self.conn()).at("look at", &self.path)?;
        let here = |path: &Path| FileIdentity::of_path(path).is_ok_and(|found| found == self.identity);
        if moved || !here(&self.path) || !here(&self.given) {
            return Err(SqliteError::Replaced { path: self.path.clone() });
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let log = sibling(&self.path, "-wal");
        let log_is_empty = std::fs::metadata(&log).is_ok_and(|found| found.len() == 0);
        if self.medium == Medium::Live && self.log_was_absent && log_is_empty && self.still_there().is_ok() {
            // SQLite made the empty log for us; its ordinary last close removes it under an exclusive
            // lock, which also covers a writer that began to use it since the look above.
            let conn = self.conn();
            let _ = ffi::set_persist_wal(&conn, false);
            let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
    }
}

/// The first bytes of the main file, at most 4096, and its length.
pub(crate) fn read_start(conn: &Connection) -> Result<(Vec<u8>, ByteLen), ffi::Code> {
    let len = ffi::main_len(conn)?;
    let mut first = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(4096)];
    ffi::read_main(conn, 0, &mut first)?;
    Ok((first, ByteLen::new(len)))
}

/// Writable where permitted, because only a writer can roll back a journal or make a `-shm`; SQLite
/// falls back to reading by itself.
fn live_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}

pub(crate) fn immutable_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
}

/// Names the file in a way that tells SQLite nobody writes it: no locks, no files beside it.
pub(crate) fn immutable_uri(path: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_') {
            uri.push(*byte);
        } else {
            uri.extend(format!("%{byte:02X}").into_bytes());
        }
    }
    uri.extend(b"?immutable=1");
    PathBuf::from(std::ffi::OsString::from_vec(uri))
}

fn prepare(conn: &Connection, busy: Duration) -> rusqlite::Result<()> {
    conn.busy_timeout(busy)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.pragma_update(None, "query_only", true)
}
