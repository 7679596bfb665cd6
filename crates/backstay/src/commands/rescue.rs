//! `backstay rescue`: the good rows of a damaged database in a new one, and an account of what was lost.
//!
//! Works without a configuration and without a repository: a file is enough.

use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::table::Align;
use crate::output::{Page, Table, View, time};
use crate::vault;
use backstay_model::{Kind, SourceName, Verdict};
use backstay_ops::rescue::{self, RescueRequest, Rescued};
use backstay_sqlite::question::IntegrityAnswer;
use std::path::{Path, PathBuf};

/// Bad pages that are named on the screen; `--json` names all that were noted.
const PAGES_SHOWN: usize = 12;

pub async fn run(context: &Context, args: &args::Rescue) -> Outcome {
    let dir = &context.layers.working_dir;
    let request = |from| RescueRequest { from, to: dir.join(&args.to), deleted: args.deleted };
    let rescued = if args.from_snapshots {
        let settings = context.settings()?;
        let source = settings.source(&named(&args.what)?)?;
        let vault = vault::open(context, &settings).await?;
        rescue::rescue_with_snapshots(&vault, &source.name, &request(source.path.clone())).await?
    } else {
        let from = source(context, args).unwrap_or_else(|| dir.join(&args.what));
        rescue::rescue(&vault::env_without_settings(context), &request(from))?
    };
    let view = RescueView(rescued);
    context.printer.show(&view)?;
    Ok(Done::With(view.0.verdict))
}

/// Snapshots belong to a source, so that it must be named.
fn named(what: &Path) -> Result<SourceName, Diagnostic> {
    what.to_str().and_then(|word| word.parse().ok()).ok_or_else(|| {
        Diagnostic::new(Kind::Usage, format!("{} is no name of a source", what.display()))
            .because("`--from-snapshots` needs to know whose snapshots")
            .hint("Name a source of backstay.toml, such as `backstay rescue shop --from-snapshots --to saved.db`.")
    })
}

/// The file of a source. A word that names a file that is there means the file, and so does any word
/// where there is no configuration to look it up in.
fn source(context: &Context, args: &args::Rescue) -> Option<PathBuf> {
    let name: SourceName = args.what.to_str()?.parse().ok()?;
    let is_file = context.layers.working_dir.join(&args.what).is_file();
    let settings = context.settings().ok().filter(|_| !is_file)?;
    settings.source(&name).ok().map(|source| source.path.clone())
}

#[derive(serde::Serialize)]
pub struct RescueView(pub Rescued);

impl View for RescueView {
    fn render(&self, page: &mut Page) {
        let Rescued { report, from, to, .. } = &self.0;
        page.verdict(self.0.verdict, &from.display().to_string(), &outcome(&self.0));
        let tables = tables(&self.0);
        if !report.tables.is_empty() {
            page.table(&tables);
        }
        if let Some(name) = &report.lost_and_found_table {
            page.evidence("set aside", &format!("{} rows that belong nowhere, in {name}", report.lost_and_found));
        }
        page.evidence("read", &format!("{} pages of {} bytes{}", report.pages, report.page_size, log(&self.0)));
        if !report.bad_pages.is_empty() {
            page.evidence("bad pages", &numbers(&report.bad_pages));
        }
        if report.orphan_pages > 0 {
            page.evidence("orphans", &format!("{} pages that no table led to", report.orphan_pages));
        }
        if report.free_pages > 0 {
            page.evidence("left alone", &format!("{} free pages with what was deleted", report.free_pages));
        }
        for from in &self.0.from_snapshots {
            let pages = if from.first == from.last {
                from.first.to_string()
            } else {
                format!("{} to {}", from.first, from.last)
            };
            page.evidence("from snapshot", &format!("{} of {}: pages {pages}", from.snapshot.short(), from.taken));
        }
        for guess in &report.guesses {
            page.evidence("guessed", guess);
        }
        for refused in &report.refused {
            page.evidence("not made", &format!("{}: {}", refused.name, refused.reason));
        }
        for name in &report.damaged_indexes {
            page.evidence("made anew", &format!("index {name}, which was damaged"));
        }
        for note in &self.0.notes {
            page.evidence("note", note);
        }
        render_answers(&self.0, page);
        page.evidence("took", &time::took(self.0.millis));
        if let Some(to) = to {
            page.next(&format!("sqlite3 {} .tables", to.display()));
        }
    }
}

fn outcome(rescued: &Rescued) -> String {
    let rows = rescued.report.rows();
    match (&rescued.to, rescued.verdict) {
        (None, _) => "nothing in it could be read as rows; no file was written".to_owned(),
        (Some(to), Verdict::Pass) => format!("all of its {rows} rows are in {}", to.display()),
        (Some(to), _) => {
            let lost: u64 = rescued.report.tables.iter().map(|table| table.lost_estimate).sum();
            format!("{rows} rows are in {}; about {lost} are lost", to.display())
        }
    }
}

fn tables(rescued: &Rescued) -> Table {
    let right = Align::Right;
    let mut table = Table::new([
        ("TABLE", Align::Left),
        ("ROWS", right),
        ("GUESSED", right),
        ("SET ASIDE", right),
        ("BAD PAGES", right),
        ("LOST, ABOUT", right),
    ]);
    for row in &rescued.report.tables {
        let counts = [row.rows, row.guessed, row.set_aside, row.bad_pages, row.lost_estimate].map(|n| n.to_string());
        let [rows, guessed, aside, bad, lost] = counts;
        table.row([row.table.clone(), rows, guessed, aside, bad, lost]);
    }
    table
}

fn log(rescued: &Rescued) -> String {
    match rescued.log_frames {
        0 => String::new(),
        frames => format!(", {frames} frames of the log laid over them"),
    }
}

fn numbers(pages: &[u32]) -> String {
    let shown: Vec<String> = pages.iter().take(PAGES_SHOWN).map(u32::to_string).collect();
    let more = pages.len().saturating_sub(PAGES_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

fn render_answers(rescued: &Rescued, page: &mut Page) {
    let words = match &rescued.answers.integrity {
        IntegrityAnswer::Ok => "the new database is sound".to_owned(),
        IntegrityAnswer::Problems { problems, .. } => {
            let first = problems.first().map_or("a problem", String::as_str);
            format!("SQLite finds fault with the new database: {first}")
        }
        IntegrityAnswer::Inconclusive { reason } => format!("the new database could not be checked: {reason}"),
    };
    page.evidence("checked", &words);
}
