//! Sources that share a stream, carried by one process: each is what it would be alone.

mod riders;
mod rig;
mod world;

use async_trait::async_trait;
use backstay_model::catalog::Target;
use backstay_model::{Kind, Kinded, Sequence, SourceName, StreamId, Tx, Verdict};
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckRequest, Depth, check};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::carrier::{Carrier, Timetable};
use backstay_ops::follow::drive::{Drain, Driving, Order, Outcome, Patience, Share, Tell, Told, drive};
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits, Pace};
use backstay_ops::init;
use backstay_ops::masters::{self, KeyHome, NewMaster};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::trust::Custodian;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::RepoError;
use backstay_store::seal::Unsealer;
use backstay_store::{Key, Put, Store, StoreError};
use backstay_testkit::effects::Effects;
use bytes::Bytes;
use riders::{
    Away, Home, TIMES, all_follow, all_keep, all_went_on, board_all, carried, homes, request, stream_of, takes_over,
    tick_all,
};
use rig::{Ended, Making, Process, Run, crash_anything_with};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use world::{Hands, World, recovered};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_many_are_one_object_and_each_source_is_as_if_it_were_alone() {
    let world = World::new().await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        homes.iter().for_each(|home| home.commit(3000));
        tick_all(&mut followers).await.expect("tick");
        board_all(&carrier, &mut followers).await.expect("board");
        let before = carrier.puts();
        for round in 0..12 {
            for (nth, home) in homes.iter().enumerate().filter(|(nth, _)| (round + nth) % 3 != 0) {
                home.commit(100 * (nth as u32 + round as u32));
            }
            let objects = tick_all(&mut followers).await.expect("tick");
            assert!(followers.iter().all(|follower| follower.position().waiting == 0));
            assert!((1..=2).contains(&objects), "{objects} objects for what three sources wrote");
            all_keep(&mut homes, &followers);
        }
        assert!(carrier.puts() - before < 24, "{} objects for 24 commits", carrier.puts() - before);
        // One has a burst, and goes by itself; the others go on.
        homes[1].commit(400_000);
        homes[0].commit(40);
        tick_all(&mut followers).await.expect("tick");
        assert_eq!(followers.iter().map(Follower::rides).collect::<Vec<_>>(), [true, false, true]);
        all_keep(&mut homes, &followers);
        homes.iter().for_each(|home| home.commit(70));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
    })
    .await;
    for home in &homes {
        home.comes_back(vault, "while they share").await;
        assert_eq!(home.snapshots(vault).await, 1);
    }
    // Nobody said goodbye: the next run finds its way, and leaves the others theirs.
    drop(followers);
    let mut followers = all_follow(&homes, vault).await;
    all_went_on(&followers);
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(90));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        for follower in &mut followers {
            follower.part().await.expect("leaves");
            assert!(!follower.rides());
        }
        homes.iter().for_each(|home| home.commit(90));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        board_all(&carrier, &mut followers).await.expect("comes back");
        homes.iter().for_each(|home| home.commit(80));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
    })
    .await;
    drop(followers);
    all_went_on(&all_follow(&homes, vault).await);
    for home in &homes {
        home.comes_back(vault, "once they left").await;
        assert_eq!(home.snapshots(vault).await, 1, "none was needed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_taken_over_ends_nothing_for_the_others() {
    let world = World::new().await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await.expect("board");
        // The last word is that of one which is not taken over, and then that of one which is.
        homes.iter().for_each(|home| home.commit(90));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        homes[2].commit(50);
        followers[2].tick().await.expect("tick");
        let taken = followers.pop().expect("the third");
        let used = taken.position().tx;
        drop(taken);
        std::fs::remove_file(vault.state.dir().join("blog/follow.json")).expect("there");
        let other = homes[2].follow(vault).await;
        assert!(matches!(other.began(), Began::Snapshot { .. }) && other.position().tx > used);
        homes.iter().for_each(|home| home.commit(20));
        for follower in &mut followers {
            follower.tick().await.expect("goes on");
            assert!(!follower.rides() && follower.position().waiting == 0);
        }
        all_keep(&mut homes, &followers);
        board_all(&carrier, &mut followers).await.expect("and shares again");
        homes.iter().for_each(|home| home.commit(20));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        assert!(followers.iter().all(|follower| follower.position().lost.is_none()));
    })
    .await;
    drop(followers);
    for home in &homes[..2] {
        home.comes_back(vault, "beside one that was taken over").await;
        assert_eq!(home.snapshots(vault).await, 1, "no gap of {}", home.name);
    }
}

