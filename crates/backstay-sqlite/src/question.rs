//! Questions to a restored database: is it whole, do its references hold, what is in it, and does it
//! answer as its owner expects.
//!
//! Owns the asking of a *private* file: one that nobody else has open. It is opened as immutable, so
//! nothing is locked and no file appears beside it. The schema is foreign: it runs with defensive mode
//! on and untrusted, and what it needs and this SQLite lacks (a module, a function, a collation) makes
//! an answer inconclusive and never an error of the whole. So does a disk that fails while it is asked:
//! that says nothing about the file.
//!
//! A hostile file may have a tree without an end. Everything is bounded by a limit of time and can be
//! cancelled, and what walks trees without checking them is asked of a file that passed its check.

use crate::error::{At, SqliteError};
use crate::facts::{FileIdentity, schema_digest};
use crate::ffi::{self, Go};
use crate::open::{immutable_flags, immutable_uri};
use crate::stopwatch::Stopwatch;
use backstay_model::{Clock, Digest, Kind, Kinded, Verdict};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const PROBLEMS_MAX: usize = 100;
const VIOLATIONS_MAX: u64 = 100_000;
const TABLES_MAX: usize = 1000;
const VALUE_CHARS_MAX: usize = 200;
/// Steps of SQLite's machine between two looks at the clock.
const OPS_PER_LOOK: i32 = 10_000;
/// Looks after the first problem was named: what else is wrong matters less with every one of them, and
/// a tree without an end would fill all the time there is.
const LOOKS_AFTER_PROBLEM: u64 = 1000;

/// How thoroughly pages are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// Also that indexes and tables agree.
    Full,
    Quick,
}

/// What broken references mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignKeys {
    /// They are a failure.
    Require,
    /// They are counted, and no failure: an application may never have enforced them.
    Report,
    Off,
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Questions {
    pub integrity: Integrity,
    pub foreign_keys: ForeignKeys,
    /// Each a query that must give a true value: the first column of the first row is a number other
    /// than 0, text other than "" and "0", or a blob with bytes. No row and NULL are false.
    pub smoke: Vec<String>,
    /// How long the whole may take, before it ends without an answer.
    pub limit: Duration,
}

impl Questions {
    /// Long enough to check a hundred gigabytes.
    pub const USUAL_LIMIT: Duration = Duration::from_mins(15);
}

/// What the asking depends on besides the file.
pub struct Asking<'a> {
    pub clock: &'a dyn Clock,
    /// Whether somebody wants it to stop.
    pub cancelled: &'a dyn Fn() -> bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum IntegrityAnswer {
    Ok,
    Problems {
        problems: Vec<String>,
        /// There were more than are listed.
        more: bool,
    },
    /// SQLite could not check, because something the schema needs is not here.
    Inconclusive {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum ForeignKeysAnswer {
    NotAsked,
    Ok,
    Violations {
        /// Per table.
        tables: BTreeMap<String, u64>,
        /// There were more than were counted.
        more: bool,
    },
    Inconclusive {
        reason: String,
    },
}

/// Whether the schema could be read as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum SchemaAnswer {
    Ok,
    Malformed {
        reason: String,
    },
    /// The disk failed, or time ran out.
    Inconclusive {
        reason: String,
    },
}

/// What a smoke query says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SmokeState {
    Passed,
    /// It gave no true value, or is no query for this database.
    Failed,
    /// The disk failed, or time ran out.
    Inconclusive,
    /// The database did not pass its check, so that an answer would mean nothing.
    NotAsked,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TableRows {
    pub table: String,
    /// `None` where the rows could not be counted.
    pub rows: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SmokeAnswer {
    pub query: String,
    /// The same as `state` in one word: true for `Passed` alone.
    pub passed: bool,
    pub state: SmokeState,
    /// The value it gave, shortened.
    pub value: Option<String>,
    pub error: Option<String>,
}

/// What the database answered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Answers {
    pub integrity: IntegrityAnswer,
    pub foreign_keys: ForeignKeysAnswer,
    /// Whether broken references are a failure.
    pub foreign_keys_required: bool,
    pub schema: SchemaAnswer,
    /// `None` when the schema cannot be read.
    pub schema_digest: Option<Digest>,
    pub tables: Vec<TableRows>,
    /// There are more tables than are listed.
    pub more_tables: bool,
    pub smoke: Vec<SmokeAnswer>,
}

impl Answers {
    /// The whole in one word.
    pub fn verdict(&self) -> Verdict {
        match (self.is_unsound() || self.is_answered_wrongly(), self.is_open()) {
            (true, _) => Verdict::Fail,
            (false, true) => Verdict::Inconclusive,
            (false, false) => Verdict::Pass,
        }
    }

