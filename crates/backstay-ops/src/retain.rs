//! Retention and prune: what may go is condemned in writing, and deleted when a grace is over.
//!
//! Owns the order that makes it safe. Everything is gathered and doubted first; the prune record is
//! durable before anything it condemns counts as gone; after the grace everything is gathered and doubted
//! anew, and only what nothing needs is deleted, manifests before packs. A run that stops anywhere leaves
//! a record that says too much at worst (objects that are gone already), and the next run goes on.
//!
//! Must never: delete what is not in a durable record (or said once more by a roll-up that was compared with it, or a bundle), guess what a listing left out, delete a mark.
//!
//! Locks: the keeper's lock on this host, a lease in the repository (`turn`), and with a grace shorter than
//! usual the locks of the sources, so that no backup of this host runs beside it.

mod gather;
mod hold;
pub(crate) mod left_out;
mod locked;
pub(crate) mod logs;
mod record;
mod report;
pub(crate) mod turn;

pub use hold::{HoldReport, HoldRequest, hold, release};
pub use locked::horizon_of;
pub use logs::{LogReport, LogTally};
pub use report::{Oldest, RetainReport, SourceReport, Tally, Waiting};

use crate::bundles;
use crate::catalog::Vault;
use crate::state::SeenHead;
use crate::{Event, OpsError};
use backstay_format::facts::{Prune, Role};
use backstay_model::lock::ObjectLock;
use backstay_model::prune::{self, Due, Found, GRACE_MIN_MILLIS, GivenUp, Named, Plan, Rules};
use backstay_model::retention::{Fate, RetentionPolicy};
use backstay_model::{ByteLen, Moment, ObjectId, Ranges, SourceName, Verdict};
use backstay_store::keys::{self, SnapshotName};
use backstay_store::repo::{Chain, PruneHead, Record, Signing};
use backstay_store::{Key, keys::Scope};
use gather::{Gathered, Known, gather};
use jiff::tz::TimeZone;
use record::Decided;
pub(crate) use turn::Turn;

/// Deletions in flight, and how many follow one look at the clock.
const AT_ONCE: usize = 8;
const BATCH: usize = 64;

/// What holds for one source.
#[derive(Debug, Clone)]
pub struct SourceRules {
    pub source: SourceName,
    pub policy: RetentionPolicy,
    pub zone: TimeZone,
    pub grace_millis: i64,
    /// How long every commit of a followed source can be restored.
    pub log_millis: i64,
}

/// What a person gives up of one source.
#[derive(Debug, Clone)]
pub struct DropRequest {
    pub source: SourceName,
    /// The beginning of the id of a snapshot, or of a manifest that cannot be verified.
    pub id: Option<String>,
    /// Numbers that are missing and shall count as gone.
    pub missing: Ranges,
    pub grace_millis: i64,
}

/// What retention would do now. Writes nothing.
pub async fn plan(vault: &Vault, sources: &[SourceRules]) -> Result<RetainReport, OpsError> {
    let began = vault.env.clock.uptime();
    let head = newest(vault).await?;
    let last = head.as_ref().map(|head| &head.record.facts);
    let now = host_now(vault, head.as_ref());
    let (mut known, mut room) = (Known::default(), room(last));
    let mut rows = Vec::new();
    for source in sources {
        let gathered = gather(vault, &source.source, last, &mut known).await?;
        let mut row = SourceReport::new(source.source.clone(), source.policy);
        let rules = rules(source, now, (room, vault.repo.lock()));
        if let Some(plan) = decide(&gathered, &rules, &mut row) {
            room -= condemned_by(&plan);
            say_due(&mut row, &prune::due(&gathered.found, &rules));
        }
        row.judge();
        rows.push(row);
    }
    let logs = match logs::gather(vault, sources, (last, &mut known)).await? {
        Some(found) => logs::report(last, &logs::next(last, &found, now), (&found, now, grace_of(sources))),
        None => LogReport { doubted: true, ..LogReport::default() },
    };
    Ok(report(vault, now, (rows, logs), began))
}

/// Does what `plan` says, now.
pub async fn apply(vault: &Vault, sources: &[SourceRules]) -> Result<RetainReport, OpsError> {
    perform(vault, sources, &GivenUp::default()).await
}

