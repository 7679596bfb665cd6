//! `backstay doctor`: everything a backup here depends on, one line each, with what to do about it.
//!
//! Each check is a function from what it looks at to a [`Check`]; a check that cannot be made says *inconclusive*
//! instead of ending the others. Changes nothing but a probe file in the state folder, which it removes, and
//! half-made key files that a killed `init` left beside the key.

use crate::config::settings::RepositoryLocation;
use crate::config::{KeySource, Settings, secret};
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_model::{ByteLen, Kind, Kinded, Moment, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::retain;
use backstay_sqlite::{Capture, CaptureOptions, SqliteError};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Below this, a proof or an upload is likely to stop half-way.
const ROOM_LEAST: u64 = 256 << 20;

/// How long a source that is locked is waited for.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// One line of the report.
#[derive(Debug, serde::Serialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    pub found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn new(name: &str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict, found: found.into(), fix: None }
    }

    fn fix(self, sentence: impl Into<String>) -> Self {
        Self { fix: Some(sentence.into()), ..self }
    }

    fn failed(name: &str, diagnostic: Diagnostic) -> Self {
        let found = [vec![diagnostic.what], diagnostic.because].concat().join(": ");
        Self { fix: diagnostic.hints.into_iter().next(), ..Self::new(name, Verdict::Fail, found) }
    }
}

pub async fn run(context: &Context) -> Outcome {
    let mut checks = Vec::new();
    match context.settings() {
        Ok(settings) => {
            checks.push(Check::new("config", Verdict::Pass, settings.file.display().to_string()));
            checks.push(key(context, settings.key.as_ref()).await?);
            checks.push(state_dir(&settings.state_dir));
            checks.extend(repository(context, &settings).await?);
            checks
                .extend(settings.sources.values().map(|source| database(context, source.name.as_str(), &source.path)));
            checks.extend(rooms(&settings));
        }
        Err(diagnostic) => checks.push(Check::failed("config", diagnostic)),
    }
    checks.push(engine());
    let verdict = checks.iter().fold(Verdict::Pass, |all, check| all.and(check.verdict));
    context.printer.show(&DoctorView { verdict, checks })?;
    Ok(Done::With(verdict))
}

/// Fetches the key as a backup would, so that a command that asks or hangs is found now.
async fn key(context: &Context, source: Option<&KeySource>) -> Result<Check, Diagnostic> {
    let Some(source) = source else {
        return Ok(Check::new("key", Verdict::Inconclusive, "no key is configured on this host")
            .fix("Set `key_file`, `key_command` or `key_fd`; without one, backups cannot be signed."));
    };
    match context.cancel.or(source.load(context.env(), secret::COMMAND_TIME)).await? {
        Ok(_) => {
            if let KeySource::File(path) = source {
                backstay_ops::init::sweep(&OsDisk, path);
            }
            Ok(key_mode(source))
        }
        Err(error) => Ok(Check::failed("key", error.into())),
    }
}

fn key_mode(source: &KeySource) -> Check {
    let KeySource::File(path) = source else { return Check::new("key", Verdict::Pass, source.to_string()) };
    match fs::metadata(path).map(|found| found.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 == 0 => Check::new("key", Verdict::Pass, format!("{source} (mode {mode:04o})")),
        Ok(mode) => Check::new("key", Verdict::Partial, format!("{source} can be read by its group (mode {mode:04o})"))
            .fix(format!("Run `chmod 600 {source}`.")),
        Err(error) => Check::new("key", Verdict::Inconclusive, format!("{source}: {error}")),
    }
}

fn state_dir(dir: &Path) -> Check {
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    let tried = fs::create_dir_all(dir)
        .and_then(|()| OpenOptions::new().write(true).create_new(true).open(&probe))
        .and_then(|_| fs::remove_file(&probe));
    match tried {
        Ok(()) => Check::new("state", Verdict::Pass, format!("{} can be written", dir.display())),
        Err(error) => Check::new("state", Verdict::Fail, format!("{} cannot be written: {error}", dir.display()))
            .fix("Name another folder with `state_dir` or --state-dir."),
    }
}

