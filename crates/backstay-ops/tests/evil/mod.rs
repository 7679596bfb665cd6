//! A small real repository in memory, to be damaged and read again.
#![allow(dead_code, reason = "each test file uses its part of it")]

pub mod craft;

use crate::world::{self, World};
use backstay_format::object;
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::{Kind, Kinded, ObjectId, SignerKey, SourceName};
use backstay_ops::backup::{BackupReport, BackupRequest, backup};
use backstay_ops::catalog::{Catalog, Vault};
use backstay_ops::check::{CheckReport, CheckRequest, Depth, check};
use backstay_ops::custody::{self, Confirm};
use backstay_ops::disk::OsDisk;
use backstay_ops::prove::with_causes;
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::{OpsError, State};
use backstay_store::keyfile::KeyFile;
use backstay_store::memory::{Contents, MemoryStore};
use backstay_store::repo::{Chain, RepoError, Repository, SeenConf, Signing, SnapshotReader};
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_store::signing::SigningKey;
use backstay_store::{Key, Store, keys};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub fn shop() -> SourceName {
    world::source()
}

pub fn till() -> SourceName {
    "till".parse().expect("a legal name")
}

/// One snapshot and the bytes of the file it was taken of.
pub struct Taken {
    pub source: SourceName,
    pub id: ObjectId,
    pub bytes: Vec<u8>,
}

pub struct Golden {
    pub world: World,
    pub contents: Contents,
    pub seen: SeenConf,
    pub root: SignerKey,
    pub taken: Vec<Taken>,
    secret: String,
    trials: AtomicU64,
}

