//! Copying a repository: the same objects, byte for byte, in a second store.
//!
//! Needs no identity, and a signing key only to say in the copy what was left out (`left_out`). Nothing is put that was not compared with what a signed manifest
//! says of it, or whose own signature was not verified: what fails is named, and the others go on. The order
//! is that of every writer: configurations, branch records, packs, then the manifest they make whole, marks
//! last. So a copy stopped anywhere is a repository that restores what its manifests name, and the next run
//! goes on with what is missing. Objects are only ever created, never changed, and never removed.
//!
//! Memory is bounded by the objects in flight and one name and length per object of a source.

mod gather;
mod left_out;
mod logs;
mod perform;

use crate::OpsError;
use crate::catalog::Vault;
use crate::check::Problem;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{Kind, Kinded, ObjectId, SourceName, Verdict};
use backstay_store::Store;
use backstay_store::repo::RepoError;
use jiff::tz::TimeZone;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

/// The second store, and where this host remembers what it has seen there.
pub struct Destination {
    pub store: Arc<dyn Store>,
    pub state_root: PathBuf,
}

pub struct CopyRequest {
    pub act: Act,
    /// Read again what is there already and compare it.
    pub reread: Reread,
    /// What the copy keeps. Without a rule it keeps everything.
    pub policy: RetentionPolicy,
    pub zone: TimeZone,
    pub in_flight: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    Copy,
    /// Only say what is missing or differs.
    Compare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// Names and lengths are enough for what is there.
    Nothing,
    Everything,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct CopyReport {
    pub verdict: Verdict,
    pub act: Act,
    pub sources: Vec<SourceCopy>,
    /// Objects that were put, of every kind, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Records of what was marked and done that are not there yet, when comparing.
    pub lacking: u64,
    /// The copy's prune record in which it was said what was left out and why that is no loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// Why it could not be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_recorded: Option<String>,
    pub problems: Vec<Problem>,
    pub millis: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct SourceCopy {
    pub source: SourceName,
    /// Snapshots that the copy has now.
    pub snapshots: usize,
    /// Those that came with this run.
    pub copied: usize,
    /// Those it still lacks, and should have.
    pub missing: usize,
    /// Those its own retention would free at once.
    pub left_out: usize,
    /// The newest of them.
    pub newest: Option<ObjectId>,
}

/// Copies, or compares. Everything that forbids it is found before anything is written.
pub async fn copy(vault: &Vault, to: &Destination, request: &CopyRequest) -> Result<CopyReport, OpsError> {
    let began = vault.env.clock.now();
    let gathered = gather::gather(vault, to, request).await?;
    let mut run = perform::Run::new(vault, to, request);
    let repo = match gathered.copy {
        Some(repo) => repo,
        None if request.act == Act::Compare => {
            return Err(RepoError::NotARepository { store: to.store.describe() }.into());
        }
        None => run.begin().await?,
    };
    run.confs(&repo).await?;
    run.wraps().await?;
    let (mut sources, mut known) = (Vec::new(), Vec::new());
    for sides in gathered.sources {
        vault.env.cancel.check()?;
        known.push(left_out::Known::of(&sides));
        sources.push(run.source(&repo, sides).await?);
    }
    run.audit().await?;
    let said = left_out::say(vault, (to, &repo), (request, known)).await?;
    let behind = run.lacking > 0 || sources.iter().any(|source: &SourceCopy| source.missing > 0);
    let found = run.problems.iter().fold(Verdict::Pass, |all, problem| all.and(problem.verdict));
    let verdict = match (request.act, found, behind) {
        (_, Verdict::Pass, false) => Verdict::Pass,
        // The copy itself is sound, or what is wrong is wrong here: what could be copied was.
        (Act::Copy, _, _) | (Act::Compare, Verdict::Pass, true) => Verdict::Partial,
        (Act::Compare, found, _) => found,
    };
    let millis = vault.env.clock.now().millis_since(began).max(0) as u64;
    let (objects, bytes, lacking) = (run.objects, run.bytes, run.lacking);
    Ok(CopyReport {
        verdict,
        act: request.act,
        sources,
        objects,
        bytes,
        lacking,
        record: said.record,
        not_recorded: said.not_recorded,
        problems: run.problems,
        millis,
    })
}

/// Something of the original that cannot be handed on is a finding; a store that gives nothing is an error.
async fn finding(vault: &Vault, error: RepoError) -> Result<RepoError, OpsError> {
    if error.is_unreadable() {
        vault.repo.store().list(backstay_store::keys::SOURCES_PREFIX, None, 1).await?;
        return Ok(error);
    }
    if error.is_outage() || error.kind() == Kind::Cancelled { Err(error.into()) } else { Ok(error) }
}
