//! At every named step of following somebody acts: commits, copies back in each mode, replaces the file, dies, takes the
//! store or the state folder away. Afterwards every state that was numbered comes back and is compared with what the
//! database was after each commit: none may differ, and none may be missing untold.
//!
//! An interleaving is forced by the step's name and the visit of it. A tenth of them runs here, by a seed; `cargo xtask
//! soak steps` runs them all.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Tx};
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits, is_passing};
use backstay_sqlite::Step;
use backstay_store::memory::MemoryStore;
use backstay_testkit::fault_store::FaultStore;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use world::{Hands, World, recovered, source};

/// What somebody does at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Commit,
    Large,
    Passive,
    Full,
    Restart,
    Truncate,
    Vacuum,
    Schema,
    Shrink,
    /// Another writer is killed amid a transaction that is in the log already.
    Killed,
    /// The application ends and begins again.
    Reopened,
    /// It gives its log up, and takes a new one.
    Journal,
    PageSize,
    /// Another database is renamed over it.
    Replaced,
    /// It is deleted with all that belongs to it, and made anew.
    Recreated,
    /// The state folder is deleted.
    Forgotten,
    /// The store is away.
    Away,
    /// The store takes what is put and does not answer.
    Mute,
}

impl Act {
    const ALL: [Act; 18] = [
        Act::Commit,
        Act::Large,
        Act::Passive,
        Act::Full,
        Act::Restart,
        Act::Truncate,
        Act::Vacuum,
        Act::Schema,
        Act::Shrink,
        Act::Killed,
        Act::Reopened,
        Act::Journal,
        Act::PageSize,
        Act::Replaced,
        Act::Recreated,
        Act::Forgotten,
        Act::Away,
        Act::Mute,
    ];
}

/// An application, and what its database was after each of its commits.
struct App {
    path: PathBuf,
    conn: Option<Connection>,
    states: Vec<[u8; 32]>,
    /// Where in them another file begins.
    line: usize,
    commits: u32,
}

impl App {
    fn begin(path: PathBuf) -> Self {
        let mut app = Self { path, conn: None, states: Vec::new(), line: 0, commits: 0 };
        app.make();
        app
    }

