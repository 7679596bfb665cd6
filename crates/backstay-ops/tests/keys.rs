//! The life of keys: hosts come and go, readers are added and taken off, the master is changed; and what was
//! stored stays restorable for those who should be able to, and for nobody new.

mod team;
mod world;

use backstay_format::facts::{AuditAct, Role};
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Kind, Kinded};
use backstay_ops::backup::BaseUse;
use backstay_ops::check::Depth;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::masters::add;
use backstay_ops::prove::ProofOutcome;
use backstay_ops::trust::{self, Enrol, Receiver, TrustError};
use backstay_ops::{OpsError, join, journal};
use backstay_store::repo::RepoError;
use backstay_store::seal::MasterIdentity;
use backstay_store::seal::wrap::{self, Opening};
use backstay_store::{Key, Page, Put, Store, StoreError};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use team::{Host, Team, by_id, key_file};

const CHANGE: &str = "UPDATE t SET x = printf('%0100d', id) WHERE id % 40 = 3";

fn is_wrong_key<T: std::fmt::Debug>(result: Result<T, OpsError>) -> bool {
    let error = result.expect_err("nothing is opened");
    error.kind() == Kind::Denied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_writer_signs_nothing_new_and_what_it_signed_is_restored() {
    let team = Team::new().await;
    team.enrolled("db-2", &[Role::Writer]).await;
    let second = team.host("db-2").await;
    let kept = second.backup(&team.db()).await.expect("backup");
    let rows = team.rows();
    let first = team.first().await;
    let report = trust::remove_signer(&first.custodian(), "db-2").await.expect("removed");
    assert_eq!(report.not_recorded, None);
    team.sql(CHANGE);
    // It does not know yet, and its credentials of the store still work.
    let refused = second.backup(&team.db()).await.expect_err("it was removed while this ran");
    assert!(matches!(refused, OpsError::KeysChanged), "{refused}");
    let again = team.host("db-2").await.backup(&team.db()).await.expect_err("and now it knows");
    assert!(matches!(again, OpsError::NotEnrolled { .. }), "{again}");
    let reader = team.first().await;
    assert_eq!(reader.restored(by_id(kept.snapshot)).await.expect("restore"), rows);
    assert_eq!(reader.check(Depth::Authentic).await.expect("check").verdict, backstay_model::Verdict::Pass);
    reader.backup(&team.db()).await.expect("another host goes on");
    assert_eq!(reader.restored(Target::Latest).await.expect("restore"), team.rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_a_removed_writer_followed_is_restored() {
    let team = Team::new().await;
    team.enrolled("db-2", &[Role::Writer]).await;
    let second = team.host("db-2").await;
    team.sql("PRAGMA journal_mode=WAL");
    let request = FollowRequest {
        source: world::source(),
        path: team.db(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 1,
        limits: Limits::STANDARD,
        steps: Arc::new(|_| {}),
    };
    let mut follower = Follower::start(&second.vault, request).await.expect("follow");
    team.sql(CHANGE);
    assert_eq!(follower.tick().await.expect("tick").shipped, 1);
    let rows = team.rows();
    let first = team.first().await;
    let report = trust::remove_signer(&first.custodian(), "db-2").await.expect("removed");
    assert!(report.until.iter().any(|until| until.below.starts_with("data/log/")), "{:?}", report.until);
    assert_eq!(team.first().await.restored(Target::Latest).await.expect("restore"), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_key_that_signs_on_is_a_strangers() {
    let team = Team::new().await;
    team.enrolled("db-2", &[Role::Writer]).await;
    let second = team.host("db-2").await;
    let kept = second.backup(&team.db()).await.expect("backup");
    let before = team.folder.path().join("before");
    copy(&team.folder.path().join("vault"), &before);
    let first = team.first().await;
    trust::remove_signer(&first.custodian(), "db-2").await.expect("removed");
    // Whoever stole it works on a copy of before, and puts what it made into the repository.
    let stolen: Arc<dyn Store> = Arc::new(
        backstay_store::local::LocalStore::open(&before, backstay_store::local::OpenMode::Existing).expect("a store"),
    );
    team.sql("DELETE FROM t");
    std::fs::remove_dir_all(team.folder.path().join("db-2/state")).expect("it has seen nothing");
    let thief = team.host_over("db-2", stolen).await.expect("open");
    let forged = thief.backup(&team.db()).await.expect("a backup of its own");
    copy(&before.join("data"), &team.folder.path().join("vault/data"));
    let reader = team.first().await;
    let mut catalog = reader.vault.catalog(&world::source()).await.expect("catalog");
    assert_eq!(catalog.choose(&Target::Latest).expect("one is good").id, kept.snapshot);
    let [(name, error)] = &catalog.broken[..] else { panic!("{:?}", catalog.broken) };
    assert!(name.id == forged.snapshot && matches!(error, RepoError::Stranger { .. }), "{error}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false if to.exists() => {}
            false => drop(std::fs::copy(entry.path(), &to).expect("copied")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_opens_the_repository_with_an_identity_of_its_own() {
    let team = Team::new().await;
    let report = team.enrolled("prover", &[Role::Reader]).await;
    assert!(report.can_read);
    let snapshot = team.first().await.backup(&team.db()).await.expect("backup").snapshot;
    let prover = team.host("prover").await;
    assert!(prover.keys.root.is_none());
    assert_eq!(prover.restored(Target::Latest).await.expect("restore"), team.rows());
    let proof = prover.prove(snapshot).await.expect("prove");
    assert!(matches!(proof.outcome, ProofOutcome::Proven { .. }), "{proof:?}");
    let refused = prover.backup(&team.db()).await.expect_err("it is no writer");
    assert!(matches!(refused, OpsError::NotEnrolled { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_removal_the_old_identity_opens_what_was_there_and_nothing_new() {
    let team = Team::new().await;
    team.enrolled("ada", &[Role::Reader]).await;
    team.enrolled("bob", &[Role::Reader]).await;
    let first = team.first().await;
    let old = first.backup(&team.db()).await.expect("backup");
    let old_rows = team.rows();
    let ada = team.host("ada").await;
    let masters_of_ada = ada.vault.unsealer.as_ref().expect("she reads").identities().to_vec();
    let report = first.change_master(Some("ada")).await.expect("removed");
    assert_eq!((report.recipients, report.left, report.not_recorded), (vec!["bob".to_owned()], vec![], None));
    team.sql(CHANGE);
    let first = team.first().await;
    let new = first.backup(&team.db()).await.expect("backup");
    assert_eq!(new.base, BaseUse::Incremental { on: old.snapshot }, "a rotation costs no full snapshot");
    let everything = [("first", team.first().await), ("bob", team.host("bob").await)];
    for (name, host) in &everything {
        assert_eq!(host.restored(by_id(old.snapshot)).await.expect(name), old_rows);
        assert_eq!(host.restored(by_id(new.snapshot)).await.expect(name), team.rows());
    }
    let gone = team.host("ada").await;
    assert!(is_wrong_key(gone.restored(by_id(new.snapshot)).await));
    assert!(is_wrong_key(gone.restored(by_id(old.snapshot)).await), "her identity leads nowhere any more");
    // What the pages say: with the key of before, which she may have kept, she reads what was there.
    let keeping = Host {
        vault: backstay_ops::catalog::Vault {
            unsealer: Some(backstay_store::seal::Unsealer::of(masters_of_ada)),
            ..gone.vault
        },
        ..gone
    };
    assert_eq!(keeping.restored(by_id(old.snapshot)).await.expect("the old data"), old_rows);
    assert!(is_wrong_key(keeping.restored(by_id(new.snapshot)).await));
}

/// A key of SSH as `ssh-keygen` makes it here and now, in the place of a host's key file.
fn ssh_key(dir: &std::path::Path) -> String {
    std::fs::create_dir(dir).expect("a folder");
    let path = key_file(dir);
    let mut command = std::process::Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "bob at home", "-f"]).arg(&path);
    assert!(command.status().expect("ssh-keygen is installed").success());
    std::fs::read_to_string(path.with_extension("key.pub")).expect("its public half")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_ssh_opens_the_repository_until_it_is_removed() {
    let team = Team::new().await;
    let public = ssh_key(&team.folder.path().join("bob"));
    let first = team.first().await;
    let old = first.backup(&team.db()).await.expect("backup");
    let added = add(&first.custodian(), "bob", &Receiver::parse(&public).expect("a recipient")).await.expect("added");
    assert_eq!(added.recipient.as_deref(), public.strip_suffix(" bob at home\n"), "without its comment");
    assert_eq!(team.host("bob").await.restored(by_id(old.snapshot)).await.expect("restore"), team.rows());
    // The stock program opens the wrap with the same file.
    let wrap = team.store_dir().join(&added.wrap);
    let mut age = std::process::Command::new("age");
    age.arg("-d").arg("-i").arg(key_file(&team.folder.path().join("bob"))).arg(wrap);
    let said = age.output().expect("age is installed");
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("AGE-SECRET-KEY-1"), "{said:?}");
    team.first().await.change_master(None).await.expect("rotated");
    team.sql(CHANGE);
    let new = team.first().await.backup(&team.db()).await.expect("backup");
    for (id, rows) in [(new.snapshot, Some(team.rows())), (old.snapshot, None)] {
        let restored = team.host("bob").await.restored(by_id(id)).await.expect("restore");
        assert!(rows.is_none_or(|rows| rows == restored));
    }
    team.first().await.change_master(Some("bob")).await.expect("removed");
    let last = team.first().await.backup(&team.db()).await.expect("backup");
    let gone = team.host("bob").await;
    assert!(is_wrong_key(gone.restored(by_id(last.snapshot)).await));
    assert!(is_wrong_key(gone.restored(by_id(old.snapshot)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_recipient_is_wrapped_to_by_nothing_that_is_left() {
    let team = Team::new().await;
    team.enrolled("ada", &[Role::Reader]).await;
    team.enrolled("bob", &[Role::Reader]).await;
    let first = team.first().await;
    first.change_master(Some("ada")).await.expect("removed");
    let (ada, bob) = (team.host("ada").await, team.host("bob").await);
    let present = bob.vault.repo.conf().master.clone();
    let (mut by_bob, mut wraps) = (0, 0);
    for entry in bob.vault.repo.wraps().await.expect("wraps") {
        let bytes = bob.vault.repo.store().get(&entry.key).await.expect("a wrap");
        let opens =
            |host: &Host| wrap::open(&bytes, Opening::Identity(host.keys.identity.as_ref().expect("one"))).is_ok();
        assert!(!opens(&ada), "{} opens for her", entry.key);
        assert!(entry.key.as_str().contains(&present), "{} is of the master before", entry.key);
        by_bob += usize::from(opens(&bob));
        wraps += 1;
    }
    assert_eq!((by_bob, wraps), (1, 2), "his wrap, and the masters before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_one_after_another_leave_everything_readable() {
    let team = Team::new().await;
    team.enrolled("bob", &[Role::Reader]).await;
    let mut taken = Vec::new();
    for step in 0..4 {
        team.sql(&format!("UPDATE t SET x = 'step {step}' WHERE id % 100 = {step}"));
        let first = team.first().await;
        taken.push((first.backup(&team.db()).await.expect("backup").snapshot, team.rows()));
        first.change_master(None).await.expect("rotated");
    }
    assert_eq!(team.first().await.keys.identities().len(), 5, "the key file has them all");
    for name in ["first", "bob"] {
        let host = team.host(name).await;
        for (id, rows) in &taken {
            assert!(host.restored(by_id(*id)).await.expect(name) == *rows);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_began_before_a_rotation_commits_nothing_to_the_old_master() {
    let team = Team::new().await;
    let running = team.first().await;
    team.first().await.change_master(None).await.expect("rotated");
    let refused = running.backup(&team.db()).await.expect_err("it is sealed to the master of before");
    assert!(matches!(refused, OpsError::KeysChanged), "{refused}");
    team.first().await.backup(&team.db()).await.expect("the next one goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_configuration_is_refused_after_a_rotation() {
    let team = Team::new().await;
    team.first().await.change_master(None).await.expect("rotated");
    drop(team.first().await);
    let conf = team.folder.path().join(format!("vault/ctl/conf/{:016x}", 1));
    std::fs::remove_file(conf).expect("withheld");
    let refused = team.host_over("first", team.store()).await.err().expect("it has seen a newer one");
    assert!(matches!(refused, OpsError::Repo(RepoError::RolledBack { seen: 1, found: 0, .. })), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_change_the_keys_at_once_never_mix() {
    let team = Team::new().await;
    let (a, b) = (team.first().await, team.first().await);
    a.change_master(None).await.expect("the first");
    let ada = Receiver::Identity(MasterIdentity::generate().master());
    let refused = add(&b.custodian(), "ada", &ada).await.expect_err("the second");
    assert!(matches!(refused, OpsError::Repo(RepoError::LostRace { .. })), "{refused}");
    let now = team.first().await;
    assert!(now.vault.repo.conf().recipients.is_empty());
    add(&now.custodian(), "ada", &ada).await.expect("again");
    now.backup(&team.db()).await.expect("backup");
    assert_eq!(now.restored(Target::Latest).await.expect("restore"), team.rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrap_that_was_exchanged_is_refused() {
    let team = Team::new().await;
    team.enrolled("ada", &[Role::Reader]).await;
    let wrap = team.first().await.vault.repo.wraps().await.expect("wraps").remove(0);
    let mine = MasterIdentity::generate();
    let ada = backstay_ops::init::read_keys(&key_file(&team.folder.path().join("ada"))).expect("keys").expect("keys");
    let to = ada.identity.expect("an identity").master();
    let forged = wrap::wrap(&[mine], wrap::Lock::Recipient(&to));
    std::fs::write(team.folder.path().join("vault").join(wrap.key.as_str()), forged).expect("exchanged");
    let refused = team.host_over("ada", team.store()).await.err().expect("not what was signed");
    assert!(matches!(refused, OpsError::Repo(RepoError::WrongDigest { .. })), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_enrolled_is_refused() {
    let team = Team::new().await;
    let first = team.first().await;
    let accept = async |asked: &backstay_format::facts::Enrolment| {
        let first = team.first().await;
        let roles = [Role::Writer];
        trust::enrol(&first.custodian(), Enrol { asked, roles: &roles }).await.map(drop)
    };
    let trusted = |result: Result<(), OpsError>| match result {
        Err(OpsError::Trust(error)) => error,
        other => panic!("{other:?}"),
    };
    let asked = team.newcomer("db-2", &[Role::Writer]);
    let mut changed = asked.clone();
    changed.request.name = "db-3".into();
    assert!(matches!(trusted(accept(&changed).await), TrustError::BadRequest));
    accept(&asked).await.expect("enrolled");
    assert!(matches!(trusted(accept(&asked).await), TrustError::IsEnrolled { .. }));
    let twin = team.newcomer("db-2", &[Role::Writer]);
    assert!(matches!(trusted(accept(&twin).await), TrustError::NameTaken { .. }));
    let own = trust::remove_signer(&first.custodian(), "first").await.map(drop);
    assert!(matches!(trusted(own), TrustError::OwnKey { .. }));
    let first = team.first().await;
    trust::remove_signer(&first.custodian(), "db-2").await.expect("removed");
    assert!(matches!(trusted(accept(&asked).await), TrustError::WasRemoved { .. }));
    accept(&twin).await.expect("a new key under the same name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_act_is_in_the_audit_in_its_order() {
    let team = Team::new().await;
    team.enrolled("db-2", &[Role::Writer]).await;
    let first = team.first().await;
    let ada = MasterIdentity::generate().master();
    add(&first.custodian(), "ada", &Receiver::Identity(ada)).await.expect("added");
    team.first().await.change_master(Some("ada")).await.expect("removed");
    team.first().await.change_master(None).await.expect("rotated");
    let first = team.first().await;
    trust::remove_signer(&first.custodian(), "db-2").await.expect("removed");
    let report = journal::read(&team.first().await.vault).await.expect("the audit");
    assert!(report.broken.is_empty());
    let acts: Vec<_> = report.records.iter().map(|entry| (entry.number, &entry.act)).collect();
    let AuditAct::SignerEnrolled { generation: 1, name, .. } = acts[0].1 else { panic!("{acts:?}") };
    assert_eq!((name.as_str(), acts.len()), ("db-2", 5));
    assert!(matches!(acts[1].1, AuditAct::RecipientAdded { generation: 2, .. }));
    assert!(matches!(acts[2].1, AuditAct::RecipientRemoved { generation: 3, .. }));
    assert!(matches!(acts[3].1, AuditAct::MasterRotated { generation: 4, .. }));
    assert!(matches!(acts[4], (5, AuditAct::SignerRemoved { generation: 5, .. })));
    let folder = team.folder.path().join("vault/ctl/audit");
    let chain = std::fs::read_dir(folder).expect("the audit").flatten().next().expect("a chain").path();
    std::fs::remove_file(chain.join(format!("{:016x}", 3))).expect("one is withheld");
    let report = journal::read(&team.first().await.vault).await.expect("the audit");
    assert_eq!((report.records.len(), report.broken.len()), (0, 1), "a hole is told");
}

type Act = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Runs something once, before the store answers its `at`th question.
struct Interrupting {
    inner: Arc<dyn Store>,
    at: usize,
    asked: AtomicUsize,
    act: Act,
}

impl Interrupting {
    async fn ask(&self) -> &dyn Store {
        if self.asked.fetch_add(1, Ordering::SeqCst) == self.at {
            (self.act)().await;
        }
        self.inner.as_ref()
    }
}

#[async_trait::async_trait]
impl Store for Interrupting {
    async fn put_new(&self, key: &Key, bytes: bytes::Bytes) -> Result<Put, StoreError> {
        self.ask().await.put_new(key, bytes).await
    }
    async fn get(&self, key: &Key) -> Result<bytes::Bytes, StoreError> {
        self.ask().await.get(key).await
    }
    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<bytes::Bytes, StoreError> {
        self.ask().await.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.ask().await.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.ask().await.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.ask().await.delete(key).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A removal at every moment of a running backup: the backup ends with a snapshot that everybody who stays can
/// read, or with none; and she opens it only if it was already on its way in, which is one request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_at_every_moment_of_a_backup() {
    let (mut at, mut slipped, mut refused) = (0, 0, 0);
    loop {
        let team = Arc::new(Team::new().await);
        team.enrolled("ada", &[Role::Reader]).await;
        team.first().await.backup(&team.db()).await.expect("backup");
        team.sql(CHANGE);
        let hers = team.host("ada").await.vault.unsealer.expect("she reads").identities().to_vec();
        let running = team.clone();
        let act: Act = Box::new(move || {
            let team = running.clone();
            Box::pin(async move {
                // A host of its own: another process would not hold this one's memory either.
                let dir = team.folder.path().join("other");
                std::fs::create_dir(&dir).expect("a folder");
                std::fs::copy(key_file(&team.folder.path().join("first")), key_file(&dir)).expect("the key");
                team.host("other").await.change_master(Some("ada")).await.expect("removed");
            })
        });
        let store = Arc::new(Interrupting { inner: team.store(), at, asked: AtomicUsize::new(0), act });
        let host = team.host_over("first", store.clone()).await.expect("open");
        let result = host.backup(&team.db()).await;
        let asked = store.asked.load(Ordering::SeqCst);
        if asked <= at {
            result.expect("nothing came between");
            break;
        }
        let bob = team.host("other").await;
        match result {
            Ok(report) => {
                assert_eq!(bob.restored(by_id(report.snapshot)).await.expect("restore"), team.rows());
                let keeping = Host {
                    vault: backstay_ops::catalog::Vault {
                        unsealer: Some(backstay_store::seal::Unsealer::of(hers)),
                        ..team.host("ada").await.vault
                    },
                    ..team.host("ada").await
                };
                slipped += usize::from(keeping.restored(by_id(report.snapshot)).await.is_ok());
            }
            Err(error) => {
                assert!(matches!(error, OpsError::KeysChanged), "at {at}: {error}");
                refused += 1;
                bob.backup(&team.db()).await.expect("the next one goes on");
            }
        }
        assert_eq!(bob.restored(Target::Latest).await.expect("restore"), team.rows());
        at += 1;
    }
    assert!(refused > 3, "the backup was interrupted while it ran: {refused} of {at}");
    // The manifest's own put, and what is asked after it, come too late for the removal to matter.
    assert!(slipped <= 3, "{slipped} of {at}");
}

/// Everything about the file it was given, and nothing about content: it is a writer without an identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_joined_goes_on_incrementally_without_reading() {
    let team = Team::new().await;
    team.enrolled("db-2", &[Role::Writer]).await;
    let first = team.first().await;
    let old = first.backup(&team.db()).await.expect("backup");
    let joining = team.host("db-2").await;
    let source = world::source();
    let to = join::request(&joining.vault, &source).expect("a recipient");
    assert_eq!(join::request(&joining.vault, &source).expect("the same").text(), to.text());
    let file = team.folder.path().join("shop.join");
    join::answer(&first.vault, &source, &to, &file).await.expect("handed over");
    let mut bytes = std::fs::read(&file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = team.folder.path().join("damaged.join");
    std::fs::write(&damaged, bytes).expect("written");
    let refused = join::accept(&joining.vault, &source, &damaged).expect_err("damaged on its way");
    assert!(matches!(refused, OpsError::Trust(TrustError::BadAnswer { .. })), "{refused}");
    let stranger = team.host("first").await;
    assert!(join::accept(&stranger.vault, &source, &file).is_err(), "it opens nowhere else");
    join::accept(&joining.vault, &source, &file).expect("joined");
    team.sql("UPDATE t SET x = 'changed' WHERE id < 20");
    let new = joining.backup(&team.db()).await.expect("backup");
    assert_eq!(new.base, BaseUse::Incremental { on: old.snapshot });
    assert!(new.units_stored * 4 < old.units_stored, "{} of {}", new.units_stored, old.units_stored);
    assert!(joining.vault.unsealer.is_none() && joining.restored(Target::Latest).await.is_err());
    assert_eq!(team.first().await.restored(Target::Latest).await.expect("restore"), team.rows());
}

/// Where another backup came between, the snapshot is a full one, and still one of the same source: equal content
/// has an equal root digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_late_still_brings_the_key() {
    let team = Team::new().await;
    team.enrolled("db-2", &[Role::Writer]).await;
    let (first, source) = (team.first().await, world::source());
    first.backup(&team.db()).await.expect("backup");
    let joining = team.host("db-2").await;
    let to = join::request(&joining.vault, &source).expect("a recipient");
    let file = team.folder.path().join("shop.join");
    join::answer(&first.vault, &source, &to, &file).await.expect("handed over");
    team.sql(CHANGE);
    let between = first.backup(&team.db()).await.expect("backup").snapshot;
    join::accept(&joining.vault, &source, &file).expect("joined");
    let late = joining.backup(&team.db()).await.expect("backup");
    assert!(matches!(late.base, BaseUse::Full { .. }), "{:?}", late.base);
    let catalog = first.vault.catalog(&source).await.expect("catalog");
    let root = |id| catalog.front(&id).expect("listed").facts.root;
    assert_eq!(root(late.snapshot), root(between));
}
