//! A copy that stays behind its source: every state whole, nothing of others overwritten, over gaps and restarts, and
//! stopped anywhere.

mod rig;
mod world;

use backstay_model::{ByteLen, Kind, Kinded, Tx};
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::standby::{Came, Following, StandbyRequest, Ticked, promote};
use backstay_sqlite::SqliteError;
use backstay_testkit::effects::Effects;
use rig::{Ended, Making, Process, Run, crash, crash_anything, image};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use world::{World, integrity_of, rows_of, source};

const BUSY: Duration = Duration::from_millis(200);

struct App {
    world: World,
    conn: Connection,
}

impl App {
    async fn begin() -> Self {
        let world = World::new().await;
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40)
             INSERT INTO t(x) SELECT randomblob(3000) FROM n;",
        )
        .expect("made");
        Self { world, conn }
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn follow(&self) -> Follower<'_> {
        Follower::start(&self.world.vault, following(self.world.db())).await.expect("follow")
    }

    fn copy(&self) -> PathBuf {
        self.world.dir().join("copy.db")
    }

    async fn standby(&self) -> Result<Following<'_>, OpsError> {
        Following::start(&self.world.vault, asked(self.copy())).await
    }

    fn is_the_copy(&self) -> bool {
        rows_of(&self.copy()) == self.world.rows() && integrity_of(&self.copy()) == "ok"
    }
}

fn asked(to: PathBuf) -> StandbyRequest {
    StandbyRequest { source: source(), to, smoke: Vec::new(), busy: BUSY }
}

fn following(path: PathBuf) -> FollowRequest {
    FollowRequest {
        source: source(),
        path,
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 2,
        limits: Limits::STANDARD,
        steps: Arc::new(|_| {}),
    }
}

