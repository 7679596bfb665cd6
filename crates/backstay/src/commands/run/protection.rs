//! The following of the application's database, from whenever there is something to follow.
//!
//! What cannot be followed yet is tried again; what another follower took over is left to it. Never an error that
//! stops the application.

use super::super::follow::{order, telling};
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::output::counted;
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::follow::drive::{self, Drain, Driving, Outcome, Patience, Told};
use backstay_sqlite::SqliteError;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub struct Protection {
    following: Pin<Box<dyn Future<Output = Vec<Outcome>> + Send>>,
    /// Once it has ended.
    outcome: Option<Outcome>,
    stop: watch::Sender<bool>,
    hurry: watch::Sender<bool>,
}

impl Protection {
    /// Begins before the application does. A repository that does not answer must not keep it from starting; one
    /// that says no must.
    pub async fn begin(
        context: &Context,
        settings: &Settings,
        (vault, source): (Arc<Vault>, &SourceSettings),
        within: Duration,
    ) -> Result<Self, Diagnostic> {
        let ((stop, stopped), (hurry, hurried)) = (watch::channel(false), watch::channel(false));
        let (said, mut first) = watch::channel(false);
        let show = telling(&context.printer);
        let tell = move |source: &_, told: Told<'_>| {
            match told {
                // That there is no database yet is how an application begins.
                Told::Unreadable(OpsError::Sqlite(SqliteError::Missing { .. })) => {}
                // What keeps the application from starting is what this program ends with.
                Told::Ended(_) if !*said.borrow() => {}
                told => show(source, told),
            }
            said.send_replace(true);
        };
        let drain = Drain { within, insists: true, hurry: hurried };
        let driving = Driving {
            stop: stopped,
            tell: Arc::new(tell),
            metrics: settings.metrics.clone(),
            drain,
            nurseries: Vec::new(),
            conf_every: drive::CONF_EVERY,
            puts_per_day: settings.puts_per_day,
            // There is nobody else.
            share: None,
        };
        let orders = vec![order(settings, source, Patience::Log)];
        let following = Box::pin(drive::drive(vault, orders, driving));
        let mut protection = Self { following, outcome: None, stop, hurry };
        tokio::select! {
            biased;
            () = protection.end() => {}
            _ = first.wait_for(|said| *said) => {}
        }
        match protection.outcome.as_mut().and_then(|outcome| outcome.ended.take()) {
            Some(error) => Err(Diagnostic::from(error).hint("The application was not started.")),
            None => Ok(protection),
        }
    }

    /// Until nobody follows any more.
    async fn end(&mut self) {
        if self.outcome.is_none() {
            self.outcome = (&mut self.following).await.pop();
        }
    }

    /// Follows for as long as anybody lets it.
    pub async fn go_on(&mut self) -> Infallible {
        self.end().await;
        std::future::pending().await
    }

    /// Makes durable what there is, however often it takes. Says what is not when the time is over, or when nobody
    /// waits any longer.
    pub async fn finish(&mut self, impatient: impl Future<Output = ()>) -> Option<String> {
        self.stop.send_replace(true);
        let told_to = tokio::select! {
            biased;
            () = self.end() => "",
            () = impatient => "it was told twice to stop waiting; ",
        };
        if !told_to.is_empty() {
            self.hurry.send_replace(true);
            self.end().await;
        }
        self.undone().map(|undone| format!("{told_to}{undone}"))
    }

    /// What is not durable, in words.
    fn undone(&self) -> Option<String> {
        let outcome = self.outcome.as_ref()?;
        let waiting = outcome.position.as_ref().map_or(0, |position| position.waiting);
        let lost = outcome.position.as_ref().and_then(|position| position.lost.clone());
        match &outcome.ended {
            Some(error) if outcome.began.is_none() => {
                Some(format!("it could not be followed: {}", backstay_ops::prove::with_causes(error)))
            }
            Some(error) => Some(Diagnostic::of(error).what),
            None if lost.is_some() => Some(format!("a gap, because {}", lost.unwrap_or_default())),
            None if waiting > 0 => Some(format!("{} wait in the state folder", counted(waiting, "commit"))),
            // An application that never made a database leaves nothing to make durable.
            None => None,
        }
    }

    pub fn outcome(self) -> Option<Outcome> {
        self.outcome
    }
}
