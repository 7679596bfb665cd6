//! What a stand-by writes down beside its copy: which state the copy has, and where the log goes on from there.
//!
//! Bound to the copy by the sum of its pages. Before each transaction the state it leads to is written beside the one
//! before it, so that a copy found after a crash has one of two sums: any other means that somebody else wrote to it.

use super::place::Place;
use crate::OpsError;
use crate::disk::{self, Disk, PathError};
use crate::restore::beside;
use backstay_format::facts::FingerprintFacts;
use backstay_model::{BranchNo, Digest, Moment, ObjectId, RepoId, Sequence, SourceName, Tx};
use backstay_sqlite::Sum;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const SUFFIX: &str = "-standby";
const MOST: u64 = 64 << 10;

/// A state of the copy, and what comes after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    pub branch: BranchNo,
    /// The snapshot the copy was made from, or made to follow again.
    pub snapshot: ObjectId,
    pub sequence: Sequence,
    /// The state's number, if the source is followed.
    pub tx: Option<Tx>,
    pub at: Moment,
    /// Stands for everything that led to it.
    pub chain: Digest,
    pub fingerprint: FingerprintFacts,
    pub place: Option<Place>,
    /// What the copy's schema cookie has more than its source's.
    pub cookie_plus: u32,
    pub pages: u32,
    pub sum: Digest,
}

impl Spot {
    pub fn sum(&self) -> Sum {
        Sum { pages: self.pages, digest: *self.sum.as_bytes() }
    }

    pub fn with_sum(mut self, sum: Sum) -> Self {
        (self.pages, self.sum) = (sum.pages, Digest::from_bytes(sum.digest));
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub repository: RepoId,
    pub source: SourceName,
    /// What the sum of pages is keyed with.
    pub key: Digest,
    pub spot: Spot,
    /// Where the transaction leads that was about to be committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Spot>,
    /// When the repository said last that there is nothing more.
    pub asked: Moment,
}

impl Memory {
    pub fn path_of(copy: &Path) -> PathBuf {
        beside(copy, SUFFIX)
    }

    pub fn read(copy: &Path) -> Result<Option<Self>, OpsError> {
        let path = Self::path_of(copy);
        let Some(bytes) = disk::read_small(&path, MOST)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|_| OpsError::NoStandby { path, why: "it cannot be read" })
    }

    pub fn write(&self, disk: &dyn Disk, copy: &Path) -> Result<(), PathError> {
        let path = Self::path_of(copy);
        let bytes = serde_json::to_vec(self).expect("plain data");
        disk::sweep_staged(disk, &path);
        disk::replace(disk, &path, &bytes, 0o600)
    }

    /// Which of the two states a copy with this sum has.
    pub fn found(&self, sum: Sum) -> Option<&Spot> {
        self.next.iter().chain([&self.spot]).find(|spot| spot.sum() == sum)
    }
}
