//! Maintenance of a source's database: measured before and after, and refused where there is no room.
//!
//! Owns the order: soundness first, because a malformed file must not be written anew; then VACUUM, which
//! fills the log; then the log; then the counts, which VACUUM does not change. Without a task it only looks.

use crate::OpsError;
use crate::disk;
use crate::env::{Env, blocking};
use backstay_model::{ByteLen, Verdict};
use backstay_sqlite::SqliteError;
use backstay_sqlite::maintain::{Condition, Maintenance, Task};
use backstay_sqlite::question::IntegrityAnswer;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct MaintainRequest {
    pub path: PathBuf,
    pub tasks: Vec<Task>,
    pub busy: Duration,
    /// Where SQLite puts the copy that VACUUM makes.
    pub temp: PathBuf,
}

/// What came of one task.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TaskDone {
    pub task: Task,
    pub verdict: Verdict,
    pub outcome: String,
    pub millis: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct Maintained {
    pub verdict: Verdict,
    pub before: Condition,
    /// Absent when there was nothing to do.
    pub after: Option<Condition>,
    pub tasks: Vec<TaskDone>,
    pub integrity: Option<IntegrityAnswer>,
}

const ORDER: [Task; 4] = [Task::Integrity, Task::Vacuum, Task::Checkpoint, Task::Analyze];

/// Looks, and does what was asked for.
pub fn maintain(env: &Env, request: &MaintainRequest) -> Result<Maintained, OpsError> {
    blocking(|| perform(env, request)).map_err(|error| match error {
        // Whoever holds it must be spoken to: trying again later is not the remedy.
        OpsError::Sqlite(SqliteError::Locked { path, waited_ms, holders }) => {
            let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
            let names = if names.is_empty() { "another program".to_owned() } else { names.join(", ") };
            OpsError::InUse { path, who: format!("{names} held it for {waited_ms} ms and longer") }
        }
        other => other,
    })
}

fn perform(env: &Env, request: &MaintainRequest) -> Result<Maintained, OpsError> {
    let database = Maintenance::open(&request.path, request.busy)?;
    let before = database.look()?;
    let mut done = Maintained { verdict: Verdict::Pass, before, after: None, tasks: Vec::new(), integrity: None };
    let wants =
        |task: Task| request.tasks.contains(&task) || task == Task::Checkpoint && request.tasks.contains(&Task::Vacuum);
    for task in ORDER.into_iter().filter(|task| wants(*task)) {
        env.cancel.check()?;
        if done.verdict == Verdict::Fail {
            break;
        }
        let began = env.clock.now();
        let (verdict, outcome) = one(&database, request, task, &mut done)?;
        let millis = env.clock.now().millis_since(began).max(0) as u64;
        done.tasks.push(TaskDone { task, verdict, outcome, millis });
        done.verdict = done.verdict.and(verdict);
    }
    if !done.tasks.is_empty() {
        done.after = Some(database.look()?);
    }
    Ok(done)
}

fn one(
    database: &Maintenance,
    request: &MaintainRequest,
    task: Task,
    done: &mut Maintained,
) -> Result<(Verdict, String), OpsError> {
    let pass = |words: &str| Ok((Verdict::Pass, words.to_owned()));
    match task {
        Task::Integrity => {
            let answer = database.integrity()?;
            let said = match &answer {
                IntegrityAnswer::Problems { problems, .. } => {
                    let first = problems.first().map_or("a problem", String::as_str).to_owned();
                    (Verdict::Fail, format!("it is damaged: {first}"))
                }
                _ => (Verdict::Pass, "it is sound".to_owned()),
            };
            done.integrity = Some(answer);
            Ok(said)
        }
        Task::Vacuum => {
            room(&request.path, &request.temp, done.before.length)?;
            database.vacuum()?;
            pass("written anew without its holes; the next backup is nearly full, because every page moved")
        }
        Task::Checkpoint if done.before.log.get() == 0 && done.tasks.is_empty() => pass("there is no log to copy back"),
        Task::Checkpoint => match database.checkpoint()? {
            true => pass("the log is copied back and cut"),
            false => Ok((Verdict::Partial, "others read from the log: what they need stays in it".to_owned())),
        },
        Task::Analyze => {
            database.analyze()?;
            pass("the planner knows how many rows there are")
        }
    }
}

/// VACUUM makes a copy beside the temporary files, then writes all of it through the journal or the log.
fn room(path: &Path, temp: &Path, length: ByteLen) -> Result<(), OpsError> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = disk::folder_of(&real);
    for (folder, needed) in [(folder, length.get().saturating_mul(2)), (temp, length.get())] {
        let free = disk::free_bytes(folder)?;
        if free < needed {
            let (needed, free) = (ByteLen::new(needed), ByteLen::new(free));
            return Err(OpsError::NoRoom { path: folder.to_owned(), needed, free });
        }
    }
    Ok(())
}
