//! A backup: from a live database to a committed snapshot.
//!
//! Owns the order that makes it safe: packs are durable before the base is saved, the base before the
//! manifest, and the manifest is the commit. A crash before it leaves packs nobody refers to and at
//! most an empty branch, which the next run uses; a crash after it leaves a whole snapshot. Nothing
//! that was in the repository before is touched at any step.
//!
//! What this host writes down for its next run (the base, what it has seen) is worth less than the
//! snapshot: a state folder that takes no more is told in the report, and the commit goes on.
//!
//! Locks: the source's lock on this host for the whole run; the database's as `backstay-sqlite` says.

mod capture;
pub(crate) mod gather;
mod made;
pub(crate) mod opening;
mod report;
mod table;

pub(crate) use made::{FromLog, Written, make_of_log};
pub use report::{BackupReport, BaseUse, SpaceReport};

use crate::base::{Base, BaseFacts, NewBase};
use crate::catalog::Vault;
use crate::env::blocking;
use crate::state::SeenHead;
use crate::{Event, OpsError};
use backstay_format::FingerprintKey;
use backstay_format::facts::{self, Branch, BranchPoint, BranchReason, Engine, Role};
use backstay_model::backup::{BranchPlan, Lineage, Place};
use backstay_model::catalog::{Keep, Quality};
use backstay_model::prune::WRITER_DEADLINE_MILLIS;
use backstay_model::{BranchNo, ByteLen, Digest, Generation, Label, Moment, ObjectId, SourceName};
use backstay_sqlite::{Fixed, SqliteError};
use backstay_store::keys::SnapshotName;
use backstay_store::repo::{Chain, Draft, Repository, SealedBody, Signing};
use capture::Captured;
use gather::Gathered;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    pub source: SourceName,
    pub path: PathBuf,
    pub label: Option<Label>,
    pub keep: Option<Keep>,
    pub busy: Duration,
    pub hold_max: Duration,
    /// How far the application's write-ahead log may grow because the backup holds it.
    pub log_growth_max: ByteLen,
    pub malformed: Malformed,
    pub uploads_in_flight: usize,
}

/// What to do about a database that is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    Refuse,
    /// Keep it byte for byte, quarantined.
    CaptureAsIs,
}

/// What a backup will do. Made without writing anything.
#[derive(Debug, Clone)]
pub struct Plan {
    pub place: Place,
    /// Objects whose live units are stored again.
    pub leaving: std::collections::HashSet<ObjectId>,
}

