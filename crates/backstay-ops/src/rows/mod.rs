//! Rows of two moments compared, looked for through time, and brought back into a living database.
//!
//! Owns the meeting of [`crate::query`]'s moments with the engine's work on rows. What is written into a database
//! under care is one transaction of the engine; the file that undoes it is durable before that commits. A crash
//! leaves the database as it was, or as it was asked for, and beside it a file that undoes what was, or was not, done.

mod bring;
mod points;
mod when;

pub use bring::{BackPlan, BackReport, BackRequest, into_live, look, to_sql};
pub use points::{PointAt, points};
pub use when::{Looked, Shift, ShiftKind, When, WhenRequest, when};

use crate::OpsError;
use crate::query::{MomentFacts, Past, Stop};
use backstay_sqlite::lazy::Go;
use backstay_sqlite::rows::{self, Change, Compared, SchemaChange, TableCounts};

/// What differs between two moments, but for the rows themselves.
#[derive(Debug, Clone)]
pub struct DiffReport {
    pub from: MomentFacts,
    pub to: MomentFacts,
    pub schema: Vec<SchemaChange>,
    pub tables: Vec<TableDiff>,
    /// Their rows are not compared.
    pub virtual_tables: Vec<String>,
}

impl DiffReport {
    pub fn is_same(&self) -> bool {
        self.schema.is_empty() && self.tables.iter().all(|table| table.counts.is_same())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableFate {
    Compared,
    Created,
    Dropped,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct TableDiff {
    pub table: String,
    pub fate: TableFate,
    #[serde(flatten)]
    pub counts: TableCounts,
}

/// Takes rows that differ as they are found. Says when it wants no more of this table.
pub type DiffSink<'a> = &'a mut dyn FnMut(&Compared, Change) -> Go;

/// Compares two moments, of one table or of all. Blocks.
pub fn diff(
    (from, to): (&Past, &Past),
    only: Option<&str>,
    stop: &Stop,
    each: DiffSink<'_>,
) -> Result<DiffReport, OpsError> {
    let (before, after) = (from.session()?, to.session()?);
    let is_over = || if stop.is_over() { Go::Stop } else { Go::On };
    let tables = rows::tables_of(&before, &after, only)?;
    let mut report = DiffReport {
        from: from.facts.clone(),
        to: to.facts.clone(),
        schema: schema(&before, &after, only)?,
        tables: Vec::new(),
        virtual_tables: tables.virtual_tables,
    };
    for shape in tables.only_before {
        let counts = TableCounts { removed: before.count(&shape.name)?, ..TableCounts::default() };
        report.tables.push(TableDiff { table: shape.name, fate: TableFate::Dropped, counts });
    }
    for compared in tables.common {
        let mut wants_more = true;
        let counts = rows::compare_table((&before, &after), &compared, &is_over, &mut |change| {
            if wants_more && each(&compared, change) == Go::Stop {
                wants_more = false;
            }
            Go::On
        });
        let counts = counts.map_err(|error| stop.said(error))?;
        report.tables.push(TableDiff { table: compared.after.name, fate: TableFate::Compared, counts });
    }
    for shape in tables.only_after {
        let counts = TableCounts { added: after.count(&shape.name)?, ..TableCounts::default() };
        report.tables.push(TableDiff { table: shape.name, fate: TableFate::Created, counts });
    }
    report.tables.sort_by(|a, b| a.table.cmp(&b.table));
    if let (Some(table), true) = (only, report.tables.is_empty() && report.virtual_tables.is_empty()) {
        return Err(backstay_sqlite::SqliteError::NoTable { table: table.to_owned() }.into());
    }
    Ok(report)
}

fn schema(
    before: &backstay_sqlite::lazy::Session,
    after: &backstay_sqlite::lazy::Session,
    only: Option<&str>,
) -> Result<Vec<SchemaChange>, OpsError> {
    let is_meant = |change: &SchemaChange| {
        let (SchemaChange::Created { item }
        | SchemaChange::Dropped { item }
        | SchemaChange::Changed { after: item, .. }) = change;
        only.is_none_or(|name| item.table.eq_ignore_ascii_case(name))
    };
    let changes = rows::schema_changes(&rows::schema_of(before)?, &rows::schema_of(after)?);
    Ok(changes.into_iter().filter(is_meant).collect())
}

/// The statements that turn one moment into the other, one by one. Blocks. Gives the virtual tables left out.
pub fn script(
    (from, to): (&Past, &Past),
    only: Option<&str>,
    stop: &Stop,
    out: &mut dyn FnMut(&str) -> Go,
) -> Result<Vec<String>, OpsError> {
    let (before, after) = (from.session()?, to.session()?);
    let is_over = || if stop.is_over() { Go::Stop } else { Go::On };
    rows::script((&before, &after), only, &is_over, out).map_err(|error| stop.said(error))
}
