//! Logs sealed again to a new master: afterwards a master of before opens no commit, every state restores as it did, and
//! slots stay what they are: commit, fence and number.

mod rig;
mod world;

use backstay_format::facts::{Enrolment, EnrolmentRequest, Role, RollUp};
use backstay_format::{Header, ObjectType};
use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ByteLen, Generation, Moment, Sequence, Tx, Verdict};
use backstay_ops::check::Depth;
use backstay_ops::copy::{Act, CopyRequest, Destination, Reread, copy};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::init;
use backstay_ops::masters::{self, KeyHome, NewMaster};
use backstay_ops::restore;
use backstay_ops::retain::{self, RetainReport, SourceRules};
use backstay_ops::rewrite::{RewriteReport, rewrite};
use backstay_ops::trust::{self, Custodian, Enrol};
use backstay_ops::{OpsError, State};
use backstay_store::Key;
use backstay_store::keys::{LOGS_PREFIX, LogName, Place};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::os::OsRandom;
use backstay_store::repo::{LogDraft, LogSigning, RepoError, name_of};
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_store::signing::SigningKey;
use backstay_testkit::effects::Effects;
use jiff::tz::TimeZone;
use rig::{Before, Ended, Making, Process, Run, crash_anything};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use world::{Hands, rows_of, source};

async fn open(dir: &Path) -> Process {
    Process::open(dir, Arc::new(OsDisk), None).await.expect("open")
}

fn request(process: &Process) -> FollowRequest {
    FollowRequest {
        source: source(),
        path: process.db(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 1,
        limits: Limits { look: Duration::from_secs(60), ..Limits::STANDARD },
        steps: Arc::new(|_| {}),
    }
}

/// One run of a follower: so many commits, each in a slot of its own and twenty seconds after the one before. The last
/// state.
async fn follow(dir: &Path, commits: usize) -> Tx {
    let mut process = open(dir).await;
    let clock = Arc::new(Hands::default());
    process.vault.env.clock = clock.clone();
    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("follow");
    for _ in 0..commits {
        commit(&process.db());
        follower.tick().await.expect("tick");
        clock.pass(20);
        while follower.roll().await.expect("roll").objects > 0 {}
    }
    follower.position().tx
}

fn commit(db: &Path) {
    let conn = Connection::open(db).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t(x) VALUES (hex(randomblob(900)))").expect("sql");
}

async fn rotate(process: &Process) {
    let path = rig::key_file(process.dir());
    let keys = init::read_keys(&path).expect("a whole key file").expect("a key file");
    let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
    let new = NewMaster { without: None, held: &keys, home: KeyHome::InUse(&path), passphrases: &BTreeMap::new() };
    masters::change(&custodian, new).await.expect("rotated");
}

async fn rewritten(dir: &Path) -> RewriteReport {
    rewrite(&open(dir).await.vault, &[source()]).await.expect("sealed again")
}

/// Nothing inside the span goes but what is replaced, at once.
async fn pruned(process: &Process) -> RetainReport {
    let policy = RetentionPolicy { last: 9, ..Default::default() };
    let rules =
        [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis: 7 * 86_400_000 }];
    retain::apply(&process.vault, &rules).await.expect("pruned")
}

