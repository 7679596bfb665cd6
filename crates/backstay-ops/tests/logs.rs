//! What keepers do with logs: check them, carry them to copies, heal them, and let what outlived its span go.

mod rig;
mod world;

use backstay_format::facts::{After, Log, Role, Span};
use backstay_format::log::{Part, Record};
use backstay_model::catalog::{NoPoint, Target};
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ByteLen, Digest, PageSize, Sequence, StreamId, Tx, Verdict};
use backstay_model::{Kind, Kinded};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckReport, Depth};
use backstay_ops::copy::{Act, CopyReport, CopyRequest, Destination, Reread, copy};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::init;
use backstay_ops::masters::{self, KeyHome, NewMaster};
use backstay_ops::repack;
use backstay_ops::restore;
use backstay_ops::retain::{self, LogReport, SourceRules};
use backstay_ops::rewrite::rewrite;
use backstay_ops::rows;
use backstay_ops::scrub::{ScrubReport, ScrubRequest, scrub};
use backstay_ops::trust::Custodian;
use backstay_ops::{OpsError, State};
use backstay_store::keys::{self, LOGS_PREFIX, Place};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::{Chain, LogDraft, LogFront, LogSigning, Repository};
use backstay_store::{Key, Page, Store, StoreError};
use backstay_testkit::effects::Effects;
use jiff::tz::TimeZone;
use rig::{Ended, Making, Process, Run, crash_anything, image};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{Hands, rows_of, source};

/// In each run of a follower.
const COMMITS: usize = 3;

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

async fn open(dir: &Path) -> Process {
    Process::open(dir, Arc::new(OsDisk), None).await.expect("open")
}

/// One run of a follower: so many commits, each in an object of its own. The last state.
async fn follow(process: &Process, commits: usize) -> Tx {
    let mut follower = Follower::start(&process.vault, request(process)).await.expect("follow");
    let conn = Connection::open(process.db()).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.execute_batch("PRAGMA wal_autocheckpoint=0").expect("set");
    for _ in 0..commits {
        conn.execute_batch("INSERT INTO t(x) VALUES (hex(randomblob(900)))").expect("sql");
        follower.tick().await.expect("tick");
    }
    follower.position().tx
}

/// One run that rolls up: so many commits, each in an object of its own and twenty seconds after the one before.
async fn follow_and_roll_up(dir: &Path, commits: usize) -> Tx {
    let mut process = open(dir).await;
    let clock = Arc::new(Hands::default());
    process.vault.env.clock = clock.clone();
    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("follow");
    let conn = Connection::open(process.db()).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.execute_batch("PRAGMA wal_autocheckpoint=0").expect("set");
    for _ in 0..commits {
        conn.execute_batch("INSERT INTO t(x) VALUES (hex(randomblob(900)))").expect("sql");
        follower.tick().await.expect("tick");
        clock.pass(20);
        while follower.roll().await.expect("roll").objects > 0 {}
    }
    follower.position().tx
}

/// Three runs, each with a snapshot and a stream of its own. The first state of the last run, and the last.
async fn three_runs(dir: &Path) -> (Tx, Tx) {
    let mut began = Tx::FIRST;
    let mut last = Tx::FIRST;
    for _ in 0..3 {
        let process = open(dir).await;
        let _ = fs::remove_file(process.vault.state.dir().join("shop/follow.json"));
        last = follow(&process, COMMITS).await;
        began = Tx::new(last.get() - COMMITS as u64);
    }
    (began, last)
}

struct House {
    making: Making,
    began: Tx,
    last: Tx,
}

impl House {
    async fn new() -> Self {
        let making = Making::database("WAL").repository().await;
        let (began, last) = three_runs(making.dir()).await;
        Self { making, began, last }
    }

    fn dir(&self) -> &Path {
        self.making.dir()
    }

    /// The slots of logs, by name.
    fn logs(&self, vault: &str) -> BTreeMap<Key, Vec<u8>> {
        logs(&self.dir().join(vault))
    }

