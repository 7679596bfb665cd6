//! A process that lives on: a full disk, a network that is cut, a clock that jumps. It may fail, and
//! says why; what was there before is there afterwards, nothing is left lying about, and the next run
//! goes on.

mod rig;
mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Clock, Kind, Kinded, Moment};
use backstay_ops::OpsError;
use backstay_ops::disk::{Disk, DiskFile, OsDisk};
use backstay_ops::prove::ProofOutcome;
use backstay_ops::restore::Destination;
use backstay_store::Verb;
use backstay_testkit::fault_store::{Fault, FaultKind, FaultStore};
use rig::{Before, Making, Process, Run, image, survives};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use world::source;

/// A disk with room for so many writes. Everything but writing goes on working.
struct FullDisk {
    room: Arc<AtomicU64>,
}

struct FullFile {
    file: Box<dyn DiskFile>,
    room: Arc<AtomicU64>,
}

impl DiskFile for FullFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let left = self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        self.file.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn give_owner_of(&self, from: &Path) -> io::Result<()> {
        self.file.give_owner_of(from)
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }
    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }
}

impl Disk for FullDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = OsDisk.create(path, mode)?;
        Ok(Box::new(FullFile { file, room: Arc::clone(&self.room) }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
}

async fn two_snapshots() -> Before {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql("UPDATE t SET x = printf('%0300d', id) WHERE id % 50 = 3");
    let making = making.backed_up().await;
    making.sql("DELETE FROM t WHERE id % 3 = 1");
    making.done()
}

fn names(run: &Run) -> Vec<String> {
    let entries = std::fs::read_dir(run.dir()).expect("read folder").flatten();
    let proofs = std::fs::read_dir(run.dir().join("proof")).into_iter().flatten().flatten();
    entries.chain(proofs).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn leftovers(run: &Run) -> Vec<String> {
    names(run).into_iter().filter(|name| name.contains(".backstay-") || name.starts_with("proof-")).collect()
}

/// Gives the operation room for 0, 1, 2, ... writes until it is enough.
async fn full_disk(what: &str, before: &Before, act: impl AsyncFn(&Process) -> Result<(), OpsError>) {
    for room in 0..200 {
        let enough = std::sync::atomic::AtomicBool::new(false);
        survives(before, async |run: &Run| {
            let disk = FullDisk { room: Arc::new(AtomicU64::new(room)) };
            let process = Process::open(run.dir(), Arc::new(disk), None).await.expect("open");
            match act(&process).await {
                Ok(()) => enough.store(true, Ordering::SeqCst),
                Err(error) => assert_eq!(error.kind(), Kind::NoSpace, "{error}"),
            }
            assert_eq!(leftovers(run), [""; 0], "what could not be finished is gone");
            let kept = names(run).into_iter().filter(|name| name.contains(".before-restore-")).count();
            assert!(kept == 0 || enough.load(Ordering::SeqCst), "a database still in its place has no second name");
            assert!(image(&run.db()).1 == before.rows || enough.load(Ordering::SeqCst), "nothing live was touched");
        })
        .await;
        if enough.into_inner() {
            println!("{what}: {room} writes are enough");
            return;
        }
    }
    panic!("{what}: never enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_under_a_backup() {
    let before = two_snapshots().await;
    full_disk("backup", &before, async |process| process.backup().await.map(drop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_under_a_proof_proves_nothing() {
    let before = two_snapshots().await;
    let newest = before.known[1].id;
    full_disk("proof", &before, async |process| match process.prove(newest).await?.outcome {
        ProofOutcome::Proven { .. } => Ok(()),
        ProofOutcome::Inconclusive { reason } => {
            assert!(reason.contains("write"), "{reason}");
            let catalog = process.vault.catalog(&source()).await?;
            assert!(catalog.snapshots.iter().all(|snapshot| snapshot.marks.is_empty()), "and marks nothing");
            Err(OpsError::NoRoom { path: process.dir().into(), needed: ByteLen::new(0), free: ByteLen::new(0) })
        }
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_under_a_restore() {
    let before = two_snapshots().await;
    let id = before.known[0].id.to_string();
    let new = async |process: &Process| {
        let to = process.dir().join("out.db");
        let done = process.restore(Target::Id(id.clone()), Destination::New(to.clone())).await;
        assert_eq!(to.exists(), done.is_ok());
        done.map(drop)
    };
    full_disk("restore to a new file", &before, new).await;
    let in_place = async |process: &Process| {
        process.restore(Target::Id(id.clone()), Destination::InPlace(process.db())).await.map(drop)
    };
    full_disk("restore in place", &before, in_place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_full_is_told() {
    let before = two_snapshots().await;
    survives(&before, async |run: &Run| {
        let full = Fault { verb: Some(Verb::PutNew), per_thousand: 1000, kind: FaultKind::Full };
        let store = Arc::new(FaultStore::new(Process::plain_store(run.dir())).with_faults(1, vec![full]));
        let process = Process::over(run.dir(), Arc::new(OsDisk), store).await.expect("open");
        let error = process.backup().await.expect_err("a full store takes nothing");
        assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_now_and_then() {
    let before = two_snapshots().await;
    let (stored, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    for seed in 0..60 {
        survives(&before, async |run: &Run| {
            let fault = |kind| Fault { verb: None, per_thousand: 25, kind };
            let faults = vec![fault(FaultKind::Unapplied), fault(FaultKind::Applied)];
            let store = Arc::new(FaultStore::new(Process::plain_store(run.dir())).with_faults(seed, faults));
            let Ok(process) = Process::over(run.dir(), Arc::new(OsDisk), store).await else { return };
            match process.backup().await {
                Ok(report) => {
                    stored.fetch_add(1, Ordering::SeqCst);
                    let again = Process::open(run.dir(), Arc::new(OsDisk), None).await.expect("open");
                    let bytes = image(&run.db()).0;
                    assert!(again.restored(report.snapshot).await == bytes, "what was told is there");
                    let _ = process.prove(report.snapshot).await;
                    let catalog = again.vault.catalog(&source()).await.expect("catalog");
                    assert!(!catalog.snapshots.iter().any(|s| s.is_quarantined()), "a cut is not damage");
                }
                Err(error) => {
                    failed.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                }
            }
        })
        .await;
    }
    let (stored, failed) = (stored.into_inner(), failed.into_inner());
    println!("{stored} backups stored, {failed} failed");
    assert!(stored > 5 && failed > 5, "both happened");
}

/// A clock that says what it is told.
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Moment {
        Moment::from_millis(self.0.fetch_add(1, Ordering::SeqCst)).expect("in range")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps() {
    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;
    let before = two_snapshots().await;
    survives(&before, async |run: &Run| {
        let mut process = Process::open(run.dir(), Arc::new(OsDisk), None).await.expect("open");
        let clock = Arc::new(SetClock(AtomicI64::new(0)));
        process.vault.env.clock = clock.clone();
        let now = 1_795_000_000_000;
        let mut taken = Vec::new();
        for at in [now, now - HOUR, now + 10 * YEAR, now, 0] {
            clock.0.store(at, Ordering::SeqCst);
            taken.push(process.backup().await.expect("a backup at any time").taken);
        }
        // A clock set back by hours must not reorder snapshots; one that was ten years ahead must not
        // drag every later snapshot with it. Both were wrong once.
        let apart: Vec<i64> = taken.iter().map(|t| t.as_millis() - now).collect();
        let near = |ms: i64, wanted: i64| (ms - wanted).abs() < 60_000;
        let wanted = [0, -HOUR, 10 * YEAR, 0, -now];
        assert!(near(apart[1], 1) && apart[1] > apart[0], "an hour back goes on from the one before: {apart:?}");
        for at in [0, 2, 3, 4] {
            assert!(near(apart[at], wanted[at]), "the host's own time counts: {apart:?}");
        }
        let catalog = process.vault.catalog(&source()).await.expect("catalog");
        let newest = catalog.snapshots.iter().max_by_key(|s| s.sequence).expect("some");
        assert_eq!(newest.taken, taken[4], "and the newest is the latest");
    })
    .await;
}
