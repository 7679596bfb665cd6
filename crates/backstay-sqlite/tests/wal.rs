//! Captures of databases in WAL mode, with real writers and checkpoints beside them.

mod support;

use backstay_model::{ByteLen, Kind, Kinded};
use backstay_sqlite::{Capture, CaptureOptions, HoldKind, JournalMode, PinLoss, SqliteError};
use rusqlite::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use support::*;

fn no_autocheckpoint(conn: &Connection) {
    conn.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
}

fn checkpoint(conn: &Connection, mode: &str) -> (i64, i64, i64) {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .expect("checkpoints")
}

fn db(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("app.db")
}

#[test]
fn frames_not_yet_copied_back_are_part_of_the_image_at_every_page_size() {
    for page_size in PAGE_SIZES {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = make(&db(&dir), page_size, "wal");
        no_autocheckpoint(&conn);
        insert(&conn, 100);
        let want = ledger(&conn);
        let (image, settled) = capture(&db(&dir)).expect("captured");
        assert_eq!(settled.facts.page_size.get(), page_size);
        assert_eq!(settled.report.hold_kind, HoldKind::ReadMark);
        assert!(settled.report.wal_frames > 0);
        assert_eq!(check(&image, ledger), want, "page size {page_size}");
    }
}

#[test]
fn a_partly_copied_log_and_later_commits_leave_the_state_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 300);
    let want = ledger(&conn);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    insert(&conn, 300);
    conn.execute_batch("UPDATE t SET body = randomblob(77) WHERE id % 3 = 0").expect("updated");
    let (_, log, copied) = checkpoint(&conn, "PASSIVE");
    assert!(copied < log, "the mark must stop the checkpoint: {copied} of {log}");
    conn.busy_timeout(std::time::Duration::ZERO).expect("set");
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        assert_eq!(checkpoint(&conn, mode).0, 1, "{mode} must find us in its way");
    }
    let (mut image, seen) = first_pass(&held);
    settle(&mut held, &mut image, seen).expect("settles");
    assert_eq!(check(&image, ledger), want);
    assert_eq!(checkpoint(&conn, "TRUNCATE").0, 0, "nothing is held after settling");
}

#[test]
fn a_log_that_grows_too_far_under_a_capture_is_let_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    insert(&conn, 10);
    let options =
        CaptureOptions { log_growth_max: ByteLen::new(256 << 10), ..CaptureOptions::in_dir(dir.path().to_owned()) };
    let held = Capture::open(&db(&dir), options, clock(0)).expect("opens");
    held.check_log().expect("nothing was written yet");
    while std::fs::metadata(dir.path().join("app.db-wal")).expect("a log").len() <= 400 << 10 {
        conn.execute_batch("UPDATE t SET body = randomblob(700)").expect("updated");
        insert(&conn, 20);
    }
    let error = held.check_log().expect_err("it grew");
    assert!(matches!(error, SqliteError::LogGrew { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
    drop(held);
    assert_eq!(checkpoint(&conn, "TRUNCATE").0, 0, "nothing is held afterwards");
}

/// What is busy gets its log back, and the capture is still one state: the one at the end.
#[test]
fn a_state_that_was_let_go_for_a_busy_log_is_compared_once_more() {
    for (page_size, early) in [(512, true), (4096, false), (4096, true), (65536, false)] {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = make(&db(&dir), page_size, "wal");
        no_autocheckpoint(&conn);
        insert(&conn, 500);
        let mut options = CaptureOptions::in_dir(dir.path().to_owned());
        (options.let_go, options.log_growth_max) = (Some(ByteLen::new(256 << 10)), ByteLen::new(4 << 20));
        let mut held = Capture::open(&db(&dir), options, clock(0)).expect("opens");
        held.check_log().expect("nothing was written yet");
        let before = early.then(|| first_pass(&held));
        conn.busy_timeout(std::time::Duration::ZERO).expect("set");
        let mut rounds = 0;
        while std::fs::metadata(dir.path().join("app.db-wal")).expect("a log").len() <= 1 << 20 {
            conn.execute_batch("UPDATE t SET body = randomblob(700) WHERE id % 2 = 0").expect("updated");
            insert(&conn, 20);
            rounds += 1;
        }
        assert_eq!(checkpoint(&conn, "TRUNCATE").0, 1, "it is held until somebody looks");
        held.check_log().expect("it may let go");
        assert_eq!(checkpoint(&conn, "TRUNCATE").0, 0, "{rounds} rounds: nothing is held any more");
        conn.execute_batch("DELETE FROM t WHERE id % 5 = 0; UPDATE t SET body = randomblob(90) WHERE id % 3 = 0")
            .expect("changed");
        held.check_log().expect("it holds nothing");
        let (mut image, seen) = before.unwrap_or_else(|| first_pass(&held));
        insert(&conn, 300);
        let want = ledger(&conn);
        let settled = settle(&mut held, &mut image, seen).expect("settles");
        assert_eq!((settled.report.passes, settled.report.hold_kind), (2, HoldKind::ReadMark));
        assert_eq!(check(&image, ledger), want, "page size {page_size}");
        assert_eq!(checkpoint(&conn, "TRUNCATE").0, 0, "nothing is held after settling");
    }
}

#[test]
fn a_log_copied_back_whole_and_restarted_under_us_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 300);
    let (_, log, copied) = checkpoint(&conn, "PASSIVE");
    assert_eq!(log, copied);
    let want = ledger(&conn);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    // Slot 0 is held: this commit restarts the log and overwrites its first frames.
    conn.execute_batch("DELETE FROM t WHERE id < 200").expect("deleted");
    insert(&conn, 50);
    let (mut image, seen) = first_pass(&held);
    let settled = settle(&mut held, &mut image, seen).expect("settles");
    assert_eq!(settled.report.wal_frames, 0);
    assert_eq!(check(&image, ledger), want);
}

