//! What a table is made of, as far as its rows can be told apart and written again.

use crate::lazy::quoted;
use rusqlite::{Connection, OptionalExtension};

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    pub name: String,
    /// Computed by SQLite: read, and never written.
    pub generated: bool,
}

/// What makes a row the same row at another moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// The columns of its primary key.
    Key(Vec<String>),
    /// Its rowid, by the name under which the table shows it.
    Rowid(&'static str),
}

impl Identity {
    /// The expressions that give it, in order.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Identity::Key(columns) => columns.iter().map(String::as_str).collect(),
            Identity::Rowid(name) => vec![name],
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.columns().into_iter().map(str::to_owned).collect()
    }

    /// Whether both tell the same rows apart, however their names are written.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let names = |this: &Self| this.columns().iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        std::mem::discriminant(self) == std::mem::discriminant(other) && names(self) == names(other)
    }

    /// `"a" = ?1 AND "b" = ?2`
    pub(super) fn condition(&self) -> String {
        let term = |(at, name): (usize, &str)| format!("{} = ?{}", quoted(name), at + 1);
        self.columns().into_iter().enumerate().map(term).collect::<Vec<_>>().join(" AND ")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TableShape {
    pub name: String,
    pub columns: Vec<Column>,
    pub identity: Identity,
    /// The statement that made it.
    pub sql: String,
}

impl TableShape {
    /// `None` when there is no such table, or it is none whose rows are stored in it.
    pub(crate) fn of(conn: &Connection, table: &str) -> rusqlite::Result<Option<Self>> {
        let found = conn
            .query_row(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND rootpage > 0",
                [table],
                |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)),
            )
            .optional()?;
        let Some((name, Some(sql))) = found else { return Ok(None) };
        let mut columns = Vec::new();
        let mut key: Vec<(i64, String)> = Vec::new();
        let mut statement = conn.prepare("SELECT name, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid")?;
        let mut rows = statement.query([&name])?;
        while let Some(row) = rows.next()? {
            let (column, pk, hidden): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if pk > 0 {
                key.push((pk, column.clone()));
            }
            columns.push(Column { name: column, generated: hidden >= 2 });
        }
        key.sort();
        let key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
        let identity = identity(conn, &name, &columns, key)?;
        Ok(Some(Self { name, columns, identity, sql }))
    }

    /// The columns that are stored, and can be written.
    pub fn stored(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| !column.generated).map(|column| column.name.as_str())
    }

    /// A name under which it shows the numbers of its rows; none where its columns have taken all of them.
    pub fn rowid(&self) -> Option<&'static str> {
        rowid(&self.columns)
    }

    pub fn has(&self, name: &str) -> bool {
        self.stored().any(|column| column.eq_ignore_ascii_case(name))
    }
}

fn rowid(columns: &[Column]) -> Option<&'static str> {
    let taken = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name))
}

fn identity(conn: &Connection, table: &str, columns: &[Column], key: Vec<String>) -> rusqlite::Result<Identity> {
    let rowid = rowid(columns);
    if !key.is_empty() {
        // A primary key may hold NULLs, for old times' sake, and then does not tell rows apart.
        let is_null: Vec<String> = key.iter().map(|name| format!("{} IS NULL", quoted(name))).collect();
        let sql = format!("SELECT 1 FROM {} WHERE {} LIMIT 1", quoted(table), is_null.join(" OR "));
        let of_key = Identity::Key(key);
        let is_rowid_table = rowid.is_some_and(|name| conn.prepare(&select(table, name)).is_ok());
        let has_null = is_rowid_table && conn.prepare(&sql)?.exists([])?;
        return Ok(if has_null { rowid.map_or(of_key, Identity::Rowid) } else { of_key });
    }
    let no_identity = || rusqlite::Error::InvalidColumnName(format!("the rowid of {table} is hidden by its columns"));
    rowid.map(Identity::Rowid).ok_or_else(no_identity)
}

fn select(table: &str, column: &str) -> String {
    format!("SELECT {} FROM {} LIMIT 0", column, quoted(table))
}
