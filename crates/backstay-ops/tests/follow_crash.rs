//! A follower is stopped at every effect on the store and the disk, and the machine may lose its power on
//! top: the next one goes on without a hole and without a commit twice, and what was told durable is.

mod rig;
mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Tx, Verdict};
use backstay_ops::OpsError;
use backstay_ops::check::Depth;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::restore::Destination;
use backstay_store::keys::{LOGS_PREFIX, Place};
use backstay_testkit::effects::Effects;
use rig::{Ended, Making, Process, Run, crash_anything, image};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{Hands, rows_of, source};

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

/// The application, whose log outlives it: it was killed as well.
fn app(process: &Process) -> Connection {
    let conn = Connection::open(process.db()).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.execute_batch("PRAGMA wal_autocheckpoint=0").expect("set");
    conn
}

/// One more row, in a commit of its own.
fn insert(conn: &Connection) {
    conn.execute_batch("INSERT INTO t(x) VALUES (hex(randomblob(900)))").expect("sql");
}

/// Follows, two commits and then one. Says the last state that was told durable.
async fn follow(process: &Process) -> Result<Tx, OpsError> {
    let mut follower = Follower::start(&process.vault, request(process)).await?;
    let conn = app(process);
    insert(&conn);
    insert(&conn);
    follower.tick().await?;
    insert(&conn);
    follower.tick().await?;
    Ok(follower.position().tx)
}

fn rows(text: &str) -> usize {
    text.lines().count()
}

/// Why a next run began anew.
static REASONS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

async fn goes_on(run: &Run, ended: &Ended) {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    let mut follower = Follower::start(&process.vault, request(&process)).await.expect("the next follower");
    let first = follower.position().tx;
    let anew = match follower.began() {
        Began::Continued { .. } => None,
        Began::Snapshot { tx, reason, .. } => {
            let reason = reason.clone().unwrap_or_else(|| "it is the first".to_owned());
            REASONS.lock().expect("alone").insert(reason);
            Some(*tx)
        }
    };
    let conn = app(&process);
    insert(&conn);
    follower.tick().await.expect("tick");
    let last = follower.position().tx;
    drop(follower);
    let live = image(&run.db()).1;
    let to = |name: &str| Destination::New(run.dir().join(name));
    process.restore(Target::Latest, to("latest.db")).await.expect("restore");
    assert!(rows_of(&run.dir().join("latest.db")) == live, "the newest state is the live one");
    assert!(!ended.done || first.get() >= 3, "what was told durable is: {first}");
    // Across a recorded gap nobody knows how many commits there were.
    let catalog = process.vault.catalog(&source()).await.expect("catalog");
    let following = catalog.fronts.values().filter_map(|front| front.facts.following.as_ref());
    let gaps: BTreeSet<Tx> = following.filter(|following| following.resync.is_some()).map(|f| f.tx).collect();
    // One row each: a commit that is missing or there twice shows in the number of rows.
    let mut before = None;
    for tx in first.get().saturating_sub(3)..=last.get() {
        let name = format!("{tx}.db");
        let restored = process.restore(Target::Tx(Tx::new(tx)), to(&name)).await;
        before = match (restored, before) {
            (Ok(_), before) => {
                let before = before.filter(|_| anew != Some(Tx::new(tx)) && !gaps.contains(&Tx::new(tx)));
                let now = rows(&rows_of(&run.dir().join(&name)));
                assert!(before.is_none_or(|before| now == before + 1), "state {tx} has one row more");
                Some(now)
            }
            // Behind a gap numbers go on; what lies inside it is nobody's.
            (Err(OpsError::NoPoint(_)), _) => None,
            (Err(error), _) => panic!("{tx}: {error}"),
        };
    }
    assert_eq!(before, Some(rows(&live)), "the last number is the newest state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_goes_on_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let process = Process::open(making.dir(), Arc::new(backstay_ops::disk::OsDisk), None).await.expect("open");
    let tx = follow(&process).await.expect("follows");
    assert_eq!(tx, Tx::new(3));
    drop(process);
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        follow(&process).await.map(drop)
    };
    let sweep = crash_anything("follow", &before, act, goes_on).await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied", "store head", "store get range"]);
    sweep.assert_stopped_at(&["disk create", "disk write", "disk sync", "disk rename", "disk sync folder"]);
    let reasons = REASONS.lock().expect("alone").clone();
    // Between ending the stream before and writing down its own a run is known by the store alone.
    let known = ["its log goes on beyond what this host remembers", "its log was taken over"];
    assert!(reasons.iter().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");
}

/// Several objects that are sealed before the first of them is put: one note is for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_puts_several_objects_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let process = Process::open(making.dir(), Arc::new(backstay_ops::disk::OsDisk), None).await.expect("open");
    follow(&process).await.expect("follows");
    drop(process);
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        let mut follower = Follower::start(&process.vault, request(&process)).await?;
        let conn = app(&process);
        for _ in 0..3 {
            insert(&conn);
            follower.catch()?;
            follower.keep();
        }
        follower.tick().await.map(drop)
    };
    let sweep = crash_anything("several objects", &before, act, goes_on).await;
    sweep.assert_stopped_at(&[
        "store put, not applied",
        "store put, applied",
        "disk create",
        "disk write",
        "disk sync",
    ]);
    let known = ["its log goes on beyond what this host remembers", "its log was taken over"];
    let reasons = REASONS.lock().expect("alone").clone();
    assert!(reasons.iter().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");
}

