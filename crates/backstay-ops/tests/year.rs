//! A season in seconds: a database of eight megabytes of which one page in a hundred changes at random each
//! day, a backup and a retention run a day, for 120 days. What a snapshot refers to stays within 1.3 times of
//! what it holds, the repository stays bounded, and what is kept restores byte for byte.

mod history;
mod world;

use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_ops::disk::OsDisk;
use backstay_ops::retain::{self, SourceRules};
use backstay_store::memory::MemoryStore;
use history::{BEGINNING, DAY, Dice, Hands};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::sync::Arc;
use world::{World, source};

const DAYS: u32 = 120;
const ROWS: u64 = 2000;

/// A row to a page, of bytes that do not compress.
fn fill(world: &World) {
    world.sql(&format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})
         INSERT INTO t(x) SELECT randomblob(3900) FROM n;"
    ));
}

fn change(world: &World, dice: &Dice) {
    let rows: Vec<String> = (0..ROWS / 100).map(|_| (1 + dice.roll(ROWS)).to_string()).collect();
    world.sql(&format!("UPDATE t SET x = randomblob(3900) WHERE id IN ({})", rows.join(",")));
}

/// Bytes referred to and bytes live, of the newest snapshot.
async fn newest(world: &World) -> (u64, u64) {
    let name = world.vault.repo.newest_names(&source(), 1).await.expect("names").remove(0);
    let manifest = world.vault.repo.manifest(&name).await.expect("manifest");
    let refs = manifest.table.refs();
    let live = refs.iter().map(|r| r.stored * u64::from(r.live_units) / u64::from(r.total_units.max(1)));
    (refs.iter().map(|r| r.stored).sum(), live.sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_season_of_scattered_writes_stays_bounded() {
    let (hands, dice) = (Hands::at(BEGINNING), Dice::of(11));
    let store = Arc::new(MemoryStore::with_clock(Arc::new(hands.other())));
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
    world.vault.env.clock = Arc::new(hands.clone());
    let policy = RetentionPolicy { daily: 7, weekly: 4, monthly: 6, ..Default::default() };
    let rules = [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: DAY, log_millis: 0 }];
    fill(&world);
    let (mut kept, mut most, mut deleted) = (BTreeMap::new(), 0, 0);
    for day in 0..DAYS {
        let report = world.backup().await.expect("backup");
        kept.insert(report.snapshot, world.rows());
        let retained = retain::apply(&world.vault, &rules).await.expect("retention");
        assert_eq!(retained.verdict, backstay_model::Verdict::Pass, "{retained:?}");
        deleted += retained.sources[0].deleted.snapshots;
        let (referred, live) = newest(&world).await;
        assert!(referred * 100 <= live * 130, "day {day}: {referred} bytes referred to, {live} live");
        let all: u64 = store.dump().values().map(|bytes| bytes.len() as u64).sum();
        most = most.max(all);
        if day % 10 == 0 {
            println!(
                "day {day:3}: {:5.1} MiB stored, {:.2} referred to / live",
                all as f64 / 1048576.0,
                referred as f64 / live as f64
            );
        }
        hands.pass(DAY);
        change(&world, &dice);
    }
    assert!(deleted > 90, "{deleted} snapshots were deleted");
    assert!(most < 48 << 20, "{most} bytes at most for some twenty snapshots of 8 MiB");
    let catalog = world.vault.catalog(&source()).await.expect("catalog");
    assert!((12..20).contains(&catalog.snapshots.len()), "{}", catalog.snapshots.len());
    for snapshot in &catalog.snapshots {
        let to = world.dir().join(format!("{}.db", snapshot.id));
        world.restore(Target::Id(snapshot.id.to_string()), &to).await.expect("restore");
        assert!(world::rows_of(&to) == kept[&snapshot.id], "snapshot {} is what it was", snapshot.id);
    }
}
