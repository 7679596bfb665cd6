//! Scrub: what it finds, what it brings back from a copy, and what it must leave alone.

mod world;

use backstay_format::facts::Mark;
use backstay_model::catalog::MarkKind;
use backstay_model::retention::RetentionPolicy;
use backstay_model::scrub::Reason;
use backstay_model::{ObjectId, Verdict};
use backstay_ops::backup::BaseUse;
use backstay_ops::catalog::Vault;
use backstay_ops::check::Depth;
use backstay_ops::copy::{Act, CopyRequest, Destination, Reread, copy};
use backstay_ops::retain::{self, SourceRules};
use backstay_ops::scrub::{ScrubReport, ScrubRequest, StrayKind, scrub};
use backstay_ops::{OpsError, State};
use backstay_store::keys::{self, Place, Spare};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::{Chain, Repository, Signing};
use backstay_store::{Key, Store};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use world::{World, source};

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO t SELECT i, hex(randomblob(200)) FROM n;";
const CHANGE: &str = "UPDATE t SET x = hex(randomblob(200)) WHERE id % 50 = 7";

/// Three snapshots, all proven, and a copy of everything.
struct Pair {
    world: World,
    copy: Vault,
    snapshots: Vec<ObjectId>,
}

impl Pair {
    async fn new() -> Self {
        let world = World::new().await;
        let store = LocalStore::open(&world.dir().join("usb"), OpenMode::Create).expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        world.sql(ROWS);
        let mut snapshots = Vec::new();
        for n in 0..3 {
            if n > 0 {
                world.sql(CHANGE);
            }
            let report = world.backup().await.expect("stored");
            world.prove(&report).await.expect("proven");
            snapshots.push(report.snapshot);
        }
        send(&world, &store).await;
        let repo = Repository::open(store, world.vault.repo.root(), None).await.expect("the copy");
        let state = State::open(world.vault.env.disk.clone(), &world.dir().join("state-of-usb"), repo.id());
        let copy =
            Vault { repo, state: state.expect("state"), signer: None, unsealer: None, env: world.vault.env.clone() };
        Self { world, copy, snapshots }
    }

    async fn scrub(&self) -> ScrubReport {
        scrub(&self.world.vault, &ScrubRequest { depth: Depth::Authentic, from: None }).await.expect("a report")
    }

    async fn heal(&self) -> ScrubReport {
        let request = ScrubRequest { depth: Depth::Authentic, from: Some(&self.copy) };
        scrub(&self.world.vault, &request).await.expect("a report")
    }

    fn path(&self, key: &Key) -> std::path::PathBuf {
        self.world.dir().join("vault").join(key.as_str())
    }

    fn damage(&self, key: &Key) {
        let mut bytes = std::fs::read(self.path(key)).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(self.path(key), bytes).expect("write");
    }

    fn remove(&self, key: &Key) {
        std::fs::remove_file(self.path(key)).expect("remove");
    }

    async fn contents(&self) -> BTreeMap<Key, bytes::Bytes> {
        let store = self.world.vault.repo.store();
        let mut all = BTreeMap::new();
        for entry in store.list("", None, 10_000).await.expect("list").entries {
            // What a scrub says of itself.
            if !matches!(Place::of(&entry.key), Place::Lease(_) | Place::Audit(..)) {
                all.insert(entry.key.clone(), store.get(&entry.key).await.expect("get"));
            }
        }
        all
    }

    async fn key_of(&self, wanted: impl Fn(&Place) -> bool) -> Key {
        self.contents().await.into_keys().find(|key| wanted(&Place::of(key))).expect("one of that kind")
    }

    async fn manifest(&self, at: usize) -> Key {
        let id = self.snapshots[at];
        self.key_of(move |place| matches!(place, Place::Snapshot(name) if name.id == id)).await
    }
}

