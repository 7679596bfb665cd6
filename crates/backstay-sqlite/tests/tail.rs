//! Following a live log: every commit once, byte for byte what SQLite itself makes of the files after it,
//! whoever commits or checkpoints between any two steps. Named after the traps of following.
//!
//! The oracle is a copy of the files made by another process after each commit and recovered by SQLite:
//! a copy made by this one would drop the locks that are being tested.

mod support;

use backstay_sqlite::{Caught, LogCursor, Lost, Seen, SqliteError, Step, Tail, TailOptions};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use support::{PAGE_SIZES, clock};
use tempfile::TempDir;

/// A numbered xorshift: the same seed, the same life.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// An application, and what its database was after each of its commits.
struct App {
    dir: TempDir,
    conn: Connection,
    shadows: Vec<Vec<u8>>,
}

impl App {
    fn begin(page_size: u32, auto_vacuum: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = Connection::open(dir.path().join("app.db")).expect("opens");
        let setup = format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=WAL;
             PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB); CREATE INDEX i ON t(length(body));"
        );
        conn.execute_batch(&setup).expect("made");
        Self { dir, conn, shadows: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// One transaction, and what the files are after it if it wrote anything.
    fn commit(&mut self, sql: &str) {
        let before = self.image();
        self.sql(sql);
        let after = self.image();
        if before != after {
            self.shadows.push(after);
        }
    }

    fn image(&self) -> Vec<u8> {
        recovered(&self.path())
    }

    /// Whether it got through.
    fn checkpoint(&self, mode: &str) -> bool {
        self.conn.busy_timeout(std::time::Duration::ZERO).expect("set");
        let busy: i64 =
            self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(0)).expect("asked");
        busy == 0
    }

    fn random_act(&mut self, chance: &mut Chance) {
        let n = chance.below(4000);
        match chance.below(14) {
            0..=4 => self.commit(&format!("INSERT INTO t(body) VALUES (randomblob({n}))")),
            5 => self.commit(&format!(
                "BEGIN; INSERT INTO t(body) VALUES (randomblob({n})), (zeroblob({n}));
                 SAVEPOINT s; UPDATE t SET body = randomblob(50); ROLLBACK TO s; DELETE FROM t WHERE id % 5 = 1; COMMIT"
            )),
            6 => self.commit("UPDATE t SET body = randomblob(300) WHERE id % 3 = 0"),
            7 => self.commit("DELETE FROM t WHERE id % 2 = 0"),
            8 => self.commit(&format!(
                "BEGIN; CREATE TABLE x(y); INSERT INTO x VALUES (zeroblob({n}0)); DROP TABLE x; COMMIT"
            )),
            9 => self.commit("PRAGMA incremental_vacuum(3)"),
            10 => drop(self.checkpoint("PASSIVE")),
            11 => drop(self.checkpoint("FULL")),
            12 => drop(self.checkpoint("RESTART")),
            _ => drop(self.checkpoint("TRUNCATE")),
        }
    }
}

/// What SQLite makes of the files at a path, as they lie.
fn recovered(path: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("copy.db");
    for suffix in ["", "-wal"] {
        let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if of(path).exists() {
            let copied = Command::new("cp").arg(of(path)).arg(of(&copy)).status().expect("cp runs");
            assert!(copied.success());
        }
    }
    let conn = Connection::open(&copy).expect("opens");
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).expect("recovers");
    assert_eq!(busy, 0);
    drop(conn);
    std::fs::read(&copy).expect("readable")
}

/// A follower that keeps an image and compares it with the ledger after every commit.
struct Follower {
    tail: Tail,
    cursor: LogCursor,
    image: Vec<u8>,
    compared: usize,
}

impl Follower {
    /// From a capture, with a hold that began before the capture ended.
    fn begin(app: &App, steps: impl Fn(Step) + Send + Sync + 'static) -> Self {
        let mut tail = open(app, steps);
        let mut capture = support::open(&app.path(), app.dir.path()).expect("opens");
        let cursor = capture.cursor().expect("in WAL mode");
        let (mut image, seen) = support::first_pass(&capture);
        tail.hold().expect("holds");
        support::settle(&mut capture, &mut image, seen).expect("settles");
        let mut follower = Self { tail, cursor: cursor.clone(), image, compared: app.shadows.len() };
        let caught = follower.tail.catch_up(&cursor).expect("readable").expect("held");
        follower.take(&caught);
        follower
    }

