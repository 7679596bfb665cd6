//! The remaining traps of following, each named after its number: what a disk, a clock, a store and our own process do
//! to a follower.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Clock, Moment, Tx};
use backstay_ops::check::Depth;
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Alarm, Began, FollowRequest, Follower, Limits, Mode};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::os::SystemClock;
use backstay_testkit::fault_store::FaultStore;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use world::{World, integrity_of, rows_of, source};

struct App {
    world: World,
    store: Arc<FaultStore>,
    conn: Connection,
}

impl App {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let local = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
        let store = Arc::new(FaultStore::new(Arc::new(local)));
        let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)",
        )
        .expect("made");
        Self { world, store, conn }
    }

    fn insert(&self, bytes: i64) {
        self.conn.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [bytes]).expect("inserted");
    }

    fn checkpoint(&self, mode: &str) -> bool {
        self.conn.busy_timeout(Duration::ZERO).expect("set");
        let asked = self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0));
        asked.is_ok_and(|busy| busy == 0)
    }

    fn request(&self) -> FollowRequest {
        FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 2,
            limits: Limits::STANDARD,
            steps: Arc::new(|_| {}),
        }
    }

    async fn follow(&self) -> Follower<'_> {
        Follower::start(&self.world.vault, self.request()).await.expect("follow")
    }

    async fn rows_at(&self, target: Target) -> String {
        let to = self.world.dir().join("restored.db");
        let _ = std::fs::remove_file(&to);
        self.world.restore(target, &to).await.expect("restore");
        assert_eq!(integrity_of(&to), "ok");
        rows_of(&to)
    }
}

/// Trap 5: closing any descriptor on a database file drops every lock its process has there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_5_a_hold_survives_whatever_else_this_process_looks_at() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(50_000);
    follower.tick().await.expect("tick");
    assert!(!app.checkpoint("TRUNCATE"), "held");
    app.insert(100);
    assert_eq!(follower.catch().expect("reads"), 1);
    let _ = backstay_sqlite::holders(&app.world.db());
    app.world.check(Depth::Authentic).await.expect("a check");
    app.world.vault.catalog(&source()).await.expect("a list");
    assert!(app.rows_at(Target::Latest).await.len() > 100);
    follower.hurry_audit();
    follower.catch().expect("audits");
    assert!(!app.checkpoint("TRUNCATE"), "still held");
    app.insert(100);
    let ticked = follower.tick().await.expect("tick");
    assert_eq!((ticked.shipped, ticked.began), (2, None));
}

/// Trap 14: a state folder that takes nothing is told, keeps nobody waiting, and loses nothing while the follower lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_a_state_folder_that_takes_nothing_is_an_alarm_and_no_gap() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    std::fs::write(app.world.vault.state.dir().join("shop/spool"), "in the way").expect("written");
    app.store.go_away();
    for _ in 0..4 {
        app.insert(100_000);
        follower.catch().expect("reads");
        assert!(!app.checkpoint("TRUNCATE"));
        follower.catch().expect("gets out of the way");
        assert!(app.checkpoint("TRUNCATE"), "the application does not wait for our disk");
    }
    let position = follower.position();
    assert_eq!((position.alarm, position.waiting, position.tx), (Some(Alarm::SpoolRefused), 4, Tx::FIRST));
    app.store.come_back();
    let ticked = follower.tick().await.expect("tick");
    assert_eq!((ticked.shipped, ticked.began), (4, None));
    std::fs::remove_file(app.world.vault.state.dir().join("shop/spool")).expect("removed");
    app.insert(10);
    follower.catch().expect("reads");
    app.checkpoint("TRUNCATE");
    follower.catch().expect("gets out of the way");
    assert_eq!(follower.position().alarm, None, "it is over");
    follower.tick().await.expect("tick");
    drop(follower);
    assert_eq!(app.rows_at(Target::Latest).await, app.world.rows());
}

/// The machine's clock, set back or forward by so much.
struct Jumping(AtomicI64);

impl Clock for Jumping {
    fn now(&self) -> Moment {
        let now = SystemClock.now().as_millis() + self.0.load(Ordering::SeqCst);
        Moment::from_millis(now).expect("in range")
    }

    fn uptime(&self) -> Duration {
        SystemClock.uptime()
    }
}

/// Trap 14: a clock that is set back by a day makes no commit older than the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_times_of_commits_never_go_back_with_the_clock() {
    let mut app = App::begin().await;
    let clock = Arc::new(Jumping(AtomicI64::new(0)));
    app.world.vault.env.clock = clock.clone();
    let mut follower = app.follow().await;
    let mut times = vec![follower.position().at];
    for jump in [0, -86_400_000, 3_600_000, -7_200_000, 0] {
        clock.0.store(jump, Ordering::SeqCst);
        app.insert(100);
        follower.tick().await.expect("tick");
        times.push(follower.position().at);
    }
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[5].millis_since(times[3]) < 60_000, "behind the furthest they do not run");
    drop(follower);
    for at in &times {
        let tx = times.iter().rposition(|time| time == at).expect("it is one of them");
        assert_eq!(app.rows_at(Target::At(*at)).await.lines().count(), tx, "the last state of {at}");
    }
}

/// Trap 15: an answer that is lost after the store took the object is neither a failure for good nor a second commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_15_a_put_that_was_applied_and_not_answered_is_one_commit() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    for tx in 1..=12 {
        app.insert(200);
        app.store.lose_answers();
        let error = follower.tick().await.expect_err("nobody answers");
        assert!(backstay_ops::follow::is_passing(&error), "{error}");
        assert_eq!(follower.position().tx.get(), tx - 1, "nothing is called durable that the store has not confirmed");
        app.store.come_back();
        if tx % 4 == 0 {
            // The next run finds out for itself.
            drop(follower);
            follower = app.follow().await;
            assert_eq!(*follower.began(), Began::Continued { tx: Tx::new(tx) });
        }
        follower.tick().await.expect("tick");
        assert_eq!(follower.position().tx.get(), tx);
    }
    drop(follower);
    for tx in [1, 4, 5, 12] {
        assert_eq!(app.rows_at(Target::Tx(Tx::new(tx))).await.lines().count() as u64, tx);
    }
}

/// Nothing is held in this mode, and yet nobody writes: that is no gap, however often it is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_rests_is_watched_without_a_snapshot() {
    let mut app = App::begin().await;
    // So late that what was written a moment ago lies long back.
    app.world.vault.env.clock = Arc::new(Jumping(AtomicI64::new(60_000)));
    assert!(app.checkpoint("TRUNCATE"));
    let limits = Limits { mode: Mode::Watch, ..Limits::STANDARD };
    let request = FollowRequest { limits, ..app.request() };
    let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
    for _ in 0..5 {
        follower.catch().expect("looked");
        let ticked = follower.tick().await.expect("tick");
        assert_eq!((ticked.began, ticked.shipped), (None, 0));
    }
    app.insert(100);
    let ticked = follower.tick().await.expect("tick");
    assert_eq!((ticked.began, ticked.shipped), (None, 1), "and what is written then is read behind it");
    app.checkpoint("TRUNCATE");
    app.insert(100);
    app.checkpoint("TRUNCATE");
    follower.catch().expect("looked");
    assert!(follower.position().lost.is_some(), "who ends now has not made everything durable");
    assert!(follower.tick().await.expect("tick").began.is_some(), "what was copied back unseen is a gap");
    assert_eq!(follower.position().lost, None);
}
