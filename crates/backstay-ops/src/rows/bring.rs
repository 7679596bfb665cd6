//! Rows of a moment into a living database, or into a file of statements.

use super::backwards::Backwards;
use crate::disk::{self, At, DiskFile};
use crate::query::{Asker, Past};
use crate::{Env, OpsError};
use backstay_model::Moment;
use backstay_sqlite::lazy::{Go, Session};
use backstay_sqlite::rows::{self, BringReport, BringRequest, Live, OnConflict, Preview, UndoSink};
use backstay_sqlite::{FileIdentity, SqliteError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of statements written at a time.
pub(super) const BATCH: usize = 256 << 10;

pub struct BackRequest {
    pub rows: BringRequest,
    pub live: PathBuf,
    /// The database under care: another one must have something in common with it.
    pub source: PathBuf,
    /// How long to wait for others to let go of it.
    pub busy: Duration,
}

/// What would be done, and what is needed to do it.
pub struct BackPlan {
    pub preview: Preview,
    session: Session,
    live: Live,
}

pub struct BackReport {
    pub report: BringReport,
    /// Statements that bring the former state back.
    pub undo: PathBuf,
}

/// Looks at both and writes nothing. Blocks.
pub fn look(asker: &Asker<'_>, past: &Past, request: &BackRequest) -> Result<BackPlan, OpsError> {
    let (session, live) = (past.session()?, Live::open(&request.live, request.busy)?);
    if !is_same_file(&request.live, &request.source) {
        rows::refuse_stranger(&session, &live)?;
    }
    let is_over = || if asker.stop().is_over() { Go::Stop } else { Go::On };
    let preview = rows::preview(&session, &live, &request.rows, &is_over).map_err(|error| asker.stop().said(error))?;
    if request.rows.on_conflict == OnConflict::Fail
        && let Some(sample) = preview.samples.iter().find(|sample| sample.kind == rows::SampleKind::Conflict)
    {
        let key = sample.key.iter().map(backstay_sqlite::lazy::Value::sql).collect::<Vec<_>>().join(", ");
        let why = "is there today and says something else";
        return Err(SqliteError::Conflict { table: preview.into.clone(), key, why }.into());
    }
    Ok(BackPlan { preview, session, live })
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let of = |path| FileIdentity::of_path(path).ok();
    of(one).is_some_and(|one| of(other) == Some(one))
}

/// Brings the rows, in one transaction. Blocks.
pub fn into_live(env: &Env, asker: &Asker<'_>, plan: &BackPlan, request: &BackRequest) -> Result<BackReport, OpsError> {
    let path = undo_name(&request.live, env.clock.now());
    let backwards = Backwards::new(env, path.with_extension("sql.part"));
    let mut undo = Undo { file: SqlFile::create(env, &path)?, backwards, env };
    let is_over = || if asker.stop().is_over() { Go::Stop } else { Go::On };
    let brought = rows::bring(&plan.session, &plan.live, &request.rows, &is_over, &mut undo);
    // Nothing was changed, so there is nothing to undo.
    let unchanged = |error| {
        let _ = env.disk.remove(&path);
        error
    };
    let report = brought.map_err(|error| unchanged(asker.stop().said(error)))?;
    match plan.live.commit() {
        Ok(()) => Ok(BackReport { report, undo: path }),
        Err(source) if source.leaves_doubt() => Err(OpsError::RowsUnsettled { undo: path, source }),
        Err(error) => Err(unchanged(error.into())),
    }
}

/// `shop.db.undo-20261121T111642Z.sql`
fn undo_name(live: &Path, now: Moment) -> PathBuf {
    let stamp: String = now.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut name = live.as_os_str().to_owned();
    name.push(format!(".undo-{stamp}.sql"));
    PathBuf::from(name)
}

/// Writes the rows as statements to a new file. Blocks. Gives how many there are.
pub fn to_sql(env: &Env, asker: &Asker<'_>, past: &Past, (rows, to): (&BringRequest, &Path)) -> Result<u64, OpsError> {
    if to.symlink_metadata().is_ok() {
        return Err(OpsError::TargetExists { path: to.to_owned() });
    }
    let session = past.session()?;
    let mut file = SqlFile::create(env, to)?;
    let written = statements(asker, &session, rows, &mut file);
    if written.is_err() {
        let _ = env.disk.remove(to);
    }
    let count = written?;
    file.finish().at("write", to)?;
    env.disk.sync_dir(disk::folder_of(to)).at("sync folder of", to)?;
    Ok(count)
}

fn statements(asker: &Asker<'_>, session: &Session, rows: &BringRequest, file: &mut SqlFile) -> Result<u64, OpsError> {
    file.begin("BEGIN;").at("write", &file.path)?;
    let verb = match rows.on_conflict {
        OnConflict::Fail => "INSERT",
        OnConflict::Skip => "INSERT OR IGNORE",
        OnConflict::Replace => "INSERT OR REPLACE",
    };
    let name = rows.rename.as_deref().unwrap_or(&rows.table);
    let is_over = || if asker.stop().is_over() { Go::Stop } else { Go::On };
    let mut failed = Ok(());
    let table = (rows.table.as_str(), name, rows.condition.as_deref());
    let count = backstay_sqlite::rows::export(session, table, verb, &is_over, &mut |sql| {
        failed = file.statement(sql);
        if failed.is_ok() { Go::On } else { Go::Stop }
    });
    let path = file.path.clone();
    failed.at("write", &path)?;
    let count = count.map_err(|error| asker.stop().said(error))?;
    count.ok_or_else(|| SqliteError::NoTable { table: rows.table.clone() }.into())
}

/// A file of statements in one transaction.
struct SqlFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    waiting: String,
    written: u64,
}

impl SqlFile {
    fn create(env: &Env, path: &Path) -> Result<Self, OpsError> {
        let file = env.disk.create(path, 0o600).at("create", path)?;
        Ok(Self { file, path: path.to_owned(), waiting: String::new(), written: 0 })
    }

    fn begin(&mut self, begin: &str) -> io::Result<()> {
        self.statement(super::BAIL)?;
        self.statement("PRAGMA foreign_keys=OFF;")?;
        self.statement(begin)
    }

    fn statement(&mut self, sql: &str) -> io::Result<()> {
        self.waiting.push_str(sql);
        self.waiting.push('\n');
        if self.waiting.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.written, self.waiting.as_bytes())?;
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.statement("COMMIT;")?;
        self.flush()?;
        self.file.sync()
    }
}

struct Undo<'a> {
    file: SqlFile,
    backwards: Backwards<'a>,
    env: &'a Env,
}

impl UndoSink for Undo<'_> {
    fn statement(&mut self, sql: &str) -> io::Result<()> {
        self.backwards.push(sql)
    }

    /// Durable before the commit, and under its name.
    fn finish(&mut self) -> io::Result<()> {
        self.file.begin("BEGIN IMMEDIATE;")?;
        self.backwards.each(&mut |sql| self.file.statement(sql))?;
        self.file.finish()?;
        self.env.disk.sync_dir(disk::folder_of(&self.file.path))
    }
}
