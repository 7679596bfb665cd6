//! Old snapshots sealed to the new master: afterwards who was taken off opens nothing that stands, and everything
//! restores as before.

mod rig;
mod team;
mod world;

use backstay_format::facts::Role;
use backstay_format::{Header, ObjectType};
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::prune::GRACE_MIN_MILLIS;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ObjectId, Verdict};
use backstay_ops::backup::BaseUse;
use backstay_ops::catalog::Vault;
use backstay_ops::check::Depth;
use backstay_ops::copy::{self, Act, CopyRequest, Reread};
use backstay_ops::disk::OsDisk;
use backstay_ops::masters::{self, KeyHome, NewMaster};
use backstay_ops::restore::Destination;
use backstay_ops::retain::{self, RetainReport, SourceRules};
use backstay_ops::rewrite::{RewriteReport, rewrite};
use backstay_ops::trust::{Custodian, Receiver};
use backstay_ops::{Event, OpsError, State};
use backstay_store::keyfile::KeyFile;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::Repository;
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_testkit::effects::Effects;
use jiff::tz::TimeZone;
use rig::{Before, Ended, Making, Process, Run, crash};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use team::{Host, Team, by_id};
use world::source;

/// Every sealed object of a repository, and whether these identities open it.
fn opened(vault: &Path, with: &Unsealer) -> BTreeMap<String, bool> {
    fn walk(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    walk(&vault.join("data"), &mut files);
    // Bundles are of the plain parts of others, and nobody seals them.
    files.retain(|path| !path.parent().is_some_and(|folder| folder.ends_with("bundle")));
    let sealed = files.into_iter().filter_map(|path| {
        let bytes = std::fs::read(&path).expect("read");
        let header = Header::parse(&bytes).expect("an object");
        let opens = with.opens(&header.seal.as_ref()?.wrap).expect("whole");
        let kind = matches!(header.kind, ObjectType::Manifest | ObjectType::Pack | ObjectType::Log);
        kind.then(|| (path.strip_prefix(vault).expect("below").display().to_string(), opens))
    });
    sealed.collect()
}

fn any(opened: &BTreeMap<String, bool>) -> bool {
    opened.values().any(|opens| *opens)
}

async fn retention(host: &Vault, grace_millis: i64) -> RetainReport {
    let policy = RetentionPolicy::default();
    retain::apply(host, &[SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis, log_millis: 0 }])
        .await
        .expect("retention")
}

async fn rewritten(host: &Host) -> RewriteReport {
    rewrite(&host.vault, &[source()]).await.expect("rewritten")
}

