//! `backstay adopt`: moving in from another tool. Works without a configuration and without a repository.

mod litestream;
mod replica;
mod yaml;

use crate::args::{Adopt, AdoptFrom, LitestreamVerb, Replica};
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, counted, time};
use crate::vault;
use backstay_model::litestream::txid;
use backstay_model::{Kind, Verdict};
use backstay_ops::env::blocking;
use backstay_ops::litestream::{ReplicaPlan, ReplicaRequest, ReplicaRestored, Until, perform, plan};
use jiff::tz::TimeZone;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

pub async fn run(context: &Context, args: &Adopt) -> Outcome {
    let AdoptFrom::Litestream(args) = &args.from;
    if let Some(LitestreamVerb::Restore(args)) = &args.verb {
        return restore(context, args).await;
    }
    let dir = &context.layers.working_dir;
    let variables = if args.no_expand_env { litestream::Variables::AsWritten } else { litestream::Variables::Expanded };
    let text = litestream::settings(context, &dir.join(&args.config), variables)?;
    match &args.write {
        None => context.printer.data(&text),
        Some(to) => {
            let to = dir.join(to);
            create(&to, &text)?;
            context.printer.talk(&format!("written to {}: read it before you use it", to.display()));
        }
    }
    Ok(Done::Plainly)
}

/// Creates the file, and never replaces one.
fn create(path: &Path, text: &str) -> Result<(), Diagnostic> {
    let open = OpenOptions::new().write(true).create_new(true).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(|error| {
        Diagnostic::new(Kind::of_io(&error), format!("cannot create {}", path.display()))
            .because(error.to_string())
            .hint("Name another file with `--write`, or leave it out: the settings are printed.")
    })
}

async fn restore(context: &Context, args: &Replica) -> Outcome {
    let dir = &context.layers.working_dir;
    let until = match (args.txid, &args.at) {
        (Some(txid), _) => Until::Txid(txid),
        (None, Some(text)) => Until::At(context.read_time(text)?),
        (None, None) => Until::Last,
    };
    let replica = replica::of(context, &args.replica, args.settings.as_deref()).await?;
    let request = ReplicaRequest { replica, to: dir.join(&args.to), until };
    let planned = blocking(|| plan(&request))?;
    let env = vault::env_without_settings(context);
    let report = if args.dry_run { None } else { Some(blocking(|| perform(&env, &planned, &request))?) };
    let verdict = report.as_ref().map_or(Verdict::Pass, |report| report.answers.verdict());
    let zone = context.zone.clone();
    let view = ReplicaView {
        verdict,
        dry_run: args.dry_run,
        replica: request.replica.to_string(),
        to: request.to,
        plan: planned,
        report,
        zone,
    };
    context.printer.show(&view)?;
    Ok(Done::With(verdict))
}

#[derive(serde::Serialize)]
pub struct ReplicaView {
    pub verdict: Verdict,
    pub dry_run: bool,
    pub replica: String,
    pub to: PathBuf,
    pub plan: ReplicaPlan,
    /// What was done; absent after `--dry-run`.
    pub report: Option<ReplicaRestored>,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for ReplicaView {
    fn render(&self, page: &mut Page) {
        let done = if self.report.is_some() { "restored" } else { "would be restored" };
        page.verdict(self.verdict, &self.replica, &format!("{done} to {}", self.to.display()));
        let at = self.plan.at.map_or_else(String::new, |at| format!(", written {}", time::resolved(at, &self.zone)));
        page.evidence("state", &format!("after transaction {}{at}", txid(self.plan.txid)));
        let files = self.plan.files.iter().map(|file| format!("{}/{}-{}", file.level, txid(file.min), txid(file.max)));
        for (at, file) in files.enumerate() {
            page.evidence(if at == 0 { "from" } else { "" }, &file);
        }
        page.evidence("size", &self.plan.length.to_string());
        let Some(report) = &self.report else { return };
        page.evidence("pages", &counted(report.pages, "page"));
        page.evidence("checked", "every file against its checksum, and the new database by SQLite");
        page.evidence("took", &time::took(report.millis));
        page.next(&format!("backstay import SOURCE {}", self.to.display()));
    }
}
