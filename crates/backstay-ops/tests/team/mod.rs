//! A repository that several hosts share: each has its own key file, its own memory, and sees the store
//! through whatever stands before it.
#![allow(dead_code, reason = "each test file uses its part of it")]

use crate::world::{env, rows_of, source};
use backstay_format::facts::{Enrolment, EnrolmentRequest, Role};
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Moment, ObjectId};
use backstay_ops::backup::{BackupReport, BackupRequest, Malformed, backup};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckReport, CheckRequest, Depth, check};
use backstay_ops::disk::{Disk, OsDisk};
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_ops::masters::{self, KeyHome, MasterReport, NewMaster};
use backstay_ops::prove::{ProofReport, ProofRequest, prove};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::trust::{self, Custodian, Enrol, EnrolReport};
use backstay_ops::{OpsError, State, open};
use backstay_sqlite::{ForeignKeys, Integrity, Questions};
use backstay_store::Store;
use backstay_store::keyfile::KeyFile;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::os::OsRandom;
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_store::signing::SigningKey;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One host: a folder with its key file and its memory.
pub struct Host {
    pub dir: PathBuf,
    pub vault: Vault,
    pub keys: KeyFile,
}

/// The repository's folder, its first host, and the database they all see.
pub struct Team {
    pub folder: tempfile::TempDir,
    pub root: backstay_model::SignerKey,
}

pub fn key_file(dir: &Path) -> PathBuf {
    dir.join("backstay.key")
}

impl Team {
    /// A database, and a repository whose first host is called `first` and may do everything.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("first")).expect("a folder");
        let store = Arc::new(LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store"));
        let path = key_file(&folder.path().join("first"));
        let new = NewVault { store, key_file: &path, sealing: Sealing::Sealed, host: "first".into() };
        let made = init::create(&env(Arc::new(OsDisk)), new).await.expect("init");
        let team = Self { folder, root: made.repo.root() };
        team.sql(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
             INSERT INTO t(x) SELECT printf('%0100d', i*i*7919) FROM n",
        );
        team
    }

    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::open(&self.folder.path().join("vault"), OpenMode::Existing).expect("a store"))
    }

    pub fn store_dir(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    pub fn db(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    pub fn sql(&self, sql: &str) {
        Connection::open(self.db()).expect("open").execute_batch(sql).expect("sql");
    }

    pub fn rows(&self) -> String {
        rows_of(&self.db())
    }

    pub async fn first(&self) -> Host {
        self.host("first").await
    }

    /// A host as its next process would open the repository.
    pub async fn host(&self, name: &str) -> Host {
        self.host_over(name, self.store()).await.expect("open")
    }

    pub async fn host_over(&self, name: &str, store: Arc<dyn Store>) -> Result<Host, OpsError> {
        Host::open(&self.folder.path().join(name), store, Arc::new(OsDisk), self.root).await
    }

    /// Makes a key file for a new host, and the request it would make.
    pub fn newcomer(&self, name: &str, roles: &[Role]) -> Enrolment {
        let dir = self.folder.path().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        let signer = SigningKey::generate(&OsRandom);
        let identity = roles.contains(&Role::Reader).then(MasterIdentity::generate);
        let request = EnrolmentRequest {
            made: Moment::from_millis(0).expect("in range"),
            name: name.to_owned(),
            key: signer.public(),
            roles: roles.to_vec(),
            recipient: identity.as_ref().map(|i| i.master().text().to_owned()),
        };
        let signature = signer.sign(&request.message()).iter().map(|b| format!("{b:02x}")).collect();
        let keys = KeyFile { signer: Some(signer), identity, ..KeyFile::default() };
        std::fs::write(key_file(&dir), keys.render_for_host(name, request.made)).expect("written");
        Enrolment { request, signature }
    }

    /// The whole of it: the request, and its acceptance by the first host.
    pub async fn enrolled(&self, name: &str, roles: &[Role]) -> EnrolReport {
        let asked = self.newcomer(name, roles);
        let first = self.first().await;
        trust::enrol(&first.custodian(), Enrol { asked: &asked, roles }).await.expect("enrolled")
    }
}

impl Host {
    pub async fn open(
        dir: &Path,
        store: Arc<dyn Store>,
        disk: Arc<dyn Disk>,
        root: backstay_model::SignerKey,
    ) -> Result<Self, OpsError> {
        let keys = init::read_keys(&key_file(dir))?.expect("a key file");
        let mut env = env(disk);
        env.threads = 1;
        let repo = open::open(store, root, &dir.join("state")).await?;
        let state = State::open(env.disk.clone(), &dir.join("state"), repo.id())?;
        state.remember_conf(repo.seen())?;
        let unsealer = if keys.opens() { Some(Unsealer::of(repo.unlock_for(&keys).await?.masters)) } else { None };
        let vault = Vault { repo, state, signer: keys.signer.clone(), unsealer, env };
        Ok(Self { dir: dir.to_owned(), vault, keys })
    }

    pub fn custodian(&self) -> Custodian<'_> {
        Custodian { vault: &self.vault, root: self.keys.root.as_ref().expect("a root key") }
    }

    pub async fn backup(&self, db: &Path) -> Result<BackupReport, OpsError> {
        let request = BackupRequest {
            source: source(),
            path: db.to_owned(),
            label: None,
            keep: None,
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            malformed: Malformed::Refuse,
            uploads_in_flight: 1,
        };
        backup(&self.vault, &request).await
    }

    pub async fn prove(&self, snapshot: ObjectId) -> Result<ProofReport, OpsError> {
        let questions = Questions {
            integrity: Integrity::Full,
            foreign_keys: ForeignKeys::Require,
            smoke: Vec::new(),
            limit: Questions::USUAL_LIMIT,
        };
        let request = ProofRequest { source: source(), snapshot, questions, folder: self.dir.join("proof") };
        prove(&self.vault, &request).await
    }

    pub async fn check(&self, depth: Depth) -> Result<CheckReport, OpsError> {
        check(&self.vault, &CheckRequest { source: source(), snapshot: None, depth }).await
    }

    /// The rows a snapshot restores to.
    pub async fn restored(&self, target: Target) -> Result<String, OpsError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let to = folder.path().join("restored.db");
        let into = Destination::New(to.clone());
        let request =
            RestoreRequest { source: source(), target, into, smoke: Vec::new(), busy: Duration::from_secs(5) };
        let planned = restore::plan(&self.vault, request).await?;
        restore::perform(&self.vault, planned).await?;
        Ok(rows_of(&to))
    }

    /// A new master, as `repo key rotate` and `repo key remove` make one.
    pub async fn change_master(&self, without: Option<&str>) -> Result<MasterReport, OpsError> {
        let path = key_file(&self.dir);
        let home = KeyHome::InUse(&path);
        let new = NewMaster { without, held: &self.keys, home, passphrases: &BTreeMap::new() };
        masters::change(&self.custodian(), new).await
    }
}

pub fn by_id(id: ObjectId) -> Target {
    Target::Id(id.to_string())
}
