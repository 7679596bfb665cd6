//! Proof: a snapshot restored from the repository to a private file and questioned.
//!
//! Only what came back from the repository is looked at, never what was captured; the digest it is
//! compared with is the one in the signed manifest. *Proven* is marked after everything held, and
//! *quarantined* when the bytes or the database did not; when it could not be found out, neither. Neither
//! when a sound copy does not answer as its owner expects: that is a fact of the application, and
//! `latest` must go on working. Before a quarantine, which is for ever, the private copy is read again:
//! a disk here that lost some of it says nothing about what is stored.
//!
//! A crash leaves a file named `proof-…` in the proof folder, which the next proof removes because nobody
//! holds its lock any more; one that another process is using is left alone.

use crate::catalog::{Catalog, Vault};
use crate::disk::{self, At, DiskFile};
use crate::leftovers;
use crate::log::{self, LogPoint, Onto};
use crate::materialize::{self, Target};
use crate::{Event, OpsError};
use backstay_format::FingerprintKey;
use backstay_format::facts::{Mark, Role};
use backstay_format::sqlite::DatabaseHeader;
use backstay_model::catalog::{MarkKind, Quality, Snapshot};
use backstay_model::{ByteLen, Kind, Kinded, Moment, ObjectId, SourceName, Verdict};
use backstay_sqlite::{Answers, Questions};
use backstay_store::repo::{ManifestFront, Signing, SnapshotReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is to be proven, and how.
#[derive(Debug, Clone)]
pub struct ProofRequest {
    pub source: SourceName,
    pub snapshot: ObjectId,
    pub questions: Questions,
    /// Where the private copy goes; it needs as much room as the database.
    pub folder: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ProofReport {
    pub snapshot: ObjectId,
    pub outcome: ProofOutcome,
    pub millis: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "proof", rename_all = "kebab-case")]
pub enum ProofOutcome {
    Proven {
        answers: Answers,
    },
    /// Restored, but not what it should be; quarantined unless only its answers are at fault.
    Failed {
        cause: Cause,
        reason: String,
        answers: Option<Answers>,
    },
    /// This host holds no identity, or may not mark.
    NotPossible {
        why: String,
    },
    /// It would not have fitted.
    Skipped {
        needed: ByteLen,
        free: ByteLen,
    },
    /// Something outside failed; the snapshot may be fine.
    Inconclusive {
        reason: String,
    },
}

/// What a failed proof failed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// What came back is not what was captured, or did not come back.
    Content,
    /// It is what was captured, and SQLite finds it damaged.
    Unsound,
    /// It is sound, and references or a smoke query do not hold.
    Answer,
}

impl Cause {
    /// Whether the snapshot itself is at fault.
    fn quarantines(self) -> bool {
        match self {
            Cause::Content | Cause::Unsound => true,
            Cause::Answer => false,
        }
    }
}

impl ProofOutcome {
    pub fn verdict(&self) -> Verdict {
        match self {
            ProofOutcome::Proven { .. } | ProofOutcome::NotPossible { .. } => Verdict::Pass,
            ProofOutcome::Failed { .. } => Verdict::Fail,
            ProofOutcome::Skipped { .. } => Verdict::Partial,
            ProofOutcome::Inconclusive { .. } => Verdict::Inconclusive,
        }
    }
}

/// Room asked for beyond the database itself.
const MARGIN: u64 = 64 << 20;

pub async fn prove(vault: &Vault, request: &ProofRequest) -> Result<ProofReport, OpsError> {
    report(vault, request, Marking::Put).await
}

/// The same without a word left in the repository: what a copy answers is no fact about the snapshots.
pub async fn try_out(vault: &Vault, request: &ProofRequest) -> Result<ProofReport, OpsError> {
    report(vault, request, Marking::Leave).await
}

/// Whether what came of a proof is marked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marking {
    Put,
    Leave,
}

async fn report(vault: &Vault, request: &ProofRequest, marking: Marking) -> Result<ProofReport, OpsError> {
    let began = vault.env.clock.now();
    // The snapshot is stored whatever happens here: what stops its proof is said, not thrown.
    let outcome = match outcome(vault, request, marking).await {
        Err(error) if !matches!(error, OpsError::Cancelled | OpsError::NoPoint(_)) => {
            ProofOutcome::Inconclusive { reason: with_causes(&error) }
        }
        other => other?,
    };
    vault.env.tell(Event::Ended);
    let millis = vault.env.clock.now().millis_since(began).max(0) as u64;
    Ok(ProofReport { snapshot: request.snapshot, outcome, millis })
}

