//! Following a database into a repository, and back to any commit. Named after the traps of following.
//!
//! What a database was after each commit is copied by another process and recovered by SQLite: a copy
//! made by this one would drop the locks of the follower.

mod world;

use backstay_model::catalog::{NoPoint, Target};
use backstay_model::{ByteLen, Kind, Kinded, Moment, Tx};
use backstay_ops::OpsError;
use backstay_ops::backup::BackupRequest;
use backstay_ops::catalog::Vault;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::import::{ImportRequest, import};
use backstay_ops::log::{self, Lies, PageMap};
use backstay_ops::restore::Destination;
use backstay_store::repo::RepoError;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use world::{World, integrity_of, recovered, rows_of, source};

struct App {
    world: World,
    conn: Connection,
    /// The state after each commit, by its number.
    shadows: Vec<(Tx, Vec<u8>)>,
}

impl App {
    async fn begin() -> Self {
        let world = World::new().await;
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);",
        )
        .expect("made");
        Self { world, conn, shadows: Vec::new() }
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn insert(&self, bytes: usize) {
        self.sql(&format!("INSERT INTO t(x) VALUES (randomblob({bytes}))"));
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

    /// Brings in an old copy with a table of its own.
    async fn import(&self, name: &str, taken: Moment) {
        let path = self.world.dir().join(format!("{name}.db"));
        let sql = format!("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); INSERT INTO t(x) VALUES ('{name}')");
        Connection::open(&path).expect("open").execute_batch(&sql).expect("sql");
        let copy = BackupRequest { path, ..self.world.request() };
        let request =
            ImportRequest { copy, taken, size_max: ByteLen::new(1 << 30), folder: self.world.dir().join("proof") };
        import(&self.world.vault, &request).await.expect("imported");
    }

    async fn restored(&self, target: Target) -> Result<PathBuf, OpsError> {
        let folder = self.world.dir().join(format!("out-{}", Moment::as_millis(self.world.vault.env.clock.now())));
        std::fs::create_dir_all(&folder).expect("a folder");
        let to = free(&folder);
        self.world.restore_into(target, Destination::New(to.clone())).await?;
        Ok(to)
    }

    async fn latest_is_live(&self) {
        let to = self.restored(Target::Latest).await.expect("restore");
        assert_eq!(integrity_of(&to), "ok");
        assert!(rows_of(&to) == self.world.rows(), "the latest state is the live one");
    }

    /// Each page of each state, read by its place alone.
    async fn pages_lie_where_the_map_says(&self) {
        let vault = &self.world.vault;
        let base = std::fs::read(self.restored(Target::Tx(Tx::FIRST)).await.expect("restore")).expect("read");
        let mut images = 0;
        for (tx, shadow) in &self.shadows {
            let mut catalog = vault.catalog(&source()).await.expect("a catalog");
            let resolved = log::resolve(vault, &mut catalog, &Target::Tx(*tx)).await.expect("a state");
            let map = PageMap::of(vault, &resolved.log.expect("in the log")).await.expect("a map");
            assert_eq!(map.shape(), Some((4096, (shadow.len() / 4096) as u32)));
            for (number, page) in shadow.chunks(4096).enumerate() {
                let number = number as u32 + 1;
                let found = match map.find(number) {
                    Lies::InLog(image) => {
                        images += 1;
                        map.read(vault, &image).await.expect("a page")
                    }
                    Lies::InSnapshot => base.chunks(4096).nth(number as usize - 1).expect("a page").to_vec(),
                    other => panic!("state {tx}, page {number}: {other:?}"),
                };
                assert!(found == page, "state {tx}, page {number}");
            }
            assert_eq!(map.find((shadow.len() / 4096) as u32 + 1), Lies::Beyond);
        }
        assert!(images > 18);
    }

    /// Every state that was kept comes back by its number.
    async fn all_come_back(&self) {
        for (tx, shadow) in &self.shadows {
            let to = self.restored(Target::Tx(*tx)).await.unwrap_or_else(|error| panic!("{tx}: {error}"));
            assert!(std::fs::read(&to).expect("read") == *shadow, "state {tx} is what it was");
        }
    }
}

