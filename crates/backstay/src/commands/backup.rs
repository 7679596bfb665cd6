//! `backstay backup`: a snapshot of each source, then its proof, or at least a look back at what was stored.
//!
//! One source that fails does not keep the others from being backed up; the worst verdict is the exit code.

use crate::args;
use crate::config::Settings;
use crate::config::settings::{ForeignKeys, Integrity, Proof, SourceSettings};
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::hooks::{self, HookDone, Told};
use crate::output::{Page, Traffic, View, counted, time};
use crate::vault;
use backstay_model::catalog::{Keep, Quality};
use backstay_model::{Kind, Label, Moment, SourceName, Verdict};
use backstay_ops::OpsError;
use backstay_ops::backup::{self, BackupReport, BackupRequest, BaseUse, Malformed};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{self, CheckReport, Committed};
use backstay_ops::prove::{self, Cause, ProofOutcome, ProofReport, ProofRequest};
use backstay_sqlite::question::ForeignKeysAnswer;
use backstay_sqlite::{Answers, Questions};
use backstay_store::keys::SnapshotName;
use std::path::PathBuf;

/// What holds for every source of one run.
pub struct Wish {
    pub label: Option<Label>,
    pub keep: Option<Keep>,
    pub malformed: Malformed,
}

impl Wish {
    /// The first backup of `init`.
    pub const PLAIN: Wish = Wish { label: None, keep: None, malformed: Malformed::Refuse };
}

