//! Restoring into a database that is in use: one transaction for everybody else, only pages that differ, and the
//! old state under a name.

mod rig;
mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Kind, Kinded, Tx};
use backstay_ops::OpsError;
use backstay_ops::env::blocking;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::query::{Asker, CACHE_USUAL, Reading};
use backstay_ops::restore::{Destination, RestoreReport};
use backstay_ops::rows::{self, BackReport, BackRequest};
use backstay_sqlite::SqliteError;
use backstay_sqlite::rows::{BringRequest, OnConflict};
use backstay_testkit::effects::Effects;
use rig::{Ended, Making, Process, Run, crash, image};
use rusqlite::Connection;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use world::{World, integrity_of, rows_of, source};

struct App {
    world: World,
    conn: Connection,
}

impl App {
    async fn begin(journal: &str, page_size: u32) -> Self {
        let world = World::new().await;
        let conn = Connection::open(world.db()).expect("open");
        conn.busy_timeout(Duration::from_secs(20)).expect("set");
        conn.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
             INSERT INTO t(x) SELECT randomblob(900) FROM n;"
        ))
        .expect("made");
        Self { world, conn }
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A log that somebody keeps from its beginning while all rows change six times. Gives its length.
    fn long_log(&self) -> (Connection, u64) {
        let reader = Connection::open(self.world.db()).expect("open");
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("a view that keeps the log from its beginning");
        self.sql("PRAGMA wal_autocheckpoint=0");
        for _ in 0..6 {
            self.sql("UPDATE t SET x = randomblob(900)");
        }
        let log = fs::metadata(format!("{}-wal", self.world.db().display())).expect("a log");
        (reader, log.len())
    }

    async fn snapshot(&self) -> (String, String) {
        let report = self.world.backup().await.expect("backup");
        (report.snapshot.to_string(), self.world.rows())
    }

    async fn back_to(&self, id: &str) -> Result<RestoreReport, OpsError> {
        self.world.restore_into(Target::Id(id.to_owned()), Destination::Live(self.world.db())).await
    }

    /// The rows alone.
    async fn rows_of_before(&self, id: &str) -> Result<BackReport, OpsError> {
        let reading = Reading { cache: CACHE_USUAL };
        let asker = Asker::new(&self.world.vault, reading);
        let past = asker.open(&source(), &Target::Id(id.to_owned())).await.expect("the moment opens");
        let rows = BringRequest {
            table: "t".into(),
            condition: None,
            rename: None,
            on_conflict: OnConflict::Replace,
            fire_triggers: false,
        };
        let request =
            BackRequest { rows, live: self.world.db(), source: self.world.db(), busy: Duration::from_secs(2) };
        blocking(|| {
            let plan = rows::look(&asker, &past, &request)?;
            rows::into_live(&self.world.vault.env, &asker, &plan, &request)
        })
    }

    fn beside(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.world.dir()).expect("a folder").flatten().map(|entry| entry.path());
        let mut names: Vec<PathBuf> = names.filter(|path| path.to_string_lossy().contains("before-restore")).collect();
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_differs_is_written_and_the_old_state_is_kept() {
    for (journal, page_size) in [("WAL", 4096), ("DELETE", 4096), ("WAL", 512), ("TRUNCATE", 65_536), ("WAL", 65_536)] {
        let app = App::begin(journal, page_size).await;
        let (first, rows) = app.snapshot().await;
        app.sql("UPDATE t SET x = randomblob(900) WHERE id IN (7, 150)");
        let old = app.world.rows();
        let report = app.back_to(&first).await.unwrap_or_else(|error| panic!("{journal} {page_size}: {error}"));
        let exchanged = report.exchanged.expect("exchanged");
        assert_eq!(
            (exchanged.page_size, exchanged.before, exchanged.after),
            (page_size, exchanged.after, exchanged.before)
        );
        let most = if page_size == 512 { 12 } else { 5 };
        assert!((2..=most).contains(&exchanged.changed), "{journal} {page_size}: {exchanged:?}");
        assert!(app.world.rows() == rows, "{journal} {page_size}: it is what it was");
        assert_eq!(integrity_of(&app.world.db()), "ok");
        let [kept] = report.kept.as_slice() else { panic!("{:?}", report.kept) };
        assert!(rows_of(&kept.now) == old && integrity_of(&kept.now) == "ok", "the old state is kept");
        // And the same once more is nothing at all.
        let again = app.back_to(&first).await.expect("restored");
        assert_eq!((again.exchanged.map(|e| e.changed), again.kept.len()), (Some(0), 0));
        app.sql("INSERT INTO t(x) VALUES ('and on')");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_becomes_shorter_and_longer() {
    for journal in ["WAL", "DELETE"] {
        let app = App::begin(journal, 1024).await;
        let (small, small_rows) = app.snapshot().await;
        app.sql("INSERT INTO t(x) SELECT randomblob(3000) FROM t; CREATE TABLE u(y); INSERT INTO u SELECT x FROM t");
        let (large, large_rows) = app.snapshot().await;
        for (id, rows) in [(&small, &small_rows), (&large, &large_rows), (&small, &small_rows)] {
            let report = app.back_to(id).await.expect("restored");
            let exchanged = report.exchanged.expect("exchanged");
            assert!(exchanged.before != exchanged.after, "{exchanged:?}");
            assert!(app.world.rows() == *rows, "{journal}");
            assert_eq!(integrity_of(&app.world.db()), "ok");
            let pages: u32 = app.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("asked");
            assert_eq!(pages, exchanged.after);
        }
        assert_eq!(app.beside().iter().filter(|path| !path.to_string_lossy().contains("-wal")).count(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_keep_their_view_and_writers_wait() {
    let app = App::begin("WAL", 4096).await;
    let (first, _) = app.snapshot().await;
    app.sql("DELETE FROM t WHERE id > 100; CREATE TABLE extra(z); INSERT INTO extra VALUES (1)");
    let reader = Connection::open(app.world.db()).expect("open");
    let count =
        |conn: &Connection| conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).expect("read");
    reader.execute_batch("BEGIN").expect("begun");
    assert_eq!(count(&reader), 100);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let conn = Connection::open(app.world.db()).expect("open");
            conn.busy_timeout(Duration::from_secs(20)).expect("set");
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                conn.execute("INSERT INTO t(x) VALUES (randomblob(500))", []).expect("a writer waits and goes on");
                done += 1;
                // One that never pauses lets nobody else write, us or another.
                std::thread::sleep(Duration::from_millis(2));
            }
            done
        });
        let report = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for _ in 0..4 {
                    app.back_to(&first).await.expect("restored");
                    let extra = app.conn.query_row("SELECT count(*) FROM extra", [], |row| row.get::<_, i64>(0));
                    assert!(extra.is_err(), "what is prepared anew sees the schema of before");
                    app.sql("CREATE TABLE extra(z); INSERT INTO extra VALUES (2)");
                }
                app.back_to(&first).await
            })
        });
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().expect("it ends") > 0);
        assert!(report.expect("restored").exchanged.expect("exchanged").changed > 0);
    });
    assert_eq!(count(&reader), 100, "the view of before, until it ends");
    reader.execute_batch("COMMIT").expect("ended");
    assert!(count(&reader) >= 300);
    assert_eq!(integrity_of(&app.world.db()), "ok");
}

