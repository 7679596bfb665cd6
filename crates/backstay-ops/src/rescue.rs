//! Rescue: what can still be read of a damaged database becomes a new file.
//!
//! Owns the new file's name: it is written under a private one, synced and questioned, and only then
//! linked to the name that was asked for, which nobody may have yet. The damaged files are opened for
//! reading alone and never by SQLite, so that nothing is rolled back, checkpointed or removed there. A
//! crash leaves a private file, which the next run into that folder removes.

mod snapshots;

pub use snapshots::FromSnapshot;

use crate::catalog::Vault;
use crate::disk::At;
use crate::env::blocking;
use crate::private::Private;
use crate::{Env, Event, OpsError};
use backstay_format::sqlite::guess::Likeness;
use backstay_format::sqlite::walk::PageSource;
use backstay_model::{ByteLen, SourceName, Verdict};
use backstay_sqlite::rescue::{FilePages, Rescue, RescueReport};
use backstay_sqlite::{Answers, SqliteError};
use std::path::PathBuf;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct RescueRequest {
    /// The damaged database. Its log and journal lie beside it.
    pub from: PathBuf,
    /// A file that must not exist yet.
    pub to: PathBuf,
    /// Whether deleted rows are looked for as well.
    pub deleted: bool,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Rescued {
    pub verdict: Verdict,
    pub from: PathBuf,
    /// The new database; absent when there was nothing to put into one.
    pub to: Option<PathBuf>,
    pub report: RescueReport,
    /// What SQLite says of the new database.
    pub answers: Answers,
    /// Frames of the log that were laid over the main file.
    pub log_frames: u32,
    /// What a person should know of the files, as sentences.
    pub notes: Vec<String>,
    /// Pages that are not from the file but from snapshots.
    pub from_snapshots: Vec<FromSnapshot>,
    pub millis: u64,
}

/// Rescues one database from its own files.
pub fn rescue(env: &Env, request: &RescueRequest) -> Result<Rescued, OpsError> {
    let pages = blocking(|| FilePages::open(&request.from))?;
    let job = Job { pages: &pages, likeness: pages.likeness, len: pages.len() };
    let mut rescued = perform(env, request, &job)?;
    note_files(&pages, &mut rescued);
    Ok(rescued)
}

/// The same with the help of its snapshots: a page the file does not have whole is taken from the newest
/// snapshot that has. A file that is gone is no obstacle.
pub async fn rescue_with_snapshots(
    vault: &Vault,
    source: &SourceName,
    request: &RescueRequest,
) -> Result<Rescued, OpsError> {
    let live = match blocking(|| FilePages::open(&request.from)) {
        Ok(live) => Some(live),
        Err(SqliteError::Missing { .. } | SqliteError::Malformed { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mixed = snapshots::Mixed::open(vault, source, live).await?;
    let job = Job { pages: &mixed, likeness: mixed.likeness, len: mixed.len() };
    let mut rescued = perform(&vault.env, request, &job)?;
    rescued.from_snapshots = mixed.origins(&rescued.report.replaced);
    match mixed.live() {
        Some(live) => note_files(live, &mut rescued),
        None => rescued.notes.push("the file itself is gone or has no readable page: all is from snapshots".to_owned()),
    }
    if !rescued.from_snapshots.is_empty() {
        let note = "pages of different times are mixed: rows may be older than others, missing, or there twice";
        rescued.notes.push(note.to_owned());
    }
    Ok(rescued)
}

/// Where pages come from, and what they are like.
struct Job<'a> {
    pages: &'a dyn PageSource,
    likeness: Likeness,
    len: ByteLen,
}

fn perform(env: &Env, request: &RescueRequest, job: &Job<'_>) -> Result<Rescued, OpsError> {
    let began = env.clock.now();
    let to = std::path::absolute(&request.to).at("find", &request.to)?;
    let source = SourceName::suggest(&request.from.file_name().unwrap_or_default().to_string_lossy());
    env.tell(Event::Began { source, what: "rescuing", bytes: None });
    let new = Private::create(env, &to, job.len)?;
    let job = Rescue {
        pages: job.pages,
        likeness: job.likeness,
        to: &new.path,
        deleted: request.deleted,
        cancelled: &|| env.cancel.check().is_err(),
    };
    let report = blocking(|| backstay_sqlite::rescue::rescue(&job));
    env.cancel.check()?;
    let report = report?;
    let answers = new.question()?;
    let has_something = report.rows() + report.lost_and_found > 0 || !report.tables.is_empty();
    if has_something {
        new.name(&to)?;
    }
    env.tell(Event::Ended);
    Ok(Rescued {
        verdict: verdict(&report, &answers),
        from: request.from.clone(),
        to: has_something.then_some(to),
        report,
        answers,
        log_frames: 0,
        notes: Vec::new(),
        from_snapshots: Vec::new(),
        millis: env.clock.now().millis_since(began).max(0) as u64,
    })
}

/// A new database that SQLite finds fault with is no whole one, however much of the old one was read.
fn verdict(report: &RescueReport, answers: &Answers) -> Verdict {
    let sound = if answers.verdict() == Verdict::Pass { Verdict::Pass } else { Verdict::Partial };
    report.verdict().and(sound)
}

fn note_files(pages: &FilePages, rescued: &mut Rescued) {
    rescued.log_frames = pages.log_frames();
    if pages.has_journal() {
        rescued.notes.push(
            "a rollback journal lies beside it and was not applied: rows of an unfinished change may be among these"
                .to_owned(),
        );
    }
    let changed = pages.changed();
    if !changed.is_empty() {
        let names = changed.join(" and ");
        rescued.notes.push(format!("somebody wrote to it meanwhile ({names}): rows of two moments may be mixed"));
    }
}
