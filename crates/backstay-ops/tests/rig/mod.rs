//! The rig of the crash tests: a folder as it was before an operation, copied for every run, and the
//! process that runs in the copy over a store and a disk that stop.
#![allow(dead_code, reason = "each test file uses its part of it")]

use crate::world::{env, rows_of, source};
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Moment, ObjectId, Ranges, Verdict};
use backstay_ops::OpsError;
use backstay_ops::State;
use backstay_ops::backup::{BackupReport, BackupRequest, Malformed, backup};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckReport, CheckRequest, Depth, check};
use backstay_ops::disk::{Disk, OsDisk};
use backstay_ops::import::{ImportRequest, Imported, import};
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_ops::prove::{ProofOutcome, ProofReport, ProofRequest, prove};
use backstay_ops::restore::{self, Destination, RestoreReport, RestoreRequest};
use backstay_ops::retain::{self, DropRequest};
use backstay_ops::state::{Identity, SeenSource};
use backstay_sqlite::{FileIdentity, ForeignKeys, Integrity, Questions};
use backstay_store::Store;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::Repository;
use backstay_store::seal::Unsealer;
use backstay_testkit::crash_disk::{CrashDisk, PowerCut};
use backstay_testkit::effects::{Effects, Sweep, stop_at_every_effect};
use backstay_testkit::fault_store::FaultStore;
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A snapshot that was there before, and the bytes it must restore to.
pub struct Known {
    pub id: ObjectId,
    pub bytes: Vec<u8>,
    pub rows: String,
}

/// A folder with a source, and perhaps a repository, before the operation.
pub struct Before {
    folder: TempDir,
    pub known: Vec<Known>,
    /// The rows of the live database.
    pub rows: String,
    /// What a check says of it.
    verdict: Verdict,
}

impl Before {
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Gives a file a copy under another name, and says what is in it.
    pub fn copy(&self, from: &str, to: &str) -> Vec<u8> {
        fs::copy(self.folder.path().join(from), self.folder.path().join(to)).expect("copy");
        fs::read(self.folder.path().join(to)).expect("read")
    }

    /// Writes over some bytes of a file, and gives it as it is then.
    pub fn overwrite(&self, name: &str, range: std::ops::Range<usize>) -> Vec<u8> {
        let path = self.folder.path().join(name);
        let mut bytes = fs::read(&path).expect("read");
        bytes[range].fill(0x5a);
        fs::write(&path, &bytes).expect("write");
        bytes
    }

    /// Packs a file with the stock program.
    pub fn pack(&self, name: &str) {
        let path = self.folder.path().join(name);
        let done = std::process::Command::new("gzip").arg(path).status().expect("`apt-get install gzip`");
        assert!(done.success());
    }

    /// Overwrites the live database's header, and gives its bytes and those of its log.
    pub fn malform(&self) -> [Vec<u8>; 2] {
        let db = self.folder.path().join("shop.db");
        let mut bytes = fs::read(&db).expect("read");
        bytes[..100].fill(b'?');
        fs::write(&db, &bytes).expect("write");
        [bytes, fs::read(self.folder.path().join("shop.db-wal")).expect("read")]
    }

    /// Flips a bit in a pack that only the newest snapshot refers to: it is lost, and no other.
    pub async fn with_the_newest_pack_damaged(mut self) -> Self {
        let process = Process::open(self.folder.path(), Arc::new(OsDisk), None).await.expect("open");
        let names = process.vault.repo.newest_names(&source(), 2).await.expect("names");
        let mut refs = Vec::new();
        for name in &names {
            let manifest = process.vault.repo.manifest(name).await.expect("a manifest");
            refs.push(manifest.table.refs().iter().map(|r| r.object).collect::<Vec<_>>());
        }
        let only = refs[0].iter().find(|object| !refs[1].contains(object)).expect("a pack of its own");
        let pack = self.folder.path().join("vault/data/shop/pack").join(only.to_string());
        let mut bytes = fs::read(&pack).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&pack, bytes).expect("write");
        self.known.pop();
        self.verdict = Verdict::Fail;
        self
    }
}

/// In memory where there is such a place: the model says what is durable, not the machine's disk.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a temporary folder")
}

/// Makes a `Before` step by step. Its connection stays open, so that the log keeps its frames as a
/// writer that died leaves them.
pub struct Making {
    folder: TempDir,
    conn: Option<Connection>,
    known: Vec<Known>,
}

