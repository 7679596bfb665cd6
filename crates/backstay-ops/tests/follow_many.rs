//! Many sources followed side by side: none waits for another.

mod world;

use async_trait::async_trait;
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Kind, Kinded, SourceName};
use backstay_ops::Event;
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::account::Account;
use backstay_ops::follow::drive::{
    CONF_EVERY, DRAIN, Drain, Driving, Nursery, Order, Outcome, Patience, Share, Tell, Told, drive,
};
use backstay_ops::follow::{FollowRequest, Limits, Mode, Pace};
use backstay_ops::masters::{self, KeyHome, NewMaster};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::trust::Custodian;
use backstay_ops::{init, open as repository};
use backstay_store::keyfile::KeyFile;
use backstay_store::keys::Place;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::seal::Unsealer;
use backstay_store::{Key, Page, Put, Store, StoreError};
use bytes::Bytes;
use rusqlite::Connection;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use world::{World, rows_of};

/// A store that counts what it is asked, and keeps whoever puts below a prefix waiting.
struct Gate {
    inner: LocalStore,
    asked: Mutex<Vec<String>>,
    closed: watch::Sender<Vec<String>>,
    /// How many puts wait, and how many got through.
    waiting: watch::Sender<usize>,
    puts: watch::Sender<usize>,
    /// What somebody does while a snapshot is put.
    meanwhile: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

impl Gate {
    fn close(&self, prefix: &str) {
        self.closed.send_modify(|closed| closed.push(prefix.to_owned()));
    }

    fn open(&self) {
        self.closed.send_modify(Vec::clear);
    }

    fn note(&self, verb: &str, what: &str) {
        self.asked.lock().expect("alone").push(format!("{verb} {what}"));
    }

    /// What it was asked since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("alone"))
    }

    async fn somebody_waits(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.expect("a store");
    }
}

#[async_trait]
impl Store for Gate {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.note("put", key.as_str());
        if matches!(Place::of(key), Place::Snapshot(_))
            && let Some(meanwhile) = self.meanwhile.lock().expect("alone").as_mut()
        {
            meanwhile();
        }
        let mut closed = self.closed.subscribe();
        let free = |closed: &Vec<String>| !closed.iter().any(|prefix| key.as_str().starts_with(prefix.as_str()));
        if !free(&closed.borrow()) {
            self.waiting.send_modify(|waiting| *waiting += 1);
            let opened = closed.wait_for(free).await.map(drop);
            self.waiting.send_modify(|waiting| *waiting -= 1);
            opened.expect("a store");
        }
        let put = self.inner.put_new(key, bytes).await;
        self.puts.send_modify(|puts| *puts += 1);
        put
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.note("get", key.as_str());
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.note("get range", key.as_str());
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.note("head", key.as_str());
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.note("list", prefix);
        self.inner.list(prefix, after, limit).await
    }

    backstay_testkit::forward!(inner: delete describe);
}

/// A repository with a gate before it, and a folder of applications.
struct House {
    world: World,
    store: Arc<Gate>,
    conf_every: Duration,
    puts_per_day: Option<NonZeroU32>,
    share: Option<Share>,
    /// How long what is left may take after being told to stop.
    patience: Duration,
    insists: bool,
}

impl House {
    async fn new() -> Self {
        // In memory where there is such a place: many files, and nothing of it needs a disk.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a temporary folder");
        let inner = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
        let (closed, waiting, puts) = (watch::Sender::new(Vec::new()), watch::Sender::new(0), watch::Sender::new(0));
        let store =
            Arc::new(Gate { inner, asked: Mutex::default(), closed, waiting, puts, meanwhile: Mutex::default() });
        let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        Self { world, store, conf_every: CONF_EVERY, puts_per_day: None, share: None, patience: DRAIN, insists: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.dir().join(format!("{name}.db"))
    }

    /// An application of its own, with a table.
    fn app(&self, name: &str) -> Connection {
        let conn = Connection::open(self.path(name)).expect("open");
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x)",
        )
        .expect("made");
        conn
    }

    fn order(&self, name: &str) -> Order {
        order(name, self.path(name))
    }
}

