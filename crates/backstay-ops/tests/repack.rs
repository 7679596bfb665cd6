//! Repacking: what lives in mostly dead packs moves, every snapshot restores before, between and after, and a prune frees
//! what is left behind.

mod rig;
mod team;
mod world;

use backstay_format::facts::{AuditAct, Role};
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::prune::GRACE_MIN_MILLIS;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{Kind, Kinded, ObjectId, Ranges, Verdict};
use backstay_ops::backup::BaseUse;
use backstay_ops::catalog::Vault;
use backstay_ops::check::Depth;
use backstay_ops::disk::OsDisk;
use backstay_ops::repack::{self, RepackReport};
use backstay_ops::restore::Destination;
use backstay_ops::retain::{self, DropRequest, RetainReport, SourceRules};
use backstay_ops::rewrite::rewrite;
use backstay_ops::{OpsError, journal};
use backstay_store::keys::{Place, SnapshotName};
use backstay_store::repo::{SnapshotReader, Step};
use backstay_store::{Key, Put, Store, StoreError};
use backstay_testkit::effects::Effects;
use bytes::Bytes;
use jiff::tz::TimeZone;
use rig::{Before, Ended, Making, Process, Run, crash};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use team::{Host, Team, by_id};
use world::source;

/// What a snapshot must restore to.
type Told = (ObjectId, String);

async fn retention(vault: &Vault, grace_millis: i64) -> RetainReport {
    let policy = RetentionPolicy::default();
    let rules = SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis, log_millis: 0 };
    retain::apply(vault, &[rules]).await.expect("retention")
}

async fn given_up(vault: &Vault, id: ObjectId) {
    let request =
        DropRequest { source: source(), id: Some(id.to_string()), missing: Ranges::default(), grace_millis: 0 };
    retain::drop(vault, &request).await.expect("dropped");
}

/// Twelve snapshots, each with a tenth of the rows changed; of the first nine every third stays.
async fn thinned(team: &Team) -> Vec<Told> {
    let mut told = Vec::new();
    for n in 0..12 {
        if n > 0 {
            team.sql(&format!("UPDATE t SET x = printf('%0100d', id * 31 + {n}) WHERE id % 10 = {}", n % 10));
        }
        let report = team.first().await.backup(&team.db()).await.expect("backup");
        told.push((report.snapshot, team.rows()));
    }
    team.first().await.prove(told[3].0).await.expect("proven");
    let host = team.first().await;
    for n in (0..9).filter(|n| n % 3 != 0) {
        given_up(&host.vault, told[n].0).await;
    }
    retention(&host.vault, 0).await;
    (0..12).filter(|n| *n >= 9 || n % 3 == 0).map(|n| told[n].clone()).collect()
}

/// A pack: its length, how many units it holds, and the slots in which one lives.
type Use = (u64, u64, BTreeSet<(u32, u16)>);

/// What lives in which pack, counted by hand.
async fn uses(vault: &Vault) -> BTreeMap<ObjectId, Use> {
    let mut units: BTreeMap<ObjectId, Use> = BTreeMap::new();
    for name in names(vault).await {
        let manifest = vault.repo.manifest(&name).await.expect("a manifest");
        for r in manifest.table.refs() {
            units.entry(r.object).or_insert((r.stored, u64::from(r.total_units), BTreeSet::new()));
        }
        let unsealer = vault.unsealer().expect("reads");
        let reader = SnapshotReader::open(vault.repo.clone(), manifest, unsealer).expect("open");
        let visit = |step| {
            if let Step::Leaf(at) = step {
                for run in at.leaf.runs() {
                    let seen = &mut units.get_mut(&run.object).expect("in the table").2;
                    seen.extend((run.slot..run.slot + run.count).map(|slot| (run.place.frame, slot)));
                }
            }
            Ok(())
        };
        reader.walk(0, visit).await.expect("walked");
    }
    units
}

