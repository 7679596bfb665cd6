//! A prune and the writer that makes a bundle at once: each stopped, or held up, at every request while the other does
//! all it has to do. What is shown afterwards is what stands, whatever the bundles are by then.

mod history;

use async_trait::async_trait;
use backstay_model::catalog::MarkKind;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ObjectId, Sequence, SourceName};
use backstay_ops::OpsError;
use backstay_ops::bundles;
use backstay_ops::catalog::{Catalog, Vault};
use backstay_ops::retain::SourceRules;
use backstay_store::keys::{self, BundleName};
use backstay_store::memory::MemoryStore;
use backstay_store::remember::Remembered;
use backstay_store::{Key, Page, Put, Store, StoreError};
use backstay_testkit::effects::{Effects, stop_at_every_effect};
use backstay_testkit::fault_store::FaultStore;
use bytes::Bytes;
use history::{House, apply, condemned};
use jiff::tz::TimeZone;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// So many snapshots: the last of them makes one bundle of those of the others.
const HISTORY: u64 = 64;
/// So many stay.
const KEPT: u32 = 20;

fn source() -> SourceName {
    "shop".parse().expect("a legal name")
}

/// Who does what beside whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Prune,
    Bundle,
}

async fn act(who: Who, vault: &Vault) -> Result<(), OpsError> {
    match who {
        Who::Bundle => bundles::make(vault, &source(), Sequence::new(HISTORY)).await,
        Who::Prune => {
            let policy = RetentionPolicy { last: KEPT, ..Default::default() };
            let rules = SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis: 0 };
            apply(vault, &[rules]).await.map(drop)
        }
    }
}

/// A store whose caller is held up before its so-manieth request, while something else happens.
struct HeldUp {
    inner: MemoryStore,
    left: AtomicU64,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl HeldUp {
    fn ask(&self) -> &MemoryStore {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            let meanwhile = self.meanwhile.lock().expect("alone").take();
            meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        }
        &self.inner
    }
}

#[async_trait]
impl Store for HeldUp {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.ask().put_new(key, bytes).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.ask().get(key).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.ask().get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.ask().head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.ask().list(prefix, after, limit).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.ask().delete(key).await
    }

    backstay_testkit::forward!(inner: describe);
}

/// A history with its earlier bundles and some marks.
async fn history() -> House {
    let house = House::new(5).await;
    let host = house.host("writer", &house.hands).await;
    for n in 1..=HISTORY {
        let name = house.backup(&host, &source()).await;
        // Older ones would be kept for being proven.
        if n > HISTORY - u64::from(KEPT) && n % 4 == 1 {
            house.mark(&host, &name, MarkKind::Proven).await;
        }
        if n < HISTORY {
            bundles::make(&host, &source(), Sequence::new(n)).await.expect("a bundle");
        }
        house.hands.pass(history::HOUR);
    }
    house
}

/// One of them, on a host of its own that knows nothing yet.
async fn host(house: &House, who: Who, store: Arc<dyn Store>) -> Result<Vault, OpsError> {
    static HOSTS: AtomicU64 = AtomicU64::new(0);
    let name = format!("{who:?}-{}", HOSTS.fetch_add(1, Ordering::SeqCst)).to_lowercase();
    house.host_over(&name, &house.hands, store).await
}

