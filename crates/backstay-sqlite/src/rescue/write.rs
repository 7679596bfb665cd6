//! The new database: tables first, then rows, then everything that rows would have to pass through.

use super::lost::{Bound, COLUMNS_MAX, Lost};
use super::report::RescueReport;
use super::schema::{Object, ObjectKind};
use super::table::{Key, Table};
use crate::error::{At, SqliteError};
use crate::ffi::{self, Go};
use backstay_format::sqlite::guess::Likeness;
use backstay_format::sqlite::record::Value;
use backstay_format::sqlite::walk::Row;
use backstay_format::sqlite::{AutoVacuum, TextEncoding};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, ToSql};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Rows between two commits: what a failed statement must be able to undo stays small.
const ROWS_PER_COMMIT: u64 = 50_000;
/// Steps of SQLite's machine that making an empty table may take: an honest one takes dozens.
const MAKE_OPS_MAX: i32 = 1_000_000;

pub struct NewDatabase {
    conn: Connection,
    path: PathBuf,
    encoding: TextEncoding,
    /// The name of the table for what belongs nowhere, once there is one, and its columns for values.
    lost: Option<(String, usize)>,
    pub lost_rows: u64,
    /// Values that are in rows with more of them than a table can have columns.
    pub cut_values: u64,
    sequences: Vec<(String, i64)>,
    uncommitted: u64,
}

pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl NewDatabase {
    pub fn create(path: &Path, likeness: &Likeness) -> Result<Self, SqliteError> {
        let conn = Connection::open(path).at("open", path)?;
        let new = Self {
            conn,
            path: path.to_owned(),
            encoding: likeness.encoding,
            lost: None,
            lost_rows: 0,
            cut_values: 0,
            sequences: Vec::new(),
            uncommitted: 0,
        };
        new.prepare(likeness).at("prepare", path)?;
        Ok(new)
    }

    fn prepare(&self, likeness: &Likeness) -> rusqlite::Result<()> {
        let conn = &self.conn;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        // Names that SQLite keeps for itself are made like any other.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
        let encoding = match likeness.encoding {
            TextEncoding::Utf8 => "UTF-8",
            TextEncoding::Utf16Le => "UTF-16le",
            TextEncoding::Utf16Be => "UTF-16be",
        };
        let vacuum = match likeness.auto_vacuum {
            AutoVacuum::None => 0,
            AutoVacuum::Full => 1,
            AutoVacuum::Incremental => 2,
        };
        conn.execute_batch(&format!(
            "PRAGMA page_size = {}; PRAGMA encoding = '{encoding}'; PRAGMA auto_vacuum = {vacuum};
             PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA ignore_check_constraints = ON;
             PRAGMA user_version = {}; PRAGMA application_id = {}; BEGIN",
            likeness.shape.size.get(),
            likeness.user_version.cast_signed(),
            likeness.application_id.cast_signed(),
        ))
    }

    /// Makes every table whose statement can still be run, SQLite's own first.
    pub fn make_tables(&mut self, objects: &[Object], report: &mut RescueReport) -> Result<Vec<Table>, SqliteError> {
        let mut made = Vec::new();
        let tables = || objects.iter().filter(|object| object.kind == ObjectKind::Table);
        let own = |object: &&Object| object.name.to_ascii_lowercase().starts_with("sqlite_");
        for object in tables().filter(own).chain(tables().filter(|object| !own(object))) {
            let found = self.make(object).and_then(|()| Table::of(&self.conn, &object.name, object.root));
            match found {
                Ok(table) => made.push(table),
                Err(error) => report.refuse(object, &self.only_its_own(error)?),
            }
        }
        Ok(made)
    }

    /// Runs one statement of a foreign schema: one that makes something, and nothing after it.
    fn make(&self, object: &Object) -> rusqlite::Result<()> {
        let Some(sql) = &object.sql else { return Ok(()) };
        let is_empty = object.kind == ObjectKind::Table;
        let asked = Cell::new(0);
        let _watched = ffi::watch(&self.conn, MAKE_OPS_MAX, || {
            asked.set(asked.get() + 1);
            if is_empty { Go::Stop } else { Go::On }
        });
        let mut statement = self.conn.prepare(sql)?;
        statement.raw_execute().map(|_| ())
    }

    /// The words of an error that lies in what was asked; one of the disk or the machine is ours.
    fn only_its_own(&self, error: rusqlite::Error) -> Result<String, SqliteError> {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::CannotOpen) => {
                Err(error).at("write", &self.path)
            }
            _ => Ok(error.to_string()),
        }
    }

    /// Whether the table took the row.
    pub fn insert(&mut self, table: &Table, row: &Row<'_>) -> Result<bool, SqliteError> {
        if table.name.eq_ignore_ascii_case("sqlite_sequence") {
            return Ok(self.note_sequence(row));
        }
        let (sql, said) = table.insert(row.values.len());
        let encoding = self.encoding;
        let value = |at: &usize| {
            let stored = table.columns.get(*at).and_then(|column| row.values.get(column.field?));
            match (&table.key, row.rowid) {
                (Key::Column(key), Some(rowid)) if key == at => Bound::AsStored(Value::Integer(rowid)),
                _ => Bound::of(stored.copied().unwrap_or(Value::Null), encoding),
            }
        };
        let mut values: Vec<Bound<'_>> = said.iter().map(value).collect();
        if matches!(table.key, Key::Rowid(_)) {
            values.push(Bound::AsStored(Value::Integer(row.rowid.unwrap_or_default())));
        }
        let taken = self.run(&sql, &values);
        match taken {
            Ok(taken) => Ok(taken > 0),
            Err(error) => self.only_its_own(error).map(|_| false),
        }
    }

    fn run(&mut self, sql: &str, values: &[Bound<'_>]) -> rusqlite::Result<usize> {
        let parameters: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
        let taken = self.conn.prepare_cached(sql)?.execute(parameters.as_slice())?;
        self.uncommitted += 1;
        if self.uncommitted.is_multiple_of(ROWS_PER_COMMIT) {
            self.conn.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(taken)
    }

    /// Counters of row numbers are put back last: filling the tables moves them.
    fn note_sequence(&mut self, row: &Row<'_>) -> bool {
        let [Value::Text(name), Value::Integer(last)] = row.values.as_slice() else { return false };
        self.sequences.push((super::lost::text_of(name, self.encoding), *last));
        true
    }

    /// Keeps a row that belongs nowhere.
    pub fn lose(&mut self, lost: Lost<'_>) -> Result<(), SqliteError> {
        let Lost { top, row, why } = lost;
        let wanted = row.values.len().min(COLUMNS_MAX);
        self.cut_values += (row.values.len() - wanted) as u64;
        let table = self.lost_table(wanted).at("write", &self.path)?;
        let id = row.rowid.map_or(Value::Null, Value::Integer);
        let mut values = vec![
            Bound::AsStored(Value::Integer(i64::from(top))),
            Bound::AsStored(Value::Integer(i64::from(row.page))),
            Bound::AsStored(Value::Integer(row.values.len() as i64)),
            Bound::AsStored(id),
            Bound::Text(why.word().to_owned()),
        ];
        values.extend(row.values.iter().take(wanted).map(|value| Bound::of(*value, self.encoding)));
        let mut names: Vec<String> = ["rootpgno", "pgno", "nfield", "id", "why"].map(str::to_owned).to_vec();
        names.extend((0..wanted).map(|at| format!("c{at}")));
        let marks = vec!["?"; names.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(&table), names.join(", "));
        match self.run(&sql, &values) {
            Ok(_) => self.lost_rows += 1,
            // A value too large for SQLite is the one thing that cannot be kept.
            Err(error) => self.cut_values += self.only_its_own(error).map(|_| 1)?,
        }
        Ok(())
    }

    /// The table for what belongs nowhere, with at least so many columns for values.
    fn lost_table(&mut self, columns: usize) -> rusqlite::Result<String> {
        let (name, has) = match self.lost.take() {
            Some(lost) => lost,
            None => {
                let name = self.free_name()?;
                let fixed = "rootpgno INTEGER, pgno INTEGER, nfield INTEGER, id INTEGER, why TEXT";
                self.conn.execute_batch(&format!("CREATE TABLE {} ({fixed})", quoted(&name)))?;
                (name, 0)
            }
        };
        for at in has..columns {
            self.conn.execute_batch(&format!("ALTER TABLE {} ADD COLUMN c{at}", quoted(&name)))?;
        }
        self.lost = Some((name.clone(), has.max(columns)));
        Ok(name)
    }

    pub fn lost_name(&self) -> Option<&str> {
        self.lost.as_ref().map(|(name, _)| name.as_str())
    }

    fn free_name(&self) -> rusqlite::Result<String> {
        let names = std::iter::once("lost_and_found".to_owned()).chain((0..).map(|n| format!("lost_and_found_{n}")));
        for name in names {
            let sql = "SELECT count(*) FROM sqlite_schema WHERE lower(name) = ?1";
            if self.conn.query_row(sql, [&name], |row| row.get::<_, i64>(0))? == 0 {
                return Ok(name);
            }
        }
        Ok(String::new())
    }

    /// Makes what is no table, and closes the file.
    pub fn finish(&mut self, objects: &[Object], report: &mut RescueReport) -> Result<(), SqliteError> {
        self.put_sequences_back().at("write", &self.path)?;
        self.conn.execute_batch("COMMIT").at("write", &self.path)?;
        for kind in [ObjectKind::Index, ObjectKind::View, ObjectKind::Trigger] {
            for object in objects.iter().filter(|object| object.kind == kind) {
                if let Err(error) = self.make(object) {
                    report.refuse(object, &self.only_its_own(error)?);
                }
            }
        }
        for object in objects.iter().filter(|object| object.kind == ObjectKind::VirtualTable) {
            // Said and not run: running it would make tables that are there already.
            let sql = "INSERT INTO sqlite_schema VALUES ('table', ?1, ?1, 0, ?2)";
            self.conn.execute(sql, (&object.name, &object.sql)).at("write", &self.path)?;
        }
        Ok(())
    }

    fn put_sequences_back(&self) -> rusqlite::Result<()> {
        for (name, last) in &self.sequences {
            let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
            if self.conn.execute(sql, (name, last))? == 0 {
                self.conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (name, last))?;
            }
        }
        Ok(())
    }
}
