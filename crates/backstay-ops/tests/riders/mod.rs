//! Sources that share a stream, and what they are compared with.
#![allow(dead_code, reason = "each test file uses its part of it")]

use crate::world::{World, recovered};
use async_trait::async_trait;
use backstay_format::facts::Following;
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, SourceName, StreamId, Tx, Verdict};
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckRequest, Depth, check};
use backstay_ops::disk::OsDisk;
use backstay_ops::follow::carrier::{Carrier, Timetable};
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::{Key, Put, Store, StoreError};
use bytes::Bytes;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const TIMES: Timetable = Timetable { interval: Duration::ZERO, retry: Duration::from_millis(5) };

pub fn request(name: &str, db: &Path) -> FollowRequest {
    FollowRequest {
        source: name.parse().expect("a name"),
        path: db.to_owned(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 1,
        limits: Limits { look: Duration::from_secs(60), hours: Some(Duration::from_secs(3600)), ..Limits::STANDARD },
        steps: Arc::new(|_| {}),
    }
}

/// A database, and states that were told durable.
pub struct Home {
    pub name: SourceName,
    pub db: PathBuf,
    pub conn: Connection,
    pub kept: Vec<(Tx, Vec<u8>)>,
}

impl Home {
    pub fn new(name: &str, dir: &Path) -> Self {
        let db = dir.join(format!("{name}.db"));
        let conn = Connection::open(&db).expect("open");
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB);",
        )
        .expect("made");
        Self { name: name.parse().expect("a name"), db, conn, kept: Vec::new() }
    }

    pub fn commit(&self, bytes: u32) {
        self.conn.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [bytes]).expect("sql");
    }

    pub async fn follow<'v>(&self, vault: &'v Vault) -> Follower<'v> {
        Follower::start(vault, request(self.name.as_str(), &self.db)).await.expect("follow")
    }

    pub fn keep(&mut self, follower: &Follower<'_>) {
        self.keep_as(follower.position().tx);
    }

    /// The live state is that which a number leads to.
    pub fn keep_as(&mut self, tx: Tx) {
        self.kept.push((tx, recovered(&self.db)));
    }

    /// The application's log is copied back, so that its next commit overwrites it. Who follows it must get out of the way.
    pub fn copies_back(&self, follower: &mut Follower<'_>) {
        for _ in 0..3 {
            if self.truncates() {
                return;
            }
            follower.catch().expect("gets out of the way");
        }
        panic!("the log of {} is held", self.name);
    }

    /// Waits for nobody; its next commit waits as ever.
    pub fn truncates(&self) -> bool {
        self.conn.busy_timeout(Duration::ZERO).expect("set");
        let asked = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        self.conn.busy_timeout(Duration::from_secs(60)).expect("set");
        asked.is_ok_and(|busy| busy == 0)
    }

    pub async fn comes_back(&self, vault: &Vault, what: &str) {
        for (tx, bytes) in &self.kept {
            let dir = tempfile::tempdir().expect("a folder");
            let to = dir.path().join("out.db");
            let (into, busy) = (Destination::New(to.clone()), Duration::from_secs(5));
            let (source, target) = (self.name.clone(), Target::Tx(*tx));
            let request = RestoreRequest { source, target, into, smoke: Vec::new(), busy };
            let planned = restore::plan(vault, request).await.expect("a plan");
            restore::perform(vault, planned).await.expect("restored");
            assert!(std::fs::read(&to).expect("read") == *bytes, "{what}: state {tx} of {}", self.name);
        }
        let request = CheckRequest { source: self.name.clone(), snapshot: None, depth: Depth::Authentic };
        let checked = check(vault, &request).await.expect("a report");
        assert_eq!(checked.verdict, Verdict::Pass, "{what}: {checked:?}");
    }

    /// Where the snapshots stand that were made of its log, in their order.
    pub async fn made(&self, vault: &Vault) -> Vec<Following> {
        let mut fronts: Vec<_> = vault.catalog(&self.name).await.expect("catalog").fronts.into_values().collect();
        fronts.sort_by_key(|front| front.name.sequence);
        fronts
            .into_iter()
            .filter_map(|front| front.facts.following.filter(|following| following.made.is_some()))
            .collect()
    }

    pub async fn snapshots(&self, vault: &Vault) -> usize {
        vault.catalog(&self.name).await.expect("catalog").fronts.len()
    }
}

