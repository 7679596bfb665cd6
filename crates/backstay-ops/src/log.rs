//! The log of a followed source as a reader sees it: from a snapshot, by name alone, to the end of what is
//! durable; and a restore point inside it.
//!
//! Owns what counts: the prefix without a hole whose spans follow one another. What lies behind a hole, a
//! gap or another snapshot is not reached from here.

use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use crate::disk::{At, DiskFile};
use backstay_format::facts::{After, Following, Span};
use backstay_format::fingerprint::{CommitHasher, RecordHasher};
use backstay_format::log::Record;
use backstay_format::{Corrupt, FingerprintKey};
use backstay_model::catalog::{NoPoint, Snapshot, Target};
use backstay_model::{BranchNo, Digest, Moment, Sequence, SourceName, StreamId, Tx};
use backstay_store::repo::{Chain, ManifestFront, Repository};
use backstay_store::seal::Unsealer;
use std::path::Path;

/// Streams that are followed one after another before it is taken for a circle.
const STREAMS_MAX: u32 = 1 << 16;

/// One object of a log, and the states it completes.
#[derive(Debug, Clone)]
pub struct Link {
    pub stream: StreamId,
    pub sequence: Sequence,
    pub digest: Digest,
    pub span: Span,
}

/// How far the log behind a snapshot reaches.
#[derive(Debug, Clone)]
pub struct Reach {
    pub links: Vec<Link>,
    /// The last complete state, and when it was committed. The snapshot's own if nothing follows it.
    pub tx: Tx,
    pub at: Moment,
}

/// The end of the streams a source's log lies in, for whoever takes over.
#[derive(Debug, Clone)]
pub struct LogTip {
    pub stream: StreamId,
    /// The slot nobody has taken yet.
    pub free: Chain,
    pub branch: BranchNo,
    /// The last complete state, and the highest number that was used.
    pub complete: Tx,
    pub used: Tx,
    pub time: Moment,
}

impl LogTip {
    /// Of a run that begins anew in its own stream.
    pub fn of_run(branch: BranchNo, complete: Tx, used: Tx, time: Moment) -> Self {
        Self { stream: StreamId::ZERO, free: Chain::START, branch, complete, used, time }
    }
}

/// Walks from a snapshot's place in a log as far as it goes without a hole.
pub async fn reach(repo: &Repository, front: &ManifestFront, following: &Following) -> Result<Reach, OpsError> {
    let mut reach = Reach { links: Vec::new(), tx: following.tx, at: front.facts.taken };
    let (mut stream, mut sequence) = (following.stream, following.sequence);
    let mut previous: Option<Digest> = None;
    let mut after = After::Snapshot(front.name.id);
    let mut streams = 0;
    loop {
        let found = match repo.log_front(&stream, sequence).await {
            Err(error) if error.is_outage() => return Err(error.into()),
            // What cannot be verified ends what can be restored; a check speaks of it.
            Err(_) | Ok(None) => return Ok(reach),
            Ok(Some(found)) => found,
        };
        if previous.is_some_and(|previous| previous != found.chain.previous) {
            return Ok(reach);
        }
        if let Some(next) = found.facts.next {
            streams += 1;
            if streams > STREAMS_MAX {
                return Ok(reach);
            }
            (stream, sequence, previous) = (next, Sequence::FIRST, Some(Digest::ZERO));
            continue;
        }
        let source = &front.facts.source;
        if let Some(span) = found.facts.spans.into_iter().find(|span| span.source == *source) {
            let goes_on = span.branch == front.facts.branch
                && span.after == after
                && Some(span.first) == reach.tx.next().filter(|_| span.first <= span.last)
                || is_next_part(reach.links.last(), &span, after);
            if !goes_on {
                return Ok(reach);
            }
            if let Some(complete) = span.completes().filter(|complete| *complete > reach.tx) {
                reach.tx = complete;
                // The time of a commit before an unfinished one is known from the records only.
                reach.at = if span.unfinished { span.from } else { span.to };
            }
            after = After::Log { stream, sequence, digest: found.digest };
            reach.links.push(Link { stream, sequence, digest: found.digest, span });
        }
        previous = Some(found.digest);
        let Some(next) = sequence.next() else { return Ok(reach) };
        sequence = next;
    }
}

/// A commit in several parts: the number stays the same until its last part.
fn is_next_part(last: Option<&Link>, span: &Span, after: After) -> bool {
    last.is_some_and(|link| link.span.unfinished && span.first == link.span.last && span.after == after)
}

