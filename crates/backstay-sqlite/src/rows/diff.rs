//! What differs between the rows of a table at two moments: both are read in the order of their keys, side by
//! side, so nothing is held but one row of each. Rows that are known to be the same are not read.

use super::key::{Encoding, compare};
use super::narrow::Scope;
use super::shape::{Identity, TableShape};
use crate::error::SqliteError;
use crate::ffi;
use crate::lazy::{Go, Row, Session, Value, quoted};
use rusqlite::Rows;
use std::cmp::Ordering;

/// Steps of SQLite's machine between two looks at whether to stop.
const OPS_PER_LOOK: i32 = 10_000;

/// One row that is not the same. The values are those of [`Compared::columns`].
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Added(Row),
    Removed(Row),
    Changed { before: Row, after: Row },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableCounts {
    pub added: u64,
    pub removed: u64,
    pub changed: u64,
    /// `None` where pages that both moments have in common were not read.
    pub same: Option<u64>,
}

impl TableCounts {
    pub fn is_same(&self) -> bool {
        (self.added, self.removed, self.changed) == (0, 0, 0)
    }
}

/// A table of both moments, and how its rows are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub before: TableShape,
    pub after: TableShape,
    pub identity: Identity,
    /// First those of the identity, then all stored columns that both have.
    pub columns: Vec<String>,
}

impl Compared {
    /// `None` where rows have no identity in common.
    pub fn of(before: TableShape, after: TableShape) -> Option<Self> {
        let identity = after.identity.clone();
        if before.identity != identity {
            return None;
        }
        let mut columns: Vec<String> = identity.columns().iter().map(|name| (*name).to_owned()).collect();
        columns.extend(after.stored().filter(|name| before.has(name)).map(str::to_owned));
        Some(Self { before, after, identity, columns })
    }

    pub fn key_len(&self) -> usize {
        self.identity.columns().len()
    }

    fn select(&self, shape: &TableShape, part: Option<&Part>) -> String {
        let of_row = |name: &str| format!("backstay_rows.{}", quoted(name));
        let columns: Vec<String> = self.columns.iter().map(|name| of_row(name)).collect();
        let order: Vec<String> =
            self.identity.columns().iter().map(|name| format!("{} COLLATE BINARY", of_row(name))).collect();
        let (columns, table, order) = (columns.join(", "), quoted(&shape.name), order.join(", "));
        match part {
            None => format!("SELECT {columns} FROM {table} AS backstay_rows ORDER BY {order}"),
            Some(Part { rowid, .. }) => format!(
                "WITH backstay_spans(first, last) AS MATERIALIZED (SELECT value ->> 0, value ->> 1 FROM json_each(?1))
                 SELECT {columns} FROM backstay_spans CROSS JOIN {table} AS backstay_rows
                 WHERE backstay_rows.{rowid} BETWEEN backstay_spans.first AND backstay_spans.last ORDER BY {order}"
            ),
        }
    }

    /// The part of its rows that has to be read; `None` for all.
    fn part(&self, scope: &Scope) -> Option<Part> {
        // The same bytes may mean other rows where the statement that made the table is another.
        let Scope::Rows(spans) = scope else { return None };
        let rowid = self.after.rowid().filter(|_| self.before.sql == self.after.sql)?;
        let spans: Vec<String> = spans.iter().map(|(first, last)| format!("[{first},{last}]")).collect();
        Some(Part { rowid, is_empty: spans.is_empty(), spans: format!("[{}]", spans.join(",")) })
    }
}

/// Rows by their numbers: the name under which a table shows them, and spans of them as SQLite reads them.
struct Part {
    rowid: &'static str,
    spans: String,
    is_empty: bool,
}

/// The tables of two moments.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub common: Vec<Compared>,
    /// In one of them only, or with another identity: all rows of the one go, all of the other come.
    pub only_before: Vec<TableShape>,
    pub only_after: Vec<TableShape>,
    /// Rows of virtual tables are not compared.
    pub virtual_tables: Vec<String>,
}

/// Which tables there are, at both moments; of one name, or all.
pub fn tables_of(before: &Session, after: &Session, only: Option<&str>) -> Result<Tables, SqliteError> {
    let mut tables = Tables::default();
    let shapes_before = shapes(before, only, &mut tables.virtual_tables)?;
    let mut shapes_after = shapes(after, only, &mut tables.virtual_tables)?;
    for shape in shapes_before {
        let at = shapes_after.iter().position(|other| other.name == shape.name);
        let other = at.map(|at| shapes_after.remove(at));
        match other {
            None => tables.only_before.push(shape),
            Some(other) => match Compared::of(shape.clone(), other.clone()) {
                Some(compared) => tables.common.push(compared),
                None => {
                    tables.only_before.push(shape);
                    tables.only_after.push(other);
                }
            },
        }
    }
    tables.only_after.extend(shapes_after);
    tables.virtual_tables.sort();
    tables.virtual_tables.dedup();
    Ok(tables)
}

