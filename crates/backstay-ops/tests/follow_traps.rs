//! The remaining traps of following, each named after its number: what a disk, a clock, a store and our own process do
//! to a follower.

mod world;

use async_trait::async_trait;
use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ByteLen, Clock, Moment, Random, Tx, Verdict};
use backstay_ops::OpsError;
use backstay_ops::check::Depth;
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Alarm, Began, FollowRequest, Follower, Limits, Mode};
use backstay_ops::retain::{self, SourceRules};
use backstay_sqlite::Step;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::memory::MemoryStore;
use backstay_store::os::SystemClock;
use backstay_store::{Key, Page, Store, StoreError};
use backstay_testkit::fault_store::FaultStore;
use bytes::Bytes;
use jiff::tz::TimeZone;
use rusqlite::Connection;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::block_in_place;
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
        let conn = application(&world);
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

fn application(world: &World) -> Connection {
    let conn = Connection::open(world.db()).expect("open");
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0;
         CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)",
    )
    .expect("made");
    conn
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

/// Makes the file without a name in which images of pages wait for their seal shorter: reading there fails from now on.
fn lose_images(state: &Path) -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").expect("listed").map(|entry| entry.expect("an entry").path());
    let is_it = |path: &Path| {
        std::fs::read_link(path).is_ok_and(|to| to.starts_with(state) && to.to_string_lossy().ends_with(" (deleted)"))
    };
    let mut lost = 0;
    for path in open.filter(|path| is_it(path)) {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
        file.set_len(file.metadata().expect("its length").len() * 3 / 4).expect("cut");
        lost += 1;
    }
    lost
}

/// Chance that is not given to what seals, as long as it is held back.
struct HeldBack {
    inner: Arc<dyn Random>,
    is_held: Mutex<bool>,
    freed: Condvar,
}

impl HeldBack {
    fn of(world: &mut World) -> Arc<Self> {
        let inner = world.vault.env.random.clone();
        let chance = Arc::new(Self { inner, is_held: Mutex::default(), freed: Condvar::new() });
        world.vault.env.random = chance.clone();
        chance
    }

    fn hold(&self, held: bool) {
        *self.is_held.lock().expect("alone") = held;
        self.freed.notify_all();
    }
}

impl Random for HeldBack {
    fn fill(&self, bytes: &mut [u8]) {
        if std::thread::current().name() == Some("aside") {
            let held = self.is_held.lock().expect("alone");
            drop(self.freed.wait_while(held, |held| *held).expect("alone"));
        }
        self.inner.fill(bytes);
    }
}

/// Whoever fails meanwhile must not wait for ever for what is held back.
struct Freed(Arc<HeldBack>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.hold(false);
    }
}

