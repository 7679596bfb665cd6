//! A store with object lock, over months in seconds: what is promised of a snapshot is kept by every object it refers
//! to, nothing is asked of the store that it must refuse, and what it refuses all the same is named and waits.

mod history;
mod world;

use backstay_model::catalog::Target;
use backstay_model::lock::{Horizon, ObjectLock};
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ByteLen, Moment, ObjectId, Verdict};
use backstay_ops::copy::{Act, CopyRequest, Destination, Reread, copy};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::retain::{self, RetainReport, SourceRules};
use backstay_store::memory::MemoryStore;
use backstay_store::repo::Repository;
use backstay_store::{Store, keys};
use backstay_testkit::lock_store::{LockStore, Words};
use backstay_testkit::store_contract::noise;
use history::{BEGINNING, DAY, Dice, Hands};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use world::{World, source};

const ROWS: u64 = 200;
const LOCKED: i64 = 30 * DAY;
const WANTED: i64 = 12 * DAY;

/// A world in a store that locks, with a daily database.
struct Locked {
    world: World,
    hands: Hands,
    dice: Dice,
    store: Arc<LockStore>,
    /// Deletions that were refused when the repository was made.
    tried: u64,
    /// Backups that stored most of the database anew.
    fresh: usize,
    bytes: BTreeMap<ObjectId, Vec<u8>>,
}

impl Locked {
    async fn new((millis, words): (i64, Words)) -> Self {
        let (hands, dice) = (Hands::at(BEGINNING), Dice::of(7));
        let memory = Arc::new(MemoryStore::with_clock(Arc::new(hands.other())));
        let store = Arc::new(LockStore::new(memory, Arc::new(hands.other()), (millis, words)));
        let folder = tempfile::tempdir().expect("a folder");
        if words == Words::Denied {
            // `init` tries its store and takes the probe away; a store that says *denied* then is not lived in.
            store.lock_for(0);
        }
        let mut world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        let tried = store.refused();
        store.lock_for(millis);
        world.vault.env.clock = Arc::new(hands.clone());
        world.sql(&format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})
             INSERT INTO t(x) SELECT randomblob(3900) FROM n;"
        ));
        Self { world, hands, dice, store, tried, fresh: 0, bytes: BTreeMap::new() }
    }

    fn told(mut self, lock: Option<ObjectLock>) -> Self {
        self.world.vault.repo = self.world.vault.repo.clone().with_lock(lock);
        self
    }

    async fn backup(&mut self) -> ObjectId {
        let id = 1 + self.dice.roll(ROWS);
        self.world.sql(&format!("UPDATE t SET x = randomblob(3900) WHERE id = {id}"));
        let report = self.world.backup().await.expect("backup");
        self.fresh += usize::from(report.units_stored > ROWS / 2);
        self.bytes.insert(report.snapshot, std::fs::read(self.world.db()).expect("read"));
        report.snapshot
    }

    fn rules(&self, last: u32) -> [SourceRules; 1] {
        let policy = RetentionPolicy { last, ..Default::default() };
        [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: DAY, log_millis: 0 }]
    }

    async fn apply(&self, last: u32) -> RetainReport {
        retain::apply(&self.world.vault, &self.rules(last)).await.expect("retention")
    }

    /// Until when each snapshot is safe, read from the store with nothing of retention in between.
    async fn horizons(&self) -> BTreeMap<ObjectId, (Moment, i64)> {
        Self::horizons_in(&self.world.vault.repo).await
    }

    async fn horizons_in(repo: &Repository) -> BTreeMap<ObjectId, (Moment, i64)> {
        let entries = repo.list("data/").await.expect("a listing");
        let stored: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.key, entry.modified)).collect();
        let mut horizons = BTreeMap::new();
        for (name, _) in repo.snapshot_names(&source()).await.expect("names") {
            let manifest = repo.manifest(&name).await.expect("a manifest");
            let packs = manifest.table.refs().iter().map(|r| stored[&keys::pack(&source(), &r.object)]);
            let own = stored[&name.key()];
            let least = packs.chain([own]).min().expect("some");
            horizons.insert(name.id, (own, least.as_millis() + LOCKED));
        }
        horizons
    }

    async fn restore_all(&self) -> usize {
        let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
        for snapshot in &catalog.snapshots {
            let to = self.world.dir().join(format!("{}.db", snapshot.id));
            self.world.restore(Target::Id(snapshot.id.to_string()), &to).await.expect("restore");
            assert!(std::fs::read(&to).expect("read") == self.bytes[&snapshot.id], "{} is what it was", snapshot.id);
        }
        catalog.snapshots.len()
    }
}

