//! Asking: one statement, its rows one by one, until somebody says stop.

use super::source::PageSource;
use super::value::{Value, quoted};
use super::vfs::{self, Registered};
use crate::error::SqliteError;
use crate::ffi;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Statement};
use std::path::Path;
use std::sync::Arc;

pub use crate::ffi::Go;

/// Steps of SQLite's machine between two looks at whether to stop.
const OPS_PER_LOOK: i32 = 10_000;
/// SQLite's own cache of pages, in KiB, as its pragma wants it said.
const CACHE: i64 = -8192;

/// One row: its values in the order of the columns.
pub type Row = Vec<Value>;

/// What a statement gave besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub columns: Vec<String>,
    pub rows: u64,
    /// There were more rows, and whoever took them wanted no more.
    pub more: bool,
}

/// A connection to a database that is read page by page. Used by one thread at a time.
pub struct Session {
    conn: Connection,
    registered: Registered,
}

impl Session {
    pub fn open(source: Arc<dyn PageSource>) -> Result<Self, SqliteError> {
        crate::assert_engine()?;
        let registered = Registered::new(source).map_err(|code| plain(code, "cannot register the file system"))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags_and_vfs(registered.name(), flags, vfs::NAME);
        let conn = conn.map_err(|error| said(&registered, error))?;
        let session = Self { conn, registered };
        session.prepare().map_err(|error| session.said(error))?;
        Ok(session)
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        for (config, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
        ] {
            self.conn.set_db_config(config, on)?;
        }
        ffi::forbid_attaching(&self.conn);
        self.conn.pragma_update(None, "query_only", true)?;
        self.conn.pragma_update(None, "cache_size", CACHE)
    }

    /// Runs one statement that reads, and gives `each` its rows; `stop` is asked while SQLite works.
    pub fn ask(
        &self,
        sql: &str,
        values: &[Value],
        stop: &dyn Fn() -> Go,
        each: &mut dyn FnMut(&[String], Row) -> Go,
    ) -> Result<Asked, SqliteError> {
        self.registered.take_fault();
        let asked = self.asked(sql, values, stop, each);
        asked.map_err(|error| self.said(error))
    }

    fn asked(
        &self,
        sql: &str,
        values: &[Value],
        stop: &dyn Fn() -> Go,
        each: &mut dyn FnMut(&[String], Row) -> Go,
    ) -> rusqlite::Result<Asked> {
        let _watched = ffi::watch(&self.conn, OPS_PER_LOOK, stop);
        let mut statement = self.conn.prepare(sql)?;
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut asked = Asked { columns, rows: 0, more: false };
        let mut rows = statement.query(rusqlite::params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let values: rusqlite::Result<Row> =
                (0..asked.columns.len()).map(|at| Ok(Value::of(row.get_ref(at)?))).collect();
            if each(&asked.columns, values?) == Go::Stop {
                asked.more = true;
                break;
            }
            asked.rows += 1;
        }
        Ok(asked)
    }

    /// All rows of a statement; for what is known to be small.
    pub fn rows(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, SqliteError> {
        let mut rows = Vec::new();
        self.ask(sql, values, &|| Go::On, &mut |_, row| {
            rows.push(row);
            Go::On
        })?;
        Ok(rows)
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// A cursor over a statement, one row at a time.
    pub(crate) fn cursor(&self, sql: &str) -> Result<Statement<'_>, SqliteError> {
        self.registered.take_fault();
        self.conn.prepare(sql).map_err(|error| self.said(error))
    }

    /// The names of the tables, sorted.
    pub fn tables(&self) -> Result<Vec<String>, SqliteError> {
        let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')
                   AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
        Ok(self.rows(sql, &[])?.into_iter().filter_map(|row| text(row.into_iter().next()?)).collect())
    }

    /// The statements that make the schema, of one table or of all.
    pub fn schema(&self, table: Option<&str>) -> Result<Vec<String>, SqliteError> {
        let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND (?1 IS NULL OR tbl_name = ?1 COLLATE NOCASE)
                   ORDER BY CASE type WHEN 'table' THEN 0 ELSE 1 END, name";
        let table = table.map_or(Value::Null, |name| Value::Text(name.as_bytes().to_owned()));
        Ok(self.rows(sql, &[table])?.into_iter().filter_map(|row| text(row.into_iter().next()?)).collect())
    }

    /// How many rows a table has.
    pub fn count(&self, table: &str) -> Result<u64, SqliteError> {
        let rows = self.rows(&format!("SELECT count(*) FROM {}", quoted(table)), &[])?;
        match rows.first().and_then(|row| row.first()) {
            Some(Value::Integer(n)) => Ok(u64::try_from(*n).unwrap_or(0)),
            _ => Ok(0),
        }
    }

    /// What went wrong, with the reason of the page source where that is why.
    pub(crate) fn said(&self, error: rusqlite::Error) -> SqliteError {
        said(&self.registered, error)
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn said(registered: &Registered, error: rusqlite::Error) -> SqliteError {
    match (registered.take_fault(), error) {
        (Some(fault), rusqlite::Error::SqliteFailure(failure, _)) => {
            SqliteError::Page { code: failure.extended_code, fault }
        }
        (Some(fault), _) => SqliteError::Page { code: rusqlite::ffi::SQLITE_IOERR, fault },
        (None, rusqlite::Error::InvalidQuery) => SqliteError::NoQuestion,
        (None, rusqlite::Error::MultipleStatement) => {
            SqliteError::Query { code: 1, message: "more than one statement".into() }
        }
        (None, rusqlite::Error::SqliteFailure(failure, message)) => {
            SqliteError::Query { code: failure.extended_code, message: message.unwrap_or_else(|| failure.to_string()) }
        }
        (None, rusqlite::Error::SqlInputError { error, msg, .. }) => {
            SqliteError::Query { code: error.extended_code, message: msg }
        }
        (None, other) => SqliteError::Query { code: rusqlite::ffi::SQLITE_ERROR, message: other.to_string() },
    }
}

fn plain(code: i32, message: &str) -> SqliteError {
    SqliteError::Sqlite { op: "open", path: Path::new("a restore point").to_owned(), code, message: message.to_owned() }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.registered.name())
    }
}