pub async fn run(context: &Context, args: &args::Backup) -> Outcome {
    let settings = context.settings()?;
    let wish = Wish {
        label: args.label.clone(),
        keep: args.keep.map(|keep| kept(keep, context.clock.now())).transpose()?,
        malformed: if args.as_is { Malformed::CaptureAsIs } else { Malformed::Refuse },
    };
    let chosen = settings.chosen(&args.sources)?;
    if chosen.is_empty() {
        return Err(no_source(&settings));
    }
    let vault = vault::open(context, &settings).await?;
    let view = back_up(context, &settings, &vault, &chosen, &wish).await?;
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

/// Backs the sources up one after the other. An error only when nothing at all was backed up.
pub async fn back_up(
    context: &Context,
    settings: &Settings,
    vault: &Vault,
    sources: &[&SourceSettings],
    wish: &Wish,
) -> Result<BackupView, Diagnostic> {
    let mut view = BackupView { verdict: Verdict::Pass, sources: Vec::new(), store: context.meters.read() };
    let mut failures: Vec<Diagnostic> = Vec::new();
    for source in sources {
        context.cancel.check()?;
        match one(context, settings, vault, (source, wish)).await {
            Ok(row) => view.sources.push(row),
            Err(OpsError::Cancelled) => return Err(Diagnostic::cancelled()),
            Err(error) => {
                let diagnostic = Diagnostic::from(error);
                view.sources.push(SourceView::failed(source.name.clone(), &diagnostic));
                failures.push(diagnostic);
            }
        }
    }
    // Where nothing was reached, there is no verdict: the kind of the failure says more than "fail".
    if failures.len() == sources.len() {
        let mut failures = failures.into_iter();
        if let Some(first) = failures.next() {
            failures.for_each(|other| context.printer.warn(&other.what));
            return Err(first);
        }
    }
    view.verdict = view.sources.iter().fold(Verdict::Pass, |all, row| all.and(row.verdict));
    view.store = context.meters.read();
    Ok(view)
}

/// The backup with what a person wants around it.
async fn one(
    context: &Context,
    settings: &Settings,
    vault: &Vault,
    (source, wish): (&SourceSettings, &Wish),
) -> Result<SourceView, OpsError> {
    let ping = source.hooks.ping.as_ref();
    hooks::ping(context, ping, "/start").await;
    let mut done = Vec::new();
    let told = |hook, verdict, snapshot| Told {
        hook,
        source: &source.name,
        path: &source.path,
        config: &settings.file,
        verdict,
        snapshot,
    };
    if let Some(hook) = &source.hooks.before_backup {
        done.push(hooks::run(context, hook, &told("before_backup", None, None)).await);
    }
    let taken = match done.iter().find(|done| done.aborts()) {
        Some(hook) => Ok(SourceView::failed(source.name.clone(), &refused(hook))),
        None => take(settings, vault, source, wish).await,
    };
    let verdict = taken.as_ref().map_or(Verdict::Fail, |view| view.verdict);
    let snapshot = taken.as_ref().ok().and_then(|view| view.snapshot.clone());
    if let Some(hook) = &source.hooks.after_backup {
        done.push(hooks::run(context, hook, &told("after_backup", Some(verdict), snapshot)).await);
    }
    let view = taken.map(|view| view.after(done));
    let is_pass = view.as_ref().is_ok_and(|view| view.verdict == Verdict::Pass);
    hooks::ping(context, ping, if is_pass { "" } else { "/fail" }).await;
    view
}

async fn take(
    settings: &Settings,
    vault: &Vault,
    source: &SourceSettings,
    wish: &Wish,
) -> Result<SourceView, OpsError> {
    let report = backup::backup(vault, &request(settings, source, wish)).await?;
    look_at(vault, source, report, wish.malformed).await
}

fn refused(hook: &HookDone) -> Diagnostic {
    Diagnostic::new(Kind::Conflict, format!("not backed up, because the hook {} {}", hook.hook, hook.outcome))
        .hint(format!("Mend it, or set `hooks.{}.on_failure = \"warn\"`.", hook.hook))
}

/// What a backup of a source is asked to do.
pub fn request(settings: &Settings, source: &SourceSettings, wish: &Wish) -> BackupRequest {
    let policy = &source.policy;
    BackupRequest {
        source: source.name.clone(),
        path: source.path.clone(),
        label: wish.label.clone(),
        keep: wish.keep,
        busy: policy.capture.busy_timeout,
        hold_max: policy.capture.hold_max,
        log_growth_max: policy.capture.log_growth_max,
        malformed: wish.malformed,
        uploads_in_flight: settings.limits.upload_in_flight.get() as usize,
    }
}

/// Proves what was stored, or at least looks back at it.
pub async fn look_at(
    vault: &Vault,
    source: &SourceSettings,
    report: BackupReport,
    malformed: Malformed,
) -> Result<SourceView, OpsError> {
    let proof = match (report.quality, source.policy.proof.enabled) {
        (Quality::Whole, true) => Some(prove::prove(vault, &proof_request(source, &report)).await?),
        _ => None,
    };
    let seen_whole = proof
        .as_ref()
        .is_some_and(|proof| matches!(proof.outcome, ProofOutcome::Proven { .. } | ProofOutcome::Failed { .. }));
    let look_back = match seen_whole {
        true => None,
        false => {
            let name = SnapshotName::first(source.name.clone(), report.sequence, report.snapshot);
            Some(check::look_back(vault, Committed { name, wrote: &report.wrote }).await?)
        }
    };
    Ok(SourceView::of(report, Looked { proof, check: look_back, malformed }))
}

pub fn proof_request(source: &SourceSettings, report: &BackupReport) -> ProofRequest {
    ProofRequest {
        source: source.name.clone(),
        snapshot: report.snapshot,
        questions: questions(&source.policy.proof, &source.smoke),
        folder: proof_folder(&source.policy.proof),
    }
}

/// The questions a proof asks, as the settings say.
pub fn questions(proof: &Proof, smoke: &[String]) -> Questions {
    Questions {
        integrity: match proof.integrity {
            Integrity::Full => backstay_sqlite::Integrity::Full,
            Integrity::Quick => backstay_sqlite::Integrity::Quick,
        },
        foreign_keys: match proof.foreign_keys {
            ForeignKeys::Require => backstay_sqlite::ForeignKeys::Require,
            ForeignKeys::Report => backstay_sqlite::ForeignKeys::Report,
            ForeignKeys::Off => backstay_sqlite::ForeignKeys::Off,
        },
        smoke: smoke.to_vec(),
        limit: Questions::USUAL_LIMIT,
    }
}

pub fn proof_folder(proof: &Proof) -> PathBuf {
    proof.temp_dir.clone().unwrap_or_else(std::env::temp_dir)
}

/// The instant until which a snapshot must be kept.
pub fn kept(keep: args::Keep, now: Moment) -> Result<Keep, Diagnostic> {
    let span = match keep {
        args::Keep::ForEver => return Ok(Keep::ForEver),
        args::Keep::For(span) => span,
    };
    let until = now.as_millis().checked_add(vault::millis(span)).and_then(Moment::from_millis);
    until.map(Keep::Until).ok_or_else(|| {
        Diagnostic::new(Kind::Usage, "`--keep` reaches beyond the end of time").hint("Write `--keep for-ever`.")
    })
}

fn no_source(settings: &Settings) -> Diagnostic {
    Diagnostic::new(Kind::Config, format!("{} names no source", settings.file.display()))
        .hint("Add a table such as `[sources.shop]` with the `path` of the database.")
}

#[derive(serde::Serialize)]
pub struct BackupView {
    pub verdict: Verdict,
    pub sources: Vec<SourceView>,
    /// What was asked of the repository's store, every attempt counted.
    pub store: Traffic,
}

/// What came of one source.
#[derive(serde::Serialize)]
pub struct SourceView {
    pub source: SourceName,
    pub verdict: Verdict,
    /// The verdict in words.
    pub outcome: String,
    pub snapshot: Option<String>,
    pub backup: Option<BackupReport>,
    pub proof: Option<ProofReport>,
    /// The look back at what was stored, where no proof covered it.
    pub check: Option<CheckReport>,
    /// Why there is no snapshot.
    pub error: Option<serde_json::Value>,
    /// What was run before and after.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookDone>,
}

/// What was found out about a stored snapshot.
pub struct Looked {
    pub proof: Option<ProofReport>,
    pub check: Option<CheckReport>,
    /// What was asked for in case the database is malformed.
    pub malformed: Malformed,
}

impl SourceView {
    pub fn of(report: BackupReport, looked: Looked) -> Self {
        let (verdict, outcome) = judge(&report, &looked);
        let Looked { proof, check, .. } = looked;
        Self {
            source: report.source.clone(),
            verdict,
            outcome,
            snapshot: Some(report.snapshot.to_string()),
            backup: Some(report),
            proof,
            check,
            error: None,
            hooks: Vec::new(),
        }
    }

    /// The same with what was run around it. A backup whose `after_backup` had to pass and did not has not passed.
    fn after(mut self, hooks: Vec<HookDone>) -> Self {
        if let Some(hook) = hooks.iter().find(|hook| hook.aborts()) {
            self.verdict = Verdict::Fail;
            if self.snapshot.is_some() {
                self.outcome = format!("{}; the hook {} {}", self.outcome, hook.hook, hook.outcome);
            }
        }
        Self { hooks, ..self }
    }

    fn failed(source: SourceName, diagnostic: &Diagnostic) -> Self {
        let outcome = [vec![diagnostic.what.clone()], diagnostic.because.clone()].concat().join(": ");
        let error = diagnostic.json().get("error").cloned();
        Self {
            source,
            verdict: Verdict::Fail,
            outcome,
            snapshot: None,
            backup: None,
            proof: None,
            check: None,
            error,
            hooks: Vec::new(),
        }
    }
}

/// The three facts (stored, intact, proven) as one verdict and one line.
fn judge(report: &BackupReport, looked: &Looked) -> (Verdict, String) {
    if let Some(unread) = looked.check.as_ref().filter(|check| check.verdict == Verdict::Inconclusive) {
        let what = unread.problems.first().map_or("nothing was found to read", |problem| problem.what.as_str());
        return (Verdict::Inconclusive, format!("stored, but it could not be looked at again: {what}"));
    }
    if let Some(problem) = looked.check.as_ref().filter(|check| check.verdict != Verdict::Pass) {
        let what = problem.problems.first().map_or("it cannot be read back", |problem| problem.what.as_str());
        return (Verdict::Fail, format!("stored, but not intact: {what}"));
    }
    if report.quality == Quality::AsIs {
        return (Verdict::Partial, "malformed: its bytes are kept as they are, quarantined".to_owned());
    }
    let stored = stored(looked.check.as_ref());
    let Some(outcome) = looked.proof.as_ref().map(|proof| &proof.outcome) else {
        return (Verdict::Pass, format!("{stored}; proof: switched off"));
    };
    if let (ProofOutcome::Failed { cause: Cause::Unsound, reason, .. }, Malformed::CaptureAsIs) =
        (outcome, looked.malformed)
    {
        return (Verdict::Partial, format!("kept as it is, quarantined: {reason}"));
    }
    let words = match outcome {
        ProofOutcome::Proven { .. } => "stored, intact and proven".to_owned(),
        ProofOutcome::Failed { cause: Cause::Answer, reason, .. } => {
            format!("stored and intact; its proof failed: {reason}")
        }
        ProofOutcome::Failed { reason, .. } => format!("stored, but its proof failed; quarantined: {reason}"),
        ProofOutcome::NotPossible { .. } => format!("{stored}; proof: not possible here"),
        ProofOutcome::Skipped { .. } => format!("{stored}, but NOT proven: no room to restore it"),
        ProofOutcome::Inconclusive { reason } => format!("{stored}; the proof came to no end: {reason}"),
    };
    (outcome.verdict(), words)
}

/// Exactly as much as was looked at: *intact* is said of what was read, and of no more.
fn stored(check: Option<&CheckReport>) -> &'static str {
    match check.and_then(|check| check.older).is_some_and(|older| older.objects > 0) {
        true => "stored; what it added is intact and the rest is there",
        false => "stored and intact",
    }
}

