//! Something that cannot be read or written, in a world that works otherwise: one pack on a bad sector,
//! a state folder on a full disk, a repository with nothing in it. Each stopped everything once.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{Kind, Kinded, ObjectId, Verdict};
use backstay_ops::State;
use backstay_ops::backup::BaseUse;
use backstay_ops::catalog::Catalog;
use backstay_ops::check::Depth;
use backstay_ops::disk::{Disk, DiskFile, OsDisk};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::Repository;
use backstay_store::{Key, Store, Verb, keys};
use backstay_testkit::fault_store::{Fault, FaultKind, FaultStore};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use world::{World, source};

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO t SELECT i, hex(randomblob(200)) FROM n;";

async fn world_over() -> (World, Arc<FaultStore>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let local = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
    let store = Arc::new(FaultStore::new(Arc::new(local)));
    (World::over(folder, store.clone(), Arc::new(OsDisk)).await, store)
}

async fn packs(world: &World) -> Vec<(Key, ObjectId)> {
    let entries = world.vault.repo.list(&keys::pack_prefix(&source())).await.expect("list");
    let id = |key: &Key| keys::parse_pack(&source(), key).expect("a pack");
    entries.into_iter().map(|e| (e.key.clone(), id(&e.key))).collect()
}

fn forget_bases(world: &World) {
    let dir = world.vault.state.source_dir(&source()).expect("a folder");
    for entry in std::fs::read_dir(dir).expect("read").flatten() {
        if entry.file_name().to_string_lossy().starts_with("base-") {
            std::fs::remove_file(entry.path()).expect("remove");
        }
    }
}

/// A pack on a bad sector answers every read with EIO. That was taken for an outage: a check stopped
/// there and remembered nothing, and without its cache the host could never back up again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_cannot_be_read_is_a_finding_and_is_healed() {
    let (world, store) = world_over().await;
    world.sql(ROWS);
    let first = world.backup().await.expect("stored");
    let (key, pack) = packs(&world).await.remove(0);
    store.make_unreadable(key);
    for depth in [Depth::Intact, Depth::Authentic] {
        let report = world.check(depth).await.expect("the check goes on");
        assert_eq!(report.verdict, Verdict::Inconclusive, "{:?}", report.problems);
        assert!(report.problems[0].what.starts_with("cannot be read"), "{:?}", report.problems);
        assert_eq!(report.problems[0].snapshots, [first.snapshot]);
    }
    let catalog = world.vault.catalog(&source()).await.expect("catalog");
    assert!(!catalog.snapshots[0].is_quarantined(), "it may be fine");
    assert_eq!(world.vault.state.seen(&source()).expect("seen").suspects, [pack]);

    forget_bases(&world);
    let second = world.backup().await.expect("a full backup needs nothing that was there");
    assert!(matches!(second.base, BaseUse::Full { .. }), "{:?}", second.base);
    assert_eq!(second.units_stored, second.units);
    let out = world.dir().join("out.db");
    world.restore(Target::Id(second.snapshot.to_string()), &out).await.expect("it rests on nothing unreadable");
    assert_eq!(world::rows_of(&out), world.rows());
}

/// What was damaged beside what cannot be read is quarantined, whichever of them comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_beside_an_unreadable_pack_is_still_found() {
    let (world, store) = world_over().await;
    world.sql(ROWS);
    world.backup().await.expect("stored");
    let (old, _) = packs(&world).await.remove(0);
    world.sql("UPDATE t SET x = hex(randomblob(200)) WHERE id = 7");
    let second = world.backup().await.expect("stored");
    let (new, damaged) = packs(&world).await.into_iter().find(|(key, _)| *key != old).expect("a second pack");
    store.make_unreadable(old);
    let path = world.dir().join("vault").join(new.as_str());
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("write");

    let report = world.check(Depth::Authentic).await.expect("the check goes on");
    assert_eq!(report.verdict, Verdict::Fail);
    let catalog = world.vault.catalog(&source()).await.expect("catalog");
    let quarantined: Vec<_> = catalog.snapshots.iter().filter(|s| s.is_quarantined()).map(|s| s.id).collect();
    assert_eq!(quarantined, [second.snapshot], "only what is known to be damaged");
    let suspects = world.vault.state.seen(&source()).expect("seen").suspects;
    assert!(suspects.len() == 2 && suspects.contains(&damaged), "{suspects:?}");
}

async fn manifests(world: &World) -> Vec<Key> {
    let names = world.vault.repo.snapshot_names(&source()).await.expect("names");
    names.into_iter().map(|(name, _)| name.key()).collect()
}

