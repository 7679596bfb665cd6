use crate::diagnostics::Diagnostic;
use crate::diagnostics::tests::rendered;
use backstay_format::Corrupt;
use backstay_model::backup::Exhausted;
use backstay_model::catalog::NoPoint;
use backstay_model::copies::Rivals;
use backstay_model::{ByteLen, Digest, Moment, ObjectId, Sequence, SignerKey};
use backstay_ops::OpsError;
use backstay_ops::disk::PathError;
use backstay_ops::trust::TrustError;
use backstay_store::repo::RepoError;
use backstay_store::seal::SealError;
use std::io;
use std::path::PathBuf;

fn all(errors: Vec<OpsError>) -> String {
    rendered(errors.into_iter().map(Diagnostic::from).collect())
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 16])
}

#[test]
fn of_operations() {
    let source_name: backstay_model::SourceName = "shop".parse().expect("a name");
    let path = || PathBuf::from("shop.db");
    let key = || PathBuf::from("backstay.key");
    let source = io::Error::new(io::ErrorKind::PermissionDenied, "permission denied");
    let (needed, free) = (ByteLen::new(5000), ByteLen::new(10));
    let rivals = Rivals { sequence: Sequence::new(3), copy: id(1), original: Some(id(2)) };
    insta::assert_snapshot!(all(vec![
        OpsError::Repo(RepoError::NoIdentity),
        OpsError::Path(PathError { op: "create", path: path(), source }),
        OpsError::NoStandby { path: path(), why: "nothing beside it says of which source" },
        OpsError::Format(Corrupt::Truncated { what: "a leaf" }),
        OpsError::Exhausted(Exhausted),
        OpsError::Busy { source_name: source_name.clone(), pid: Some(17) },
        OpsError::NotEnrolled { role: "a writer" },
        OpsError::Rival { source_name: source_name.clone(), rival: id(2) },
        OpsError::BaseVanished { manifest: id(1), committed: Some(id(2)) },
        OpsError::RootMismatch { wanted: Digest::ZERO, found: Digest::from_bytes([1; 32]) },
        OpsError::TargetExists { path: path() },
        OpsError::NoFolder { path: PathBuf::from("/srv/nowhere") },
        OpsError::InUse { path: path(), who: "open in sqlite3 (pid 17)".to_owned() },
        OpsError::NoRoom { path: PathBuf::from("/var"), needed, free },
        OpsError::Smoke { query: "SELECT 0".to_owned(), outcome: "0".to_owned() },
        OpsError::Unsound { problem: "its pages are crossed".to_owned() },
        OpsError::SameKeyFile { path: key() },
        OpsError::OtherKey { path: key() },
        OpsError::KeyLacks { path: key(), what: "master identity" },
        OpsError::OutgrownKey { path: key() },
        OpsError::KeysChanged,
        OpsError::NotACopy { store: "local folder /mnt/copy".to_owned(), why: "it holds another".to_owned() },
        OpsError::CopyRivals { source_name: source_name.clone(), rivals },
        OpsError::Cancelled,
    ]));
}

#[test]
fn of_trust() {
    let name = || "db-host-2".to_owned();
    let key = SignerKey::from_bytes([0x3a; 32]);
    let source = SealError::BadRecipient { text: "ssh-ed25519".to_owned(), reason: "invalid Bech32 encoding" };
    let errors = vec![
        TrustError::NoRoot,
        TrustError::BadRequest,
        TrustError::BadName { name: "a\nb".to_owned() },
        TrustError::NameTaken { what: "signer", name: name() },
        TrustError::NameTaken { what: "recipient", name: name() },
        TrustError::WasRemoved { key },
        TrustError::IsEnrolled { key, name: name() },
        TrustError::Unknown { what: "signer", name: name(), have: vec!["db-host-1".to_owned()] },
        TrustError::Unknown { what: "recipient", name: name(), have: Vec::new() },
        TrustError::OwnKey { name: name() },
        TrustError::OwnRecipient { name: name() },
        TrustError::Unsealed,
        TrustError::PassphraseNeeded { name: "the safe".to_owned() },
        TrustError::NowhereToWrite,
        TrustError::NothingToHand { source_name: "shop".parse().expect("a name") },
        TrustError::BadAnswer { path: PathBuf::from("shop.join"), why: "it was not made for this host" },
        TrustError::BadRecipient { text: "ssh-ed25519".to_owned(), source },
    ];
    insta::assert_snapshot!(all(errors.into_iter().map(OpsError::from).collect()));
}

#[test]
fn of_points_that_are_not_there() {
    let moment = |text: &str| -> Moment { text.parse().expect("a moment") };
    let (at, oldest) = (moment("2026-11-20T00:00:00Z"), moment("2026-11-21T10:00:00Z"));
    let points = vec![
        NoPoint::Empty,
        NoPoint::NoneProven { newest: id(1).short() },
        NoPoint::AllQuarantined,
        NoPoint::BeforeFirst { at, oldest },
        NoPoint::UnknownId { id: "abcd".to_owned() },
        NoPoint::AmbiguousId { id: "abcd".to_owned(), count: 2 },
        NoPoint::UnknownLabel { label: "before-v2".to_owned() },
        NoPoint::Rivals { a: id(1), b: id(2) },
        NoPoint::NotFollowed,
        NoPoint::TxNotHeld { tx: 9, before: 7, after: Some(12) },
        NoPoint::TxBeforeFirst { tx: 3, oldest: 12 },
        NoPoint::InGap { at, before: oldest, after: at },
    ];
    insta::assert_snapshot!(all(points.into_iter().map(OpsError::NoPoint).collect()));
}
