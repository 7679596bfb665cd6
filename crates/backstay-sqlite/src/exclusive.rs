//! A database held so that nobody else can use it, for the moment in which its file is exchanged.
//!
//! Owns SQLite's exclusive lock. In WAL mode every open connection, idle or not, stands in its way, so
//! having it proves that nobody has the database open. With a rollback journal an idle connection
//! holds no lock: there it proves that nobody is in a transaction and that nobody can begin one, and
//! [`holders`](crate::holders::holders) tells the rest.
//!
//! Dropping it gives the lock back and removes no file that was there before. A crash does the same.

use crate::error::{At, SqliteError};
use crate::holders;
use crate::open::{Database, Medium};
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

/// The exclusive lock on one database.
pub struct ExclusiveHold {
    database: Database,
}

/// Takes the lock, waiting for others for at most `busy`.
pub fn take_exclusive(path: &Path, busy: Duration) -> Result<ExclusiveHold, SqliteError> {
    let database = Database::open(path, Some(Medium::Live), busy)?;
    let locked = lock(&database.conn()).at("lock", &database.path);
    match locked {
        Ok(()) => {}
        Err(SqliteError::Locked { path, .. }) => {
            let holders = holders::processes(&path).processes;
            let waited_ms = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
            return Err(SqliteError::Locked { path, waited_ms, holders });
        }
        Err(other) => return Err(other),
    }
    database.still_there()?;
    Ok(ExclusiveHold { database })
}

/// In exclusive locking mode the lock outlives the transaction that took it.
fn lock(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "query_only", false)?;
    conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; PRAGMA schema_version; COMMIT")
}

impl ExclusiveHold {
    /// With every symbolic link resolved.
    pub fn path(&self) -> &Path {
        &self.database.path
    }

    /// Copies the whole log back and cuts it, so that the main file alone is the database. Without a
    /// log there is nothing to do.
    pub fn checkpoint_all(&self) -> Result<(), SqliteError> {
        let path = &self.database.path;
        let busy: i64 = self
            .database
            .conn()
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .at("copy the log back into", path)?;
        if busy != 0 {
            let holders = holders::processes(path).processes;
            return Err(SqliteError::Locked { path: path.clone(), waited_ms: 0, holders });
        }
        Ok(())
    }

    /// Fails when the path no longer leads to the file that is locked.
    pub fn still_there(&self) -> Result<(), SqliteError> {
        self.database.still_there()
    }
}
