//! `backstay retention`: what stays and why, what goes and when, and what a person holds or gives up.

mod view;

pub use view::{HoldView, RetentionView};

use super::restore;
use crate::args::{PointArgs, RetentionVerb};
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::confirm;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::vault;
use backstay_model::prune::GRACE_MIN_MILLIS;
use backstay_model::{SourceName, Verdict};
use backstay_ops::retain::{self, DropRequest, HoldRequest, RetainReport, SourceRules};

pub async fn run(context: &Context, verb: &RetentionVerb) -> Outcome {
    let settings = context.settings()?;
    match verb {
        RetentionVerb::Plan { source } => {
            let rules = rules(&settings, source.as_ref())?;
            let vault = vault::open(context, &settings).await?;
            show(context, retain::plan(&vault, &rules).await?)
        }
        RetentionVerb::Apply { source, grace, confirm } => {
            let mut rules = rules(&settings, source.as_ref())?;
            if let (Some(grace), [one]) = (grace, rules.as_mut_slice()) {
                one.grace_millis = vault::millis(grace.0);
                confirm_haste(context, one, confirm.as_deref())?;
            }
            let vault = vault::open(context, &settings).await?;
            show(context, retain::apply(&vault, &rules).await?)
        }
        RetentionVerb::Hold { source, point, reason } => {
            hold(context, &settings, (source, point, reason.as_ref())).await
        }
        RetentionVerb::Release { source, point, reason } => {
            release(context, &settings, (source, point, reason.as_ref())).await
        }
        RetentionVerb::Drop { source, id, missing, confirm } => {
            let source = settings.source(source)?;
            let request = DropRequest {
                source: source.name.clone(),
                id: id.as_ref().map(|id| id.as_str().to_owned()),
                missing: missing.clone().unwrap_or_default(),
                grace_millis: vault::millis(source.policy.retention.grace),
            };
            confirm_drop(context, &request, confirm.as_deref())?;
            let vault = vault::open(context, &settings).await?;
            show(context, retain::drop(&vault, &request).await?)
        }
    }
}

fn rules(settings: &Settings, source: Option<&SourceName>) -> Result<Vec<SourceRules>, Diagnostic> {
    let named: Vec<SourceName> = source.into_iter().cloned().collect();
    Ok(settings.chosen(&named)?.into_iter().map(rules_of).collect())
}

fn rules_of(source: &SourceSettings) -> SourceRules {
    let retention = &source.policy.retention;
    SourceRules {
        source: source.name.clone(),
        policy: retention.rules,
        zone: retention.zone.clone(),
        grace_millis: vault::millis(retention.grace),
        log_millis: vault::millis(retention.log),
    }
}

fn show(context: &Context, report: RetainReport) -> Outcome {
    let verdict = report.verdict;
    context.printer.show(&RetentionView { report, zone: context.zone.clone() })?;
    Ok(Done::With(verdict))
}

fn confirm_haste(context: &Context, rules: &SourceRules, given: Option<&str>) -> Result<(), Diagnostic> {
    if rules.grace_millis >= GRACE_MIN_MILLIS {
        return Ok(());
    }
    let loss = format!(
        "what retention frees of {} is deleted before the usual day is over: a backup or a restore that runs on \
         another host may fail",
        rules.source
    );
    confirm::by_name(&context.printer, confirm::Stake { name: rules.source.as_str(), loss: &loss, given })
}

fn confirm_drop(context: &Context, request: &DropRequest, given: Option<&str>) -> Result<(), Diagnostic> {
    let loss = match &request.id {
        Some(id) => format!("snapshot {id} of {} is given up, and cannot be restored any more", request.source),
        None => format!("the missing snapshots {} of {} count as deleted", request.missing, request.source),
    };
    confirm::by_name(&context.printer, confirm::Stake { name: request.source.as_str(), loss: &loss, given })
}

type Held<'a> = (&'a SourceName, &'a PointArgs, Option<&'a String>);

fn held(context: &Context, settings: &Settings, (source, point, reason): Held<'_>) -> Result<HoldRequest, Diagnostic> {
    let source = settings.source(source)?.name.clone();
    let (target, _) = restore::target(context, point)?;
    Ok(HoldRequest { source, target, reason: reason.cloned() })
}

async fn hold(context: &Context, settings: &Settings, of: Held<'_>) -> Outcome {
    let request = held(context, settings, of)?;
    let vault = vault::open(context, settings).await?;
    let report = retain::hold(&vault, &request).await?;
    context.printer.show(&HoldView { report, zone: context.zone.clone() })?;
    Ok(Done::With(Verdict::Pass))
}

async fn release(context: &Context, settings: &Settings, of: Held<'_>) -> Outcome {
    let request = held(context, settings, of)?;
    let vault = vault::open(context, settings).await?;
    let report = retain::release(&vault, &request).await?;
    context.printer.show(&HoldView { report, zone: context.zone.clone() })?;
    Ok(Done::With(Verdict::Pass))
}
