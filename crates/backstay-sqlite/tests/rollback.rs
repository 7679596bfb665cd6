//! Captures of databases with a rollback journal.

mod support;

use backstay_model::{Kind, Kinded};
use backstay_sqlite::{Capture, CaptureOptions, HoldKind, JournalMode, PinLoss, SqliteError};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;

fn db(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("app.db")
}

#[test]
fn every_page_size_and_journal_mode_is_captured() {
    for page_size in PAGE_SIZES {
        for journal in ["delete", "truncate", "persist", "memory", "off"] {
            let dir = tempfile::tempdir().expect("a directory");
            let conn = make(&db(&dir), page_size, journal);
            insert(&conn, 60);
            let (image, settled) = capture(&db(&dir)).expect("captured");
            assert_eq!(check(&image, ledger), ledger(&conn), "{page_size} {journal}");
            assert_eq!(image, std::fs::read(db(&dir)).expect("there"));
            assert_eq!((settled.report.hold_kind, settled.report.units_retaken), (HoldKind::SharedRehash, 0));
        }
    }
}

#[test]
fn what_was_committed_after_the_first_pass_is_taken_again() {
    for page_size in [512, 4096, 65_536] {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = make(&db(&dir), page_size, "delete");
        insert(&conn, 1000);
        for change in ["UPDATE t SET body = zeroblob(60) WHERE id = 500", "DELETE FROM t WHERE id > 20; VACUUM", ""] {
            let mut held = open(&db(&dir), dir.path()).expect("opens");
            let (mut image, seen) = first_pass(&held);
            conn.execute_batch(change).expect("changed");
            if change.is_empty() {
                insert(&conn, 2000);
            }
            let settled = settle(&mut held, &mut image, seen).expect("settles");
            assert_eq!(image, std::fs::read(db(&dir)).expect("there"), "{page_size} {change}");
            assert!(settled.report.units_retaken > 0);
        }
    }
}

#[test]
fn every_capture_under_a_writer_keeps_the_invariant() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = db(&dir);
    let conn = make(&path, 1024, "delete");
    conn.execute_batch(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, pad BLOB);
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 300)
         INSERT INTO account SELECT x, 100, randomblob(300) FROM n;",
    )
    .expect("made");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = Stop(&stop);
        for writer in 0..2 {
            let (path, stop) = (&path, &stop);
            scope.spawn(move || transfer(path, writer, stop));
        }
        let (mut retaken, mut round) = (0, 0);
        // Who gets in between two passes is for the machine to say: on a fast one most captures are done before anybody could.
        while round < 30 || retaken == 0 {
            assert!(round < 3000, "the writers must have got in between the passes");
            let (image, settled) = capture(&path).expect("captured");
            retaken += settled.report.units_retaken;
            let sum: i64 = check(&image, |conn| {
                conn.query_row("SELECT sum(amount) FROM account", [], |row| row.get(0)).expect("answers")
            });
            assert_eq!(sum, 30_000, "round {round}");
            round += 1;
        }
        drop(guard);
    });
}

fn transfer(path: &Path, writer: i64, stop: &AtomicBool) {
    let conn = Connection::open(path).expect("opens");
    conn.busy_timeout(Duration::from_secs(20)).expect("set");
    conn.pragma_update(None, "synchronous", "OFF").expect("set");
    let mut n = writer;
    while !stop.load(Ordering::SeqCst) {
        n = (n * 7919 + 13) % 300;
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; UPDATE account SET amount = amount - 5, pad = randomblob(200) WHERE id = {};
             UPDATE account SET amount = amount + 5, pad = randomblob(400) WHERE id = {}; COMMIT",
            n + 1,
            (n + 150) % 300 + 1
        ))
        .expect("transferred");
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn options(dir: &Path, hold_max: Duration) -> CaptureOptions {
    CaptureOptions { busy: Duration::from_secs(20), hold_max, ..CaptureOptions::in_dir(dir.to_owned()) }
}

