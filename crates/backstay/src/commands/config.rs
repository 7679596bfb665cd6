//! `backstay config`: which file, which values, from where, and whether they make sense.

use crate::args::ConfigVerb;
use crate::config::Settings;
use crate::config::settings::Shown;
use crate::context::{Context, Done, Outcome};
use crate::output::table::{Align, Table};
use crate::output::{Page, View};
use backstay_model::Verdict;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub fn run(context: &Context, verb: &ConfigVerb) -> Outcome {
    match verb {
        ConfigVerb::Show { origin } => show(context, *origin),
        ConfigVerb::Check => check(context),
        ConfigVerb::Path => path(context),
    }
}

fn show(context: &Context, origins: bool) -> Outcome {
    let settings = context.settings()?;
    let row = |shown: &Shown| Row {
        key: shown.key.clone(),
        value: shown.value.clone(),
        origin: origins.then(|| shown.origin.to_string()),
    };
    let view = ShowView { config: settings.file.clone(), values: settings.shown().iter().map(row).collect() };
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

#[derive(serde::Serialize)]
struct ShowView {
    config: PathBuf,
    values: Vec<Row>,
}

#[derive(serde::Serialize)]
struct Row {
    key: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

impl View for ShowView {
    fn render(&self, page: &mut Page) {
        let with_origin = self.values.iter().any(|row| row.origin.is_some());
        let mut table = match with_origin {
            true => Table::new([("KEY", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)]),
            false => Table::new([("KEY", Align::Left), ("VALUE", Align::Left), ("", Align::Left)]),
        };
        for row in &self.values {
            table.row([row.key.clone(), row.value.clone(), row.origin.clone().unwrap_or_default()]);
        }
        page.table(&table);
    }
}

fn check(context: &Context) -> Outcome {
    let settings = context.settings()?;
    let doubts = doubts(&settings, context.env().unknown());
    let verdict = if doubts.is_empty() { Verdict::Pass } else { Verdict::Partial };
    let view = CheckView {
        verdict,
        config: settings.file.clone(),
        sources: settings.sources.keys().map(ToString::to_string).collect(),
        doubts,
    };
    context.printer.show(&view)?;
    Ok(Done::With(verdict))
}

/// What is allowed and hardly meant.
fn doubts(settings: &Settings, unknown_variables: Vec<String>) -> Vec<String> {
    let mut doubts: Vec<String> =
        unknown_variables.into_iter().map(|name| format!("the variable {name} sets nothing")).collect();
    if settings.sources.is_empty() {
        doubts.push("no source is named: add a table such as [sources.shop] with its `path`".to_owned());
    }
    if settings.root.is_none() {
        doubts.push("`root` is not set: a repository put in the place of yours would be believed".to_owned());
    }
    let mut owners: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for source in settings.sources.values() {
        let real = std::fs::canonicalize(&source.path).unwrap_or_else(|_| source.path.clone());
        if let Some(other) = owners.insert(real, source.name.as_str()) {
            doubts.push(format!("the sources {other} and {} are the same file", source.name));
        }
    }
    doubts
}

#[derive(serde::Serialize)]
struct CheckView {
    verdict: Verdict,
    config: PathBuf,
    sources: Vec<String>,
    doubts: Vec<String>,
}

impl View for CheckView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, &self.config.display().to_string(), "every key and value is understood");
        page.evidence("sources", &self.sources.join(", "));
        for doubt in &self.doubts {
            page.evidence("doubt", doubt);
        }
        page.next("backstay doctor");
    }
}

fn path(context: &Context) -> Outcome {
    context.printer.show(&PathView { config: context.layers.path() })?;
    Ok(Done::Plainly)
}

#[derive(serde::Serialize)]
struct PathView {
    config: PathBuf,
}

impl View for PathView {
    fn render(&self, page: &mut Page) {
        page.line(&self.config.display().to_string());
    }
}
