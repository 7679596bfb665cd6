//! `backstay repo key rewrite`: what was stored under keys of before, sealed to the present one.

use crate::config::Settings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_model::SourceName;
use backstay_ops::rewrite::{self, RewriteReport};

pub async fn run(context: &Context, source: Option<&SourceName>) -> Outcome {
    let settings = context.settings()?;
    let report = all(context, &settings, source).await?;
    let verdict = report.verdict;
    context.printer.show(&RewrittenView { report })?;
    Ok(Done::With(verdict))
}

/// Every source there is in the repository, whether or not this host backs it up.
pub async fn all(
    context: &Context,
    settings: &Settings,
    source: Option<&SourceName>,
) -> Result<RewriteReport, Diagnostic> {
    let vault = vault::open(context, settings).await?;
    let sources = match source {
        Some(source) => vec![source.clone()],
        None => vault.repo.sources().await?,
    };
    Ok(rewrite::rewrite(&vault, &sources).await?)
}

#[derive(serde::Serialize)]
pub struct RewrittenView {
    #[serde(flatten)]
    pub report: RewriteReport,
}

impl View for RewrittenView {
    fn render(&self, page: &mut Page) {
        let report = &self.report;
        let rewritten: usize = report.sources.iter().map(|row| row.rewritten).sum();
        let objects = report.logs.objects as usize;
        let words = match (rewritten, objects) {
            (0, 0) => "nothing that stands was sealed to a key of before, or could be rewritten".to_owned(),
            (count, 0) => format!("{} sealed to the present key", counted(count, "older snapshot")),
            (0, objects) => format!("{} sealed to the present key", counted(objects, "older log object")),
            (count, objects) => {
                let (snapshots, objects) = (counted(count, "older snapshot"), counted(objects, "log object"));
                format!("{snapshots} and {objects} sealed to the present key")
            }
        };
        page.verdict(report.verdict, "key", &words);
        rows(report, page);
        if let Some(why) = &report.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        page.next(match () {
            () if report.logs.left > 0 => "backstay repo key rewrite",
            () if rewritten > 0 || objects > 0 => "backstay retention apply",
            () => "backstay repo key list",
        });
    }
}

/// What became of each source.
pub fn rows(report: &RewriteReport, page: &mut Page) {
    for row in &report.sources {
        let of = counted(row.snapshots, "snapshot");
        let words = match row.rewritten {
            0 => format!("none of {of} had to be rewritten"),
            count => format!("{count} of {of} rewritten, {} in {}", row.bytes, counted(row.packs as usize, "pack")),
        };
        page.evidence(row.source.as_str(), &words);
        if row.rewritten > 0 {
            page.evidence("until then", "the key of before opens what these replace, until a prune has deleted it");
        }
        if row.log_objects > 0 {
            let log = counted(row.log_objects as usize, "object");
            let words = format!(
                "{log} at the end of the log of {}: a key of before opens them until following has begun a new \
                 stream, and this has run again",
                row.source
            );
            page.evidence("NOT REWRITTEN", &words);
        }
    }
    let logs = &report.logs;
    if logs.roll_ups > 0 {
        let (objects, made) = (counted(logs.objects as usize, "object"), counted(logs.roll_ups as usize, "roll-up"));
        page.evidence("logs", &format!("{objects} of {} as {made}, {}", counted(logs.streams, "stream"), logs.bytes));
        page.evidence(
            "until then",
            "the key of before opens what these replace, until a prune that reads has let it go",
        );
    }
    for problem in report.sources.iter().flat_map(|row| &row.problems).chain(&logs.problems) {
        page.evidence("NOT REWRITTEN", &format!("{}: {}", problem.object, problem.what));
    }
}