/// The manifests that speak for the snapshots that stand, newest first.
async fn names(vault: &Vault) -> Vec<SnapshotName> {
    let catalog = vault.catalog(&source()).await.expect("catalog");
    catalog.snapshots.iter().map(|s| catalog.front(&s.id).expect("a front").name.clone()).collect()
}

async fn refs(vault: &Vault, name: &SnapshotName) -> BTreeSet<ObjectId> {
    vault.repo.manifest(name).await.expect("a manifest").table.refs().iter().map(|r| r.object).collect()
}

/// The bytes that snapshots refer to, and those of them that live units take.
async fn space(vault: &Vault) -> (u64, u64) {
    let units = uses(vault).await;
    let referred = units.values().map(|(stored, ..)| stored).sum();
    let live = units.values().map(|(stored, total, live)| stored * live.len() as u64 / (*total).max(1)).sum();
    (referred, live)
}

fn packs(vault: &Path) -> u64 {
    let files = std::fs::read_dir(vault.join("data/shop/pack")).expect("packs");
    files.map(|file| file.expect("an entry").metadata().expect("metadata").len()).sum()
}

async fn repacked(host: &Host) -> RepackReport {
    repack::apply(&host.vault, &[source()]).await.expect("repacked")
}

async fn all_restore(host: &Host, told: &[Told]) {
    for (id, rows) in told {
        assert_eq!(host.restored(by_id(*id)).await.expect("restore"), *rows, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mostly_dead_is_left_and_freed_and_every_snapshot_restores() {
    let team = Team::new().await;
    let told = thinned(&team).await;
    let host = team.first().await;
    let (referred, live) = space(&host.vault).await;
    assert!(referred * 100 > live * 130, "{referred} bytes for {live} live ones: there is something to repack");
    let plan = repack::plan(&host.vault, &[source()]).await.expect("a plan");
    assert!(!plan.performed && plan.sources[0].leaving.packs > 0 && plan.sources[0].rewritten == 0, "{plan:?}");
    let before = packs(&team.store_dir());
    let report = repacked(&host).await;
    let row = &report.sources[0];
    assert_eq!((report.verdict, row.leaving, row.affected), (Verdict::Pass, plan.sources[0].leaving, row.rewritten));
    assert!(row.written.bytes.get() < row.leaving.bytes.get(), "{row:?}");
    all_restore(&team.first().await, &told).await;
    let catalog = team.first().await.vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.snapshots.iter().any(|s| s.id == told[1].0 && s.has(MarkKind::Proven)), "marks stay right");

    // Nothing was deleted, and nothing is before the grace is over; then exactly what was left goes.
    assert_eq!(packs(&team.store_dir()), before + row.written.bytes.get());
    let condemned = retention(&team.first().await.vault, GRACE_MIN_MILLIS).await;
    assert_eq!(condemned.sources[0].condemned.snapshots, row.rewritten, "{condemned:?}");
    assert_eq!(condemned.sources[0].deleted.packs, 0);
    let freed = retention(&team.first().await.vault, 0).await;
    assert_eq!((freed.verdict, freed.sources[0].doubts.len()), (Verdict::Pass, 0), "{freed:?}");
    assert!(packs(&team.store_dir()) < before, "{before}");
    let host = team.first().await;
    let (referred, live) = space(&host.vault).await;
    assert!(referred * 100 <= live * 130, "{referred} bytes for {live} live ones");
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    all_restore(&host, &told).await;
    assert_eq!(repacked(&team.first().await).await.sources[0].leaving.packs, 0, "there is nothing left to do");
    let acts: Vec<AuditAct> =
        journal::read(&host.vault).await.expect("the audit").records.into_iter().map(|entry| entry.act).collect();
    let said = |act: &&AuditAct| matches!(act, AuditAct::PacksRepacked { .. });
    assert_eq!(acts.iter().filter(said).count(), 1);
}

/// What the newest snapshot refers to stays, however little of it lives: a host that cannot read has its cache for exactly
/// that manifest, and would have to store everything again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_cannot_read_goes_on_where_it_was() {
    let team = Team::new().await;
    team.enrolled("db", &[Role::Writer]).await;
    let first = team.host("db").await.backup(&team.db()).await.expect("a full one").snapshot;
    team.sql("UPDATE t SET x = printf('%0100d', id * 31) WHERE id > 900");
    let newest = team.host("db").await.backup(&team.db()).await.expect("the next").snapshot;
    given_up(&team.first().await.vault, first).await;
    let mostly_dead = |(_, total, live): &Use| !live.is_empty() && live.len() as u64 * 2 < *total;
    assert!(uses(&team.first().await.vault).await.values().any(mostly_dead), "it would be worth it");
    let report = repacked(&team.first().await).await;
    assert_eq!((report.sources[0].leaving.packs, report.sources[0].rewritten), (0, 0), "{report:?}");
    team.sql("UPDATE t SET x = 'later' WHERE id = 77");
    let report = team.host("db").await.backup(&team.db()).await.expect("the one after");
    assert_eq!(report.base, BaseUse::Incremental { on: newest });
    let host = team.first().await;
    assert_eq!(host.restored(Target::Latest).await.expect("restore"), team.rows());
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_keeper_who_reads_repacks() {
    let team = Team::new().await;
    thinned(&team).await;
    team.enrolled("k", &[Role::Keeper]).await;
    team.enrolled("r", &[Role::Reader]).await;
    for name in ["k", "r"] {
        let refused = repack::apply(&team.host(name).await.vault, &[source()]).await.expect_err("refused");
        assert!(matches!(refused, OpsError::NotEnrolled { .. }), "{refused}");
    }
    let plan = repack::plan(&team.host("r").await.vault, &[source()]).await.expect("a reader may look");
    assert!(plan.sources[0].leaving.packs > 0);
}

/// A unit that is not what it was when it was captured is not carried over into a new pack with a good digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_is_told_and_stays_where_it_is() {
    let team = Team::new().await;
    let told = thinned(&team).await;
    let host = team.first().await;
    let plan = repack::plan(&host.vault, &[source()]).await.expect("a plan");
    let snapshots = names(&host.vault).await;
    let held = refs(&host.vault, &snapshots[0]).await;
    let mostly_dead = |(id, (_, total, live)): &(&ObjectId, &Use)| {
        !held.contains(*id) && !live.is_empty() && live.len() as u64 * 2 < *total
    };
    let all = uses(&host.vault).await;
    let (thin, _) = all.iter().find(mostly_dead).expect("one that is left");
    let path = team.store_dir().join(format!("data/shop/pack/{thin}"));
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    let report = repacked(&team.first().await).await;
    let row = &report.sources[0];
    assert!(plan.sources[0].leaving.packs > 1 && row.written.packs > 0, "the others were moved: {row:?}");
    assert_eq!((report.verdict, row.problems.len()), (Verdict::Fail, 1), "{report:?}");
    assert!(row.problems[0].object.ends_with(&thin.to_string()));
    retention(&team.first().await.vault, 0).await;
    assert_eq!(std::fs::read(&path).expect("it is still there"), bytes);
    let host = team.first().await;
    for name in names(&host.vault).await {
        if !refs(&host.vault, &name).await.contains(thin) {
            let of_it: Vec<Told> = told.iter().filter(|(id, _)| *id == name.id).cloned().collect();
            all_restore(&host, &of_it).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_are_taken_while_it_is_repacked() {
    let team = Team::new().await;
    let mut told = thinned(&team).await;
    let handle = tokio::runtime::Handle::current();
    let backups = async {
        let mut told = Vec::new();
        for n in 0..5 {
            team.sql(&format!("UPDATE t SET x = 'beside {n}' WHERE id % 50 = {n}"));
            match team.first().await.backup(&team.db()).await {
                Ok(report) => told.push((report.snapshot, team.rows())),
                Err(OpsError::BaseVanished { committed: None, .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        told
    };
    let repacking = async { repacked(&team.first().await).await };
    let (more, report) = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let backups = scope.spawn(|| handle.block_on(backups));
            let report = handle.block_on(repacking);
            (backups.join().expect("the backups end"), report)
        })
    });
    assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
    assert_eq!(more.len(), 5, "what the next backup builds on is not touched");
    told.extend(more);
    retention(&team.first().await.vault, 0).await;
    let host = team.first().await;
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    all_restore(&host, &told).await;
}

/// A store that says it has kept a pack, and keeps other bytes.
struct Rotten(Arc<dyn Store>);

#[async_trait::async_trait]
impl Store for Rotten {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let mut kept = bytes.to_vec();
        if let (Place::Pack(..), Some(byte)) = (Place::of(key), kept.last_mut()) {
            *byte ^= 1;
        }
        self.0.put_new(key, kept.into()).await
    }

    backstay_testkit::forward!(0: get get_range head list delete describe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_the_store_does_not_give_back_replace_nothing() {
    let team = Team::new().await;
    let told = thinned(&team).await;
    let rotten = || async { team.host_over("first", Arc::new(Rotten(team.store()))).await.expect("open") };
    let error = repack::apply(&rotten().await.vault, &[source()]).await.expect_err("they are read back");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert_eq!(retention(&team.first().await.vault, 0).await.sources[0].condemned.snapshots, 0);
    // The same of packs that are sealed to another master.
    team.first().await.change_master(None).await.expect("rotated");
    let report = rewrite(&rotten().await.vault, &[source()]).await.expect("a report");
    assert_eq!((report.verdict, report.sources[0].rewritten), (Verdict::Fail, 0), "{report:?}");
    let kept = retention(&team.first().await.vault, 0).await;
    assert_eq!((kept.sources[0].condemned.snapshots, kept.sources[0].deleted.packs), (0, 0), "{kept:?}");
    all_restore(&team.first().await, &told).await;
}

/// Three snapshots that stand; of the packs of the first two little is alive.
async fn sparse() -> Before {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql("UPDATE t SET x = printf('%0300d', id * 3) WHERE id > 100");
    let making = making.backed_up().await;
    making.sql("UPDATE t SET x = printf('%0300d', id * 5) WHERE id > 30");
    let making = making.backed_up().await;
    making.sql("UPDATE t SET x = printf('%0300d', id * 7)");
    making.backed_up().await.without_the_first().await.done()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repacking_stopped_anywhere() {
    let before = sparse().await;
    let act = async |process: &Process| repack::apply(&process.vault, &[source()]).await.map(drop);
    let sweep = crash("repacking", &before, act, async |run: &Run, ended: &Ended| {
        // The rig has restored every earlier snapshot, checked it and taken a backup; now the next repacking.
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let report = repack::apply(&process.vault, &[source()]).await.expect("the repacking again");
        assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
        assert!(!ended.done || report.sources[0].rewritten <= 1, "what was done is done: {report:?}");
        retention(&process.vault, 0).await;
        let process = Process::open(run.dir(), Arc::new(OsDisk), None).await.expect("open");
        retention(&process.vault, 0).await;
        let plan = repack::plan(&process.vault, &[source()]).await.expect("a plan");
        assert_eq!(plan.sources[0].leaving.packs, 0, "{plan:?}");
        for known in &before.known {
            let to = run.dir().join(format!("again-{}.db", known.id));
            process.restore(by_id(known.id), Destination::New(to.clone())).await.expect("restore");
            assert_eq!(std::fs::read(&to).expect("read"), known.bytes);
        }
        process.restore(Target::Latest, Destination::New(run.dir().join("latest.db"))).await.expect("restore");
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store put, not applied", "store put, applied"]);
}
