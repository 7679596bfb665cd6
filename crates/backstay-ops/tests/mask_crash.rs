//! A masked copy stopped at every effect on the store and the disk: the new name leads to a whole masked database or to
//! nothing, whatever is left beside it holds nothing of the original, and the next run makes the copy.

mod rig;
mod world;

use backstay_model::catalog::Target;
use backstay_model::mask::Profile;
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::env::blocking;
use backstay_ops::mask::{self, MaskRequest};
use backstay_ops::query::{Asker, CACHE_USUAL, Reading};
use backstay_testkit::effects::Effects;
use rig::{Ended, Making, Process, Run, crash_anything};
use std::path::Path;
use world::{integrity_of, rows_of, source};

/// What every value of the original has in it.
const ORIGINAL: &str = "0000000000000000000000";

async fn copy(vault: &Vault, dir: &Path, to: &str) -> Result<(), OpsError> {
    let asker = Asker::new(vault, Reading { cache: CACHE_USUAL });
    let past = asker.open(&source(), &Target::Latest).await?;
    let rule = |column: &str, rule: &str| ("t".to_owned(), column.to_owned(), Some(rule.parse().expect("a rule")));
    let profile = Profile { strict: true, empty: Vec::new(), rules: vec![rule("id", "keep"), rule("x", "hash")] };
    let request = MaskRequest { profile, secret: Some(b"a key".to_vec()), to: dir.join(to) };
    blocking(|| {
        let planned = mask::plan(&past, &request)?;
        mask::perform(&vault.env, (&asker, &past), &planned, &request).map(drop)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_copy_stopped_anywhere() {
    let before = Making::database("WAL").repository().await.backed_up().await.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        copy(&process.vault, run.dir(), "new.db").await
    };
    let sweep = crash_anything("masked copy", &before, act, async |run: &Run, ended: &Ended| {
        let new = run.dir().join("new.db");
        assert!(new.exists() || !ended.done, "what was told is there");
        for entry in std::fs::read_dir(run.dir()).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains("new.db") {
                let bytes = std::fs::read(entry.path()).expect("read");
                let found = bytes.windows(ORIGINAL.len()).any(|window| window == ORIGINAL.as_bytes());
                assert!(!found, "{name} holds what was masked");
            }
        }
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        match copy(&process.vault, run.dir(), "new.db").await {
            Ok(()) => {}
            Err(OpsError::TargetExists { .. }) if new.exists() => {}
            Err(error) => panic!("{error}"),
        }
        copy(&process.vault, run.dir(), "another.db").await.expect("once more");
        assert_eq!(integrity_of(&new), "ok");
        assert!(rows_of(&new) == rows_of(&run.dir().join("another.db")), "with one key they are alike");
    })
    .await;
    sweep.assert_stopped_at(&["disk create", "disk sync", "disk link", "disk sync folder", "store get"]);
}
