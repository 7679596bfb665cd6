//! What a list asks of a store: of what it knows, nothing; of what is new, all of it.

mod world;

use async_trait::async_trait;
use backstay_format::facts::Mark;
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::checking::Select;
use backstay_ops::State;
use backstay_ops::catalog::{Catalog, Vault};
use backstay_ops::check::{CheckRequest, Depth, Holes, Scope, check_within};
use backstay_ops::disk::OsDisk;
use backstay_store::memory::MemoryStore;
use backstay_store::meter::{Meter, Reading};
use backstay_store::remember::{Remembered, Verified};
use backstay_store::repo::{Repository, Signing};
use backstay_store::{Key, Put, Store, StoreError, keys};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Notify;
use world::{Hands, World, env, source};

async fn world(store: Arc<dyn Store>) -> World {
    let world = World::over(tempfile::tempdir().expect("a folder"), store, Arc::new(OsDisk)).await;
    world.sql("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO item VALUES (1, 'one')");
    world.backup().await.expect("a backup");
    world
}

/// The same repository and keys, as another process has them.
async fn beside(world: &World, store: Arc<dyn Store>) -> Vault {
    let repo = Repository::open(store, world.vault.repo.root(), None).await.expect("opens");
    let state = world.vault.state.clone();
    Vault { repo, state, signer: world.vault.signer.clone(), unsealer: None, env: env(Arc::new(OsDisk)) }
}

/// Marks a source's newest snapshot.
async fn mark(vault: &Vault, kind: MarkKind) {
    let catalog = vault.catalog(&source()).await.expect("a catalog");
    put(vault, &catalog, kind).await;
}

async fn put(vault: &Vault, catalog: &Catalog, kind: MarkKind) {
    let signer = vault.signer.as_ref().expect("a signer");
    let chain = catalog.next_mark(&signer.public()).expect("a place");
    let snapshot = &catalog.snapshots[0];
    let facts = Mark {
        source: source(),
        snapshot: snapshot.id,
        kind,
        root: snapshot.root,
        at: vault.env.clock.now(),
        releases: None,
        evidence: serde_json::json!({}),
    };
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    vault.repo.put_mark(facts, chain, signing).await.expect("a mark");
}

/// A list as the command makes it, with what it asked for.
async fn list(world: &World, store: Arc<dyn Store>, memory: &mut Vec<u8>) -> (Catalog, Reading) {
    let meter = Arc::new(Meter::new(store));
    let remembered = Arc::new(Remembered::new(meter.clone()));
    let vault = beside(world, remembered.clone()).await;
    remembered.load(memory, &source(), vault.seal());
    let catalog = vault.newest(&source(), Some(1000), &remembered).await.expect("a list");
    assert!(catalog.mark_faults.is_empty() && catalog.broken.is_empty());
    let (keys, source) = (catalog.verified_keys(&source()), source());
    memory.extend(remembered.verified(Verified { keys: &keys, source: &source, height: catalog.noticed }));
    (catalog, meter.read())
}

/// Once the marks of a source filled eleven pages, a list asked for eleven pages.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_costs_the_same_whatever_the_history() {
    let store = Arc::new(MemoryStore::new());
    let world = world(store.clone()).await;
    let mut memory = Vec::new();
    mark(&world.vault, MarkKind::Proven).await;
    list(&world, store.clone(), &mut memory).await;
    let few = list(&world, store.clone(), &mut memory).await.1.calls();
    for _ in 0..2300 {
        put_in_chain(&world.vault).await;
    }
    list(&world, store.clone(), &mut memory).await;
    let (catalog, asked) = list(&world, store.clone(), &mut memory).await;
    assert_eq!((catalog.marks.len(), catalog.snapshots[0].is_proven()), (2301, true));
    // Configuration, notices, prune records and snapshots by name, and the configuration itself.
    assert_eq!((few, asked.calls()), (5, 5), "{asked:?}");
    let before = memory.len();
    list(&world, store.clone(), &mut memory).await;
    assert_eq!(memory.len(), before, "nothing new is nothing to write down");
    mark(&world.vault, MarkKind::Quarantined).await;
    let (catalog, asked) = list(&world, store, &mut memory).await;
    assert!(catalog.snapshots[0].is_quarantined());
    assert_eq!(asked.calls(), 6, "and the one that is new: {asked:?}");
}