    async fn check(&self) -> CheckReport {
        open(self.dir()).await.check(Depth::Authentic).await.expect("a report")
    }

    async fn copied(&self) -> CopyReport {
        let process = open(self.dir()).await;
        let store: Arc<dyn Store> =
            Arc::new(LocalStore::open(&self.dir().join("usb"), OpenMode::Create).expect("a store"));
        let to = Destination { store, state_root: self.dir().join("state-of-sender") };
        let request = CopyRequest {
            act: Act::Copy,
            reread: Reread::Nothing,
            policy: RetentionPolicy::default(),
            zone: TimeZone::UTC,
            in_flight: NonZeroU32::MIN,
        };
        copy(&process.vault, &to, &request).await.expect("copied")
    }

    /// The copy as a repository of its own, with this host's keys.
    async fn copy(&self) -> Process {
        let store = LocalStore::open(&self.dir().join("usb"), OpenMode::Existing).expect("the copy");
        let mut process = Process::over(self.dir(), Arc::new(OsDisk), Arc::new(store)).await.expect("open");
        let state = State::open(Arc::new(OsDisk), &self.dir().join("state-of-usb"), process.vault.repo.id());
        process.vault.state = state.expect("state");
        process
    }

    async fn heal(&self) -> ScrubReport {
        let store = LocalStore::open(&self.dir().join("usb"), OpenMode::Existing).expect("the copy");
        let process = open(self.dir()).await;
        let repo = Repository::open(Arc::new(store), process.vault.repo.root(), None).await.expect("the copy");
        let state = State::open(Arc::new(OsDisk), &self.dir().join("state-of-usb"), repo.id()).expect("state");
        let copy = Vault { repo, state, signer: None, unsealer: None, env: process.vault.env.clone() };
        let request = ScrubRequest { depth: Depth::Authentic, from: Some(&copy) };
        scrub(&process.vault, &request).await.expect("a report")
    }

    fn path(&self, key: &Key) -> std::path::PathBuf {
        self.dir().join("vault").join(key.as_str())
    }
}

fn logs(vault: &Path) -> BTreeMap<Key, Vec<u8>> {
    let mut all = BTreeMap::new();
    for stream in fs::read_dir(vault.join(LOGS_PREFIX)).into_iter().flatten().flatten() {
        let rolled = fs::read_dir(stream.path().join("rolled")).into_iter().flatten().flatten();
        for object in fs::read_dir(stream.path()).expect("a folder").flatten().chain(rolled) {
            let path = object.path();
            let key = Key::parse(path.strip_prefix(vault).expect("below").to_str().expect("text"));
            let key = key.ok().filter(|key| matches!(Place::of(key), Place::Log(..) | Place::RollUp(_)));
            all.extend(key.map(|key| (key, fs::read(&path).expect("read"))));
        }
    }
    all
}

/// Rows at a state, by a restore.
async fn rows_at(process: &Process, tx: Tx) -> Result<usize, OpsError> {
    static RESTORES: AtomicU64 = AtomicU64::new(0);
    let to = process.dir().join(format!("restored-{}.db", RESTORES.fetch_add(1, Ordering::SeqCst)));
    process.restore(Target::Tx(tx), restore::Destination::New(to.clone())).await?;
    Ok(rows_of(&to).lines().count())
}

