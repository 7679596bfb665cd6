//! Copies of a repository: what they hold, what they must never hold, and that stopping one anywhere
//! leaves a repository whose every manifest restores.

mod world;

use backstay_model::catalog::Target;
use backstay_model::prune::Doubt;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ObjectId, Ranges, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckRequest, Depth, check};
use backstay_ops::copy::{Act, CopyReport, CopyRequest, Destination, Reread, copy};
use backstay_ops::init;
use backstay_ops::restore::{self, RestoreRequest};
use backstay_ops::retain::{self, DropRequest, SourceRules};
use backstay_ops::{OpsError, State};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::memory::MemoryStore;
use backstay_store::repo::Repository;
use backstay_store::seal::Unsealer;
use backstay_store::{Key, Store, keys};
use backstay_testkit::effects::{Effects, stop_at_every_effect};
use backstay_testkit::fault_store::FaultStore;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use world::{World, source};

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO t SELECT i, hex(randomblob(200)) FROM n;";
const CHANGE: &str = "UPDATE t SET x = hex(randomblob(200)) WHERE id % 50 = 7";

/// A world with snapshots, the last of them proven, and what each restores to.
struct Original {
    world: World,
    taken: Vec<(ObjectId, String)>,
}

impl Original {
    async fn new(snapshots: usize) -> Self {
        let mut original = Self { world: World::new().await, taken: Vec::new() };
        original.world.sql(ROWS);
        for n in 0..snapshots {
            if n > 0 {
                original.world.sql(CHANGE);
            }
            original.backup().await;
        }
        original
    }

    async fn backup(&mut self) {
        let report = self.world.backup().await.expect("stored");
        self.world.prove(&report).await.expect("proven");
        self.taken.push((report.snapshot, self.world.rows()));
    }

    fn destination(&self, store: Arc<dyn Store>) -> Destination {
        Destination { store, state_root: self.world.dir().join("state-of-copy") }
    }

    async fn copy(&self, to: &Destination) -> Result<CopyReport, OpsError> {
        copy(&self.world.vault, to, &request()).await
    }

    /// The original as another process would open it, over this store.
    async fn vault_over(&self, store: Arc<dyn Store>, state: &str) -> Result<Vault, OpsError> {
        let own = &self.world.vault;
        let repo = Repository::open(store, own.repo.root(), None).await?;
        let state = State::open(own.env.disk.clone(), &self.world.dir().join(state), repo.id())?;
        let keys = init::read_keys(&self.world.dir().join("backstay.key"))?.expect("a key file");
        let unsealer = keys.identity.map(Unsealer::new);
        Ok(Vault { repo, state, signer: keys.signer, unsealer, env: own.env.clone() })
    }

    /// Every snapshot a store has restores to what it was taken of; how many those are.
    async fn all_restore(&self, store: Arc<dyn Store>) -> usize {
        let vault = self.vault_over(store, "state-of-judge").await.expect("open");
        let catalog = backstay_ops::catalog::Catalog::gather(&vault.repo, &source()).await.expect("catalog");
        assert!(catalog.broken.is_empty() && catalog.mark_faults.is_empty(), "{:?}", catalog.mark_faults);
        let folder = tempfile::tempdir().expect("a folder");
        for snapshot in &catalog.snapshots {
            let rows = &self.taken.iter().find(|(id, _)| *id == snapshot.id).expect("one of ours").1;
            let out = folder.path().join(snapshot.id.to_string());
            restore_to(&vault, Target::Id(snapshot.id.to_string()), &out).await;
            assert_eq!(world::rows_of(&out), *rows);
        }
        catalog.snapshots.len()
    }
}

async fn restore_to(vault: &Vault, target: Target, out: &Path) {
    let into = restore::Destination::New(out.to_owned());
    let request = RestoreRequest { source: source(), target, into, smoke: Vec::new(), busy: Duration::from_secs(5) };
    let planned = restore::plan(vault, request).await.expect("a plan");
    restore::perform(vault, planned).await.expect("restored");
}

fn request() -> CopyRequest {
    CopyRequest {
        act: Act::Copy,
        reread: Reread::Nothing,
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        in_flight: NonZeroU32::new(3).expect("not zero"),
    }
}

