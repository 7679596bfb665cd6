//! Rows of the past into a living database.
//!
//! Owns one transaction on it. Rows that exist today and not in the past are left alone. Triggers do not fire
//! unless somebody asks for it, and references are not followed while rows are written: they are checked before
//! the commit, and what was whole before must be whole after. What would undo it is handed out before the commit,
//! a statement for each that is done; run in the opposite order they lead back. A crash before the commit leaves the database as it was.

use super::shape::{Identity, TableShape};
use super::sql;
use crate::error::{At, SqliteError};
use crate::ffi::{self, Go};
use crate::lazy::{Row, Session, Value, quoted};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rows that are shown of each kind.
const SAMPLES_MAX: usize = 5;
/// Broken references that are looked for, before it is said that there are many.
const VIOLATIONS_MAX: usize = 100_000;
const OPS_PER_LOOK: i32 = 10_000;

/// What to do with a row that is there today and says something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    Fail,
    /// Today's row stays.
    Skip,
    /// It becomes what it was.
    Replace,
}

#[derive(Debug, Clone)]
pub struct BringRequest {
    pub table: String,
    /// An expression over the columns of the past row.
    pub condition: Option<String>,
    /// Bring them into a table of this name, which must not exist.
    pub rename: Option<String>,
    pub on_conflict: OnConflict,
    pub fire_triggers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SampleKind {
    New,
    Conflict,
}

/// A row as an example: its identity, and for a conflict the columns that differ with their values of then and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub kind: SampleKind,
    pub key: Vec<Value>,
    pub differs: Vec<(String, Value, Value)>,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    pub table: String,
    pub into: String,
    /// The table is not there today and will be made.
    pub creates: bool,
    pub identity: Vec<String>,
    /// Rows are told apart by their rowid alone, which a VACUUM may give to another row.
    pub by_rowid: bool,
    pub rows: u64,
    pub new: u64,
    pub same: u64,
    pub conflicts: u64,
    pub samples: Vec<Sample>,
    /// Columns that came since: they keep what they hold, and new rows get their default.
    pub newer_columns: Vec<String>,
    /// Triggers of the table, which do not fire.
    pub triggers: Vec<String>,
    /// Indexes and triggers that are not made with a new table, because their names are taken.
    pub left_out: Vec<String>,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    Inserted,
    Replaced,
    Same,
    Skipped,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct BringReport {
    pub created: bool,
    pub inserted: u64,
    pub replaced: u64,
    pub same: u64,
    pub skipped: u64,
}

/// The living database.
pub struct Live {
    conn: Connection,
    path: PathBuf,
}

impl Live {
    pub fn open(path: &Path, busy: Duration) -> Result<Self, SqliteError> {
        crate::assert_engine()?;
        let path = std::fs::canonicalize(path).at("find", path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags).at("open", &path)?;
        conn.busy_timeout(busy).at("prepare", &path)?;
        conn.pragma_update(None, "foreign_keys", false).at("prepare", &path)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false).at("prepare", &path)?;
        Ok(Self { conn, path })
    }

    /// Makes what was brought the state everybody sees.
    pub fn commit(&self) -> Result<(), SqliteError> {
        let committed = self.at("commit to", self.conn.execute_batch("COMMIT"));
        if committed.is_err() {
            self.roll_back();
        }
        committed
    }

    fn roll_back(&self) {
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
    }

    fn at<T>(&self, op: &'static str, result: rusqlite::Result<T>) -> Result<T, SqliteError> {
        result.at(op, &self.path)
    }
}

/// Refuses a database that has nothing to do with the one of then: none of its tables. For one that is not the source's
/// own file.
pub fn refuse_stranger(past: &Session, live: &Live) -> Result<(), SqliteError> {
    let tables = past.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0", &[])?;
    let names = tables.into_iter().filter_map(|row| match row.into_iter().next() {
        Some(Value::Text(name)) => String::from_utf8(name).ok(),
        _ => None,
    });
    for name in names.filter(|name| !name.starts_with("sqlite_")) {
        if live.at("read", TableShape::of(&live.conn, &name))?.is_some() {
            return Ok(());
        }
    }
    Err(SqliteError::Stranger { path: live.path.clone() })
}