/// A check as the command makes it on some day, with what it asked for.
async fn checked(world: &World, store: Arc<dyn Store>, clock: &Arc<Hands>) -> (bool, u64) {
    let meter = Arc::new(Meter::new(store));
    let mut vault = beside(world, meter.clone()).await;
    vault.env.clock = clock.clone();
    let request = CheckRequest { source: source(), snapshot: None, depth: Depth::Intact };
    let scope = Scope { select: Select::Newest { budget: 1 << 30 }, holes: Holes::Damage };
    let report = check_within(&vault, &request, scope).await.expect("a report");
    (report.problems.is_empty(), meter.read().calls())
}

/// A check read every mark every time, ten thousand of them one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_reads_the_marks_it_knows_in_turns() {
    let store = Arc::new(MemoryStore::new());
    let world = world(store.clone()).await;
    for _ in 0..600 {
        put_in_chain(&world.vault).await;
    }
    let clock = Arc::new(Hands::default());
    let first = checked(&world, store.clone(), &clock).await;
    let second = checked(&world, store.clone(), &clock).await;
    println!("{} requests, then {}", first.1, second.1);
    assert!(first.0 && first.1 > 600, "what is new is read: {first:?}");
    assert!(second.0 && second.1 < 100, "what is known is not, but for those whose turn it is: {second:?}");
    // Whatever happens to one is found when its turn comes.
    let marks = store.list(&keys::mark_prefix(&source()), None, 1000).await.expect("marks").entries;
    let bad = &marks[marks.len() / 2].key;
    store.delete(bad).await.expect("deleted");
    store.put_new(bad, Bytes::from_static(b"rubbish")).await.expect("put");
    let mut days = Vec::new();
    for day in 0..17 {
        if !checked(&world, store.clone(), &clock).await.0 {
            days.push(day);
        }
        clock.pass(86_400);
    }
    let found = days.first().copied().expect("on one day of seventeen");
    assert!(days == (found..17).collect::<Vec<_>>(), "and from then on: {days:?}");
    let all = CheckRequest { source: source(), snapshot: None, depth: Depth::Intact };
    let report = check_within(&beside(&world, store.clone()).await, &all, Scope::EVERYTHING).await.expect("a report");
    assert!(!report.problems.is_empty(), "and a check of everything reads everything");
}

/// One after the other, without reading them all each time.
async fn put_in_chain(vault: &Vault) {
    let known = vault.repo.newest_names(&source(), 1).await.expect("names").remove(0);
    let front = vault.repo.manifest(&known).await.expect("a manifest").front;
    let signer = vault.signer.as_ref().expect("a signer");
    let facts = Mark {
        source: source(),
        snapshot: front.name.id,
        kind: MarkKind::Proven,
        root: front.facts.root,
        at: vault.env.clock.now(),
        releases: None,
        evidence: serde_json::json!({}),
    };
    // Two runs of one signer may begin alike; that many are no matter either.
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    vault.repo.put_mark(facts, backstay_store::repo::Chain::START, signing).await.expect("a mark");
}

