//! A source, a repository and the keys to it, in a temporary folder.
#![allow(dead_code, reason = "each test file uses its part of it")]

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Clock, Moment, Random, SourceName};
use backstay_ops::backup::{BackupReport, BackupRequest, Malformed, backup};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckReport, CheckRequest, Depth, check};
use backstay_ops::disk::{Disk, OsDisk};
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_ops::prove::{ProofReport, ProofRequest, prove};
use backstay_ops::restore::{self, Destination, RestoreReport, RestoreRequest};
use backstay_ops::{Cancel, Env, OpsError, State};
use backstay_sqlite::{ForeignKeys, Integrity, Questions};
use backstay_store::Store;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::os::{OsRandom, SystemClock};
use backstay_store::seal::Unsealer;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub struct World {
    folder: tempfile::TempDir,
    pub vault: Vault,
}

pub fn env(disk: Arc<dyn Disk>) -> Env {
    let random: Arc<dyn Random> = Arc::new(OsRandom);
    Env { clock: Arc::new(SystemClock), random, disk, events: Arc::new(|_| {}), cancel: Cancel::default(), threads: 2 }
}

/// The machine's clock, moved forward by hand.
#[derive(Default)]
pub struct Hands(AtomicI64);

impl Hands {
    pub fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Moment {
        let now = SystemClock.now().as_millis() + self.0.load(Ordering::SeqCst);
        Moment::from_millis(now).expect("in range")
    }

    fn uptime(&self) -> Duration {
        SystemClock.uptime() + Duration::from_millis(self.0.load(Ordering::SeqCst).cast_unsigned())
    }
}

pub fn source() -> SourceName {
    "shop".parse().expect("a legal name")
}

/// What SQLite makes of the files as they lie, found by another process: this one holds locks.
pub fn recovered(db: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("copy.db");
    for suffix in ["", "-wal"] {
        let [from, to] = [db, &copy].map(|path| PathBuf::from(format!("{}{suffix}", path.display())));
        if from.exists() {
            assert!(std::process::Command::new("cp").arg(from).arg(to).status().expect("cp runs").success());
        }
    }
    let conn = Connection::open(&copy).expect("opens");
    conn.execute_batch("PRAGMA synchronous=OFF").expect("set");
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("recovers");
    drop(conn);
    std::fs::read(&copy).expect("readable")
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
        Self::over(folder, Arc::new(store), Arc::new(OsDisk)).await
    }

    pub async fn over(folder: tempfile::TempDir, store: Arc<dyn Store>, disk: Arc<dyn Disk>) -> Self {
        let env = env(disk);
        let key_file = folder.path().join("backstay.key");
        let new = NewVault { store, key_file: &key_file, sealing: Sealing::Sealed, host: "test".into() };
        let made = init::create(&env, new).await.expect("init");
        let state = State::open(env.disk.clone(), &folder.path().join("state"), made.repo.id()).expect("state");
        let unsealer = made.keys.identity.map(Unsealer::new);
        let vault = Vault { repo: made.repo, state, signer: made.keys.signer, unsealer, env };
        Self { folder, vault }
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The same repository, as tasks need it that follow.
    pub fn shared(&self) -> Arc<Vault> {
        let Vault { repo, state, signer, env, .. } = &self.vault;
        let (repo, state, signer, env) = (repo.clone(), state.clone(), signer.clone(), env.clone());
        Arc::new(Vault { repo, state, signer, unsealer: None, env })
    }

    pub fn db(&self) -> PathBuf {
        self.dir().join("shop.db")
    }

    pub fn sql(&self, sql: &str) {
        let conn = Connection::open(self.db()).expect("open");
        conn.execute_batch(sql).expect("sql");
    }

    pub fn rows(&self) -> String {
        rows_of(&self.db())
    }

    pub fn request(&self) -> BackupRequest {
        BackupRequest {
            source: source(),
            path: self.db(),
            label: None,
            keep: None,
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            malformed: Malformed::Refuse,
            uploads_in_flight: 2,
        }
    }

    pub async fn backup(&self) -> Result<BackupReport, OpsError> {
        backup(&self.vault, &self.request()).await
    }

    pub async fn restore(&self, target: Target, to: &Path) -> Result<RestoreReport, OpsError> {
        self.restore_into(target, Destination::New(to.to_owned())).await
    }

    pub async fn restore_into(&self, target: Target, into: Destination) -> Result<RestoreReport, OpsError> {
        let request =
            RestoreRequest { source: source(), target, into, smoke: Vec::new(), busy: Duration::from_secs(5) };
        let planned = restore::plan(&self.vault, request).await?;
        restore::perform(&self.vault, planned).await
    }

    pub async fn prove(&self, report: &BackupReport) -> Result<ProofReport, OpsError> {
        let questions = Questions {
            integrity: Integrity::Full,
            foreign_keys: ForeignKeys::Require,
            smoke: Vec::new(),
            limit: Questions::USUAL_LIMIT,
        };
        let request =
            ProofRequest { source: source(), snapshot: report.snapshot, questions, folder: self.dir().join("proof") };
        prove(&self.vault, &request).await
    }

    pub async fn check(&self, depth: Depth) -> Result<CheckReport, OpsError> {
        check(&self.vault, &CheckRequest { source: source(), snapshot: None, depth }).await
    }
}

/// Every row of every table as text, by plain SQL.
pub fn rows_of(path: &Path) -> String {
    let conn = Connection::open(path).expect("open");
    let tables: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")
        .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
        .expect("tables");
    let mut text = String::new();
    for table in tables {
        let mut statement = conn.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1, rowid")).expect("select");
        let columns = statement.column_count();
        let mut rows = statement.query([]).expect("query");
        while let Some(row) = rows.next().expect("row") {
            let values: Vec<String> = (0..columns).map(|i| format!("{:?}", row.get_ref(i).expect("value"))).collect();
            text.push_str(&format!("{table}: {}\n", values.join("|")));
        }
    }
    text
}

pub fn integrity_of(path: &Path) -> String {
    let conn = Connection::open(path).expect("open");
    conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check")
}