fn order(name: &str, path: PathBuf) -> Order {
    let request = FollowRequest {
        source: named(name),
        path,
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 2,
        limits: Limits::STANDARD,
        steps: Arc::new(|_| {}),
    };
    let interval = Duration::from_millis(10);
    let pace = Pace { interval, steady: interval, ..Pace::STANDARD };
    let (patience, rest_after, may_vanish) = (Patience::Missing, None, false);
    Order { request, pace, snapshot_interval: interval, patience, rest_after, may_vanish }
}

impl House {
    fn drive(&self, orders: Vec<Order>) -> Drive {
        self.drive_in(orders, Vec::new())
    }

    fn drive_in(&self, orders: Vec<Order>, nurseries: Vec<Nursery>) -> Drive {
        let (stop, stopped) = watch::channel(false);
        let (say, said) = mpsc::unbounded_channel();
        let tell: Tell = Arc::new(move |source, told| {
            let what = match told {
                Told::Started(_) => "started",
                Told::Began(_) => "began",
                Told::StoreAway(_) => "away",
                Told::StoreBack => "back",
                Told::Unreadable(_) => "unreadable",
                Told::Alarmed(_) | Told::AlarmEnded | Told::AuditFailed { .. } => "alarm",
                Told::Rests => "rests",
                Told::Vanished => "vanished",
                Told::Ended(_) => "ended",
                Told::Kept(_) => "kept",
            };
            let _ = say.send(format!("{source} {what}"));
        });
        let drain = Drain { insists: self.insists, ..Drain::once(self.patience) };
        let (conf_every, puts_per_day) = (self.conf_every, self.puts_per_day);
        let share = self.share;
        let driving = Driving { stop: stopped, tell, metrics: None, drain, nurseries, conf_every, puts_per_day, share };
        let mut task = JoinSet::new();
        task.spawn(drive(self.world.shared(), orders, driving));
        Drive { task, stop, said, heard: Vec::new() }
    }

    /// What a source's newest state has, restored.
    async fn restored(&self, name: &str) -> String {
        let to = self.world.dir().join(format!("{name}-restored.db"));
        let _ = std::fs::remove_file(&to);
        let request = RestoreRequest {
            source: named(name),
            target: Target::Latest,
            into: Destination::New(to.clone()),
            smoke: Vec::new(),
            busy: Duration::from_secs(1),
        };
        let planned = restore::plan(&self.world.vault, request).await.expect("a plan");
        restore::perform(&self.world.vault, planned).await.expect("restored");
        rows_of(&to)
    }
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch("PRAGMA synchronous=OFF").expect("set");
    conn
}

fn named(name: &str) -> SourceName {
    name.parse().expect("a legal name")
}

/// A loop that runs beside the test.
struct Drive {
    task: JoinSet<Vec<Outcome>>,
    stop: watch::Sender<bool>,
    said: mpsc::UnboundedReceiver<String>,
    heard: Vec<String>,
}

impl Drive {
    async fn says(&mut self, what: &str) {
        while !self.heard.iter().any(|heard| heard == what) {
            self.heard.push(self.said.recv().await.expect("it goes on"));
        }
    }

    async fn ended(mut self) -> (Vec<Outcome>, Vec<String>) {
        self.stop.send_replace(true);
        let outcomes = self.task.join_next().await.expect("a task").expect("no panic");
        while let Some(said) = self.said.recv().await {
            self.heard.push(said);
        }
        (outcomes, self.heard)
    }
}

/// Commits rows, and waits until a log object was taken by the store.
async fn commit(house: &House, conn: &Connection, rows: usize) {
    commit_of(house, conn, &vec![300; rows]).await;
}

