//! Objects in each other's place, older ones served again, some withheld, some signed by the wrong hand.

mod evil;
mod world;

use async_trait::async_trait;
use backstay_format::facts::{self, Conf, Mark, Role, Signer};
use backstay_format::layout::{LEVELS_MAX, header, trailer};
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::{Digest, Kind, Kinded, Verdict};
use backstay_ops::OpsError;
use backstay_ops::backup::backup;
use backstay_ops::check::Depth;
use backstay_ops::prove::with_causes;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::memory::{Contents, MemoryStore};
use backstay_store::os::OsRandom;
use backstay_store::repo::{Chain, RepoError, Repository};
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_store::signing::SigningKey;
use backstay_store::{Key, Page, Store, StoreError};
use bytes::Bytes;
use evil::craft::{Parts, fresh_id, patch_header};
use evil::{Golden, after, mark, request, shop, till};
use std::ops::Range;
use std::sync::Arc;

fn swapped(golden: &Golden, a: &Key, b: &Key) -> Contents {
    let mut contents = golden.contents.clone();
    contents.insert(a.clone(), golden.contents[b].clone());
    contents.insert(b.clone(), golden.contents[a].clone());
    contents
}

fn moved(golden: &Golden, from: &Key, to: &Key) -> Contents {
    let mut contents = golden.without(from);
    contents.insert(to.clone(), golden.contents[from].clone());
    contents
}

