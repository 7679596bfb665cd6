//! Scrub: every object the repository lists is read and compared with what was signed, what nothing refers to
//! and what is missing is named, and what a copy still has whole is brought back from there.
//!
//! Owns the order that makes bringing back safe. Bytes are verified against signed facts before anything is
//! done with them. Where nothing stands they are put, unless something stands there by then. Where other bytes
//! stand, the good ones are first put beside, under a *spare* name that says which object they belong to, and
//! read back; then what is damaged is deleted, the good bytes are put in its place and read back, and the spare
//! goes last. So at every instant the repository itself holds the good bytes, and a crash leaves a spare, which
//! `status` names and the next scrub finishes from, with or without a copy. A spare is not believed: its bytes are
//! compared with what was signed like any others. Prune and scrub take turns by the same lease.
//!
//! Must never: delete bytes that some verified manifest names, replace what a writer may be about to take the
//! name of, put back what a prune has deleted, quarantine what it may still bring back.

mod heal;
mod look;
mod report;

pub use report::{Healed, Kept, ScrubReport, Stray, StrayKind, TallyOfKind, Unhealed};

use crate::catalog::Vault;
use crate::check::{self, CheckReport, CheckRequest, Depth, Examined, Marking, Problem, Scope};
use crate::prove::{About, put_mark};
use crate::{Event, OpsError};
use backstay_format::facts::Role;
use backstay_model::catalog::MarkKind;
use backstay_model::prune::WRITER_DEADLINE_MILLIS;
use backstay_model::{Kind, Kinded, ObjectId, SourceName, Verdict};
use backstay_store::keys::{self, Place, Spare};
use backstay_store::{Entry, Key};
use heal::Healer;
use look::Looked;
use std::collections::BTreeSet;

pub struct ScrubRequest<'a> {
    pub depth: Depth,
    /// A copy of the repository to bring back from what is missing or damaged.
    pub from: Option<&'a Vault>,
}

/// Looks at everything, and heals what it may.
pub async fn scrub(vault: &Vault, request: &ScrubRequest<'_>) -> Result<ScrubReport, OpsError> {
    if request.from.is_some() {
        vault.signer(Role::Keeper)?;
    }
    let began = vault.env.clock.uptime();
    let looked = look::look(vault).await?;
    let mut healer = Healer::new(vault, request.from, &looked);
    let done = in_order(vault, request, (&looked, &mut healer)).await;
    let outcome = healer.end().await;
    let Done { sources, problems, strays, kept } = done?;
    let verdicts = sources.iter().map(|source| source.verdict).chain(problems.iter().map(|problem| problem.verdict));
    let verdict = verdicts.fold(Verdict::Pass, Verdict::and);
    let verdict = if kept.is_empty() && outcome.unhealed.is_empty() { verdict } else { verdict.and(Verdict::Partial) };
    let millis = vault.env.clock.uptime().saturating_sub(began).as_millis();
    Ok(ScrubReport {
        verdict,
        depth: request.depth,
        kinds: looked.tally(),
        sources,
        problems,
        strays,
        unknown: looked.unknown(),
        healed: outcome.healed,
        unhealed: outcome.unhealed,
        kept,
        millis: u64::try_from(millis).unwrap_or(u64::MAX),
    })
}

/// What was found, apart from what was healed.
#[derive(Default)]
struct Done {
    sources: Vec<CheckReport>,
    problems: Vec<Problem>,
    strays: Vec<Stray>,
    kept: Vec<Kept>,
}