fn insert(db: &Path) {
    let conn = Connection::open(db).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t(x) VALUES (hex(randomblob(90)))").expect("sql");
}

/// Two come, ride along, keep something safe on the way, leave, and go on alone. Of what one of them does by itself nothing
/// is stopped.
async fn shared(process: &Process, beside: &Process) -> Result<[Tx; 2], OpsError> {
    let dbs = [process.db(), process.dir().join("crm.db")];
    let mut followers = Vec::new();
    for ((name, db), vault) in ["shop", "crm"].iter().zip(&dbs).zip([&process.vault, &beside.vault]) {
        followers.push(Follower::start(vault, request(name, db)).await?);
    }
    let carrier = Arc::new(Carrier::new(&process.vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await?;
        dbs.iter().for_each(|db| insert(db));
        tick_all(&mut followers).await?;
        insert(&dbs[0]);
        // Read, and safe before it is handed over.
        followers[0].catch()?;
        followers[0].keep();
        insert(&dbs[1]);
        tick_all(&mut followers).await?;
        followers[0].part().await?;
        dbs.iter().for_each(|db| insert(db));
        tick_all(&mut followers).await?;
        Ok([followers[0].position().tx, followers[1].position().tx])
    })
    .await
}

/// Every state from the newest snapshot on has one row more than the one before, and the last is the live one.
async fn each_goes_on(run: &Run, ended: &Ended) {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    let dbs = [process.db(), process.dir().join("crm.db")];
    for (name, db) in ["shop", "crm"].iter().zip(&dbs) {
        let mut follower = Follower::start(&process.vault, request(name, db)).await.expect("the next follower");
        let first = follower.position().tx;
        let went_on = matches!(follower.began(), Began::Continued { .. });
        assert!(went_on || ended.cut.is_some(), "{name} was only killed: {:?}", follower.began());
        assert!(!ended.done || first >= Tx::new(3), "what was told durable of {name} is: {first}");
        insert(db);
        follower.tick().await.expect("tick");
        let last = follower.position().tx;
        drop(follower);
        let source: SourceName = name.parse().expect("a name");
        let restored = async |target: Target, to: &Path| {
            let (into, busy) = (Destination::New(to.to_owned()), Duration::from_secs(5));
            let request = RestoreRequest { source: source.clone(), target, into, smoke: Vec::new(), busy };
            let planned = restore::plan(&process.vault, request).await.expect("a plan");
            restore::perform(&process.vault, planned).await.expect("restored");
            let conn = Connection::open(to).expect("open");
            conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).expect("rows")
        };
        // What a power cut leaves is less of the same.
        let is_looked_into = *name == "shop" || ended.cut.is_none();
        let (mut rows, from) = (None, if is_looked_into { first } else { last });
        for tx in from.get()..=last.get() {
            let now = restored(Target::Tx(Tx::new(tx)), &run.dir().join(format!("{name}-{tx}.db"))).await;
            assert!(rows.is_none_or(|before| now == before + 1), "state {tx} of {name} has one row more");
            rows = Some(now);
        }
        restored(Target::Latest, &run.dir().join(format!("{name}.latest.db"))).await;
        let latest = std::fs::read(run.dir().join(format!("{name}.latest.db"))).expect("read");
        assert!(latest == recovered(db), "the newest state of {name} is the live one");
        if ended.cut.is_none() {
            let request = CheckRequest { source, snapshot: None, depth: Depth::Authentic };
            assert_eq!(check(&process.vault, &request).await.expect("a report").verdict, Verdict::Pass);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_share_a_stream_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let crm = Home::new("crm", making.dir());
    let process = Process::open(making.dir(), Arc::new(OsDisk), None).await.expect("open");
    for (name, db) in [("shop", process.db()), ("crm", crm.db.clone())] {
        drop(Follower::start(&process.vault, request(name, &db)).await.expect("follows"));
    }
    drop((process, crm));
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        let beside = Process::open(run.dir(), Arc::new(OsDisk), None).await?;
        shared(&process, &beside).await.map(|tx| assert_eq!(tx, [Tx::new(3), Tx::new(3)]))
    };
    let sweep = crash_anything_with("sources share a stream", (&before, 3), act, each_goes_on).await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied"]);
    sweep.assert_stopped_at(&["disk create", "disk write", "disk rename"]);
}