fn middle(logs: &BTreeMap<Key, Vec<u8>>) -> Key {
    // One with a slot behind it, whichever run's stream comes first.
    let behind = |key: &&Key| match Place::of(key) {
        Place::Log(stream, slot) if slot.get() == 2 => {
            logs.contains_key(&keys::log(&stream, slot.next().expect("a number")))
        }
        _ => false,
    };
    logs.keys().find(behind).expect("a second slot of three").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_reads_the_log_and_damage_to_it_says_nothing_against_the_snapshots() {
    let house = House::new().await;
    let sound = house.check().await;
    assert_eq!((sound.verdict, sound.problems.len()), (Verdict::Pass, 0), "{sound:?}");
    let all = house.logs("vault");
    assert_eq!(sound.log_objects as usize, all.len(), "every object once");
    let key = middle(&all);
    let mut bad = all[&key].clone();
    let last = bad.len() - 60;
    bad[last] ^= 1;
    fs::write(house.path(&key), &bad).expect("write");
    let damaged = house.check().await;
    assert_eq!(damaged.verdict, Verdict::Fail);
    assert!(damaged.problems.iter().any(|problem| problem.object == key.as_str()), "{:?}", damaged.problems);
    assert!(damaged.snapshots.iter().all(|checked| checked.verdict == Verdict::Pass), "the snapshots are whole");
    fs::remove_file(house.path(&key)).expect("remove");
    let hole = house.check().await;
    assert_eq!(hole.verdict, Verdict::Fail);
    assert!(hole.problems.iter().any(|problem| problem.object == key.as_str()), "{:?}", hole.problems);
    let catalog = open(house.dir()).await.vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.snapshots.iter().all(|s| !s.is_quarantined()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_restores_every_commit_and_heals_the_log() {
    let house = House::new().await;
    let first = house.copied().await;
    assert_eq!(first.verdict, Verdict::Pass, "{first:?}");
    let all = house.logs("vault");
    assert!(house.logs("usb") == all, "byte for byte");
    assert_eq!(house.copied().await.objects, 0, "what is there is not sent again");
    follow(&open(house.dir()).await, 2).await;
    assert!(house.copied().await.objects >= 2, "what is new is");
    let (here, there) = (open(house.dir()).await, house.copy().await);
    for tx in 1..=house.last.get() + 2 {
        let tx = Tx::new(tx);
        match rows_at(&here, tx).await {
            Ok(rows) => assert_eq!(rows_at(&there, tx).await.expect("there too"), rows, "state {tx}"),
            Err(_) => drop(rows_at(&there, tx).await.expect_err("nor there")),
        }
    }
    assert_eq!(there.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    let all = house.logs("vault");
    let key = middle(&all);
    for damage in [true, false] {
        let mut bad = all[&key].clone();
        bad[40] ^= 1;
        if damage {
            fs::write(house.path(&key), &bad).expect("write")
        } else {
            fs::remove_file(house.path(&key)).expect("remove")
        }
        let healed = house.heal().await;
        assert_eq!((healed.verdict, healed.healed.len()), (Verdict::Pass, 1), "{healed:?}");
        assert!(house.logs("vault") == all);
    }
}

/// The newest snapshot alone, and no commit before it.
fn rules() -> Vec<SourceRules> {
    let policy = RetentionPolicy { last: 9, ..Default::default() };
    vec![SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis: 0 }]
}

async fn prune(process: &Process) -> Result<LogReport, OpsError> {
    Ok(retain::apply(&process.vault, &rules()).await?.logs)
}

/// Every state behind the newest snapshot restores, and numbers go on.
async fn the_span_is_whole(process: &Process, (began, last): (Tx, Tx)) {
    let mut before = None;
    for tx in began.get()..=last.get() {
        let rows = rows_at(process, Tx::new(tx)).await.unwrap_or_else(|error| panic!("state {tx}: {error}"));
        assert!(before.is_none_or(|before| rows == before + 1), "state {tx} has one row more");
        before = Some(rows);
    }
    let checked = process.check(Depth::Authentic).await.expect("a report");
    assert_eq!(checked.verdict, Verdict::Pass, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_outside_the_span_go_and_those_inside_it_stay() {
    let house = House::new().await;
    house.copied().await;
    let before = house.logs("vault");
    let process = open(house.dir()).await;
    let planned = retain::plan(&process.vault, &rules()).await.expect("a plan").logs;
    let report = prune(&process).await.expect("pruned");
    assert!(!report.doubted && report.deleted.objects > 0, "{report:?}");
    assert_eq!((planned.condemned.objects, planned.condemned), (report.deleted.objects, report.condemned));
    let after = house.logs("vault");
    assert_eq!(before.len() - after.len(), report.deleted.objects as usize);
    let mut streams: BTreeMap<String, usize> = BTreeMap::new();
    for key in after.keys() {
        *streams.entry(key.as_str().rsplit_once('/').expect("a folder").0.to_owned()).or_default() += 1;
    }
    assert_eq!(streams.len(), 3, "the end of every stream stays: {streams:?}");
    assert!(streams.values().all(|left| *left >= 2), "{streams:?}");
    the_span_is_whole(&process, (house.began, house.last)).await;
    assert_eq!(prune(&process).await.expect("once more").deleted.objects, 0);
    // A run that knows nothing goes on with numbers that were never used.
    fs::remove_dir_all(process.vault.state.dir()).expect("the memory is lost");
    let next = follow(&open(house.dir()).await, 1).await;
    assert!(next > house.last, "{next} after {}", house.last);
    // The copy keeps what it has, and what its own prune takes does not come back.
    assert_eq!(house.copied().await.verdict, Verdict::Pass);
    let there = house.copy().await;
    let taken = prune(&there).await.expect("pruned there").deleted.objects;
    assert!(taken > 0);
    let held = house.logs("usb");
    house.copied().await;
    assert!(house.logs("usb") == held, "nothing is sent again");
    assert_eq!(there.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
}

/// What cannot be the whole truth frees nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_end_cannot_be_read_frees_nothing() {
    let house = House::new().await;
    let all = house.logs("vault");
    // The closing object of the first stream: what it leads to would look like nobody's.
    let process = open(house.dir()).await;
    let mut closing = None;
    for key in all.keys() {
        let Place::Log(stream, slot) = Place::of(key) else { continue };
        let front = process.vault.repo.log_front(&stream, slot).await.expect("a front").expect("there");
        closing = closing.or(front.facts.next.map(|_| key.clone()));
    }
    let closing = closing.expect("a closing object");
    let mut bad = all[&closing].clone();
    bad[100] ^= 1;
    fs::write(house.path(&closing), bad).expect("write");
    let report = prune(&process).await.expect("a report");
    assert!(report.doubted && report.deleted.objects == 0, "{report:?}");
    assert_eq!(house.logs("vault").len(), all.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retention_of_a_log_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let span = three_runs(making.dir()).await;
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        prune(&process).await.map(drop)
    };
    let sweep = crash_anything("letting a log go", &before, act, async |run: &Run, _: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        the_span_is_whole(&process, span).await;
        prune(&process).await.expect("the next run");
        the_span_is_whole(&process, span).await;
        let left = logs(&run.dir().join("vault")).len();
        prune(&process).await.expect("once more");
        assert_eq!(logs(&run.dir().join("vault")).len(), left, "the run before had finished");
        assert!(left <= 2 + 2 + COMMITS + 1, "only the ends of the old streams stay: {left}");
        let live = image(&run.db()).1;
        let to = run.dir().join("at-the-end.db");
        process.restore(Target::Latest, restore::Destination::New(to.clone())).await.expect("restore");
        assert!(rows_of(&to) == live, "the newest state is the live one");
    })
    .await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied", "store list", "store head"]);
    sweep.assert_stopped_at(&["store delete, not applied", "store delete, applied"]);
}

/// A snapshot's packs are exchanged while its log grows, and its keys afterwards: every state of the log restores, from
/// the later generation of the snapshot before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_source_is_repacked_and_sealed_again_and_every_commit_restores() {
    let making = Making::database("WAL").repository().await.backed_up().await;
    let changed = |n: u32, from: u32| format!("UPDATE t SET x = printf('%0300d', id * {n}) WHERE id > {from}");
    making.sql(&changed(3, 60));
    let process = open(making.dir()).await;
    let first = follow(&process, COMMITS).await;
    // Its own snapshot comes with the next run; what lives of the packs before it is little.
    making.sql(&changed(5, 30));
    fs::remove_file(process.vault.state.dir().join("shop/follow.json")).expect("remove");
    let begun = Tx::new(follow(&process, COMMITS).await.get() - COMMITS as u64);
    let making = making.without_the_first().await;
    making.sql(&changed(7, 0));
    let process = open(making.dir()).await;
    process.backup().await.expect("a newer one, for the next backup to build on");

    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("follow");
    let beside = open(making.dir()).await;
    let report = repack::apply(&beside.vault, &[source()]).await.expect("repacked");
    assert!(report.verdict == Verdict::Pass && report.sources[0].rewritten > 0, "{report:?}");
    let conn = Connection::open(process.db()).expect("open");
    conn.execute_batch("INSERT INTO t(x) VALUES ('beside')").expect("sql");
    follower.tick().await.expect("tick");
    let last = follower.position().tx;
    drop(follower);
    let all: Vec<Tx> = (first.get() - 2..=last.get()).map(Tx::new).collect();
    let mut told = Vec::new();
    for tx in &all {
        told.push((*tx, rows_at(&process, *tx).await.ok()));
    }
    assert!(told.iter().filter(|(_, rows)| rows.is_some()).count() > COMMITS, "from {begun:?}: {told:?}");

    let keys = init::read_keys(&rig::key_file(making.dir())).expect("a whole key file").expect("a key file");
    let custodian = Custodian { vault: &beside.vault, root: keys.root.as_ref().expect("a root") };
    let path = rig::key_file(making.dir());
    let new = NewMaster { without: None, held: &keys, home: KeyHome::InUse(&path), passphrases: &BTreeMap::new() };
    masters::change(&custodian, new).await.expect("rotated");
    let process = open(making.dir()).await;
    let report = rewrite(&process.vault, &[source()]).await.expect("sealed again");
    assert!(report.sources[0].rewritten > 0 && report.sources[0].problems.is_empty(), "{report:?}");
    assert!(report.sources[0].log_objects > 0, "the log is not sealed again, and that is said");
    for _ in 0..2 {
        let process = open(making.dir()).await;
        let rules = SourceRules {
            source: source(),
            policy: RetentionPolicy::default(),
            zone: TimeZone::UTC,
            grace_millis: 0,
            log_millis: 0,
        };
        assert_eq!(retain::apply(&process.vault, &[rules]).await.expect("retention").verdict, Verdict::Pass);
    }
    let process = open(making.dir()).await;
    for (tx, rows) in told {
        assert_eq!(rows_at(&process, tx).await.ok(), rows, "{tx:?}");
    }
}

/// The snapshots a log begins at stay as long as its commits were promised, whatever the rules say of snapshots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_of_the_span_stays_whatever_the_rules_say_of_snapshots() {
    let house = House::new().await;
    let process = open(house.dir()).await;
    let policy = RetentionPolicy { last: 1, ..Default::default() };
    let rules =
        |log_millis| [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis }];
    let kept = retain::apply(&process.vault, &rules(7 * 86_400_000)).await.expect("pruned");
    assert_eq!((kept.sources[0].deleted.snapshots, kept.logs.deleted.objects), (0, 0), "{kept:?}");
    let promised = (1..=3).map(|run| house.last.get() - (3 - run) * (COMMITS as u64 + 1));
    for tx in promised {
        rows_at(&process, Tx::new(tx)).await.unwrap_or_else(|error| panic!("state {tx}: {error}"));
    }
    let gone = retain::apply(&process.vault, &rules(0)).await.expect("pruned");
    assert_eq!(gone.sources[0].deleted.snapshots, 2, "{gone:?}");
    the_span_is_whole(&process, (house.began, house.last)).await;
    // What is older is not there any more; the oldest that is has its name in the answer.
    let error = rows_at(&process, Tx::new(1)).await.expect_err("gone");
    let OpsError::NoPoint(NoPoint::TxBeforeFirst { tx: 1, oldest }) = error else { panic!("{error}") };
    assert!(oldest <= house.began.get() && house.began.get() <= oldest + 1, "{oldest}, and {}", house.began);
    rows_at(&process, Tx::new(oldest)).await.expect("it can be restored");
}

/// Puts a slot of a stream after each listing that shows it, as a follower does that never rests.
struct Putting {
    inner: Arc<dyn Store>,
    kept_back: Mutex<Vec<(Key, bytes::Bytes)>>,
}

#[async_trait::async_trait]
impl Store for Putting {
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let page = self.inner.list(prefix, after, limit).await?;
        if prefix == "data/log/" {
            let next = self.kept_back.lock().expect("no holder panics").pop();
            if let Some((key, bytes)) = next {
                self.inner.put_new(&key, bytes).await?;
            }
        }
        Ok(page)
    }

    backstay_testkit::forward!(inner: put_new get get_range head delete describe);
}

