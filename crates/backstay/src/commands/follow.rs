//! `backstay follow`: what a database commits becomes durable in the repository as it is made: commit by commit by its
//! write-ahead log, or a snapshot for each change where there is none.
//!
//! Runs until it is asked to stop, then makes durable what there is and ends with success. A store that is away is
//! waited for; the log goes on being read meanwhile, within bounds.

use crate::args;
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, counted, time};
use crate::vault;
use backstay_model::{Kind, SourceName, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::follow::drive::{self, Driving, Member, Told};
use backstay_ops::follow::{Alarm, Began, FollowRequest, Followed, Limits, Mode, Pace, Position, Ticked};
use jiff::tz::TimeZone;
use std::sync::Arc;

pub async fn run(context: &Context, args: &args::Follow) -> Outcome {
    let settings = context.settings()?;
    let chosen = settings.chosen(&args.sources)?;
    if chosen.is_empty() {
        return Err(Diagnostic::new(Kind::Config, format!("{} names no source", settings.file.display()))
            .hint("Add a table such as `[sources.shop]` with the `path` of the database."));
    }
    let vault = vault::open(context, &settings).await?;
    let mut members = Vec::with_capacity(chosen.len());
    for source in chosen {
        let mut request = request(&settings, source);
        request.limits.stays = !args.once;
        members.push(start(context, &vault, source, request).await?);
    }
    if args.once {
        for member in &mut members {
            let ticked = member.follower.tick().await?;
            if let Some(began) = &ticked.began {
                context.printer.warn(&format!("{}: {}", member.source, words(began)));
            }
            member.sum = ticked;
            drive::account_of_once(member, context.clock.as_ref());
        }
    } else {
        let tell = |member: &Member<'_>, told: Told<'_>| say(context, member, told);
        let (clock, stop, metrics) = (context.clock.as_ref(), context.cancel.wish(), settings.metrics.as_deref());
        drive::drive(&mut members, &Driving { clock, stop, tell: &tell, metrics }).await;
    }
    // A single source that cannot go on is the whole story.
    if let [Member { ended: ended @ Some(_), .. }] = &mut members[..]
        && let Some(error) = ended.take()
    {
        return Err(error.into());
    }
    let sources: Vec<FollowedView> = members.into_iter().map(FollowedView::of).collect();
    let verdict = sources.iter().map(FollowedView::verdict).fold(Verdict::Pass, Verdict::and);
    context.printer.show(&FollowView { verdict, sources, zone: context.zone.clone() })?;
    Ok(Done::With(verdict))
}

async fn start<'v>(
    context: &Context,
    vault: &'v Vault,
    source: &SourceSettings,
    request: FollowRequest,
) -> Result<Member<'v>, Diagnostic> {
    let follower = Followed::start(vault, request).await?;
    context.printer.talk(&format!("{}: {}", source.name, words(follower.began())));
    let follow = &source.policy.follow;
    let (interval, steady) = match follower.position().mode {
        Mode::Snapshots => (follow.snapshot_interval, follow.snapshot_interval),
        _ => (follow.interval, follow.interval_steady),
    };
    let pace = Pace { interval, steady, ..Pace::STANDARD };
    let (source, path) = (source.name.clone(), source.path.clone());
    Ok(Member { source, path, follower, pace, sum: Ticked::default(), ended: None })
}

/// How a source is followed, as it is configured.
pub(super) fn request(settings: &Settings, source: &SourceSettings) -> FollowRequest {
    let (capture, follow) = (&source.policy.capture, &source.policy.follow);
    let limits =
        Limits { mode: follow.mode, wal_limit: follow.wal_limit, spool_limit: follow.spool_limit, ..Limits::STANDARD };
    FollowRequest {
        source: source.name.clone(),
        path: source.path.clone(),
        busy: capture.busy_timeout,
        hold_max: capture.hold_max,
        log_growth_max: capture.log_growth_max,
        uploads_in_flight: settings.limits.upload_in_flight.get() as usize,
        limits,
        steps: Arc::new(|_| {}),
    }
}

/// What happens while it runs, as lines.
fn say(context: &Context, member: &Member<'_>, told: Told<'_>) {
    let source = &member.source;
    let what = |error: &backstay_ops::OpsError| Diagnostic::of(error).what;
    let line = match told {
        Told::StoreBack => return context.printer.talk(&format!("{source}: the repository is back")),
        Told::AlarmEnded => return context.printer.talk(&format!("{source}: goes on as it should")),
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
    context.printer.warn(&format!("{source}: {line}"));
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
    pub began: Began,
    pub position: Position,
    /// Commits this run made durable, and in how many objects and bytes.
    pub commits: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Why it was not followed to the end.
    pub ended: Option<String>,
}

impl FollowedView {
    fn of(member: Member<'_>) -> Self {
        let Ticked { shipped, objects, bytes, .. } = member.sum;
        Self {
            position: member.follower.position(),
            began: member.follower.began().clone(),
            source: member.source,
            commits: shipped,
            objects,
            bytes,
            ended: member.ended.as_ref().map(|error| Diagnostic::of(error).what),
        }
    }

    fn verdict(&self) -> Verdict {
        match (&self.ended, self.position.waiting) {
            (Some(_), _) => Verdict::Fail,
            (None, 0) => Verdict::Pass,
            (None, _) => Verdict::Partial,
        }
    }
}

impl View for FollowView {
    fn render(&self, page: &mut Page) {
        for row in &self.sources {
            let position = &row.position;
            let at = time::resolved(position.at, &self.zone);
            let (durable, point) = match position.mode {
                Mode::Snapshots => (format!("durable up to {at}"), "latest".to_owned()),
                _ => (format!("durable up to state {} of {at}", position.tx), format!("--tx {}", position.tx)),
            };
            page.verdict(row.verdict(), row.source.as_str(), &durable);
            page.evidence("began", &words(&row.began));
            let shipped = format!("{} in {}", counted(row.commits, "commit"), counted(row.objects, "object"));
            page.evidence("shipped", &shipped);
            if position.waiting > 0 {
                let kept = format!(
                    "{} sealed in the state folder: the next run puts them",
                    counted(position.waiting, "commit")
                );
                page.evidence("WAITING", &kept);
            }
            if let Some(ended) = &row.ended {
                page.evidence("NOT FOLLOWED", ended);
            }
            page.next(&format!("backstay restore {} {point} --to copy.db", row.source));
        }
    }
}