/// Opens the repository as every command would, and looks at what its configuration promises.
async fn repository(context: &Context, settings: &Settings) -> Result<Vec<Check>, Diagnostic> {
    let vault = match vault::open(context, settings).await {
        Ok(vault) => vault,
        Err(diagnostic) if diagnostic.kind == Kind::Cancelled => return Err(diagnostic),
        Err(diagnostic) => return Ok(vec![Check::failed("repository", diagnostic)]),
    };
    let mut checks = vec![Check::new("repository", Verdict::Pass, format!("{} opens", vault.repo.id()))];
    checks.push(match vault.repo.conf().store.conditional_put {
        true => Check::new("overwriting", Verdict::Pass, "refused by the store"),
        false => Check::new("overwriting", Verdict::Partial, "the store cannot refuse to overwrite")
            .fix("Let exactly one host back up each source."),
    });
    checks.push(custody(&vault).await);
    checks.extend(wraps(&vault).await);
    checks.extend(prune(&vault, context.clock.now()).await);
    Ok(checks)
}

async fn custody(vault: &Vault) -> Check {
    match backstay_ops::custody::custody(vault).await {
        Ok(report) => match report.confirmed {
            Some(at) => Check::new("key copy", Verdict::Pass, format!("confirmed {at}")),
            None => {
                Check::new("key copy", Verdict::Partial, "not confirmed: if this machine is lost, so are the backups")
                    .fix("Run `backstay repo key confirm --key-file COPY` with a copy kept elsewhere.")
            }
        },
        Err(error) => Check::failed("key copy", error.into()),
    }
}

/// Everybody to whom the configuration gives the master must find it.
async fn wraps(vault: &Vault) -> Option<Check> {
    let conf = vault.repo.conf();
    let named = conf.recipients.len() + usize::from(conf.older.is_some());
    let there = match vault.repo.wraps().await {
        Ok(wraps) => wraps.iter().filter(|wrap| vault.repo.needs_wrap(&wrap.key)).count(),
        // A writer need not be allowed to look there.
        Err(error) if error.kind() == Kind::Denied => return None,
        Err(error) => return Some(Check::failed("key wraps", error.into())),
    };
    let found = format!("{there} of {named} are there");
    match there == named {
        _ if named == 0 => None,
        true => Some(Check::new("key wraps", Verdict::Pass, found)),
        false => Some(
            Check::new("key wraps", Verdict::Fail, found)
                .fix("Run `backstay repo key rotate` where the root key is: it makes them anew."),
        ),
    }
}

/// What was condemned goes with the next run after its grace; a day later still there is nobody who runs it.
const OVERDUE_MILLIS: i64 = 2 * backstay_model::prune::GRACE_MIN_MILLIS;

/// Whether what retention condemned was deleted, and every keeper gave its turn back.
async fn prune(vault: &Vault, now: Moment) -> Vec<Check> {
    let undone = match retain::undone(vault, OVERDUE_MILLIS).await {
        Ok(undone) => undone,
        // A writer need not be allowed to look there.
        Err(error) if error.kind() == Kind::Denied => return Vec::new(),
        Err(error) => return vec![Check::failed("prune", error.into())],
    };
    let overdue = match (undone.overdue, undone.condemned) {
        (0, _) | (_, None) => Check::new("prune", Verdict::Pass, "nothing condemned is overdue"),
        (count, Some(since)) => {
            let words = format!("{} condemned since {since} and not deleted", counted(count, "object"));
            Check::new("prune", Verdict::Partial, words).fix("Run `backstay retention apply`, daily.")
        }
    };
    let turn = undone.turn.map(|until| match until > now {
        true => Check::new("turn", Verdict::Pass, format!("a keeper is at work, or stopped; its turn ends {until}")),
        false => {
            Check::new("turn", Verdict::Pass, format!("one was not given back and ended {until}: the next takes over"))
        }
    });
    std::iter::once(overdue).chain(turn).collect()
}

