//! `backstay restore --follow` and `backstay promote`: a copy that stays seconds behind its source, and the day it is
//! needed.

use crate::args;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, counted, time};
use backstay_model::moment::human_span;
use backstay_model::{Moment, SourceName, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::standby::drive::{self, Told};
use backstay_ops::standby::{Came, Following, Position, Promoted, StandbyRequest, Ticked, promote};
use jiff::tz::TimeZone;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two lines that say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// How long a reader of the copy, or who looks at it, is waited for.
const BUSY: Duration = Duration::from_secs(5);

pub async fn run(
    context: &Context,
    vault: &Vault,
    (source, args): (&SourceSettings, &args::Restore),
    to: &Path,
) -> Outcome {
    let to = context.layers.working_dir.join(to);
    let request =
        StandbyRequest { source: source.name.clone(), to: to.clone(), smoke: source.smoke.clone(), busy: BUSY };
    let mut following = Following::start(vault, request).await?;
    let came = following.came().clone();
    let said = Saying { context, name: name(&to), zone: &context.zone, last: Cell::new(context.clock.uptime()) };
    context.printer.talk(&format!("{}: {}, {}", said.name, words(&came), said.state(&following.position())));
    let sum = if args.standby.once {
        let ticked = following.tick().await?;
        said.hear(Told::Ticked(&ticked, &following.position()));
        ticked
    } else {
        let every = args.standby.every.span;
        drive::drive(&mut following, every, context.cancel.wish(), &|told| said.hear(told)).await?
    };
    let Ticked { states, objects, jumped } = sum;
    let position = following.stop()?;
    let verdict = if position.fault.is_none() { Verdict::Pass } else { Verdict::Partial };
    let zone = context.zone.clone();
    let source = source.name.clone();
    context.printer.show(&StandbyView { verdict, source, to, came, position, states, objects, jumped, zone })?;
    Ok(Done::With(verdict))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn words(came: &Came) -> String {
    match came {
        Came::Made => "restored".to_owned(),
        Came::Continued => "goes on".to_owned(),
        Came::Jumped { reason } => format!("went over a gap, because {reason}"),
    }
}

/// What happens while it runs, as lines.
struct Saying<'a> {
    context: &'a Context,
    name: String,
    zone: &'a TimeZone,
    last: Cell<Duration>,
}

impl Saying<'_> {
    fn state(&self, position: &Position) -> String {
        let at = time::resolved(position.at, self.zone);
        position.tx.map_or_else(|| format!("state of {at}"), |tx| format!("state {tx} of {at}"))
    }

    fn hear(&self, told: Told<'_>) {
        let (printer, name) = (&self.context.printer, &self.name);
        match told {
            Told::Back => printer.talk(&format!("{name}: the repository answers again")),
            Told::Away(error) => printer.warn(&format!("{name}: {}; it is tried again", Diagnostic::of(error).what)),
            Told::Ticked(ticked, position) => {
                if let Some(reason) = &ticked.jumped {
                    printer.warn(&format!("{name}: {reason}; it is at {} now", self.state(position)));
                }
                let now = self.context.clock.uptime();
                if now.saturating_sub(self.last.get()) >= SAY_EVERY {
                    self.last.set(now);
                    printer.talk(&format!("{name}: {}, {}", self.state(position), behind(position, self.now())));
                    if let Some(fault) = &position.fault {
                        printer.warn(&format!("{name}: NOTHING NEWER comes of the log: {fault}"));
                    }
                }
            }
        }
    }

    fn now(&self) -> Moment {
        self.context.clock.now()
    }
}

/// How old what it knows of the repository is.
fn behind(position: &Position, now: Moment) -> String {
    format!("nothing newer {} ago", human_span(now.millis_since(position.asked).max(0)))
}

#[derive(serde::Serialize)]
pub struct StandbyView {
    pub verdict: Verdict,
    pub source: SourceName,
    pub to: PathBuf,
    pub came: Came,
    pub position: Position,
    /// What this run went through.
    pub states: u64,
    pub objects: u64,
    /// Why it went over something that no log leads across, the last time it did.
    pub jumped: Option<String>,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for StandbyView {
    fn render(&self, page: &mut Page) {
        let position = &self.position;
        let at = time::resolved(position.at, &self.zone);
        let state = position.tx.map_or_else(|| format!("state of {at}"), |tx| format!("state {tx} of {at}"));
        page.verdict(self.verdict, self.source.as_str(), &format!("{} has {state}", self.to.display()));
        page.evidence("began", &words(&self.came));
        let through = format!("{} in {}", counted(self.states, "state"), counted(self.objects, "log object"));
        page.evidence("went through", &through);
        page.evidence("asked", &time::resolved(position.asked, &self.zone));
        if let Some(reason) = &self.jumped {
            page.evidence("gap", reason);
        }
        if let Some(fault) = &position.fault {
            page.evidence("NOTHING NEWER", fault);
        }
        page.next(&format!("backstay promote {}", self.to.display()));
    }
}

pub fn run_promote(context: &Context, args: &args::Promote) -> Outcome {
    let copy = context.layers.working_dir.join(&args.copy);
    let promoted = promote(&OsDisk, &copy, BUSY)?;
    context.printer.show(&PromoteView { verdict: Verdict::Pass, promoted, zone: context.zone.clone() })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct PromoteView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub promoted: Promoted,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for PromoteView {
    fn render(&self, page: &mut Page) {
        let Promoted { path, source, tx, at, asked, snapshot, .. } = &self.promoted;
        page.verdict(self.verdict, source.as_str(), &format!("{} is an ordinary database now", path.display()));
        let at = time::resolved(*at, &self.zone);
        match tx {
            Some(tx) => page.evidence("last commit", &format!("state {tx} of {at}")),
            None => page.evidence("state", &format!("of snapshot {snapshot}, taken {at}")),
        }
        let asked = time::resolved(*asked, &self.zone);
        page.evidence("may lack", &format!("what was not in the repository at {asked}"));
    }
}
