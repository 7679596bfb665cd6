//! `backstay status`: per source the three facts (backed up, intact, proven), and whether the key is safe.

use super::copy::CopyStatus;
use super::followed::FollowStatus;
use super::list::{self, Broken, Fault};
use super::scrub::kept_words;
use crate::args;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::time;
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_model::catalog::{MarkKind, living};
use backstay_model::lock::Horizon;
use backstay_model::moment::human_span;
use backstay_model::status::{Concern, Point, ProofPolicy, Situation, Status, judge};
use backstay_model::{Kind, Moment, SourceName, Verdict};
use backstay_ops::catalog::{Catalog, Vault};
use backstay_ops::checked::CheckedSummary;
use backstay_ops::scrub::Kept;
use backstay_ops::{custody, retain, scrub};
use backstay_sqlite::{FaultyEngine, faulty_writer};
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::Status) -> Outcome {
    let settings = context.settings()?;
    let named: Vec<SourceName> = args.source.iter().cloned().collect();
    let chosen = settings.chosen(&named)?;
    if chosen.is_empty() {
        return Err(Diagnostic::new(Kind::Config, format!("{} names no source", settings.file.display()))
            .hint("Add a table such as `[sources.shop]` with the `path` of the database."));
    }
    let vault = vault::open(context, &settings).await?;
    let mut view = StatusView {
        verdict: Verdict::Pass,
        sources: Vec::new(),
        key_confirmed: custody::custody(&vault).await?.confirmed,
        retained: retain::last_run(&vault).await.ok().flatten(),
        sealed: !vault.repo.is_unsealed(),
        healing: healing(&vault, &chosen).await,
        copies: Vec::new(),
        now: context.clock.now(),
        zone: context.zone.clone(),
    };
    for source in &chosen {
        view.sources.push(one(context, &vault, source).await?);
    }
    for name in settings.copies.keys() {
        context.cancel.check()?;
        view.copies.push(CopyStatus::of(context, &settings, (&vault, name), &chosen).await);
    }
    let verdicts = view.sources.iter().map(SourceStatus::verdict);
    let healing = view.healing.iter().map(|_| Verdict::Partial);
    let all = verdicts.chain(view.copies.iter().map(|copy| copy.verdict)).chain(healing);
    view.verdict = all.fold(Verdict::Pass, Verdict::and);
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

/// Objects that a scrub was stopped at; a store that does not say names none.
async fn healing(vault: &Vault, sources: &[&SourceSettings]) -> Vec<Kept> {
    let mut folders = vec!["log"];
    folders.extend(sources.iter().map(|source| source.name.as_str()));
    scrub::unfinished(vault, &folders).await.unwrap_or_default()
}

async fn one(context: &Context, vault: &Vault, source: &SourceSettings) -> Result<SourceStatus, Diagnostic> {
    let catalog = vault.recalled(&source.name, None).await?;
    let policy = &source.policy;
    let horizon = newest_horizon(vault, &catalog).await?;
    let status = judge(Situation {
        snapshots: &catalog.snapshots,
        broken: catalog.broken.len(),
        mark_faults: catalog.mark_faults.len(),
        now: context.clock.now(),
        max_age_millis: vault::millis(policy.max_age),
        proof: if policy.proof.enabled { ProofPolicy::Wanted } else { ProofPolicy::Off },
        horizon,
    });
    Ok(SourceStatus {
        source: source.name.clone(),
        proven_at: status.proven.and_then(|point| proven_at(&catalog, &point)),
        snapshots: catalog.snapshots.len(),
        broken: list::broken(&source.name, &catalog),
        mark_faults: list::mark_faults(&source.name, &catalog),
        condemned: catalog.condemned.len(),
        has_rules: policy.retention.rules.is_set(),
        checked: vault.state.checked(&source.name).summary(),
        followed: FollowStatus::of(vault, &source.name, context.clock.now())?,
        horizon,
        faulty_sqlite: faulty_writer(&source.path),
        status,
    })
}

/// How long the newest good snapshot is locked, where an object lock is known of.
async fn newest_horizon(vault: &Vault, catalog: &Catalog) -> Result<Option<Horizon>, Diagnostic> {
    let good = living(&catalog.snapshots).filter(|s| !s.is_quarantined());
    let Some(newest) = good.max_by_key(|s| s.sequence) else { return Ok(None) };
    Ok(retain::horizon_of(vault, catalog, newest).await?)
}

/// When a point was last shown to be restorable.
fn proven_at(catalog: &Catalog, point: &Point) -> Option<Moment> {
    let about = |mark: &&backstay_store::repo::Record<backstay_format::facts::Mark>| {
        mark.facts.snapshot == point.id && mark.facts.kind == MarkKind::Proven
    };
    catalog.marks.iter().filter(about).map(|mark| mark.facts.at).max()
}

#[derive(serde::Serialize)]
pub struct StatusView {
    pub verdict: Verdict,
    pub sources: Vec<SourceStatus>,
    /// When a copy of the key kept elsewhere was last shown to open the repository.
    pub key_confirmed: Option<Moment>,
    /// When retention last had a turn; a host that may not see that says nothing.
    pub retained: Option<Moment>,
    pub sealed: bool,
    /// Objects that are being replaced: until a scrub goes on with it, each may be missing.
    pub healing: Vec<Kept>,
    /// How far each copy of the repository has come.
    pub copies: Vec<CopyStatus>,
    #[serde(skip)]
    pub now: Moment,
    #[serde(skip)]
    pub zone: TimeZone,
}

#[derive(serde::Serialize)]
pub struct SourceStatus {
    pub source: SourceName,
    #[serde(flatten)]
    pub status: Status,
    /// When the newest proven point was proven.
    pub proven_at: Option<Moment>,
    pub snapshots: usize,
    pub broken: Vec<Broken>,
    pub mark_faults: Vec<Fault>,
    /// Snapshots that wait to be deleted.
    pub condemned: usize,
    #[serde(skip)]
    pub has_rules: bool,
    /// What this host's checks have looked at; null when none has.
    pub checked: Option<CheckedSummary>,
    /// What a follower on this host says; null when there never was one.
    pub followed: Option<FollowStatus>,
    /// How long nobody can delete the newest good snapshot; null where no object lock is known of.
    pub horizon: Option<Horizon>,
    /// The application's SQLite, if it wrote last and can lose commits by itself.
    pub faulty_sqlite: Option<FaultyEngine>,
}

impl View for StatusView {
    fn render(&self, page: &mut Page) {
        for row in &self.sources {
            row.render(page, &self.zone);
        }
        for copy in &self.copies {
            copy.render(page, &self.zone);
        }
        let key = match self.key_confirmed {
            Some(at) => format!("a copy was confirmed {}", time::local(at, &self.zone)),
            None => {
                "not confirmed: run `backstay repo key confirm --key-file COPY` with a copy kept elsewhere".to_owned()
            }
        };
        page.evidence("key", &key);
        if let Some(words) = self.retention_words() {
            page.evidence("retention", &words);
        }
        for kept in &self.healing {
            page.evidence("HEALING", &format!("{}: run `backstay scrub`", kept_words(kept)));
        }
        if !self.sealed {
            page.evidence("UNSEALED", "anyone who can read the repository can read the data");
        }
        if let Some(next) = self.next() {
            page.next(&next);
        }
    }
}

/// Rules that nobody applied for so long are worth a word.
const NOT_APPLIED_MILLIS: i64 = 7 * 86_400_000;

impl StatusView {
    /// Whether the rules are applied, where there are any.
    fn retention_words(&self) -> Option<String> {
        if !self.sources.iter().any(|row| row.has_rules) {
            return None;
        }
        let run = "run `backstay retention apply`, daily";
        Some(match self.retained {
            None => format!("rules are set and were never applied: {run}"),
            Some(at) if self.now.millis_since(at) > NOT_APPLIED_MILLIS => {
                format!("last applied {}: {run}", time::local(at, &self.zone))
            }
            Some(at) => {
                let waiting: usize = self.sources.iter().map(|row| row.condemned).sum();
                format!("last applied {}; {waiting} snapshots wait to be deleted", time::local(at, &self.zone))
            }
        })
    }

    fn next(&self) -> Option<String> {
        let Some(row) = self.sources.iter().find(|row| row.verdict() != Verdict::Pass) else {
            let copy = self.copies.iter().find(|copy| copy.verdict != Verdict::Pass)?;
            return Some(format!("backstay repo copy {}", copy.name));
        };
        let name = &row.source;
        let Some(concern) = row.status.concerns.first() else { return Some(format!("backstay follow {name}")) };
        Some(match concern {
            Concern::Broken { .. } | Concern::MarkFaults { .. } => format!("backstay check {name}"),
            Concern::Rivals { .. } => format!("backstay list {name}"),
            Concern::AheadOfClock { .. } => "date -u".to_owned(),
            _ => format!("backstay backup {name}"),
        })
    }
}

impl SourceStatus {
    fn verdict(&self) -> Verdict {
        self.followed.as_ref().map_or(Verdict::Pass, |followed| followed.verdict).and(self.status.verdict)
    }

    fn words(&self) -> String {
        if let (None, Some(followed)) = (self.status.concerns.first(), &self.followed)
            && followed.verdict != Verdict::Pass
        {
            return followed.words();
        }
        match (&self.status.newest, self.status.concerns.first()) {
            (_, Some(concern)) => concern_words(concern),
            (Some(newest), None) if self.status.proven.is_some() => {
                format!("can be restored to {} ago, proven", human_span(newest.age_millis.max(0)))
            }
            (Some(newest), None) => format!("can be restored to {} ago", human_span(newest.age_millis.max(0))),
            (None, None) => "nothing is known".to_owned(),
        }
    }

    fn render(&self, page: &mut Page, zone: &TimeZone) {
        page.verdict(self.verdict(), self.source.as_str(), &self.words());
        let point = |point: &Point| {
            let age = human_span(point.age_millis.max(0));
            format!("{}, {age} ago ({})", time::local(point.taken, zone), point.id.short())
        };
        page.evidence("backed up", &self.status.newest.as_ref().map_or("never".to_owned(), point));
        let intact = match (self.status.newest, self.status.proven, self.proven_at) {
            (Some(newest), Some(proven), Some(at)) if newest.id == proven.id => {
                format!("seen {} by its proof", time::local(at, zone))
            }
            _ => "not checked: run `backstay check`".to_owned(),
        };
        page.evidence("intact", &intact);
        if let Some(checked) = &self.checked {
            page.evidence("checked", &checked_words(checked, zone));
        }
        page.evidence("proven", &self.status.proven.as_ref().map_or("never".to_owned(), point));
        if let Some(horizon) = self.horizon.filter(|horizon| !horizon.short) {
            page.evidence("locked", &horizon_words(&horizon, zone));
        }
        if let Some(followed) = &self.followed {
            followed.render(page, zone);
        }
        if let Some(FaultyEngine { version }) = &self.faulty_sqlite {
            let words = format!("{version} wrote it last and can lose commits by itself; take 3.51.3 or later there");
            page.evidence("SQLITE", &words);
        }
        for concern in self.status.concerns.iter().skip(1) {
            page.evidence("also", &concern_words(concern));
        }
        for broken in &self.broken {
            page.evidence("BROKEN", &format!("snapshot {}: {}", broken.id, broken.problem));
        }
        for fault in &self.mark_faults {
            page.evidence("MARKS", &fault.problem);
        }
    }
}

/// Until when a snapshot cannot be deleted by anybody.
pub fn horizon_words(horizon: &Horizon, zone: &TimeZone) -> String {
    horizon.until.map_or("not known: an object is not listed".to_owned(), |until| {
        format!("until {}: nobody can delete the newest before", time::local(until, zone))
    })
}

/// How far the checks have come round.
fn checked_words(checked: &CheckedSummary, zone: &TimeZone) -> String {
    let objects = counted(checked.objects, "object");
    let oldest = checked.oldest.map_or("never".to_owned(), |at| time::local(at, zone));
    match checked.never {
        0 => format!("{objects}, the longest ago {oldest}"),
        never => format!("{never} of {objects} NEVER, the others {oldest} or later"),
    }
}

fn concern_words(concern: &Concern) -> String {
    match concern {
        Concern::NoBackup => "there is no backup yet".to_owned(),
        Concern::AllQuarantined => "every snapshot is QUARANTINED".to_owned(),
        Concern::TooOld { age_millis, max_age_millis } => {
            format!("the newest backup is {} old; {} is allowed", human_span(*age_millis), human_span(*max_age_millis))
        }
        Concern::NewestNotProven => "the newest backup is stored and not proven".to_owned(),
        Concern::NewestQuarantined { id } => format!("the newest snapshot, {}, is QUARANTINED", id.short()),
        Concern::Rivals { a, b } => {
            format!("two newest snapshots, {} and {}: two writers backed it up at once", a.short(), b.short())
        }
        Concern::Broken { count } => format!("{count} manifests cannot be verified"),
        Concern::MarkFaults { count } => format!("{count} marks are missing or cannot be verified"),
        Concern::LockShort { horizon } => {
            let until = horizon.until.map_or("at any time".to_owned(), |until| format!("from {until}"));
            let wanted =
                horizon.wanted.map(|wanted| format!("; it should be locked until {wanted}")).unwrap_or_default();
            format!("the newest snapshot, {}, CAN BE DELETED {until}{wanted}", horizon.snapshot.short())
        }
        Concern::AheadOfClock { by_millis } => {
            format!("the newest backup is {} ahead of this clock", human_span(*by_millis))
        }
    }
}