impl Golden {
    /// Three snapshots of `shop`, the first proven and the second quarantined, two of `till`, and one
    /// audit record. The audit and the proven mark are by the signer of everything else.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(MemoryStore::new());
        let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
        let mut taken = Vec::new();
        fill(&world.db(), 40);
        let first = take(&world, &shop(), &mut taken).await;
        world.prove(&first).await.expect("prove");
        change(&world.db(), 3);
        let second = take(&world, &shop(), &mut taken).await;
        change(&world.db(), 17);
        let third = take(&world, &shop(), &mut taken).await;
        mark(&world.vault, second.snapshot, MarkKind::Quarantined).await;
        mark(&world.vault, third.snapshot, MarkKind::Pinned).await;
        let other = world.dir().join("till.db");
        fill(&other, 9);
        take(&world, &till(), &mut taken).await;
        change(&other, 4);
        take(&world, &till(), &mut taken).await;
        let key_file = world.dir().join("backstay.key");
        let copy = world.dir().join("copy.key");
        std::fs::copy(&key_file, &copy).expect("a copy of the key");
        let asked = Confirm { copy: &copy, in_use: Some(&key_file), sources: &[shop()] };
        custody::confirm(&world.vault, asked).await.expect("confirm");
        let keys = KeyFile::parse(&std::fs::read_to_string(&key_file).expect("the key file")).expect("our own");
        let secret = keys.identity.expect("an identity").secret_text();
        let (seen, root) = (world.vault.repo.seen(), world.vault.repo.root());
        Self { contents: store.dump(), seen, root, taken, secret, trials: AtomicU64::new(0), world }
    }

    /// The keys as `init` wrote them.
    pub fn keys(&self) -> KeyFile {
        let text = std::fs::read_to_string(self.world.dir().join("backstay.key")).expect("the key file");
        KeyFile::parse(&text).expect("our own key file")
    }

    pub fn signer(&self) -> SigningKey {
        self.keys().signer.expect("a signing key")
    }

    pub fn of(&self, source: &SourceName) -> Vec<&Taken> {
        self.taken.iter().filter(|taken| taken.source == *source).collect()
    }

    /// Names in the store that begin so, in order.
    pub fn keys_below(&self, prefix: &str) -> Vec<Key> {
        self.contents.keys().filter(|key| key.as_str().starts_with(prefix)).cloned().collect()
    }

    /// The manifest of a snapshot.
    pub fn manifest_key(&self, id: &ObjectId) -> Key {
        let all =
            self.contents.keys().find(|key| key.as_str().contains("/snap/") && key.as_str().ends_with(&id.to_string()));
        all.expect("every snapshot has its manifest").clone()
    }

    /// The marks of one kind on a snapshot.
    pub fn mark_key(&self, id: &ObjectId, kind: MarkKind) -> Key {
        let wanted = format!("{id}/{}-", kind.word());
        self.contents.keys().find(|key| key.as_str().contains(&wanted)).expect("the mark is there").clone()
    }

    /// The contents with one object exchanged.
    pub fn with(&self, key: &Key, bytes: impl Into<Bytes>) -> Contents {
        let mut contents = self.contents.clone();
        contents.insert(key.clone(), bytes.into());
        contents
    }

    pub fn without(&self, key: &Key) -> Contents {
        let mut contents = self.contents.clone();
        contents.remove(key).expect("it was there");
        contents
    }

    /// A host that was here before opens the damaged repository with all its keys.
    pub async fn open(&self, contents: Contents) -> Result<Vault, RepoError> {
        self.open_with(Arc::new(MemoryStore::load(contents)), "knows").await
    }

    /// A host that has never seen the repository.
    pub async fn open_blank(&self, contents: Contents) -> Result<Vault, RepoError> {
        let nth = self.trials.fetch_add(1, Ordering::Relaxed);
        self.open_with(Arc::new(MemoryStore::load(contents)), &format!("blank-{nth}")).await
    }

    pub async fn open_with(&self, store: Arc<dyn Store>, host: &str) -> Result<Vault, RepoError> {
        let knows = host == "knows";
        let repo = Repository::open(store, self.root, knows.then_some(self.seen)).await?;
        let env = world::env(Arc::new(OsDisk));
        let dir = if knows { self.world.dir().join("state") } else { self.world.dir().join(host) };
        let state = State::open(env.disk.clone(), &dir, repo.id()).expect("state");
        let unsealer = Some(Unsealer::new(MasterIdentity::parse(&self.secret).expect("our own")));
        Ok(Vault { repo, state, signer: Some(self.signer()), unsealer, env })
    }

    /// Everything that can be asked of a repository, with whatever went wrong.
    pub async fn probe(&self, contents: Contents, depth: Depth) -> Probe {
        let mut probe = Probe::default();
        let vault = match self.open(contents).await {
            Ok(vault) => vault,
            Err(error) => {
                probe.say(error.kind(), with_causes(&error));
                return probe;
            }
        };
        for source in [shop(), till()] {
            self.probe_source(&vault, &source, depth, &mut probe).await;
        }
        probe.of(vault.repo.audit(&self.signer().public()).await);
        probe
    }

    async fn probe_source(&self, vault: &Vault, source: &SourceName, depth: Depth, probe: &mut Probe) {
        probe.of(vault.repo.branches(source).await);
        if let Some(catalog) = probe.of(vault.catalog(source).await) {
            catalog.broken.iter().for_each(|(_, error)| probe.say(error.kind(), with_causes(error)));
            catalog.mark_faults.iter().for_each(|fault| probe.say(fault.error().kind(), with_causes(fault.error())));
            probe.proven.extend(catalog.snapshots.iter().filter(|s| s.is_proven()).map(|s| s.id));
            for taken in self.of(source) {
                let Some(front) = catalog.front(&taken.id) else { continue };
                if let Some(bytes) = probe.of(read_all(vault, front).await) {
                    probe.read += 1;
                    probe.wrong |= bytes != taken.bytes;
                }
            }
        }
        let request = CheckRequest { source: source.clone(), snapshot: None, depth };
        if let Some(report) = probe.of(check(vault, &request).await) {
            report.problems.iter().for_each(|p| probe.say(Kind::Corrupt, format!("{}: {}", p.object, p.what)));
        }
    }

    pub async fn check(&self, vault: &Vault) -> Result<CheckReport, OpsError> {
        check(vault, &CheckRequest { source: shop(), snapshot: None, depth: Depth::Authentic }).await
    }

    /// Restores into a fresh file and returns its bytes; there must be no file when it fails.
    pub async fn restore(&self, vault: &Vault, source: &SourceName, target: Target) -> Result<Vec<u8>, OpsError> {
        let nth = self.trials.fetch_add(1, Ordering::Relaxed);
        let folder = self.world.dir().join(format!("restore-{nth}"));
        std::fs::create_dir(&folder).expect("a folder");
        let to = folder.join("out.db");
        let into = Destination::New(to.clone());
        let request =
            RestoreRequest { source: source.clone(), target, into, smoke: Vec::new(), busy: Duration::from_secs(1) };
        let restored = match restore::plan(vault, request).await {
            Ok(planned) => restore::perform(vault, planned).await,
            Err(error) => Err(error),
        };
        let left: Vec<PathBuf> =
            std::fs::read_dir(&folder).expect("read").flatten().map(|entry| entry.path()).collect();
        let result = match restored {
            Ok(_) => Ok(std::fs::read(&to).expect("the restored file")),
            Err(error) => {
                assert!(left.is_empty(), "a failed restore left {left:?}");
                Err(error)
            }
        };
        std::fs::remove_dir_all(&folder).expect("tidy up");
        result
    }
}