#[test]
fn a_long_comparison_gives_writers_a_turn_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    insert(&conn, 16_000);
    // Each look at the clock takes ten milliseconds: a hold of 20 ms is over after a few batches.
    let mut held = Capture::open(&db(&dir), options(dir.path(), Duration::from_millis(20)), clock(10)).expect("opens");
    let (mut image, mut seen) = first_pass(&held);
    let mut settled = held.settle(&mut seen, &hasher()).expect("settles");
    assert_eq!(settled.report.hold_kind, HoldKind::Chunked);
    assert!(settled.changed.next().expect("readable").is_none());
    image.truncate(settled.len.get() as usize);
    assert_eq!(image, std::fs::read(db(&dir)).expect("there"));
}

#[test]
fn a_writer_in_every_pause_leads_to_one_long_hold_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = db(&dir);
    let conn = make(&path, 4096, "delete");
    insert(&conn, 16_000);
    let stop = AtomicBool::new(false);
    let started = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = Stop(&stop);
        scope.spawn(|| {
            let writer = Connection::open(&path).expect("opens");
            writer.busy_timeout(Duration::from_secs(20)).expect("set");
            writer.pragma_update(None, "synchronous", "OFF").expect("set");
            while !stop.load(Ordering::SeqCst) {
                writer
                    .execute_batch("UPDATE t SET body = randomblob(50) WHERE id = 1 + abs(random()) % 900")
                    .expect("ok");
                started.store(true, Ordering::SeqCst);
            }
        });
        while !started.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut held = Capture::open(&path, options(dir.path(), Duration::from_millis(15)), clock(10)).expect("opens");
        let (mut image, seen) = first_pass(&held);
        let settled = settle(&mut held, &mut image, seen).expect("settles");
        drop(guard);
        let kind = settled.report.hold_kind;
        assert!(matches!(kind, HoldKind::Long | HoldKind::Reflink | HoldKind::Chunked), "{kind:?}");
        check(&image, ledger);
    });
}

#[test]
fn a_hot_journal_is_rolled_back_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 1024, "delete");
    insert(&conn, 500);
    let want = ledger(&conn);
    // A writer dies in the middle of its commit: pages are in the main file, the journal is complete.
    conn.execute_batch("PRAGMA synchronous=FULL; PRAGMA cache_size=5; PRAGMA cache_spill=5; BEGIN IMMEDIATE; UPDATE t SET body = zeroblob(40)")
        .expect("begun");
    let crashed = dir.path().join("crashed");
    std::fs::create_dir(&crashed).expect("made");
    for name in ["app.db", "app.db-journal"] {
        std::fs::copy(dir.path().join(name), crashed.join(name)).expect("copied");
    }
    let torn = std::fs::read(crashed.join("app.db")).expect("there");
    let (image, _) = capture(&crashed.join("app.db")).expect("captured");
    assert_ne!(image, torn, "the crash must have left pages behind");
    assert_eq!(check(&image, ledger), want);
}

#[test]
fn auto_vacuum_and_shrinking_are_followed() {
    for mode in [1, 2] {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = Connection::open(db(&dir)).expect("opens");
        conn.execute_batch(&format!(
            "PRAGMA page_size=1024; PRAGMA auto_vacuum={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB)"
        ))
        .expect("made");
        insert(&conn, 3000);
        let mut held = open(&db(&dir), dir.path()).expect("opens");
        let (mut image, seen) = first_pass(&held);
        conn.execute_batch("DELETE FROM t WHERE id % 2; PRAGMA incremental_vacuum(500)").expect("shrunk");
        let before = image.len();
        settle(&mut held, &mut image, seen).expect("settles");
        assert!(image.len() < before);
        assert_eq!(image, std::fs::read(db(&dir)).expect("there"));
        assert_eq!(check(&image, ledger), ledger(&conn));
    }
}

#[test]
fn a_switch_to_wal_between_the_passes_is_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    insert(&conn, 100);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    let (mut image, seen) = first_pass(&held);
    conn.query_row("PRAGMA journal_mode=wal", [], |_| Ok(())).expect("set");
    insert(&conn, 100);
    let settled = settle(&mut held, &mut image, seen).expect("settles");
    assert_eq!((settled.facts.journal, settled.report.hold_kind), (JournalMode::Wal, HoldKind::ReadMark));
    assert_eq!(check(&image, ledger), ledger(&conn));
}