/// Does something while a carrier runs.
pub async fn carried<T>(carrier: &Carrier, work: impl Future<Output = T>) -> T {
    beside(std::pin::pin!(carrier.run(&|now| now, &|_| {})), work).await
}

/// The same while it goes on where it was: in between it stands still.
pub async fn beside<T>(run: Pin<&mut impl Future<Output = ()>>, work: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = work => done,
        () = run => unreachable!("it carries without an end"),
    }
}

/// Somebody else takes over a source that nobody follows any more, as from a host that remembers nothing of it.
pub async fn takes_over<'v>(home: &Home, vault: &'v Vault) -> Follower<'v> {
    std::fs::remove_file(vault.state.dir().join(home.name.as_str()).join("follow.json")).expect("there");
    let other = home.follow(vault).await;
    assert!(matches!(other.began(), Began::Snapshot { .. }), "{:?}", other.began());
    other
}

/// Where a source remembers to write, and whether others do.
pub fn stream_of(vault: &Vault, home: &Home) -> Option<(StreamId, bool)> {
    let text = std::fs::read(vault.state.dir().join(home.name.as_str()).join("follow.json")).ok()?;
    let memory: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let shares = memory["aboard"].is_object() && memory["aboard"]["boards"].is_null();
    Some((serde_json::from_value(memory["stream"].clone()).ok()?, shares))
}

pub async fn tick_all(followers: &mut [Follower<'_>]) -> Result<u64, OpsError> {
    let ticks = futures::future::join_all(followers.iter_mut().map(Follower::tick)).await;
    ticks.into_iter().try_fold(0, |sum, ticked| Ok(sum + ticked?.objects))
}

pub async fn board_all(carrier: &Arc<Carrier>, followers: &mut [Follower<'_>]) -> Result<(), OpsError> {
    for follower in followers {
        if !follower.board(carrier).await? || !follower.rides() {
            return Err(OpsError::Cancelled);
        }
    }
    Ok(())
}

pub fn homes(dir: &Path) -> Vec<Home> {
    ["shop", "crm", "blog"].map(|name| Home::new(name, dir)).into()
}

pub async fn all_follow<'v>(homes: &[Home], vault: &'v Vault) -> Vec<Follower<'v>> {
    let mut followers = Vec::new();
    for home in homes {
        followers.push(home.follow(vault).await);
    }
    followers
}

pub fn all_keep(homes: &mut [Home], followers: &[Follower<'_>]) {
    homes.iter_mut().zip(followers).for_each(|(home, follower)| home.keep(follower));
}

pub fn all_went_on(followers: &[Follower<'_>]) {
    for follower in followers {
        assert!(matches!(follower.began(), Began::Continued { .. }), "{:?}", follower.began());
        assert!(follower.position().lost.is_none());
    }
}

/// A store that is away at times; what is put then may be there all the same, without an answer.
pub struct Away {
    pub inner: LocalStore,
    pub is_away: AtomicBool,
    /// Only for keys that begin like this.
    pub of: Mutex<String>,
    pub applies: AtomicBool,
}

#[async_trait]
impl Store for Away {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let is_meant = key.as_str().starts_with(&*self.of.lock().expect("alone"));
        if !(is_meant && self.is_away.load(Ordering::SeqCst)) {
            return self.inner.put_new(key, bytes).await;
        }
        if self.applies.load(Ordering::SeqCst) {
            self.inner.put_new(key, bytes).await?;
        }
        Err(StoreError::Unknown { op: "put", key: key.to_string(), source: "no answer".into() })
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

impl Away {
    pub async fn world(applies: bool) -> (World, Arc<Self>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
        let store = Arc::new(Self {
            inner,
            is_away: AtomicBool::new(false),
            of: Mutex::default(),
            applies: AtomicBool::new(applies),
        });
        (World::over(folder, store.clone(), Arc::new(OsDisk)).await, store)
    }
}
