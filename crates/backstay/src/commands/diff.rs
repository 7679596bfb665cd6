//! `backstay diff`: what differs between two moments, as a report or as statements.

use super::past::{self, MomentView};
use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::table::Align;
use crate::output::{Page, Table, Traffic, View};
use crate::vault;
use backstay_model::Verdict;
use backstay_ops::env::blocking;
use backstay_ops::query::{Asker, Past};
use backstay_ops::rows::{self, DiffReport, TableDiff};
use backstay_sqlite::lazy::{Go, Row, Value};
use backstay_sqlite::rows::{Change, Compared, SchemaChange};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Bytes of statements written at a time.
const BATCH: usize = 64 << 10;

pub async fn run(context: &Context, args: &args::Diff) -> Outcome {
    let settings = context.settings()?.on_copy(args.reading.from_copy.as_ref())?;
    let source = settings.source(&args.source)?;
    let (from, to) = (past::word_target(context, args.from.clone())?, past::word_target(context, args.to.clone())?);
    let vault = vault::open_to_ask(context, &settings, (&source.name, past::keep(&args.reading))).await?.vault;
    let asker = Asker::new(&vault, past::reading(&args.reading));
    asker.stop().within(args.reading.within.as_ref().map(|age| age.span));
    let (from, to) = (asker.open(&source.name, &from).await?, asker.open(&source.name, &to).await?);
    context.printer.talk(&format!("from: {}", past::said(&from.facts, &context.zone)));
    context.printer.talk(&format!("to:   {}", past::said(&to.facts, &context.zone)));
    [&from, &to].iter().for_each(|past| past::warn(context, &past.facts));
    blocking(|| match args.sql {
        true => script(context, args, &asker, (&from, &to)),
        false => report(context, args, &asker, (&from, &to)),
    })
}

fn script(context: &Context, args: &args::Diff, asker: &Asker<'_>, pair: (&Past, &Past)) -> Outcome {
    let mut text = format!("{}\n", rows::BAIL);
    let left_out = rows::script(pair, args.table.as_deref(), asker.stop(), &mut |sql| {
        text.push_str(sql);
        text.push('\n');
        if text.len() >= BATCH {
            context.printer.data(&std::mem::take(&mut text));
        }
        Go::On
    })?;
    context.printer.data(&text);
    for table in left_out {
        context.printer.warn(&format!("the rows of the virtual table {table} are not compared"));
    }
    Ok(Done::Plainly)
}

fn report(context: &Context, args: &args::Diff, asker: &Asker<'_>, pair: (&Past, &Past)) -> Outcome {
    let mut shown: BTreeMap<String, Vec<RowChange>> = BTreeMap::new();
    let found = rows::diff(pair, args.table.as_deref(), asker.stop(), &mut |compared, change| {
        let rows = shown.entry(compared.after.name.clone()).or_default();
        if rows.len() >= args.limit {
            return Go::Stop;
        }
        rows.push(RowChange::of(compared, change));
        Go::On
    })?;
    let view = DiffView::of(&found, shown, context.meters.read());
    let verdict = view.verdict;
    context.printer.show(&view)?;
    Ok(Done::With(verdict))
}

#[derive(serde::Serialize)]
pub struct DiffView {
    /// Pass when nothing differs, fail when something does.
    pub verdict: Verdict,
    pub source: String,
    pub from: MomentView,
    pub to: MomentView,
    pub schema: Vec<SchemaChange>,
    pub tables: Vec<TableView>,
    pub virtual_tables: Vec<String>,
    pub store: Traffic,
}

#[derive(serde::Serialize)]
pub struct TableView {
    #[serde(flatten)]
    pub table: TableDiff,
    /// The first of them.
    pub rows: Vec<RowChange>,
    /// There are more than are shown.
    pub more: bool,
}

/// One row that differs, with all columns of one that came or went, and of another those that changed.
#[derive(serde::Serialize)]
pub struct RowChange {
    pub change: &'static str,
    /// The values of its identity.
    pub key: Vec<Json>,
    pub columns: Vec<ColumnChange>,
    #[serde(skip)]
    line: String,
}

