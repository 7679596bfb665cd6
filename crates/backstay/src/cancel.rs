//! The wish to stop, from Ctrl-C or a supervisor, as a flag that work looks at between two steps.
//!
//! Owns the one task that listens for SIGINT and SIGTERM. A second signal ends the process at once: what is complete
//! in the repository stays complete, because nothing is acknowledged before it is durable.

use crate::diagnostics::Diagnostic;
use backstay_model::{Kind, Kinded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Says whether somebody wants to stop. Cheap to clone and to ask.
#[derive(Clone)]
pub struct Cancel {
    wish: watch::Receiver<bool>,
    operations: backstay_ops::Cancel,
    handed_over: Arc<AtomicBool>,
}

/// The other end.
pub struct Canceller {
    wish: watch::Sender<bool>,
    operations: backstay_ops::Cancel,
    handed_over: Arc<AtomicBool>,
}

/// The work was stopped by a person or a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped before it was done")]
pub struct Cancelled;

impl Kinded for Cancelled {
    fn kind(&self) -> Kind {
        Kind::Cancelled
    }
}

impl From<Cancelled> for Diagnostic {
    fn from(_: Cancelled) -> Self {
        Diagnostic::cancelled()
    }
}

pub fn pair() -> (Canceller, Cancel) {
    let (sender, receiver) = watch::channel(false);
    let operations = backstay_ops::Cancel::default();
    let handed_over = Arc::new(AtomicBool::new(false));
    let canceller = Canceller { wish: sender, operations: operations.clone(), handed_over: handed_over.clone() };
    (canceller, Cancel { wish: receiver, operations, handed_over })
}

impl Canceller {
    pub fn cancel(&self) {
        self.operations.cancel();
        self.wish.send_replace(true);
    }
}

impl Cancel {
    pub fn is_wanted(&self) -> bool {
        *self.wish.borrow()
    }

    /// For blocking work: `?` between two steps.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_wanted() { Err(Cancelled) } else { Ok(()) }
    }

    /// From now on signals are somebody else's: they are no wish to stop this program.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// The same wish in the form the operations look at.
    pub fn for_operations(&self) -> backstay_ops::Cancel {
        self.operations.clone()
    }

    /// The wish itself, for what waits for it in many places.
    pub fn wish(&self) -> watch::Receiver<bool> {
        self.wish.clone()
    }

    /// Resolves when somebody wants to stop; never, when nobody can any more.
    pub async fn wanted(&self) {
        let mut receiver = self.wish.clone();
        if receiver.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The result of some work that may be dropped at any await, unless the wish to stop comes first.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        tokio::select! {
            biased;
            () = self.wanted() => Err(Cancelled),
            result = work => Ok(result),
        }
    }
}

/// Turns signals into the wish, until the process ends.
pub async fn listen(canceller: Canceller) -> io::Result<std::convert::Infallible> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut patience_left = true;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if canceller.handed_over.load(Ordering::Relaxed) {
            continue;
        }
        if !patience_left {
            #[expect(
                clippy::disallowed_methods,
                reason = "the person asked twice, and main is busy with what they stop"
            )]
            std::process::exit(Kind::Cancelled.meaning().exit.into());
        }
        patience_left = false;
        canceller.cancel();
    }
}
