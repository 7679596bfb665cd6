//! A table that is filled again: which value of a record is which column of it.

use super::lost::{Lost, Why};
use super::report::TableRescue;
use super::write::{NewDatabase, quoted};
use crate::error::SqliteError;
use backstay_format::sqlite::btree::TreeKind;
use backstay_format::sqlite::record::Value;
use backstay_format::sqlite::walk::{Met, Row, RowState};
use rusqlite::Connection;

/// What a row is kept under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A number that no column has; this name reaches it.
    Rowid(&'static str),
    /// A number that is this column.
    Column(usize),
    /// A number that nothing reaches, because columns have all of its names.
    Hidden,
    /// Its own values.
    Without,
}

pub struct Column {
    pub name: String,
    /// Where in the record it stands; `None` for what is not stored.
    pub field: Option<usize>,
    /// Whether it is computed, and may not be said.
    pub is_generated: bool,
    /// Whether SQLite would have turned a number into text.
    pub is_text: bool,
}

/// A table of the new database, and where its rows are in the old one.
pub struct Table {
    pub name: String,
    pub root: u32,
    pub key: Key,
    pub columns: Vec<Column>,
    /// Values a record of it has when no column was added later.
    pub stored: usize,
}

impl Table {
    /// Asks the new database about a table it has just made.
    pub fn of(conn: &Connection, name: &str, root: u32) -> rusqlite::Result<Self> {
        let mut columns = Vec::new();
        let mut keys = Vec::new();
        let mut rows = conn.prepare("SELECT name, upper(type), pk, hidden FROM pragma_table_xinfo(?1)")?;
        let mut rows = rows.query([name])?;
        let mut field = 0..;
        while let Some(row) = rows.next()? {
            let (kind, key, hidden): (String, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
            if key > 0 {
                keys.push((columns.len(), kind == "INTEGER"));
            }
            columns.push(Column {
                name: row.get(0)?,
                field: if hidden == 2 { None } else { field.next() },
                is_generated: matches!(hidden, 2 | 3),
                is_text: !kind.contains("INT") && ["CHAR", "CLOB", "TEXT"].iter().any(|word| kind.contains(word)),
            });
        }
        let mut table = Self { name: name.to_owned(), root, key: Key::Hidden, stored: 0, columns };
        table.key = table.key(conn, &keys)?;
        table.stored = table.columns.iter().filter(|column| column.field.is_some()).count();
        Ok(table)
    }

    fn key(&mut self, conn: &Connection, keys: &[(usize, bool)]) -> rusqlite::Result<Key> {
        let without: bool = conn.query_row(
            "SELECT max(wr) FROM pragma_table_list WHERE schema = 'main' AND name = ?1",
            [&self.name],
            |row| row.get(0),
        )?;
        let index: Option<String> =
            conn.query_row("SELECT max(name) FROM pragma_index_list(?1) WHERE origin = 'pk'", [&self.name], |row| {
                row.get(0)
            })?;
        match (without, index, keys) {
            (true, Some(index), _) => {
                self.order_by(conn, &index)?;
                Ok(Key::Without)
            }
            // The only key that needs no index is the row number itself.
            (false, None, [(column, true)]) => Ok(Key::Column(*column)),
            _ => {
                let is_free = |name: &&str| !self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
                Ok(["rowid", "_rowid_", "oid"].into_iter().find(is_free).map_or(Key::Hidden, Key::Rowid))
            }
        }
    }

    /// A record of a table without row numbers begins with its key.
    fn order_by(&mut self, conn: &Connection, index: &str) -> rusqlite::Result<()> {
        let mut rows = conn.prepare("SELECT seqno, cid FROM pragma_index_xinfo(?1)")?;
        let mut rows = rows.query([index])?;
        while let Some(row) = rows.next()? {
            let (field, column): (i64, i64) = (row.get(0)?, row.get(1)?);
            if let Some(column) = usize::try_from(column).ok().and_then(|at| self.columns.get_mut(at)) {
                column.field = usize::try_from(field).ok();
            }
        }
        Ok(())
    }

    pub fn kind(&self) -> TreeKind {
        if self.key == Key::Without { TreeKind::Index } else { TreeKind::Table }
    }

    /// Whether this can be a row of the table, as far as numbers and kinds of values tell. Fewer values
    /// than columns are in order: columns that were added later are in no older row.
    pub fn fits(&self, row: &Row<'_>) -> bool {
        let of = |column: &Column| column.field.and_then(|field| row.values.get(field));
        let is_number = |value: &Value<'_>| matches!(value, Value::Integer(_) | Value::Real(_));
        row.rowid.is_some() == (self.kind() == TreeKind::Table)
            && row.values.len() <= self.stored
            && !self.columns.iter().any(|column| column.is_text && of(column).is_some_and(is_number))
    }

    /// The statement for a record of so many values, and the columns it names.
    pub fn insert(&self, values: usize) -> (String, Vec<usize>) {
        let is_said = |column: &Column| !column.is_generated && column.field.is_some_and(|field| field < values);
        let said: Vec<usize> =
            (0..self.columns.len()).filter(|at| self.columns.get(*at).is_some_and(is_said)).collect();
        let mut names: Vec<String> =
            said.iter().filter_map(|at| self.columns.get(*at)).map(|column| quoted(&column.name)).collect();
        if let Key::Rowid(name) = self.key {
            names.push(name.to_owned());
        }
        let marks = vec!["?"; names.len()].join(", ");
        (format!("INSERT OR IGNORE INTO {} ({}) VALUES ({marks})", quoted(&self.name), names.join(", ")), said)
    }
}

/// Rows on their way into one table.
pub struct Filling<'a> {
    new: &'a mut NewDatabase,
    table: &'a Table,
    saved: u64,
    displaced: u64,
    lost: u64,
}

impl<'a> Filling<'a> {
    pub fn begin(new: &'a mut NewDatabase, table: &'a Table) -> Self {
        Self { new, table, saved: 0, displaced: 0, lost: 0 }
    }

    pub fn row(&mut self, row: &Row<'_>) -> Result<(), SqliteError> {
        let why = match row.state {
            RowState::Torn => Some(Why::Torn),
            _ if !self.table.fits(row) => Some(Why::Foreign),
            _ if !self.new.insert(self.table, row)? => Some(Why::Refused),
            _ => None,
        };
        match why {
            None => {
                self.saved += 1;
                self.displaced += u64::from(row.state == RowState::Displaced);
            }
            Some(why) => {
                self.lost += 1;
                self.new.lose(Lost { top: self.table.root, row, why })?;
            }
        }
        Ok(())
    }

    pub fn finish(self, met: &Met) -> TableRescue {
        TableRescue::of(&self.table.name, met, [self.saved, self.displaced, self.lost])
    }
}