/// Trap 14: commits that were read and cannot be sealed are a gap that is told. What of them is in the repository already
/// is no state, and what comes after them is not taken for what follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_commits_that_cannot_be_sealed_are_a_recorded_gap() {
    for is_away in [false, true] {
        let mut app = App::begin().await;
        let (chance, in_the_way) = (HeldBack::of(&mut app.world), Arc::new(AtomicBool::new(false)));
        let (theirs, is_due) = (chance.clone(), in_the_way.clone());
        let steps = move |step| {
            // From here on what is being sealed is waited for.
            if step == Step::Proven && is_due.load(Ordering::SeqCst) {
                theirs.hold(false);
            }
        };
        // Nothing is sealed before it must be, and nothing copied back.
        let limits = Limits { memory: ByteLen::new(1 << 30), stays: false, ..Limits::STANDARD };
        let request = FollowRequest { limits, steps: Arc::new(steps), ..app.request() };
        let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
        let _freed = Freed(chance.clone());
        app.insert(100);
        follower.tick().await.expect("tick");
        let (before, rows) = (follower.position(), app.world.rows());
        if is_away {
            app.store.go_away();
            chance.hold(true);
        }
        app.conn
            .execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<64)
                 INSERT INTO t(x) SELECT randomblob(1000000) FROM n",
            )
            .expect("inserted");
        follower.catch().expect("reads");
        app.insert(10);
        follower.catch().expect("reads");
        assert_eq!(follower.position().waiting, 2);
        assert_eq!(lose_images(app.world.vault.state.dir()), 1, "images of the large commit are on the disk");
        if is_away {
            // What frees the log has it sealed first.
            in_the_way.store(true, Ordering::SeqCst);
            app.checkpoint("TRUNCATE");
            follower.catch().expect("gets out of the way");
            assert!(app.checkpoint("TRUNCATE"), "the application does not wait for our disk");
            assert!(follower.tick().await.is_err(), "the store is away");
            app.store.come_back();
        }
        let mut began = None;
        for _ in 0..3 {
            // The disk's refusal is told, and does not end it.
            began = began.or(follower.tick().await.ok().and_then(|ticked| ticked.began));
        }
        let Some(Began::Snapshot { reason: Some(reason), tx, .. }) = began else { panic!("{is_away}: {began:?}") };
        assert!(reason.contains("could not be read again"), "{is_away}: {reason}");
        assert!(tx > before.tx, "numbers go on: {tx}");
        app.insert(20);
        assert_eq!(follower.tick().await.expect("tick").began, None);
        drop(follower);
        assert_eq!(app.rows_at(Target::Latest).await, app.world.rows());
        assert_eq!(app.rows_at(Target::Tx(before.tx)).await, rows, "what was durable before is there");
        let to = app.world.dir().join("half.db");
        let half = app.world.restore(Target::Tx(Tx::new(before.tx.get() + 1)), &to).await;
        assert!(tx.get() == before.tx.get() + 1 || half.is_err(), "half a commit is no state");
        let checked = app.world.check(Depth::Authentic).await.expect("a report");
        assert_eq!(checked.verdict, Verdict::Pass, "{checked:?}");
    }
}

/// Lets somebody act before one read of the repository: the one that comes after so many.
struct Turnstile {
    inner: Arc<dyn Store>,
    armed: Mutex<Option<Armed>>,
}

struct Armed {
    before: u64,
    reached: oneshot::Sender<()>,
    go_on: oneshot::Receiver<()>,
}