/// How the rows of the past meet those of today.
struct Meeting<'a> {
    past: &'a Session,
    live: &'a Live,
    shape: TableShape,
    /// Where they go.
    into: String,
    /// The living table; `None` until it is made.
    there: Option<TableShape>,
    /// First those of the identity, then the stored ones.
    columns: Vec<String>,
    keys: usize,
    select: String,
}

impl<'a> Meeting<'a> {
    fn of(past: &'a Session, live: &'a Live, request: &BringRequest) -> Result<Self, SqliteError> {
        let shape = TableShape::of(past.conn(), &request.table).map_err(|error| past.said(error))?;
        let shape = shape.ok_or_else(|| SqliteError::NoTable { table: request.table.clone() })?;
        let into = request.rename.clone().unwrap_or_else(|| shape.name.clone());
        let there = live.at("read", TableShape::of(&live.conn, &into))?;
        if there.is_some() && request.rename.is_some() {
            return Err(SqliteError::TableTaken { table: into });
        }
        if there.is_none() && name_is_taken(live, &into)? {
            return Err(SqliteError::TableTaken { table: into });
        }
        if let Some(there) = &there {
            let missing: Vec<String> = shape.stored().filter(|name| !there.has(name)).map(str::to_owned).collect();
            if !missing.is_empty() {
                return Err(SqliteError::TableDiffers { table: into, columns: missing });
            }
            if !there.identity.is_like(&shape.identity) {
                let (today, then) = (there.identity.columns().join(", "), shape.identity.columns().join(", "));
                return Err(SqliteError::KeyDiffers { table: into, today, then });
            }
        }
        let identity = shape.identity.names();
        let keys = identity.len();
        let columns: Vec<String> = identity.into_iter().chain(shape.stored().map(str::to_owned)).collect();
        let filter = request.condition.as_ref().map_or_else(String::new, |condition| format!(" WHERE ({condition})"));
        let select = format!("SELECT {} FROM {}{filter}", sql::list(&columns), quoted(&shape.name));
        Ok(Self { past, live, shape, into, there, columns, keys, select })
    }

    /// Runs over the rows of the past.
    fn each(
        &self,
        stop: &dyn Fn() -> Go,
        each: &mut dyn FnMut(&Row) -> Result<(), SqliteError>,
    ) -> Result<u64, SqliteError> {
        let mut failed = None;
        let asked = self.past.ask(&self.select, &[], stop, &mut |_, row| match each(&row) {
            Ok(()) => Go::On,
            Err(error) => {
                failed = Some(error);
                Go::Stop
            }
        })?;
        failed.map_or(Ok(asked.rows), Err)
    }

    /// Today's row of the same identity.
    fn today(&self, row: &Row) -> Result<Option<Row>, SqliteError> {
        let Some(there) = &self.there else { return Ok(None) };
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            sql::list(&self.columns),
            quoted(&there.name),
            self.shape.identity.condition()
        );
        let found = self.live.conn.prepare_cached(&sql).and_then(|mut statement| {
            let key = rusqlite::params_from_iter(row.get(..self.keys).unwrap_or_default());
            let values =
                |row: &rusqlite::Row<'_>| (0..self.columns.len()).map(|at| Ok(Value::of(row.get_ref(at)?))).collect();
            statement.query_row(key, values).optional()
        });
        self.live.at("read", found)
    }

    fn differs(&self, then: &Row, now: &Row) -> Vec<(String, Value, Value)> {
        let all = self.columns.iter().zip(then.iter().zip(now)).skip(self.keys);
        let differing = all.filter(|(_, (a, b))| a != b);
        differing.map(|(name, (a, b))| (name.clone(), a.clone(), b.clone())).collect()
    }

    fn newer_columns(&self) -> Vec<String> {
        let there = self.there.iter().flat_map(TableShape::stored);
        there.filter(|name| !self.shape.has(name)).map(str::to_owned).collect()
    }

    fn triggers(&self) -> Result<Vec<String>, SqliteError> {
        let sql =
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE ORDER BY name";
        let names = self.live.conn.prepare(sql).and_then(|mut statement| {
            let rows = statement.query_map([&self.into], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<String>>>()
        });
        self.live.at("read", names)
    }

    /// What belongs to a table that is made: the statement for itself under its new name, its indexes and
    /// triggers where it keeps its name, and the names of those that are left out.
    fn makers(&self) -> Result<(Vec<String>, Vec<String>), SqliteError> {
        if self.there.is_some() {
            return Ok((Vec::new(), Vec::new()));
        }
        let is_renamed = self.into != self.shape.name;
        let own = if is_renamed { self.renamed()? } else { self.shape.sql.clone() };
        let (mut make, mut left_out) = (vec![own], Vec::new());
        for item in super::schema::schema_of(self.past)? {
            let belongs =
                item.table.eq_ignore_ascii_case(&self.shape.name) && item.kind != "table" && item.kind != "view";
            match belongs {
                true if is_renamed || name_is_taken(self.live, &item.name)? => left_out.push(item.name),
                true => make.push(item.sql),
                false => {}
            }
        }
        Ok((make, left_out))
    }

    /// SQLite itself knows best where in a statement the name stands.
    fn renamed(&self) -> Result<String, SqliteError> {
        let made = Connection::open_in_memory().and_then(|scratch| {
            scratch.execute_batch(&self.shape.sql)?;
            scratch.execute_batch(&format!(
                "ALTER TABLE {} RENAME TO {}",
                quoted(&self.shape.name),
                quoted(&self.into)
            ))?;
            scratch.query_row("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1", [&self.into], |row| {
                row.get(0)
            })
        });
        made.map_err(|error| self.past.said(error))
    }
}