impl View for BackupView {
    fn render(&self, page: &mut Page) {
        for row in &self.sources {
            row.render(page);
        }
        self.store.render(page);
    }
}

impl SourceView {
    pub fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, self.source.as_str(), &self.outcome);
        for hook in &self.hooks {
            page.evidence(hook.hook, &format!("{} ({})", hook.outcome, time::took(hook.millis)));
        }
        let Some(report) = &self.backup else {
            if let Some(hint) = self.error.as_ref().and_then(|error| error["hints"][0].as_str()) {
                page.evidence("fix", hint);
            }
            return;
        };
        render_report(report, page);
        if let Some(check) = &self.check {
            render_look_back(check, page);
        }
        if let Some(proof) = &self.proof {
            render_proof(proof, page);
        }
        for hint in self.hints(report) {
            page.evidence("fix", &hint);
        }
    }

    fn hints(&self, report: &BackupReport) -> Vec<String> {
        let mut hints = Vec::new();
        if report.quality == Quality::AsIs {
            let id = report.snapshot.short();
            hints
                .push(format!("Get its bytes back with `backstay restore {} --snapshot {id} --to FILE`.", self.source));
            hints.push(format!("Go back to a good state with `backstay restore {} latest-proven`.", self.source));
        }
        match self.proof.as_ref().map(|proof| &proof.outcome) {
            Some(ProofOutcome::Failed { answers, .. }) => hints.extend(failed_proof(answers.as_ref())),
            Some(ProofOutcome::Skipped { .. }) => {
                hints.push("Free some space, or name a folder on another disk with `proof.temp_dir`.".to_owned());
            }
            _ => {}
        }
        hints
    }
}

