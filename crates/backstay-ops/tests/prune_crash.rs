//! Retention over real databases, stopped at every effect: what is kept restores byte for byte, and the
//! next run finishes what this one began.

mod rig;
mod world;

use backstay_model::prune::GRACE_MIN_MILLIS;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{Clock, Moment, ObjectId};
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::retain::{self, SourceRules};
use backstay_store::os::SystemClock;
use backstay_store::{Key, Page, Store, StoreError};
use backstay_testkit::effects::Effects;
use backstay_testkit::fault_store::FaultStore;
use jiff::tz::TimeZone;
use rig::{Before, Ended, Making, Process, Run, crash_anything};
use std::sync::Arc;
use std::time::Duration;
use world::source;

const CHANGE: &str = "UPDATE t SET x = printf('%0300d', id) WHERE id % 50 = 3; DELETE FROM t WHERE id % 97 = 5";
const LATER: &str = "INSERT INTO t(x) VALUES ('later'); DELETE FROM t WHERE id % 3 = 1";

/// Keeps the newest alone. Without a grace, since the time of a folder is this machine's.
fn rules(grace_millis: i64) -> Vec<SourceRules> {
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    vec![SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis, log_millis: 0 }]
}

/// Three snapshots, and the packs of a run that died.
async fn three_snapshots() -> Before {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql(CHANGE);
    let making = making.backed_up().await;
    making.sql(LATER);
    making.backed_up().await.done()
}

async fn open(run: &Run) -> Process {
    Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open")
}

/// What is not condemned restores byte for byte, and the newest always is.
async fn the_rest_restores(run: &Run, before: &Before) {
    let process = open(run).await;
    let catalog = process.vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.broken.is_empty() && catalog.prune_fault.is_none());
    // Also what is condemned: no manifest is ever without its packs.
    for (name, _) in process.vault.repo.snapshot_names(&source()).await.expect("names") {
        for reference in process.vault.repo.manifest(&name).await.expect("a whole manifest").table.refs() {
            let pack = backstay_store::keys::pack(&source(), &reference.object);
            let there = process.vault.repo.store().head(&pack).await.expect("head");
            assert!(there.is_some(), "{} needs {pack}, which is gone", name.key());
        }
    }
    let there: Vec<ObjectId> = catalog.snapshots.iter().map(|s| s.id).collect();
    assert!(there.contains(&before.known[2].id), "the newest is never condemned");
    for known in before.known.iter().filter(|known| there.contains(&known.id)) {
        assert!(process.restored(known.id).await == known.bytes, "snapshot {} restores byte for byte", known.id);
    }
}

/// The next run finishes what this one began: then the newest is all there is, and a check is content.
async fn the_next_run_finishes(run: &Run, before: &Before) {
    let process = open(run).await;
    retain::apply(&process.vault, &rules(0)).await.expect("the next run");
    the_rest_restores(run, before).await;
    let names = process.vault.repo.snapshot_names(&source()).await.expect("names");
    assert_eq!(names.len(), 1, "what was condemned is gone: {names:?}");
    let checked = process.check(backstay_ops::check::Depth::Authentic).await.expect("check");
    assert_eq!((checked.verdict, checked.unreferenced), (backstay_model::Verdict::Pass, 0), "{checked:?}");
    let again = retain::apply(&process.vault, &rules(0)).await.expect("once more");
    assert_eq!((again.sources[0].condemned.snapshots, again.sources[0].deleted.snapshots), (0, 0), "{again:?}");
}

/// What nobody came back to delete, and a turn that nobody gave back, can be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_condemned_and_never_deleted_is_overdue() {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql(CHANGE);
    let making = making.backed_up().await;
    let process = Process::open(making.dir(), Arc::new(OsDisk), None).await.expect("open");
    let undone = async |millis| retain::undone(&process.vault, millis).await.expect("a look");
    assert_eq!(undone(0).await, retain::Undone::default(), "nothing was ever condemned");
    let day = 86_400_000;
    retain::apply(&process.vault, &rules(day)).await.expect("condemned");
    let overdue = undone(0).await;
    assert!(overdue.overdue >= 1 && overdue.condemned.is_some() && overdue.turn.is_none(), "{overdue:?}");
    assert_eq!(undone(day).await.overdue, 0, "not yet");
}

