//! A database that is in use becomes another state of itself, as one transaction of ours.
//!
//! Owns the writer's lock from [`Exchange::begin`] to the commit or the drop, which rolls back. Pages go through
//! SQLite (its `sqlite_dbpage` table), so readers keep their view until the commit and writers wait for it; only pages
//! that differ are written. What every open connection believes for as long as it lives (page size, reserved bytes,
//! text encoding, auto-vacuum) must be the same in both states, and the schema cookie moves on, so that nobody takes
//! what it remembers of the schema for the new one's. Never checkpoints.
//!
//! A crash before the commit leaves the old state, one after it the new one: that is SQLite's own promise.

mod standby;

pub use standby::{Standby, Sum};

use crate::error::{At, SqliteError};
use crate::holders;
use crate::open::{Database, Medium};
use rusqlite::{CachedStatement, Connection, OptionalExtension};
use std::io;
use std::path::Path;
use std::time::Duration;

/// What the database is to become, and where its old pages go.
pub trait Pages {
    /// Pages of the new state.
    fn count(&self) -> u32;
    /// One page of the new state.
    fn read(&mut self, page: u32, bytes: &mut [u8]) -> io::Result<()>;
    /// A page of the old state that the new one does not have like that. Told before it is gone.
    fn keep(&mut self, page: u32, old: &[u8]) -> io::Result<()>;
}

/// What was exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Exchanged {
    pub page_size: u32,
    /// Pages of the old state and of the new one.
    pub before: u32,
    pub after: u32,
    /// Pages that were written or cut off.
    pub changed: u32,
}

/// A database held against other writers.
pub struct Exchange {
    database: Database,
}

const HEADER: usize = 100;
const VERSIONS: std::ops::Range<usize> = 18..20;
const PAGE_COUNT: std::ops::Range<usize> = 28..32;
const COOKIE: std::ops::Range<usize> = 40..44;

/// What stays as it was opened for as long as anybody has the database open.
const FIXED: [(std::ops::Range<usize>, &str); 4] =
    [(16..18, "page size"), (20..21, "reserved bytes of a page"), (56..60, "text encoding"), (52..56, "auto-vacuum")];

impl Exchange {
    /// Takes the writer's lock, waiting for other writers for at most `busy`.
    pub fn begin(path: &Path, busy: Duration) -> Result<Self, SqliteError> {
        let database = Database::open(path, Some(Medium::Live), busy)?;
        let begun = begin(&database.conn()).at("lock", &database.path);
        begun.map_err(|error| waited(error, busy))?;
        database.still_there()?;
        Ok(Self { database })
    }

    /// Writes what differs. Nobody sees it before [`Exchange::commit`].
    pub fn write(&self, pages: &mut dyn Pages) -> Result<Exchanged, SqliteError> {
        let path = &self.database.path;
        let conn = self.database.conn();
        let before: u32 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).at("look at", path)?;
        let page_size: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).at("look at", path)?;
        let unlike = |what| SqliteError::Unlike { path: path.clone(), what };
        if before == 0 || pages.count() == 0 {
            return Err(unlike("one of the two is empty"));
        }
        let mut exchanging = Exchanging {
            path,
            read: conn.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1").at("read", path)?,
            write: conn.prepare_cached("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)").at("write", path)?,
            lock_byte: (1 << 30) / page_size + 1,
            new: vec![0; page_size as usize],
            pages,
        };
        let after = exchanging.pages.count();
        let first = exchanging.first(before)?;
        let mut changed = exchanging.rest(before)?;
        if changed == 0 && !first && before == after {
            return Ok(Exchanged { page_size, before, after, changed: 0 });
        }
        changed += u32::from(first);
        let cookie = exchanging.finish(before)?;
        drop(exchanging);
        // Written by itself and last: a statement that finds another cookie reads the schema anew, from pages
        // SQLite does not know were exchanged.
        conn.pragma_update(None, "schema_version", cookie).at("write", path)?;
        Ok(Exchanged { page_size, before, after, changed })
    }

    /// Makes the new state the one everybody sees.
    pub fn commit(self, busy: Duration) -> Result<(), SqliteError> {
        self.database.still_there()?;
        let committed = self.database.conn().execute_batch("COMMIT").at("commit to", &self.database.path);
        committed.map_err(|error| waited(error, busy))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let conn = self.database.conn();
        if !conn.is_autocommit() {
            let _ = conn.execute_batch("ROLLBACK");
        }
    }
}