/// A roll-up is an object more and nothing less, wherever the writer of it stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_rolls_up_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let process = Process::open(making.dir(), Arc::new(backstay_ops::disk::OsDisk), None).await.expect("open");
    follow(&process).await.expect("follows");
    drop(process);
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let mut process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        let clock = Arc::new(Hands::default());
        process.vault.env.clock = clock.clone();
        let mut follower = Follower::start(&process.vault, request(&process)).await?;
        let conn = app(&process);
        for _ in 0..4 {
            insert(&conn);
            follower.tick().await?;
            clock.pass(20);
            follower.roll().await?;
        }
        Ok(())
    };
    let sweep = crash_anything("roll up", &before, act, async |run: &Run, ended: &Ended| {
        goes_on(run, ended).await;
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let checked = process.check(Depth::Authentic).await.expect("a report");
        assert_eq!(checked.verdict, Verdict::Pass, "{checked:?}");
        let entries = process.vault.repo.list(LOGS_PREFIX).await.expect("listed");
        let rolled = entries.iter().filter(|entry| matches!(Place::of(&entry.key), Place::RollUp(_))).count();
        assert!(!ended.done || rolled == 2, "{rolled} roll-ups");
    })
    .await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied"]);
}

/// A snapshot that is made of the log is there or it is not, and following goes on past it either way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_makes_a_snapshot_of_its_log_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let process = Process::open(making.dir(), Arc::new(backstay_ops::disk::OsDisk), None).await.expect("open");
    follow(&process).await.expect("follows");
    drop(process);
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        let mut request = request(&process);
        request.limits.hours = Some(Duration::from_secs(3600));
        let mut follower = Follower::start(&process.vault, request).await?;
        let conn = app(&process);
        insert(&conn);
        follower.tick().await?;
        insert(&conn);
        follower.tick().await?;
        follower.last_hour().await;
        insert(&conn);
        follower.tick().await.map(drop)
    };
    let sweep = crash_anything("made of a log", &before, act, async |run: &Run, ended: &Ended| {
        goes_on(run, ended).await;
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let checked = process.check(Depth::Authentic).await.expect("a report");
        assert_eq!(checked.verdict, Verdict::Pass, "{checked:?}");
        let catalog = process.vault.catalog(&source()).await.expect("catalog");
        let made: Vec<_> = catalog.fronts.values().filter(|front| front.facts.made().is_some()).collect();
        assert!(made.len() <= 1 && (!ended.done || made.len() == 1), "{} were made", made.len());
        for front in made {
            let tx = front.facts.following.as_ref().expect("followed").tx;
            let to = run.dir().join("made.db");
            let by_id = Target::Id(front.name.id.to_string());
            process.restore(by_id, Destination::New(to.clone())).await.expect("restore");
            assert_eq!(rows_of(&to), rows_of(&run.dir().join(format!("{tx}.db"))), "it is state {tx}");
        }
    })
    .await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied"]);
    let known = ["its log goes on beyond what this host remembers", "its log was taken over"];
    let reasons = REASONS.lock().expect("alone").clone();
    assert!(reasons.iter().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");
}

/// The first of all: there is a snapshot, or there is nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_begins_stopped_anywhere() {
    let before = Making::database("WAL").repository().await.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        follow(&process).await.map(drop)
    };
    let sweep = crash_anything("beginning to follow", &before, act, goes_on).await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied", "store get", "store list"]);
    sweep.assert_stopped_at(&["disk create", "disk write", "disk sync", "disk rename", "disk sync folder"]);
    let reasons = REASONS.lock().expect("alone").clone();
    println!("why the next run began anew: {reasons:?}");
    assert!(reasons.contains("it is the first"), "a run that got nowhere left nothing: {reasons:?}");
}

/// While nobody followed, the log was begun anew: the next follower takes a snapshot and records the gap. However
/// often that is stopped, the gap stays recorded and nothing before it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_begins_anew_behind_a_gap_stopped_anywhere() {
    let making = Making::database("WAL").repository().await;
    let process = Process::open(making.dir(), Arc::new(backstay_ops::disk::OsDisk), None).await.expect("open");
    assert_eq!(follow(&process).await.expect("follows"), Tx::new(3));
    drop(process);
    making.sql("INSERT INTO t(x) VALUES ('unseen'); INSERT INTO t(x) VALUES ('unseen too')");
    making.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    making.sql("INSERT INTO t(x) VALUES ('in the next log')");
    let before = making.done();
    let act = async |run: &Run, effects: Effects| {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        follow(&process).await.map(drop)
    };
    let sweep = crash_anything("following behind a gap", &before, act, async |run: &Run, ended: &Ended| {
        goes_on(run, ended).await;
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let catalog = process.vault.catalog(&source()).await.expect("catalog");
        let following = catalog.fronts.values().filter_map(|front| front.facts.following.as_ref());
        let gaps: Vec<_> = following.filter_map(|following| following.resync.as_ref()).collect();
        assert!(gaps.iter().any(|gap| gap.after == Tx::new(3)), "the gap is recorded: {gaps:?}");
        for tx in 0..=3 {
            let to = Destination::New(run.dir().join(format!("before-{tx}.db")));
            process.restore(Target::Tx(Tx::new(tx)), to).await.expect("what was durable before the gap restores");
        }
    })
    .await;
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied", "store get", "store list"]);
    sweep.assert_stopped_at(&["disk create", "disk write", "disk sync", "disk rename", "disk sync folder"]);
    println!("why the next run began anew: {:?}", REASONS.lock().expect("alone"));
}