    fn make(&mut self) {
        self.open();
        self.sql("PRAGMA page_size=1024; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL");
        self.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)");
        self.remember();
        self.insert(5000);
        self.insert(100);
    }

    fn open(&mut self) {
        let conn = Connection::open(&self.path).expect("opens");
        // It stands still while somebody else does: waiting would be for ever.
        conn.busy_timeout(Duration::ZERO).expect("set");
        conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0").expect("set");
        self.conn = Some(conn);
    }

    /// What is refused because somebody has a lock did not happen.
    fn sql(&self, sql: &str) -> bool {
        match self.conn.as_ref().expect("open").execute_batch(sql) {
            Ok(()) => true,
            Err(error) if error.to_string().contains("locked") => false,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// Whether it did.
    fn commit(&mut self, sql: &str) -> bool {
        self.commits += 1;
        let done = self.sql(sql);
        if done {
            self.remember();
        }
        done
    }

    fn insert(&mut self, bytes: u32) -> bool {
        self.commit(&format!("INSERT INTO t(x) VALUES (randomblob({bytes}))"))
    }

    fn checkpoint(&self, mode: &str) -> bool {
        let asked = self
            .conn
            .as_ref()
            .expect("open")
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0));
        asked.is_ok_and(|busy| busy == 0)
    }

    /// Commits on both sides of checkpoints, so that the log is begun anew if it can be.
    fn checkpoints(&mut self, mode: &str) {
        self.insert(700);
        self.checkpoint(mode);
        self.insert(300);
        self.checkpoint(mode);
        self.checkpoint(mode);
        self.insert(50);
    }

    /// What the database is now, as one more state.
    fn remember(&mut self) {
        let state = digest(&recovered(&self.path));
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.path.display()))
    }

    /// A writer of its own is killed when the log has much of a transaction that was never committed.
    fn killed_writer(&mut self) {
        let mut child = Command::new("sqlite3")
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("`apt-get install sqlite3`");
        let mut words = child.stdin.take().expect("a pipe");
        let text = "PRAGMA cache_size=2; PRAGMA cache_spill=1; BEGIN IMMEDIATE;
                    INSERT INTO t(x) SELECT randomblob(3000) FROM (VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9));\n.system echo amid\n";
        words.write_all(text.as_bytes()).expect("told");
        // Whoever may not write at this step says so, and goes on to the last line all the same.
        let amid =
            BufReader::new(child.stdout.take().expect("a pipe")).lines().any(|line| line.expect("text") == "amid");
        assert!(amid, "it came so far");
        child.kill().expect("a process of ours");
        child.wait().expect("it ends");
        self.insert(40);
    }

    fn replace(&mut self, keeps_old: bool) {
        self.conn = None;
        let other = self.beside(".other");
        let path = std::mem::replace(&mut self.path, other);
        self.line = self.states.len();
        if keeps_old {
            self.make();
            self.conn = None;
        }
        let other = std::mem::replace(&mut self.path, path);
        for suffix in ["", "-wal", "-shm"] {
            let here = self.beside(suffix);
            match keeps_old && suffix.is_empty() {
                true => std::fs::rename(&here, self.beside(".old")).expect("renamed"),
                false => drop(std::fs::remove_file(here)),
            }
        }
        if keeps_old {
            std::fs::rename(&other, &self.path).expect("renamed");
            self.open();
        } else {
            self.make();
        }
        self.insert(60);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Commit => drop(self.insert(200)),
            Act::Large => drop(self.insert(40_000)),
            Act::Passive => self.checkpoints("PASSIVE"),
            Act::Full => self.checkpoints("FULL"),
            Act::Restart => self.checkpoints("RESTART"),
            Act::Truncate => self.checkpoints("TRUNCATE"),
            Act::Vacuum => {
                self.commit("VACUUM");
                self.insert(10);
            }
            Act::Schema => {
                let n = self.commits;
                let fill = format!("INSERT INTO extra{n} VALUES (zeroblob(3000))");
                if self.commit(&format!("BEGIN IMMEDIATE; CREATE TABLE extra{n}(y); {fill}; COMMIT")) {
                    self.commit(&format!("ALTER TABLE extra{n} ADD COLUMN z"));
                    self.commit(&format!("DROP TABLE extra{n}"));
                }
            }
            Act::Shrink => {
                self.insert(9000);
                self.commit("DELETE FROM t WHERE id % 2 = 1");
                self.commit("PRAGMA incremental_vacuum");
                self.insert(4000);
            }
            Act::Killed => self.killed_writer(),
            Act::Reopened => {
                self.insert(80);
                self.conn = None;
                self.open();
                self.insert(90);
            }
            Act::Journal => {
                self.sql("PRAGMA journal_mode=DELETE");
                self.insert(70);
                self.sql("PRAGMA journal_mode=WAL");
                self.insert(70);
            }
            Act::PageSize => {
                self.sql("PRAGMA journal_mode=DELETE; PRAGMA page_size=2048; VACUUM");
                self.remember();
                self.sql("PRAGMA journal_mode=WAL");
                self.remember();
                self.insert(70);
            }
            Act::Replaced => self.replace(true),
            Act::Recreated => self.replace(false),
            Act::Forgotten | Act::Away | Act::Mute => drop(self.insert(30)),
        }
    }
}

