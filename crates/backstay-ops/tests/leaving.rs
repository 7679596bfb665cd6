//! Objects a snapshot must not stand on, although the one before it does.

mod world;

use backstay_model::catalog::Target;
use backstay_ops::backup::BaseUse;
use std::collections::BTreeSet;
use std::path::PathBuf;
use world::{World, rows_of};

fn packs(world: &World) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(world.dir().join("vault/data/shop/pack")).expect("packs").flatten();
    entries.map(|entry| entry.path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lay_in_a_pack_that_is_gone_is_stored_again() {
    let world = World::new().await;
    // More than one leaf of 512 pages, so that parts of the map lie in packs too.
    world.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1300)
         INSERT INTO t(x) SELECT randomblob(3500) FROM n",
    );
    world.backup().await.expect("backup");
    let gone = packs(&world);
    world.sql("UPDATE t SET x = randomblob(3500) WHERE id = 700");
    let second = world.backup().await.expect("backup");
    assert!(packs(&world).len() > gone.len(), "the second has a pack of its own");
    gone.iter().for_each(|pack| std::fs::remove_file(pack).expect("remove"));
    world.sql("UPDATE t SET x = randomblob(3500) WHERE id = 7");
    let third = world.backup().await.expect("backup");
    assert_eq!(third.base, BaseUse::Incremental { on: second.snapshot });
    let to = world.dir().join("restored.db");
    world.restore(Target::Latest, &to).await.expect("nothing of it lies in what is gone");
    assert_eq!(rows_of(&to), world.rows());
}