fn free(folder: &Path) -> PathBuf {
    (0..).map(|n| folder.join(format!("{n}.db"))).find(|path| !path.exists()).expect("a free name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_comes_back_byte_for_byte_by_its_number() {
    let mut app = App::begin().await;
    app.insert(9000);
    let world = &app.world;
    let vault: &Vault = &world.vault;
    let mut follower = Follower::start(vault, app.request()).await.expect("follow");
    assert!(matches!(follower.began(), Began::Snapshot { reason: None, tx: Tx::FIRST, .. }));
    let mut shadows = Vec::new();
    for round in 0..18 {
        let sql = match round % 6 {
            0 => "INSERT INTO t(x) VALUES (randomblob(30000))",
            1 => "UPDATE t SET x = randomblob(700) WHERE id % 2 = 0",
            2 => "INSERT INTO t(x) VALUES (randomblob(10))",
            3 => "DELETE FROM t WHERE id % 3 = 0",
            4 => "VACUUM",
            _ => {
                "BEGIN; INSERT INTO t(x) VALUES (zeroblob(50000)); UPDATE t SET x = randomblob(900) WHERE id % 5 = 1; COMMIT"
            }
        };
        app.conn.execute_batch(sql).expect("sql");
        let shadow = recovered(&app.world.db());
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][round % 4];
        if round % 5 == 0 {
            app.conn.execute_batch(&format!("PRAGMA busy_timeout=0; PRAGMA wal_checkpoint({mode})")).expect("asked");
        }
        let ticked = follower.tick().await.expect("tick");
        assert_eq!((ticked.caught, ticked.shipped, ticked.began), (1, 1, None), "round {round}");
        shadows.push((follower.position().tx, shadow));
        app.conn.execute_batch(&format!("PRAGMA wal_checkpoint({mode})")).expect("asked");
        assert_eq!(follower.tick().await.expect("tick").caught, 0);
    }
    drop(follower);
    app.shadows = shadows;
    assert_eq!(app.shadows.iter().map(|(tx, _)| tx.get()).collect::<Vec<_>>(), (1..=18).collect::<Vec<_>>());
    app.all_come_back().await;
    app.latest_is_live().await;
    app.pages_lie_where_the_map_says().await;
    let beyond = app.restored(Target::Tx(Tx::new(19))).await.expect_err("not committed yet");
    assert!(matches!(beyond, OpsError::NoPoint(NoPoint::TxNotHeld { tx: 19, before: 18, after: None })), "{beyond}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_stopped_goes_on_at_the_very_commit() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(100);
    follower.tick().await.expect("tick");
    for stop in 1..4 {
        let tx = follower.position().tx;
        drop(follower);
        app.insert(5000);
        app.insert(5000);
        follower = app.follow().await;
        assert_eq!(*follower.began(), Began::Continued { tx }, "stop {stop}");
        assert_eq!(follower.tick().await.expect("tick").shipped, 2);
        assert_eq!(follower.position().tx.get(), tx.get() + 2);
    }
    drop(follower);
    app.latest_is_live().await;
}

/// Trap 1: stopped, commits, everything copied back, a shallow new log over the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_1_a_stale_tail_costs_a_snapshot_and_a_recorded_gap() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    for _ in 0..20 {
        app.insert(4000);
    }
    follower.tick().await.expect("tick");
    let before = follower.position();
    drop(follower);
    app.insert(100);
    app.insert(100);
    app.sql("PRAGMA wal_checkpoint(FULL)");
    app.insert(100);
    // Commits of one look are a millisecond apart: the gap begins when the clock is past them.
    while app.world.vault.env.clock.now().millis_since(before.at) < 3 {
        tokio::task::yield_now().await;
    }
    let mut follower = app.follow().await;
    let Began::Snapshot { tx, reason: Some(reason), .. } = follower.began() else { panic!("{:?}", follower.began()) };
    assert!(reason.contains("begun anew"), "{reason}");
    assert_eq!(tx.get(), before.tx.get() + 1, "numbers go on");
    app.insert(200);
    follower.tick().await.expect("tick");
    drop(follower);
    app.latest_is_live().await;
    app.restored(Target::Tx(before.tx)).await.expect("what was before the gap is still there");
    let inside = Moment::from_millis(before.at.as_millis() + 1).expect("in range");
    let error = app.restored(Target::At(inside)).await.expect_err("inside the gap");
    assert!(matches!(error, OpsError::NoPoint(NoPoint::InGap { .. })), "{error}");
    app.restored(Target::Nearest(inside)).await.expect("one side of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_folder_that_is_gone_costs_a_snapshot() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(100);
    follower.tick().await.expect("tick");
    drop(follower);
    app.insert(300);
    std::fs::remove_dir_all(app.world.vault.state.dir()).expect("removed");
    std::fs::create_dir_all(app.world.vault.state.dir()).expect("made");
    let mut follower = app.follow().await;
    assert!(matches!(follower.began(), Began::Snapshot { tx, reason: Some(_), .. } if tx.get() == 2));
    app.insert(300);
    assert_eq!(follower.tick().await.expect("tick").shipped, 1);
    drop(follower);
    app.latest_is_live().await;
}