/// Of a database, but for free pages, which need not have any content.
fn digest(image: &[u8]) -> [u8; 32] {
    let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().expect("four bytes"));
    let size = match u16::from_be_bytes([image[16], image[17]]) {
        1 => 65_536,
        size => usize::from(size),
    };
    let (mut leaves, mut trunk) = (BTreeSet::new(), word(32));
    while trunk != 0 {
        let at = (trunk as usize - 1) * size;
        leaves.extend((0..word(at + 4) as usize).map(|n| word(at + 8 + 4 * n) as usize));
        trunk = word(at);
    }
    let mut hasher = blake3::Hasher::new();
    for (at, page) in image.chunks(size).enumerate() {
        if !leaves.contains(&(at + 1)) {
            hasher.update(&(at as u64).to_le_bytes());
            hasher.update(page);
        }
    }
    hasher.update(&(image.len() as u64).to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// One interleaving: at which visit of which step who does what.
#[derive(Debug, Clone, Copy)]
struct Run {
    at: Step,
    visit: u32,
    act: Act,
}

impl Run {
    /// Whether it may make following begin anew: the file is another one or has no log any more, or nobody held it.
    fn may_cost(self) -> bool {
        let is_at_rest = matches!(self.at, Step::Resting | Step::Rested | Step::Woken | Step::HeldAgain);
        let lasts = [Act::Journal, Act::PageSize, Act::Replaced, Act::Recreated, Act::Forgotten].contains(&self.act);
        is_at_rest || lasts
    }
}

/// Following began anew: while it ran, or with a next run.
struct Anew {
    reason: String,
    ran: bool,
}

/// What came of it.
struct Came {
    /// The step was reached that often.
    acted: bool,
    anew: Vec<Anew>,
    compared: usize,
}

struct Scene {
    run: Run,
    world: World,
    store: Arc<FaultStore>,
    clock: Arc<Hands>,
    app: Arc<Mutex<App>>,
    visits: Arc<AtomicU32>,
    /// Nobody acts any more.
    over: Arc<AtomicBool>,
}

impl Scene {
    async fn begin(run: Run) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let mut world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        let clock = Arc::new(Hands::default());
        world.vault.env.clock = clock.clone();
        let app = Arc::new(Mutex::new(App::begin(world.db())));
        Self { run, world, store, clock, app, visits: Arc::default(), over: Arc::default() }
    }

    fn app(&self) -> MutexGuard<'_, App> {
        self.app.lock().expect("alone")
    }

    fn request(&self) -> FollowRequest {
        let Run { at, visit, act } = self.run;
        let (visits, app, store) = (self.visits.clone(), self.app.clone(), self.store.clone());
        let over = self.over.clone();
        let state = self.world.vault.state.dir().to_owned();
        let steps = move |step| {
            let is_here = step == at && !over.load(Ordering::SeqCst);
            if !is_here || visits.fetch_add(1, Ordering::SeqCst) != visit {
                return;
            }
            app.lock().expect("alone").act(act);
            match act {
                Act::Forgotten => {
                    std::fs::remove_dir_all(&state).expect("removed");
                    std::fs::create_dir_all(&state).expect("made");
                }
                Act::Away => store.go_away(),
                Act::Mute => store.lose_answers(),
                _ => {}
            }
        };
        // So small that the log is copied back by us, and so large that it is never let go.
        let limits = Limits { look: Duration::from_secs(60), wal_limit: ByteLen::new(192 << 10), ..Limits::STANDARD };
        FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::ZERO,
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 1,
            limits,
            steps: Arc::new(steps),
        }
    }

    /// What passes is tried again.
    fn passed<T>(&self, what: &str, done: Result<T, OpsError>) -> Option<T> {
        match done {
            Ok(done) => Some(done),
            Err(error) => {
                assert!(is_ours(&error) || is_passing(&error), "{:?}: {what}: {error:?}", self.run);
                None
            }
        }
    }

    async fn follow(&self, anew: &mut Vec<Anew>) -> Follower<'_> {
        let mut failed = 0;
        while failed < 4 {
            let begun = Follower::start(&self.world.vault, self.request()).await;
            self.store.come_back();
            failed += u32::from(begun.as_ref().is_err_and(|error| !is_ours(error)));
            if let Some(follower) = self.passed("begins", begun) {
                self.note(follower.began(), false, anew);
                return follower;
            }
        }
        panic!("{:?}: it never begins", self.run);
    }

    fn note(&self, began: &Began, ran: bool, anew: &mut Vec<Anew>) {
        if let Began::Snapshot { reason: Some(reason), .. } = began {
            anew.push(Anew { reason: reason.clone(), ran });
        }
    }

    fn catch(&self, follower: &mut Follower<'_>) {
        self.passed("looks", follower.catch());
    }

    async fn tick(&self, follower: &mut Follower<'_>, anew: &mut Vec<Anew>) {
        let done = follower.tick().await;
        self.store.come_back();
        if let Some(began) = self.passed("a tick", done).and_then(|ticked| ticked.began) {
            self.note(&began, true, anew);
        }
    }

    /// A life in which every step is reached.
    async fn live(&self) -> Vec<Anew> {
        let anew = &mut Vec::new();
        let mut follower = self.follow(anew).await;
        self.app().insert(500);
        self.tick(&mut follower, anew).await;
        // Our mark stands in the way of a checkpoint, and gets out of it.
        self.app().insert(800);
        self.catch(&mut follower);
        self.catch(&mut follower);
        self.app().checkpoint("RESTART");
        self.catch(&mut follower);
        self.app().insert(200);
        self.tick(&mut follower, anew).await;
        // So much that we copy it back.
        self.app().insert(50_000);
        self.tick(&mut follower, anew).await;
        self.catch(&mut follower);
        self.app().insert(100);
        self.catch(&mut follower);
        // The store is away, and the application begins its log anew all the same.
        for bytes in [600, 900] {
            self.store.go_away();
            self.app().insert(bytes);
            self.tick(&mut follower, anew).await;
            self.app().checkpoint("TRUNCATE");
            self.catch(&mut follower);
            self.app().checkpoint("TRUNCATE");
        }
        self.app().insert(300);
        self.catch(&mut follower);
        // Killed, and begun again.
        drop(follower);
        self.app().insert(400);
        let mut follower = self.follow(anew).await;
        self.app().insert(150);
        self.tick(&mut follower, anew).await;
        self.rest(&mut follower);
        self.app().insert(250);
        while follower.rests() && self.passed("wakes", follower.wake()).is_none() {}
        for _ in 0..8 {
            self.tick(&mut follower, anew).await;
            if !follower.has_news() {
                break;
            }
        }
        assert!(!follower.has_news(), "{:?}: it comes to an end", self.run);
        drop(follower);
        let mut follower = self.follow(anew).await;
        self.app().insert(350);
        self.tick(&mut follower, anew).await;
        self.over.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            self.tick(&mut follower, anew).await;
        }
        std::mem::take(anew)
    }

    fn rest(&self, follower: &mut Follower<'_>) {
        for _ in 0..6 {
            self.clock.pass(10);
            self.catch(follower);
            if self.passed("rests", follower.rest()).unwrap_or(false) {
                return;
            }
        }
    }

    /// Which of the states there were a point leads to: the last of them, if there are several.
    async fn restored(&self, target: Target) -> Option<usize> {
        let to = self.world.dir().join("restored.db");
        let _ = std::fs::remove_file(&to);
        match self.world.restore(target.clone(), &to).await {
            Ok(_) => {}
            Err(OpsError::NoPoint(_)) => return None,
            Err(error) => panic!("{:?}: {target:?}: {error:?}", self.run),
        }
        let state = digest(&std::fs::read(&to).expect("read"));
        let found = self.app().states.iter().rposition(|known| *known == state);
        assert!(found.is_some(), "{:?}: {target:?} is a state that there was", self.run);
        found
    }

    /// Brings every state back, and compares it with what there was.
    async fn compare(&self) -> usize {
        let run = self.run;
        let catalog = self.world.vault.catalog(&source()).await.expect("a catalog");
        assert!(catalog.broken.is_empty(), "{run:?}: {:?}", catalog.broken);
        let mut fronts: Vec<_> = catalog.fronts.values().collect();
        fronts.sort_by_key(|front| front.name.sequence);
        let branch = fronts.last().expect("a snapshot").facts.branch;
        let here = fronts.iter().filter(|front| front.facts.branch == branch);
        let gaps: BTreeSet<u64> = here
            .filter_map(|front| front.facts.following.as_ref())
            .filter(|following| following.resync.is_some())
            .map(|following| following.tx.get())
            .collect();
        let line = self.app().line;
        let live = self.app().states.len() - 1;
        assert_eq!(self.restored(Target::Latest).await, Some(live), "{run:?}: the newest state is the live one");
        let (mut before, mut compared, mut tx) = (None, 0, 0);
        let first = fronts.iter().filter(|front| front.facts.branch != branch).map(|front| front.name.id);
        for old in first.collect::<Vec<_>>() {
            let at = self.restored(Target::Id(old.to_string())).await.expect("the old line is there");
            assert!(at < line, "{run:?}: and is the old file");
        }
        while before != Some(live) {
            assert!(tx < 200, "{run:?}: {live} is among the states, gaps {gaps:?}, {before:?}");
            let here = self.restored(Target::Tx(Tx::new(tx))).await.filter(|at| *at >= line);
            match (before, here) {
                (Some(before), Some(here)) if !gaps.contains(&tx) => {
                    assert_eq!(here, before + 1, "{run:?}: state {tx} is the next commit; gaps {gaps:?}");
                }
                (Some(before), Some(here)) => assert!(here >= before, "{run:?}: state {tx} is no older one"),
                // Numbers inside a gap are nobody's.
                (_, None) => assert!(gaps.iter().any(|gap| *gap > tx), "{run:?}: state {tx} is there; gaps {gaps:?}"),
                (None, Some(_)) => {}
            }
            compared += usize::from(here.is_some());
            before = here;
            tx += 1;
        }
        compared
    }
}

