//! Checks that look at a part come round to everything, and a part never counts as the whole.

mod world;

use backstay_model::Verdict;
use backstay_model::checking::Select;
use backstay_ops::check::{CheckReport, CheckRequest, Depth, Holes, Scope, check_within};
use world::{World, source};

async fn world_with_packs(snapshots: usize) -> World {
    let world = World::new().await;
    world.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO t SELECT i, hex(randomblob(200)) FROM n;",
    );
    for n in 0..snapshots {
        world.backup().await.expect("stored");
        world.sql(&format!("UPDATE t SET x = hex(randomblob(200)) WHERE id % 40 = {n}"));
    }
    world
}

async fn looked(world: &World, select: Select, depth: Depth) -> CheckReport {
    let request = CheckRequest { source: source(), snapshot: None, depth };
    check_within(&world.vault, &request, Scope { select, holes: Holes::Damage }).await.expect("a report")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_come_round_to_everything_and_none_counts_as_all() {
    let world = world_with_packs(4).await;
    let never = || world.vault.state.checked(&source()).summary().expect("something is known").never;
    let all = looked(&world, Select::Sample { percent: 100 }, Depth::Intact).await;
    assert_eq!((all.verdict, all.left, all.objects), (Verdict::Pass, 0, 4));
    assert_eq!(never(), 0);
    std::fs::remove_file(world.vault.state.dir().join("shop/checked")).expect("remove");

    let first = looked(&world, Select::Sample { percent: 1 }, Depth::Authentic).await;
    assert_eq!((first.verdict, first.objects, first.left), (Verdict::Pass, 1, 3), "{first:?}");
    assert!(never() >= 3, "what was left was never checked");
    let whole = |report: &CheckReport| report.snapshots.iter().filter(|s| s.verdict == Verdict::Pass).count();
    assert!(whole(&first) < 4, "a snapshot that was looked at in part does not pass: {first:?}");
    assert!(first.snapshots.iter().all(|s| s.left == 0 || s.verdict == Verdict::Inconclusive));
    for round in 1..4 {
        let next = looked(&world, Select::Sample { percent: 1 }, Depth::Authentic).await;
        assert_eq!((next.verdict, next.objects), (Verdict::Pass, 1), "round {round}");
    }
    assert_eq!(never(), 0, "four rounds have come to all four");
    // What was only seen intact was never seen authentic.
    std::fs::remove_file(world.vault.state.dir().join("shop/checked")).expect("remove");
    looked(&world, Select::All, Depth::Intact).await;
    let deeper = looked(&world, Select::OlderThan { millis: 60_000 }, Depth::Authentic).await;
    assert_eq!((deeper.objects, deeper.left), (4, 0));
    let nothing = looked(&world, Select::OlderThan { millis: 60_000 }, Depth::Authentic).await;
    assert_eq!((nothing.verdict, nothing.objects, nothing.left), (Verdict::Pass, 0, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_snapshot_is_always_looked_at_whole() {
    let world = world_with_packs(3).await;
    let report = looked(&world, Select::Newest { budget: 0 }, Depth::Authentic).await;
    assert_eq!(report.snapshots[0].verdict, Verdict::Pass, "{report:?}");
    let plenty = looked(&world, Select::Newest { budget: 1 << 30 }, Depth::Authentic).await;
    assert_eq!((plenty.left, plenty.verdict), (0, Verdict::Pass), "what fits is read whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_when_its_turn_comes_and_voids_what_was_known() {
    let world = world_with_packs(3).await;
    looked(&world, Select::All, Depth::Intact).await;
    for entry in std::fs::read_dir(world.dir().join("vault/data/shop/pack")).expect("packs").flatten() {
        std::fs::write(entry.path(), b"rubbish").expect("write");
    }
    let report = looked(&world, Select::Sample { percent: 1 }, Depth::Intact).await;
    assert_eq!(report.verdict, Verdict::Fail, "{report:?}");
    assert_eq!(world.vault.state.checked(&source()).summary().expect("known").never, 1);
    // A damaged memory is none, and says so by checking everything again.
    std::fs::write(world.vault.state.dir().join("shop/checked"), b"rubbish").expect("write");
    assert!(world.vault.state.checked(&source()).summary().is_none());
}
