//! What a backup did, as a value.

use super::capture::Captured;
use backstay_format::facts;
use backstay_format::table::Table;
use backstay_model::backup::{BranchPlan, Place};
use backstay_model::catalog::Quality;
use backstay_model::{BranchNo, ByteLen, Digest, Moment, ObjectId, Position, Sequence, SourceName};
use backstay_sqlite::CaptureReport;
use std::collections::BTreeSet;

#[derive(Debug, Clone, serde::Serialize)]
pub struct BackupReport {
    pub source: SourceName,
    pub snapshot: ObjectId,
    /// The packs this run wrote, for the look back at them.
    #[serde(skip)]
    pub wrote: BTreeSet<ObjectId>,
    pub sequence: Sequence,
    pub branch: BranchNo,
    pub branch_opened: bool,
    pub position: Position,
    pub taken: Moment,
    pub root: Digest,
    pub quality: Quality,
    pub base: BaseUse,
    /// What this host could not write down for its next run; the snapshot is whole without it.
    pub cache: Option<String>,
    pub length: ByteLen,
    pub units: u64,
    pub units_stored: u64,
    /// Bytes put into the store, manifest included.
    pub stored: ByteLen,
    pub millis: u64,
    pub space: SpaceReport,
    pub capture: Option<CaptureReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseUse {
    Incremental { on: ObjectId },
    Full { why: &'static str },
}

/// What the snapshot refers to in all.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SpaceReport {
    pub objects: usize,
    pub referred: ByteLen,
}

pub(super) struct Made<'a> {
    pub id: ObjectId,
    pub manifest: facts::Manifest,
    pub manifest_len: u64,
    pub began: Moment,
    pub committed: Moment,
    pub table: &'a Table,
    pub place: Place,
    pub base: BaseUse,
    pub cache: Option<String>,
    pub captured: Captured,
}

pub(super) fn make(made: Made<'_>) -> BackupReport {
    let Made { manifest, captured, table, .. } = made;
    BackupReport {
        source: manifest.source,
        snapshot: made.id,
        wrote: captured.packed.packs.iter().map(|pack| pack.object).collect(),
        sequence: made.place.sequence,
        branch: manifest.branch,
        branch_opened: matches!(made.place.branch, BranchPlan::Open { .. }),
        position: manifest.position,
        taken: manifest.taken,
        root: manifest.root,
        quality: manifest.quality,
        base: made.base,
        cache: made.cache,
        length: manifest.length,
        units: captured.units,
        units_stored: captured.units_stored,
        stored: ByteLen::new(manifest.added.get() + made.manifest_len),
        millis: made.committed.millis_since(made.began).max(0) as u64,
        space: SpaceReport {
            objects: table.refs().len(),
            referred: ByteLen::new(table.refs().iter().map(|r| r.stored).sum()),
        },
        capture: captured.capture,
    }
}
