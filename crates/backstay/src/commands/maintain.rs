//! `backstay maintain`: what state a database is in, and with flags, what SQLite can do about it.
//!
//! Before VACUUM writes the file anew there is a fresh backup, unless a person says otherwise.

use super::backup::{self, BackupView, Wish};
use crate::args;
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, time};
use crate::vault;
use backstay_model::{Kind, SourceName, Verdict};
use backstay_ops::maintain::{self, MaintainRequest, Maintained};
use backstay_sqlite::maintain::{Condition, Task};

pub async fn run(context: &Context, args: &args::Maintain) -> Outcome {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let flags = [
        (args.integrity, Task::Integrity),
        (args.checkpoint, Task::Checkpoint),
        (args.vacuum, Task::Vacuum),
        (args.analyze, Task::Analyze),
    ];
    let tasks: Vec<Task> = flags.into_iter().filter_map(|(wanted, task)| wanted.then_some(task)).collect();
    let backup = match args.vacuum && !args.no_backup {
        true => Some(back_up(context, &settings, source).await?),
        false => None,
    };
    let busy = source.policy.capture.busy_timeout;
    let temp = context.env().get("SQLITE_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
    let request = MaintainRequest { path: source.path.clone(), tasks, busy, temp };
    let done = maintain::maintain(&vault::env(context, &settings.limits), &request)?;
    let view = MaintainView { verdict: done.verdict, source: source.name.clone(), report: done, backup };
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

/// A database is written anew only when its present state can be had back.
async fn back_up(context: &Context, settings: &Settings, source: &SourceSettings) -> Result<BackupView, Diagnostic> {
    let vault = vault::open(context, settings).await?;
    let view = backup::back_up(context, settings, &vault, &[source], &Wish::PLAIN).await?;
    if view.verdict == Verdict::Pass {
        return Ok(view);
    }
    let outcome = view.sources.first().map_or_else(String::new, |row| row.outcome.clone());
    Err(Diagnostic::new(Kind::Conflict, format!("the backup before VACUUM did not pass: {outcome}"))
        .because("nothing was done to the database")
        .hint(format!("Run `backstay backup {}` and see; `--no-backup` goes on without one.", source.name)))
}

#[derive(serde::Serialize)]
pub struct MaintainView {
    pub verdict: Verdict,
    pub source: SourceName,
    pub report: Maintained,
    /// The backup before VACUUM.
    pub backup: Option<BackupView>,
}

impl View for MaintainView {
    fn render(&self, page: &mut Page) {
        let Maintained { before, after, tasks, .. } = &self.report;
        let words = match (after, self.verdict) {
            (None, _) => "looked at; nothing was done".to_owned(),
            (Some(after), Verdict::Pass) => format!("{} before, {} now", before.length, after.length),
            (Some(_), _) => "not all of it could be done".to_owned(),
        };
        page.verdict(self.verdict, self.source.as_str(), &words);
        if let Some(row) = self.backup.as_ref().and_then(|backup| backup.sources.first()) {
            page.evidence("backup", &row.outcome);
        }
        for done in tasks {
            page.evidence(word(done.task), &format!("{} ({})", done.outcome, time::took(done.millis)));
        }
        match after {
            None => self.advise(before, page),
            Some(after) => compare(before, after, page),
        }
    }
}

impl MaintainView {
    /// What each task would bring.
    fn advise(&self, now: &Condition, page: &mut Page) {
        page.evidence("size", &format!("{} in {} pages of {} bytes", now.length, now.pages, now.page_size));
        let inside = now.slack.map_or("what".to_owned(), |slack| slack.to_string());
        let needs = doubled(now);
        let vacuum = format!(
            "gives back {} of free pages and some of {inside} is empty inside pages; needs {needs} free, and makes the next backup nearly full",
            now.free()
        );
        page.evidence("--vacuum", &vacuum);
        page.evidence("--checkpoint", &format!("copies back a log of {}", now.log));
        let counted = if now.analyzed {
            "counts rows anew for the planner"
        } else {
            "counts rows for the planner, for the first time"
        };
        page.evidence("--analyze", counted);
        page.evidence("--integrity", "reads every page and compares every index with its table");
        page.next(&format!("backstay maintain {} --integrity", self.source));
    }
}

fn doubled(now: &Condition) -> backstay_model::ByteLen {
    backstay_model::ByteLen::new(now.length.get().saturating_mul(2))
}

fn compare(before: &Condition, after: &Condition, page: &mut Page) {
    let mut line = |name: &str, was: String, is: String| {
        if was != is {
            page.evidence(name, &format!("{was} before, {is} now"));
        }
    };
    line("size", before.length.to_string(), after.length.to_string());
    line("free pages", before.free_pages.to_string(), after.free_pages.to_string());
    let slack = |of: &Condition| of.slack.map_or("unknown".to_owned(), |slack| slack.to_string());
    line("slack", slack(before), slack(after));
    line("log", before.log.to_string(), after.log.to_string());
}

fn word(task: Task) -> &'static str {
    match task {
        Task::Integrity => "integrity",
        Task::Checkpoint => "checkpoint",
        Task::Vacuum => "vacuum",
        Task::Analyze => "analyze",
    }
}