fn lock() -> Option<ObjectLock> {
    Some(ObjectLock::new(LOCKED, Some(WANTED)).expect("spans that fit"))
}

fn short(horizons: &[Horizon]) -> Vec<ObjectId> {
    horizons.iter().filter(|horizon| horizon.short).map(|horizon| horizon.snapshot).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_quarter_every_snapshot_is_locked_as_long_as_was_asked_and_nothing_is_asked_in_vain() {
    let mut daily = Locked::new((LOCKED, Words::Denied)).await.told(lock());
    let (mut deleted, mut locked) = (0, 0);
    for day in 0..92 {
        daily.backup().await;
        let report = daily.apply(5).await;
        assert_eq!(report.verdict, Verdict::Pass, "day {day}: {report:?}");
        let row = &report.sources[0];
        deleted += row.deleted.packs + row.deleted.snapshots;
        locked += row.waiting.locked;
        let real = daily.horizons().await;
        for (id, (own, until)) in &real {
            let wanted = own.as_millis() + WANTED;
            assert!(*until >= wanted, "day {day}: {id} lacks {} ms", wanted - until);
        }
        for horizon in &row.horizons {
            assert_eq!(horizon.until.map(Moment::as_millis), Some(real[&horizon.snapshot].1), "day {day}");
        }
        daily.hands.pass(DAY);
    }
    assert_eq!(daily.store.refused(), 0, "what is locked was not even tried");
    assert!(deleted > 60 && locked > 500, "{deleted} deleted, {locked} waited for their lock");
    // A pack may be referred to for 30 - 12 days less the time a run may take.
    assert_eq!(daily.fresh, 6, "once at first and then every eighteen days");
    assert_eq!(daily.restore_all().await, 5);
}

/// The copy alone is locked; what it is sent is what the original has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_copy_that_is_locked_every_snapshot_is_safe_as_long_as_was_asked() {
    let mut daily = Locked::new((0, Words::Denied)).await;
    let far = Arc::new(MemoryStore::with_clock(Arc::new(daily.hands.other())));
    let far = Arc::new(LockStore::new(far, Arc::new(daily.hands.other()), (LOCKED, Words::Denied)));
    daily.world.vault.repo = daily.world.vault.repo.clone().with_locks_of_copies(lock().into_iter().collect());
    let to = Destination { store: far.clone(), state_root: daily.world.dir().join("state-of-copy") };
    let request = CopyRequest {
        act: Act::Copy,
        reread: Reread::Nothing,
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        in_flight: NonZeroU32::MIN,
    };
    for day in 0..40 {
        daily.backup().await;
        let report = daily.apply(5).await;
        assert_eq!((report.verdict, report.sources[0].waiting.locked), (Verdict::Pass, 0), "nothing is locked here");
        copy(&daily.world.vault, &to, &request).await.expect("copied");
        let repo = Repository::open(far.clone(), daily.world.vault.repo.root(), None).await.expect("open");
        let real = Locked::horizons_in(&repo).await;
        assert_eq!(real.len(), day + 1);
        for (id, (own, until)) in real {
            let wanted = own.as_millis() + WANTED;
            assert!(until >= wanted, "day {day}: {id} lacks {} ms", wanted - until);
        }
        daily.hands.pass(DAY);
    }
    assert_eq!(daily.fresh, 3, "once at first and then every eighteen days");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_over_old_packs_is_alarmed_and_the_next_backup_cures_it() {
    let mut daily = Locked::new((LOCKED, Words::Locked)).await;
    daily.backup().await;
    daily.hands.pass(25 * DAY);
    let trap = daily.backup().await;
    let mut daily = daily.told(lock());
    let plan = retain::plan(&daily.world.vault, &daily.rules(0)).await.expect("a plan");
    let row = &plan.sources[0];
    assert_eq!((plan.verdict, short(&row.horizons)), (Verdict::Partial, vec![trap]), "{row:?}");
    let until = row.horizons[0].until.expect("all is listed").as_millis();
    assert_eq!(until, BEGINNING + LOCKED, "the newest can be deleted in five days: its oldest pack says so");
    let catalog = daily.world.vault.catalog(&source()).await.expect("catalog");
    let newest = catalog.snapshots.iter().find(|s| s.id == trap).expect("there");
    let one = retain::horizon_of(&daily.world.vault, &catalog, newest).await.expect("a horizon");
    assert_eq!(one, Some(row.horizons[0]), "alone it is what it is among all");

    daily.hands.pass(DAY);
    let cure = daily.backup().await;
    let plan = retain::plan(&daily.world.vault, &daily.rules(0)).await.expect("a plan");
    let horizons = &plan.sources[0].horizons;
    assert_eq!(horizons[0].snapshot, cure);
    let until = horizons[0].until.expect("all is listed").as_millis();
    assert!(until >= BEGINNING + 25 * DAY + LOCKED, "what was old is fresh");
    assert_eq!(short(horizons), [trap], "the old one stays as it is until its time is over");
    // Nobody backs up any more: in the end there is nothing left that could not be deleted.
    daily.hands.pass(31 * DAY);
    let plan = retain::plan(&daily.world.vault, &daily.rules(0)).await.expect("a plan");
    assert_eq!(short(&plan.sources[0].horizons), [cure]);
    assert_eq!(daily.restore_all().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_deletion_is_named_and_waits_and_nothing_else_is_touched() {
    // The bucket locks for longer than anybody was told.
    for (told, words) in [(None, Words::Locked), (lock(), Words::Locked), (lock(), Words::Denied)] {
        let mut daily = Locked::new((60 * DAY, words)).await.told(told);
        for _ in 0..4 {
            // Nothing of one day is needed by the next: packs are due together with the manifests that name them.
            daily.world.sql("UPDATE t SET x = randomblob(3900)");
            daily.backup().await;
            daily.hands.pass(DAY);
        }
        let condemning = daily.apply(1).await;
        let condemned = condemning.sources[0].condemned;
        assert_eq!((condemning.verdict, condemned.snapshots), (Verdict::Pass, 3));
        let mut packs = condemned.packs;
        assert!(packs > 0, "{condemned:?}");
        daily.hands.pass(40 * DAY);
        for _ in 0..2 {
            let report = daily.apply(1).await;
            let row = &report.sources[0];
            assert_eq!((report.verdict, row.refused.len(), row.deleted.snapshots), (Verdict::Partial, 3, 0), "{row:?}");
            assert!(
                row.refused.iter().all(|name| name.contains("/snap/")),
                "no pack goes before its manifest: {row:?}"
            );
            assert_eq!((row.condemned.snapshots, row.doubts.len()), (0, 0), "condemned is final, and no doubt");
            packs += row.condemned.packs;
            let catalog = daily.world.vault.catalog(&source()).await.expect("catalog");
            assert_eq!((catalog.snapshots.len(), catalog.condemned.len()), (1, 3), "no restore point comes back");
        }
        assert_eq!(daily.store.refused() - daily.tried, 6, "each was asked for once in a run");
        daily.hands.pass(20 * DAY);
        let report = daily.apply(1).await;
        let row = &report.sources[0];
        assert_eq!((row.refused.len(), row.deleted.snapshots, row.deleted.packs), (0, 3, packs), "{row:?}");
        assert_eq!(daily.restore_all().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_refusal_is_an_error_where_no_lock_is_known_of() {
    let mut daily = Locked::new((60 * DAY, Words::Denied)).await;
    for _ in 0..2 {
        daily.backup().await;
        daily.hands.pass(DAY);
    }
    daily.apply(1).await;
    daily.hands.pass(2 * DAY);
    let denied = retain::apply(&daily.world.vault, &daily.rules(1)).await.expect_err("a keeper without the right");
    assert!(backstay_model::Kinded::kind(&denied) == backstay_model::Kind::Denied, "{denied}");
}

/// A pack of a run that was killed, say: nothing refers to it, and it is older than what may be referred to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_pack_that_nobody_refers_to_keeps_no_snapshot_from_being_made_of_the_log() {
    let mut daily = Locked::new((LOCKED, Words::Denied)).await.told(lock());
    daily.backup().await;
    let orphan = ObjectId::from_bytes([7; 16]);
    daily.store.put_new(&keys::pack(&source(), &orphan), noise("orphan", 5000)).await.expect("put");
    daily.hands.pass(25 * DAY);
    let conn = rusqlite::Connection::open(daily.world.db()).expect("open");
    conn.execute_batch("PRAGMA journal_mode=WAL").expect("set");
    let limits = Limits { look: Duration::from_secs(60), hours: Some(Duration::from_secs(3600)), ..Limits::STANDARD };
    let request = FollowRequest {
        source: source(),
        path: daily.world.db(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 2,
        limits,
        steps: Arc::new(|_| {}),
    };
    let mut follower = Follower::start(&daily.world.vault, request).await.expect("follow");
    conn.execute("UPDATE t SET x = randomblob(3900) WHERE id = 1", []).expect("updated");
    assert_eq!(follower.tick().await.expect("tick").shipped, 1);
    assert!(follower.last_hour().await.is_some());
}
