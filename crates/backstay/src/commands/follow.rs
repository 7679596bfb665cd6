//! `backstay follow`: what a database commits becomes durable in the repository as it is made: commit by commit by its
//! write-ahead log, or a snapshot for each change where there is none.
//!
//! Runs until it is asked to stop, then makes durable what there is and ends with success. A store that is away is
//! waited for; the log goes on being read meanwhile, within bounds.

use crate::args;
use crate::config::Settings;
use crate::config::groups::Group;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, Printer, View, counted, time};
use crate::vault;
use backstay_model::{Kind, Kinded, SourceName, Verdict};
use backstay_ops::OpsError;
use backstay_ops::follow::drive::{self, Drain, Driving, Nursery, Order, Patience, Share, Tell, Told};
use backstay_ops::follow::{Alarm, Began, FollowRequest, Limits, Mode, Pace, Position};
use jiff::tz::TimeZone;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub async fn run(context: &Context, args: &args::Follow) -> Outcome {
    let settings = Arc::new(context.settings()?);
    let (chosen, groups) = (settings.chosen(&args.sources)?, settings.chosen_groups(&args.sources));
    if chosen.is_empty() && groups.is_empty() {
        return Err(Diagnostic::new(Kind::Config, format!("{} names no source", settings.file.display()))
            .hint("Add a table such as `[sources.shop]` with the `path` of the database."));
    }
    open_many_files();
    let vault = Arc::new(vault::open(context, &settings).await?);
    // Of many one that is away is named, and waited for; a single one that is not there is most likely misspelt.
    let patience = if chosen.len() > 1 && !args.once { Patience::Missing } else { Patience::Store };
    let printer = &context.printer;
    let mut orders: Vec<Order> = chosen.into_iter().map(|source| order(&settings, source, patience)).collect();
    let nurseries = match args.once {
        false => groups.into_iter().map(|group| nursery(&settings, printer, group)).collect(),
        true => Vec::new(),
    };
    let (stop, drain) = match args.once {
        false => (context.cancel.wish(), Drain::once(drive::DRAIN)),
        true => {
            orders.iter_mut().for_each(|order| order.request.limits.stays = false);
            let drain = Drain { within: Duration::MAX, insists: false, hurry: context.cancel.wish() };
            (tokio::sync::watch::channel(true).1, drain)
        }
    };
    let (show, is_single) = (telling(printer), orders.len() == 1 && nurseries.is_empty());
    // That a single one cannot go on is what this program ends with.
    let tell = move |source: &_, told: Told<'_>| match told {
        Told::Ended(_) if is_single => {}
        told => show(source, told),
    };
    let metrics = settings.metrics.clone();
    let (conf_every, puts_per_day) = (drive::CONF_EVERY, settings.puts_per_day);
    let share = settings.share.map(|after| Share::after(after, settings.general.follow.interval_steady));
    let tell = Arc::new(tell);
    let driving = Driving { stop, tell, metrics, drain, nurseries, conf_every, puts_per_day, share };
    let mut outcomes = drive::drive(vault, orders, driving).await;
    // A single source that cannot go on is the whole story.
    if let [drive::Outcome { ended: ended @ Some(_), .. }] = &mut outcomes[..]
        && is_single
        && let Some(error) = ended.take()
    {
        return Err(error.into());
    }
    let sources: Vec<FollowedView> = outcomes.into_iter().map(FollowedView::of).collect();
    let verdict = sources.iter().map(FollowedView::verdict).fold(Verdict::Pass, Verdict::and);
    context.printer.show(&FollowView { verdict, sources, zone: context.zone.clone() })?;
    Ok(Done::With(verdict))
}

/// A database that is followed takes some five open files. Most systems let a process have more than a thousand only if it
/// asks for them; what they do not give at all is an error of the source that lacks it.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Every one adds an object and a manifest that names them all.
const POINT_LEAST: Duration = Duration::from_secs(5 * 60);

/// How a source is followed, as it is configured.
pub(super) fn order(settings: &Settings, source: &SourceSettings, patience: Patience) -> Order {
    let (capture, follow) = (&source.policy.capture, &source.policy.follow);
    let hours = Some(follow.point_interval).filter(|hour| !hour.is_zero()).map(|hour| hour.max(POINT_LEAST));
    let (wal_limit, spool_limit) = (follow.wal_limit, follow.spool_limit);
    let limits = Limits { mode: follow.mode, wal_limit, spool_limit, hours, ..Limits::STANDARD };
    let request = FollowRequest {
        source: source.name.clone(),
        path: source.path.clone(),
        busy: capture.busy_timeout,
        hold_max: capture.hold_max,
        log_growth_max: capture.log_growth_max,
        uploads_in_flight: settings.limits.upload_in_flight.get() as usize,
        limits,
        steps: backstay_sqlite::steps::nobody(),
    };
    let pace = Pace { interval: follow.interval, steady: follow.interval_steady, ..Pace::STANDARD };
    let may_vanish = settings.groups.iter().any(|group| group.has(source));
    // What a pattern has named was there a moment ago.
    let patience = if may_vanish { Patience::Store } else { patience };
    let (snapshot_interval, rest_after) = (follow.snapshot_interval, follow.rest_after);
    Order { request, pace, snapshot_interval, patience, rest_after, may_vanish }
}

