//! A database, and a ledger of every state it had.
//!
//! Every commit has a number, a sum over all rows and a digest of each of them, and is remembered by what the whole database
//! was after it (copied by another process and recovered by SQLite: a copy made here would drop locks).

use super::Dice;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Rows of a database that is to stay small.
const ROWS_KEPT: u64 = 40;

pub struct Book {
    pub name: &'static str,
    pub db: PathBuf,
    conn: Connection,
    /// The digest of every state there was, and the number of the commit that led to it.
    states: BTreeMap<[u8; 32], u64>,
    pub commits: u64,
    pub sequence: i64,
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).expect("opens");
    conn.busy_timeout(Duration::from_secs(10)).expect("set");
    conn.execute_batch("PRAGMA synchronous=OFF").expect("set");
    conn
}

impl Book {
    pub fn begin(folder: &Path, name: &'static str) -> Self {
        let db = folder.join(format!("{name}.db"));
        let conn = open(&db);
        conn.execute_batch(
            "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;
             CREATE TABLE ledger(seq INTEGER PRIMARY KEY, total INTEGER NOT NULL);
             CREATE TABLE t(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, body BLOB, hash INTEGER NOT NULL);
             CREATE INDEX by_amount ON t(amount);",
        )
        .expect("made");
        let mut book = Self { name, db, conn, states: BTreeMap::new(), commits: 0, sequence: 0 };
        book.commit("SELECT 1");
        book
    }

    pub fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.name));
    }

    /// One transaction with its row in the ledger.
    pub fn commit(&mut self, sql: &str) {
        self.sequence += 1;
        self.sql(&format!(
            "BEGIN IMMEDIATE; {sql};
             INSERT INTO ledger SELECT {}, ifnull(sum(amount), 0) FROM t; COMMIT",
            self.sequence
        ));
        self.remember();
    }

    /// What the database is now, as one more state.
    pub fn remember(&mut self) {
        let name = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        let copy = name(&self.db, ".shadow");
        for suffix in ["", "-wal"] {
            let (from, to) = (name(&self.db, suffix), name(&copy, suffix));
            let _ = fs::remove_file(&to);
            if from.exists() {
                assert!(Command::new("cp").arg(from).arg(to).status().expect("cp runs").success());
            }
        }
        let conn = open(&copy);
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("recovers");
        drop(conn);
        let state = digest(&fs::read(copy).expect("readable"));
        if let std::collections::btree_map::Entry::Vacant(free) = self.states.entry(state) {
            self.commits += 1;
            free.insert(self.commits);
        }
    }

    /// Which of the states there were an image is.
    pub fn state_of(&self, image: &[u8]) -> Option<u64> {
        self.states.get(&digest(image)).copied()
    }

    pub fn insert(&mut self, rows: u64, bytes: u64) {
        // The hash of a row is a function of what is in it.
        let amount = format!("((i * 7919 + {}) % 1000)", self.sequence);
        self.commit(&format!(
            "INSERT INTO t(amount, body, hash)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             SELECT {amount}, randomblob({bytes}), {amount} * 31 + {bytes} FROM n"
        ));
    }

    /// A small commit, after which it is as small as before. While nobody holds the log it is not begun anew.
    pub fn step(&mut self, dice: &mut Dice, is_held: bool) {
        match dice.below(40) {
            0 if is_held => self.checkpoint("TRUNCATE"),
            1..=4 => self.commit(&format!("DELETE FROM t WHERE id <= (SELECT max(id) FROM t) - {ROWS_KEPT}")),
            5..=12 => self.commit("UPDATE t SET amount = amount + 1, hash = hash + 31 WHERE id % 5 = 0"),
            _ => self.insert(1, 1 + dice.below(600)),
        }
    }

    /// A checkpoint that meets another, ours for instance, is told so at once. Nothing keeps it out for long.
    #[expect(clippy::disallowed_methods, reason = "how long an application waits is what is asked")]
    pub fn checkpoint(&self, mode: &str) {
        let began = Instant::now();
        while !self.has_checkpointed(mode).expect("asked") {
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(20), "{}: a {mode} checkpoint gets through", self.name);
        }
    }

    pub fn has_checkpointed(&self, mode: &str) -> rusqlite::Result<bool> {
        self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok(row.get::<_, i64>(0)? == 0))
    }

    /// Whoever is told to do something meanwhile is alone with the database.
    pub fn without_us(&mut self, work: impl FnOnce()) {
        self.conn = Connection::open_in_memory().expect("opens");
        work();
        self.conn = open(&self.db);
    }
}

/// Of a database, but for free pages, which need not have any content.
fn digest(image: &[u8]) -> [u8; 32] {
    let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().expect("four bytes"));
    let size = match u16::from_be_bytes([image[16], image[17]]) {
        1 => 65_536,
        size => usize::from(size),
    };
    let (mut leaves, mut trunk) = (Vec::new(), word(32));
    while trunk != 0 {
        let at = (trunk as usize - 1) * size;
        leaves.extend((0..word(at + 4) as usize).map(|n| word(at + 8 + 4 * n) as usize));
        trunk = word(at);
    }
    leaves.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for (at, page) in image.chunks(size).enumerate() {
        if leaves.binary_search(&(at + 1)).is_err() {
            hasher.update(&(at as u64).to_le_bytes());
            hasher.update(page);
        }
    }
    hasher.update(&(image.len() as u64).to_le_bytes());
    *hasher.finalize().as_bytes()
}