impl Making {
    /// About 200 KB, in this journal mode.
    pub fn database(journal: &str) -> Self {
        let folder = scratch();
        fs::create_dir(folder.path().join("keys")).expect("create folder");
        let conn = Connection::open(folder.path().join("shop.db")).expect("open");
        let making = Self { folder, conn: Some(conn), known: Vec::new() };
        making.sql(&format!("PRAGMA journal_mode={journal}; PRAGMA wal_autocheckpoint=0"));
        making.sql(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<600)
             INSERT INTO t(x) SELECT printf('%0300d', i*i*7919) FROM n;",
        );
        making
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn sql(&self, sql: &str) {
        self.conn.as_ref().expect("open").execute_batch(sql).expect("sql");
    }

    pub async fn repository(self) -> Self {
        Process::init(self.folder.path(), Arc::new(OsDisk), None).await.expect("init");
        self
    }

    pub async fn backed_up(mut self) -> Self {
        let process = Process::open(self.folder.path(), Arc::new(OsDisk), None).await.expect("open");
        let (bytes, rows) = image(&process.db());
        let report = process.backup().await.expect("backup");
        self.known.push(Known { id: report.snapshot, bytes, rows });
        self
    }

    /// After something was done with the repository.
    pub async fn having(self, done: impl AsyncFn(&Process)) -> Self {
        done(&Process::open(self.folder.path(), Arc::new(OsDisk), None).await.expect("open")).await;
        self
    }

    /// The first snapshot given up, and its packs deleted as far as no other needs them.
    pub async fn without_the_first(mut self) -> Self {
        let process = Process::open(self.folder.path(), Arc::new(OsDisk), None).await.expect("open");
        let id = Some(self.known.remove(0).id.to_string());
        let request = DropRequest { source: source(), id, missing: Ranges::default(), grace_millis: 0 };
        for _ in 0..2 {
            retain::drop(&process.vault, &request).await.map_or_else(
                |error| assert!(matches!(error, OpsError::NothingToDrop { .. }), "{error}"),
                |report| assert_eq!(report.verdict, Verdict::Pass),
            );
        }
        self
    }

    /// The database as of the newest snapshot, put in place of the live one.
    pub async fn restored_in_place(mut self) -> Self {
        self.conn = None;
        let process = Process::open(self.folder.path(), Arc::new(OsDisk), None).await.expect("open");
        process.restore(Target::Latest, Destination::InPlace(process.db())).await.expect("restore");
        self
    }

    pub fn done(self) -> Before {
        let folder = scratch();
        copy_folder(self.folder.path(), folder.path());
        for shared in ["shop.db-shm", "crm.db-shm"] {
            let _ = fs::remove_file(folder.path().join(shared));
        }
        let (_, rows) = image(&folder.path().join("shop.db"));
        Before { folder, known: self.known, rows, verdict: Verdict::Pass }
    }
}

/// The bytes and rows of a database as another process would see them, found without touching it.
pub fn image(db: &Path) -> (Vec<u8>, String) {
    let folder = scratch();
    let copy = folder.path().join("copy.db");
    fs::copy(db, &copy).expect("copy");
    for suffix in ["-wal", "-journal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if name(db).exists() {
            fs::copy(name(db), name(&copy)).expect("copy");
        }
    }
    let conn = Connection::open(&copy).expect("open");
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
    assert_eq!(sound, "ok", "{}", db.display());
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpoint");
    drop(conn);
    (fs::read(&copy).expect("read"), rows_of(&copy))
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("read folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).expect("create folder");
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("copy");
        }
    }
}

/// One copy of a `Before`, and the disk model over it.
pub struct Run {
    folder: TempDir,
    pub disk: CrashDisk,
}

impl Run {
    async fn of(before: &Before, effects: Effects) -> Self {
        let folder = scratch();
        copy_folder(before.folder.path(), folder.path());
        correct_identity(folder.path()).await;
        let disk = CrashDisk::new(folder.path(), effects).expect("a disk");
        Self { folder, disk }
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn db(&self) -> PathBuf {
        self.dir().join("shop.db")
    }

    /// The next process on the same disk.
    pub fn next(&self, effects: &Effects) -> Arc<dyn Disk> {
        Arc::new(self.disk.next_process(effects.clone()))
    }
}

/// The copy of a database is another file; here it stands for the same one.
async fn correct_identity(dir: &Path) {
    if !dir.join("state").exists() {
        return;
    }
    let process = Process::open(dir, Arc::new(OsDisk), None).await.expect("open");
    let state = &process.vault.state;
    for (name, db) in [("shop", process.db()), ("crm", dir.join("crm.db"))] {
        let Ok(file) = FileIdentity::of_path(&db).map(Identity::from) else { continue };
        let followed = state.dir().join(name).join("follow.json");
        if let Ok(text) = fs::read(&followed) {
            let mut memory: serde_json::Value = serde_json::from_slice(&text).expect("a memory");
            memory["file"] = serde_json::to_value(file).expect("an identity");
            fs::write(&followed, memory.to_string()).expect("write");
        }
        let correct = |seen: &mut SeenSource| {
            seen.file = seen.file.map(|_| file);
            if let Some(restored) = &mut seen.restored {
                restored.file = file;
            }
        };
        state.update(&name.parse().expect("a name"), correct).expect("remember");
    }
}

/// In a folder of its own, so that no other file's sync makes its name durable.
pub fn key_file(dir: &Path) -> PathBuf {
    dir.join("keys/backstay.key")
}

/// One process: everything it knows it has read from the folder.
pub struct Process {
    dir: PathBuf,
    pub vault: Vault,
}

impl Process {
    fn store(dir: &Path, mode: OpenMode, effects: Option<&Effects>) -> Arc<dyn Store> {
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(&dir.join("vault"), mode).expect("a store"));
        match effects {
            None => store,
            Some(effects) => Arc::new(FaultStore::new(store).with_effects(effects.clone())),
        }
    }