fn name_is_taken(live: &Live, name: &str) -> Result<bool, SqliteError> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    live.at("read", live.conn.prepare(sql).and_then(|mut statement| statement.exists([name])))
}

/// Looks at both and writes nothing.
pub fn preview(
    past: &Session,
    live: &Live,
    request: &BringRequest,
    stop: &dyn Fn() -> Go,
) -> Result<Preview, SqliteError> {
    live.at("read", live.conn.execute_batch("BEGIN"))?;
    let looked = looked(past, live, request, stop);
    live.at("read", live.conn.execute_batch("ROLLBACK"))?;
    looked
}

fn looked(past: &Session, live: &Live, request: &BringRequest, stop: &dyn Fn() -> Go) -> Result<Preview, SqliteError> {
    let meeting = Meeting::of(past, live, request)?;
    let (_, left_out) = meeting.makers()?;
    let triggers = if request.fire_triggers { Vec::new() } else { meeting.triggers()? };
    let mut preview = Preview {
        table: meeting.shape.name.clone(),
        into: meeting.into.clone(),
        creates: meeting.there.is_none(),
        identity: meeting.shape.identity.names(),
        by_rowid: meeting.there.is_some() && matches!(meeting.shape.identity, Identity::Rowid(_)),
        rows: 0,
        new: 0,
        same: 0,
        conflicts: 0,
        samples: Vec::new(),
        newer_columns: meeting.newer_columns(),
        triggers,
        left_out,
    };
    let rows = meeting.each(stop, &mut |row| {
        let key = row.get(..meeting.keys).unwrap_or_default().to_vec();
        let (kind, differs) = match meeting.today(row)? {
            None => (SampleKind::New, Vec::new()),
            Some(now) => (SampleKind::Conflict, meeting.differs(row, &now)),
        };
        let count = match kind {
            SampleKind::New => &mut preview.new,
            SampleKind::Conflict if differs.is_empty() => &mut preview.same,
            SampleKind::Conflict => &mut preview.conflicts,
        };
        *count += 1;
        let is_shown = kind == SampleKind::New || !differs.is_empty();
        if is_shown && preview.samples.iter().filter(|sample| sample.kind == kind).count() < SAMPLES_MAX {
            preview.samples.push(Sample { kind, key, differs });
        }
        Ok(())
    })?;
    preview.rows = rows;
    Ok(preview)
}

/// Takes the statements that undo it, and is told when all are there: they must be durable then. Each undoes the next
/// step; they are to be run in the opposite order, the last one first.
pub trait UndoSink {
    fn statement(&mut self, sql: &str) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

/// Does it, in one transaction, which is left open for [`Live::commit`]. An error leaves everything as it was.
pub fn bring(
    past: &Session,
    live: &Live,
    request: &BringRequest,
    stop: &dyn Fn() -> Go,
    undo: &mut dyn UndoSink,
) -> Result<BringReport, SqliteError> {
    let fire = live.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, request.fire_triggers);
    live.at("prepare", fire)?;
    let begun = live.at("write", live.conn.execute_batch("BEGIN IMMEDIATE"));
    begun?;
    let outcome = brought(past, live, request, stop, undo);
    if outcome.is_err() {
        live.roll_back();
    }
    outcome
}