/// The end of the log that the newest followed snapshot of a source leads to.
pub async fn tip(repo: &Repository, source: &SourceName, fronts: &[ManifestFront]) -> Result<Option<LogTip>, OpsError> {
    let followed = fronts.iter().find_map(|front| Some((front, front.facts.following.as_ref()?)));
    let Some((front, following)) = followed else { return Ok(None) };
    let mut tip = LogTip {
        stream: following.stream,
        free: Chain::START,
        branch: front.facts.branch,
        complete: following.tx,
        used: following.tx,
        time: front.facts.taken,
    };
    for _ in 0..STREAMS_MAX {
        let Some(end) = repo.log_end(&tip.stream).await? else {
            tip.free = Chain::START;
            return Ok(Some(tip));
        };
        let Some(mut last) = repo.log_front(&tip.stream, end).await? else { continue };
        tip.free = Chain::after(end, last.digest).ok_or(backstay_model::backup::Exhausted)?;
        let next = last.facts.next;
        if next.is_some()
            && let Some(before) = end.get().checked_sub(1).filter(|n| *n > 0).map(Sequence::new)
            && let Some(found) = repo.log_front(&tip.stream, before).await?
        {
            last = found;
        }
        if let Some(span) = last.facts.spans.iter().find(|span| span.source == *source && span.branch == tip.branch)
            && span.last > tip.used
        {
            tip.used = span.last;
            tip.complete = if span.unfinished { Tx::new(span.last.get().saturating_sub(1)) } else { span.last };
            tip.time = span.to;
        }
        match next {
            Some(next) => tip.stream = next,
            None => return Ok(Some(tip)),
        }
    }
    Ok(Some(tip))
}

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
}