/// Compares what a blank host lists with what stands, and says which bundles there are.
async fn judge(house: &House, store: &MemoryStore) -> Vec<(u64, u64)> {
    let store = Arc::new(store.fork());
    let remembered = Arc::new(Remembered::new(store.clone()));
    let blank = host(house, Who::Bundle, remembered.clone()).await.expect("open");
    let listed = blank.newest(&source(), None, &remembered).await.expect("a list");
    assert!(listed.broken.is_empty() && listed.mark_faults.is_empty(), "{:?}", listed.broken);
    let plain = host(house, Who::Bundle, store.clone()).await.expect("open");
    let catalog = Catalog::gather(&plain.repo, &source()).await.expect("a catalog");
    assert_eq!(listed.snapshots, catalog.snapshots);
    let head = plain.repo.newest_prune().await.expect("a record");
    let gone = head.map(|head| condemned(&head.record.facts, &source())).unwrap_or_default();
    let names = plain.repo.snapshot_names(&source()).await.expect("names");
    let mut stands: Vec<ObjectId> =
        names.into_iter().map(|(name, _)| name.id).filter(|id| !gone.contains(id)).collect();
    let mut shown: Vec<ObjectId> = listed.snapshots.iter().map(|snapshot| snapshot.id).collect();
    stands.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown, stands, "a list shows exactly what stands");
    let there = store.list(&keys::bundle_prefix(&source()), None, 100).await.expect("a listing").entries;
    let names = there.iter().map(|entry| BundleName::parse(&source(), &entry.key).expect("a bundle"));
    names.map(|name| (name.first.get(), name.last.get())).collect()
}

/// Then both once more: one bundle is left, and one more prune finds nothing.
async fn both_go_on(house: &House, store: &MemoryStore) {
    let store = Arc::new(store.fork());
    for who in [Who::Bundle, Who::Prune] {
        act(who, &host(house, who, store.clone()).await.expect("open")).await.expect("the next run");
    }
    assert_eq!(judge(house, &store).await, [(1, HISTORY)], "the largest has all that stands");
}

/// The first is held up before one request after the other.
async fn held_up(first: Who, second: Who) {
    let (house, mut seen) = (history().await, BTreeSet::new());
    for at in 0..1000 {
        let store =
            Arc::new(HeldUp { inner: house.store.fork(), left: AtomicU64::new(at), meanwhile: Mutex::default() });
        let (vault, other) = (host(&house, first, store.clone()).await, host(&house, second, store.clone()).await);
        let (vault, other) = (vault.expect("open"), other.expect("open"));
        // Opening is not what is held up.
        store.left.store(at, Ordering::SeqCst);
        *store.meanwhile.lock().expect("alone") = Some(Box::new(move || {
            let work = async { act(second, &other).await.expect("done meanwhile") };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
        }));
        act(first, &vault).await.expect("done in the end");
        let happened = store.meanwhile.lock().expect("alone").is_none();
        if seen.insert(judge(&house, &store.inner).await) {
            both_go_on(&house, &store.inner).await;
        }
        if !happened {
            println!("{first:?} held up for {second:?} before each of {at} requests");
            assert!(at > 10, "{at}");
            return;
        }
    }
    panic!("it never ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_held_up_anywhere_while_a_bundle_is_made_leaves_what_stands_to_be_shown() {
    held_up(Who::Prune, Who::Bundle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_held_up_anywhere_while_a_prune_runs_leaves_what_stands_to_be_shown() {
    held_up(Who::Bundle, Who::Prune).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_or_a_bundle_stopped_anywhere_before_the_other_leaves_what_stands_to_be_shown() {
    let (house, seen) = (history().await, Mutex::new(BTreeSet::new()));
    for (first, second) in [(Who::Prune, Who::Bundle), (Who::Bundle, Who::Prune)] {
        let sweep = stop_at_every_effect("one before the other", 2000, async |effects: Effects| {
            let store = Arc::new(house.store.fork());
            let stopping = FaultStore::new(store.clone()).with_effects(effects.clone());
            let done = match host(&house, first, Arc::new(stopping)).await {
                Ok(vault) => act(first, &vault).await,
                Err(error) => Err(error),
            };
            assert!(done.is_ok() || effects.stopped().is_some(), "{done:?}");
            // A keeper's turn that nobody gave back ends by itself.
            house.hands.pass(history::DAY);
            act(second, &host(&house, second, store.clone()).await.expect("open")).await.expect("the other");
            let bundles = judge(&house, &store).await;
            if seen.lock().expect("alone").insert(bundles) {
                both_go_on(&house, &store).await;
            }
        })
        .await;
        let own = if first == Who::Bundle { "store get range" } else { "store delete, applied" };
        sweep.assert_stopped_at(&[own, "store list", "store put, not applied", "store put, applied"]);
    }
}