/// The error that opening must give.
async fn refused(golden: &Golden, contents: Contents) -> RepoError {
    match golden.open(contents).await {
        Err(error) => error,
        Ok(_) => panic!("it opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_in_each_others_place_are_named() {
    let golden = Golden::new().await;
    let other = Golden::new().await;
    let ids: Vec<_> = golden.taken.iter().map(|taken| taken.id).collect();
    let packs = golden.keys_below("data/shop/pack/");
    let (first, second, tills) =
        (golden.manifest_key(&ids[0]), golden.manifest_key(&ids[1]), golden.manifest_key(&ids[4]));
    let as_shops = |key: &Key| Key::parse(&key.as_str().replace("data/till/", "data/shop/")).expect("a key");
    let branches = [
        keys::branch(&shop(), backstay_model::BranchNo::new(0)),
        keys::branch(&till(), backstay_model::BranchNo::new(0)),
    ];
    let cases = [
        ("two packs", packs[0].clone(), swapped(&golden, &packs[0], &packs[1])),
        (
            "a pack of another source",
            packs[0].clone(),
            golden.with(&packs[0], golden.contents[&golden.keys_below("data/till/pack/")[0]].clone()),
        ),
        ("two manifests", first.clone(), swapped(&golden, &first, &second)),
        (
            "a manifest of another source",
            as_shops(&tills),
            golden.with(&as_shops(&tills), golden.contents[&tills].clone()),
        ),
        ("a manifest for a pack", packs[0].clone(), golden.with(&packs[0], golden.contents[&first].clone())),
        ("a pack for a manifest", first.clone(), golden.with(&first, golden.contents[&packs[0]].clone())),
        ("two branch records", branches[0].clone(), swapped(&golden, &branches[0], &branches[1])),
        (
            "a manifest of another repository",
            first.clone(),
            golden.with(&first, other.contents[&other.manifest_key(&other.taken[0].id)].clone()),
        ),
        (
            "a pack of another repository",
            packs[0].clone(),
            golden.with(&packs[0], other.contents[&other.keys_below("data/shop/pack/")[0]].clone()),
        ),
        (
            "a branch of another repository",
            branches[0].clone(),
            golden.with(&branches[0], other.contents[&branches[0]].clone()),
        ),
    ];
    for (what, key, contents) in cases {
        golden.probe(contents, Depth::Authentic).await.assert_named(&key, what);
    }
    let conf = keys::conf(0);
    let error = refused(&golden, golden.with(&conf, other.contents[&conf].clone())).await;
    assert!(matches!(error, RepoError::OtherRoot { .. }) && error.to_string().contains(conf.as_str()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_is_not_version_ones_is_refused_by_field() {
    let golden = Golden::new().await;
    let key = golden.manifest_key(&golden.taken[2].id);
    let bytes = &golden.contents[&key];
    let cases: &[(&str, Range<usize>, &[u8], &str)] = &[
        ("magic", header::MAGIC, b"\x89BKS\n\x1a\n\0", "the magic is wrong"),
        ("version", header::VERSION, &[2, 0], "version 2 is unknown"),
        ("type", header::TYPE, &[99], "unknown object type 99"),
        ("another type", header::TYPE, &[5], "expected a manifest, found a log object"),
        ("flags", header::FLAGS, &[7], "the flags 0x7"),
        ("incompatible", header::INCOMPATIBLE, &[0, 0, 0, 1], "needs features"),
        ("read-compatible", header::READ_COMPATIBLE, &[1, 0, 0, 0], "needs features"),
        ("reserved", header::ZERO, &[1, 0, 0, 0], "reserved bytes"),
        ("wrap", header::WRAP_LEN, &[255; 4], "the most allowed is 4096"),
        ("facts", header::FACTS_LEN, &[255; 4], "the most allowed is 1048576"),
        ("table", header::TABLE_LEN, &[255; 4], "the most allowed is 268435456"),
        ("commitment", header::COMMITMENT, &[7; 32], "a signature that is not"),
        ("compatible", header::COMPATIBLE, &[1, 0, 0, 0], "a signature that is not"),
        ("sequence", header::SEQUENCE, &[255; 8], "a signature that is not"),
    ];
    for (what, field, new, says) in cases {
        let probe = golden.probe(golden.with(&key, patch_header(bytes, field.start, new)), Depth::Intact).await;
        probe.assert_named(&key, what);
        assert!(probe.errors.iter().any(|(_, text)| text.contains(says)), "{what}: {:?}", probe.errors);
    }
    let end = bytes.len() - trailer::LEN;
    for field in [trailer::FRAMES_LEN, trailer::FRAME_COUNT] {
        for lie in [[0; 4], [1, 0, 0, 0], [255; 4]] {
            let mut lying = bytes.to_vec();
            lying[end + field.start..end + field.start + 4].copy_from_slice(&lie);
            golden.probe(golden.with(&key, lying), Depth::Intact).await.assert_named(&key, "a trailer that lies");
        }
    }
    assert_eq!(LEVELS_MAX, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commitment_put_together_from_others_is_told_from_a_wrong_key() {
    let golden = Golden::new().await;
    let key = golden.manifest_key(&golden.taken[1].id);
    let mut parts = Parts::of(&golden.contents[&key]);
    parts.header.seal.as_mut().expect("sealed").commitment = [7; 32];
    let probe = golden.probe(golden.with(&key, parts.sign(&golden.signer())), Depth::Authentic).await;
    probe.assert_named(&key, "a commitment");
    assert!(probe.errors.iter().any(|(_, text)| text.contains("key commitment does not match")), "{:?}", probe.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repositorys_identity_does_not_open_and_harms_nothing() {
    let golden = Golden::new().await;
    let mut vault = golden.open_blank(golden.contents.clone()).await.expect("open");
    vault.unsealer = Some(Unsealer::new(MasterIdentity::generate()));
    let error = golden.restore(&vault, &shop(), Target::Latest).await.expect_err("a wrong key");
    assert_eq!(error.kind(), Kind::Denied);
    assert!(with_causes(&error).contains("does not open"), "{}", with_causes(&error));
    let error = golden.check(&vault).await.expect_err("nothing can be said");
    assert_eq!(error.kind(), Kind::Denied);
    let catalog = evil::gather(&vault).await;
    let quarantined: Vec<bool> = catalog.snapshots.iter().rev().map(|s| s.is_quarantined()).collect();
    assert_eq!(quarantined, [false, true, false], "only the one that was before");
}

/// A second configuration, which enrols two more signers with one role each.
fn second_conf(golden: &Golden, edit: impl FnOnce(&mut Conf)) -> Vec<u8> {
    let first = &golden.contents[&keys::conf(0)];
    let mut parts = Parts::of(first).chain(after(first));
    let mut conf: Conf = facts::parse("conf", &parts.facts).expect("our own");
    conf.generation = 1;
    edit(&mut conf);
    parts.facts = facts::encode(&conf);
    parts.header.object = fresh_id();
    parts.sign(&golden.keys().root.expect("the root"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_configuration_is_refused_by_who_saw_a_newer_one() {
    let golden = Golden::new().await;
    let newer = golden.with(&keys::conf(1), second_conf(&golden, |_| {}));
    let vault = golden.open(newer.clone()).await.expect("a newer one is welcome");
    assert_eq!(vault.repo.seen().generation, 1);
    let open = |contents, seen| Repository::open(Arc::new(MemoryStore::load(contents)), golden.root, Some(seen));
    let error = open(golden.contents.clone(), vault.repo.seen()).await.err().expect("an older one");
    assert!(matches!(error, RepoError::RolledBack { seen: 1, found: 0, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Corrupt);
    let other = golden.with(&keys::conf(1), second_conf(&golden, |conf| conf.signers.clear()));
    let error = open(other, vault.repo.seen()).await.err().expect("another of the same number");
    assert!(matches!(error, RepoError::RolledBack { seen: 1, found: 1, .. }), "{error}");
    let last = golden.with(&keys::conf(u64::MAX), second_conf(&golden, |conf| conf.generation = u64::MAX));
    let error = refused(&golden, last).await;
    assert!(matches!(error, RepoError::Misplaced { .. }), "{error}");
    for (what, contents) in [
        ("under an older name", golden.with(&keys::conf(2), newer[&keys::conf(1)].clone())),
        ("rubbish", golden.with(&keys::conf(9), &b"rubbish"[..])),
        (
            "by a stranger",
            golden.with(&keys::conf(1), Parts::of(&newer[&keys::conf(1)]).sign(&SigningKey::generate(&OsRandom))),
        ),
    ] {
        let error = refused(&golden, contents).await;
        assert!(matches!(error.kind(), Kind::Corrupt | Kind::Denied), "{what}: {error}");
        assert!(error.to_string().contains("ctl/conf/"), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_from_newer_writers_is_read_and_not_written_to() {
    let golden = Golden::new().await;
    let mut parts = Parts::of(&second_conf(&golden, |_| {}));
    parts.header.read_compatible = 2;
    let conf = parts.sign(&golden.keys().root.expect("the root"));
    let vault = golden.open(golden.with(&keys::conf(1), conf)).await.expect("it may be read");
    let newest = golden.of(&till()).last().expect("two were taken").bytes.clone();
    assert_eq!(golden.restore(&vault, &till(), Target::Latest).await.expect("restored"), newest);
    let before = vault.repo.list("").await.expect("a listing");
    let error = backup(&vault, &request(&golden.world, &till())).await.expect_err("it must not write");
    assert!(matches!(error, OpsError::Repo(RepoError::NewerWriters { bits: 2 })), "{error}");
    assert_eq!(vault.repo.list("").await.expect("a listing"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_or_the_wrong_role_signed_counts_for_nothing() {
    let golden = Golden::new().await;
    let (writer, reader) = (SigningKey::generate(&OsRandom), SigningKey::generate(&OsRandom));
    let conf = second_conf(&golden, |conf| {
        for (key, role) in [(&writer, Role::Writer), (&reader, Role::Reader)] {
            conf.signers.push(Signer { key: key.public(), name: "other".into(), roles: vec![role], retired: None });
        }
    });
    let enrolled = golden.with(&keys::conf(1), conf);
    let stranger = SigningKey::generate(&OsRandom);
    let snapshot = golden.taken[2].id;
    let manifest = golden.manifest_key(&snapshot);
    let branch = keys::branch(&shop(), backstay_model::BranchNo::new(0));
    let proven = golden.mark_key(&golden.taken[0].id, MarkKind::Proven);
    let cases = [
        (&manifest, &stranger),
        (&manifest, &reader),
        (&branch, &stranger),
        (&branch, &reader),
        (&proven, &stranger),
        (&proven, &writer),
    ];
    for (key, signer) in cases {
        let mut contents = enrolled.clone();
        contents.insert(key.clone(), Parts::of(&golden.contents[key]).sign(signer).into());
        let probe = golden.probe(contents, Depth::Intact).await;
        probe.assert_named(key, "a stranger's");
        assert!(
            probe.errors.iter().any(|(_, text)| text.contains("who is not enrolled for that")),
            "{:?}",
            probe.errors
        );
        assert!(key != &proven || probe.proven.is_empty(), "a stranger's proof counts");
    }
    let mut contents = enrolled;
    contents.insert(manifest.clone(), Parts::of(&golden.contents[&manifest]).sign(&writer).into());
    let vault = golden.open_blank(contents).await.expect("open");
    let catalog = evil::gather(&vault).await;
    assert!(catalog.broken.is_empty(), "an enrolled writer's signature holds: {:?}", catalog.broken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_marks_prove_nothing() {
    let golden = Golden::new().await;
    let target = golden.taken[2].id;
    let proven = golden.mark_key(&golden.taken[0].id, MarkKind::Proven);
    let last = golden.mark_key(&target, MarkKind::Pinned);
    let id = fresh_id();
    let forged = keys::mark(&shop(), &target, MarkKind::Proven, &id);
    let edited = |edit: &dyn Fn(&mut Mark), chain: Chain| {
        let mut parts = Parts::of(&golden.contents[&last]).chain(chain);
        let mut mark: Mark = facts::parse("mark", &parts.facts).expect("our own");
        mark.kind = MarkKind::Proven;
        edit(&mut mark);
        parts.facts = facts::encode(&mark);
        parts.header.object = id;
        parts.sign(&golden.signer())
    };
    let next = after(&golden.contents[&last]);
    let mut unsigned = edited(&|_| {}, next);
    let block = backstay_format::object::Front::parse(&unsigned).expect("a front").len;
    unsigned[block - 64..block].fill(0);
    let cases: [(&str, Vec<u8>, Option<&str>); 6] = [
        ("for another content", edited(&|mark| mark.root = Digest::from_bytes([1; 32]), next), None),
        ("unsigned", unsigned, Some("a signature that is not")),
        ("of another source", edited(&|mark| mark.source = till(), next), Some("it marks another snapshot")),
        ("of another snapshot", edited(&|mark| mark.snapshot = golden.taken[0].id, next), Some("it marks another")),
        ("moved here", golden.contents[&proven].to_vec(), Some("it marks another snapshot")),
        (
            "after one that is not there",
            edited(&|_| {}, Chain { sequence: next.sequence, previous: Digest::from_bytes([1; 32]) }),
            Some("does not follow"),
        ),
    ];
    for (what, bytes, says) in cases {
        let vault = golden.open_blank(golden.with(&forged, bytes)).await.expect("open");
        let catalog = evil::gather(&vault).await;
        let snapshot = catalog.snapshots.iter().find(|s| s.id == target).expect("the snapshot");
        assert!(!snapshot.is_proven(), "{what}: it counts as proven");
        let faults: Vec<String> = catalog.mark_faults.iter().map(|fault| with_causes(fault.error())).collect();
        match says {
            None => assert!(faults.is_empty(), "{what}: {faults:?}"),
            Some(says) => assert!(
                faults.iter().any(|text| text.contains(says) && text.contains(forged.as_str())),
                "{what}: {faults:?}"
            ),
        }
    }
    let vault = golden.open_blank(golden.with(&forged, edited(&|_| {}, next))).await.expect("open");
    let catalog = evil::gather(&vault).await;
    let honest = catalog.snapshots.iter().find(|s| s.id == target).expect("the snapshot");
    assert!(honest.is_proven() && catalog.mark_faults.is_empty(), "the honest twin counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_quarantine_turns_nothing_green() {
    let golden = Golden::new().await;
    let (first, second) = (golden.taken[0].id, golden.taken[1].id);
    let mark = golden.mark_key(&second, MarkKind::Quarantined);
    let mut hidden = golden.without(&mark);
    let newest = golden.manifest_key(&golden.taken[2].id);
    let mut told = hidden.clone();
    told.remove(&newest).expect("it was there");
    let told = golden.open_blank(told).await.expect("open");
    let bytes = golden.restore(&told, &shop(), Target::Latest).await.expect("its notice is as good");
    assert_eq!(bytes, golden.taken[0].bytes);
    hidden.retain(|key, _| backstay_store::keys::noticed(key).as_ref() != Some(&mark));
    let mut without_newest = hidden.clone();
    without_newest.remove(&newest).expect("it was there");
    let vault = golden.open_blank(without_newest).await.expect("open");
    let catalog = vault.catalog(&shop()).await.expect("it can be listed");
    assert!(catalog.snapshots.iter().all(|s| !s.is_proven()), "something may be known against any of them");
    for target in [Target::Latest, Target::LatestProven] {
        let error = golden.restore(&vault, &shop(), target).await.expect_err("a mark is hidden");
        assert!(matches!(error, OpsError::Repo(RepoError::BrokenChain { .. })), "{error}");
        assert!(error.to_string().contains("ctl/mark/shop/"), "{error}");
    }
    let bytes = golden.restore(&vault, &shop(), Target::Id(first.to_string())).await.expect("by its own name");
    assert_eq!(bytes, golden.taken[0].bytes);
    let report = golden.check(&vault).await.expect("check");
    assert_eq!(report.verdict, Verdict::Fail);
    // What is taken after the hole is beyond doubt.
    backup(&vault, &request(&golden.world, &shop())).await.expect("backup");
    golden.restore(&vault, &shop(), Target::Latest).await.expect("nothing can be hidden about a newer one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_mark_withheld_is_missed_by_who_saw_it() {
    let golden = Golden::new().await;
    let vault = golden.open_blank(golden.contents.clone()).await.expect("open");
    mark(&vault, golden.taken[2].id, MarkKind::Quarantined).await;
    vault.catalog(&shop()).await.expect("seen");
    let mut served = golden.open_blank(golden.contents.clone()).await.expect("open");
    served.state = vault.state.clone();
    let error = golden.restore(&served, &shop(), Target::Latest).await.expect_err("it was quarantined");
    assert!(matches!(error, OpsError::Repo(RepoError::RolledBack { what: "set of marks", .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withheld_manifest_is_missed() {
    let golden = Golden::new().await;
    let key = |at: usize| golden.manifest_key(&golden.taken[at].id);
    let rubbish_above = |mut contents: Contents| {
        let name = SnapshotName::first(shop(), backstay_model::Sequence::new(40), fresh_id());
        contents.insert(name.key(), Bytes::from_static(b"rubbish"));
        contents
    };
    for (what, contents) in
        [("withheld", golden.without(&key(2))), ("replaced by rubbish", rubbish_above(golden.without(&key(2))))]
    {
        let vault = golden.open(contents).await.expect("open");
        let rolled_back =
            |error: &OpsError| matches!(error, OpsError::Repo(RepoError::RolledBack { seen: 3, found: 2, .. }));
        for error in [
            vault.catalog(&shop()).await.err().expect("list"),
            golden.restore(&vault, &shop(), Target::Latest).await.expect_err("restore"),
            golden.check(&vault).await.expect_err("check"),
            backup(&vault, &request(&golden.world, &shop())).await.expect_err("backup"),
        ] {
            assert!(rolled_back(&error), "{what}: {error}");
        }
    }
    let vault = golden.open(golden.without(&key(1))).await.expect("open");
    let report = golden.check(&vault).await.expect("check");
    assert!(report.problems.iter().any(|p| p.what.contains("the history has a hole")), "{:?}", report.problems);
    let bytes = golden.restore(&vault, &shop(), Target::Latest).await.expect("the others stand");
    assert_eq!(bytes, golden.taken[2].bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_beside_it_hides_nothing_and_uses_up_nothing() {
    let golden = Golden::new().await;
    let mut contents = golden.contents.clone();
    for sequence in u64::MAX - 40..=u64::MAX {
        let name = SnapshotName::first(shop(), backstay_model::Sequence::new(sequence), fresh_id());
        contents.insert(name.key(), Bytes::from_static(b"rubbish"));
    }
    let newest = golden.manifest_key(&golden.taken[2].id);
    for name in
        ["data/shop/snap/0", "data/shop/branch/notes.txt", "ctl/mark/shop/x", "ctl/conf/readme", &format!("{newest}.1")]
    {
        contents.insert(Key::parse(name).expect("a legal key"), Bytes::from_static(b"rubbish"));
    }
    let vault = golden.open_blank(contents).await.expect("open");
    let bytes = golden.restore(&vault, &shop(), Target::Latest).await.expect("restore");
    assert_eq!(bytes, golden.taken[2].bytes);
    let report = backup(&vault, &request(&golden.world, &shop())).await.expect("backup");
    assert_eq!((report.position.get(), report.branch.get()), (4, 0));
    let catalog = evil::gather(&vault).await;
    assert_eq!(catalog.snapshots[0].sequence.get(), 4);
    assert_eq!(catalog.broken.len(), 41, "what pretends to be a snapshot is shown");
}

/// Serves the first page of every listing again and again.
struct Looping(MemoryStore);

#[async_trait]
impl Store for Looping {
    async fn list(&self, prefix: &str, _after: Option<&Key>, _limit: usize) -> Result<Page, StoreError> {
        let mut page = self.0.list(prefix, None, 1).await?;
        page.next = page.entries.last().map(|entry| entry.key.clone());
        Ok(page)
    }
    fn describe(&self) -> String {
        "a store that repeats itself".into()
    }

    backstay_testkit::forward!(0: put_new get get_range head delete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_shows_one_page_for_ever_is_no_answer() {
    let golden = Golden::new().await;
    let store = Arc::new(Looping(MemoryStore::load(golden.contents.clone())));
    let error = golden.open_with(store, "knows").await.err().expect("it would never end");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(with_causes(&error).contains("ctl/conf/"), "{}", with_causes(&error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_no_key_can_have_hides_nothing() {
    let golden = Golden::new().await;
    let folder = golden.world.dir().join("local");
    let store = LocalStore::open(&folder, OpenMode::Create).expect("a store");
    for (key, bytes) in &golden.contents {
        store.put_new(key, bytes.clone()).await.expect("put");
    }
    std::fs::write(folder.join("data/shop/snap/A Name"), b"rubbish").expect("write");
    let vault = golden.open_with(Arc::new(store), "blank-local").await.expect("open");
    let bytes = golden.restore(&vault, &shop(), Target::Latest).await.expect("the snapshots are there");
    assert_eq!(bytes, golden.taken[2].bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_records_are_dense_and_their_signers_own() {
    let golden = Golden::new().await;
    let signer = golden.signer().public();
    let (first, second) = (keys::audit(&signer, 1), keys::audit(&signer, 2));
    let cases = [
        ("without the first", moved(&golden, &first, &second), second.clone()),
        ("twice", golden.with(&second, golden.contents[&first].clone()), second.clone()),
        (
            "after nothing",
            golden.with(
                &second,
                Parts::of(&golden.contents[&first])
                    .chain(Chain { sequence: backstay_model::Sequence::new(2), previous: Digest::ZERO })
                    .sign(&golden.signer()),
            ),
            second.clone(),
        ),
    ];
    for (what, contents, key) in cases {
        golden.probe(contents, Depth::Intact).await.assert_named(&key, what);
    }
}
