//! What asking the past costs: requests and bytes, counted at the store.

mod whole;
mod world;

use async_trait::async_trait;
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Tx};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::env::blocking;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::query::{Asker, CACHE_USUAL, Reading};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::rows::{self, Walk};
use backstay_ops::{State, init};
use backstay_sqlite::lazy::{Go, Value};
use backstay_store::foresee::{Foreseen, Host, Trail};
use backstay_store::kept::Kept;
use backstay_store::memory::MemoryStore;
use backstay_store::meter::{Meter, Reading as Cost};
use backstay_store::repo::Repository;
use backstay_store::seal::Unsealer;
use backstay_store::{Key, Page, Put, Store, StoreError, Verb};
use bytes::Bytes;
use rusqlite::Connection;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use whole::is_what_the_whole_merge_says;
use world::{World, source};

struct Metered {
    world: World,
    meter: Arc<Meter>,
}

impl Metered {
    async fn new() -> Self {
        let meter = Arc::new(Meter::new(Arc::new(MemoryStore::new())));
        let folder = tempfile::tempdir().expect("a folder");
        Self { world: World::over(folder, meter.clone(), Arc::new(OsDisk)).await, meter }
    }

    fn asker(&self) -> Asker<'_> {
        Asker::new(&self.world.vault, Reading { cache: CACHE_USUAL })
    }

    async fn follow(&self) -> Follower<'_> {
        let request = FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 2,
            limits: Limits::STANDARD,
            steps: Arc::new(|_| {}),
        };
        Follower::start(&self.world.vault, request).await.expect("follow")
    }
}

fn cost_since(meter: &Meter, before: &Cost) -> (u64, u64) {
    let cost = meter.read().since(before);
    (cost.calls(), cost.bytes_received)
}