/// What a run takes a snapshot of.
#[derive(Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// The database as it is now.
    Live,
    /// The same, and its log is followed from there.
    Follow(&'a dyn Begin),
    /// An old copy, as of then: it stands on the branch of imports and diverts nothing.
    Import { taken: Moment, of: &'a Path },
    /// A state that the log leads to: nothing of the database is looked at.
    Log(&'a FromLog),
}

impl Purpose<'_> {
    pub(crate) fn is_import(self) -> bool {
        matches!(self, Purpose::Import { .. })
    }
}

/// Who follows the source from the snapshot that a backup takes.
pub(crate) trait Begin: Sync {
    /// Asked while the capture holds its state, after everything of it was read: to hold the log as well.
    fn hold(&self, fixed: Fixed<'_>) -> Result<(), SqliteError>;
    /// How long the log may become before the capture lets its state go and compares it once more in the end.
    fn log_limit(&self) -> ByteLen;
    /// When the newest state known before was committed.
    fn not_before(&self) -> Option<Moment>;
    /// Whether it must not go on in this branch, because numbers of it were used that nobody knows.
    fn leaves(&self, branch: BranchNo) -> bool;
    /// What the snapshot says of the log after it.
    fn following(&self, branch: BranchNo, key: &FingerprintKey) -> facts::Following;
}

/// Backs up one source. The verdict is *stored*: the manifest is durable and everything it refers to
/// was durable before it.
pub async fn backup(vault: &Vault, request: &BackupRequest) -> Result<BackupReport, OpsError> {
    vault.signer(Role::Writer)?;
    let _lock = vault.state.lock(&request.source)?;
    take(vault, request, Purpose::Live).await
}

/// Takes a snapshot of what lies at the request's path. The caller holds the source's lock.
pub(crate) async fn take(
    vault: &Vault,
    request: &BackupRequest,
    purpose: Purpose<'_>,
) -> Result<BackupReport, OpsError> {
    let (began, start) = (vault.env.clock.now(), vault.env.clock.uptime());
    let (gathered, plan, mut captured) = capture_until_still(vault, request, purpose).await?;
    let id = vault.repo.fresh_id(vault.env.random.as_ref());
    let taken = match purpose {
        Purpose::Live => {
            let followed = crate::follow::last_time(vault, &request.source);
            never_back(captured.moment, gathered.newest_taken.max(followed))
        }
        Purpose::Follow(begin) => never_back(captured.moment, gathered.newest_taken.max(begin.not_before())),
        Purpose::Import { taken, of } => {
            captured.path = of.display().to_string();
            taken
        }
        Purpose::Log(of) => of.at,
    };
    let committing = Committing { id, taken, began, start, gathered, plan, captured, purpose };
    let report = commit(vault, request, committing).await;
    vault.env.tell(Event::Ended);
    report
}

/// Gathers, decides and captures until the file that was looked at is the one that was captured: a
/// database that is replaced meanwhile belongs on a branch of its own.
async fn capture_until_still(
    vault: &Vault,
    request: &BackupRequest,
    purpose: Purpose<'_>,
) -> Result<(Gathered, Plan, Captured), OpsError> {
    use backstay_sqlite::SqliteError::{PinLost, Replaced};
    let mut attempts = 3;
    loop {
        attempts -= 1;
        let gathered = gather::gather(vault, request, purpose).await?;
        let plan = gather::decide(&gathered, purpose)?;
        open_branch(vault, request, &plan, purpose).await?;
        match blocking(|| {
            capture::capture(vault, request, capture::Basis { gathered: &gathered, plan: &plan, purpose })
        }) {
            Ok(captured) if gathered.file == Some(captured.identity) => return Ok((gathered, plan, captured)),
            Ok(_) if attempts == 0 => return Err(Replaced { path: request.path.clone() }.into()),
            Ok(_) => {}
            Err(OpsError::Sqlite(Replaced { .. } | PinLost { .. })) if attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// How far ahead of the clock the newest snapshot may be and still be believed.
const AHEAD_MAX_MS: i64 = 24 * 3_600_000;

/// Time does not go back: a snapshot is not older than the one before it when a clock was set back. A
/// newest one from days ahead was taken by a clock that was wrong: going on from it would make every
/// time after it wrong too.
fn never_back(moment: Moment, newest: Option<Moment>) -> Moment {
    match newest {
        Some(newest) if moment <= newest && newest.millis_since(moment) <= AHEAD_MAX_MS => {
            Moment::from_millis(newest.as_millis() + 1).unwrap_or(newest)
        }
        _ => moment,
    }
}

async fn open_branch(
    vault: &Vault,
    request: &BackupRequest,
    plan: &Plan,
    purpose: Purpose<'_>,
) -> Result<(), OpsError> {
    let BranchPlan::Open { branch, parent, lineage } = plan.place.branch else { return Ok(()) };
    let (_, chain) = vault.repo.next_branch(&request.source).await?;
    let reason = match lineage {
        _ if purpose.is_import() => BranchReason::Imported,
        Lineage::Same => BranchReason::First,
        Lineage::Replaced => BranchReason::Replaced,
        Lineage::Takeover => BranchReason::Takeover,
        Lineage::Restored { .. } => BranchReason::RestoredInPlace,
    };
    let facts = Branch {
        source: request.source.clone(),
        branch,
        created: vault.env.clock.now(),
        engine: Engine::Sqlite,
        parent: parent.map(|(branch, position)| BranchPoint { branch, position }),
        reason,
    };
    let signing = Signing { key: vault.signer(Role::Writer)?, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    Ok(vault.repo.put_branch(facts, chain, signing).await?)
}

struct Committing<'a> {
    id: ObjectId,
    taken: Moment,
    began: Moment,
    /// The same by the clock of spans.
    start: Duration,
    gathered: Gathered,
    plan: Plan,
    captured: Captured,
    purpose: Purpose<'a>,
}

async fn commit(vault: &Vault, request: &BackupRequest, all: Committing<'_>) -> Result<BackupReport, OpsError> {
    let Committing { id, taken, began, start, gathered, plan, captured, purpose } = all;
    let table = table::build(gathered.base.as_ref(), &captured)?;
    let place = &plan.place;
    let following = match purpose {
        Purpose::Follow(begin) => Some(begin.following(place.branch.branch(), &captured.key)),
        Purpose::Log(of) => Some(of.following.clone()),
        Purpose::Live | Purpose::Import { .. } => None,
    };
    let manifest = facts::Manifest {
        source: request.source.clone(),
        branch: place.branch.branch(),
        position: place.position,
        taken,
        engine: Engine::Sqlite,
        root: captured.root,
        length: captured.length,
        added: ByteLen::new(captured.packed.stored_bytes),
        quality: captured.quality,
        imported: purpose.is_import(),
        label: request.label.clone(),
        keep: request.keep,
        following,
        rewritten: None,
    };
    let draft = Draft {
        id,
        facts: manifest.clone(),
        table: table.clone(),
        body: SealedBody { facts: captured.sealed_facts(&table), roots: captured.roots() },
        chain: Chain { sequence: place.sequence, previous: place.previous },
        signer: vault.signer(Role::Writer)?,
    };
    let (bytes, digest) = draft.seal(&captured.sealer, vault.env.random.as_ref());
    let mut unwritten = Unwritten::default();
    unwritten.note("base", save_base(vault, request, &captured, BaseOf { id, place, table: &table }));
    vault.env.cancel.check()?;
    check_base_still_there(vault, &gathered, None).await?;
    check_keys_still_hold(vault).await?;
    let head = SeenHead { sequence: place.sequence, digest };
    if !purpose.is_import() {
        let own = gathered.own.map_or(Digest::ZERO, |own| own.digest);
        unwritten.note("memory", remember_intent(vault, request, &captured, (own, head)));
    }
    let name = SnapshotName::first(request.source.clone(), place.sequence, id);
    let manifest_len = bytes.len() as u64;
    refuse_too_late(vault, start)?;
    vault.repo.put_fresh(&name.key(), bytes).await?;
    let committed = vault.env.clock.now();
    unwritten.note("memory", remember(vault, request, &captured, Committed { id, head }));
    refuse_rivals(vault, &name).await?;
    check_base_still_there(vault, &gathered, Some(id)).await?;
    // Asleep in the middle of the put, it may have stored a manifest whose packs were nobody's for too long.
    refuse_too_late(vault, start)?;
    unwritten.note("bundle", crate::bundles::make(vault, &request.source, place.sequence).await);
    Ok(report::make(report::Made {
        id,
        manifest,
        manifest_len,
        began,
        committed,
        table: &table,
        place: *place,
        base: gathered.base_use(),
        cache: unwritten.words(),
        captured,
    }))
}

/// What could not be written down for the next run, and why. It costs time or a branch, never data.
#[derive(Default)]
struct Unwritten(Vec<String>);

impl Unwritten {
    fn note(&mut self, what: &str, written: Result<(), OpsError>) {
        if let Err(error) = written {
            let words = format!("{what} not written: {}", crate::prove::with_causes(&error));
            if !self.0.contains(&words) {
                self.0.push(words);
            }
        }
    }

    fn words(self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("; "))
    }
}

struct BaseOf<'a> {
    id: ObjectId,
    place: &'a Place,
    table: &'a backstay_format::table::Table,
}

fn save_base(vault: &Vault, request: &BackupRequest, captured: &Captured, of: BaseOf<'_>) -> Result<(), OpsError> {
    // Only whole databases are built upon.
    let (Quality::Whole, [stream]) = (captured.quality, captured.streams.as_slice()) else { return Ok(()) };
    let facts = BaseFacts {
        manifest: of.id,
        sequence: of.place.sequence,
        generation: Generation::FIRST,
        root: captured.root,
        unit: stream.facts.unit,
        length: stream.facts.length,
        fingerprint: captured.fingerprint_facts(),
    };
    let dir = vault.state.source_dir(&request.source)?;
    let new = NewBase { facts, table: of.table, map: &stream.map.parts, fingerprints: &stream.fingerprints };
    let disk = vault.env.disk.as_ref();
    Base::save(disk, &dir, &new).inspect_err(|_| {
        let _ = Base::discard(disk, &dir, &of.id);
    })
}

/// A run this long may refer to what was condemned and deleted meanwhile: a prune waits no longer for it.
fn refuse_too_late(vault: &Vault, start: Duration) -> Result<(), OpsError> {
    let passed = vault.env.clock.uptime().saturating_sub(start).as_millis();
    let passed = i64::try_from(passed).unwrap_or(i64::MAX);
    const HOUR: i64 = 3_600_000;
    if passed < WRITER_DEADLINE_MILLIS {
        return Ok(());
    }
    Err(OpsError::TooSlow { hours: passed / HOUR, allowed: WRITER_DEADLINE_MILLIS / HOUR })
}

/// A prune may have taken what this snapshot builds on while it ran, or a later generation may stand in its place,
/// whose objects are the ones to refer to from now on; then it must not be committed. Looked at once more
/// after the commit, because that is when a prune began to see it.
async fn check_base_still_there(
    vault: &Vault,
    gathered: &Gathered,
    committed: Option<ObjectId>,
) -> Result<(), OpsError> {
    let Some(base) = &gathered.base_name else { return Ok(()) };
    let vanished = match vault.repo.store().head(&base.key()).await? {
        // What is committed is complete all the same, and the next one builds on it.
        Some(_) => committed.is_none() && vault.repo.is_superseded(base).await?,
        None => true,
    };
    if vanished { Err(OpsError::BaseVanished { manifest: base.id, committed }) } else { Ok(()) }
}

/// The keys may have been changed meanwhile: nothing is committed that is sealed to a master of before, or
/// signed by a key that was removed.
async fn check_keys_still_hold(vault: &Vault) -> Result<(), OpsError> {
    if !vault.repo.is_outdated().await? {
        return Ok(());
    }
    let repo = &vault.repo;
    let newest = Repository::open(repo.store().clone(), repo.root(), Some(repo.seen())).await?;
    let signer = vault.signer(Role::Writer)?.public();
    let holds = newest.conf().master == repo.conf().master && newest.allows(&signer, Role::Writer);
    if holds { Ok(()) } else { Err(OpsError::KeysChanged) }
}

struct Committed {
    id: ObjectId,
    head: SeenHead,
}

/// Before the commit: the branch for this file is open, and a run that died between the commit and
/// this would make the next one take the file for another once more and open a second branch.
fn remember_intent(
    vault: &Vault,
    request: &BackupRequest,
    captured: &Captured,
    (tip, head): (Digest, SeenHead),
) -> Result<(), OpsError> {
    vault.state.update(&request.source, |seen| {
        seen.file = Some(captured.identity);
        seen.restored = None;
        // The tip stays too: if this commit does not happen, it is still that.
        seen.written.retain(|written| written.digest == tip);
        seen.written.push(head);
    })?;
    Ok(())
}

fn remember(vault: &Vault, request: &BackupRequest, captured: &Captured, committed: Committed) -> Result<(), OpsError> {
    vault.state.update(&request.source, |seen| {
        // A check that ran beside us may have seen a newer one already.
        if seen.head.is_none_or(|head| head.sequence <= committed.head.sequence) {
            seen.head = Some(committed.head);
        }
        seen.suspects.retain(|object| captured.live.contains_key(object));
    })?;
    if captured.quality == Quality::Whole {
        let dir = vault.state.source_dir(&request.source)?;
        Base::sweep(vault.env.disk.as_ref(), &dir, &committed.id);
    }
    Ok(())
}

/// Two writers that committed the same number have forked the history; both snapshots stay.
async fn refuse_rivals(vault: &Vault, name: &SnapshotName) -> Result<(), OpsError> {
    let newest = vault.repo.newest_names(&name.source, 16).await?;
    let rival = newest.into_iter().find(|other| other.sequence == name.sequence && other.id != name.id);
    rival.map_or(Ok(()), |rival| Err(OpsError::Rival { source_name: name.source.clone(), rival: rival.id }))
}