async fn outcome(vault: &Vault, request: &ProofRequest, marking: Marking) -> Result<ProofOutcome, OpsError> {
    if vault.unsealer.is_none() {
        return Ok(ProofOutcome::NotPossible { why: "this host holds no master identity".into() });
    }
    if marking == Marking::Put && vault.signer(Role::Reader).is_err() {
        return Ok(ProofOutcome::NotPossible { why: "this host's signing key is not enrolled as a reader".into() });
    }
    let catalog = vault.recalled_by_name(&request.source).await?;
    let Some(front) = catalog.front(&request.snapshot).cloned() else {
        return Err(backstay_model::catalog::NoPoint::UnknownId { id: request.snapshot.to_string() }.into());
    };
    disk::create_dirs(vault.env.disk.as_ref(), &request.folder)?;
    leftovers::sweep(vault.env.disk.as_ref(), &request.folder);
    let (needed, free) = (front.facts.length.get() + MARGIN, disk::free_bytes(&request.folder)?);
    if free < needed {
        return Ok(ProofOutcome::Skipped { needed: ByteLen::new(needed), free: ByteLen::new(free) });
    }
    let outcome = match restored_and_questioned(vault, request, (&catalog, &front)).await {
        Ok(outcome) => outcome,
        Err(error) => match error.kind() {
            Kind::Corrupt => ProofOutcome::Failed { cause: Cause::Content, reason: with_causes(&error), answers: None },
            Kind::Cancelled => return Err(error),
            _ => ProofOutcome::Inconclusive { reason: with_causes(&error) },
        },
    };
    if marking == Marking::Put {
        mark(vault, &catalog, &front, &outcome).await?;
    }
    Ok(outcome)
}

async fn restored_and_questioned(
    vault: &Vault,
    request: &ProofRequest,
    (catalog, front): (&Catalog, &ManifestFront),
) -> Result<ProofOutcome, OpsError> {
    let manifest = vault.repo.manifest(&front.name).await?;
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let bytes = Some(front.facts.length.get());
    vault.env.tell(Event::Began { source: request.source.clone(), what: "proving", bytes });
    let private = Private::create(vault, &request.folder, &front.name.id)?;
    private.write(&reader).await?;
    let captured = reader.body().facts.engine.get("schema_digest").and_then(|v| v.as_str()).map(str::to_owned);
    // One that was made of the log was never opened by whoever made it.
    let is_captured = front.facts.made().is_none();
    let standing = crate::env::blocking(|| standing_otherwise(&reader, &private.path))?;
    let outcome = match (standing, vault.env.question(&private.path, &request.questions)) {
        (Some(page), _) => {
            let reason = format!("page {page} that stands in the manifest is not the one that was captured");
            ProofOutcome::Failed { cause: Cause::Content, reason, answers: None }
        }
        (None, Ok(answers)) => judge(front, (answers, is_captured.then_some(captured))),
        (None, Err(error)) if error.kind() == Kind::Corrupt => {
            ProofOutcome::Failed { cause: Cause::Unsound, reason: with_causes(&error), answers: None }
        }
        (None, Err(error)) => return Err(error),
    };
    match outcome {
        ProofOutcome::Failed { cause, .. } if cause.quarantines() => {
            let wanted = reader.manifest().front.facts.root;
            Ok(match crate::env::blocking(|| materialize::root_of_file(&reader, &private.path)) {
                Ok(found) if found == wanted => outcome,
                Ok(_) => {
                    let reason = "the disk of the proof folder did not give back what was written to it".to_owned();
                    ProofOutcome::Inconclusive { reason }
                }
                Err(error) => ProofOutcome::Inconclusive { reason: with_causes(&error) },
            })
        }
        ProofOutcome::Proven { .. } if !is_captured => {
            drop(private);
            match is_of_its_log(vault, request, (catalog, front), &reader).await? {
                Some(false) => {
                    let reason = "it is not the state that the log before it leads to".to_owned();
                    Ok(ProofOutcome::Failed { cause: Cause::Content, reason, answers: None })
                }
                Some(true) => Ok(outcome),
                // It was compared when it was proven for the first time: only then may the log before it go.
                None if is_proven(catalog, front) => Ok(outcome),
                None => {
                    let reason =
                        "the log that it was made of cannot be read, so that the two cannot be compared".to_owned();
                    Ok(ProofOutcome::Inconclusive { reason })
                }
            }
        }
        outcome => Ok(outcome),
    }
}

