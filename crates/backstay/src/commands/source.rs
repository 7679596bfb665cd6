//! `backstay source join`: another host goes on with a source, without being able to read it.

use crate::args::{Join, SourceVerb};
use crate::context::{Context, Done, Outcome};
use crate::output::{Page, View};
use crate::vault;
use backstay_model::{SourceName, Verdict};
use backstay_ops::OpsError;
use backstay_ops::join::{self, AnswerReport, JoinReport};
use backstay_ops::trust::TrustError;
use backstay_store::seal::Master;

pub async fn run(context: &Context, verb: &SourceVerb) -> Outcome {
    let SourceVerb::Join(args) = verb;
    join_source(context, args).await
}

async fn join_source(context: &Context, args: &Join) -> Outcome {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?.name.clone();
    let vault = vault::open(context, &settings).await?;
    let at = |path: &std::path::Path| context.layers.working_dir.join(path);
    let done = match (&args.answer, &args.accept) {
        (Some(text), _) => {
            let bad = |source| OpsError::from(TrustError::BadRecipient { text: text.clone(), source });
            let to = Master::parse(text).map_err(bad)?;
            let file = args.to.clone().unwrap_or_else(|| format!("{source}.join").into());
            Joined::Answered(join::answer(&vault, &source, &to, &at(&file)).await?)
        }
        (None, Some(file)) => Joined::Accepted(join::accept(&vault, &source, &at(file))?),
        (None, None) => {
            let recipient = join::request(&vault, &source)?.text().to_owned();
            Joined::Requested { source, recipient }
        }
    };
    context.printer.show(&JoinView { verdict: Verdict::Pass, done })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Joined {
    Requested { source: SourceName, recipient: String },
    Answered(AnswerReport),
    Accepted(JoinReport),
}

#[derive(serde::Serialize)]
pub struct JoinView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub done: Joined,
}

impl View for JoinView {
    fn render(&self, page: &mut Page) {
        match &self.done {
            Joined::Requested { source, recipient } => {
                page.verdict(
                    self.verdict,
                    source.as_str(),
                    "ask a host that backs it up, or can read it, to hand it over",
                );
                page.evidence(
                    "there",
                    &format!("backstay source join {source} --answer {recipient} --to {source}.join"),
                );
                page.evidence("then", "carry the file here: it opens nowhere else");
                page.next(&format!("backstay source join {source} --accept {source}.join"));
            }
            Joined::Answered(report) => {
                page.verdict(self.verdict, report.source.as_str(), "handed over, sealed to the host that asked");
                page.evidence("file", &report.file.display().to_string());
                page.evidence("builds on", &report.snapshot.to_string());
                if let Some(why) = &report.not_recorded {
                    page.evidence("NOT RECORDED", why);
                }
                page.next(&format!(
                    "backstay source join {} --accept {}, on that host",
                    report.source,
                    report.file.display()
                ));
            }
            Joined::Accepted(report) => {
                page.verdict(self.verdict, report.source.as_str(), "joined: the next backup here stores what changed");
                page.evidence("builds on", &report.snapshot.to_string());
                page.next(&format!("backstay backup {}", report.source));
            }
        }
    }
}
