//! What a target means: a snapshot, and a state inside the log behind it.

use super::{Link, Reach, reach};
use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use backstay_format::facts::Following;
use backstay_format::log::Record;
use backstay_model::catalog::{NoPoint, Snapshot, Target};
use backstay_model::{Moment, Tx};
use backstay_store::repo::ManifestFront;

/// A state inside the log.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LogPoint {
    pub tx: Tx,
    pub at: Moment,
    /// The commit right after it, where one is known.
    pub next: Option<Next>,
    /// Objects of the log that are read for it.
    pub objects: usize,
    #[serde(skip)]
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Next {
    pub tx: Tx,
    pub at: Moment,
}

/// What a target means: a snapshot, and how far to follow the log from it.
pub struct Resolved {
    pub snapshot: Snapshot,
    pub log: Option<LogPoint>,
    /// Why the log behind the snapshot ends, if it is because something cannot be read.
    pub fault: Option<String>,
}

impl Resolved {
    fn plain(snapshot: Snapshot) -> Self {
        Self { snapshot, log: None, fault: None }
    }
}

/// Finds the state a target names.
pub async fn resolve(vault: &Vault, catalog: &mut Catalog, target: &Target) -> Result<Resolved, OpsError> {
    let chosen = match target {
        Target::Tx(tx) => return by_tx(vault, catalog, *tx).await,
        Target::Latest | Target::Before(_) => catalog.choose(target)?,
        Target::At(at) | Target::Nearest(at) => match catalog.choose(&Target::At(*at)) {
            Err(OpsError::NoPoint(NoPoint::BeforeFirst { .. })) if matches!(target, Target::Nearest(_)) => {
                catalog.oldest().ok_or(NoPoint::Empty)?
            }
            other => other?,
        },
        other => return Ok(Resolved::plain(catalog.choose(other)?)),
    };
    // A copy that was brought in says something of its own instant, and nothing of what the log holds after it.
    let own = match target {
        Target::At(at) | Target::Nearest(at) if chosen.imported => catalog.own_at(*at),
        _ => None,
    };
    let plain = own.unwrap_or_else(|| chosen.clone());
    let at = match target {
        Target::At(at) | Target::Nearest(at) => Some(*at),
        Target::Before(label) => {
            let labelled = catalog.choose(&Target::Label(label.clone()))?;
            Moment::from_millis(labelled.taken.as_millis() - 1)
        }
        _ => None,
    };
    let followed = catalog
        .followed()
        .into_iter()
        .find(|s| s.branch == plain.branch && at.is_none_or(|at| s.taken <= at) && s.sequence <= plain.sequence);
    let Some(snapshot) = followed else { return Ok(Resolved::plain(chosen)) };
    let (front, following) = of(catalog, &snapshot)?;
    let reached = reach(&vault.repo, &front, &following).await?;
    let wanted = |tx: Tx, time: Moment| at.is_none_or(|at| time <= at) && tx <= reached.tx;
    let log = point(vault, &snapshot, &reached, wanted).await?;
    let time = log.as_ref().map_or(snapshot.taken, |log| log.at);
    // A backup is later than every commit of the log it found.
    let newer = [plain, chosen].into_iter().filter(|one| one.id != snapshot.id && one.taken > time);
    let resolved = if let Some(newer) = newer.max_by_key(|one| (one.taken, one.sequence)) {
        Resolved::plain(newer)
    } else {
        let fault = reached.fault.filter(|_| time >= reached.at);
        Resolved { snapshot, log, fault }
    };
    match at.filter(|_| !matches!(target, Target::Before(_))) {
        Some(at) => beside_gaps(vault, catalog, resolved, target, at).await,
        None => Ok(resolved),
    }
}

fn of(catalog: &Catalog, snapshot: &Snapshot) -> Result<(ManifestFront, Following), OpsError> {
    let front = catalog.front(&snapshot.id).cloned().ok_or(NoPoint::Empty)?;
    let following = front.facts.following.clone().ok_or(NoPoint::Empty)?;
    Ok((front, following))
}