fn shapes(session: &Session, only: Option<&str>, others: &mut Vec<String>) -> Result<Vec<TableShape>, SqliteError> {
    let sql =
        "SELECT name, rootpage > 0 FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
               AND (?1 IS NULL OR name = ?1 COLLATE NOCASE) ORDER BY name";
    let only = only.map_or(Value::Null, |name| Value::Text(name.as_bytes().to_owned()));
    let mut shapes = Vec::new();
    for row in session.rows(sql, &[only])? {
        let [Value::Text(name), Value::Integer(stored)] = row.as_slice() else { continue };
        let name = String::from_utf8_lossy(name).into_owned();
        match *stored {
            0 => others.push(name),
            _ => shapes.extend(TableShape::of(session.conn(), &name).map_err(|error| session.said(error))?),
        }
    }
    Ok(shapes)
}

fn encoding(session: &Session) -> Result<Encoding, SqliteError> {
    let name = session.rows("PRAGMA encoding", &[])?;
    Ok(match name.first().and_then(|row| row.first()) {
        Some(Value::Text(name)) => Encoding::named(&String::from_utf8_lossy(name)),
        _ => Encoding::Utf8,
    })
}

/// Compares a table, and tells `each` what is not the same, in the order of the keys.
pub fn compare_table(
    (before, after): (&Session, &Session),
    (compared, scope): (&Compared, &Scope),
    stop: &dyn Fn() -> Go,
    each: &mut dyn FnMut(Change) -> Go,
) -> Result<TableCounts, SqliteError> {
    let part = compared.part(scope);
    if part.as_ref().is_some_and(|part| part.is_empty) {
        return Ok(TableCounts::default());
    }
    let encoding = encoding(after)?;
    let (_a, _b) = (ffi::watch(before.conn(), OPS_PER_LOOK, stop), ffi::watch(after.conn(), OPS_PER_LOOK, stop));
    let mut left = before.cursor(&compared.select(&compared.before, part.as_ref()))?;
    let mut right = after.cursor(&compared.select(&compared.after, part.as_ref()))?;
    let width = compared.columns.len();
    let spans: Vec<&str> = part.iter().map(|part| part.spans.as_str()).collect();
    let spans = || rusqlite::params_from_iter(&spans);
    let mut left = Side { session: before, rows: left.query(spans()).map_err(|e| before.said(e))?, width, held: None };
    let mut right = Side { session: after, rows: right.query(spans()).map_err(|e| after.said(e))?, width, held: None };
    left.step()?;
    right.step()?;
    let key = compared.key_len();
    let key_of = |row: &Row| row.get(..key).unwrap_or_default().to_vec();
    let mut counts = TableCounts::default();
    let mut same_rows = 0;
    loop {
        let order = match (&left.held, &right.held) {
            (None, None) => return Ok(TableCounts { same: part.is_none().then_some(same_rows), ..counts }),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => compare(encoding, &key_of(a), &key_of(b)),
        };
        let change = match order {
            Ordering::Less => {
                counts.removed += 1;
                left.step()?.map(Change::Removed)
            }
            Ordering::Greater => {
                counts.added += 1;
                right.step()?.map(Change::Added)
            }
            Ordering::Equal => match (left.step()?, right.step()?) {
                (Some(a), Some(b)) if !same(&a, &b) => {
                    counts.changed += 1;
                    Some(Change::Changed { before: a, after: b })
                }
                _ => {
                    same_rows += 1;
                    None
                }
            },
        };
        if let Some(change) = change
            && each(change) == Go::Stop
        {
            return Ok(counts);
        }
    }
}

/// To the bit: 0.0 and -0.0 are two values, and so are 1 and 1.0.
fn same(a: &Row, b: &Row) -> bool {
    let one = |(a, b): (&Value, &Value)| match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(one)
}

/// One of two tables that are read side by side.
struct Side<'a> {
    session: &'a Session,
    rows: Rows<'a>,
    width: usize,
    held: Option<Row>,
}

impl Side<'_> {
    /// Gives the row that is held, and holds the next.
    fn step(&mut self) -> Result<Option<Row>, SqliteError> {
        let row = self.rows.next().map_err(|error| self.session.said(error))?;
        let values = row.map(|row| (0..self.width).map(|at| Ok(Value::of(row.get_ref(at)?))).collect());
        let next: Option<Row> = values.transpose().map_err(|error: rusqlite::Error| self.session.said(error))?;
        Ok(std::mem::replace(&mut self.held, next))
    }
}
