//! Trap 7 of following: a log whose bytes were flipped, cut or taken from an older generation. Nothing is ever read of
//! it that SQLite did not commit; and once the bytes are right again everything is.

mod support;

use backstay_sqlite::{LogCursor, Lost, Tail, TailOptions};
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use support::clock;
use tempfile::TempDir;

struct App {
    dir: TempDir,
    conn: Connection,
}

impl App {
    fn begin() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = Connection::open(dir.path().join("app.db")).expect("opens");
        conn.execute_batch(
            "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB)",
        )
        .expect("made");
        Self { dir, conn }
    }

    fn insert(&self, bytes: u32) {
        self.conn.execute("INSERT INTO t(body) VALUES (randomblob(?1))", [bytes]).expect("inserted");
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("app.db-wal")
    }

    fn tail(&self) -> Tail {
        let options = TailOptions::in_dir(self.dir.path().to_owned());
        Tail::open(&self.dir.path().join("app.db"), options, clock(0)).expect("opens")
    }

    fn begin_at(&self, tail: &mut Tail) -> LogCursor {
        tail.hold().expect("holds")
    }
}

/// Writes over the log through a descriptor of our own: no lock lies on it. Gives what was there.
fn write(log: &File, at: u64, bytes: &[u8]) -> Vec<u8> {
    let mut before = vec![0; bytes.len()];
    log.read_exact_at(&mut before, at).expect("read");
    log.write_all_at(bytes, at).expect("written");
    before
}

#[test]
fn trap_7_a_flipped_byte_anywhere_is_never_read_as_a_commit() {
    let app = App::begin();
    app.insert(100);
    let mut tail = app.tail();
    let from = app.begin_at(&mut tail);
    for _ in 0..3 {
        app.insert(700);
    }
    let log = File::options().read(true).write(true).open(app.log()).expect("opens");
    let len = log.metadata().expect("metadata").len();
    let begins = 32 + u64::from(from.generation.expect("a log").frames) * (512 + 24);
    let (mut refused, mut harmless) = (0, 0);
    for at in (0..len).step_by(7).chain(0..32) {
        let mut byte = [0];
        log.read_exact_at(&mut byte, at).expect("read");
        let before = write(&log, at, &[byte[0] ^ 0x10]);
        let read = tail.read_on(&from).expect("readable");
        write(&log, at, &before);
        match read {
            Err(Lost::OtherContent | Lost::OtherLog) => refused += 1,
            Err(lost) => panic!("byte {at}: {lost}"),
            Ok(caught) => {
                // What lies before the cursor was read before, and is not needed.
                assert!((32..begins).contains(&at), "byte {at} of {len}, the cursor at {begins}");
                assert_eq!(caught.commits.len(), 3);
                harmless += 1;
            }
        }
        tail.release();
        app.begin_at(&mut tail);
    }
    assert!(refused > 200 && harmless > 20, "{refused} {harmless}");
    let caught = tail.advance(&from).expect("readable").expect("it is what it was");
    assert_eq!(caught.commits.len(), 3);
}

#[test]
fn trap_7_a_log_that_is_cut_or_spliced_is_never_read_as_a_commit() {
    let app = App::begin();
    app.insert(3000);
    let older = std::fs::read(app.log()).expect("read");
    let asked = app.conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0));
    assert_eq!(asked.expect("asked"), 0);
    // The new generation lies over the old one, which is longer.
    app.insert(100);
    let mut tail = app.tail();
    let from = app.begin_at(&mut tail);
    app.insert(400);
    app.insert(400);
    let log = File::options().read(true).write(true).open(app.log()).expect("opens");
    let whole = std::fs::read(app.log()).expect("read");
    let frame = 512 + 24;
    let known = u64::from(from.generation.expect("a log").frames);
    let end = u64::from(tail.look().map(|_| known as u32).expect("looks"));
    assert_eq!(end, known);
    // A frame of the older generation in the place of each that is to be read.
    for number in known..known + 3 {
        let at = 32 + number * frame;
        let old = &older[at as usize..(at + frame) as usize];
        let before = write(&log, at, old);
        assert!(tail.read_on(&from).expect("readable").is_err(), "frame {number}");
        write(&log, at, &before);
        tail.release();
        app.begin_at(&mut tail);
    }
    for cut in (32 + known * frame..32 + (known + 3) * frame).step_by(61) {
        log.set_len(cut).expect("cut");
        assert!(tail.read_on(&from).expect("readable").is_err(), "cut at {cut}");
        log.write_all_at(&whole[cut as usize..], cut).expect("written");
        tail.release();
        app.begin_at(&mut tail);
    }
    let caught = tail.advance(&from).expect("readable").expect("it is what it was");
    assert_eq!(caught.commits.len(), 2);
}