/// Finds the state a target names.
pub async fn resolve(vault: &Vault, catalog: &mut Catalog, target: &Target) -> Result<Resolved, OpsError> {
    let plain = match target {
        Target::Tx(tx) => return by_tx(vault, catalog, *tx).await,
        Target::Latest => catalog.choose(&Target::Latest)?,
        Target::At(at) | Target::Nearest(at) => match catalog.choose(&Target::At(*at)) {
            Err(OpsError::NoPoint(NoPoint::BeforeFirst { .. })) if matches!(target, Target::Nearest(_)) => {
                catalog.oldest().ok_or(NoPoint::Empty)?
            }
            other => other?,
        },
        other => return Ok(Resolved { snapshot: catalog.choose(other)?, log: None }),
    };
    let at = match target {
        Target::At(at) | Target::Nearest(at) => Some(*at),
        _ => None,
    };
    let followed = catalog
        .followed()
        .into_iter()
        .find(|s| s.branch == plain.branch && at.is_none_or(|at| s.taken <= at) && s.sequence <= plain.sequence);
    let Some(snapshot) = followed else { return Ok(Resolved { snapshot: plain, log: None }) };
    let (front, following) = of(catalog, &snapshot)?;
    let reached = reach(&vault.repo, &front, &following).await?;
    let wanted = |tx: Tx, time: Moment| at.is_none_or(|at| time <= at) && tx <= reached.tx;
    let log = point(vault, &snapshot, &reached, wanted).await?;
    let time = log.as_ref().map_or(snapshot.taken, |log| log.at);
    let resolved = if plain.id != snapshot.id && plain.taken >= time {
        Resolved { snapshot: plain, log: None }
    } else {
        Resolved { snapshot, log }
    };
    match at {
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
        return Ok(Resolved { snapshot, log });
    }
    Err(NoPoint::NotFollowed.into())
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
            Ok(Resolved { snapshot: behind, log })
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
    let source = reached.links.first().map(|link| link.span.source.clone());
    let Some(source) = source else { return Ok(None) };
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
        for record in records(vault, reached, at, &source).await?.into_iter().rev() {
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

async fn records(vault: &Vault, reached: &Reach, at: usize, source: &SourceName) -> Result<Vec<Record>, OpsError> {
    let Some(link) = reached.links.get(at) else { return Ok(Vec::new()) };
    let object = vault
        .repo
        .log_object(&link.stream, link.sequence)
        .await?
        .ok_or(OpsError::LogHole { stream: link.stream, sequence: link.sequence })?;
    let spans = object.front.facts.spans.clone();
    let records = object.open::<OpsError>(vault.unsealer()?, |_, _, _, _| Ok(()))?;
    let ours = |record: &Record| spans.get(usize::from(record.span)).is_some_and(|span| span.source == *source);
    Ok(records.into_iter().filter(ours).collect())
}

/// Where the pages of a log go.
pub struct Onto<'a> {
    pub file: &'a dyn DiskFile,
    pub path: &'a Path,
}

/// Writes a log over the snapshot it comes after, up to a state. Every record is compared with the digest
/// it was captured under, and that with everything before it.
pub async fn apply(
    vault: &Vault,
    point: &LogPoint,
    snapshot: (&Snapshot, &FingerprintKey),
    onto: &Onto<'_>,
) -> Result<(), OpsError> {
    let (snapshot, key) = snapshot;
    let mut applying = Applying {
        hasher: key.commits(),
        complete: snapshot.root,
        running: snapshot.root,
        tx: of_first(point),
        length: None,
        open: None,
    };
    for link in &point.links {
        vault.env.cancel.check()?;
        let object = vault.repo.log_object(&link.stream, link.sequence).await?;
        let hole = OpsError::LogHole { stream: link.stream, sequence: link.sequence };
        let object = object.filter(|object| object.front.digest == link.digest).ok_or(hole)?;
        let spans = &object.front.facts.spans;
        let span = spans.iter().position(|span| *span == link.span).unwrap_or(usize::MAX);
        crate::env::blocking(|| applying.object(&object, (span, point.tx), vault.unsealer()?, onto))?;
    }
    if applying.tx != point.tx {
        return Err(broken("the log leads to the state that was chosen"));
    }
    if let Some(length) = applying.length {
        onto.file.set_len(length).at("set the length of", onto.path)?;
        onto.file.sync().at("sync", onto.path)?;
    }
    Ok(())
}

fn of_first(point: &LogPoint) -> Tx {
    Tx::new(point.links.first().map_or(point.tx.get(), |link| link.span.first.get().saturating_sub(1)))
}

fn broken(rule: &'static str) -> OpsError {
    Corrupt::Rule { what: "a log", rule }.into()
}

struct Applying {
    hasher: CommitHasher,
    complete: Digest,
    running: Digest,
    /// The last complete state.
    tx: Tx,
    length: Option<u64>,
    open: Option<(usize, RecordHasher)>,
}

impl Applying {
    fn object(
        &mut self,
        object: &backstay_store::repo::LogObject,
        (span, last): (usize, Tx),
        unsealer: &Unsealer,
        onto: &Onto<'_>,
    ) -> Result<(), OpsError> {
        let mut done = 0;
        let is_ours = |record: &Record| usize::from(record.span) == span && record.tx <= last;
        let records = object.open::<OpsError>(unsealer, |records, at, page, bytes| {
            while done < at {
                self.end(records.get(done).filter(|r| is_ours(r)), done)?;
                done += 1;
            }
            let Some(record) = records.get(at).filter(|record| is_ours(record)) else { return Ok(()) };
            let hasher = self.begin(record, at);
            hasher.page(page, bytes);
            let offset = u64::from(page - 1) * record.page_size.bytes();
            Ok(onto.file.write_at(offset, bytes).at("write", onto.path)?)
        })?;
        for (at, record) in records.iter().enumerate().skip(done) {
            self.end(Some(record).filter(|record| is_ours(record)), at)?;
        }
        Ok(())
    }

    fn begin(&mut self, record: &Record, at: usize) -> &mut RecordHasher {
        let fresh = || {
            let previous = if record.part.begins() { &self.complete } else { &self.running };
            (at, self.hasher.record(previous, record))
        };
        let open = match self.open.take() {
            Some(open) if open.0 == at => open,
            _ => fresh(),
        };
        &mut self.open.insert(open).1
    }

    fn end(&mut self, record: Option<&Record>, at: usize) -> Result<(), OpsError> {
        let Some(record) = record else { return Ok(()) };
        self.begin(record, at);
        let Some((_, hasher)) = self.open.take() else { return Ok(()) };
        if Some(record.tx) != self.tx.next() {
            return Err(broken("its states follow one another"));
        }
        let digest = hasher.finish();
        if digest != record.digest {
            return Err(broken("its records have the digests they were captured under"));
        }
        self.running = digest;
        if record.part.completes() {
            (self.complete, self.tx) = (digest, record.tx);
            self.length = Some(u64::from(record.page_count) * record.page_size.bytes());
        }
        Ok(())
    }
}
