//! The new database.

use super::facts::{has_rowid, is_rebuilt, select};
use super::value::Masker;
use crate::error::{At, SqliteError};
use crate::ffi::{self, Go};
use crate::lazy::{Session, Value, quoted};
use backstay_model::mask::{ColumnPlan, MaskPlan, Rule, TableFate, TablePlan, Why};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use std::path::Path;

/// Steps of SQLite's machine that making an empty table may take: an honest one takes dozens.
const MAKE_OPS_MAX: i32 = 1_000_000;
/// Steps between two looks at whether to stop.
const OPS_PER_LOOK: i32 = 10_000;
/// Rows between two looks.
const ROWS_PER_LOOK: u64 = 1024;

/// A masked copy to be made.
pub struct Masking<'a> {
    pub from: &'a Session,
    pub plan: &'a MaskPlan,
    pub masker: &'a Masker,
    /// A file without content.
    pub to: &'a Path,
    /// Whether it shall keep a write-ahead log, as what it is a copy of.
    pub wal: bool,
    pub stop: &'a dyn Fn() -> Go,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MaskReport {
    pub tables: Vec<TableReport>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TableReport {
    pub table: String,
    pub fate: TableFate,
    pub rows: u64,
    pub columns: Vec<ColumnReport>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ColumnReport {
    pub column: String,
    /// As a profile writes it.
    pub rule: String,
    pub why: Why,
    /// Values that were put in the place of others.
    pub masked: u64,
    /// Values that stayed as they were, NULL and nothing among them.
    pub kept: u64,
}

pub fn write(masking: &Masking<'_>) -> Result<MaskReport, SqliteError> {
    let conn = Connection::open(masking.to).at("open", masking.to)?;
    let schema = Schema::of(masking.from)?;
    let writer = Writer { masking, conn, schema };
    writer.prepare()?;
    writer.make_tables()?;
    let report = writer.fill()?;
    writer.finish()?;
    writer.conn.close().map_err(|(_, error)| error).at("close", masking.to)?;
    Ok(report)
}

/// The statements of the schema, in the order they were made.
struct Schema {
    /// Kind, name, statement, whether the table is virtual.
    objects: Vec<(String, String, String)>,
    likeness: Vec<(&'static str, String)>,
    analyzed: bool,
}

impl Schema {
    fn of(session: &Session) -> Result<Self, SqliteError> {
        Self::read(session.conn()).map_err(|error| session.said(error))
    }

    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        // Tables of a module's own are made by it.
        let sql = "SELECT s.type, s.name, s.sql FROM sqlite_schema s WHERE s.sql IS NOT NULL
                   AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND NOT EXISTS (SELECT 1 FROM pragma_table_list l
                     WHERE l.schema = 'main' AND l.name = s.name AND l.type = 'shadow') ORDER BY s.rowid";
        let mut statement = conn.prepare(sql)?;
        let objects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let objects = objects.collect::<rusqlite::Result<Vec<_>>>()?;
        let mut likeness = Vec::new();
        for name in ["page_size", "encoding", "auto_vacuum", "user_version", "application_id"] {
            let value = conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))?;
            likeness.push((
                name,
                match value {
                    rusqlite::types::Value::Integer(n) => n.to_string(),
                    rusqlite::types::Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
                    _ => continue,
                },
            ));
        }
        let analyzed = conn.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'")?.exists([])?;
        Ok(Self { objects, likeness, analyzed })
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&str, &str)> {
        let wanted = kind.to_owned();
        self.objects
            .iter()
            .filter(move |(kind, _, _)| *kind == wanted)
            .map(|(_, name, sql)| (name.as_str(), sql.as_str()))
    }

    fn virtual_sql(&self, table: &str) -> Option<&str> {
        let (_, sql) = self.of_kind("table").find(|(name, _)| *name == table)?;
        let third = sql.split_ascii_whitespace().nth(1)?;
        third.eq_ignore_ascii_case("VIRTUAL").then_some(sql)
    }
}

struct Writer<'a> {
    masking: &'a Masking<'a>,
    conn: Connection,
    schema: Schema,
}

