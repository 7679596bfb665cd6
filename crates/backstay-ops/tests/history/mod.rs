//! Histories by chance: writers, keepers and time over one store in memory.
//!
//! Writers here make real manifests, signed and sealed, over packs of a few bytes: retention never looks into
//! a pack. They keep the writers' protocol step by step, so that a run can be caught half-way, which the real
//! backup cannot. What it does between two steps is in `ops::backup`.
#![allow(dead_code, reason = "each test file uses its part of it")]

use async_trait::async_trait;
use backstay_format::ObjectType;
use backstay_format::facts::{self, Engine, FingerprintFacts, Mark, Prune, SealedManifest};
use backstay_format::table::{Reference, Table};
use backstay_model::catalog::{Keep, MarkKind, Quality};
use backstay_model::prune::WRITER_DEADLINE_MILLIS;
use backstay_model::{BranchNo, ByteLen, Clock, Digest, Moment, ObjectId, Position, Random, Sequence, SourceName};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_ops::retain::{self, RetainReport, SourceRules};
use backstay_ops::{Cancel, Env, OpsError, State};
use backstay_store::keyfile::KeyFile;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::memory::MemoryStore;
use backstay_store::repo::{Chain, Draft, Repository, SealedBody, Signing};
use backstay_store::seal::Sealer;
use backstay_store::{Key, Page, Put, Store, StoreError, Verb};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// 2026-11-21, at noon.
pub const BEGINNING: i64 = 1_795_262_400_000;

/// Chance from a seed, shared by everyone in a history.
#[derive(Clone)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    pub fn of(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    pub fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }

    pub fn one_in(&self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.roll(of.len() as u64) as usize) }
    }
}

impl Random for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.roll(256) as u8);
    }
}

/// The one time there is; a host's wall clock may be off by any amount, its measure of spans is not.
#[derive(Clone)]
pub struct Hands {
    pub time: Arc<AtomicI64>,
    pub off: Arc<AtomicI64>,
}

impl Hands {
    pub fn at(millis: i64) -> Self {
        Self { time: Arc::new(AtomicI64::new(millis)), off: Arc::default() }
    }

    /// Another host's clock over the same time.
    pub fn other(&self) -> Self {
        Self { time: Arc::clone(&self.time), off: Arc::default() }
    }

    pub fn pass(&self, millis: i64) {
        self.time.fetch_add(millis, Ordering::SeqCst);
    }

    pub fn millis(&self) -> i64 {
        self.time.load(Ordering::SeqCst)
    }
}

impl Clock for Hands {
    fn now(&self) -> Moment {
        let millis = self.millis().saturating_add(self.off.load(Ordering::SeqCst));
        Moment::from_millis(millis).expect("in range")
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.millis() - BEGINNING + DAY).expect("after the beginning"))
    }
}

type Act = Box<dyn Fn() + Send + Sync>;

/// A store whose caller is held up before the so-manieth call of a verb, while something else happens.
pub struct HeldUp {
    inner: Arc<dyn Store>,
    verb: Verb,
    left: AtomicI64,
    act: Act,
}

impl HeldUp {
    pub fn new(inner: Arc<dyn Store>, verb: Verb, nth: u64, act: Act) -> Self {
        Self { inner, verb, left: AtomicI64::new(nth as i64), act }
    }

    pub fn happened(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn step(&self, verb: Verb) {
        if verb == self.verb && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            (self.act)();
        }
    }
}

#[async_trait]
impl Store for HeldUp {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.step(Verb::PutNew);
        self.inner.put_new(key, bytes).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.step(Verb::Get);
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.step(Verb::List);
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.step(Verb::Delete);
        self.inner.delete(key).await
    }

    backstay_testkit::forward!(inner: get_range head describe);
}

/// One repository in memory, with everyone's keys.
pub struct House {
    folder: tempfile::TempDir,
    pub store: Arc<MemoryStore>,
    pub hands: Hands,
    pub dice: Dice,
    sealer: Sealer,
    first: Vault,
}

/// A writer's run between its packs and its commit.
pub struct Run {
    pub source: SourceName,
    started: i64,
    base: Option<SnapshotName>,
    chain: Chain,
    refs: Vec<Reference>,
    taken: Moment,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Stored(SnapshotName),
    /// It did not commit, and said so.
    Refused,
    /// It committed, and said that what it stored may not be whole.
    Failed(SnapshotName),
}