/// A page that stands in the manifest, for those who ask, and is not what was restored.
fn standing_otherwise(reader: &SnapshotReader, restored: &Path) -> Result<Option<u32>, OpsError> {
    let pages = reader.body().facts.opening.iter().flat_map(|opening| &opening.pages);
    let (file, len) = (std::fs::File::open(restored).at("open", restored)?, reader.manifest().front.facts.length);
    let mut head = [0; 100];
    if len.get() < head.len() as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, 0).at("read", restored)?;
    // What is no database is found out by the questions.
    let Ok(header) = DatabaseHeader::parse(&head, len) else { return Ok(None) };
    let size = header.page_size.bytes();
    for page in pages {
        let offset = u64::from(page.page).saturating_sub(1) * size;
        // Nobody reads past the end.
        if offset + size > len.get() {
            continue;
        }
        let (mut there, mut said) = (vec![0; size as usize], vec![0; size as usize]);
        file.read_exact_at(&mut there, offset).at("read", restored)?;
        if page.fill(&mut said).is_none() || there != said {
            return Ok(Some(page.page));
        }
    }
    Ok(None)
}

fn is_proven(catalog: &Catalog, front: &ManifestFront) -> bool {
    catalog.snapshots.iter().any(|snapshot| snapshot.id == front.name.id && snapshot.is_proven())
}