    fn take(&mut self, caught: &Caught) -> Vec<Vec<u8>> {
        let size = self.cursor.page_size as usize;
        let mut states = Vec::new();
        for commit in &caught.commits {
            self.image.resize(commit.page_count as usize * size, 0xEE);
            for (page, image) in &commit.pages {
                let at = (*page as usize - 1) * size;
                caught.images.read(*image, &mut self.image[at..at + size]).expect("readable");
            }
            states.push(self.image.clone());
        }
        self.cursor = caught.end.clone();
        states
    }

    /// Reads on with the mark where it is; moves it where that cannot be.
    fn ahead(&mut self) -> Result<Vec<Vec<u8>>, Lost> {
        match self.tail.read_ahead(&self.cursor).expect("readable") {
            Some(caught) => Ok(self.take(&caught)),
            None => self.advance(),
        }
    }

    fn advance(&mut self) -> Result<Vec<Vec<u8>>, Lost> {
        let caught = self.tail.advance(&self.cursor).expect("readable")?;
        Ok(self.take(&caught))
    }

    /// Advances, and compares with what the application was after each commit.
    fn follow(&mut self, app: &App, what: &str) {
        let states = self.advance();
        self.compare(states, app, what);
    }

    fn compare(&mut self, states: Result<Vec<Vec<u8>>, Lost>, app: &App, what: &str) {
        for state in states.unwrap_or_else(|lost| panic!("{what}: {lost}")) {
            let shadow = app.shadows.get(self.compared).unwrap_or_else(|| panic!("{what}: a commit nobody made"));
            assert_same(&state, shadow, self.cursor.page_size as usize, &format!("{what}, commit {}", self.compared));
            self.compared += 1;
        }
    }
}

/// Equal, but for what a page holds that the database does not use: a free page that was never written
/// has no content of its own.
fn assert_same(state: &[u8], shadow: &[u8], size: usize, what: &str) {
    assert_eq!(state.len(), shadow.len(), "{what}: the length");
    let free = free_leaves(shadow, size);
    for (at, (a, b)) in state.chunks(size).zip(shadow.chunks(size)).enumerate() {
        assert!(a == b || free.contains(&(at as u32 + 1)), "{what}: page {} of {}", at + 1, state.len() / size);
    }
}

fn free_leaves(image: &[u8], size: usize) -> Vec<u32> {
    let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().expect("four bytes"));
    let (mut leaves, mut trunk) = (Vec::new(), word(32));
    while trunk != 0 {
        let at = (trunk as usize - 1) * size;
        leaves.extend((0..word(at + 4) as usize).map(|n| word(at + 8 + 4 * n)));
        trunk = word(at);
    }
    leaves
}

fn open(app: &App, steps: impl Fn(Step) + Send + Sync + 'static) -> Tail {
    let options = TailOptions { steps: Arc::new(steps), ..TailOptions::in_dir(app.dir.path().to_owned()) };
    Tail::open(&app.path(), options, clock(0)).expect("opens")
}

#[test]
fn every_commit_of_random_lives_comes_once_and_byte_for_byte() {
    for (seed, page_size) in PAGE_SIZES.into_iter().enumerate() {
        let vacuum = ["NONE", "FULL", "INCREMENTAL"][seed % 3];
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1));
        let mut app = App::begin(page_size, vacuum);
        let mut follower = Follower::begin(&app, |_| {});
        for round in 0..20 {
            for _ in 0..chance.below(4) {
                app.random_act(&mut chance);
            }
            let states = if chance.below(2) == 0 { follower.advance() } else { follower.ahead() };
            follower.compare(states, &app, &format!("page size {page_size}, {vacuum}, round {round}"));
            assert_eq!(follower.compared, app.shadows.len(), "nothing is missing");
        }
        assert!(app.shadows.len() > 5, "{}", app.shadows.len());
    }
}