const INTERVAL: Duration = Duration::from_millis(5);

/// The loop, over some databases that share from their first commit on.
struct Loop {
    task: JoinSet<Vec<Outcome>>,
    stop: watch::Sender<bool>,
    ended: Arc<Mutex<Vec<String>>>,
}

/// The same repository for a host that may read it.
fn reading(world: &World) -> Arc<Vault> {
    let Vault { repo, state, signer, unsealer, env } = &world.vault;
    let unsealer = unsealer.as_ref().map(Unsealer::again);
    Arc::new(Vault { repo: repo.clone(), state: state.clone(), signer: signer.clone(), unsealer, env: env.clone() })
}

fn begin_loop(vault: Arc<Vault>, homes: &[Home], quiet_for: Duration) -> Loop {
    let times = Timetable { interval: INTERVAL, retry: Duration::from_millis(50) };
    begin_loop_with(vault, homes, Share { busy_for: Duration::ZERO, quiet_for, times })
}

fn begin_loop_with(vault: Arc<Vault>, homes: &[Home], share: Share) -> Loop {
    begin_loop_in(vault, homes, share, false)
}

fn begin_loop_in(vault: Arc<Vault>, homes: &[Home], share: Share, may_vanish: bool) -> Loop {
    let (stop, stopped) = watch::channel(false);
    let ended = Arc::new(Mutex::new(Vec::new()));
    let say = ended.clone();
    let tell: Tell = Arc::new(move |source, told| {
        if let Told::Ended(error) = told {
            say.lock().expect("alone").push(format!("{source}: {error}"));
        }
    });
    let pace = Pace { interval: INTERVAL, steady: INTERVAL, ..Pace::STANDARD };
    let order = |home: &Home| Order {
        request: FollowRequest {
            limits: Limits { hours: Some(Duration::from_secs(3600)), ..Limits::STANDARD },
            ..request(home.name.as_str(), &home.db)
        },
        pace,
        snapshot_interval: INTERVAL,
        patience: Patience::Missing,
        rest_after: None,
        may_vanish,
    };
    let driving = Driving {
        stop: stopped,
        tell,
        metrics: None,
        drain: Drain { insists: true, ..Drain::once(Duration::from_secs(60)) },
        nurseries: Vec::new(),
        conf_every: Duration::from_millis(20),
        puts_per_day: None,
        share: Some(share),
    };
    let mut task = JoinSet::new();
    task.spawn(drive(vault, homes.iter().map(order).collect(), driving));
    Loop { task, stop, ended }
}

impl Loop {
    async fn end(mut self) -> Vec<Outcome> {
        self.stop.send_replace(true);
        let outcomes = self.task.join_next().await.expect("a task").expect("no panic");
        assert_eq!(*self.ended.lock().expect("alone"), Vec::<String>::new());
        outcomes
    }
}

/// Commits in each until all share a stream that fits.
async fn until_they_share(world: &World, homes: &[Home], fits: impl Fn(StreamId) -> bool) -> StreamId {
    loop {
        homes.iter().for_each(|home| home.commit(100));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let streams: Option<Vec<(StreamId, bool)>> = homes.iter().map(|home| stream_of(&world.vault, home)).collect();
        if let Some([first, rest @ ..]) = streams.as_deref()
            && first.1
            && fits(first.0)
            && rest.iter().all(|other| other == first)
        {
            return first.0;
        }
    }
}

