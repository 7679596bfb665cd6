//! `backstay follow`: every commit of a database in WAL mode becomes durable in the repository as it is made.
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
use backstay_ops::follow::{self, Began, FollowRequest, Follower, Limits, Position, Ticked};
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Looks between two puts: with a look each 50 ms, four puts a second.
const LOOKS_PER_PUT: u32 = 5;
/// Looks that a store which failed is left alone for.
const LOOKS_PER_RETRY: u32 = 40;

pub async fn run(context: &Context, args: &args::Follow) -> Outcome {
    let settings = context.settings()?;
    let chosen = settings.chosen(&args.sources)?;
    if chosen.is_empty() {
        return Err(Diagnostic::new(Kind::Config, format!("{} names no source", settings.file.display()))
            .hint("Add a table such as `[sources.shop]` with the `path` of the database."));
    }
    let vault = vault::open(context, &settings).await?;
    let mut all = Vec::with_capacity(chosen.len());
    for source in chosen {
        all.push(Followed::start(context, &settings, &vault, source).await?);
    }
    if !args.once {
        follow_on(context, &mut all).await?;
    }
    for followed in &mut all {
        followed.tick(context).await?;
    }
    let sources = all.into_iter().map(Followed::done).collect();
    let view = FollowView { verdict: Verdict::Pass, sources, zone: context.zone.clone() };
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

/// Looks, and puts, until somebody wants it to stop.
async fn follow_on(context: &Context, all: &mut [Followed<'_>]) -> Result<(), Diagnostic> {
    let mut looks: u32 = 0;
    loop {
        for followed in all.iter_mut() {
            followed.step(context, looks).await?;
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            biased;
            () = context.cancel.wanted() => return Ok(()),
            () = tokio::time::sleep(Limits::STANDARD.look) => {}
        }
    }
}

struct Followed<'v> {
    source: SourceName,
    follower: Follower<'v>,
    began: Began,
    sum: Ticked,
    /// Until this look a store that failed is left alone.
    leave_until: Option<u32>,
}

impl<'v> Followed<'v> {
    async fn start(
        context: &Context,
        settings: &Settings,
        vault: &'v Vault,
        source: &SourceSettings,
    ) -> Result<Self, Diagnostic> {
        let follower = Follower::start(vault, request(settings, source)).await?;
        let began = follower.began().clone();
        context.printer.talk(&format!("{}: {}", source.name, words(&began)));
        Ok(Self { source: source.name.clone(), follower, began, sum: Ticked::default(), leave_until: None })
    }

    async fn step(&mut self, context: &Context, looks: u32) -> Result<(), Diagnostic> {
        self.sum.caught += self.follower.catch()?;
        let may_put = self.leave_until.is_none_or(|until| looks >= until);
        if !may_put || !looks.is_multiple_of(LOOKS_PER_PUT) {
            return Ok(());
        }
        match self.tick(context).await {
            Ok(()) => {
                if self.leave_until.take().is_some() {
                    context.printer.talk(&format!("{}: goes on", self.source));
                }
                Ok(())
            }
            Err(Failed::Passing(diagnostic)) => {
                if self.leave_until.is_none() {
                    context.printer.warn(&format!("{}: {}; it is tried again", self.source, diagnostic.what));
                }
                self.leave_until = Some(looks.saturating_add(LOOKS_PER_RETRY));
                Ok(())
            }
            Err(Failed::Lasting(diagnostic)) => Err(diagnostic),
        }
    }

    /// Makes durable what there is.
    async fn tick(&mut self, context: &Context) -> Result<(), Failed> {
        let ticked = self.follower.tick().await.map_err(|error| match follow::is_passing(&error) {
            true => Failed::Passing(error.into()),
            false => Failed::Lasting(error.into()),
        })?;
        self.sum.caught += ticked.caught;
        self.sum.shipped += ticked.shipped;
        self.sum.objects += ticked.objects;
        self.sum.bytes += ticked.bytes;
        if let Some(began) = ticked.began {
            context.printer.warn(&format!("{}: {}", self.source, words(&began)));
            self.began = began;
        }
        Ok(())
    }

    fn done(self) -> FollowedView {
        let Ticked { shipped, objects, bytes, .. } = self.sum;
        FollowedView {
            source: self.source,
            position: self.follower.position(),
            began: self.began,
            commits: shipped,
            objects,
            bytes,
        }
    }
}

/// How a source is followed, as it is configured.
pub(super) fn request(settings: &Settings, source: &SourceSettings) -> FollowRequest {
    let capture = &source.policy.capture;
    FollowRequest {
        source: source.name.clone(),
        path: source.path.clone(),
        busy: capture.busy_timeout,
        hold_max: capture.hold_max,
        log_growth_max: capture.log_growth_max,
        uploads_in_flight: settings.limits.upload_in_flight.get() as usize,
        limits: Limits::STANDARD,
        steps: Arc::new(|_| {}),
    }
}

/// Why a step failed: something that may pass by itself, or not.
enum Failed {
    Passing(Diagnostic),
    Lasting(Diagnostic),
}

impl From<Failed> for Diagnostic {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Passing(diagnostic) | Failed::Lasting(diagnostic) => diagnostic,
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
}

impl View for FollowView {
    fn render(&self, page: &mut Page) {
        for row in &self.sources {
            let position = &row.position;
            let durable = format!("durable up to state {} of {}", position.tx, time::resolved(position.at, &self.zone));
            page.verdict(self.verdict, row.source.as_str(), &durable);
            page.evidence("began", &words(&row.began));
            let shipped = format!("{} in {}", counted(row.commits, "commit"), counted(row.objects, "object"));
            page.evidence("shipped", &shipped);
            page.next(&format!("backstay restore {} --tx {} --to copy.db", row.source, position.tx));
        }
    }
}
