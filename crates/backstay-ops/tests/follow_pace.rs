//! What goes on beside the reading of a log, and what it may not change: objects are sealed while more is read, and one
//! note is for several of them.

mod world;

use backstay_model::{ByteLen, Tx};
use backstay_ops::disk::{Disk, DiskFile, OsDisk};
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_sqlite::Step;
use backstay_store::memory::MemoryStore;
use backstay_testkit::fault_store::FaultStore;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use world::{World, rows_of, source};

const MIB: u64 = 1 << 20;

/// A disk on which nothing new comes into a spool until somebody lets it.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn shut(&self, shut: bool) {
        *self.is_shut.lock().expect("alone") = shut;
        self.opened.notify_all();
    }
}

/// Also one that is full for notes of where following stands.
#[derive(Default)]
struct Gated(Arc<Gate>, Arc<AtomicBool>);

impl Disk for Gated {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        if path.parent().is_some_and(|folder| folder.ends_with("spool")) {
            let shut = self.0.is_shut.lock().expect("alone");
            drop(self.0.opened.wait_while(shut, |shut| *shut).expect("alone"));
        }
        OsDisk.create(path, mode)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.ends_with("follow.json") && self.1.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        OsDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
}

struct App {
    world: World,
    store: Arc<FaultStore>,
    conn: Connection,
}

impl App {
    async fn begin(disk: Arc<dyn Disk>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let world = World::over(folder, store.clone(), disk).await;
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL; CREATE TABLE t(x BLOB)").expect("made");
        Self { world, store, conn }
    }

    fn insert(&self, bytes: u64) {
        self.conn.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [bytes.cast_signed()]).expect("inserted");
    }

    fn request(&self, steps: impl Fn(Step) + Send + Sync + 'static) -> FollowRequest {
        let limits = Limits { look: Duration::from_secs(60), wal_limit: ByteLen::new(16 * MIB), ..Limits::STANDARD };
        FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 2,
            limits,
            steps: Arc::new(steps),
        }
    }

    async fn latest_is_live(&self) {
        let to = self.world.dir().join("latest.db");
        self.world.restore(backstay_model::catalog::Target::Latest, &to).await.expect("restore");
        assert!(rows_of(&to) == self.world.rows(), "the latest state is the live one");
    }
}

/// Where sealing takes long the log is read all the same, and is not copied back before what was read is safe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_is_read_while_what_was_read_is_sealed() {
    let gate = Arc::new(Gate::default());
    let app = App::begin(Arc::new(Gated(gate.clone(), Arc::default()))).await;
    let spool = app.world.vault.state.dir().join("shop/spool");
    let (handed, unsafe_copies) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counted, wrong) = (handed.clone(), unsafe_copies.clone());
    let steps = move |step| {
        counted.fetch_add(u32::from(step == Step::Handed), Ordering::SeqCst);
        if step == Step::CopyingBack {
            let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
            let bytes: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
            wrong.fetch_add(u32::from(bytes < 8 * MIB), Ordering::SeqCst);
        }
    };
    let mut follower = Follower::start(&app.world.vault, app.request(steps)).await.expect("follow");
    gate.shut(true);
    for commit in 1..=7 {
        app.insert(MIB);
        assert_eq!(follower.catch().expect("read"), 1, "commit {commit}");
    }
    let position = follower.position();
    assert_eq!((handed.load(Ordering::SeqCst), position.waiting, position.spooled_bytes), (1, 7, 0));
    gate.shut(false);
    for _ in 0..3 {
        app.insert(MIB);
        follower.catch().expect("read");
    }
    assert_eq!(unsafe_copies.load(Ordering::SeqCst), 0, "nothing is copied back that is not safe");
    assert!(follower.position().log_bytes < 12 * MIB, "and it was copied back");
    assert_eq!(follower.tick().await.expect("tick").began, None);
    assert_eq!((follower.position().tx, follower.position().waiting), (Tx::new(10), 0));
    drop(follower);
    app.latest_is_live().await;
}

