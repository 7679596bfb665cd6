//! Something that one hands over and another carries out: where it is, for both.
//!
//! Owned by both. Who handed it over may look away and ask again; what it is about stays the same until it is done.

use backstay_store::repo::{LogFront, RepoError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Why a source has no place in a stream any more.
#[derive(Clone)]
pub struct Lost {
    pub key: String,
    /// The object that has the slot, where it can be read.
    pub front: Option<Arc<LogFront>>,
}

enum Going<T> {
    Waiting,
    Begun,
    /// On its way to the store.
    Away(T),
    Done(T),
    /// Who handed it over has it again.
    Back,
    Lost(Lost),
}

struct State<T> {
    going: Going<T>,
    /// Attempts that failed, and the last error.
    tried: (u64, Option<Arc<RepoError>>),
}

pub struct Errand<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    told: Notify,
}

/// What became of it, for who waits.
pub enum Came<T> {
    Done(T),
    Back,
    Lost(Lost),
    /// It is still on its way; the store did not take it.
    Tried(Arc<RepoError>),
}

/// What who handed it over must take care of.
pub enum Secured<T> {
    /// All of it.
    Back,
    /// What it became.
    Away(T),
    Lost,
}

impl<T: Clone> Errand<T> {
    pub fn new() -> Self {
        let state = State { going: Going::Waiting, tried: (0, None) };
        Self { state: Mutex::new(state), changed: Condvar::new(), told: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn becomes(&self, going: Going<T>) {
        self.state().going = going;
        self.changed.notify_all();
        self.told.notify_one();
    }

    /// Begins it, unless it was taken back.
    pub fn begin(&self) -> bool {
        let mut state = self.state();
        let waits = matches!(state.going, Going::Waiting);
        if waits {
            state.going = Going::Begun;
        }
        waits
    }

    pub fn is_away(&self, what: T) {
        self.becomes(Going::Away(what));
    }

    /// It is known to be there.
    pub fn is_done(&self) {
        let mut state = self.state();
        if let Going::Away(what) = &state.going {
            state.going = Going::Done(what.clone());
        }
        drop(state);
        self.told.notify_one();
    }

    pub fn goes_back(&self) {
        self.becomes(Going::Back);
    }

    pub fn is_lost(&self, lost: Lost) {
        self.becomes(Going::Lost(lost));
    }

    pub fn failed(&self, error: &Arc<RepoError>) {
        let mut state = self.state();
        state.tried = (state.tried.0 + 1, Some(error.clone()));
        drop(state);
        self.told.notify_one();
    }

    /// Takes it back if it was not begun, or says what it became.
    pub fn secure(&self) -> Secured<T> {
        let mut state = self.state();
        while matches!(state.going, Going::Begun) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &state.going {
            Going::Away(what) | Going::Done(what) => Secured::Away(what.clone()),
            Going::Lost(_) => Secured::Lost,
            Going::Waiting | Going::Back | Going::Begun => {
                state.going = Going::Back;
                // Who waits for it may be the very one that takes it back, while it looks at something else.
                self.told.notify_one();
                Secured::Back
            }
        }
    }

    /// Waits for news. `tried`: how many attempts are known to have failed.
    pub async fn news(&self, tried: &mut u64) -> Came<T> {
        loop {
            if let Some(came) = self.came(tried) {
                return came;
            }
            self.told.notified().await;
        }
    }

    fn came(&self, tried: &mut u64) -> Option<Came<T>> {
        let state = self.state();
        match &state.going {
            Going::Done(what) => return Some(Came::Done(what.clone())),
            Going::Back => return Some(Came::Back),
            Going::Lost(lost) => return Some(Came::Lost(lost.clone())),
            Going::Waiting | Going::Begun | Going::Away(_) => {}
        }
        let (count, error) = &state.tried;
        let error = error.as_ref().filter(|_| count > tried)?;
        *tried = *count;
        Some(Came::Tried(error.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_back_what_it_waits_for_hears_of_it() {
        let (errand, mut tried) = (Errand::<u8>::new(), 0);
        let taken_back = async {
            tokio::task::yield_now().await;
            assert!(matches!(errand.secure(), Secured::Back));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            came = errand.news(&mut tried) => assert!(matches!(came, Came::Back)),
            () = taken_back => {}
        }
        assert!(!errand.begin(), "nobody carries it out any more");
    }

    #[tokio::test]
    async fn an_attempt_that_failed_is_told_once_and_what_is_away_is_known_to_both() {
        let (errand, mut tried) = (Errand::new(), 0);
        assert!(errand.begin() && !errand.begin());
        errand.is_away(7);
        errand.failed(&Arc::new(RepoError::NoIdentity));
        assert!(matches!(errand.news(&mut tried).await, Came::Tried(_)) && tried == 1);
        assert!(matches!(errand.secure(), Secured::Away(7)));
        errand.is_done();
        assert!(matches!(errand.news(&mut tried).await, Came::Done(7)));
    }
}
