//! Bundles: what a host that knows nothing shows with them is what it shows without, for far fewer requests, whatever
//! somebody put into them.

mod rig;
mod world;

use backstay_format::facts::Mark;
use backstay_format::{bundle, object};
use backstay_model::catalog::{MarkKind, Snapshot, Target};
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ObjectId, Sequence, Verdict};
use backstay_ops::bundles;
use backstay_ops::catalog::{Catalog, Vault};
use backstay_ops::check::Depth;
use backstay_ops::copy::{Act, CopyReport, CopyRequest, Destination, Reread, copy};
use backstay_ops::disk::OsDisk;
use backstay_ops::retain::{self, SourceRules};
use backstay_ops::scrub::{ScrubRequest, scrub};
use backstay_ops::{OpsError, State};
use backstay_store::keys::{self, BundleName};
use backstay_store::memory::MemoryStore;
use backstay_store::meter::{Meter, Reading};
use backstay_store::remember::Remembered;
use backstay_store::repo::{Chain, Repository, Signing};
use backstay_store::{Key, Put, Store};
use backstay_testkit::effects::{Effects, stop_at_every_effect};
use backstay_testkit::fault_store::FaultStore;
use backstay_testkit::role_store::{self, RoleStore};
use bytes::Bytes;
use jiff::tz::TimeZone;
use rig::{Ended, Making, Process, Run, crash_anything};
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use world::{World, env, source};

/// So many snapshots, each with a mark: bundles of 1 to 64 and of 65 to 80, and three that no bundle has.
const HISTORY: u64 = 83;

/// A source in memory, each snapshot proven as soon as it is there.
async fn history(snapshots: u64) -> (Arc<MemoryStore>, World) {
    let store = Arc::new(MemoryStore::new());
    let world = World::over(tempfile::tempdir().expect("a folder"), store.clone(), Arc::new(OsDisk)).await;
    world.sql("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO item VALUES (1, 'one')");
    let mut chain = Chain::START;
    for _ in 0..snapshots {
        let report = world.backup().await.expect("a backup");
        assert_eq!(report.cache, None, "a bundle that was not written is told");
        let root = world.vault.repo.newest_fronts(&source(), 1).await.expect("a front").0[0].facts.root;
        chain = mark(&world.vault, (report.snapshot, root), MarkKind::Proven, chain).await;
    }
    (store, world)
}

type About = (backstay_model::ObjectId, backstay_model::Digest);

/// Puts a mark, and says where the next one stands.
async fn mark(vault: &Vault, (snapshot, root): About, kind: MarkKind, chain: Chain) -> Chain {
    let signer = vault.signer.as_ref().expect("a signer");
    let (at, evidence) = (vault.env.clock.now(), serde_json::json!({}));
    let facts = Mark { source: source(), snapshot, kind, root, at, releases: None, evidence };
    let id = vault.repo.fresh_id(vault.env.random.as_ref());
    vault.repo.put_mark(facts, chain, Signing { key: signer, id }).await.expect("a mark");
    let bytes = vault.repo.store().get(&keys::mark(&source(), &snapshot, kind, &id)).await.expect("the mark");
    let digest = object::Front::parse(&bytes).expect("a mark").digest;
    Chain::after(chain.sequence, digest).expect("a place")
}

/// What a host shows that has never been there, and what it asked for.
async fn blank(world: &World, store: Arc<dyn Store>, newest: Option<usize>) -> (Catalog, u64) {
    let (catalog, read) = blank_for(world, store, newest).await;
    (catalog, read.calls())
}

/// The same with all that it cost.
async fn blank_for(world: &World, store: Arc<dyn Store>, newest: Option<usize>) -> (Catalog, Reading) {
    let meter = Arc::new(Meter::new(store));
    let remembered = Arc::new(Remembered::new(meter.clone()));
    let repo = Repository::open(remembered.clone(), world.vault.repo.root(), None).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    let state = State::open(Arc::new(OsDisk), folder.path(), repo.id()).expect("state");
    let vault = Vault { repo, state, signer: None, unsealer: None, env: env(Arc::new(OsDisk)) };
    let catalog = vault.newest(&source(), newest, &remembered).await.expect("a list");
    (catalog, meter.read())
}