    pub async fn init(dir: &Path, disk: Arc<dyn Disk>, effects: Option<&Effects>) -> Result<(), OpsError> {
        let store = Self::store(dir, OpenMode::Create, effects);
        let key_file = key_file(dir);
        let new = NewVault { store, key_file: &key_file, sealing: Sealing::Sealed, host: "test".into() };
        let made = init::create(&env(disk.clone()), new).await?;
        let state = State::open(disk, &dir.join("state"), made.repo.id())?;
        Ok(state.remember_conf(made.repo.seen())?)
    }

    pub async fn open(dir: &Path, disk: Arc<dyn Disk>, effects: Option<&Effects>) -> Result<Self, OpsError> {
        Self::over(dir, disk, Self::store(dir, OpenMode::Existing, effects)).await
    }

    /// The local store of a folder, for a decorator to wrap.
    pub fn plain_store(dir: &Path) -> Arc<dyn Store> {
        Self::store(dir, OpenMode::Existing, None)
    }

    pub async fn over(dir: &Path, disk: Arc<dyn Disk>, store: Arc<dyn Store>) -> Result<Self, OpsError> {
        let keys = init::read_keys(&key_file(dir))?.expect("a key file");
        let root = keys.root.as_ref().expect("a root").public();
        let repo = Repository::open(store, root, None).await?;
        let mut env = env(disk);
        // One thread, so that the effects come in one order.
        env.threads = 1;
        let state = State::open(env.disk.clone(), &dir.join("state"), repo.id())?;
        let unsealer = Some(Unsealer::of(repo.unlock(keys.identities()).await?.masters));
        Ok(Self { dir: dir.to_owned(), vault: Vault { repo, state, signer: keys.signer, unsealer, env } })
    }