impl House {
    pub async fn new(seed: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let (folder, hands, dice) = (folder.expect("a folder"), Hands::at(BEGINNING), Dice::of(seed));
        let store = Arc::new(MemoryStore::with_clock(Arc::new(hands.other())));
        let env = env(&hands, &dice);
        let key_file = folder.path().join("backstay.key");
        let new = NewVault { store: store.clone(), key_file: &key_file, sealing: Sealing::Sealed, host: "test".into() };
        let made = init::create(&env, new).await.expect("init");
        let state = State::open(env.disk.clone(), &folder.path().join("first"), made.repo.id()).expect("state");
        let sealer = made.repo.sealer(&dice);
        let first = Vault { repo: made.repo, state, signer: made.keys.signer, unsealer: None, env };
        Self { folder, store, hands, dice, sealer, first }
    }

    /// A host with its own memory and its own clock.
    pub async fn host(&self, name: &str, hands: &Hands) -> Vault {
        self.host_over(name, hands, self.store.clone()).await.expect("open")
    }

    pub async fn host_over(&self, name: &str, hands: &Hands, store: Arc<dyn Store>) -> Result<Vault, OpsError> {
        let text = std::fs::read_to_string(self.folder.path().join("backstay.key")).expect("the key file");
        let keys = KeyFile::parse(&text).expect("our own key file");
        let repo = Repository::open(store, self.first.repo.root(), None).await?;
        let env = env(hands, &self.dice);
        let state = State::open(env.disk.clone(), &self.folder.path().join(name), repo.id())?;
        Ok(Vault { repo, state, signer: keys.signer, unsealer: None, env })
    }

    /// A run begins: it looks for its base, and puts a few packs.
    pub async fn begin(&self, host: &Vault, source: &SourceName) -> Run {
        let (fronts, _) = host.repo.newest_fronts(source, 16).await.expect("fronts");
        let condemned = condemned(&self.newest_prune().await, source);
        let base = fronts.iter().find(|front| front.facts.quality == Quality::Whole);
        let base = base.map(|front| front.name.clone()).filter(|name| !condemned.contains(&name.id));
        let chain = fronts.first().map_or(Some(Chain::START), |front| Chain::after(front.chain.sequence, front.digest));
        let mut refs = match &base {
            // A pack dies with some chance: a snapshot refers to fewer of the old ones each time.
            Some(name) => {
                let manifest = host.repo.manifest(name).await.expect("the base");
                manifest.table.refs().iter().filter(|_| !self.dice.one_in(4)).cloned().collect()
            }
            None => Vec::new(),
        };
        for _ in 0..=self.dice.roll(2) {
            refs.push(self.pack(host, source).await);
        }
        let (started, taken) = (self.hands.millis(), host.env.clock.now());
        Run { source: source.clone(), started, base, chain: chain.expect("numbers are left"), refs, taken }
    }

    async fn pack(&self, host: &Vault, source: &SourceName) -> Reference {
        let id = host.repo.fresh_id(&self.dice);
        host.repo.put_fresh(&keys::pack(source, &id), Bytes::from(vec![1; 100])).await.expect("put");
        Reference {
            object: id,
            kind: ObjectType::Pack,
            stored: 100,
            digest: Digest::ZERO,
            salt: [0; 32],
            wrap: 0,
            live_units: 1,
            total_units: 1,
            live_nodes: 0,
        }
    }

    /// The run goes on to its end, as the real one does.
    pub async fn commit(&self, host: &Vault, run: Run, keep: Option<Keep>) -> Ended {
        let there = async || match &run.base {
            Some(base) => host.repo.store().head(&base.key()).await.expect("head").is_some(),
            None => true,
        };
        if self.hands.millis() - run.started >= WRITER_DEADLINE_MILLIS || !there().await {
            return Ended::Refused;
        }
        let id = host.repo.fresh_id(&self.dice);
        let name = SnapshotName::first(run.source.clone(), run.chain.sequence, id);
        let draft = Draft {
            id,
            facts: manifest(&run, keep),
            table: Table::new(run.refs.clone(), vec![vec![0; 40]]).expect("a legal table"),
            body: SealedBody { facts: sealed(), roots: Vec::new() },
            chain: run.chain,
            signer: host.signer.as_ref().expect("a signer"),
        };
        let (bytes, _) = draft.seal(&self.sealer, &self.dice);
        host.repo.put_fresh(&name.key(), bytes).await.expect("put");
        if there().await { Ended::Stored(name) } else { Ended::Failed(name) }
    }

