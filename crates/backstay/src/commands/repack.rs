//! `backstay repo repack`: what lives in packs that are mostly dead, stored again in others.

use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_ops::repack::{self, RepackReport, SourceReport};

pub async fn run(context: &Context, args: &args::Repack) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let sources = match &args.source {
        Some(source) => vec![source.clone()],
        None => vault.repo.sources().await?,
    };
    let report = match args.dry_run {
        true => repack::plan(&vault, &sources).await?,
        false => repack::apply(&vault, &sources).await?,
    };
    let verdict = report.verdict;
    context.printer.show(&RepackView { report })?;
    Ok(Done::With(verdict))
}

#[derive(serde::Serialize)]
pub struct RepackView {
    #[serde(flatten)]
    pub report: RepackReport,
}

impl View for RepackView {
    fn render(&self, page: &mut Page) {
        let report = &self.report;
        let leaving: usize = report.sources.iter().map(|row| row.leaving.packs).sum();
        let packs = counted(leaving, "pack");
        let words = match (leaving, report.performed) {
            (0, _) => "no pack is worth leaving".to_owned(),
            (_, false) => format!("{packs} would be left, and what lives there stored again"),
            (_, true) => format!("what lives in {packs} was stored again"),
        };
        page.verdict(report.verdict, "repack", &words);
        report.sources.iter().for_each(|row| render_source(row, report.performed, page));
        if let Some(why) = &report.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        match (leaving, report.performed) {
            (0, _) => {}
            (_, false) => page.next("backstay repo repack"),
            (_, true) => page.next("backstay retention apply"),
        }
    }
}

fn render_source(row: &SourceReport, performed: bool, page: &mut Page) {
    let all = row.referred;
    let (snapshots, packs) = (counted(row.snapshots, "snapshot"), counted(all.packs, "pack"));
    page.evidence(
        row.source.as_str(),
        &format!("{} in {packs} for {snapshots}, of which {} live", all.bytes, all.live),
    );
    let leaving = row.leaving;
    if leaving.packs > 0 {
        let (packs, affected) = (counted(leaving.packs, "pack"), counted(row.affected, "snapshot"));
        let words = format!("{packs} with {}, of which {} live, for {affected}", leaving.bytes, leaving.live);
        page.evidence("leaves", &words);
    }
    if performed && leaving.packs > 0 {
        let (packs, snapshots) = (counted(row.written.packs, "pack"), counted(row.rewritten, "snapshot"));
        page.evidence("stored", &format!("{} in {packs} for {snapshots}, all read back", row.written.bytes));
    }
    if row.put_off > 0 {
        page.evidence("next time", &format!("{} more: run it again", counted(row.put_off, "pack")));
    }
    for problem in &row.problems {
        page.evidence("problem", &format!("{}: {}", problem.object, problem.what));
    }
}