/// As the store says it itself, object by object.
async fn truth(world: &World) -> Vec<Snapshot> {
    Catalog::gather(&world.vault.repo, &source()).await.expect("a catalog").snapshots
}

async fn bundles_of(store: &dyn Store) -> Vec<BundleName> {
    let page = store.list(&keys::bundle_prefix(&source()), None, usize::MAX).await.expect("a listing");
    page.entries.iter().map(|entry| BundleName::parse(&source(), &entry.key).expect("a bundle")).collect()
}

fn spans(names: &[BundleName]) -> Vec<(u64, u64)> {
    names.iter().map(|name| (name.first.get(), name.last.get())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_host_reads_a_long_history_in_few_requests() {
    let (store, world) = history(HISTORY).await;
    let there = bundles_of(store.as_ref()).await;
    assert_eq!(spans(&there), [(65, 80), (1, 64), (33, 48), (17, 32), (1, 16)]);
    let (catalog, asked) = blank(&world, store.clone(), None).await;
    assert!(catalog.mark_faults.is_empty() && catalog.broken.is_empty());
    assert_eq!(catalog.snapshots, truth(&world).await);
    assert!(catalog.snapshots.iter().all(Snapshot::is_proven));
    // Configuration twice, snapshots, bundles and two of them, notices, marks, prune records; three fronts and three or four
    // marks that came after the last bundle.
    println!("{asked} requests");
    assert!(asked <= 16, "{asked} requests");
    let (newest, asked) = blank(&world, store.clone(), Some(20)).await;
    assert_eq!((newest.snapshots.len(), newest.older), (20, true));
    assert!(asked <= 16, "{asked} requests");
    // Without them the same is shown, one by one.
    for name in there {
        store.delete(&name.key()).await.expect("deleted");
    }
    let (without, asked) = blank(&world, store, None).await;
    assert_eq!(without.snapshots, catalog.snapshots);
    assert!(asked > 2 * HISTORY, "{asked} requests");
}

/// The items of a bundle, by name.
type Items = BTreeMap<String, Vec<u8>>;

async fn items(store: &dyn Store, name: &BundleName) -> Items {
    let bytes = store.get(&name.key()).await.expect("a bundle");
    let items = bundle::parse(&bytes).expect("a bundle");
    items.into_iter().map(|item| (item.name.to_owned(), item.bytes.to_vec())).collect()
}

/// Puts a bundle of these in the place of all there are.
async fn forge(store: &MemoryStore, (first, last): (u64, u64), items: &Items) {
    for name in bundles_of(store).await {
        store.delete(&name.key()).await.expect("deleted");
    }
    let bytes = bundle::encode(items.iter().map(|(name, bytes)| bundle::Item { name, bytes }));
    put(store, (first, last), (0, bytes.into())).await;
}

/// Puts anything as a bundle, beside what there is.
async fn put(store: &MemoryStore, (first, last): (u64, u64), (noticed, bytes): (u64, Bytes)) {
    let (first, last, digest) = (Sequence::new(first), Sequence::new(last), object::digest(&bytes));
    let name = BundleName { source: source(), first, last, noticed, digest };
    assert_eq!(store.put_new(&name.key(), bytes).await.expect("put"), Put::Created);
}

/// Whoever may write below `data/` may put a bundle.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_lies_hides_nothing_and_shows_nothing() {
    let (store, world) = history(32).await;
    let snapshot = truth(&world).await[9].clone();
    let chain = Catalog::gather(&world.vault.repo, &source()).await.expect("a catalog");
    let chain = chain.next_mark(&world.vault.signer.as_ref().expect("a signer").public()).expect("a place");
    mark(&world.vault, (snapshot.id, snapshot.root), MarkKind::Quarantined, chain).await;
    bundles::make(&world.vault, &source(), Sequence::new(32)).await.expect("a bundle");
    let truth = truth(&world).await;
    assert!(truth[9].is_quarantined());
    let newest = bundles_of(store.as_ref()).await.into_iter().max_by_key(|name| (name.last, name.noticed));
    let good = items(store.as_ref(), &newest.expect("a bundle")).await;
    let names: Vec<&String> = good.keys().collect();
    let (marks, fronts): (Vec<&String>, Vec<&String>) = names.into_iter().partition(|name| name.starts_with("ctl/"));
    assert!(marks.len() > 16 && fronts.len() == 16, "{} marks, {} fronts", marks.len(), fronts.len());
    let swapped = |of: &[&String]| {
        let mut items = good.clone();
        items.extend([(of[0].clone(), good[of[1]].clone()), (of[1].clone(), good[of[0]].clone())]);
        items
    };
    let mut invented = good.clone();
    invented.insert("data/shop/snap/ffffffffffffff00-07070707070707070707070707070707".into(), good[fronts[0]].clone());
    invented.insert("ctl/conf/0000000000000009".into(), b"a configuration".to_vec());
    let lies: Vec<(&str, Items)> = vec![
        ("rubbish", good.keys().map(|name| (name.clone(), b"rubbish".to_vec())).collect()),
        ("nothing", good.keys().map(|name| (name.clone(), Vec::new())).collect()),
        ("fronts in each other's place", swapped(&fronts)),
        ("marks in each other's place", swapped(&marks)),
        ("no quarantine", good.clone().into_iter().filter(|(name, _)| !name.contains("/quarantined-")).collect()),
        ("snapshots there are not", invented),
        ("empty", Items::new()),
    ];
    for (what, items) in lies {
        for span in [(17, 32), (1, u64::MAX - 1)] {
            forge(&store, span, &items).await;
            let (catalog, _) = blank(&world, store.clone(), None).await;
            assert_eq!(catalog.snapshots, truth, "{what}");
            assert!(catalog.mark_faults.is_empty() && catalog.broken.is_empty(), "{what}");
        }
    }
    // One whose bytes are not those of its name, and one that is no bundle.
    forge(&store, (17, 32), &good).await;
    let name = bundles_of(store.as_ref()).await.remove(0).key();
    store.delete(&name).await.expect("deleted");
    store.put_new(&name, Bytes::from_static(b"not what was put")).await.expect("put");
    assert_eq!(blank(&world, store.clone(), None).await.0.snapshots, truth);
    // What is wrong with the repository itself is no fault of a bundle's, and is shown with them as without.
    forge(&store, (17, 32), &good).await;
    let bad = keys::snapshot(&source(), Sequence::new(3), &truth[29].id);
    store.delete(&bad).await.expect("deleted");
    store.put_new(&bad, Bytes::from_static(b"rubbish")).await.expect("put");
    let (catalog, asked) = blank(&world, store.clone(), None).await;
    assert_eq!((catalog.broken.len(), catalog.snapshots.len()), (1, 31));
    assert!(asked < 60, "and what is good of them is not read twice: {asked}");
}

/// A bundle that brings nothing of what there is: marks of snapshots that are not, each as long as a mark may be.
fn rubbish(n: u64) -> Bytes {
    let id = |at: u64| ObjectId::from_bytes((u128::from(n) << 64 | u128::from(at)).to_be_bytes());
    let names = (0..2).map(|at| keys::mark(&source(), &id(at), MarkKind::Quarantined, &id(at)));
    let items: Items = names.map(|key| (key.to_string(), vec![7; 60_000])).collect();
    bundle::encode(items.iter().map(|(name, bytes)| bundle::Item { name, bytes })).into()
}

/// Whoever may write below `data/` may put as many as there is room for.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_full_of_forged_bundles_costs_a_bounded_amount() {
    const FORGED: u64 = 6000;
    let (store, world) = history(HISTORY).await;
    let good = bundles_of(store.as_ref()).await;
    let truth = truth(&world).await;
    let look = async || {
        let (catalog, cost) = blank_for(&world, store.clone(), None).await;
        assert_eq!(catalog.snapshots, truth);
        assert!(catalog.mark_faults.is_empty() && catalog.broken.is_empty());
        cost
    };
    let (with, mut kept) = (look().await, Vec::new());
    for name in &good {
        kept.push((name.key(), store.get(&name.key()).await.expect("a bundle")));
        store.delete(&name.key()).await.expect("deleted");
    }
    let without = look().await;
    let again = async || {
        for name in bundles_of(store.as_ref()).await {
            store.delete(&name.key()).await.expect("deleted");
        }
        for (key, bytes) in &kept {
            store.put_new(key, bytes.clone()).await.expect("put");
        }
    };
    let bodies = [rubbish(0), rubbish(1)];
    let (one, few) = (bodies[0].len() as u64, 16);
    // Of numbers nobody makes one of, and of snapshots that are not: the good ones are found all the same.
    again().await;
    for n in 0..FORGED {
        put(&store, (1, u64::MAX - 1 - n), (0, Bytes::from_static(b"rubbish"))).await;
    }
    for n in 100..100 + few {
        put(&store, (n * 16 + 1, n * 16 + 16), (u64::MAX, bodies[0].clone())).await;
    }
    let cost = look().await;
    assert!(cost.calls() <= with.calls() + FORGED / 1000 + few, "{} of {}", cost.calls(), with.calls());
    assert!(cost.bytes_received <= with.bytes_received + few * one);
    // In the place of the good ones, and so many that those are not looked at: what there is is read by itself.
    let alike = good.iter().flat_map(|name| [0_usize, 1].map(|n| ((name.first.get(), name.last.get()), n)));
    let above = (0..FORGED).map(|n| ((n * 16 + 4097, n * 16 + 4112), 0)).filter(|((_, last), _)| last % 64 != 0);
    let cases: [Vec<((u64, u64), usize)>; 3] = [alike.collect(), vec![((1, 1024), 0)], above.collect()];
    for forged in cases {
        again().await;
        for (span, n) in forged {
            put(&store, span, (0, bodies[n % 2].clone())).await;
        }
        let cost = look().await;
        assert!(cost.calls() <= without.calls() + FORGED / 1000 + few, "{} of {}", cost.calls(), without.calls());
        assert!(cost.bytes_received <= without.bytes_received + few * one);
    }
    // A height that nothing has yet hides no mark either: the next one is made without them.
    again().await;
    put(&store, (1, 16), (u64::MAX, bodies[0].clone())).await;
    bundles::make(&world.vault, &source(), Sequence::new(80)).await.expect("a bundle");
    assert!(look().await.calls() <= without.calls());
}

