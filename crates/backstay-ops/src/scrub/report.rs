//! What a scrub found and did, as values.

use crate::check::{CheckReport, Depth, Problem};
use backstay_model::scrub::Reason;
use backstay_model::{Moment, Verdict};

#[derive(Debug, Clone, serde::Serialize)]
pub struct ScrubReport {
    pub verdict: Verdict,
    pub depth: Depth,
    /// Everything that is listed, by kind.
    pub kinds: Vec<TallyOfKind>,
    /// What a check of each source says, after healing.
    pub sources: Vec<CheckReport>,
    /// What is wrong with objects that belong to no source's packs, after healing.
    pub problems: Vec<Problem>,
    /// Packs that no snapshot needs.
    pub strays: Vec<Stray>,
    /// Names below `data/` and `ctl/` that this build would not have made.
    pub unknown: Vec<String>,
    pub healed: Vec<Healed>,
    /// What could not be brought back, and why.
    pub unhealed: Vec<Unhealed>,
    /// Spares that still stand beside their objects.
    pub kept: Vec<Kept>,
    pub millis: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct TallyOfKind {
    pub kind: &'static str,
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct Stray {
    pub object: String,
    pub kind: StrayKind,
    pub bytes: u64,
    pub age_millis: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrayKind {
    /// A running backup may be about to name it.
    Young,
    /// Left by a run that died, or by a snapshot that went.
    Orphan,
    /// A prune has condemned it.
    Condemned,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Healed {
    pub object: String,
    /// Other bytes stood there; otherwise nothing did.
    pub replaced: bool,
    /// The good bytes came from a spare in the repository itself; otherwise from the copy.
    pub from_spare: bool,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unhealed {
    pub object: String,
    pub why: Reason,
}

/// Good bytes beside the object they belong to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    pub object: String,
    pub spare: String,
    pub since: Moment,
}