/// Trap 3: between any two of our steps somebody commits, copies back and begins the log anew.
#[test]
fn trap_3_an_adversary_between_every_two_steps_hides_no_commit() {
    for step in [Step::Begun, Step::Read, Step::Proven, Step::Ended] {
        for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            let app = Arc::new(Mutex::new(App::begin(4096, "NONE")));
            app.lock().expect("alone").commit("INSERT INTO t(body) VALUES (randomblob(9000))");
            let adversary = Arc::clone(&app);
            let begun = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let is_on = Arc::clone(&begun);
            let act = move |at| {
                if at == step && is_on.load(std::sync::atomic::Ordering::SeqCst) {
                    let mut app = adversary.lock().expect("alone");
                    app.commit("INSERT INTO t(body) VALUES (randomblob(3000))");
                    app.checkpoint(mode);
                    app.commit("UPDATE t SET body = randomblob(500) WHERE id % 2 = 0");
                    app.checkpoint(mode);
                    app.checkpoint(mode);
                }
            };
            let mut follower = Follower::begin(&app.lock().expect("alone"), act);
            begun.store(true, std::sync::atomic::Ordering::SeqCst);
            for round in 0..6 {
                let states = if round % 2 == 0 { follower.advance() } else { follower.ahead() };
                compare(&mut follower, states, &app, &format!("{step:?} {mode}, round {round}"));
            }
            begun.store(false, std::sync::atomic::Ordering::SeqCst);
            let states = follower.advance();
            compare(&mut follower, states, &app, "the end");
            assert_eq!(follower.compared, app.lock().expect("alone").shadows.len(), "{step:?} {mode}");
        }
    }
}

/// As `compare`, of an application that acted meanwhile.
fn compare(follower: &mut Follower, states: Result<Vec<Vec<u8>>, Lost>, app: &Mutex<App>, what: &str) {
    let app = app.lock().expect("alone");
    for state in states.unwrap_or_else(|lost| panic!("{what}: {lost}")) {
        assert_same(&state, &app.shadows[follower.compared], 4096, what);
        follower.compared += 1;
    }
}

/// Trap 2: with everything copied back SQLite gives slot 0, and a writer may begin the log anew.
#[test]
fn trap_2_slot_0_is_not_a_pin_and_nothing_is_lost_by_it() {
    let mut app = App::begin(4096, "NONE");
    app.commit("INSERT INTO t(body) VALUES (randomblob(20000))");
    assert!(app.checkpoint("FULL"));
    let mut follower = Follower::begin(&app, |_| {});
    let before = follower.cursor.generation.expect("a log").salts;
    for round in 0..5 {
        app.commit("INSERT INTO t(body) VALUES (randomblob(100))");
        follower.follow(&app, &format!("round {round}"));
        assert_eq!(follower.compared, app.shadows.len());
        app.checkpoint("FULL");
        follower.follow(&app, "moved to slot 0");
    }
    assert_ne!(follower.cursor.generation.expect("a log").salts, before, "the log was begun anew under the hold");
}

/// Trap 1: stopped, commits, everything copied back, a shallow new log over the old one.
#[test]
fn trap_1_a_stale_tail_is_never_gone_on_from() {
    let mut app = App::begin(4096, "NONE");
    for _ in 0..20 {
        app.commit("INSERT INTO t(body) VALUES (randomblob(4000))");
    }
    let follower = Follower::begin(&app, |_| {});
    let cursor = follower.cursor.clone();
    drop(follower);
    app.commit("INSERT INTO t(body) VALUES (randomblob(100))");
    app.commit("INSERT INTO t(body) VALUES (randomblob(100))");
    assert!(app.checkpoint("FULL"));
    app.commit("INSERT INTO t(body) VALUES (randomblob(100))");
    let mut again = open(&app, |_| {});
    assert_eq!(again.advance(&cursor).expect("readable").err(), Some(Lost::Restarted));
    // Without the new log the same place is gone on from.
    let follower = Follower::begin(&app, |_| {});
    let cursor = follower.cursor.clone();
    drop(follower);
    app.commit("INSERT INTO t(body) VALUES (randomblob(100))");
    let caught = again.advance(&cursor).expect("readable").expect("the same generation");
    assert_eq!(caught.commits.len(), 1);
}