async fn all_is_there(world: &World, homes: &[Home]) {
    for home in homes {
        let to = world.dir().join(format!("{}-latest.db", home.name));
        let _ = std::fs::remove_file(&to);
        let (into, busy) = (Destination::New(to.clone()), Duration::from_secs(5));
        let (source, target) = (home.name.clone(), Target::Latest);
        let request = RestoreRequest { source, target, into, smoke: Vec::new(), busy };
        let planned = restore::plan(&world.vault, request).await.expect("a plan");
        restore::perform(&world.vault, planned).await.expect("restored");
        assert!(std::fs::read(&to).expect("read") == recovered(&home.db), "the newest state of {}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_are_written_to_steadily_share_until_they_are_quiet_or_told_to_stop() {
    let world = World::new().await;
    let homes = homes(world.dir());
    let following = begin_loop(world.shared(), &homes, Duration::from_secs(3600));
    let first = until_they_share(&world, &homes, |_| true).await;
    // Some are heard of together, sooner or later.
    let mut is_shared = false;
    while !is_shared {
        homes.iter().for_each(|home| home.commit(100));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let end = world.vault.repo.log_end(&first).await.expect("listed").expect("objects");
        for slot in end.get().saturating_sub(8).max(1)..=end.get() {
            let front = world.vault.repo.log_front(&first, Sequence::new(slot)).await.expect("read").expect("there");
            assert!(front.facts.shared);
            is_shared |= front.facts.spans.len() > 1;
        }
    }
    let outcomes = following.end().await;
    assert!(outcomes.iter().all(|outcome| outcome.position.as_ref().is_some_and(|at| at.waiting == 0)));
    assert!(homes.iter().all(|home| !stream_of(&world.vault, home).expect("noted").1), "each goes on by itself");
    all_is_there(&world, &homes).await;
    // The next time they leave by themselves, once nobody writes.
    let following = begin_loop(world.shared(), &homes, Duration::from_millis(300));
    let second = until_they_share(&world, &homes, |stream| stream != first).await;
    while homes.iter().any(|home| stream_of(&world.vault, home).is_none_or(|(_, shares)| shares)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until_they_share(&world, &homes, |stream| stream != second).await;
    following.end().await;
    all_is_there(&world, &homes).await;
    for home in &homes {
        let snapshots = world.vault.catalog(&home.name).await.expect("catalog").fronts;
        let gaps = snapshots
            .values()
            .filter(|front| front.facts.following.as_ref().is_some_and(|following| following.resync.is_some()));
        assert_eq!(gaps.count(), 0, "of {}", home.name);
    }
}

/// One that waited for a second to share with, and went, is not that second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_gone_is_nobody_to_share_with() {
    let world = World::new().await;
    let homes = [Home::new("shop", world.dir()), Home::new("crm", world.dir())];
    let times = Timetable { interval: INTERVAL, retry: Duration::from_millis(50) };
    let share = Share { busy_for: Duration::ZERO, quiet_for: Duration::from_millis(300), times };
    let following = begin_loop_in(world.shared(), &homes, share, true);
    let [gone, stays] = &homes;
    // They begin together, and go on alone when nothing comes.
    until_they_share(&world, &homes, |_| true).await;
    while homes.iter().any(|home| stream_of(&world.vault, home).is_none_or(|(_, shares)| shares)) {
        tokio::time::sleep(INTERVAL).await;
    }
    for _ in 0..20 {
        gone.commit(100);
        tokio::time::sleep(INTERVAL * 2).await;
    }
    for suffix in ["-shm", "-wal", ""] {
        std::fs::remove_file(format!("{}{suffix}", gone.db.display())).expect("removed");
    }
    while world.vault.state.lock(&gone.name).is_err() {
        tokio::time::sleep(INTERVAL).await;
    }
    for commit in 0..40 {
        stays.commit(100);
        tokio::time::sleep(INTERVAL * 2).await;
        assert_eq!(stream_of(&world.vault, stays).map(|(_, shares)| shares), Some(false), "commit {commit}");
    }
    let outcomes = following.end().await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.vanished).collect::<Vec<_>>(), [true, false]);
}

/// The next object is due in an hour, and they are told to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_share_wait_for_no_turn_once_they_are_told_to_stop() {
    let world = World::new().await;
    let homes = homes(world.dir());
    let hour = Duration::from_secs(3600);
    let times = Timetable { interval: hour, ..TIMES };
    let share = Share { busy_for: Duration::ZERO, quiet_for: hour, times };
    let following = begin_loop_with(world.shared(), &homes, share);
    while !homes.iter().any(|home| stream_of(&world.vault, home).is_some_and(|(_, shares)| shares)) {
        homes.iter().for_each(|home| home.commit(100));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    homes.iter().for_each(|home| home.commit(100));
    let outcomes = following.end().await;
    assert!(outcomes.iter().all(|outcome| outcome.position.as_ref().is_some_and(|at| at.waiting == 0)));
    all_is_there(&world, &homes).await;
}

