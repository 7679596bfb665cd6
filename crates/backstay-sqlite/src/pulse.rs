//! Notices commits to a database without reading it: for the journal modes that keep no log.
//!
//! Owns one connection, which holds nothing between two calls. SHARED is taken for an instant, as any reader does.

use crate::error::{At, SqliteError};
use crate::open::Database;
use std::path::Path;
use std::time::Duration;

/// A database whose commits are noticed.
pub struct Pulse {
    database: Database,
    version: i64,
}

impl Pulse {
    /// From now on.
    pub fn open(path: &Path, busy: Duration) -> Result<Self, SqliteError> {
        let database = Database::open(path, None, busy)?;
        let version = version_of(&database)?;
        Ok(Self { database, version })
    }

    /// Whether it keeps a write-ahead log.
    pub fn is_wal(&self) -> Result<bool, SqliteError> {
        let conn = self.database.conn();
        let mode = conn.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
        Ok(mode.at("read", &self.database.path)?.eq_ignore_ascii_case("wal"))
    }

    /// Whether something was committed since the last call. Fails when the path leads to another file.
    pub fn beat(&mut self) -> Result<bool, SqliteError> {
        self.database.still_there()?;
        let version = version_of(&self.database)?;
        Ok(std::mem::replace(&mut self.version, version) != version)
    }
}

/// SQLite's own word for "somebody else committed".
fn version_of(database: &Database) -> Result<i64, SqliteError> {
    database.conn().query_row("PRAGMA data_version", [], |row| row.get(0)).at("read", &database.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn a_commit_is_noticed_once_and_a_rollback_never() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("app.db");
        let conn = Connection::open(&path).expect("opens");
        conn.execute_batch("CREATE TABLE t(x)").expect("made");
        let mut pulse = Pulse::open(&path, Duration::ZERO).expect("opens");
        assert!(!pulse.is_wal().expect("readable"));
        let mut after = |sql: &str| {
            conn.execute_batch(sql).expect("sql");
            pulse.beat().expect("readable")
        };
        assert!(!after("SELECT 1"));
        assert!(after("INSERT INTO t VALUES (1)"));
        assert!(!after("BEGIN; INSERT INTO t VALUES (2); ROLLBACK"));
        assert!(after("DELETE FROM t"));
        assert!(after("PRAGMA journal_mode=WAL"));
        assert!(pulse.is_wal().expect("readable"));
        std::fs::rename(&path, dir.path().join("moved.db")).expect("renamed");
        assert!(matches!(pulse.beat(), Err(SqliteError::Replaced { .. })));
    }
}