/// What is put while a prune lists is found by its name, and stops nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_put_while_logs_are_listed_is_no_doubt() {
    let house = House::new().await;
    let all = house.logs("vault");
    let (stream, ..) = open_end(&open(house.dir()).await, &all).await;
    let newest = keys::log_prefix(&stream);
    let mut back: Vec<(Key, bytes::Bytes)> = Vec::new();
    for (key, bytes) in all.iter().filter(|(key, _)| key.as_str().starts_with(&newest)).rev().take(2) {
        fs::remove_file(house.path(key)).expect("kept back");
        back.push((key.clone(), bytes.clone().into()));
    }
    let putting = Putting { inner: Process::plain_store(house.dir()), kept_back: Mutex::new(back) };
    let process = Process::over(house.dir(), Arc::new(OsDisk), Arc::new(putting)).await.expect("open");
    let planned = retain::plan(&process.vault, &rules()).await.expect("a plan");
    assert!(!planned.logs.doubted && planned.logs.condemned.objects > 0, "{planned:?}");
    let report = prune(&process).await.expect("pruned");
    assert!(!report.doubted && report.deleted.objects > 0, "{report:?}");
    the_span_is_whole(&process, (house.began, house.last)).await;
}

/// The stream that hands over to none, its last slot and what that says.
async fn open_end(process: &Process, all: &BTreeMap<Key, Vec<u8>>) -> (StreamId, Sequence, LogFront) {
    for key in all.keys() {
        let Place::Log(stream, slot) = Place::of(key) else { continue };
        let front = process.vault.repo.log_front(&stream, slot).await.expect("a front").expect("there");
        if !all.contains_key(&keys::log(&stream, slot.next().expect("a number"))) && front.facts.next.is_none() {
            return (stream, slot, front);
        }
    }
    panic!("no stream without an end");
}