/// Nobody said goodbye: each of many finds its way past the ends of all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_shared_when_they_were_killed_go_on_at_once_and_lose_nothing() {
    let world = World::new().await;
    let homes: Vec<Home> = (0..12).map(|n| Home::new(&format!("s{n:02}"), world.dir())).collect();
    let mut killed = begin_loop(reading(&world), &homes, Duration::from_secs(3600));
    let first = until_they_share(&world, &homes, |_| true).await;
    killed.task.shutdown().await;
    homes.iter().for_each(|home| home.commit(100));
    let following = begin_loop(reading(&world), &homes, Duration::from_secs(3600));
    until_they_share(&world, &homes, |stream| stream != first).await;
    let outcomes = following.end().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome.began, Some(Began::Continued { .. }))));
    all_is_there(&world, &homes).await;
    for home in &homes {
        assert_eq!(home.snapshots(&world.vault).await, 1 + home.made(&world.vault).await.len(), "of {}", home.name);
    }
}

/// What is sealed together is nothing for who was taken off meanwhile, either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_changed_beside_sources_that_share_are_those_they_are_sealed_to() {
    let world = World::new().await;
    let homes = homes(world.dir());
    let following = begin_loop(reading(&world), &homes, Duration::from_secs(3600));
    let first = until_they_share(&world, &homes, |_| true).await;
    let path = world.dir().join("backstay.key");
    let old = init::read_keys(&path).expect("a key file").expect("there");
    let custodian = Custodian { vault: &world.vault, root: old.root.as_ref().expect("a root") };
    let passphrases = BTreeMap::new();
    let new = NewMaster { without: None, held: &old, home: KeyHome::InUse(&path), passphrases: &passphrases };
    masters::change(&custodian, new).await.expect("rotated");
    let second = until_they_share(&world, &homes, |stream| stream != first).await;
    following.end().await;
    let object = world.vault.repo.log_object(&second, Sequence::FIRST).await.expect("read").expect("there");
    let unsealer = world.vault.unsealer.as_ref().expect("an identity");
    let opened = object.open::<RepoError>(unsealer, |_, _, _, _| Ok(()));
    assert!(opened.is_err(), "the keys of before open what is sealed now");
}

/// What was handed over when the store went away, and what came after it, is on the disk of each source: the very object, and what
/// follows it. It outlives the process, and the store that is back takes all of it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_over_to_a_store_that_went_away_is_kept_by_each_source() {
    for (applies, dies) in [(false, true), (true, true), (false, false), (true, false)] {
        let (world, store) = Away::world(applies).await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let what = format!("applied {applies}, died {dies}");
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        carried(&carrier, async {
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            board_all(&carrier, &mut followers).await.expect("board");
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            all_keep(&mut homes, &followers);
            store.is_away.store(true, Ordering::SeqCst);
            homes.iter().for_each(|home| home.commit(300));
            let away = tick_all(&mut followers).await.expect_err("the store is away");
            assert_eq!(away.kind(), Kind::Unavailable);
            for round in 1..=2 {
                homes.iter().for_each(|home| home.commit(30));
                for follower in &mut followers {
                    follower.catch().expect("read");
                    assert_eq!(follower.keep(), 1 + round, "{what}: all that is not durable is on the disk");
                }
            }
            if !dies {
                store.is_away.store(false, Ordering::SeqCst);
                while followers.iter().any(|follower| follower.position().waiting > 0) {
                    let _ = tick_all(&mut followers).await;
                }
                all_keep(&mut homes, &followers);
            }
        })
        .await;
        drop(followers);
        store.is_away.store(false, Ordering::SeqCst);
        let mut followers = all_follow(&homes, vault).await;
        all_went_on(&followers);
        all_keep(&mut homes, &followers);
        homes.iter().for_each(|home| home.commit(60));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        for (home, follower) in homes.iter().zip(&followers) {
            let Began::Continued { tx } = follower.began() else { panic!("{what}: {:?}", follower.began()) };
            assert_eq!(*tx, Tx::new(5), "{what}: where {} began, from its spool", home.name);
            home.comes_back(vault, &what).await;
        }
    }
}