fn begin(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "query_only", false)?;
    conn.query_row("PRAGMA wal_autocheckpoint=0", [], |_| Ok(())).optional()?;
    conn.execute_batch("PRAGMA synchronous=FULL; BEGIN IMMEDIATE")
}

fn waited(error: SqliteError, busy: Duration) -> SqliteError {
    match error {
        SqliteError::Locked { path, .. } => {
            let holders = holders::processes(&path).processes;
            SqliteError::Locked { path, waited_ms: u64::try_from(busy.as_millis()).unwrap_or(u64::MAX), holders }
        }
        other => other,
    }
}

struct Exchanging<'a, 'c> {
    path: &'a Path,
    read: CachedStatement<'c>,
    write: CachedStatement<'c>,
    lock_byte: u32,
    new: Vec<u8>,
    pages: &'a mut dyn Pages,
}

impl Exchanging<'_, '_> {
    /// The first page, compared but for what SQLite counts up by itself: it is written last of all that differs.
    fn first(&mut self, before: u32) -> Result<bool, SqliteError> {
        let old = self.old(1)?;
        self.pages.read(1, &mut self.new).at("read for", self.path)?;
        let unlike = |what| SqliteError::Unlike { path: self.path.to_owned(), what };
        for (range, what) in &FIXED {
            let (old, new) = (old.get(range.clone()), self.new.get(range.clone()));
            let same = match *what {
                // A page number there: only whether there is one is fixed.
                "auto-vacuum" => is_zero(old) == is_zero(new),
                _ => old == new,
            };
            if !same {
                return Err(unlike(what));
            }
        }
        let content = |page: &[u8]| {
            let mut page = page.to_vec();
            for counted in [24..28, PAGE_COUNT, COOKIE, 92..100, VERSIONS] {
                page.get_mut(counted).into_iter().for_each(|part| part.fill(0));
            }
            page
        };
        Ok(content(&old) != content(&self.new) || before != self.pages.count())
    }

    /// Every page behind the first. Gives how many differ.
    fn rest(&mut self, before: u32) -> Result<u32, SqliteError> {
        let (after, mut changed) = (self.pages.count(), 0);
        for page in 2..=before.max(after) {
            if page == self.lock_byte {
                continue;
            }
            let old = if page <= before { Some(self.old(page)?) } else { None };
            if page <= after {
                self.pages.read(page, &mut self.new).at("read for", self.path)?;
                if old.as_ref() == Some(&self.new) {
                    continue;
                }
            }
            changed += 1;
            if let Some(old) = old {
                self.pages.keep(page, &old).at("keep what is replaced of", self.path)?;
            }
            if page <= after {
                self.write.execute((page, &self.new)).at("write", self.path)?;
            }
        }
        Ok(changed)
    }

    /// The first page, with the schema cookie of now, and the end where it belongs. Gives a cookie nobody has seen.
    fn finish(&mut self, before: u32) -> Result<u32, SqliteError> {
        let (old, after) = (self.old(1)?, self.pages.count());
        self.pages.read(1, &mut self.new).at("read for", self.path)?;
        self.pages.keep(1, &old).at("keep what is replaced of", self.path)?;
        let cookie = number(&old, COOKIE).max(number(&self.new, COOKIE)).wrapping_add(1);
        let versions = old.get(VERSIONS).unwrap_or_default().to_vec();
        put(&mut self.new, VERSIONS, &versions);
        put(&mut self.new, PAGE_COUNT, &after.to_be_bytes());
        put(&mut self.new, COOKIE, &number(&old, COOKIE).to_be_bytes());
        self.write.execute((1, &self.new)).at("write", self.path)?;
        if after < before {
            self.write.execute((after + 1, rusqlite::types::Null)).at("cut", self.path)?;
        }
        Ok(cookie)
    }

    fn old(&mut self, page: u32) -> Result<Vec<u8>, SqliteError> {
        let bytes: Vec<u8> = self.read.query_row([page], |row| row.get(0)).at("read", self.path)?;
        let short = bytes.len() != self.new.len() || bytes.len() < HEADER;
        if short {
            return Err(SqliteError::Unlike { path: self.path.to_owned(), what: "page size" });
        }
        Ok(bytes)
    }
}

fn is_zero(bytes: Option<&[u8]>) -> bool {
    bytes.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0))
}

fn number(page: &[u8], at: std::ops::Range<usize>) -> u32 {
    page.get(at).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn put(page: &mut [u8], at: std::ops::Range<usize>, bytes: &[u8]) {
    page.get_mut(at).into_iter().for_each(|place| place.copy_from_slice(bytes));
}