/// One manifest on a bad sector ended every list, check and restore of its source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_cannot_be_read_is_named_and_the_others_stand() {
    let (world, store) = world_over().await;
    world.sql(ROWS);
    let first = world.backup().await.expect("stored");
    let rows = world.rows();
    world.sql("UPDATE t SET x = 'new' WHERE id = 3");
    let second = world.backup().await.expect("stored");
    store.make_unreadable(manifests(&world).await.remove(0));

    let catalog = world.vault.catalog(&source()).await.expect("the others stand");
    assert_eq!(catalog.snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), [first.snapshot]);
    assert_eq!(catalog.broken.iter().map(|(name, _)| name.id).collect::<Vec<_>>(), [second.snapshot]);
    for depth in [Depth::Intact, Depth::Authentic] {
        let report = world.check(depth).await.expect("the check goes on");
        assert_eq!(report.verdict, Verdict::Inconclusive, "{:?}", report.problems);
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert_eq!(report.problems[0].snapshots, [second.snapshot]);
        assert!(report.problems[0].what.starts_with("cannot be read"), "{:?}", report.problems);
        assert_eq!(report.snapshots.iter().map(|s| s.verdict).collect::<Vec<_>>(), [Verdict::Pass]);
    }
    let out = world.dir().join("out.db");
    let restored = world.restore(Target::Latest, &out).await.expect("restored");
    assert_eq!(restored.plan.snapshot, first.snapshot);
    let passed_over: Vec<_> = restored.plan.passed_over.iter().map(|p| (p.id, p.sequence)).collect();
    assert_eq!(passed_over, [(second.snapshot, 2)], "and it says what it passed over");
    assert_eq!(world::rows_of(&out), rows);
    store.make_readable();
    assert_eq!(world.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
}

/// A store that goes down in the midst of a listing is still an outage, not a folder of broken manifests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_gives_nothing_any_more_is_an_outage() {
    let world = World::new().await;
    world.sql(ROWS);
    world.backup().await.expect("stored");
    let cases = [("store get", Verb::Get), ("store get range", Verb::GetRange)];
    for (what, verb) in cases {
        let local = LocalStore::open(&world.dir().join("vault"), OpenMode::Existing).expect("a store");
        let down = |verb, per_thousand| Fault { verb: Some(verb), per_thousand, kind: FaultKind::Unapplied };
        // The first listings are answered, those after the reads are not.
        let cut = FaultStore::new(Arc::new(local)).with_faults(1, vec![down(verb, 1000), down(Verb::List, 400)]);
        let store: Arc<dyn Store> = Arc::new(cut);
        let mut outages = 0;
        for _ in 0..40 {
            let repo = match Repository::open(store.clone(), world.vault.repo.root(), None).await {
                Ok(repo) => repo,
                Err(error) => {
                    assert!(error.is_outage(), "{what}: {error}");
                    outages += 1;
                    continue;
                }
            };
            match Catalog::gather(&repo, &source()).await {
                Ok(catalog) => assert_eq!((catalog.snapshots.len(), catalog.broken.len()), (0, 1), "{what}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unavailable, "{what}: {error}");
                    outages += 1;
                }
            }
        }
        assert!(outages > 0, "{what}");
    }
}