/// Trap 6: a transaction that does not fit into the cache is in the log long before it is committed.
#[test]
fn trap_6_what_is_not_committed_is_never_shown() {
    let mut app = App::begin(1024, "NONE");
    app.sql("PRAGMA cache_size=2");
    let mut follower = Follower::begin(&app, |_| {});
    app.sql(
        "BEGIN; WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 300)
             INSERT INTO t(body) SELECT randomblob(900) FROM n; SAVEPOINT s; UPDATE t SET body = randomblob(901)",
    );
    assert!(follower.tail.log_len() > 300 << 10, "it spilled: {}", follower.tail.log_len());
    assert_eq!(follower.advance().expect("held").len(), 0);
    app.sql("ROLLBACK TO s; DELETE FROM t WHERE id % 7 = 0");
    assert_eq!(follower.advance().expect("held").len(), 0);
    app.sql("COMMIT");
    app.shadows.push(app.image());
    follower.follow(&app, "one commit");
    assert_eq!(follower.compared, app.shadows.len());
    app.sql("BEGIN; UPDATE t SET body = randomblob(903)");
    assert_eq!(follower.advance().expect("held").len(), 0);
    app.sql("ROLLBACK");
    app.commit("INSERT INTO t(body) VALUES (1)");
    follower.follow(&app, "after a rollback");
    assert_eq!(follower.compared, app.shadows.len());
}

/// Trap 8: shrunk, grown again, vacuumed, with what lies beyond the end left in the main file.
#[test]
fn trap_8_shrinking_and_growing_again() {
    for vacuum in ["NONE", "FULL", "INCREMENTAL"] {
        let mut app = App::begin(512, vacuum);
        let mut follower = Follower::begin(&app, |_| {});
        for round in 0..6 {
            app.commit(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 60)
                 INSERT INTO t(body) SELECT randomblob(700) FROM n",
            );
            if round % 2 == 0 {
                app.checkpoint("PASSIVE");
            }
            app.commit("DELETE FROM t");
            app.commit("PRAGMA incremental_vacuum");
            if round % 3 == 0 {
                follower.follow(&app, vacuum);
                app.checkpoint("TRUNCATE");
            }
            app.commit("VACUUM");
            app.commit("BEGIN; CREATE TABLE x(y); INSERT INTO x VALUES (zeroblob(90000)); DROP TABLE x; COMMIT");
            follower.follow(&app, vacuum);
            assert_eq!(follower.compared, app.shadows.len(), "{vacuum}");
        }
    }
}

/// An application that wants its log begun anew waits for one look, not for its whole timeout.
#[test]
fn a_hold_gets_out_of_the_way_of_a_checkpoint_within_a_look() {
    for mode in ["RESTART", "TRUNCATE"] {
        let mut app = App::begin(4096, "NONE");
        let mut follower = Follower::begin(&app, |_| {});
        app.commit("INSERT INTO t(body) VALUES (randomblob(20000))");
        assert_eq!(follower.tail.look().expect("looks"), Seen::News);
        follower.follow(&app, mode);
        assert!(!app.checkpoint(mode), "the mark of a hold stands in its way");
        assert_eq!(follower.tail.look().expect("looks"), Seen::InTheWay);
        follower.follow(&app, mode);
        assert_eq!(follower.tail.look().expect("looks"), Seen::Nothing);
        assert!(app.checkpoint(mode), "and is out of it");
        app.commit("INSERT INTO t(body) VALUES (randomblob(20))");
        follower.follow(&app, mode);
        assert_eq!(follower.compared, app.shadows.len());
        assert!(follower.tail.look().is_ok_and(|seen| seen == Seen::Nothing));
    }
}