#[test]
fn the_length_is_that_of_the_transaction_not_of_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 1024, "wal");
    insert(&conn, 2000);
    checkpoint(&conn, "TRUNCATE");
    no_autocheckpoint(&conn);
    let whole = std::fs::metadata(db(&dir)).expect("there").len();
    conn.execute_batch("DELETE FROM t WHERE id > 100; VACUUM;").expect("vacuumed");
    let want = ledger(&conn);
    let (image, settled) = capture(&db(&dir)).expect("captured");
    assert!((image.len() as u64) < whole);
    assert_eq!(settled.len.get(), u64::from(settled.page_count) * 1024);
    assert_eq!(check(&image, ledger), want);
    // And growth that so far is in the log alone.
    insert(&conn, 3000);
    let (image, _) = capture(&db(&dir)).expect("captured");
    assert_eq!(check(&image, ledger), ledger(&conn));
}

#[test]
fn every_capture_beside_writers_and_checkpoints_keeps_the_invariant() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = db(&dir);
    let conn = make(&path, 4096, "wal");
    conn.execute_batch(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, pad BLOB);
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 400)
         INSERT INTO account SELECT x, 100, randomblob(500) FROM n;",
    )
    .expect("made");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = Stop(&stop);
        for writer in 0..2 {
            let (path, stop) = (&path, &stop);
            scope.spawn(move || transfer(path, writer, stop));
        }
        scope.spawn(|| {
            let conn = Connection::open(&path).expect("opens");
            conn.busy_timeout(std::time::Duration::from_millis(50)).expect("set");
            for mode in ["PASSIVE", "TRUNCATE", "RESTART", "FULL"].iter().cycle() {
                checkpoint(&conn, mode);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        for round in 0..40 {
            let (image, _) = capture(&path).expect("captured");
            let sum: i64 = check(&image, |conn| {
                conn.query_row("SELECT sum(amount) FROM account", [], |row| row.get(0)).expect("answers")
            });
            assert_eq!(sum, 40_000, "round {round}");
        }
        drop(guard);
    });
}

fn transfer(path: &Path, writer: i64, stop: &AtomicBool) {
    let conn = Connection::open(path).expect("opens");
    conn.busy_timeout(std::time::Duration::from_secs(20)).expect("set");
    conn.pragma_update(None, "synchronous", "OFF").expect("set");
    conn.pragma_update(None, "wal_autocheckpoint", 30).expect("set");
    let mut n = writer;
    while !stop.load(Ordering::SeqCst) {
        n = (n * 7919 + 13) % 400;
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; UPDATE account SET amount = amount - 5, pad = randomblob(500) WHERE id = {} ;
             UPDATE account SET amount = amount + 5, pad = randomblob(700) WHERE id = {}; COMMIT",
            n + 1,
            (n + 200) % 400 + 1
        ))
        .expect("transferred");
    }
}