/// A store that lost the newest configuration alone serves an older one, which every host refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_configuration_is_put_back_after_the_one_before_it() {
    use backstay_ops::open::mend;
    let world = World::new().await;
    world.sql(ROWS);
    world.backup().await.expect("stored");
    let (vault, root) = (&world.vault, world.vault.repo.root());
    let (state, folder) = (world.dir().join("state"), world.dir().join("vault"));
    let text = std::fs::read_to_string(world.dir().join("backstay.key")).expect("a key file");
    let keys = backstay_store::keyfile::KeyFile::parse(&text).expect("a key file");
    let custodian = backstay_ops::trust::Custodian { vault, root: keys.root.as_ref().expect("a root") };
    let store = vault.repo.store().clone();
    let ada = backstay_ops::trust::Receiver::Identity(backstay_store::seal::MasterIdentity::generate().master());
    backstay_ops::masters::add(&custodian, "ada", &ada).await.expect("added");
    let untouched = mend(store.clone(), root, &state).await.expect("nothing to do");
    assert_eq!((untouched.generation, untouched.put_back), (1, false));
    let conf = folder.join("ctl/conf/0000000000000001");
    let bytes = std::fs::read(&conf).expect("read");
    std::fs::remove_file(&conf).expect("lost");
    assert!(backstay_ops::open::open(store.clone(), root, &state).await.is_err(), "an older one is refused");
    let stranger = mend(store.clone(), root, &world.dir().join("elsewhere")).await.expect("it sees nothing wrong");
    assert!(!stranger.put_back && !conf.exists(), "a host that has seen nothing puts nothing");
    let mended = mend(store.clone(), root, &state).await.expect("put back");
    assert_eq!((mended.generation, mended.put_back), (1, true));
    assert_eq!(std::fs::read(&conf).expect("there"), bytes, "byte for byte");
    // Where another one stands in its place nothing is overwritten.
    std::fs::write(&conf, b"rubbish").expect("written");
    assert!(mend(store.clone(), root, &state).await.is_err());
    assert_eq!(std::fs::read(&conf).expect("there"), b"rubbish");

    // Nor is it put after one that it does not follow: the root's holder went another way meanwhile.
    std::fs::write(&conf, &bytes).expect("written");
    let repo = backstay_ops::open::open(store.clone(), root, &state).await.expect("open");
    let again = |repo, dir: &str| {
        let state = backstay_ops::State::open(vault.env.disk.clone(), &world.dir().join(dir), vault.repo.id());
        let (state, env) = (state.expect("a state folder"), vault.env.clone());
        let unsealer =
            Some(backstay_store::seal::Unsealer::of(vault.unsealer().expect("a reader").identities().to_vec()));
        backstay_ops::catalog::Vault { repo, state, signer: vault.signer.clone(), unsealer, env }
    };
    let bob = backstay_ops::trust::Receiver::Identity(backstay_store::seal::MasterIdentity::generate().master());
    let root_key = keys.root.as_ref().expect("a root");
    let second = again(repo, "state");
    let custodian = backstay_ops::trust::Custodian { vault: &second, root: root_key };
    backstay_ops::masters::add(&custodian, "bob", &bob).await.expect("added");
    for generation in [1, 2] {
        std::fs::remove_file(folder.join(format!("ctl/conf/{generation:016x}"))).expect("lost");
    }
    let elsewhere = again(vault.repo.clone(), "third");
    let custodian = backstay_ops::trust::Custodian { vault: &elsewhere, root: root_key };
    backstay_ops::masters::add(&custodian, "bob", &bob).await.expect("another first one");
    assert!(mend(store.clone(), root, &state).await.is_err(), "it does not follow what stands there");
    assert!(!folder.join("ctl/conf/0000000000000002").exists());
}

/// The smallest object of all closed the repository when its one sector went bad.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_configuration_is_replaced_by_the_one_this_host_has_seen() {
    let world = World::new().await;
    world.sql(ROWS);
    world.backup().await.expect("stored");
    let (vault, root) = (&world.vault, world.vault.repo.root());
    let (state, folder) = (world.dir().join("state"), world.dir().join("vault"));
    vault.state.remember_conf(vault.repo.seen()).expect("remembered");
    vault.state.keep_conf(vault.repo.conf_bytes()).expect("kept");
    let open = async |state: &Path| backstay_ops::open::open(vault.repo.store().clone(), root, state).await;
    let conf = folder.join("ctl/conf/0000000000000000");
    let bytes = std::fs::read(&conf).expect("read");
    assert!(open(&state).await.expect("open").conf_fault().is_none());

    for at in [0, 40, bytes.len() / 2, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        std::fs::write(&conf, bad).expect("write");
        let repo = open(&state).await.expect("open with what was kept");
        assert!(repo.conf_fault().is_some(), "byte {at}");
        assert!(repo.put_conf_back().await.is_err(), "nothing is overwritten");
        assert!(open(&world.dir().join("elsewhere")).await.is_err(), "a host that kept nothing is told");
    }
    std::fs::remove_file(&conf).expect("remove");
    let repo = open(&state).await.expect("open with what was kept");
    repo.put_conf_back().await.expect("put back");
    assert_eq!(std::fs::read(&conf).expect("read"), bytes, "byte for byte");
    assert!(open(&state).await.expect("open").conf_fault().is_none());

    // An empty folder is no repository, whatever this host remembers: the disk may not be mounted.
    let empty = world.dir().join("empty");
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&empty, OpenMode::Create).expect("a store"));
    assert!(backstay_ops::open::open(store, root, &state).await.is_err());
    // What stands in another generation's slot is not replaced by an older one.
    std::fs::write(folder.join("ctl/conf/0000000000000001"), b"rubbish").expect("write");
    assert!(open(&state).await.is_err());
    std::fs::remove_file(folder.join("ctl/conf/0000000000000001")).expect("remove");
    // A kept copy that is damaged too helps nobody.
    std::fs::write(&conf, b"rubbish").expect("write");
    std::fs::write(vault.state.dir().join("conf.object"), b"rubbish").expect("write");
    assert!(open(&state).await.is_err());
}

