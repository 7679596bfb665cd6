//! How a follower holds an application's log: long enough to lose nothing, short enough that nobody waits, bounded
//! when the store is slow or away. Named after the traps of following.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Clock, Moment, Tx};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::account::Account;
use backstay_ops::follow::drive::{CONF_EVERY, Drain, Driving, Order, Patience, Told, drive};
use backstay_ops::follow::{Alarm, Began, FollowRequest, Followed, Follower, Limits, Mode, Pace, Ticked};
use backstay_sqlite::Step;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::os::SystemClock;
use backstay_testkit::fault_store::FaultStore;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{World, integrity_of, rows_of, source};

const MIB: u64 = 1 << 20;

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
        let conn = open(&world.db());
        conn.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)").expect("made");
        Self { world, store, conn }
    }

    fn insert(&self, bytes: u64) {
        self.conn.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [bytes.cast_signed()]).expect("inserted");
    }

    /// Whether it got through without waiting.
    fn checkpoint(&self, mode: &str) -> bool {
        self.conn.busy_timeout(Duration::ZERO).expect("set");
        let asked = self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0));
        asked.is_ok_and(|busy| busy == 0)
    }

    fn request(&self, limits: Limits) -> FollowRequest {
        FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 2,
            limits,
            steps: Arc::new(|_| {}),
        }
    }

    async fn follow(&self, limits: Limits) -> Follower<'_> {
        Follower::start(&self.world.vault, self.request(limits)).await.expect("follow")
    }

    async fn latest_is_live(&self) {
        let to = self.world.dir().join("latest.db");
        let _ = std::fs::remove_file(&to);
        self.world.restore(Target::Latest, &to).await.expect("restore");
        assert_eq!(integrity_of(&to), "ok");
        assert!(rows_of(&to) == self.world.rows(), "the latest state is the live one");
    }

    fn spool(&self) -> Vec<PathBuf> {
        let folder = self.world.vault.state.dir().join("shop/spool");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).expect("a spool").map(|e| e.expect("e").path()).collect();
        files.sort();
        files
    }
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch("PRAGMA synchronous=OFF").expect("set");
    conn
}

/// Trap 12: an application that commits without a pause never lets anyone see its log copied back whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_12_the_log_of_a_steady_writer_stays_bounded() {
    let app = App::begin().await;
    let (refused, locked) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    // Whoever wants to commit while the log is copied back waits for us: no commit may begin the log anew then.
    let other = Mutex::new(open(&app.world.db()));
    let (counted, seen) = (refused.clone(), locked.clone());
    let steps = move |step| {
        if matches!(step, Step::Locked | Step::CopiedBack) {
            seen.fetch_add(1, Ordering::SeqCst);
            let conn = other.lock().expect("alone");
            conn.busy_timeout(Duration::ZERO).expect("set");
            let tried = conn.execute("INSERT INTO t(x) VALUES (1)", []);
            counted.fetch_add(u32::from(tried.is_err()), Ordering::SeqCst);
        }
    };
    let request = FollowRequest { steps: Arc::new(steps), ..app.request(Limits::STANDARD) };
    let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
    let mut longest = 0;
    for round in 0..70 {
        app.insert(MIB);
        let ticked = follower.tick().await.expect("tick");
        assert_eq!((ticked.shipped, ticked.began), (1, None), "round {round}");
        longest = longest.max(follower.position().log_bytes);
    }
    assert!(longest < 24 * MIB, "{longest}");
    let (refused, locked) = (refused.load(Ordering::SeqCst), locked.load(Ordering::SeqCst));
    assert!(locked >= 6, "{locked}");
    assert_eq!(refused, locked, "nobody commits while the log is copied back");
    drop(follower);
    app.latest_is_live().await;
}