#[derive(serde::Serialize)]
pub struct ColumnChange {
    pub column: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Json>,
}

impl RowChange {
    pub fn of(compared: &Compared, change: Change) -> Self {
        let keys = compared.key_len();
        let (change, before, after) = match &change {
            Change::Added(row) => ("added", None, Some(row)),
            Change::Removed(row) => ("removed", Some(row), None),
            Change::Changed { before, after } => ("changed", Some(before), Some(after)),
        };
        let value = |row: Option<&Row>, at: usize| row.and_then(|row| row.get(at)).cloned();
        let (mut columns, mut words) = (Vec::new(), Vec::new());
        for (at, name) in compared.columns.iter().enumerate().skip(keys) {
            let (was, is) = (value(before, at), value(after, at));
            if was == is {
                continue;
            }
            if let (Some(was), Some(is)) = (&was, &is) {
                words.push(format!("{name}: {} -> {}", past::shown(was), past::shown(is)));
            }
            let (before, after) = (was.as_ref().map(past::json), is.as_ref().map(past::json));
            columns.push(ColumnChange { column: name.clone(), before, after });
        }
        let row = after.or(before);
        let key: Vec<Value> = (0..keys).filter_map(|at| value(row, at)).collect();
        let named = compared.columns.iter().zip(&key).map(|(name, value)| format!("{name}={}", past::shown(value)));
        let mark = match change {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        let line = format!("{mark} {}  {}", named.collect::<Vec<_>>().join(" "), words.join(", "));
        Self { change, key: key.iter().map(past::json).collect(), columns, line: line.trim_end().to_owned() }
    }
}

impl DiffView {
    fn of(found: &DiffReport, mut shown: BTreeMap<String, Vec<RowChange>>, store: Traffic) -> Self {
        let table = |table: &TableDiff| {
            let rows = shown.remove(&table.table).unwrap_or_default();
            let counts = table.counts;
            let more = counts.added + counts.removed + counts.changed > rows.len() as u64;
            TableView { table: table.clone(), rows, more }
        };
        let tables = found.tables.iter().map(table).collect();
        Self {
            verdict: if found.is_same() { Verdict::Pass } else { Verdict::Fail },
            source: found.to.source.to_string(),
            from: MomentView::of(&found.from),
            to: MomentView::of(&found.to),
            schema: found.schema.clone(),
            tables,
            virtual_tables: found.virtual_tables.clone(),
            store,
        }
    }
}

impl View for DiffView {
    fn render(&self, page: &mut Page) {
        let words = if self.verdict == Verdict::Pass { "nothing differs" } else { "they differ" };
        page.verdict(self.verdict, &self.source, words);
        for change in &self.schema {
            match change {
                SchemaChange::Created { item } => page.line(&format!("+ {};", item.sql)),
                SchemaChange::Dropped { item } => page.line(&format!("- {};", item.sql)),
                SchemaChange::Changed { before, after } => {
                    page.line(&format!("- {};", before.sql));
                    page.line(&format!("+ {};", after.sql));
                }
            }
        }
        let right = ["added", "removed", "changed", "same"].map(|name| (name, Align::Right));
        let mut table = Table::new([("table", Align::Left), right[0], right[1], right[2], right[3]]);
        for row in &self.tables {
            let counts = row.table.counts;
            let [added, removed, changed] = [counts.added, counts.removed, counts.changed].map(|n| n.to_string());
            let same = counts.same.map_or_else(|| "not read".to_owned(), |same| same.to_string());
            table.row([row.table.table.clone(), added, removed, changed, same]);
        }
        page.table(&table);
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            page.gap();
            page.line(&table.table.table);
            table.rows.iter().for_each(|row| page.line(&format!("  {}", row.line)));
            if table.more {
                page.line("  ... and more; see `--limit`");
            }
        }
        for table in &self.virtual_tables {
            page.evidence("not compared", &format!("the rows of the virtual table {table}"));
        }
    }
}