/// Looks again and again which files fit a pattern.
fn nursery(settings: &Arc<Settings>, printer: &Printer, group: Group) -> Nursery {
    let (settings, printer, folder) = (settings.clone(), printer.clone(), group.folder.clone());
    let told = Mutex::new(settings.passed_over.clone());
    let find = move || {
        let others = settings.sources.iter().filter(|(_, source)| !group.has(source));
        let mut sources: BTreeMap<SourceName, SourceSettings> =
            others.map(|(name, source)| (name.clone(), source.clone())).collect();
        let passed_over = group.add_to(&mut sources);
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        for line in passed_over.iter().filter(|line| !told.contains(line)) {
            printer.warn(&format!("NOT FOLLOWED: {line}"));
        }
        *told = passed_over;
        let found = sources.values().filter(|source| group.has(source));
        found.map(|source| order(&settings, source, Patience::Store)).collect()
    };
    Nursery { folder, find: Arc::new(find) }
}

/// What happens while it runs, as lines.
pub(super) fn telling(printer: &Printer) -> Tell {
    let printer = printer.clone();
    Arc::new(move |source, told| say(&printer, source, told))
}

fn say(printer: &Printer, source: &SourceName, told: Told<'_>) {
    let what = |error: &OpsError| Diagnostic::of(error).what;
    let line = match told {
        Told::Rests => return,
        Told::Vanished => return printer.talk(&format!("{source}: its file is gone; its backups stay")),
        Told::Started(began) => return printer.talk(&format!("{source}: {}", words(began))),
        Told::StoreBack => return printer.talk(&format!("{source}: the repository is back")),
        Told::AlarmEnded => return printer.talk(&format!("{source}: goes on as it should")),
        Told::Began(began) => words(began),
        Told::StoreAway(error) | Told::Unreadable(error) => format!("{}; it is tried again", what(error)),
        Told::Alarmed(alarm) => alarm_words(alarm).to_owned(),
        Told::AuditFailed { page } => {
            format!("ALARM: page {page} of the live database is not what was captured of it; it is followed anew")
        }
        Told::Ended(error) => format!("{}; it is NOT FOLLOWED any more", what(error)),
        Told::Kept(commits) => {
            format!("{} wait sealed in the state folder: the next run puts them", counted(commits, "commit"))
        }
    };
    printer.warn(&format!("{source}: {line}"));
}

pub(super) fn alarm_words(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::SpoolFull => {
            "ALARM: what waits for the repository has reached `follow.spool_limit`; the log is NOT HELD until it is back"
        }
        Alarm::SpoolRefused => {
            "ALARM: the state folder cannot be written; what waits for the repository is lost when this process dies"
        }
    }
}

pub(super) fn words(began: &Began) -> String {
    match began {
        Began::Continued { tx } => format!("goes on after state {tx}"),
        Began::Snapshot { id, tx, reason: None, .. } => format!("followed from snapshot {}, state {tx}", id.short()),
        Began::Snapshot { id, tx, reason: Some(reason), .. } => {
            format!("a gap, because {reason}; followed anew from snapshot {}, state {tx}", id.short())
        }
    }
}

#[derive(serde::Serialize)]
pub struct FollowView {
    pub verdict: Verdict,
    pub sources: Vec<FollowedView>,
    #[serde(skip)]
    pub zone: TimeZone,
}

#[derive(serde::Serialize)]
pub struct FollowedView {
    pub source: SourceName,
    /// Null if it never was followed.
    pub began: Option<Began>,
    pub position: Option<Position>,
    /// Commits this run made durable, and in how many objects and bytes.
    pub commits: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Why it was not followed to the end.
    pub ended: Option<String>,
    #[serde(skip)]
    was_stopped: bool,
}

impl FollowedView {
    fn of(outcome: drive::Outcome) -> Self {
        Self {
            source: outcome.source,
            began: outcome.began,
            position: outcome.position,
            commits: outcome.sum.shipped,
            objects: outcome.sum.objects,
            bytes: outcome.sum.bytes,
            was_stopped: outcome.ended.as_ref().is_some_and(|error| error.kind() == Kind::Cancelled),
            ended: outcome.ended.as_ref().map(|error| Diagnostic::of(error).what),
        }
    }

    fn verdict(&self) -> Verdict {
        match (&self.ended, &self.position) {
            (Some(_), _) if !self.was_stopped => Verdict::Fail,
            (None, Some(position)) if position.waiting == 0 && position.lost.is_none() => Verdict::Pass,
            _ => Verdict::Partial,
        }
    }

    fn render(&self, page: &mut Page, zone: &TimeZone) {
        let Some(position) = &self.position else {
            page.verdict(self.verdict(), self.source.as_str(), "was not followed");
            return page.evidence("NOT FOLLOWED", self.ended.as_deref().unwrap_or("there was no database"));
        };
        let at = time::resolved(position.at, zone);
        let (durable, point) = match position.mode {
            Mode::Snapshots => (format!("durable up to {at}"), "latest".to_owned()),
            _ => (format!("durable up to state {} of {at}", position.tx), format!("--tx {}", position.tx)),
        };
        page.verdict(self.verdict(), self.source.as_str(), &durable);
        if let Some(began) = &self.began {
            page.evidence("began", &words(began));
        }
        let shipped = format!("{} in {}", counted(self.commits, "commit"), counted(self.objects, "object"));
        page.evidence("shipped", &shipped);
        if position.waiting > 0 {
            let commits = counted(position.waiting, "commit");
            page.evidence("WAITING", &format!("{commits} sealed in the state folder: the next run puts them"));
        }
        if let Some(why) = &position.lost {
            page.evidence("GAP", &format!("because {why}: what was committed since is in no snapshot yet"));
        }
        if let Some(ended) = &self.ended {
            page.evidence("NOT FOLLOWED", ended);
        }
        page.next(&format!("backstay restore {} {point} --to copy.db", self.source));
    }
}

impl View for FollowView {
    fn render(&self, page: &mut Page) {
        for row in &self.sources {
            row.render(page, &self.zone);
        }
    }
}
