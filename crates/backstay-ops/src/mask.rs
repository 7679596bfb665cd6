//! Masked copies: a moment becomes a new database in which every value is what a profile says.
//!
//! The moment is read page by page from the repository and never written to a disk as it was. The new file is
//! written under a private name, asked by SQLite whether it is sound, and only then gets the name that was asked
//! for. A crash leaves a private file with masked rows, readable by its owner alone, which the next restore into that folder removes.

use crate::private::Private;
use crate::query::{Asker, Past};
use crate::{Env, Event, OpsError};
use backstay_model::mask::{self, MaskPlan, Profile, TableFacts};
use backstay_model::seams;
use backstay_sqlite::SqliteError;
use backstay_sqlite::lazy::{Go, Session, Value};
use backstay_sqlite::mask::{MaskReport, Masker, Masking};
use backstay_sqlite::question::{ForeignKeysAnswer, IntegrityAnswer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a database says whether it keeps a write-ahead log.
const WRITE_VERSION: usize = 18;
const WITH_LOG: u8 = 2;
/// Bytes of chance that stand for a key when nobody gave one.
const FRESH: usize = 32;

/// What a person asked for.
pub struct MaskRequest {
    pub profile: Profile,
    /// What makes two copies alike; without it each is another.
    pub secret: Option<Vec<u8>>,
    /// A file that must not exist yet.
    pub to: PathBuf,
}

/// What will be done, and what is needed to do it.
pub struct MaskPlanned {
    pub plan: MaskPlan,
    session: Session,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct MaskedCopy {
    pub to: PathBuf,
    #[serde(skip)]
    pub report: MaskReport,
    /// Whether another copy with the same key would be alike.
    pub keyed: bool,
    /// References that were broken before, by table, and still are.
    pub broken_before: BTreeMap<String, u64>,
    pub millis: u64,
}

/// The tables of a moment as a profile speaks of them. Blocks.
pub fn tables(past: &Past) -> Result<Vec<TableFacts>, OpsError> {
    Ok(backstay_sqlite::mask::table_facts(&past.session()?)?)
}

/// Decides, and writes nothing. Blocks.
pub fn plan(past: &Past, request: &MaskRequest) -> Result<MaskPlanned, OpsError> {
    let session = past.session()?;
    let tables = backstay_sqlite::mask::table_facts(&session)?;
    let plan = mask::decide(&request.profile, &tables)?;
    if request.to.symlink_metadata().is_ok() {
        return Err(OpsError::TargetExists { path: request.to.clone() });
    }
    Ok(MaskPlanned { plan, session })
}

/// Does what was planned. Blocks.
pub fn perform(
    env: &Env,
    (asker, past): (&Asker<'_>, &Past),
    planned: &MaskPlanned,
    request: &MaskRequest,
) -> Result<MaskedCopy, OpsError> {
    let began = env.clock.now();
    env.tell(Event::Began { source: past.facts.source.clone(), what: "masking", bytes: None });
    let new = Private::create(env, &request.to, past.facts.length)?;
    let report = fill(env, (asker, past), planned, (request, &new.path))?;
    let answers = new.question()?;
    match &answers.integrity {
        IntegrityAnswer::Ok => {}
        IntegrityAnswer::Problems { problems, .. } => {
            let problem = problems.first().cloned().unwrap_or_default();
            return Err(OpsError::Unsound { problem });
        }
        IntegrityAnswer::Inconclusive { reason } => return Err(OpsError::Unsound { problem: reason.clone() }),
    }
    let broken_before = references(&planned.session, &answers.foreign_keys)?;
    new.name(&request.to)?;
    env.tell(Event::Ended);
    Ok(MaskedCopy {
        to: request.to.clone(),
        report,
        keyed: request.secret.is_some(),
        broken_before,
        millis: env.clock.now().millis_since(began).max(0) as u64,
    })
}

fn fill(
    env: &Env,
    (asker, past): (&Asker<'_>, &Past),
    planned: &MaskPlanned,
    (request, to): (&MaskRequest, &Path),
) -> Result<MaskReport, OpsError> {
    let masker = match &request.secret {
        Some(secret) => Masker::new(secret),
        None => Masker::new(&seams::fresh::<FRESH>(env.random.as_ref())),
    };
    let masking = Masking {
        from: &planned.session,
        plan: &planned.plan,
        masker: &masker,
        to,
        wal: keeps_log(past)?,
        stop: &|| if asker.stop().is_over() { Go::Stop } else { Go::On },
    };
    backstay_sqlite::mask::write(&masking).map_err(|error| asker.stop().said(error))
}

/// Whether the database keeps a write-ahead log, from its first page.
fn keeps_log(past: &Past) -> Result<bool, OpsError> {
    let pages = past.pages();
    if pages.pages() == 0 {
        return Ok(false);
    }
    let mut first = vec![0; pages.page_size().get() as usize];
    pages.read(1, &mut first).map_err(|fault| SqliteError::Page { code: 0, fault })?;
    Ok(first.get(WRITE_VERSION) == Some(&WITH_LOG))
}

/// Broken references are let pass where they were broken before. Gives those, by table.
fn references(before: &Session, now: &ForeignKeysAnswer) -> Result<BTreeMap<String, u64>, OpsError> {
    let found = match now {
        ForeignKeysAnswer::Violations { tables, .. } => tables,
        ForeignKeysAnswer::Ok | ForeignKeysAnswer::NotAsked => return Ok(BTreeMap::new()),
        ForeignKeysAnswer::Inconclusive { reason } => return Err(OpsError::Unsound { problem: reason.clone() }),
    };
    let rows = before.rows("SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1", &[])?;
    let counted = rows.into_iter().filter_map(|row| match row.as_slice() {
        [Value::Text(table), Value::Integer(count)] => {
            Some((String::from_utf8_lossy(table).into_owned(), count.unsigned_abs()))
        }
        _ => None,
    });
    let counted: BTreeMap<String, u64> = counted.collect();
    let worse =
        |(table, count): (&String, &u64)| (counted.get(table).copied().unwrap_or(0) < *count).then(|| table.clone());
    let tables: Vec<String> = found.iter().filter_map(worse).collect();
    if tables.is_empty() { Ok(found.clone()) } else { Err(OpsError::MaskBreaks { tables }) }
}