#[test]
fn closing_never_takes_the_log_of_the_application_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 10);
    // The application dies: its log stays, and ours is the only connection from here on.
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).expect("made");
    for name in ["app.db", "app.db-wal"] {
        std::fs::copy(dir.path().join(name), kept.join(name)).expect("copied");
    }
    let before = std::fs::read(kept.join("app.db-wal")).expect("there");
    let main = std::fs::read(kept.join("app.db")).expect("there");
    let (image, _) = capture(&kept.join("app.db")).expect("captured");
    assert_eq!(check(&image, ledger), ledger(&conn));
    assert_eq!(std::fs::read(kept.join("app.db-wal")).expect("still there"), before);
    assert_eq!(std::fs::read(kept.join("app.db")).expect("still there"), main);
}

#[test]
fn looking_at_a_closed_database_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    insert(&conn, 10);
    let want = ledger(&conn);
    conn.close().expect("closed");
    let (image, settled) = capture(&db(&dir)).expect("captured");
    assert_eq!((check(&image, ledger), settled.facts.journal), (want, JournalMode::Wal));
    let names: Vec<_> = std::fs::read_dir(dir.path()).expect("there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["app.db"]);
}

#[test]
fn a_file_put_in_its_place_is_a_conflict() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    insert(&conn, 10);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    let (mut image, seen) = first_pass(&held);
    let other = dir.path().join("other.db");
    make(&other, 4096, "delete");
    std::fs::rename(&other, db(&dir)).expect("renamed");
    let error = settle(&mut held, &mut image, seen).err().expect("refused");
    assert!(matches!(error, SqliteError::Replaced { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn a_log_overwritten_behind_sqlites_back_is_a_conflict() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 10);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    let (mut image, seen) = first_pass(&held);
    let log = dir.path().join("app.db-wal");
    let mut bytes = std::fs::read(&log).expect("there");
    bytes[17] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    let error = settle(&mut held, &mut image, seen).err().expect("refused");
    assert!(matches!(error, SqliteError::PinLost { why: PinLoss::LogRestarted, .. }), "{error}");
}

#[test]
fn locks_outlive_other_looks_from_the_same_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 100);
    let want = ledger(&conn);
    let mut held = open(&db(&dir), dir.path()).expect("opens");
    drop(open(&db(&dir), dir.path()).expect("opens again"));
    backstay_sqlite::holders(&db(&dir));
    capture(&db(&dir)).expect("captured");
    // Another process sees our mark: it may neither restart nor truncate the log.
    insert(&conn, 100);
    let said = std::process::Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "child_truncates", "--nocapture"])
        .env("BACKSTAY_TEST_CHILD_DB", db(&dir))
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("busy=1"), "{said}");
    let (mut image, seen) = first_pass(&held);
    settle(&mut held, &mut image, seen).expect("settles");
    assert_eq!(check(&image, ledger), want);
}

/// The other process of the test above; does nothing when run on its own.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent test says through the environment which file it means")]
fn child_truncates() {
    let Some(path) = std::env::var_os("BACKSTAY_TEST_CHILD_DB") else { return };
    let conn = Connection::open(path).expect("opens");
    conn.busy_timeout(std::time::Duration::ZERO).expect("set");
    println!("busy={}", checkpoint(&conn, "TRUNCATE").0);
}

#[test]
fn a_link_leads_to_the_log_of_the_file_it_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 10);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let link = elsewhere.path().join("link.db");
    std::os::unix::fs::symlink(db(&dir), &link).expect("linked");
    let (image, settled) = capture(&link).expect("captured");
    assert_eq!(check(&image, ledger), ledger(&conn));
    assert_eq!(settled.facts.path, std::fs::canonicalize(db(&dir)).expect("there"));
}

#[test]
fn a_large_open_transaction_that_spilled_is_not_part_of_the_image() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    no_autocheckpoint(&conn);
    insert(&conn, 100);
    let want = ledger(&conn);
    conn.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=5; BEGIN IMMEDIATE").expect("begun");
    insert(&conn, 2000);
    conn.execute_batch("UPDATE t SET body = zeroblob(90)").expect("updated");
    let (image, _) = capture(&db(&dir)).expect("captured");
    assert_eq!(check(&image, ledger), want);
    conn.execute_batch("ROLLBACK").expect("rolled back");
}

#[test]
fn a_program_in_exclusive_locking_mode_is_named_as_a_lock() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=DELETE; PRAGMA journal_mode=WAL")
        .expect("set");
    insert(&conn, 1);
    let options = backstay_sqlite::CaptureOptions {
        busy: std::time::Duration::from_millis(20),
        ..backstay_sqlite::CaptureOptions::in_dir(dir.path().to_owned())
    };
    let error = backstay_sqlite::Capture::open(&db(&dir), options, clock(1)).err().expect("refused");
    assert!(matches!(error, SqliteError::Locked { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
}
