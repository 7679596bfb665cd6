//! Restoring: a snapshot becomes a file, beside everything else or in place of the live database.
//!
//! Planning writes nothing. Performing writes under a private name, compares the digest, asks the
//! smoke queries, and only then gives the file its name. Nothing that was there is overwritten: what
//! stands in the way of a new file stops the restore, and what an in-place restore replaces is kept
//! under a name. A crash leaves a private file named `.NAME.backstay-…`, which the next restore into that
//! folder removes, or the finished restore.

mod live;
mod swap;

pub use swap::Kept;
pub(crate) use swap::{beside, into_new, siblings};

use crate::catalog::{Catalog, Vault};
use crate::disk::{self, At, DiskFile};
use crate::leftovers;
use crate::log::{self, LogPoint, Onto, Resolved};
use crate::materialize::{self, Target};
use crate::prove::with_causes;
use crate::{Event, OpsError};
use backstay_format::facts::{FingerprintFacts, Stream};
use backstay_format::{Corrupt, FingerprintKey};
use backstay_model::catalog::{self, Quality, Snapshot};
use backstay_model::{ByteLen, Digest, Moment, ObjectId, SourceName};
use backstay_sqlite::question::{IntegrityAnswer, SmokeAnswer, SmokeState};
use backstay_sqlite::{Exchanged, ForeignKeys, Holders, Integrity, Questions};
use backstay_store::keys::SnapshotName;
use backstay_store::repo::{Manifest, ManifestFront, RepoError, SnapshotReader};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    pub source: SourceName,
    pub target: catalog::Target,
    pub into: Destination,
    /// Asked of the restored copy before it gets its name.
    pub smoke: Vec<String>,
    /// How long to wait for others to let go of a live database.
    pub busy: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file that must not exist yet.
    New(PathBuf),
    /// The live database at this path, which is kept under another name.
    InPlace(PathBuf),
    /// The same while it is in use: one transaction writes what differs, and the old state is kept under
    /// another name.
    Live(PathBuf),
}

impl Destination {
    pub fn path(&self) -> &Path {
        match self {
            Destination::New(path) | Destination::InPlace(path) | Destination::Live(path) => path,
        }
    }
}

/// What will be done, and what is known about it beforehand.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RestorePlan {
    pub source: SourceName,
    pub snapshot: ObjectId,
    pub taken: Moment,
    /// The state inside the log that is led to from the snapshot.
    pub log: Option<LogPoint>,
    /// How much older than the instant asked for the restore point is.
    pub distance_millis: Option<i64>,
    pub proven: bool,
    pub quarantined: bool,
    pub to: PathBuf,
    pub in_place: bool,
    /// Into the database while it is in use.
    pub live: bool,
    pub length: ByteLen,
    pub to_fetch: ByteLen,
    pub free: ByteLen,
    pub objects: usize,
    /// Who has the live database open, as far as can be seen; for a restore in place.
    pub holders: Option<Holders>,
    /// What stands beside a new file and would be taken for its log.
    pub moved_aside: Vec<PathBuf>,
    /// Newer manifests that cannot be verified or read, and so were not chosen.
    pub passed_over: Vec<PassedOver>,
    /// Why the log ends where it does, if more follows that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_fault: Option<String>,
}

/// A snapshot that may hold what was asked for, and cannot be used.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PassedOver {
    pub id: ObjectId,
    pub sequence: u64,
    pub problem: String,
}

