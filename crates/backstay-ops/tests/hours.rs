//! Snapshots that a follower makes of its log, one an hour, without its database: each is the state that the log leads
//! to, is proven like any other, and lets the log before it go only then.

mod house;
mod world;

use async_trait::async_trait;
use backstay_model::catalog::Target;
use backstay_model::{Kind, Kinded, ObjectId, Sequence, Tx, Verdict};
use backstay_ops::OpsError;
use backstay_ops::check::Depth;
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Began, FollowRequest, Follower};
use backstay_ops::prove::{ProofOutcome, ProofRequest, prove};
use backstay_ops::retain;
use backstay_ops::rows::points;
use backstay_sqlite::{ForeignKeys, Integrity, Questions};
use backstay_store::keys::{LogName, Place};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::ManifestFront;
use backstay_store::{Key, Put, Store, StoreError};
use bytes::Bytes;
use house::{House, rules};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use world::{World, source};

/// So much of the log in one, in the tests: about forty commits.
const HOUR: Duration = Duration::from_secs(800);

impl House {
    fn by_the_hour(&self) -> FollowRequest {
        let mut request = self.request();
        request.limits.hours = Some(HOUR);
        request
    }

    async fn begun(&self) -> Follower<'_> {
        Follower::start(&self.world.vault, self.by_the_hour()).await.expect("follow")
    }

    /// Rows, each in a commit of its own that leaves most pages alone.
    async fn add(&self, follower: &mut Follower<'_>, rows: usize) {
        for _ in 0..rows {
            self.conn.execute_batch("INSERT INTO t(x) VALUES (randomblob(50))").expect("sql");
            follower.tick().await.expect("tick");
            self.clock.pass(20);
            while follower.roll().await.expect("roll").objects > 0 {}
        }
    }

    /// The snapshots that were made of the log, oldest first.
    async fn made(&self) -> Vec<ManifestFront> {
        let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
        let mut made: Vec<_> = catalog.fronts.into_values().filter(|front| front.facts.made().is_some()).collect();
        made.sort_by_key(|front| front.name.sequence);
        made
    }

    fn manifest(&self, front: &ManifestFront) -> PathBuf {
        self.world.dir().join("vault").join(front.name.key().as_str())
    }

    /// That each made snapshot has the state that the log leads to without any of them, and so have states behind it.
    async fn each_is_the_state_of_the_log(&self, made: &[ManifestFront]) {
        let tx_of = |front: &ManifestFront| front.facts.following.as_ref().expect("followed").tx;
        let states: Vec<Tx> = made.iter().flat_map(|front| [tx_of(front), Tx::new(tx_of(front).get() + 1)]).collect();
        let aside = |from: &dyn Fn(&ManifestFront) -> PathBuf, to: &dyn Fn(&ManifestFront) -> PathBuf| {
            made.iter().for_each(|front| std::fs::rename(from(front), to(front)).expect("moved"));
        };
        let (there, away) =
            (|f: &ManifestFront| self.manifest(f), |f: &ManifestFront| self.world.dir().join(f.name.id.to_string()));
        // A host that remembers nothing looks at what is there.
        let state = self.world.vault.state.dir().to_owned();
        std::fs::rename(&state, self.world.dir().join("state-away")).expect("moved");
        std::fs::create_dir_all(&state).expect("a folder");
        aside(&there, &away);
        let mut by_log = Vec::new();
        for tx in &states {
            by_log.push(self.restored(Target::Tx(*tx)).await);
        }
        aside(&away, &there);
        std::fs::remove_dir_all(&state).expect("removed");
        std::fs::rename(self.world.dir().join("state-away"), &state).expect("moved back");
        for (tx, bytes) in states.iter().zip(&by_log) {
            assert!(self.restored(Target::Tx(*tx)).await == *bytes, "state {tx}");
        }
        for (front, bytes) in made.iter().zip(by_log.iter().step_by(2)) {
            assert!(self.restored(Target::Id(front.name.id.to_string())).await == *bytes, "{}", front.name.id);
        }
    }

    async fn proof(&self, snapshot: ObjectId) -> ProofOutcome {
        let questions = Questions {
            integrity: Integrity::Full,
            foreign_keys: ForeignKeys::Require,
            smoke: Vec::new(),
            limit: Questions::USUAL_LIMIT,
        };
        let folder = self.world.dir().join("proof");
        let request = ProofRequest { source: source(), snapshot, questions, folder };
        prove(&self.world.vault, &request).await.expect("a report").outcome
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_the_log_becomes_a_snapshot_and_the_log_goes_on_past_it() {
    let mut house = House::with_pages(4096).await;
    let mut follower = house.begun().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.extend(house.work(&mut follower, 200).await);
        follower.hour_done().await;
    }
    drop(follower);
    house.kept = kept;
    let made = house.made().await;
    assert!(made.len() >= 2, "{} in three hours", made.len());
    house.each_is_the_state_of_the_log(&made).await;
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    // What is behind the last is all that is read for the newest state.
    let to = house.world.dir().join("newest.db");
    let report = house.world.restore(Target::Latest, &to).await.expect("restore");
    assert_eq!(report.plan.snapshot, made.last().expect("made").name.id);
    let list = points(&house.world.vault, &source(), None).await.expect("points").list;
    let numbers: Vec<u64> = list.iter().filter_map(|point| point.tx.map(Tx::get)).collect();
    assert_eq!(numbers, (0..=600).collect::<Vec<_>>(), "every commit is a point, each once");
    for front in &made {
        assert!(matches!(house.proof(front.name.id).await, ProofOutcome::Proven { .. }));
        let tx = front.facts.following.as_ref().expect("followed").tx.get();
        assert!(house.scripted(Tx::new(tx + 2)).is_ok_and(|bytes| !bytes.is_empty()), "the script goes on from it");
    }
    let (tx, bytes) = house.kept.last().expect("kept");
    assert!(house.scripted(*tx).as_ref() == Ok(bytes), "the script restores the newest state");
    // A stand-by goes on from one, and over the next.
    let mut standby = house.standby().await;
    let mut follower = house.begun().await;
    let more = house.work(&mut follower, 200).await;
    follower.hour_done().await;
    let ticked = standby.tick().await.expect("tick");
    assert_eq!((ticked.states, ticked.jumped), (200, None));
    assert!(house.is_the_copy() && !more.is_empty());
}