/// Nobody can commit while the log is copied back, so what was read is sealed and on the disk before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_safe_is_safe_before_writers_have_to_wait() {
    let app = App::begin().await;
    let (spool, found) = (app.world.vault.state.dir().join("shop/spool"), Arc::new(Mutex::new(Vec::new())));
    let seen = found.clone();
    let steps = move |step| {
        if step == Step::Locked {
            let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
            let bytes: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
            seen.lock().expect("alone").push(bytes);
        }
    };
    let limits = Limits { wal_limit: ByteLen::new(16 * MIB), ..Limits::STANDARD };
    let request = FollowRequest { steps: Arc::new(steps), ..app.request(limits) };
    let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
    app.insert(5 * MIB);
    follower.catch().expect("read");
    assert_eq!(follower.keep(), 1);
    // Too little to be sealed beside the reading, and the log is to be copied back.
    app.insert(3 * MIB + MIB / 2);
    follower.catch().expect("read");
    let found = found.lock().expect("alone").clone();
    assert!(found.len() == 1 && found[0] > 8 * MIB, "{found:?}");
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// Many small puts one after another, each shorter than the pause between two looks, do not keep the log from being read: it
/// would grow meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_while_many_objects_are_put_is_read_in_between() {
    const OBJECTS: usize = 200;
    let app = App::begin().await;
    let (others, puts) = (Mutex::new(open(&app.world.db())), Arc::new(AtomicU64::new(0)));
    let counted = puts.clone();
    let steps = move |step| {
        if step == Step::Put && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            others.lock().expect("alone").execute("INSERT INTO t(x) VALUES (1)", []).expect("inserted");
        }
    };
    let limits = Limits { look: Duration::from_millis(40), ..Limits::STANDARD };
    let request = FollowRequest { steps: Arc::new(steps), ..app.request(limits) };
    let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
    for _ in 0..OBJECTS {
        app.insert(1);
        assert_eq!(follower.catch().expect("read"), 1);
        follower.keep();
    }
    let ticked = follower.tick().await.expect("tick");
    assert!(ticked.objects >= OBJECTS as u64, "{ticked:?}");
    assert_eq!(ticked.caught, 1, "read before the last was put");
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// Trap 13: while commits go on the mark stays, so the application's own checkpoints do not find a little more after each
/// look. It moves on as soon as they pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_13_a_mark_does_not_move_with_each_look_at_a_busy_log() {
    let app = App::begin().await;
    let (busy, other) = (Arc::new(AtomicBool::new(true)), Mutex::new(open(&app.world.db())));
    let is_busy = busy.clone();
    let steps = move |step| {
        if step == Step::Read && is_busy.load(Ordering::SeqCst) {
            other.lock().expect("alone").execute("INSERT INTO t(x) VALUES (1)", []).expect("inserted");
        }
    };
    let request = FollowRequest { steps: Arc::new(steps), ..app.request(Limits::STANDARD) };
    let mut follower = Follower::start(&app.world.vault, request).await.expect("follow");
    let copied = || {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        app.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], row).expect("asked")
    };
    app.insert(1);
    follower.catch().expect("read");
    let (_, marked) = copied();
    for round in 0..5 {
        app.insert(1);
        assert!(follower.catch().expect("read") >= 2, "round {round}");
        assert_eq!(copied().1, marked, "round {round}");
    }
    busy.store(false, Ordering::SeqCst);
    app.insert(1);
    follower.catch().expect("read");
    let (frames, all) = copied();
    assert!(all == frames && all > marked, "{frames} {all} {marked}");
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// A clock that stands still, since a moment.
struct Frozen(i64, AtomicU64);

impl Frozen {
    fn now() -> Arc<Self> {
        Arc::new(Self(SystemClock.now().as_millis(), AtomicU64::new(0)))
    }

    fn pass(&self, millis: u64) {
        self.1.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for Frozen {
    fn now(&self) -> Moment {
        Moment::from_millis(self.0 + self.1.load(Ordering::SeqCst).cast_signed()).expect("in range")
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.1.load(Ordering::SeqCst))
    }
}

/// An application that has committed for more than a second without a pause, and what follows it.
async fn under_load<'a>(app: &'a mut App, clock: &Arc<Frozen>) -> Follower<'a> {
    app.world.vault.env.clock = clock.clone();
    let app = &*app;
    let mut follower = app.follow(Limits::STANDARD).await;
    for _ in 0..120 {
        clock.pass(10);
        app.insert(60_000);
        assert_eq!(follower.catch().expect("reads"), 1);
    }
    follower
}

