//! Retention over histories by chance, with real databases: after every run of retention each snapshot that stays is restored
//! and compared byte for byte with the file it was taken of.
//!
//! What `retention.rs` does with packs of a few bytes, in thousands of steps, is done here in hundreds with the real backup:
//! packs shared by many snapshots, thinned out and left behind, databases that are vacuumed, emptied and given another page size,
//! a retention run and half a day in the middle of a backup, and for every second history a store that locks.

mod history;
mod world;

use backstay_model::catalog::Target;
use backstay_model::lock::ObjectLock;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ObjectId, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::retain::{self, HoldRequest, SourceRules};
use backstay_store::memory::MemoryStore;
use backstay_store::repo::Repository;
use backstay_store::{Store, Verb};
use backstay_testkit::lock_store::{LockStore, Words};
use history::{BEGINNING, DAY, Dice, HOUR, Hands, HeldUp};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use world::{World, source};

const HISTORIES: u64 = 6;
const STEPS: usize = 40;

#[derive(Default)]
struct Told {
    backups: usize,
    refused: usize,
    interrupted: usize,
    deleted: usize,
    restored: usize,
    locked: usize,
    /// Packs that were condemned while the run that had put them was asleep, and that its snapshot needs.
    spared: usize,
}

struct History {
    world: World,
    store: Arc<dyn Store>,
    lock: Option<ObjectLock>,
    hands: Hands,
    dice: Dice,
    rules: [SourceRules; 1],
    /// The file each snapshot was taken of.
    bytes: BTreeMap<ObjectId, Vec<u8>>,
    held: BTreeSet<ObjectId>,
    told: Told,
}

