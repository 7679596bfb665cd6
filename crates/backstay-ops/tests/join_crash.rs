//! Handing a source over, stopped at every effect on either host: whatever is left, asking once more ends with a host that
//! backs up incrementally and can read nothing.

mod rig;
mod world;

use backstay_format::facts::{Enrolment, EnrolmentRequest, Role};
use backstay_model::catalog::Target;
use backstay_model::{Moment, ObjectId};
use backstay_ops::backup::{BackupReport, BackupRequest, BaseUse, Malformed, backup};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::Disk;
use backstay_ops::restore::Destination;
use backstay_ops::trust::{self, Custodian, Enrol};
use backstay_ops::{OpsError, State, join};
use backstay_store::keyfile::KeyFile;
use backstay_store::os::OsRandom;
use backstay_store::signing::SigningKey;
use backstay_testkit::effects::Effects;
use rig::{Before, Ended, Making, Process, Run, crash, crash_anything};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use world::source;

const PUT: [&str; 2] = ["store put, not applied", "store put, applied"];

fn keys(process: &Process) -> KeyFile {
    backstay_ops::init::read_keys(&rig::key_file(process.dir())).expect("a whole key file").expect("a key file")
}

async fn enrol(process: &Process, host: &SigningKey) {
    let request = EnrolmentRequest {
        made: Moment::from_millis(0).expect("in range"),
        name: "db-2".into(),
        key: host.public(),
        roles: vec![Role::Writer],
        recipient: None,
    };
    let signature = host.sign(&request.message()).iter().map(|byte| format!("{byte:02x}")).collect();
    let keys = keys(process);
    let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
    let asked = Enrolment { request, signature };
    trust::enrol(&custodian, Enrol { asked: &asked, roles: &[Role::Writer] }).await.expect("enrolled");
}

/// The same repository as the other host sees it: with a state folder of its own, and without a key that reads.
fn other(process: &Process, host: &SigningKey, disk: Arc<dyn Disk>) -> Result<Vault, OpsError> {
    let repo = process.vault.repo.clone();
    let state = State::open(disk.clone(), &process.dir().join("other"), repo.id())?;
    let mut env = world::env(disk);
    env.threads = 1;
    Ok(Vault { repo, state, signer: Some(host.clone()), unsealer: None, env })
}

async fn other_backs_up(vault: &Vault, db: &Path) -> Result<BackupReport, OpsError> {
    let request = BackupRequest {
        source: source(),
        path: db.to_owned(),
        label: None,
        keep: None,
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: backstay_model::ByteLen::new(1 << 30),
        malformed: Malformed::Refuse,
        uploads_in_flight: 1,
    };
    backup(vault, &request).await
}

async fn two_snapshots(host: &SigningKey) -> Before {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql("UPDATE t SET x = 'later' WHERE id % 50 = 3");
    making.backed_up().await.having(async |process| enrol(process, host).await).await.done()
}

/// The whole of it: asked, answered into this file, taken.
async fn handed_over(process: &Process, vault: &Vault, file: &Path) -> Result<ObjectId, OpsError> {
    let to = join::request(vault, &source())?;
    join::answer(&process.vault, &source(), &to, file).await?;
    Ok(join::accept(vault, &source(), file)?.snapshot)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_handed_over_stopped_anywhere() {
    let host = SigningKey::generate(&OsRandom);
    let before = two_snapshots(&host).await;
    let act = async |run: &Run, effects: Effects| {
        let disk = run.next(&effects);
        let process = Process::open(run.dir(), disk.clone(), Some(&effects)).await?;
        handed_over(&process, &other(&process, &host, disk)?, &run.dir().join("shop.join")).await.map(drop)
    };
    let sweep = crash_anything("source join", &before, act, async |run: &Run, ended: &Ended| {
        let disk = run.next(&Effects::unstopped());
        let process = Process::open(run.dir(), disk.clone(), None).await.expect("open");
        let vault = other(&process, &host, disk).expect("a state folder");
        if !ended.done {
            let newest = handed_over(&process, &vault, &run.dir().join("again.join")).await.expect("once more");
            assert_eq!(newest, before.known[1].id);
        }
        let report = other_backs_up(&vault, &run.db()).await.expect("a backup");
        assert_eq!(report.base, BaseUse::Incremental { on: before.known[1].id }, "it goes on");
        for known in &before.known {
            assert!(process.restored(known.id).await == known.bytes, "snapshot {} restores", known.id);
        }
        process.restore(Target::Latest, Destination::New(run.dir().join("latest.db"))).await.expect("restore");
        assert_eq!(world::rows_of(&run.dir().join("latest.db")), before.rows);
    })
    .await;
    sweep.assert_stopped_at(&["disk create", "disk write", "disk sync", "disk remove", "store get", "store list"]);
    sweep.assert_stopped_at(&PUT);
}

/// A signer that has written, removed: what it wrote stays, and it writes nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_removal_of_a_signer_stopped_anywhere() {
    let host = SigningKey::generate(&OsRandom);
    let making = Making::database("WAL").repository().await.backed_up().await;
    let making = making.having(async |process| enrol(process, &host).await).await;
    making.sql("UPDATE t SET x = 'by the other host' WHERE id % 50 = 3");
    let wrote = async |process: &Process| {
        let vault = other(process, &host, Arc::new(backstay_ops::disk::OsDisk)).expect("a state folder");
        other_backs_up(&vault, &process.db()).await.expect("a backup");
    };
    let before = making.having(wrote).await.done();
    let remove = async |process: &Process| {
        let keys = keys(process);
        let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
        trust::remove_signer(&custodian, "db-2").await.map(drop)
    };
    let sweep = crash("removal of a signer", &before, remove, async |run: &Run, ended: &Ended| {
        let disk = run.next(&Effects::unstopped());
        let process = Process::open(run.dir(), disk.clone(), None).await.expect("open");
        let is_in = process.vault.repo.allows(&host.public(), Role::Writer);
        assert!(!is_in || !ended.done, "a removal that was told is done");
        let theirs = process.vault.catalog(&source()).await.expect("catalog").snapshots[0].id;
        process
            .restore(Target::Id(theirs.to_string()), Destination::New(run.dir().join("a.db")))
            .await
            .expect("restore");
        assert_eq!(world::rows_of(&run.dir().join("a.db")), before.rows, "what it wrote stays");
        if is_in {
            remove(&process).await.expect("the removal again");
        }
        let process = Process::open(run.dir(), disk.clone(), None).await.expect("open");
        assert!(!process.vault.repo.allows(&host.public(), Role::Writer));
        let vault = other(&process, &host, disk).expect("a state folder");
        let refused = other_backs_up(&vault, &run.db()).await.expect_err("it is removed");
        assert!(matches!(refused, OpsError::NotEnrolled { .. }), "{refused}");
        process
            .restore(Target::Id(theirs.to_string()), Destination::New(run.dir().join("b.db")))
            .await
            .expect("restore");
        assert_eq!(world::rows_of(&run.dir().join("b.db")), before.rows, "and what it wrote still stays");
    })
    .await;
    sweep.assert_stopped_at(&PUT);
}