/// Trap 13: under load a look that finds nothing new is one in which the application waits for its own disk. A mark that
/// moves then would give its next checkpoint something to sync, and that the next such look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_13_under_load_a_mark_stays_until_nobody_commits() {
    let (mut app, clock) = (App::begin().await, Frozen::now());
    let other = open(&app.world.db());
    let copied = || {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], row).expect("asked")
    };
    let mut follower = under_load(&mut app, &clock).await;
    let (frames, marked) = copied();
    assert!(marked < frames, "{marked} of {frames}");
    clock.pass(10);
    assert_eq!((follower.catch().expect("looks"), copied()), (0, (frames, marked)));
    clock.pass(10);
    follower.catch().expect("looks");
    assert_eq!(copied(), (frames, frames), "nobody commits any more");
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// Trap 13: who waits in a checkpoint has the locks for it, and gets past the mark at once, also under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn trap_13_under_load_a_checkpoint_that_waits_is_let_through() {
    let (mut app, clock) = (App::begin().await, Frozen::now());
    let waiting = open(&app.world.db());
    waiting.busy_timeout(Duration::from_secs(60)).expect("set");
    let mut follower = under_load(&mut app, &clock).await;
    let truncate =
        move || waiting.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).expect("asked");
    std::thread::scope(|scope| {
        let truncates = scope.spawn(truncate);
        // No time passes: it is no pause that lets it through.
        while !truncates.is_finished() {
            follower.catch().expect("looks");
        }
        assert_eq!(truncates.join().expect("ended"), 0);
    });
    assert_eq!(follower.position().log_bytes, 0);
    let ticked = follower.tick().await.expect("tick");
    assert_eq!((ticked.shipped, ticked.began), (120, None));
    drop(follower);
    app.latest_is_live().await;
}

/// Trap 12: with the store away the application's log goes on being begun anew; what it had is sealed on the disk,
/// outlives the process and comes into the repository without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_12_a_store_that_is_away_costs_the_application_nothing() {
    let app = App::begin().await;
    let mut follower = app.follow(Limits::STANDARD).await;
    app.store.go_away();
    let mut longest = 0;
    for round in 0..30 {
        app.insert(MIB);
        follower.tick().await.expect_err("the store is away");
        if round % 5 == 4 {
            app.checkpoint("TRUNCATE");
            follower.catch().expect("gets out of the way");
            assert!(app.checkpoint("TRUNCATE"), "round {round}: nobody is in its way");
        }
        longest = longest.max(follower.position().log_bytes);
    }
    let position = follower.position();
    assert!(longest < 24 * MIB, "{longest}");
    assert_eq!((position.tx, position.waiting, position.alarm), (Tx::FIRST, 30, None), "{position:?}");
    assert!(position.spooled_bytes > 20 * MIB, "{position:?}");
    let text = b"CREATE TABLE t(id INTEGER PRIMARY KEY";
    for file in app.spool() {
        let bytes = std::fs::read(file).expect("read");
        assert!(!bytes.windows(text.len()).any(|window| window == text), "what is spooled is sealed");
    }
    // In the log begun anew; and then it is killed: nothing is told to it any more.
    app.insert(10);
    follower.catch().expect("reads");
    drop(follower);
    app.insert(10);
    app.store.come_back();
    let mut follower = app.follow(Limits::STANDARD).await;
    let Began::Continued { tx } = *follower.began() else { panic!("{:?}", follower.began()) };
    assert_eq!(tx.get(), 31, "all that was read is there");
    follower.tick().await.expect("tick");
    assert_eq!(follower.position().tx.get(), 32);
    assert_eq!(app.spool().len(), 0, "what is durable is not kept twice");
    drop(follower);
    app.latest_is_live().await;
}

/// Trap 14: what a power cut or a failing disk made of the spool is never put; the gap is recorded instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_a_damaged_spool_is_a_recorded_gap() {
    for damage in ["none", "flipped", "cut", "gone"] {
        let app = App::begin().await;
        let mut follower = app.follow(Limits::STANDARD).await;
        app.store.go_away();
        for _ in 0..3 {
            app.insert(MIB);
            follower.catch().expect("reads");
            assert!(!app.checkpoint("TRUNCATE"), "held");
            follower.catch().expect("gets out of the way");
            assert!(app.checkpoint("TRUNCATE"));
        }
        // Only the last of what is spooled says that the log begun anew is the one that follows.
        app.insert(10);
        follower.catch().expect("reads");
        drop(follower);
        let last = app.spool().pop().expect("a file");
        let mut bytes = std::fs::read(&last).expect("read");
        let middle = bytes.len() / 2;
        match damage {
            "none" => {}
            "flipped" => bytes[middle] ^= 1,
            "cut" => bytes.truncate(middle),
            _ => bytes.clear(),
        }
        std::fs::write(&last, &bytes).expect("write");
        app.store.come_back();
        let follower = app.follow(Limits::STANDARD).await;
        match follower.began() {
            Began::Continued { .. } if damage == "none" => {}
            Began::Snapshot { reason: Some(reason), tx, .. } if damage != "none" => {
                assert!(reason.contains("begun anew") && tx.get() >= 2, "{damage}: {reason} {tx}");
            }
            began => panic!("{damage}: {began:?}"),
        }
        drop(follower);
        app.latest_is_live().await;
    }
}

