//! Later generations of a manifest: the newest that can be verified speaks for its snapshot, who may make one, and
//! how the earlier ones go.

mod team;
mod world;

use backstay_format::facts::Role;
use backstay_format::object;
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::prune::{Doubt, Named};
use backstay_model::retention::RetentionPolicy;
use backstay_model::{Generation, Kinded, ObjectId, Verdict};
use backstay_ops::OpsError;
use backstay_ops::backup::BaseUse;
use backstay_ops::check::Depth;
use backstay_ops::retain::{self, RetainReport, SourceRules};
use backstay_store::keys::SnapshotName;
use backstay_store::repo::{Manifest, RepoError, Rewrite};
use backstay_store::signing::SigningKey;
use backstay_store::{Key, Store};
use bytes::Bytes;
use jiff::tz::TimeZone;
use team::{Host, Team, by_id};
use world::source;

const CHANGE: &str = "UPDATE t SET x = printf('%0100d', id) WHERE id % 40 = 3";

/// Two snapshots; the names of their first manifests, oldest first.
async fn two(team: &Team) -> [SnapshotName; 2] {
    let host = team.first().await;
    host.backup(&team.db()).await.expect("backup");
    team.sql(CHANGE);
    host.backup(&team.db()).await.expect("backup");
    let names = host.vault.repo.newest_names(&source(), 2).await.expect("names");
    [names[1].clone(), names[0].clone()]
}

/// A later generation of a snapshot that refers to the same packs, by this signer.
async fn rewritten(host: &Host, name: &SnapshotName, signer: &SigningKey) -> (SnapshotName, Bytes) {
    let (repo, random) = (&host.vault.repo, host.vault.env.random.as_ref());
    let of = repo.manifest(name).await.expect("a manifest");
    let generation = repo.next_generation(&source()).await.expect("a generation");
    let (table, body) = (of.table.clone(), of.unseal(host.vault.unsealer().expect("a reader")).expect("opened"));
    let rewrite = Rewrite { of: &of, generation, table, body, signer };
    rewrite.seal(&repo.sealer(random), random).expect("sealed")
}

async fn rewrite(host: &Host, name: &SnapshotName) -> SnapshotName {
    let (name, bytes) = rewritten(host, name, host.keys.signer.as_ref().expect("a signer")).await;
    host.vault.repo.put_generation(&name, bytes).await.expect("put");
    name
}

async fn manifests(host: &Host) -> Vec<SnapshotName> {
    host.vault.repo.snapshot_names(&source()).await.expect("names").into_iter().map(|(name, _)| name).collect()
}