/// Nobody knows then which numbers were used: a new branch uses none of them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_of_the_log_that_is_damaged_costs_a_snapshot_on_a_new_branch() {
    for flipped in [100, 20] {
        let app = App::begin().await;
        let mut follower = app.follow().await;
        let Began::Snapshot { id: first, branch: old, .. } = follower.began().clone() else { panic!("a snapshot") };
        for _ in 0..3 {
            app.insert(100);
            follower.tick().await.expect("tick");
        }
        let before = follower.position();
        let rows = app.world.rows();
        app.insert(100);
        follower.tick().await.expect("tick");
        drop(follower);
        let log = app.world.dir().join("vault/data/log");
        let stream = std::fs::read_dir(&log).expect("streams").next().expect("one").expect("an entry").path();
        let slots = || std::fs::read_dir(&stream).expect("slots").map(|slot| slot.expect("an entry").path());
        let last = slots().filter(|slot| slot.is_file()).max().expect("slots");
        let mut bytes = std::fs::read(&last).expect("read");
        bytes[flipped] ^= 1;
        std::fs::write(&last, bytes).expect("written");
        std::fs::remove_dir_all(app.world.vault.state.dir()).expect("removed");
        std::fs::create_dir_all(app.world.vault.state.dir()).expect("made");
        let taken: Vec<PathBuf> = slots().collect();

        let mut follower = app.follow().await;
        let began = follower.began().clone();
        let Began::Snapshot { branch, tx: Tx::FIRST, reason: Some(reason), .. } = began else { panic!("{began:?}") };
        assert!(branch != old && reason.contains("cannot be read"), "{branch}: {reason}");
        app.insert(300);
        assert_eq!(follower.tick().await.expect("tick").shipped, 1);
        drop(follower);
        assert!(taken.iter().all(|slot| slot.exists()) && slots().count() == taken.len() + 1, "it is closed");
        app.latest_is_live().await;
        app.restored(Target::Id(first.to_string())).await.expect("the snapshot of the old line");
        let to = app.restored(Target::At(before.at)).await.expect("the last state before the damage");
        assert!(rows_of(&to) == rows, "is what it was");
        let follower = app.follow().await;
        assert!(matches!(follower.began(), Began::Continued { .. }), "{:?}", follower.began());
    }
}

/// Trap 10: a follower that was paused finds its slot taken, and overwrites nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_10_a_follower_that_slept_while_another_took_over_is_refused() {
    let app = App::begin().await;
    let mut asleep = app.follow().await;
    app.insert(100);
    asleep.tick().await.expect("tick");
    let vault = &app.world.vault;
    let other = Vault {
        repo: vault.repo.clone(),
        state: backstay_ops::State::open(vault.env.disk.clone(), &app.world.dir().join("other"), vault.repo.id())
            .expect("another state folder"),
        signer: vault.signer.clone(),
        unsealer: None,
        env: vault.env.clone(),
    };
    let mut second = Follower::start(&other, app.request()).await.expect("takes over");
    assert!(matches!(second.began(), Began::Snapshot { .. }));
    app.insert(200);
    second.tick().await.expect("tick");
    let error = asleep.tick().await.expect_err("its slot is taken");
    assert!(matches!(error, OpsError::Repo(RepoError::LostRace { .. })), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
    app.insert(300);
    second.tick().await.expect("tick");
    drop((asleep, second));
    app.latest_is_live().await;
}

/// Trap 9: another file under the path opens a branch; the old one stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_9_a_replaced_file_opens_a_branch_within_one_tick() {
    let mut app = App::begin().await;
    app.insert(5000);
    let other = app.world.dir().join("other.db");
    let conn = Connection::open(&other).expect("open");
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); INSERT INTO t(x) VALUES (7)",
    )
    .expect("made");
    drop(conn);
    let request = app.request();
    let world = &app.world;
    let mut follower = Follower::start(&world.vault, request).await.expect("follow");
    app.conn.execute_batch("INSERT INTO t(x) VALUES (8)").expect("sql");
    follower.tick().await.expect("tick");
    let old = follower.position();
    let Began::Snapshot { id: first, .. } = follower.began().clone() else { panic!("a snapshot") };
    for suffix in ["", "-wal", "-shm"] {
        let of = |name: &str| world.dir().join(format!("{name}{suffix}"));
        if of("shop.db").exists() {
            std::fs::rename(of("shop.db"), of("old.db")).expect("renamed");
        }
    }
    std::fs::rename(&other, world.db()).expect("renamed");
    app.conn = Connection::open(app.world.db()).expect("open");
    let ticked = follower.tick().await.expect("tick");
    assert!(matches!(&ticked.began, Some(Began::Snapshot { branch, tx: Tx::FIRST, .. }) if *branch != old.branch));
    app.conn.execute_batch("INSERT INTO t(x) VALUES (9)").expect("sql");
    assert_eq!(follower.tick().await.expect("tick").shipped, 1);
    drop(follower);
    app.latest_is_live().await;
    app.restored(Target::Id(first.to_string())).await.expect("the old line is there");
}

