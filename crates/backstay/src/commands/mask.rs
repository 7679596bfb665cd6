//! `backstay restore --mask`: a copy for those who must not see what is in the original.

mod profile;

use super::past::{self, MomentView};
use crate::args;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::table::Align;
use crate::output::{Page, Table, Traffic, View, counted, time};
use backstay_model::Verdict;
use backstay_model::mask::{self as model, MaskPlan, TableFate, Why};
use backstay_ops::catalog::Vault;
use backstay_ops::env::blocking;
use backstay_ops::mask::{self, MaskRequest, MaskedCopy};
use backstay_ops::query::{Asker, CACHE_USUAL, Past, Reading};
use backstay_sqlite::mask::{ColumnReport, TableReport};
use std::path::PathBuf;

/// What `restore` was asked for, when it is a masked copy.
pub struct Wanted<'a> {
    pub args: &'a args::Restore,
    pub source: &'a SourceSettings,
}

pub async fn run(context: &Context, vault: &Vault, wanted: Wanted<'_>) -> Outcome {
    let Wanted { args, source } = wanted;
    let read =
        args.masked.mask.as_ref().map(|path| profile::read(&context.layers.working_dir.join(path))).transpose()?;
    let target = past::restore_target(context, args)?;
    let asker = Asker::new(vault, Reading { cache: CACHE_USUAL });
    let past = asker.open(&source.name, &target).await?;
    context.printer.talk(&past::said(&past.facts, &context.zone));
    past::warn(context, &past.facts);
    match (read, &args.to) {
        (Some(read), Some(to)) => {
            let to = std::path::absolute(context.layers.working_dir.join(to)).unwrap_or_else(|_| to.clone());
            let request = MaskRequest { profile: read.profile, secret: read.secret, to };
            blocking(|| copy(context, vault, (&asker, &past), (args, &request)))
        }
        _ => {
            let draft = model::draft(&blocking(|| mask::tables(&past))?);
            context.printer.data(&draft);
            Ok(Done::Plainly)
        }
    }
}

fn copy(
    context: &Context,
    vault: &Vault,
    (asker, past): (&Asker<'_>, &Past),
    (args, request): (&args::Restore, &MaskRequest),
) -> Outcome {
    let planned = mask::plan(past, request)?;
    warn(context, &planned.plan);
    let done = match args.dry_run {
        true => None,
        false => Some(mask::perform(&vault.env, (asker, past), &planned, request)?),
    };
    let view = MaskView {
        verdict: Verdict::Pass,
        dry_run: args.dry_run,
        source: past.facts.source.to_string(),
        moment: MomentView::of(&past.facts),
        to: request.to.clone(),
        tables: done.as_ref().map_or_else(|| planned_tables(&planned.plan), |done| done.report.tables.clone()),
        report: done,
        store: context.meters.read(),
    };
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

fn warn(context: &Context, plan: &MaskPlan) {
    let columns = plan.tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)));
    let open = columns.filter(|(_, column)| column.why == Why::Unclassified);
    let open: Vec<String> = open.map(|(table, column)| format!("{}.{}", table.name, column.name)).collect();
    if !open.is_empty() {
        context.printer.warn(&format!("nobody classified {}: kept as they are", open.join(", ")));
    }
}

fn planned_tables(plan: &MaskPlan) -> Vec<TableReport> {
    let column = |column: &model::ColumnPlan| ColumnReport {
        column: column.name.clone(),
        rule: if column.why == Why::Generated { "generated".to_owned() } else { column.rule.to_string() },
        why: column.why.clone(),
        masked: 0,
        kept: 0,
    };
    let table = |table: &model::TablePlan| TableReport {
        table: table.name.clone(),
        fate: table.fate,
        rows: 0,
        columns: table.columns.iter().map(column).collect(),
    };
    plan.tables.iter().map(table).collect()
}

#[derive(serde::Serialize)]
pub struct MaskView {
    pub verdict: Verdict,
    pub dry_run: bool,
    pub source: String,
    pub moment: MomentView,
    pub to: PathBuf,
    /// What is, or would be, done with each column; counts are 0 after `--dry-run`.
    pub tables: Vec<TableReport>,
    /// What was made; absent after `--dry-run`.
    pub report: Option<MaskedCopy>,
    pub store: Traffic,
}

impl View for MaskView {
    fn render(&self, page: &mut Page) {
        let done = if self.report.is_some() { "a masked copy is in" } else { "a masked copy would be written to" };
        page.verdict(self.verdict, &self.source, &format!("{done} {}", self.to.display()));
        let mut table = Table::new([
            ("COLUMN", Align::Left),
            ("RULE", Align::Left),
            ("MASKED", Align::Right),
            ("KEPT", Align::Right),
        ]);
        for (of, column) in self.tables.iter().flat_map(|of| of.columns.iter().map(move |column| (of, column))) {
            let rule = match &column.why {
                Why::Follows(other) => format!("{}, as {other}", column.rule),
                Why::Unclassified => format!("{}, UNCLASSIFIED", column.rule),
                Why::Profile | Why::Generated => column.rule.clone(),
            };
            let counts =
                [column.masked, column.kept].map(|count| if self.dry_run { String::new() } else { count.to_string() });
            let [masked, kept] = counts;
            table.row([format!("{}.{}", of.table, column.column), rule, masked, kept]);
        }
        if self.tables.iter().any(|of| !of.columns.is_empty()) {
            page.table(&table);
        }
        for of in &self.tables {
            match of.fate {
                TableFate::Masked => {}
                TableFate::Empty => page.evidence("empty", &format!("{}: its rows are left out", of.table)),
                TableFate::MadeAnew => page.evidence("made anew", &format!("{}, from what was masked", of.table)),
                TableFate::LeftOut => page.evidence("left out", &format!("{}, whose module is not here", of.table)),
            }
        }
        let Some(done) = &self.report else { return };
        let rows: u64 = self.tables.iter().map(|of| of.rows).sum();
        page.evidence("rows", &counted(rows, "row"));
        for (table, count) in &done.broken_before {
            page.evidence("references", &format!("{count} of {table} were broken before, and still are"));
        }
        let key = if done.keyed {
            "the profile's: the next copy will be alike"
        } else {
            "a fresh one: the next copy will differ"
        };
        page.evidence("key", key);
        page.evidence("checked", "the new file is sound, its references hold");
        self.store.render(page);
        page.evidence("took", &time::took(done.millis));
    }
}

/// What was read of a file that a person wrote.
fn unreadable(path: &std::path::Path, what: &str) -> Diagnostic {
    Diagnostic::new(backstay_model::Kind::Config, format!("{}: {what}", path.display()))
        .hint("`backstay restore SOURCE --mask-draft > profile.toml` prints one to begin with.")
}