/// What was handed over in the same look is waited for before nobody can commit, not while nobody can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_sealed_is_waited_for_before_writers_have_to_wait() {
    let gate = Arc::new(Gate::default());
    let app = App::begin(Arc::new(Gated(gate.clone(), Arc::default()))).await;
    let spool = app.world.vault.state.dir().join("shop/spool");
    let (handed, found) = (AtomicU32::new(0), Arc::new(Mutex::new(Vec::new())));
    let (theirs, seen) = (gate.clone(), found.clone());
    let steps = move |step| {
        // The first time it is handed over, the second time it is waited for.
        if step == Step::Handed && handed.fetch_add(1, Ordering::SeqCst) == 1 {
            theirs.shut(false);
        }
        if step == Step::Locked {
            let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
            let bytes: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
            seen.lock().expect("alone").push(bytes);
            theirs.shut(false);
        }
    };
    let mut follower = Follower::start(&app.world.vault, app.request(steps)).await.expect("follow");
    gate.shut(true);
    app.insert(9 * MIB);
    assert_eq!(follower.catch().expect("read"), 1);
    let found = found.lock().expect("alone").clone();
    assert!(found.len() == 1 && found[0] > 9 * MIB, "{found:?}");
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// The last of what was read is sealed while the log is copied back, and lies on the disk before the log can be begun anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_beside_the_copying_is_safe_before_the_log_goes() {
    let gate = Arc::new(Gate::default());
    let app = App::begin(Arc::new(Gated(gate.clone(), Arc::default()))).await;
    let spool = app.world.vault.state.dir().join("shop/spool");
    let (copied, found) = (AtomicU32::new(0), Arc::new(Mutex::new(Vec::new())));
    let (theirs, seen) = (gate.clone(), found.clone());
    let bytes = move || -> u64 {
        let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
        files.map(|file| file.metadata().expect("a file").len()).sum()
    };
    let steps = move |step| {
        if step == Step::CopiedBack {
            copied.fetch_add(1, Ordering::SeqCst);
            seen.lock().expect("alone").push(bytes());
            theirs.shut(false);
        }
        if step == Step::LettingGo && copied.load(Ordering::SeqCst) > 0 {
            seen.lock().expect("alone").push(bytes());
        }
    };
    let mut follower = Follower::start(&app.world.vault, app.request(steps)).await.expect("follow");
    app.insert(7 * MIB);
    assert_eq!(follower.catch().expect("read"), 1);
    assert_eq!(follower.keep(), 1);
    gate.shut(true);
    app.insert(MIB + MIB / 2);
    assert_eq!(follower.catch().expect("read"), 1);
    let found = found.lock().expect("alone").clone();
    assert!(found.len() == 2 && found[0] < 8 * MIB && found[1] > 8 * MIB, "{found:?}");
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
}

/// One note is for all objects that are sealed by then: whichever of them is the last that the store has, the next run goes
/// on behind it, also when the power went and took the spool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_were_written_down_together_are_known_to_the_next_run() {
    for last in 1..=3 {
        let app = App::begin(Arc::new(OsDisk)).await;
        let (notes, puts) = (Arc::new(Mutex::new(BTreeSet::new())), AtomicU32::new(0));
        let (seen, store) = (notes.clone(), app.store.clone());
        let state = app.world.vault.state.dir().join("shop");
        let steps = move |step| {
            if step == Step::Putting {
                seen.lock().expect("alone").insert(std::fs::read(state.join("follow.json")).expect("a note"));
            }
            if step == Step::Confirmed && puts.fetch_add(1, Ordering::SeqCst) + 1 == last {
                store.go_away();
            }
        };
        let mut follower = Follower::start(&app.world.vault, app.request(steps)).await.expect("follow");
        for _ in 0..4 {
            app.insert(100);
            follower.catch().expect("read");
            follower.keep();
        }
        assert!(follower.tick().await.is_err(), "the store is away");
        assert_eq!(follower.position().tx, Tx::new(last.into()));
        assert_eq!(notes.lock().expect("alone").len(), 1, "all four are in one note");
        drop(follower);
        std::fs::remove_dir_all(app.world.vault.state.dir().join("shop/spool")).expect("removed");
        app.store.come_back();
        let mut next = Follower::start(&app.world.vault, app.request(|_| {})).await.expect("follow");
        assert_eq!(next.began(), &Began::Continued { tx: Tx::new(last.into()) });
        next.tick().await.expect("tick");
        assert_eq!(next.position().tx, Tx::new(4));
        drop(next);
        app.latest_is_live().await;
    }
}

/// A disk that is full for a moment: nothing says what stands in the first slot, and what stands in the second is written
/// down once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_the_disk_did_not_take_is_written_again_with_the_next_object() {
    let disk = Gated::default();
    let is_full = disk.1.clone();
    let app = App::begin(Arc::new(disk)).await;
    let (puts, store, free) = (AtomicU32::new(0), app.store.clone(), is_full.clone());
    let steps = move |step| match step {
        Step::Putting => free.store(false, Ordering::SeqCst),
        Step::Confirmed if puts.fetch_add(1, Ordering::SeqCst) == 1 => store.go_away(),
        _ => {}
    };
    let mut follower = Follower::start(&app.world.vault, app.request(steps)).await.expect("follow");
    for _ in 0..4 {
        app.insert(100);
        follower.catch().expect("read");
        follower.keep();
    }
    is_full.store(true, Ordering::SeqCst);
    assert!(follower.tick().await.is_err(), "the store is away");
    drop(follower);
    std::fs::remove_dir_all(app.world.vault.state.dir().join("shop/spool")).expect("removed");
    app.store.come_back();
    let mut next = Follower::start(&app.world.vault, app.request(|_| {})).await.expect("follow");
    assert_eq!(next.began(), &Began::Continued { tx: Tx::new(2) });
    next.tick().await.expect("tick");
    drop(next);
    app.latest_is_live().await;
}
