//! The following of the application's database, from whenever there is something to follow.
//!
//! What cannot be followed yet is tried again; what another follower took over is left to it. Never an error that
//! stops the application.

use super::super::follow::{request, words};
use super::Sum;
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::follow::{self, Began, FollowRequest, Follower, Limits, Ticked};
use backstay_sqlite::SqliteError;
use std::convert::Infallible;
use std::time::Duration;

/// Looks between two puts: with a look each 10 ms, four puts a second.
const LOOKS_PER_PUT: u32 = 25;
/// How long what failed is left alone.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a database that is not there yet, or has no log yet, is looked for.
const LOOK_FOR: Duration = Duration::from_millis(200);

pub struct Protection<'v> {
    vault: &'v Vault,
    request: FollowRequest,
    state: State<'v>,
    began: Option<Began>,
    sum: Ticked,
    /// What was said last of a failure: once is enough.
    said: Option<String>,
}

enum State<'v> {
    /// Nothing to follow yet, or it could not be begun.
    Waiting {
        why: String,
    },
    Following(Box<Follower<'v>>),
    /// Somebody else does it, or it must not be.
    GivenUp {
        why: String,
    },
}

impl<'v> Protection<'v> {
    /// Begins before the application does. A repository that does not answer must not keep it from starting; one
    /// that says no must.
    pub async fn begin(
        context: &Context,
        settings: &Settings,
        vault: &'v Vault,
        source: &SourceSettings,
    ) -> Result<Self, Diagnostic> {
        let state = State::Waiting { why: "the database is not there yet".to_owned() };
        let request = request(settings, source);
        let mut protection = Self { vault, request, state, began: None, sum: Ticked::default(), said: None };
        match protection.start(context).await {
            Ok(()) => Ok(protection),
            Err(error) if passes(&error) => {
                protection.wait(context, &error);
                Ok(protection)
            }
            Err(error) => Err(Diagnostic::from(error).hint("The application was not started.")),
        }
    }

    async fn start(&mut self, context: &Context) -> Result<(), OpsError> {
        if !self.request.path.exists() {
            return Ok(());
        }
        let follower = Follower::start(self.vault, self.request.clone()).await?;
        context.printer.talk(&format!("{}: {}", self.request.source, words(follower.began())));
        (self.began, self.said) = (Some(follower.began().clone()), None);
        self.state = State::Following(Box::new(follower));
        Ok(())
    }

    /// Follows for as long as anybody lets it.
    pub async fn go_on(&mut self, context: &Context) -> Infallible {
        let mut looks: u32 = 0;
        loop {
            let pause = match &mut self.state {
                State::Following(follower) => match follower.catch() {
                    Ok(caught) => {
                        self.sum.caught += caught;
                        Limits::STANDARD.look
                    }
                    Err(error) => self.failed(context, error),
                },
                State::Waiting { .. } => match self.start(context).await {
                    Ok(()) => LOOK_FOR,
                    Err(error) => self.failed(context, error),
                },
                State::GivenUp { .. } => std::future::pending().await,
            };
            looks = looks.wrapping_add(1);
            let pause = match looks.is_multiple_of(LOOKS_PER_PUT) {
                true => self.tick(context).await.map_or_else(|error| self.failed(context, error), |()| pause),
                false => pause,
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn tick(&mut self, context: &Context) -> Result<(), OpsError> {
        let State::Following(follower) = &mut self.state else { return Ok(()) };
        let ticked = follower.tick().await?;
        self.sum.caught += ticked.caught;
        self.sum.shipped += ticked.shipped;
        self.sum.objects += ticked.objects;
        self.sum.bytes += ticked.bytes;
        if let Some(began) = ticked.began {
            context.printer.warn(&format!("{}: {}", self.request.source, words(&began)));
            self.began = Some(began);
        }
        if self.said.take().is_some() {
            context.printer.talk(&format!("{}: goes on", self.request.source));
        }
        Ok(())
    }

    /// Says it, and how long to leave it alone.
    fn failed(&mut self, context: &Context, error: OpsError) -> Duration {
        if passes(&error) {
            return self.wait(context, &error);
        }
        let why = Diagnostic::from(error).in_one_line();
        context.printer.warn(&format!("{}: IS NOT FOLLOWED ANY MORE: {why}", self.request.source));
        self.state = State::GivenUp { why };
        PAUSE
    }

    fn wait(&mut self, context: &Context, error: &OpsError) -> Duration {
        let why = backstay_ops::prove::with_causes(error);
        if self.said.as_ref() != Some(&why) {
            context.printer.warn(&format!("{}: {why}; it is tried again", self.request.source));
        }
        self.said = Some(why.clone());
        if let State::Waiting { why: before } = &mut self.state {
            *before = why;
        }
        if is_early(error) { LOOK_FOR } else { PAUSE }
    }

    /// Makes durable what there is, however often it takes. Says what is not when the time is over.
    pub async fn finish(&mut self, context: &Context, within: Duration) -> Option<String> {
        match tokio::time::timeout(within, self.finish_somehow(context)).await {
            Ok(problem) => problem,
            Err(_) => Some(self.undone()),
        }
    }

    async fn finish_somehow(&mut self, context: &Context) -> Option<String> {
        loop {
            let tried = match &self.state {
                State::Following(_) => self.tick(context).await,
                // An application that never made a database leaves nothing to make durable.
                State::Waiting { .. } if !self.request.path.exists() => return None,
                State::Waiting { .. } => match self.start(context).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                State::GivenUp { why } => return Some(why.clone()),
            };
            let pause = match tried {
                Ok(()) if self.is_done() => return None,
                Ok(()) => Duration::ZERO,
                // What has no log when everything has ended will not get one.
                Err(error) if is_early(&error) => return Some(backstay_ops::prove::with_causes(&error)),
                Err(error) => self.failed(context, error),
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn is_done(&self) -> bool {
        matches!(&self.state, State::Following(follower) if follower.position().waiting == 0)
    }

    /// What is not durable, in words.
    pub fn undone(&self) -> String {
        match &self.state {
            State::Following(follower) => {
                let waiting = crate::output::counted(follower.position().waiting, "commit");
                let why = self.said.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                format!("{waiting} wait{why}")
            }
            State::Waiting { why } => format!("it could not be followed: {why}"),
            State::GivenUp { why } => why.clone(),
        }
    }

    pub fn done(self) -> Sum {
        let position = match &self.state {
            State::Following(follower) => Some(follower.position()),
            State::Waiting { .. } | State::GivenUp { .. } => None,
        };
        (position, self.began, self.sum)
    }
}

/// A database that is not yet what can be followed.
fn is_early(error: &OpsError) -> bool {
    matches!(error, OpsError::Sqlite(SqliteError::NotWal { .. } | SqliteError::Missing { .. }))
}

fn passes(error: &OpsError) -> bool {
    is_early(error) || follow::is_passing(error)
}