/// Condemns exactly what a person gives up, and applies no policy.
pub async fn drop(vault: &Vault, request: &DropRequest) -> Result<RetainReport, OpsError> {
    let head = newest(vault).await?;
    let last = head.as_ref().map(|head| &head.record.facts);
    let gathered = gather(vault, &request.source, last, &mut Known::default()).await?;
    let mut given_up = GivenUp { missing: request.missing.clone(), ..GivenUp::default() };
    if let Some(id) = &request.id {
        let (named, verified) = find(&gathered, &request.source, id)?;
        if verified {
            given_up.snapshots.insert(named.id);
        } else {
            given_up.unverified.insert(named);
            // Its number is used, and nothing stands there any more.
            let number = named.sequence.get();
            let stands = gathered.found.standing.iter().any(|s| s.snapshot.sequence == named.sequence);
            given_up.missing = given_up.missing.with(&(!stands).then_some(number).into_iter().collect());
        }
    }
    let rules = SourceRules {
        source: request.source.clone(),
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        grace_millis: request.grace_millis,
        log_millis: 0,
    };
    perform(vault, &[rules], &given_up).await
}

/// The one snapshot or unverifiable manifest an id means, and whether it is verified.
fn find(gathered: &Gathered, source: &SourceName, id: &str) -> Result<(Named, bool), OpsError> {
    let verified = gathered.found.standing.iter().map(|s| (Named::of(&s.snapshot), true));
    let all = || verified.clone().chain(gathered.found.unverified.iter().map(|named| (*named, false)));
    // A snapshot answers to its id whichever of its manifests speaks for it; one nobody can verify to its name.
    let name = |(named, verified): &(Named, bool)| if *verified { named.id.to_string() } else { named.to_string() };
    if let Some(exact) = all().find(|one| name(one) == id) {
        return Ok(exact);
    }
    let mut matching = all().filter(|one| name(one).starts_with(id));
    match (matching.next(), matching.count()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(OpsError::NothingToDrop { source_name: source.clone(), id: id.to_owned() }),
        (Some(_), more) => {
            Err(backstay_model::catalog::NoPoint::AmbiguousId { id: id.to_owned(), count: more + 1 }.into())
        }
    }
}

async fn perform(vault: &Vault, sources: &[SourceRules], given_up: &GivenUp) -> Result<RetainReport, OpsError> {
    vault.signer(Role::Keeper)?;
    let hasty = sources.iter().filter(|source| source.grace_millis < GRACE_MIN_MILLIS);
    let _locks = hasty.map(|source| vault.state.lock(&source.source)).collect::<Result<Vec<_>, _>>()?;
    let mut turn = Turn::take(vault).await?;
    let done = in_turn(vault, sources, given_up, &mut turn).await;
    turn.give_back().await;
    done
}