/// Whether a snapshot that was made of a log is the state that the log leads to from a snapshot before it that was
/// captured, or was compared itself. `None` where that cannot be had any more.
async fn is_of_its_log(
    vault: &Vault,
    request: &ProofRequest,
    (catalog, front): (&Catalog, &ManifestFront),
    reader: &SnapshotReader,
) -> Result<Option<bool>, OpsError> {
    let Some(following) = &front.facts.following else { return Ok(None) };
    let (branch, number, tx) = (front.facts.branch, front.name.sequence, following.tx);
    // What nobody compared may have the same wrong page, and so agree.
    let stands = |s: &Snapshot| s.made_of.is_none() || s.is_proven();
    let before = catalog.followed().into_iter().find(|s| s.branch == branch && s.sequence < number && stands(s));
    let Some(base) = before.and_then(|snapshot| catalog.front(&snapshot.id)) else { return Ok(None) };
    let Some(from) = base.facts.following.as_ref().filter(|from| from.tx <= tx) else { return Ok(None) };
    let reached = log::reach(&vault.repo, base, from).await?;
    if reached.tx < tx {
        return Ok(None);
    }
    let links: Vec<_> = reached.links.into_iter().filter(|link| link.span.first <= tx).collect();
    let point = LogPoint { tx, at: front.facts.taken, next: None, objects: links.len(), links };
    let manifest = vault.repo.manifest(&base.name).await?;
    let of_base = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let private = Private::create(vault, &request.folder, &base.name.id)?;
    let led = async {
        private.write(&of_base).await?;
        let secret = &of_base.body().facts.fingerprint;
        let key = FingerprintKey::new(secret.id, *secret.key.as_bytes());
        let onto = Onto { file: private.file.as_ref(), path: &private.path };
        let chain = log::apply(vault, &point, (base.facts.chain(), &key), &onto).await?;
        let length = ByteLen::new(std::fs::metadata(&private.path).at("look at", &private.path)?.len());
        if (chain, length) != (front.facts.chain(), front.facts.length) {
            return Ok(false);
        }
        let root = crate::env::blocking(|| materialize::root_of_file(reader, &private.path))?;
        Ok::<_, OpsError>(root == front.facts.root)
    };
    match led.await {
        Ok(same) => Ok(Some(same)),
        // What is damaged there says nothing of this one.
        Err(error) if error.kind() == Kind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// The private copy; removed whatever happens.
struct Private<'a> {
    vault: &'a Vault,
    path: PathBuf,
    /// Held as long as the copy is there.
    file: Box<dyn DiskFile>,
}

impl<'a> Private<'a> {
    fn create(vault: &'a Vault, folder: &Path, snapshot: &ObjectId) -> Result<Self, OpsError> {
        let tag = vault.repo.fresh_id(vault.env.random.as_ref()).short();
        let path = folder.join(leftovers::proof_name(&tag, snapshot));
        let file = leftovers::create(vault.env.disk.as_ref(), &path)?;
        Ok(Self { vault, path, file })
    }

    async fn write(&self, reader: &SnapshotReader) -> Result<(), OpsError> {
        let spool = disk::folder_of(&self.path);
        let target = Target { file: self.file.as_ref(), path: &self.path, spool };
        if reader.manifest().front.facts.quality != Quality::Whole {
            return Err(OpsError::Unsound { problem: "the source was malformed when it was captured".into() });
        }
        materialize::write_verified(&self.vault.env, reader, &[target]).await
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        let _ = self.vault.env.disk.remove(&self.path);
    }
}

/// `captured`: the schema it was captured with, where it was looked at.
fn judge(front: &ManifestFront, (answers, captured): (Answers, Option<Option<String>>)) -> ProofOutcome {
    debug_assert_eq!(front.facts.quality, Quality::Whole);
    let schema = answers.schema_digest.map(|digest| digest.to_string());
    if schema.is_some() && captured.is_some_and(|captured| captured != schema) {
        let reason = "its schema is not the one that was captured".to_owned();
        return ProofOutcome::Failed { cause: Cause::Content, reason, answers: Some(answers) };
    }
    match answers.verdict() {
        Verdict::Pass => ProofOutcome::Proven { answers },
        Verdict::Inconclusive => ProofOutcome::Inconclusive { reason: first_problem(&answers) },
        _ => {
            let cause = if answers.is_unsound() { Cause::Unsound } else { Cause::Answer };
            ProofOutcome::Failed { cause, reason: first_problem(&answers), answers: Some(answers) }
        }
    }
}

/// The first thing that did not hold, in words.
fn first_problem(answers: &Answers) -> String {
    use backstay_sqlite::question::{ForeignKeysAnswer, IntegrityAnswer};
    match (&answers.integrity, &answers.foreign_keys) {
        (IntegrityAnswer::Problems { problems, .. }, _) => {
            format!("SQLite's integrity check: {}", problems.first().map_or("a problem", String::as_str))
        }
        (IntegrityAnswer::Inconclusive { reason }, _) => format!("SQLite could not check it: {reason}"),
        (_, ForeignKeysAnswer::Violations { tables, .. }) if answers.foreign_keys_required => {
            let (table, count) = tables.iter().next().map_or(("?", 0), |(t, n)| (t.as_str(), *n));
            format!("{count} rows of table {table} refer to rows that do not exist")
        }
        (_, ForeignKeysAnswer::Inconclusive { reason }) if answers.foreign_keys_required => {
            format!("foreign keys could not be checked: {reason}")
        }
        _ => answers.smoke.iter().find(|smoke| !smoke.passed).map_or_else(
            || "its schema cannot be read".to_owned(),
            |smoke| {
                let said = smoke.error.as_deref().or(smoke.value.as_deref()).unwrap_or("nothing");
                format!("the smoke query {:?} gave {said}", smoke.query)
            },
        ),
    }
}

async fn mark(vault: &Vault, catalog: &Catalog, front: &ManifestFront, outcome: &ProofOutcome) -> Result<(), OpsError> {
    let kind = match outcome {
        ProofOutcome::Proven { .. } => MarkKind::Proven,
        ProofOutcome::Failed { cause, .. } if cause.quarantines() => MarkKind::Quarantined,
        _ => return Ok(()),
    };
    let evidence = serde_json::to_value(outcome).expect("a report can be written as JSON");
    put_mark(vault, catalog, About { front, kind, releases: None, evidence, at: vault.env.clock.now() }).await
}

/// A mark to be put on a snapshot.
pub(crate) struct About<'a> {
    pub front: &'a ManifestFront,
    pub kind: MarkKind,
    /// The hold it takes back.
    pub releases: Option<ObjectId>,
    pub evidence: serde_json::Value,
    pub at: Moment,
}

pub(crate) async fn put_mark(vault: &Vault, catalog: &Catalog, about: About<'_>) -> Result<(), OpsError> {
    // A keeper may hold and release too.
    let signer = vault.signer(Role::Reader).or_else(|_| vault.signer(Role::Keeper))?;
    let mark = Mark {
        source: about.front.name.source.clone(),
        snapshot: about.front.name.id,
        kind: about.kind,
        root: about.front.facts.root,
        at: about.at,
        releases: about.releases,
        evidence: about.evidence,
    };
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    Ok(vault.repo.put_mark(mark, catalog.next_mark(&signer.public())?, signing).await?)
}

/// An error and its causes as one sentence.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
