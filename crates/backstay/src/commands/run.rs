//! `backstay run`: an application with its database restored if it is missing, and followed while it runs.
//!
//! Owns the order: the database is there before the application starts, signals belong to the application while it
//! lives, and this program ends only when the last commit is durable in the repository, or says loudly that it is
//! not. Must never: stop the application because of a backup, start it beside a history that nobody can choose from,
//! or write on stdout, which is the application's. A crash of this program leaves the application running without a
//! follower; the next run goes on from what is durable.

mod application;
mod protection;

use crate::args;
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Mode, Page, View, time};
use crate::vault;
use application::{Application, Ended};
use backstay_model::catalog::Target;
use backstay_model::{Kind, SourceName, Verdict};
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::follow::{Began, Position};
use backstay_ops::restore::{self, Destination, RestorePlan, RestoreReport, RestoreRequest};
use protection::Protection;
use std::sync::Arc;

/// The application ended, and not everything it committed is durable. No kind and no verdict has this code.
const NOT_DURABLE: u8 = 75;

pub async fn run(context: &Context, args: &args::Run) -> Outcome {
    let settings = context.settings()?;
    let source = chosen(context, &settings, args)?;
    let vault = Arc::new(vault::open(context, &settings).await?);
    let restored = restore_if_missing(context, &vault, source).await?;
    let within = args.durable_within.span;
    let mut protection = Protection::begin(context, &settings, (vault, source), within).await?;
    let mut application = Application::start(context, &args.command)?;
    let ended = tokio::select! {
        ended = application.serve() => ended?,
        never = protection.go_on() => match never {},
    };
    let problem = drained(context, &mut protection, &mut application, args).await;
    let exit = if problem.is_none() { ended.exit } else { NOT_DURABLE };
    let (began, position, sum) =
        protection.outcome().map(|outcome| (outcome.began, outcome.position, outcome.sum)).unwrap_or_default();
    let view = RunView {
        verdict: if problem.is_none() { Verdict::Pass } else { Verdict::Fail },
        source: source.name.clone(),
        restored,
        began,
        position,
        commits: sum.shipped,
        objects: sum.objects,
        bytes: sum.bytes,
        application: ended,
        problem,
        exit,
    };
    tell(context, &view)?;
    Ok(Done::Exit(exit))
}

/// Which source: by its name, by its path, or the only one there is.
fn chosen<'s>(context: &Context, settings: &'s Settings, args: &args::Run) -> Result<&'s SourceSettings, Diagnostic> {
    let wanted = args.db.as_ref().map(|db| lexical(&context.layers.working_dir.join(db)));
    let fits = |source: &SourceSettings| {
        wanted.as_ref().is_none_or(|db| lexical(&source.path) == *db)
            && args.source.as_ref().is_none_or(|name| source.name == *name)
    };
    if let Some(name) = &args.source {
        settings.source(name)?;
    }
    let mut fitting = settings.chosen(&[])?.into_iter().filter(|source| fits(source));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Diagnostic::new(Kind::Usage, format!("{} has several sources", settings.file.display()))
                .hint("Say which: `backstay run --source NAME -- COMMAND`."))
        }
        (None, _) => {
            let what = match &wanted {
                Some(db) => format!("no source has the database {}", db.display()),
                None => format!("{} names no source", settings.file.display()),
            };
            let hint = format!(
                "Add a table such as `[sources.shop]` with its `path` to {}, or look with `backstay config show`.",
                settings.file.display()
            );
            Err(Diagnostic::new(Kind::Config, what).hint(hint))
        }
    }
}