/// Trap 12: past the bound of the spool the application still comes first. The alarm is raised, the gap recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_12_past_the_bound_of_the_spool_the_log_is_let_go() {
    let app = App::begin().await;
    let limits = Limits { spool_limit: ByteLen::new(2 * MIB), ..Limits::STANDARD };
    let mut follower = app.follow(limits).await;
    app.store.go_away();
    for _ in 0..10 {
        app.insert(MIB);
        follower.catch().expect("reads");
        follower.catch().expect("looks");
        app.checkpoint("TRUNCATE");
    }
    let position = follower.position();
    assert_eq!(position.alarm, Some(Alarm::SpoolFull), "{position:?}");
    assert!(position.waiting_bytes < 4 * MIB, "{position:?}");
    assert!(position.log_bytes < 3 * MIB, "the application copies its log back by itself: {position:?}");
    app.store.come_back();
    let mut began = None;
    for _ in 0..3 {
        began = began.or(follower.tick().await.expect("tick").began);
    }
    assert!(matches!(&began, Some(Began::Snapshot { reason: Some(_), .. })), "{began:?}");
    assert_eq!(follower.position().alarm, None);
    app.insert(10);
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// Trap 13: in mode "hold" an application's own checkpoint waits for the repository, in the others it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_13_only_a_follower_told_to_hold_waits_for_the_store() {
    for (mode, free) in [(Mode::Hold, false), (Mode::Yield, true), (Mode::Watch, true)] {
        let app = App::begin().await;
        let mut follower = app.follow(Limits { mode, ..Limits::STANDARD }).await;
        app.store.go_away();
        app.insert(1000);
        follower.catch().expect("reads");
        app.checkpoint("TRUNCATE");
        follower.catch().expect("looks");
        assert_eq!(app.checkpoint("TRUNCATE"), free, "{mode:?}");
        app.store.come_back();
        follower.tick().await.expect("tick");
        follower.catch().expect("looks");
        assert!(app.checkpoint("TRUNCATE"), "{mode:?}");
        app.insert(1000);
        let ticked = follower.tick().await.expect("tick");
        // Without a hold the new log does not say where the old one ended.
        assert_eq!(ticked.began.is_some(), mode == Mode::Watch, "{mode:?}");
        drop(follower);
        app.latest_is_live().await;
    }
}

/// Trap 13: an application that truncates its log over and over, beside the loop that follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn trap_13_an_application_that_truncates_for_itself_is_not_held_up() {
    let app = App::begin().await;
    let pace = Pace { poll: Duration::from_secs(60), ..Pace::STANDARD };
    let (request, patience) = (app.request(Limits::STANDARD), Patience::Store);
    let (rest_after, may_vanish) = (None, false);
    let order = Order { request, pace, snapshot_interval: pace.interval, patience, rest_after, may_vanish };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let path = app.world.db();
    let (start, started) = std::sync::mpsc::channel();
    let busy = tokio::task::spawn_blocking(move || {
        started.recv().expect("following begins");
        let conn = Connection::open(path).expect("open");
        conn.busy_timeout(Duration::from_secs(10)).expect("set");
        conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0").expect("set");
        let mut refused = 0;
        for n in 0..60 {
            conn.execute("INSERT INTO t(x) VALUES (randomblob(20000))", []).expect("inserted");
            if n % 3 == 0 {
                let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).expect("asked");
                refused += busy;
            }
        }
        stop.send_replace(true);
        refused
    });
    let trouble = Arc::new(Mutex::new(Vec::new()));
    let seen = trouble.clone();
    let tell = move |_: &_, told: Told<'_>| {
        let what = match told {
            Told::Started(_) => return start.send(()).expect("somebody waits"),
            Told::Began(began) => format!("{began:?}"),
            Told::Ended(error) | Told::StoreAway(error) | Told::Unreadable(error) => error.to_string(),
            _ => "other".into(),
        };
        seen.lock().expect("alone").push(what);
    };
    let metrics = app.world.dir().join("backstay.prom");
    let drain = Drain::once(Duration::from_secs(20));
    let driving = Driving {
        stop: stopped,
        tell: Arc::new(tell),
        metrics: Some(metrics.clone()),
        drain,
        nurseries: Vec::new(),
        conf_every: CONF_EVERY,
        puts_per_day: None,
        share: None,
    };
    let outcomes = drive(app.world.shared(), vec![order], driving).await;
    assert_eq!(busy.await.expect("ran"), 0, "each of its checkpoints got through");
    assert_eq!(*trouble.lock().expect("alone"), Vec::<String>::new());
    assert_eq!(outcomes[0].sum.shipped, 60, "{outcomes:?}");
    let account = Account::recall(&app.world.vault, &source()).expect("readable").expect("written");
    assert_eq!((account.tx.get(), account.waiting, account.gaps, account.ended.clone()), (60, 0, 0, None));
    assert!(account.stopped.is_some() && account.audit.is_some_and(|audit| audit.wrong.is_none()), "{account:?}");
    let text = std::fs::read_to_string(metrics).expect("metrics");
    assert!(text.contains("backstay_follow_durable_tx{source=\"shop\"} 60\n"), "{text}");
    assert!(text.contains("backstay_follow_gaps_total{source=\"shop\"} 0\n"), "{text}");
    app.latest_is_live().await;
}