/// What is signed by itself comes first, because manifests say what packs must be.
async fn in_order(
    vault: &Vault,
    request: &ScrubRequest<'_>,
    (looked, healer): (&Looked, &mut Healer<'_>),
) -> Result<Done, OpsError> {
    healer.signed_objects(looked).await?;
    let mut done = Done { problems: healer.problems(looked), ..Done::default() };
    let mut referenced = BTreeSet::new();
    let mut all = true;
    for source in vault.repo.sources().await? {
        vault.env.cancel.check()?;
        match one(vault, request, &source, healer).await {
            Ok(examined) => {
                done.strays.extend(strays_of(vault, &source, looked, &examined));
                referenced.extend(examined.referenced.iter().map(|object| keys::pack(&source, object)));
                all &= examined.catalog.broken.is_empty();
                done.sources.push(examined.report);
            }
            // One source that cannot be looked at hides no other.
            Err(OpsError::Repo(error)) if error.kind() == Kind::Corrupt => {
                all = false;
                done.problems.push(Problem::of(keys::snapshot_prefix(&source), &error, Vec::new()));
            }
            Err(error) => return Err(error),
        }
    }
    done.kept = healer.clear_spares(looked, (&referenced, all)).await?;
    Ok(done)
}

/// One source: its packs are looked at and healed, and then what is said of its snapshots is written down.
async fn one(
    vault: &Vault,
    request: &ScrubRequest<'_>,
    source: &SourceName,
    healer: &mut Healer<'_>,
) -> Result<Examined, OpsError> {
    let all = CheckRequest { source: source.clone(), snapshot: None, depth: request.depth };
    let mut examined = check::examine(vault, &all, (Scope::EVERYTHING, Marking::Later)).await?;
    let healed = healer.packs(source, &examined.bad).await?;
    if !healed.is_empty() {
        again(vault, &all, (&mut examined, &healed)).await?;
    }
    check::quarantine(vault, &examined.catalog, &examined.report.snapshots, &examined.report.problems).await?;
    release(vault, request.depth, &examined).await?;
    Ok(examined)
}

/// Looks once more at the snapshots that could not be relied on before their objects were brought back.
async fn again(
    vault: &Vault,
    all: &CheckRequest,
    (examined, healed): (&mut Examined, &BTreeSet<ObjectId>),
) -> Result<(), OpsError> {
    vault.state.update(&all.source, |seen| seen.suspects.retain(|id| !healed.contains(id)))?;
    let names: BTreeSet<String> = healed.iter().map(|id| keys::pack(&all.source, id).to_string()).collect();
    examined.report.problems.retain(|problem| !names.contains(&problem.object));
    let failed: Vec<ObjectId> =
        examined.report.snapshots.iter().filter(|s| s.verdict == Verdict::Fail).map(|s| s.id).collect();
    for id in failed {
        vault.env.cancel.check()?;
        let one = CheckRequest { snapshot: Some(id), ..all.clone() };
        let looked = check::examine(vault, &one, (Scope::EVERYTHING, Marking::Later)).await?.report;
        for checked in examined.report.snapshots.iter_mut().filter(|checked| checked.id == id) {
            *checked = looked.snapshots.first().unwrap_or(checked).clone();
        }
        for problem in looked.problems {
            let same = |known: &Problem| (&known.object, &known.what) == (&problem.object, &problem.what);
            if !examined.report.problems.iter().any(same) {
                examined.report.problems.push(problem);
            }
        }
    }
    examined.report.verdict = check::overall(&examined.report.snapshots, &examined.report.problems);
    Ok(())
}

/// A snapshot that was quarantined because its bytes were not those that were captured, and of which every byte
/// is what was captured now, is quarantined no more. Whatever else it was quarantined for stands.
async fn release(vault: &Vault, depth: Depth, examined: &Examined) -> Result<(), OpsError> {
    if depth != Depth::Authentic || vault.signer(Role::Reader).is_err() {
        return Ok(());
    }
    for checked in examined.report.snapshots.iter().filter(|checked| checked.verdict == Verdict::Pass) {
        let catalog = &examined.catalog;
        let Some(front) = catalog.front(&checked.id) else { continue };
        let released: BTreeSet<ObjectId> = catalog.about(front).filter_map(|mark| mark.facts.releases).collect();
        let over = catalog.about(front).filter(|mark| {
            mark.facts.kind == MarkKind::Quarantined
                && !released.contains(&mark.object)
                && was_for_its_bytes(&mark.facts.evidence)
        });
        let over: Vec<ObjectId> = over.map(|mark| mark.object).collect();
        for mark in over {
            // Each mark follows the one before it, so the marks are read anew.
            let fresh = vault.catalog(&front.name.source).await?;
            let evidence = serde_json::json!({ "scrub": "every byte is what was captured" });
            let (kind, at) = (MarkKind::Released, vault.env.clock.now());
            put_mark(vault, &fresh, About { front, kind, releases: Some(mark), evidence, at }).await?;
        }
    }
    Ok(())
}

fn was_for_its_bytes(evidence: &serde_json::Value) -> bool {
    let says = |field: &str, word: &str| evidence.get(field).and_then(|value| value.as_str()) == Some(word);
    says("check", "failed") || says("proof", "failed") && says("cause", "content")
}

/// Packs of a source that no snapshot needs.
fn strays_of(vault: &Vault, source: &SourceName, looked: &Looked, examined: &Examined) -> Vec<Stray> {
    let condemned: BTreeSet<ObjectId> = examined.catalog.condemned_packs(source).collect();
    let now = vault.env.clock.now();
    let stray = |(key, entry): (&Key, &Entry)| {
        let id = keys::parse_pack(source, key).filter(|id| !examined.referenced.contains(id))?;
        let age_millis = now.millis_since(entry.modified);
        let kind = match condemned.contains(&id) {
            true => StrayKind::Condemned,
            false if age_millis < WRITER_DEADLINE_MILLIS => StrayKind::Young,
            false => StrayKind::Orphan,
        };
        Some(Stray { object: key.to_string(), kind, bytes: entry.len, age_millis })
    };
    looked.entries.iter().filter_map(stray).collect()
}

/// Objects that are being replaced, as the repository shows them: each has its good bytes beside it, and may be
/// missing until a scrub goes on with it.
pub async fn unfinished(vault: &Vault, folders: &[&str]) -> Result<Vec<Kept>, OpsError> {
    let mut kept = Vec::new();
    for folder in folders {
        for entry in vault.repo.list(&keys::spare_prefix(folder)).await? {
            kept.extend(Spare::parse(&entry.key).map(|spare| Kept::of(&spare, &entry)));
        }
    }
    Ok(kept)
}

impl Kept {
    fn of(spare: &Spare, entry: &Entry) -> Self {
        Self { object: spare.of.to_string(), spare: entry.key.to_string(), since: entry.modified }
    }
}

impl Looked {
    fn tally(&self) -> Vec<TallyOfKind> {
        let mut kinds: std::collections::BTreeMap<&'static str, TallyOfKind> = std::collections::BTreeMap::new();
        for (key, entry) in &self.entries {
            let kind = Place::of(key).word();
            let tally = kinds.entry(kind).or_insert(TallyOfKind { kind, objects: 0, bytes: 0 });
            (tally.objects, tally.bytes) = (tally.objects + 1, tally.bytes + entry.len);
        }
        kinds.into_values().collect()
    }

    fn unknown(&self) -> Vec<String> {
        let unknown = self.entries.keys().filter(|key| Place::of(key) == Place::Unknown);
        unknown.map(Key::to_string).collect()
    }
}

fn tell(vault: &Vault, source: &SourceName, what: &'static str) {
    vault.env.tell(Event::Began { source: source.clone(), what, bytes: None });
}
