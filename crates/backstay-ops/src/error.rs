//! Why an operation could not reach a verdict.

use crate::disk::PathError;
use crate::trust::TrustError;
use backstay_format::Corrupt;
use backstay_format::ltx::LtxError;
use backstay_model::backup::Exhausted;
use backstay_model::catalog::NoPoint;
use backstay_model::{ByteLen, Digest, Kind, Kinded, Moment, ObjectId, Sequence, SourceName, StreamId};
use backstay_sqlite::SqliteError;
use backstay_store::StoreError;
use backstay_store::repo::RepoError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// One attempt of several sources together.
    #[error(transparent)]
    Shared(std::sync::Arc<RepoError>),
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("a map in the local cache or the repository is damaged")]
    Format(#[from] Corrupt),
    #[error(transparent)]
    NoPoint(#[from] NoPoint),
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error("another backup of {source_name} is running{}", by(.pid))]
    Busy { source_name: SourceName, pid: Option<u32> },
    #[error("the key file holds no signing key enrolled as {role}")]
    NotEnrolled { role: &'static str },
    #[error("another writer stored snapshot {rival} of {source_name} at the same time; both are whole")]
    Rival { source_name: SourceName, rival: ObjectId },
    #[error("the snapshot this backup builds on vanished while it ran{}", stored(.committed))]
    BaseVanished { manifest: ObjectId, committed: Option<ObjectId> },
    #[error("the restored content has digest {found}; the snapshot was taken of {wanted}")]
    RootMismatch { wanted: Digest, found: Digest },
    #[error("{} is in the way", path.display())]
    TargetExists { path: PathBuf },
    #[error("it is not known whether the database is the restored one now; what it was is kept as {}", kept.display())]
    Unsettled { kept: PathBuf, source: SqliteError },
    #[error("it is not known whether the rows are in the database now; what undoes it is kept as {}", undo.display())]
    RowsUnsettled { undo: PathBuf, source: SqliteError },
    #[error("there is no folder {}", path.display())]
    NoFolder { path: PathBuf },
    #[error("{} is in use: {who}", path.display())]
    InUse { path: PathBuf, who: String },
    #[error("{} has {free} free and {needed} is needed", path.display())]
    NoRoom { path: PathBuf, needed: ByteLen, free: ByteLen },
    #[error("the smoke query {query:?} did not pass on the restored copy: {outcome}")]
    Smoke { query: String, outcome: String },
    #[error("the restored copy did not pass its checks: {problem}")]
    Unsound { problem: String },
    #[error("the copy of the key is the file in use itself ({})", path.display())]
    SameKeyFile { path: PathBuf },
    #[error("the key file {} belongs to another repository", path.display())]
    OtherKey { path: PathBuf },
    #[error("the key file {} opens what was sealed before the key was changed, and nothing newer", path.display())]
    OutgrownKey { path: PathBuf },
    #[error("the keys of the repository were changed while this ran")]
    KeysChanged,
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the key file {} lacks the {what}", path.display())]
    KeyLacks { path: PathBuf, what: &'static str },
    #[error("{} has a journal beside it: a program died while it wrote there", path.display())]
    Unfinished { path: PathBuf },
    #[error("{} holds more than {limit} when unpacked", path.display())]
    TooLong { path: PathBuf, limit: ByteLen },
    #[error("`gzip` could not unpack {}: {problem}", path.display())]
    Unpack { path: PathBuf, problem: String },
    #[error("{store} is no copy of this repository: {why}")]
    NotACopy { store: String, why: String },
    #[error("the copy of {source_name} has a history of its own")]
    CopyRivals {
        source_name: SourceName,
        #[source]
        rivals: backstay_model::copies::Rivals,
    },
    #[error("snapshot {snapshot} is condemned: it will be deleted, and may lack objects already")]
    Condemned { snapshot: ObjectId },
    #[error("the backup took {hours} hours; after {allowed} what it refers to may be gone")]
    TooSlow { hours: i64, allowed: i64 },
    #[error("{holder} is pruning this repository{}", at_latest(.until))]
    LeaseHeld { holder: String, until: Option<Moment> },
    #[error("the turn to prune ran out before everything was deleted")]
    LeaseOver,
    #[error("snapshot {snapshot} is not given up: it is {why}")]
    Protected { snapshot: ObjectId, why: String },
    #[error("no snapshot or manifest of {source_name} has an id that begins with {id:?}")]
    NothingToDrop { source_name: SourceName, id: String },
    #[error("snapshot {snapshot} is not held")]
    NotHeld { snapshot: ObjectId },
    #[error("the prune record would be longer than an object's facts may be")]
    RecordFull,
    #[error("object {sequence} of the log {stream} is not what it was a moment ago, or is gone")]
    LogHole { stream: StreamId, sequence: Sequence },
    #[error(transparent)]
    Mask(#[from] backstay_model::mask::Refused),
    #[error("the masked copy would break references of {}", .tables.join(", "))]
    MaskBreaks { tables: Vec<String> },
    #[error("{} is no replica of Litestream 0.5{}", path.display(), old(.is_old))]
    NotAReplica { path: PathBuf, is_old: bool },
    #[error(transparent)]
    NoChain(#[from] backstay_model::litestream::NoChain),
    #[error("{} cannot be used", path.display())]
    Ltx {
        path: PathBuf,
        #[source]
        source: LtxError,
    },
    #[error("{} is no stand-by: {why}", path.display())]
    NoStandby { path: PathBuf, why: &'static str },
    #[error("cancelled")]
    Cancelled,
}

fn old(is_old: &bool) -> &'static str {
    if *is_old { ", but of an earlier release" } else { "" }
}

fn at_latest(until: &Option<Moment>) -> String {
    until.map_or_else(String::new, |until| format!(", at the latest until {until}"))
}

fn stored(committed: &Option<ObjectId>) -> String {
    committed.map_or_else(String::new, |id| format!("; snapshot {} was stored and may lack objects", id.short()))
}

fn by(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl From<StoreError> for OpsError {
    fn from(error: StoreError) -> Self {
        Self::Repo(RepoError::Store(error))
    }
}

impl Kinded for OpsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Repo(error) => error.kind(),
            Self::Shared(error) => error.kind(),
            Self::Sqlite(error) | Self::Unsettled { source: error, .. } | Self::RowsUnsettled { source: error, .. } => {
                error.kind()
            }
            Self::Path(error) => Kind::of_io(&error.source),
            Self::NoPoint(error) => error.kind(),
            Self::Unpack { .. } | Self::Format(_) | Self::RootMismatch { .. } | Self::LogHole { .. } => Kind::Corrupt,
            Self::Unsound { .. } | Self::Smoke { .. } => Kind::Corrupt,
            Self::Busy { .. } | Self::Rival { .. } | Self::BaseVanished { .. } | Self::InUse { .. } => Kind::Conflict,
            Self::TargetExists { .. } | Self::SameKeyFile { .. } => Kind::Conflict,
            Self::NotACopy { .. } | Self::CopyRivals { .. } => Kind::Conflict,
            Self::NoFolder { .. } => Kind::Usage,
            Self::NoStandby { .. } => Kind::Conflict,
            Self::NotEnrolled { .. } | Self::OtherKey { .. } | Self::OutgrownKey { .. } | Self::KeyLacks { .. } => {
                Kind::Denied
            }
            Self::KeysChanged => Kind::Conflict,
            Self::Trust(error) => error.kind(),
            Self::NoRoom { .. } | Self::TooLong { .. } => Kind::NoSpace,
            Self::Unfinished { .. } => Kind::Conflict,
            Self::Condemned { .. } | Self::NothingToDrop { .. } | Self::NotHeld { .. } => Kind::Usage,
            Self::TooSlow { .. } | Self::LeaseHeld { .. } | Self::LeaseOver | Self::Protected { .. } => Kind::Conflict,
            Self::Mask(error) => error.kind(),
            Self::NotAReplica { .. } => Kind::Usage,
            Self::NoChain(error) => error.kind(),
            Self::Ltx { source: LtxError::Io(error), .. } => Kind::of_io(error),
            Self::Ltx { .. } => Kind::Corrupt,
            Self::MaskBreaks { .. } => Kind::Conflict,
            Self::Exhausted(_) | Self::RecordFull => Kind::Internal,
            Self::Cancelled => Kind::Cancelled,
        }
    }
}