/// Holds the first notice that comes by until it is told to let it go.
struct Gate {
    inner: Arc<MemoryStore>,
    came: Notify,
    go: Notify,
    passed: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Store for Gate {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let first = || !self.passed.swap(true, std::sync::atomic::Ordering::SeqCst);
        if keys::noticed(key).is_some() && first() {
            self.came.notify_one();
            self.go.notified().await;
        }
        self.inner.put_new(key, bytes).await
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

/// A run looked where its notice goes, was paused, and others went on: what everybody has read past by then would
/// never be looked at again.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_was_overtaken_is_noticed_all_the_same() {
    let store = Arc::new(MemoryStore::new());
    let world = world(store.clone()).await;
    let gate =
        Arc::new(Gate { inner: store.clone(), came: Notify::new(), go: Notify::new(), passed: Default::default() });
    let paused = beside(&world, gate.clone()).await;
    let mut memory = Vec::new();
    let others = async {
        gate.came.notified().await;
        for _ in 0..3 {
            mark(&world.vault, MarkKind::Proven).await;
        }
        let (catalog, _) = list(&world, store.clone(), &mut memory).await;
        assert!(catalog.snapshots[0].is_proven() && !catalog.snapshots[0].is_quarantined());
        gate.go.notify_one();
    };
    tokio::join!(mark(&paused, MarkKind::Quarantined), others);
    let (catalog, asked) = list(&world, store, &mut memory).await;
    assert!(catalog.snapshots[0].is_quarantined(), "{asked:?}");
    assert_eq!(asked.calls(), 6, "and nothing was read twice for it: {asked:?}");
}

/// A memory that the store does not bear out is not gone on from.
#[tokio::test(flavor = "multi_thread")]
async fn notices_that_are_gone_are_made_up_for_by_the_marks() {
    let store = Arc::new(MemoryStore::new());
    let world = world(store.clone()).await;
    let mut memory = Vec::new();
    mark(&world.vault, MarkKind::Proven).await;
    list(&world, store.clone(), &mut memory).await;
    mark(&world.vault, MarkKind::Quarantined).await;
    for entry in store.list(&keys::notice_prefix(&source()), None, 10).await.expect("list").entries {
        store.delete(&entry.key).await.expect("deleted");
    }
    let (catalog, _) = list(&world, store.clone(), &mut memory).await;
    assert!(catalog.snapshots[0].is_quarantined() && catalog.noticed.is_none());
    // And the other way round: stopped between the notice and the mark.
    mark(&world.vault, MarkKind::Pinned).await;
    for entry in store.list(&keys::mark_prefix(&source()), None, 10).await.expect("list").entries {
        if entry.key.as_str().contains("/pinned-") {
            store.delete(&entry.key).await.expect("deleted");
        }
    }
    let (catalog, _) = list(&world, store, &mut Vec::new()).await;
    assert!(catalog.snapshots[0].has(MarkKind::Pinned), "it is signed, and was to be put");
}

/// Two copies of a repository that both went on: what is known of one is not known of the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_one_copy_is_not_taken_for_the_other() {
    let store = Arc::new(MemoryStore::new());
    let world = world(store.clone()).await;
    mark(&world.vault, MarkKind::Proven).await;
    let other = Arc::new(store.fork());
    let mut memory = Vec::new();
    let mut elsewhere = beside(&world, other.clone()).await;
    elsewhere.state =
        State::open(Arc::new(OsDisk), &world.dir().join("elsewhere"), elsewhere.repo.id()).expect("state");
    mark(&elsewhere, MarkKind::Quarantined).await;
    for vault in [&world.vault, &elsewhere] {
        for _ in 0..2 {
            mark(vault, MarkKind::Proven).await;
        }
    }
    let (catalog, _) = list(&world, store, &mut memory).await;
    assert!(catalog.noticed.is_some() && !catalog.snapshots[0].is_quarantined());
    let remembered = Remembered::new(other);
    remembered.load(&memory, &source(), world.vault.seal());
    let known = remembered.known_marks(&source()).expect("of the one");
    assert!(elsewhere.repo.mark_names_since(&source(), &known).await.expect("listed").is_none());
}

/// How often marks were read, of everything that went through.
struct MarksRead {
    inner: Arc<MemoryStore>,
    count: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl Store for MarksRead {
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        let is_mark = key.as_str().starts_with("ctl/mark/");
        self.count.fetch_add(usize::from(is_mark), std::sync::atomic::Ordering::SeqCst);
        self.inner.get(key).await
    }

    backstay_testkit::forward!(inner: put_new get_range head list delete describe);
}

/// Once a restore and a proof read every mark that was ever put, each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_and_a_proof_read_the_marks_that_are_new() {
    let store = Arc::new(MarksRead { inner: Arc::new(MemoryStore::new()), count: Default::default() });
    let world = world(store.clone()).await;
    for _ in 0..150 {
        put_in_chain(&world.vault).await;
    }
    let read = || store.count.swap(0, std::sync::atomic::Ordering::SeqCst);
    let restore = async |name: &str| world.restore(Target::Latest, &world.dir().join(name)).await.expect("restore");
    read();
    restore("blank.db").await;
    assert_eq!(read(), 150, "a blank host reads them all, once");
    restore("again.db").await;
    assert_eq!(read(), 0, "and then none");
    mark(&world.vault, MarkKind::Pinned).await;
    read();
    restore("new.db").await;
    assert_eq!(read(), 1, "but the one that is new");
    let report = world.backup().await.expect("a backup");
    read();
    world.prove(&report).await.expect("a proof");
    assert_eq!(read(), 0, "a proof neither");
    restore("proven.db").await;
    assert_eq!(read(), 1, "the proof's own mark");
    // A quarantine that somebody else put is not missed.
    mark(&world.vault, MarkKind::Quarantined).await;
    let restored = restore("before.db").await;
    assert_ne!(restored.plan.snapshot, report.snapshot, "the newest is quarantined");
}