/// Between `fork` and `exec` a child of the other thread has what this one had locked.
fn is_ours(error: &OpsError) -> bool {
    matches!(error, OpsError::Busy { pid, .. } if *pid == Some(std::process::id()))
}

async fn go_through(run: Run) -> Came {
    let scene = Scene::begin(run).await;
    let anew = scene.live().await;
    let acted = scene.visits.load(Ordering::SeqCst) > run.visit;
    // Where nobody acted it is the same life as in another run.
    let compared = if acted || run.visit == 0 { scene.compare().await } else { 0 };
    Came { acted, anew, compared }
}

/// Every interleaving there is.
fn all() -> impl Iterator<Item = Run> {
    let visits = [0, 1, 3, 6];
    let of = move |at| Act::ALL.into_iter().flat_map(move |act| visits.map(|visit| Run { at, visit, act }));
    Step::ALL.into_iter().flat_map(of)
}

/// Goes through them on two threads. Gives what each came to.
fn sweep(runs: impl Iterator<Item = Run> + Send) -> Vec<(Run, Came)> {
    let (runs, came, wrong) = (Mutex::new(runs), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        loop {
            let Some(run) = runs.lock().expect("alone").next() else { return };
            // All of what is wrong is told, not the first of it.
            match catch_unwind(AssertUnwindSafe(|| runtime.block_on(go_through(run)))) {
                Ok(done) => came.lock().expect("alone").push((run, done)),
                Err(_) => wrong.lock().expect("alone").push(run),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().expect("alone");
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), wrong.len() + came.lock().expect("alone").len());
    came.into_inner().expect("alone")
}

/// What must have come of them, taken together.
fn judge(came: &[(Run, Came)]) {
    let mut costs: BTreeMap<&str, BTreeSet<(Step, Act)>> = BTreeMap::new();
    for (run, came) in came {
        for Anew { reason, ran } in &came.anew {
            costs.entry(reason).or_default().insert((run.at, run.act));
            assert!(!ran || run.may_cost(), "{run:?} costs a snapshot while it is followed: {reason}");
        }
    }
    for (reason, runs) in &costs {
        println!("{reason}: {runs:?}");
    }
    let (acted, compared) = (came.iter().filter(|(_, came)| came.acted).count(), came.iter().map(|(_, c)| c.compared));
    println!("{} runs, {acted} with an act, {} states compared", came.len(), compared.sum::<usize>());
    let reached: BTreeSet<Step> = came.iter().filter(|(_, came)| came.acted).map(|(run, _)| run.at).collect();
    let never: Vec<Step> = Step::ALL.into_iter().filter(|step| !reached.contains(step)).collect();
    assert!(never.is_empty(), "never reached: {never:?}");
}

#[test]
fn whoever_acts_at_any_step_of_following_hides_no_commit() {
    // Each step with some of the acts, and over all steps each of them often.
    let seed = 3;
    let picked = all().enumerate().filter(|(at, run)| {
        let of_step = at % (Act::ALL.len() * 4);
        let first = run.visit == 0 && (of_step / 4 + run.at as usize) % 7 == seed;
        first || (at * 7 + seed) % 53 == 0
    });
    judge(&sweep(picked.map(|(_, run)| run)));
}

#[test]
#[ignore = "`cargo xtask soak steps` runs it: many minutes"]
fn whoever_acts_at_any_visit_of_any_step_of_following_hides_no_commit() {
    judge(&sweep(all()));
}