/// The same with rows of so many bytes.
async fn commit_of(house: &House, conn: &Connection, rows: &[u32]) {
    let mut puts = house.store.puts.subscribe();
    house.store.asked();
    for bytes in rows {
        conn.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [bytes]).expect("inserted");
    }
    while !house.store.asked.lock().expect("alone").iter().any(|asked| asked.starts_with("put data/log/")) {
        puts.changed().await.expect("a store");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_snapshot_or_a_log_that_the_store_does_not_take_delays_no_other_source() {
    let mut house = House::new().await;
    house.patience = Duration::from_millis(300);
    let (slow, quick) = (house.app("slow"), house.app("quick"));
    std::fs::write(house.path("broken"), [7; 8192]).expect("written");
    house.store.close("data/slow/");
    let mut drive = house.drive(vec![house.order("slow"), house.order("quick"), house.order("broken")]);
    drive.says("broken ended").await;
    drive.says("quick started").await;
    house.store.somebody_waits().await;
    for _ in 0..3 {
        commit(&house, &quick, 2).await;
    }
    assert!(!drive.heard.contains(&"slow started".to_owned()));
    house.store.open();
    drive.says("slow started").await;
    commit(&house, &slow, 1).await;
    // Now its log: the put of one is never answered, the other goes on.
    let memory = std::fs::read_to_string(house.world.vault.state.dir().join("slow/follow.json")).expect("remembered");
    let stream = memory.split("\"stream\": \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a stream");
    house.store.close(&format!("data/log/{stream}/"));
    slow.execute("INSERT INTO t(x) VALUES ('kept')", []).expect("inserted");
    house.store.somebody_waits().await;
    for _ in 0..3 {
        commit(&house, &quick, 2).await;
    }
    let (outcomes, heard) = drive.ended().await;
    assert!(heard.contains(&"slow kept".to_owned()) && !heard.contains(&"quick kept".to_owned()), "{heard:?}");
    let [of_slow, of_quick, of_broken] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert_eq!(of_slow.position.as_ref().map(|position| (position.tx.get(), position.waiting)), Some((1, 1)));
    assert_eq!(of_quick.position.as_ref().map(|position| (position.tx.get(), position.waiting)), Some((12, 0)));
    assert!(of_broken.position.is_none() && of_broken.ended.is_some());
    assert!(house.restored("quick").await == rows_of(&house.path("quick")), "the newest state is the live one");
    // What was kept is put by the next run.
    house.store.open();
    let mut drive = house.drive(vec![house.order("slow")]);
    drive.says("slow started").await;
    let (outcomes, _) = drive.ended().await;
    assert_eq!(outcomes[0].sum.began, None, "it went on where it was");
    assert!(house.restored("slow").await == rows_of(&house.path("slow")), "the newest state is the live one");
}

/// Whether a checkpoint gets through while somebody reads; `PRAGMA busy_timeout` says how long it may wait for that.
fn is_truncated(conn: &Connection) -> bool {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).expect("asked") == 0
}

/// A first snapshot that takes long does not cost the application its log: neither while the database is read, nor
/// while the store does not take what was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_busy_application_stays_bounded_during_a_slow_first_snapshot() {
    const LIMIT: u64 = 2 << 20;
    let mut house = House::new().await;
    let conn = house.app("shop");
    conn.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<24) \
         INSERT INTO t(x) SELECT randomblob(1000000) FROM n",
    )
    .expect("filled");
    assert!(is_truncated(&conn));
    // While it is read: half a limit for each piece of it.
    let log = house.world.dir().join("shop.db-wal");
    let (writer, longest) = (Mutex::new(open(&house.path("shop"))), Arc::new(Mutex::new((0_u32, 0_u64))));
    let (seen, is_reading) = (longest.clone(), Arc::new(AtomicBool::new(true)));
    let reading = is_reading.clone();
    house.world.vault.env.events = Arc::new(move |event| {
        if matches!(event, Event::Advanced { .. }) && reading.load(Ordering::SeqCst) {
            let conn = writer.lock().expect("alone");
            conn.busy_timeout(Duration::ZERO).expect("set");
            conn.execute("UPDATE t SET x = randomblob(300000) WHERE id = 1 + abs(random() % 24)", []).expect("written");
            is_truncated(&conn);
            let mut seen = seen.lock().expect("alone");
            *seen = (seen.0 + 1, seen.1.max(std::fs::metadata(&log).expect("a log").len()));
        }
    });
    house.store.close("data/shop/pack/");
    let mut order = house.order("shop");
    order.request.limits.wal_limit = ByteLen::new(LIMIT);
    let mut drive = house.drive(vec![order]);
    house.store.somebody_waits().await;
    is_reading.store(false, Ordering::SeqCst);
    // What is written from here on waits with the snapshot, and the log can be begun anew all the same.
    conn.busy_timeout(Duration::from_secs(20)).expect("set");
    let mut after = 0;
    for _ in 0..30 {
        let (conn, log) = (&conn, house.world.dir().join("shop.db-wal"));
        conn.execute("UPDATE t SET x = randomblob(300000) WHERE id = 1 + abs(random() % 24)", []).expect("written");
        assert!(tokio::task::block_in_place(|| is_truncated(conn)), "it is not held up");
        after = after.max(std::fs::metadata(log).expect("a log").len());
    }
    assert!(!drive.heard.contains(&"shop started".to_owned()));
    house.store.open();
    drive.says("shop started").await;
    conn.execute("UPDATE t SET x = 'the last' WHERE id = 1", []).expect("written");
    let (outcomes, heard) = drive.ended().await;
    let position = outcomes[0].position.as_ref().expect("followed");
    assert_eq!((position.waiting, outcomes[0].sum.began.is_some()), (0, false), "no gap: {heard:?}");
    assert!(position.tx.get() > 30, "each commit behind the snapshot is a state: {}", position.tx);
    let (events, longest) = *longest.lock().expect("alone");
    assert!(events > 20 && longest < LIMIT * 2 && after < LIMIT, "{events} events, at most {longest}, then {after}");
    assert!(house.restored("shop").await == rows_of(&house.path("shop")), "the newest state is the live one");
}