/// Copies a repository into an empty store.
async fn copied(world: &World, last: u32) -> Arc<MemoryStore> {
    let to = Arc::new(MemoryStore::new());
    copy_to(world, to.clone(), (last, Act::Copy)).await;
    to
}

async fn copy_to(world: &World, to: Arc<dyn Store>, (last, act): (u32, Act)) -> CopyReport {
    let report = try_copy(world, to, (last, act)).await.expect("a copy");
    assert_eq!((report.verdict, report.problems.len()), (Verdict::Pass, 0), "{report:?}");
    report
}

async fn try_copy(world: &World, store: Arc<dyn Store>, (last, act): (u32, Act)) -> Result<CopyReport, OpsError> {
    let folder = tempfile::tempdir().expect("a folder");
    let destination = Destination { store, state_root: folder.path().to_owned() };
    let policy = RetentionPolicy { last, ..Default::default() };
    let (reread, zone, in_flight) = (Reread::Nothing, TimeZone::UTC, NonZeroU32::MIN);
    copy(&world.vault, &destination, &CopyRequest { act, reread, policy, zone, in_flight }).await
}

/// A copy takes along the bundles that it can use.
#[tokio::test(flavor = "multi_thread")]
async fn a_blank_host_reads_a_copy_in_few_requests() {
    let (_, world) = history(HISTORY).await;
    let to = copied(&world, 0).await;
    assert_eq!(spans(&bundles_of(to.as_ref()).await), [(65, 80), (1, 64)], "the others are in the larger");
    let (catalog, asked) = blank(&world, to.clone(), None).await;
    assert_eq!(catalog.snapshots, truth(&world).await);
    assert!(asked <= 16, "{asked} requests");
    assert_eq!(copy_to(&world, to.clone(), (0, Act::Copy)).await.objects, 0, "nothing is put twice");
    let to = copied(&world, 10).await;
    assert_eq!(spans(&bundles_of(to.as_ref()).await), [(65, 80)], "nothing stands there of the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_no_bundle_along_in_which_anything_was_not_signed() {
    let (store, world) = history(17).await;
    let good = items(store.as_ref(), &bundles_of(store.as_ref()).await[0]).await;
    let (mark, front) = (good.keys().next().expect("a mark"), good.keys().next_back().expect("a front"));
    assert!(mark.starts_with("ctl/mark/") && front.starts_with("data/shop/snap/"), "{mark} {front}");
    let with = |name: &str, bytes: Vec<u8>| {
        let mut items = good.clone();
        items.insert(name.to_owned(), bytes);
        items
    };
    let longer = [good[front].as_slice(), &[0; 10_000]].concat();
    let forged = [
        ("more behind a front", (1, 16), with(front, longer)),
        ("rubbish for a mark", (1, 16), with(mark, b"rubbish".to_vec())),
        ("something else", (1, 16), with("data/shop/pack/07070707070707070707070707070707", b"rubbish".to_vec())),
        ("fronts of other numbers", (17, 32), good.clone()),
    ];
    for (what, span, items) in forged {
        forge(&store, span, &items).await;
        let to = copied(&world, 0).await;
        assert_eq!(bundles_of(to.as_ref()).await, [], "{what}");
        assert_eq!(copy_to(&world, to.clone(), (0, Act::Compare)).await.lacking, 0, "nobody misses it");
    }
    forge(&store, (1, 16), &good).await;
    assert_eq!(bundles_of(copied(&world, 0).await.as_ref()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copying_of_bundles_stopped_anywhere() {
    let (_, world) = history(17).await;
    let before = copied(&world, 0).await;
    let bundle = bundles_of(before.as_ref()).await.remove(0).key();
    before.delete(&bundle).await.expect("deleted");
    let truth = truth(&world).await;
    let sweep = stop_at_every_effect("copying a bundle", 500, async |effects: Effects| {
        let to = Arc::new(before.fork());
        let stopping = Arc::new(FaultStore::new(to.clone()).with_effects(effects.clone()));
        let done = try_copy(&world, stopping, (0, Act::Copy)).await;
        assert!(done.is_ok() || effects.stopped().is_some(), "{done:?}");
        assert_eq!(blank(&world, to.clone(), None).await.0.snapshots, truth);
        copy_to(&world, to.clone(), (0, Act::Copy)).await;
        let there: Vec<Key> = bundles_of(to.as_ref()).await.iter().map(BundleName::key).collect();
        assert!(there.len() == 1 && there[0] == bundle, "{there:?}");
    })
    .await;
    sweep.assert_stopped_at(&["store list", "store put, not applied", "store put, applied"]);
}

/// Of a thinned history a bundle brings what stands; a prune lets those go that bring nothing that another does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_deletes_the_bundles_that_are_of_no_more_use() {
    let (store, world) = history(HISTORY).await;
    let rules = |last| {
        let policy = RetentionPolicy { last, ..Default::default() };
        [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis: 0 }]
    };
    retain::apply(&world.vault, &rules(70)).await.expect("a prune");
    assert_eq!(
        spans(&bundles_of(store.as_ref()).await),
        [(65, 80), (1, 64)],
        "what a larger one has is not kept twice"
    );
    retain::apply(&world.vault, &rules(10)).await.expect("a prune");
    assert_eq!(spans(&bundles_of(store.as_ref()).await), [(65, 80)], "nothing stands of the older");
    let (catalog, _) = blank(&world, store.clone(), None).await;
    assert_eq!(catalog.snapshots, truth(&world).await);
    assert_eq!(catalog.snapshots.len(), 10);
    let again = retain::apply(&world.vault, &rules(10)).await.expect("a prune");
    assert_eq!(again.verdict, Verdict::Pass);
}

/// A bundle is nothing to anybody else: damaged or whole, a check, a scrub and a restore say the same.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_rests_on_a_bundle() {
    let (store, world) = history(16).await;
    let look = async || {
        let request = ScrubRequest { depth: Depth::Authentic, from: None };
        let report = scrub(&world.vault, &request).await.expect("a scrub");
        assert_eq!((report.verdict, report.unknown.len(), report.strays.len()), (Verdict::Pass, 0, 0), "{report:?}");
        report.kinds.iter().find(|kind| kind.kind == "bundle").map(|kind| kind.objects)
    };
    assert_eq!(look().await, Some(1));
    let name = bundles_of(store.as_ref()).await.remove(0).key();
    store.delete(&name).await.expect("deleted");
    store.put_new(&name, Bytes::from_static(b"rubbish")).await.expect("put");
    assert_eq!(look().await, Some(1), "a damaged one is nobody's loss");
    world.restore(Target::Latest, &world.dir().join("new.db")).await.expect("a restore");
    // And a writer, who may put below `data/` and nothing else, can make one.
    let writer = Arc::new(RoleStore::new(store.clone(), role_store::WRITER));
    let repo = Repository::open(writer.clone(), world.vault.repo.root(), None).await.expect("opens");
    let (state, signer) = (world.vault.state.clone(), world.vault.signer.clone());
    let vault = Vault { repo, state, signer, unsealer: None, env: env(Arc::new(OsDisk)) };
    store.delete(&name).await.expect("deleted");
    bundles::make(&vault, &source(), Sequence::new(16)).await.expect("a bundle");
    assert_eq!((writer.refused(), spans(&bundles_of(store.as_ref()).await)), (Vec::new(), vec![(1, 16)]));
    // The same once more is the same object.
    bundles::make(&vault, &source(), Sequence::new(16)).await.expect("a bundle");
    assert_eq!(bundles_of(store.as_ref()).await.len(), 1);
}

/// The backup before it is whole already, and whoever lists meanwhile or afterwards sees what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_a_bundle_stopped_anywhere() {
    let mut making = Making::database("WAL").repository().await;
    for _ in 0..16 {
        making = making.backed_up().await;
    }
    let before = making.done();
    let there = keys::bundle_prefix(&source());
    std::fs::remove_dir_all(before.dir().join("vault").join(&there)).expect("made by the sixteenth backup");
    let act = async |run: &Run, effects: Effects| -> Result<(), OpsError> {
        let process = Process::open(run.dir(), run.next(&effects), Some(&effects)).await?;
        bundles::make(&process.vault, &source(), Sequence::new(16)).await
    };
    let sweep = crash_anything("making a bundle", &before, act, async |run: &Run, ended: &Ended| {
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let store = process.vault.repo.store().clone();
        let made = store.list(&there, None, 10).await.expect("a listing").entries.len();
        assert!(made == 1 || made == 0 && !ended.done, "{made}");
        let plain = process.vault.catalog(&source()).await.expect("a catalog");
        let recalled = process.vault.recalled(&source(), None).await.expect("a list");
        assert_eq!((recalled.snapshots.len(), &recalled.snapshots), (16, &plain.snapshots));
        bundles::make(&process.vault, &source(), Sequence::new(16)).await.expect("once more");
        let listed = store.list(&there, None, 10).await.expect("a listing");
        let names: HashSet<Key> = listed.entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(names.len(), 1, "made twice it is the same");
    })
    .await;
    sweep.assert_stopped_at(&["store list", "store get range"]);
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied"]);
}