async fn by_tx(vault: &Vault, catalog: &mut Catalog, tx: Tx) -> Result<Resolved, OpsError> {
    let followed = catalog.followed();
    let branch = followed.iter().map(|s| s.branch).max().ok_or(NoPoint::NotFollowed)?;
    let mut reaches = None;
    for snapshot in followed.into_iter().filter(|s| s.branch == branch) {
        let (front, following) = of(catalog, &snapshot)?;
        if following.tx > tx {
            reaches = Some(following.tx.get());
            continue;
        }
        let reached = reach(&vault.repo, &front, &following).await?;
        if reached.tx < tx {
            return Err(NoPoint::TxNotHeld { tx: tx.get(), before: reached.tx.get(), after: reaches }.into());
        }
        let log = point(vault, &snapshot, &reached, |found, _| found <= tx).await?;
        if log.as_ref().is_some_and(|log| log.tx != tx) {
            let rule = "its objects have the states they name";
            return Err(backstay_format::Corrupt::Rule { what: "a log", rule }.into());
        }
        return Ok(Resolved { snapshot, log, fault: None });
    }
    let oldest = reaches.ok_or(NoPoint::NotFollowed)?;
    Err(NoPoint::TxBeforeFirst { tx: tx.get(), oldest }.into())
}

/// An instant inside a recorded gap is nobody's state: the two sides are named, or the nearer one taken.
async fn beside_gaps(
    vault: &Vault,
    catalog: &Catalog,
    resolved: Resolved,
    target: &Target,
    at: Moment,
) -> Result<Resolved, OpsError> {
    let gap = catalog.followed().into_iter().find_map(|behind| {
        let (_, following) = of(catalog, &behind).ok()?;
        let resync = following.resync?;
        let inside = behind.branch == resolved.snapshot.branch && resync.since < at && at < behind.taken;
        inside.then_some((resync.since, behind))
    });
    let Some((_, behind)) = gap else { return Ok(resolved) };
    let before = resolved.log.as_ref().map_or(resolved.snapshot.taken, |log| log.at);
    match target {
        Target::Nearest(_) if behind.taken.millis_since(at) < at.millis_since(before) => {
            let (front, following) = of(catalog, &behind)?;
            let reached = reach(&vault.repo, &front, &following).await?;
            let log = point(vault, &behind, &reached, |_, _| false).await?;
            Ok(Resolved { snapshot: behind, log, fault: reached.fault })
        }
        Target::Nearest(_) => Ok(resolved),
        _ => Err(NoPoint::InGap { at, before, after: behind.taken }.into()),
    }
}

/// The last state for which `wanted` holds. Opens the one object it lies in.
async fn point(
    vault: &Vault,
    snapshot: &Snapshot,
    reached: &Reach,
    wanted: impl Fn(Tx, Moment) -> bool,
) -> Result<Option<LogPoint>, OpsError> {
    if reached.links.is_empty() {
        return Ok(None);
    }
    let mut found: Option<(Tx, Moment, usize)> = None;
    let mut next = None;
    let last = reached.links.iter().rposition(|link| wanted(link.span.first, link.span.from));
    let Some(last) = last else {
        let first = reached.links.first().map(|link| Next { tx: link.span.first, at: link.span.from });
        let (tx, at) = (of_snapshot(reached), snapshot.taken);
        return Ok(Some(LogPoint { tx, at, next: first, objects: 0, links: Vec::new() }));
    };
    // A commit in parts ends in a later object than it begins in; look from there back to a whole one.
    for at in (0..reached.links.len().min(last + 2)).rev() {
        for record in records(vault, reached, at).await?.into_iter().rev() {
            match record.part.completes() && wanted(record.tx, record.time) {
                true => {
                    found = Some((record.tx, record.time, at));
                    break;
                }
                false => next = Some(Next { tx: record.tx, at: record.time }),
            }
        }
        if found.is_some() {
            break;
        }
    }
    let whole = |next: &Next| next.tx <= reached.tx;
    let next = next.filter(whole).or_else(|| {
        let link = found.and_then(|(_, _, at)| reached.links.get(at + 1))?;
        Some(Next { tx: link.span.first, at: link.span.from }).filter(whole)
    });
    Ok(Some(match found {
        None => LogPoint { tx: of_snapshot(reached), at: snapshot.taken, next, objects: 0, links: Vec::new() },
        Some((tx, time, at)) => {
            let links: Vec<Link> = reached.links.iter().take(at + 1).cloned().collect();
            LogPoint { tx, at: time, next, objects: links.len(), links }
        }
    }))
}

/// The number of the snapshot's own state: the first commit behind it is the next.
fn of_snapshot(reached: &Reach) -> Tx {
    let first = reached.links.first().map_or(reached.tx.get(), |link| link.span.first.get().saturating_sub(1));
    Tx::new(first)
}

async fn records(vault: &Vault, reached: &Reach, at: usize) -> Result<Vec<Record>, OpsError> {
    let Some(link) = reached.links.get(at) else { return Ok(Vec::new()) };
    link.records(&vault.repo, vault.unsealer()?).await
}