/// A path without its dots, whether or not anything is there: on a fresh disk nothing is.
fn lexical(path: &std::path::Path) -> std::path::PathBuf {
    use std::path::Component;
    let mut out = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// On a fresh disk the newest state there is takes the place of the missing file. Where anybody would have to
/// choose, nobody does: the application is not started.
async fn restore_if_missing(
    context: &Context,
    vault: &Vault,
    source: &SourceSettings,
) -> Result<Option<RestoreReport>, Diagnostic> {
    if source.path.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let name = &source.name;
    let catalog = vault.recalled(name, None).await?;
    if catalog.snapshots.is_empty() && catalog.condemned.is_empty() && catalog.broken.is_empty() {
        let path = source.path.display();
        context.printer.warn(&format!(
            "{name}: {path} is missing and the repository has nothing of it: the application begins with an empty one"
        ));
        return Ok(None);
    }
    let request = RestoreRequest {
        source: name.clone(),
        target: Target::Latest,
        into: Destination::New(source.path.clone()),
        smoke: source.smoke.clone(),
        busy: source.policy.capture.busy_timeout,
    };
    context.printer.talk(&format!("{name}: {} is missing, it is restored", source.path.display()));
    let planned = restore::plan(vault, request).await.map_err(|error| not_started(name, error))?;
    refuse_passed_over(name, &planned.plan)?;
    let report = restore::perform(vault, planned).await.map_err(|error| not_started(name, error))?;
    let plan = &report.plan;
    let at = time::resolved(plan.log.as_ref().map_or(plan.taken, |log| log.at), &context.zone);
    let state = plan.log.as_ref().map_or_else(String::new, |log| format!("state {}, ", log.tx));
    let took = time::took(report.millis);
    context.printer.talk(&format!("{name}: restored {state}the newest there is, of {at} ({}; {took})", plan.length));
    for kept in &report.kept {
        context.printer.warn(&format!("{name}: {} is kept as {}", kept.was.display(), kept.now.display()));
    }
    Ok(Some(report))
}

fn not_started(name: &SourceName, error: OpsError) -> Diagnostic {
    Diagnostic::from(error).hint(format!(
        "The application was not started. Choose a point yourself: `backstay list {name}`, then `backstay restore {name} \
         --snapshot ID --to FILE` with the path of the database."
    ))
}

/// Something newer that cannot be read may be what the person would want back.
fn refuse_passed_over(name: &SourceName, plan: &RestorePlan) -> Result<(), Diagnostic> {
    let newer = plan.passed_over.first().map(|passed| format!("snapshot {}: {}", passed.id.short(), passed.problem));
    let Some(problem) = newer.or_else(|| plan.log_fault.clone()) else { return Ok(()) };
    Err(Diagnostic::new(Kind::Corrupt, format!("{name}: something newer than what can be restored cannot be read"))
        .because(problem)
        .hint(format!(
            "The application was not started. Look with `backstay check {name}`; to go back to what can be read, say so \
             yourself: `backstay restore {name} --to FILE` with the path of the database."
        )))
}

/// Waits until everything is durable. Says what is not.
async fn drained(
    context: &Context,
    protection: &mut Protection,
    application: &mut Application,
    args: &args::Run,
) -> Option<String> {
    let problem = protection.finish(application.asked_twice(context)).await?;
    let deadline = &args.durable_within.text;
    context.printer.warn(&format!("THE LAST COMMITS ARE NOT DURABLE (waited at most {deadline}): {problem}"));
    Some(problem)
}

/// stdout is the application's: words go to stderr, and only `--json` puts one value behind its output.
fn tell(context: &Context, view: &RunView) -> Result<(), Diagnostic> {
    if context.printer.mode() == Mode::Json {
        return context.printer.show(view);
    }
    let durable = view.position.as_ref().map_or_else(
        || "nothing was followed".to_owned(),
        |at| format!("durable up to state {} of {}", at.tx, time::resolved(at.at, &context.zone)),
    );
    context.printer.talk(&format!(
        "{}: the application ended with {}; {durable}",
        view.source,
        view.application.words()
    ));
    Ok(())
}

#[derive(serde::Serialize)]
pub struct RunView {
    pub verdict: Verdict,
    pub source: SourceName,
    /// What was restored, because the database was missing.
    pub restored: Option<RestoreReport>,
    /// How following began; absent if it never could.
    pub began: Option<Began>,
    pub position: Option<Position>,
    /// Commits this run made durable, and in how many objects and bytes.
    pub commits: u64,
    pub objects: u64,
    pub bytes: u64,
    pub application: Ended,
    /// Why the last commits are not durable.
    pub problem: Option<String>,
    /// The exit code of this program.
    pub exit: u8,
}

impl View for RunView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, self.source.as_str(), self.problem.as_deref().unwrap_or("everything is durable"));
    }
}
