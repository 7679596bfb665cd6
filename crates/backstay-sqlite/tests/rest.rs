//! A follower that gives up every handle, and what it can still prove when it comes back.

mod support;

use backstay_model::{Clock, Moment};
use backstay_sqlite::{LogCursor, Lost, SqliteError, Tail, TailOptions};
use rusqlite::Connection;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A clock that is years ahead: whatever was written was written long ago.
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> Moment {
        Moment::from_millis(4_000_000_000_000).expect("in range")
    }

    fn uptime(&self) -> Duration {
        Duration::ZERO
    }
}

struct App {
    dir: TempDir,
    conn: Connection,
}

impl App {
    fn begin() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let conn = Connection::open(dir.path().join("app.db")).expect("opens");
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x);
             INSERT INTO t VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .expect("made");
        Self { dir, conn }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).expect("sql");
    }

    /// A tail that rests, and what it knows. `log` commits lie in the log, copied back, when it begins.
    fn resting(&self, log: u32) -> (Tail, LogCursor) {
        let mut tail = self.tail(Arc::new(Ahead));
        let mut known = tail.hold().expect("held");
        for _ in 0..log {
            self.sql("INSERT INTO t VALUES (2)");
        }
        // The hold moves behind the commits, they are copied back, and the hold moves to the main file.
        for _ in 0..2 {
            known = tail.advance(&known).expect("read").expect("nothing is lost").end;
            self.sql("PRAGMA wal_checkpoint(PASSIVE)");
        }
        known = tail.advance(&known).expect("read").expect("nothing is lost").end;
        assert!(tail.rest(&known).expect("readable"), "all is copied back");
        assert!(tail.rests() && !tail.is_stirred());
        self.pass_a_tick();
        (tail, known)
    }

    fn tail(&self, clock: Arc<dyn Clock>) -> Tail {
        Tail::open(&self.path(), TailOptions::in_dir(self.dir.path().to_owned()), clock).expect("opens")
    }

    /// Until the file system would give what is written a later time.
    fn pass_a_tick(&self) {
        let of = |path: &Path| {
            let found = std::fs::metadata(path).expect("there");
            (found.ctime(), found.ctime_nsec())
        };
        let (before, probe) = (of(&self.path()), self.dir.path().join("probe"));
        while !probe.exists() || of(&probe) <= before {
            std::fs::write(&probe, "x").expect("written");
        }
    }
}

fn woken(tail: &mut Tail, known: &LogCursor) -> Result<usize, Lost> {
    tail.wake(known).expect("readable").map(|caught| caught.commits.len())
}

#[test]
fn what_is_committed_during_a_rest_is_read_when_the_log_can_prove_it() {
    for log in [0, 3] {
        for commits in [0, 1, 5] {
            let app = App::begin();
            let (mut tail, known) = app.resting(log);
            for _ in 0..commits {
                app.sql("INSERT INTO t VALUES (3)");
            }
            assert_eq!(tail.is_stirred(), commits > 0);
            assert_eq!(woken(&mut tail, &known), Ok(commits), "{log} before");
            app.sql("INSERT INTO t VALUES (4)");
        }
    }
}

#[test]
fn what_was_copied_back_during_a_rest_is_lost_and_never_gone_on_from() {
    for mode in ["PASSIVE", "TRUNCATE"] {
        for log in [0, 3] {
            let app = App::begin();
            let (mut tail, known) = app.resting(log);
            // What was committed here is in the main file alone, and the next commit begins the log anew over it.
            app.sql(&format!("UPDATE t SET x = 9; PRAGMA wal_checkpoint({mode}); INSERT INTO t VALUES (5)"));
            assert!(tail.is_stirred());
            assert_eq!(woken(&mut tail, &known), Err(Lost::Restarted), "{mode}, {log} before");
        }
    }
    // The same bytes as before are no proof either: two commits were made.
    let app = App::begin();
    let (mut tail, known) = app.resting(1);
    let before = std::fs::read(app.path()).map(|bytes| bytes.len()).expect("readable");
    app.sql("UPDATE t SET x = x + 1; PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET x = x - 1; PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(std::fs::metadata(app.path()).expect("there").len() as usize, before);
    app.sql("INSERT INTO t VALUES (6)");
    assert_eq!(woken(&mut tail, &known), Err(Lost::Restarted));
}

#[test]
fn a_log_that_the_last_user_removed_during_a_rest_had_nothing_new() {
    let app = App::begin();
    let (mut tail, known) = app.resting(2);
    let App { dir, conn } = app;
    drop(conn);
    assert!(!dir.path().join("app.db-wal").exists());
    assert_eq!(woken(&mut tail, &known), Ok(0));
    let conn = Connection::open(dir.path().join("app.db")).expect("opens");
    conn.execute_batch("INSERT INTO t VALUES (7)").expect("inserted");
}

/// Without anybody else SQLite makes an empty log for us, and removes it when we close.
#[test]
fn a_rest_is_not_stirred_by_the_empty_log_that_goes_with_our_own_close() {
    let App { dir, conn } = App::begin();
    drop(conn);
    let path = dir.path().join("app.db");
    let mut tail = Tail::open(&path, TailOptions::in_dir(dir.path().to_owned()), Arc::new(Ahead)).expect("opens");
    let mut known = tail.hold().expect("held");
    for _ in 0..2 {
        assert!(dir.path().join("app.db-wal").exists() && tail.rest(&known).expect("readable"));
        assert!(!dir.path().join("app.db-wal").exists() && !tail.is_stirred());
        known = tail.wake(&known).expect("opens").expect("nothing is lost").end;
    }
    assert!(tail.rest(&known).expect("readable"));
    let app = Connection::open(&path).expect("opens");
    app.execute_batch("INSERT INTO t VALUES (3)").expect("written");
    assert!(tail.is_stirred(), "a log that appears is somebody's");
    assert_eq!(woken(&mut tail, &known), Ok(1));
}

#[test]
fn nothing_rests_that_was_written_just_now_or_is_not_copied_back_and_no_handle_stays() {
    let app = App::begin();
    let real = Moment::from_millis(std::fs::metadata(app.path()).expect("there").ctime() * 1000).expect("in range");
    struct Still(Moment);
    impl Clock for Still {
        fn now(&self) -> Moment {
            self.0
        }
        fn uptime(&self) -> Duration {
            Duration::ZERO
        }
    }
    let mut tail = app.tail(Arc::new(Still(real)));
    let known = tail.hold().expect("held");
    assert!(!tail.rest(&known).expect("readable"), "its times could not tell the next write");
    drop(tail);
    let mut tail = app.tail(Arc::new(Ahead));
    tail.hold().expect("held");
    app.sql("INSERT INTO t VALUES (2)");
    let known = tail.advance(&known).expect("read").expect("all of it").end;
    assert!(!tail.rest(&known).expect("readable"), "the log has more than the main file");
    drop(tail);
    let (mut tail, known) = app.resting(1);
    std::fs::rename(app.path(), app.dir.path().join("moved.db")).expect("renamed");
    assert!(tail.is_stirred());
    assert!(matches!(tail.wake(&known), Err(SqliteError::Missing { .. })));
    assert!(tail.rests(), "it goes on resting");
    std::fs::rename(app.dir.path().join("moved.db"), app.path()).expect("renamed");
    // A rename changes the times of the file: that it is the same bytes is not what they say.
    let _ = woken(&mut tail, &known);
}
