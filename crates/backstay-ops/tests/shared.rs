//! A stream that several sources write into: one is taken over, by itself, and the others go on.

mod house;
mod rig;
mod world;

use backstay_format::facts::{After, Log, Role, Span};
use backstay_format::log::{Part, Record};
use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{BranchNo, ByteLen, Digest, Kind, Kinded, Onward, PageSize, Sequence, SourceName, StreamId, Tx};
use backstay_model::{ObjectId, Verdict, seams};
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::check::Depth;
use backstay_ops::copy::{Act, CopyRequest, Destination, Reread, copy};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::restore;
use backstay_sqlite::Step;
use backstay_store::Store;
use backstay_store::keys;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::memory::MemoryStore;
use backstay_store::repo::{Chain, LogDraft, LogFront, LogSigning, Repository};
use backstay_testkit::effects::Effects;
use backstay_testkit::fault_store::FaultStore;
use house::House;
use jiff::tz::TimeZone;
use rig::{Ended, Making, Process, Run, crash_anything, image};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use world::{World, rows_of, source};

fn other() -> SourceName {
    "crm".parse().expect("a name")
}

fn fresh(vault: &Vault) -> StreamId {
    StreamId::from_bytes(seams::fresh(vault.env.random.as_ref()))
}

/// The last object of a stream, and the slot behind it.
async fn end_of(vault: &Vault, stream: StreamId) -> (Option<LogFront>, Chain) {
    let Some(end) = vault.repo.log_end(&stream).await.expect("listed") else { return (None, Chain::START) };
    let last = vault.repo.log_front(&stream, end).await.expect("a front").expect("there");
    let free = Chain { sequence: end.next().expect("a number"), previous: last.digest };
    (Some(last), free)
}

/// Puts an object into the next slot of a stream, as another run would that writes into it.
async fn put(vault: &Vault, facts: Log, records: &[Record]) {
    let (stream, (_, chain)) = (facts.stream, end_of(vault, facts.stream).await);
    let (random, sealer) = (vault.env.random.as_ref(), vault.repo.sealer(vault.env.random.as_ref()));
    let with = LogSigning { signer: vault.signer(Role::Writer).expect("a writer"), sealer: &sealer, random };
    let (bytes, _) = LogDraft::begin(&facts, chain, vault.repo.fresh_id(random), with).finish(records);
    vault.repo.put_log(&stream, chain.sequence, bytes).await.expect("put");
}

/// A commit of the other source.
async fn put_of_the_other(vault: &Vault, stream: StreamId) {
    let (tx, time) = (Tx::new(7), vault.env.clock.now());
    let span = Span {
        source: other(),
        branch: BranchNo::FIRST,
        after: After::Snapshot(ObjectId::from_bytes([7; 16])),
        first: tx,
        last: tx,
        from: time,
        to: time,
        unfinished: false,
    };
    let page_size = PageSize::try_from(4096).expect("a size");
    let (part, digest, pages) = (Part::Whole, Digest::ZERO, Vec::new());
    let record = Record { span: 0, part, page_size, page_count: 1, tx, time, digest, pages };
    put(vault, Log { stream, spans: vec![span], next: None, leaves: Vec::new(), shared: false }, &[record]).await;
}

/// A source is taken over by itself. Where the others go on.
async fn leaves(vault: &Vault, stream: StreamId, who: SourceName) -> StreamId {
    let rest = fresh(vault);
    let onward = Onward { leaves: [(who, fresh(vault))].into(), ..rest.into() };
    put(vault, Log::end_of(stream, onward), &[]).await;
    rest
}