/// Killed right behind the note of where it goes on, it still knows that the stream is not its own: what it ends there it ends
/// for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_killed_about_to_end_a_stream_of_several_leaves_the_others_theirs() {
    for rides_first in [false, true] {
        let (world, store) = Away::world(false).await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        carried(&carrier, async {
            board_all(&carrier, &mut followers).await.expect("board");
            for (nth, (home, follower)) in homes.iter_mut().zip(&mut followers).enumerate() {
                if nth > 0 || rides_first {
                    home.commit(200);
                    follower.tick().await.expect("tick");
                    home.keep(follower);
                }
            }
        })
        .await;
        drop(followers);
        store.is_away.store(true, Ordering::SeqCst);
        let home = &homes[0];
        let killed = Follower::start(vault, request(home.name.as_str(), &home.db)).await;
        assert!(killed.is_err(), "it cannot end the stream");
        store.is_away.store(false, Ordering::SeqCst);
        let mut followers = all_follow(&homes, vault).await;
        all_went_on(&followers);
        homes.iter().for_each(|home| home.commit(60));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        for home in &homes {
            home.comes_back(vault, "one was killed twice").await;
            assert_eq!(home.snapshots(vault).await, 1, "no gap of {}", home.name);
        }
    }
}

/// Its own stream has not ended yet, and that of the others has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_still_on_the_way_to_others_whose_stream_ends_follows_them() {
    for (is_lost, dies) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("lost {is_lost}, died {dies}");
        let (world, store) = Away::world(false).await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        let there = if is_lost { 2 } else { 3 };
        carried(&carrier, async {
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            board_all(&carrier, &mut followers[1..]).await.expect("board");
            homes[1..].iter().for_each(|home| home.commit(30));
            tick_all(&mut followers).await.expect("tick");
            let (own, _) = stream_of(vault, &homes[0]).expect("noted");
            *store.of.lock().expect("alone") = format!("data/log/{own}/");
            store.is_away.store(true, Ordering::SeqCst);
            assert!(followers[0].board(&carrier).await.is_err() && followers[0].rides(), "on its way");
            if is_lost {
                drop(followers.pop().expect("the third"));
                drop(takes_over(&homes[2], vault).await);
            } else {
                followers[1].part().await.expect("leaves");
            }
            homes.iter().for_each(|home| home.commit(40));
            tick_all(&mut followers[1..]).await.expect("tick");
            followers[0].catch().expect("read");
            followers[0].keep();
            assert!(followers[0].tick().await.is_err(), "still on its way");
            store.is_away.store(false, Ordering::SeqCst);
            if !dies {
                tick_all(&mut followers).await.expect("tick");
                all_keep(&mut homes[..there], &followers);
            }
        })
        .await;
        drop(followers);
        let mut followers = all_follow(&homes[..there], vault).await;
        all_went_on(&followers);
        homes.iter().for_each(|home| home.commit(60));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes[..there], &followers);
        for home in &homes[..there] {
            home.comes_back(vault, &what).await;
            assert_eq!(home.snapshots(vault).await, 1, "no gap of {}, {what}", home.name);
        }
    }
}

/// A store that gives no answer to what is put right behind a put that was lost.
struct Doubtful {
    inner: LocalStore,
    is_armed: AtomicBool,
    has_lost: AtomicBool,
}