/// What opens what was sealed before the newest master.
fn older(process: &Process) -> Unsealer {
    Unsealer::of(process.vault.unsealer().expect("a reader").identities()[1..].to_vec())
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { files(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

/// Objects that hold something and that these identities open. What closes a stream holds nothing.
fn opened(dir: &Path, with: &Unsealer) -> BTreeSet<String> {
    let (vault, mut all) = (dir.join("vault"), Vec::new());
    files(&vault.join("data"), &mut all);
    let mut opened = BTreeSet::new();
    for path in all {
        let bytes = fs::read(&path).expect("read");
        let header = Header::parse(&bytes).expect("an object");
        let Some(seal) = &header.seal else { continue };
        let closes = header.kind == ObjectType::Log && bytes.windows(8).any(|at| at == b"\"next\":\"");
        if !closes && with.opens(&seal.wrap).expect("whole") {
            opened.insert(path.strip_prefix(&vault).expect("below").display().to_string());
        }
    }
    opened
}

fn roll_ups(dir: &Path) -> Vec<LogName> {
    let (vault, mut all) = (dir.join("vault"), Vec::new());
    files(&vault.join(LOGS_PREFIX), &mut all);
    let key = |path: &PathBuf| Key::parse(path.strip_prefix(&vault).expect("below").to_str().expect("text")).ok();
    let named = all.iter().filter_map(key).filter_map(|key| match Place::of(&key) {
        Place::RollUp(name) => Some(name),
        _ => None,
    });
    named.collect()
}

/// Rows at each state from the first to a last, by restores.
async fn rows_to(process: &Process, last: Tx) -> Vec<usize> {
    static RESTORES: AtomicU64 = AtomicU64::new(0);
    let mut rows = Vec::new();
    for tx in 0..=last.get() {
        let to = process.dir().join(format!("restored-{}.db", RESTORES.fetch_add(1, Ordering::SeqCst)));
        let into = restore::Destination::New(to.clone());
        process.restore(Target::Tx(Tx::new(tx)), into).await.unwrap_or_else(|error| panic!("state {tx}: {error}"));
        rows.push(rows_of(&to).lines().count());
    }
    rows
}

fn one_more_each(rows: &[usize]) -> bool {
    rows.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_before_opens_no_commit_and_every_state_restores() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    follow(dir, 9).await;
    let last = follow(dir, 3).await;
    let before = rows_to(&open(dir).await, last).await;
    assert!(before.len() == 13 && one_more_each(&before), "{before:?}");
    rotate(&open(dir).await).await;
    let report = rewritten(dir).await;
    let left = (report.verdict, report.logs.left, report.sources[0].log_objects);
    assert_eq!(left, (Verdict::Partial, 2, 2), "the end of the second stream stays: {report:?}");
    assert_eq!(report.logs.streams, 2);
    assert!(report.logs.objects >= 4 && report.logs.problems.is_empty(), "{report:?}");
    assert_eq!(rows_to(&open(dir).await, last).await, before, "with both there");
    assert_eq!(open(dir).await.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    assert_eq!(rewritten(dir).await.logs.objects, 0, "once");

    // Following goes on in a stream of its own.
    let last = follow(dir, 2).await;
    let report = rewritten(dir).await;
    assert_eq!((report.verdict, report.logs.left), (Verdict::Pass, 0), "{report:?}");
    let process = open(dir).await;
    let (old, before) = (older(&process), rows_to(&process, last).await);
    assert!(!opened(dir, &old).is_empty(), "nothing was deleted");
    let report = pruned(&process).await;
    assert_eq!((report.verdict, report.logs.contradicted), (Verdict::Pass, 0), "{report:?}");
    pruned(&process).await;
    assert_eq!(opened(dir, &old), BTreeSet::new());
    assert!(one_more_each(&before) && rows_to(&process, last).await == before);
    assert_eq!(process.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    assert!(by_the_script(dir, last).await, "and without us");
    // A run that remembers nothing goes on with numbers that were never used.
    fs::remove_dir_all(process.vault.state.dir()).expect("the memory is lost");
    assert!(follow(dir, 1).await > Tx::new(last.get() + 1));
}

/// Promise 10: the script shares no code with us.
async fn by_the_script(dir: &Path, tx: Tx) -> bool {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = workspace.join("target/recover-venv/bin/python");
    assert!(python.exists(), "no {}: run `./test` once, it makes it", python.display());
    let mut command = std::process::Command::new(&python);
    command.current_dir(dir).arg(workspace.join("contrib/recover.py"));
    command.args(["--repo", "vault", "--key", "keys/backstay.key", "--out", "by-the-script.db"]);
    let done = command.args(["--tx", &tx.get().to_string()]).output().expect("python runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let to = dir.join("ours.db");
    open(dir).await.restore(Target::Tx(tx), restore::Destination::New(to.clone())).await.expect("restore");
    rows_of(&dir.join("by-the-script.db")) == rows_of(&to)
}

/// The end of a log that was let go says where numbers go on as its slot did, also when nothing of its commits
/// is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_go_on_behind_a_slot_that_was_sealed_again_and_let_go() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    let last = follow(dir, 5).await;
    // It closes the stream before and puts nothing into its own.
    follow(dir, 0).await;
    rotate(&open(dir).await).await;
    assert_eq!(rewritten(dir).await.logs.left, 0);
    let process = open(dir).await;
    pruned(&process).await;
    pruned(&process).await;
    assert_eq!(opened(dir, &older(&process)), BTreeSet::new());
    fs::remove_dir_all(process.vault.state.dir()).expect("the memory is lost");
    let next = follow(dir, 1).await;
    assert!(next > last, "{next} after {last}");
    let report = open(dir).await.check(Depth::Authentic).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
}

/// A master that changes again, and again: what was sealed again is sealed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sealed_again_is_sealed_again_under_the_next_master() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    let mut last = Tx::FIRST;
    for round in 0..3 {
        last = follow(dir, 4).await;
        rotate(&open(dir).await).await;
        follow(dir, 1).await;
        assert_eq!(rewritten(dir).await.verdict, Verdict::Pass, "round {round}");
        let process = open(dir).await;
        // The first time what is replaced stays: it is there twice when it is sealed again.
        if round > 0 {
            pruned(&process).await;
            pruned(&process).await;
            assert_eq!(opened(dir, &older(&process)), BTreeSet::new(), "round {round}");
        }
        assert!(one_more_each(&rows_to(&process, last).await), "round {round}");
        assert_eq!(process.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    }
    assert!(roll_ups(dir).iter().any(|name| name.generation > Generation::new(1)));
    assert!(by_the_script(dir, last).await);
}

/// A follower that has not heard of the new master goes on, and nothing of either is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_goes_on_beside_it() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    let process = open(dir).await;
    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("follow");
    for _ in 0..4 {
        commit(&process.db());
        follower.tick().await.expect("tick");
    }
    rotate(&open(dir).await).await;
    for _ in 0..2 {
        assert_eq!(rewritten(dir).await.verdict, Verdict::Partial);
        commit(&process.db());
        match follower.tick().await {
            Ok(_) | Err(OpsError::KeysChanged) => {}
            Err(error) => panic!("{error}"),
        }
    }
    drop(follower);
    let last = follow(dir, 2).await;
    assert_eq!(rewritten(dir).await.verdict, Verdict::Pass);
    let process = open(dir).await;
    pruned(&process).await;
    pruned(&process).await;
    assert_eq!(opened(dir, &older(&process)), BTreeSet::new());
    assert!(one_more_each(&rows_to(&process, last).await));
    assert_eq!(process.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
}

async fn enrolled(process: &Process, roles: &[Role]) -> SigningKey {
    let signer = SigningKey::generate(&OsRandom);
    let identity = roles.contains(&Role::Reader).then(MasterIdentity::generate);
    let request = EnrolmentRequest {
        made: Moment::from_millis(0).expect("in range"),
        name: "w".to_owned(),
        key: signer.public(),
        roles: roles.to_vec(),
        recipient: identity.map(|identity| identity.master().text().to_owned()),
    };
    let signature = signer.sign(&request.message()).iter().map(|b| format!("{b:02x}")).collect();
    let keys = init::read_keys(&rig::key_file(process.dir())).expect("a whole key file").expect("a key file");
    let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
    let asked = Enrolment { request, signature };
    trust::enrol(&custodian, Enrol { asked: &asked, roles }).await.expect("enrolled");
    signer
}

/// Only somebody who keeps and reads makes one: a writer's is nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_that_a_writer_says_was_sealed_again_is_not_believed() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    let last = follow(dir, 4).await;
    let writer = enrolled(&open(dir).await, &[Role::Writer]).await;
    let process = open(dir).await;
    let vault = &process.vault;
    let stream = vault.catalog(&source()).await.expect("a catalog");
    let stream = stream.fronts.values().find_map(|front| front.facts.following.as_ref()).expect("followed").stream;
    let front = vault.repo.log_front(&stream, Sequence::FIRST).await.expect("a front").expect("there");
    let facts = RollUp {
        stream,
        first: Sequence::FIRST,
        last: Sequence::FIRST,
        generation: Generation::new(7),
        digest: front.digest,
        spans: Vec::new(),
        ends: Vec::new(),
    };
    let random = vault.env.random.as_ref();
    let sealer = vault.repo.sealer(random);
    let with = LogSigning { signer: &writer, sealer: &sealer, random };
    let (bytes, _) = LogDraft::roll_up(&facts, front.chain.previous, vault.repo.fresh_id(random), with).finish(&[]);
    let name = name_of(&facts);
    vault.repo.put_roll_up(&name, bytes).await.expect("put");
    let refused = vault.repo.log_front_of(&name).await.expect_err("a stranger's");
    assert!(matches!(refused, RepoError::Stranger { .. }), "{refused}");
    assert!(one_more_each(&rows_to(&process, last).await), "the slots are read");
}

/// What somebody sealed again while they might stays believed when they are gone, as all that they signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_keeper_has_sealed_again_is_believed() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    let last = follow(dir, 4).await;
    follow(dir, 0).await;
    let keeper = enrolled(&open(dir).await, &[Role::Keeper, Role::Reader]).await;
    rotate(&open(dir).await).await;
    let mut beside = open(dir).await;
    beside.vault.signer = Some(keeper);
    assert_eq!(rewrite(&beside.vault, &[source()]).await.expect("sealed again").verdict, Verdict::Pass);
    drop(beside);
    let process = open(dir).await;
    let keys = init::read_keys(&rig::key_file(dir)).expect("a whole key file").expect("a key file");
    let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
    trust::remove_signer(&custodian, "w").await.expect("removed");
    let process = open(dir).await;
    pruned(&process).await;
    pruned(&process).await;
    assert_eq!(opened(dir, &older(&process)), BTreeSet::new(), "nothing is left but what the keeper made");
    assert!(one_more_each(&rows_to(&process, last).await));
    let report = process.check(Depth::Authentic).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
    assert!(by_the_script(dir, last).await);
}

async fn copied(process: &Process) {
    let store = LocalStore::open(&process.dir().join("usb/vault"), OpenMode::Create).expect("a store");
    let to = Destination { store: Arc::new(store), state_root: process.dir().join("state-of-sender") };
    let request = CopyRequest {
        act: Act::Copy,
        reread: Reread::Nothing,
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        in_flight: NonZeroU32::MIN,
    };
    assert_eq!(copy(&process.vault, &to, &request).await.expect("copied").verdict, Verdict::Pass);
}

/// A copy is sent what was sealed again, and lets go of the rest by its own keeper.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_sent_what_was_sealed_again_and_lets_go_of_the_rest() {
    let making = Making::database("WAL").repository().await;
    let dir = making.dir();
    let last = follow(dir, 5).await;
    copied(&open(dir).await).await;
    rotate(&open(dir).await).await;
    follow(dir, 0).await;
    assert_eq!(rewritten(dir).await.verdict, Verdict::Pass);
    let process = open(dir).await;
    copied(&process).await;
    let store = LocalStore::open(&dir.join("usb/vault"), OpenMode::Existing).expect("the copy");
    let mut there = Process::over(dir, Arc::new(OsDisk), Arc::new(store)).await.expect("open");
    let state = State::open(Arc::new(OsDisk), &dir.join("state-of-usb"), there.vault.repo.id());
    there.vault.state = state.expect("state");
    for _ in 0..2 {
        let report = pruned(&there).await;
        assert_eq!((report.verdict, report.logs.contradicted), (Verdict::Pass, 0), "{report:?}");
    }
    assert_eq!(opened(&dir.join("usb"), &older(&process)), BTreeSet::new());
    assert!(one_more_each(&rows_to(&there, last).await));
    // What the copy let go is not sent to it again, though it is still here.
    copied(&process).await;
    assert_eq!(opened(&dir.join("usb"), &older(&process)), BTreeSet::new());
}

/// Two streams with roll-ups, and a master that has changed since.
async fn rotated() -> (Before, Tx) {
    let making = Making::database("WAL").repository().await;
    follow(making.dir(), 4).await;
    let last = follow(making.dir(), 1).await;
    (making.having(rotate).await.done(), last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_a_log_again_stopped_anywhere() {
    let (before, last) = rotated().await;
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        rewrite(&process.vault, &[source()]).await.map(drop)
    };
    let sweep = crash_anything("sealing a log again", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let to = run.dir().join("between.db");
        process.restore(Target::Tx(last), restore::Destination::New(to)).await.expect("what was there");
        let report = rewrite(&process.vault, &[source()]).await.expect("the next run");
        assert!(!ended.done || report.logs.objects == 0, "what was done is done: {report:?}");
        assert_eq!((report.logs.left, report.logs.problems.len()), (1, 0), "{report:?}");
        if ended.cut.is_some() {
            // A cut takes from what this host remembers, and from nothing in the store.
            return;
        }
        let pruned = pruned(&process).await;
        assert_eq!((pruned.verdict, pruned.logs.contradicted), (Verdict::Pass, 0), "{pruned:?}");
        self::pruned(&process).await;
        let left = opened(run.dir(), &older(&process));
        assert!(left.len() == 1 && left.iter().all(|name| name.starts_with(LOGS_PREFIX)), "{left:?}");
        assert!(one_more_each(&rows_to(&process, last).await));
        assert_eq!(process.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store list", "store put, not applied", "store put, applied"]);
}
