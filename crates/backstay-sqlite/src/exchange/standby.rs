//! A copy that others read and only we write: one transaction of its source after another.
//!
//! Owns the writer's lock from [`Standby::open`] to the drop, but for a moment after each commit, so a program that
//! tries to write is told "locked". Whether anybody wrote all the same is known: while it is open by SQLite's own
//! count of others' commits, and over a restart by the [`Sum`] of all pages, which is kept up page by page. Readers
//! see one whole state or the next.
//!
//! The first page keeps the copy's own journal mode, and its schema cookie is the source's plus what the owner says:
//! after the copy went over to another line of history no cookie that a reader remembers comes again.
//!
//! A crash leaves the state before a transaction or the one after it: that is SQLite's own promise.

use super::{COOKIE, FIXED, HEADER, PAGE_COUNT, VERSIONS, begin, is_zero, number, put, waited};
use crate::error::{At, SqliteError};
use crate::open::{Database, Medium, sibling};
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// A log longer than this is copied back between two transactions.
const LOG_LONG: u64 = 4 << 20;

/// A digest of all pages of a database, in whatever order they were counted in: it can be kept up page by page. Keyed,
/// so that no content can be guessed from it. It notices what happens; it does not withstand an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    pub pages: u32,
    pub digest: [u8; 32],
}

impl Sum {
    pub const EMPTY: Sum = Sum { pages: 0, digest: [0; 32] };

    /// Counts a page in, or out again.
    pub fn turn(&mut self, key: &[u8; 32], page: u32, bytes: &[u8]) {
        self.turn_digest(&Self::of_page(key, page, bytes));
    }

    fn turn_digest(&mut self, digest: &[u8; 32]) {
        self.digest.iter_mut().zip(digest).for_each(|(sum, byte)| *sum ^= byte);
    }

