//! `backstay repo signer`: who may write, keep and mark.

use crate::args::SignerVerb;
use crate::confirm;
use crate::context::{Context, Done, Outcome};
use crate::output::{Page, View, time};
use crate::vault::{self, RootHolder};
use backstay_format::facts::Signer;
use backstay_model::Verdict;
use backstay_ops::trust::{self, RemovalReport};
use jiff::tz::TimeZone;

pub async fn run(context: &Context, verb: &SignerVerb) -> Outcome {
    match verb {
        SignerVerb::List => list(context).await,
        SignerVerb::Remove { name, confirm } => remove(context, name, confirm.as_deref()).await,
    }
}

async fn list(context: &Context) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let conf = vault.repo.conf();
    let view = SignersView {
        generation: conf.generation,
        this_signer: vault.signer.as_ref().map(|signer| signer.public().to_string()),
        signers: conf.signers.clone(),
        zone: context.zone.clone(),
    };
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

#[derive(serde::Serialize)]
pub struct SignersView {
    pub generation: u64,
    /// The public half of this host's signing key.
    pub this_signer: Option<String>,
    pub signers: Vec<Signer>,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for SignersView {
    fn render(&self, page: &mut Page) {
        for signer in &self.signers {
            let roles: Vec<&str> = signer.roles.iter().map(|role| role.word()).collect();
            let here = if Some(signer.key.to_string()) == self.this_signer { "  (this key)" } else { "" };
            let gone = signer.retired.as_ref().map_or_else(String::new, |retired| {
                format!("  REMOVED {}, what it signed before stays", time::local(retired.at, &self.zone))
            });
            page.line(&format!("{}  {}  {}{here}{gone}", signer.name, signer.key.short(), roles.join(", ")));
        }
    }
}

async fn remove(context: &Context, name: &str, given: Option<&str>) -> Outcome {
    let settings = context.settings()?;
    let holder = RootHolder::open(context, &settings).await?;
    let loss = "nothing it signs from now on is believed; its snapshots of before stay restorable";
    confirm::by_name(&context.printer, confirm::Stake { name, loss, given })?;
    let report = trust::remove_signer(&holder.custodian(), name).await?;
    context.printer.show(&RemovedView { verdict: Verdict::Pass, report })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct RemovedView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: RemovalReport,
}

impl View for RemovedView {
    fn render(&self, page: &mut Page) {
        let report = &self.report;
        page.verdict(self.verdict, &report.name, "removed: nothing it signs from now on is believed");
        for until in &report.until {
            page.evidence("stays", &format!("{} up to number {}", until.below, until.sequence));
        }
        if report.until.is_empty() {
            page.evidence("stays", "nothing: it never signed anything");
        }
        page.evidence("not undone", "it still has its credentials of the store: take those away where they were given");
        if let Some(why) = &report.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        if report.still_reads {
            page.next(&format!("backstay repo key remove {}", report.name));
        }
    }
}