#[async_trait]
impl Store for Doubtful {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let put = self.inner.put_new(key, bytes).await?;
        if put == Put::Exists {
            self.has_lost.store(self.is_armed.load(Ordering::SeqCst), Ordering::SeqCst);
        } else if self.has_lost.swap(false, Ordering::SeqCst) {
            self.is_armed.store(false, Ordering::SeqCst);
            return Err(StoreError::Unknown { op: "put", key: key.to_string(), source: "no answer".into() });
        }
        Ok(put)
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

/// The end of the stream it shared was put, and no answer came; then it cannot go on there any more. What it begins anew with
/// ends the stream it was about to go on in, and does not lead into that very stream, which would have no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_about_to_go_on_without_the_others_and_begins_anew_leads_nowhere_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inner = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
    let (is_armed, has_lost) = (AtomicBool::new(false), AtomicBool::new(false));
    let store = Arc::new(Doubtful { inner, is_armed, has_lost });
    let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(90));
        tick_all(&mut followers).await.expect("tick");
        drop(followers.pop());
        std::fs::remove_file(vault.state.dir().join("blog/follow.json")).expect("there");
        drop(homes[2].follow(vault).await);
        store.is_armed.store(true, Ordering::SeqCst);
        homes[0].commit(20);
        let error = followers[0].tick().await.expect_err("no answer");
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(!store.is_armed.load(Ordering::SeqCst), "what was lost is what ended the stream");
        // Another file at its path: nothing proves any more that it could go on.
        let (db, aside) = (homes[0].db.clone(), world.dir().join("aside.db"));
        std::fs::copy(&db, &aside).expect("copied");
        std::fs::rename(&aside, &db).expect("renamed");
        homes[0] = Home::new("shop", world.dir());
        for _ in 0..2 {
            homes[0].commit(30);
            followers[0].tick().await.expect("it is followed anew");
        }
    })
    .await;
    let is_new = matches!(followers[0].began(), Began::Snapshot { branch, .. } if branch.get() > 0);
    assert!(is_new, "{:?}", followers[0].began());
    let home = &mut homes[0];
    home.keep(&followers[0]);
    drop(followers);
    let began = home.follow(vault).await.began().clone();
    assert!(matches!(began, Began::Continued { .. }), "{began:?}");
    home.comes_back(vault, "begun anew").await;
}

/// Its leaving is on its way: what it commits meanwhile is behind that, wherever the others are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_to_leave_a_store_that_is_away_hands_over_nothing_more() {
    for applies in [false, true] {
        let (world, store) = Away::world(applies).await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        carried(&carrier, async {
            board_all(&carrier, &mut followers).await.expect("board");
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            all_keep(&mut homes, &followers);
            store.is_away.store(true, Ordering::SeqCst);
            assert!(followers[0].part().await.is_err(), "it cannot be told");
            store.is_away.store(false, Ordering::SeqCst);
            for _ in 0..2 {
                homes.iter().for_each(|home| home.commit(30));
                tick_all(&mut followers).await.expect("tick");
                all_keep(&mut homes, &followers);
            }
            assert_eq!(followers.iter().map(Follower::rides).collect::<Vec<_>>(), [false, true, true]);
        })
        .await;
        drop(followers);
        all_went_on(&all_follow(&homes, vault).await);
        for home in &homes {
            home.comes_back(vault, "one left late").await;
        }
    }
}

/// Roll-ups are of the stream, and snapshots are made of what they have of each source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_several_is_rolled_up_and_each_source_makes_its_snapshots_of_it() {
    let (mut world, clock) = (World::new().await, Arc::new(Hands::default()));
    world.vault.env.clock = clock.clone();
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        homes.iter().for_each(|home| home.commit(200));
        tick_all(&mut followers).await.expect("tick");
        board_all(&carrier, &mut followers).await.expect("board");
        for round in 0..450_usize {
            for (_, home) in homes.iter().enumerate().filter(|(nth, _)| (round + nth) % 2 == 0) {
                home.commit(40);
            }
            tick_all(&mut followers).await.expect("tick");
            clock.pass(20);
            for follower in &mut followers {
                follower.roll().await.expect("roll");
            }
            if round % 90 == 0 {
                all_keep(&mut homes, &followers);
            }
        }
        for follower in &mut followers {
            follower.hour_done().await;
            assert!(follower.rides());
        }
        for home in &homes {
            let made = home.made(vault).await;
            assert!(!made.is_empty(), "{} has no snapshot of what it shares", home.name);
        }
        // The last ones are of what is left when they leave.
        for (home, follower) in homes.iter().zip(&mut followers) {
            let before = home.made(vault).await.len();
            follower.part().await.expect("leaves");
            follower.last_hour().await.expect("one of the rest");
            assert_eq!(home.made(vault).await.len(), before + 1);
        }
        all_keep(&mut homes, &followers);
    })
    .await;
    for home in &homes {
        home.comes_back(vault, "rolled up").await;
        let newest = home.made(vault).await.last().cloned().expect("made");
        let rolled = vault.repo.roll_ups(&newest.stream).await.expect("listed");
        assert!(!rolled.is_empty(), "roll-ups of the stream of all");
    }
}
