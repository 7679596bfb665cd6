//! `backstay restore --table`: rows of the past into a living database, or into a file of statements.

use super::past::{self, MomentView};
use crate::args::{self, Conflict};
use crate::config::settings::SourceSettings;
use crate::confirm;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, Traffic, View, counted};
use backstay_model::{Kind, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::env::blocking;
use backstay_ops::query::{Asker, CACHE_USUAL, Past, Reading};
use backstay_ops::rows::{self, BackReport, BackRequest};
use backstay_sqlite::rows::{BringReport, BringRequest, OnConflict, Preview, Sample, SampleKind};
use std::path::{Path, PathBuf};

const BY_ROWID: &str =
    "rows are told apart by their rowid alone: after a VACUUM or a rebuild the same rowid may be another row";

/// What `restore` was asked for, when it is rows.
pub struct Wanted<'a> {
    pub args: &'a args::Restore,
    pub source: &'a SourceSettings,
    pub table: &'a str,
}

pub async fn run(context: &Context, vault: &Vault, wanted: Wanted<'_>) -> Outcome {
    let Wanted { args, source, table } = wanted;
    let target = past::restore_target(context, args)?;
    let asker = Asker::new(vault, Reading { cache: CACHE_USUAL });
    let past = asker.open(&source.name, &target).await?;
    context.printer.talk(&past::said(&past.facts, &context.zone));
    past::warn(context, &past.facts);
    let request = BringRequest {
        table: table.to_owned(),
        condition: args.rows.condition.clone(),
        rename: args.rows.rename.clone(),
        on_conflict: match args.rows.on_conflict {
            Conflict::Fail => OnConflict::Fail,
            Conflict::Skip => OnConflict::Skip,
            Conflict::Replace => OnConflict::Replace,
        },
        fire_triggers: args.rows.fire_triggers,
    };
    let work = Work { context, vault, asker: &asker, past: &past, args };
    let absolute = |path: &Path| context.layers.working_dir.join(path);
    match (&args.rows.into, &args.rows.sql) {
        (_, Some(to)) => blocking(|| work.statements(&request, &absolute(to))),
        (Some(live), None) => {
            let live = absolute(live);
            let (path, busy) = (source.path.clone(), source.policy.capture.busy_timeout);
            blocking(|| work.living(BackRequest { rows: request, live, source: path, busy }))
        }
        (None, None) => Err(Diagnostic::new(Kind::Usage, "it is not said where the rows go").hint(format!(
            "Name the living database, such as `--into {}`, or a file of statements, `--sql FILE`.",
            source.path.display()
        ))),
    }
}

struct Work<'a> {
    context: &'a Context,
    vault: &'a Vault,
    asker: &'a Asker<'a>,
    past: &'a Past,
    args: &'a args::Restore,
}

impl Work<'_> {
    fn view(&self, verdict: Verdict, to: &Path) -> RowsView {
        RowsView {
            verdict,
            dry_run: self.args.dry_run,
            source: self.past.facts.source.to_string(),
            moment: MomentView::of(&self.past.facts),
            to: to.to_owned(),
            preview: None,
            report: None,
            statements: None,
            undo: None,
            store: self.context.meters.read(),
        }
    }

    fn statements(&self, request: &BringRequest, to: &Path) -> Outcome {
        let count = rows::to_sql(&self.vault.env, self.asker, self.past, (request, to))?;
        let view = RowsView { statements: Some(count), ..self.view(Verdict::Pass, to) };
        self.context.printer.show(&view)?;
        Ok(Done::With(Verdict::Pass))
    }

    fn living(&self, request: BackRequest) -> Outcome {
        let plan = rows::look(self.asker, self.past, &request)?;
        let preview = PreviewView::of(&plan.preview);
        let mut view = RowsView { preview: Some(preview), ..self.view(Verdict::Pass, &request.live) };
        if !self.args.dry_run {
            let said = said(&plan.preview, request.rows.on_conflict);
            let loss = format!("{said} in {}; the statements that undo it are kept beside it", request.live.display());
            let given = self.args.confirm.as_deref();
            let stake = confirm::Stake { name: self.args.source.as_str(), loss: &loss, given };
            confirm::by_name(&self.context.printer, stake)?;
            let BackReport { report, undo } = rows::into_live(&self.vault.env, self.asker, &plan, &request)?;
            if report.skipped > 0 {
                view.verdict = Verdict::Partial;
            }
            (view.report, view.undo) = (Some(report), Some(undo));
        }
        view.store = self.context.meters.read();
        let verdict = view.verdict;
        self.context.printer.show(&view)?;
        Ok(Done::With(verdict))
    }
}

