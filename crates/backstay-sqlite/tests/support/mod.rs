//! What the tests of captures share: databases made by SQLite itself, and a capture into memory.
#![allow(dead_code, reason = "each test program uses its own part")]

use backstay_format::Fingerprint;
use backstay_format::FingerprintKey;
use backstay_format::fingerprint::UnitHasher;
use backstay_model::{Clock, FingerprintKeyId, Moment, UnitSize};
use backstay_sqlite::{Capture, CaptureOptions, SeenUnits, Settled, SqliteError};
use rusqlite::Connection;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A clock that goes on by a fixed step each time it is asked.
pub struct StepClock {
    pub now: AtomicI64,
    pub step: i64,
}

impl Clock for StepClock {
    fn now(&self) -> Moment {
        Moment::from_millis(self.now.fetch_add(self.step, Ordering::SeqCst)).expect("in range")
    }
}

pub fn clock(step: i64) -> Arc<dyn Clock> {
    Arc::new(StepClock { now: AtomicI64::new(1_795_000_000_000), step })
}

pub fn hasher() -> UnitHasher {
    FingerprintKey::new(FingerprintKeyId::ZERO, [7; 32]).units()
}

pub struct Seen(pub Vec<Fingerprint>);

impl SeenUnits for Seen {
    fn read(&mut self, first: u64, out: &mut [Fingerprint]) -> io::Result<()> {
        let first = first as usize;
        let part = self.0.get(first..first + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }
}

pub fn open(path: &Path, spool: &Path) -> Result<Capture, SqliteError> {
    let options = CaptureOptions { busy: Duration::from_secs(20), ..CaptureOptions::in_dir(spool.to_owned()) };
    Capture::open(path, options, clock(0))
}

/// The first pass: every unit read through the capture.
pub fn first_pass(capture: &Capture) -> (Vec<u8>, Seen) {
    let len = capture.facts().len.get() as usize;
    let unit = UnitSize::for_pages(capture.facts().page_size).get() as usize;
    let mut image = vec![0xEE; len];
    for (index, chunk) in image.chunks_mut(unit * 3).enumerate() {
        capture.read_at((index * unit * 3) as u64, chunk).expect("readable");
    }
    let seen = Seen(image.chunks(unit).map(|bytes| hasher().fingerprint(bytes)).collect());
    (image, seen)
}

pub fn settle(capture: &mut Capture, image: &mut Vec<u8>, mut seen: Seen) -> Result<Settled, SqliteError> {
    let unit = UnitSize::for_pages(capture.facts().page_size).get() as usize;
    let mut settled = capture.settle(&mut seen, &hasher())?;
    image.resize(settled.len.get() as usize, 0xEE);
    while let Some((number, bytes)) = settled.changed.next()? {
        let at = number as usize * unit;
        image[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(settled)
}

/// A whole capture, from open to the image.
pub fn capture(path: &Path) -> Result<(Vec<u8>, Settled), SqliteError> {
    let spool = tempfile::tempdir().expect("a temporary directory");
    let mut capture = open(path, spool.path())?;
    let (mut image, seen) = first_pass(&capture);
    let settled = settle(&mut capture, &mut image, seen)?;
    Ok((image, settled))
}

/// Writes the image to a file and asks SQLite whether it is a database in order.
pub fn check<T>(image: &[u8], ask: impl FnOnce(&Connection) -> T) -> T {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("restored.db");
    std::fs::write(&path, image).expect("room");
    let conn = Connection::open(&path).expect("opens");
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checks");
    assert_eq!(verdict, "ok");
    ask(&conn)
}

/// All rows, as one number that no lost or doubled row leaves alone.
pub fn ledger(conn: &Connection) -> (i64, i64) {
    conn.query_row("SELECT count(*), coalesce(sum(id * 7 + length(body)), 0) FROM t", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
    .expect("answers")
}

pub fn make(path: &Path, page_size: u32, journal: &str) -> Connection {
    let conn = Connection::open(path).expect("opens");
    conn.busy_timeout(Duration::from_secs(20)).expect("set");
    conn.pragma_update(None, "page_size", page_size).expect("set");
    let mode: String = conn.query_row(&format!("PRAGMA journal_mode={journal}"), [], |row| row.get(0)).expect("set");
    assert_eq!(mode, journal);
    conn.pragma_update(None, "synchronous", "OFF").expect("set");
    conn.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB); CREATE INDEX i ON t(length(body));")
        .expect("made");
    conn
}

pub fn insert(conn: &Connection, rows: u32) {
    conn.execute(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < ?1)
         INSERT INTO t(body) SELECT randomblob(20 + abs(random()) % 900) FROM n",
        [rows],
    )
    .expect("inserted");
}

/// Tells the threads beside a test to end, also when the test fails: a red test must not hang.
pub struct Stop<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub const PAGE_SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
