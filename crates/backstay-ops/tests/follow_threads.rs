//! Following on a runtime with few threads: whoever keeps one while it waits must not wait for another one of them.

mod world;

use backstay_model::{ByteLen, SourceName};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::drive::{CONF_EVERY, Drain, Driving, Order, Patience, Tell, Told, drive};
use backstay_ops::follow::{FollowRequest, Limits, Pace};
use backstay_sqlite::{Step, Steps};
use backstay_store::Store;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::memory::MemoryStore;
use rusqlite::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::{mpsc as heard, watch};
use tokio::task::JoinSet;
use world::World;

/// Databases, far more than there are threads.
const MANY: usize = 24;
const WORKERS: usize = 2;
/// All threads that the runtime may ever have.
const THREADS: usize = 10;
/// For what takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(n: usize) -> SourceName {
    format!("t{n:02}").parse().expect("a legal name")
}

fn order(folder: &Path, n: usize, steps: Steps) -> Order {
    let limits = Limits { wal_limit: ByteLen::new(1 << 20), ..Limits::STANDARD };
    let request = FollowRequest {
        source: name(n),
        path: folder.join(format!("{}.db", name(n))),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 2,
        limits,
        steps,
    };
    let interval = Duration::from_millis(10);
    let pace = Pace { interval, steady: interval, ..Pace::STANDARD };
    let (patience, rest_after, may_vanish) = (Patience::Store, None, false);
    Order { request, pace, snapshot_interval: interval, patience, rest_after, may_vanish }
}

/// Follows all of them from their first snapshots on; each commits once, after `begun`.
async fn follow_many(folder: tempfile::TempDir, store: Arc<dyn Store>, steps: Steps, begun: &(dyn Fn() + Sync)) {
    let world = World::over(folder, store, Arc::new(OsDisk)).await;
    let orders: Vec<Order> = (0..MANY).map(|n| order(world.dir(), n, steps.clone())).collect();
    let app = |order: &Order| {
        let conn = Connection::open(&order.request.path).expect("open");
        conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL; CREATE TABLE t(x)").expect("made");
        conn
    };
    let apps: Vec<Connection> = orders.iter().map(app).collect();
    let (stop, stopped) = watch::channel(false);
    let (say, mut said) = heard::unbounded_channel();
    let tell: Tell = Arc::new(move |_, told| {
        let _ = say.send(matches!(told, Told::Started(_)));
    });
    let (metrics, drain, nurseries, puts_per_day) = (None, Drain::once(PATIENCE), Vec::new(), None);
    let driving =
        Driving { stop: stopped, tell, metrics, drain, nurseries, conf_every: CONF_EVERY, puts_per_day, share: None };
    let mut task = JoinSet::new();
    task.spawn(drive(world.shared(), orders, driving));
    for _ in 0..MANY {
        assert_eq!(said.recv().await, Some(true), "each begins");
    }
    begun();
    for app in &apps {
        app.execute("INSERT INTO t VALUES (randomblob(600000))", []).expect("inserted");
    }
    stop.send_replace(true);
    let outcomes = task.join_next().await.expect("a task").expect("no panic");
    for outcome in outcomes {
        assert!(outcome.ended.is_none() && outcome.sum.began.is_none(), "{outcome:?}");
        assert_eq!(outcome.position.map(|at| (at.tx.get(), at.waiting)), Some((1, 0)), "{}", outcome.source);
    }
}

/// Does something on so few threads, and notices when it never ends.
fn on_few_threads(work: impl Future<Output = ()> + Send + 'static) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(WORKERS).max_blocking_threads(THREADS - WORKERS);
    let runtime = builder.enable_all().build().expect("a runtime");
    let (say, ended) = mpsc::channel();
    let mut task = JoinSet::new();
    task.spawn_on(
        async move {
            work.await;
            let _ = say.send(());
        },
        runtime.handle(),
    );
    let ended = ended.recv_timeout(PATIENCE);
    // Threads that wait for ever are not waited for.
    runtime.shutdown_background();
    ended.expect("nobody waits for ever");
}

/// A first snapshot keeps a thread while its packs are put, which takes another: only some are taken at once.
#[test]
fn first_snapshots_leave_threads_for_the_puts_they_wait_for() {
    on_few_threads(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
        follow_many(folder, Arc::new(store), Arc::new(|_| {}), &|| {}).await;
    });
}

/// Each thread there is reads a log at once, and then waits until what it read is sealed.
#[test]
fn what_is_sealed_beside_the_look_needs_none_of_the_threads_that_wait_for_it() {
    let (is_armed, together) = (Arc::new(AtomicBool::new(false)), Arc::new((Mutex::new(0), Condvar::new())));
    let (armed, met) = (is_armed.clone(), together.clone());
    let steps = move |step| {
        if step == Step::FramesRead && armed.load(Ordering::SeqCst) {
            let (count, all) = &*met;
            let mut count = count.lock().expect("alone");
            *count += 1;
            all.notify_all();
            drop(all.wait_while(count, |count| *count < THREADS).expect("alone"));
        }
    };
    on_few_threads(async move {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let begun = move || is_armed.store(true, Ordering::SeqCst);
        follow_many(folder, Arc::new(MemoryStore::new()), Arc::new(steps), &begun).await;
    });
    assert!(*together.0.lock().expect("alone") >= THREADS, "all of them were at it");
}