/// Four snapshots with shared packs, the second proven; ids and rows, oldest first.
async fn history(team: &Team) -> Vec<(ObjectId, String)> {
    let mut known = Vec::new();
    for n in 0..4 {
        team.sql(&format!("UPDATE t SET x = printf('%0100d', id * {n}) WHERE id % 40 = {n}"));
        let host = team.first().await;
        known.push((host.backup(&team.db()).await.expect("backup").snapshot, team.rows()));
    }
    team.first().await.prove(known[1].0).await.expect("proven");
    known
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_off_opens_nothing_that_stands_and_everything_restores() {
    let team = Team::new().await;
    let ada = MasterIdentity::generate();
    let first = team.first().await;
    masters::add(&first.custodian(), "ada", &Receiver::Identity(ada.master())).await.expect("added");
    let known = history(&team).await;
    let vault = team.store_dir();
    let first = team.first().await;
    // What Ada has kept: the master of then.
    let hers = Unsealer::of(first.vault.repo.unlock(vec![ada.clone()]).await.expect("unlock").masters);
    assert!(opened(&vault, &hers).values().all(|opens| *opens));
    first.change_master(Some("ada")).await.expect("removed");

    let packs_before = std::fs::read_dir(vault.join("data/shop/pack")).expect("packs").count();
    let report = rewritten(&team.first().await).await;
    assert_eq!((report.verdict, report.sources[0].rewritten, report.sources[0].snapshots), (Verdict::Pass, 4, 4));
    assert!(report.sources[0].packs <= packs_before as u64, "each pack once: {report:?}");
    let host = team.first().await;
    let catalog = host.vault.catalog(&source()).await.expect("catalog");
    assert!(catalog.snapshots.iter().any(|s| s.id == known[1].0 && s.has(MarkKind::Proven)), "marks stay right");
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    for (id, rows) in &known {
        assert_eq!(host.restored(by_id(*id)).await.expect("restore"), *rows);
    }
    // What a question reads first goes along, but not where it was.
    for snapshot in &catalog.snapshots {
        let name = &catalog.front(&snapshot.id).expect("a front").name;
        let manifest = host.vault.repo.manifest(name).await.expect("a manifest");
        let body = manifest.unseal(host.vault.unsealer().expect("a reader")).expect("opens");
        let opening = body.facts.opening.expect("a backup leaves one");
        assert!(!opening.pages.is_empty() && opening.frames.is_empty());
    }
    // Nothing was deleted; the prune does that, after the grace.
    assert!(any(&opened(&vault, &hers)));
    assert_eq!(retention(&team.first().await.vault, GRACE_MIN_MILLIS).await.sources[0].condemned.snapshots, 4);
    let report = retention(&team.first().await.vault, 0).await;
    assert_eq!((report.verdict, report.sources[0].deleted.snapshots), (Verdict::Pass, 4), "{report:?}");
    assert!(!any(&opened(&vault, &hers)), "{:?}", opened(&vault, &hers));
    let host = team.first().await;
    let present = host.vault.unsealer().expect("a reader").identities()[..1].to_vec();
    assert!(opened(&vault, &Unsealer::of(present)).values().all(|opens| *opens), "the new master opens all of it");
    for (id, rows) in &known {
        assert_eq!(host.restored(by_id(*id)).await.expect("restore"), *rows);
    }
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    team.sql("UPDATE t SET x = 'later' WHERE id = 77");
    let next = host.backup(&team.db()).await.expect("the next");
    assert!(matches!(next.base, BaseUse::Incremental { .. }));
    assert_eq!(rewritten(&team.first().await).await.sources[0].rewritten, 0, "there is nothing left to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_snapshots_share_is_sealed_again_once_and_shared_again() {
    let team = Team::new().await;
    history(&team).await;
    let vault = team.store_dir();
    let size = |vault: &Path| -> u64 {
        let files = std::fs::read_dir(vault.join("data/shop/pack")).expect("packs");
        files.map(|file| file.expect("an entry").metadata().expect("metadata").len()).sum()
    };
    let before = size(&vault);
    team.first().await.change_master(None).await.expect("rotated");
    rewritten(&team.first().await).await;
    retention(&team.first().await.vault, 0).await;
    retention(&team.first().await.vault, 0).await;
    let after = size(&vault);
    assert!(after <= before + before / 10, "{before} bytes became {after}");
}

/// What a host keeps of the newest snapshot leads to the packs of before; it must not be built on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_backup_builds_on_what_was_rewritten() {
    let team = Team::new().await;
    let known = history(&team).await;
    team.first().await.change_master(None).await.expect("rotated");
    rewritten(&team.first().await).await;
    team.sql("UPDATE t SET x = 'later' WHERE id = 77");
    let host = team.first().await;
    let report = host.backup(&team.db()).await.expect("the next");
    assert_eq!(report.base, BaseUse::Incremental { on: known[3].0 });
    let present = Unsealer::of(host.vault.unsealer().expect("a reader").identities()[..1].to_vec());
    let name = host.vault.repo.newest_names(&source(), 1).await.expect("names").remove(0);
    let manifest = host.vault.repo.manifest(&name).await.expect("a manifest");
    for reference in manifest.table.refs() {
        let wrap = manifest.table.wrap(reference).expect("a wrap");
        assert!(present.opens(wrap).expect("whole"), "{} is of a master before", reference.object);
    }
}

/// A copy holds what the old master opens until it was brought up to date and its own keeper has pruned it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_sent_what_was_rewritten_and_frees_what_that_replaces() {
    let team = Team::new().await;
    let known = history(&team).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(LocalStore::open(&folder.path().join("usb"), OpenMode::Create).expect("a store"));
    let to = || copy::Destination { store: store.clone(), state_root: folder.path().join("state") };
    let request = CopyRequest {
        act: Act::Copy,
        reread: Reread::Nothing,
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        in_flight: std::num::NonZeroU32::MIN,
    };
    let first = team.first().await;
    let report = copy::copy(&first.vault, &to(), &request).await.expect("copied");
    assert_eq!((report.sources[0].snapshots, report.sources[0].copied), (4, 4), "{report:?}");
    let old = Unsealer::of(first.vault.unsealer().expect("a reader").identities().to_vec());
    first.change_master(None).await.expect("rotated");
    rewritten(&team.first().await).await;
    let host = team.first().await;
    let report = copy::copy(&host.vault, &to(), &request).await.expect("copied");
    let row = &report.sources[0];
    assert_eq!((row.snapshots, row.copied, row.missing), (4, 4, 0), "{report:?}");
    let again = copy::copy(&host.vault, &to(), &request).await.expect("copied");
    assert_eq!((again.sources[0].snapshots, again.sources[0].copied), (4, 0), "{again:?}");
    let repo = Repository::open(store.clone(), host.vault.repo.root(), None).await.expect("open");
    let state = State::open(host.vault.env.disk.clone(), &folder.path().join("keeper"), repo.id()).expect("state");
    let unsealer = Some(Unsealer::of(host.vault.unsealer().expect("a reader").identities().to_vec()));
    let there = Vault { repo, state, signer: host.vault.signer.clone(), unsealer, env: host.vault.env.clone() };
    assert_eq!(retention(&there, 0).await.sources[0].deleted.snapshots, 4);
    assert!(!any(&opened(&folder.path().join("usb"), &old)), "the old master opens nothing in the copy");
    let catalog = there.catalog(&source()).await.expect("catalog");
    assert_eq!(catalog.snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), [3, 2, 1, 0].map(|n| known[n].0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_keeper_who_reads_rewrites() {
    let team = Team::new().await;
    history(&team).await;
    team.enrolled("k", &[Role::Keeper]).await;
    team.enrolled("r", &[Role::Reader]).await;
    team.first().await.change_master(None).await.expect("rotated");
    for name in ["k", "r"] {
        let refused = rewrite(&team.host(name).await.vault, &[source()]).await.expect_err("refused");
        assert!(matches!(refused, OpsError::NotEnrolled { .. }), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_snapshot_that_is_damaged_is_told_and_keeps_none_of_the_others() {
    let team = Team::new().await;
    let known = history(&team).await;
    let host = team.first().await;
    // A pack that the newest snapshot alone refers to.
    let names = host.vault.repo.newest_names(&source(), 2).await.expect("names");
    let mut refs = Vec::new();
    for name in &names {
        let manifest = host.vault.repo.manifest(name).await.expect("a manifest");
        refs.push(manifest.table.refs().iter().filter(|r| r.live_units > 0).map(|r| r.object).collect::<Vec<_>>());
    }
    let only = refs[0].iter().find(|object| !refs[1].contains(object)).expect("a pack of its own");
    let path = team.store_dir().join(format!("data/shop/pack/{only}"));
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("write");
    host.change_master(None).await.expect("rotated");
    let report = rewritten(&team.first().await).await;
    let row = &report.sources[0];
    assert_eq!((report.verdict, row.rewritten, row.problems.len()), (Verdict::Fail, 3, 1), "{report:?}");
    assert_eq!(row.problems[0].snapshots, [known[3].0]);
    let host = team.first().await;
    for (id, rows) in &known[..3] {
        assert_eq!(host.restored(by_id(*id)).await.expect("restore"), *rows);
    }
}

/// What stands: a run that was not committed leaves packs nobody refers to; they go when they are half a day old.
async fn needed(host: &Host) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    for (name, _) in host.vault.repo.snapshot_names(&source()).await.expect("names") {
        needed.insert(name.key().to_string());
        let manifest = host.vault.repo.manifest(&name).await.expect("a manifest");
        let packs = manifest.table.refs().iter().map(|r| backstay_store::keys::pack(&source(), &r.object).to_string());
        needed.extend(packs);
    }
    needed
}

/// A run that died has sealed a pack to a master that is no longer the present one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sealed_again_before_another_change_is_sealed_once_more() {
    let team = Team::new().await;
    let known = history(&team).await;
    team.first().await.change_master(None).await.expect("rotated");
    let mut host = team.first().await;
    let cancel = host.vault.env.cancel.clone();
    host.vault.env.events = Arc::new(move |event| {
        if matches!(event, Event::Advanced { .. }) {
            cancel.cancel();
        }
    });
    let stopped = rewrite(&host.vault, &[source()]).await.expect_err("stopped after one pack");
    assert!(matches!(stopped, OpsError::Cancelled), "{stopped}");
    team.first().await.change_master(None).await.expect("rotated again");
    let report = rewritten(&team.first().await).await;
    assert_eq!((report.verdict, report.sources[0].rewritten), (Verdict::Pass, 4), "{report:?}");
    assert_eq!(rewritten(&team.first().await).await.sources[0].rewritten, 0, "there is nothing left to do");
    retention(&team.first().await.vault, 0).await;
    let host = team.first().await;
    let older = host.vault.unsealer().expect("a reader").identities()[1..].to_vec();
    assert_eq!(older.len(), 2);
    let left = opened(&team.store_dir(), &Unsealer::of(older));
    let needed = needed(&host).await;
    let bad: Vec<_> = left.iter().filter(|(name, opens)| **opens && needed.contains(*name)).collect();
    assert!(bad.is_empty(), "a master of before opens what stands: {bad:?}");
    for (id, rows) in &known {
        assert_eq!(host.restored(by_id(*id)).await.expect("restore"), *rows);
    }
}

/// The master is changed and what is old is rewritten while backups are taken, three times over: every snapshot that was
/// told restores, and in the end no master of before opens anything that stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_are_changed_and_snapshots_rewritten_beside_backups() {
    let team = Team::new().await;
    let mut known = history(&team).await;
    for round in 0..3 {
        let handle = tokio::runtime::Handle::current();
        let backups = async {
            let mut told = Vec::new();
            for n in 0..5 {
                team.sql(&format!("UPDATE t SET x = 'round {round}, {n}' WHERE id % 50 = {n}"));
                match team.first().await.backup(&team.db()).await {
                    Ok(report) => told.push((report.snapshot, team.rows())),
                    Err(OpsError::KeysChanged | OpsError::BaseVanished { committed: None, .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            told
        };
        let changes = async {
            team.first().await.change_master(None).await.expect("rotated");
            rewritten(&team.first().await).await
        };
        let (told, report) = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let backups = scope.spawn(|| handle.block_on(backups));
                let report = handle.block_on(changes);
                (backups.join().expect("the backups end"), report)
            })
        });
        assert!(report.sources[0].problems.is_empty(), "{report:?}");
        println!("round {round}: {} of 5 backups, {} rewritten", told.len(), report.sources[0].rewritten);
        known.extend(told);
    }
    assert_eq!(rewritten(&team.first().await).await.verdict, Verdict::Pass);
    retention(&team.first().await.vault, 0).await;
    let host = team.first().await;
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    for (id, rows) in &known {
        assert_eq!(host.restored(by_id(*id)).await.expect("restore"), *rows);
    }
    let older = host.vault.unsealer().expect("a reader").identities()[1..].to_vec();
    assert_eq!(older.len(), 3);
    let left = opened(&team.store_dir(), &Unsealer::of(older));
    let needed = needed(&host).await;
    let bad: Vec<_> = left.iter().filter(|(name, opens)| **opens && needed.contains(*name)).collect();
    assert!(bad.is_empty(), "a master of before opens what stands: {bad:?}");
}

fn keys(process: &Process) -> KeyFile {
    backstay_ops::init::read_keys(&rig::key_file(process.dir())).expect("a whole key file").expect("a key file")
}

/// A database with three snapshots, and a master that has changed since.
async fn rotated() -> Before {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql("UPDATE t SET x = 'later' WHERE id % 50 = 3");
    let making = making.backed_up().await;
    making.sql("UPDATE t SET x = 'later still' WHERE id % 50 = 7");
    let making = making.backed_up().await;
    let rotate = async |process: &Process| {
        let keys = keys(process);
        let custodian = Custodian { vault: &process.vault, root: keys.root.as_ref().expect("a root") };
        let path = rig::key_file(process.dir());
        let new = NewMaster { without: None, held: &keys, home: KeyHome::InUse(&path), passphrases: &BTreeMap::new() };
        masters::change(&custodian, new).await.expect("rotated");
    };
    making.having(rotate).await.done()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewriting_stopped_anywhere() {
    let before = rotated().await;
    let act = async |process: &Process| rewrite(&process.vault, &[source()]).await.map(drop);
    let sweep = crash("rewriting", &before, act, async |run: &Run, ended: &Ended| {
        // The rig has restored every earlier snapshot, checked it and taken a backup; now the next rewriting.
        let process = Process::open(run.dir(), run.next(&Effects::unstopped()), None).await.expect("open");
        let report = rewrite(&process.vault, &[source()]).await.expect("the rewriting again");
        assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
        assert!(!ended.done || report.sources[0].rewritten <= 1, "what was done is done: {report:?}");
        retention(&process.vault, 0).await;
        let process = Process::open(run.dir(), Arc::new(OsDisk), None).await.expect("open");
        retention(&process.vault, 0).await;
        let old = process.vault.unsealer().expect("a reader").identities()[1..].to_vec();
        assert_eq!(old.len(), 1);
        let left = opened(&run.dir().join("vault"), &Unsealer::of(old));
        assert!(!any(&left), "the master of before opens nothing that stands: {left:?}");
        for known in &before.known {
            let to = run.dir().join(format!("again-{}.db", known.id));
            process.restore(by_id(known.id), Destination::New(to.clone())).await.expect("restore");
            assert_eq!(std::fs::read(&to).expect("read"), known.bytes);
        }
        process.restore(Target::Latest, Destination::New(run.dir().join("latest.db"))).await.expect("restore");
    })
    .await;
    sweep.assert_stopped_at(&[
        "store put, not applied",
        "store put, applied",
        "disk write",
        "disk sync",
        "disk rename",
    ]);
}