/// While commits go on the mark stays where it is, and a checkpoint of the application finds nothing more to do. What was
/// read is known all the same, and a mark that is behind moves on once nothing new comes.
#[test]
fn what_is_read_ahead_moves_no_mark_and_is_whole() {
    let mut app = App::begin(4096, "NONE");
    let mut follower = Follower::begin(&app, |_| {});
    let copied = |app: &App| -> (i64, i64) {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(1)?, row.get(2)?));
        app.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], row).expect("asked")
    };
    app.commit("INSERT INTO t(body) VALUES (randomblob(9000))");
    follower.follow(&app, "a mark of its own");
    let (marked, _) = copied(&app);
    for round in 0..5 {
        app.commit("INSERT INTO t(body) VALUES (randomblob(9000))");
        assert_eq!(follower.tail.look().expect("looks"), Seen::News);
        let states = follower.ahead();
        assert_eq!(states.as_ref().map(Vec::len), Ok(1));
        follower.compare(states, &app, &format!("round {round}"));
        assert_eq!(copied(&app).1, marked, "no more than up to the mark");
    }
    assert!(follower.tail.log_in_use() >= copied(&app).0.cast_unsigned() * 4096);
    assert_eq!(follower.tail.look().expect("looks"), Seen::Behind);
    follower.follow(&app, "moves on");
    let (frames, all) = copied(&app);
    assert!(all == frames && frames > marked);
    assert_eq!(follower.tail.look().expect("looks"), Seen::InTheWay);
    follower.follow(&app, "to the main file");
    assert!(app.checkpoint("TRUNCATE"));
    app.commit("INSERT INTO t(body) VALUES (1)");
    let states = follower.ahead();
    follower.compare(states, &app, "in the next log");
    assert_eq!(follower.compared, app.shadows.len());
}

/// Trap 9: another file under the path, and a log that is gone with its last user.
#[test]
fn trap_9_a_replaced_file_is_noticed_before_anything_is_believed() {
    let mut app = App::begin(4096, "NONE");
    app.commit("INSERT INTO t(body) VALUES (randomblob(20000))");
    let mut follower = Follower::begin(&app, |_| {});
    let other = App::begin(4096, "NONE");
    std::fs::rename(app.path(), app.dir.path().join("old.db")).expect("renamed");
    std::fs::rename(other.path(), app.path()).expect("renamed");
    assert!(matches!(follower.tail.look(), Err(SqliteError::Replaced { .. })));
    assert!(matches!(follower.tail.advance(&follower.cursor.clone()), Err(SqliteError::Replaced { .. })));
}

/// The log lies beside a path: whoever has the old file open and reads for the first time reads it with the new one's log.
#[test]
fn trap_9_a_file_replaced_between_opening_and_reading_is_told_as_replaced() {
    let mut app = App::begin(4096, "NONE");
    app.commit("INSERT INTO t(body) VALUES (randomblob(200000))");
    // It ends, and all of it is in the main file: nobody in this process has the old log open.
    app.conn = Connection::open_in_memory().expect("opens");
    let (path, other) = (app.path(), App::begin(4096, "NONE"));
    assert!(other.checkpoint("TRUNCATE"));
    // Its log has a page of a database that is shorter than the old first page says.
    other.sql("INSERT INTO t(body) VALUES (1)");
    let theirs = other.path();
    let replaced = AtomicBool::new(false);
    let mut tail = open(&app, move |step| {
        if step == Step::Beginning && !replaced.swap(true, Ordering::SeqCst) {
            for suffix in ["", "-wal", "-shm"] {
                let beside = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
                std::fs::rename(beside(&theirs), beside(&path)).expect("renamed");
            }
        }
    });
    let error = tail.hold().expect_err("it is another file");
    assert!(matches!(error, SqliteError::Replaced { .. }), "{error}");
}

