//! Four writer processes beside fifty backups, with a write-ahead log and with a rollback journal:
//! every snapshot restores to one committed state, and to the very one its ledger says it is.

mod world;

use backstay_model::catalog::Target;
use backstay_ops::backup::{BackupReport, BackupRequest, backup};
use backstay_sqlite::{CaptureReport, HoldKind};
use backstay_testkit::bank::{self, Audit, Writers};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use world::World;

const SNAPSHOTS: usize = 50;
const WRITERS: u64 = 4;
const BYTES: u64 = 16 << 20;
/// With what a transfer itself takes, more than two hundred a second in all.
const PAUSE: Duration = Duration::from_millis(5);

#[test]
#[ignore = "a process of the tests beside it, which start it"]
fn writer_process() {
    bank::write_if_asked().expect("a writer writes on");
}

struct Taken {
    report: BackupReport,
    audit: Audit,
}

/// Fifty snapshots, the lock held for so long at a time where one is needed.
async fn fifty_snapshots(journal: &str, hold_max: Duration) -> Vec<Taken> {
    let world = World::new().await;
    bank::create(&world.db(), journal, BYTES).expect("a bank");
    let notes = tempfile::tempdir().expect("a folder");
    let mut writers = Writers::start(WRITERS, &world.db(), notes.path(), PAUSE).expect("writers");
    while writers.noted().expect("notes").len() < 20 {
        writers.all_at_work().expect("writers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut reports = Vec::new();
    for _ in 0..SNAPSHOTS {
        let request = BackupRequest { hold_max, ..world.request() };
        reports.push(backup(&world.vault, &request).await.expect("a backup beside writers"));
        writers.all_at_work().expect("writers");
    }
    writers.stop().expect("writers");
    let noted = writers.noted().expect("notes");
    let mut taken = Vec::new();
    for report in reports {
        let to = world.dir().join("restored.db");
        world.restore(Target::Id(report.snapshot.to_string()), &to).await.expect("restore");
        let audit = bank::audit(&to).unwrap_or_else(|error| panic!("snapshot {}: {error}", report.snapshot));
        assert_eq!(noted.get(&audit.sequence), Some(&audit.digest), "the state noted at {}", audit.sequence);
        std::fs::remove_file(&to).expect("remove");
        taken.push(Taken { report, audit });
    }
    taken
}

/// What the writers did meanwhile, and how long a lock was held.
fn speak(journal: &str, taken: &[Taken]) -> BTreeMap<String, usize> {
    let captures: Vec<&CaptureReport> = taken.iter().filter_map(|t| t.report.capture.as_ref()).collect();
    assert_eq!(captures.len(), taken.len());
    let mut kinds = BTreeMap::new();
    captures.iter().for_each(|c| *kinds.entry(format!("{:?}", c.hold_kind)).or_default() += 1);
    let transfers = taken.last().expect("some").audit.sequence - taken.first().expect("some").audit.sequence;
    let hold = captures.iter().map(|c| c.hold_ms).max();
    let waited = captures.iter().map(|c| c.busy_wait_ms).max();
    let retaken: u64 = captures.iter().map(|c| c.units_retaken).sum();
    let span = taken.last().expect("some").report.taken.millis_since(taken[0].report.taken);
    println!(
        "{journal}: {} snapshots in {span} ms beside {transfers} transfers; longest hold {hold:?} ms of {kinds:?}, \
         longest wait {waited:?} ms, {retaken} units taken again",
        taken.len()
    );
    let states: BTreeSet<i64> = taken.iter().map(|t| t.audit.sequence).collect();
    assert!(taken.windows(2).all(|pair| pair[0].audit.sequence <= pair[1].audit.sequence), "time goes one way");
    assert!(states.len() > SNAPSHOTS / 2, "the writers were at work all the time: {} states", states.len());
    kinds
}

/// What a limit is kept to: one batch of units may be under way when it is reached.
fn assert_limit(taken: &[Taken], limit: Duration) {
    for capture in taken.iter().filter_map(|t| t.report.capture.as_ref()) {
        let kept = capture.hold_ms <= (limit + Duration::from_millis(100)).as_millis() as u64;
        assert!(kept || capture.hold_kind == HoldKind::Long, "a lock was held too long without saying so: {capture:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_beside_writers_with_a_write_ahead_log() {
    let taken = fifty_snapshots("WAL", Duration::from_secs(1)).await;
    let kinds = speak("WAL", &taken);
    assert_eq!(kinds, BTreeMap::from([("ReadMark".to_owned(), SNAPSHOTS)]), "no writer ever waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_beside_writers_with_a_rollback_journal() {
    let limit = Duration::from_secs(1);
    let taken = fifty_snapshots("DELETE", limit).await;
    let kinds = speak("DELETE", &taken);
    assert!(!kinds.contains_key("Long"), "sixteen mebibytes are compared within a second: {kinds:?}");
    assert_limit(&taken, limit);
}

/// The limit is far below what one comparison takes, so that holds are cut short, begun again and
/// given up beside writers that never rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_beside_writers_with_hardly_any_time_to_hold_a_lock() {
    let limit = Duration::from_millis(1);
    let taken = fifty_snapshots("DELETE", limit).await;
    let kinds = speak("DELETE, 1 ms", &taken);
    assert!(kinds.keys().any(|kind| kind != "SharedRehash"), "the limit was reached: {kinds:?}");
    assert_limit(&taken, limit);
}