fn count(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_one_state_after_another_and_each_whole() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let mut standby = app.standby().await.expect("restored");
    assert_eq!((standby.came(), standby.position().tx), (&Came::Made, Some(Tx::new(0))));
    let reader = Connection::open(app.copy()).expect("opens");
    let sleeper = Connection::open(app.copy()).expect("opens");
    assert_eq!(count(&sleeper), 40);
    let steps = [
        "INSERT INTO t(x) VALUES (randomblob(200000))",
        "UPDATE t SET x = randomblob(4000) WHERE id % 3 = 0",
        "DELETE FROM t WHERE id > 20; VACUUM",
        "CREATE TABLE u(y); INSERT INTO u VALUES (1)",
        "INSERT INTO t(x) SELECT randomblob(5000) FROM t",
        "DROP TABLE u; ALTER TABLE t ADD COLUMN z",
    ];
    for sql in steps {
        let before = count(&reader);
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("reads");
        app.sql(sql);
        follower.tick().await.expect("tick");
        assert!(standby.tick().await.expect("tick").states > 0, "{sql}");
        assert_eq!(count(&reader), before, "a reader keeps its state: {sql}");
        reader.execute_batch("COMMIT").expect("read");
        assert!(app.is_the_copy(), "{sql}");
        assert_eq!(count(&sleeper), count(&app.conn), "who slept reads the schema of now: {sql}");
    }
    assert_eq!(sleeper.query_row("SELECT count(z) FROM t", [], |row| row.get(0)), Ok(0));
    assert_eq!(standby.position().tx, Some(follower.position().tx));
    assert_eq!(standby.tick().await.expect("tick"), Ticked::default(), "nothing newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_to_it_is_refused_while_it_runs_and_named_afterwards() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let mut standby = app.standby().await.expect("restored");
    let other = Connection::open(app.copy()).expect("opens");
    other.busy_timeout(Duration::ZERO).expect("set");
    for round in 0..3 {
        app.sql("INSERT INTO t(x) VALUES (1)");
        follower.tick().await.expect("tick");
        standby.tick().await.expect("tick");
        let refused = other.execute_batch("DELETE FROM t").expect_err("it is held");
        assert!(refused.to_string().contains("locked"), "{round}: {refused}");
    }
    standby.stop().expect("stopped");
    other.execute_batch("INSERT INTO t(x) VALUES ('theirs')").expect("nobody holds it");
    let theirs = rows_of(&app.copy());
    for close in [false, true] {
        let error = app.standby().await.err().expect("it is another's by now");
        assert!(matches!(error, OpsError::Sqlite(SqliteError::WrittenByOthers { .. })), "{error}");
        assert_eq!(error.kind(), Kind::Conflict);
        let error = promote(&OsDisk, &app.copy(), BUSY).expect_err("nor is it promoted");
        assert!(matches!(error, OpsError::Sqlite(SqliteError::WrittenByOthers { .. })), "{error}");
        assert!(rows_of(&app.copy()) == theirs, "nothing of theirs is overwritten");
        if !close {
            other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("copied back");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_from_where_it_was_stopped_or_killed() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let standby = app.standby().await.expect("restored");
    drop(standby);
    for stopped in [true, false, true] {
        app.sql("INSERT INTO t(x) VALUES (randomblob(9000)); UPDATE t SET x = random() WHERE id = 7");
        follower.tick().await.expect("tick");
        let mut standby = app.standby().await.expect("goes on");
        assert_eq!(standby.came(), &Came::Continued);
        let ticked = standby.tick().await.expect("tick");
        assert_eq!((ticked.states, ticked.jumped), (2, None), "only what is new");
        assert!(app.is_the_copy());
        if stopped {
            standby.stop().expect("stopped");
        }
    }
    // Another checkpoint of the copy changes its files and not its state.
    let other = Connection::open(app.copy()).expect("opens");
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("copied back");
    assert_eq!(app.standby().await.expect("goes on").came(), &Came::Continued);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_stream_is_gone_on_in_and_a_gap_is_gone_over_as_one_transaction() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let mut standby = app.standby().await.expect("restored");
    let sleeper = Connection::open(app.copy()).expect("opens");
    assert_eq!(count(&sleeper), 40);
    app.sql("INSERT INTO t(x) VALUES (1)");
    follower.tick().await.expect("tick");
    drop(follower);
    let mut follower = app.follow().await;
    assert!(matches!(follower.began(), Began::Continued { .. }), "{:?}", follower.began());
    app.sql("INSERT INTO t(x) VALUES (2)");
    follower.tick().await.expect("tick");
    let ticked = standby.tick().await.expect("tick");
    assert_eq!((ticked.states, ticked.jumped), (2, None), "from one stream into the next");
    assert!(app.is_the_copy());
    drop(follower);
    app.sql(
        "DELETE FROM t WHERE id % 2 = 0; CREATE TABLE v(a); PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO v VALUES (1)",
    );
    let mut follower = app.follow().await;
    assert!(matches!(follower.began(), Began::Snapshot { reason: Some(_), .. }), "{:?}", follower.began());
    let ticked = standby.tick().await.expect("tick");
    assert!(ticked.jumped.is_some(), "nothing was committed since, and it is there: {ticked:?}");
    assert!(app.is_the_copy());
    app.sql("INSERT INTO v VALUES (2)");
    follower.tick().await.expect("tick");
    assert_eq!(standby.tick().await.expect("tick").states, 1);
    assert_eq!(count(&sleeper), count(&app.conn));
    app.sql("ALTER TABLE v ADD COLUMN b; INSERT INTO v VALUES (3, 4)");
    follower.tick().await.expect("tick");
    let ticked = standby.tick().await.expect("tick");
    assert_eq!((ticked.states, ticked.jumped), (2, None), "and on, commit by commit");
    assert!(app.is_the_copy());
    assert_eq!(sleeper.query_row("SELECT sum(b) FROM v", [], |row| row.get(0)), Ok(4));
    assert_eq!(standby.position().tx, Some(follower.position().tx));
    standby.stop().expect("stopped");
    assert_eq!(app.standby().await.expect("goes on").came(), &Came::Continued);
}

/// Two schemas behind one number: a connection that slept would take the one for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_another_line_of_history_nobody_believes_the_old_schema() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let mut standby = app.standby().await.expect("restored");
    let sleeper = Connection::open(app.copy()).expect("opens");
    let newest =
        |conn: &Connection| conn.query_row("SELECT x FROM t ORDER BY id DESC", [], |row| row.get::<_, String>(0));
    app.sql("INSERT INTO t(x) VALUES ('old')");
    follower.tick().await.expect("tick");
    standby.tick().await.expect("tick");
    assert_eq!(newest(&sleeper), Ok("old".to_owned()));
    drop(follower);
    for suffix in ["", "-wal", "-shm"] {
        let from = format!("{}{suffix}", app.world.db().display());
        std::fs::rename(from, app.world.dir().join(format!("old.db{suffix}"))).expect("moved");
    }
    let other = Connection::open(app.world.db()).expect("opens");
    let sql = |sql: &str| other.execute_batch(sql).expect(sql);
    sql("PRAGMA journal_mode=WAL; CREATE TABLE t(x TEXT, id INTEGER PRIMARY KEY); INSERT INTO t VALUES ('new', 41)");
    let mut follower = app.follow().await;
    sql("INSERT INTO t VALUES ('newer', 42)");
    follower.tick().await.expect("tick");
    assert!(standby.tick().await.expect("tick").jumped.is_some());
    assert_eq!(newest(&sleeper), Ok("newer".to_owned()), "who slept reads the schema of now");
    sql("CREATE TABLE w(a); INSERT INTO t VALUES ('newest', 43)");
    follower.tick().await.expect("tick");
    assert_eq!(standby.tick().await.expect("tick").states, 2);
    assert_eq!(newest(&sleeper), Ok("newest".to_owned()));
    assert!(app.is_the_copy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_parts_is_seen_when_its_last_part_is_there() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let mut standby = app.standby().await.expect("restored");
    app.sql("INSERT INTO t(x) VALUES (1)");
    follower.tick().await.expect("tick");
    standby.tick().await.expect("tick");
    app.sql("UPDATE t SET x = randomblob(600000)");
    let ticked = follower.tick().await.expect("tick");
    assert_eq!((ticked.shipped, ticked.objects), (1, 2), "it takes two objects");
    let log = app.world.dir().join("vault/data/log");
    let stream = std::fs::read_dir(log).expect("a folder").next().expect("a stream").expect("an entry").path();
    let (last, away) = (stream.join(format!("{:016}", 3)), app.world.dir().join("away"));
    std::fs::rename(&last, &away).expect("moved");
    let before = rows_of(&app.copy());
    for _ in 0..2 {
        assert_eq!(standby.tick().await.expect("tick").states, 0);
        assert!(rows_of(&app.copy()) == before, "nothing of it is seen");
    }
    std::fs::rename(away, &last).expect("moved back");
    assert_eq!(standby.tick().await.expect("tick").states, 1);
    assert!(app.is_the_copy());
    standby.stop().expect("stopped");
    assert_eq!(app.standby().await.expect("goes on").came(), &Came::Continued);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_not_followed_is_gone_after_snapshot_by_snapshot() {
    let app = App::begin().await;
    app.sql("PRAGMA journal_mode=DELETE");
    app.world.backup().await.expect("backup");
    let standby = app.standby().await.expect("restored");
    assert_eq!(standby.position().tx, None);
    standby.stop().expect("stopped");
    app.sql("UPDATE t SET x = 'other' WHERE id > 30");
    app.world.backup().await.expect("backup");
    let mut standby = app.standby().await.expect("goes on");
    assert!(standby.tick().await.expect("tick").jumped.is_some());
    assert!(app.is_the_copy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_open_readers_would_never_notice_stops_it() {
    let app = App::begin().await;
    app.world.backup().await.expect("backup");
    app.standby().await.expect("restored").stop().expect("stopped");
    let rows = rows_of(&app.copy());
    app.sql("PRAGMA journal_mode=DELETE; PRAGMA page_size=8192; VACUUM; PRAGMA journal_mode=WAL");
    app.world.backup().await.expect("backup");
    let mut standby = app.standby().await.expect("goes on");
    let error = standby.tick().await.expect_err("another page size");
    assert!(matches!(error, OpsError::Sqlite(SqliteError::Unlike { .. })), "{error}");
    drop(standby);
    assert!(rows_of(&app.copy()) == rows, "the copy is what it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_copy_is_an_ordinary_database_and_says_what_it_has() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    let mut standby = app.standby().await.expect("restored");
    app.sql("INSERT INTO t(x) VALUES ('last')");
    follower.tick().await.expect("tick");
    standby.tick().await.expect("tick");
    let error = promote(&OsDisk, &app.copy(), BUSY).expect_err("it is still followed with");
    assert!(matches!(error, OpsError::Sqlite(SqliteError::Locked { .. })), "{error}");
    standby.stop().expect("stopped");
    let promoted = promote(&OsDisk, &app.copy(), BUSY).expect("promoted");
    assert_eq!((promoted.tx, promoted.source), (Some(Tx::new(1)), source()));
    assert!(promoted.at <= promoted.asked);
    assert!(app.is_the_copy());
    Connection::open(app.copy()).expect("opens").execute_batch("INSERT INTO t(x) VALUES ('new')").expect("written");
    assert!(matches!(app.standby().await.err(), Some(OpsError::TargetExists { .. })), "it is nobody's stand-by");
    assert!(matches!(promote(&OsDisk, &app.copy(), BUSY), Err(OpsError::NoStandby { .. })));
    let names = std::fs::read_dir(app.world.dir()).expect("a folder").flatten().map(|entry| entry.file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("standby")));
}

/// Stopped anywhere it is a stand-by or an ordinary database, with the same rows; asked again, it is an ordinary one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_was_stopped_is_done_again() {
    let making = Making::database("WAL").repository().await;
    let making = making
        .having(async |process: &Process| {
            commit_and_ship(process, "UPDATE t SET x = 'one' WHERE id % 7 = 1").await.expect("shipped");
            let copy = asked(process.dir().join("copy.db"));
            let mut standby = Following::start(&process.vault, copy).await.expect("restored");
            standby.tick().await.expect("tick");
            standby.stop().expect("stopped");
        })
        .await;
    let before = making.done();
    let copy = |run: &Run| run.dir().join("copy.db");
    let rows = before.rows.clone();
    let act = async |run: &Run, effects: Effects| promote(run.next(&effects).as_ref(), &copy(run), BUSY).map(drop);
    let sweep = crash_anything("promote", &before, act, async |run, ended| {
        let again = promote(run.next(&Effects::unstopped()).as_ref(), &copy(run), BUSY);
        match again {
            Ok(promoted) => assert!(!ended.done && promoted.tx == Some(Tx::new(1)), "{promoted:?}"),
            Err(error) => assert!(matches!(error, OpsError::NoStandby { .. }), "{error}"),
        }
        assert!(image(&copy(run)).1 == rows);
        Connection::open(copy(run)).expect("opens").execute_batch("UPDATE t SET x = 'ours'").expect("it is written to");
    })
    .await;
    sweep.assert_stopped_at(&["disk remove", "disk sync folder"]);
}

/// A follower's commits, from the rig's own process.
async fn commit_and_ship(process: &Process, sql: &str) -> Result<(), OpsError> {
    let mut follower = Follower::start(&process.vault, following(process.db())).await?;
    Connection::open(process.db()).expect("opens").execute_batch(sql).expect(sql);
    follower.tick().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_anywhere_the_copy_is_a_state_there_was_and_the_next_run_goes_on() {
    let making = Making::database("WAL").repository().await;
    let states = std::cell::RefCell::new(Vec::new());
    let making = making
        .having(async |process: &Process| {
            states.borrow_mut().push(image(&process.db()).1);
            commit_and_ship(process, "UPDATE t SET x = 'one' WHERE id % 7 = 1").await.expect("shipped");
            states.borrow_mut().push(image(&process.db()).1);
            let copy = asked(process.dir().join("copy.db"));
            let mut standby = Following::start(&process.vault, copy).await.expect("restored");
            standby.tick().await.expect("tick");
            standby.stop().expect("stopped");
            commit_and_ship(process, "DELETE FROM t WHERE id % 3 = 0").await.expect("shipped");
            states.borrow_mut().push(image(&process.db()).1);
        })
        .await;
    let before = making.done();
    let newest = before.rows.clone();
    let act = async |process: &Process| {
        for name in ["copy.db", "second.db"] {
            let copy = asked(process.dir().join(name));
            let mut standby = Following::start(&process.vault, copy).await?;
            standby.tick().await?;
            standby.stop()?;
        }
        Ok(())
    };
    let is_known = |path: &Path| states.borrow().contains(&image(path).1);
    let sweep = crash("stand-by", &before, act, async |run: &Run, ended: &Ended| {
        for name in ["copy.db", "second.db"] {
            let path = run.dir().join(name);
            assert!(!path.exists() || is_known(&path), "{name} is one of the states there were");
            assert!(path.exists() || name == "second.db" && !ended.done);
        }
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        act(&process).await.expect("the next run");
        for name in ["copy.db", "second.db"] {
            assert!(image(&run.dir().join(name)).1 == newest, "{name} is up to date");
        }
    })
    .await;
    // The one name a new copy is given is stopped at by the sweeps of restores.
    sweep.assert_stopped_at(&["disk write", "disk sync", "disk rename", "disk sync folder"]);
}