/// A plan and all that performing it needs.
pub struct Planned {
    pub plan: RestorePlan,
    manifest: Manifest,
    snapshot: Snapshot,
    request: RestoreRequest,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct RestoreReport {
    pub plan: RestorePlan,
    pub files: Vec<PathBuf>,
    pub kept: Vec<Kept>,
    /// What a restore into the live database wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchanged: Option<Exchanged>,
    pub smoke: Vec<SmokeAnswer>,
    pub millis: u64,
    /// What could not be found out about who uses the database.
    pub unseen: Vec<String>,
}

/// Looks at everything and decides. Writes nothing.
pub async fn plan(vault: &Vault, request: RestoreRequest) -> Result<Planned, OpsError> {
    let mut catalog = vault.recalled(&request.source, None).await?;
    let Resolved { snapshot, log, fault } = log::resolve(vault, &mut catalog, &request.target).await?;
    let front = catalog.front(&snapshot.id).expect("every snapshot of a catalog has its front");
    let manifest = vault.repo.manifest(&front.name).await?;
    let in_place = matches!(request.into, Destination::InPlace(_));
    let live = matches!(request.into, Destination::Live(_));
    if (in_place || live) && snapshot.quality != Quality::Whole {
        let problem = "a byte-for-byte capture of a malformed database is restored to a new file only".into();
        return Err(OpsError::Unsound { problem });
    }
    let to = place_of(&request.into)?;
    let folder = disk::folder_of(&to).to_owned();
    if !folder.is_dir() {
        return Err(OpsError::NoFolder { path: folder });
    }
    // What a crash left there is removed before anything is written.
    let free = disk::free_bytes(&folder)? + leftovers::bytes(&folder);
    if free < snapshot.length.get() {
        return Err(OpsError::NoRoom { path: folder, needed: snapshot.length, free: ByteLen::new(free) });
    }
    if !in_place && !live && to.symlink_metadata().is_ok() {
        return Err(OpsError::TargetExists { path: to });
    }
    let distance_millis = match &request.target {
        catalog::Target::At(at) | catalog::Target::Nearest(at) => {
            Some(at.millis_since(log.as_ref().map_or(snapshot.taken, |log| log.at)))
        }
        _ => None,
    };
    let passed_over = match request.target {
        // Who named a snapshot did not ask for the newest.
        catalog::Target::Id(_) => Vec::new(),
        _ => passed_over(&catalog, &snapshot),
    };
    let holders = ((in_place || live) && to.exists()).then(|| backstay_sqlite::holders(&to));
    let plan = RestorePlan {
        source: request.source.clone(),
        snapshot: snapshot.id,
        taken: snapshot.taken,
        log,
        distance_millis,
        proven: snapshot.is_proven(),
        quarantined: snapshot.is_quarantined(),
        moved_aside: if in_place || live { Vec::new() } else { swap::siblings(&to) },
        to,
        in_place,
        live,
        length: snapshot.length,
        to_fetch: ByteLen::new(manifest.table.refs().iter().map(|r| r.stored).sum()),
        free: ByteLen::new(free),
        objects: manifest.table.refs().len(),
        holders,
        passed_over,
        log_fault: fault,
    };
    Ok(Planned { plan, manifest, snapshot, request })
}

fn passed_over(catalog: &Catalog, chosen: &Snapshot) -> Vec<PassedOver> {
    let one = |(name, error): &(SnapshotName, RepoError)| PassedOver {
        id: name.id,
        sequence: name.sequence.get(),
        problem: with_causes(error),
    };
    catalog.broken_above(chosen).map(one).collect()
}

/// Where the file goes. The live database is the file itself and not a link to it: what is written
/// beside it must lie on its file system, and be renamed over it and not over the link.
fn place_of(into: &Destination) -> Result<PathBuf, OpsError> {
    let to = std::path::absolute(into.path()).at("find", into.path())?;
    if matches!(into, Destination::New(_)) {
        return Ok(to);
    }
    match to.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !to.is_symlink() => Ok(to),
        other => Ok(other.at("find", &to)?),
    }
}

/// Does exactly what was planned.
pub async fn perform(vault: &Vault, planned: Planned) -> Result<RestoreReport, OpsError> {
    let began = vault.env.clock.now();
    let Whole { staged, smoke, plan, snapshot, request, .. } = write_whole(vault, planned).await?;
    let mut exchanged = None;
    let (kept, unseen) = match &request.into {
        Destination::New(_) => (swap::into_new(vault, &staged, &plan.to)?, Vec::new()),
        Destination::Live(_) => {
            let (done, kept) = crate::env::blocking(|| live::exchange(vault, &staged, &plan.to, request.busy))?;
            exchanged = Some(done);
            (kept, Vec::new())
        }
        Destination::InPlace(_) => {
            let into = swap::Live { to: &plan.to, busy: request.busy, snapshot: &snapshot, source: &request.source };
            crate::env::blocking(|| swap::in_place(vault, &staged, into))?
        }
    };
    vault.env.tell(Event::Ended);
    let files = staged.streams.iter().map(|s| swap::beside(&plan.to, s.suffix)).collect();
    let millis = vault.env.clock.now().millis_since(began).max(0) as u64;
    Ok(RestoreReport { plan, files, kept, exchanged, smoke, millis, unseen })
}

/// What was planned, whole and looked at, under private names.
pub(crate) struct Whole<'a> {
    pub staged: Staged<'a>,
    pub smoke: Vec<SmokeAnswer>,
    pub plan: RestorePlan,
    pub snapshot: Snapshot,
    pub request: RestoreRequest,
    pub front: ManifestFront,
    pub fingerprint: FingerprintFacts,
    /// The digest that stands for the snapshot and all of its log up to the state.
    pub chain: Digest,
}

pub(crate) async fn write_whole(vault: &Vault, planned: Planned) -> Result<Whole<'_>, OpsError> {
    let Planned { plan, manifest, snapshot, request } = planned;
    let front = manifest.front.clone();
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let source = request.source.clone();
    vault.env.tell(Event::Began { source, what: "restoring", bytes: Some(plan.length.get()) });
    let staged = Staged::write(vault, &reader, &plan.to).await?;
    let fingerprint = reader.body().facts.fingerprint.clone();
    let led = plan.log.as_ref().filter(|log| !log.links.is_empty());
    let mut chain = front.facts.chain();
    if let Some(log) = led {
        let key = FingerprintKey::new(fingerprint.id, *fingerprint.key.as_bytes());
        let main = staged.main();
        chain = log::apply(vault, log, (chain, &key), &Onto { file: main.file.as_ref(), path: &main.path }).await?;
    }
    let of_log = led.is_some() || front.facts.made().is_some();
    let smoke = ask_smoke(vault, &staged, &snapshot, (&request, of_log))?;
    Ok(Whole { staged, smoke, plan, snapshot, request, front, fingerprint, chain })
}