async fn in_turn(
    vault: &Vault,
    sources: &[SourceRules],
    given_up: &GivenUp,
    turn: &mut Turn<'_>,
) -> Result<RetainReport, OpsError> {
    let began = vault.env.clock.uptime();
    let mut known = Known::default();
    let mut rows: Vec<SourceReport> =
        sources.iter().map(|source| SourceReport::new(source.source.clone(), source.policy)).collect();
    let (record, written, mut logs) = condemn(vault, sources, given_up, (turn, &mut known, &mut rows)).await?;
    let mut stopped = None;
    for (source, row) in sources.iter().zip(&mut rows).filter(|(_, row)| row.doubts.is_empty()) {
        match delete(vault, source, given_up, (&record, turn, &mut known, row)).await {
            Ok(()) => {}
            Err(error @ OpsError::LeaseOver) => stopped = Some(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if stopped.is_none() {
        match delete_logs(vault, sources, (&record, turn, &mut known), &mut logs).await {
            Ok(()) => {}
            Err(error @ OpsError::LeaseOver) => stopped = Some(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    rows.iter_mut().for_each(SourceReport::judge);
    let mut report = report(vault, turn.now(), (rows, logs), began);
    if stopped.is_some() || report.logs.refused > 0 || report.logs.doubted {
        report.verdict = report.verdict.and(Verdict::Partial);
    }
    Ok(RetainReport { performed: true, record: written, stopped, ..report })
}

/// The same for logs, looked at anew.
async fn delete_logs(
    vault: &Vault,
    sources: &[SourceRules],
    (record, turn, known): (&Prune, &mut Turn<'_>, &mut Known),
    report: &mut LogReport,
) -> Result<(), OpsError> {
    if record.streams.iter().all(|pruned| pruned.pending.is_empty()) && report.rolled == LogTally::default() {
        return Ok(());
    }
    let Some(found) = logs::gather(vault, sources, (Some(record), known)).await? else { return Ok(()) };
    (report.deleted, report.refused) = logs::delete(vault, (record, &found), (turn, grace_of(sources))).await?;
    if report.refused > 0 {
        return Ok(());
    }
    logs::delete_covered(vault, &found, (turn, grace_of(sources)), report).await
}

/// Whoever waits longest for one source waits for all: a stream may be of several.
fn grace_of(sources: &[SourceRules]) -> i64 {
    sources.iter().map(|rules| rules.grace_millis).max().unwrap_or(GRACE_MIN_MILLIS)
}

/// Where a run does its work: the turn, what is known, and what is told.
type Work<'w, 't> = (&'w mut Turn<'t>, &'w mut Known, &'w mut Vec<SourceReport>);

/// The first half: decides for every source that is not doubted, and writes it down.
async fn condemn(
    vault: &Vault,
    sources: &[SourceRules],
    given_up: &GivenUp,
    (turn, known, rows): Work<'_, '_>,
) -> Result<(Prune, Option<u64>, LogReport), OpsError> {
    let head = newest(vault).await?;
    let last = head.as_ref().map(|head| &head.record);
    let mut room = room(last.map(|last| &last.facts));
    let mut plans: Vec<(&SourceName, Gathered, Plan)> = Vec::new();
    for (source, row) in sources.iter().zip(rows.iter_mut()) {
        let gathered = gather(vault, &source.source, last.map(|last| &last.facts), known).await?;
        let rules = Rules { given_up: given_up.clone(), ..rules(source, turn.now(), (room, vault.repo.lock())) };
        let Some(plan) = decide(&gathered, &rules, row) else { continue };
        if let Some((snapshot, reasons)) = plan.refused.first() {
            let why = reasons.iter().map(|reason| reason.words()).collect::<Vec<_>>().join(", ");
            return Err(OpsError::Protected { snapshot: *snapshot, why });
        }
        let unknown = gathered.unknown_marks(vault, &source.source, &decisive(&plan)).await?;
        if unknown > 0 {
            *row = SourceReport::new(source.source.clone(), source.policy);
            row.doubts.push(prune::Doubt::Marks { count: unknown });
            continue;
        }
        room -= condemned_by(&plan);
        plans.push((&source.source, gathered, plan));
    }
    let decided = |(source, gathered, plan)| Decided { source, gathered, plan };
    let decided: Vec<Decided<'_>> = plans.iter().map(|(s, g, p)| decided((*s, g, p))).collect();
    turn.check().await?;
    let said = last.map(|last| &last.facts);
    let (streams, logs) = match logs::gather(vault, sources, (said, known)).await? {
        Some(found) => {
            let streams = logs::next(said, &found, turn.now());
            let report = logs::report(said, &streams, (&found, turn.now(), grace_of(sources)));
            (streams, report)
        }
        None => {
            let streams = said.map(|said| said.streams.clone()).unwrap_or_default();
            (streams, LogReport { doubted: true, ..LogReport::default() })
        }
    };
    let next = record::next(vault, said, turn.now(), (&decided, streams)).await?;
    if !record::says_more(said, &next) {
        return Ok((next, None, logs));
    }
    let written = write(vault, last, &next).await?;
    Ok((next, Some(written), logs))
}

/// Commits the record. Whoever lost the slot has condemned nothing.
async fn write(vault: &Vault, last: Option<&Record<Prune>>, next: &Prune) -> Result<u64, OpsError> {
    let signer = vault.signer(Role::Keeper)?;
    let after = |last: &Record<Prune>| Chain::after(last.chain.sequence, last.digest);
    let chain = last.map_or(Some(Chain::START), after).ok_or(backstay_model::backup::Exhausted)?;
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    vault.env.cancel.check()?;
    let record = vault.repo.put_prune(next, chain, signing).await?;
    remember(vault, &record);
    Ok(record.chain.sequence.get())
}

/// A state folder that takes no more must not stop a prune whose record is durable.
fn remember(vault: &Vault, record: &Record<Prune>) {
    let seen = SeenHead { sequence: record.chain.sequence, digest: record.digest };
    let _ = vault.state.update_keeper(|keeper| {
        if keeper.prune.is_none_or(|known| known.sequence < seen.sequence) {
            keeper.prune = Some(seen);
        }
    });
}

/// The second half: looks at the source anew, and deletes what outlived its grace and nothing needs.
async fn delete(
    vault: &Vault,
    source: &SourceRules,
    given_up: &GivenUp,
    (record, turn, known, row): (&Prune, &mut Turn<'_>, &mut Known, &mut SourceReport),
) -> Result<(), OpsError> {
    let gathered = gather(vault, &source.source, Some(record), known).await?;
    let rules = Rules { given_up: given_up.clone(), ..rules(source, turn.now(), (0, vault.repo.lock())) };
    row.doubts = doubts(&gathered, &rules.given_up);
    if !row.doubts.is_empty() {
        return Ok(());
    }
    let due = prune::due(&gathered.found, &rules);
    say_due(row, &due);
    row.deleted = Tally::default();
    let name = |named: &Named| {
        let Named { sequence, id, generation } = *named;
        SnapshotName { source: source.source.clone(), sequence, id, generation }
    };
    let manifests: Vec<(Key, u64)> = due
        .snapshots
        .iter()
        .map(|named| (name(named).key(), gathered.found.condemned.get(named).map_or(0, |listed| listed.len)))
        .collect();
    let packs: Vec<(Key, u64)> = due
        .packs
        .iter()
        .map(|pack| (keys::pack(&source.source, pack), gathered.found.packs.get(pack).map_or(0, |listed| listed.len)))
        .collect();
    let bytes = manifests.iter().chain(&packs).map(|(_, len)| len).sum();
    vault.env.tell(Event::Began { source: source.source.clone(), what: "deleting", bytes: Some(bytes) });
    for (objects, are_manifests) in [(manifests, true), (packs, false)] {
        for batch in objects.chunks(BATCH) {
            // What the store keeps may need what comes after it, and whoever is refused does not knock on.
            if !row.refused.is_empty() {
                break;
            }
            vault.env.cancel.check()?;
            turn.check().await?;
            let done = locked::delete_batch(vault, batch).await?;
            let deleted = &mut row.deleted;
            *(if are_manifests { &mut deleted.snapshots } else { &mut deleted.packs }) += done.deleted;
            deleted.bytes = ByteLen::new(deleted.bytes.get() + done.bytes);
            row.refused.extend(done.refused);
            vault.env.tell(Event::Advanced { bytes: done.bytes });
        }
    }
    if row.refused.is_empty() {
        turn.check().await?;
        let idle = bundles::idle(vault, &source.source, (&gathered.found, turn.now())).await?;
        for batch in idle.chunks(BATCH) {
            // Nothing is in them that is not elsewhere: what the store keeps for now a later run comes to.
            locked::delete_batch(vault, batch).await?;
        }
    }
    vault.env.tell(Event::Ended);
    Ok(())
}

/// The newest prune record, refused if it is older than one this host has seen.
async fn newest(vault: &Vault) -> Result<Option<PruneHead>, OpsError> {
    let head = vault.repo.newest_prune().await?;
    vault.state.check_prune(head.as_ref().map(|head| &head.record))??;
    if let Some(head) = &head {
        remember(vault, &head.record);
    }
    Ok(head)
}

/// When retention last had a turn, by the store's clock. A turn is taken by nobody else.
pub async fn last_run(vault: &Vault) -> Result<Option<Moment>, OpsError> {
    Ok(vault.repo.newest_lease(Scope::Prune).await?.map(|slot| slot.stored))
}

/// What a keeper left undone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Undone {
    /// Objects that were condemned longer ago than this run of time, and are not seen gone.
    pub overdue: usize,
    pub condemned: Option<Moment>,
    /// A turn that was not given back, and until when it lasts.
    pub turn: Option<Moment>,
}

/// Looks at the newest prune record and the newest turn.
pub async fn undone(vault: &Vault, overdue_millis: i64) -> Result<Undone, OpsError> {
    let now = vault.env.clock.now();
    let mut undone = Undone { turn: turn::left(vault).await?, ..Undone::default() };
    let overdue_millis = overdue_millis.saturating_add(vault.repo.lock().map_or(0, |lock| lock.objects_millis()));
    let head = vault.repo.newest_prune().await?;
    let batches = head.iter().flat_map(|head| &head.record.facts.sources).flat_map(|source| &source.pending);
    for batch in batches.filter(|batch| now.millis_since(batch.at) >= overdue_millis) {
        undone.overdue += batch.snapshots.len() + batch.packs.len();
        undone.condemned = Some(undone.condemned.map_or(batch.at, |known| known.min(batch.at)));
    }
    Ok(undone)
}

/// The time a plan is made at: this host's, but not before what the store has already said.
fn host_now(vault: &Vault, head: Option<&PruneHead>) -> Moment {
    let now = vault.env.clock.now();
    head.map_or(now, |head| now.max(head.stored).max(head.record.facts.at))
}

fn room(last: Option<&Prune>) -> usize {
    record::PENDING_MAX.saturating_sub(record::pending(last))
}

/// The snapshots whose marks decide: those that go, and those whose being good or proven lets others go.
fn decisive(plan: &Plan) -> Vec<ObjectId> {
    if plan.snapshots.is_empty() {
        return Vec::new();
    }
    let decides = |fate: &Fate| match fate {
        Fate::Keep(reasons) => reasons.iter().any(|reason| reason.is_a_right()),
        Fate::Free(_) => true,
    };
    plan.decisions.iter().filter(|d| decides(&d.fate)).map(|d| d.snapshot).collect()
}

fn condemned_by(plan: &Plan) -> usize {
    plan.snapshots.len() + plan.packs.len()
}

fn rules(source: &SourceRules, now: Moment, (most, lock): (usize, Option<ObjectLock>)) -> Rules {
    Rules {
        policy: source.policy,
        zone: source.zone.clone(),
        now,
        grace_millis: source.grace_millis,
        given_up: GivenUp::default(),
        most,
        lock,
        log_millis: source.log_millis,
    }
}

fn doubts(gathered: &Gathered, given_up: &GivenUp) -> Vec<prune::Doubt> {
    gathered.rolled_back.iter().cloned().chain(prune::doubts(&gathered.found, given_up)).collect()
}

/// Decides for one source and tells it; `None` when it is doubted.
fn decide(gathered: &Gathered, rules: &Rules, row: &mut SourceReport) -> Option<Plan> {
    row.doubts = doubts(gathered, &rules.given_up);
    if !row.doubts.is_empty() {
        return None;
    }
    let plan = prune::plan(&gathered.found, rules);
    row.snapshots = plan.decisions.clone();
    row.condemned = Tally { snapshots: plan.snapshots.len(), packs: plan.packs.len(), bytes: ByteLen::new(plan.bytes) };
    let goes = Moment::from_millis(rules.now.as_millis().saturating_add(rules.grace_millis));
    row.goes = goes.filter(|_| condemned_by(&plan) > 0);
    (row.put_off, row.young) = (plan.put_off, plan.young);
    row.missing = plan.missing.iter().copied().collect();
    let leaving = plan.snapshots.iter().map(|named| named.id).filter(|id| !stays(&plan, id)).collect();
    row.horizons = locked::horizons(&gathered.found, rules.lock, (&leaving, rules.now));
    row.oldest = oldest(&gathered.found, &plan);
    Some(plan)
}

/// Of a snapshot that stays an earlier manifest may go.
fn stays(plan: &Plan, id: &ObjectId) -> bool {
    plan.decisions.iter().any(|d| d.snapshot == *id && matches!(d.fate, Fate::Keep(_)))
}

fn oldest(found: &Found, plan: &Plan) -> Option<Oldest> {
    let good: Vec<ObjectId> =
        found.standing.iter().filter(|s| !s.snapshot.is_quarantined()).map(|s| s.snapshot.id).collect();
    let decided = || plan.decisions.iter().filter(|d| good.contains(&d.snapshot));
    let kept = decided().filter(|d| matches!(d.fate, Fate::Keep(_)));
    Some(Oldest { before: decided().map(|d| d.taken).min()?, after: kept.map(|d| d.taken).min()? })
}

fn say_due(row: &mut SourceReport, due: &Due) {
    row.deleted = Tally { snapshots: due.snapshots.len(), packs: due.packs.len(), bytes: ByteLen::new(due.bytes) };
    row.waiting = Waiting {
        objects: due.waiting,
        bytes: ByteLen::new(due.waiting_bytes),
        until: due.waiting_until,
        locked: due.locked,
    };
    row.spared = due.spared.clone();
}

fn report(
    vault: &Vault,
    at: Moment,
    (sources, logs): (Vec<SourceReport>, LogReport),
    began: std::time::Duration,
) -> RetainReport {
    let clean = if logs.contradicted > 0 { Verdict::Partial } else { Verdict::Pass };
    let verdict = sources.iter().fold(clean, |all, row| all.and(row.verdict));
    let millis = vault.env.clock.uptime().saturating_sub(began).as_millis();
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    RetainReport { verdict, at, performed: false, record: None, sources, logs, stopped: None, millis }
}