/// What is large is not opened again: its last images are kept where they were digested, of the same pages in each object, and
/// in objects that became one, and beside others that are opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_much_was_written_of_is_in_it_as_it_was_when_it_was_sealed() {
    let house = House::with_pages(4096).await;
    let mut follower = house.begun().await;
    house.conn.execute_batch("CREATE TABLE hot(id INTEGER PRIMARY KEY, x)").expect("sql");
    for round in 0..45 {
        // Each tick is an object: after a while every third is a small one.
        let commits = if round > 30 && round % 3 == 0 { 1 } else { 25 };
        for n in 0..commits {
            let hot = format!("REPLACE INTO hot VALUES ({}, randomblob(1500))", (round + n) % 9);
            house.conn.execute_batch(&hot).expect("sql");
            house.conn.execute_batch("INSERT INTO t(x) VALUES (randomblob(900))").expect("sql");
        }
        follower.tick().await.expect("tick");
        house.clock.pass(200);
        while follower.roll().await.expect("roll").objects > 0 {}
        follower.hour_done().await;
    }
    follower.last_hour().await.expect("made");
    house.conn.execute_batch("DELETE FROM hot").expect("sql");
    follower.tick().await.expect("tick");
    drop(follower);
    let made = house.made().await;
    assert!(made.len() >= 2, "{}", made.len());
    house.each_is_the_state_of_the_log(&made).await;
    for front in &made {
        assert!(matches!(house.proof(front.name.id).await, ProofOutcome::Proven { .. }));
    }
}