/// Every object is whole and in its chain, and yet a commit is missing between two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_leaves_out_a_commit_is_not_intact() {
    let house = House::new().await;
    let process = open(house.dir()).await;
    let (stream, slot, front) = open_end(&process, &house.logs("vault")).await;
    let before = front.facts.spans.last().expect("a span").clone();
    let after = After::Log { stream, sequence: slot, digest: front.digest };
    let tx = Tx::new(before.last.get() + 2);
    let span = Span { after, first: tx, last: tx, from: before.to, ..before.clone() };
    forge(&process, (stream, slot, &front), span).await;
    let report = open(house.dir()).await.check(Depth::Authentic).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Fail);
    assert!(report.problems.iter().any(|problem| problem.what.contains("does not follow")), "{:?}", report.problems);
}

/// Puts the next object of a log, whole and signed and in its chain, that says of itself what it is told to, and has
/// one commit.
async fn forge(process: &Process, (stream, slot, front): (StreamId, Sequence, &LogFront), span: Span) {
    let (tx, time) = (span.first, span.from);
    let (vault, facts) =
        (&process.vault, Log { stream, spans: vec![span], next: None, leaves: Vec::new(), shared: false });
    let sealer = vault.repo.sealer(vault.env.random.as_ref());
    let signer = vault.signer(Role::Writer).expect("a writer");
    let with = LogSigning { signer, sealer: &sealer, random: vault.env.random.as_ref() };
    let chain = Chain { sequence: slot.next().expect("a number"), previous: front.digest };
    let page_size = PageSize::try_from(4096).expect("a size");
    let record =
        Record { span: 0, part: Part::Whole, page_size, page_count: 1, tx, time, digest: Digest::ZERO, pages: vec![] };
    let (bytes, _) = LogDraft::begin(&facts, chain, vault.repo.fresh_id(with.random), with).finish(&[record]);
    vault.repo.put_log(&stream, chain.sequence, bytes).await.expect("put");
}