/// The cookie moves on: with the one of before, whoever slept meanwhile would take a later schema for its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_what_it_remembers_of_the_schema_for_the_new_one() {
    let app = App::begin("WAL", 4096).await;
    let (first, _) = app.snapshot().await;
    app.sql("ALTER TABLE t ADD COLUMN a; CREATE INDEX ia ON t(a); UPDATE t SET a = id");
    let sleeper = Connection::open(app.world.db()).expect("open");
    let asked =
        |conn: &Connection| conn.query_row("SELECT count(*) FROM t WHERE a > 5", [], |row| row.get::<_, i64>(0));
    assert_eq!(asked(&sleeper).expect("read"), 295);
    app.back_to(&first).await.expect("restored");
    // As many changes of the schema as lay between: the number alone would be the one the sleeper knows.
    app.sql("ALTER TABLE t ADD COLUMN b; CREATE INDEX ib ON t(b); UPDATE t SET b = -id");
    assert!(asked(&sleeper).is_err(), "the column is gone");
    sleeper.execute("INSERT INTO t(b) VALUES (9)", []).expect("written by the schema that is");
    assert_eq!(integrity_of(&app.world.db()), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_open_connections_believe_for_ever_must_not_change() {
    let app = App::begin("DELETE", 4096).await;
    let (first, _) = app.snapshot().await;
    for change in ["PRAGMA page_size=8192; VACUUM", "PRAGMA page_size=4096; PRAGMA auto_vacuum=FULL; VACUUM"] {
        app.sql(change);
        let rows = app.world.rows();
        let error = app.back_to(&first).await.expect_err("refused");
        assert!(matches!(error, OpsError::Sqlite(SqliteError::Unlike { .. })), "{change}: {error}");
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(app.world.rows() == rows && app.beside().is_empty(), "{change}: nothing was touched");
    }
    app.sql("PRAGMA auto_vacuum=NONE; VACUUM; BEGIN IMMEDIATE");
    let request = backstay_ops::restore::RestoreRequest {
        source: source(),
        target: Target::Id(first),
        into: Destination::Live(app.world.db()),
        smoke: Vec::new(),
        busy: Duration::from_millis(50),
    };
    let planned = backstay_ops::restore::plan(&app.world.vault, request).await.expect("planned");
    let error = backstay_ops::restore::perform(&app.world.vault, planned).await.expect_err("a writer holds it");
    assert!(matches!(error, OpsError::Sqlite(SqliteError::Locked { .. })), "{error}");
    assert!(app.beside().is_empty());
}

/// For a follower it is one more commit: the numbers go on, on the same branch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_one_commit() {
    let app = App::begin("WAL", 4096).await;
    let request = FollowRequest {
        source: source(),
        path: app.world.db(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 2,
        limits: Limits::STANDARD,
        steps: Arc::new(|_| {}),
    };
    let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
    app.sql("UPDATE t SET x = 1 WHERE id = 3");
    let wanted = app.world.rows();
    app.sql("DELETE FROM t WHERE id < 200");
    follower.tick().await.expect("tick");
    let live = Destination::Live(app.world.db());
    let report = app.world.restore_into(Target::Tx(Tx::new(1)), live).await.expect("restored");
    assert!(report.exchanged.expect("exchanged").changed > 1);
    assert!(app.world.rows() == wanted);
    let ticked = follower.tick().await.expect("tick");
    assert_eq!((ticked.shipped, ticked.began), (1, None));
    assert!(matches!(follower.began(), Began::Snapshot { .. }));
    let to = app.world.dir().join("latest.db");
    app.world.restore(Target::Latest, &to).await.expect("restored");
    assert!(rows_of(&to) == wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_anywhere_it_is_the_old_state_or_the_new_and_the_old_is_kept() {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql("UPDATE t SET x = printf('%0300d', id) WHERE id % 50 = 3; DELETE FROM t WHERE id > 500");
    let before = making.done();
    let known = &before.known[0];
    let act = async |process: &Process| {
        let into = Destination::Live(process.db());
        process.restore(Target::Id(known.id.to_string()), into).await.map(drop)
    };
    let kept = |run: &Run| -> Vec<PathBuf> {
        let names = fs::read_dir(run.dir()).expect("a folder").flatten().map(|entry| entry.path());
        let is_kept = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.contains(".before-restore-") && !name.ends_with("-wal") && !name.ends_with("-shm")
        };
        names.filter(is_kept).collect()
    };
    let sweep = crash("restore, live", &before, act, async |run: &Run, ended: &Ended| {
        let rows = image(&run.db()).1;
        if rows == before.rows {
            assert!(!ended.done, "a restore that was told is there");
        } else {
            assert!(rows == known.rows, "the whole old state or the whole new one");
            let [old] = &kept(run)[..] else { panic!("the old state is kept: {:?}", kept(run)) };
            assert!(image(old).1 == before.rows, "complete, under its name");
        }
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        act(&process).await.expect("the restore again");
        assert!(image(&run.db()).1 == known.rows);
    })
    .await;
    sweep.assert_stopped_at(&["disk write", "disk sync", "disk link", "disk copy owner", "disk sync folder"]);
}

/// A write past `bytes` fails while it lives, as one to a disk that is breaking.
struct Breaking(rustix::process::Rlimit, #[allow(dead_code)] tokio::signal::unix::Signal);

impl Breaking {
    fn past(bytes: u64) -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // Somebody listens, so the signal that would end the process does not.
        let heard = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(25)).expect("heard");
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum: before.maximum }).expect("set");
        Self(before, heard)
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        rustix::process::setrlimit(rustix::process::Resource::Fsize, self.0).expect("set back");
    }
}