    /// A whole run in no time.
    pub async fn backup(&self, host: &Vault, source: &SourceName) -> SnapshotName {
        let run = self.begin(host, source).await;
        match self.commit(host, run, None).await {
            Ended::Stored(name) => name,
            other => panic!("a run alone: {other:?}"),
        }
    }

    pub async fn mark(&self, host: &Vault, name: &SnapshotName, kind: MarkKind) {
        let catalog = host.catalog(&name.source).await.expect("catalog");
        let Some(front) = catalog.front(&name.id) else { return };
        let signer = host.signer.as_ref().expect("a signer");
        let facts = Mark {
            source: name.source.clone(),
            snapshot: name.id,
            kind,
            root: front.facts.root,
            at: host.env.clock.now(),
            releases: None,
            evidence: serde_json::json!({}),
        };
        let signing = Signing { key: signer, id: host.repo.fresh_id(&self.dice) };
        host.repo.put_mark(facts, catalog.next_mark(&signer.public()).expect("a place"), signing).await.expect("mark");
    }

    pub async fn newest_prune(&self) -> Prune {
        let head = self.first.repo.newest_prune().await.expect("the records are whole");
        head.map_or_else(
            || Prune { at: self.first.env.clock.now(), sources: Vec::new(), streams: Vec::new() },
            |head| head.record.facts,
        )
    }

    /// Every manifest in the store, with the packs it needs.
    pub async fn manifests(&self, source: &SourceName) -> BTreeMap<SnapshotName2, Vec<ObjectId>> {
        let mut all = BTreeMap::new();
        for (name, _) in self.first.repo.snapshot_names(source).await.expect("names") {
            let manifest = self.first.repo.manifest(&name).await.expect("a whole manifest");
            let needs = manifest.table.refs().iter().map(|r| r.object).collect();
            all.insert((name.sequence, name.id), needs);
        }
        all
    }

    pub fn keys(&self) -> BTreeSet<Key> {
        self.store.dump().into_keys().collect()
    }

    pub fn packs(&self, source: &SourceName) -> BTreeSet<ObjectId> {
        self.keys().iter().filter_map(|key| keys::parse_pack(source, key)).collect()
    }
}

pub type SnapshotName2 = (Sequence, ObjectId);

/// The ids of the condemned snapshots of a source.
pub fn condemned(prune: &Prune, source: &SourceName) -> BTreeSet<ObjectId> {
    let batches = prune.sources.iter().filter(|s| s.source == *source).flat_map(|s| &s.pending);
    batches.flat_map(|batch| batch.snapshots.iter().map(|s| s.id)).collect()
}

pub fn env(hands: &Hands, dice: &Dice) -> Env {
    Env {
        clock: Arc::new(hands.clone()),
        random: Arc::new(dice.clone()),
        disk: Arc::new(OsDisk),
        events: Arc::new(|_| {}),
        cancel: Cancel::default(),
        threads: 1,
    }
}

pub async fn apply(host: &Vault, rules: &[SourceRules]) -> Result<RetainReport, OpsError> {
    retain::apply(host, rules).await
}

fn manifest(run: &Run, keep: Option<Keep>) -> facts::Manifest {
    facts::Manifest {
        source: run.source.clone(),
        branch: BranchNo::FIRST,
        position: Position::new(run.chain.sequence.get()),
        taken: run.taken,
        engine: Engine::Sqlite,
        root: Digest::from_bytes([7; 32]),
        length: ByteLen::new(4096),
        added: ByteLen::new(100),
        quality: Quality::Whole,
        label: None,
        keep,
        imported: false,
        following: None,
        rewritten: None,
    }
}

fn sealed() -> SealedManifest {
    let fingerprint = FingerprintFacts {
        id: backstay_model::FingerprintKeyId::from_bytes([1; 16]),
        key: Digest::from_bytes([2; 32]),
    };
    SealedManifest {
        fingerprint,
        host: "test".to_owned(),
        path: "/shop.db".to_owned(),
        streams: Vec::new(),
        engine: serde_json::json!({}),
        opening: None,
    }
}
