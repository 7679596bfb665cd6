//! Work on a thread of its own while the log goes on being read.
//!
//! Not one of the runtime's: whoever waits for the work may be on one of those, and when all of them wait nobody is left to
//! do it.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

const NAME: &str = "aside";
/// How much less of a processor than others a thread gets that has less need of one.
const LESS: i32 = 10;

const UNSENT: &str = "work sends what came of it, unless it panics";

/// Something that is being done. Given up before it is done, it is waited for: what it writes belongs to whoever comes next.
pub struct Aside<T> {
    done: Receiver<T>,
    told: Arc<Notify>,
}

/// Tells also when the work did not come to its end.
struct Tells(Arc<Notify>);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The work that calls this has less need of a processor than others from now on, where there is not enough for all. A thread that is
/// not its own stays as it is.
pub fn yields() {
    if std::thread::current().name() == Some(NAME) {
        let _ = rustix::process::nice(LESS);
    }
}

impl<T: Send + 'static> Aside<T> {
    #[expect(clippy::disallowed_methods, reason = "it outlives the call, and is waited for before this is dropped")]
    pub fn begin(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let ((send, done), told) = (channel(), Arc::new(Notify::new()));
        let tells = Tells(told.clone());
        let whole = move || {
            let (_tells, send) = (tells, send);
            // Nobody there any more is nobody to tell.
            let _ = send.send(work());
        };
        let work = Arc::new(Mutex::new(Some(whole)));
        let theirs = work.clone();
        let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = std::thread::Builder::new().name(NAME.to_owned());
        if thread.spawn(move || take(&theirs).map(|whole| whole())).is_err() {
            // A machine that has no room for one more thread.
            let _ = take(&work).map(|whole| whole());
        }
        Self { done, told }
    }

    /// What came of it, or itself again while it is not done.
    pub fn done(self) -> Result<T, Self> {
        match self.done.try_recv() {
            Ok(done) => Ok(done),
            Err(TryRecvError::Empty) => Err(self),
            Err(TryRecvError::Disconnected) => panic!("{UNSENT}"),
        }
    }

    /// What came of it, waited for.
    pub fn wait(self) -> T {
        self.done.recv().expect(UNSENT)
    }

    /// Tells once when it is done.
    pub fn told(&self) -> Arc<Notify> {
        self.told.clone()
    }
}

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        let _ = self.done.recv();
    }
}