/// Condemning and deleting, in one run: stopped at every effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_stopped_anywhere() {
    let before = three_snapshots().await;
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        retain::plan(&process.vault, &rules(0)).await?;
        retain::apply(&process.vault, &rules(0)).await.map(drop)
    };
    let sweep = crash_anything("condemning and deleting", &before, act, async |run: &Run, _: &Ended| {
        the_rest_restores(run, &before).await;
        the_next_run_finishes(run, &before).await;
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store list", "store put, not applied", "store put, applied"]);
    sweep.assert_stopped_at(&["store delete, not applied", "store delete, applied"]);
}

/// The store's clock, more than a day later than it is.
struct Later(Arc<dyn Store>);

#[async_trait::async_trait]
impl Store for Later {
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let mut page = self.0.list(prefix, after, limit).await?;
        for entry in &mut page.entries {
            let later = entry.modified.as_millis() + GRACE_MIN_MILLIS + 60_000;
            entry.modified = Moment::from_millis(later).expect("in range");
        }
        Ok(page)
    }

    backstay_testkit::forward!(0: put_new get get_range head delete describe);
}

async fn a_day_later(run: &Run, effects: &Effects) -> Result<Process, OpsError> {
    let store = FaultStore::new(Process::plain_store(run.dir())).with_effects(effects.clone());
    Process::over(run.dir(), run.next(effects), Arc::new(Later(Arc::new(store)))).await
}

/// Condemned one day and deleted the next, as it is in life: the second run stopped at every effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlived_its_grace_is_deleted_stopped_anywhere() {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql(CHANGE);
    let making = making.backed_up().await;
    making.sql(LATER);
    let condemn = async |process: &Process| {
        let report = retain::apply(&process.vault, &rules(GRACE_MIN_MILLIS)).await.expect("condemned");
        assert_eq!(report.sources[0].condemned.snapshots, 2, "{report:?}");
    };
    let before = making.backed_up().await.having(condemn).await.done();
    let act = async |run: &Run, effects: Effects| {
        let process = a_day_later(run, &effects).await?;
        retain::apply(&process.vault, &rules(GRACE_MIN_MILLIS)).await.map(drop)
    };
    let sweep = crash_anything("deleting after the grace", &before, act, async |run: &Run, ended: &Ended| {
        the_rest_restores(run, &before).await;
        // By the store's own clock the day is not over: whatever is left stays.
        let process = open(run).await;
        let names = process.vault.repo.snapshot_names(&source()).await.expect("names").len();
        assert!(names == 1 || !ended.done, "what was told is done");
        retain::apply(&process.vault, &rules(GRACE_MIN_MILLIS)).await.expect("too early");
        assert_eq!(process.vault.repo.snapshot_names(&source()).await.expect("names").len(), names);
        let process = a_day_later(run, &Effects::unstopped()).await.expect("open");
        retain::apply(&process.vault, &rules(GRACE_MIN_MILLIS)).await.expect("the next run");
        the_rest_restores(run, &before).await;
        assert_eq!(process.vault.repo.snapshot_names(&source()).await.expect("names").len(), 1);
        let process = open(run).await;
        let checked = process.check(backstay_ops::check::Depth::Authentic).await.expect("check");
        assert_eq!((checked.verdict, checked.unreferenced), (backstay_model::Verdict::Pass, 0), "{checked:?}");
        process.backup().await.expect("the next backup");
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store list", "store put, not applied", "store put, applied"]);
    sweep.assert_stopped_at(&["store delete, not applied", "store delete, applied"]);
}

/// A backup that outstays the writers' deadline does not commit, and one that is in time does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_outstays_its_deadline_does_not_commit() {
    let before = three_snapshots().await;
    rig::survives(&before, async |run: &Run| {
        let mut process = open(run).await;
        process.vault.env.clock = Arc::new(Leaping(std::sync::atomic::AtomicU64::new(0)));
        match process.backup().await {
            Err(OpsError::TooSlow { hours, .. }) => assert!(hours >= 12),
            other => panic!("{other:?}"),
        }
        process.vault.env.clock = Arc::new(SystemClock);
        process.backup().await.expect("one that is in time");
    })
    .await;
}

/// Every look at it is thirteen hours later.
struct Leaping(std::sync::atomic::AtomicU64);

impl Clock for Leaping {
    fn now(&self) -> Moment {
        SystemClock.now()
    }

    fn uptime(&self) -> Duration {
        Duration::from_secs(13 * 3600 * self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
    }
}