/// What this process has open below a folder.
fn open_below(folder: &Path) -> Vec<PathBuf> {
    let links = std::fs::read_dir("/proc/self/fd").expect("this process").flatten();
    links.filter_map(|link| std::fs::read_link(link.path()).ok()).filter(|path| path.starts_with(folder)).collect()
}

/// One that may rest soon, and whose file may go.
fn tenant(path: &Path) -> Order {
    let name = path.file_stem().expect("a stem").to_str().expect("plain").to_owned();
    let mut order = order(&name, path.to_owned());
    (order.rest_after, order.may_vanish, order.patience) = (Some(Duration::from_millis(50)), true, Patience::Store);
    order.pace.poll = Duration::from_millis(200);
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_databases_at_rest_cost_no_handle_and_no_request_and_lose_no_commit() {
    const MANY: usize = 300;
    let house = House::new().await;
    let folder = house.world.dir().join("tenants");
    std::fs::create_dir(&folder).expect("made");
    let path = |n: usize| folder.join(format!("t{n:03}.db"));
    let app = |n: usize| {
        let conn = open(&path(n));
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x); \
             INSERT INTO t(x) VALUES (randomblob(500))",
        )
        .expect("made");
        conn
    };
    (0..MANY).for_each(|n| drop(app(n)));
    let below = folder.clone();
    let find = move || {
        let files = std::fs::read_dir(&below).expect("a folder").flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|found| found == "db")).map(|path| tenant(&path)).collect()
    };
    let nursery = Nursery { folder: folder.clone(), find: Arc::new(find.clone()) };
    let mut drive = house.drive_in(find(), vec![nursery]);
    for n in 0..MANY {
        drive.says(&format!("t{n:03} started")).await;
    }
    // Each makes a commit, some while others rest already.
    (0..MANY).for_each(|n| drop(app(n)));
    let state = house.world.vault.state.dir();
    // Who rests gives up the database first, and then what is remembered of it.
    let is_open = || !open_below(&folder).is_empty() || !open_below(state).is_empty();
    let rest = async |drive: &mut Drive| {
        while is_open() || drive.task.is_empty() {
            drive.heard.push(drive.said.recv().await.expect("it goes on"));
        }
    };
    rest(&mut drive).await;
    assert_eq!(open_below(state), Vec::<PathBuf>::new(), "nor on what is remembered of them");
    // At rest nothing is asked; who wakes puts one object for a commit, and nothing else.
    house.store.asked();
    for n in [7, 77, 277] {
        let conn = open(&path(n));
        commit(&house, &conn, 1).await;
        let asked = house.store.asked();
        assert!(asked.iter().all(|asked| asked.starts_with("put data/log/")), "{asked:?}");
        assert!(asked.len() <= 1);
    }
    rest(&mut drive).await;
    assert!(house.store.asked().iter().all(|asked| asked.starts_with("put data/log/")));
    // One comes, and one goes.
    let new = app(MANY);
    drive.says(&format!("t{MANY} started")).await;
    std::fs::remove_file(path(5)).expect("removed");
    drive.says("t005 vanished").await;
    drop(new);
    let (outcomes, heard) = drive.ended().await;
    assert_eq!(outcomes.len(), MANY + 1);
    let trouble = |line: &String| !line.ends_with("started") && !line.ends_with("rests") && line != "t005 vanished";
    assert_eq!(heard.iter().filter(|line| trouble(line)).collect::<Vec<_>>(), Vec::<&String>::new());
    let waiting = outcomes.iter().filter_map(|outcome| outcome.position.as_ref()).filter(|at| at.waiting > 0);
    assert_eq!(waiting.count(), 0);
    for n in (0..=MANY).filter(|n| *n != 5) {
        let name = format!("t{n:03}");
        assert!(house.restored(&name).await == rows_of(&path(n)), "{name}");
    }
}