    pub fn db(&self) -> PathBuf {
        self.dir.join("shop.db")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub async fn backup(&self) -> Result<BackupReport, OpsError> {
        backup(&self.vault, &self.request(self.db())).await
    }

    pub async fn import(&self, name: &str, taken: Moment) -> Result<Imported, OpsError> {
        let copy = self.request(self.dir.join(name));
        let (size_max, folder) = (ByteLen::new(1 << 30), self.dir.join("proof"));
        import(&self.vault, &ImportRequest { copy, taken, size_max, folder }).await
    }

    fn request(&self, path: PathBuf) -> BackupRequest {
        BackupRequest {
            source: source(),
            path,
            label: None,
            keep: None,
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            malformed: Malformed::Refuse,
            uploads_in_flight: 1,
        }
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

    pub async fn restore(&self, target: Target, into: Destination) -> Result<RestoreReport, OpsError> {
        let request =
            RestoreRequest { source: source(), target, into, smoke: Vec::new(), busy: Duration::from_secs(5) };
        let planned = restore::plan(&self.vault, request).await?;
        restore::perform(&self.vault, planned).await
    }

    /// The bytes a snapshot restores to.
    pub async fn restored(&self, id: ObjectId) -> Vec<u8> {
        let folder = scratch();
        let to = folder.path().join("restored.db");
        self.restore(Target::Id(id.to_string()), Destination::New(to.clone())).await.expect("restore");
        fs::read(to).expect("read")
    }
}

/// How a run ended.
pub struct Ended {
    /// Nothing stopped it.
    pub done: bool,
    pub cut: Option<PowerCut>,
}

/// Kinds of power cuts by chance where several names are at stake.
const CUTS: u64 = 16;

/// What becomes of the machine after the process died. Chance decides often where several names are
/// at stake, because each order of them is a state of its own.
fn cuts(seed: u64, (names, most): (usize, u64)) -> impl Iterator<Item = PowerCut> {
    let chances = if names > 1 { most } else { 2 };
    let by_chance = (0..chances).map(move |n| PowerCut::SomeUnsynced { seed: seed * 1000 + n });
    [PowerCut::NothingUnsynced, PowerCut::EverythingUnsynced].into_iter().chain(by_chance)
}

/// Stops the operation at every effect, killed alone and with each kind of power cut, and judges what
/// is left: first by `judge`, then by what must hold whatever was going on.
pub async fn crash(
    what: &str,
    before: &Before,
    act: impl AsyncFn(&Process) -> Result<(), OpsError>,
    judge: impl AsyncFn(&Run, &Ended),
) -> Sweep {
    let sweep = crash_anything(
        what,
        before,
        async |run, effects| {
            let disk = run.next(&effects);
            let process = Process::open(run.dir(), disk, Some(&effects)).await?;
            act(&process).await
        },
        async |run, ended| {
            everything_before_is_there(run, before).await;
            judge(run, ended).await;
            the_next_run_goes_on(run, ended, before).await;
        },
    )
    .await;
    sweep.assert_stopped_at(&["store get", "store list"]);
    sweep
}

/// The same for an operation that needs no repository.
pub async fn crash_anything(
    what: &str,
    before: &Before,
    act: impl AsyncFn(&Run, Effects) -> Result<(), OpsError>,
    judge: impl AsyncFn(&Run, &Ended),
) -> Sweep {
    crash_anything_with(what, (before, CUTS), act, judge).await
}

/// The same with so many kinds of power cuts by chance.
pub async fn crash_anything_with(
    what: &str,
    (before, most): (&Before, u64),
    act: impl AsyncFn(&Run, Effects) -> Result<(), OpsError>,
    judge: impl AsyncFn(&Run, &Ended),
) -> Sweep {
    let one = async |effects: Effects, cut: Option<PowerCut>| {
        let run = Run::of(before, effects.clone()).await;
        let result = act(&run, effects.clone()).await;
        let done = effects.stopped().is_none();
        if done {
            result.expect("a run that is not stopped succeeds");
        }
        let at_stake = (!run.disk.is_all_durable()).then(|| run.disk.unsynced_names());
        if let Some(cut) = cut {
            run.disk.power_cut(cut).expect("a power cut");
        }
        judge(&run, &Ended { done, cut }).await;
        at_stake
    };
    stop_at_every_effect(what, 500, async |effects| {
        let Some(names) = one(effects.clone(), None).await else { return };
        let stopped = effects.stopped();
        for cut in cuts(effects.count(), (names, most)) {
            let again = stopped.as_ref().map_or_else(Effects::unstopped, |stopped| Effects::stop_at(stopped.at));
            one(again, Some(cut)).await;
        }
    })
    .await
}

/// Runs something that may fail by itself and goes on to its end, then judges what must hold anyhow.
pub async fn survives(before: &Before, act: impl AsyncFn(&Run)) {
    let run = Run::of(before, Effects::unstopped()).await;
    act(&run).await;
    everything_before_is_there(&run, before).await;
    the_next_run_goes_on(&run, &Ended { done: false, cut: None }, before).await;
}

async fn everything_before_is_there(run: &Run, before: &Before) {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    let catalog = process.vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.broken.is_empty(), "{:?}", catalog.broken);
    for known in &before.known {
        assert!(catalog.front(&known.id).is_some(), "snapshot {} is listed", known.id);
        assert!(process.restored(known.id).await == known.bytes, "snapshot {} restores byte for byte", known.id);
    }
}

/// The next backup and its proof succeed and restore to what is live. After a mere kill the machine
/// then loses power: what this run was told must hold all the same.
pub async fn the_next_run_goes_on(run: &Run, ended: &Ended, before: &Before) {
    let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
    let (bytes, _) = image(&run.db());
    let report = process.backup().await.expect("the next backup");
    assert!(process.restored(report.snapshot).await == bytes, "the next snapshot is what is live");
    let proof = process.prove(report.snapshot).await.expect("the next proof");
    assert!(matches!(proof.outcome, ProofOutcome::Proven { .. }), "{proof:?}");
    let checked = process.check(Depth::Intact).await.expect("the next check");
    assert_eq!(bases(process.vault.state.dir()), 1, "what an unfinished backup left is gone");
    assert_eq!(checked.verdict, before.verdict, "{checked:?}");
    drop(process);
    if ended.cut.is_none() {
        run.disk.power_cut(PowerCut::NothingUnsynced).expect("a power cut");
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        for (id, bytes) in before.known.iter().map(|known| (known.id, &known.bytes)).chain([(report.snapshot, &bytes)])
        {
            assert!(process.restored(id).await == *bytes, "snapshot {id} restores after the power cut");
        }
    }
}

fn bases(state: &Path) -> usize {
    let entries = fs::read_dir(state.join("shop")).expect("read folder").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("base-")).count()
}
