//! Every operation is stopped at every effect on the store and the disk, and the machine may lose its
//! power on top: whatever was there before is there afterwards, and the next run goes on.
//!
//! The store is a local one whose verbs stop before and after they take effect; its own syncs are
//! watched elsewhere. What SQLite does to the live database in between is not stopped, only what
//! comes before and after it.
//!
//! What these tests found when they were first run:
//! - A backup after a restore in place that died between storing its snapshot and remembering it made
//!   the next one open a second branch from the point restored, as if the first had never been.
//! - A beginning killed after the key file got its name, and taken up by a second one, never synced
//!   that name: a power cut then left a repository without its key.
//! - A restore to a new file moved a stale log aside without syncing that before the file got its
//!   name: after a power cut the stale log lay over the restored file.
//! - A restore in place that died with the old database still in its place left it with a second name
//!   and an old log beside that: opened there, SQLite would have written the old log into the live file.

mod rig;
mod world;

use backstay_model::catalog::Target;
use backstay_model::{Moment, Verdict};
use backstay_ops::catalog::Catalog;
use backstay_ops::check::Depth;
use backstay_ops::init;
use backstay_ops::prove::ProofOutcome;
use backstay_ops::restore::Destination;
use backstay_testkit::effects::Effects;
use rig::{Before, Ended, Making, Process, Run, crash, crash_anything, image};
use std::fs;
use std::path::PathBuf;
use world::source;

const CHANGE: &str = "UPDATE t SET x = printf('%0300d', id) WHERE id % 50 = 3; DELETE FROM t WHERE id % 97 = 5";
const LATER: &str = "INSERT INTO t(x) VALUES ('later'); DELETE FROM t WHERE id % 3 = 1";

/// What a replaced small file takes: the state a backup remembers.
const REPLACE: [&str; 5] = ["disk create", "disk write", "disk sync", "disk rename", "disk sync folder"];

const PUT: [&str; 2] = ["store put, not applied", "store put, applied"];

/// The live database was not touched: the very bytes, its log among them.
fn live_is_untouched(run: &Run, before: &Before) {
    assert!(image(&run.db()).1 == before.rows, "the live database is as it was");
}