async fn is_whole(house: &House) {
    house.all_are_read("a stream of several").await;
    let checked = house.world.check(Depth::Authentic).await.expect("a report");
    assert_eq!(checked.verdict, Verdict::Pass, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_stream_another_source_left_goes_on_without_a_gap() {
    let mut house = House::new().await;
    let mut follower = house.follow().await;
    let mut kept = house.work(&mut follower, 3).await;
    let (vault, stream) = (&house.world.vault, house.stream().await);
    let snapshots = vault.catalog(&source()).await.expect("catalog").fronts.len();
    for round in 0..2 {
        let ours = match round {
            0 => stream,
            // The stream of this run, which it has put one object into at least.
            _ => last_stream(vault, stream).await,
        };
        let rest = leaves(vault, ours, other()).await;
        kept.extend(house.work(&mut follower, 3).await);
        let (taken, _) = end_of(vault, rest).await;
        let onward = taken.expect("the run took the slot where the others go on").facts.onward();
        let own = onward.of(&source()).expect("its own stream");
        assert!(onward.of(&other()).is_some_and(|others| others != own), "others go on for themselves");
        assert!(matches!(follower.began(), Began::Continued { .. }), "{:?}", follower.began());
        assert!(follower.position().lost.is_none());
    }
    assert_eq!(vault.catalog(&source()).await.expect("catalog").fronts.len(), snapshots, "it took no snapshot");
    drop(follower);
    house.kept = kept.clone();
    is_whole(&house).await;
    // The next run finds its way as well, past what others wrote.
    put_of_the_other(vault, last_stream(vault, stream).await).await;
    let mut follower = house.follow().await;
    assert!(matches!(follower.began(), Began::Continued { .. }), "{:?}", follower.began());
    kept.extend(house.work(&mut follower, 2).await);
    drop(follower);
    house.kept = kept;
    is_whole(&house).await;
    // A prune finds all of it, and a copy brings all of it.
    house.prune(0).await;
    is_whole(&house).await;
    let copied = copied(&house).await;
    let of_source = streams_of(vault, stream).await;
    assert!(of_source.len() > 4, "{of_source:?}");
    for stream in of_source {
        let prefix = keys::log_prefix(&stream);
        let (here, there) = (vault.repo.list(&prefix).await, copied.list(&prefix).await);
        assert_eq!(there.expect("listed").len(), here.expect("listed").len(), "{stream}");
    }
}

/// A copy of the repository.
async fn copied(house: &House) -> Repository {
    let store: Arc<dyn Store> =
        Arc::new(LocalStore::open(&house.world.dir().join("usb"), OpenMode::Create).expect("a store"));
    let to = Destination { store: store.clone(), state_root: house.world.dir().join("state-of-sender") };
    let (act, reread, policy) = (Act::Copy, Reread::Nothing, RetentionPolicy::default());
    let request = CopyRequest { act, reread, policy, zone: TimeZone::UTC, in_flight: NonZeroU32::MIN };
    let report = copy(&house.world.vault, &to, &request).await.expect("copied");
    assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
    Repository::open(store, house.world.vault.repo.root(), None).await.expect("the copy")
}

/// The streams in which the log of the source lies, from one of them on.
async fn streams_of(vault: &Vault, first: StreamId) -> Vec<StreamId> {
    let mut streams = vec![first];
    while let (Some(last), _) = end_of(vault, streams[streams.len() - 1]).await {
        match last.facts.onward().of(&source()) {
            Some(next) => streams.push(next),
            None => break,
        }
    }
    streams
}

/// Where the log of the source ends.
async fn last_stream(vault: &Vault, first: StreamId) -> StreamId {
    streams_of(vault, first).await.pop().expect("one at least")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_taken_over_writes_nothing_more() {
    let house = House::new().await;
    let mut follower = house.follow().await;
    house.work(&mut follower, 2).await;
    let (vault, stream) = (&house.world.vault, house.stream().await);
    let rest = leaves(vault, stream, source()).await;
    house.conn.execute_batch("INSERT INTO t(x) VALUES ('nobody reads this')").expect("sql");
    let error = follower.tick().await.expect_err("its slot is taken");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(end_of(vault, rest).await.0.is_none(), "nor does it write where the others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_taken_over_after_another_writes_nothing_more() {
    let house = House::new().await;
    let mut follower = house.follow().await;
    house.work(&mut follower, 2).await;
    let (vault, stream) = (&house.world.vault, house.stream().await);
    let rest = leaves(vault, stream, other()).await;
    leaves(vault, rest, source()).await;
    house.conn.execute_batch("INSERT INTO t(x) VALUES ('nobody reads this')").expect("sql");
    let snapshots = vault.catalog(&source()).await.expect("catalog").fronts.len();
    let error = follower.tick().await.expect_err("its slot is taken");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert_eq!(vault.catalog(&source()).await.expect("catalog").fronts.len(), snapshots, "it takes nothing back");
    assert_eq!(end_of(vault, rest).await.1.sequence, Sequence::new(2));
}

/// The end was put, and nobody was told so: it is known again, and not taken for that of another run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_goes_on_and_gets_no_answer_goes_on_all_the_same() {
    let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
    world.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)");
    let conn = Connection::open(world.db()).expect("open");
    let insert = || conn.execute_batch("INSERT INTO t(x) VALUES (hex(randomblob(900)))").expect("sql");
    let armed = Arc::new(AtomicBool::new(false));
    let (is_armed, mute) = (armed.clone(), store.clone());
    let steps = move |step| {
        if step == Step::Resumed && is_armed.swap(false, Ordering::SeqCst) {
            mute.lose_answers();
        }
    };
    let request = FollowRequest { steps: Arc::new(steps), ..request_of(world.db()) };
    let vault = &world.vault;
    let mut follower = Follower::start(vault, request).await.expect("follow");
    insert();
    follower.tick().await.expect("tick");
    leaves(vault, stream_of(vault).await, other()).await;
    insert();
    armed.store(true, Ordering::SeqCst);
    let error = follower.tick().await.expect_err("no answer comes");
    assert!(!armed.load(Ordering::SeqCst) && error.kind() == Kind::Unavailable, "{error}");
    store.come_back();
    follower.tick().await.expect("goes on");
    assert!(matches!(follower.began(), Began::Continued { .. }), "{:?}", follower.began());
    assert_eq!((follower.position().tx, follower.position().waiting), (Tx::new(2), 0));
    assert_eq!(vault.catalog(&source()).await.expect("catalog").fronts.len(), 1, "it took no snapshot");
    let to = world.dir().join("out.db");
    world.restore(Target::Latest, &to).await.expect("restore");
    assert!(rows_of(&to) == world.rows(), "the newest state is the live one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_of_one_source_leaves_the_others_their_stream() {
    for forgets in [false, true] {
        let mut house = House::new().await;
        let mut follower = house.follow().await;
        let mut kept = house.work(&mut follower, 3).await;
        let used = follower.position().tx;
        drop(follower);
        let (vault, stream) = (&house.world.vault, house.stream().await);
        put_of_the_other(vault, stream).await;
        put_of_the_other(vault, stream).await;
        if forgets {
            std::fs::remove_file(vault.state.dir().join("shop/follow.json")).expect("there");
        }
        let mut follower = house.follow().await;
        assert_eq!(matches!(follower.began(), Began::Continued { .. }), !forgets, "{:?}", follower.began());
        let (last, _) = end_of(vault, stream).await;
        let onward = last.expect("there").facts.onward();
        assert!(onward.of(&other()).is_some_and(|rest| Some(rest) != onward.of(&source())), "{onward:?}");
        // No number that was used is used again, although others wrote last.
        assert!(follower.position().tx >= used, "{:?} after {used}", follower.position().tx);
        let more = house.work(&mut follower, 2).await;
        assert!(more.iter().all(|(tx, _)| *tx > used), "after {used}");
        kept.extend(more);
        drop(follower);
        house.kept = kept;
        is_whole(&house).await;
    }
}

fn request(process: &Process) -> FollowRequest {
    request_of(process.db())
}

fn request_of(path: PathBuf) -> FollowRequest {
    FollowRequest {
        source: source(),
        path,
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 1,
        limits: Limits { look: Duration::from_secs(60), ..Limits::STANDARD },
        steps: Arc::new(|_| {}),
    }
}

fn insert(process: &Process) {
    let conn = Connection::open(process.db()).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t(x) VALUES (hex(randomblob(900)))").expect("sql");
}

/// The stream that the newest snapshot leads into.
async fn stream_of(vault: &Vault) -> StreamId {
    let catalog = vault.catalog(&source()).await.expect("catalog");
    let newest = catalog.fronts.values().max_by_key(|front| front.name.sequence).expect("a snapshot");
    newest.facts.following.as_ref().expect("followed").stream
}

/// One commit durable; another source is taken over; and one commit more.
async fn followed_on(process: &Process, beside: &Process) -> Result<Tx, OpsError> {
    let mut follower = Follower::start(&process.vault, request(process)).await?;
    insert(process);
    follower.tick().await?;
    let vault = &beside.vault;
    leaves(vault, last_stream(vault, stream_of(vault).await).await, other()).await;
    insert(process);
    follower.tick().await?;
    Ok(follower.position().tx)
}

/// Every state from the newest snapshot on has one row more than the one before, and the last is the live one.
async fn goes_on(run: &Run, ended: &Ended) {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("the next follower");
    let first = follower.position().tx;
    assert!(!ended.done || first >= Tx::new(3), "what was told durable is: {first}");
    insert(&process);
    follower.tick().await.expect("tick");
    let last = follower.position().tx;
    drop(follower);
    let mut rows = None;
    for tx in first.get()..=last.get() {
        let to = run.dir().join(format!("{tx}.db"));
        process.restore(Target::Tx(Tx::new(tx)), restore::Destination::New(to.clone())).await.expect("restore");
        let now = rows_of(&to).lines().count();
        assert!(rows.is_none_or(|before| now == before + 1), "state {tx} has one row more");
        rows = Some(now);
    }
    let to = run.dir().join("latest.db");
    process.restore(Target::Latest, restore::Destination::New(to.clone())).await.expect("restore");
    assert!(rows_of(&to) == image(&run.db()).1, "the newest state is the live one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_stream_another_source_left_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let process = Process::open(making.dir(), Arc::new(OsDisk), None).await.expect("open");
    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("follows");
    insert(&process);
    follower.tick().await.expect("tick");
    assert_eq!(follower.position().tx, Tx::new(1));
    drop(follower);
    drop(process);
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        let beside = Process::open(run.dir(), Arc::new(OsDisk), None).await?;
        followed_on(&process, &beside).await.map(|tx| assert_eq!(tx, Tx::new(3)))
    };
    let sweep = crash_anything("another source leaves", &before, act, goes_on).await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied", "store get range"]);
    sweep.assert_stopped_at(&["disk create", "disk write", "disk rename"]);
}

/// The slots nobody has taken are no object: where a source leaves to is found although nothing is there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_others_left_and_nobody_went_on_in_is_an_end() {
    let mut house = House::new().await;
    let mut follower = house.follow().await;
    let kept = house.work(&mut follower, 2).await;
    drop(follower);
    house.kept = kept;
    let (vault, stream) = (&house.world.vault, house.stream().await);
    let rest = leaves(vault, stream, other()).await;
    is_whole(&house).await;
    std::fs::remove_file(vault.state.dir().join("shop/follow.json")).expect("there");
    drop(house.follow().await);
    let (last, free) = end_of(vault, rest).await;
    assert_eq!(free.sequence, Sequence::new(2), "the fence stands where it leads");
    assert!(last.is_some_and(|last| last.facts.onward().of(&source()) != last.facts.onward().of(&other())));
}
