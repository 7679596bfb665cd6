//! A stand-by becomes an ordinary database: nothing of it changes but that nobody follows with it any longer.
//!
//! Needs no repository: what it has is known, and how long ago the repository said that there was no more.

use super::memory::Memory;
use super::open;
use crate::OpsError;
use crate::disk::{self, At, Disk};
use crate::env::blocking;
use backstay_model::{BranchNo, Moment, ObjectId, SourceName, Tx};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a promoted copy has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Promoted {
    pub path: PathBuf,
    pub source: SourceName,
    pub branch: BranchNo,
    pub snapshot: ObjectId,
    /// The last transaction it has, if its source was followed, and when that was committed.
    pub tx: Option<Tx>,
    pub at: Moment,
    /// When the repository said last that there is nothing more: what was committed since may be missing.
    pub asked: Moment,
}

/// Makes sure that nobody wrote to the copy, and forgets that it is one.
pub fn promote(disk: &dyn Disk, copy: &Path, busy: Duration) -> Result<Promoted, OpsError> {
    let copy = std::path::absolute(copy).at("find", copy)?;
    let path = Memory::path_of(&copy);
    let Some(memory) = Memory::read(&copy)? else {
        return Err(OpsError::NoStandby { path: copy, why: "nothing beside it says of which source" });
    };
    let (file, memory) = blocking(|| open(&copy, memory, busy))?;
    blocking(|| file.close())?;
    disk.remove(&path).at("remove", &path)?;
    disk.sync_dir(disk::folder_of(&path)).at("sync folder of", &path)?;
    let Memory { source, spot, asked, .. } = memory;
    let (branch, snapshot, tx, at) = (spot.branch, spot.snapshot, spot.tx, spot.at);
    Ok(Promoted { path: copy, source, branch, snapshot, tx, at, asked })
}