impl Writer<'_> {
    /// Nothing is spilled beside the file, no journal is written, and the schema is trusted with nothing.
    fn prepare(&self) -> Result<(), SqliteError> {
        let conn = &self.conn;
        for (config, on) in [
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
        ] {
            conn.set_db_config(config, on).at("prepare", self.masking.to)?;
        }
        ffi::forbid_attaching(conn);
        let likeness: Vec<String> =
            self.schema.likeness.iter().map(|(name, value)| format!("PRAGMA {name} = {value};")).collect();
        let sql = format!(
            "{} PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; BEGIN",
            likeness.join(" ")
        );
        conn.execute_batch(&sql).at("prepare", self.masking.to)
    }

    fn make_tables(&self) -> Result<(), SqliteError> {
        let left_out: Vec<&str> = self.tables(TableFate::LeftOut).map(|table| table.name.as_str()).collect();
        for (name, sql) in self.schema.of_kind("table").filter(|(name, _)| !left_out.contains(name)) {
            self.make(name, sql, MAKE_OPS_MAX, &|| Go::Stop)?;
        }
        Ok(())
    }

    fn tables(&self, fate: TableFate) -> impl Iterator<Item = &TablePlan> {
        self.masking.plan.tables.iter().filter(move |table| table.fate == fate)
    }

    /// Runs one statement of a foreign schema: one that makes something, and nothing after it.
    fn make(&self, name: &str, sql: &str, ops: i32, stop: &dyn Fn() -> Go) -> Result<(), SqliteError> {
        let _watched = ffi::watch(&self.conn, ops, stop);
        let made = self.conn.prepare(sql).and_then(|mut statement| statement.raw_execute());
        self.fits(name, made).map(|_| ())
    }

    /// Tells what lies in the rows and the rules from what lies in the disk.
    fn fits<T>(&self, table: &str, done: rusqlite::Result<T>) -> Result<T, SqliteError> {
        let misfit = |code: i32, message: String| SqliteError::Masked { table: table.to_owned(), code, message };
        done.or_else(|error| match &error {
            rusqlite::Error::SqliteFailure(failure, message) => match failure.code {
                ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::Unknown => {
                    Err(misfit(failure.extended_code, message.clone().unwrap_or_else(|| failure.to_string())))
                }
                _ => Err(error).at("write", self.masking.to),
            },
            rusqlite::Error::SqlInputError { error, msg, .. } => Err(misfit(error.extended_code, msg.clone())),
            _ => Err(error).at("write", self.masking.to),
        })
    }

    fn fill(&self) -> Result<MaskReport, SqliteError> {
        let mut report = MaskReport { tables: Vec::new() };
        for table in &self.masking.plan.tables {
            let columns = table.columns.iter().map(|column| ColumnReport {
                column: column.name.clone(),
                rule: if column.why == Why::Generated { "generated".to_owned() } else { column.rule.to_string() },
                why: column.why.clone(),
                masked: 0,
                kept: 0,
            });
            let mut counted =
                TableReport { table: table.name.clone(), fate: table.fate, rows: 0, columns: columns.collect() };
            if table.fate == TableFate::Masked {
                self.copy(table, &mut counted)?;
            }
            report.tables.push(counted);
        }
        self.sequences()?;
        self.conn.execute_batch("COMMIT").at("write", self.masking.to)?;
        Ok(report)
    }

    fn copy(&self, table: &TablePlan, report: &mut TableReport) -> Result<(), SqliteError> {
        let from = self.masking.from;
        let written: Vec<(usize, &ColumnPlan)> =
            table.columns.iter().enumerate().filter(|(_, column)| column.why != Why::Generated).collect();
        let names: Vec<String> = written.iter().map(|(_, column)| column.name.clone()).collect();
        let rowid = self.rowid(table)?;
        let marks = vec!["?"; names.len() + usize::from(rowid.is_some())].join(", ");
        let listed = rowid.map(str::to_owned).into_iter().chain(names.iter().map(|name| quoted(name)));
        let listed = listed.collect::<Vec<_>>().join(", ");
        let insert = format!("INSERT INTO {} ({listed}) VALUES ({marks})", quoted(&table.name));
        let mut insert = self.fits(&table.name, self.conn.prepare(&insert))?;
        let mut statement = from.cursor(&select(&table.name, rowid, &names))?;
        let mut rows = statement.query([]).map_err(|error| from.said(error))?;
        while let Some(row) = rows.next().map_err(|error| from.said(error))? {
            let mut values = Vec::with_capacity(names.len() + 1);
            let value = |at: usize| row.get_ref(at).map(Value::of).map_err(|error| from.said(error));
            if rowid.is_some() {
                values.push(value(0)?);
            }
            for (place, (at, column)) in written.iter().enumerate() {
                let before = value(place + usize::from(rowid.is_some()))?;
                let is_kept = is_kept(column, &before);
                if let Some(counts) = report.columns.get_mut(*at) {
                    *(if is_kept { &mut counts.kept } else { &mut counts.masked }) += 1;
                }
                values.push(self.masking.masker.mask(column, before));
            }
            self.fits(&table.name, insert.execute(rusqlite::params_from_iter(&values)))?;
            report.rows += 1;
            if report.rows.is_multiple_of(ROWS_PER_LOOK) && (self.masking.stop)() == Go::Stop {
                return Err(SqliteError::Query {
                    code: rusqlite::ffi::SQLITE_INTERRUPT,
                    message: "interrupted".into(),
                });
            }
        }
        Ok(())
    }

    /// The name under which a table shows row numbers that are no column of its own.
    fn rowid(&self, table: &TablePlan) -> Result<Option<&'static str>, SqliteError> {
        let sql = self.schema.virtual_sql(&table.name);
        if let Some(sql) = sql {
            return Ok(has_rowid(sql).then_some("rowid"));
        }
        let is_key = "SELECT count(*), max(upper(type)) FROM pragma_table_xinfo(?1) WHERE pk > 0";
        let is_without = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1";
        let key = self
            .conn
            .query_row(is_key, [&table.name], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?)));
        let (parts, kind) = self.fits(&table.name, key)?;
        let without = self.conn.query_row(is_without, [&table.name], |row| row.get::<_, i64>(0));
        if self.fits(&table.name, without)? != 0 || (parts == 1 && kind.as_deref() == Some("INTEGER")) {
            return Ok(None);
        }
        let taken = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        Ok(["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name)))
    }

    /// Counters of row numbers go on where they were, or behind what was written.
    fn sequences(&self) -> Result<(), SqliteError> {
        let from = self.masking.from;
        let has = |conn: &Connection| {
            conn.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'")
                .and_then(|mut found| found.exists([]))
        };
        if !has(from.conn()).map_err(|error| from.said(error))? {
            return Ok(());
        }
        let mut statement = from.cursor("SELECT name, seq FROM sqlite_sequence")?;
        let mut rows = statement.query([]).map_err(|error| from.said(error))?;
        while let Some(row) = rows.next().map_err(|error| from.said(error))? {
            let found: rusqlite::Result<(String, i64)> = row.get(0).and_then(|name| Ok((name, row.get(1)?)));
            // What is no name and no number counts for nothing.
            let Ok((name, last)) = found else { continue };
            let is_kept = self.tables(TableFate::Masked).filter(|table| table.name == name).any(|table| {
                // Its own counter would tell the largest number there was.
                table.columns.iter().all(|column| !column.form.unique || column.rule == Rule::Keep)
            });
            if is_kept {
                self.put_sequence(&name, last).at("write", self.masking.to)?;
            }
        }
        Ok(())
    }

    fn put_sequence(&self, name: &str, last: i64) -> rusqlite::Result<()> {
        let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
        if self.conn.execute(sql, (name, last))? == 0 {
            self.conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (name, last))?;
        }
        Ok(())
    }

    /// What rows would have had to pass through.
    fn finish(&self) -> Result<(), SqliteError> {
        let stop = self.masking.stop;
        for kind in ["index", "view"] {
            for (name, sql) in self.schema.of_kind(kind) {
                self.make(name, sql, OPS_PER_LOOK, stop)?;
            }
        }
        for table in self.tables(TableFate::MadeAnew) {
            if self.schema.virtual_sql(&table.name).is_some_and(is_rebuilt) {
                let name = quoted(&table.name);
                let sql = format!("INSERT INTO {name}({name}) VALUES ('rebuild')");
                self.make(&table.name, &sql, OPS_PER_LOOK, stop)?;
            }
        }
        for (name, sql) in self.schema.of_kind("trigger") {
            self.make(name, sql, OPS_PER_LOOK, stop)?;
        }
        if self.schema.analyzed {
            self.make("sqlite_stat1", "ANALYZE", OPS_PER_LOOK, stop)?;
        }
        if self.masking.wal {
            let mode = self.conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).optional();
            mode.at("write", self.masking.to)?;
        }
        Ok(())
    }
}

/// Whether the value is the same afterwards.
fn is_kept(column: &ColumnPlan, value: &Value) -> bool {
    let is_nothing = match value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::Blob(blob) => blob.is_empty(),
        Value::Integer(_) | Value::Real(_) => false,
    };
    match column.rule {
        Rule::Keep => true,
        Rule::Null => *value == Value::Null,
        Rule::Fixed(_) => false,
        Rule::Hash { .. } | Rule::Fake(_) => is_nothing,
    }
}
