//! What a store can answer besides yes, and what each answer means for the caller.

use crate::seam::Verb;
use backstay_model::{Kind, Kinded};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{key} is not in the store")]
    NotFound { key: String },
    #[error("{key} is shorter than the {wanted} bytes asked for")]
    Short { key: String, wanted: u64 },
    #[error("the store refused {op} {key}")]
    Denied {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    /// The store keeps the object until its time is over, whoever asks.
    #[error("the store refused {op} {key}: it is locked")]
    Locked {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    /// The keys were good once.
    #[error("the store refused {op} {key}: the access keys have expired")]
    Expired {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    /// Signatures carry the time, and the store does not believe ours.
    #[error("the store refused {op} {key}: this machine's clock differs too much from the store's")]
    Skewed {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    /// The store understood and will not, whoever asks: no such bucket, another region, an unknown header.
    #[error("the store does not accept {op} {key}")]
    Refused {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    #[error("the store is full: {op} {key}")]
    Full {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    /// The answer never came or made no sense: the operation may or may not have been applied.
    #[error("the store did not answer {op} {key}")]
    Unknown {
        op: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    #[error("{op} {key} was still failing after {millis} ms and {attempts} attempts")]
    Deadline {
        op: &'static str,
        key: String,
        millis: u64,
        attempts: u32,
        #[source]
        source: Box<StoreError>,
    },
    /// A name in the store that Backstay would never have made.
    #[error("the store lists a name that is not a legal key: {name:?}")]
    BadName { name: String },
    #[error("{key} has {len} bytes, more than an object may have")]
    TooLarge { key: String, len: u64 },
    #[error("cannot open {path} as a store")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the store failed at reading one object, rather than at saying what is there.
    pub fn is_of_one_object(&self) -> bool {
        let reads = |op: &str| op == Verb::Get.word() || op == Verb::GetRange.word();
        match self {
            Self::Denied { op, .. } | Self::Unknown { op, .. } | Self::Deadline { op, .. } => reads(op),
            Self::NotFound { .. } | Self::Short { .. } | Self::TooLarge { .. } => true,
            _ => false,
        }
    }

    /// What an operating-system error means to the caller of a store.
    pub(crate) fn of_io(op: &'static str, key: &str, error: std::io::Error) -> Self {
        let (key, kind) = (key.to_owned(), Kind::of_io(&error));
        let source = BoxError::from(error);
        match kind {
            Kind::Denied => Self::Denied { op, key, source },
            Kind::NoSpace => Self::Full { op, key, source },
            _ => Self::Unknown { op, key, source },
        }
    }
}

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Kinded for StoreError {
    fn kind(&self) -> Kind {
        match self {
            StoreError::NotFound { .. }
            | StoreError::Short { .. }
            | StoreError::BadName { .. }
            | StoreError::TooLarge { .. } => Kind::Corrupt,
            StoreError::Open { source, .. } => Kind::of_io(source),
            StoreError::Refused { .. } => Kind::Config,
            StoreError::Denied { .. }
            | StoreError::Locked { .. }
            | StoreError::Expired { .. }
            | StoreError::Skewed { .. } => Kind::Denied,
            StoreError::Full { .. } => Kind::NoSpace,
            StoreError::Unknown { .. } | StoreError::Deadline { .. } => Kind::Unavailable,
        }
    }
}