/// Opens it as a backup would, and lets it go at once.
fn database(context: &Context, name: &str, path: &Path) -> Check {
    let subject = format!("source {name}");
    let options = CaptureOptions { busy: LOOK_PATIENCE, ..CaptureOptions::in_dir(std::env::temp_dir()) };
    match tokio::task::block_in_place(|| Capture::open(path, options, context.clock.clone())) {
        Ok(capture) => {
            let facts = capture.facts();
            let journal = serde_json::to_value(facts.journal).ok();
            let journal = journal.as_ref().and_then(|journal| journal.as_str()).unwrap_or_default().replace('-', " ");
            Check::new(&subject, Verdict::Pass, format!("{} ({}, {journal} mode)", path.display(), facts.len))
        }
        Err(error @ SqliteError::Locked { .. }) => {
            Check { verdict: Verdict::Inconclusive, ..Check::failed(&subject, error.into()) }
        }
        Err(error) => Check::failed(&subject, error.into()),
    }
}

fn rooms(settings: &Settings) -> Vec<Check> {
    let temp = std::env::temp_dir();
    let proof = settings.sources.values().filter(|source| source.policy.proof.enabled);
    let proofs = proof.map(|source| source.policy.proof.temp_dir.as_deref().unwrap_or(&temp));
    let mut places: Vec<(&str, &Path)> = Vec::new();
    // How much a bucket may hold its server does not say.
    if let RepositoryLocation::Folder(repository) = &settings.repository {
        places.push(("room repository", repository));
    }
    places.extend(proofs.map(|dir| ("room proof", dir)));
    places.dedup();
    places.into_iter().map(|(name, dir)| room(name, dir)).collect()
}

/// The space for us (not for root) on the disk that holds a folder, or will.
fn room(name: &str, dir: &Path) -> Check {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing).map_err(io::Error::from) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{} free for {}", ByteLen::new(free), dir.display());
            if free >= ROOM_LEAST {
                Check::new(name, Verdict::Pass, found)
            } else {
                Check::new(name, Verdict::Fail, found).fix("Free some space, or name a folder on another disk.")
            }
        }
        Err(error) => Check::new(name, Verdict::Inconclusive, format!("{}: {error}", dir.display())),
    }
}

fn engine() -> Check {
    match backstay_sqlite::assert_engine() {
        Ok(()) => Check::new("engine", Verdict::Pass, format!("SQLite {}", backstay_sqlite::describe_engine().version)),
        Err(error) => Check::failed("engine", error.into()),
    }
}

#[derive(serde::Serialize)]
struct DoctorView {
    verdict: Verdict,
    checks: Vec<Check>,
}

impl View for DoctorView {
    fn render(&self, page: &mut Page) {
        let good = self.checks.iter().filter(|check| check.verdict == Verdict::Pass).count();
        page.verdict(self.verdict, "doctor", &format!("{good} of {} checks passed", self.checks.len()));
        for check in &self.checks {
            page.evidence(check.verdict.word(), &format!("{:<16}  {}", check.name, check.found));
            if let Some(fix) = &check.fix {
                page.evidence("", &format!("{:<16}  {fix}", ""));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let state = dir.path().join("a/b");
        assert_eq!(state_dir(&state).verdict, Verdict::Pass);
        assert_eq!(fs::read_dir(&state).expect("the state folder").count(), 0);
        fs::write(dir.path().join("file"), "").expect("a file");
        assert_eq!(state_dir(&dir.path().join("file/b")).verdict, Verdict::Fail);
    }

    #[test]
    fn room_is_measured_where_a_folder_will_be() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let check = room("room", &dir.path().join("not/yet"));
        assert_ne!(check.verdict, Verdict::Inconclusive, "{check:?}");
    }
}
