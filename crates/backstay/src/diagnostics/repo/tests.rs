use crate::diagnostics::Diagnostic;
use crate::diagnostics::tests::rendered;
use backstay_format::Corrupt;
use backstay_model::{Digest, ObjectId, SignerKey};
use backstay_store::StoreError;
use backstay_store::keyfile::KeyFileError;
use backstay_store::repo::RepoError;
use backstay_store::seal::SealError;
use std::io;

fn key() -> String {
    "data/shop/pack/00".to_owned()
}

#[test]
fn of_repositories() {
    let store = || "local folder vault".to_owned();
    let digest = Digest::ZERO;
    let errors = vec![
        RepoError::NotARepository { store: store() },
        RepoError::AlreadyThere { store: store() },
        RepoError::OtherRoot { key: key(), pinned: SignerKey::ZERO, found: SignerKey::from_bytes([1; 32]) },
        RepoError::BadSignature { key: key() },
        RepoError::Stranger { key: key(), signer: SignerKey::ZERO },
        RepoError::Misplaced { key: key(), what: "it is not the branch its name says" },
        RepoError::RolledBack { what: "history", seen: 7, found: 5 },
        RepoError::BrokenChain { key: key() },
        RepoError::Foreign { key: key() },
        RepoError::LostRace { key: key() },
        RepoError::Damaged { key: key(), source: Corrupt::Truncated { what: "a pack" } },
        RepoError::Sealed { key: key(), source: SealError::WrongKey },
        RepoError::WrongLength { key: key(), wanted: 10, found: 5 },
        RepoError::Missing { key: key() },
        RepoError::WrongDigest { key: key(), wanted: digest, found: digest },
        RepoError::Unlisted { object: ObjectId::ZERO },
        RepoError::BadMap { stream: "main".to_owned(), rule: "its unit size is not one there can be" },
        RepoError::NewerWriters { bits: 2 },
        RepoError::NoWrap { key: key() },
        RepoError::NoIdentity,
        RepoError::KeyFile(KeyFileError::Empty),
        RepoError::Store(StoreError::NotFound { key: key() }),
    ];
    insta::assert_snapshot!(rendered(errors.into_iter().map(Diagnostic::from).collect()));
}

#[test]
fn of_stores() {
    let cause = || -> Box<dyn std::error::Error + Send + Sync> { "it said no".into() };
    let unknown = || StoreError::Unknown { op: "get", key: key(), source: cause() };
    let errors = vec![
        StoreError::NotFound { key: key() },
        StoreError::Short { key: key(), wanted: 10 },
        StoreError::Denied { op: "put", key: key(), source: cause() },
        StoreError::Expired { op: "put", key: key(), source: cause() },
        StoreError::Skewed { op: "put", key: key(), source: cause() },
        StoreError::Full { op: "put", key: key(), source: cause() },
        unknown(),
        StoreError::Deadline { op: "get", key: key(), millis: 120_000, attempts: 9, source: Box::new(unknown()) },
        StoreError::BadName { name: "A b".to_owned() },
        StoreError::TooLarge { key: key(), len: 1 << 40 },
        StoreError::Open { path: "vault".to_owned(), source: io::Error::new(io::ErrorKind::NotFound, "not found") },
    ];
    insta::assert_snapshot!(rendered(errors.into_iter().map(Diagnostic::from).collect()));
}

#[test]
fn of_seals_and_key_files() {
    let seals = vec![
        SealError::BadRecipient { text: "age1x".to_owned(), reason: "too short" },
        SealError::BadIdentity { reason: "too short" },
        SealError::WrongKey,
        SealError::Commitment,
        SealError::Tag { frame: 3 },
        SealError::Compression { frame: 3, raw: 4096 },
        SealError::Wrap { source: "it is cut".into() },
        SealError::Corrupt(Corrupt::Truncated { what: "a header" }),
    ];
    let files = vec![
        KeyFileError::BadSeed { line: 7 },
        KeyFileError::UnknownLine { line: 7 },
        KeyFileError::Twice { line: 7 },
        KeyFileError::TooLong { len: 70_000 },
        KeyFileError::Empty,
        KeyFileError::Identity(SealError::BadIdentity { reason: "too short" }),
    ];
    let seals = seals.into_iter().map(Diagnostic::from);
    insta::assert_snapshot!(rendered(seals.chain(files.into_iter().map(Diagnostic::from)).collect()));
}
