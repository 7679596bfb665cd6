//! `backstay restore`: a snapshot becomes a new file, or takes the place of the live database, which is kept.

use crate::args::{self, Point, PointArgs, Wanted};
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::confirm;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::hooks::{self, HookDone, Told};
use crate::output::time;
use crate::output::{Page, Traffic, View, counted};
use crate::vault;
use backstay_model::catalog::Target;
use backstay_model::moment::human_span;
use backstay_model::{Kind, Moment, Tx, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::restore::{self, Destination, Planned, RestorePlan, RestoreReport, RestoreRequest};
use jiff::tz::TimeZone;
use std::path::{Path, PathBuf};

pub async fn run(context: &Context, args: &args::Restore) -> Outcome {
    let settings = context.settings()?.on_copy(args.from_copy.as_ref())?;
    let source = settings.source(&args.source)?;
    let vault = match args.standby.follow {
        // What is asked for beforehand would be old by the time it is wanted.
        true => vault::open(context, &settings).await?,
        false => vault::open_for(context, &settings, &source.name).await?,
    };
    if let Some(table) = &args.rows.table {
        return super::rows::run(context, &vault, super::rows::Wanted { args, source, table }).await;
    }
    if args.masked.mask.is_some() || args.masked.mask_draft {
        return super::mask::run(context, &vault, super::mask::Wanted { args, source }).await;
    }
    if let (true, Some(to)) = (args.standby.follow, &args.to) {
        return super::standby::run(context, &vault, (source, args), to).await;
    }
    let (target, asked) = match (target(context, &args.point)?, args.tx) {
        _ if args.before.is_some() => (Target::Before(args.before.clone().expect("looked at")), None),
        (_, Some(tx)) => (Target::Tx(Tx::new(tx)), None),
        ((Target::At(at), asked), None) if args.nearest => (Target::Nearest(at), asked),
        (other, None) => other,
    };
    let request = RestoreRequest {
        source: source.name.clone(),
        target: target.clone(),
        into: destination(source, args, &context.layers.working_dir),
        smoke: source.smoke.clone(),
        busy: source.policy.capture.busy_timeout,
    };
    let planned = restore::plan(&vault, request).await?;
    warn(context, &planned.plan, &target);
    let verdict = if planned.plan.quarantined { Verdict::Partial } else { Verdict::Pass };
    let mut view = RestoreView {
        verdict,
        dry_run: args.dry_run,
        asked,
        plan: planned.plan.clone(),
        report: None,
        hooks: Vec::new(),
        way_back: None,
        store: context.meters.read(),
        zone: context.zone.clone(),
    };
    if !args.dry_run {
        confirm_in_place(context, args, &planned.plan)?;
        let (report, hooks) = perform(context, &settings, source, Work { vault: &vault, planned }).await?;
        view.way_back = hooks.iter().any(HookDone::aborts).then(|| way_back(&report)).flatten();
        if hooks.iter().any(HookDone::aborts) {
            view.verdict = Verdict::Fail;
        }
        (view.report, view.hooks) = (Some(report), hooks);
    }
    view.store = context.meters.read();
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

struct Work<'a> {
    vault: &'a Vault,
    planned: Planned,
}

/// The restore, with what a person wants around one in place. What was stopped is started again whether or
/// not the restore succeeded.
async fn perform(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    work: Work<'_>,
) -> Result<(RestoreReport, Vec<HookDone>), Diagnostic> {
    let Work { vault, planned } = work;
    let mut done = Vec::new();
    if !planned.plan.in_place {
        return Ok((restore::perform(vault, planned).await?, done));
    }
    let snapshot = planned.plan.snapshot.to_string();
    let told = |hook, verdict| Told {
        hook,
        source: &source.name,
        path: &source.path,
        config: &settings.file,
        verdict,
        snapshot: Some(snapshot.clone()),
    };
    if let Some(hook) = &source.hooks.before_restore {
        done.push(hooks::run(context, hook, &told("before_restore", None)).await);
    }
    let restored = match done.iter().find(|done| done.aborts()) {
        Some(hook) => Err(refused(hook)),
        None => restore::perform(vault, planned).await.map_err(Diagnostic::from),
    };
    let verdict = if restored.is_ok() { Verdict::Pass } else { Verdict::Fail };
    if let Some(hook) = &source.hooks.after_restore {
        done.push(hooks::run(context, hook, &told("after_restore", Some(verdict))).await);
    }
    let report = restored?;
    if let Some(health) = &source.hooks.health {
        done.push(hooks::probe(context, health).await);
    }
    Ok((report, done))
}

fn refused(hook: &HookDone) -> Diagnostic {
    Diagnostic::new(Kind::Conflict, format!("not restored, because the hook {} {}", hook.hook, hook.outcome))
        .because("the database was not touched")
        .hint(format!("Mend it, or set `hooks.{}.on_failure = \"warn\"`.", hook.hook))
}

/// How to have the old file back, as words for a person who has just seen the new one fail.
fn way_back(report: &RestoreReport) -> Option<String> {
    let to = &report.plan.to;
    let old = report.kept.iter().find(|kept| kept.was == *to)?;
    let (old, to) = (old.now.display(), to.display());
    Some(format!(
        "the old file is kept; stop what uses the new one, then: rm -f '{to}-wal' '{to}-shm' && mv '{old}' '{to}'"
    ))
}

/// What a person asked for as the catalog understands it, and the instant an `--at` stands for.
pub fn target(context: &Context, point: &PointArgs) -> Result<(Target, Option<Moment>), Diagnostic> {
    Ok(match point.wanted() {
        Wanted::Snapshot(prefix) => (Target::Id(prefix.as_str().to_owned()), None),
        Wanted::Point(Point::Latest) => (Target::Latest, None),
        Wanted::Point(Point::LatestProven) => (Target::LatestProven, None),
        Wanted::Point(Point::Label(label)) => (Target::Label(label), None),
        Wanted::At(text) => {
            let at = context.read_time(&text)?;
            context.printer.talk(&format!("--at {text:?} is {}", time::resolved(at, &context.zone)));
            (Target::At(at), Some(at))
        }
    })
}

/// Without `--to`, or with the path of the database itself, the database is replaced.
fn destination(source: &SourceSettings, args: &args::Restore, working_dir: &Path) -> Destination {
    if args.live {
        return Destination::Live(source.path.clone());
    }
    let Some(to) = args.to.as_ref().map(|to| working_dir.join(to)) else {
        return Destination::InPlace(source.path.clone());
    };
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real(&to) == real(&source.path) { Destination::InPlace(source.path.clone()) } else { Destination::New(to) }
}

/// What a person should know before, whatever they asked to be left out.
fn warn(context: &Context, plan: &RestorePlan, target: &Target) {
    let id = plan.snapshot.short();
    if plan.quarantined {
        context.printer.warn(&format!("snapshot {id} is QUARANTINED: it failed a check or was malformed when taken"));
    } else if !plan.proven && *target == Target::Latest {
        context.printer.warn(&format!("snapshot {id} is not proven; `latest-proven` names the newest that is"));
    }
    for passed in &plan.passed_over {
        let newer = passed.id.short();
        context
            .printer
            .warn(&format!("the newer snapshot {newer} cannot be used and is passed over: {}", passed.problem));
    }
    if let Some(fault) = &plan.log_fault {
        context.printer.warn(&format!("newer commits may exist that cannot be used, and are passed over: {fault}"));
    }
}

/// In place of a database that is there, the name must be given.
fn confirm_in_place(context: &Context, args: &args::Restore, plan: &RestorePlan) -> Result<(), Diagnostic> {
    if !(plan.in_place || plan.live) || plan.to.symlink_metadata().is_err() {
        return Ok(());
    }
    let age = human_span(context.clock.now().millis_since(plan.log.as_ref().map_or(plan.taken, |log| log.at)));
    let loss = format!(
        "{} is replaced by its state of {} ago; the present file is kept beside it under another name",
        plan.to.display(),
        age
    );
    let stake = confirm::Stake { name: args.source.as_str(), loss: &loss, given: args.confirm.as_deref() };
    confirm::by_name(&context.printer, stake)
}

#[derive(serde::Serialize)]
pub struct RestoreView {
    pub verdict: Verdict,
    pub dry_run: bool,
    /// The instant `--at` was resolved to.
    pub asked: Option<Moment>,
    pub plan: RestorePlan,
    /// What was done; absent after `--dry-run`.
    pub report: Option<RestoreReport>,
    /// What was run and asked around it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookDone>,
    /// How to have the old file back, when something around the restore failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_back: Option<String>,
    /// What was asked of the repository's store, every attempt counted.
    pub store: Traffic,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for RestoreView {
    fn render(&self, page: &mut Page) {
        let plan = &self.plan;
        let done = if self.report.is_some() { "restored" } else { "would be restored" };
        let place = match (plan.live, plan.in_place) {
            (true, _) => "into the live ",
            (_, true) => "in place: ",
            _ => "to ",
        };
        page.verdict(self.verdict, plan.source.as_str(), &format!("{done} {place}{}", plan.to.display()));
        let state = match (plan.quarantined, plan.proven) {
            (true, _) => "QUARANTINED",
            (_, true) => "proven",
            _ => "not proven",
        };
        page.evidence("snapshot", &format!("{} ({state})", plan.snapshot));
        page.evidence("taken", &time::resolved(plan.taken, &self.zone));
        if let Some(log) = &plan.log {
            let state = format!(
                "{} of {}, from {}",
                log.tx,
                time::resolved(log.at, &self.zone),
                counted(log.objects, "log object")
            );
            page.evidence("state", &state);
            let next = log.next.map_or_else(
                || "nothing: it is the last one there is".to_owned(),
                |next| format!("state {} of {}", next.tx, time::resolved(next.at, &self.zone)),
            );
            page.evidence("right after", &next);
        }
        if let (Some(asked), Some(distance)) = (self.asked, plan.distance_millis) {
            let words = format!("{}; the point is {} older", time::resolved(asked, &self.zone), human_span(distance));
            page.evidence("asked for", &words);
        }
        page.evidence("size", &format!("{} ({} fetched)", plan.length, plan.to_fetch));
        self.store.render(page);
        for passed in &plan.passed_over {
            page.evidence("PASSED OVER", &format!("newer snapshot {}: {}", passed.id.short(), passed.problem));
        }
        if let Some(fault) = &plan.log_fault {
            page.evidence("PASSED OVER", &format!("what follows in the log: {fault}"));
        }
        for hook in &self.hooks {
            page.evidence(hook.hook, &format!("{} ({})", hook.outcome, time::took(hook.millis)));
        }
        if let Some(way_back) = &self.way_back {
            page.evidence("go back", way_back);
        }
        match &self.report {
            Some(report) => render_report(report, page),
            None => render_plan(plan, page),
        }
    }
}

fn render_plan(plan: &RestorePlan, page: &mut Page) {
    page.evidence("room", &format!("{} free", plan.free));
    for path in &plan.moved_aside {
        page.evidence("moves aside", &path.display().to_string());
    }
    // There are holders to look for only where there is a database to replace.
    let Some(holders) = &plan.holders else { return };
    page.evidence("keeps", &format!("{0} as {0}.before-restore-TIME, with its log", name(&plan.to)));
    for holder in &holders.processes {
        page.evidence("in use by", &holder.to_string());
    }
    unseen(&holders.blind_spots, page);
}

fn render_report(report: &RestoreReport, page: &mut Page) {
    for kept in &report.kept {
        page.evidence("kept", &format!("{} as {}", name(&kept.was), kept.now.display()));
    }
    if let Some(exchanged) = &report.exchanged {
        let pages =
            format!("{} of {} pages, in one transaction", exchanged.changed, exchanged.before.max(exchanged.after));
        page.evidence("exchanged", &pages);
    }
    for smoke in &report.smoke {
        let said = smoke.value.as_deref().unwrap_or("nothing");
        page.evidence("smoke", &format!("{said}: {}", smoke.query));
    }
    unseen(&report.unseen, page);
    page.evidence("took", &time::took(report.millis));
    if report.plan.in_place {
        page.next(&format!("backstay backup {}", report.plan.source));
    }
}

fn unseen(blind_spots: &[String], page: &mut Page) {
    for spot in blind_spots {
        page.evidence("not seen", spot);
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| PathBuf::from(path).display().to_string(), |name| name.to_string_lossy().into_owned())
}