/// What is committed a moment before they are told to stop may not have been heard by anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_to_a_database_at_rest_is_durable_when_it_is_told_to_stop_at_once() {
    let house = House::new().await;
    drop(house.app("a"));
    for round in 1..=2 {
        let mut drive = house.drive(vec![tenant(&house.path("a"))]);
        drive.says("a rests").await;
        open(&house.path("a")).execute("INSERT INTO t(x) VALUES (randomblob(300))", []).expect("inserted");
        let (outcomes, heard) = drive.ended().await;
        assert!(outcomes[0].ended.is_none(), "{heard:?}");
        assert!(house.restored("a").await == rows_of(&house.path("a")), "round {round}");
    }
}

/// An application that goes on committing, while its follower is told to stop and waits until all is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_makes_one_last_snapshot_of_the_log_however_much_is_committed_meanwhile() {
    let mut house = House::new().await;
    (house.world.vault.unsealer, house.insists) = (None, true);
    let app = house.app("a");
    let mut order = house.order("a");
    order.request.limits.hours = Some(Duration::from_secs(3600));
    let mut drive = house.drive(vec![order]);
    drive.says("a started").await;
    commit(&house, &app, 3).await;
    let made = Arc::new(Mutex::new(0));
    let (counted, writer) = (made.clone(), open(&house.path("a")));
    *house.store.meanwhile.lock().expect("alone") = Some(Box::new(move || {
        *counted.lock().expect("alone") += 1;
        writer.execute("INSERT INTO t(x) VALUES ('meanwhile')", []).expect("inserted");
        // Long enough for a look to find it; whether one does changes nothing of what is asked.
        std::thread::sleep(Duration::from_millis(200));
    }));
    let (outcomes, heard) = drive.ended().await;
    assert_eq!((*made.lock().expect("alone"), heard), (1, vec!["a started".to_owned()]));
    assert_eq!(
        outcomes[0].position.as_ref().map(|at| (at.tx.get(), at.waiting)),
        Some((4, 0)),
        "it is durable as well"
    );
}

/// Of a database that nobody has open our own close removes the log that was made for us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_nobody_opens_rest_once_while_others_are_written_to() {
    const MANY: usize = 20;
    let house = House::new().await;
    let name = |n: usize| format!("t{n:02}");
    (0..MANY).for_each(|n| drop(house.app(&name(n))));
    let busy = house.app("busy");
    let orders = (0..MANY).map(|n| tenant(&house.path(&name(n)))).chain([house.order("busy")]);
    let mut drive = house.drive(orders.collect());
    for n in 0..MANY {
        drive.says(&format!("{} rests", name(n))).await;
    }
    // Each time that would be long enough to wake and to rest again.
    for _ in 0..30 {
        commit(&house, &busy, 1).await;
    }
    let open = open_below(house.world.dir());
    let is_busy = |path: &PathBuf| path.to_string_lossy().contains("busy");
    assert!(open.iter().all(is_busy), "{open:?}");
    let (outcomes, heard) = drive.ended().await;
    assert_eq!(heard.iter().filter(|heard| heard.ends_with(" rests")).count(), MANY, "{heard:?}");
    assert!(outcomes.iter().all(|outcome| outcome.ended.is_none()), "{outcomes:?}");
}