async fn contents(store: &dyn Store) -> BTreeMap<Key, bytes::Bytes> {
    let mut all = BTreeMap::new();
    for entry in store.list("", None, 10_000).await.expect("list").entries {
        all.insert(entry.key.clone(), store.get(&entry.key).await.expect("get"));
    }
    all
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

async fn pack_of_its_own(original: &Original, id: ObjectId) -> Key {
    let vault = &original.world.vault;
    let catalog = vault.catalog(&source()).await.expect("catalog");
    let mut of_others = Vec::new();
    let mut own = Vec::new();
    for snapshot in &catalog.snapshots {
        let name = &catalog.front(&snapshot.id).expect("listed").name;
        let manifest = vault.repo.manifest(name).await.expect("a manifest");
        let refs = manifest.table.refs().iter().map(|r| r.object);
        if snapshot.id == id { own.extend(refs) } else { of_others.extend(refs) }
    }
    let pack = own.iter().find(|object| !of_others.contains(object)).expect("a pack of its own");
    keys::pack(&source(), pack)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_holds_the_same_bytes_and_restores_when_the_original_is_gone() {
    let mut original = Original::new(3).await;
    let folder = original.world.dir().join("copy");
    let to = original.destination(Arc::new(LocalStore::open(&folder, OpenMode::Create).expect("a store")));
    let first = original.copy(&to).await.expect("copied");
    assert_eq!(first.verdict, Verdict::Pass, "{:?}", first.problems);
    assert_eq!((first.sources[0].copied, first.sources[0].missing), (3, 0));
    assert_eq!(first.sources[0].newest, Some(original.taken[2].0));
    let here = contents(original.world.vault.repo.store().as_ref()).await;
    assert!(contents(to.store.as_ref()).await == here, "byte for byte, and nothing else");
    assert_eq!(first.objects as usize, here.len());

    let again = original.copy(&to).await.expect("nothing to do");
    assert_eq!((again.verdict, again.objects, again.sources[0].copied), (Verdict::Pass, 0, 0));
    original.world.sql(CHANGE);
    original.backup().await;
    let later = original.copy(&to).await.expect("copied");
    assert_eq!((later.sources[0].copied, later.sources[0].snapshots), (1, 4));
    let compared = copy(&original.world.vault, &to, &CopyRequest { act: Act::Compare, ..request() }).await;
    assert_eq!(compared.expect("compared").verdict, Verdict::Pass);

    std::fs::remove_dir_all(original.world.dir().join("vault")).expect("the original is gone");
    assert_eq!(original.all_restore(to.store.clone()).await, 4);
    let vault = original.vault_over(to.store.clone(), "state-of-copy").await.expect("a repository of its own");
    let request = CheckRequest { source: source(), snapshot: None, depth: Depth::Authentic };
    assert_eq!(check(&vault, &request).await.expect("a report").verdict, Verdict::Pass);
    assert!(vault.catalog(&source()).await.expect("catalog").snapshots[0].is_proven(), "marks came along");
}

/// Both stores stop at every verb, each before and after it took effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_stopped_anywhere_restores_what_it_names_and_goes_on() {
    let original = Original::new(2).await;
    let bare = original.world.vault.repo.store().clone();
    let whole = contents(bare.as_ref()).await;
    let one = CopyRequest { in_flight: NonZeroU32::MIN, ..request() };
    let sweep = stop_at_every_effect("copy", 500, async |effects: Effects| {
        let there = memory();
        let over = |inner: Arc<dyn Store>| Arc::new(FaultStore::new(inner).with_effects(effects.clone()));
        let _ = std::fs::remove_dir_all(original.world.dir().join("state-of-copy"));
        let result = async {
            let vault = original.vault_over(over(bare.clone()), "state-of-copier").await?;
            copy(&vault, &original.destination(over(there.clone())), &one).await
        };
        let result = result.await;
        let done = effects.stopped().is_none();
        assert_eq!(result.is_ok(), done, "a copy that stopped does not say that it is done: {result:?}");
        let held = there.dump();
        assert!(held.iter().all(|(key, bytes)| whole.get(key) == Some(bytes)), "nothing there is other than here");
        if held.keys().any(|key| key.as_str().starts_with(keys::CONF_PREFIX)) {
            original.all_restore(there.clone()).await;
        } else {
            assert!(held.is_empty(), "the configuration comes first");
        }
        let next = original.copy(&original.destination(there.clone())).await.expect("the next run");
        assert_eq!((next.verdict, next.sources[0].snapshots), (Verdict::Pass, 2), "{:?}", next.problems);
        assert!(there.dump() == whole, "and goes on to the end");
        if done {
            assert_eq!(next.objects, 0, "what was told is there");
        }
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store get range", "store list"]);
    sweep.assert_stopped_at(&["store put, not applied", "store put, applied"]);
    assert!(contents(bare.as_ref()).await == whole, "the original is only read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_verification_is_never_copied_and_the_others_go_on() {
    for damage in ["flipped", "cut", "gone", "exchanged"] {
        let original = Original::new(3).await;
        let bad = original.taken[1].0;
        let key = pack_of_its_own(&original, bad).await;
        let path = original.world.dir().join("vault").join(key.as_str());
        let mut bytes = std::fs::read(&path).expect("read");
        let middle = bytes.len() / 2;
        match damage {
            "flipped" => bytes[middle] ^= 1,
            "cut" => bytes.truncate(middle),
            "exchanged" => {
                let other = pack_of_its_own(&original, original.taken[2].0).await;
                bytes = std::fs::read(original.world.dir().join("vault").join(other.as_str())).expect("read");
            }
            _ => bytes.clear(),
        }
        std::fs::remove_file(&path).expect("remove");
        if damage != "gone" {
            std::fs::write(&path, bytes).expect("write");
        }
        let there = memory();
        let to = original.destination(there.clone());
        let report = original.copy(&to).await.expect("the others go on");
        assert_eq!(report.verdict, Verdict::Partial, "{damage}");
        assert_eq!((report.sources[0].copied, report.sources[0].missing), (2, 1), "{damage}");
        assert!(report.problems.len() == 1 && report.problems[0].object == key.as_str(), "{:?}", report.problems);
        assert_eq!(report.problems[0].snapshots, [bad]);
        let held = there.dump();
        assert!(!held.contains_key(&key), "{damage}: what is not what was signed is not handed on");
        assert!(!held.keys().any(|k| k.as_str().ends_with(&bad.to_string())), "{damage}: nor is its manifest");
        assert_eq!(original.all_restore(there).await, 2, "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_reread_when_asked_and_what_it_lost_is_put_again() {
    let original = Original::new(2).await;
    let folder = original.world.dir().join("copy");
    let to = original.destination(Arc::new(LocalStore::open(&folder, OpenMode::Create).expect("a store")));
    original.copy(&to).await.expect("copied");
    let key = pack_of_its_own(&original, original.taken[1].0).await;
    let path = folder.join(key.as_str());
    let whole = std::fs::read(&path).expect("read");
    let mut bad = whole.clone();
    bad[0] ^= 1;
    std::fs::write(&path, &bad).expect("write");
    let all = CopyRequest { reread: Reread::Everything, ..request() };
    let vault = &original.world.vault;
    let report = copy(vault, &to, &all).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Partial);
    assert!(report.problems[0].what.starts_with("in the copy: "), "{:?}", report.problems);
    assert_eq!(std::fs::read(&path).expect("read"), bad, "nothing is overwritten");
    let comparing = CopyRequest { act: Act::Compare, ..all };
    assert_eq!(copy(vault, &to, &comparing).await.expect("a report").verdict, Verdict::Fail);

    std::fs::remove_file(&path).expect("remove");
    let compared = copy(vault, &to, &CopyRequest { act: Act::Compare, ..request() }).await.expect("a report");
    assert_eq!(compared.verdict, Verdict::Fail, "a listing is enough to miss it: {:?}", compared.problems);
    assert!(!path.exists(), "comparing writes nothing");
    let all = CopyRequest { reread: Reread::Everything, ..request() };
    assert_eq!(copy(vault, &to, &all).await.expect("a report").verdict, Verdict::Pass);
    assert_eq!(std::fs::read(&path).expect("read"), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_no_copy_of_this_repository_is_not_written_to() {
    let original = Original::new(1).await;
    let other = Original::new(1).await;
    // Another repository, and a folder with somebody's files.
    let others = other.world.vault.repo.store().clone();
    let before = contents(others.as_ref()).await;
    original.copy(&original.destination(others.clone())).await.expect_err("another repository");
    assert!(contents(others.as_ref()).await == before);
    let files = memory();
    files.put_new(&Key::parse("photos/cat.jpg").expect("a name"), "x".into()).await.expect("put");
    let error = original.copy(&original.destination(files.clone())).await.expect_err("somebody's files");
    assert!(matches!(error, OpsError::NotACopy { .. }), "{error}");
    assert_eq!(files.dump().len(), 1);
}

/// The disk of a copy that is not mounted is an empty folder on another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_empty_all_at_once_is_not_begun_anew() {
    let original = Original::new(1).await;
    original.copy(&original.destination(memory())).await.expect("copied");
    let empty = memory();
    let error = original.copy(&original.destination(empty.clone())).await.expect_err("it was there before");
    assert!(matches!(error, OpsError::NotACopy { .. }), "{error}");
    assert!(empty.dump().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_with_a_history_of_its_own_is_refused() {
    let mut original = Original::new(1).await;
    let folder = original.world.dir().join("copy");
    let to = original.destination(Arc::new(LocalStore::open(&folder, OpenMode::Create).expect("a store")));
    original.copy(&to).await.expect("copied");
    // Somebody backs up into the copy.
    let vault = original.vault_over(to.store.clone(), "state-of-another").await.expect("open");
    original.world.sql(CHANGE);
    backstay_ops::backup::backup(&vault, &original.world.request()).await.expect("stored there");
    let before = contents(to.store.as_ref()).await;
    let ahead = original.copy(&to).await.expect_err("it is newer than the original");
    assert!(matches!(ahead, OpsError::CopyRivals { .. }), "{ahead}");
    original.backup().await;
    let rivals = original.copy(&to).await.expect_err("both went on");
    assert!(matches!(rivals, OpsError::CopyRivals { .. }), "{rivals}");
    assert!(contents(to.store.as_ref()).await == before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_keeps_what_its_own_rules_keep() {
    let mut original = Original::new(3).await;
    let there = memory();
    let to = original.destination(there.clone());
    let last = |last| CopyRequest { policy: RetentionPolicy { last, ..RetentionPolicy::default() }, ..request() };
    let report = copy(&original.world.vault, &to, &last(1)).await.expect("copied");
    assert_eq!((report.verdict, report.sources[0].copied, report.sources[0].left_out), (Verdict::Pass, 1, 2));
    assert_eq!(original.all_restore(there.clone()).await, 1);
    original.backup().await;
    let report = copy(&original.world.vault, &to, &last(1)).await.expect("copied");
    assert_eq!((report.sources[0].snapshots, report.sources[0].left_out), (2, 2), "it removes nothing itself");
    // Its retention frees the older one; the next run does not bring it back.
    let older = there.dump().into_keys().find(|k| k.as_str().ends_with(&original.taken[2].0.to_string()));
    there.delete(&older.expect("a manifest")).await.expect("deleted");
    let report = copy(&original.world.vault, &to, &last(1)).await.expect("copied");
    assert_eq!((report.objects, report.sources[0].snapshots, report.sources[0].left_out), (0, 1, 3));
}

async fn pruned(vault: &Vault, days_grace: i64) -> retain::RetainReport {
    let rules = SourceRules {
        source: source(),
        policy: RetentionPolicy { last: 1, ..RetentionPolicy::default() },
        zone: TimeZone::UTC,
        grace_millis: days_grace * 86_400_000,
        log_millis: 0,
    };
    retain::apply(vault, &[rules]).await.expect("a report")
}

/// What the copy's rules left out and what the original had freed are no loss, and the copy says so itself: it is
/// pruned, checked and backed up into as it is. A snapshot that it had and lost stops its prune all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_with_less_than_the_original_is_a_repository_as_it_is() {
    let mut original = Original::new(5).await;
    let vault = &original.world.vault;
    let drop = DropRequest {
        source: source(),
        id: Some(original.taken[1].0.to_string()),
        missing: Ranges::default(),
        grace_millis: 0,
    };
    retain::drop(vault, &drop).await.expect("given up");
    let folder = original.world.dir().join("copy");
    let to = original.destination(Arc::new(LocalStore::open(&folder, OpenMode::Create).expect("a store")));
    let two = CopyRequest { policy: RetentionPolicy { last: 2, ..RetentionPolicy::default() }, ..request() };
    let report = copy(vault, &to, &two).await.expect("copied");
    assert_eq!((report.verdict, report.sources[0].copied, report.sources[0].left_out), (Verdict::Pass, 2, 2));
    assert_eq!((report.record, report.not_recorded), (Some(1), None));
    assert_eq!(copy(vault, &to, &two).await.expect("copied").record, None, "once is enough");

    // The original burns; a host that knows nothing takes the copy.
    let there = original.vault_over(to.store.clone(), "state-of-heir").await.expect("open");
    let everything = CheckRequest { source: source(), snapshot: None, depth: Depth::Authentic };
    assert_eq!(check(&there, &everything).await.expect("a report").verdict, Verdict::Pass, "no hole is unexplained");
    let plan = pruned(&there, 0).await;
    assert_eq!((plan.verdict, plan.sources[0].doubts.len()), (Verdict::Pass, 0), "{plan:?}");
    assert_eq!(plan.sources[0].deleted.snapshots, 1, "its rules keep one");
    original.world.sql(CHANGE);
    let next = backstay_ops::backup::backup(&there, &original.world.request()).await.expect("stored there");
    assert_eq!(next.sequence.get(), 6);
    original.taken.push((next.snapshot, original.world.rows()));
    assert_eq!(original.all_restore(to.store.clone()).await, 2);

    // What is really lost is not explained away.
    let names = there.repo.newest_names(&source(), 2).await.expect("names");
    to.store.delete(&names[1].key()).await.expect("deleted");
    let doubted = pruned(&there, 0).await;
    assert!(!doubted.sources[0].doubts.is_empty(), "{doubted:?}");
    assert_eq!(doubted.sources[0].deleted.packs, 0);
    assert_eq!(check(&there, &everything).await.expect("a report").verdict, Verdict::Fail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_lost_is_not_explained_by_the_next_copying() {
    let mut original = Original::new(3).await;
    let there = memory();
    let to = original.destination(there.clone());
    let last = |last| CopyRequest { policy: RetentionPolicy { last, ..RetentionPolicy::default() }, ..request() };
    assert_eq!(copy(&original.world.vault, &to, &last(2)).await.expect("copied").record, Some(1));
    // Somebody deletes what was sent; by now the rules would free it, and so the next run does not send it again.
    let lost = there.dump().into_keys().find(|k| k.as_str().ends_with(&original.taken[1].0.to_string()));
    there.delete(&lost.expect("a manifest")).await.expect("deleted");
    for _ in 0..2 {
        original.backup().await;
    }
    let report = copy(&original.world.vault, &to, &last(2)).await.expect("copied");
    assert_eq!((report.sources[0].missing, report.record), (0, None), "{report:?}");
    let heir = original.vault_over(to.store.clone(), "state-of-heir").await.expect("open");
    let doubts = &pruned(&heir, 1).await.sources[0].doubts;
    assert_eq!(*doubts, [Doubt::Hole { from: 2, to: 2 }]);
}

/// Without a keeper's key the copy is as good, and what it was left without is not said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_keeper_copies_and_says_that_it_could_not_say_it() {
    let original = Original::new(3).await;
    let store = original.world.vault.repo.store().clone();
    let plain =
        Vault { signer: None, unsealer: None, ..original.vault_over(store, "state-of-plain").await.expect("open") };
    let there = memory();
    let last = CopyRequest { policy: RetentionPolicy { last: 1, ..RetentionPolicy::default() }, ..request() };
    let report = copy(&plain, &original.destination(there.clone()), &last).await.expect("copied");
    assert_eq!((report.verdict, report.record, report.not_recorded.is_some()), (Verdict::Pass, None, true));
    assert!(!there.dump().keys().any(|key| key.as_str().starts_with(keys::PRUNE_PREFIX)));
    let all = CopyRequest { act: Act::Compare, ..request() };
    copy(&original.world.vault, &original.destination(there.clone()), &all).await.expect("compared");
    assert!(!there.dump().keys().any(|key| key.as_str().starts_with(keys::PRUNE_PREFIX)), "comparing writes nothing");
}