async fn two_snapshots(journal: &str) -> Before {
    let making = Making::database(journal).repository().await.backed_up().await;
    making.sql(CHANGE);
    let making = making.backed_up().await;
    making.sql(LATER);
    making.done()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_stopped_anywhere() {
    let before = Making::database("WAL").done();
    let act = async |run: &Run, effects: Effects| Process::init(run.dir(), run.next(&effects), Some(&effects)).await;
    let sweep = crash_anything("init", &before, act, async |run: &Run, ended: &Ended| {
        let keys = init::read_keys(&rig::key_file(run.dir())).expect("a key file is whole or not there");
        let began = run.dir().join("vault/ctl/conf").exists();
        assert!(keys.is_some() || !began, "a repository's key is never lost");
        assert!(keys.is_none_or(|keys| keys.root.is_some() && keys.signer.is_some() && keys.identity.is_some()));
        match Process::init(run.dir(), run.next(&Effects::unstopped()), None).await {
            Ok(()) => assert!(!ended.done, "a repository is never begun twice"),
            Err(error) => assert!(began && error.to_string().contains("already holds a repository"), "{error}"),
        }
        rig::the_next_run_goes_on(run, ended, &before).await;
        live_is_untouched(run, &before);
    })
    .await;
    sweep.assert_stopped_at(&["disk create", "disk write", "disk sync", "disk link", "disk remove"]);
    sweep.assert_stopped_at(&["disk sync folder", "disk create folder"]);
    sweep.assert_stopped_at(&["store list", "store get", "store delete, not applied", "store delete, applied"]);
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_backup_stopped_anywhere() {
    let before = Making::database("WAL").repository().await.done();
    let act = async |process: &Process| process.backup().await.map(drop);
    let sweep = crash("first backup", &before, act, async |run: &Run, _: &Ended| live_is_untouched(run, &before)).await;
    sweep.assert_stopped_at(&REPLACE);
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_backup_stopped_anywhere() {
    let before = two_snapshots("WAL").await;
    let act = async |process: &Process| process.backup().await.map(drop);
    let judge = async |run: &Run, _: &Ended| live_is_untouched(run, &before);
    let sweep = crash("incremental backup", &before, act, judge).await;
    sweep.assert_stopped_at(&REPLACE);
    sweep.assert_stopped_at(&["store head"]);
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_stopped_anywhere() {
    let before = two_snapshots("DELETE").await;
    before.copy("shop.db", "old.db");
    before.pack("old.db");
    let taken = Moment::from_millis(1_700_000_000_000).expect("in range");
    let newest = before.known[1].id;
    let act = async |process: &Process| process.import("old.db.gz", taken).await.map(drop);
    let sweep = crash("import", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let mut catalog = process.vault.catalog(&source()).await.expect("catalog");
        let old =
            |catalog: &Catalog| catalog.snapshots.iter().filter(|s| s.imported).map(|s| s.taken).collect::<Vec<_>>();
        assert!(old(&catalog) == [taken] || old(&catalog).is_empty() && !ended.done, "what was told is there");
        assert_eq!(catalog.choose(&Target::Latest).expect("a snapshot").id, newest, "and never the latest");
        act(&process).await.expect("the import again");
        let catalog = process.vault.catalog(&source()).await.expect("catalog");
        assert_eq!(old(&catalog), [taken], "once and not twice");
        live_is_untouched(run, &before);
    })
    .await;
    sweep.assert_stopped_at(&REPLACE);
    sweep.assert_stopped_at(&["disk create", "disk write", "disk remove"]);
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_with_its_proof_stopped_anywhere() {
    let making = Making::database("DELETE").repository().await.backed_up().await;
    making.sql(CHANGE);
    let before = making.done();
    let act = async |process: &Process| {
        let report = process.backup().await?;
        process.prove(report.snapshot).await.map(drop)
    };
    let judge = async |run: &Run, _: &Ended| live_is_untouched(run, &before);
    let sweep = crash("backup and proof", &before, act, judge).await;
    sweep.assert_stopped_at(&REPLACE);
    sweep.assert_stopped_at(&["store get range", "disk set length", "disk create folder"]);
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_stopped_anywhere() {
    let before = two_snapshots("WAL").await;
    let newest = before.known[1].id;
    let act = async |process: &Process| process.prove(newest).await.map(drop);
    let sweep = crash("proof", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let catalog = process.vault.catalog(&source()).await.expect("catalog");
        let of = |id| catalog.snapshots.iter().find(|s| s.id == id).expect("listed");
        assert!(of(newest).is_proven() || !ended.done, "a proof that was told is marked");
        assert!(!of(newest).is_quarantined() && of(before.known[0].id).marks.is_empty(), "and nothing else is");
        let again = process.prove(newest).await.expect("a proof of the same snapshot");
        assert!(matches!(again.outcome, ProofOutcome::Proven { .. }), "{again:?}");
    })
    .await;
    sweep.assert_stopped_at(&["store get range", "disk create", "disk set length", "disk write", "disk remove"]);
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_stopped_anywhere() {
    let before = two_snapshots("WAL").await;
    let act = async |process: &Process| process.check(Depth::Authentic).await.map(drop);
    crash("check", &before, act, async |run: &Run, _: &Ended| live_is_untouched(run, &before)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_finds_damage_stopped_anywhere() {
    let before = two_snapshots("WAL").await.with_the_newest_pack_damaged().await;
    let find = async |process: &Process| {
        let report = process.check(Depth::Intact).await?;
        assert_eq!((report.verdict, report.problems.len()), (Verdict::Fail, 1), "{report:?}");
        Ok(())
    };
    let sweep = crash("check of a damaged pack", &before, find, async |run: &Run, _: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        find(&process).await.expect("the check again");
    })
    .await;
    sweep.assert_stopped_at(&REPLACE);
    sweep.assert_stopped_at(&PUT);
}

/// Files in the folder whose names begin like this.
fn named(run: &Run, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.dir()).expect("read folder").flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(beginning)).map(|e| e.path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_to_a_new_file_stopped_anywhere() {
    let before = two_snapshots("WAL").await;
    let stale = before.copy("shop.db-wal", "out.db-wal");
    assert!(!stale.is_empty(), "the log has frames that would be laid over the new file");
    let known = &before.known[0];
    let into = |process: &Process| Destination::New(process.dir().join("out.db"));
    let act =
        async |process: &Process| process.restore(Target::Id(known.id.to_string()), into(process)).await.map(drop);
    let sweep = crash("restore to a new file", &before, act, async |run: &Run, ended: &Ended| {
        let out = run.dir().join("out.db");
        assert!(out.exists() || !ended.done, "a restore that was told is there");
        if out.exists() {
            assert!(fs::read(&out).expect("read") == known.bytes, "a file that has its name is whole");
            assert!(image(&out).1 == known.rows, "and nothing is laid over it");
        }
        let logs = named(run, "out.db-wal");
        assert!(logs.iter().any(|log| fs::read(log).expect("read") == stale), "what stood in the way is kept");
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        match act(&process).await {
            Ok(()) => assert!(image(&out).1 == known.rows),
            Err(error) => assert!(error.to_string().ends_with("out.db is in the way"), "{error}"),
        }
        live_is_untouched(run, &before);
    })
    .await;
    sweep.assert_stopped_at(&["store get range", "disk create", "disk set length", "disk write", "disk sync"]);
    sweep.assert_stopped_at(&["disk rename", "disk link", "disk sync folder", "disk remove"]);
}

async fn in_place(what: &str, before: &Before) {
    let known = &before.known[0];
    let act = async |process: &Process| {
        let into = Destination::InPlace(process.db());
        process.restore(Target::Id(known.id.to_string()), into).await.map(drop)
    };
    let sweep = crash(what, before, act, async |run: &Run, ended: &Ended| {
        let rows = image(&run.db()).1;
        let kept = named(run, "shop.db.before-restore-");
        if rows == before.rows {
            assert!(!ended.done, "a restore that was told is there");
        } else {
            assert!(rows == known.rows, "the path leads to the whole old database or the whole new one");
            let beside = ["-wal", "-shm", "-journal"];
            let main = |path: &&PathBuf| !beside.iter().any(|s| path.to_string_lossy().ends_with(s));
            let [old] = kept.iter().filter(main).collect::<Vec<_>>()[..] else { panic!("one old file: {kept:?}") };
            assert!(image(old).1 == before.rows, "the old state is complete under its kept name");
            let mode =
                |path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("there").permissions());
            assert_eq!(mode(&run.db()), mode(old), "the new file may be used by whoever used the old one");
        }
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        act(&process).await.expect("the restore again");
        let inode = |path: &PathBuf| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("there"));
        let mut kept: Vec<u64> = named(run, "shop.db.before-restore-").iter().map(inode).collect();
        let count = kept.len();
        kept.sort_unstable();
        kept.dedup();
        assert_eq!(kept.len(), count, "no kept file is another one under a second name");
    })
    .await;
    sweep.assert_stopped_at(&["store get range", "disk create", "disk set length", "disk write", "disk sync"]);
    sweep.assert_stopped_at(&["disk link", "disk copy owner", "disk remove", "disk rename", "disk sync folder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_in_place_over_a_log_with_frames_stopped_anywhere() {
    in_place("restore in place, WAL", &two_snapshots("WAL").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_in_place_of_a_rollback_database_stopped_anywhere() {
    in_place("restore in place, DELETE", &two_snapshots("DELETE").await).await;
}

/// SQLite cannot open the old one, so nobody folds its log into it: both are kept as they are, and the
/// old log never lies over the new file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_in_place_of_a_malformed_database_stopped_anywhere() {
    let making = Making::database("WAL").repository().await.backed_up().await;
    // The log holds pages of the table alone: nothing SQLite could take for a new header.
    making.sql("PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET x = replace(x, '7', '8') WHERE id % 3 = 1");
    let before = making.done();
    let (known, old) = (&before.known[0], before.malform());
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        let into = Destination::InPlace(process.db());
        process.restore(Target::Id(known.id.to_string()), into).await.map(drop)
    };
    let sweep = crash_anything("restore in place, malformed", &before, act, async |run: &Run, ended: &Ended| {
        let main = fs::read(run.db()).expect("the path leads to a database");
        let names = named(run, "shop.db");
        let is_there = |bytes: &Vec<u8>| names.iter().any(|path| fs::read(path).expect("read") == *bytes);
        assert!(old.iter().all(is_there), "every byte of the old database is there: {names:?}");
        if main == old[0] {
            assert!(!ended.done, "a restore that was told is there");
        } else {
            assert!(main == known.bytes && image(&run.db()).1 == known.rows, "or the whole new one");
        }
        act(run, Effects::unstopped()).await.expect("the restore again");
        assert!(image(&run.db()).1 == known.rows);
    })
    .await;
    sweep.assert_stopped_at(&["disk link", "disk copy owner", "disk remove", "disk rename", "disk sync folder"]);
}

/// The next backup opens a branch, once: a run that died between storing the snapshot and remembering
/// it must not make the next one open another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_after_a_restore_in_place_stopped_anywhere() {
    let making = Making::database("WAL").repository().await.backed_up().await;
    let before = making.restored_in_place().await.done();
    let act = async |process: &Process| process.backup().await.map(drop);
    let sweep = crash("backup after a restore in place", &before, act, async |run: &Run, _: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        process.backup().await.expect("the next backup");
        let branches = process.vault.repo.branches(&source()).await.expect("branches");
        assert_eq!(branches.len(), 2, "the restore opened one branch");
    })
    .await;
    sweep.assert_stopped_at(&PUT);
}
