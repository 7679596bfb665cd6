//! Proof, check, healing, branches and restore in place.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Verdict};
use backstay_ops::backup::{BackupRequest, BaseUse, backup};
use backstay_ops::check::Depth;
use backstay_ops::prove::ProofOutcome;
use backstay_ops::restore::Destination;
use backstay_ops::{Event, OpsError};
use backstay_sqlite::SqliteError;
use std::sync::{Arc, Mutex};
use world::{World, rows_of};

async fn filled() -> World {
    let world = World::new().await;
    world.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
         INSERT INTO t(x) SELECT hex(randomblob(60)) FROM n",
    );
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_marks_the_snapshot_proven() {
    let world = filled().await;
    let report = world.backup().await.expect("backup");
    let proof = world.prove(&report).await.expect("prove");
    assert!(matches!(proof.outcome, ProofOutcome::Proven { .. }), "{proof:?}");
    let to = world.dir().join("proven.db");
    world.restore(Target::LatestProven, &to).await.expect("restore");
    assert_eq!(rows_of(&to), world.rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_gives_up_before_the_log_of_a_busy_application_fills_the_disk() {
    let mut world = filled().await;
    world.sql("PRAGMA journal_mode=wal");
    let busy = Mutex::new(rusqlite::Connection::open(world.db()).expect("open"));
    busy.lock().expect("one thread").execute_batch("PRAGMA wal_autocheckpoint=0").expect("set");
    world.vault.env.events = Arc::new(move |event| {
        if matches!(event, Event::Began { what: "reading", .. }) {
            busy.lock().expect("one thread").execute_batch("UPDATE t SET x=hex(randomblob(60))").expect("updated");
        }
    });
    let request = BackupRequest { log_growth_max: ByteLen::new(64 << 10), ..world.request() };
    let error = backup(&world.vault, &request).await.expect_err("the log grew");
    assert!(matches!(error, OpsError::Sqlite(SqliteError::LogGrew { .. })), "{error}");
    let report = world.backup().await.expect("it is allowed to grow further");
    assert!(report.capture.is_some_and(|capture| capture.wal_frames > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_lost_its_cache_goes_on_incrementally() {
    let world = filled().await;
    let first = world.backup().await.expect("backup");
    std::fs::remove_dir_all(world.vault.state.dir()).expect("state");
    std::fs::create_dir_all(world.vault.state.dir()).expect("state");
    world.sql("UPDATE t SET x='changed' WHERE id=7");
    let second = world.backup().await.expect("backup");
    assert_eq!(second.base, BaseUse::Incremental { on: first.snapshot });
    assert!(second.units_stored < 8, "{}", second.units_stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_is_found_quarantined_and_healed_by_the_next_backup() {
    let world = filled().await;
    world.backup().await.expect("backup");
    assert_eq!(world.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    let packs = world.dir().join("vault/data/shop/pack");
    let pack = std::fs::read_dir(&packs).expect("packs").flatten().next().expect("a pack").path();
    let mut bytes = std::fs::read(&pack).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).expect("write");
    let report = world.check(Depth::Intact).await.expect("check");
    assert_eq!((report.verdict, report.problems.len()), (Verdict::Fail, 1));
    let to = world.dir().join("healed.db");
    let refused = world.restore(Target::Latest, &to).await.expect_err("a damaged one is not latest");
    assert!(refused.to_string().contains("quarantined"), "{refused}");
    world.backup().await.expect("backup");
    world.restore(Target::Latest, &to).await.expect("restore");
    assert_eq!(rows_of(&to), world.rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_in_place_keeps_the_old_state_and_opens_a_branch() {
    let world = filled().await;
    world.sql("PRAGMA journal_mode=WAL; INSERT INTO t(x) VALUES ('good')");
    let good = world.rows();
    world.backup().await.expect("backup");
    world.sql("DELETE FROM t WHERE id % 2 = 0");
    let bad = world.rows();
    let report = world.restore_into(Target::Latest, Destination::InPlace(world.db())).await.expect("restore");
    assert_eq!(world.rows(), good);
    assert_eq!(rows_of(&report.kept[0].now), bad);
    let next = world.backup().await.expect("backup");
    assert!(next.branch_opened);
    assert_eq!((next.branch.get(), next.position.get()), (1, 1));
}

/// Two hosts under one name used to interleave on one branch, and `latest` was whoever came last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_disk_went_back_opens_a_branch() {
    let world = filled().await;
    world.backup().await.expect("backup");
    let memory = world.vault.state.seen(&world::source()).expect("seen");
    world.sql("UPDATE t SET x='later' WHERE id=1");
    world.backup().await.expect("backup");
    // The machine comes back from a volume snapshot: it knows its first backup only.
    world.vault.state.update(&world::source(), |seen| *seen = memory.clone()).expect("forget");
    let report = world.backup().await.expect("backup");
    assert!(report.branch_opened);
    assert_eq!((report.branch.get(), report.position.get()), (1, 1));
    let again = world.backup().await.expect("backup");
    assert_eq!((again.branch_opened, again.branch.get()), (false, 1), "from then on it is its own branch");
}

/// A bit that flipped in a pack made every backup after it a bad one: each built on the snapshot before
/// the quarantined one, which refers to the same pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failed_proof_is_healed_by_the_next_backup() {
    let world = filled().await;
    let first = world.backup().await.expect("backup");
    world.prove(&first).await.expect("prove");
    let packs = world.dir().join("vault/data/shop/pack");
    let pack = std::fs::read_dir(&packs).expect("packs").flatten().next().expect("a pack").path();
    let mut bytes = std::fs::read(&pack).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).expect("write");
    world.sql("UPDATE t SET x='changed' WHERE id=7");
    let second = world.backup().await.expect("backup");
    assert!(matches!(world.prove(&second).await.expect("prove").outcome, ProofOutcome::Failed { .. }));
    let third = world.backup().await.expect("backup");
    assert!(matches!(third.base, BaseUse::Full { .. }), "{:?}", third.base);
    assert!(matches!(world.prove(&third).await.expect("prove").outcome, ProofOutcome::Proven { .. }));
}

/// One damaged branch record used to stop every backup of its source for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_branch_record_does_not_stop_backups() {
    let world = filled().await;
    world.backup().await.expect("backup");
    let record = world.dir().join("vault/data/shop/branch/0000000000000000");
    let mut bytes = std::fs::read(&record).expect("read");
    bytes[300] ^= 1;
    std::fs::write(&record, bytes).expect("write");
    world.backup().await.expect("backup");
    world.restore_into(Target::Latest, Destination::InPlace(world.db())).await.expect("restore");
    let report = world.backup().await.expect("backup");
    assert_eq!((report.branch_opened, report.branch.get()), (true, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_backup_stops_and_commits_nothing() {
    let world = filled().await;
    world.vault.env.cancel.cancel();
    let error = world.backup().await.expect_err("cancelled");
    assert!(matches!(error, backstay_ops::OpsError::Cancelled), "{error}");
}
