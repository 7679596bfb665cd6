//! Every change of keys stopped at every effect: whatever is left, each snapshot restores with what its owner
//! has, the next change goes through, and who was taken off opens nothing that came after.

mod rig;
mod world;

use backstay_format::facts::{Enrolment, EnrolmentRequest, Role};
use backstay_model::Moment;
use backstay_ops::OpsError;
use backstay_ops::masters::{self, KeyHome, NewMaster};
use backstay_ops::trust::{self, Custodian, Enrol, Receiver};
use backstay_store::keyfile::KeyFile;
use backstay_store::os::OsRandom;
use backstay_store::repo::SnapshotReader;
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_store::signing::SigningKey;
use backstay_testkit::effects::Effects;
use rig::{Before, Ended, Making, Process, Run, crash};
use std::collections::BTreeMap;
use world::source;

const PUT: [&str; 2] = ["store put, not applied", "store put, applied"];
const DELETE: [&str; 2] = ["store delete, not applied", "store delete, applied"];
const REPLACE: [&str; 5] = ["disk create", "disk write", "disk sync", "disk rename", "disk sync folder"];

fn keys(process: &Process) -> KeyFile {
    backstay_ops::init::read_keys(&rig::key_file(process.dir())).expect("a whole key file").expect("a key file")
}

async fn add(process: &Process, name: &str, identity: &MasterIdentity) -> Result<(), OpsError> {
    let keys = keys(process);
    let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
    masters::add(&custodian, name, &Receiver::Identity(identity.master())).await.map(drop)
}

async fn change(process: &Process, without: Option<&str>) -> Result<(), OpsError> {
    let keys = keys(process);
    let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
    let path = rig::key_file(process.dir());
    let new = NewMaster { without, held: &keys, home: KeyHome::InUse(&path), passphrases: &BTreeMap::new() };
    masters::change(&custodian, new).await.map(drop)
}

/// A database with two snapshots, and two people who can read beside the key file.
async fn shared(ada: &MasterIdentity, bob: &MasterIdentity) -> Before {
    let making = Making::database("WAL").repository().await.backed_up().await;
    let making = making.having(async |process| add(process, "ada", ada).await.expect("added")).await;
    let making = making.having(async |process| add(process, "bob", bob).await.expect("added")).await;
    making.sql("UPDATE t SET x = 'later' WHERE id % 50 = 3");
    making.backed_up().await.done()
}

/// Whether somebody with nothing but this identity can open each of the newest snapshots, newest first.
async fn opens(run: &Run, identity: &MasterIdentity) -> Vec<bool> {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    let repo = &process.vault.repo;
    let unlocked = repo.unlock(vec![identity.clone()]).await.expect("unlock");
    let unsealer = Unsealer::of(unlocked.masters);
    let mut opened = Vec::new();
    for name in repo.newest_names(&source(), 8).await.expect("names") {
        let manifest = repo.manifest(&name).await.expect("a manifest");
        opened.push(SnapshotReader::open(repo.clone(), manifest, &unsealer).is_ok());
    }
    opened
}

async fn takes_a_backup(run: &Run) {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    process.backup().await.expect("a backup");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_stopped_anywhere() {
    let (ada, bob) = (MasterIdentity::generate(), MasterIdentity::generate());
    let before = shared(&ada, &bob).await;
    let act = async |process: &Process| change(process, None).await;
    let sweep = crash("rotation", &before, act, async |run: &Run, _: &Ended| {
        takes_a_backup(run).await;
        for who in [&ada, &bob] {
            assert_eq!(opens(run, who).await, [true; 3], "everybody who could read still can");
        }
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        change(&process, None).await.expect("the rotation again");
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let wraps = process.vault.repo.wraps().await.expect("wraps");
        assert_eq!(wraps.len(), 3, "what a stopped change left is gone: two people and the masters before");
        assert_eq!(opens(run, &bob).await, [true; 3]);
    })
    .await;
    sweep.assert_stopped_at(&PUT);
    sweep.assert_stopped_at(&DELETE);
    sweep.assert_stopped_at(&REPLACE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_stopped_anywhere() {
    let (ada, bob) = (MasterIdentity::generate(), MasterIdentity::generate());
    let before = shared(&ada, &bob).await;
    let act = async |process: &Process| change(process, Some("ada")).await;
    let sweep = crash("removal", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let is_off = process.vault.repo.conf().recipient_named("ada").is_none();
        assert!(is_off || !ended.done, "a removal that was told is done");
        drop(process);
        takes_a_backup(run).await;
        assert_eq!(opens(run, &bob).await, [true; 3]);
        let hers = opens(run, &ada).await;
        assert_eq!(hers[0], !is_off, "who was taken off opens nothing new, and who was not opens everything");
    })
    .await;
    sweep.assert_stopped_at(&PUT);
    sweep.assert_stopped_at(&DELETE);
    sweep.assert_stopped_at(&REPLACE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addition_stopped_anywhere() {
    let (ada, bob, eve) = (MasterIdentity::generate(), MasterIdentity::generate(), MasterIdentity::generate());
    let before = shared(&ada, &bob).await;
    let act = async |process: &Process| add(process, "eve", &eve).await;
    let sweep = crash("addition", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let is_in = process.vault.repo.conf().recipient_named("eve").is_some();
        assert!(is_in || !ended.done, "an addition that was told is done");
        if !is_in {
            add(&process, "eve", &eve).await.expect("the addition again");
        }
        drop(process);
        for who in [&ada, &bob, &eve] {
            assert_eq!(opens(run, who).await, [true; 2]);
        }
    })
    .await;
    sweep.assert_stopped_at(&PUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrolment_and_the_removal_of_a_signer_stopped_anywhere() {
    let (ada, bob) = (MasterIdentity::generate(), MasterIdentity::generate());
    let before = shared(&ada, &bob).await;
    let host = SigningKey::generate(&OsRandom);
    let request = EnrolmentRequest {
        made: Moment::from_millis(0).expect("in range"),
        name: "db-2".into(),
        key: host.public(),
        roles: vec![Role::Writer],
        recipient: None,
    };
    let signature = host.sign(&request.message()).iter().map(|byte| format!("{byte:02x}")).collect();
    let asked = Enrolment { request, signature };
    let enrol = async |process: &Process| {
        let keys = keys(process);
        let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
        trust::enrol(&custodian, Enrol { asked: &asked, roles: &[Role::Writer] }).await.map(drop)
    };
    let remove = async |process: &Process| {
        let keys = keys(process);
        let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
        trust::remove_signer(&custodian, "db-2").await.map(drop)
    };
    let sweep = crash("enrolment", &before, enrol, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let is_in = process.vault.repo.allows(&host.public(), Role::Writer);
        assert!(is_in || !ended.done, "an enrolment that was told is done");
        if !is_in {
            enrol(&process).await.expect("the enrolment again");
        }
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        remove(&process).await.expect("and the removal");
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        assert!(!process.vault.repo.allows(&host.public(), Role::Writer));
    })
    .await;
    sweep.assert_stopped_at(&PUT);
}