fn brought(
    past: &Session,
    live: &Live,
    request: &BringRequest,
    stop: &dyn Fn() -> Go,
    undo: &mut dyn UndoSink,
) -> Result<BringReport, SqliteError> {
    let mut meeting = Meeting::of(past, live, request)?;
    let _watched = ffi::watch(&live.conn, OPS_PER_LOOK, stop);
    let before = violations(live, &meeting.into)?;
    let mut report = BringReport::default();
    let told = |error: io::Error| SqliteError::Undo { source: error };
    let (make, _) = meeting.makers()?;
    // While it is undone no trigger is there.
    let triggers = meeting.trigger_items()?;
    for trigger in &triggers {
        undo.statement(&trigger.create_sql()).map_err(told)?;
    }
    // Indexes and triggers follow the rows.
    if let Some((table, _)) = make.split_first() {
        live.at("write", live.conn.execute_batch(table))?;
        undo.statement(&format!("DROP TABLE {};", quoted(&meeting.into))).map_err(told)?;
        report.created = true;
        meeting.there = live.at("read", TableShape::of(&live.conn, &meeting.into))?;
    }
    let writer = Writer { meeting: &meeting, request };
    meeting.each(stop, &mut |row| {
        let count = match writer.write(row, report.created, undo)? {
            Brought::Inserted => &mut report.inserted,
            Brought::Replaced => &mut report.replaced,
            Brought::Same => &mut report.same,
            Brought::Skipped => &mut report.skipped,
        };
        *count += 1;
        Ok(())
    })?;
    for sql in make.iter().skip(1) {
        live.at("write", live.conn.execute_batch(sql))?;
    }
    for trigger in &triggers {
        undo.statement(&trigger.drop_sql()).map_err(told)?;
    }
    let after = violations(live, &meeting.into)?;
    let broken: BTreeMap<String, usize> =
        after.into_iter().filter(|(table, count)| before.get(table).copied().unwrap_or(0) < *count).collect();
    if !broken.is_empty() {
        return Err(SqliteError::References { tables: broken.into_keys().collect() });
    }
    undo.finish().map_err(told)?;
    Ok(report)
}

impl Meeting<'_> {
    fn trigger_items(&self) -> Result<Vec<super::schema::SchemaItem>, SqliteError> {
        let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema
                   WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE ORDER BY name";
        let items = self.live.conn.prepare(sql).and_then(|mut statement| {
            let item = |row: &rusqlite::Row<'_>| {
                let (kind, name, table, sql) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                Ok(super::schema::SchemaItem { kind, name, table, sql })
            };
            statement.query_map([&self.into], item)?.collect()
        });
        self.live.at("read", items)
    }
}

struct Writer<'a> {
    meeting: &'a Meeting<'a>,
    request: &'a BringRequest,
}

