//! Why a repository cannot be trusted, read or written, each with the name it concerns.

use crate::seal::SealError;
use crate::seam::Key;
use crate::{StoreError, keyfile::KeyFileError};
use backstay_format::Corrupt;
use backstay_model::{Digest, Kind, Kinded, ObjectId, SignerKey};

#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    #[error("{store} holds no repository")]
    NotARepository { store: String },
    #[error("{store} already holds a repository")]
    AlreadyThere { store: String },
    #[error("{key} is signed by the root {found}, not by the pinned root {pinned}")]
    OtherRoot { key: String, pinned: SignerKey, found: SignerKey },
    #[error("{key} carries a signature that is not its signer's")]
    BadSignature { key: String },
    #[error("{key} is signed by {signer}, who is not enrolled for that")]
    Stranger { key: String, signer: SignerKey },
    #[error("{key} is not what its name says: {what}")]
    Misplaced { key: String, what: &'static str },
    #[error("the store serves an older {what} than was seen before ({seen} was seen, {found} is served)")]
    RolledBack { what: &'static str, seen: u64, found: u64 },
    #[error("the history has a hole: {key} does not follow the one before it")]
    BrokenChain { key: String },
    #[error("{key} belongs to another repository")]
    Foreign { key: String },
    #[error("{key} was taken by somebody else first")]
    LostRace { key: String },
    #[error("{key} is damaged")]
    Damaged {
        key: String,
        #[source]
        source: Corrupt,
    },
    #[error("{key} cannot be opened")]
    Sealed {
        key: String,
        #[source]
        source: SealError,
    },
    #[error("{key} is {found} bytes long; its manifest says {wanted}")]
    WrongLength { key: String, wanted: u64, found: u64 },
    #[error("{key} is missing; a snapshot refers to it")]
    Missing { key: String },
    #[error("{key} does not have the bytes its manifest was signed over")]
    WrongDigest { key: String, wanted: Digest, found: Digest },
    #[error("the map names object {object}, which the manifest's table does not")]
    Unlisted { object: ObjectId },
    #[error("the map of stream {stream:?} is damaged: {rule}")]
    BadMap { stream: String, rule: &'static str },
    #[error("a newer Backstay writes here (features {bits:#x}); this one may read, and must not write")]
    NewerWriters { bits: u32 },
    #[error("{key}, which holds the master identity for somebody, is missing")]
    NoWrap { key: String },
    #[error("this needs the master identity, and the key file holds none")]
    NoIdentity,
    #[error("the key file cannot be used")]
    KeyFile(#[from] KeyFileError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RepoError {
    pub fn misplaced(key: &Key, what: &'static str) -> Self {
        Self::Misplaced { key: key.to_string(), what }
    }
    pub fn damaged(key: &Key, source: Corrupt) -> Self {
        Self::Damaged { key: key.to_string(), source }
    }
    /// The same, said of another name: of the object that carries what this is about.
    pub(super) fn about(mut self, other: &Key) -> Self {
        if let Self::Stranger { key, .. }
        | Self::Foreign { key }
        | Self::BadSignature { key }
        | Self::Damaged { key, .. }
        | Self::Misplaced { key, .. } = &mut self
        {
            *key = other.to_string();
        }
        self
    }
    /// Whether the store gave no answer: unlike a bad object, that is no finding about the repository.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() != Kind::Corrupt)
    }
    /// Whether the store, asked for this one object, did not give it. Other objects may be had.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() != Kind::Corrupt && error.is_of_one_object())
    }
    pub fn sealed(key: &Key, source: SealError) -> Self {
        Self::Sealed { key: key.to_string(), source }
    }
}

impl Kinded for RepoError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotARepository { .. } => Kind::Config,
            Self::AlreadyThere { .. } | Self::LostRace { .. } => Kind::Conflict,
            Self::OtherRoot { .. } | Self::BadSignature { .. } | Self::Stranger { .. } => Kind::Denied,
            Self::NoIdentity | Self::NewerWriters { .. } => Kind::Denied,
            Self::Sealed { source, .. } => source.kind(),
            Self::KeyFile(error) => error.kind(),
            Self::Store(error) => error.kind(),
            _ => Kind::Corrupt,
        }
    }
}