/// What came of reading a damaged repository.
#[derive(Default)]
pub struct Probe {
    pub errors: Vec<(Kind, String)>,
    pub proven: Vec<ObjectId>,
    /// Snapshots that were read whole.
    pub read: usize,
    /// Some bytes came back that were never captured.
    pub wrong: bool,
}

impl Probe {
    fn say(&mut self, kind: Kind, what: String) {
        self.errors.push((kind, what));
    }

    fn of<T, E: std::error::Error + Kinded + 'static>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.say(error.kind(), with_causes(&error))).ok()
    }

    /// The damage is named, by its object, as damage; and nothing else came of it.
    pub fn assert_named(&self, key: &Key, what: &str) {
        assert!(!self.wrong, "{what}: other bytes came back");
        assert!(self.errors.iter().any(|(_, text)| text.contains(key.as_str())), "{what}: {:?}", self.errors);
        let expected = |kind: &Kind| matches!(kind, Kind::Corrupt | Kind::Denied);
        assert!(self.errors.iter().all(|(kind, _)| expected(kind)), "{what}: {:?}", self.errors);
    }
}

/// Every unit of a snapshot's file, read one by one.
async fn read_all(vault: &Vault, front: &backstay_store::repo::ManifestFront) -> Result<Vec<u8>, OpsError> {
    let manifest = vault.repo.manifest(&front.name).await?;
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let (_, units) = reader.stream(0)?.shape()?;
    let mut bytes = Vec::new();
    for unit in 0..units {
        bytes.extend(reader.unit(0, unit).await?);
    }
    Ok(bytes)
}

fn fill(db: &Path, rows: u32) {
    sql(
        db,
        &format!(
            "PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             INSERT INTO t(x) SELECT printf('row %d ', i) || hex(randomblob(20)) || printf('%.*c', 400, 'x') FROM n"
        ),
    );
}

fn change(db: &Path, row: u32) {
    sql(db, &format!("UPDATE t SET x = 'changed ' || hex(randomblob(30)) WHERE id = {row}"));
}

fn sql(db: &Path, sql: &str) {
    rusqlite::Connection::open(db).expect("open").execute_batch(sql).expect("sql");
}

pub fn request(world: &World, source: &SourceName) -> BackupRequest {
    BackupRequest { source: source.clone(), path: world.dir().join(format!("{source}.db")), ..world.request() }
}

async fn take(world: &World, source: &SourceName, taken: &mut Vec<Taken>) -> BackupReport {
    let request = request(world, source);
    let report = backup(&world.vault, &request).await.expect("backup");
    let bytes = std::fs::read(&request.path).expect("the database");
    taken.push(Taken { source: source.clone(), id: report.snapshot, bytes });
    report
}

/// A mark as this host would make it.
pub async fn mark(vault: &Vault, snapshot: ObjectId, kind: MarkKind) {
    let catalog = vault.catalog(&shop()).await.expect("catalog");
    let front = catalog.front(&snapshot).expect("the snapshot");
    let facts = backstay_format::facts::Mark {
        source: shop(),
        snapshot,
        kind,
        root: front.facts.root,
        at: vault.env.clock.now(),
        releases: None,
        evidence: serde_json::json!({ "test": "hostile" }),
    };
    let signer = vault.signer.as_ref().expect("a signer");
    let chain = catalog.next_mark(&signer.public()).expect("a place");
    let id = vault.repo.fresh_id(vault.env.random.as_ref());
    vault.repo.put_mark(facts, chain, Signing { key: signer, id }).await.expect("mark");
}

/// The place after an object that is in the store.
pub fn after(bytes: &[u8]) -> Chain {
    let front = object::Front::parse(bytes).expect("a real object");
    let signed = front.header.signed.expect("a signed one");
    Chain::after(signed.sequence, front.digest).expect("numbers are left")
}

pub async fn gather(vault: &Vault) -> Catalog {
    Catalog::gather(&vault.repo, &shop()).await.expect("a catalog")
}

pub fn prefix_of_packs(source: &SourceName) -> String {
    keys::pack_prefix(source)
}