#[test]
fn another_page_size_between_the_passes_is_a_conflict() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    insert(&conn, 10);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    let (mut image, seen) = first_pass(&held);
    conn.execute_batch("PRAGMA page_size=8192; VACUUM").expect("vacuumed");
    let error = settle(&mut held, &mut image, seen).err().expect("refused");
    assert!(matches!(error, SqliteError::PinLost { why: PinLoss::PageSizeChanged, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn deleted_or_replaced_meanwhile_is_a_conflict() {
    for replaced in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = make(&db(&dir), 4096, "delete");
        insert(&conn, 10);
        let mut held = open(&db(&dir), dir.path()).expect("opens");
        let (mut image, seen) = first_pass(&held);
        std::fs::remove_file(db(&dir)).expect("removed");
        if replaced {
            insert(&make(&db(&dir), 4096, "delete"), 3);
        }
        let error = settle(&mut held, &mut image, seen).err().expect("refused");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
    }
}

#[test]
fn an_empty_file_is_a_database_without_pages() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(db(&dir), b"").expect("written");
    let (image, settled) = capture(&db(&dir)).expect("captured");
    assert_eq!((image.len(), settled.page_count, settled.facts.page_size.get()), (0, 0, 4096));
}

#[test]
fn the_page_with_the_lock_bytes_reads_as_zeros() {
    use std::os::unix::fs::FileExt;
    const LOCK: u64 = 1 << 30;
    for page_size in [512_u32, 4096, 65_536] {
        let dir = tempfile::tempdir().expect("a directory");
        drop(make(&db(&dir), page_size, "delete"));
        // A sparse file that claims to reach beyond the lock bytes, with rubbish all around them.
        let file = std::fs::OpenOptions::new().write(true).open(db(&dir)).expect("opens");
        let pages = (LOCK / u64::from(page_size) + 200) as u32;
        file.set_len(u64::from(pages) * u64::from(page_size)).expect("sparse");
        file.write_all_at(&pages.to_be_bytes(), 28).expect("written");
        let span = u64::from(page_size) * 4;
        file.write_all_at(&vec![0xAA; span as usize * 2], LOCK - span).expect("written");
        drop(file);
        let held = open(&db(&dir), dir.path()).expect("opens");
        let mut around = vec![0; span as usize * 2];
        held.read_at(LOCK - span, &mut around).expect("readable");
        let inside = |at: u64| (LOCK..LOCK + u64::from(page_size)).contains(&at);
        let right = |(at, byte): (usize, &u8)| *byte == if inside(LOCK - span + at as u64) { 0 } else { 0xAA };
        assert!(around.iter().enumerate().all(right), "page size {page_size}");
        let mut inside = [1; 7];
        held.read_at(LOCK + 5, &mut inside).expect("readable");
        assert_eq!(inside, [0; 7]);
    }
}

#[test]
fn what_is_no_database_is_named_for_what_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        capture(&path).err().expect("refused")
    };
    assert!(matches!(refused(&b"just some text, longer than a header. ".repeat(40)), SqliteError::NotADatabase { .. }));
    let mut noise = vec![0_u8; 8192];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    assert!(matches!(refused(&noise), SqliteError::Encrypted { .. }));
    drop(make(&db(&dir), 4096, "delete"));
    let whole = std::fs::read(db(&dir)).expect("there");
    let mut broken = whole.clone();
    broken[100..4096].fill(0xFF);
    assert!(matches!(refused(&broken), SqliteError::Malformed { .. }));
    assert!(matches!(refused(&whole[..4096]), SqliteError::Malformed { .. }), "half of it is missing");
    assert!(matches!(refused(&whole[..50]), SqliteError::NotADatabase { .. } | SqliteError::Malformed { .. }));
    assert!(matches!(capture(dir.path()).err(), Some(SqliteError::NotAFile { .. })));
    assert!(matches!(capture(&dir.path().join("none")).err(), Some(SqliteError::Missing { .. })));
}