/// A check that had nothing to look at passed, on a repository whose manifests had all been deleted too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_nothing_is_no_pass() {
    let world = World::new().await;
    assert_eq!(world.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Inconclusive);
    world.sql(ROWS);
    world.backup().await.expect("stored");
    assert_eq!(world.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    std::fs::remove_dir_all(world.dir().join("vault/data/shop/snap")).expect("remove");
    std::fs::remove_dir_all(world.vault.state.source_dir(&source()).expect("folder"))
        .expect("a host that knows nothing");
    let report = world.check(Depth::Authentic).await.expect("a report");
    assert_eq!((report.verdict, report.problems.len()), (Verdict::Fail, 1), "{:?}", report.problems);
}

/// A listing that meets a foreign name or a dangling link goes on, and so does what reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_names_stop_nothing() {
    let world = World::new().await;
    world.sql(ROWS);
    let first = world.backup().await.expect("stored");
    world.prove(&first).await.expect("marked, so that the folder is there");
    for folder in ["data/shop/snap", "data/shop/pack", "ctl/mark/shop"] {
        let folder = world.dir().join("vault").join(folder);
        std::fs::write(folder.join(".DS_Store"), b"x").expect("write");
        std::fs::create_dir(folder.join("@eaDir")).expect("make");
        std::os::unix::fs::symlink("nowhere", folder.join("dangling")).expect("link");
    }
    let second = world.backup().await.expect("stored");
    assert!(matches!(second.base, BaseUse::Incremental { .. }));
    assert_eq!(world.check(Depth::Authentic).await.expect("a report").verdict, Verdict::Pass);
    world.restore(Target::Latest, &world.dir().join("out.db")).await.expect("restored");
}

/// A disk on which no base and no memory can be written any more. Everything else goes on working.
struct FullCache(Arc<AtomicBool>);

impl Disk for FullCache {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.0.load(Ordering::SeqCst) && (name.starts_with("base-") || name.starts_with("seen.json")) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        OsDisk.create(path, mode)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
}

/// A full cache disk stopped every backup, although a cache is all it could not write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cache_disk_does_not_stop_a_backup() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let local = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
    let full = Arc::new(AtomicBool::new(false));
    let world = World::over(folder, Arc::new(local), Arc::new(FullCache(full.clone()))).await;
    world.sql(ROWS);
    assert_eq!(world.backup().await.expect("stored").cache, None);
    full.store(true, Ordering::SeqCst);
    world.sql("UPDATE t SET x = 'new' WHERE id = 3");
    let told = world.backup().await.expect("stored all the same");
    let cache = told.cache.expect("and told");
    assert!(cache.contains("base not written") && cache.contains("memory not written"), "{cache}");
    let out = world.dir().join("out.db");
    world.restore(Target::Latest, &out).await.expect("restored");
    assert_eq!(world::rows_of(&out), world.rows());
    let dir = world.vault.state.source_dir(&source()).expect("a folder");
    let names = || std::fs::read_dir(&dir).expect("read").flatten().map(|e| e.file_name().into_string().expect("text"));
    assert!(names().all(|name| !name.contains(&told.snapshot.to_string())), "no half base stays");

    full.store(false, Ordering::SeqCst);
    std::fs::write(dir.join(format!("base-{}", ObjectId::ZERO)), b"stale").expect("write");
    let healed = world.backup().await.expect("stored");
    assert_eq!(healed.cache, None);
    assert_eq!(names().filter(|name| name.starts_with("base-")).count(), 1, "the stale ones are gone");
}

/// A check beside a backup read what was remembered, and wrote it back without what the backup had
/// written in between; two that wrote at once used one staged name and left a torn file.
#[test]
fn what_two_runs_learn_at_once_is_all_remembered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state =
        State::open(Arc::new(OsDisk), folder.path(), backstay_model::RepoId::from_bytes([7; 16])).expect("state");
    let dir = state.source_dir(&source()).expect("a folder");
    std::fs::write(dir.join("seen.json.new-1-1"), b"{ torn").expect("what a crash left");
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let state = &state;
            scope.spawn(move || {
                for n in 0..25u8 {
                    let mut id = [0; 16];
                    (id[0], id[1]) = (thread, n + 1);
                    let object = ObjectId::from_bytes(id);
                    let seen = state.update(&source(), |seen| seen.suspects.push(object)).expect("remembered");
                    assert!(seen.suspects.contains(&object));
                }
            });
        }
    });
    assert_eq!(state.seen(&source()).expect("seen").suspects.len(), 100);
    let names = std::fs::read_dir(&dir).expect("read").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.contains(".new")).collect::<Vec<_>>(), [""; 0], "nothing is left lying about");
}