/// What to do about a failed proof, which depends on what failed.
fn failed_proof(answers: Option<&Answers>) -> Vec<String> {
    let foreign = answers.is_some_and(|answers| {
        answers.foreign_keys_required && matches!(answers.foreign_keys, ForeignKeysAnswer::Violations { .. })
    });
    if foreign {
        vec![
            "Mend the rows: `PRAGMA foreign_key_check` in `sqlite3` lists them.".to_owned(),
            "If the application never enforced them, set `proof.foreign_keys = \"report\"`.".to_owned(),
        ]
    } else {
        vec!["Run `backstay check --deep`, and look at the database itself with `PRAGMA integrity_check`.".to_owned()]
    }
}

fn render_report(report: &BackupReport, page: &mut Page) {
    page.evidence("snapshot", &format!("{} at {}", report.snapshot, report.taken));
    let base = match &report.base {
        BaseUse::Incremental { on } => format!("on top of {}", on.short()),
        BaseUse::Full { why } => format!("full, because {why}"),
    };
    let stored = format!(
        "{} of {} changed, {} stored, {base}",
        report.units_stored,
        counted(report.units, "unit"),
        report.stored
    );
    page.evidence("stored", &stored);
    if report.branch_opened && report.branch.get() > 0 {
        page.evidence("branch", &format!("{} begins here: the file is not the one backed up before", report.branch));
    }
    if let Some(capture) = &report.capture {
        let kind = serde_json::to_value(capture.hold_kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("held").replace('-', " ");
        page.evidence("held", &format!("{} ms ({kind})", capture.hold_ms));
    }
    if let Some(cache) = &report.cache {
        page.evidence("cache", cache);
    }
    page.evidence("took", &time::took(report.millis));
}

fn render_look_back(check: &CheckReport, page: &mut Page) {
    let Some(older) = check.older.filter(|older| older.objects > 0) else { return };
    let read = counted(check.objects, "object");
    let since = match older.intact_since {
        Some(at) => format!("found intact here since {at}"),
        None => "not all were read here: run `backstay check`".to_owned(),
    };
    let rest = counted(older.objects, "older object");
    page.evidence("looked at", &format!("{read} read back; {rest}, {}, by name and length ({since})", older.bytes));
}

fn render_proof(proof: &ProofReport, page: &mut Page) {
    let took = time::took(proof.millis);
    let words = match &proof.outcome {
        ProofOutcome::Proven { answers } => format!("restored and questioned in {took}: {}", rows(answers)),
        ProofOutcome::Failed { reason, .. } => format!("FAILED in {took}: {reason}"),
        ProofOutcome::NotPossible { why } => format!("not possible here: {why}"),
        ProofOutcome::Skipped { needed, free } => format!("SKIPPED: it needs {needed} and {free} are free"),
        ProofOutcome::Inconclusive { reason } => format!("inconclusive: {reason}"),
    };
    page.evidence("proof", &words);
}

/// `12 rows in 3 tables`
pub fn rows(answers: &Answers) -> String {
    let rows: u64 = answers.tables.iter().filter_map(|table| table.rows).sum();
    let more = if answers.more_tables { " and more" } else { "" };
    format!("{} in {}{more}", counted(rows, "row"), counted(answers.tables.len(), "table"))
}
