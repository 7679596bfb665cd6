//! Work on a thread of its own while the log goes on being read.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const UNSENT: &str = "work sends what came of it, unless it panics";

/// Something that is being done. Given up before it is done, it is waited for: what it writes belongs to whoever comes next.
pub struct Aside<T> {
    done: Receiver<T>,
    told: Arc<Notify>,
    _task: JoinSet<()>,
}

/// Tells also when the work did not come to its end.
struct Tells(Arc<Notify>);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl<T: Send + 'static> Aside<T> {
    pub fn begin(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let ((send, done), told, mut task) = (channel(), Arc::new(Notify::new()), JoinSet::new());
        let tells = Tells(told.clone());
        task.spawn_blocking(move || {
            let (_tells, send) = (tells, send);
            // Nobody there any more is nobody to tell.
            let _ = send.send(work());
        });
        Self { done, told, _task: task }
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