/// So it is with rows: what undoes them must stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_rows_that_fails_in_the_middle_keeps_what_undoes_it() {
    let app = App::begin("WAL", 4096).await;
    let (first, rows) = app.snapshot().await;
    let (_reader, log) = app.long_log();
    let old = app.world.rows();
    let failed = {
        let _breaking = Breaking::past(log + 8192);
        app.rows_of_before(&first).await
    };
    let Err(OpsError::RowsUnsettled { undo, source }) = failed.map(drop) else { panic!("it is settled") };
    assert_eq!(source.kind(), Kind::Unavailable, "{source}");
    assert!(app.world.rows() == old && integrity_of(&app.world.db()) == "ok");
    let done = app.rows_of_before(&first).await.expect("and the same command settles it");
    assert!((done.report.replaced, app.world.rows()) == (300, rows));
    let undone = std::process::Command::new("sqlite3")
        .arg(app.world.db())
        .stdin(fs::File::open(&undo).expect("it is kept"))
        .status();
    assert!(undone.expect("sqlite3 runs; `./test` installs what is missing").success());
    assert!(app.world.rows() == old, "and undoes it");
}

/// A commit whose writes fail may still be found in the log by whoever opens the database next: what it was must stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_in_the_middle_takes_the_old_state_from_nobody() {
    let app = App::begin("WAL", 4096).await;
    let (first, _) = app.snapshot().await;
    let (_reader, log) = app.long_log();
    let old = app.world.rows();
    assert!(log > 4 * fs::metadata(app.world.db()).expect("there").len(), "the copy fits below where the log ends");
    let failed = {
        let _breaking = Breaking::past(log + 8192);
        app.back_to(&first).await
    };
    let Err(OpsError::Unsettled { kept, source }) = failed else { panic!("{failed:?}") };
    assert_eq!(source.kind(), Kind::Unavailable, "{source}");
    assert!(rows_of(&kept) == old && integrity_of(&kept) == "ok", "what it was is kept");
    assert!(app.world.rows() == old && integrity_of(&app.world.db()) == "ok");
    app.back_to(&first).await.expect("and the same command settles it");
}