#[test]
fn trap_9_a_log_that_went_with_its_last_user_is_not_gone_on_from() {
    let mut app = App::begin(4096, "NONE");
    app.commit("INSERT INTO t(body) VALUES (randomblob(20000))");
    let follower = Follower::begin(&app, |_| {});
    let cursor = follower.cursor.clone();
    drop(follower);
    let path = app.path();
    drop(std::mem::replace(&mut app.conn, Connection::open_in_memory().expect("opens")));
    assert!(!PathBuf::from(format!("{}-wal", path.display())).exists(), "the last close removes the log");
    app.conn = Connection::open(&path).expect("opens");
    let mut again = open(&app, |_| {});
    assert_eq!(again.advance(&cursor).expect("readable").err(), Some(Lost::Restarted));
    let empty = LogCursor { generation: None, ..cursor };
    again.release();
    assert_eq!(again.advance(&empty).expect("readable").err(), Some(Lost::Restarted), "no log proves nothing");
    drop(again);
    app.sql("PRAGMA journal_mode=DELETE");
    let mut again = open(&app, |_| {});
    assert!(matches!(again.advance(&empty), Err(SqliteError::NotWal { .. })));
}

/// Trap 4: versions before 3.51.3 lose commits when the log is copied back by two at once while a commit begins it anew.
/// We copy back only while no commit can come in between, whatever version the application has.
#[test]
fn trap_4_the_log_is_copied_back_only_while_nobody_can_commit() {
    let app = App::begin(4096, "NONE");
    let path = app.path();
    let refused = Arc::new(Mutex::new(Vec::new()));
    let seen = refused.clone();
    let mut tail = open(&app, move |step| {
        if matches!(step, Step::Locked | Step::CopiedBack) {
            let other = Connection::open(&path).expect("opens");
            other.busy_timeout(std::time::Duration::ZERO).expect("set");
            seen.lock().expect("alone").push((step, other.execute_batch("BEGIN IMMEDIATE").is_err()));
        }
    });
    let cursor = tail.hold().expect("holds");
    app.sql("INSERT INTO t(body) VALUES (randomblob(50000))");
    let cursor = tail.advance(&cursor).expect("reads").expect("nothing lost").end;
    // SQLite's own account of the log: frames, and how many of them are copied back.
    let copied = || {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        app.conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], row).expect("asked")
    };
    assert!(!tail.copy_back().expect("asked"), "not without the writer's lock");
    assert!(copied().1 < copied().0, "and nothing was: {:?}", copied());
    assert!(tail.lock_writers(std::time::Duration::from_secs(1)).expect("locked"));
    let caught = tail.advance(&cursor).expect("reads").expect("nothing lost");
    assert!(caught.commits.is_empty() && tail.copy_back().expect("copied back"));
    tail.unlock_writers();
    assert_eq!(*refused.lock().expect("alone"), [(Step::Locked, true), (Step::CopiedBack, true)]);
    assert_eq!(copied().0, copied().1);
    app.sql("INSERT INTO t(body) VALUES (1)");
}

#[test]
fn the_writers_lock_is_got_beside_one_who_never_pauses_and_given_back_with_the_tail() {
    let app = App::begin(4096, "NONE");
    let mut tail = open(&app, |_| {});
    tail.hold().expect("holds");
    let path = app.path();
    let is_over = AtomicBool::new(false);
    let got = std::thread::scope(|scope| {
        scope.spawn(|| {
            let conn = Connection::open(&path).expect("opens");
            conn.busy_timeout(std::time::Duration::from_secs(20)).expect("set");
            conn.execute_batch("PRAGMA synchronous=OFF").expect("set");
            while !is_over.load(Ordering::SeqCst) {
                conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(body) VALUES (1); COMMIT").expect("written");
            }
        });
        let tries = (0..40).filter(|_| {
            let got = tail.lock_writers(std::time::Duration::from_millis(5)).expect("asked");
            tail.unlock_writers();
            std::thread::sleep(std::time::Duration::from_millis(2));
            got
        });
        let got = tries.count();
        is_over.store(true, Ordering::SeqCst);
        got
    });
    assert!(got >= 30, "{got} of 40");
    // Whoever goes with the lock keeps nobody out.
    assert!(tail.lock_writers(std::time::Duration::from_secs(1)).expect("asked"));
    app.conn.busy_timeout(std::time::Duration::ZERO).expect("set");
    assert!(app.conn.execute_batch("BEGIN IMMEDIATE").is_err());
    drop(tail);
    app.sql("INSERT INTO t(body) VALUES (1)");
}
