//! The look back after a backup that no proof follows: what it reads, what it finds, and what it may say of it.

mod world;

use backstay_model::{ObjectId, Verdict};
use backstay_ops::backup::BackupReport;
use backstay_ops::check::{CheckReport, Committed, Depth, look_back};
use backstay_ops::disk::OsDisk;
use backstay_store::Verb;
use backstay_store::keys::SnapshotName;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::meter::{Meter, Reading};
use std::path::PathBuf;
use std::sync::Arc;
use world::{World, source};

/// A database of some megabytes, in a repository whose requests are counted.
async fn metered() -> (World, Arc<Meter>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
    let meter = Arc::new(Meter::new(Arc::new(store)));
    let world = World::over(folder, meter.clone(), Arc::new(OsDisk)).await;
    world.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
         INSERT INTO t(x) SELECT randomblob(1000) FROM n",
    );
    (world, meter)
}

async fn looked(world: &World, report: &BackupReport) -> CheckReport {
    let name = SnapshotName::first(source(), report.sequence, report.snapshot);
    look_back(&world.vault, Committed { name, wrote: &report.wrote }).await.expect("looked back")
}

async fn counted(world: &World, meter: &Meter, report: &BackupReport) -> (CheckReport, Reading) {
    let before = meter.read();
    let found = looked(world, report).await;
    (found, meter.read().since(&before))
}

fn pack(world: &World, id: &ObjectId) -> PathBuf {
    world.dir().join(format!("vault/data/shop/pack/{id}"))
}

/// The one pack the first backup wrote.
fn only(report: &BackupReport) -> ObjectId {
    *report.wrote.iter().next().expect("it wrote a pack")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_back_reads_as_much_as_was_written_and_asks_once_for_the_rest() {
    let (world, meter) = metered().await;
    let first = world.backup().await.expect("backup");
    let (whole, asked) = counted(&world, &meter, &first).await;
    assert_eq!((whole.verdict, whole.snapshots[0].verdict, whole.left), (Verdict::Pass, Verdict::Pass, 0));
    assert_eq!(asked.bytes_received, first.stored.get(), "the packs and the manifest, once");
    assert_eq!(asked.of(Verb::List).calls, 0, "there is nothing but what it wrote");

    // One row in a hundred, side by side.
    world.sql("UPDATE t SET x = randomblob(1000) WHERE id BETWEEN 100 AND 130");
    let second = world.backup().await.expect("backup");
    assert!(second.stored.get() < first.stored.get() / 20, "{} of {}", second.stored, first.stored);
    let (part, asked) = counted(&world, &meter, &second).await;
    assert_eq!((part.verdict, part.problems.len()), (Verdict::Pass, 0), "{part:?}");
    assert_eq!(asked.bytes_received, second.stored.get(), "what it wrote, and not a byte of what was there");
    assert_eq!((asked.of(Verb::List).calls, asked.of(Verb::Head).calls), (1, 0));
    assert_eq!(asked.of(Verb::Get).calls, second.wrote.len() as u64 + 1);
    let older = part.older.expect("it says what it did not read");
    assert_eq!((older.objects, part.left), (1, 1));
    assert!(older.bytes.get() > first.stored.get() / 2, "{older:?}");
    assert!(older.intact_since.is_some(), "the first look back has read it");
    assert_eq!(part.snapshots[0].verdict, Verdict::Inconclusive, "what was not read is not called intact");

    let third = world.backup().await.expect("backup");
    let (none, asked) = counted(&world, &meter, &third).await;
    assert_eq!(none.verdict, Verdict::Pass);
    assert_eq!(asked.bytes_received, third.stored.get(), "a manifest, when nothing changed");
    assert!(asked.bytes_received < 64 << 10, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_it_was_written_is_found_and_stored_again() {
    let (world, _) = metered().await;
    let first = world.backup().await.expect("backup");
    let path = pack(&world, &only(&first));
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("write");
    let found = looked(&world, &first).await;
    assert_eq!((found.verdict, found.snapshots[0].verdict), (Verdict::Fail, Verdict::Fail));
    assert_eq!(found.problems[0].snapshots, [first.snapshot]);
    let catalog = world.vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.snapshots[0].is_quarantined(), "this host may say so");
    let next = world.backup().await.expect("backup");
    assert_eq!(next.units_stored, next.units, "all of it again");
    assert_eq!(looked(&world, &next).await.verdict, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_object_that_is_gone_or_cut_is_no_pass() {
    for cut in [true, false] {
        let (world, _) = metered().await;
        let first = world.backup().await.expect("backup");
        world.sql("UPDATE t SET x = randomblob(1000) WHERE id = 5");
        let second = world.backup().await.expect("backup");
        let path = pack(&world, &only(&first));
        let bytes = std::fs::read(&path).expect("read");
        if cut {
            std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("write");
        } else {
            std::fs::remove_file(&path).expect("remove");
        }
        let found = looked(&world, &second).await;
        assert_eq!((found.verdict, found.problems.len()), (Verdict::Fail, 1), "cut: {cut}: {found:?}");
        assert!(found.problems[0].object.ends_with(&only(&first).to_string()));
        assert!(world.vault.state.seen(&source()).expect("seen").suspects.contains(&only(&first)));
        let third = world.backup().await.expect("backup");
        assert_eq!(looked(&world, &third).await.verdict, Verdict::Pass);
        world.restore(backstay_model::catalog::Target::Latest, &world.dir().join("back.db")).await.expect("restore");
        let checked = world.check(Depth::Authentic).await.expect("check");
        let good = checked.snapshots.iter().filter(|s| s.verdict == Verdict::Pass).map(|s| s.id);
        assert_eq!(good.collect::<Vec<_>>(), [third.snapshot]);
    }
}
