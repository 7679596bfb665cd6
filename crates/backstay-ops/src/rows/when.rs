//! When an answer changed, found by halving.
//!
//! Where both ends of a stretch give one answer, nothing is taken to have happened between them; a change that was
//! undone within is found only by looking at every point. Each point that is looked at is opened and asked once.

use super::points::{PointAt, Walk, points};
use crate::catalog::Vault;
use crate::query::{Asker, Stop};
use crate::{OpsError, env};
use backstay_model::{Moment, SourceName};
use backstay_sqlite::SqliteError;
use backstay_sqlite::lazy::{Go, Row, Value};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShiftKind {
    /// The answer became another.
    Changes,
    /// The number became smaller.
    Drops,
}

pub struct WhenRequest {
    pub source: SourceName,
    pub sql: String,
    pub kind: ShiftKind,
    pub since: Option<Moment>,
    /// Look at every point, and not only where the ends of a stretch differ.
    pub every: bool,
}

/// A point and what was answered there; no answer where the table did not exist, for example.
#[derive(Debug, Clone)]
pub struct Looked {
    pub point: PointAt,
    pub answer: Result<Row, String>,
}

/// The answer before, and the one right after it.
#[derive(Debug, Clone)]
pub struct Shift {
    pub before: Looked,
    pub after: Looked,
}

#[derive(Debug, Clone)]
pub struct When {
    pub shifts: Vec<Shift>,
    pub first: Looked,
    pub last: Looked,
    /// Points there are, and points that were asked.
    pub points: usize,
    pub asked: usize,
}

pub async fn when(vault: &Vault, asker: &Asker<'_>, request: &WhenRequest) -> Result<When, OpsError> {
    let walk = Walk::new(asker, points(vault, &request.source, request.since).await?);
    let end = walk.points.list.len().saturating_sub(1);
    let mut search = Search { asker, request, walk, seen: BTreeMap::new() };
    let mut shifts = Vec::new();
    if request.every {
        for at in 0..=end {
            search.look(at).await?;
        }
    }
    let (first, last) = (search.look(0).await?, search.look(end).await?);
    let mut stretches = vec![(0, end)];
    while let Some((from, to)) = stretches.pop() {
        let (before, after) = (search.look(from).await?, search.look(to).await?);
        let is_shift = request.kind.is_between(&before, &after);
        if to <= from || !is_shift && !is_unknown(&before, &after) && !request.every {
            continue;
        }
        if to == from + 1 {
            if is_shift {
                shifts.push(Shift { before, after });
            }
            continue;
        }
        let middle = from + (to - from) / 2;
        // The earlier half is looked at first.
        stretches.extend([(middle, to), (from, middle)]);
    }
    Ok(When { shifts, first, last, points: search.walk.points.list.len(), asked: search.seen.len() })
}

impl ShiftKind {
    fn is_between(self, before: &Looked, after: &Looked) -> bool {
        match self {
            ShiftKind::Changes => before.answer != after.answer,
            ShiftKind::Drops => match (number(&before.answer), number(&after.answer)) {
                (Some(before), Some(after)) => after < before,
                (Some(_), None) => true,
                _ => false,
            },
        }
    }
}

/// Where there was no answer before, the first that came after may have been larger than the last.
fn is_unknown(before: &Looked, after: &Looked) -> bool {
    before.answer.is_err() && after.answer.is_ok()
}

fn number(answer: &Result<Row, String>) -> Option<f64> {
    match answer.as_ref().ok()?.first()? {
        Value::Integer(n) => Some(*n as f64),
        Value::Real(x) => Some(*x),
        _ => None,
    }
}

struct Search<'a, 'v> {
    asker: &'a Asker<'v>,
    request: &'a WhenRequest,
    walk: Walk<'a, 'v>,
    seen: BTreeMap<usize, Looked>,
}

impl Search<'_, '_> {
    async fn look(&mut self, at: usize) -> Result<Looked, OpsError> {
        if let Some(looked) = self.seen.get(&at) {
            return Ok(looked.clone());
        }
        let point = self.walk.points.list.get(at).cloned().ok_or(backstay_model::catalog::NoPoint::Empty)?;
        let past = self.walk.open(at).await?;
        let answer = env::blocking(|| answer(&past.session()?, &self.request.sql, self.asker.stop()))?;
        let point = PointAt { at: past.facts.at(), ..point };
        let looked = Looked { point, answer };
        self.seen.insert(at, looked.clone());
        Ok(looked)
    }
}

/// The first row. A question that this state cannot be asked, because its table is not there yet, has no answer.
fn answer(session: &backstay_sqlite::lazy::Session, sql: &str, stop: &Stop) -> Result<Result<Row, String>, OpsError> {
    let mut first = Row::new();
    let is_over = || if stop.is_over() { Go::Stop } else { Go::On };
    let asked = session.ask(sql, &[], &is_over, &mut |_, row| {
        first = row;
        Go::Stop
    });
    match asked {
        Ok(_) => Ok(Ok(first)),
        Err(SqliteError::Query { code: 1, message }) => Ok(Err(message)),
        Err(error) => Err(stop.said(error)),
    }
}
