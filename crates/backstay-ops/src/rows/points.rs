//! The restore points of a source in the order of time: snapshots, and between them every commit of a log.

use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use crate::log::{self, LogPoint, Next, Reach};
use crate::query::{Asker, Behind, Past};
use backstay_model::catalog::{NoPoint, Quality, Target};
use backstay_model::{Moment, ObjectId, SourceName, Tx};
use std::collections::HashMap;

/// A moment one can go back to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PointAt {
    pub snapshot: ObjectId,
    /// Of a followed source: the number of the state.
    pub tx: Option<Tx>,
    /// When it was the newest; of a state inside a log not before it.
    pub at: Moment,
    /// A commit that was followed, and not only a state that was captured.
    pub is_commit: bool,
}

/// All of them on the branch of the newest snapshot, and what was read to know them.
pub struct Points {
    /// Oldest first.
    pub list: Vec<PointAt>,
    source: SourceName,
    catalog: Catalog,
    reaches: HashMap<ObjectId, Reach>,
}

/// States that an object is believed to lead to without being looked into.
const STATES_MAX: u64 = 1 << 16;

/// What is quarantined is no evidence of anything.
pub async fn points(vault: &Vault, source: &SourceName, since: Option<Moment>) -> Result<Points, OpsError> {
    let mut catalog = vault.recalled(source, None).await?;
    let newest = catalog.choose(&Target::Latest)?;
    let mut snapshots: Vec<_> = catalog.snapshots.clone();
    snapshots.retain(|s| s.branch == newest.branch && s.quality == Quality::Whole && !s.is_quarantined());
    snapshots.sort_by_key(|snapshot| snapshot.sequence);
    // The point before it stays: what changed first is found against it.
    let is_before = |at: Moment| since.is_some_and(|since| at < since);
    let begin = snapshots.iter().rposition(|snapshot| is_before(snapshot.taken)).unwrap_or(0);
    let mut list: Vec<PointAt> = Vec::new();
    let mut reaches = HashMap::new();
    let mut last: Option<Tx> = None;
    for snapshot in snapshots.into_iter().skip(begin) {
        let front = catalog.front(&snapshot.id).cloned();
        let Some((front, following)) = front.and_then(|front| Some((front.clone(), front.facts.following?))) else {
            list.push(PointAt { snapshot: snapshot.id, tx: None, at: snapshot.taken, is_commit: false });
            continue;
        };
        if following.made.is_some() && last.is_some_and(|last| last >= following.tx) {
            // The log behind the one before it led past it.
            continue;
        }
        let reached = log::reach(&vault.repo, &front, &following).await?;
        let mut push = |tx: Tx, at: Moment, is_commit: bool| {
            if last.is_none_or(|last| tx > last) {
                list.push(PointAt { snapshot: snapshot.id, tx: Some(tx), at, is_commit });
                last = Some(tx);
            }
        };
        push(following.tx, snapshot.taken, false);
        for link in &reached.links {
            let states = link.span.last.get().saturating_sub(link.span.first.get());
            if link.name.is_rolled() || states > STATES_MAX {
                // It spans too long a time for its ends to stand for what is between; or it says more than it can hold.
                let states = link.states(&vault.repo, vault.unsealer()?).await?;
                states.into_iter().filter(|(tx, _)| *tx <= reached.tx).for_each(|(tx, at)| push(tx, at, true));
                continue;
            }
            let (first, end) = (link.span.first.get(), link.span.last.get());
            for tx in first..=end.min(reached.tx.get()) {
                let at = if tx == first { link.span.from } else { link.span.to };
                push(Tx::new(tx), at, true);
            }
        }
        reaches.insert(snapshot.id, reached);
    }
    let from = list.partition_point(|point| is_before(point.at)).saturating_sub(1);
    list.drain(..from);
    Ok(Points { list, source: source.clone(), catalog, reaches })
}

/// Opens points one after another. A snapshot and the records of its log are read once for all states behind it.
pub struct Walk<'a, 'v> {
    asker: &'a Asker<'v>,
    pub points: Points,
    behind: Option<Behind>,
}

impl<'a, 'v> Walk<'a, 'v> {
    pub fn new(asker: &'a Asker<'v>, points: Points) -> Self {
        Self { asker, points, behind: None }
    }

    /// Opens one of the points.
    pub async fn open(&mut self, at: usize) -> Result<Past, OpsError> {
        let point = self.points.list.get(at).cloned().ok_or(NoPoint::Empty)?;
        let behind = match self.behind.take().filter(|behind| behind.snapshot().id == point.snapshot) {
            Some(behind) => behind,
            None => self.behind_of(&point).await?,
        };
        let log = point.tx.map(|tx| self.state(&behind, &point, tx));
        let past = self.asker.open_behind(&behind, log, None);
        self.behind = Some(behind);
        past
    }

    async fn behind_of(&self, point: &PointAt) -> Result<Behind, OpsError> {
        let Points { source, catalog, reaches, .. } = &self.points;
        let snapshot = catalog.snapshots.iter().find(|s| s.id == point.snapshot).cloned().ok_or(NoPoint::Empty)?;
        let reach = reaches.get(&snapshot.id);
        let whole = reach.map(|reach| LogPoint {
            tx: reach.tx,
            at: reach.at,
            next: None,
            objects: reach.links.len(),
            links: reach.links.clone(),
        });
        self.asker.behind(catalog, source, (snapshot, whole.as_ref())).await
    }

    fn state(&self, behind: &Behind, point: &PointAt, tx: Tx) -> LogPoint {
        let maps = behind.maps();
        let at = maps.and_then(|maps| maps.commit(tx)).map_or(point.at, |commit| commit.at);
        let next = maps.and_then(|maps| maps.next(tx)).map(|commit| Next { tx: commit.tx, at: commit.at });
        let objects = self.points.reaches.get(&point.snapshot).map_or(0, |reach| reach.links.len());
        LogPoint { tx, at, next, objects, links: Vec::new() }
    }
}
