//! What is committed while something is put: a turn ends all the same, and nothing that was read is given up.

mod world;

use async_trait::async_trait;
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Tx};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits, Mode, Ticked};
use backstay_store::memory::MemoryStore;
use backstay_store::{Key, Put, Store, StoreError};
use bytes::Bytes;
use rusqlite::Connection;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{World, rows_of, source};

/// Between two looks while something is put.
const LOOK: Duration = Duration::from_millis(2);

type Act = Box<dyn FnOnce() + Send>;

/// A store beside which somebody acts while it takes a log object.
struct Slow {
    inner: MemoryStore,
    /// For each put, one after the other.
    acts: Mutex<VecDeque<Vec<Act>>>,
}

#[async_trait]
impl Store for Slow {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        if key.as_str().starts_with("data/log/") {
            let acts = self.acts.lock().expect("alone").pop_front();
            for act in acts.into_iter().flatten() {
                act();
                // However late they end, a look comes between two of them.
                for _ in 0..3 {
                    tokio::time::sleep(LOOK * 2).await;
                }
            }
        }
        self.inner.put_new(key, bytes).await
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

struct App {
    world: World,
    store: Arc<Slow>,
    conn: Arc<Mutex<Connection>>,
}

impl App {
    async fn begin() -> Self {
        let store = Arc::new(Slow { inner: MemoryStore::new(), acts: Mutex::default() });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        let conn = Connection::open(world.db()).expect("open");
        let made = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)";
        conn.execute_batch(made).expect("made");
        Self { world, store, conn: Arc::new(Mutex::new(conn)) }
    }

    fn sql(&self, sql: &str) -> Act {
        let (conn, sql) = (self.conn.clone(), sql.to_owned());
        Box::new(move || conn.lock().expect("alone").execute_batch(&sql).expect("done"))
    }

    fn insert(&self, bytes: u64) -> Act {
        self.sql(&format!("INSERT INTO t VALUES (randomblob({bytes}))"))
    }

    fn acts(&self, each: impl IntoIterator<Item = Vec<Act>>) {
        self.store.acts.lock().expect("alone").extend(each);
    }

    /// From a quarter of a megabyte on what was read is sealed while more is.
    async fn follow(&self, mode: Mode) -> Follower<'_> {
        let limits = Limits { mode, look: LOOK, wal_limit: ByteLen::new(1 << 20), ..Limits::STANDARD };
        let request = FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 2,
            limits,
            steps: Arc::new(|_| {}),
        };
        Follower::start(&self.world.vault, request).await.expect("follow")
    }

    async fn restored(&self, target: Target) -> String {
        let to = self.world.dir().join("restored.db");
        let _ = std::fs::remove_file(&to);
        self.world.restore(target, &to).await.expect("restored");
        rows_of(&to)
    }
}

fn counts(ticked: &Ticked) -> (u64, u64, bool) {
    (ticked.objects, ticked.shipped, ticked.began.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_ends_although_a_commit_comes_with_each_put() {
    const COMMITS: usize = 30;
    // What waits to be sealed, and what is sealed while the one before is put.
    for bytes in [300, 300_000] {
        let app = App::begin().await;
        let mut follower = app.follow(Mode::Yield).await;
        app.insert(bytes)();
        app.acts((1..COMMITS).map(|_| vec![app.insert(bytes)]));
        for round in 1..COMMITS {
            let ticked = follower.tick().await.expect("a tick");
            assert_eq!(counts(&ticked), (1, 1, false), "round {round} of {bytes}");
            assert_eq!(follower.position().waiting, 1, "the other is read, and with the next");
        }
        assert_eq!(counts(&follower.tick().await.expect("a tick")), (1, 1, false));
        assert!(!follower.has_news());
        assert!(app.restored(Target::Latest).await == app.world.rows(), "the newest state is the live one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_sight_was_lost_is_durable_before_the_gap() {
    for bytes in [300, 300_000] {
        let app = App::begin().await;
        // Nothing is held: a log that is begun anew between two looks cannot be gone on from.
        let mut follower = app.follow(Mode::Watch).await;
        app.insert(bytes)();
        let anew = "INSERT INTO t VALUES ('unseen'); PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES ('seen')";
        let seen = Arc::new(Mutex::new(String::new()));
        let (rows, path) = (seen.clone(), app.world.db());
        let look = Box::new(move || *rows.lock().expect("alone") = rows_of(&path));
        app.acts([vec![app.insert(bytes), look, app.sql(anew)]]);
        let ticked = follower.tick().await.expect("a tick");
        assert_eq!((ticked.shipped, ticked.objects), (2, 2), "both that were read, of {bytes}: {ticked:?}");
        let Some(Began::Snapshot { reason: Some(reason), id, .. }) = ticked.began else { panic!("{:?}", ticked.began) };
        let catalog = app.world.vault.catalog(&source()).await.expect("a catalog");
        let resync = catalog.fronts[&id].facts.following.clone().expect("followed").resync.expect("a gap");
        assert_eq!((resync.after, resync.reason), (Tx::new(2), reason));
        assert!(app.restored(Target::Tx(Tx::new(2))).await == *seen.lock().expect("alone"), "the state before it");
        assert!(app.restored(Target::Latest).await == app.world.rows(), "the newest state is the live one");
    }
}