impl Turnstile {
    fn arm(&self, before: u64) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((reached, is_reached), (on, go_on)) = (oneshot::channel(), oneshot::channel());
        *self.armed.lock().expect("alone") = Some(Armed { before, reached, go_on });
        (is_reached, on)
    }

    /// Nobody is held up any more. Says whether nobody was.
    fn disarm(&self) -> bool {
        self.armed.lock().expect("alone").take().is_some()
    }

    async fn pass(&self) {
        let held_up = {
            let mut armed = self.armed.lock().expect("alone");
            match armed.as_mut() {
                Some(Armed { before: 0, .. }) => armed.take(),
                Some(more) => {
                    more.before -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(Armed { reached, go_on, .. }) = held_up {
            reached.send(()).expect("somebody waits");
            go_on.await.expect("and lets it go on");
        }
    }
}

#[async_trait]
impl Store for Turnstile {
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.pass().await;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.pass().await;
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.pass().await;
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.pass().await;
        self.inner.list(prefix, after, limit).await
    }

    backstay_testkit::forward!(inner: put_new delete describe);
}

/// A clock that is set forward by hand, in seconds, and is behind that of the store all the same.
#[derive(Default)]
struct AnHourAgo(AtomicI64);

impl Clock for AnHourAgo {
    fn now(&self) -> Moment {
        let behind = self.0.load(Ordering::SeqCst) - 3600;
        Moment::from_millis(SystemClock.now().as_millis() + behind * 1000).expect("in range")
    }

    fn uptime(&self) -> Duration {
        SystemClock.uptime() + Duration::from_secs(self.0.load(Ordering::SeqCst).cast_unsigned())
    }
}

/// A state there was.
struct Kept {
    tx: Tx,
    at: Moment,
    rows: String,
}

/// A repository with two stretches of history, rolled up, of which retention keeps the second.
struct Past {
    world: World,
    turnstile: Arc<Turnstile>,
    old: Kept,
    young: Kept,
}

impl Past {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let turnstile = Arc::new(Turnstile { inner: Arc::new(MemoryStore::new()), armed: Mutex::default() });
        let mut world = World::over(folder, turnstile.clone(), Arc::new(OsDisk)).await;
        let clock = Arc::new(AnHourAgo::default());
        world.vault.env.clock = clock.clone();
        let mut conn = application(&world);
        let mut kept = Vec::new();
        for _ in 0..2 {
            // Who remembers nothing begins with a snapshot.
            let _ = std::fs::remove_file(world.vault.state.dir().join("shop/follow.json"));
            let store = Arc::new(FaultStore::new(turnstile.clone()));
            let app = App { world, store, conn };
            let mut follower = app.follow().await;
            for n in 0..5 {
                app.insert(2000);
                follower.tick().await.expect("tick");
                let position = follower.position();
                if n == 2 {
                    kept.push(Kept { tx: position.tx, at: position.at, rows: app.world.rows() });
                }
                clock.0.fetch_add(20, Ordering::SeqCst);
                while follower.roll().await.expect("rolls up").objects > 0 {}
            }
            drop(follower);
            App { world, conn, .. } = app;
        }
        let (young, old) = (kept.pop().expect("kept"), kept.pop().expect("kept"));
        Self { world, turnstile, old, young }
    }

    /// Everything that may go goes.
    async fn prune(&self) -> u64 {
        let policy = RetentionPolicy { last: 1, ..Default::default() };
        let rules = [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis: 0 }];
        let mut gone = 0;
        for _ in 0..3 {
            let logs = retain::apply(&self.world.vault, &rules).await.expect("pruned").logs;
            gone += logs.deleted.objects + logs.rolled.objects;
        }
        gone
    }

    /// Restores, with a prune before the read that comes after so many. `None` if it needs no more than those.
    fn restored(&self, target: Target, before: u64) -> Option<Result<String, OpsError>> {
        let to = self.world.dir().join("restored.db");
        let _ = std::fs::remove_file(&to);
        let (reached, go_on) = self.turnstile.arm(before);
        let runtime = Handle::current();
        // On a thread of its own: a restore may keep its own busy with waiting.
        let (done, was_armed) = std::thread::scope(|scope| {
            scope.spawn(|| {
                if reached.blocking_recv().is_ok() {
                    assert!(runtime.block_on(self.prune()) > 0, "something goes");
                    // Unless another read has missed something meanwhile, and the restore is over.
                    let _ = go_on.send(());
                }
            });
            let done = block_in_place(|| runtime.block_on(self.world.restore(target, &to)));
            (done, self.turnstile.disarm())
        });
        assert!(done.is_ok() || !to.exists(), "nothing stands there that is not whole");
        let done = done.map(|_| rows_of(&to));
        (!was_armed).then_some(done)
    }
}

/// Trap 11: retention and roll-ups take objects away while they are being restored from, before any read of it. What comes
/// back is the state that was asked for, or nothing and an error; what retention keeps comes back with the next attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_11_a_restore_beside_retention_is_exact_or_fails_loudly() {
    let (mut exact, mut missed) = (0, 0);
    for is_old in [true, false] {
        for before in 0.. {
            let past = Past::begin().await;
            let wanted = if is_old { &past.old } else { &past.young };
            let target = || if before % 2 == 0 { Target::At(wanted.at) } else { Target::Tx(wanted.tx) };
            match past.restored(target(), before) {
                None => break,
                Some(Ok(rows)) => {
                    exact += 1;
                    assert_eq!(rows, wanted.rows, "state {} is what it was, {before} reads", wanted.tx);
                }
                Some(Err(error)) => {
                    missed += 1;
                    assert!(!matches!(error, OpsError::Unsound { .. }), "{before} reads: {error}");
                }
            }
            match past.restored(target(), u64::MAX) {
                None if !is_old => {
                    let to = past.world.dir().join("restored.db");
                    assert_eq!(rows_of(&to), wanted.rows, "and what is kept comes back, {before} reads");
                }
                None => assert!(!past.world.dir().join("restored.db").exists(), "what is gone is told, {before} reads"),
                Some(_) => panic!("nobody pruned"),
            }
        }
    }
    println!("{exact} exact, {missed} told");
    assert!(exact > 5 && missed > 5, "{exact} {missed}");
}
