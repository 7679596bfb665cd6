//! The whole life with roles that the store enforces: a writer that can neither delete, nor decrypt, nor
//! write outside `data/`; a keeper that cannot decrypt; a reader that adds nothing but marks.

mod team;
mod world;

use backstay_format::facts::Role;
use backstay_model::catalog::Target;
use backstay_model::{Kind, Kinded, Verdict};
use backstay_ops::backup::BaseUse;
use backstay_ops::check::Depth;
use backstay_ops::permissions::{self, Answer};
use backstay_ops::prove::ProofOutcome;
use backstay_store::Key;
use backstay_testkit::role_store::{KEEPER, Policy, READER, ROOT, RoleStore, WRITER};
use std::sync::Arc;
use team::{Host, Team, by_id};

async fn host(team: &Team, name: &str, policy: Policy) -> (Host, Arc<RoleStore>) {
    let store = Arc::new(RoleStore::new(team.store(), policy));
    (team.host_over(name, store.clone()).await.expect("open"), store)
}

/// A team in which nobody but the first host, which is not used any more, may do more than one thing.
async fn divided() -> Team {
    let team = Team::new().await;
    team.enrolled("db", &[Role::Writer]).await;
    team.enrolled("maintenance", &[Role::Keeper]).await;
    team.enrolled("prover", &[Role::Reader]).await;
    team
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_in_which_nobody_can_do_everything() {
    let team = divided().await;
    let (db, as_writer) = host(&team, "db", WRITER).await;
    assert!(db.vault.unsealer.is_none() && db.keys.root.is_none());
    let first = db.backup(&team.db()).await.expect("the first backup");
    let proof = db.prove(first.snapshot).await.expect("asked");
    assert!(matches!(proof.outcome, ProofOutcome::NotPossible { .. }), "a writer ends at intact: {proof:?}");
    assert_eq!(db.check(Depth::Intact).await.expect("check").verdict, Verdict::Pass);
    team.sql("UPDATE t SET x = 'changed' WHERE id % 100 = 3");
    let second = db.backup(&team.db()).await.expect("the next backup");
    assert_eq!(second.base, BaseUse::Incremental { on: first.snapshot }, "its cache is enough, it reads nothing back");
    assert_eq!(db.restored(Target::Latest).await.expect_err("it cannot read").kind(), Kind::Denied);
    assert_eq!(as_writer.refused(), [], "and it asked for nothing it may not have");

    let (prover, as_reader) = host(&team, "prover", READER).await;
    for snapshot in [first.snapshot, second.snapshot] {
        let proof = prover.prove(snapshot).await.expect("prove");
        assert!(matches!(proof.outcome, ProofOutcome::Proven { .. }), "{proof:?}");
    }
    assert_eq!(prover.check(Depth::Authentic).await.expect("check").verdict, Verdict::Pass);
    assert_eq!(prover.restored(Target::LatestProven).await.expect("restore"), team.rows());
    assert!(prover.backup(&team.db()).await.is_err());
    assert_eq!(as_reader.refused(), []);

    let (keeper, as_keeper) = host(&team, "maintenance", KEEPER).await;
    assert!(keeper.vault.unsealer.is_none());
    let catalog = keeper.vault.catalog(&world::source()).await.expect("catalog");
    assert_eq!(catalog.snapshots.iter().filter(|s| s.is_proven()).count(), 2, "it sees what the prover said");
    assert_eq!(keeper.check(Depth::Intact).await.expect("check").verdict, Verdict::Pass);
    assert_eq!(keeper.restored(by_id(first.snapshot)).await.expect_err("it cannot read").kind(), Kind::Denied);
    assert!(keeper.backup(&team.db()).await.is_err());
    assert_eq!(as_keeper.refused(), []);

    let (db, _) = host(&team, "db", WRITER).await;
    let catalog = db.vault.catalog(&world::source()).await.expect("the writer sees it too");
    assert!(catalog.snapshots.iter().all(|s| s.is_proven()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_must_not_do_the_store_refuses_and_the_signature_would_not_help() {
    let team = divided().await;
    let (db, _) = host(&team, "db", WRITER).await;
    let snapshot = db.backup(&team.db()).await.expect("backup").snapshot;
    let key = |name: &str| Key::parse(name).expect("a legal key");
    let store = db.vault.repo.store().clone();
    let pack = team.store().list("data/shop/pack/", None, 1).await.expect("list").entries.remove(0).key;
    assert!(store.delete(&pack).await.is_err() && team.store().head(&pack).await.expect("head").is_some());
    assert!(store.put_new(&key("ctl/mark/shop/x"), bytes::Bytes::new()).await.is_err());
    assert!(store.list("ctl/master/", None, 1).await.is_err());
    // Even over a store that refuses nothing, a mark that a writer signs is a stranger's.
    let mut wide = team.host("db").await;
    let root = wide.vault.catalog(&world::source()).await.expect("catalog").snapshots[0].root;
    let mark = backstay_format::facts::Mark {
        source: world::source(),
        snapshot,
        kind: backstay_model::catalog::MarkKind::Proven,
        root,
        at: backstay_model::Moment::from_millis(0).expect("in range"),
        releases: None,
        evidence: serde_json::Value::Null,
    };
    let signer = wide.vault.signer.take().expect("a signer");
    let id = wide.vault.repo.fresh_id(wide.vault.env.random.as_ref());
    let signing = backstay_store::repo::Signing { key: &signer, id };
    wide.vault.repo.put_mark(mark, backstay_store::repo::Chain::START, signing).await.expect("put");
    let seen = team.host("prover").await.vault.catalog(&world::source()).await.expect("catalog");
    assert!(seen.snapshots.iter().all(|s| !s.is_proven()), "a writer cannot call its own work proven");
    assert_eq!(seen.mark_faults.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_of_permissions_knows_each_role_and_leaves_nothing_it_can_take_away() {
    let team = divided().await;
    let before = listing(&team).await;
    for (name, role, policy, left) in
        [("db", Role::Writer, WRITER, 1), ("maintenance", Role::Keeper, KEEPER, 1), ("prover", Role::Reader, READER, 1)]
    {
        let (host, _) = host(&team, name, policy).await;
        let report = permissions::audit(&host.vault, &[role], false).await.expect("audit");
        assert_eq!(report.verdict, Verdict::Pass, "{role:?}: {report:?}");
        assert!(report.could_be.contains(&role), "{report:?}");
        assert_eq!(report.left.len(), left, "what it may create and not delete: {report:?}");
        for probe in &report.left {
            team.store().delete(&Key::parse(probe).expect("a key")).await.expect("deleted");
        }
        assert_eq!(listing(&team).await, before, "nothing else was touched");
        let (wide, _) = (team.host(name).await, ());
        let report = permissions::audit(&wide.vault, &[role], false).await.expect("audit");
        assert_eq!(report.verdict, Verdict::Partial, "it could do more than it should: {report:?}");
        assert!(report.left.is_empty());
    }
    let (first, _) = host(&team, "first", ROOT).await;
    let report = permissions::audit(&first.vault, &Role::ALL, true).await.expect("audit");
    assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
    let (narrow, _) = host(&team, "first", READER).await;
    let report = permissions::audit(&narrow.vault, &[Role::Writer], false).await.expect("audit");
    assert_eq!(report.verdict, Verdict::Fail, "it cannot create: {report:?}");
    assert!(report.tried.iter().all(|tried| !matches!(tried.answer, Answer::Unknown { .. })));
}

async fn listing(team: &Team) -> Vec<Key> {
    let page = team.store().list("", None, 10_000).await.expect("list");
    let probes = |key: &Key| key.as_str().contains("probe");
    page.entries.into_iter().map(|entry| entry.key).filter(|key| !probes(key)).collect()
}