    fn of_page(key: &[u8; 32], page: u32, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&page.to_le_bytes());
        match (page, bytes.split_at_checked(HEADER)) {
            (1, Some((header, rest))) => {
                let mut header = header.to_vec();
                // SQLite counts these up by itself, as it commits.
                for counted in [24..28, 92..100] {
                    put(&mut header, counted.clone(), &vec![0; counted.len()]);
                }
                hasher.update(&header).update(rest);
            }
            _ => {
                hasher.update(bytes);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// A copy held against other writers.
pub struct Standby {
    database: Database,
    key: [u8; 32],
    busy: Duration,
    /// Of what is committed, and of what the open transaction makes of it.
    committed: Sum,
    open: Sum,
    /// Digests of the pages that the open transaction adds: SQLite does not show them before it commits.
    added: HashMap<u32, [u8; 32]>,
    /// SQLite's count of the commits of others.
    seen: i64,
    lock_byte: u32,
    page_size: usize,
    /// The first page, which is written last.
    first: Option<Vec<u8>>,
}

impl Standby {
    /// Takes the writer's lock, and counts all pages.
    pub fn open(path: &Path, key: [u8; 32], busy: Duration) -> Result<Self, SqliteError> {
        let database = Database::open(path, Some(Medium::Live), busy)?;
        let begun = begin(&database.conn()).at("lock", &database.path);
        begun.map_err(|error| waited(error, busy))?;
        database.still_there()?;
        let page_size: u32 = one(&database, "PRAGMA page_size")?;
        let mut standby = Self {
            key,
            busy,
            committed: Sum::EMPTY,
            open: Sum::EMPTY,
            added: HashMap::new(),
            seen: one(&database, "PRAGMA data_version")?,
            lock_byte: (1 << 30) / page_size.max(1) + 1,
            page_size: page_size as usize,
            first: None,
            database,
        };
        standby.committed = standby.count()?;
        standby.open = standby.committed;
        Ok(standby)
    }

    /// Of the state that readers see.
    pub fn sum(&self) -> Sum {
        self.committed
    }

    /// Of the state they will see after the next commit.
    pub fn sum_after(&self) -> Sum {
        self.open
    }

    /// The schema cookie of the state that readers see.
    pub fn cookie(&self) -> Result<u32, SqliteError> {
        Ok(number(&self.old(1)?, COOKIE))
    }

    fn count(&self) -> Result<Sum, SqliteError> {
        let pages: u32 = one(&self.database, "PRAGMA page_count")?;
        let mut sum = Sum { pages, ..Sum::EMPTY };
        for page in (1..=pages).filter(|page| *page != self.lock_byte) {
            sum.turn(&self.key, page, &self.old(page)?);
        }
        Ok(sum)
    }

    /// One page of the next state. Pages beyond the end so far come in ascending order.
    pub fn put(&mut self, page: u32, bytes: &[u8]) -> Result<(), SqliteError> {
        self.hold()?;
        if bytes.len() != self.page_size {
            return Err(self.unlike("page size"));
        }
        if page == 1 {
            self.check_fixed(bytes)?;
            self.first = Some(bytes.to_vec());
            return Ok(());
        }
        if page == self.lock_byte {
            return Ok(());
        }
        self.replace(page, bytes)
    }

    fn replace(&mut self, page: u32, bytes: &[u8]) -> Result<(), SqliteError> {
        let digest = Sum::of_page(&self.key, page, bytes);
        if page > self.committed.pages {
            let before = self.added.insert(page, digest);
            before.iter().for_each(|before| self.open.turn_digest(before));
        } else {
            let old = self.old(page)?;
            if old == bytes {
                return Ok(());
            }
            self.open.turn(&self.key, page, &old);
        }
        self.open.turn_digest(&digest);
        self.open.pages = self.open.pages.max(page);
        let conn = self.database.conn();
        let mut write = conn.prepare_cached("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)");
        let write = write.as_mut().map_err(|error| std::mem::replace(error, rusqlite::Error::InvalidQuery));
        write.and_then(|write| write.execute((page, bytes))).at("write", &self.database.path)?;
        Ok(())
    }

    /// Says that the next state is whole: it has so many pages, and its cookie is the source's plus `cookie_plus`.
    /// Nothing is put after this before the commit.
    pub fn finish(&mut self, pages: u32, cookie_plus: u32) -> Result<(), SqliteError> {
        self.hold()?;
        for page in (pages.saturating_add(1)..=self.open.pages).filter(|page| *page != self.lock_byte) {
            match self.added.remove(&page) {
                Some(gone) => self.open.turn_digest(&gone),
                None => {
                    let gone = self.old(page)?;
                    self.open.turn(&self.key, page, &gone);
                }
            }
        }
        let before = self.open.pages;
        self.open.pages = pages.min(before);
        if let Some(mut first) = self.first.take() {
            let old = self.old(1)?;
            let cookie = number(&first, COOKIE).wrapping_add(cookie_plus);
            put(&mut first, VERSIONS, old.get(VERSIONS).unwrap_or_default());
            put(&mut first, PAGE_COUNT, &pages.to_be_bytes());
            put(&mut first, COOKIE, &cookie.to_be_bytes());
            self.replace(1, &first)?;
        }
        self.open.pages = pages;
        if pages < before {
            let conn = self.database.conn();
            conn.execute("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, NULL)", [pages + 1])
                .at("cut", &self.database.path)?;
        }
        Ok(())
    }

    /// Makes the next state the one readers see, and takes the lock again unless somebody else has it by then:
    /// [`Standby::hold`] says so.
    pub fn commit(&mut self) -> Result<(), SqliteError> {
        self.database.still_there()?;
        let committed = self.database.conn().execute_batch("COMMIT").at("commit to", &self.database.path);
        committed.map_err(|error| waited(error, self.busy))?;
        self.committed = self.open;
        self.added.clear();
        self.copy_back()?;
        match self.hold() {
            Err(SqliteError::Locked { .. }) => Ok(()),
            held => held,
        }
    }

    /// Gives up what was put since the last commit.
    pub fn undo(&mut self) -> Result<(), SqliteError> {
        self.first = None;
        self.open = self.committed;
        self.added.clear();
        let conn = self.database.conn();
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").at("let go of", &self.database.path)?;
        }
        Ok(())
    }

    /// Takes the lock unless we have it. [`SqliteError::WrittenByOthers`] when somebody wrote while we had not.
    pub fn hold(&mut self) -> Result<(), SqliteError> {
        if !self.database.conn().is_autocommit() {
            return Ok(());
        }
        let begun = self.database.conn().execute_batch("BEGIN IMMEDIATE").at("lock", &self.database.path);
        begun.map_err(|error| waited(error, self.busy))?;
        self.check_alone()
    }

    /// Others' commits are counted by SQLite; a log begun anew by a checkpoint of theirs counts too, so then every page
    /// is looked at.
    fn check_alone(&mut self) -> Result<(), SqliteError> {
        let seen: i64 = one(&self.database, "PRAGMA data_version")?;
        if std::mem::replace(&mut self.seen, seen) != seen && self.count()? != self.committed {
            return Err(SqliteError::WrittenByOthers { path: self.database.path.clone() });
        }
        Ok(())
    }

    /// Between two transactions, and only as far as no reader is in the way.
    fn copy_back(&self) -> Result<(), SqliteError> {
        let log = sibling(&self.database.path, "-wal");
        if std::fs::metadata(log).is_ok_and(|log| log.len() >= LOG_LONG) {
            let conn = self.database.conn();
            conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).at("copy back to", &self.database.path)?;
        }
        Ok(())
    }

    /// Lets go of it, with everything in the file itself unless a reader is in the way.
    pub fn close(self) -> Result<(), SqliteError> {
        let conn = self.database.conn();
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").at("let go of", &self.database.path)?;
        }
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).at("copy back to", &self.database.path)
    }

    fn old(&self, page: u32) -> Result<Vec<u8>, SqliteError> {
        let conn = self.database.conn();
        let bytes: Vec<u8> = conn
            .prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")
            .and_then(|mut read| read.query_row([page], |row| row.get(0)))
            .at("read", &self.database.path)?;
        if bytes.len() == self.page_size { Ok(bytes) } else { Err(self.unlike("page size")) }
    }

    fn check_fixed(&self, new: &[u8]) -> Result<(), SqliteError> {
        let old = self.old(1)?;
        for (range, what) in &FIXED {
            let (old, new) = (old.get(range.clone()), new.get(range.clone()));
            let same = if *what == "auto-vacuum" { is_zero(old) == is_zero(new) } else { old == new };
            if !same {
                return Err(self.unlike(what));
            }
        }
        Ok(())
    }

    fn unlike(&self, what: &'static str) -> SqliteError {
        SqliteError::Unlike { path: self.database.path.clone(), what }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let conn: &Connection = &self.database.conn();
        if !conn.is_autocommit() {
            let _ = conn.execute_batch("ROLLBACK");
        }
    }
}

fn one<T: rusqlite::types::FromSql>(database: &Database, sql: &str) -> Result<T, SqliteError> {
    database.conn().query_row(sql, [], |row| row.get(0)).at("look at", &database.path)
}