impl Writer<'_> {
    fn write(&self, row: &Row, created: bool, undo: &mut dyn UndoSink) -> Result<Brought, SqliteError> {
        let meeting = self.meeting;
        let now = if created { None } else { meeting.today(row)? };
        let key = row.get(..meeting.keys).unwrap_or_default();
        let Some(now) = now else {
            if !self.insert(row)? {
                return Ok(Brought::Skipped);
            }
            if !created {
                let sql = sql::delete(&meeting.into, &meeting.shape.identity, key);
                undo.statement(&sql).map_err(|source| SqliteError::Undo { source })?;
            }
            return Ok(Brought::Inserted);
        };
        let differs = meeting.differs(row, &now);
        if differs.is_empty() {
            return Ok(Brought::Same);
        }
        match self.request.on_conflict {
            OnConflict::Skip => Ok(Brought::Skipped),
            OnConflict::Fail => Err(self.conflict(key, "is there today and says something else")),
            OnConflict::Replace => {
                // Its key may differ too, in a way the column's collation does not see.
                let old: Vec<(String, Value)> =
                    differs.iter().map(|(name, _, now)| (name.clone(), now.clone())).collect();
                let sql = sql::update(&meeting.into, &meeting.shape.identity, key, &old);
                undo.statement(&sql).map_err(|source| SqliteError::Undo { source })?;
                self.update(row, &differs)?;
                Ok(Brought::Replaced)
            }
        }
    }

    fn conflict(&self, key: &[Value], why: &'static str) -> SqliteError {
        let key = key.iter().map(Value::sql).collect::<Vec<_>>().join(", ");
        SqliteError::Conflict { table: self.meeting.into.clone(), key, why }
    }

    /// Says whether the row is there now; a unique value that another row has is a conflict as well, whatever the
    /// table itself would do about it.
    fn insert(&self, row: &Row) -> Result<bool, SqliteError> {
        let meeting = self.meeting;
        let from = match meeting.shape.identity {
            Identity::Rowid(_) => 0,
            Identity::Key(_) => meeting.keys,
        };
        let columns = meeting.columns.get(from..).unwrap_or_default();
        let marks: Vec<String> = (1..=columns.len()).map(|at| format!("?{at}")).collect();
        let sql = format!(
            "INSERT OR ABORT INTO {}({}) VALUES ({})",
            quoted(&meeting.into),
            sql::list(columns),
            marks.join(", ")
        );
        let values = row.get(from..).unwrap_or_default();
        let done = self.execute(&sql, values);
        if self.request.on_conflict == OnConflict::Skip && done.as_ref().is_err_and(is_unique) {
            return Ok(false);
        }
        self.one(row, done).map(|()| true)
    }

    fn update(&self, row: &Row, differs: &[(String, Value, Value)]) -> Result<(), SqliteError> {
        let meeting = self.meeting;
        let set = differs
            .iter()
            .enumerate()
            .map(|(at, (name, _, _))| format!("{} = ?{}", quoted(name), meeting.keys + at + 1));
        let sql = format!(
            "UPDATE OR ABORT {} SET {} WHERE {}",
            quoted(&meeting.into),
            set.collect::<Vec<_>>().join(", "),
            meeting.shape.identity.condition()
        );
        let key = row.get(..meeting.keys).unwrap_or_default();
        let values: Vec<&Value> = key.iter().chain(differs.iter().map(|(_, then, _)| then)).collect();
        self.one(row, self.execute(&sql, values))
    }

    fn execute<'v>(&self, sql: &str, values: impl IntoIterator<Item = &'v Value>) -> rusqlite::Result<usize> {
        let mut statement = self.meeting.live.conn.prepare_cached(sql)?;
        statement.execute(rusqlite::params_from_iter(values))
    }

    /// What is written for a row changes this row and no other, or nothing is done at all.
    fn one(&self, row: &Row, done: rusqlite::Result<usize>) -> Result<(), SqliteError> {
        let key = row.get(..self.meeting.keys).unwrap_or_default();
        match done {
            Ok(1) => Ok(()),
            Ok(_) => Err(self.conflict(key, "would not be written as one row")),
            Err(error) if is_unique(&error) => Err(self.conflict(key, "has a unique value that another row has today")),
            Err(error) => self.meeting.live.at("write", Err(error)),
        }
    }
}

fn is_unique(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    let unique = [ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID];
    error.sqlite_error().is_some_and(|failure| unique.contains(&failure.extended_code))
}

/// Broken references from and to a table, by the table they are in.
fn violations(live: &Live, table: &str) -> Result<BTreeMap<String, usize>, SqliteError> {
    let sql = "SELECT DISTINCT m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
               WHERE m.type = 'table' AND (f.\"table\" = ?1 COLLATE NOCASE OR m.name = ?1 COLLATE NOCASE)";
    let tables = live.conn.prepare(sql).and_then(|mut statement| {
        let rows = statement.query_map([table], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<Vec<String>>>()
    });
    let mut found = BTreeMap::new();
    for name in live.at("read", tables)? {
        let sql = format!("SELECT count(*) FROM (SELECT 1 FROM pragma_foreign_key_check(?1) LIMIT {VIOLATIONS_MAX})");
        let count = live.at("read", live.conn.query_row(&sql, [&name], |row| row.get::<_, i64>(0)))?;
        found.insert(name, usize::try_from(count).unwrap_or(usize::MAX));
    }
    Ok(found)
}