    /// Whether SQLite found the file damaged.
    pub fn is_unsound(&self) -> bool {
        matches!(self.integrity, IntegrityAnswer::Problems { .. })
            || matches!(self.schema, SchemaAnswer::Malformed { .. })
    }

    /// Whether a sound file does not say what its owner expects.
    pub fn is_answered_wrongly(&self) -> bool {
        self.smoke.iter().any(|smoke| smoke.state == SmokeState::Failed)
            || self.foreign_keys_required && matches!(self.foreign_keys, ForeignKeysAnswer::Violations { .. })
    }

    fn is_open(&self) -> bool {
        matches!(self.integrity, IntegrityAnswer::Inconclusive { .. })
            || matches!(self.schema, SchemaAnswer::Inconclusive { .. })
            || self.smoke.iter().any(|smoke| matches!(smoke.state, SmokeState::Inconclusive | SmokeState::NotAsked))
            || self.foreign_keys_required && matches!(self.foreign_keys, ForeignKeysAnswer::Inconclusive { .. })
    }
}

/// Opens a private file so that nothing appears beside it.
fn open(path: &Path) -> Result<Connection, SqliteError> {
    let conn = Connection::open_with_flags(immutable_uri(path), immutable_flags()).at("open", path)?;
    for unwanted in [
        DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
        DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE,
        DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE,
    ] {
        conn.set_db_config(unwanted, false).at("prepare", path)?;
    }
    Ok(conn)
}

/// Asks the private file at `path`. An error means that it could not be asked; whatever is wrong with
/// its content is in the answers.
pub fn question(path: &Path, questions: &Questions, asking: &Asking<'_>) -> Result<Answers, SqliteError> {
    let path = std::fs::canonicalize(path).at("find", path)?;
    FileIdentity::of_path(&path)?;
    let watch = Stopwatch::begin(asking.clock);
    // On a connection of its own: it reads what a stricter one refuses, and SQLite remembers that.
    let (schema, schema_digest) = schema(&open(&path)?, &path, asking.clock);
    let conn = open(&path)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).at("prepare", &path)?;
    let looks_left = Cell::new(u64::MAX);
    let watched = ffi::watch(&conn, OPS_PER_LOOK, || {
        looks_left.set(looks_left.get().saturating_sub(1));
        let stop = looks_left.get() == 0 || (asking.cancelled)() || watch.is_past(questions.limit);
        if stop { Go::Stop } else { Go::On }
    });
    let integrity = match &schema {
        SchemaAnswer::Ok => integrity(&conn, questions.integrity, &looks_left),
        SchemaAnswer::Malformed { reason } => IntegrityAnswer::Problems { problems: vec![reason.clone()], more: true },
        SchemaAnswer::Inconclusive { reason } => IntegrityAnswer::Inconclusive { reason: reason.clone() },
    };
    let sound = integrity == IntegrityAnswer::Ok;
    let (tables, more_tables) = if sound { tables(&conn) } else { (Vec::new(), false) };
    let answers = Answers {
        foreign_keys: match questions.foreign_keys {
            ForeignKeys::Require | ForeignKeys::Report if sound => foreign_keys(&conn),
            _ => ForeignKeysAnswer::NotAsked,
        },
        integrity,
        foreign_keys_required: questions.foreign_keys == ForeignKeys::Require,
        schema,
        schema_digest,
        tables,
        more_tables,
        smoke: questions.smoke.iter().map(|query| if sound { smoke(&conn, query) } else { not_asked(query) }).collect(),
    };
    drop(watched);
    Ok(answers)
}

fn schema(conn: &Connection, path: &Path, clock: &dyn Clock) -> (SchemaAnswer, Option<Digest>) {
    match schema_digest(conn, path, clock) {
        Ok(digest) => (SchemaAnswer::Ok, Some(digest)),
        Err(error) => {
            let reason = error.to_string();
            match error.kind() {
                Kind::Corrupt => (SchemaAnswer::Malformed { reason }, None),
                _ => (SchemaAnswer::Inconclusive { reason }, None),
            }
        }
    }
}

/// Whether the failure says something about this machine or this moment, and nothing about the file.
fn is_local(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::OperationInterrupted
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied
        )
    )
}

/// Whether a line of the check tells of a page that could not be read rather than of one that is wrong:
/// `... error code=266` or `... error code 7`.
fn is_local_problem(problem: &str) -> bool {
    let codes = problem.split("error code").skip(1).filter_map(|rest| {
        let digits = rest.trim_start_matches(['=', ' ']).split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<i32>().ok()
    });
    let mut codes = codes.peekable();
    codes.peek().is_some()
        && codes.any(|code| !matches!(code & 0xff, rusqlite::ffi::SQLITE_CORRUPT | rusqlite::ffi::SQLITE_NOTADB))
}

