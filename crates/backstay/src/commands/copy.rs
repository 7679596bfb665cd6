//! `backstay repo copy`: the same objects in a second store, or what is missing there.

use super::check;
use crate::args;
use crate::config::Settings;
use crate::config::copies::CopyName;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, counted, time};
use crate::vault::{self, Reached};
use backstay_model::catalog::Snapshot;
use backstay_model::moment::human_span;
use backstay_model::status::Point;
use backstay_model::{ByteLen, Kind, SourceName, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::copy::{self, Act, CopyReport, CopyRequest, Destination, Reread, SourceCopy};
use backstay_store::local::OpenMode;
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::RepoCopy) -> Outcome {
    let settings = context.settings()?;
    let names: Vec<CopyName> = match &args.name {
        Some(name) => vec![settings.copy(name).map(|_| name.clone())?],
        None => settings.copies.keys().cloned().collect(),
    };
    if names.is_empty() {
        return Err(Diagnostic::new(Kind::Config, format!("{} names no copy", settings.file.display()))
            .hint("Add a table such as `[copies.offsite]` with a `repository` to it."));
    }
    let vault = vault::open(context, &settings).await?;
    let mut view = CopyView { verdict: Verdict::Pass, copies: Vec::new() };
    let single = names.len() == 1;
    for name in names {
        context.cancel.check()?;
        let (report, error) = match one(context, &settings, &vault, (&name, args)).await {
            Ok(report) => (Some(report), None),
            // With several, one that cannot be reached must not keep the others from being brought up to date.
            Err(error) if !single && error.kind != Kind::Cancelled => (None, Some(error.in_one_line())),
            Err(error) => return Err(error),
        };
        let verdict = report.as_ref().map_or(Verdict::Inconclusive, |report| report.verdict);
        let location = settings.copy(&name)?.repository.to_string();
        view.copies.push(CopyRow { name, location, verdict, report, error });
    }
    view.verdict = view.copies.iter().fold(Verdict::Pass, |all, row| all.and(row.verdict));
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

async fn one(
    context: &Context,
    settings: &Settings,
    vault: &Vault,
    (name, args): (&CopyName, &args::RepoCopy),
) -> Result<CopyReport, Diagnostic> {
    let of_copy = settings.copy(name)?;
    let reached =
        Reached { at: &of_copy.repository, settings: &of_copy.store, limits: &settings.limits, file: &settings.file };
    let mode = if args.check { OpenMode::Existing } else { OpenMode::Create };
    let store = vault::store(context, &reached, mode).await?;
    let to = Destination { store, state_root: settings.state_of(name) };
    let request = CopyRequest {
        act: if args.check { Act::Compare } else { Act::Copy },
        reread: if args.verify { Reread::Everything } else { Reread::Nothing },
        policy: of_copy.retention.rules,
        zone: of_copy.retention.zone.clone(),
        in_flight: settings.limits.upload_in_flight,
    };
    Ok(copy::copy(vault, &to, &request).await?)
}

#[derive(serde::Serialize)]
pub struct CopyView {
    pub verdict: Verdict,
    pub copies: Vec<CopyRow>,
}

#[derive(serde::Serialize)]
pub struct CopyRow {
    pub name: CopyName,
    pub location: String,
    pub verdict: Verdict,
    /// Absent when it could not be begun.
    pub report: Option<CopyReport>,
    pub error: Option<String>,
}

impl View for CopyView {
    fn render(&self, page: &mut Page) {
        for row in &self.copies {
            row.render(page);
        }
    }
}

impl CopyRow {
    fn render(&self, page: &mut Page) {
        let name = self.name.to_string();
        let Some(report) = &self.report else {
            page.verdict(self.verdict, &name, self.error.as_deref().unwrap_or("nothing was done"));
            return;
        };
        page.verdict(self.verdict, &name, &words(report));
        page.evidence("copy", &self.location);
        for source in &report.sources {
            page.evidence("source", &source_words(source));
        }
        if report.act == Act::Copy {
            let bytes = ByteLen::new(report.bytes);
            let objects = counted(report.objects, "object");
            page.evidence("put", &format!("{objects}, {bytes} in {}", time::took(report.millis)));
        }
        if report.lacking > 0 {
            page.evidence("lacks", &counted(report.lacking, "record"));
        }
        if let Some(why) = &report.not_recorded {
            page.evidence("NOT SAID", &format!("what was left out, in the copy's own record: {why}"));
        }
        check::render_problems(&report.problems, page);
        if report.act == Act::Compare && report.verdict == Verdict::Partial {
            page.next(&format!("backstay repo copy {name}"));
        } else if self.verdict != Verdict::Pass {
            page.next("backstay check");
        }
    }
}

fn words(report: &CopyReport) -> String {
    let missing: usize = report.sources.iter().map(|source| source.missing).sum();
    match (report.verdict, report.act) {
        (Verdict::Pass, Act::Copy) => "the copy is complete".to_owned(),
        (Verdict::Pass, Act::Compare) => "the copy has what it should have".to_owned(),
        (_, Act::Copy) => format!("copied, but for what is named; {} missing there", counted(missing, "snapshot")),
        (Verdict::Partial, Act::Compare) => {
            format!("the copy is behind: {} missing there", counted(missing, "snapshot"))
        }
        (_, Act::Compare) => "DAMAGE: the copy is not what it should be".to_owned(),
    }
}

fn source_words(source: &SourceCopy) -> String {
    let mut words = format!("{}: {}", source.source, counted(source.snapshots, "snapshot"));
    if source.copied > 0 {
        words += &format!(", {} of them new", source.copied);
    }
    if source.missing > 0 {
        words += &format!(", {} MISSING", source.missing);
    }
    if source.left_out > 0 {
        words += &format!(", {} left out by its rules", source.left_out);
    }
    words
}

/// How far a copy has come: its newest snapshots beside the original's.
#[derive(serde::Serialize)]
pub struct CopyStatus {
    pub name: CopyName,
    pub verdict: Verdict,
    pub sources: Vec<CopyLag>,
    /// Why nothing is known of it.
    pub error: Option<String>,
}

#[derive(serde::Serialize)]
pub struct CopyLag {
    pub source: SourceName,
    /// The newest snapshot there.
    pub newest: Option<Point>,
    /// Snapshots here that are newer.
    pub behind: usize,
}

impl CopyStatus {
    /// Looks at the copy; that it cannot be reached is a fact about it, and no reason to say nothing else.
    pub async fn of(
        context: &Context,
        settings: &Settings,
        (vault, name): (&Vault, &CopyName),
        sources: &[&SourceSettings],
    ) -> Self {
        let known = |verdict, sources| Self { name: name.clone(), verdict, sources, error: None };
        match lags(context, settings, (vault, name), sources).await {
            Ok((verdict, sources)) => known(verdict, sources),
            Err(error) => Self { error: Some(error.in_one_line()), ..known(Verdict::Partial, Vec::new()) },
        }
    }

    pub fn render(&self, page: &mut Page, zone: &TimeZone) {
        let name = self.name.to_string();
        if let Some(error) = &self.error {
            page.evidence("COPY", &format!("{name}: {error}"));
        }
        for lag in &self.sources {
            let behind = match lag.behind {
                0 => "up to date".to_owned(),
                behind => format!("{} behind", counted(behind, "snapshot")),
            };
            let newest = match &lag.newest {
                Some(point) => {
                    format!("{}, {} ago", time::local(point.taken, zone), human_span(point.age_millis.max(0)))
                }
                None => "nothing yet".to_owned(),
            };
            page.evidence("copy", &format!("{name}: {} to {newest}; {behind}", lag.source));
        }
    }
}

/// A copy may be as old as a backup may be; older than that while there is something newer is a concern.
async fn lags(
    context: &Context,
    settings: &Settings,
    (vault, name): (&Vault, &CopyName),
    sources: &[&SourceSettings],
) -> Result<(Verdict, Vec<CopyLag>), Diagnostic> {
    let copy = vault::open(context, &settings.clone().on_copy(Some(name))?).await?;
    let now = context.clock.now();
    let (mut verdict, mut lags) = (Verdict::Pass, Vec::new());
    for source in sources {
        let (here, there) = (vault.catalog(&source.name).await?, copy.catalog(&source.name).await?);
        let newest = there.snapshots.iter().max_by_key(|s| s.sequence);
        let newer = |s: &&Snapshot| newest.is_none_or(|newest| s.sequence > newest.sequence);
        let behind = here.snapshots.iter().filter(newer).count();
        let newest = newest.map(|s| Point { id: s.id, taken: s.taken, age_millis: now.millis_since(s.taken) });
        let old = newest.is_none_or(|point| point.age_millis > vault::millis(source.policy.max_age));
        if behind > 0 && old || !there.broken.is_empty() {
            verdict = Verdict::Partial;
        }
        lags.push(CopyLag { source: source.name.clone(), newest, behind });
    }
    Ok((verdict, lags))
}
