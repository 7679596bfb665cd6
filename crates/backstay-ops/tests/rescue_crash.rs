//! A rescue stopped at every effect on the store and the disk: the damaged files stay as they are, the new name leads to
//! a whole database or to nothing, and the next run does it. That it sweeps what was left cannot be seen here: the disk
//! of the rig holds such files by a second name.

mod rig;
mod world;

use backstay_ops::OpsError;
use backstay_ops::rescue::{RescueRequest, rescue, rescue_with_snapshots};
use backstay_testkit::effects::Effects;
use rig::{Before, Ended, Making, Process, Run, crash_anything};
use std::path::Path;
use world::{integrity_of, rows_of, source};

const NAMING: [&str; 4] = ["disk create", "disk sync", "disk link", "disk sync folder"];

fn request(dir: &Path, to: &str) -> RescueRequest {
    RescueRequest { from: dir.join("damaged.db"), to: dir.join(to), deleted: false }
}

/// A snapshot, and beside the live database a copy of it with a page of rows overwritten.
async fn damaged() -> (Before, Vec<u8>) {
    let before = Making::database("DELETE").repository().await.backed_up().await.done();
    before.copy("shop.db", "damaged.db");
    let bytes = before.overwrite("damaged.db", 9 * 4096..10 * 4096);
    (before, bytes)
}

/// What stands under the new name, if anything does.
fn found(run: &Run, to: &str) -> Option<String> {
    let path = run.dir().join(to);
    path.exists().then(|| {
        assert_eq!(integrity_of(&path), "ok", "the name leads to a whole database");
        rows_of(&path)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescue_stopped_anywhere() {
    let (before, bytes) = damaged().await;
    let act = async |run: &Run, effects: Effects| {
        let env = world::env(run.next(&effects));
        rescue(&env, &request(run.dir(), "new.db")).map(drop)
    };
    let sweep = crash_anything("rescue", &before, act, async |run: &Run, ended: &Ended| {
        judge(run, ended, &bytes, async |to| {
            let env = world::env(run.next(&Effects::unstopped()));
            rescue(&env, &request(run.dir(), to)).map(|rescued| rescued.to.is_some())
        })
        .await;
    })
    .await;
    sweep.assert_stopped_at(&NAMING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescue_with_snapshots_stopped_anywhere() {
    let (before, bytes) = damaged().await;
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        rescue_with_snapshots(&process.vault, &source(), &request(run.dir(), "new.db")).await.map(drop)
    };
    let sweep = crash_anything("rescue with snapshots", &before, act, async |run: &Run, ended: &Ended| {
        judge(run, ended, &bytes, async |to| {
            let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
            let rescued = rescue_with_snapshots(&process.vault, &source(), &request(run.dir(), to)).await;
            if let Some(rows) = found(run, to) {
                assert_eq!(rows, before.rows, "with the snapshot's help nothing is lost");
            }
            rescued.map(|rescued| rescued.to.is_some())
        })
        .await;
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        for known in &before.known {
            assert!(process.restored(known.id).await == known.bytes, "a rescue changes no snapshot");
        }
    })
    .await;
    sweep.assert_stopped_at(&NAMING);
    sweep.assert_stopped_at(&["store get", "store list"]);
}

async fn judge(run: &Run, ended: &Ended, damaged: &[u8], again: impl AsyncFn(&str) -> Result<bool, OpsError>) {
    let untouched = || std::fs::read(run.dir().join("damaged.db")).expect("there") == damaged;
    assert!(untouched(), "the damaged file is as it was");
    let first = found(run, "new.db");
    assert!(first.is_some() || !ended.done, "what was told is there");
    match (again("new.db").await, &first) {
        (Ok(made), None) => assert!(made, "there are rows"),
        (Err(OpsError::TargetExists { .. }), Some(_)) => {}
        (other, first) => panic!("{other:?} where {first:?} was"),
    }
    assert!(again("another.db").await.expect("once more"), "there are rows");
    assert!(found(run, "new.db") == found(run, "another.db"), "however often it was stopped");
    assert!(untouched(), "and the damaged file still is as it was");
}
