//! `backstay check`: are the stored bytes still what was signed, and with `--deep`, does it restore?

use super::backup;
use crate::args::{self, Percent};
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, Traffic, View, counted, time};
use crate::vault;
use backstay_model::catalog::{Target, choose};
use backstay_model::checking::Select;
use backstay_model::{ByteLen, ObjectId, SourceName, Verdict};
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::check::{self, CheckReport, CheckRequest, CheckedSnapshot, Depth, Holes, Problem, Scope};
use backstay_ops::prove::{self, Cause, ProofOutcome, ProofReport, ProofRequest};

pub async fn run(context: &Context, args: &args::Check) -> Outcome {
    let settings = context.settings()?.on_copy(args.from_copy.as_ref())?;
    let named: Vec<SourceName> = args.source.iter().cloned().collect();
    let chosen = settings.chosen(&named)?;
    let vault = vault::open(context, &settings).await?;
    let foreign = vault::foreign_names(&settings).await?;
    let mut view = CheckView { verdict: Verdict::Pass, sources: Vec::new(), foreign, store: context.meters.read() };
    for source in chosen {
        context.cancel.check()?;
        view.sources.push(one(&vault, source, (args, scope(&settings, args))).await?);
    }
    view.verdict = view.sources.iter().fold(Verdict::Pass, |all, row| all.and(row.verdict));
    view.store = context.meters.read();
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

async fn one(
    vault: &Vault,
    source: &SourceSettings,
    (args, scope): (&args::Check, Scope),
) -> Result<SourceCheck, Diagnostic> {
    let named = match &args.snapshot {
        None => None,
        Some(prefix) => {
            let catalog = vault.recalled(&source.name, None).await?;
            let target = Target::Id(prefix.as_str().to_owned());
            Some(choose(&catalog.snapshots, &target).map_err(OpsError::from)?.id)
        }
    };
    let depth = if vault.unsealer.is_some() { Depth::Authentic } else { Depth::Intact };
    let request = CheckRequest { source: source.name.clone(), snapshot: named, depth };
    let report = check::check_within(vault, &request, scope).await?;
    let catalog = vault.recalled(&source.name, None).await?;
    let newest = choose(&catalog.snapshots, &Target::Latest).ok().map(|snapshot| snapshot.id);
    let proof = match (args.deep, named.or(newest)) {
        (true, Some(snapshot)) => Some(deep(vault, source, (snapshot, args.from_copy.is_some())).await?),
        _ => None,
    };
    let verdict = proof.as_ref().map_or(report.verdict, |proof| report.verdict.and(deep_verdict(&proof.outcome)));
    Ok(SourceCheck { source: source.name.clone(), verdict, report, proof, good: newest })
}

/// What the flags ask for; without one, everything comes round in time.
fn scope(settings: &Settings, args: &args::Check) -> Scope {
    let select = match (args.all, args.sample, &args.older_than) {
        (true, _, _) => Select::All,
        (_, Some(Percent(percent)), _) => Select::Sample { percent },
        (_, _, Some(age)) => Select::OlderThan { millis: vault::millis(age.span) },
        _ => Select::Newest { budget: settings.check_budget.get() },
    };
    // A copy may lack what its own rules freed.
    let holes = if settings.standing_in.is_some() { Holes::ByRight } else { Holes::Damage };
    Scope { select, holes }
}

async fn deep(
    vault: &Vault,
    source: &SourceSettings,
    (snapshot, of_copy): (ObjectId, bool),
) -> Result<ProofReport, OpsError> {
    let request = ProofRequest {
        source: source.name.clone(),
        snapshot,
        questions: backup::questions(&source.policy.proof, &source.smoke),
        folder: backup::proof_folder(&source.policy.proof),
    };
    match of_copy {
        true => prove::try_out(vault, &request).await,
        false => prove::prove(vault, &request).await,
    }
}

/// Asked for and not possible is no pass, other than after a backup.
fn deep_verdict(outcome: &ProofOutcome) -> Verdict {
    match outcome {
        ProofOutcome::NotPossible { .. } => Verdict::Inconclusive,
        other => other.verdict(),
    }
}

#[derive(serde::Serialize)]
pub struct CheckView {
    pub verdict: Verdict,
    /// What was asked of the repository's store, every attempt counted.
    pub store: Traffic,
    pub sources: Vec<SourceCheck>,
    /// Names in the repository's folder that are not Backstay's; not more than some.
    pub foreign: Vec<String>,
}

#[derive(serde::Serialize)]
pub struct SourceCheck {
    pub source: SourceName,
    pub verdict: Verdict,
    pub report: CheckReport,
    pub proof: Option<ProofReport>,
    /// The newest snapshot with nothing said against it.
    pub good: Option<ObjectId>,
}

impl View for CheckView {
    fn render(&self, page: &mut Page) {
        for row in &self.sources {
            row.render(page);
        }
        self.store.render(page);
        render_foreign(&self.foreign, page);
    }
}

/// What is wrong, and which snapshots suffer from it.
pub fn render_problems(problems: &[Problem], page: &mut Page) {
    for problem in problems {
        let ids: Vec<String> = problem.snapshots.iter().map(ObjectId::short).collect();
        let of = if ids.is_empty() { String::new() } else { format!(" (snapshots {})", ids.join(", ")) };
        page.evidence("problem", &format!("{}{of}", problem.what));
    }
}

/// How many foreign names a person is shown.
const FOREIGN_SHOWN: usize = 5;

/// Names in the repository that somebody else put there. They harm nothing and are left alone.
pub fn render_foreign(foreign: &[String], page: &mut Page) {
    for name in foreign.iter().take(FOREIGN_SHOWN) {
        page.evidence("foreign", &format!("{name} is not Backstay's"));
    }
    if let more @ 1.. = foreign.len().saturating_sub(FOREIGN_SHOWN) {
        page.evidence("foreign", &format!("and {} more", counted(more, "name")));
    }
}

impl SourceCheck {
    fn words(&self) -> String {
        let count = self.report.snapshots.len();
        let of_part = |checked: &&CheckedSnapshot| checked.left > 0 && checked.verdict == Verdict::Inconclusive;
        let part = self.report.snapshots.iter().filter(of_part).count();
        let bad = self.report.snapshots.iter().filter(|checked| checked.verdict != Verdict::Pass).count() - part;
        match (self.report.verdict, self.report.depth) {
            (Verdict::Inconclusive, _) if count == 0 => "there is no snapshot to check".to_owned(),
            (Verdict::Inconclusive, _) => format!("of {}, {bad} could not be checked", counted(count, "snapshot")),
            _ if count == 0 => "DAMAGE: no snapshot is left to rely on".to_owned(),
            (Verdict::Pass, _) if part > 0 => {
                format!("what was looked at holds; all of {} of {}", count - part, counted(count, "snapshot"))
            }
            (Verdict::Pass, Depth::Authentic) if count == 1 => "1 snapshot is intact and authentic".to_owned(),
            (Verdict::Pass, Depth::Authentic) => format!("{count} snapshots are intact and authentic"),
            (Verdict::Pass, Depth::Intact) if count == 1 => "1 snapshot is intact".to_owned(),
            (Verdict::Pass, Depth::Intact) => format!("{count} snapshots are intact"),
            _ if bad == 0 && self.has_only_rivals() => "the snapshots hold, but two of them have one number".to_owned(),
            _ if bad == 0 => "DAMAGE: the snapshots hold, what belongs to them does not".to_owned(),
            _ => format!("DAMAGE: {bad} of {} cannot be relied on", counted(count, "snapshot")),
        }
    }

    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, self.source.as_str(), &self.words());
        let read = ByteLen::new(self.report.bytes);
        let took = time::took(self.report.millis);
        page.evidence("read", &format!("{}, {read} in {took}", counted(self.report.objects, "object")));
        if self.report.log_objects > 0 {
            page.evidence("log", &format!("{} of it, commit by commit", counted(self.report.log_objects, "object")));
        }
        if self.report.left > 0 {
            page.evidence(
                "left",
                &format!("{} for another time: they come round", counted(self.report.left, "object")),
            );
        }
        if self.report.depth == Depth::Intact {
            page.evidence("depth", "digests and signatures; opening them needs the key, which is not here");
        }
        if self.report.unreferenced > 0 {
            page.evidence(
                "unused",
                &format!("{} that no snapshot refers to", counted(self.report.unreferenced, "object")),
            );
        }
        render_problems(&self.report.problems, page);
        self.render_proof(page);
        if self.report.verdict == Verdict::Pass {
            return;
        }
        match self.good {
            Some(good) => page.evidence("restore", &format!("snapshot {} is the newest that is good", good.short())),
            None if self.has_only_rivals() => {}
            None => page.evidence("restore", "NO snapshot of this source is good"),
        }
        if self.report.snapshots.is_empty() {
            return;
        }
        if self.has_only_rivals() {
            return self.render_rivals(page);
        }
        page.evidence("heal", "the next backup stores again what is damaged");
        page.next(&format!("backstay backup {}", self.source));
    }

    fn has_only_rivals(&self) -> bool {
        let problems = &self.report.problems;
        let failed = self.proof.as_ref().is_some_and(|proof| proof.outcome.verdict() == Verdict::Fail);
        !failed && !problems.is_empty() && problems.iter().all(Problem::is_of_rivals)
    }

    /// Two hosts stored a snapshot of it at the same moment: no backup makes one of them go.
    fn render_rivals(&self, page: &mut Page) {
        let source = &self.source;
        match self.report.problems.iter().find_map(Problem::left) {
            Some(left) => {
                page.evidence("heal", "nothing is damaged: give up the one that nothing comes after");
                page.next(&format!("backstay retention drop {source} {} --confirm {source}", left.short()));
            }
            None => {
                page.evidence("heal", "nothing is damaged: see what each of them has, and give up one of them");
                page.next(&format!("backstay list {source}"));
            }
        }
    }

    fn render_proof(&self, page: &mut Page) {
        let Some(proof) = &self.proof else { return };
        let id = proof.snapshot.short();
        let words = match &proof.outcome {
            ProofOutcome::Proven { answers } => {
                format!("{id} restored and questioned in {}: {}", time::took(proof.millis), backup::rows(answers))
            }
            ProofOutcome::Failed { cause: Cause::Answer, reason, .. } => {
                format!("{id} is intact and FAILED its proof: {reason}")
            }
            ProofOutcome::Failed { reason, .. } => format!("{id} FAILED and is quarantined: {reason}"),
            ProofOutcome::NotPossible { why } => format!("not possible here: {why}"),
            ProofOutcome::Skipped { needed, free } => format!("SKIPPED: it needs {needed} and {free} are free"),
            ProofOutcome::Inconclusive { reason } => format!("{id} inconclusive: {reason}"),
        };
        page.evidence("proof", &words);
    }
}
