//! Maintenance of a live database: what state it is in, and what SQLite can do about it.
//!
//! Owns the four tasks and the measuring before and after. Looking changes nothing and leaves nothing; a
//! task is SQLite's own statement, atomic as SQLite makes it, given up when others hold the database for
//! longer than the caller waits. A crash within VACUUM leaves the old file and a journal or log that the
//! next program to open it deals with.
//!
//! Locks: SHARED while looking; whatever the statement of a task takes, and for as long as it takes.

use crate::error::{At, SqliteError};
use crate::holders;
use crate::open::{Database, sibling};
use crate::question::IntegrityAnswer;
use backstay_model::ByteLen;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

/// Problems that are named.
const PROBLEMS_MAX: i64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    Integrity,
    Checkpoint,
    Vacuum,
    Analyze,
}

/// What a database looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Condition {
    pub length: ByteLen,
    pub page_size: u32,
    pub pages: u64,
    /// Pages with nothing in them.
    pub free_pages: u64,
    /// Bytes inside pages that hold nothing, free pages apart; `None` where the pages are damaged.
    pub slack: Option<ByteLen>,
    /// The log, copied back or not.
    pub log: ByteLen,
    /// Whether the planner has been told what is in the tables.
    pub analyzed: bool,
}

impl Condition {
    /// What VACUUM gives back for certain.
    pub fn free(&self) -> ByteLen {
        ByteLen::new(self.free_pages * u64::from(self.page_size))
    }
}

/// A live database under maintenance.
pub struct Maintenance {
    database: Database,
}

impl Maintenance {
    pub fn open(path: &Path, busy: Duration) -> Result<Self, SqliteError> {
        Ok(Self { database: Database::open(path, None, busy)? })
    }

    /// Looks at it. Reads every page once, for the room inside them.
    pub fn look(&self) -> Result<Condition, SqliteError> {
        let path = &self.database.path;
        let conn = self.database.conn();
        let number =
            |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs).at("look at", path);
        let slack = match number("SELECT coalesce(sum(unused), 0) FROM dbstat WHERE aggregate = TRUE") {
            Err(SqliteError::Malformed { .. }) => None,
            other => Some(ByteLen::new(other?)),
        };
        let page_size = number("PRAGMA page_size")?;
        let pages = number("PRAGMA page_count")?;
        let found = std::fs::metadata(sibling(path, "-wal"));
        Ok(Condition {
            length: ByteLen::new(std::fs::metadata(path).at("look at", path)?.len()),
            page_size: u32::try_from(page_size).unwrap_or(0),
            pages,
            free_pages: number("PRAGMA freelist_count")?,
            slack,
            log: ByteLen::new(found.map_or(0, |found| found.len())),
            analyzed: number("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'")? > 0,
        })
    }

    /// Asks SQLite whether the file is sound.
    pub fn integrity(&self) -> Result<IntegrityAnswer, SqliteError> {
        let conn = self.database.conn();
        let problems = match problems(&conn).map_err(|error| self.say_who(error)) {
            // Too damaged even for the check to come to its end.
            Err(SqliteError::Malformed { reason, .. }) => vec![reason],
            other => other?,
        };
        Ok(match problems.as_slice() {
            [ok] if ok == "ok" => IntegrityAnswer::Ok,
            _ => {
                let more = problems.len() as i64 >= PROBLEMS_MAX;
                IntegrityAnswer::Problems { problems, more }
            }
        })
    }

    /// Copies the log back and cuts it. `false` when others still read from it.
    pub fn checkpoint(&self) -> Result<bool, SqliteError> {
        let done = self.writing(|conn| {
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).map(|busy| busy == 0)
        });
        match done {
            Err(SqliteError::Locked { .. }) => Ok(false),
            other => other,
        }
    }

    /// Writes the file anew without its holes.
    pub fn vacuum(&self) -> Result<(), SqliteError> {
        self.writing(|conn| conn.execute_batch("VACUUM"))
    }

    /// Counts what is in the tables, for the planner.
    pub fn analyze(&self) -> Result<(), SqliteError> {
        self.writing(|conn| conn.execute_batch("ANALYZE"))
    }

    fn writing<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, SqliteError> {
        let conn = self.database.conn();
        let path = &self.database.path;
        conn.pragma_update(None, "query_only", false).at("prepare", path)?;
        let done = work(&conn).map_err(|error| self.say_who(error));
        conn.pragma_update(None, "query_only", true).at("prepare", path)?;
        done
    }

    fn say_who(&self, error: rusqlite::Error) -> SqliteError {
        let path = &self.database.path;
        match Err::<(), _>(error).at("maintain", path) {
            Err(SqliteError::Locked { path, waited_ms, .. }) => {
                let holders = holders::processes(&path).processes;
                SqliteError::Locked { path, waited_ms, holders }
            }
            Err(other) => other,
            Ok(()) => SqliteError::Missing { path: path.clone() },
        }
    }
}

fn problems(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut rows = conn.prepare(&format!("PRAGMA integrity_check({PROBLEMS_MAX})"))?;
    rows.query_map([], |row| row.get(0))?.collect()
}