impl History {
    async fn new(seed: u64) -> Self {
        let (hands, dice) = (Hands::at(BEGINNING), Dice::of(seed));
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(Arc::new(hands.other())));
        let lock = (seed % 2 == 1).then(|| ObjectLock::new(4 * DAY, None).expect("spans that fit"));
        let store = match lock {
            Some(lock) => {
                Arc::new(LockStore::new(memory, Arc::new(hands.other()), (lock.objects_millis(), Words::Locked)))
            }
            None => memory,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        world.vault.env.clock = Arc::new(hands.clone());
        world.vault.repo = world.vault.repo.clone().with_lock(lock);
        world.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); CREATE INDEX by_x ON t(x)");
        let policy =
            RetentionPolicy { last: 1 + dice.roll(3) as u32, daily: dice.roll(4) as u32, ..Default::default() };
        let rules = SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: DAY, log_millis: 0 };
        let (bytes, held, told) = (BTreeMap::new(), BTreeSet::new(), Told::default());
        Self { world, store, lock, hands, dice, rules: [rules], bytes, held, told }
    }

    async fn step(&mut self) {
        match self.dice.roll(100) {
            0..40 => self.backup().await,
            40..50 => self.backup_with_retention_in_the_middle().await,
            50..56 => self.hold().await,
            56..78 => self.hands.pass(1 + self.dice.roll(40 * HOUR as u64) as i64),
            _ => self.retain().await,
        }
        self.hands.pass(1 + self.dice.roll(HOUR as u64) as i64);
    }

    fn change(&self) {
        let dice = &self.dice;
        let rows = 1 + dice.roll(20);
        let sql = match dice.roll(12) {
            0 => "DELETE FROM t WHERE id % 3 = 0".to_owned(),
            1 => "VACUUM".to_owned(),
            2 => format!("PRAGMA page_size = {}; VACUUM", 1024 << dice.roll(4)),
            3 => "DELETE FROM t; VACUUM".to_owned(),
            4..8 => format!("UPDATE t SET x = randomblob(700) WHERE id % {} = 0", 2 + dice.roll(9)),
            _ => format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {rows})
                 INSERT INTO t(x) SELECT randomblob(2500) FROM n"
            ),
        };
        self.world.sql(&sql);
    }

    async fn backup(&mut self) {
        self.change();
        let report = self.world.backup().await.expect("a backup alone");
        self.stored(report.snapshot);
    }

    fn stored(&mut self, snapshot: ObjectId) {
        self.told.backups += 1;
        self.bytes.insert(snapshot, std::fs::read(self.world.db()).expect("read"));
    }

    /// What a keeper on another host is given.
    async fn keeper(&self, name: &str, store: Arc<dyn Store>) -> Vault {
        let vault = &self.world.vault;
        let repo = Repository::open(store, vault.repo.root(), None).await.expect("open");
        let state = backstay_ops::State::open(vault.env.disk.clone(), &self.world.dir().join(name), repo.id());
        let repo = repo.with_lock(self.lock);
        Vault {
            repo,
            state: state.expect("state"),
            signer: vault.signer.clone(),
            unsealer: None,
            env: vault.env.clone(),
        }
    }

    /// A backup that is held up before one of its puts, while a keeper works and time passes.
    async fn backup_with_retention_in_the_middle(&mut self) {
        self.change();
        let keeper = Arc::new(self.keeper("keeper", self.store.clone()).await);
        let (rules, hands, long) = (self.rules.clone(), self.hands.clone(), self.dice.roll(16 * HOUR as u64) as i64);
        let act = Box::new(move || {
            let work = async {
                hands.pass(long);
                retain::apply(&keeper, &rules).await.expect("retention");
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
        });
        let held_up = Arc::new(HeldUp::new(self.store.clone(), Verb::PutNew, 1 + self.dice.roll(2), act));
        let slow = self.keeper("state", held_up.clone()).await;
        match backstay_ops::backup::backup(&slow, &self.world.request()).await {
            Ok(report) => self.stored(report.snapshot),
            // Its base was condemned meanwhile, or it took too long: it may have stored a snapshot all the same.
            Err(_) => {
                self.told.refused += 1;
                let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
                let new = catalog.snapshots.iter().map(|s| s.id).find(|id| !self.bytes.contains_key(id));
                if let Some(new) = new {
                    self.stored(new);
                }
            }
        }
        self.told.interrupted += usize::from(held_up.happened());
    }

    async fn hold(&mut self) {
        let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
        let ids: Vec<ObjectId> = catalog.snapshots.iter().map(|s| s.id).collect();
        let Some(id) = self.dice.pick(&ids).copied() else { return };
        let request = HoldRequest { source: source(), target: Target::Id(id.to_string()), reason: None };
        retain::hold(&self.world.vault, &request).await.expect("a hold");
        self.held.insert(id);
    }

    async fn retain(&mut self) {
        let report = retain::apply(&self.world.vault, &self.rules).await.expect("retention");
        let row = &report.sources[0];
        assert!(row.doubts.is_empty() && row.refused.is_empty() && row.missing.is_empty(), "{row:?}");
        let told = !row.spared.is_empty() || row.horizons.iter().any(|horizon| horizon.short);
        assert!(told == (report.verdict == Verdict::Partial), "{row:?}");
        self.told.spared += row.spared.len();
        self.told.deleted += row.deleted.snapshots + row.deleted.packs;
        self.told.locked += row.waiting.locked;
        self.look().await;
    }

    async fn look(&mut self) {
        let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
        assert!(catalog.broken.is_empty() && catalog.mark_faults.is_empty());
        let there: BTreeSet<ObjectId> = catalog.snapshots.iter().map(|s| s.id).collect();
        assert!(self.held.is_subset(&there), "what is held stays");
        for id in there {
            let to = self.world.dir().join("restored.db");
            self.world.restore(Target::Id(id.to_string()), &to).await.expect("restore");
            assert!(std::fs::read(&to).expect("read") == self.bytes[&id], "snapshot {id} is not what it was");
            std::fs::remove_file(&to).expect("remove");
            self.told.restored += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_that_stays_restores_byte_for_byte_whatever_happens() {
    let mut all = Told::default();
    for seed in 0..HISTORIES {
        println!("history {seed}");
        let mut history = History::new(seed).await;
        for _ in 0..STEPS {
            history.step().await;
        }
        for _ in 0..3 {
            history.hands.pass(5 * DAY);
            history.retain().await;
        }
        let told = history.told;
        all.backups += told.backups;
        all.refused += told.refused;
        all.interrupted += told.interrupted;
        all.deleted += told.deleted;
        all.restored += told.restored;
        all.locked += told.locked;
        all.spared += told.spared;
    }
    let Told { backups, refused, interrupted, deleted, restored, locked, spared } = all;
    println!("{backups} backups, {refused} refused, {interrupted} interrupted, {deleted} deleted, {restored} restored");
    println!("{locked} locked, {spared} spared");
    assert!(backups > 80 && interrupted > 8 && deleted > 80, "all of it happened");
    assert!(restored > 200 && locked > 50 && refused > 1 && spared > 1, "and that too");
}