/// How many commits a source has made durable, and how many it has read beside them, by its own account.
fn account(house: &House, name: &str) -> (u64, u64) {
    let account = Account::recall(&house.world.vault, &named(name)).expect("readable");
    account.map_or((0, 0), |account| (account.tx.get(), account.waiting))
}

fn logged(asked: &[String]) -> usize {
    asked.iter().filter(|asked| asked.starts_with("put data/log/")).count()
}

/// Ten minutes' worth of 10,000 a day are 69 puts: enough for the first commit of each of sixty databases, and then
/// one for all of them in nine seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_databases_written_to_at_once_keep_to_what_they_may_put_and_hold_up_no_other() {
    const MANY: usize = 60;
    let mut house = House::new().await;
    house.puts_per_day = NonZeroU32::new(10_000);
    let name = |n: usize| format!("s{n:02}");
    let apps: Vec<Connection> = (0..=MANY).map(|n| house.app(&name(n))).collect();
    let mut drive = house.drive((0..=MANY).map(|n| house.order(&name(n))).collect());
    for n in 0..=MANY {
        drive.says(&format!("{} started", name(n))).await;
    }
    let insert = |conn: &Connection| {
        conn.execute("INSERT INTO t(x) VALUES (randomblob(300))", []).expect("inserted");
    };
    let (seldom, busy) = apps.split_last().expect("some");
    house.store.asked();
    let (mut puts, mut asked) = (house.store.puts.subscribe(), Vec::new());
    busy.iter().for_each(insert);
    while logged(&asked) < MANY {
        puts.changed().await.expect("a store");
        asked.extend(house.store.asked());
    }
    assert!(asked.iter().all(|asked| asked.starts_with("put data/log/")), "a put for each, and no other request");
    // Four more commits each: all of them are read, and wait.
    (0..4).for_each(|_| busy.iter().for_each(insert));
    let read = |n: usize| {
        let (durable, waiting) = account(&house, &name(n));
        durable + waiting
    };
    while (0..MANY).any(|n| read(n) < 5) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let meanwhile = logged(&house.store.asked());
    assert!(meanwhile <= 8, "{meanwhile} puts although none may be made");
    insert(seldom);
    while house.store.asked.lock().expect("alone").is_empty() {
        puts.changed().await.expect("a store");
    }
    let (outcomes, heard) = drive.ended().await;
    assert!(!heard.iter().any(|heard| !heard.ends_with("started")), "{heard:?}");
    let position = |outcome: &Outcome| outcome.position.as_ref().map(|at| (at.tx.get(), at.waiting));
    let (last, others) = outcomes.split_last().expect("some");
    assert_eq!((position(last), last.sum.objects), (Some((1, 0)), 1), "it did not wait for the end");
    assert!(others.iter().all(|outcome| position(outcome) == Some((5, 0))), "what waited was put in the end");
    let objects: u64 = others.iter().map(|outcome| outcome.sum.objects).sum();
    assert!(objects <= 2 * MANY as u64 + 8, "{objects} objects for {} commits", 5 * MANY);
    for n in 0..=MANY {
        assert!(house.restored(&name(n)).await == rows_of(&house.path(&name(n))), "{}", name(n));
    }
}

/// A hundred puts a day are one in a quarter of an hour: nobody waits that long for a checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_waits_for_what_is_held_waits_for_no_turn() {
    let mut house = House::new().await;
    house.puts_per_day = NonZeroU32::new(100);
    let app = house.app("a");
    app.busy_timeout(Duration::from_secs(60)).expect("set");
    let mut order = house.order("a");
    order.request.limits.mode = Mode::Hold;
    let mut drive = house.drive(vec![order]);
    drive.says("a started").await;
    commit(&house, &app, 1).await;
    app.execute("INSERT INTO t(x) VALUES (randomblob(300))", []).expect("inserted");
    while account(&house, "a") != (1, 1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(tokio::task::block_in_place(|| is_truncated(&app)), "it was put, and let go");
    assert_eq!(drive.ended().await.0[0].position.as_ref().map(|at| (at.tx.get(), at.waiting)), Some((2, 0)));
}

