//! `backstay audit`: who did what with the repository, each signer's chain verified.

use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::{Page, View, time};
use crate::vault;
use backstay_format::facts::AuditAct;
use backstay_model::{SourceName, Verdict};
use backstay_ops::journal::{self, AuditReport};
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::AuditArgs) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let mut report = journal::read(&vault).await?;
    if let Some(source) = &args.source {
        report.records.retain(|record| source_of(&record.act) == Some(source));
    }
    let verdict = if report.broken.is_empty() { Verdict::Pass } else { Verdict::Fail };
    context.printer.show(&AuditView { verdict, report, zone: context.zone.clone() })?;
    Ok(Done::With(verdict))
}

fn source_of(act: &AuditAct) -> Option<&SourceName> {
    match act {
        AuditAct::SourceHandedOver { source, .. } => Some(source),
        _ => None,
    }
}

#[derive(serde::Serialize)]
pub struct AuditView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: AuditReport,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for AuditView {
    fn render(&self, page: &mut Page) {
        let count = self.report.records.len();
        match self.report.broken.len() {
            0 => page.verdict(self.verdict, "audit", &format!("{count} records, every chain holds")),
            bad => page.verdict(self.verdict, "audit", &format!("{count} records; {bad} chains do not hold")),
        }
        for record in &self.report.records {
            let when = time::local(record.at, &self.zone);
            page.line(&format!("{when}  {} #{}  {}", record.name, record.number, words(&record.act)));
        }
        for broken in &self.report.broken {
            page.evidence("BROKEN", &format!("{} ({}): {}", broken.name, broken.signer.short(), broken.problem));
        }
    }
}

/// What was done, in words.
fn words(act: &AuditAct) -> String {
    match act {
        AuditAct::KeyConfirmed { .. } => "showed that a copy of the key opens the repository".to_owned(),
        AuditAct::RecipientAdded { name, generation } => format!("let {name} read (configuration {generation})"),
        AuditAct::RecipientRemoved { name, generation, .. } => {
            format!("took {name} off and made a new key (configuration {generation})")
        }
        AuditAct::MasterRotated { generation, .. } => format!("made a new key (configuration {generation})"),
        AuditAct::SignerEnrolled { name, roles, generation, .. } => {
            let roles: Vec<&str> = roles.iter().map(|role| role.word()).collect();
            format!("enrolled {name} as {} (configuration {generation})", roles.join(", "))
        }
        AuditAct::SignerRemoved { name, generation, .. } => {
            format!("removed the signer {name} (configuration {generation})")
        }
        AuditAct::SourceHandedOver { source, to } => format!("gave the fingerprint key of {source} to {to}"),
        AuditAct::LeaseContested { scope, .. } => format!("asked whether another keeper's turn to {scope} was over"),
        AuditAct::ObjectHealed { object, .. } => format!("put the good bytes of {object} in the place of damaged ones"),
        AuditAct::PacksRepacked { source, snapshots, packs } => {
            format!("repacked {packs} packs of {source} that {snapshots} snapshots referred to")
        }
        AuditAct::SnapshotsRewritten { snapshots, .. } => format!("sealed {snapshots} older snapshots to the new key"),
        AuditAct::KitMade { .. } => "wrote a recovery kit".to_owned(),
    }
}
