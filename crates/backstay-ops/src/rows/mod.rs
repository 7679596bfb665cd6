//! Rows of two moments compared, looked for through time, and brought back into a living database.
//!
//! Owns the meeting of [`crate::query`]'s moments with the engine's work on rows. What is written into a database
//! under care is one transaction of the engine; the file that undoes it is durable before that commits. A crash
//! leaves the database as it was, or as it was asked for, and beside it a file that undoes what was, or was not, done.

mod backwards;
mod bring;
mod points;
mod when;

pub use backstay_sqlite::rows::TableCounts;
pub use bring::{BackPlan, BackReport, BackRequest, into_live, look, to_sql};
pub use points::{PointAt, Points, Walk, points};
pub use when::{Looked, Shift, ShiftKind, When, WhenRequest, when};

use crate::OpsError;
use crate::query::{MomentFacts, Past, Stop};
use backstay_model::ByteLen;
use backstay_sqlite::lazy::{Go, Session};
use backstay_sqlite::rows::{self, Change, Compared, SchemaChange, Scopes};

/// What a file of statements begins with: for `sqlite3`, a statement that fails is the end of it, and nothing of the
/// transaction counts. Without it the shell goes on with the next, and commits the rest.
pub const BAIL: &str = ".bail on";

/// What differs between two moments, but for the rows themselves.
#[derive(Debug, Clone)]
pub struct DiffReport {
    pub from: MomentFacts,
    pub to: MomentFacts,
    /// Of the pages that may differ; of the whole database where they are too many to say.
    pub bytes: ByteLen,
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
    let changed = to.changed_since(from)?;
    let scopes = scopes((from, to), (&before, &after), changed.as_deref(), stop)?;
    let mut report = DiffReport {
        from: from.facts.clone(),
        to: to.facts.clone(),
        bytes: changed.map_or(to.facts.length, |pages| to.length_of(pages.len() as u64)),
        schema: schema(&before, &after, only)?,
        tables: Vec::new(),
        virtual_tables: tables.virtual_tables,
    };
    for shape in tables.only_before {
        let counts = TableCounts { removed: before.count(&shape.name)?, same: Some(0), ..TableCounts::default() };
        report.tables.push(TableDiff { table: shape.name, fate: TableFate::Dropped, counts });
    }
    for compared in tables.common {
        let mut wants_more = true;
        let scope = scopes.of(&compared.after.name);
        let counts = rows::compare_table((&before, &after), (&compared, &scope), &is_over, &mut |change| {
            if wants_more && each(&compared, change) == Go::Stop {
                wants_more = false;
            }
            Go::On
        });
        let counts = counts.map_err(|error| stop.said(error))?;
        report.tables.push(TableDiff { table: compared.after.name, fate: TableFate::Compared, counts });
    }
    for shape in tables.only_after {
        let counts = TableCounts { added: after.count(&shape.name)?, same: Some(0), ..TableCounts::default() };
        report.tables.push(TableDiff { table: shape.name, fate: TableFate::Created, counts });
    }
    report.tables.sort_by(|a, b| a.table.cmp(&b.table));
    if let (Some(table), true) = (only, report.tables.is_empty() && report.virtual_tables.is_empty()) {
        return Err(backstay_sqlite::SqliteError::NoTable { table: table.to_owned() }.into());
    }
    Ok(report)
}

/// What has to be read at all: pages that both moments have in common lead to the same rows.
fn scopes(
    (from, to): (&Past, &Past),
    sessions: (&Session, &Session),
    changed: Option<&[u32]>,
    stop: &Stop,
) -> Result<Scopes, OpsError> {
    let Some(changed) = changed else { return Ok(Scopes::all()) };
    let is_over = || if stop.is_over() { Go::Stop } else { Go::On };
    let pages = (from.pages(), to.pages());
    let found = rows::narrow(sessions, (pages.0.as_ref(), pages.1.as_ref()), changed, &is_over);
    found.map_err(|error| stop.said(error))
}

fn schema(before: &Session, after: &Session, only: Option<&str>) -> Result<Vec<SchemaChange>, OpsError> {
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
    let changed = to.changed_since(from)?;
    let scopes = scopes((from, to), (&before, &after), changed.as_deref(), stop)?;
    rows::script((&before, &after), (only, &scopes), &is_over, out).map_err(|error| stop.said(error))
}