/// What an object says of itself is not counted out one by one: who looks through time holds what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_claims_more_commits_than_it_has_is_not_believed() {
    let house = House::new().await;
    let process = open(house.dir()).await;
    let (stream, slot, front) = open_end(&process, &house.logs("vault")).await;
    let known = rows::points(&process.vault, &source(), None).await.expect("points").list.len();
    let before = front.facts.spans.last().expect("a span").clone();
    let after = After::Log { stream, sequence: slot, digest: front.digest };
    let first = Tx::new(before.last.get() + 1);
    let span = Span { after, first, last: Tx::new(first.get() + 1_000_000), from: before.to, ..before.clone() };
    forge(&process, (stream, slot, &front), span).await;
    match rows::points(&open(house.dir()).await.vault, &source(), None).await {
        Ok(points) => assert!(points.list.len() <= known + 1, "{} of {known}", points.list.len()),
        Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "{error}"),
    }
}

/// Every commit of the span, and what roll-ups say once more goes.
fn rules_of_a_span() -> Vec<SourceRules> {
    rules().into_iter().map(|rules| SourceRules { log_millis: 7 * 86_400_000, ..rules }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_roll_ups_and_is_not_sent_again_what_they_let_go() {
    let making = Making::database("WAL").repository().await;
    let last = follow_and_roll_up(making.dir(), 20).await;
    let house = House { making, began: Tx::FIRST, last };
    assert_eq!(house.copied().await.verdict, Verdict::Pass);
    assert!(house.logs("usb") == house.logs("vault"), "byte for byte");
    let there = house.copy().await;
    let report = retain::apply(&there.vault, &rules_of_a_span()).await.expect("pruned there").logs;
    assert!(report.rolled.objects > 20 && report.contradicted == 0, "{report:?}");
    let held = house.logs("usb");
    assert_eq!(house.copied().await.objects, 0, "nothing is sent again");
    assert!(house.logs("usb") == held);
    the_span_is_whole(&there, (Tx::FIRST, last)).await;
    // What goes here is not missed there, and a copy of what is left is whole.
    let here = open(house.dir()).await;
    retain::apply(&here.vault, &rules_of_a_span()).await.expect("pruned here");
    assert_eq!(house.copied().await.verdict, Verdict::Pass);
    for name in ["usb", "state-of-sender", "state-of-usb"] {
        fs::remove_dir_all(house.dir().join(name)).expect("another one");
    }
    assert_eq!(house.copied().await.verdict, Verdict::Pass);
    assert!(house.logs("usb") == house.logs("vault"));
    the_span_is_whole(&house.copy().await, (Tx::FIRST, last)).await;
    // A roll-up whose slots are gone is brought back from the copy, whether it is damaged or lost.
    let all = house.logs("vault");
    let key = all.keys().find(|key| matches!(Place::of(key), Place::RollUp(_))).expect("a roll-up").clone();
    let mut bad = all[&key].clone();
    let at = bad.len() / 2;
    bad[at] ^= 1;
    fs::write(house.path(&key), &bad).expect("write");
    let healed = house.heal().await;
    assert_eq!((healed.verdict, healed.healed.len()), (Verdict::Pass, 1), "{healed:?}");
    assert!(house.logs("vault") == all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letting_go_of_what_roll_ups_say_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let last = follow_and_roll_up(making.dir(), 6).await;
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        retain::apply(&process.vault, &rules_of_a_span()).await.map(drop)
    };
    let sweep = crash_anything("letting go of slots", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        the_span_is_whole(&process, (Tx::FIRST, last)).await;
        let report = retain::apply(&process.vault, &rules_of_a_span()).await.expect("the next run").logs;
        assert!(!ended.done || report.rolled.objects == 0, "{report:?}");
        assert_eq!(report.contradicted, 0);
        the_span_is_whole(&process, (Tx::FIRST, last)).await;
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store list", "store delete, not applied", "store delete, applied"]);
}