fn said(preview: &Preview, on_conflict: OnConflict) -> String {
    let conflicts = match on_conflict {
        OnConflict::Fail => String::new(),
        OnConflict::Skip => format!(", {} left as they are today", preview.conflicts),
        OnConflict::Replace => format!(", {} put back to what they were", preview.conflicts),
    };
    let made = if preview.creates { " into a new table" } else { "" };
    let careful = if preview.by_rowid { format!(" ({BY_ROWID})") } else { String::new() };
    format!("{} of {} brought back{made}{conflicts}{careful}", counted(preview.new, "row"), preview.into)
}

#[derive(serde::Serialize)]
pub struct RowsView {
    pub verdict: Verdict,
    pub dry_run: bool,
    pub source: String,
    pub moment: MomentView,
    pub to: PathBuf,
    /// What would be done; absent where statements are written.
    pub preview: Option<PreviewView>,
    /// What was done; absent after `--dry-run`.
    pub report: Option<BringReport>,
    /// How many statements were written.
    pub statements: Option<u64>,
    /// What brings the former state back.
    pub undo: Option<PathBuf>,
    pub store: Traffic,
}

#[derive(serde::Serialize)]
pub struct PreviewView {
    pub table: String,
    pub into: String,
    pub creates: bool,
    pub identity: Vec<String>,
    pub by_rowid: bool,
    pub rows: u64,
    pub new: u64,
    pub same: u64,
    pub conflicts: u64,
    pub samples: Vec<SampleView>,
    pub newer_columns: Vec<String>,
    pub triggers: Vec<String>,
    pub left_out: Vec<String>,
}

#[derive(serde::Serialize)]
pub struct SampleView {
    pub kind: SampleKind,
    pub key: Vec<serde_json::Value>,
    /// Column, value then, value now.
    pub differs: Vec<(String, serde_json::Value, serde_json::Value)>,
    #[serde(skip)]
    line: String,
}

impl PreviewView {
    fn of(preview: &Preview) -> Self {
        let sample = |sample: &Sample| {
            let key = sample.key.iter().map(past::shown).collect::<Vec<_>>().join(", ");
            let differs = sample
                .differs
                .iter()
                .map(|(name, then, now)| format!("{name}: {} -> {}", past::shown(now), past::shown(then)));
            let differs = differs.collect::<Vec<_>>().join(", ");
            let mark = if sample.kind == SampleKind::New { '+' } else { '~' };
            SampleView {
                kind: sample.kind,
                key: sample.key.iter().map(past::json).collect(),
                differs: sample.differs.iter().map(|(n, a, b)| (n.clone(), past::json(a), past::json(b))).collect(),
                line: format!("{mark} {key}  {differs}").trim_end().to_owned(),
            }
        };
        Self {
            table: preview.table.clone(),
            into: preview.into.clone(),
            creates: preview.creates,
            identity: preview.identity.clone(),
            by_rowid: preview.by_rowid,
            rows: preview.rows,
            new: preview.new,
            same: preview.same,
            conflicts: preview.conflicts,
            samples: preview.samples.iter().map(sample).collect(),
            newer_columns: preview.newer_columns.clone(),
            triggers: preview.triggers.clone(),
            left_out: preview.left_out.clone(),
        }
    }

    fn render(&self, page: &mut Page) {
        let counts = format!(
            "{} in the past: {} new, {} the same, {} in conflict",
            self.rows, self.new, self.same, self.conflicts
        );
        page.evidence("rows", &counts);
        for sample in &self.samples {
            page.evidence("", &sample.line);
        }
        if self.by_rowid {
            page.evidence("careful", BY_ROWID);
        }
        let mut named = |name: &str, what: &[String], words: &str| {
            if !what.is_empty() {
                page.evidence(name, &format!("{} ({words})", what.join(", ")));
            }
        };
        named("since then", &self.newer_columns, "columns that came later keep what they hold");
        named("triggers", &self.triggers, "they do not fire");
        named("left out", &self.left_out, "not made with the new table");
    }
}

impl View for RowsView {
    fn render(&self, page: &mut Page) {
        let words = match (&self.report, self.statements, &self.preview) {
            (_, Some(count), _) => format!("{} written to {}", counted(count, "statement"), self.to.display()),
            (Some(report), _, Some(preview)) => format!(
                "{}: {} inserted, {} replaced, {} skipped in {}",
                preview.into,
                report.inserted,
                report.replaced,
                report.skipped,
                self.to.display()
            ),
            (_, _, Some(preview)) => format!("{}: would be brought into {}", preview.into, self.to.display()),
            _ => String::new(),
        };
        page.verdict(self.verdict, &self.source, &words);
        if let Some(preview) = &self.preview {
            preview.render(page);
        }
        if let Some(undo) = &self.undo {
            page.evidence("undo", &format!("sqlite3 {} < {}", self.to.display(), undo.display()));
        }
        self.store.render(page);
    }
}