/// What was captured is compared with the live database; what differs is told and healed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_finds_what_no_commit_explains_and_following_begins_anew() {
    let app = App::begin().await;
    app.insert(400_000);
    assert!(app.checkpoint("TRUNCATE"));
    let mut follower = app.follow(Limits::STANDARD).await;
    for _ in 0..3 {
        follower.hurry_audit();
        app.insert(30_000);
        assert_eq!(follower.tick().await.expect("tick").began, None);
        let audit = follower.position().audit.expect("it looked");
        assert!(audit.wrong.is_none() && audit.compared > 90, "{audit:?}");
        app.checkpoint("TRUNCATE");
        follower.catch().expect("gets out of the way");
        app.checkpoint("TRUNCATE");
    }
    // Past SQLite, and by another process: this one would drop its locks. The page holds a part of a blob alone.
    let mut program = Command::new("sh");
    let act = format!("printf X | dd of=\"$0\" bs=1 seek={} conv=notrunc 2>/dev/null", 50 * 4096 + 100);
    assert!(program.arg("-c").arg(act).arg(app.world.db()).status().expect("runs").success());
    follower.hurry_audit();
    let ticked = follower.tick().await.expect("tick");
    let Some(Began::Snapshot { reason: Some(reason), .. }) = ticked.began else { panic!("{ticked:?}") };
    assert!(reason.contains("page 51 is not what was captured"), "{reason}");
    follower.hurry_audit();
    assert_eq!(follower.tick().await.expect("tick").began, None);
    assert!(follower.position().audit.is_some_and(|audit| audit.wrong.is_none()));
    drop(follower);
    app.latest_is_live().await;
}

/// Between the look that finds a log and the beginning with it somebody may be told to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_until_a_database_was_given_a_log_is_durable_before_the_log_is_followed() {
    let app = App::begin().await;
    app.conn.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).expect("set");
    let mut followed = Followed::start(&app.world.vault, app.request(Limits::STANDARD)).await.expect("follow");
    app.insert(9000);
    app.conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).expect("set");
    app.insert(9000);
    let ticked = followed.tick().await.expect("tick");
    assert!(followed.is_outgrown() && ticked.shipped == 1, "{ticked:?}");
    assert_eq!((followed.has_news(), followed.position().waiting), (false, 0));
    drop(followed);
    app.latest_is_live().await;
}

/// A database without a log is not forced to have one: its commits are noticed, and each change is a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_a_rollback_journal_is_followed_by_snapshots() {
    let app = App::begin().await;
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        app.conn.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())).expect("set");
        app.insert(50_000);
        let mut followed = Followed::start(&app.world.vault, app.request(Limits::STANDARD)).await.expect("follow");
        assert_eq!(followed.position().mode, Mode::Snapshots);
        app.latest_is_live().await;
        assert_eq!(followed.tick().await.expect("tick"), Ticked::default(), "nothing changed, nothing is stored");
        for _ in 0..2 {
            app.insert(9000);
            assert!(followed.catch().expect("looks") == 1 && followed.has_news());
            let ticked = followed.tick().await.expect("tick");
            assert!(ticked.shipped == 1 && ticked.bytes < 60_000, "what differs is stored: {ticked:?}");
            app.latest_is_live().await;
        }
        app.store.go_away();
        app.insert(10);
        followed.tick().await.expect_err("the store is away");
        assert!(followed.has_news(), "it is tried again");
        app.store.come_back();
        followed.tick().await.expect("tick");
        app.latest_is_live().await;
        let kept: String = app.conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("asked");
        assert_eq!(kept, mode.to_lowercase());
    }
}