/// Whether the failure says something about the file rather than about what this SQLite lacks.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn integrity(conn: &Connection, how: Integrity, looks_left: &Cell<u64>) -> IntegrityAnswer {
    let pragma = match how {
        Integrity::Full => "PRAGMA integrity_check(101)",
        Integrity::Quick => "PRAGMA quick_check(101)",
    };
    let mut problems = Vec::new();
    let failed = each_row(conn, pragma, |row| {
        let said = row.get::<_, String>(0)?;
        if said != "ok" {
            looks_left.set(looks_left.get().min(LOOKS_AFTER_PROBLEM));
        }
        problems.push(said);
        Ok(true)
    });
    if let Some(reason) = problems.iter().find(|problem| is_local_problem(problem)) {
        return IntegrityAnswer::Inconclusive { reason: reason.clone() };
    }
    let cut_short = looks_left.get() == 0 && !problems.is_empty();
    looks_left.set(u64::MAX);
    match failed {
        Err(error) if is_damage(&error) => problems.push(error.to_string()),
        Err(_) if cut_short => return shortened(problems, true),
        Err(error) => return IntegrityAnswer::Inconclusive { reason: error.to_string() },
        Ok(()) if problems.as_slice() == ["ok"] => return IntegrityAnswer::Ok,
        Ok(()) => {}
    }
    shortened(problems, false)
}

fn shortened(mut problems: Vec<String>, more: bool) -> IntegrityAnswer {
    let more = more || problems.len() > PROBLEMS_MAX;
    problems.truncate(PROBLEMS_MAX);
    IntegrityAnswer::Problems { problems, more }
}

fn foreign_keys(conn: &Connection) -> ForeignKeysAnswer {
    let mut tables: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = 0;
    let asked = each_row(conn, "PRAGMA foreign_key_check", |row| {
        let table: String = row.get(0)?;
        *tables.entry(table).or_default() += 1;
        count += 1;
        Ok(count < VIOLATIONS_MAX)
    });
    match asked {
        Err(error) => ForeignKeysAnswer::Inconclusive { reason: error.to_string() },
        Ok(()) if tables.is_empty() => ForeignKeysAnswer::Ok,
        Ok(()) => ForeignKeysAnswer::Violations { tables, more: count >= VIOLATIONS_MAX },
    }
}

/// Rows of every table that has pages of its own; virtual tables have none and are left alone.
fn tables(conn: &Connection) -> (Vec<TableRows>, bool) {
    const NAMES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0
                         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut names = Vec::new();
    let listed = each_row(conn, NAMES, |row| {
        names.push(row.get::<_, String>(0)?);
        Ok(names.len() <= TABLES_MAX)
    });
    let more = listed.is_err() || names.len() > TABLES_MAX;
    names.truncate(TABLES_MAX);
    let count = |table: String| {
        let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
        let rows = conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).ok().and_then(|n| u64::try_from(n).ok());
        TableRows { table, rows }
    };
    (names.into_iter().map(count).collect(), more)
}

fn smoke(conn: &Connection, query: &str) -> SmokeAnswer {
    let asked = conn.prepare(query).and_then(|mut statement| {
        // What gives no column, such as ATTACH, is no question.
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { return Ok((false, None)) };
        let value = row.get_ref(0)?;
        Ok((is_true(value), shown(value)))
    });
    let query = query.to_owned();
    match asked {
        Ok((passed, value)) => {
            let state = if passed { SmokeState::Passed } else { SmokeState::Failed };
            SmokeAnswer { query, passed, state, value, error: None }
        }
        Err(error) => {
            let state = if is_local(&error) { SmokeState::Inconclusive } else { SmokeState::Failed };
            SmokeAnswer { query, passed: false, state, value: None, error: Some(error.to_string()) }
        }
    }
}

fn not_asked(query: &str) -> SmokeAnswer {
    let error = Some("not asked, because the database did not pass its check".to_owned());
    SmokeAnswer { query: query.to_owned(), passed: false, state: SmokeState::NotAsked, value: None, error }
}

fn is_true(value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::Null => false,
        ValueRef::Integer(n) => n != 0,
        ValueRef::Real(x) => x != 0.0,
        ValueRef::Text(text) => !text.is_empty() && text != b"0",
        ValueRef::Blob(blob) => !blob.is_empty(),
    }
}

fn shown(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).chars().take(VALUE_CHARS_MAX).collect()),
        ValueRef::Blob(blob) => Some(format!("{} bytes", blob.len())),
    }
}

/// Runs `on` for each row until it says no.
fn each_row(
    conn: &Connection,
    sql: &str,
    mut on: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !on(row)? {
            break;
        }
    }
    Ok(())
}