/// A hundred puts a day are one in a quarter of an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_gap_nor_what_fills_an_object_waits_for_a_turn() {
    let mut house = House::new().await;
    house.puts_per_day = NonZeroU32::new(100);
    let app = house.app("a");
    let mut drive = house.drive(vec![house.order("a")]);
    drive.says("a started").await;
    commit(&house, &app, 1).await;
    let small = || app.execute("INSERT INTO t(x) VALUES (randomblob(300))", []).expect("inserted");
    let stands_at = async |durable: u64, waiting: u64| {
        while account(&house, "a") != (durable, waiting) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    house.store.asked();
    small();
    stands_at(1, 1).await;
    assert_eq!(house.store.asked(), Vec::<String>::new());
    // As much as an object takes goes, and the commit before it.
    commit_of(&house, &app, &[17 << 20]).await;
    stands_at(3, 0).await;
    small();
    stands_at(3, 1).await;
    // Another file at its path: what was read goes, and a snapshot follows.
    drop((app, house.app("other")));
    for beside in ["a.db-wal", "a.db-shm"] {
        std::fs::remove_file(house.world.dir().join(beside)).expect("removed");
    }
    std::fs::rename(house.path("other"), house.path("a")).expect("replaced");
    tokio::time::timeout(Duration::from_secs(60), drive.says("a began")).await.expect("long before its turn");
    let (outcomes, _) = drive.ended().await;
    let waiting = outcomes[0].position.as_ref().map(|at| at.waiting);
    assert_eq!((outcomes[0].sum.shipped, waiting), (4, Some(0)), "{outcomes:?}");
    assert!(house.restored("a").await == rows_of(&house.path("a")), "the newest state is the live one");
}

/// The repository as a process finds it that begins now with these keys, and nothing else.
async fn opened(house: &House, keys: &KeyFile) -> Vault {
    let old = &house.world.vault;
    let states = old.state.dir().parent().expect("a folder");
    let repo = repository::open(house.store.clone(), old.repo.root(), states).await.expect("opened");
    let unsealer = Some(Unsealer::of(repo.unlock_for(keys).await.expect("unlocked").masters));
    Vault { repo, state: old.state.clone(), signer: keys.signer.clone(), unsealer, env: old.env.clone() }
}

async fn latest(vault: &Vault, to: PathBuf) -> Result<String, backstay_ops::OpsError> {
    let (into, busy) = (Destination::New(to.clone()), Duration::from_secs(1));
    let request = RestoreRequest { source: named("a"), target: Target::Latest, into, smoke: Vec::new(), busy };
    restore::perform(vault, restore::plan(vault, request).await?).await?;
    Ok(rows_of(&to))
}

/// What a follower that runs for months seals is nothing for who was taken off meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_changed_beside_a_follower_are_those_it_seals_to_from_then_on() {
    let mut house = House::new().await;
    house.conf_every = Duration::from_millis(20);
    let app = house.app("a");
    let mut drive = house.drive(vec![house.order("a")]);
    drive.says("a started").await;
    commit(&house, &app, 2).await;
    let path = house.world.dir().join("backstay.key");
    let old = init::read_keys(&path).expect("a key file").expect("there");
    let custodian = Custodian { vault: &house.world.vault, root: old.root.as_ref().expect("a root") };
    let passphrases = std::collections::BTreeMap::new();
    let new = NewMaster { without: None, held: &old, home: KeyHome::InUse(&path), passphrases: &passphrases };
    masters::change(&custodian, new).await.expect("rotated");
    drive.heard.clear();
    commit(&house, &app, 1).await;
    drive.says("a started").await;
    commit(&house, &app, 1).await;
    let (outcomes, heard) = drive.ended().await;
    assert!(!heard.iter().any(|heard| heard == "a ended"), "{heard:?}");
    // What waited when the keys were changed was put by the next beginning, and is not counted.
    let last = outcomes[0].position.as_ref().map(|position| (position.tx.get(), position.waiting));
    assert_eq!((last, outcomes[0].sum.began.is_none()), (Some((4, 0)), true), "it went on, without a gap");
    let now = init::read_keys(&path).expect("a key file").expect("there");
    let newest = latest(&opened(&house, &now).await, house.path("by-the-new")).await.expect("restored");
    assert!(newest == rows_of(&house.path("a")));
    let refused = latest(&opened(&house, &old).await, house.path("by-the-old")).await.expect_err("sealed to another");
    assert_eq!(refused.kind(), Kind::Denied, "{refused}");
}
