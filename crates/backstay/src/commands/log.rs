//! `backstay log`: what changed when, from one restore point to the next.

use super::past;
use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::table::Align;
use crate::output::{Page, Table, Traffic, View, time};
use crate::vault;
use backstay_model::{ByteLen, Moment};
use backstay_ops::env::blocking;
use backstay_ops::query::Asker;
use backstay_ops::rows::{self, TableDiff, Walk};
use backstay_sqlite::lazy::Go;
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::Log) -> Outcome {
    let settings = context.settings()?.on_copy(args.reading.from_copy.as_ref())?;
    let source = settings.source(&args.source)?;
    let since = args.since.as_ref().map(|text| context.read_time(text)).transpose()?;
    let vault = vault::open_to_ask(context, &settings, (&source.name, past::keep(&args.reading))).await?.vault;
    let asker = Asker::new(&vault, past::reading(&args.reading));
    asker.stop().within(args.reading.within.as_ref().map(|age| age.span));
    let mut walk = Walk::new(&asker, rows::points(&vault, &source.name, since).await?);
    let points = walk.points.list.clone();
    let older = points.len().saturating_sub(args.limit.saturating_add(1));
    let mut before = None;
    let mut steps = Vec::new();
    for (at, point) in points.into_iter().enumerate().skip(older) {
        context.cancel.check()?;
        let past = walk.open(at).await?;
        if let Some(before) = &before {
            let table = args.table.as_deref();
            let found = blocking(|| rows::diff((before, &past), table, asker.stop(), &mut |_, _| Go::Stop));
            let found = match found {
                Err(error) if is_missing_table(&error) => None,
                other => Some(other?),
            };
            let changed = |table: &TableDiff| !table.counts.is_same();
            steps.push(Step {
                at: past.facts.at(),
                snapshot: past.facts.snapshot.to_string(),
                tx: point.tx.map(backstay_model::Tx::get),
                commit: point.is_commit,
                bytes: found.as_ref().map_or(ByteLen::new(0), |found| found.bytes),
                schema_changed: found.as_ref().is_some_and(|found| !found.schema.is_empty()),
                tables: found.into_iter().flat_map(|found| found.tables).filter(changed).collect(),
            });
        }
        before = Some(past);
    }
    steps.reverse();
    let store = context.meters.read();
    let view = LogView { source: source.name.to_string(), steps, older: older > 0, store, zone: context.zone.clone() };
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

/// A table that came later is no failure of a look at all points.
fn is_missing_table(error: &backstay_ops::OpsError) -> bool {
    matches!(error, backstay_ops::OpsError::Sqlite(backstay_sqlite::SqliteError::NoTable { .. }))
}

#[derive(serde::Serialize)]
pub struct LogView {
    pub source: String,
    /// Newest first.
    pub steps: Vec<Step>,
    /// There are older points than were looked at.
    pub older: bool,
    pub store: Traffic,
    #[serde(skip)]
    zone: TimeZone,
}

/// What changed between the point before and this one.
#[derive(serde::Serialize)]
pub struct Step {
    pub at: Moment,
    pub snapshot: String,
    pub tx: Option<u64>,
    /// One commit, and not all that happened since the snapshot before.
    pub commit: bool,
    /// Of the pages that differ from those of the point before.
    pub bytes: ByteLen,
    pub schema_changed: bool,
    /// Those in which rows differ.
    pub tables: Vec<TableDiff>,
}

impl View for LogView {
    fn render(&self, page: &mut Page) {
        let right = ["added", "removed", "changed"].map(|name| (name, Align::Right));
        let mut table = Table::new([
            ("until", Align::Left),
            ("state", Align::Left),
            ("table", Align::Left),
            right[0],
            right[1],
            right[2],
            ("bytes", Align::Right),
        ]);
        for step in &self.steps {
            let state = step.tx.map_or_else(|| step.snapshot.chars().take(12).collect(), |tx| format!("tx:{tx}"));
            let at = time::local(step.at, &self.zone);
            let mut bytes = step.bytes.to_string();
            let mut push = |name: &str, counts: [String; 3]| {
                let [added, removed, changed] = counts;
                // They are the whole step's, and are said once.
                let bytes = std::mem::take(&mut bytes);
                table.row([at.clone(), state.clone(), name.to_owned(), added, removed, changed, bytes]);
            };
            if step.schema_changed {
                push("(schema)", Default::default());
            }
            for row in &step.tables {
                push(&row.table, [row.counts.added, row.counts.removed, row.counts.changed].map(|n| n.to_string()));
            }
            if step.tables.is_empty() && !step.schema_changed {
                push("(nothing)", Default::default());
            }
        }
        page.table(&table);
        if self.older {
            page.evidence("older", "there are older points; see `--limit`");
        }
    }
}