async fn send(world: &World, store: &Arc<dyn Store>) {
    let to = Destination { store: store.clone(), state_root: world.dir().join("state-of-sender") };
    let request = CopyRequest {
        act: Act::Copy,
        reread: Reread::Nothing,
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        in_flight: NonZeroU32::MIN,
    };
    assert_eq!(copy(&world.vault, &to, &request).await.expect("copied").verdict, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_repository_passes_and_what_nothing_needs_is_named() {
    let pair = Pair::new().await;
    let store = pair.world.vault.repo.store().clone();
    let stray = keys::pack(&source(), &ObjectId::from_bytes([9; 16]));
    store.put_new(&stray, "left by a run that died".into()).await.expect("put");
    let before = pair.contents().await;
    let report = pair.scrub().await;
    assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
    assert_eq!((report.strays.len(), report.strays[0].kind), (1, StrayKind::Young), "{:?}", report.strays);
    assert_eq!(report.strays[0].object, stray.as_str());
    let manifests = report.kinds.iter().find(|kind| kind.kind == "manifest").expect("manifests");
    assert_eq!((manifests.objects, report.unknown.len(), report.healed.len()), (3, 0, 0));
    assert!(pair.contents().await == before, "looking changes nothing");
    let healing = pair.heal().await;
    assert_eq!((healing.verdict, healing.healed.len()), (Verdict::Pass, 0));
    assert!(pair.contents().await == before, "nor does healing what is whole");
}

/// Everything that can be lost, one after the other: damaged and missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_has_comes_back_byte_for_byte() {
    let pair = Pair::new().await;
    let before = pair.contents().await;
    let (old, middle) = (pair.manifest(0).await, pair.manifest(1).await);
    let pack = pair.key_of(|place| matches!(place, Place::Pack(..))).await;
    let mark = {
        // One that a later mark of its signer follows.
        let marks = pair.world.vault.repo.marks(&source()).await.expect("marks").records;
        let first = marks.iter().min_by_key(|mark| mark.chain.sequence).expect("a mark");
        keys::mark(&source(), &first.facts.snapshot, first.facts.kind, &first.object)
    };
    type Loss = fn(&Pair, &Key);
    let losses: [(&Key, Loss, bool); 6] = [
        (&pack, Pair::damage, true),
        (&pack, Pair::remove, false),
        (&old, Pair::damage, true),
        (&old, Pair::remove, false),
        (&middle, Pair::damage, true),
        (&mark, Pair::remove, false),
    ];
    for (key, lose, replaced) in losses {
        lose(&pair, key);
        let found = pair.scrub().await;
        assert_ne!(found.verdict, Verdict::Pass, "{key}");
        assert!(found.healed.is_empty(), "without a copy nothing is touched");
        let healed = pair.heal().await;
        assert_eq!(healed.healed.len(), 1, "{key}: {healed:?}");
        assert_eq!((healed.healed[0].object.as_str(), healed.healed[0].replaced), (key.as_str(), replaced));
        assert_eq!((healed.verdict, healed.kept.len()), (Verdict::Pass, 0), "{key}: {healed:?}");
        let now = pair.contents().await;
        let changed = now.iter().filter(|(key, bytes)| before.get(*key) != Some(bytes)).map(|(key, _)| key);
        let marks = changed.clone().filter(|key| matches!(Place::of(key), Place::Mark(..) | Place::Notice(..))).count();
        assert_eq!(changed.count(), marks, "{key}: all is as it was, and quarantines and their release beside it");
        assert!(before.iter().all(|(key, bytes)| now.get(key) == Some(bytes)), "{key}");
        let catalog = pair.world.vault.catalog(&source()).await.expect("catalog");
        assert!(catalog.snapshots.iter().all(|s| s.is_proven()), "{key}: quarantined no more: {:?}", catalog.snapshots);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_was_quicker_with_its_quarantine_is_taken_back() {
    let pair = Pair::new().await;
    let vault = &pair.world.vault;
    let newest = vault.repo.newest_names(&source(), 1).await.expect("names").remove(0);
    let needed = vault.repo.manifest(&newest).await.expect("a manifest").table.refs()[0].object;
    pair.damage(&keys::pack(&source(), &needed));
    assert_eq!(pair.world.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Fail);
    let quarantined = || async {
        let catalog = pair.world.vault.catalog(&source()).await.expect("catalog");
        catalog.snapshots.iter().filter(|s| s.is_quarantined()).count()
    };
    assert!(quarantined().await > 0);
    assert_eq!(pair.heal().await.verdict, Verdict::Pass);
    assert_eq!(quarantined().await, 0);
    assert_eq!(pair.world.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    let next = pair.world.backup().await.expect("the next backup");
    assert_eq!(next.base, BaseUse::Incremental { on: newest.id }, "a quarantine that was taken back costs no full one");
}

/// Its bytes are what was captured, and that is the trouble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sqlite_found_malformed_stays_in_quarantine() {
    let pair = Pair::new().await;
    let vault = &pair.world.vault;
    let name = vault.repo.newest_names(&source(), 1).await.expect("names").remove(0);
    let front = vault.repo.manifest(&name).await.expect("a manifest").front;
    let signer = vault.signer.as_ref().expect("a signer");
    let marks = vault.repo.marks(&source()).await.expect("marks").records;
    let last = marks.iter().max_by_key(|mark| mark.chain.sequence).expect("a mark");
    let mark = Mark {
        source: source(),
        snapshot: name.id,
        kind: MarkKind::Quarantined,
        root: front.facts.root,
        at: vault.env.clock.now(),
        releases: None,
        evidence: serde_json::json!({ "proof": "failed", "cause": "unsound", "reason": "malformed" }),
    };
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    let chain = Chain::after(last.chain.sequence, last.digest).expect("a place");
    vault.repo.put_mark(mark, chain, signing).await.expect("put");
    assert_eq!(pair.scrub().await.verdict, Verdict::Pass, "the bytes are whole");
    let catalog = vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.snapshots[0].is_quarantined());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_snapshot_is_not_taken_away_while_a_writer_may_take_its_number() {
    let pair = Pair::new().await;
    let newest = pair.manifest(2).await;
    pair.damage(&newest);
    let bad = std::fs::read(pair.path(&newest)).expect("read");
    let report = pair.heal().await;
    assert_eq!(report.unhealed.len(), 1, "{report:?}");
    assert_eq!((report.unhealed[0].object.as_str(), report.unhealed[0].why), (newest.as_str(), Reason::NewestSnapshot));
    assert_eq!(std::fs::read(pair.path(&newest)).expect("read"), bad, "not touched");
    pair.world.sql(CHANGE);
    pair.world.backup().await.expect("the next one");
    let report = pair.heal().await;
    assert_eq!((report.verdict, report.healed.len()), (Verdict::Pass, 1), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_may_delete_is_left_with_what_to_do() {
    let pair = Pair::new().await;
    let mark = pair.key_of(|place| matches!(place, Place::Mark(..))).await;
    pair.damage(&mark);
    let report = pair.heal().await;
    assert_eq!((report.unhealed[0].object.as_str(), report.unhealed[0].why), (mark.as_str(), Reason::NotDeletable));
    assert_ne!(report.verdict, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_copy_that_are_damaged_too_change_nothing() {
    let pair = Pair::new().await;
    let (pack, old) = (pair.key_of(|place| matches!(place, Place::Pack(..))).await, pair.manifest(0).await);
    for key in [&pack, &old] {
        pair.damage(key);
        let there = pair.world.dir().join("usb").join(key.as_str());
        let mut bytes = std::fs::read(&there).expect("read");
        let last = bytes.len() - 40;
        bytes[last] ^= 4;
        std::fs::write(&there, bytes).expect("write");
    }
    let before = pair.contents().await;
    let report = pair.heal().await;
    assert!(report.unhealed.len() >= 2 && report.unhealed.iter().all(|u| u.why == Reason::NoGoodBytes), "{report:?}");
    let now = pair.contents().await;
    assert!(
        before.iter().all(|(key, bytes)| now.get(key) == Some(bytes)),
        "what is damaged stays until there is better"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_prune_took_does_not_come_back() {
    let pair = Pair::new().await;
    let old = pair.manifest(0).await;
    let bytes = std::fs::read(pair.path(&old)).expect("read");
    let policy = RetentionPolicy { last: 1, ..RetentionPolicy::default() };
    let rules = [SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis: 0, log_millis: 0 }];
    retain::apply(&pair.world.vault, &rules).await.expect("pruned");
    retain::apply(&pair.world.vault, &rules).await.expect("and seen gone");
    assert!(!pair.path(&old).exists());
    // Not from the copy, and not from a spare that somebody planted.
    let digest = backstay_format::object::digest(&bytes);
    let spare = Spare { of: old.clone(), digest }.key().expect("a spare");
    pair.world.vault.repo.store().put_new(&spare, bytes.into()).await.expect("put");
    let report = pair.heal().await;
    assert!(report.healed.is_empty() && !pair.path(&old).exists(), "{report:?}");
}

/// Whoever may create in `data/` can leave a spare there: it must not be able to do any harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_is_not_believed() {
    let pair = Pair::new().await;
    let (pack, old) = (pair.key_of(|place| matches!(place, Place::Pack(..))).await, pair.manifest(0).await);
    let before = pair.contents().await;
    let store = pair.world.vault.repo.store().clone();
    let plant = async |of: &Key, bytes: &'static [u8], said: &[u8]| {
        let spare = Spare { of: of.clone(), digest: backstay_format::object::digest(said) }.key().expect("a spare");
        store.put_new(&spare, bytes.into()).await.expect("put");
    };
    plant(&pack, b"rubbish", b"rubbish").await;
    plant(&old, b"rubbish", b"rubbish").await;
    plant(&old, b"more rubbish", b"another digest").await;
    let report = pair.scrub().await;
    assert!(report.healed.is_empty(), "{report:?}");
    pair.damage(&pack);
    pair.damage(&old);
    let report = pair.scrub().await;
    assert!(report.healed.is_empty(), "a spare of other bytes is none: {report:?}");
    let report = pair.heal().await;
    assert_eq!(report.healed.len(), 2, "{report:?}");
    let now = pair.contents().await;
    assert!(before.iter().all(|(key, bytes)| now.get(key) == Some(bytes)), "all is as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_nothing_heals_nothing() {
    let mut pair = Pair::new().await;
    pair.world.vault.signer = None;
    let request = ScrubRequest { depth: Depth::Intact, from: Some(&pair.copy) };
    let refused = scrub(&pair.world.vault, &request).await.expect_err("no keeper");
    assert!(matches!(refused, OpsError::NotEnrolled { .. }), "{refused}");
    pair.damage(&pair.manifest(1).await);
    let looked = ScrubRequest { depth: Depth::Intact, from: None };
    assert_eq!(scrub(&pair.world.vault, &looked).await.expect("a report").verdict, Verdict::Fail);
}