const SHOP: &str = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
    CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, note BLOB);
    CREATE TABLE pair(a TEXT, b INTEGER, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE INDEX item_name ON item(name);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40000) INSERT INTO item SELECT i, 'item ' || i, randomblob(200) FROM n;
    INSERT INTO pair SELECT name, id FROM item WHERE id % 5 = 0;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rows_of_a_large_table_are_found_in_a_few_pages() {
    let metered = Metered::new().await;
    let world = &metered.world;
    world.sql(SHOP);
    let first = world.backup().await.expect("backup").snapshot;
    world.sql("UPDATE item SET note = zeroblob(200) WHERE id % 4001 = 7");
    world.backup().await.expect("backup");
    let asker = metered.asker();
    let from = asker.open(&source(), &Target::Id(first.to_string())).await.expect("opens");
    let to = asker.open(&source(), &Target::Latest).await.expect("opens");
    let before = metered.meter.read();
    let mut rows = Vec::new();
    let report = blocking(|| {
        rows::diff((&from, &to), None, asker.stop(), &mut |_, change| {
            rows.push(change);
            Go::On
        })
    })
    .expect("a report");
    let (requests, bytes) = cost_since(&metered.meter, &before);
    assert_eq!((rows.len(), report.schema.len()), (10, 0));
    let counts: Vec<_> = report.tables.iter().map(|table| (table.counts.changed, table.counts.same)).collect();
    assert_eq!(counts, [(10, None), (0, None)]);
    // Ten leaves, each in a frame of its own in the old snapshot, of more than forty; the map, and the way to them.
    assert!(requests < 40 && bytes < 5 << 20, "{requests} requests, {bytes} bytes");
    is_what_the_whole_merge_says(&asker, &from, &to);
    let same = blocking(|| rows::diff((&to, &to), None, asker.stop(), &mut |_, _| Go::On)).expect("a report");
    assert!(same.is_same() && same.bytes == ByteLen::new(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_of_a_log_is_looked_at_for_the_price_of_its_records() {
    const COMMITS: u64 = 40;
    let metered = Metered::new().await;
    let world = &metered.world;
    world.sql(SHOP);
    let app = Connection::open(world.db()).expect("open");
    app.execute_batch("PRAGMA wal_autocheckpoint=0; SELECT 1 FROM item").expect("read");
    let mut follower = metered.follow().await;
    for round in 1..=COMMITS {
        let id = round * 997;
        let sql = match round % 4 {
            0 => format!("INSERT INTO item VALUES ({}, 'new {round}', randomblob(300))", 100_000 + round),
            1 => format!("DELETE FROM item WHERE id BETWEEN {id} AND {}", id + 3),
            2 => format!("INSERT INTO pair VALUES ('new', {round})"),
            _ => format!("UPDATE item SET note = randomblob(9000) WHERE id = {id}"),
        };
        app.execute_batch(&sql).expect("a commit");
        follower.tick().await.expect("tick");
    }
    drop(follower);
    let asker = metered.asker();
    let before = metered.meter.read();
    let mut walk = Walk::new(&asker, rows::points(&world.vault, &source(), None).await.expect("points"));
    assert_eq!(walk.points.list.len() as u64, COMMITS + 1);
    let mut pasts = Vec::new();
    let mut changed = 0;
    for at in 0..=COMMITS as usize {
        let past = walk.open(at).await.expect("a state");
        if let Some(before) = pasts.last() {
            let report = blocking(|| rows::diff((before, &past), None, asker.stop(), &mut |_, _| Go::On));
            let report = report.expect("a report");
            let rows: u64 = report.tables.iter().map(|t| t.counts.added + t.counts.removed + t.counts.changed).sum();
            assert!((1..5).contains(&rows), "state {at}: {rows}");
            let bytes = report.bytes.get();
            assert!(bytes >= 4096 && bytes % 4096 == 0 && bytes < 20 * 4096, "state {at}: {bytes}");
            changed += rows;
        }
        pasts.push(past);
    }
    assert_eq!(changed, COMMITS / 4 * (1 + 4 + 1 + 1));
    let (requests, bytes) = cost_since(&metered.meter, &before);
    // Front, records and pages of each, and the frames of the snapshot that the rows were in; reading the log anew for
    // each state would be eight hundred of its objects.
    assert!(requests < 8 * COMMITS && bytes < 16 << 20, "{requests} requests, {bytes} bytes");
    // Each kind of commit, and some that are far apart.
    for pair in pasts.windows(2).take(5) {
        is_what_the_whole_merge_says(&asker, &pair[0], &pair[1]);
    }
    is_what_the_whole_merge_says(&asker, &pasts[0], &pasts[COMMITS as usize]);
    // Opened by themselves they are told apart as well.
    let tx: Tx = pasts[3].facts.log.as_ref().expect("followed").tx;
    let by_number = asker.open(&source(), &Target::Tx(tx)).await.expect("opens");
    let same = blocking(|| rows::diff((&pasts[3], &by_number), None, asker.stop(), &mut |_, _| Go::On));
    assert_eq!(same.expect("a report").bytes, ByteLen::new(0));
    is_what_the_whole_merge_says(&asker, &by_number, &pasts[30]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_behind_a_large_commit_is_asked_without_reading_its_pages() {
    let metered = Metered::new().await;
    let world = &metered.world;
    world.sql(SHOP);
    let app = Connection::open(world.db()).expect("open");
    app.execute_batch("PRAGMA wal_autocheckpoint=0; SELECT 1 FROM item").expect("read");
    let mut follower = metered.follow().await;
    for sql in ["UPDATE item SET note = randomblob(200) WHERE id > 1000", "INSERT INTO pair VALUES ('last', 1)"] {
        app.execute_batch(sql).expect("a commit");
        follower.tick().await.expect("tick");
    }
    drop(follower);
    let asker = metered.asker();
    let before = metered.meter.read();
    let past = asker.open(&source(), &Target::Latest).await.expect("opens");
    let row = blocking(|| past.session().expect("a session").rows("SELECT b FROM pair WHERE a = 'last'", &[]));
    assert_eq!(row.expect("a row"), vec![vec![Value::Integer(1)]]);
    let cost = metered.meter.read().since(&before);
    // The commit wrote eight megabytes of pages that nobody can compress.
    assert!(cost.bytes_received < 2 << 20, "{cost:?}");
    assert!(cost.of(Verb::GetRange).calls < 30, "{cost:?}");
}

/// A store far away. It knows how many requests had to wait for one another.
struct Far {
    inner: Arc<dyn Store>,
    /// The longest row of requests of which each began when the one before it had ended.
    row: Mutex<u32>,
    /// Each request, after the longest row there was before it.
    asked: Mutex<Vec<String>>,
}

/// Long enough that requests made together are under way together.
const AWAY: Duration = Duration::from_millis(60);

impl Far {
    fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, row: Mutex::new(0), asked: Mutex::default() })
    }

    async fn wait<T>(&self, what: String, work: impl Future<Output = T>) -> T {
        let at = *self.row.lock().expect("a lock") + 1;
        self.asked.lock().expect("a lock").push(format!("{at} {what}"));
        tokio::time::sleep(AWAY).await;
        let done = work.await;
        let mut row = self.row.lock().expect("a lock");
        *row = at.max(*row);
        done
    }

    fn row(&self) -> u32 {
        *self.row.lock().expect("a lock")
    }

    fn begin(&self) {
        *self.row.lock().expect("a lock") = 0;
        self.asked.lock().expect("a lock").clear();
    }

    fn asked(&self) -> String {
        self.asked.lock().expect("a lock").join("\n")
    }
}

#[async_trait]
impl Store for Far {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.wait(format!("put {key}"), self.inner.put_new(key, bytes)).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.wait(format!("get {key}"), self.inner.get(key)).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.wait(format!("get {key} {range:?}"), self.inner.get_range(key, range.clone())).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.wait(format!("head {key}"), self.inner.head(key)).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.wait(format!("list {prefix}"), self.inner.list(prefix, after, limit)).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.wait(format!("delete {key}"), self.inner.delete(key)).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// What opens a source's past, as a host that has nothing but the name of the repository and a key does.
async fn vault_from_afar(world: &World, store: Arc<dyn Store>, host: Host) -> (Vault, Arc<Foreseen>) {
    let memory = world.dir().join("another host");
    if host == Host::Blank {
        let _ = std::fs::remove_dir_all(&memory);
    }
    let foreseen = Arc::new(Foreseen::of_source(store, (&source(), host)));
    let repo = Repository::open(foreseen.clone(), world.vault.repo.root(), None).await.expect("the repository opens");
    let keys = init::read_keys(&world.dir().join("backstay.key")).expect("readable").expect("a key file");
    let unsealer = Some(Unsealer::of(repo.unlock(keys.identities()).await.expect("the master").masters));
    let env = world.vault.env.clone();
    let state = State::open(env.disk.clone(), &memory, repo.id()).expect("a state folder");
    (Vault { repo, state, signer: keys.signer, unsealer, env }, foreseen)
}

/// From the name of the repository to a row; on a host that keeps what it read, in a folder. How many requests waited
/// for one another until the moment was open, and until the row was there.
async fn ask_from_afar(
    world: &World,
    far: &Arc<Far>,
    (folder, host, id): (Option<&Path>, Host, i64),
) -> (u32, u32, Trail) {
    let kept: Arc<dyn Store> = match folder {
        Some(folder) => Arc::new(Kept::open(far.clone(), folder, 64 << 20).expect("a folder")),
        None => far.clone(),
    };
    far.begin();
    let (vault, foreseen) = vault_from_afar(world, kept, host).await;
    let asker = Asker::new(&vault, Reading { cache: CACHE_USUAL });
    let past = asker.open(&source(), &Target::Latest).await.expect("opens");
    let opened = far.row();
    let sql = format!("SELECT id FROM item WHERE id = {id}");
    let row = blocking(|| past.session().expect("a session").rows(&sql, &[]));
    assert_eq!(row.expect("a row"), vec![vec![Value::Integer(id)]]);
    (opened, far.row(), foreseen.trail())
}

/// With pages of 4096 bytes a tree of three levels, with pages of 512 one of four.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_far_away_is_there_in_the_time_of_four_requests() {
    for page_size in [4096, 512] {
        let metered = Metered::new().await;
        let world = &metered.world;
        world.sql(&format!("PRAGMA page_size={page_size}; {SHOP}"));
        world.sql("UPDATE item SET note = randomblob(400)");
        let report = world.backup().await.expect("backup");
        world.prove(&report).await.expect("a proof");
        let far = Far::over(metered.meter.clone());
        let (opened, asked, _) = ask_from_afar(world, &far, (None, Host::Blank, 31_007)).await;
        // Listings; what they lead to, with the upper levels of the tree in it; the map, and beside it the frame of the
        // lowest interior page; the leaf.
        assert!(opened <= 2 && asked <= 4, "pages of {page_size}: {opened} and {asked} of {}", far.asked());
        world.sql("DELETE FROM item WHERE id % 1000 = 1");
        let report = world.backup().await.expect("backup");
        world.prove(&report).await.expect("a proof");
        let folder = world.dir().join("kept");
        let (opened, asked, trail) = ask_from_afar(world, &far, (Some(&folder), Host::Blank, 31_007)).await;
        // By now the map's leaf of the row may lie elsewhere than that of the interior page above it.
        assert!(opened <= 2 && asked <= 5, "pages of {page_size}: {opened} and {asked} of {}", far.asked());
        let remembers = || Host::Remembers(Trail::default());
        let (opened, asked, _) = ask_from_afar(world, &far, (Some(&folder), remembers(), 31_007)).await;
        // Listings, which may say something else by now, and the configuration that they lead to.
        assert!(opened <= 2 && asked <= 2, "again: {opened} and {asked} of {}", far.asked());
        // Another row, and nothing kept but the names of what was read: everything at once, then its own interior page and
        // leaf.
        let (opened, asked, trail) = ask_from_afar(world, &far, (None, Host::Remembers(trail), 31_900)).await;
        assert!(opened <= 1 && asked <= 3, "with a trail: {opened} and {asked} of {}", far.asked());
        // A trail of what is no longer the newest leads to nothing wrong.
        world.sql("DELETE FROM item WHERE id % 1000 = 2");
        let report = world.backup().await.expect("backup");
        world.prove(&report).await.expect("a proof");
        let (opened, asked, _) = ask_from_afar(world, &far, (None, Host::Remembers(trail), 23_003)).await;
        assert!(opened <= 2 && asked <= 5, "with an old trail: {opened} and {asked} of {}", far.asked());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_far_away_is_planned_in_the_time_of_two_requests() {
    let metered = Metered::new().await;
    let world = &metered.world;
    world.sql(SHOP);
    for round in 1..4 {
        world.sql(&format!("DELETE FROM item WHERE id % 1000 = {round}"));
        let report = world.backup().await.expect("backup");
        world.prove(&report).await.expect("a proof");
    }
    let far = Far::over(metered.meter.clone());
    let (vault, _) = vault_from_afar(world, far.clone(), Host::Blank).await;
    let request = RestoreRequest {
        source: source(),
        target: Target::Latest,
        into: Destination::New(world.dir().join("back.db")),
        smoke: Vec::new(),
        busy: Duration::from_secs(1),
    };
    let planned = restore::plan(&vault, request).await.expect("a plan");
    // Listings, and what they lead to.
    assert!(far.row() <= 2, "{} of {}", far.row(), far.asked());
    restore::perform(&vault, planned).await.expect("restored");
    // The map, and all frames side by side: they are fewer than may be on their way at once.
    assert!(far.row() <= 4, "{} of {}", far.row(), far.asked());
    let back = Connection::open(world.dir().join("back.db")).expect("open");
    let rows: i64 = back.query_row("SELECT count(*) FROM item", [], |row| row.get(0)).expect("rows");
    assert_eq!(rows, 40_000 - 3 * 40);
}
