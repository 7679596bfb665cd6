//! A database through its whole life: backed up, changed, backed up, restored, proven, checked.

mod world;

use backstay_model::catalog::Target;
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_restores_to_the_bytes_it_was_taken_of() {
    let world = World::new().await;
    world.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)");
    let mut taken = Vec::new();
    for round in 0..6 {
        world.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
             INSERT INTO t(x) SELECT printf('round %d row %d %s', {round}, i, hex(randomblob(40))) FROM n;
             DELETE FROM t WHERE id % 7 = {round}"
        ));
        if round == 4 {
            world.sql("VACUUM");
        }
        let report = world.backup().await.expect("backup");
        taken.push((report.snapshot, world.rows()));
    }
    for (snapshot, rows) in &taken {
        let to = world.dir().join(format!("restored-{snapshot}.db"));
        world.restore(Target::Id(snapshot.to_string()), &to).await.expect("restore");
        assert_eq!(&world::rows_of(&to), rows);
        assert_eq!(world::integrity_of(&to), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backup_without_changes_stores_a_manifest_only() {
    let world = World::new().await;
    world.sql("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    world.backup().await.expect("backup");
    let again = world.backup().await.expect("backup");
    assert_eq!(again.units_stored, 0);
    assert!(again.stored.get() < 8 << 10, "{}", again.stored);
}