/// Whoever cannot read what it wrote before makes one when it ends; the next goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_leaves_a_snapshot_that_the_next_one_builds_on() {
    let mut house = House::with_pages(4096).await;
    let unsealer = house.world.vault.unsealer.take();
    for round in 1..=3 {
        let mut follower = house.begun().await;
        assert_eq!(matches!(follower.began(), Began::Continued { .. }), round > 1, "{:?}", follower.began());
        house.work(&mut follower, 17).await;
        let made = follower.last_hour().await;
        assert!(made.is_some(), "round {round}");
        assert_eq!(follower.last_hour().await, None, "once");
    }
    house.world.vault.unsealer = unsealer;
    let made = house.made().await;
    let tx: Vec<u64> = made.iter().map(|front| front.facts.following.as_ref().expect("followed").tx.get()).collect();
    assert_eq!(tx, [17, 34, 51]);
    let last = house.begun().await;
    drop(last);
    house.each_is_the_state_of_the_log(&made[..2]).await;
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_run_wrote_is_taken_up_by_whoever_may_read_and_by_nobody_else() {
    let mut house = House::with_pages(4096).await;
    let unsealer = house.world.vault.unsealer.take();
    let mut follower = house.begun().await;
    house.work(&mut follower, 23).await;
    // Pages that no later commit writes.
    house.conn.execute_batch("CREATE TABLE still(x); INSERT INTO still VALUES (randomblob(60000))").expect("sql");
    follower.tick().await.expect("tick");
    drop(follower);
    let mut follower = house.begun().await;
    assert!(matches!(follower.began(), Began::Continued { .. }));
    house.add(&mut follower, 50).await;
    assert_eq!(follower.last_hour().await, None, "a gap in what it knows");
    assert!(house.made().await.is_empty());
    drop(follower);
    house.world.vault.unsealer = unsealer;
    let mut follower = house.begun().await;
    house.add(&mut follower, 7).await;
    assert!(follower.last_hour().await.is_some());
    house.add(&mut follower, 3).await;
    drop(follower);
    let made = house.made().await;
    assert_eq!(made.len(), 1);
    house.each_is_the_state_of_the_log(&made).await;
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_before_one_goes_only_when_it_is_proven() {
    let mut house = House::with_pages(4096).await;
    let mut follower = house.begun().await;
    house.work(&mut follower, 12).await;
    let made = follower.last_hour().await.expect("made");
    let kept = house.work(&mut follower, 12).await;
    drop(follower);
    house.kept = kept;
    // As if the span had passed for everything there is.
    let over = || rules(0).into_iter().map(|rules| retain::SourceRules { log_millis: -(1 << 50), ..rules });
    let over: Vec<_> = over().collect();
    let begins =
        async || house.rolled().await.into_iter().map(|name| name.first.get()).chain(house.slots().await).min();
    let report = retain::apply(&house.world.vault, &over).await.expect("pruned");
    assert_eq!(report.logs.condemned.objects, 0, "{:?}", report.logs);
    assert_eq!(begins().await, Some(1));
    assert!(matches!(house.proof(made).await, ProofOutcome::Proven { .. }));
    retain::apply(&house.world.vault, &over).await.expect("pruned");
    let report = retain::apply(&house.world.vault, &over).await.expect("pruned");
    assert_eq!(begins().await, Some(13), "{:?}", report.logs);
    house.kept.retain(|(tx, _)| tx.get() > 12);
    house.all_come_back().await;
    let to = house.world.dir().join("none.db");
    let gone = house.world.restore(Target::Tx(Tx::new(5)), &to).await.expect_err("it went");
    assert!(matches!(gone, OpsError::NoPoint(_)), "{gone}");
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

/// One that nobody compared may have the same wrong page, and so agree with the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_compared_with_what_was_captured_or_compared_itself_or_is_not_proven() {
    let house = House::with_pages(4096).await;
    let mut follower = house.begun().await;
    house.work(&mut follower, 12).await;
    let first = follower.last_hour().await.expect("made");
    let begins = house.made().await[0].facts.following.as_ref().expect("followed").sequence;
    house.work(&mut follower, 12).await;
    let second = follower.last_hour().await.expect("made");
    drop(follower);
    let (stream, away) = (house.stream().await, house.world.dir().join("away"));
    std::fs::create_dir(&away).expect("made");
    let slots = house.slots().await.into_iter().map(|slot| LogName::slot(stream, Sequence::new(slot)));
    let names = house.rolled().await.into_iter().chain(slots).filter(|name| name.last < begins);
    let paths: Vec<_> =
        names.map(|name| house.path_of(&name)).map(|p| (away.join(p.file_name().expect("a name")), p)).collect();
    assert!(paths.len() >= 2);
    let hide = || paths.iter().for_each(|(away, path)| std::fs::rename(path, away).expect("moved"));
    hide();
    for id in [second, first] {
        let outcome = house.proof(id).await;
        assert!(matches!(outcome, ProofOutcome::Inconclusive { .. }), "{outcome:?}");
    }
    paths.iter().for_each(|(away, path)| std::fs::rename(away, path).expect("moved"));
    assert!(matches!(house.proof(first).await, ProofOutcome::Proven { .. }));
    hide();
    assert!(matches!(house.proof(second).await, ProofOutcome::Proven { .. }), "compared with the one before it");
    assert!(matches!(house.proof(first).await, ProofOutcome::Proven { .. }), "it was compared once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_damaged_is_quarantined_and_the_log_leads_past_it() {
    let mut house = House::with_pages(4096).await;
    let packs = |house: &House| -> BTreeSet<PathBuf> {
        let folder = house.world.dir().join("vault/data/shop/pack");
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    };
    let mut follower = house.begun().await;
    house.work(&mut follower, 12).await;
    let before = packs(&house);
    let made = follower.last_hour().await.expect("made");
    let kept = house.work(&mut follower, 12).await;
    drop(follower);
    house.kept = kept;
    let new: Vec<PathBuf> = packs(&house).difference(&before).cloned().collect();
    let [pack] = new.as_slice() else { panic!("one pack: {new:?}") };
    let mut bytes = std::fs::read(pack).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(pack, &bytes).expect("write");
    let to = house.world.dir().join("none.db");
    let error = house.world.restore(Target::Latest, &to).await.expect_err("it leads on from there");
    assert!(error.kind() == Kind::Corrupt && !to.exists(), "{error}");
    assert!(matches!(house.proof(made).await, ProofOutcome::Failed { .. }));
    house.all_come_back().await;
    // The next is not built on it.
    let mut follower = house.begun().await;
    house.work(&mut follower, 12).await;
    assert_eq!(follower.last_hour().await, None);
}

/// Pages smaller than a unit lie several in one: what the log wrote of one says nothing of its neighbours.
/// A store that is too full to take snapshots, or takes its time for one.
struct Shut {
    inner: Arc<LocalStore>,
    is_full: AtomicBool,
    /// The next put of a snapshot waits until it is opened, also when nobody waits for it any more.
    holds: watch::Sender<bool>,
    is_held: watch::Sender<bool>,
    on_its_way: Mutex<JoinSet<()>>,
}

impl Shut {
    async fn house() -> (Arc<Self>, House) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = Arc::new(LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store"));
        let (holds, is_held) = (watch::Sender::new(false), watch::Sender::new(false));
        let store =
            Arc::new(Self { inner, is_full: AtomicBool::new(false), holds, is_held, on_its_way: Mutex::default() });
        let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        (store, House::in_world(world, 4096))
    }
}

#[async_trait]
impl Store for Shut {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let is_snapshot = matches!(Place::of(key), Place::Snapshot(_));
        if is_snapshot && self.is_full.load(Ordering::SeqCst) {
            return Err(StoreError::Full { op: "put", key: key.to_string(), source: "no room".into() });
        }
        if !is_snapshot || !*self.holds.borrow() || self.is_held.send_replace(true) {
            return self.inner.put_new(key, bytes).await;
        }
        let (inner, key, mut holds) = (self.inner.clone(), key.clone(), self.holds.subscribe());
        let (told, answer) = oneshot::channel();
        self.on_its_way.lock().expect("alone").spawn(async move {
            let _ = holds.wait_for(|holds| !*holds).await;
            let _ = told.send(inner.put_new(&key, bytes).await);
        });
        answer.await.expect("no panic")
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_store_does_not_take_is_tried_again_after_a_pause_with_all_it_was_to_have() {
    let (store, house) = Shut::house().await;
    let mut follower = house.begun().await;
    house.work(&mut follower, 170).await;
    store.is_full.store(true, Ordering::SeqCst);
    // It becomes due, and fails.
    house.add(&mut follower, 30).await;
    assert_eq!((follower.hour_done().await, house.made().await.len()), (None, 0));
    store.is_full.store(false, Ordering::SeqCst);
    house.add(&mut follower, 5).await;
    assert_eq!((follower.hour_done().await, house.made().await.len()), (None, 0), "not with every look");
    house.add(&mut follower, 20).await;
    follower.hour_done().await;
    drop(follower);
    let made = house.made().await;
    assert_eq!(made.len(), 1);
    house.each_is_the_state_of_the_log(&made).await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_that_begins_anew_waits_for_one_that_is_on_its_way() {
    let (store, house) = Shut::house().await;
    let mut follower = house.begun().await;
    house.work(&mut follower, 170).await;
    store.holds.send_replace(true);
    house.add(&mut follower, 30).await;
    store.is_held.subscribe().wait_for(|held| *held).await.expect("a store");
    // Another file stands at its path: nothing proves the way there.
    let (db, old) = (house.world.db(), house.world.dir().join("old"));
    std::fs::create_dir(&old).expect("a folder");
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("{}{suffix}", db.file_name().expect("a name").to_string_lossy());
        std::fs::rename(db.with_file_name(&name), old.join(&name)).expect("moved");
    }
    let conn = rusqlite::Connection::open(&db).expect("open");
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 2)",
    )
    .expect("made");
    let mut anew = std::pin::pin!(follower.tick());
    let early = tokio::time::timeout(Duration::from_secs(2), &mut anew).await;
    assert!(early.is_err(), "its number may be taken: {early:?}");
    store.holds.send_replace(false);
    let ticked = anew.await.expect("tick");
    assert!(matches!(ticked.began, Some(Began::Snapshot { .. })), "{ticked:?}");
    let catalog = house.world.vault.catalog(&source()).await.expect("catalog");
    let numbers: BTreeSet<u64> = catalog.fronts.values().map(|front| front.name.sequence.get()).collect();
    assert_eq!((catalog.fronts.len(), numbers.len()), (3, 3), "each has a number of its own");
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_last_one_is_made_no_checkpoint_of_the_application_waits_for_it() {
    let (store, mut house) = Shut::house().await;
    let unsealer = house.world.vault.unsealer.take();
    let mut request = house.by_the_hour();
    request.limits.look = Duration::from_millis(10);
    let mut follower = Follower::start(&house.world.vault, request).await.expect("follow");
    house.work(&mut follower, 5).await;
    store.holds.send_replace(true);
    let (path, mut held) = (house.world.db(), store.is_held.subscribe());
    let application = async {
        held.wait_for(|held| *held).await.expect("a store");
        let truncate = move || {
            let conn = rusqlite::Connection::open(path).expect("open");
            conn.busy_timeout(Duration::from_secs(60)).expect("set");
            conn.execute("INSERT INTO t(x) VALUES (1)", []).expect("inserted");
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        };
        tokio::task::spawn_blocking(truncate).await.expect("no panic")
    };
    tokio::select! {
        made = follower.last_hour() => panic!("{made:?} although the store holds it"),
        refused = application => assert_eq!(refused.expect("asked"), 0, "it gets through"),
    }
    store.holds.send_replace(false);
    assert!(follower.hour_done().await.is_some());
    // What was committed meanwhile was read, and comes after it.
    assert_eq!((follower.position().waiting, follower.tick().await.expect("tick").shipped), (1, 1));
    drop(follower);
    house.world.vault.unsealer = unsealer;
    house.all_come_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_small_pages_none_is_made() {
    let house = House::with_pages(1024).await;
    let mut follower = house.begun().await;
    house.work(&mut follower, 12).await;
    assert_eq!(follower.last_hour().await, None);
    assert!(house.made().await.is_empty());
}