async fn retention(host: &Host, grace_millis: i64) -> RetainReport {
    let policy = RetentionPolicy::default();
    let rules = SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis, log_millis: 0 };
    retain::apply(&host.vault, &[rules]).await.expect("retention")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_generation_speaks_for_its_snapshot_and_nothing_else_changes() {
    let team = Team::new().await;
    let [old, new] = two(&team).await;
    let host = team.first().await;
    host.prove(old.id).await.expect("proven");
    let before = host.vault.catalog(&source()).await.expect("catalog");
    let first = rewrite(&host, &old).await;
    let second = rewrite(&host, &old).await;
    rewrite(&host, &new).await;
    assert_eq!((first.generation, second.generation), (Generation::new(1), Generation::new(2)));
    // A host that remembers the heads, and one that knows nothing.
    for host in [team.first().await, host] {
        let after = host.vault.catalog(&source()).await.expect("catalog");
        let facts = |s: &backstay_model::catalog::Snapshot| (s.id, s.digest, s.previous, s.root, s.marks.clone());
        assert_eq!(
            after.snapshots.iter().map(facts).collect::<Vec<_>>(),
            before.snapshots.iter().map(facts).collect::<Vec<_>>()
        );
        assert_eq!(after.front(&old.id).expect("a front").name, second);
        assert!(after.snapshots[1].has(MarkKind::Proven) && after.broken.is_empty());
        let (newest, _) = host.vault.repo.newest_fronts(&source(), 16).await.expect("fronts");
        assert_eq!(newest.iter().map(|front| front.name.id).collect::<Vec<_>>(), [new.id, old.id]);
        let listed = host.vault.repo.newest_listed(&source(), Some(1)).await.expect("a page");
        assert_eq!((listed.read.len(), listed.older), (1, true));
        let listed = host.vault.repo.newest_listed(&source(), Some(2)).await.expect("a page");
        assert_eq!((listed.read.len(), listed.older), (2, false));
    }
    let host = team.first().await;
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    assert_eq!(host.restored(Target::Latest).await.expect("restore"), team.rows());
    team.sql("UPDATE t SET x = 'later' WHERE id = 77");
    let report = host.backup(&team.db()).await.expect("the next");
    assert_eq!(report.base, BaseUse::Incremental { on: new.id }, "the base is rebuilt for the later generation");
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_damaged_leaves_it_to_the_one_before_and_stops_the_prune_until_it_is_given_up() {
    let team = Team::new().await;
    let [_, new] = two(&team).await;
    let host = team.first().await;
    let (name, bytes) = rewritten(&host, &new, host.keys.signer.as_ref().expect("a signer")).await;
    let mut bytes = bytes.to_vec();
    bytes[300] ^= 1;
    host.vault.repo.put_generation(&name, bytes.into()).await.expect("put");
    let catalog = host.vault.catalog(&source()).await.expect("catalog");
    assert_eq!(catalog.front(&new.id).expect("a front").name, new);
    assert_eq!(catalog.broken[0].0, name);
    assert_eq!(host.check(Depth::Intact).await.expect("check").verdict, Verdict::Fail, "it is told");
    assert_eq!(host.restored(Target::Latest).await.expect("restore"), team.rows());
    let report = retention(&host, backstay_model::prune::GRACE_MIN_MILLIS).await;
    let named = Named { sequence: name.sequence, id: name.id, generation: name.generation };
    assert_eq!(report.sources[0].doubts, [Doubt::Unverified(named)], "by its whole name: {report:?}");
    let drop = async |id: String| {
        let missing = backstay_model::Ranges::default();
        let request = retain::DropRequest { source: source(), id: Some(id), missing, grace_millis: 0 };
        retain::drop(&host.vault, &request).await
    };
    let unsure = drop(name.id.short()).await.expect_err("the good snapshot, or this?");
    assert!(matches!(unsure, OpsError::NoPoint(_)), "{unsure}");
    let report = drop(named.to_string()).await.expect("given up");
    assert_eq!(report.sources[0].deleted.snapshots, 1, "{report:?}");
    let left = manifests(&team.first().await).await;
    assert!(left.contains(&new) && !left.contains(&name) && left.len() == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_keeps_and_reads_may_make_one_and_it_says_what_the_first_said() {
    let team = Team::new().await;
    let [old, new] = two(&team).await;
    let host = team.first().await;
    for (name, roles) in [("w", &[Role::Writer][..]), ("k", &[Role::Keeper, Role::Writer]), ("r", &[Role::Reader])] {
        team.enrolled(name, roles).await;
        let signer = team.host(name).await.keys.signer.clone().expect("a signer");
        let host = team.first().await;
        let (name, bytes) = rewritten(&host, &old, &signer).await;
        host.vault.repo.put_generation(&name, bytes).await.expect("the store takes it");
        let refused = host.vault.repo.manifest(&name).await.expect_err("nobody believes it");
        assert!(matches!(refused, RepoError::Stranger { .. }), "{roles:?}: {refused}");
        assert!(refused.to_string().contains(&name.key().to_string()), "{refused}");
        host.vault.repo.store().delete(&name.key()).await.expect("swept by hand");
    }
    // One snapshot's content under the name of another.
    let (name, bytes) = rewritten(&host, &new, host.keys.signer.as_ref().expect("a signer")).await;
    let other = SnapshotName { sequence: old.sequence, id: old.id, ..name };
    host.vault.repo.put_generation(&other, bytes).await.expect("the store takes it");
    let refused = host.vault.repo.manifest(&other).await.expect_err("nobody believes it");
    assert!(matches!(refused, RepoError::Misplaced { .. }), "{refused}");
    // The first manifest's facts with another root in them.
    let of = host.vault.repo.manifest(&old).await.expect("a manifest");
    let lie = lying(&host, &of).await;
    host.vault.repo.put_generation(&lie.0, lie.1).await.expect("the store takes it");
    let refused = host.vault.repo.manifest(&lie.0).await.expect_err("nobody believes it");
    assert!(matches!(refused, RepoError::Misplaced { .. }), "{refused}");
}

/// A later generation whose own facts name another root than the writer signed.
async fn lying(host: &Host, of: &Manifest) -> (SnapshotName, Bytes) {
    use backstay_format::facts::Rewritten;
    use backstay_store::repo::{Chain, Draft};
    let (repo, random) = (&host.vault.repo, host.vault.env.random.as_ref());
    let front = object::Object::parse(of.bytes()).expect("an object").front.len;
    let mut facts = of.front.facts.clone();
    facts.root = backstay_model::Digest::from_bytes([9; 32]);
    facts.rewritten = Some(Rewritten::of(&of.bytes()[..front]));
    let draft = Draft {
        id: of.id(),
        facts,
        table: of.table.clone(),
        body: of.unseal(host.vault.unsealer().expect("a reader")).expect("opened"),
        chain: Chain { sequence: backstay_model::Sequence::new(40), previous: of.front.digest },
        signer: host.keys.signer.as_ref().expect("a signer"),
    };
    let (bytes, _) = draft.seal(&repo.sealer(random), random);
    (SnapshotName { generation: Generation::new(40), ..of.front.name.clone() }, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_earlier_ones_are_condemned_whatever_the_policy_and_deleted_after_the_grace() {
    let team = Team::new().await;
    let [old, new] = two(&team).await;
    let host = team.first().await;
    let later = [rewrite(&host, &old).await, rewrite(&host, &new).await];
    let report = retention(&host, backstay_model::prune::GRACE_MIN_MILLIS).await;
    assert_eq!(report.sources[0].condemned.snapshots, 2, "{report:?}");
    assert_eq!(
        (report.sources[0].condemned.packs, report.sources[0].deleted.snapshots),
        (0, 0),
        "the packs are shared"
    );
    assert_eq!(manifests(&host).await.len(), 4, "nothing is deleted before its time");
    for host in [host, team.first().await] {
        let catalog = host.vault.catalog(&source()).await.expect("catalog");
        assert_eq!((catalog.snapshots.len(), catalog.condemned.len()), (2, 0), "the snapshots stand");
        assert!(host.restored(by_id(old.id)).await.is_ok());
    }
    let host = team.first().await;
    let report = retention(&host, 0).await;
    assert_eq!((report.sources[0].deleted.snapshots, report.verdict), (2, Verdict::Pass), "{report:?}");
    let mut left = manifests(&host).await;
    left.sort_by_key(|name| name.sequence);
    assert_eq!(left, later);
    let host = team.first().await;
    assert_eq!(host.restored(Target::Latest).await.expect("restore"), team.rows());
    assert_eq!(host.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    let report = retention(&host, backstay_model::prune::GRACE_MIN_MILLIS).await;
    assert_eq!((report.sources[0].doubts.len(), report.sources[0].condemned.snapshots), (0, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_built_on_an_earlier_one_is_not_committed() {
    let team = Team::new().await;
    let [_, new] = two(&team).await;
    let host = team.first().await;
    team.sql("UPDATE t SET x = 'later' WHERE id = 77");
    // The rewriting comes between the backup's first look and its commit: when it puts its first pack.
    let behind = Meanwhile { inner: team.store(), name: new, host: team.first().await, done: Default::default() };
    let slow = team.host_over("first", std::sync::Arc::new(behind)).await.expect("open");
    let refused = slow.backup(&team.db()).await.expect_err("its base is on its way out");
    assert!(matches!(refused, OpsError::BaseVanished { committed: None, .. }), "{refused}");
    assert_eq!(refused.kind(), backstay_model::Kind::Conflict);
    assert!(matches!(host.backup(&team.db()).await.expect("again").base, BaseUse::Incremental { .. }));
    assert_eq!(host.restored(Target::Latest).await.expect("restore"), team.rows());
}

/// Rewrites a snapshot when a pack is put.
struct Meanwhile {
    inner: std::sync::Arc<dyn Store>,
    name: SnapshotName,
    host: Host,
    done: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl Store for Meanwhile {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<backstay_store::Put, backstay_store::StoreError> {
        let is_pack = key.as_str().contains("/pack/");
        if is_pack && !self.done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            rewrite(&self.host, &self.name).await;
        }
        self.inner.put_new(key, bytes).await
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_keeper_keeps_the_generations_it_made_and_makes_no_new_one() {
    let team = Team::new().await;
    let [old, new] = two(&team).await;
    team.enrolled("k", &[Role::Keeper, Role::Reader]).await;
    let keeper = team.host("k").await;
    let made = rewrite(&keeper, &old).await;
    let (late, bytes) = rewritten(&keeper, &new, keeper.keys.signer.as_ref().expect("a signer")).await;
    let first = team.first().await;
    backstay_ops::trust::remove_signer(&first.custodian(), "k").await.expect("removed");
    let host = team.first().await;
    let speaks = |id: ObjectId| {
        let host = &host;
        async move { host.vault.catalog(&source()).await.expect("catalog").front(&id).expect("a front").name.clone() }
    };
    assert_eq!(speaks(old.id).await, made);
    host.vault.repo.put_generation(&late, bytes).await.expect("the store takes it");
    assert_eq!(speaks(new.id).await, new, "what it signed afterwards is nothing");
}
