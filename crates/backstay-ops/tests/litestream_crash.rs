//! Restoring a replica of Litestream, stopped at every effect on the disk: the new name leads to the whole database or to
//! nothing, and the next run makes it.

mod rig;
mod world;

use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::litestream::{Replica, ReplicaRequest, Until, perform, plan};
use backstay_testkit::effects::Effects;
use rig::{Ended, Making, Process, Run, crash_anything};
use std::fs;
use std::path::{Path, PathBuf};

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litestream").join(name)
}

fn restore(vault: &Vault, dir: &Path, to: &str) -> Result<(), OpsError> {
    let replica = Replica::Folder(kept("replica"));
    let request = ReplicaRequest { replica, to: dir.join("out").join(to), until: Until::Last };
    perform(&vault.env, &plan(&request)?, &request).map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_from_litestream_stopped_anywhere() {
    let before = Making::database("WAL").repository().await.done();
    let wanted = fs::read(kept("restored.db")).expect("read");
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        fs::create_dir_all(run.dir().join("out")).expect("a folder");
        restore(&process.vault, run.dir(), "new.db")
    };
    let sweep = crash_anything("restore from Litestream", &before, act, async |run: &Run, ended: &Ended| {
        let out = run.dir().join("out");
        fs::create_dir_all(&out).expect("a folder");
        let new = out.join("new.db");
        assert!(new.exists() || !ended.done, "what was told is there");
        assert!(!new.exists() || fs::read(&new).expect("read") == wanted, "a name leads to the whole");
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        match restore(&process.vault, run.dir(), "new.db") {
            Ok(()) => {}
            Err(OpsError::TargetExists { .. }) if new.exists() => {}
            Err(error) => panic!("{error}"),
        }
        restore(&process.vault, run.dir(), "another.db").expect("once more");
        assert!(fs::read(&new).expect("read") == wanted && fs::read(out.join("another.db")).expect("read") == wanted);
    })
    .await;
    sweep.assert_stopped_at(&["disk create", "disk sync", "disk link", "disk sync folder"]);
}