/// A commit that does not fit into one object counts only when its last part is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_larger_than_an_object_is_one_state() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(10);
    follower.tick().await.expect("tick");
    app.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40)
             INSERT INTO t(x) SELECT randomblob(1000000) FROM n",
    );
    let shadow = recovered(&app.world.db());
    let ticked = follower.tick().await.expect("tick");
    assert_eq!(ticked.shipped, 1);
    assert!(ticked.objects >= 3, "{ticked:?}");
    app.insert(10);
    follower.tick().await.expect("tick");
    drop(follower);
    let to = app.restored(Target::Tx(Tx::new(2))).await.expect("restore");
    assert!(std::fs::read(to).expect("read") == shadow);
    app.latest_is_live().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_beside_a_follower_is_refused_and_a_database_without_a_log_too() {
    let app = App::begin().await;
    let follower = app.follow().await;
    assert!(matches!(app.world.backup().await, Err(OpsError::Busy { .. })));
    drop(follower);
    app.world.backup().await.expect("backup");
    let follower = app.follow().await;
    // The snapshot a log hangs on stays the newest, which no prune takes.
    assert!(matches!(follower.began(), Began::Snapshot { .. }), "{:?}", follower.began());
    drop(follower);
    app.sql("PRAGMA journal_mode=DELETE");
    let error = Follower::start(&app.world.vault, app.request()).await.map(drop).expect_err("no log to follow");
    assert_eq!(error.kind(), Kind::Config, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_go_on_however_many_backups_lie_between() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(100);
    follower.tick().await.expect("tick");
    drop(follower);
    for _ in 0..17 {
        app.insert(10);
        app.world.backup().await.expect("backup");
    }
    let follower = app.follow().await;
    assert!(matches!(follower.began(), Began::Snapshot { tx, .. } if tx.get() == 2), "{:?}", follower.began());
}

/// `before-migration` is the label of the snapshot that was taken then; before it lies the last commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_before_a_labelled_snapshot_is_the_last_commit_before_it() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(100);
    app.insert(200);
    follower.tick().await.expect("tick");
    let shadow = recovered(&app.world.db());
    drop(follower);
    app.sql("CREATE TABLE u(y)");
    let label: backstay_model::Label = "before-migration".parse().expect("a label");
    let request = backstay_ops::backup::BackupRequest { label: Some(label.clone()), ..app.world.request() };
    backstay_ops::backup::backup(&app.world.vault, &request).await.expect("backup");
    app.sql("DROP TABLE t");
    app.world.backup().await.expect("backup");
    let to = app.restored(Target::Before(label.clone())).await.expect("restore");
    assert!(std::fs::read(to).expect("read") == shadow);
    let labelled = app.restored(Target::Label(label)).await.expect("restore");
    assert_eq!(rows_of(&labelled).lines().count(), 2);
    let none = app.restored(Target::Before("no-such".parse().expect("a label"))).await.expect_err("no such label");
    assert!(matches!(none, OpsError::NoPoint(NoPoint::UnknownLabel { .. })), "{none}");
}

/// More commits in a second than it has milliseconds must not carry the log into the future: a backup that is made
/// after them would look older than they.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_commits_is_not_ahead_of_the_clock_and_a_later_backup_is_the_latest() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    for _ in 0..3000 {
        app.sql("INSERT INTO t(x) VALUES (1)");
    }
    follower.tick().await.expect("tick");
    let position = follower.position();
    assert_eq!(position.tx, Tx::new(Tx::FIRST.get() + 3000));
    assert!(position.at <= app.world.vault.env.clock.now(), "{}", position.at);
    drop(follower);
    app.insert(10);
    let report = app.world.backup().await.expect("backup");
    assert!(report.taken > position.at);
    app.latest_is_live().await;
}

/// A file that was imported answers for its own instant, and takes nothing from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_copy_hides_no_commit_of_the_log() {
    let app = App::begin().await;
    let mut follower = app.follow().await;
    app.insert(10);
    follower.tick().await.expect("tick");
    let between = app.world.vault.env.clock.now();
    app.insert(20);
    follower.tick().await.expect("tick");
    let (at, rows) = (app.world.vault.env.clock.now(), app.world.rows());
    drop(follower);
    app.import("one", between).await;
    let to = app.restored(Target::At(at)).await.expect("restore");
    assert!(rows_of(&to) == rows, "the log has what came after the copy");
    let before = Moment::from_millis(at.as_millis() + 3_600_000).expect("in range");
    app.import("two", before).await;
    let later = Moment::from_millis(before.as_millis() + 1).expect("in range");
    let to = app.restored(Target::At(later)).await.expect("restore");
    assert!(rows_of(&to) != rows, "nothing of the log is nearer to that instant than the copy");
}