/// The restored streams under private names; what is left of them is removed whatever happens.
pub(crate) struct Staged<'a> {
    vault: &'a Vault,
    streams: Vec<StagedStream>,
}

pub(crate) struct StagedStream {
    pub path: PathBuf,
    /// What the stream's file is called after the target's name: nothing, `-wal` or `-journal`.
    suffix: &'static str,
    /// Held as long as the private name is in use.
    pub file: Box<dyn DiskFile>,
}

impl StagedStream {
    /// Fails when the private name leads to another file by now: in a folder that others write to,
    /// theirs must not be taken for what was restored.
    fn still_there(&self) -> Result<(), OpsError> {
        let is_ours = self.file.is_at(&self.path).at("look at", &self.path)?;
        let other = || io::Error::other("somebody took the restored file away from its private name");
        Ok(is_ours.then_some(()).ok_or_else(other).at("name", &self.path)?)
    }
}

impl<'a> Staged<'a> {
    async fn write(vault: &'a Vault, reader: &SnapshotReader, to: &Path) -> Result<Self, OpsError> {
        let mut staged = Self { vault, streams: Vec::new() };
        leftovers::sweep(vault.env.disk.as_ref(), disk::folder_of(to));
        let tag = vault.repo.fresh_id(vault.env.random.as_ref()).short();
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for suffix in suffixes(&reader.body().facts.streams)? {
            let path = to.with_file_name(leftovers::staged_name(&name, &tag) + suffix);
            let file = leftovers::create(vault.env.disk.as_ref(), &path)?;
            staged.streams.push(StagedStream { path, suffix, file });
        }
        let spool = disk::folder_of(to);
        let streams = staged.streams.iter();
        let targets: Vec<Target<'_>> =
            streams.map(|s| Target { file: s.file.as_ref(), path: &s.path, spool }).collect();
        materialize::write_verified(&vault.env, reader, &targets).await?;
        for stream in &staged.streams {
            crate::env::blocking(|| stream.file.sync()).at("sync", &stream.path)?;
        }
        Ok(staged)
    }

    pub(crate) fn main(&self) -> &StagedStream {
        self.streams.first().expect("the first stream is main: `suffixes` sees to it")
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        for stream in &self.streams {
            let _ = self.vault.env.disk.remove(&stream.path);
        }
    }
}

/// What each stream's file is called after the target's name.
pub(crate) fn suffixes(streams: &[Stream]) -> Result<Vec<&'static str>, OpsError> {
    let mut suffixes: Vec<&'static str> = Vec::new();
    for stream in streams {
        let suffix = suffix_of(&stream.name)?;
        if suffixes.is_empty() != suffix.is_empty() || suffixes.contains(&suffix) {
            suffixes.clear();
            break;
        }
        suffixes.push(suffix);
    }
    let rule = Corrupt::Rule { what: "a manifest", rule: "the first stream is main, and each is there once" };
    if suffixes.is_empty() { Err(rule.into()) } else { Ok(suffixes) }
}

/// Stream names come from a signed manifest, but they become file names: only known ones do.
fn suffix_of(stream: &str) -> Result<&'static str, OpsError> {
    match stream {
        "main" => Ok(""),
        "wal" => Ok("-wal"),
        "journal" => Ok("-journal"),
        _ => Err(Corrupt::Rule { what: "a stream", rule: "it is main, wal or journal" }.into()),
    }
}

fn ask_smoke(
    vault: &Vault,
    staged: &Staged<'_>,
    snapshot: &Snapshot,
    (request, has_log): (&RestoreRequest, bool),
) -> Result<Vec<SmokeAnswer>, OpsError> {
    // A state that was put together from a log is looked at whether or not anybody asks.
    if request.smoke.is_empty() && !has_log || snapshot.quality != Quality::Whole {
        return Ok(Vec::new());
    }
    let questions = Questions {
        integrity: Integrity::Quick,
        foreign_keys: ForeignKeys::Off,
        smoke: request.smoke.clone(),
        limit: Questions::USUAL_LIMIT,
    };
    let answers = vault.env.question(&staged.main().path, &questions)?;
    // Whoever names a quarantined one knows that something is wrong with it, and wants what is left.
    let is_known_bad = snapshot.is_quarantined() && matches!(request.target, catalog::Target::Id(_));
    if let IntegrityAnswer::Problems { problems, .. } = &answers.integrity
        && !is_known_bad
    {
        let problem = problems.first().map_or("SQLite found a problem", String::as_str).to_owned();
        return Err(OpsError::Unsound { problem });
    }
    let is_let_be = |smoke: &SmokeAnswer| is_known_bad && smoke.state == SmokeState::NotAsked;
    match answers.smoke.iter().find(|smoke| !smoke.passed && !is_let_be(smoke)) {
        None => Ok(answers.smoke),
        Some(smoke) => {
            let outcome = smoke.error.clone().or_else(|| smoke.value.clone());
            let outcome = outcome.unwrap_or_else(|| "nothing".to_owned());
            Err(OpsError::Smoke { query: smoke.query.clone(), outcome })
        }
    }
}
